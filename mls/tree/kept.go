package tree

import (
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// A group is kept in parts, so that a commit changes few of them: what
// Group.MarshalState writes, and each node that isn't blank. RestoreState puts
// them together again.

// ErrKept means that parts aren't those of one group.
var ErrKept = errors.New("kept group state is damaged")

// keptVersion begins what MarshalState writes.
const keptVersion = 1

// MarshalState writes all of a group but its tree's nodes and the proposals that
// wait.
func (g *Group) MarshalState() []byte {
	var b syntax.Builder
	b.Uint8(keptVersion)
	b.Uint32(uint32(g.tree.Size()))
	g.context.Encode(&b)
	b.Opaque(g.interim)
	b.Present(g.ended != nil)
	if g.ended != nil {
		g.ended.Encode(&b)
	}
	return b.Bytes()
}

// MarshalNode writes a node; nil where it is blank or beyond the tree.
func (t *Tree) MarshalNode(n NodeIndex) []byte {
	if uint32(n) >= t.Size().Nodes() || t.blank(n) {
		return nil
	}
	if n.IsLeaf() {
		return syntax.Marshal(t.leaves[n.Leaf()])
	}
	return syntax.Marshal(t.parents[n/2])
}

// ChangedSince returns the nodes that a group's later tree has otherwise than its
// earlier one, those that it has no more included, ascending. A nil tree had
// none.
func (t *Tree) ChangedSince(earlier *Tree) []NodeIndex {
	if earlier == nil {
		earlier = &Tree{suite: t.suite, leaves: make([]*LeafNode, 1)}
	}
	var changed []NodeIndex
	for n := range NodeIndex(max(t.Size(), earlier.Size()).Nodes()) {
		if n.IsLeaf() && t.Leaf(n.Leaf()) != earlier.Leaf(n.Leaf()) || !n.IsLeaf() && t.Parent(n) != earlier.Parent(n) {
			changed = append(changed, n)
		}
	}
	return changed
}

// RestoreState returns the group of which MarshalState wrote state and
// MarshalNode the nodes, those that were blank left out. Nothing is judged but
// that they go together: the tree's hash is that of the context. It returns
// ErrKept, wrapped.
func RestoreState(r Rules, state []byte, nodes map[NodeIndex][]byte) (*Group, error) {
	g, err := restoreState(r, state, nodes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKept, err)
	}
	return g, nil
}

func restoreState(r Rules, state []byte, nodes map[NodeIndex][]byte) (*Group, error) {
	var context GroupContext
	var ended *ReInit
	in := syntax.NewReader(state)
	if v := in.Uint8(); v != keptVersion {
		in.Failf("state version %d", v)
	}
	size := Size(in.Uint32())
	context.Decode(in)
	interim := in.Opaque()
	if in.Present() {
		ended = new(ReInit)
		ended.Decode(in)
	}
	if err := in.Finish(); err != nil {
		return nil, err
	}
	s, err := cipher.ByID(context.CipherSuite)
	if err != nil {
		return nil, err
	}
	leaves, parents := map[LeafIndex]*LeafNode{}, map[NodeIndex]*ParentNode{}
	for n, data := range nodes {
		if n.IsLeaf() {
			leaf := new(LeafNode)
			err = syntax.Unmarshal(data, leaf)
			leaves[n.Leaf()] = leaf
		} else {
			parent := new(ParentNode)
			err = syntax.Unmarshal(data, parent)
			parents[n] = parent
		}
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", n, err)
		}
	}
	t, err := RestoreTree(s, size, leaves, parents)
	if err != nil {
		return nil, err
	}
	return RestoreGroup(r, t, context, interim, ended)
}

// After returns the group in a staged epoch, as Apply leaves it, and leaves this
// one as it is. It returns ErrEpoch as Apply does.
func (g *Group) After(s *Staged, confirmationTag []byte) (*Group, error) {
	next := *g
	if err := next.Apply(s, confirmationTag); err != nil {
		return nil, err
	}
	return &next, nil
}
