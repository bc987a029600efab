package tree

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

func TestTreeValidationVectors(t *testing.T) {
	var vectors []struct {
		Suite       cipher.ID     `json:"cipher_suite"`
		Tree        hexBytes      `json:"tree"`
		GroupID     hexBytes      `json:"group_id"`
		Hashes      []hexBytes    `json:"tree_hashes"`
		Resolutions [][]NodeIndex `json:"resolutions"`
	}
	readVectors(t, "tree-validation.json", &vectors)
	for i, v := range vectors {
		s, err := cipher.ByID(v.Suite)
		if errors.Is(err, cipher.ErrUnsupported) {
			continue
		}
		tree, err := ParseTree(s, v.Tree)
		if err != nil {
			t.Fatal(err)
		}
		if n := int(tree.Size().Nodes()); n != len(v.Hashes) || n != len(v.Resolutions) {
			t.Fatalf("%d: %d nodes", i, n)
		}
		for n := range NodeIndex(tree.Size().Nodes()) {
			if got := tree.Resolution(n); !slices.Equal(got, v.Resolutions[n]) {
				t.Errorf("%d: resolution of %d: %v", i, n, got)
			}
			if !bytes.Equal(tree.NodeHash(n), v.Hashes[n]) {
				t.Errorf("%d: tree hash of %d", i, n)
			}
		}
		if err := errors.Join(tree.checkUnmerged(), tree.checkParentHashes()); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		for l, leaf := range tree.Members() {
			if err := s.VerifyWithLabel(leaf.SignatureKey, LabelLeafNode, leaf.SignedContent(v.GroupID, l), leaf.Signature); err != nil {
				t.Errorf("%d: leaf %d: %v", i, l, err)
			}
		}
	}
}

func TestTreeOperationVectors(t *testing.T) {
	var vectors []struct {
		Suite      cipher.ID `json:"cipher_suite"`
		Before     hexBytes  `json:"tree_before"`
		Proposal   hexBytes  `json:"proposal"`
		Sender     LeafIndex `json:"proposal_sender"`
		HashBefore hexBytes  `json:"tree_hash_before"`
		After      hexBytes  `json:"tree_after"`
		HashAfter  hexBytes  `json:"tree_hash_after"`
	}
	readVectors(t, "tree-operations.json", &vectors)
	for i, v := range vectors {
		before, err := ParseTree(testSuite(t, v.Suite), v.Before)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before.Hash(), v.HashBefore) {
			t.Errorf("%d: tree hash before", i)
		}
		r := syntax.NewReader(v.Proposal)
		p := DecodeProposal(r)
		if err := r.Finish(); err != nil {
			t.Fatal(err)
		}
		after := before.Clone()
		switch p := p.(type) {
		case *Add:
			if _, err := after.add([]*LeafNode{&p.KeyPackage.Leaf}); err != nil {
				t.Fatal(err)
			}
		case *Update:
			after.update(v.Sender, &p.Leaf)
		case *Remove:
			after.remove([]LeafIndex{p.Removed})
		}
		if got := after.Marshal(); !bytes.Equal(got, v.After) {
			t.Errorf("%d: tree after\n%x\nnot\n%x", i, got, v.After)
		}
		if !bytes.Equal(after.Hash(), v.HashAfter) {
			t.Errorf("%d: tree hash after", i)
		}
		if !bytes.Equal(before.Marshal(), v.Before) || !bytes.Equal(before.Hash(), v.HashBefore) {
			t.Errorf("%d: the change reached the tree it was cloned from", i)
		}
	}
}

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
