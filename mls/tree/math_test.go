package tree

import (
	"slices"
	"testing"
)

// TestPaths compares paths and ancestors with what follows from Parent alone.
func TestPaths(t *testing.T) {
	const size = Size(64)
	ancestors := func(n NodeIndex) []NodeIndex {
		var all []NodeIndex
		for p, ok := size.Parent(n); ok; p, ok = size.Parent(p) {
			all = append(all, p)
		}
		return all
	}
	for a := range LeafIndex(size) {
		up := ancestors(a.Node())
		if got := size.DirectPath(a); !slices.Equal(got, up) {
			t.Fatalf("direct path of %d: %v", a, got)
		}
		for n := range NodeIndex(size.Nodes()) {
			if want := n == a.Node() || slices.Contains(up, n); n.covers(a) != want {
				t.Fatalf("node %d covers leaf %d: %v", n, a, !want)
			}
		}
		for b := range LeafIndex(size) {
			want := a.Node()
			for _, n := range up {
				if a != b && n.covers(b) {
					want = n
					break
				}
			}
			if got := CommonAncestor(a, b); got != want {
				t.Fatalf("common ancestor of %d and %d: got %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestOutsideTheTree(t *testing.T) {
	if p := Size(4).DirectPath(4); p != nil {
		t.Errorf("direct path %v", p)
	}
	if _, ok := Size(4).Parent(7); ok {
		t.Error("a node beyond the tree has a parent")
	}
	if _, ok := Size(4).Sibling(8); ok {
		t.Error("a node beyond the tree has a sibling")
	}
	for n, want := range map[uint32]Size{0: 1, 1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 1024: 1024, 1025: 2048} {
		if got := sizeFor(n); got != want {
			t.Errorf("a tree for %d leaves has %d", n, got)
		}
	}
}
