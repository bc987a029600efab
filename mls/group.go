package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// PastEpochs is how many epochs before the present one messages can still be
// read of, and resumption PSKs are kept.
const PastEpochs = 4

var (
	// ErrNoPSK means that a pre-shared key isn't known.
	ErrNoPSK = errors.New("pre-shared key isn't known")
	// ErrRemoved means that the member isn't in the group any more.
	ErrRemoved = errors.New("removed from the group")
	// ErrPending means that a commit of one's own waits for Confirm or Discard.
	ErrPending = errors.New("a commit of one's own is pending")
	// ErrNoPending means that no commit of one's own is pending.
	ErrNoPending = errors.New("no commit of one's own is pending")
)

// Config is what a group needs of its application. One Config can serve many
// groups.
type Config struct {
	// Rules judge credentials, lifetimes and proposals.
	Rules tree.Rules
	// Signer returns the holder of the private key of a signature key of this
	// member's.
	Signer func(signatureKey []byte) (cipher.Signer, error)
	// PSK returns an external PSK, or a resumption PSK of another group
	// (Group.ResumptionPSK); ErrNoPSK where there is none. It may be nil.
	PSK func(id *tree.PreSharedKeyID) ([]byte, error)
	// Random is a cryptographic source, such as crypto/rand.Reader.
	Random io.Reader
	// PadTo is the length in bytes of which the content of each encrypted
	// message becomes a multiple; 0 for no padding.
	PadTo int
}

// Group is a member's state of a group. It is for one goroutine at a time.
//
// Each method that changes it leaves it as it was if it returns an error.
// Before a message that a method returned is sent, or one that it read is
// delivered, Changes must be stored: otherwise a crash could bring a used key
// back.
type Group struct {
	config    Config
	suite     *cipher.Suite
	public    *tree.Group
	own       tree.LeafIndex
	inviter   tree.LeafIndex
	keys      keys
	now       *epoch
	past      []*pastEpoch      // the latest last
	psks      map[uint64][]byte // resumption PSKs by epoch
	proposals []waiting
	pending   *pending
	removed   bool
	changed   map[recordKey]struct{}
}

// pastEpoch reads late messages.
type pastEpoch struct {
	epoch
	// former are leaves that changed since, as they were in the epoch; nil
	// where there was none.
	former map[tree.LeafIndex]*tree.LeafNode
}

// waiting is a proposal that no commit covers yet.
type waiting struct {
	ref     []byte
	content tree.AuthenticatedContent
	key     *cipher.PrivateKey // of one's own Update
}

// Create returns a group in which the key package's owner is alone (RFC 9420
// §11). It takes over the key package, which must be of no use elsewhere.
func Create(config Config, groupID []byte, own *OwnKeyPackage, extensions tree.Extensions) (*Group, error) {
	s, err := cipher.ByID(own.Public.CipherSuite)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, s.HashSize())
	defer clear(secret)
	if _, err := io.ReadFull(config.Random, secret); err != nil {
		return nil, fmt.Errorf("couldn't draw an epoch secret: %w", err)
	}
	t := tree.NewTree(s, &own.Public.Leaf)
	context := tree.GroupContext{CipherSuite: s.ID(), GroupID: groupID, TreeHash: t.Hash(), Extensions: extensions}
	x := newSecrets(s, secret)
	public, err := tree.NewGroup(config.Rules, t, context, x.confirmationTag(s, nil))
	if err != nil {
		return nil, err
	}
	own.init.Erase()
	return newGroup(config, public, 0, keys{0: own.leaf}, x), nil
}

// newGroup returns the state in a member's first epoch. It takes over x.
func newGroup(config Config, public *tree.Group, own tree.LeafIndex, k keys, x *secrets) *Group {
	g := &Group{
		config: config, suite: public.Suite(), public: public, own: own, keys: k,
		psks:    make(map[uint64][]byte),
		changed: make(map[recordKey]struct{}),
	}
	g.start(newEpoch(g.suite, public.Context(), public.Tree().Size(), x))
	g.noteAll()
	return g
}

// start makes e the present epoch.
func (g *Group) start(e *epoch) {
	e.keys.changed = g.note
	g.now = e
	g.psks[e.context.Epoch] = slices.Clone(e.secrets.resumption)
	g.note(recordKey{kind: recordEpoch, epoch: e.context.Epoch})
	for n := range e.keys.nodes {
		g.note(secretNodeKey(e.context.Epoch, n))
	}
}

// ID returns the group's id.
func (g *Group) ID() []byte { return g.now.context.GroupID }

// Epoch returns the number of the present epoch.
func (g *Group) Epoch() uint64 { return g.now.context.Epoch }

// Own returns the place of the member's own leaf.
func (g *Group) Own() tree.LeafIndex { return g.own }

// Public returns the public state, for reading alone.
func (g *Group) Public() *tree.Group { return g.public }

// Removed reports whether a commit has removed this member.
func (g *Group) Removed() bool { return g.removed }

// EpochAuthenticator returns a secret that members can compare, to tell that
// nobody stands between them (RFC 9420 §8.7).
func (g *Group) EpochAuthenticator() []byte { return slices.Clone(g.now.secrets.authenticate) }

// Export returns a secret of length bytes for the application (RFC 9420 §8.5).
// It returns ErrTooLong, or ErrRemoved.
func (g *Group) Export(label string, context []byte, length int) ([]byte, error) {
	if g.removed {
		return nil, ErrRemoved
	}
	return g.now.secrets.export(g.suite, label, context, length)
}

// ResumptionPSK returns the resumption PSK of an epoch (RFC 9420 §8.6); the
// present one and PastEpochs before it are known. It returns ErrNoPSK.
func (g *Group) ResumptionPSK(epoch uint64) ([]byte, error) {
	secret, ok := g.psks[epoch]
	if !ok {
		return nil, ErrNoPSK
	}
	return slices.Clone(secret), nil
}

// identity returns what the member's leaf says now.
func (g *Group) identity() (*Identity, error) {
	leaf := g.public.Tree().Leaf(g.own)
	signer, err := g.config.Signer(leaf.SignatureKey)
	if err != nil {
		return nil, fmt.Errorf("couldn't find the signature key: %w", err)
	}
	return &Identity{Signer: signer, Credential: leaf.Credential, Capabilities: leaf.Capabilities, Extensions: leaf.Extensions}, nil
}

// live returns an error unless the group takes messages.
func (g *Group) live() error {
	if g.removed {
		return ErrRemoved
	}
	if g.public.Ended() != nil {
		return tree.ErrEnded
	}
	return nil
}

// findPSKs returns the PSKs of a commit or Welcome. known are resumption PSKs
// of the group itself, or nil.
func (c *Config) findPSKs(ids []tree.PreSharedKeyID, groupID []byte, known map[uint64][]byte) ([]psk, error) {
	out := make([]psk, 0, len(ids))
	for i := range ids {
		id := &ids[i]
		secret, ok := known[id.Epoch]
		if id.Type != tree.PSKResumption || !bytes.Equal(id.GroupID, groupID) || !ok {
			if c.PSK == nil {
				return nil, ErrNoPSK
			}
			var err error
			if secret, err = c.PSK(id); err != nil {
				return nil, fmt.Errorf("couldn't find a PSK: %w", err)
			}
		}
		out = append(out, psk{*id, secret})
	}
	return out, nil
}

// next is an epoch that is ready and not yet begun.
type next struct {
	staged  *tree.Staged
	joiner  []byte
	member  []byte
	secrets *secrets
	keys    keys // new ones, of the path
}

func (n *next) erase() {
	clear(n.joiner)
	clear(n.member)
	n.secrets.erase()
}

// schedule derives the secrets of a staged epoch (RFC 9420 §8). commit is nil
// for a commit without a path.
func schedule(s *cipher.Suite, staged *tree.Staged, initSecret, commit []byte, psks []psk) (*next, error) {
	if commit == nil {
		commit = make([]byte, s.HashSize())
	}
	secret, err := pskSecret(s, psks)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	context := syntax.Marshal(&staged.Context)
	n := &next{staged: staged, joiner: joinerSecret(s, initSecret, commit, context)}
	n.member = memberSecret(s, n.joiner, secret)
	root := epochSecret(s, n.member, context)
	defer clear(root)
	n.secrets = newSecrets(s, root)
	return n, nil
}

// advance begins the next epoch. The present one is kept for late messages;
// whatever is too old for that is erased.
func (g *Group) advance(n *next, confirmationTag []byte) error {
	before := g.public.Tree()
	if err := g.public.Apply(n.staged, confirmationTag); err != nil {
		return err
	}
	g.noteTree(before, n.staged.Tree)
	g.retire(before, n.staged.Tree)

	merged := maps.Clone(g.keys)
	if key := g.waitingKey(n.staged.Tree.Leaf(g.own)); key != nil {
		merged[g.own.Node()] = key
	}
	maps.Copy(merged, n.keys)
	g.setKeys(merged.matching(n.staged.Tree))
	g.dropProposals()
	g.start(newEpoch(g.suite, &n.staged.Context, n.staged.Tree.Size(), n.secrets))
	clear(n.joiner)
	clear(n.member)
	if g.pending != nil && g.pending.next == n {
		g.pending = nil // its secrets live on
	}
	g.dropPending()
	g.note(recordKey{kind: recordCommit})
	g.note(recordKey{kind: recordGroup})
	return nil
}

// waitingKey returns the private key of one's own Update that put this leaf into
// the tree, or nil.
func (g *Group) waitingKey(leaf *tree.LeafNode) *cipher.PrivateKey {
	for _, w := range g.proposals {
		if w.key != nil && bytes.Equal(w.key.Public(), leaf.EncryptionKey) {
			return w.key
		}
	}
	return nil
}

// setKeys replaces the private keys and erases those that are gone.
func (g *Group) setKeys(k keys) {
	for n, old := range g.keys {
		if k[n] != old {
			old.Erase()
			g.note(recordKey{kind: recordPathKey, n: uint32(n)})
		}
	}
	for n := range k {
		if g.keys[n] != k[n] {
			g.note(recordKey{kind: recordPathKey, n: uint32(n)})
		}
	}
	g.keys = k
}

// dropProposals forgets the proposals of the epoch that ended, and the keys of
// Updates that weren't taken.
func (g *Group) dropProposals() {
	for i := range g.proposals {
		if key := g.proposals[i].key; key != nil && key != g.keys[g.own.Node()] {
			key.Erase()
		}
		g.note(recordKey{kind: recordProposal, n: uint32(i)})
	}
	g.proposals = nil
}

// retire moves the present epoch to the past ones.
func (g *Group) retire(before, after *tree.Tree) {
	e := &pastEpoch{epoch: *g.now, former: make(map[tree.LeafIndex]*tree.LeafNode)}
	e.secrets.retire()
	g.past = append(g.past, e)
	for l := range tree.LeafIndex(max(before.Size(), after.Size())) {
		old := before.Leaf(l)
		if old == after.Leaf(l) {
			continue
		}
		for _, p := range g.past {
			if _, known := p.former[l]; !known {
				p.former[l] = old
				g.note(recordKey{kind: recordFormer, epoch: p.context.Epoch, n: uint32(l)})
			}
		}
	}
	g.note(recordKey{kind: recordEpoch, epoch: e.context.Epoch})
	if len(g.past) > PastEpochs {
		g.forgetEpoch(g.past[0])
		g.past = slices.Delete(g.past, 0, 1)
	}
}

func (g *Group) forgetEpoch(e *pastEpoch) {
	number := e.context.Epoch
	for l := range e.former {
		g.note(recordKey{kind: recordFormer, epoch: number, n: uint32(l)})
	}
	e.erase()
	clear(e.former)
	clear(g.psks[number])
	delete(g.psks, number)
	g.note(recordKey{kind: recordEpoch, epoch: number})
}

// leave follows the commit that removes this member, and erases all secrets.
func (g *Group) leave(s *tree.Staged, confirmationTag []byte) error {
	before := g.public.Tree()
	if err := g.public.Apply(s, confirmationTag); err != nil {
		return err
	}
	g.noteTree(before, s.Tree)
	g.removed = true
	for _, e := range g.past {
		g.forgetEpoch(e)
	}
	g.past = nil
	g.forgetEpoch(&pastEpoch{epoch: *g.now})
	g.now = noEpoch(g.suite, &s.Context)
	g.setKeys(nil)
	g.dropProposals()
	g.dropPending()
	g.note(recordKey{kind: recordGroup})
	return nil
}

// noEpoch is what a former member has of the epoch that began without it.
func noEpoch(s *cipher.Suite, context *tree.GroupContext) *epoch {
	return newEpoch(s, context, 1, new(secrets))
}

// note marks a record as changed since the last call of Changes.
func (g *Group) note(k recordKey) { g.changed[k] = struct{}{} }

// noteTree marks the nodes in which two trees differ.
func (g *Group) noteTree(before, after *tree.Tree) {
	for n := range tree.NodeIndex(max(before.Size(), after.Size()).Nodes()) {
		if n.IsLeaf() {
			if before.Leaf(n.Leaf()) != after.Leaf(n.Leaf()) {
				g.note(recordKey{kind: recordLeaf, n: uint32(n.Leaf())})
			}
		} else if before.Parent(n) != after.Parent(n) {
			g.note(recordKey{kind: recordParent, n: uint32(n)})
		}
	}
}

// noteAll marks all of a new group.
func (g *Group) noteAll() {
	g.note(recordKey{kind: recordGroup})
	t := g.public.Tree()
	for n := range tree.NodeIndex(t.Size().Nodes()) {
		if n.IsLeaf() && t.Leaf(n.Leaf()) != nil {
			g.note(recordKey{kind: recordLeaf, n: uint32(n.Leaf())})
		} else if t.Parent(n) != nil {
			g.note(recordKey{kind: recordParent, n: uint32(n)})
		}
	}
	for n := range g.keys {
		g.note(recordKey{kind: recordPathKey, n: uint32(n)})
	}
}
