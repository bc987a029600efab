package tree

import (
	"bytes"
	"errors"
	"testing"

	"chancery/mls/syntax"
)

func TestRestoreTree(t *testing.T) {
	g := grown(t, suite1, 6)
	leaves, parents := make(map[LeafIndex]*LeafNode), make(map[NodeIndex]*ParentNode)
	for l, leaf := range g.Tree().Members() {
		leaves[l] = leaf
	}
	for n := range NodeIndex(g.Tree().Size().Nodes()) {
		if p := g.Tree().Parent(n); p != nil {
			parents[n] = p
		}
	}
	tree, err := RestoreTree(g.suite, g.Tree().Size(), leaves, parents)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := RestoreGroup(g.rules, tree, *g.Context(), g.InterimTranscriptHash(), nil)
	if err != nil {
		t.Fatal(err)
	}
	commit := g.commit(1, g.add("x"))
	for _, h := range []*Group{g.Group, restored} {
		s, err := h.Stage(commit)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Apply(s, commit.Auth.ConfirmationTag); err != nil {
			t.Fatal(err)
		}
	}
	if !restored.Context().Equal(g.Context()) || !bytes.Equal(restored.InterimTranscriptHash(), g.InterimTranscriptHash()) {
		t.Error("a restored group goes another way")
	}

	if _, err := RestoreGroup(g.rules, tree, *g.Context(), nil, nil); err == nil {
		t.Error("a group was restored with the tree of another epoch")
	}
	for size, l := range map[Size]LeafIndex{0: 0, 3: 0, 4: 5, 2 * MaxLeaves: 0} {
		if _, err := RestoreTree(g.suite, size, map[LeafIndex]*LeafNode{l: leaves[0]}, nil); err == nil {
			t.Errorf("a tree of %d leaves with leaf %d was restored", size, l)
		}
	}
	for _, n := range []NodeIndex{0, 2, 7} {
		if _, err := RestoreTree(g.suite, 4, nil, map[NodeIndex]*ParentNode{n: parents[7]}); err == nil {
			t.Errorf("a tree of 4 leaves with a parent node at %d was restored", n)
		}
	}
}

func TestMaxLeaves(t *testing.T) {
	tree := &Tree{suite: testSuite(t, suite1)}
	tree.resize(MaxLeaves)
	leaf := new(LeafNode)
	for i := range tree.leaves {
		tree.leaves[i] = leaf
	}
	if _, err := tree.add([]*LeafNode{leaf}); !errors.Is(err, ErrFull) {
		t.Errorf("one member too many: %v", err)
	}
	var b syntax.Builder
	b.Vector(func(b *syntax.Builder) { b.Fixed(make([]byte, 2*MaxLeaves)) })
	if _, err := ParseTree(tree.suite, b.Bytes()); !errors.Is(err, syntax.ErrSyntax) {
		t.Errorf("a tree too large: %v", err)
	}
}
