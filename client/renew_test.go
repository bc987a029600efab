package client_test

import (
	"errors"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/wire"
)

func (x *person) epoch(id codec.ID) uint64 {
	x.p.Helper()
	c, err := x.Conversation(id)
	if err != nil {
		x.p.Fatal(err)
	}
	return c.Epoch
}

// Each device renews its keys within two weeks of its last commit, and people
// notice nothing.
func TestRenewal(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.group("", b)
	b.sync()
	a.sync()
	at := a.epoch(id)
	if b.epoch(id) != at {
		t.Fatal("epochs differ")
	}
	p.advance(6 * 24 * time.Hour)
	a.sync()
	if a.epoch(id) != at {
		t.Error("renewed within a week of its last commit")
	}
	p.advance(9 * 24 * time.Hour)
	for range 2 {
		a.sync()
		b.sync()
	}
	a.sync()
	if a.epoch(id) != at+2 || b.epoch(id) != at+2 {
		t.Fatalf("epochs %d and %d two weeks after %d: each should have renewed once", a.epoch(id), b.epoch(id), at)
	}
	a.say(id, "hello")
	b.say(id, "hello yourself")
	a.sync()
	b.sync()
	a.want(id, "hello", "hello yourself")
	b.want(id, "hello", "hello yourself")
	for _, x := range []*person{a, b} {
		if n := x.Counters(); n.Faulty+n.Undecryptable+n.Refused != 0 {
			t.Errorf("%s: %+v", x.Name(), n)
		}
	}
}

// Who sends much renews more often.
func TestRenewalByMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("sends 400 messages")
	}
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.group("", b)
	b.sync()
	at := a.epoch(id)
	for range 400 {
		a.say(id, "word")
	}
	a.sync()
	if a.epoch(id) != at+1 {
		t.Errorf("epoch %d after 400 messages in epoch %d", a.epoch(id), at)
	}
}

// The loser of a race gives way: it doesn't commit again at the next sync.
func TestRenewalLosesARace(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.group("", b)
	b.sync()
	a.sync()
	p.advance(15 * 24 * time.Hour)
	tries := 0
	p.commits = func(*wire.CommitSubmission) bool { tries++; return true }
	for range 3 {
		b.sync()
	}
	if tries != 1 {
		t.Fatalf("%d commits, want one", tries)
	}
	p.commits = nil
	a.sync() // who wins
	b.sync()
	at := b.epoch(id)
	p.advance(25 * time.Hour)
	b.sync()
	if b.epoch(id) != at+1 {
		t.Errorf("epoch %d a day later, want %d", b.epoch(id), at+1)
	}
	a.sync()
	b.say(id, "hello")
	a.sync()
	a.want(id, "hello")
}

// A device that joined by keys that other groups may have too has keys of its
// own before its first sync ends.
func TestRenewalAfterLastResort(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	b.claimAll()
	id := a.group("", b)
	at := a.epoch(id)
	b.sync()
	if b.epoch(id) != at+1 {
		t.Fatalf("epoch %d after joining epoch %d by the KeyPackage of last resort", b.epoch(id), at)
	}
	b.sync()
	if b.epoch(id) != at+1 {
		t.Error("renewed more than once")
	}
	a.sync()
	a.say(id, "hello")
	b.sync()
	b.want(id, "hello")
}

// A device killed at any step of a renewal goes on with it.
func TestRenewalIsKilled(t *testing.T) {
	killed := errors.New("killed")
	for _, at := range []string{"commit", "committed", "save", "saved"} {
		for nth := range 3 {
			p := newParty(t)
			a, b := p.person("Alice"), p.person("Bob")
			id := a.group("", b)
			b.sync()
			a.sync()
			p.advance(15 * 24 * time.Hour)
			seen := 0
			a.TestOnlyStep(func(step string) error {
				if step == at {
					if seen++; seen > nth {
						return killed
					}
				}
				return nil
			})
			before := a.epoch(id)
			if _, err := a.Sync(t.Context()); err != nil && !errors.Is(err, killed) {
				t.Fatal(err)
			}
			if err := a.TestOnlyCrash(); err != nil {
				t.Fatal(err)
			}
			a.reopen()
			a.sync()
			b.sync()
			a.sync()
			if got := a.epoch(id); got < before+1 || got > before+2 || b.epoch(id) != got {
				t.Errorf("killed at %s, time %d: epochs %d and %d after %d", at, nth, got, b.epoch(id), before)
			}
			a.say(id, "hello")
			b.sync()
			b.want(id, "hello")
		}
	}
}
