package mls

import (
	"errors"
	"maps"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// Bounds on messages that come out of order. They are checked before any key
// is derived.
const (
	// MaxSkip is how many generations of a sender a message may leave out
	// relative to those read before it.
	MaxSkip = 1000
	// MaxLateKeys is how many keys of messages that haven't come are kept, for
	// each sender, epoch and kind (handshake or application). The oldest go
	// first.
	MaxLateKeys = 1000
)

var (
	// ErrGeneration means that a message is further ahead of its sender's last
	// one than MaxSkip.
	ErrGeneration = errors.New("message skips too many generations")
	// ErrKeyGone means that a message's key was used before, which makes it a
	// replay, or is so old that it was deleted.
	ErrKeyGone = errors.New("message key was used or deleted")
)

// keyAndNonce encrypt one message.
type keyAndNonce struct {
	key, nonce []byte
}

func (k *keyAndNonce) erase() {
	erase(&k.key)
	erase(&k.nonce)
}

// ratchet is a sender's symmetric ratchet (RFC 9420 §9.1). Secrets before
// generation next are gone; of their keys, those in late are kept.
type ratchet struct {
	next   uint32
	secret []byte // of generation next
	late   map[uint32]keyAndNonce
}

// lastGeneration is the greatest generation whose key is given out. The one
// after it can't be counted.
const lastGeneration = 1<<32 - 2

// step derives the key of generation next and replaces the secret.
func (r *ratchet) step(s *cipher.Suite) keyAndNonce {
	k := keyAndNonce{
		key:   s.DeriveTreeSecret(r.secret, "key", r.next, s.KeySize()),
		nonce: s.DeriveTreeSecret(r.secret, "nonce", r.next, s.NonceSize()),
	}
	secret := s.DeriveTreeSecret(r.secret, "secret", r.next, s.HashSize())
	clear(r.secret)
	r.secret = secret
	r.next++
	return k
}

// steps returns how often the ratchet must step until it has given the key of a
// generation: 0 where that key is among the late ones. It costs nothing,
// whatever the generation.
func (r *ratchet) steps(generation uint32) (int, error) {
	if generation < r.next {
		if _, ok := r.late[generation]; !ok {
			return 0, ErrKeyGone
		}
		return 0, nil
	}
	if generation-r.next > MaxSkip || generation > lastGeneration {
		return 0, ErrGeneration
	}
	return int(generation-r.next) + 1, nil
}

func (r *ratchet) erase() {
	erase(&r.secret)
	for _, k := range r.late {
		k.erase()
	}
	r.late = nil
}

// forgetOldest deletes late keys above the bound.
func (r *ratchet) forgetOldest() {
	excess := len(r.late) - MaxLateKeys
	if excess <= 0 {
		return
	}
	for _, g := range slices.Sorted(maps.Keys(r.late))[:excess] {
		k := r.late[g]
		k.erase()
		delete(r.late, g)
	}
}

func (r *ratchet) Encode(b *syntax.Builder) {
	b.Uint32(r.next)
	b.Opaque(r.secret)
	b.Vector(func(b *syntax.Builder) {
		for _, g := range slices.Sorted(maps.Keys(r.late)) {
			b.Uint32(g)
			b.Opaque(r.late[g].key)
			b.Opaque(r.late[g].nonce)
		}
	})
}

func (r *ratchet) Decode(in *syntax.Reader) {
	r.next = in.Uint32()
	r.secret = slices.Clone(in.Opaque())
	r.late = make(map[uint32]keyAndNonce)
	last := int64(-1)
	in.Each(func(in *syntax.Reader) {
		g := in.Uint32()
		if int64(g) <= last || g >= r.next {
			in.Failf("late generation %d", g)
			return
		}
		last = int64(g)
		r.late[g] = keyAndNonce{slices.Clone(in.Opaque()), slices.Clone(in.Opaque())}
	})
}

// ratchetID names a ratchet of an epoch.
type ratchetID struct {
	leaf      tree.LeafIndex
	handshake bool
}

func (id ratchetID) label() string {
	if id.handshake {
		return "handshake"
	}
	return "application"
}

// secretTree gives out message keys (RFC 9420 §9). Each secret is erased as soon
// as what it yields is derived: a copy of the tree opens nothing that was read
// before the copy was made.
type secretTree struct {
	suite *cipher.Suite
	size  tree.Size
	// nodes are secrets from which nothing was derived yet. None is below
	// another.
	nodes    map[tree.NodeIndex][]byte
	ratchets map[ratchetID]*ratchet
	// changed is told of what a stored copy must follow.
	changed func(what recordKey)
	epoch   uint64
}

// newSecretTree takes over the encryption secret.
func newSecretTree(s *cipher.Suite, epoch uint64, size tree.Size, encryption []byte) *secretTree {
	return &secretTree{
		suite: s, size: size, epoch: epoch,
		nodes:    map[tree.NodeIndex][]byte{size.Root(): encryption},
		ratchets: make(map[ratchetID]*ratchet),
		changed:  func(recordKey) {},
	}
}

// grow makes sure that the leaf's ratchets exist. It returns ErrKeyGone for a
// leaf that the tree doesn't have.
func (t *secretTree) grow(leaf tree.LeafIndex) error {
	if t.ratchets[ratchetID{leaf, true}] != nil {
		return nil
	}
	path := append([]tree.NodeIndex{leaf.Node()}, t.size.DirectPath(leaf)...)
	top := slices.IndexFunc(path, func(n tree.NodeIndex) bool { return t.nodes[n] != nil })
	if top < 0 || uint32(leaf) >= uint32(t.size) {
		return ErrKeyGone
	}
	for ; top > 0; top-- {
		t.split(path[top])
	}
	secret := t.nodes[leaf.Node()]
	for _, id := range []ratchetID{{leaf, true}, {leaf, false}} {
		t.ratchets[id] = &ratchet{
			secret: t.suite.ExpandWithLabel(secret, id.label(), nil, t.suite.HashSize()),
			late:   make(map[uint32]keyAndNonce),
		}
		t.changed(ratchetKey(t.epoch, id))
	}
	t.forget(leaf.Node())
	return nil
}

// split replaces a node's secret by those of its children (RFC 9420 §9).
func (t *secretTree) split(n tree.NodeIndex) {
	left, _ := n.Left()
	right, _ := n.Right()
	for child, name := range map[tree.NodeIndex]string{left: "left", right: "right"} {
		t.nodes[child] = t.suite.ExpandWithLabel(t.nodes[n], "tree", []byte(name), t.suite.HashSize())
		t.changed(secretNodeKey(t.epoch, child))
	}
	t.forget(n)
}

func (t *secretTree) forget(n tree.NodeIndex) {
	clear(t.nodes[n])
	delete(t.nodes, n)
	t.changed(secretNodeKey(t.epoch, n))
}

func (t *secretTree) erase() {
	for n := range t.nodes {
		t.forget(n)
	}
	for id, r := range t.ratchets {
		r.erase()
		delete(t.ratchets, id)
		t.changed(ratchetKey(t.epoch, id))
	}
}

// spend returns the next key of the sender's own ratchet and its generation.
// Nobody can have it again.
func (t *secretTree) spend(id ratchetID) (keyAndNonce, uint32, error) {
	if err := t.grow(id.leaf); err != nil {
		return keyAndNonce{}, 0, err
	}
	r := t.ratchets[id]
	if r.next > lastGeneration {
		return keyAndNonce{}, 0, ErrGeneration
	}
	generation := r.next
	k := r.step(t.suite)
	t.changed(ratchetKey(t.epoch, id))
	return k, generation, nil
}

// foundKey is the key of a message to be read. Until use is called nothing is
// used up, so that a forged message can't delete the key of a true one.
type foundKey struct {
	keyAndNonce
	tree       *secretTree
	id         ratchetID
	generation uint32
	after      *ratchet // as the ratchet will be; nil for a late key
	settled    bool
}

// find returns the key of a message. The work is bounded by MaxSkip.
func (t *secretTree) find(id ratchetID, generation uint32) (*foundKey, error) {
	if err := t.grow(id.leaf); err != nil {
		return nil, err
	}
	r := t.ratchets[id]
	steps, err := r.steps(generation)
	if err != nil {
		return nil, err
	}
	f := &foundKey{tree: t, id: id, generation: generation}
	if steps == 0 {
		f.keyAndNonce = r.late[generation]
		return f, nil
	}
	f.after = &ratchet{next: r.next, secret: slices.Clone(r.secret), late: make(map[uint32]keyAndNonce, steps-1)}
	for ; steps > 1; steps-- {
		g := f.after.next
		f.after.late[g] = f.after.step(t.suite)
	}
	f.keyAndNonce = f.after.step(t.suite)
	return f, nil
}

// use deletes the key for good. A nil f stands for a message without a key.
func (f *foundKey) use() {
	if f == nil || f.settled {
		return
	}
	f.settled = true
	f.erase()
	r := f.tree.ratchets[f.id]
	if f.after == nil {
		delete(r.late, f.generation)
	} else {
		maps.Copy(r.late, f.after.late)
		clear(r.secret)
		r.next, r.secret = f.after.next, f.after.secret
		r.forgetOldest()
	}
	f.tree.changed(ratchetKey(f.tree.epoch, f.id))
}

// drop erases what was derived for a message that isn't taken. After use it does
// nothing.
func (f *foundKey) drop() {
	if f == nil || f.settled {
		return
	}
	f.settled = true
	if f.after != nil { // a late key stays
		f.erase()
		f.after.erase()
	}
}
