package tree

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"chancery/mls/cipher"
)

// MaxProposals bounds the proposals that wait for a commit, and those of one
// commit.
const MaxProposals = 1 << 13

var (
	// ErrOtherGroup means that a message is of another group.
	ErrOtherGroup = errors.New("the message is of another group")
	// ErrEpoch means that a message, or a staged commit, is of another epoch
	// than the group's.
	ErrEpoch = errors.New("the message is of another epoch")
	// ErrEnded means that the group has been reinitialised and takes nothing
	// more (RFC 9420 §12.4.2).
	ErrEnded = errors.New("the group has been reinitialised")
	// ErrUnknownProposal means that a commit refers to a proposal that wasn't
	// received in this epoch.
	ErrUnknownProposal = errors.New("the commit refers to an unknown proposal")
	// ErrTooManyProposals means that MaxProposals are waiting already.
	ErrTooManyProposals = fmt.Errorf("more than %d proposals", MaxProposals)
)

// Group is the public state of a group in one epoch, and the proposals received
// in it.
type Group struct {
	judge
	tree      *Tree
	context   GroupContext
	interim   []byte             // interim transcript hash
	proposals map[string]pending // by reference
	ended     *ReInit            // what follows the group, once it has ended
}

// pending is a proposal with its sender; it has been judged by itself.
type pending struct {
	from     Sender
	proposal Proposal
}

// NewGroup returns the group with that tree, context and confirmation tag, as a
// newcomer sees it. It verifies the tree as RFC 9420 §12.4.3.1 asks and each of
// its leaves with the rules; it returns a *Violation. The confirmation tag is
// taken on trust.
func NewGroup(r Rules, t *Tree, c GroupContext, confirmationTag []byte) (*Group, error) {
	if t.suite.ID() != c.CipherSuite {
		return nil, broken("12.4.3.1", "a tree of cipher suite %d in a group of %d", t.suite.ID(), c.CipherSuite)
	}
	g := &Group{
		judge:     judge{suite: t.suite, rules: r},
		tree:      t,
		context:   c,
		interim:   InterimTranscriptHash(t.suite, c.ConfirmedTranscriptHash, confirmationTag),
		proposals: make(map[string]pending),
	}
	if !bytes.Equal(t.Hash(), c.TreeHash) {
		return nil, broken("12.4.3.1", "the tree doesn't have the group's tree hash")
	}
	if err := g.checkTree(); err != nil {
		return nil, err
	}
	return g, nil
}

// checkTree verifies a tree of which nothing is known yet.
func (g *Group) checkTree() error {
	// The cheap checks first, the signatures after them, and the rules last:
	// they needn't be ready for what is malformed.
	if err := g.tree.checkUnmerged(); err != nil {
		return err
	}
	if err := g.members(g.tree, g.context.Extensions); err != nil {
		return err
	}
	if err := g.tree.checkParentHashes(); err != nil {
		return err
	}
	for i, p := range g.tree.parents {
		if p == nil {
			continue
		}
		if err := g.suite.CheckHPKEKey(p.EncryptionKey); err != nil {
			return &Violation{"7.1", fmt.Sprintf("the key of node %d", 2*i+1), err}
		}
	}
	if err := g.soundLeaves(); err != nil {
		return err
	}
	for l, leaf := range g.tree.Members() {
		if err := g.ask(EventTree, nil, leaf); err != nil {
			return fmt.Errorf("leaf %d: %w", l, err)
		}
	}
	if err := g.clients(g.tree); err != nil {
		return err
	}
	return g.externalSenders(nil, g.context.Extensions)
}

// soundLeaves verifies each leaf by itself: in a large group joining is mostly
// that. It returns the fault of the first leaf that has one.
func (g *Group) soundLeaves() error {
	return cipher.AtOnce(len(g.tree.leaves), func(i int) error {
		leaf := g.tree.leaves[i]
		if leaf == nil {
			return nil
		}
		if err := g.sound(EventTree, nil, leaf, g.context.GroupID, LeafIndex(i)); err != nil {
			return fmt.Errorf("leaf %d: %w", i, err)
		}
		return nil
	})
}

// externalSenders has the rules judge each sender that the extensions list and
// those before them didn't.
func (g *Group) externalSenders(before, after Extensions) error {
	// What is malformed in a context got there before the rules were asked.
	known, _ := before.ExternalSenders()
	listed, err := after.ExternalSenders()
	if err != nil {
		return &Violation{"12.1.8.1", "the external_senders extension", err}
	}
	for i := range listed {
		s := &listed[i]
		if slices.ContainsFunc(known, s.equals) {
			continue
		}
		if err := g.suite.CheckSignatureKey(s.SignatureKey); err != nil {
			return &Violation{"12.1.8.1", "an external sender's key", err}
		}
		if err := s.Credential.certifies(s.SignatureKey); err != nil {
			return err
		}
		if err := g.rules.ExternalSender(s); err != nil {
			return &Violation{"5.3.1", "an external sender's credential", err}
		}
	}
	return nil
}

// JoinGroup is NewGroup for whoever has a GroupInfo: it verifies that the
// member it names signed it.
func JoinGroup(r Rules, info *GroupInfo, t *Tree) (*Group, error) {
	signer := t.Leaf(info.Signer)
	if signer == nil {
		return nil, broken("12.4.3.1", "a GroupInfo signed by leaf %d, which is blank", info.Signer)
	}
	if err := t.suite.VerifyWithLabel(signer.SignatureKey, LabelGroupInfo, info.SignedContent(), info.Signature); err != nil {
		return nil, &Violation{"12.4.3.1", "the GroupInfo's signature", err}
	}
	return NewGroup(r, t, info.Context, info.ConfirmationTag)
}

// RestoreGroup returns a group from what was kept of it: Tree, Context,
// InterimTranscriptHash and Ended. Nothing is verified but that tree and
// context go together. Proposals are received again.
func RestoreGroup(r Rules, t *Tree, c GroupContext, interim []byte, ended *ReInit) (*Group, error) {
	if t.suite.ID() != c.CipherSuite || !bytes.Equal(t.Hash(), c.TreeHash) {
		return nil, errors.New("couldn't restore the group: the tree is of another epoch")
	}
	return &Group{
		judge:     judge{suite: t.suite, rules: r},
		tree:      t,
		context:   c,
		interim:   interim,
		proposals: make(map[string]pending),
		ended:     ended,
	}, nil
}

// Suite returns the group's cipher suite.
func (g *Group) Suite() *cipher.Suite { return g.suite }

// Tree returns the epoch's tree. It mustn't be changed and doesn't change: it
// can be kept for messages that arrive after the epoch.
func (g *Group) Tree() *Tree { return g.tree }

// Context returns the epoch's context. It mustn't be changed and doesn't
// change.
func (g *Group) Context() *GroupContext {
	c := g.context
	return &c
}

// InterimTranscriptHash returns the hash over all handshakes so far (RFC 9420
// §8.2).
func (g *Group) InterimTranscriptHash() []byte { return g.interim }

// Ended returns the proposal that ended the group, or nil as long as it lives.
func (g *Group) Ended() *ReInit { return g.ended }

// current verifies that content is of this group and epoch.
func (g *Group) current(c *FramedContent) error {
	switch {
	case g.ended != nil:
		return ErrEnded
	case !bytes.Equal(c.GroupID, g.context.GroupID):
		return ErrOtherGroup
	case c.Epoch != g.context.Epoch:
		return ErrEpoch
	}
	return nil
}

// VerifyContent verifies that content has a form which its sender may send, and
// its signature (RFC 9420 §6.1), against the tree and context of the epoch in
// which it was sent. It returns a *Violation. A tag is for others to check.
func VerifyContent(t *Tree, c *GroupContext, ac *AuthenticatedContent) error {
	key, err := signatureKey(t, c, &ac.Content)
	if err != nil {
		return err
	}
	private := ac.WireFormat == WirePrivateMessage
	if private && ac.Content.Sender.Type != SenderMember {
		return broken("6", "a sender outside of the group in a PrivateMessage")
	}
	if !private && ac.Content.ContentType == ContentApplication {
		return broken("6", "an application message that isn't encrypted")
	}
	if err := t.suite.VerifyWithLabel(key, LabelFramedContent, ac.Content.SignedContent(ac.WireFormat, c), ac.Auth.Signature); err != nil {
		return &Violation{"6.1", "a message's signature", err}
	}
	return nil
}

// signatureKey returns the key of whoever sent the content (RFC 9420 §6.1).
func signatureKey(t *Tree, c *GroupContext, content *FramedContent) ([]byte, error) {
	switch s := content.Sender; s.Type {
	case SenderMember:
		leaf := t.Leaf(LeafIndex(s.Index))
		if leaf == nil {
			return nil, broken("6.1", "a message from leaf %d, which is blank", s.Index)
		}
		return leaf.SignatureKey, nil
	case SenderExternal:
		senders, err := c.Extensions.ExternalSenders()
		if err != nil || uint64(s.Index) >= uint64(len(senders)) {
			return nil, broken("6.1", "a message from external sender %d, which isn't listed", s.Index)
		}
		if content.ContentType != ContentProposal || !content.Proposal.Type().outside() {
			return nil, broken("12.1.8", "an external sender sends what it mustn't")
		}
		return senders[s.Index].SignatureKey, nil
	case SenderNewMemberProposal:
		if content.ContentType == ContentProposal {
			if add, ok := content.Proposal.(*Add); ok {
				return add.KeyPackage.Leaf.SignatureKey, nil
			}
		}
		return nil, broken("6.1", "a new member proposes something else than to add itself")
	case SenderNewMemberCommit:
		if content.ContentType == ContentCommit && content.Commit.Path != nil {
			return content.Commit.Path.Leaf.SignatureKey, nil
		}
		return nil, broken("12.4.3.2", "an external commit without a path")
	default:
		return nil, broken("6", "sender type %d", s.Type)
	}
}

// Propose verifies a proposal and keeps it for this epoch's commit. It returns
// the reference by which a commit names it; the same proposal again changes
// nothing. It returns ErrEnded, ErrOtherGroup, ErrEpoch, ErrTooManyProposals or
// a *Violation. Whoever takes messages from strangers bounds their length, too.
func (g *Group) Propose(ac *AuthenticatedContent) ([]byte, error) {
	if err := g.current(&ac.Content); err != nil {
		return nil, err
	}
	if ac.Content.ContentType != ContentProposal {
		return nil, broken("12.1", "content of type %d where a proposal belongs", ac.Content.ContentType)
	}
	ref := ac.ProposalRef(g.suite)
	if _, ok := g.proposals[string(ref)]; ok {
		return ref, nil
	}
	if len(g.proposals) >= MaxProposals {
		return nil, ErrTooManyProposals
	}
	if err := VerifyContent(g.tree, &g.context, ac); err != nil {
		return nil, err
	}
	if ac.Content.Proposal.Type() == ProposalExternalInit {
		return nil, broken("12.1.6", "an ExternalInit outside of an external commit")
	}
	if err := g.proposal(ac.Content.Sender, ac.Content.Proposal); err != nil {
		return nil, err
	}
	g.proposals[string(ref)] = pending{ac.Content.Sender, ac.Content.Proposal}
	return ref, nil
}

// proposal judges a proposal by itself (RFC 9420 §12.1), and asks the rules.
func (g *Group) proposal(from Sender, p Proposal) error {
	if add, ok := p.(*Add); ok {
		if err := g.soundPackage(&add.KeyPackage); err != nil {
			return err
		}
	}
	return g.soundProposal(from, p)
}

// soundProposal is proposal where a key package has been found to be sound.
func (g *Group) soundProposal(from Sender, p Proposal) error {
	var err error
	switch p := p.(type) {
	case *Add:
		err = g.ask(EventAdd, nil, &p.KeyPackage.Leaf)
	case *Update:
		err = g.update(from, p)
	case *Remove:
		if g.tree.Leaf(p.Removed) == nil {
			err = broken("12.1.3", "a Remove of leaf %d, which is blank", p.Removed)
		}
	case *PreSharedKey:
		err = g.preSharedKey(&p.PSK)
	case *ReInit:
		if p.Version < MLS10 {
			err = broken("12.1.5", "a ReInit to version %d", p.Version)
		}
	case *ExternalInit: // where it may stand is a matter of the list
	case *GroupContextExtensions:
		err = g.externalSenders(g.context.Extensions, p.Extensions)
	default:
		err = broken("12.2", "a proposal of type %d, which nobody here supports", p.Type())
	}
	if err != nil {
		return err
	}
	if err := g.rules.Proposal(g, from, p); err != nil {
		return &Violation{"12.2", "the application refuses a proposal", err}
	}
	return nil
}

func (g *Group) update(from Sender, p *Update) error {
	l, ok := from.Leaf()
	if !ok {
		return broken("12.1.2", "an Update by somebody who isn't a member")
	}
	return g.leaf(EventUpdate, g.tree.Leaf(l), &p.Leaf, g.context.GroupID, l)
}

func (g *Group) preSharedKey(id *PreSharedKeyID) error {
	if len(id.Nonce) != g.suite.HashSize() {
		return broken("12.1.4", "a PSK nonce of %d bytes", len(id.Nonce))
	}
	// Resumption of another group happens in a new group's first commit, which
	// is made where its creator is still alone (RFC 9420 §11.2, §11.3).
	first := g.context.Epoch == 0 && g.tree.Count() == 1
	if id.Type == PSKResumption && id.Usage != UsageApplication && !first {
		return broken("12.1.4", "a PSK of usage %d outside of a new group's first commit", id.Usage)
	}
	return nil
}

// Stage verifies a commit and returns the epoch that it leads to; the group
// stays as it is until Apply. It returns ErrEnded, ErrOtherGroup, ErrEpoch,
// ErrUnknownProposal, ErrFull or a *Violation. Whether the membership tag is
// right must be known before; whether the confirmation tag is, shows the new
// epoch's key schedule.
func (g *Group) Stage(ac *AuthenticatedContent) (*Staged, error) {
	if err := g.current(&ac.Content); err != nil {
		return nil, err
	}
	if ac.Content.ContentType != ContentCommit {
		return nil, broken("12.4", "content of type %d where a commit belongs", ac.Content.ContentType)
	}
	if len(ac.Auth.ConfirmationTag) != g.suite.HashSize() {
		return nil, broken("6.1", "a confirmation tag of %d bytes", len(ac.Auth.ConfirmationTag))
	}
	if err := VerifyContent(g.tree, &g.context, ac); err != nil {
		return nil, err
	}
	commit := ac.Content.Commit
	plan, err := g.Plan(ac.Content.Sender, commit.Proposals)
	if err != nil {
		return nil, err
	}
	if commit.Path != nil {
		if err := plan.Merge(commit.Path); err != nil {
			return nil, err
		}
	}
	return plan.Finish(ac.WireFormat, &ac.Content, ac.Auth.Signature)
}

// Apply moves the group to a staged epoch. The confirmation tag is the
// commit's, and is taken on trust. It returns ErrEpoch where the commit was
// staged on another epoch of the group than the present one.
func (g *Group) Apply(s *Staged, confirmationTag []byte) error {
	if s.from != g.tree || s.Context.Epoch != g.context.Epoch+1 {
		return ErrEpoch
	}
	g.tree = s.Tree
	g.context = s.Context
	g.interim = InterimTranscriptHash(g.suite, s.Context.ConfirmedTranscriptHash, confirmationTag)
	g.proposals = make(map[string]pending)
	g.ended = s.ReInit
	return nil
}

// nextEpoch returns the epoch's successor.
func (g *Group) nextEpoch() (uint64, error) {
	if g.context.Epoch == math.MaxUint64 {
		return 0, broken("12", "there is no epoch after %d", g.context.Epoch)
	}
	return g.context.Epoch + 1, nil
}
