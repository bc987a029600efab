package client_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/report"
)

func TestLyingSender(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	a.say(id, "honest")
	a.TestOnlyArchive(func(record []byte) []byte {
		r, err := envelope.ParseRecord(record)
		if err != nil {
			t.Error(err)
		}
		r.Text = "lunch at noon?"
		return r.Encode()
	})
	lie := a.say(id, "sell everything")
	a.TestOnlyArchive(nil)
	sum := b.sync()
	if sum.Mismatches != 1 || b.Counters().Mismatches != 1 {
		t.Errorf("got %+v", sum)
	}
	b.want(id, "honest") // and the lie is not shown
	var proof []byte
	for problem, err := range b.Problems(id) {
		if err != nil || !problem.Mismatch || problem.Core != lie.Core {
			t.Errorf("got %+v, %v", problem, err)
		}
		proof = problem.Report
	}
	p.cfg.Replica.Read(func(s *control.State) {
		v, err := report.Verify(s, func(n int64) (codec.Hash, bool) { return p.org.Control.Root(n), true }, proof)
		if err != nil || v.Fault != report.FaultEnvelope || v.Member != a.member {
			t.Errorf("got %+v, %v", v, err)
		}
	})
	// The report is archived and reaches everybody, the sender included.
	b.sync()
	for _, x := range []*person{a, c} {
		x.sync()
		found := false
		for m, err := range x.Messages(id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			found = found || m.Report && m.Target == lie.Core.String()
		}
		if !found {
			t.Errorf("%s has no report", x.Name())
		}
	}
	if c.Counters().Mismatches != 1 {
		t.Errorf("Carol: %+v", c.Counters())
	}
	// The acknowledgement excepts it.
	if err := b.Acknowledge(t.Context()); err != nil {
		t.Fatal(err)
	}
	acks := p.acks[b.Hash()]
	if last := acks[len(acks)-1]; !slices.Contains(last.Exceptions, lie.Position) {
		t.Errorf("exceptions %v, the lie is at %d", last.Exceptions, lie.Position)
	}
}

// An index envelope under a wrong tag is one that no guard answers for: what is
// indexed under its key would be found by no search. Recipients notice when the
// key comes, and don't index under it.
func TestFalseIndex(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	a.TestOnlyTag(func(kind envelope.Kind, tag *[envelope.TagSize]byte) {
		if kind == envelope.KindIndex {
			tag[0] ^= 1
		}
	})
	a.say(id, "find me")
	b.sync()
	b.restart()
	sum := b.sync() // the report has gone out
	b.want(id, "find me")
	if n := b.Counters(); n.Index != 1 || n.Faulty > 0 {
		t.Errorf("got %+v, %+v", n, sum)
	}
	c.sync()
	var proof []byte
	for m, err := range c.Messages(id, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Report {
			proof = m.Evidence
		}
	}
	p.cfg.Replica.Read(func(s *control.State) {
		v, err := report.Verify(s, func(n int64) (codec.Hash, bool) { return p.org.Control.Root(n), true }, proof)
		if err != nil || v.Fault != report.FaultTag || v.Member != a.member {
			t.Errorf("got %+v, %v", v, err)
		}
	})
	b.say(id, "indexed under Bob's own key")
	c.sync()
	for m, err := range c.Messages(id, 0) {
		if err != nil || !m.Report && m.Indexed != (m.Member == b.member) {
			t.Errorf("got %+v, %v", m, err)
		}
	}
}

// TestReplayedCiphertext: the server shows a message twice, at two places.
func TestReplayedCiphertext(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.group("", b)
	a.say(id, "pay 100")
	d := p.queue[len(p.queue)-1].Delivery
	m, err := manifest.Parse(d.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	d.Receipt = p.receive(manifest.LeafMessage, id, m.Hash())
	p.deliver(a.Hash(), p.conversations[id].roster, d)
	b.sync()
	b.restart()
	b.sync()
	b.want(id, "pay 100")
	if n := b.Counters(); n.Delivered != 1 || n.Undecryptable != 1 {
		t.Errorf("got %+v", n)
	}
}

// TestTampering: what the server changes on the way is noticed and not shown.
func TestTampering(t *testing.T) {
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		tamper func(d *wire.Delivery)
		shown  bool
		want   func(n client.Counters) uint64
	}{
		"ciphertext": {func(d *wire.Delivery) { d.Body = flip(d.Body) }, false, func(n client.Counters) uint64 { return n.Faulty }},
		"manifest":   {func(d *wire.Delivery) { d.Manifest = flip(d.Manifest) }, false, func(n client.Counters) uint64 { return n.Faulty }},
		"receipt":    {func(d *wire.Delivery) { d.Receipt = flip(d.Receipt) }, false, func(n client.Counters) uint64 { return n.Faulty }},
		"tags":       {func(d *wire.Delivery) { d.Tags = flip(d.Tags) }, true, func(n client.Counters) uint64 { return n.Index }},
	} {
		for kind, create := range map[string]func(a *person, name string, others ...*person) codec.ID{"direct": (*person).create, "group": (*person).group} {
			t.Run(name+", "+kind, func(t *testing.T) {
				p := newParty(t)
				a, b := p.person("Alice"), p.person("Bob")
				id := create(a, "", b)
				a.say(id, "hello")
				p.tamper = func(_ codec.Hash, d *wire.Delivery) {
					if d.Kind == wire.DeliveryMessage && len(d.Body) > 0 {
						c.tamper(d)
					}
				}
				b.sync()
				if got := b.texts(id); (len(got) == 1) != c.shown {
					t.Errorf("shows %q", got)
				}
				if n := b.Counters(); c.want(n) != 1 {
					t.Errorf("got %+v", n)
				}
			})
		}
	}
}

// TestFalseStatement: a committer signs another roster than it commits. Nobody
// lives in that epoch.
func TestFalseStatement(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.group("", b)
	p.tamper = func(_ codec.Hash, d *wire.Delivery) {
		if d.Kind != wire.DeliveryCommit {
			return
		}
		body, err := manifest.ParseCommit(d.Manifest)
		if err != nil {
			t.Error(err)
			return
		}
		body.Roster = codec.Sum("test")
		if d.Manifest, err = manifest.SignCommit(a.Signer(), body); err != nil {
			t.Error(err)
		}
		d.Receipt = p.receive(manifest.LeafCommit, id, manifest.CommitHash(d.Manifest))
	}
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	b.sync()
	if conv, err := b.Conversation(id); err != nil || conv.Broken == "" {
		t.Errorf("got %+v, %v", conv, err)
	}
	if _, err := b.Send(t.Context(), id, client.Draft{Text: "x"}); !errors.Is(err, client.ErrBroken) {
		t.Errorf("got %v", err)
	}
}

func TestOverdue(t *testing.T) {
	s := newServer(t)
	now := time.Now()
	s.org.SetClock(func() time.Time { return now })
	p := newPartyOf(t, s)
	a := p.person("Alice")
	id := a.create("")
	a.say(id, "promised")
	size := p.org.Messages.Size()
	hidden := &hidingServer{fakeServer: s, size: size - 1, t: t}
	p.cfg.Connect = func(k codec.Signer) client.Server { return hidingConn{conn{s, k.PublicKey()}, hidden} }
	a.restart()
	now = now.Add(23 * time.Hour)
	if sum := a.sync(); sum.Overdue != 0 {
		t.Errorf("got %+v", sum)
	}
	now = now.Add(2 * time.Hour)
	if sum := a.sync(); sum.Overdue != 1 {
		t.Errorf("got %+v", sum)
	}
}

func TestSeedsAreErased(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "hello")
	b.sync()
	a.sync()
	for _, x := range []*person{a, b} {
		for m, err := range x.Messages(id, 0) {
			if err != nil || !m.Archived {
				t.Errorf("%s: %+v, %v", x.Name(), m, err)
			}
		}
	}
}

func TestAtRest(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice Lidell"), p.person("Bob Bobbington")
	id := a.create("the hostile takeover", b)
	a.say(id, "meet me behind the warehouse")
	b.sync()
	for _, x := range []*person{a, b} {
		x.Close()
		for name, data := range readAll(t, x.dir) {
			for _, secret := range []string{"warehouse", "hostile takeover", "Lidell", "Bobbington", id.String(), string(id[:]), x.member.String(), string(x.member[:])} {
				if bytes.Contains(data, []byte(secret)) {
					t.Errorf("%s has %q in clear", name, secret)
				}
			}
		}
	}
}
