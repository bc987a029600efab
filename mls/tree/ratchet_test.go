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
