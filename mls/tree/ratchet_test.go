package tree

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery/mls/syntax"
)

// TestChanges takes trees through random changes. The kept hashes are those of
// the whole tree, new leaves go to the left, and what a change began with stays
// as it was.
func TestChanges(t *testing.T) {
	suite := testSuite(t, suite1)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		key := func() []byte {
			k := make([]byte, 32)
			for i := range k {
				k[i] = byte(random.Uint32())
			}
			return k
		}
		newLeaf := func(source LeafNodeSource, parentHash []byte) *LeafNode {
			return &LeafNode{EncryptionKey: key(), SignatureKey: key(), Credential: BasicCredential(nil), Source: source, ParentHash: parentHash}
		}
		leaf := func() *LeafNode { return newLeaf(SourceUpdate, nil) }
		tree := NewTree(suite, leaf())
		for range 60 {
			before, bytesBefore, hashBefore := tree, tree.Marshal(), bytes.Clone(tree.Hash())
			var members []LeafIndex
			for l := range tree.Members() {
				members = append(members, l)
			}
			member := members[random.IntN(len(members))]
			switch n := random.IntN(10); {
			case n < 4:
				var leaves []*LeafNode
				for range 1 + random.IntN(9) {
					leaves = append(leaves, leaf())
				}
				after, added, err := tree.Apply(nil, nil, leaves)
				if err != nil {
					t.Fatal(err)
				}
				for i, l := range added {
					if after.Leaf(l) != leaves[i] || tree.Leaf(l) != nil || slices.Contains(after.leaves[:l], nil) {
						t.Fatalf("a new leaf at %d", l)
					}
				}
				tree = after
			case n < 5:
				tree, _, _ = tree.Apply(map[LeafIndex]*LeafNode{member: leaf()}, nil, nil)
			case n < 7 && len(members) > 1:
				random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
				tree, _, _ = tree.Apply(nil, members[:1+random.IntN(len(members)-1)], nil)
				if tree.Size() > 1 && !tree.populated(tree.Size().Root()+NodeIndex(tree.Size())/2) {
					t.Fatal("a tree of twice the size it needs")
				}
			default:
				tree = tree.Clone()
				keys := make([][]byte, len(tree.FilteredDirectPath(member)))
				for i := range keys {
					keys[i] = key()
				}
				hash, err := tree.setPath(member, keys)
				if err != nil {
					t.Fatal(err)
				}
				tree.setLeaf(member, newLeaf(SourceCommit, hash))
			}
			if !bytes.Equal(before.Marshal(), bytesBefore) || !bytes.Equal(before.Hash(), hashBefore) {
				t.Fatal("a change reached the tree it began with")
			}
			fresh, err := ParseTree(suite, tree.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(fresh.Hash(), tree.Hash()) {
				t.Fatalf("seed %d: a kept hash is wrong", seed)
			}
			if err := errors.Join(tree.checkUnmerged(), tree.checkParentHashes(), tree.checkKeys()); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	g := grown(t, suite1, 3)
	leaf := g.Tree().Leaf(0)
	if _, _, err := g.Tree().Apply(map[LeafIndex]*LeafNode{3: leaf}, nil, nil); err == nil {
		t.Error("a blank leaf was updated")
	}
	if _, _, err := g.Tree().Apply(nil, []LeafIndex{9}, nil); err == nil {
		t.Error("a leaf beyond the tree was removed")
	}
	if l, ok := g.Tree().Find(leaf); !ok || l != 0 {
		t.Errorf("leaf 0 found at %d, %v", l, ok)
	}
	stranger := g.newLeaf(g.suite, "x")
	if _, ok := g.Tree().Find(&stranger); ok {
		t.Error("a stranger's leaf was found")
	}
	if g.Tree().Resolution(99) != nil || g.Tree().Leaf(99) != nil || g.Tree().Parent(99) != nil || g.Tree().EncryptionKey(99) != nil {
		t.Error("there is something beyond the tree")
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
