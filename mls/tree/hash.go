package tree

import (
	"slices"

	"chancery/mls/syntax"
)

// Hash returns the tree hash of the whole tree (RFC 9420 §7.8). It computes
// what changed since the last call and keeps it.
func (t *Tree) Hash() []byte { return t.NodeHash(t.Size().Root()) }

// NodeHash returns the tree hash of a node of the tree. It mustn't be changed.
func (t *Tree) NodeHash(n NodeIndex) []byte {
	if t.hashes[n] == nil {
		if n.IsLeaf() {
			t.hashes[n] = t.leafHash(n.Leaf(), t.leaves[n.Leaf()])
		} else {
			left, _ := n.Left()
			right, _ := n.Right()
			t.hashes[n] = t.nodeHash(t.parents[n/2], t.NodeHash(left), t.NodeHash(right))
		}
	}
	return t.hashes[n]
}

// leafHash and nodeHash hash a TreeHashInput.
func (t *Tree) leafHash(l LeafIndex, leaf *LeafNode) []byte {
	b := syntax.NewBuilder(2 * roughSize)
	b.Uint8(nodeLeaf)
	b.Uint32(uint32(l))
	b.Present(leaf != nil)
	if leaf != nil {
		leaf.Encode(b)
	}
	return t.suite.Hash(b.Bytes())
}

func (t *Tree) nodeHash(p *ParentNode, left, right []byte) []byte {
	b := syntax.NewBuilder(roughSize)
	b.Uint8(nodeParent)
	b.Present(p != nil)
	if p != nil {
		p.Encode(b)
	}
	b.Opaque(left)
	b.Opaque(right)
	return t.suite.Hash(b.Bytes())
}

// hashWithout returns the tree hash that n had before these leaves, an ascending
// list, were added: they are blank, and unmerged nowhere (RFC 9420 §7.9).
func (t *Tree) hashWithout(n NodeIndex, gone []LeafIndex) []byte {
	gone = within(gone, n)
	if len(gone) == 0 {
		return t.NodeHash(n)
	}
	if n.IsLeaf() {
		return t.leafHash(n.Leaf(), nil)
	}
	p := t.parents[n/2]
	if p != nil {
		p = &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: without(p.UnmergedLeaves, gone)}
	}
	left, _ := n.Left()
	right, _ := n.Right()
	return t.nodeHash(p, t.hashWithout(left, gone), t.hashWithout(right, gone))
}

// without returns the members of an ascending list that aren't in the other.
func without[T LeafIndex | NodeIndex](list, gone []T) []T {
	var rest []T
	for _, l := range list {
		if _, found := slices.BinarySearch(gone, l); !found {
			rest = append(rest, l)
		}
	}
	return rest
}

// parentHash returns the parent hash of p with a copath child of that original
// tree hash (RFC 9420 §7.9).
func (t *Tree) parentHash(p *ParentNode, original []byte) []byte {
	b := syntax.NewBuilder(roughSize)
	b.Opaque(p.EncryptionKey)
	b.Opaque(p.ParentHash)
	b.Opaque(original)
	return t.suite.Hash(b.Bytes())
}
