package mls

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// Foreign is a member's state of a group as another implementation kept it.
type Foreign struct {
	Own     tree.LeafIndex
	Tree    *tree.Tree
	Interim []byte // interim transcript hash
	// Keys are the member's private keys, of its leaf and of nodes above it.
	// Those that don't belong to the tree are left out.
	Keys map[tree.NodeIndex][]byte

	// Secrets of the present epoch (RFC 9420 §8, table 4).
	Exporter, External, Confirmation, Membership, Resumption, Authentication, Init []byte

	Present ForeignEpoch
	// Past are epochs before the present one whose messages can still be read, in
	// order. More than PastEpochs are refused.
	Past []ForeignEpoch
	// Former is this package's state of the group in the epoch before the present
	// one, or nil. It takes the place of Past and is of no use afterwards.
	Former *Group
}

// ForeignEpoch is what reads the messages of one epoch.
type ForeignEpoch struct {
	Context                tree.GroupContext
	Size                   tree.Size
	SenderData, Encryption []byte
	// Ratchets are those of the senders whose messages were read, and the
	// member's own if it sent any.
	Ratchets []ForeignRatchet
	// Members are the leaves of a past epoch. Nothing counts but their
	// credentials and signature keys.
	Members map[tree.LeafIndex]*tree.LeafNode
}

// ForeignRatchet says where a sender's application ratchet stands (RFC 9420
// §9.1): Secret makes the key of generation Next. Keys before it are gone.
type ForeignRatchet struct {
	Leaf   tree.LeafIndex
	Next   uint32
	Secret []byte
}

// Import returns the group of a foreign state, which it takes over: none of its
// slices is to be used again. No key of a generation before those of its ratchets
// can be had from the group. It returns ErrState, wrapped, for what no member of
// a group can hold. The first Changes returns all of it.
func Import(config Config, f *Foreign) (*Group, error) {
	g, err := importGroup(config, f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return g, nil
}

func importGroup(config Config, f *Foreign) (*Group, error) {
	s, err := cipher.ByID(f.Present.Context.CipherSuite)
	if err != nil {
		return nil, err
	}
	public, err := tree.RestoreGroup(config.Rules, f.Tree, f.Present.Context, f.Interim, nil)
	if err != nil {
		return nil, err
	}
	if f.Tree.Leaf(f.Own) == nil || f.Present.Size != f.Tree.Size() {
		return nil, errors.New("a tree without the member's leaf, or of another size than the epoch")
	}
	k, err := importKeys(s, f)
	if err != nil {
		return nil, err
	}
	x := &secrets{
		exporter: f.Exporter, external: f.External, confirmation: f.Confirmation, membership: f.Membership,
		resumption: f.Resumption, authenticate: f.Authentication, init: f.Init,
	}
	g := newGroup(config, public, f.Own, k, x)
	if g.now, err = importEpoch(s, &f.Present, x, g.note); err != nil {
		return nil, err
	}
	if err := g.importPast(f); err != nil {
		return nil, err
	}
	g.inherit(f.Former)
	return g, nil
}

func importKeys(s *cipher.Suite, f *Foreign) (keys, error) {
	all := make(keys)
	for n, private := range f.Keys {
		key, err := s.NewPrivateKey(private)
		clear(private)
		if err != nil {
			return nil, fmt.Errorf("private key of node %d: %w", n, err)
		}
		all[n] = key
	}
	k := all.matching(f.Tree)
	if k[f.Own.Node()] == nil {
		return nil, errors.New("the private key of the member's leaf is missing")
	}
	return k, nil
}

// importEpoch returns the message keys of an epoch. x are its other secrets.
func importEpoch(s *cipher.Suite, f *ForeignEpoch, x *secrets, changed func(recordKey)) (*epoch, error) {
	own := *x
	own.senderData, own.encryption = f.SenderData, f.Encryption
	e := newEpoch(s, &f.Context, f.Size, &own)
	e.keys.changed = changed
	changed(recordKey{kind: recordEpoch, epoch: f.Context.Epoch})
	changed(secretNodeKey(f.Context.Epoch, f.Size.Root()))
	for _, r := range f.Ratchets {
		if err := e.keys.grow(r.Leaf); err != nil {
			return nil, fmt.Errorf("ratchet of leaf %d: %w", r.Leaf, err)
		}
		to := e.keys.ratchets[ratchetID{leaf: r.Leaf}]
		clear(to.secret)
		to.next, to.secret = r.Next, r.Secret
	}
	return e, nil
}

func (g *Group) importPast(f *Foreign) error {
	if len(f.Past) > PastEpochs {
		return fmt.Errorf("%d past epochs", len(f.Past))
	}
	for i := range f.Past {
		p := &f.Past[i]
		number := p.Context.Epoch
		if number+uint64(len(f.Past)-i) != g.Epoch() {
			return fmt.Errorf("epoch %d among those before %d", number, g.Epoch())
		}
		e, err := importEpoch(g.suite, p, new(secrets), g.note)
		if err != nil {
			return err
		}
		past := &pastEpoch{epoch: *e, former: make(map[tree.LeafIndex]*tree.LeafNode)}
		g.past = append(g.past, past)
		for l := range tree.LeafIndex(max(p.Size, f.Tree.Size())) {
			then, now := p.Members[l], f.Tree.Leaf(l)
			if !sameMember(then, now) {
				past.former[l] = then
				g.note(recordKey{kind: recordFormer, epoch: number, n: uint32(l)})
			}
		}
	}
	return nil
}

func sameMember(a, b *tree.LeafNode) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.SignatureKey, b.SignatureKey) && a.Credential.Type == b.Credential.Type &&
		bytes.Equal(a.Credential.Identity, b.Credential.Identity)
}

// inherit takes over the epochs of the group as it was before, nil for none.
func (g *Group) inherit(before *Group) {
	if before == nil {
		return
	}
	before.noteAll() // whatever isn't in g has to go
	before.dropPending()
	before.dropProposals()
	before.retire(before.public.Tree(), g.public.Tree())
	g.past = before.past
	for _, e := range g.past {
		e.keys.changed = g.note
		if secret, ok := before.psks[e.context.Epoch]; ok {
			g.psks[e.context.Epoch] = secret
		}
	}
	maps.Copy(g.changed, before.changed)
}
