package tree

import "math/bits"

// LeafIndex counts the leaves of a tree from the left, starting at 0. Within an
// epoch it names a member.
type LeafIndex uint32

// NodeIndex is a node's place in the in-order array of RFC 9420, Appendix C:
// leaves are even, parents odd.
type NodeIndex uint32

// Size is the number of leaves of a tree, blank ones included: a power of two
// (RFC 9420 §4.1).
type Size uint32

// sizeFor returns the size of the smallest tree with at least n leaves; 1 for
// none.
func sizeFor(n uint32) Size {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len32(n-1)
}

// Node returns the leaf's place in the array.
func (l LeafIndex) Node() NodeIndex { return NodeIndex(l) * 2 }

// IsLeaf reports whether the node is a leaf.
func (n NodeIndex) IsLeaf() bool { return n&1 == 0 }

// Leaf returns the index of a leaf among the leaves. It means something for
// leaves only.
func (n NodeIndex) Leaf() LeafIndex { return LeafIndex(n / 2) }

// Level returns the node's height above the leaves.
func (n NodeIndex) Level() int { return bits.TrailingZeros32(^uint32(n)) }

// Left returns the left child; false for a leaf.
func (n NodeIndex) Left() (NodeIndex, bool) {
	if n.IsLeaf() {
		return 0, false
	}
	return n ^ 1<<(n.Level()-1), true
}

// Right returns the right child; false for a leaf.
func (n NodeIndex) Right() (NodeIndex, bool) {
	if n.IsLeaf() {
		return 0, false
	}
	return n ^ 3<<(n.Level()-1), true
}

// up returns the parent in a tree that reaches at least so high.
func (n NodeIndex) up() NodeIndex {
	k := n.Level()
	return (n | 1<<k) &^ (1 << (k + 1))
}

// first and last bound the leaves below the node, both included.
func (n NodeIndex) first() LeafIndex { return LeafIndex((n >> n.Level() << n.Level()) / 2) }
func (n NodeIndex) last() LeafIndex  { return n.first() + 1<<n.Level() - 1 }

// covers reports whether the leaf is the node or below it.
func (n NodeIndex) covers(l LeafIndex) bool { return n.first() <= l && l <= n.last() }

// Nodes returns how many nodes the tree has.
func (s Size) Nodes() uint32 { return uint32(2*s - 1) }

// Root returns the root of the tree.
func (s Size) Root() NodeIndex { return NodeIndex(s - 1) }

// Parent returns the node's parent; false for the root and for nodes that the
// tree doesn't have.
func (s Size) Parent(n NodeIndex) (NodeIndex, bool) {
	if n == s.Root() || uint32(n) >= s.Nodes() {
		return 0, false
	}
	return n.up(), true
}

// Sibling returns the other child of the node's parent; false for the root and
// for nodes that the tree doesn't have.
func (s Size) Sibling(n NodeIndex) (NodeIndex, bool) {
	if n == s.Root() || uint32(n) >= s.Nodes() {
		return 0, false
	}
	return n ^ 2<<n.Level(), true
}

// DirectPath returns the leaf's ancestors, from its parent to the root; nothing
// for a leaf that the tree doesn't have (RFC 9420 §4.1.2).
func (s Size) DirectPath(l LeafIndex) []NodeIndex {
	if uint64(l) >= uint64(s) {
		return nil
	}
	path := make([]NodeIndex, 0, bits.Len32(uint32(s))-1)
	for n := l.Node(); n != s.Root(); {
		n = n.up()
		path = append(path, n)
	}
	return path
}

// CommonAncestor returns the lowest node that covers both leaves: the leaf
// itself where they are the same.
func CommonAncestor(a, b LeafIndex) NodeIndex {
	k := bits.Len32(uint32(a) ^ uint32(b))
	return NodeIndex(a)*2>>(k+1)<<(k+1) | (1<<k - 1)
}
