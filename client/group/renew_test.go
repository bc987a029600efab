package group_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
)

// Whoever had copied all that a device has is shut out by the commit that only
// renews its keys.
func TestRenewHeals(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	id := codec.NewID()
	w.found(id, a, b, c)
	a.restart()
	thief := &device{w: w, hash: a.hash, key: a.key, disk: maps.Clone(a.disk)}
	thief.open()
	thief.want(id, b, b.send(id, "overheard"), "overheard")

	step := must[*client.Step](t)(a.Renew(id, w))
	if len(step.Welcome) != 0 || len(step.Roster) != 3 {
		t.Fatalf("a renewal with %d devices and a Welcome of %d bytes", len(step.Roster), len(step.Welcome))
	}
	if err := a.Merge(id); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*device{b, c} {
		e := must[*client.Epoch](t)(d.Process(id, step.Commit, w))
		if e.Number != step.Number {
			t.Fatalf("epoch %d, want %d", e.Number, step.Number)
		}
	}
	secret := b.send(id, "secret")
	a.want(id, b, secret, "secret")
	if _, err := thief.Process(id, step.Commit, w); err == nil {
		t.Error("the thief follows")
	}
	if _, err := thief.Decrypt(id, secret); err == nil {
		t.Error("the thief reads on")
	}
	// And it doesn't get back in by a commit of its own, which is of an epoch
	// that is over.
	own := must[*client.Step](t)(thief.Renew(id, w))
	if _, err := b.Process(id, own.Commit, w); err == nil {
		t.Error("a commit of the epoch before was taken")
	}
}

// KeyPackages of last resort are for more than one group, are replaced when that
// is due and not before, and are erased when they have expired.
func TestLastResort(t *testing.T) {
	w, now := newWorld(t), time.Now()
	w.now = func() time.Time { return now }
	a, b := w.device("a"), w.device("b")
	first := must[[]byte](t)(b.LastResort(client.LastResortMissing))
	for range 2 {
		id := codec.NewID()
		must[*client.Step](t)(a.Create(id, w))
		step := must[*client.Step](t)(a.Add(id, [][]byte{first}, w))
		if err := a.Merge(id); err != nil {
			t.Fatal(err)
		}
		b.restart()
		if e := must[*client.Epoch](t)(b.Join(step.Welcome, w)); !e.Shared {
			t.Fatal("nothing says that the keys may be shared")
		}
		if e := must[*client.Epoch](t)(b.Epoch(id)); e.Shared {
			t.Fatal("said again of the epoch")
		}
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		after time.Duration
		held  client.LastResort
		due   bool
	}{
		{day / 2, client.LastResortUnused, false},
		{0, client.LastResortUsed, false},
		{day, client.LastResortUnused, false},
		{0, client.LastResortUsed, true},
		{0, client.LastResortUsed, false},
		{0, client.LastResortMissing, true},
		{27 * day, client.LastResortUnused, false},
		{day, client.LastResortUnused, true},
		{60 * day, client.LastResortUnused, true}, // by now the first ones have expired
	} {
		now = now.Add(c.after)
		if got := must[[]byte](t)(b.LastResort(c.held)); (got != nil) != c.due {
			t.Errorf("at %s, held %d: %t", now, c.held, got != nil)
		}
		b.restart()
	}
	kept := 0
	for at := range b.disk {
		if strings.HasPrefix(at.name, "keypackage/") {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d private halves are kept, want those of 2", kept)
	}
}
