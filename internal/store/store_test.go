package store

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"chancery/codec"
	"chancery/ledger"
	"chancery/manifest"
)

func open(t testing.TB, dir string, fault func(string) error) *Store {
	t.Helper()
	s, err := Open(dir, Options{TestOnlyFault: fault})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(tx *Tx, conversation codec.ID, text string) error {
	leaf := codec.Sum("test", []byte(text))
	index, err := tx.Append(ledger.MessagesLog, leaf[:])
	if err != nil {
		return err
	}
	l := &Leaf{
		Index: index, Kind: manifest.LeafMessage, Conversation: conversation, Position: uint64(index), Chained: true, Queued: true,
		Core: leaf, EnvelopeKind: 1, Day: 20000, Object: []byte(text), Receipt: []byte("r"),
	}
	if err := tx.PutLeaf(l); err != nil {
		return err
	}
	if err := tx.PutBody(index, []byte("ciphertext of "+text), nil); err != nil {
		return err
	}
	return tx.PutConversation(&Conversation{ID: conversation, Positions: uint64(index) + 1, Leaf: leaf, Last: index})
}

func TestUpdateIsDurable(t *testing.T) {
	dir, conversation := t.TempDir(), codec.NewID()
	s := open(t, dir, nil)
	for _, text := range []string{"one", "two", "three"} {
		if err := s.Update(t.Context(), func(tx *Tx) error { return put(tx, conversation, text) }); err != nil {
			t.Fatal(err)
		}
	}
	size, root := s.Head(ledger.MessagesLog)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, nil)
	if n, r := s.Head(ledger.MessagesLog); n != size || r != root || n != 3 {
		t.Fatalf("got %d leaves under %s, want %d under %s", n, r, size, root)
	}
	checkTree(t, s)
	q, err := s.Queue(t.Context(), &Membership{Device: codec.Sum("other"), Conversation: conversation}, 1, 3, 10)
	if err != nil || len(q) != 2 || string(q[0].Body) != "ciphertext of two" || q[1].Position != 2 {
		t.Fatalf("queue: %v, %v", q, err)
	}
	if _, err := s.LeafByCore(t.Context(), codec.Sum("test", []byte("two"))); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LeafByCore(t.Context(), codec.Sum("test", []byte("four"))); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if _, err := Open(dir, Options{}); err == nil {
		t.Fatal("two processes' worth of stores on one directory")
	}
}

// checkTree recomputes the messages log's root from the leaves on disk.
func checkTree(t testing.TB, s *Store) {
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

// TestFaults breaks each step of an Update: either all of it is there
// afterwards or nothing, and the store goes on.
func TestFaults(t *testing.T) {
	broken := errors.New("injected")
	for _, step := range []string{"Append", "PutLeaf", "PutBody", "PutConversation", "commit", "committed"} {
		t.Run(step, func(t *testing.T) {
			dir, conversation := t.TempDir(), codec.NewID()
			armed := false
			s := open(t, dir, func(at string) error {
				if armed && at == step {
					return broken
				}
				return nil
			})
			write := func(text string) error {
				return s.Update(t.Context(), func(tx *Tx) error { return put(tx, conversation, text) })
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

func TestNoticesComeAfterLeaves(t *testing.T) {
	s, device := open(t, t.TempDir(), nil), codec.Sum("device")
	add := func(tx *Tx) error { return tx.AddNotice(device, []byte("n")) }
	for _, f := range []func(*Tx) error{add, add, func(tx *Tx) error { return put(tx, codec.NewID(), "x") }, add} {
		if err := s.Update(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Notices(t.Context(), device, 0)
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	if !(got[0].Cursor < got[1].Cursor && got[1].Cursor < Cursor(0) && Cursor(0) < got[2].Cursor && got[2].Cursor < Cursor(1)) {
		t.Fatalf("cursors %v around leaf 0 at %d", got, Cursor(0))
	}
}

func TestKeyPackagesAreSingleUse(t *testing.T) {
	s, device := open(t, t.TempDir(), nil), codec.Sum("device")
	take := func() (pkg []byte) {
		if err := s.Update(t.Context(), func(tx *Tx) (err error) { pkg, err = tx.TakeKeyPackage(device); return err }); err != nil {
			t.Fatal(err)
		}
		return pkg
	}
	if err := s.Update(t.Context(), func(tx *Tx) error {
		return errors.Join(tx.PutKeyPackage(device, []byte("a")), tx.PutKeyPackage(device, []byte("b")))
	}); err != nil {
		t.Fatal(err)
	}
	if a, b, c := take(), take(), take(); string(a) != "a" || string(b) != "b" || c != nil {
		t.Fatalf("got %q, %q, %q", a, b, c)
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	if _, err := s.conn.ExecContext(t.Context(), `INSERT INTO migrations VALUES (99, 0)`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNewer) {
		t.Fatalf("got %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	s, conversation := open(b, b.TempDir(), nil), codec.NewID()
	envelope := make([]byte, 2048)
	n := 0
	for b.Loop() {
		if err := s.Update(b.Context(), func(tx *Tx) error {
			for range 256 {
				leaf := codec.Sum("bench", []byte{byte(n), byte(n >> 8), byte(n >> 16)})
				n++
				index, err := tx.Append(ledger.MessagesLog, leaf[:])
				if err != nil {
					return err
				}
				if err := tx.PutLeaf(&Leaf{
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
