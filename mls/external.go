package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

var (
	// ErrNoExternalPub means that a GroupInfo doesn't let anybody join by an
	// external commit.
	ErrNoExternalPub = errors.New("the GroupInfo has no key for external commits")
	// ErrNotEnded means that a group wasn't ended by a ReInit.
	ErrNotEnded = errors.New("the group hasn't ended")
)

// ExternalJoin says how to join by an external commit.
type ExternalJoin struct {
	// Identity is the new member's.
	Identity *Identity
	// GroupInfo is the MLSMessage of a member; see Group.GroupInfo.
	GroupInfo []byte
	// RatchetTree is the encoded tree where the GroupInfo doesn't carry it, or
	// nil.
	RatchetTree []byte
	// Remove is the member's own former leaf, for a client that lost its state,
	// or nil.
	Remove *tree.LeafIndex
	// PSKs enter the key schedule.
	PSKs []tree.PreSharedKeyID
	// AuthenticatedData goes with the commit in the clear.
	AuthenticatedData []byte
}

// JoinExternally joins a group without an invitation (RFC 9420 §12.4.3.2). It
// verifies the whole tree, each leaf by the rules. The group that it returns is
// in the epoch after the commit: it must be thrown away unless the Delivery
// Service takes the message. Errors are those of Join, and ErrNoExternalPub.
func JoinExternally(config Config, j ExternalJoin) (*Group, []byte, error) {
	info, t, err := openGroupInfo(j.GroupInfo, j.RatchetTree)
	if err != nil {
		return nil, nil, err
	}
	pub, ok, err := info.Extensions.ExternalPub()
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, ErrNoExternalPub
	}
	public, err := tree.JoinGroup(config.Rules, info, t)
	if err != nil {
		return nil, nil, err
	}
	s := public.Suite()
	kem, initSecret, err := s.ExportTo(pub, labelExternalInit)
	if err != nil {
		return nil, nil, err
	}
	defer clear(initSecret)
	return commitExternally(config, &j, public, kem, initSecret)
}

func openGroupInfo(message, given []byte) (*tree.GroupInfo, *tree.Tree, error) {
	m, err := tree.ParseMessage(bytes.Clone(message))
	if err != nil {
		return nil, nil, err
	}
	info, ok := m.(*tree.GroupInfo)
	if !ok {
		return nil, nil, fmt.Errorf("%w: no GroupInfo", syntax.ErrSyntax)
	}
	s, err := cipher.ByID(info.Context.CipherSuite)
	if err != nil {
		return nil, nil, err
	}
	t, err := treeOf(s, info, bytes.Clone(given))
	if err != nil {
		return nil, nil, err
	}
	return info, t, nil
}

// proposals of an external commit.
func (j *ExternalJoin) proposals(kemOutput []byte) []tree.ProposalOrRef {
	list := []tree.ProposalOrRef{{Proposal: &tree.ExternalInit{KEMOutput: kemOutput}}}
	if j.Remove != nil {
		list = append(list, tree.ProposalOrRef{Proposal: &tree.Remove{Removed: *j.Remove}})
	}
	for _, id := range j.PSKs {
		list = append(list, tree.ProposalOrRef{Proposal: &tree.PreSharedKey{PSK: id}})
	}
	return list
}

func commitExternally(config Config, j *ExternalJoin, public *tree.Group, kemOutput, initSecret []byte) (*Group, []byte, error) {
	s, context := public.Suite(), public.Context()
	sender := tree.Sender{Type: tree.SenderNewMemberCommit}
	list := j.proposals(kemOutput)
	plan, err := public.Plan(sender, list)
	if err != nil {
		return nil, nil, err
	}
	psks, err := config.findPSKs(plan.PSKs, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	path, err := makePath(s, plan, context.GroupID, j.Identity, config.Random)
	if err != nil {
		return nil, nil, err
	}
	defer path.eraseSecrets()
	a, err := sign(tree.WirePublicMessage, &tree.FramedContent{
		GroupID: context.GroupID, Epoch: context.Epoch, Sender: sender, AuthenticatedData: j.AuthenticatedData,
		ContentType: tree.ContentCommit, Commit: &tree.Commit{Proposals: list, Path: &path.public},
	}, context, j.Identity.Signer)
	if err != nil {
		return nil, nil, err
	}
	staged, err := plan.Finish(a.WireFormat, &a.Content, a.Auth.Signature)
	if err != nil {
		return nil, nil, err
	}
	n, err := schedule(s, staged, initSecret, path.commit, psks)
	if err != nil {
		return nil, nil, err
	}
	defer clear(n.joiner)
	defer clear(n.member)
	a.Auth.ConfirmationTag = n.secrets.confirmationTag(s, staged.Context.ConfirmedTranscriptHash)
	if err := public.Apply(staged, a.Auth.ConfirmationTag); err != nil {
		return nil, nil, err
	}
	g := newGroup(config, public, staged.Committer, path.keys, n.secrets)
	return g, tree.MarshalMessage(&tree.PublicMessage{Content: a.Content, Auth: a.Auth}), nil
}

// ProposeFromOutside returns a proposal by the external sender at that place of
// the group's list (RFC 9420 §12.1.8). Which proposals members take from whom
// is for their rules to say.
func ProposeFromOutside(groupID []byte, epoch uint64, sender uint32, signer cipher.Signer, p tree.Proposal) ([]byte, error) {
	return proposeUnencrypted(groupID, epoch, tree.Sender{Type: tree.SenderExternal, Index: sender}, signer, p)
}

// ProposeToJoin returns a client's proposal to add itself (RFC 9420 §12.1.8).
func ProposeToJoin(groupID []byte, epoch uint64, own *OwnKeyPackage, signer cipher.Signer) ([]byte, error) {
	return proposeUnencrypted(groupID, epoch, tree.Sender{Type: tree.SenderNewMemberProposal}, signer, &tree.Add{KeyPackage: own.Public})
}

func proposeUnencrypted(groupID []byte, epoch uint64, from tree.Sender, signer cipher.Signer, p tree.Proposal) ([]byte, error) {
	a, err := sign(tree.WirePublicMessage, &tree.FramedContent{
		GroupID: groupID, Epoch: epoch, Sender: from, ContentType: tree.ContentProposal, Proposal: p,
	}, nil, signer)
	if err != nil {
		return nil, err
	}
	return tree.MarshalMessage(&tree.PublicMessage{Content: a.Content, Auth: a.Auth}), nil
}

// Branch creates a group with some of this group's members and of its suite,
// which shows to them that its creator knew this one (RFC 9420 §11.3). The first
// commit is pending in the new group.
func (g *Group) Branch(groupID []byte, own *OwnKeyPackage, extensions tree.Extensions, members []*tree.KeyPackage) (*Group, *Committed, error) {
	if own.Public.CipherSuite != g.suite.ID() {
		return nil, nil, fmt.Errorf("branch of suite %d from a group of suite %d: %w", own.Public.CipherSuite, g.suite.ID(), cipher.ErrUnsupported)
	}
	return g.follow(tree.UsageBranch, groupID, own, extensions, members)
}

// Reinitialise creates the group that a ReInit announced (RFC 9420 §11.2), after
// this one has ended. members are key packages of all other members. The first
// commit is pending in the new group. It returns ErrNotEnded.
func (g *Group) Reinitialise(own *OwnKeyPackage, members []*tree.KeyPackage) (*Group, *Committed, error) {
	announced := g.public.Ended()
	if announced == nil {
		return nil, nil, ErrNotEnded
	}
	if own.Public.CipherSuite != announced.CipherSuite || announced.Version != tree.MLS10 {
		return nil, nil, fmt.Errorf("key package of suite %d for a group of suite %d: %w", own.Public.CipherSuite, announced.CipherSuite, cipher.ErrUnsupported)
	}
	return g.follow(tree.UsageReInit, announced.GroupID, own, announced.Extensions, members)
}

func (g *Group) follow(usage tree.ResumptionUsage, groupID []byte, own *OwnKeyPackage, extensions tree.Extensions, members []*tree.KeyPackage) (*Group, *Committed, error) {
	if g.removed {
		return nil, nil, ErrRemoved
	}
	next, err := Create(g.config, groupID, own, extensions)
	if err != nil {
		return nil, nil, err
	}
	nonce := make([]byte, next.suite.HashSize())
	if _, err := io.ReadFull(g.config.Random, nonce); err != nil {
		return nil, nil, fmt.Errorf("couldn't draw a nonce: %w", err)
	}
	o := CommitOptions{Path: true, Proposals: []tree.Proposal{&tree.PreSharedKey{PSK: tree.PreSharedKeyID{
		Type: tree.PSKResumption, Usage: usage, GroupID: g.ID(), Epoch: g.Epoch(), Nonce: nonce,
	}}}}
	for _, p := range members {
		o.Proposals = append(o.Proposals, &tree.Add{KeyPackage: *p})
	}
	c, err := next.commit(&o, g)
	if err != nil {
		return nil, nil, err
	}
	return next, c, nil
}
