package client_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/internal/wire"
)

// claimAll takes every single-use KeyPackage that a device has at the server, and
// then the one of last resort.
func (x *person) claimAll() (out [][]byte) {
	x.p.Helper()
	for {
		claimed, err := x.p.ClaimKeyPackages(x.p.Context(), []codec.Hash{x.Hash()})
		if err != nil {
			x.p.Fatal(err)
		}
		if len(claimed[0].Package) == 0 || lastResort(x.p, claimed[0].Package) {
			return out
		}
		out = append(out, claimed[0].Package)
	}
}

// A KeyPackage that was claimed may never come back in a Welcome: whoever claims
// them all must not keep a device out of conversations for good.
func TestClaimedKeyPackagesAreReplaced(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	if n := len(b.claimAll()); n != p.cfg.Stock {
		t.Fatalf("%d KeyPackages in stock", n)
	}
	delete(p.resorts, b.Hash())
	a.TestOnlyWithoutPairs(func() {
		if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); err == nil {
			t.Fatal("no KeyPackage was left, and the conversation was made")
		}
	})
	b.sync()
	id := a.group("", b)
	a.say(id, "hello")
	b.sync()
	b.want(id, "hello")
}

// With the stock used up a device still gets into conversations, several by the
// one KeyPackage of last resort, also after a restart.
func TestLastResort(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	b.claimAll()
	before := p.resorts[b.Hash()]
	ids := []codec.ID{a.create("", b), a.create("", b)}
	b.restart()
	b.sync()
	for _, id := range ids {
		a.say(id, "hello")
	}
	b.sync()
	for _, id := range ids {
		b.want(id, "hello")
	}
	if after := p.resorts[b.Hash()]; !bytes.Equal(before.raw, after.raw) {
		t.Error("replaced on its first day: whoever claims it again and again has the device make one each time")
	}
	p.advance(25 * time.Hour)
	b.sync()
	if after := p.resorts[b.Hash()]; bytes.Equal(before.raw, after.raw) || after.state != wire.LastResortUnused {
		t.Error("not replaced after use")
	}
	// A Welcome by the earlier one may still be on its way.
	p.packages[b.Hash()], p.resorts[b.Hash()] = nil, before
	id := a.create("", b)
	a.say(id, "late")
	b.sync()
	b.want(id, "late")
}

// What is claimed while the answer to an upload is lost would be given out twice
// if the upload were repeated.
func TestUploadIsNotRepeated(t *testing.T) {
	p := newParty(t)
	b := p.person("Bob")
	seen := map[string]bool{}
	claim := func() {
		for _, kp := range b.claimAll() {
			if seen[string(kp)] {
				t.Fatal("a KeyPackage was given out twice")
			}
			seen[string(kp)] = true
		}
	}
	claim()
	p.lost = func(what string) bool { return what == "upload" }
	if _, err := b.Sync(t.Context()); !errors.Is(err, remote.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	claim()
	p.lost = nil
	b.sync()
	claim()
	if len(seen) != 3*p.cfg.Stock {
		t.Errorf("%d KeyPackages in all", len(seen))
	}
}

// A server that gives again and again what was confirmed must not hold a device
// for ever.
func TestQueueThatRepeats(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "hello")
	p.tamper = func(_ codec.Hash, d *wire.Delivery) { d.Cursor = 1 }
	if _, err := b.Sync(t.Context()); !errors.Is(err, client.ErrServer) {
		t.Fatalf("got %v", err)
	}
}
