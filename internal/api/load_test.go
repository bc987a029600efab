package api_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/client/remote"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
)

// TestGroupCommit has 64 devices send at once: every message is receipted once,
// in an order that is each device's own, and every recipient gets all others'.
func TestGroupCommit(t *testing.T) {
	s := newStage(t)
	const devices, each = 64, 6
	var all []*orgtest.Device
	for range devices {
		all = append(all, s.NewMember())
	}
	sides := s.found(all...)
	_, _, index := sides[0].send("first", nil)
	// Sealing isn't what is measured, and an Org is for one goroutine.
	submissions := make([][]*wire.Submission, devices)
	for i, side := range sides {
		for n := range each {
			d := side.draft(fmt.Sprintf("%d of device %d", n, i), index)
			submissions[i] = append(submissions[i], side.submission(d))
			side.seq, side.prev = side.seq+1, d.Core
		}
	}
	before := s.size()
	receipts := make([][]byte, 0, devices*each)
	var mu sync.Mutex
	var wg sync.WaitGroup
	started := time.Now()
	for i, side := range sides {
		wg.Go(func() {
			client := s.as(side.device)
			for _, in := range submissions[i] {
				raw, err := client.Send(t.Context(), in)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				receipts = append(receipts, raw...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%.0f messages/s", devices*each/time.Since(started).Seconds())
	if after := s.size(); after != before+devices*each {
		t.Fatalf("%d leaves, want %d", after, before+devices*each)
	}
	byPosition := map[uint64]*manifest.Receipt{}
	for _, r := range s.receipts(receipts) {
		if byPosition[r.Opening.Body.Position] != nil {
			t.Fatalf("two messages at position %d", r.Opening.Body.Position)
		}
		byPosition[r.Opening.Body.Position] = r
	}
	for position, r := range byPosition {
		if next := byPosition[position+1]; next != nil && (next.Opening.Body.Previous != r.Leaf() || next.Index != r.Index+1 ||
			next.Opening.Body.Time < r.Opening.Body.Time || next.Opening.Body.ControlSize < r.Opening.Body.ControlSize) {
			t.Fatalf("position %d doesn't follow %d", position+1, position)
		}
	}
	var cursor uint64
	var got []wire.Delivery
	for {
		items, err := s.as(all[1]).Queue(t.Context(), cursor, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) == 0 {
			break
		}
		for _, it := range items {
			if it.Cursor <= cursor {
				t.Fatal("the queue goes backwards")
			}
			cursor = it.Cursor
		}
		got = append(got, items...)
	}
	if got, _ = bodies(got, nil); len(got) != 1+1+(devices-1)*each { // commit, first, others'
		t.Fatalf("%d ciphertexts, want %d", len(got), 1+1+(devices-1)*each)
	}
	r := replica.New(s.ID)
	s.WaitWitnessed(s.anyone, s.Leaves[len(s.Leaves)-1].Hash)
	if err := r.Sync(t.Context(), s.anyone); err != nil {
		t.Fatal(err)
	}
	c := s.witnessed(r, before+devices*each)
	hashes := s.anyone.Hashes(t.Context(), ledger.MessagesLog, c.Checkpoint)
	for _, receipt := range byPosition {
		leaf := receipt.Leaf()
		proof, err := ledger.ProveInclusion(hashes, c.Size, receipt.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := ledger.CheckInclusion(proof.Hashes, c.Size, c.Root, receipt.Index, leaf[:]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFaults breaks each step of a message's transaction, lost and
// lost-but-persisted: what the server says afterwards is what the disk has, and
// the same submission again gets one receipt.
func TestFaults(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	var index *orgtest.Message
	_, _, index = side.send("before", nil)
	for _, step := range []string{"Append", "PutLeaf", "PutBody", "PutConversation", "PutChain", "commit", "committed"} {
		d := side.draft("at "+step, index)
		in := side.submission(d)
		before := s.size()
		once := false
		s.breakAt(func(at string) error {
			if at == step && !once {
				once = true
				return errors.New("injected")
			}
			return nil
		})
		// The publisher writes too, and may take the fault in our place.
		raw, err := s.as(alice).Send(t.Context(), in)
		s.breakAt(nil)
		var p *wire.Problem
		if err != nil && (!errors.As(err, &p) || p.Status != 500 || strings.Contains(p.Detail, "injected")) {
			t.Fatalf("%s: %v", step, err)
		}
		if err == nil && step != "commit" && step != "committed" {
			t.Fatalf("%s: receipted all the same", step)
		}
		again, err := s.as(alice).Send(t.Context(), in)
		if err != nil {
			t.Fatalf("%s, again: %v", step, err)
		}
		if raw != nil && string(raw[0]) != string(again[0]) {
			t.Fatalf("%s: two receipts", step)
		}
		if after := s.size(); after != before+1 {
			t.Fatalf("%s: %d leaves, want %d", step, after, before+1)
		}
		side.seq, side.prev = side.seq+1, d.Core
	}
	items, err := bodies(s.as(bob).Queue(t.Context(), 0, 0))
	if err != nil || len(items) != 1+1+7 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	s.stop()
	s.start("127.0.0.1:0")
	side.send("after all that", index)
}

// Ciphertexts go once every device has them; envelopes and manifests stay.
func TestCiphertextsAreForgotten(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	side.send("one", nil)
	items, err := bodies(s.as(bob).Queue(t.Context(), 0, 0))
	if err != nil || len(items) != 2 {
		t.Fatal(len(items), err)
	}
	if _, err := s.as(bob).Queue(t.Context(), items[1].Cursor, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.as(alice).Queue(t.Context(), items[1].Cursor, 0); err != nil {
		t.Fatal(err)
	}
	// What is acknowledged is not given again, whatever the device asks.
	if again, err := s.as(bob).Queue(t.Context(), 0, 0); err != nil || len(again) != 0 {
		t.Fatalf("%d items again, %v", len(again), err)
	}
	time.Sleep(2500 * time.Millisecond) // the sweep's interval
	s.stop()
	if n := s.bodies(); n != 0 {
		t.Fatalf("%d ciphertexts are left", n)
	}
}

// A server whose witnesses are away starts, takes messages, and serves no
// checkpoint that isn't witnessed.
func TestWitnessesAway(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	_, _, index := side.send("one", nil)
	s.WaitWitnessed(s.anyone, s.Leaves[len(s.Leaves)-1].Hash)
	s.stop()
	urls, address := s.urls, strings.TrimPrefix(s.url, "http://")
	s.urls = []string{urls[0], "http://127.0.0.1:1"}
	s.start(address)
	before, err := s.anyone.Checkpoint(t.Context(), ledger.ControlLog)
	if err != nil {
		t.Fatal(err)
	}
	side.send("nobody watches", index)
	s.NewMember()
	time.Sleep(600 * time.Millisecond)
	after, err := s.anyone.Checkpoint(t.Context(), ledger.ControlLog)
	if err != nil || string(after) != string(before) {
		t.Fatalf("served a checkpoint that one witness saw: %v", err)
	}
	s.stop()
	s.urls = urls
	s.start(address)
	s.WaitWitnessed(s.anyone, s.Leaves[len(s.Leaves)-1].Hash)
}

// bodies counts the ciphertexts in the store of a server that has stopped.
func (s *stage) bodies() int {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.dir, "server.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow(`SELECT COUNT(*) FROM bodies WHERE length(body) > 0`).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// What a client can't get it says so by name.
func TestRemoteErrors(t *testing.T) {
	nobody := remote.New("http://127.0.0.1:1", nil, nil)
	if _, err := nobody.Status(t.Context()); !errors.Is(err, remote.ErrUnavailable) {
		t.Fatalf("nobody there: %v", err)
	}
	if _, err := nobody.Entries(t.Context(), ledger.ControlLog, 0, 1<<21); !errors.Is(err, ledger.ErrSize) {
		t.Fatalf("too many entries: %v", err)
	}
}

// A server whose database was rolled back can't have another history
// witnessed: it goes on serving the last checkpoint that it has.
func TestRolledBackDatabase(t *testing.T) {
	s := newStage(t)
	address, file := strings.TrimPrefix(s.url, "http://"), filepath.Join(s.dir, "server.db")
	s.WaitWitnessed(s.anyone, s.Leaves[len(s.Leaves)-1].Hash)
	s.stop()
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.start(address)
	s.WaitWitnessed(s.anyone, s.NewMember().Hash)
	s.stop()
	if err := os.WriteFile(file, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(address)
	before, err := s.anyone.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Another leaf where the witnesses have seen one already.
	l := s.Leaves[len(s.Leaves)-2] // the invitation
	if _, err := s.anyone.Submit(t.Context(), &wire.Submit{Statement: l.Statement, Signatures: l.Signatures}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	after, err := s.anyone.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.ControlSize != before.ControlSize+1 || after.Witnessed != before.Witnessed {
		t.Fatalf("before %+v, after %+v: a second history was witnessed", before, after)
	}
}
