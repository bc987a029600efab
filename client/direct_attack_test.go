package client_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/report"
)

func TestDirectRoster(t *testing.T) {
	for name, change := range map[string]func(p *party, a *person){
		"a device that was added":   func(p *party, a *person) { p.deviceOf(a.member, "Alice") },
		"a device that was revoked": func(p *party, a *person) { p.revoke(a.phone) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			a, b := p.person("Alice"), p.person("Bob")
			a.phone = p.deviceOf(a.member, "Alice")
			id := a.create("", b)
			b.say(id, "for everybody")
			b.fork(p) // sees nothing new of the control log
			change(p, a)
			p.lax = true
			b.say(id, "not for everybody")
			a.fork(p)
			a.sync()
			a.want(id, "for everybody")
			if n := a.Counters(); n.Faulty != 1 {
				t.Errorf("got %+v", n)
			}
		})
	}
}

func TestDirectSwapped(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	tablet := p.deviceOf(b.member, "Bob")
	id := a.create("", b)
	a.say(id, "pay 100")
	n := len(p.queue)
	var mine, theirs *wire.Delivery
	for i := range p.queue[n-3:] {
		q := &p.queue[n-3+i]
		if q.to[b.Hash()] {
			mine = &q.Delivery
		} else if q.to[tablet.Hash()] {
			theirs = &q.Delivery
		}
	}
	again := *mine
	mine.Body, theirs.Body = theirs.Body, mine.Body
	b.sync()
	tablet.sync()
	for _, x := range []*person{b, tablet} {
		x.want(id)
		if n := x.Counters(); n.Faulty != 1 || n.Undecryptable > 0 {
			t.Errorf("got %+v", n)
		}
	}
	// What was swapped is lost, and the next opens.
	a.say(id, "pay 200")
	tablet.sync()
	tablet.want(id, "pay 200")
	// The initial message once more, at a place of its own, opens nothing twice.
	m, err := manifest.Parse(again.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again.Receipt = p.receive(manifest.LeafMessage, id, m.Hash())
		p.enqueue(map[codec.Hash]bool{b.Hash(): true}, again)
	}
	b.sync()
	b.restart()
	b.sync()
	b.want(id, "pay 200", "pay 100")
	if n := b.Counters(); n.Undecryptable != 1 {
		t.Errorf("got %+v", n)
	}
}

func TestDirectPreKeys(t *testing.T) {
	t.Run("one-time ones withheld", func(t *testing.T) {
		p := newParty(t)
		a, b := p.person("Alice"), p.person("Bob")
		for _, x := range p.prekeys {
			x.oneTime, x.kem = nil, nil
		}
		id := a.create("", b)
		a.say(id, "under the last resort")
		b.sync()
		b.say(id, "answered")
		a.sync()
		a.want(id, "under the last resort", "answered")
		fine(t, a, b)
	})
	t.Run("one handed out twice", func(t *testing.T) {
		p := newParty(t)
		a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
		var kept []byte
		p.bundles = func(devices []codec.Hash, bundles [][]byte) {
			if devices[0] != b.Hash() {
				return
			}
			if kept == nil {
				kept = bundles[0]
			}
			bundles[0] = kept
		}
		first, second := a.create("", b), c.create("", b)
		a.say(first, "hello")
		c.say(second, "lost")
		p.bundles = nil
		b.sync() // can't open Carol's, and tells her
		c.sync()
		c.say(second, "here again")
		b.sync()
		b.want(first, "hello")
		b.want(second, "", "here again") // Bob's own word that he begins anew
		if n := b.Counters(); n.Undecryptable != 1 || n.Faulty > 0 {
			t.Errorf("got %+v", n)
		}
		fine(t, a, c)
	})
	t.Run("another device's, which hold up nothing else", func(t *testing.T) {
		p := newParty(t)
		a, b, mallory := p.person("Alice"), p.person("Bob"), p.person("Mallory")
		other := a.create("", mallory)
		bundle := must(p.ClaimBundles(t.Context(), []codec.Hash{mallory.Hash()}))[0]
		p.bundles = func(_ []codec.Hash, bundles [][]byte) { bundles[0] = bundle }
		if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); !errors.Is(err, client.ErrNoSession) {
			t.Errorf("got %v", err)
		}
		p.bundles = nil
		id := b.create("", a)
		p.bundles = func(_ []codec.Hash, bundles [][]byte) { bundles[0] = bundle }
		var refusal *client.Refusal
		if _, err := a.Send(t.Context(), id, client.Draft{Text: "x"}); !errors.As(err, &refusal) {
			t.Errorf("got %v", err)
		}
		a.say(other, "hello")
		mallory.sync()
		mallory.want(other, "hello")
	})
	t.Run("all of one device's withheld", func(t *testing.T) {
		p := newParty(t)
		a, b := p.person("Alice"), p.person("Bob")
		tablet := p.deviceOf(b.member, "Bob")
		p.bundles = func(devices []codec.Hash, bundles [][]byte) {
			if i := slices.Index(devices, tablet.Hash()); i >= 0 {
				bundles[i] = nil
			}
		}
		id := a.create("", b)
		a.say(id, "hello")
		b.sync()
		tablet.sync()
		b.want(id, "hello")
		tablet.want(id)
		if n := tablet.Counters(); n.Undecryptable != 1 || n.Faulty > 0 {
			t.Errorf("got %+v", n)
		}
		p.bundles = nil
		a.say(id, "hello again")
		tablet.sync()
		tablet.want(id, "hello again")
	})
	t.Run("all withheld", func(t *testing.T) {
		p := newParty(t)
		a, b := p.person("Alice"), p.person("Bob")
		p.bundles = func(_ []codec.Hash, bundles [][]byte) { clear(bundles) }
		if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); !errors.Is(err, client.ErrNoSession) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("drained", func(t *testing.T) {
		p := newParty(t)
		now := time.Now()
		p.org.SetClock(func() time.Time { return now })
		b := p.person("Bob")
		had := p.prekeys[b.Hash()]
		if len(had.oneTime) != p.cfg.Stock || len(had.kem) != p.cfg.Stock {
			t.Fatalf("%d and %d in stock", len(had.oneTime), len(had.kem))
		}
		had.oneTime, had.kem = nil, nil
		now = now.Add(2 * time.Minute)
		p.lost = func(what string) bool { return what == "publish" }
		if _, err := b.Sync(t.Context()); !errors.Is(err, remote.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		p.lost = nil
		b.restart()
		b.sync() // the same upload once more: taken once
		if len(had.oneTime) != p.cfg.Stock || had.number != 2 {
			t.Errorf("%d in stock after upload %d", len(had.oneTime), had.number)
		}
		signed := had.signed
		now = now.Add(8 * 24 * time.Hour)
		b.sync()
		if had.number != 3 || bytes.Equal(had.signed, signed) {
			t.Error("the signed prekey was not replaced after a week")
		}
	})
}

func TestDirectPolicy(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	before := p.org.Control.Size()
	policy := p.org.State.Policy().Policy
	policy.Version++
	policy.MaxRequestDays--
	p.org.Add(&policy, p.org.Two()...)
	a.fork(p)
	a.say(id, "under the new policy")
	p.hidden = p.org.Control.Size() - before
	a.fork(p) // as a device would that ignores what it knows
	p.lax = true
	a.say(id, "under the old one")
	p.hidden = 0
	b.sync()
	b.want(id, "under the new policy")
	reasons := ""
	for problem := range b.Problems(id) {
		reasons += problem.Reason
	}
	if !strings.Contains(reasons, "earlier policy") || b.Counters().Faulty != 1 {
		t.Errorf("got %q, %+v", reasons, b.Counters())
	}
}

func TestDirectLiar(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	phone := p.deviceOf(a.member, "Alice")
	id := a.create("", b)
	a.TestOnlyArchive(func(record []byte) []byte {
		r := must(envelope.ParseRecord(record))
		r.Text = "lunch at noon?"
		return r.Encode()
	})
	lie := a.say(id, "sell everything")
	a.TestOnlyArchive(nil)
	b.sync()
	b.sync() // the report has gone out
	b.want(id)
	if n := b.Counters(); n.Mismatches != 1 || n.Undecryptable+n.Faulty > 0 {
		t.Errorf("got %+v", n)
	}
	for _, x := range []*person{a, phone} {
		x.sync()
		found := false
		for m, err := range x.Messages(id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if !m.Report || m.Target != lie.Core.String() {
				continue
			}
			found = true
			p.cfg.Replica.Read(func(s *control.State) {
				v, err := report.Verify(s, func(n int64) (codec.Hash, bool) { return p.org.Control.Root(n), true }, m.Evidence)
				if err != nil || v.Fault != report.FaultEnvelope || v.Member != a.member {
					t.Errorf("got %+v, %v", v, err)
				}
			})
		}
		if !found {
			t.Errorf("%s has no report", x.Hash().Short())
		}
	}
}

func TestDirectKind(t *testing.T) {
	for name, change := range map[string]func(p *party, c *manifest.Commit, d *wire.Delivery){
		"a group": func(_ *party, c *manifest.Commit, d *wire.Delivery) {
			d.Body, c.Transcript, c.Message = []byte("commit"), make([]byte, 32), manifest.CiphertextHash([]byte("commit"))
		},
		"other members": func(_ *party, c *manifest.Commit, d *wire.Delivery) {
			direct := manifest.NewDirect([]codec.ID{codec.NewID(), codec.NewID()}, nil, nil)
			d.Body, c.Message = direct.Encode(), direct.Hash()
		},
		"one device more": func(p *party, c *manifest.Commit, d *wire.Delivery) {
			other := p.person("Mallory")
			d.Roster = manifest.NewRoster(append(slices.Clone(d.Roster), other.Hash()))
			direct := manifest.NewDirect(must(manifest.ParseDirect(d.Body)).Members, d.Roster, p.conversations[c.Conversation].roster)
			c.Roster, d.Body, c.Message = d.Roster.Root(), direct.Encode(), direct.Hash()
		},
		"another device new": func(p *party, c *manifest.Commit, d *wire.Delivery) {
			direct := manifest.NewDirect(must(manifest.ParseDirect(d.Body)).Members, d.Roster, nil)
			d.Body, c.Message = direct.Encode(), direct.Hash()
		},
		"another roster than signed": func(_ *party, _ *manifest.Commit, d *wire.Delivery) {
			d.Roster = d.Roster[:1]
		},
		"an epoch left out": func(_ *party, c *manifest.Commit, _ *wire.Delivery) { c.Epoch++ },
		"another before":    func(_ *party, c *manifest.Commit, _ *wire.Delivery) { c.Previous = codec.Sum("x") },
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			a, b := p.person("Alice"), p.person("Bob")
			id := a.create("", b)
			conv := p.conversations[id]
			direct := manifest.NewDirect([]codec.ID{a.member, b.member}, nil, nil)
			c := &manifest.Commit{
				Organisation: p.org.ID, Conversation: id, Epoch: 1, Device: a.Hash(), Previous: conv.commit,
				Roster: conv.roster.Root(), Message: direct.Hash(),
			}
			d := wire.Delivery{Kind: wire.DeliveryCommit, Body: direct.Encode(), Roster: conv.roster}
			change(p, c, &d)
			d.Manifest = must(manifest.SignCommit(a.Signer(), c))
			d.Receipt = p.receive(manifest.LeafCommit, id, manifest.CommitHash(d.Manifest))
			p.enqueue(map[codec.Hash]bool{b.Hash(): true}, d)
			b.sync()
			if got, err := b.Conversation(id); err != nil || got.Broken == "" {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("a late one", func(t *testing.T) {
		p := newParty(t)
		a, b := p.person("Alice"), p.person("Bob")
		id := a.create("", b)
		phone := p.deviceOf(b.member, "Bob")
		a.say(id, "kept from the phone")
		for i := range p.queue {
			delete(p.queue[i].to, phone.Hash())
		}
		p.deviceOf(a.member, "Alice")
		a.say(id, "shown to the phone")
		phone.sync()
		if _, err := phone.Conversation(id); !errors.Is(err, client.ErrNoConversation) || phone.Counters().Faulty != 1 {
			t.Errorf("got %v, %+v", err, phone.Counters())
		}
	})
	t.Run("of others", func(t *testing.T) {
		p := newParty(t)
		a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
		id := a.create("", b)
		statement := p.queue[len(p.queue)-1].Delivery
		if statement.Kind != wire.DeliveryCommit {
			t.Fatal("not the statement")
		}
		p.enqueue(map[codec.Hash]bool{c.Hash(): true}, statement)
		c.sync()
		if _, err := c.Conversation(id); !errors.Is(err, client.ErrNoConversation) || c.Counters().Faulty != 1 {
			t.Errorf("got %v, %+v", err, c.Counters())
		}
	})
}
