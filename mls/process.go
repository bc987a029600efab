package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// labelExternalInit is the label of the secret that an external committer makes
// with the group (RFC 9420 §8.3).
const labelExternalInit = "MLS 1.0 external init secret"

// Received is what a message brought.
type Received struct {
	// Epoch is the epoch in which the message was sent.
	Epoch  uint64
	Sender tree.Sender
	// Leaf is the sender's leaf as it was in that epoch; nil for senders that
	// weren't members. For an external commit it is the new member's leaf.
	Leaf              *tree.LeafNode
	AuthenticatedData []byte

	// One of these is set, as ContentType says.
	ContentType tree.ContentType
	Application []byte
	Proposal    tree.Proposal
	Commit      *tree.Changes

	// ProposalRef names a proposal in commits.
	ProposalRef []byte
}

// Process reads a message of the group: an application message, a proposal,
// which waits for a commit, or a commit, which begins the next epoch. After a
// commit that removes this member, Removed is true and all secrets are gone. Its
// confirmation tag can't be checked by who isn't in the epoch that it begins.
//
// A pending commit of one's own is confirmed when it comes back, and discarded
// when another's begins the epoch.
//
// It returns ErrRemoved, ErrOwnMessage, ErrKeyGone (a replay, or too late),
// ErrGeneration, ErrNotAuthentic, ErrNoPSK, syntax.ErrSyntax, or an error of
// tree.Group. A member who can't take a commit that others take, for want of a
// PSK or by rules of its own, comes back by an external commit.
func (g *Group) Process(message []byte) (*Received, error) {
	if g.removed {
		return nil, ErrRemoved
	}
	if g.pending != nil && bytes.Equal(g.pending.digest, g.suite.Hash(message)) {
		return g.confirm()
	}
	m, err := tree.ParseMessage(bytes.Clone(message))
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *tree.PublicMessage:
		return g.processPublic(m)
	case *tree.PrivateMessage:
		return g.processPrivate(m)
	default:
		return nil, fmt.Errorf("%w: a %T isn't sent within a group", syntax.ErrSyntax, m)
	}
}

func (g *Group) processPublic(m *tree.PublicMessage) (*Received, error) {
	if err := g.checkGroup(m.Content.GroupID); err != nil {
		return nil, err
	}
	if m.Content.Epoch != g.Epoch() {
		return nil, tree.ErrEpoch
	}
	// Application data in the clear would be refused by the rules for content
	// anyway; here it isn't even looked at (RFC 9420 §6.2).
	if m.Content.ContentType == tree.ContentApplication {
		return nil, fmt.Errorf("application message in the clear: %w", ErrNotAuthentic)
	}
	a, err := g.now.unprotectPublic(m)
	if err != nil {
		return nil, err
	}
	if leaf, ok := a.Content.Sender.Leaf(); ok && leaf == g.own && a.Content.ContentType == tree.ContentCommit {
		return nil, ErrOwnMessage
	}
	return g.processContent(a, nil)
}

func (g *Group) processPrivate(m *tree.PrivateMessage) (*Received, error) {
	if err := g.checkGroup(m.GroupID); err != nil {
		return nil, err
	}
	if m.Epoch != g.Epoch() {
		return g.processLate(m)
	}
	t := g.public.Tree()
	a, key, err := g.now.unprotectPrivate(m, func(l tree.LeafIndex) error { return g.maySend(t.Leaf(l), l) })
	if err != nil {
		return nil, err
	}
	defer key.drop()
	return g.processContent(a, key)
}

func (g *Group) checkGroup(id []byte) error {
	if !bytes.Equal(id, g.ID()) {
		return tree.ErrOtherGroup
	}
	return nil
}

// maySend refuses messages in the name of nobody, and one's own.
func (g *Group) maySend(leaf *tree.LeafNode, l tree.LeafIndex) error {
	if leaf == nil {
		return fmt.Errorf("message from leaf %d, which is blank: %w", l, ErrNotAuthentic)
	}
	if l == g.own {
		return ErrOwnMessage
	}
	return nil
}

// processLate reads an application message of a past epoch.
func (g *Group) processLate(m *tree.PrivateMessage) (*Received, error) {
	i := slices.IndexFunc(g.past, func(e *pastEpoch) bool { return e.context.Epoch == m.Epoch })
	if i < 0 || m.ContentType != tree.ContentApplication {
		return nil, tree.ErrEpoch
	}
	e := g.past[i]
	a, key, err := e.unprotectPrivate(m, func(l tree.LeafIndex) error { return g.maySend(g.leafIn(e, l), l) })
	if err != nil {
		return nil, err
	}
	defer key.drop()
	l, _ := a.Content.Sender.Leaf()
	leaf := g.leafIn(e, l)
	if err := g.suite.VerifyWithLabel(leaf.SignatureKey, tree.LabelFramedContent, a.Content.SignedContent(a.WireFormat, &e.context), a.Auth.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", ErrNotAuthentic)
	}
	key.use()
	return received(a, leaf), nil
}

// leafIn returns a leaf as it was in a past epoch.
func (g *Group) leafIn(e *pastEpoch, l tree.LeafIndex) *tree.LeafNode {
	if leaf, ok := e.former[l]; ok {
		return leaf
	}
	return g.public.Tree().Leaf(l)
}

func received(a *tree.AuthenticatedContent, leaf *tree.LeafNode) *Received {
	c := &a.Content
	return &Received{
		Epoch: c.Epoch, Sender: c.Sender, Leaf: leaf, AuthenticatedData: c.AuthenticatedData,
		ContentType: c.ContentType, Application: c.ApplicationData, Proposal: c.Proposal,
	}
}

// processContent reads content of the present epoch and uses up its key, which
// is nil for what wasn't encrypted.
func (g *Group) processContent(a *tree.AuthenticatedContent, key *foundKey) (*Received, error) {
	var leaf *tree.LeafNode
	if l, ok := a.Content.Sender.Leaf(); ok {
		leaf = g.public.Tree().Leaf(l)
	}
	r := received(a, leaf)
	switch a.Content.ContentType {
	case tree.ContentApplication:
		if err := tree.VerifyContent(g.public.Tree(), &g.now.context, a); err != nil {
			return nil, err
		}
		key.use()
	case tree.ContentProposal:
		ref, err := g.keepProposal(a, nil)
		if err != nil {
			return nil, err
		}
		key.use()
		r.ProposalRef = ref
	case tree.ContentCommit:
		changes, err := g.processCommit(a, key)
		if err != nil {
			return nil, err
		}
		r.Commit = changes
		if a.Content.Sender.Type == tree.SenderNewMemberCommit {
			r.Leaf = &a.Content.Commit.Path.Leaf
		}
	}
	return r, nil
}

// keepProposal has the rules judge a proposal and keeps it for a commit.
func (g *Group) keepProposal(a *tree.AuthenticatedContent, key *cipher.PrivateKey) ([]byte, error) {
	ref, err := g.public.Propose(a)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(g.proposals, func(w waiting) bool { return bytes.Equal(w.ref, ref) }) {
		g.note(recordKey{kind: recordProposal, n: uint32(len(g.proposals))})
		g.proposals = append(g.proposals, waiting{ref, *a, key})
	}
	return ref, nil
}

// processCommit verifies another's commit and begins its epoch.
func (g *Group) processCommit(a *tree.AuthenticatedContent, key *foundKey) (*tree.Changes, error) {
	staged, err := g.public.Stage(a)
	if err != nil {
		return nil, err
	}
	if slices.Contains(staged.Removed, g.own) {
		// The new epoch's secrets aren't ours: the tag can't be checked.
		if err := g.leave(staged, a.Auth.ConfirmationTag); err != nil {
			return nil, err
		}
		return &staged.Changes, nil
	}
	n, err := g.readCommit(staged, a.Content.Commit)
	if err != nil {
		return nil, err
	}
	if !g.suite.VerifyMAC(n.secrets.confirmation, staged.Context.ConfirmedTranscriptHash, a.Auth.ConfirmationTag) {
		n.erase()
		return nil, fmt.Errorf("confirmation tag: %w", ErrNotAuthentic)
	}
	key.use()
	if err := g.advance(n, a.Auth.ConfirmationTag); err != nil {
		return nil, err
	}
	return &staged.Changes, nil
}

// readCommit derives the secrets of the epoch that another's commit begins.
func (g *Group) readCommit(staged *tree.Staged, commit *tree.Commit) (*next, error) {
	psks, err := g.config.findPSKs(staged.PSKs, g.ID(), g.psks)
	if err != nil {
		return nil, err
	}
	initSecret := g.now.secrets.init
	if staged.External {
		key, err := g.now.secrets.externalKey(g.suite)
		if err != nil {
			return nil, err
		}
		defer key.Erase()
		initSecret, err = key.ExportFrom(staged.KEMOutput, labelExternalInit)
		if err != nil {
			return nil, fmt.Errorf("external init: %w", errors.Join(ErrNotAuthentic, err))
		}
		defer clear(initSecret)
	}
	var fresh keys
	var secret []byte
	if commit.Path != nil {
		mine := g.keys
		if key := g.waitingKey(staged.Tree.Leaf(g.own)); key != nil {
			mine = keys{g.own.Node(): key}
			for n, k := range g.keys {
				if n != g.own.Node() {
					mine[n] = k
				}
			}
		}
		fresh, secret, err = stagedPath(staged, commit.Path).read(g.suite, g.own, mine)
		if err != nil {
			return nil, err
		}
		defer clear(secret)
	}
	n, err := schedule(g.suite, staged, initSecret, secret, psks)
	if err != nil {
		return nil, err
	}
	n.keys = fresh
	return n, nil
}
