package tree

import (
	"bytes"
	"errors"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// TestTreeKEMVectors takes the public half of each update path: it merges, its
// leaf has the right parent hash, and the tree has the right hash. Package mls
// decrypts them.
func TestTreeKEMVectors(t *testing.T) {
	var vectors []struct {
		Suite     cipher.ID `json:"cipher_suite"`
		GroupID   hexBytes  `json:"group_id"`
		Epoch     uint64    `json:"epoch"`
		Confirmed hexBytes  `json:"confirmed_transcript_hash"`
		Tree      hexBytes  `json:"ratchet_tree"`
		Paths     []struct {
			Sender    LeafIndex `json:"sender"`
			Path      hexBytes  `json:"update_path"`
			HashAfter hexBytes  `json:"tree_hash_after"`
		} `json:"update_paths"`
	}
	readVectors(t, "treekem.json", &vectors)
	for i, v := range vectors {
		s, err := cipher.ByID(v.Suite)
		if errors.Is(err, cipher.ErrUnsupported) {
			continue
		}
		tree, err := ParseTree(s, v.Tree)
		if err != nil {
			t.Fatal(err)
		}
		// Not NewGroup: the leaves of suite 7 don't list it as supported.
		g, err := RestoreGroup(new(testRules), tree, GroupContext{
			CipherSuite: v.Suite, GroupID: v.GroupID, Epoch: v.Epoch, ConfirmedTranscriptHash: v.Confirmed, TreeHash: tree.Hash(),
		}, nil, nil)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		for _, u := range v.Paths {
			var path UpdatePath
			if err := syntax.Unmarshal(u.Path, &path); err != nil {
				t.Fatal(err)
			}
			p, err := g.Plan(Member(u.Sender), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Merge(&path); err != nil {
				t.Errorf("%d, sender %d: %v", i, u.Sender, err)
				continue
			}
			if !bytes.Equal(p.Context().TreeHash, u.HashAfter) {
				t.Errorf("%d, sender %d: another tree hash", i, u.Sender)
			}
		}
	}
}
