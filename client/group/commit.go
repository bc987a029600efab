package group

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/mls"
	"chancery/mls/tree"
)

// Add implements client.Groups.
func (s *Groups) Add(conversation codec.ID, packages [][]byte, check client.Credentials) (*client.Step, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	proposals := make([]tree.Proposal, len(packages))
	for i, raw := range packages {
		m, err := tree.ParseMessage(bytes.Clone(raw))
		if err != nil {
			return nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
		}
		kp, ok := m.(*tree.KeyPackage)
		if !ok {
			return nil, errors.New("not a KeyPackage")
		}
		proposals[i] = &tree.Add{KeyPackage: *kp}
	}
	return s.stage(conversation, e, proposals, func(d codec.Hash, key codec.PublicKey, fresh bool) error {
		if s.alone(d, key, fresh) == nil {
			return nil // its own new leaf
		}
		return check(d, key, fresh)
	})
}

// Remove implements client.Groups.
func (s *Groups) Remove(conversation codec.ID, devices []codec.Hash) (*client.Step, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	var proposals []tree.Proposal
	for i, node := range e.Public().Tree().Members() {
		l, err := readLeaf(node)
		if err != nil {
			return nil, err
		}
		if i != e.Own() && slices.Contains(devices, l.device) {
			proposals = append(proposals, &tree.Remove{Removed: i})
		}
	}
	if len(proposals) != len(devices) {
		return nil, fmt.Errorf("%d of %d devices are other members of the group", len(proposals), len(devices))
	}
	return s.stage(conversation, e, proposals, s.alone)
}

// Renew implements client.Groups.
func (s *Groups) Renew(conversation codec.ID) (*client.Step, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	return s.stage(conversation, e, nil, s.alone)
}

// stage commits proposals.
func (s *Groups) stage(id codec.ID, e *entry, proposals []tree.Proposal, check client.Credentials) (*client.Step, error) {
	s.discard(id, e)
	end := s.rules.judge(check, s.now())
	c, err := e.Commit(mls.CommitOptions{Proposals: proposals, Alone: true, Path: true})
	end()
	if err != nil {
		return nil, fmt.Errorf("couldn't commit: %w", failure(err))
	}
	after := e.Pending()
	roster, err := rosterOf(after.Tree.Members())
	if err != nil {
		return nil, err
	}
	return &client.Step{
		Epoch: client.Epoch{
			Conversation: id, Number: after.Context.Epoch,
			Transcript: bytes.Clone(after.Context.ConfirmedTranscriptHash), Roster: roster,
		},
		Commit: c.Message, Welcome: c.Welcome,
	}, nil
}

// Merge implements client.Groups.
func (s *Groups) Merge(conversation codec.ID) error {
	e, err := s.entry(conversation)
	if err != nil {
		return err
	}
	switch _, err = e.Confirm(); {
	case errors.Is(err, mls.ErrNoPending):
		return s.mergeEarlier(conversation, e)
	case err != nil:
		return fmt.Errorf("couldn't enter the staged commit's epoch: %w", failure(err))
	}
	return nil
}

// Discard implements client.Groups.
func (s *Groups) Discard(conversation codec.ID) {
	// What isn't there is discarded, and a group that can't be read shows with
	// its next use.
	if e, err := s.entry(conversation); err == nil {
		s.discard(conversation, e)
	}
}

func (s *Groups) discard(id codec.ID, e *entry) {
	_ = e.Discard() // ErrNoPending
	s.dropEarlier(id, e)
}

// Process implements client.Groups.
func (s *Groups) Process(conversation codec.ID, commit []byte, check client.Credentials) (*client.Epoch, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	if err := e.mayCommit(commit, check); err != nil {
		return nil, err
	}
	end := s.rules.judge(check, time.Time{})
	_, err = e.Group.Process(commit)
	end()
	if err != nil {
		return nil, fmt.Errorf("commit refused: %w", failure(err))
	}
	if e.Removed() {
		return nil, errors.Join(client.ErrRemoved, s.Forget(conversation))
	}
	s.dropEarlier(conversation, e) // whatever was staged has lost
	return e.at(conversation)
}

// mayCommit refuses what is valid MLS and not for this group's members to send,
// and commits that would leave somebody in the group who may not be there.
// Nothing is authentic yet.
func (e *entry) mayCommit(commit []byte, check client.Credentials) error {
	parsed, err := tree.ParseMessage(bytes.Clone(commit))
	if err != nil {
		return fmt.Errorf("couldn't read the commit: %w", err)
	}
	m, ok := parsed.(*tree.PublicMessage)
	if !ok || m.Content.ContentType != tree.ContentCommit || !bytes.Equal(m.Content.GroupID, e.ID()) {
		return errors.New("not a commit of this group")
	}
	if m.Content.Epoch != e.Group.Epoch() {
		return fmt.Errorf("commit of epoch %d in epoch %d: %w", m.Content.Epoch, e.Group.Epoch(), client.ErrEpoch)
	}
	from, ok := m.Content.Sender.Leaf()
	if !ok || from == e.Own() || e.Public().Tree().Leaf(from) == nil {
		return errors.New("commit of no other member")
	}
	removed := map[tree.LeafIndex]bool{}
	for _, p := range m.Content.Commit.Proposals {
		if r, ok := p.Proposal.(*tree.Remove); ok {
			removed[r.Removed] = true
		}
	}
	for i, node := range e.Public().Tree().Members() {
		if removed[i] {
			continue
		}
		l, err := readLeaf(node)
		if err != nil {
			return err
		}
		if err := check(l.device, l.key, i == from); err != nil {
			return fmt.Errorf("commit refused: %w", err)
		}
	}
	return nil
}
