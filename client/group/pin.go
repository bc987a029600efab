package group

import (
	"bytes"
	"fmt"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// own are credentials under which this device may do what it does: whether it is
// in the control log yet is for others to say.
type own struct {
	client.Credentials
	s *Groups
}

// Leaf implements client.Credentials.
func (o own) Leaf(device codec.Hash, key codec.PublicKey, fresh bool) error {
	if o.s.alone(device, key) == nil {
		return nil
	}
	return o.Credentials.Leaf(device, key, fresh)
}

// judge sets the credentials of a call: between calls the rules refuse all. The
// function it returns ends the call.
func (s *Groups) judge(check client.Credentials, at time.Time) (end func()) {
	*s.rules = handshake.Rules{Check: check, At: at}
	return func() { *s.rules = handshake.Rules{} }
}

// identity is what this device's leaves say from now on.
func (s *Groups) identity() *mls.Identity {
	return &mls.Identity{
		Signer: s.signer, Credential: tree.BasicCredential(s.device[:]),
		Capabilities: tree.Capabilities{
			Versions: []tree.Version{tree.MLS10}, CipherSuites: []cipher.ID{s.suite.ID()},
			Extensions:  []tree.ExtensionType{handshake.ExtensionArchive},
			Credentials: []tree.CredentialType{tree.CredentialBasic},
		},
	}
}

// pin adds to the proposals of a commit what brings the archive that the group
// pins up to date.
func (s *Groups) pin(e *entry, proposals []tree.Proposal, check client.Credentials) ([]tree.Proposal, error) {
	before, err := handshake.ArchiveOf(e.Public().Context().Extensions)
	if err != nil {
		return nil, err
	}
	if earlier, ok := e.incapable(proposals); ok {
		if before != nil {
			return nil, fmt.Errorf("device %s has to connect with its present version before it can be added", earlier.Device.Short())
		}
		return proposals, nil
	}
	newest, err := check.Newest()
	if err != nil {
		return nil, err
	}
	if before != nil && check.Pinned(before, newest) != nil {
		return proposals, nil // what is pinned is as new as what this device has read
	}
	return append(proposals, &tree.GroupContextExtensions{Extensions: newest.Extensions()}), nil
}

// incapable returns a leaf of an earlier version that would be in the group
// after these proposals.
func (e *entry) incapable(proposals []tree.Proposal) (handshake.Leaf, bool) {
	removed := map[tree.LeafIndex]bool{e.Own(): true} // the commit replaces it
	for _, p := range proposals {
		switch p := p.(type) {
		case *tree.Remove:
			removed[p.Removed] = true
		case *tree.Add:
			if leaf := &p.KeyPackage.Leaf; !handshake.Capable(leaf) {
				l, _ := handshake.ReadLeaf(leaf) // judged by the rules
				return l, true
			}
		}
	}
	for i, node := range e.Public().Tree().Members() {
		if !removed[i] && !handshake.Capable(node) {
			l, _ := handshake.ReadLeaf(node)
			return l, true
		}
	}
	return handshake.Leaf{}, false
}

// policy returns the policy leaf that the group pins in an epoch, zero for none.
func (e *entry) policy(epoch uint64) (codec.Hash, error) {
	context, err := e.Group.Context(epoch)
	if err != nil {
		return codec.Hash{}, err
	}
	archive, err := handshake.ArchiveOf(context.Extensions)
	if err != nil || archive == nil {
		return codec.Hash{}, err
	}
	return archive.Policy, nil
}

// Rejoin implements client.Groups.
func (s *Groups) Rejoin(at *client.Epoch, info, ratchetTree []byte, check client.Credentials) (*client.Step, error) {
	check = own{check, s}
	end := s.judge(check, time.Time{})
	defer end()
	public, err := s.present(at, info, ratchetTree, check)
	if err != nil {
		return nil, fmt.Errorf("couldn't join: %w", err)
	}
	join := mls.ExternalJoin{Identity: s.identity(), GroupInfo: info, RatchetTree: ratchetTree}
	for i, node := range public.Tree().Members() {
		if bytes.Equal(node.Credential.Identity, s.device[:]) {
			join.Remove = &i
		}
	}
	g, message, err := mls.JoinExternally(s.config, join)
	if err != nil {
		return nil, fmt.Errorf("couldn't join: %w", failure(err))
	}
	// What is there of the group is of no more use: this device couldn't follow.
	if err := s.erase(at.Conversation); err != nil {
		return nil, err
	}
	e := s.enter(at.Conversation, g)
	after, err := e.at(at.Conversation)
	if err != nil {
		return nil, err
	}
	next, err := g.GroupInfo(true)
	if err != nil {
		return nil, err
	}
	return &client.Step{Epoch: *after, Commit: message, GroupInfo: next}, nil
}

// present returns the group that a GroupInfo and a tree are of, if it is the
// epoch that is expected.
func (s *Groups) present(at *client.Epoch, info, ratchetTree []byte, check client.Credentials) (*tree.Group, error) {
	public, err := handshake.ReadGroup(s.rules, info, ratchetTree)
	if err != nil {
		return nil, err
	}
	if err := handshake.Context(check, public); err != nil {
		return nil, err
	}
	roster, err := handshake.Roster(public.Tree())
	if err != nil {
		return nil, err
	}
	c := public.Context()
	if !bytes.Equal(c.GroupID, at.Conversation[:]) || c.Epoch != at.Number || !bytes.Equal(c.ConfirmedTranscriptHash, at.Transcript) || roster.Root() != at.Roster.Root() {
		return nil, fmt.Errorf("not the epoch that its statement names: %w", client.ErrEpoch)
	}
	return public, nil
}
