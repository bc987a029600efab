// Package storetest tests what package store promises, on any adapter: each
// runs Run in its own tests. It promises nothing of speed, which Benchmark shows.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/store"
	"chancery/ledger"
	"chancery/manifest"
)

// Store is an open store.
type Store interface {
	store.Store
	Close() error
}

// Open opens the store of a directory, made where there is none. An adapter that
// keeps its data elsewhere takes the directory for a name: the same one is the
// same store. It calls fault before each step of an Update, named as the method
// of store.Tx, before its commit ("commit") and after it ("committed"), and fails
// there with fault's error.
type Open func(dir string, fault func(step string) error) (Store, error)

// Run tests an adapter.
func Run(t *testing.T, open Open) {
	t.Run("durable", func(t *testing.T) { testDurable(t, open) })
	t.Run("faults", func(t *testing.T) { testFaults(t, open) })
	t.Run("all or nothing", func(t *testing.T) { testAllOrNothing(t, open) })
	t.Run("one leaf for a place and a core", func(t *testing.T) { testUnique(t, open) })
	t.Run("notices come after leaves", func(t *testing.T) { testNotices(t, open) })
	t.Run("letters come once, in order", func(t *testing.T) { testLetters(t, open) })
	t.Run("key packages are single-use", func(t *testing.T) { testKeyPackages(t, open) })
	t.Run("prekeys", func(t *testing.T) { testPreKeys(t, open) })
	t.Run("copies", func(t *testing.T) { testCopies(t, open) })
	t.Run("acknowledgements only grow", func(t *testing.T) { testAcks(t, open) })
	t.Run("groups", func(t *testing.T) { testGroups(t, open) })
	t.Run("queue", func(t *testing.T) { testQueue(t, open) })
	t.Run("not found", func(t *testing.T) { testNotFound(t, open) })
}

func start(t testing.TB, open Open, dir string, fault func(string) error) Store {
	t.Helper()
	if fault == nil {
		fault = func(string) error { return nil }
	}
	s, err := open(dir, fault)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func update(t testing.TB, s Store, f func(tx store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func put(tx store.Tx, conversation codec.ID, text string) error {
	leaf := codec.Sum("test", []byte(text))
	index, err := tx.Append(ledger.MessagesLog, leaf[:])
	if err != nil {
		return err
	}
	l := &store.Leaf{
		Index: index, Kind: manifest.LeafMessage, Conversation: conversation, Position: uint64(index), Chained: true,
		Core: leaf, EnvelopeKind: 1, Day: 20000, Object: []byte(text), Receipt: []byte("r"),
	}
	if err := tx.PutLeaf(l); err != nil {
		return err
	}
	if err := tx.PutBody(index, []byte("ciphertext of "+text), nil); err != nil {
		return err
	}
	return tx.PutConversation(&store.Conversation{ID: conversation, Positions: uint64(index) + 1, Leaf: leaf, Last: index})
}

func testDurable(t *testing.T, open Open) {
	dir, conversation := t.TempDir(), codec.NewID()
	s := start(t, open, dir, nil)
	for _, text := range []string{"one", "two", "three"} {
		if err := s.Update(t.Context(), func(tx store.Tx) error { return put(tx, conversation, text) }); err != nil {
			t.Fatal(err)
		}
	}
	size, root := s.Head(ledger.MessagesLog)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, open, dir, nil)
	if n, r := s.Head(ledger.MessagesLog); n != size || r != root || n != 3 {
		t.Fatalf("got %d leaves under %s, want %d under %s", n, r, size, root)
	}
	checkTree(t, s)
	q, err := s.Queue(t.Context(), &store.Membership{Device: codec.Sum("other"), Conversation: conversation}, 1, 3, 10)
	if err != nil || len(q) != 2 || string(q[0].Body) != "ciphertext of two" || q[1].Position != 2 {
		t.Fatalf("queue: %v, %v", q, err)
	}
	if _, err := s.LeafByCore(t.Context(), codec.Sum("test", []byte("two"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LeafByCore(t.Context(), codec.Sum("test", []byte("four"))); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if second, err := open(dir, func(string) error { return nil }); err == nil {
		second.Close()
		t.Fatal("two processes' worth of stores on one directory")
	}
}

// checkTree recomputes the messages log's root from the leaves on disk.
func checkTree(t testing.TB, s Store) {
	t.Helper()
	size, root := s.Head(ledger.MessagesLog)
	entries, err := s.Entries(t.Context(), ledger.MessagesLog, 0, size)
	if err != nil {
		t.Fatal(err)
	}
	var e ledger.Edge
	for i, entry := range entries {
		if _, err := e.Append(nil, entry); err != nil {
			t.Fatal(err)
		}
		l, err := s.Leaf(t.Context(), int64(i))
		if err != nil {
			t.Fatalf("leaf %d is in the log and not in the store: %v", i, err)
		}
		if !bytes.Equal(l.Core[:], entry) {
			t.Fatalf("leaf %d stands for something else", i)
		}
	}
	if codec.Hash(e.Root()) != root {
		t.Fatal("the stored edge is not the entries'")
	}
	if size > 0 {
		if _, err := ledger.ProveInclusion(s.Hashes(context.Background(), ledger.MessagesLog), size, size-1); err != nil {
			t.Fatal(err)
		}
	}
}

// testFaults breaks each step of an Update: either all of it is there
// afterwards or nothing, and the store goes on.
func testFaults(t *testing.T, open Open) {
	broken := errors.New("injected")
	for _, step := range []string{"Append", "PutLeaf", "PutBody", "PutConversation", "commit", "committed"} {
		t.Run(step, func(t *testing.T) {
			dir, conversation := t.TempDir(), codec.NewID()
			armed := false
			s := start(t, open, dir, func(at string) error {
				if armed && at == step {
					return broken
				}
				return nil
			})
			write := func(text string) error {
				return s.Update(t.Context(), func(tx store.Tx) error { return put(tx, conversation, text) })
			}
			if err := write("before"); err != nil {
				t.Fatal(err)
			}
			armed = true
			if err := write("broken"); !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
			armed = false
			want := int64(1)
			if step == "committed" {
				want = 2 // the disk has it, whatever the caller was told
			}
			if got := s.Size(ledger.MessagesLog); got != want {
				t.Fatalf("%d leaves, want %d", got, want)
			}
			checkTree(t, s)
			if err := write("after"); err != nil {
				t.Fatal(err)
			}
			checkTree(t, s)
		})
	}
}

func testNotices(t *testing.T, open Open) {
	s, device := start(t, open, t.TempDir(), nil), codec.Sum("device")
	add := func(tx store.Tx) error { return tx.AddNotice(device, []byte("n")) }
	for _, f := range []func(store.Tx) error{add, add, func(tx store.Tx) error { return put(tx, codec.NewID(), "x") }, add} {
		if err := s.Update(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Notices(t.Context(), device, 0)
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	if !(got[0].Cursor < got[1].Cursor && got[1].Cursor < store.Cursor(0) && store.Cursor(0) < got[2].Cursor && got[2].Cursor < store.Cursor(1)) {
		t.Fatalf("cursors %v around leaf 0 at %d", got, store.Cursor(0))
	}
}

// testAllOrNothing breaks an Update off after it wrote into everything.
func testAllOrNothing(t *testing.T, open Open) {
	s, conversation, device := start(t, open, t.TempDir(), nil), codec.NewID(), codec.Sum("device")
	update(t, s, func(tx store.Tx) error { return put(tx, conversation, "before") })
	size, root := s.Head(ledger.MessagesLog)
	now := time.Now()
	gone := errors.New("gone")
	err := s.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.Append(ledger.ControlLog, []byte("entry"))
		err = errors.Join(err,
			put(tx, conversation, "after"),
			tx.PutOpening(0, []byte("opening")),
			tx.PutPending(codec.Sum("statement"), []byte("body"), 1),
			tx.PutMember(codec.NewID(), "name"),
			tx.PutKeyPackage(keyPackage(device, "package", "init", "leaf"), now),
			tx.PutPreKeys(device, preKeys(1, 10, 1)),
			tx.PutCopy(1, &store.Copy{Device: device, Body: []byte("copy")}),
			tx.AddNotice(device, []byte("notice")),
			tx.PutLetter(&store.Letter{From: device, To: device, Body: []byte("letter")}, now),
			tx.PutCursor(device, 1),
			tx.PutAck(conversation, device, 1, 1, []byte("ack")),
			tx.PutProduction(codec.Sum("request"), []byte("sealed")),
			tx.SetCheckpoint(ledger.MessagesLog, 2, []byte("note")),
		)
		if err != nil {
			t.Error(err)
		}
		if n := tx.Size(ledger.MessagesLog); n != 2 {
			t.Errorf("%d leaves in the Update, want 2", n)
		}
		if n := s.Size(ledger.MessagesLog); n != 1 {
			t.Errorf("readers see %d leaves while it runs, want 1", n)
		}
		return gone
	})
	if !errors.Is(err, gone) {
		t.Fatalf("got %v", err)
	}
	if n, r := s.Head(ledger.MessagesLog); n != size || r != root {
		t.Errorf("%d leaves, want %d", n, size)
	}
	if n := s.Size(ledger.ControlLog); n != 0 {
		t.Errorf("%d control leaves", n)
	}
	if signed, n := s.Checkpoint(ledger.MessagesLog); signed != nil || n != 0 {
		t.Errorf("checkpoint of %d leaves", n)
	}
	rows := 0
	err = errors.Join(
		s.Openings(t.Context(), 0, func(int64, []byte) error { rows++; return nil }),
		s.Pending(t.Context(), func(codec.Hash, []byte, int64) error { rows++; return nil }),
		s.Members(t.Context(), func(codec.ID, string) error { rows++; return nil }),
		s.Cursors(t.Context(), func(codec.Hash, uint64) error { rows++; return nil }),
	)
	packages, err2 := s.KeyPackages(t.Context(), device, now)
	prekeys, err5 := s.PreKeys(t.Context(), device, 0)
	notices, err3 := s.Notices(t.Context(), device, 0)
	letters, _, err6 := s.LettersHeld(t.Context(), device)
	acks, err4 := s.Acks(t.Context(), conversation)
	if err := errors.Join(err, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	if rows += packages.Left + packages.Keys + prekeys.OneTime + int(prekeys.Number) + letters + len(notices) + len(acks); rows != 0 {
		t.Errorf("%d rows stayed", rows)
	}
	if _, err := s.Production(t.Context(), codec.Sum("request")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("production: %v", err)
	}
	checkTree(t, s)
}

// testUnique writes what engines check before, as if they hadn't.
func testUnique(t *testing.T, open Open) {
	s, conversation := start(t, open, t.TempDir(), nil), codec.NewID()
	update(t, s, func(tx store.Tx) error { return put(tx, conversation, "one") })
	leaf := func(position uint64, core codec.Hash) error {
		return s.Update(t.Context(), func(tx store.Tx) error {
			index, err := tx.Append(ledger.MessagesLog, core[:])
			if err != nil {
				return err
			}
			return tx.PutLeaf(&store.Leaf{
				Index: index, Kind: manifest.LeafMessage, Conversation: conversation, Position: position, Chained: true, Core: core,
			})
		})
	}
	if leaf(0, codec.Sum("test", []byte("two"))) == nil {
		t.Error("two leaves at one position")
	}
	if leaf(1, codec.Sum("test", []byte("one"))) == nil {
		t.Error("two leaves for one core")
	}
	if n := s.Size(ledger.MessagesLog); n != 1 {
		t.Errorf("%d leaves, want 1", n)
	}
	if err := leaf(1, codec.Sum("test", []byte("two"))); err != nil {
		t.Error(err)
	}
	checkTree(t, s)
}

func testAcks(t *testing.T, open Open) {
	s, conversation, device := start(t, open, t.TempDir(), nil), codec.NewID(), codec.Sum("device")
	for _, a := range []struct {
		position, read         uint64
		wantPosition, wantRead uint64
	}{{3, 1, 3, 1}, {2, 1, 3, 1}, {4, 0, 3, 1}, {3, 2, 3, 2}, {5, 5, 5, 5}} {
		update(t, s, func(tx store.Tx) error {
			return tx.PutAck(conversation, device, a.position, a.read, []byte{byte(a.position), byte(a.read)})
		})
		position, read, err := s.Ack(t.Context(), conversation, device)
		if err != nil || position != a.wantPosition || read != a.wantRead {
			t.Fatalf("after %d, %d: %d, %d, %v", a.position, a.read, position, read, err)
		}
		all, err := s.Acks(t.Context(), conversation)
		if err != nil || len(all) != 1 || !bytes.Equal(all[0], []byte{byte(position), byte(read)}) {
			t.Fatalf("after %d, %d: %v, %v", a.position, a.read, all, err)
		}
	}
}

// testGroups checks that a group comes back as the last step left it.
func testGroups(t *testing.T, open Open) {
	dir, id, other := t.TempDir(), codec.NewID(), codec.NewID()
	s := start(t, open, dir, nil)
	update(t, s, func(tx store.Tx) error {
		c := &store.Conversation{ID: id, Epoch: 3, Followed: true, Policy: codec.Sum("policy"), Pinned: 2}
		return errors.Join(tx.PutConversation(c), tx.PutGroup(id, []byte("one"), nil), tx.PutNode(id, 0, []byte("a")),
			tx.PutNode(id, 1, []byte("b")), tx.PutNode(id, 2, []byte("c")), tx.PutGroup(other, []byte("x"), []byte("y")))
	})
	update(t, s, func(tx store.Tx) error {
		return errors.Join(tx.PutGroup(id, []byte("two"), []byte("info")), tx.PutNode(id, 1, nil), tx.PutNode(id, 2, []byte("d")), tx.PutNode(id, 7, nil))
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, open, dir, nil)
	g, err := s.Group(t.Context(), id)
	if err != nil || string(g.State) != "two" || string(g.Info) != "info" || len(g.Nodes) != 2 || string(g.Nodes[0]) != "a" || string(g.Nodes[2]) != "d" {
		t.Errorf("got %+v, %v", g, err)
	}
	if _, err := s.Group(t.Context(), codec.NewID()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a group that isn't there: %v", err)
	}
	err = s.Conversations(t.Context(), func(c *store.Conversation) error {
		if !c.Followed || c.Policy != codec.Sum("policy") || c.Pinned != 2 {
			t.Errorf("got %+v", c)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// testQueue checks what a member is given: every leaf, but no ciphertext of its
// own, of before it joined, or that was dropped.
func testQueue(t *testing.T, open Open) {
	s, conversation := start(t, open, t.TempDir(), nil), codec.NewID()
	alice, bob := codec.Sum("alice"), codec.Sum("bob")
	update(t, s, func(tx store.Tx) error {
		for i, l := range []store.Leaf{
			{Device: alice, Epoch: 1},
			{Device: alice, Epoch: 2},
			{Device: bob, Epoch: 2},
			{Device: alice, Epoch: 2}, // an index envelope, say
			{Device: alice, Epoch: 3},
		} {
			index, err := tx.Append(ledger.MessagesLog, []byte{byte(i)})
			l.Index, l.Kind, l.Conversation, l.Position, l.Tags = index, manifest.LeafMessage, conversation, uint64(i), []byte{byte(i)}
			if err := errors.Join(err, tx.PutLeaf(&l)); err != nil {
				return err
			}
			if i == 3 {
				continue
			}
			if err := tx.PutBody(index, []byte{byte(i)}, []byte{byte(i)}); err != nil {
				return err
			}
		}
		return tx.DropBodies(conversation, 0, 0)
	})
	for _, q := range []struct {
		m        store.Membership
		from, to int64
		limit    int
		want     string // an index for each leaf, in brackets without its ciphertext
	}{
		{store.Membership{Device: bob, Epoch: 3}, 0, 5, 10, "(0)(1)(2)(3)4"},
		{store.Membership{Device: bob, Epoch: 1}, 0, 5, 2, "(0)1"},
		{store.Membership{Device: bob, Epoch: 1}, 1, 4, 10, "1(2)(3)"},
		{store.Membership{Device: alice, Epoch: 1}, 0, 5, 10, "(0)(1)2(3)(4)"},
	} {
		q.m.Conversation = conversation
		got, err := s.Queue(t.Context(), &q.m, q.from, q.to, q.limit)
		if err != nil {
			t.Fatal(err)
		}
		described := ""
		for _, l := range got {
			switch {
			case len(l.Body)+len(l.Tags) == 0:
				described += fmt.Sprintf("(%d)", l.Index)
			case l.Body[0] == byte(l.Index) && l.Tags[0] == byte(l.Index):
				described += fmt.Sprint(l.Index)
			default:
				t.Errorf("leaf %d comes with %x and %x", l.Index, l.Body, l.Tags)
			}
		}
		if described != q.want {
			t.Errorf("%+v from %d to %d: got %s, want %s", q.m, q.from, q.to, described, q.want)
		}
	}
}

func testNotFound(t *testing.T, open Open) {
	s, ctx := start(t, open, t.TempDir(), nil), t.Context()
	_, epoch := s.Epoch(ctx, codec.Sum("x"))
	_, leaf := s.Leaf(ctx, 0)
	_, core := s.LeafByCore(ctx, codec.Sum("x"))
	_, at := s.LeafAt(ctx, codec.NewID(), 0)
	_, _, ack := s.Ack(ctx, codec.NewID(), codec.Sum("x"))
	_, production := s.Production(ctx, codec.Sum("x"))
	for name, err := range map[string]error{
		"Epoch": epoch, "Leaf": leaf, "LeafByCore": core, "LeafAt": at, "Ack": ack, "Production": production,
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What has a beginning is at its beginning.
	if c, err := s.Chain(ctx, codec.Sum("x"), codec.NewID()); err != nil || c.Next != 0 || c.Prev != (codec.Hash{}) {
		t.Errorf("chain: %+v, %v", c, err)
	}
	if _, _, ok, err := s.Range(ctx, codec.NewID(), 0, 30000); ok || err != nil {
		t.Errorf("range: %v, %v", ok, err)
	}
	if _, err := s.Entries(ctx, ledger.ControlLog, 0, 1); err == nil {
		t.Error("entries that aren't there")
	}
	if _, err := s.ReadHashes(ctx, ledger.ControlLog, []int64{0}); err == nil {
		t.Error("hashes that aren't there")
	}
}

// Benchmark appends messages, 256 in an Update.
func Benchmark(b *testing.B, open Open) {
	s, conversation := start(b, open, b.TempDir(), nil), codec.NewID()
	envelope := make([]byte, 2048)
	n := 0
	for b.Loop() {
		if err := s.Update(b.Context(), func(tx store.Tx) error {
			for range 256 {
				leaf := codec.Sum("bench", []byte{byte(n), byte(n >> 8), byte(n >> 16)})
				n++
				index, err := tx.Append(ledger.MessagesLog, leaf[:])
				if err != nil {
					return err
				}
				if err := tx.PutLeaf(&store.Leaf{
					Index: index, Kind: 1, Conversation: conversation, Position: uint64(index), Chained: true, Core: leaf,
					Object: envelope[:700], Receipt: envelope[:300], Envelope: envelope, Tags: envelope[:40],
				}); err != nil {
					return err
				}
				if err := tx.PutBody(index, envelope[:1500], nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
}
