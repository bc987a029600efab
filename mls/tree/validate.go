package tree

import (
	"bytes"
	"slices"
)

// checkUnmerged verifies what a newcomer must of unmerged leaves: they are
// members below the node, and unmerged at every node between (RFC 9420
// §12.4.3.1).
func (t *Tree) checkUnmerged() error {
	for i, p := range t.parents {
		if p == nil {
			continue
		}
		n := NodeIndex(2*i + 1)
		for _, l := range p.UnmergedLeaves {
			if !n.covers(l) || t.Leaf(l) == nil {
				return broken("12.4.3.1", "node %d has unmerged leaf %d, no member below it", n, l)
			}
			for m := l.Node().up(); m != n; m = m.up() {
				between := t.Parent(m)
				if between == nil {
					continue
				}
				if _, found := slices.BinarySearch(between.UnmergedLeaves, l); !found {
					return broken("12.4.3.1", "leaf %d is unmerged at node %d and not at node %d below", l, n, m)
				}
			}
		}
	}
	return nil
}

// checkParentHashes verifies that members set all parent nodes: each is
// parent-hash valid by exactly one node below (RFC 9420 §7.9.2). The unmerged
// leaves have been checked before.
func (t *Tree) checkParentHashes() error {
	for i, p := range t.parents {
		if p == nil {
			continue
		}
		n := NodeIndex(2*i + 1)
		left, _ := n.Left()
		right, _ := n.Right()
		if c := t.links(p, left, right) + t.links(p, right, left); c != 1 {
			return broken("7.9.2", "%d nodes vouch for node %d, and not one", c, n)
		}
	}
	return nil
}

// links counts the nodes below child whose parent hash is valid with respect to
// p, the parent of child and sibling.
func (t *Tree) links(p *ParentNode, child, sibling NodeIndex) int {
	unmerged := within(p.UnmergedLeaves, child)
	resolution := t.Resolution(child)
	if len(resolution) != len(unmerged)+1 {
		return 0
	}
	slices.Sort(resolution)
	var others []NodeIndex // what remains of the resolution without the node we look for
	for _, l := range unmerged {
		others = append(others, l.Node())
	}
	rest := without(resolution, others)
	if len(rest) != 1 {
		return 0
	}
	want := t.parentHash(p, t.hashWithout(sibling, p.UnmergedLeaves))
	if !bytes.Equal(t.heldParentHash(rest[0]), want) {
		return 0
	}
	return 1
}

// heldParentHash returns the parent_hash field of a node, or nil.
func (t *Tree) heldParentHash(n NodeIndex) []byte {
	if !n.IsLeaf() {
		return t.parents[n/2].ParentHash
	}
	if leaf := t.leaves[n.Leaf()]; leaf.Source == SourceCommit {
		return leaf.ParentHash
	}
	return nil
}

// checkKeys verifies that all encryption keys of a tree differ, and all
// signature keys (RFC 9420 §7.3, §12.4.3.1, §16.7).
func (t *Tree) checkKeys() error {
	encryption := make(map[string]bool, len(t.hashes))
	signature := make(map[string]bool, len(t.leaves))
	for n := range NodeIndex(t.Size().Nodes()) {
		key := t.EncryptionKey(n)
		if key == nil {
			continue
		}
		if encryption[string(key)] {
			return broken("7.3", "node %d has the encryption key of another", n)
		}
		encryption[string(key)] = true
	}
	for l, leaf := range t.Members() {
		if signature[string(leaf.SignatureKey)] {
			return broken("7.3", "leaf %d has the signature key of another", l)
		}
		signature[string(leaf.SignatureKey)] = true
	}
	return nil
}
