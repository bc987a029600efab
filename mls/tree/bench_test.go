package tree

import (
	"testing"
)

// BenchmarkGroup times what a party without secrets does in a group of 1,000,
// of suite 1.
func BenchmarkGroup(b *testing.B) {
	const n = 1000
	g := grown(b, suite1, n)
	for l := range LeafIndex(n / 10) {
		g.must(g.commit(l * 10)) // so that few nodes are blank
	}
	b.Run("stage", func(b *testing.B) {
		commit := g.commit(7)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := g.Stage(commit); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("join", func(b *testing.B) {
		data, info := g.Tree().Marshal(), g.info(0)
		b.ReportAllocs()
		for b.Loop() {
			tree, err := ParseTree(g.suite, data)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := JoinGroup(g.rules, info, tree); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("add all", func(b *testing.B) {
		alone := newTestGroup(b, suite1)
		var adds []Proposal
		for range n - 1 {
			adds = append(adds, alone.add("x"))
		}
		b.ReportAllocs()
		for b.Loop() {
			p, err := alone.Plan(Member(0), byValue(adds...))
			if err != nil {
				b.Fatal(err)
			}
			p.Context()
		}
	})
	b.Run("verify", func(b *testing.B) {
		commit := g.commit(7)
		for b.Loop() {
			if err := VerifyContent(g.Tree(), g.Context(), commit); err != nil {
				b.Fatal(err)
			}
		}
	})
}
