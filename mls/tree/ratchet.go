package tree

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// MaxLeaves bounds a tree, so that nobody is made to hold a greater one.
const MaxLeaves = 1 << 16

// ErrFull means that a tree would need more than MaxLeaves leaves.
var ErrFull = errors.New("the group has no room for another member")

// ParentNode is a key shared by the members below it, but for the unmerged ones
// (RFC 9420 §7.1).
type ParentNode struct {
	EncryptionKey  []byte // HPKE public key
	ParentHash     []byte // of the next node above that isn't blank
	UnmergedLeaves []LeafIndex
}

// Encode implements syntax.Encoder.
func (p *ParentNode) Encode(b *syntax.Builder) {
	b.Opaque(p.EncryptionKey)
	b.Opaque(p.ParentHash)
	b.Length(4 * len(p.UnmergedLeaves))
	for _, l := range p.UnmergedLeaves {
		b.Uint32(uint32(l))
	}
}

// Decode refuses unmerged leaves that don't ascend.
func (p *ParentNode) Decode(r *syntax.Reader) {
	p.EncryptionKey = r.Opaque()
	p.ParentHash = r.Opaque()
	p.UnmergedLeaves = decodeEach(r, func(r *syntax.Reader) LeafIndex { return LeafIndex(r.Uint32()) })
	for i := 1; i < len(p.UnmergedLeaves); i++ {
		if p.UnmergedLeaves[i-1] >= p.UnmergedLeaves[i] {
			r.Failf("unmerged leaves %d and %d out of order", p.UnmergedLeaves[i-1], p.UnmergedLeaves[i])
			return
		}
	}
}

// Tree is a ratchet tree (RFC 9420 §4). It has at least one leaf, which may be
// blank. Reading can fill in a hash, so that even readers need one goroutine at
// a time, or a call of Hash before.
type Tree struct {
	suite   *cipher.Suite
	leaves  []*LeafNode   // by leaf index; nil where blank
	parents []*ParentNode // node 2i+1 at i; nil where blank
	hashes  [][]byte      // tree hashes by node index; nil where not known
	free    LeafIndex     // no leaf before it is blank
}

// NewTree returns the tree of a group with one member.
func NewTree(s *cipher.Suite, leaf *LeafNode) *Tree {
	t := &Tree{suite: s}
	t.resize(1)
	t.setLeaf(0, leaf)
	return t
}

// RestoreTree returns the tree of that size with those nodes, kept one by one;
// all others are blank. It returns an error for a size that no tree has, or a
// node out of place.
func RestoreTree(s *cipher.Suite, size Size, leaves map[LeafIndex]*LeafNode, parents map[NodeIndex]*ParentNode) (*Tree, error) {
	if size == 0 || size > MaxLeaves || size&(size-1) != 0 {
		return nil, fmt.Errorf("couldn't restore a tree of %d leaves", size)
	}
	t := &Tree{suite: s}
	t.resize(size)
	for l, leaf := range leaves {
		if uint64(l) >= uint64(size) {
			return nil, fmt.Errorf("couldn't restore leaf %d of %d", l, size)
		}
		t.leaves[l] = leaf
	}
	for n, p := range parents {
		if n.IsLeaf() || uint32(n) >= size.Nodes() {
			return nil, fmt.Errorf("couldn't restore node %d of a tree of %d leaves", n, size)
		}
		t.parents[n/2] = p
	}
	return t, nil
}

// Clone returns a copy. Both share their nodes, which don't change.
func (t *Tree) Clone() *Tree {
	return &Tree{
		suite:   t.suite,
		leaves:  slices.Clone(t.leaves),
		parents: slices.Clone(t.parents),
		hashes:  slices.Clone(t.hashes),
		free:    t.free,
	}
}

// Size returns the number of leaves, blank ones included.
func (t *Tree) Size() Size { return Size(len(t.leaves)) }

// Leaf returns the member's leaf; nil where it is blank or beyond the tree. It
// mustn't be changed.
func (t *Tree) Leaf(l LeafIndex) *LeafNode {
	if uint64(l) >= uint64(len(t.leaves)) {
		return nil
	}
	return t.leaves[l]
}

// Parent returns a parent node; nil where it is blank, a leaf or beyond the
// tree. It mustn't be changed.
func (t *Tree) Parent(n NodeIndex) *ParentNode {
	if n.IsLeaf() || uint64(n/2) >= uint64(len(t.parents)) {
		return nil
	}
	return t.parents[n/2]
}

// EncryptionKey returns the node's HPKE public key; nil where it is blank.
func (t *Tree) EncryptionKey(n NodeIndex) []byte {
	if n.IsLeaf() {
		if l := t.Leaf(n.Leaf()); l != nil {
			return l.EncryptionKey
		}
	} else if p := t.Parent(n); p != nil {
		return p.EncryptionKey
	}
	return nil
}

// blank reports whether a node of the tree is blank.
func (t *Tree) blank(n NodeIndex) bool {
	if n.IsLeaf() {
		return t.leaves[n.Leaf()] == nil
	}
	return t.parents[n/2] == nil
}

// Members returns the leaves that aren't blank, from left to right.
func (t *Tree) Members() iter.Seq2[LeafIndex, *LeafNode] {
	return func(yield func(LeafIndex, *LeafNode) bool) {
		for i, leaf := range t.leaves {
			if leaf != nil && !yield(LeafIndex(i), leaf) {
				return
			}
		}
	}
}

// Count returns the number of members.
func (t *Tree) Count() int {
	n := 0
	for range t.Members() {
		n++
	}
	return n
}

// Find returns the place of a leaf with the same encoding.
func (t *Tree) Find(leaf *LeafNode) (LeafIndex, bool) {
	for i, l := range t.Members() {
		if string(l.SignatureKey) == string(leaf.SignatureKey) && l.Equal(leaf) {
			return i, true
		}
	}
	return 0, false
}

// Resolution returns the nodes whose keys together reach all members below n
// (RFC 9420 §4.1.1).
func (t *Tree) Resolution(n NodeIndex) []NodeIndex {
	if uint32(n) >= t.Size().Nodes() {
		return nil
	}
	return t.resolve(nil, n)
}

func (t *Tree) resolve(to []NodeIndex, n NodeIndex) []NodeIndex {
	if n.IsLeaf() {
		if t.leaves[n.Leaf()] != nil {
			to = append(to, n)
		}
		return to
	}
	if p := t.parents[n/2]; p != nil {
		to = append(to, n)
		for _, l := range p.UnmergedLeaves {
			to = append(to, l.Node())
		}
		return to
	}
	left, _ := n.Left()
	right, _ := n.Right()
	return t.resolve(t.resolve(to, left), right)
}

// populated reports whether the resolution of n has any node.
func (t *Tree) populated(n NodeIndex) bool {
	if n.IsLeaf() {
		return t.leaves[n.Leaf()] != nil
	}
	if t.parents[n/2] != nil {
		return true
	}
	left, _ := n.Left()
	right, _ := n.Right()
	return t.populated(left) || t.populated(right)
}

// PathStep is a node of a filtered direct path, and its child off the path.
type PathStep struct {
	Node   NodeIndex
	Copath NodeIndex
}

// FilteredDirectPath returns the ancestors of the leaf that have members on
// their other side, upwards (RFC 9420 §4.1.2).
func (t *Tree) FilteredDirectPath(l LeafIndex) []PathStep {
	var path []PathStep
	child := l.Node()
	for _, n := range t.Size().DirectPath(l) {
		if sibling, ok := t.Size().Sibling(child); ok && t.populated(sibling) {
			path = append(path, PathStep{Node: n, Copath: sibling})
		}
		child = n
	}
	return path
}

// resize gives the tree so many leaves: new ones are blank, others go.
func (t *Tree) resize(s Size) {
	old := len(t.leaves)
	t.leaves = resized(t.leaves, int(s))
	t.parents = resized(t.parents, int(s)-1)
	t.hashes = resized(t.hashes, int(s.Nodes()))
	t.free = min(t.free, LeafIndex(min(old, int(s))))
}

func resized[T any](s []T, n int) []T {
	if n <= len(s) {
		return slices.Clip(s[:n])
	}
	return append(s, make([]T, n-len(s))...)
}

// setLeaf sets or, with nil, blanks a leaf.
func (t *Tree) setLeaf(l LeafIndex, leaf *LeafNode) {
	t.leaves[l] = leaf
	t.forget(l.Node())
	if leaf == nil {
		t.free = min(t.free, l)
	}
}

// setParent sets or, with nil, blanks a parent node.
func (t *Tree) setParent(n NodeIndex, p *ParentNode) {
	t.parents[n/2] = p
	t.forget(n)
}

// forget drops the hashes that depend on the node. Where one isn't known, those
// above it aren't either.
func (t *Tree) forget(n NodeIndex) {
	root := t.Size().Root()
	for t.hashes[n] != nil {
		t.hashes[n] = nil
		if n == root {
			return
		}
		n = n.up()
	}
}

func (t *Tree) blankPath(l LeafIndex) {
	for _, n := range t.Size().DirectPath(l) {
		t.setParent(n, nil)
	}
}

// nextFree returns the leftmost blank leaf, extending the tree where there is
// none (RFC 9420 §7.7).
func (t *Tree) nextFree() (LeafIndex, error) {
	for int(t.free) < len(t.leaves) && t.leaves[t.free] != nil {
		t.free++
	}
	if int(t.free) == len(t.leaves) {
		if 2*len(t.leaves) > MaxLeaves {
			return 0, ErrFull
		}
		t.resize(2 * t.Size())
	}
	return t.free, nil
}

// Apply returns the tree after Updates, Removes and Adds, in this order (RFC
// 9420 §12.3), and where the new leaves are, ascending. Nothing is judged but
// that updated and removed leaves aren't blank. It returns ErrFull where there
// is no room.
func (t *Tree) Apply(updated map[LeafIndex]*LeafNode, removed []LeafIndex, added []*LeafNode) (*Tree, []LeafIndex, error) {
	after := t.Clone()
	for l, leaf := range updated {
		if t.Leaf(l) == nil {
			return nil, nil, fmt.Errorf("couldn't update leaf %d, which is blank", l)
		}
		after.update(l, leaf)
	}
	for _, l := range removed {
		if t.Leaf(l) == nil {
			return nil, nil, fmt.Errorf("couldn't remove leaf %d, which is blank", l)
		}
	}
	after.remove(removed)
	places, err := after.add(added)
	if err != nil {
		return nil, nil, err
	}
	return after, places, nil
}

// add places new leaves in order and returns where (RFC 9420 §12.1.1). Each is
// unmerged below the nodes above it.
func (t *Tree) add(leaves []*LeafNode) ([]LeafIndex, error) {
	added := make([]LeafIndex, 0, len(leaves))
	for _, leaf := range leaves {
		l, err := t.nextFree()
		if err != nil {
			return nil, err
		}
		t.setLeaf(l, leaf)
		added = append(added, l) // ascending, since the leftmost goes first
	}
	// In one go for each node, so that a thousand new members don't copy a
	// thousand lists.
	for i, p := range t.parents {
		if p == nil {
			continue
		}
		n := NodeIndex(2*i + 1)
		if below := within(added, n); len(below) > 0 {
			merged := slices.Concat(p.UnmergedLeaves, below)
			slices.Sort(merged)
			t.setParent(n, &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: merged})
		}
	}
	return added, nil
}

// within returns the leaves below n, of an ascending list.
func within(leaves []LeafIndex, n NodeIndex) []LeafIndex {
	from, _ := slices.BinarySearch(leaves, n.first())
	to, found := slices.BinarySearch(leaves, n.last())
	if found {
		to++
	}
	return leaves[from:to]
}

// update replaces a member's leaf (RFC 9420 §12.1.2).
func (t *Tree) update(l LeafIndex, leaf *LeafNode) {
	t.setLeaf(l, leaf)
	t.blankPath(l)
}

// remove blanks members' leaves and cuts the tree down to what the others need
// (RFC 9420 §12.1.3).
func (t *Tree) remove(leaves []LeafIndex) {
	for _, l := range leaves {
		t.setLeaf(l, nil)
		t.blankPath(l)
	}
	last := len(t.leaves) - 1
	for last > 0 && t.leaves[last] == nil {
		last--
	}
	if s := sizeFor(uint32(last + 1)); s < t.Size() {
		t.resize(s)
	}
}

// setPath gives new keys to the nodes of the leaf's filtered direct path and
// blanks the others above it. It returns the parent hash that the leaf must
// carry (RFC 9420 §7.5).
func (t *Tree) setPath(l LeafIndex, keys [][]byte) ([]byte, error) {
	path := t.FilteredDirectPath(l)
	if len(keys) != len(path) {
		return nil, fmt.Errorf("%d nodes where the filtered direct path has %d", len(keys), len(path))
	}
	t.blankPath(l)
	var hash []byte // the topmost node has none above it
	for i, step := range slices.Backward(path) {
		p := &ParentNode{EncryptionKey: keys[i], ParentHash: hash}
		t.setParent(step.Node, p)
		// The node's unmerged leaves are gone with this: the sibling's tree
		// hash is the original one (§7.9).
		hash = t.parentHash(p, t.NodeHash(step.Copath))
	}
	return hash, nil
}

// Values of NodeType in RFC 9420 §7.8.
const (
	nodeLeaf   = 1
	nodeParent = 2
)

// Marshal returns the tree as in an extension of a GroupInfo, without blank
// nodes at its end (RFC 9420 §12.4.3.3).
func (t *Tree) Marshal() []byte {
	last := t.Size().Nodes() // one beyond the last node to be written
	for last > 0 && t.blank(NodeIndex(last-1)) {
		last--
	}
	var b syntax.Builder
	b.Vector(func(b *syntax.Builder) {
		for n := range NodeIndex(last) {
			t.encodeNode(b, n)
		}
	})
	return b.Bytes()
}

// encodeNode writes optional<Node>.
func (t *Tree) encodeNode(b *syntax.Builder, n NodeIndex) {
	if n.IsLeaf() {
		leaf := t.leaves[n.Leaf()]
		b.Present(leaf != nil)
		if leaf != nil {
			b.Uint8(nodeLeaf)
			leaf.Encode(b)
		}
		return
	}
	p := t.parents[n/2]
	b.Present(p != nil)
	if p != nil {
		b.Uint8(nodeParent)
		p.Encode(b)
	}
}

// ParseTree reads a tree as Marshal writes it. It returns syntax.ErrSyntax for
// anything else, a node in the wrong place or more than MaxLeaves included.
// Whether the tree is valid is for Group to say.
func ParseTree(s *cipher.Suite, data []byte) (*Tree, error) {
	t := &Tree{suite: s}
	r := syntax.NewReader(data)
	blank := true
	n := NodeIndex(0)
	r.Each(func(r *syntax.Reader) {
		if n == 2*MaxLeaves-1 {
			r.Failf("a tree of more than %d leaves", MaxLeaves)
			return
		}
		blank = !t.decodeNode(r, n)
		n++
	})
	if blank {
		r.Failf("a tree that ends with a blank node")
	}
	if err := r.Finish(); err != nil {
		return nil, err
	}
	t.resize(sizeFor(uint32(n)/2 + 1)) // the last node may be a parent
	return t, nil
}

// decodeNode reads optional<Node> to the end of the tree and reports whether
// there is one.
func (t *Tree) decodeNode(r *syntax.Reader, n NodeIndex) bool {
	present := r.Present()
	kind := uint8(nodeLeaf)
	if !n.IsLeaf() {
		kind = nodeParent
	}
	if present && r.Uint8() != kind {
		r.Failf("node %d is of the wrong kind", n)
	}
	var leaf *LeafNode
	var parent *ParentNode
	switch {
	case present && n.IsLeaf():
		leaf = new(LeafNode)
		leaf.Decode(r)
	case present:
		parent = new(ParentNode)
		parent.Decode(r)
	}
	if n.IsLeaf() {
		t.leaves = append(t.leaves, leaf)
	} else {
		t.parents = append(t.parents, parent)
	}
	return present
}
