package group

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
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
	return s.stage(conversation, e, proposals, check)
}

// Remove implements client.Groups.
func (s *Groups) Remove(conversation codec.ID, devices []codec.Hash, check client.Credentials) (*client.Step, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	var proposals []tree.Proposal
	for i, node := range e.Public().Tree().Members() {
		l, err := handshake.ReadLeaf(node)
		if err != nil {
			return nil, err
		}
		if i != e.Own() && slices.Contains(devices, l.Device) {
			proposals = append(proposals, &tree.Remove{Removed: i})
		}
	}
	if len(proposals) != len(devices) {
		return nil, fmt.Errorf("%d of %d devices are other members of the group", len(proposals), len(devices))
	}
	return s.stage(conversation, e, proposals, check)
}

// Renew implements client.Groups.
func (s *Groups) Renew(conversation codec.ID, check client.Credentials) (*client.Step, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	return s.stage(conversation, e, nil, check)
}

// stage commits proposals.
func (s *Groups) stage(id codec.ID, e *entry, proposals []tree.Proposal, check client.Credentials) (*client.Step, error) {
	s.discard(id, e)
	proposals, err := s.pin(e, proposals, check)
	if err != nil {
		return nil, err
	}
	end := s.judge(own{check, s}, s.now())
	c, err := e.Commit(mls.CommitOptions{Proposals: proposals, Alone: true, Identity: s.identity()})
	end()
	if err != nil {
		return nil, fmt.Errorf("couldn't commit: %w", failure(err))
	}
	after := e.Pending()
	roster, err := rosterOf(after.Tree.Members())
	if err != nil {
		return nil, err
	}
	// The server has the tree of every group that pins an archive.
	info, err := e.PendingGroupInfo(len(e.Public().Context().Extensions) > 0)
	if err != nil {
		return nil, err
	}
	return &client.Step{
		Epoch: client.Epoch{
			Conversation: id, Number: after.Context.Epoch,
			Transcript: bytes.Clone(after.Context.ConfirmedTranscriptHash), Roster: roster,
		},
		Commit: c.Message, Welcome: c.Welcome, GroupInfo: info,
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
	end := s.judge(check, time.Time{})
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

// mayCommit refuses what is valid MLS and no step of this group. Nothing is
// authentic yet.
func (e *entry) mayCommit(commit []byte, check client.Credentials) error {
	m, err := handshake.ReadCommit(commit)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.Content.GroupID, e.ID()) {
		return errors.New("not a commit of this group")
	}
	if m.Content.Epoch != e.Group.Epoch() {
		return fmt.Errorf("commit of epoch %d in epoch %d: %w", m.Content.Epoch, e.Group.Epoch(), client.ErrEpoch)
	}
	if from, ok := m.Content.Sender.Leaf(); ok && from == e.Own() {
		return errors.New("commit of no other member")
	}
	if err := handshake.Commit(check, e.Public(), m); err != nil {
		return fmt.Errorf("commit refused: %w", err)
	}
	return nil
}
