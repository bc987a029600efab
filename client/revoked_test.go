package client_test

import (
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/replica"
	"chancery/internal/wire"
)

func (x *person) devices(id codec.ID) int {
	x.p.Helper()
	c, err := x.Conversation(id)
	if err != nil {
		x.p.Fatal(err)
	}
	return c.Devices
}

// revoke has one officer revoke a device, and waits for the witnesses.
func (l *live) revoke(d *client.Device) {
	l.Helper()
	s, _, err := control.NewStatement(rand.Reader, l.ID, &control.Revocation{Device: d.Hash(), Reason: "stolen"})
	if err != nil {
		l.Fatal(err)
	}
	sig, err := l.Officers[0].Sign(s)
	if err != nil {
		l.Fatal(err)
	}
	done, err := l.server.Submit(l.Context(), &wire.Submit{Statement: codec.Encode(s), Signatures: []control.Signature{sig}})
	if err != nil || done.Index < 0 {
		l.Fatal(done, err)
	}
	for range 600 {
		status, err := l.server.Status(l.Context())
		if err != nil {
			l.Fatal(err)
		}
		if status.Witnessed > done.Index {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.Fatal("the revocation was never witnessed")
}

// After one poll of any other device a revoked one is in none of that device's
// conversations, and nothing that is said after the revocation is for it.
func TestRevokedEverywhere(t *testing.T) {
	l := newLive(t)
	a, b, c := l.person("Alice"), l.person("Bob"), l.person("Carol")
	create := func(by *client.Device, with ...*client.Device) codec.ID {
		t.Helper()
		var members []codec.ID
		for _, d := range with {
			members = append(members, d.Member())
		}
		var id codec.ID
		var err error
		by.TestOnlyWithoutPairs(func() { id, err = by.Create(t.Context(), "", members) })
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range with {
			until(t, d, "joining", func() bool { _, err := d.Conversation(id); return err == nil })
		}
		return id
	}
	all := []codec.ID{create(a, b, c), create(c, a, b), create(b, c, a)}
	pair, other := create(a, c), create(b, c)
	l.revoke(c)
	gone := func(d *client.Device, id codec.ID) {
		t.Helper()
		conv, err := d.Conversation(id)
		if err != nil || slices.Contains(conv.Members, c.Member()) {
			t.Errorf("%s: %+v, %v", d.Name(), conv, err)
		}
	}
	if _, err := a.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range append(all, pair) {
		gone(a, id)
	}
	// Bob hasn't polled: he is told before he can say anything to her.
	if s, err := b.Send(t.Context(), other, client.Draft{Text: "nobody hears this"}); err != nil || s.Queued {
		t.Fatalf("%+v, %v", s, err)
	}
	gone(b, other)
	if s, err := b.Send(t.Context(), all[0], client.Draft{Text: "hello"}); err != nil || s.Queued {
		t.Fatalf("%+v, %v", s, err)
	}
	gone(b, all[0])
	until(t, a, "delivery", func() bool { return a.Counters().Delivered == 1 })
	if _, err := c.Sync(t.Context()); err == nil {
		t.Error("the revoked device is heard")
	}
	for _, d := range []*client.Device{a, b} {
		if n := d.Counters(); n.Faulty+n.Undecryptable+n.Refused != 0 {
			t.Errorf("%s: %+v", d.Name(), n)
		}
	}
}

// A device that knows of a revocation removes the device before it says
// anything, also to a server that would have taken the message as it was.
func TestNothingIsSaidToARevokedDevice(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	p.lax = true
	p.org.Add(&control.Revocation{Device: c.Hash()}, p.org.Officers[0])
	if err := p.cfg.Replica.Sync(t.Context(), conn{fakeServer: p.fakeServer}); err != nil {
		t.Fatal(err)
	}
	before := len(p.queue)
	a.say(id, "secret")
	for _, d := range p.queue[before:] {
		if d.to[c.Hash()] && len(d.Tags) > 0 {
			t.Error("the message was for the revoked device too")
		}
	}
	b.sync()
	b.want(id, "secret")
	if n := b.devices(id); n != 2 {
		t.Errorf("%d devices", n)
	}
}

// A revocation that the server has logged and no witness has signed for yet: the
// message waits, and goes when the removal can be made.
func TestUnwitnessedRevocation(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	a.sync()
	p.org.Add(&control.Revocation{Device: c.Hash()}, p.org.Officers[0])
	p.hidden = 1
	s, err := a.Send(t.Context(), id, client.Draft{Text: "secret"})
	if err != nil || !s.Queued {
		t.Fatalf("%+v, %v", s, err)
	}
	if n := a.devices(id); n != 3 {
		t.Errorf("%d devices, though nothing is witnessed", n)
	}
	if sum := a.sync(); !sum.Pending || sum.Waiting != 1 {
		t.Errorf("%+v", sum)
	}
	p.hidden = 0
	a.restart()
	if sum := a.sync(); sum.Sent != 1 {
		t.Errorf("%+v", sum)
	}
	b.sync()
	b.want(id, "secret")
	if n := b.devices(id); n != 2 {
		t.Errorf("%d devices", n)
	}
}

// A conversation that somebody brings a device into while a revoked one is still
// there is tidied by whoever comes.
func TestRevokedWhereOneJoins(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	p.lax = true
	id := a.group("", c)
	p.org.Add(&control.Revocation{Device: c.Hash()}, p.org.Officers[0])
	if _, err := b.Sync(t.Context()); err != nil { // Bob has looked through all of his, which are none
		t.Fatal(err)
	}
	p.hidden = 1 // from Alice, whose replica is another
	cfg := p.cfg
	cfg.Replica = replica.New(p.org.ID)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := client.Open(cfg, a.dir, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.Device = d
	if err := a.Add(t.Context(), id, []codec.ID{b.member}); err != nil {
		t.Fatal(err)
	}
	p.hidden = 0
	b.sync()
	if n := b.devices(id); n != 2 {
		t.Errorf("%d devices", n)
	}
}
