package control_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
)

func TestMonthOf(t *testing.T) {
	for _, at := range []time.Time{
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1972, 2, 29, 23, 59, 59, 0, time.UTC),
		time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), start,
	} {
		if got, want := control.MonthOf(envelope.DayOf(at)), uint32((at.Year()-1970)*12+int(at.Month())-1); got != want {
			t.Errorf("%v: month %d, want %d", at, got, want)
		}
	}
	if control.MonthOf(math.MaxUint32) == 0 { // and no panic
		t.Error("the last day is in the first month")
	}
}

func TestCheckHeader(t *testing.T) {
	w := newWorld(t, orgtest.Options{})
	alice := w.NewMember()
	header := func() *envelope.Header { return w.Header(codec.NewID(), alice, envelope.KindRecord) }
	check := func(what, want string, h *envelope.Header, size int64, now time.Time) {
		t.Helper()
		device, month, err := w.State.CheckHeader(h, size, now.UnixMilli())
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", what, err)
		case want == "" && (device.Hash != h.Device || month.Hash != h.EscrowKey):
			t.Errorf("%s: another device or key comes back", what)
		case want != "" && (!errors.Is(err, control.ErrHeader) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want one about %q", what, err, want)
		case want != "" && (device != nil || month != nil):
			t.Errorf("%s: refused, and something came back", what)
		}
	}
	size := w.State.Size()
	check("a good one", "", header(), size, w.clock)
	check("a log not yet replayed", "replayed", header(), size+1, w.clock)
	check("no log", "device", header(), 0, w.clock)
	check("less than none", "device", header(), math.MinInt64, w.clock)
	for _, c := range []struct {
		what, want string
		change     func(*envelope.Header)
	}{
		{"another organisation", "organisation", func(h *envelope.Header) { h.Organisation[0] ^= 1 }},
		{"no device", "device", func(h *envelope.Header) { h.Device[0] ^= 1 }},
		{"no policy", "policy", func(h *envelope.Header) { h.PolicyLeaf[0] ^= 1 }},
		{"a month for a policy", "policy", func(h *envelope.Header) { h.PolicyLeaf = w.Month }},
		{"no key", "escrow key", func(h *envelope.Header) { h.EscrowKey[0] ^= 1 }},
		{"an epoch for a key", "escrow key", func(h *envelope.Header) { h.EscrowKey = w.Epoch }},
	} {
		h := header()
		c.change(h)
		check(c.what, c.want, h, size, w.clock)
	}

	// The day's edges: its last moment within 72 hours before, its first within
	// ten minutes after the receipt's time.
	midnight := time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)
	h := header()
	h.Day = envelope.DayOf(midnight)
	check("72 hours after its end, less a millisecond", "", h, size, midnight.Add(96*time.Hour-time.Millisecond))
	check("72 hours after its end", "72 hours", h, size, midnight.Add(96*time.Hour))
	check("ten minutes before its beginning", "", h, size, midnight.Add(-10*time.Minute))
	check("a millisecond earlier", "10 minutes", h, size, midnight.Add(-10*time.Minute-time.Millisecond))
	for _, now := range []int64{math.MinInt64, math.MaxInt64} {
		if _, _, err := w.State.CheckHeader(h, size, now); !errors.Is(err, control.ErrHeader) {
			t.Errorf("time %d: %v", now, err)
		}
	}
	h.Day = math.MaxUint32
	check("the last day there is", "10 minutes", h, size, w.clock)

	// A device counts from after its own leaf until its revocation.
	device, _ := w.State.Device(alice.Hash)
	check("before its leaf", "device", header(), device.Since, w.clock)
	check("with its leaf", "", header(), device.Since+1, w.clock)
	w.Add(&control.Revocation{Device: alice.Hash}, w.Officers[0])
	check("with its revocation", "device", header(), w.State.Size(), w.clock)
	check("just before", "", header(), w.State.Size()-1, w.clock)
}

// Keys retire 72 hours after their successor took effect, go on without one,
// and end with their destruction.
func TestKeysRetire(t *testing.T) {
	w := newWorld(t, orgtest.Options{})
	alice := w.NewMember()
	november := w.Month
	policy := w.State.Policy()
	check := func(what, want string, key codec.Hash) {
		t.Helper()
		h := w.Header(codec.NewID(), alice, envelope.KindRecord)
		h.EscrowKey = key
		_, _, err := w.State.CheckHeader(h, w.State.Size(), w.clock.UnixMilli())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	escrow := func(what string, want codec.Hash) {
		t.Helper()
		m, err := w.State.Escrow(policy.Region, policy.Class, envelope.DayOf(w.clock))
		if err != nil || m.Hash != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	at := func(day, hour int) { w.clock = time.Date(2026, 12, day, hour, 0, 0, 0, time.UTC) }

	at(20, 12)
	check("without a successor the old key goes on", "", november)
	escrow("without a successor", november)
	w.clock = start
	december := w.AddMonth(control.MonthOf(envelope.DayOf(start)) + 1)
	check("the next month's key, today", "later month", december)
	escrow("before its month", november)
	if _, err := w.State.Escrow("us", policy.Class, envelope.DayOf(w.clock)); err == nil {
		t.Error("a key in a region that has none")
	}
	at(1, 0)
	escrow("in its month", december)
	at(4, 0)
	check("72 hours into the month", "", november)
	w.clock = w.clock.Add(time.Millisecond)
	check("a millisecond more", "successor", november)
	check("the new one", "", december)

	// A successor that was destroyed is none.
	w.Add(&control.Destruction{Month: december}, w.officersAndGuards()...)
	check("a destroyed key", "destroyed", december)
	check("its predecessor", "", november)
	escrow("after the destruction", november)
	if _, _, err := w.State.CheckHeader(func() *envelope.Header {
		h := w.Header(codec.NewID(), alice, envelope.KindRecord)
		h.EscrowKey = december
		return h
	}(), w.State.Size()-1, w.clock.UnixMilli()); err != nil {
		t.Errorf("what was received before the destruction: %v", err)
	}

	// A new epoch's key comes before a later month of the old epoch.
	w.GenerateKey()
	if n := len(w.State.Epochs()); n != 2 {
		t.Fatalf("%d epochs", n)
	}
	second := w.AddMonth(control.MonthOf(envelope.DayOf(w.clock)))
	escrow("in a new epoch", second)
	check("the old epoch's key for 72 hours", "", november)
	w.pass(72*time.Hour + time.Millisecond)
	check("and no longer", "successor", november)
}

// A device can't choose an old policy to choose where its messages are kept.
func TestOldPolicy(t *testing.T) {
	w := newWorld(t, orgtest.Options{})
	alice := w.NewMember()
	h := w.Header(codec.NewID(), alice, envelope.KindRecord)
	before := w.State.Size()
	p := w.policy(2)
	p.Region = "ch"
	w.Add(p, w.Two()...)
	size := w.State.Size()
	check := func(what string, h *envelope.Header, size int64, after time.Duration, want string) {
		t.Helper()
		now := w.clock.Add(after)
		h.Day = envelope.DayOf(now)
		_, _, err := w.State.CheckHeader(h, size, now.UnixMilli())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	check("within 72 hours", h, size, 72*time.Hour, "")
	check("after them", h, size, 72*time.Hour+time.Millisecond, "replaced")
	check("in a log that lacks the new one", h, before, 5*time.Minute, "")
	check("in a log that should have it", h, before, 72*time.Hour+time.Millisecond, "longer")
	mixed := w.Header(codec.NewID(), alice, envelope.KindRecord)
	check("the new policy and the old region's key", mixed, size, 0, "region")
	if err := w.State.CheckReceived(before, w.clock.Add(73*time.Hour).UnixMilli()); !errors.Is(err, control.ErrConflict) {
		t.Errorf("a receipt under a log that is three days old: %v", err)
	}
}

func TestCheckReceived(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	w.pass(time.Hour)
	w.Add(w.policy(2), w.Two()...)
	at := func(d time.Duration) int64 { return start.Add(d).UnixMilli() }
	for _, c := range []struct {
		what string
		size int64
		time int64
		ok   bool
	}{
		{"at once", 1, at(0), true},
		{"before the next leaf", 1, at(59 * time.Minute), true},
		{"five minutes after it", 1, at(65 * time.Minute), true},
		{"a millisecond later", 1, at(65*time.Minute) + 1, false},
		{"with the next leaf", 2, at(time.Hour), true},
		{"a clock five minutes behind", 2, at(55 * time.Minute), true},
		{"a millisecond more", 2, at(55*time.Minute) - 1, false},
		{"long after the last leaf", 2, at(10000 * time.Hour), true},
		{"under no log", 0, at(0), false},
		{"under more than there is", 3, at(time.Hour), false},
		{"before all time", 2, math.MinInt64, false},
	} {
		if err := w.State.CheckReceived(c.size, c.time); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// Loosening takes effect after 72 hours, tightening at once.
func TestPolicyFor(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	reviewer := w.Reviewers[0]
	matter := codec.NewID()
	w.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	ask := func() *control.RequestState {
		r := w.request(matter, codec.NewID())
		r.Expiry = w.clock.Add(time.Hour).UnixMilli()
		state, _ := w.State.Request(w.Add(r, reviewer))
		return state
	}
	strict := ask()
	loose := w.policy(2)
	loose.Approvals, loose.MaxCount, loose.VetoSeconds = 1, 20_000, 0
	w.Add(loose, w.Two()...)
	changed := w.clock
	after := ask()
	want := func(what string, r *control.RequestState, now time.Time, approvals uint8, count uint64) {
		t.Helper()
		p, err := w.State.PolicyFor(r, now.UnixMilli())
		if err != nil || p.Approvals != approvals || p.MaxCount != count {
			t.Errorf("%s: %d approvals, count %d, %v; want %d and %d", what, p.Approvals, p.MaxCount, err, approvals, count)
		}
	}
	want("loosened just now", after, changed, 3, 10_000)
	want("a moment before 72 hours", after, changed.Add(72*time.Hour-time.Millisecond), 3, 10_000)
	want("after 72 hours", after, changed.Add(72*time.Hour), 1, 20_000)
	want("a request of before", strict, changed.Add(1000*time.Hour), 3, 10_000)
	w.clock = changed.Add(100 * time.Hour)
	tight := w.policy(3)
	tight.Approvals, tight.VetoSeconds, tight.OpenerEvidenceNone = 5, 60, false
	w.Add(tight, w.Two()...)
	want("tightened just now", after, w.clock, 5, 10_000)
	p, err := w.State.PolicyFor(after, w.clock.UnixMilli())
	if err != nil || p.VetoSeconds != 60 || p.OpenerEvidenceNone {
		t.Errorf("%+v, %v", p, err)
	}
	w.refuses("a request that policy forbids", control.ErrUnauthorised, w.request(matter, codec.NewID()), reviewer)
	stray := *after
	stray.Policy = codec.Hash{}
	if _, err := w.State.PolicyFor(&stray, 0); err == nil {
		t.Error("a request of no policy has one")
	}
}

func TestUseSet(t *testing.T) {
	a, b := codec.Sum("a"), codec.Sum("b")
	if control.UseSet([]codec.Hash{a, b}) == control.UseSet([]codec.Hash{b, a}) || control.UseSet(nil) == control.UseSet([]codec.Hash{{}}) {
		t.Error("two sets have one root")
	}
}
