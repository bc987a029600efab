package client_test

import (
	"errors"
	"testing"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/internal/wire"
)

// claimAll takes every KeyPackage that a device has at the server.
func (x *person) claimAll() (out [][]byte) {
	x.p.Helper()
	for {
		claimed, err := x.p.ClaimKeyPackages(x.p.Context(), []codec.Hash{x.Hash()})
		if err != nil {
			x.p.Fatal(err)
		}
		if len(claimed[0]) == 0 {
			return out
		}
		out = append(out, claimed[0])
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
