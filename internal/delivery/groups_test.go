package delivery

import (
	"testing"

	"chancery/codec"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// TestGroupsAreBounded: the groups used longest ago make room, and one that is
// larger than the bound is kept alone.
func TestGroupsAreBounded(t *testing.T) {
	suite, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	of := func(size tree.Size, statement string) *followed {
		x, err := tree.RestoreTree(suite, size, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := tree.RestoreGroup(nil, x, tree.GroupContext{CipherSuite: suite.ID(), TreeHash: x.Hash()}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return &followed{Group: g, statement: codec.Sum(statement)}
	}
	g := newGroups(16)
	a, b, c := codec.NewID(), codec.NewID(), codec.NewID()
	g.put(a, of(8, "a"))
	g.put(b, of(8, "b"))
	if g.get(a, codec.Sum("a")) == nil || g.get(b, codec.Sum("b")) == nil {
		t.Fatal("what fits isn't kept")
	}
	if g.get(a, codec.Sum("b")) != nil {
		t.Error("another epoch's group")
	}
	g.get(a, codec.Sum("a"))
	g.put(c, of(4, "c"))
	if g.get(b, codec.Sum("b")) != nil || g.get(a, codec.Sum("a")) == nil || g.get(c, codec.Sum("c")) == nil {
		t.Error("not the one used longest ago made room")
	}
	g.put(a, of(8, "a2"))
	if g.leaves != 12 || g.get(a, codec.Sum("a")) != nil {
		t.Errorf("%d leaves, want 12", g.leaves)
	}
	g.put(b, of(64, "b"))
	if g.leaves != 64 || g.order.Len() != 1 || len(g.byID) != 1 {
		t.Errorf("%d leaves of %d groups", g.leaves, g.order.Len())
	}
}
