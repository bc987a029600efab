package client_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

// acknowledged returns what a device's next acknowledgement says.
func (x *person) acknowledged() *manifest.Ack {
	x.p.Helper()
	before := len(x.p.acks[x.Hash()])
	if err := x.Acknowledge(x.p.Context()); err != nil {
		x.p.Fatal(err)
	}
	acks := x.p.acks[x.Hash()]
	if len(acks) == before {
		x.p.Fatal("nothing was acknowledged")
	}
	return acks[len(acks)-1]
}

// drop takes deliveries out of the queue.
func (p *party) drop(withheld func(d *wire.Delivery) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = slices.DeleteFunc(p.queue, func(d fakeDelivery) bool { return withheld(&d.Delivery) })
}

// position returns where a delivery stands in its conversation.
func (p *party) position(d *wire.Delivery) uint64 {
	r, err := manifest.OpenReceipt(p.org.Keys.Receipt.PublicKey(), d.Receipt)
	if err != nil {
		p.Fatal(err)
	}
	return r.Opening.Body.Position
}

// A recipient misses what the server withholds, whatever it was, and never
// acknowledges it.
func TestWithheld(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "one") // brings an index envelope, one position before
	lost := a.say(id, "two")
	a.say(id, "three")
	p.drop(func(d *wire.Delivery) bool { return p.position(d) == lost.Position })
	sum := b.sync()
	b.want(id, "one", "three")
	if sum.Faulty != 1 || !strings.Contains(strings.Join(sum.Problems, ""), "withheld") {
		t.Errorf("got %+v", sum)
	}
	if ack := b.acknowledged(); !slices.Equal(ack.Exceptions, []uint64{lost.Position}) || ack.Position != lost.Position+1 {
		t.Errorf("got %+v", ack)
	}
}

// Everything that takes a position comes: what a device sent itself, index
// envelopes, voids, steps of the group. Nobody is accused.
func TestNothingWithheld(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.group("", b)
	a.say(id, "one")
	p.refuseOnce(envelope.KindRecord, "proof: a server's whim")
	a.refusedSay(id, "voided once")
	b.sync()
	b.say(id, "two")
	if err := b.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	b.say(id, "three")
	for range 2 {
		for _, x := range []*person{a, b, c} {
			x.restart()
			if sum := x.sync(); sum.Faulty > 0 {
				t.Errorf("%s: %q", x.Name(), sum.Problems)
			}
		}
	}
	c.say(id, "four")
	a.sync()
	b.sync()
	for _, x := range []*person{a, b} {
		x.want(id, "one", "voided once", "two", "three", "four")
		if ack := x.acknowledged(); len(ack.Exceptions) > 0 {
			t.Errorf("%s: got %+v", x.Name(), ack)
		}
	}
}

// A server fills the place of what it withholds with what it made up, or goes on
// from another history.
func TestMadeUpHistory(t *testing.T) {
	another := func(p *party, d *wire.Delivery, change func(b *manifest.ReceiptBody, object *codec.Hash)) {
		r, err := manifest.OpenReceipt(p.org.Keys.Receipt.PublicKey(), d.Receipt)
		if err != nil {
			t.Error(err)
			return
		}
		change(&r.Opening.Body, &r.Object)
		if d.Receipt, err = manifest.SignReceipt(p.org.Keys.Receipt, r); err != nil {
			t.Error(err)
		}
	}
	for name, tamper := range map[string]func(p *party, d *wire.Delivery){
		"a leaf before that never was": func(p *party, d *wire.Delivery) {
			another(p, d, func(b *manifest.ReceiptBody, _ *codec.Hash) { b.Previous[0] ^= 1 })
		},
		"a void of nothing": func(p *party, d *wire.Delivery) {
			d.Kind, d.Manifest, d.Body = wire.DeliveryVoid, []byte("void"), nil
			another(p, d, func(b *manifest.ReceiptBody, object *codec.Hash) {
				b.Kind, *object = manifest.LeafVoid, manifest.VoidHash(d.Manifest)
			})
		},
		"a message that is said to be of no interest": func(p *party, d *wire.Delivery) {
			m, err := manifest.Parse(d.Manifest)
			if err != nil {
				t.Error(err)
				return
			}
			header := *m.Header
			header.Kind = envelope.KindIndex
			core := *m.Core
			core.Header = header.Encode()
			made, err := manifest.Sign(p.org.Keys.Receipt, &core, m.Proof, m.Tag, m.Transport)
			if err != nil {
				t.Error(err)
				return
			}
			d.Manifest, d.Body = made.Bytes(), nil
			another(p, d, func(_ *manifest.ReceiptBody, object *codec.Hash) { *object = made.Hash() })
		},
		"a message without its ciphertext": func(_ *party, d *wire.Delivery) { d.Body, d.Tags = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			a, b := p.person("Alice"), p.person("Bob")
			id := a.create("", b)
			a.say(id, "one")
			b.sync()
			hit := a.say(id, "two")
			p.tamper = func(to codec.Hash, d *wire.Delivery) {
				if p.position(d) == hit.Position {
					tamper(p, d)
				}
			}
			if sum := b.sync(); sum.Faulty == 0 {
				t.Errorf("got %+v", sum)
			}
			if ack := b.acknowledged(); !slices.Equal(ack.Exceptions, []uint64{hit.Position}) {
				t.Errorf("got %+v", ack)
			}
		})
	}
}

// A device that comes back to a conversation isn't told of what came meanwhile,
// and one whose state is of an earlier version wasn't told of every leaf.
func TestGapsThatAreNone(t *testing.T) {
	s := newServer(t)
	now := time.Now()
	s.org.SetClock(func() time.Time { return now })
	p := newPartyOf(t, s)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.group("", b)
	a.say(id, "one")
	b.sync()
	if err := a.Remove(t.Context(), id, []codec.ID{b.member}); err != nil {
		t.Fatal(err)
	}
	a.say(id, "without him")
	if err := a.Add(t.Context(), id, []codec.ID{b.member}); err != nil {
		t.Fatal(err)
	}
	a.say(id, "welcome back")
	if sum := b.sync(); sum.Faulty > 0 {
		t.Errorf("%q", sum.Problems)
	}
	b.want(id, "one", "welcome back")

	if err := b.TestOnlyUnfollowed(id); err != nil {
		t.Fatal(err)
	}
	b.restart()
	untold := a.say(id, "an index envelope, say")
	p.drop(func(d *wire.Delivery) bool { return p.position(d) == untold.Position })
	a.say(id, "known")
	if sum := b.sync(); sum.Faulty > 0 {
		t.Errorf("%q", sum.Problems)
	}
	lost := a.say(id, "lost")
	p.drop(func(d *wire.Delivery) bool { return p.position(d) == lost.Position })
	a.say(id, "known as well")
	if sum := b.sync(); sum.Faulty != 1 {
		t.Errorf("got %+v", sum)
	}
}
