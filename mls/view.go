package mls

import (
	"iter"

	"chancery/mls/tree"
)

// Inviter returns the leaf whose owner signed the Welcome's GroupInfo, in the
// epoch of the Welcome. It is known of what Join returned, and not once the group
// is restored.
func (g *Group) Inviter() tree.LeafIndex { return g.inviter }

// Pending returns the epoch that the pending commit leads to, for reading alone;
// nil where there is none.
func (g *Group) Pending() *tree.Staged {
	if g.pending == nil {
		return nil
	}
	return g.pending.next.staged
}

// Members returns the leaves of the present epoch or of one before it whose
// messages can still be read, in order. It returns ErrRemoved or tree.ErrEpoch.
func (g *Group) Members(epoch uint64) (iter.Seq2[tree.LeafIndex, *tree.LeafNode], error) {
	if g.removed {
		return nil, ErrRemoved
	}
	if epoch == g.Epoch() {
		return g.public.Tree().Members(), nil
	}
	for _, e := range g.past {
		if e.context.Epoch == epoch {
			return g.membersIn(e), nil
		}
	}
	return nil, tree.ErrEpoch
}

func (g *Group) membersIn(e *pastEpoch) iter.Seq2[tree.LeafIndex, *tree.LeafNode] {
	return func(yield func(tree.LeafIndex, *tree.LeafNode) bool) {
		for l := range tree.LeafIndex(e.keys.size) {
			if leaf := g.leafIn(e, l); leaf != nil && !yield(l, leaf) {
				return
			}
		}
	}
}

// Context returns the context of the present epoch or of one before it whose
// messages can still be read, for reading alone. It returns ErrRemoved or
// tree.ErrEpoch.
func (g *Group) Context(epoch uint64) (*tree.GroupContext, error) {
	if g.removed {
		return nil, ErrRemoved
	}
	if e, _ := g.epochByNumber(epoch); e != nil {
		return &e.context, nil
	}
	return nil, tree.ErrEpoch
}
