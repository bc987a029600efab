package tree

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"chancery/mls/syntax"
)

// keep is a group's parts as they would be stored: written step by step.
type keep struct {
	state []byte
	nodes map[NodeIndex][]byte
}

func (k *keep) take(g *Group, since *Tree) (written int) {
	k.state = g.MarshalState()
	written = len(k.state)
	for _, n := range g.Tree().ChangedSince(since) {
		data := g.Tree().MarshalNode(n)
		written += len(data)
		if data == nil {
			delete(k.nodes, n)
		} else {
			k.nodes[n] = data
		}
	}
	return written
}

// TestKept: a group put together from what each commit changed is the group, and
// judges on.
func TestKept(t *testing.T) {
	g := newTestGroup(t, suite1)
	k := &keep{nodes: map[NodeIndex][]byte{}}
	k.take(g.Group, nil)
	var adds []Proposal
	for _, name := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		adds = append(adds, g.add(name))
	}
	for _, step := range []struct {
		by        LeafIndex
		proposals []Proposal
	}{{0, adds}, {3, nil}, {8, nil}, {1, []Proposal{&Remove{Removed: 8}}}, {0, []Proposal{&Remove{Removed: 2}, &Remove{Removed: 5}}}, {1, []Proposal{g.add("9")}}, {7, nil}} {
		before := g.Tree()
		g.must(g.commit(step.by, step.proposals...))
		k.take(g.Group, before)
		restored, err := RestoreState(g.rules, k.state, k.nodes)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(restored.Tree().Marshal(), g.Tree().Marshal()) || !restored.Context().Equal(g.Context()) || !bytes.Equal(restored.InterimTranscriptHash(), g.InterimTranscriptHash()) {
			t.Fatalf("after %d of %v another group came back", step.by, step.proposals)
		}
	}
	restored, err := RestoreState(g.rules, k.state, k.nodes)
	if err != nil {
		t.Fatal(err)
	}
	g.Group = restored
	g.must(g.commit(3))
}

// TestKeptIsSmall: a commit in a group of 256 changes the nodes above one leaf.
func TestKeptIsSmall(t *testing.T) {
	g := grown(t, suite1, 256)
	k := &keep{nodes: map[NodeIndex][]byte{}}
	whole := k.take(g.Group, nil)
	for l := range LeafIndex(256) { // until no leaf is unmerged
		if l%16 == 0 {
			g.must(g.commit(l))
		}
	}
	before := g.Tree()
	k.take(g.Group, nil)
	g.must(g.commit(1))
	if changed := g.Tree().ChangedSince(before); len(changed) > 9 {
		t.Errorf("%d nodes changed, want a leaf and 8 above it", len(changed))
	}
	if written := k.take(g.Group, before); written*20 > whole {
		t.Errorf("%d bytes written of %d", written, whole)
	}
}

// TestKeptDamaged: parts that don't go together aren't taken.
func TestKeptDamaged(t *testing.T) {
	g := grown(t, suite1, 4)
	for name, damage := range map[string]func(k *keep){
		"no state":          func(k *keep) { k.state = nil },
		"a later version":   func(k *keep) { k.state[0]++ },
		"bytes left over":   func(k *keep) { k.state = append(k.state, 0) },
		"a node missing":    func(k *keep) { delete(k.nodes, 2) },
		"a node too many":   func(k *keep) { k.nodes[14] = k.nodes[0] },
		"nodes exchanged":   func(k *keep) { k.nodes[0], k.nodes[2] = k.nodes[2], k.nodes[0] },
		"a leaf as parent":  func(k *keep) { k.nodes[1] = k.nodes[0] },
		"a damaged node":    func(k *keep) { k.nodes[0] = k.nodes[0][1:] },
		"an earlier state":  func(k *keep) { k.state = grown(t, suite1, 3).MarshalState() },
		"of no known suite": func(k *keep) { k.state[8] = 0xff },
	} {
		k := &keep{nodes: map[NodeIndex][]byte{}}
		k.take(g.Group, nil)
		damage(k)
		if _, err := RestoreState(g.rules, k.state, k.nodes); !errors.Is(err, ErrKept) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzKept: parts from anywhere are read without a panic, and those that are
// taken are written again as they were.
func FuzzKept(f *testing.F) {
	g := grown(f, suite1, 4)
	k := &keep{nodes: map[NodeIndex][]byte{}}
	k.take(g.Group, nil)
	var nodes syntax.Builder
	for _, n := range slices.Sorted(maps.Keys(k.nodes)) {
		nodes.Uint32(uint32(n))
		nodes.Opaque(k.nodes[n])
	}
	f.Add(k.state, nodes.Bytes())
	alone := newTestGroup(f, suite1)
	f.Add(alone.MarshalState(), []byte{})
	f.Fuzz(func(t *testing.T, state, data []byte) {
		got := map[NodeIndex][]byte{}
		for r := syntax.NewReader(data); r.Err() == nil && len(got) < 64; {
			n := NodeIndex(r.Uint32())
			if node := r.Opaque(); r.Err() == nil {
				got[n] = node
			}
		}
		restored, err := RestoreState(g.rules, state, got)
		if err != nil {
			return
		}
		if !bytes.Equal(restored.MarshalState(), state) {
			t.Errorf("%x is written as %x", state, restored.MarshalState())
		}
		for _, n := range restored.Tree().ChangedSince(nil) {
			if !bytes.Equal(restored.Tree().MarshalNode(n), got[n]) {
				t.Errorf("node %d is written as %x", n, restored.Tree().MarshalNode(n))
			}
			delete(got, n)
		}
		if len(got) > 0 {
			t.Errorf("%d nodes are gone", len(got))
		}
	})
}
