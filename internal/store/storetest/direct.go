package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"chancery/codec"
	"chancery/internal/store"
	"chancery/ledger"
	"chancery/manifest"
)

// preKeys is an upload with n one-time prekeys of each kind.
func preKeys(number uint64, expires int64, n int) *store.PreKeys {
	text := func(name string) []byte { return fmt.Appendf(nil, "%s %d", name, number) }
	p := &store.PreKeys{Number: number, Expires: expires, Identity: text("identity"), Signed: text("signed"), Last: text("last")}
	for i := range n {
		p.OneTime = append(p.OneTime, text(fmt.Sprint("one ", i)))
		p.KEM = append(p.KEM, text(fmt.Sprint("kem ", i)))
	}
	return p
}

func testPreKeys(t *testing.T, open Open) {
	s, device := start(t, open, t.TempDir(), nil), codec.Sum("device")
	stock := func(p *store.PreKeys) {
		t.Helper()
		update(t, s, func(tx store.Tx) error { return tx.PutPreKeys(device, p) })
	}
	want := func(at int64, bundle string) {
		t.Helper()
		got := "nothing"
		update(t, s, func(tx store.Tx) error {
			b, err := tx.TakeBundle(device, at)
			if b != nil {
				got = fmt.Sprintf("%s, %s, %s, %s", b.Identity, b.Signed, b.OneTime, b.KEM)
			}
			return err
		})
		if got != bundle {
			t.Errorf("at %d: got %s, want %s", at, got, bundle)
		}
	}
	left := func(at int64, number uint64, n int) {
		t.Helper()
		got, err := s.PreKeys(t.Context(), device, at)
		if err != nil || got.Number != number || got.OneTime != n || got.KEM != n {
			t.Errorf("at %d: %+v, %v, want number %d and %d of each", at, got, err, number, n)
		}
	}
	left(0, 0, 0)
	want(0, "nothing")
	stock(preKeys(1, 10, 2))
	left(0, 1, 2)
	left(10, 1, 0)
	want(5, "identity 1, signed 1, one 0 1, kem 0 1")
	stock(preKeys(1, 10, 2)) // repeated: what was handed out stays so
	left(0, 1, 1)
	more := preKeys(2, 20, 1)
	more.Signed, more.Last = nil, nil
	stock(more)
	want(5, "identity 1, signed 1, one 1 1, kem 1 1")
	want(5, "identity 1, signed 1, one 0 2, kem 0 2")
	want(5, "identity 1, signed 1, , last 1")
	want(10, "nothing") // out of date
	stock(preKeys(3, 30, 1))
	left(0, 3, 1)
	stock(preKeys(4, 40, 1))
	want(30, "identity 4, signed 4, one 0 4, kem 0 4") // those of number 3 have expired
	want(30, "identity 4, signed 4, , last 4")
}

// testCopies checks that a device gets its own copy of a message and no other's,
// and that a conversation's members come back.
func testCopies(t *testing.T, open Open) {
	dir, conversation := t.TempDir(), codec.NewID()
	s := start(t, open, dir, nil)
	alice, bob, carol := codec.Sum("alice"), codec.Sum("bob"), codec.Sum("carol")
	members := []codec.ID{{1}, {2}}
	update(t, s, func(tx store.Tx) error {
		index, err := tx.Append(ledger.MessagesLog, []byte("leaf"))
		return errors.Join(err,
			tx.PutLeaf(&store.Leaf{Index: index, Kind: manifest.LeafMessage, Conversation: conversation, Device: alice, Epoch: 1, Tags: []byte("tags")}),
			tx.PutCopy(index, &store.Copy{Device: bob, Body: []byte("for Bob")}),
			tx.PutCopy(index, &store.Copy{Device: carol}),
			tx.PutConversation(&store.Conversation{ID: conversation, Members: members}),
		)
	})
	want := func(device codec.Hash, epoch uint64, text, tags string) {
		t.Helper()
		q, err := s.Queue(t.Context(), &store.Membership{Device: device, Conversation: conversation, Epoch: epoch}, 0, 1, 10)
		if err != nil || len(q) != 1 || string(q[0].Body) != text || string(q[0].Tags) != tags {
			t.Errorf("got %+v, %v, want %q and %q", q, err, text, tags)
		}
	}
	want(bob, 1, "for Bob", "tags")
	want(carol, 1, "", "tags") // a copy of nothing
	want(alice, 1, "", "")
	want(bob, 2, "", "") // joined later
	update(t, s, func(tx store.Tx) error { return tx.DropBodies(conversation, 0, 0) })
	want(bob, 1, "", "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, open, dir, nil)
	err := s.Conversations(t.Context(), func(c *store.Conversation) error {
		if !slices.Equal(c.Members, members) {
			t.Errorf("members %v", c.Members)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
