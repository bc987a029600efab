package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/report"
)

// fine fails where one of the devices has seen anything wrong.
func fine(t *testing.T, people ...*person) {
	t.Helper()
	for _, x := range people {
		if n := x.Counters(); n.Mismatches+n.Undecryptable+n.Unverified+n.Index+n.Faulty > 0 {
			t.Errorf("%s: got %+v", x.Name(), n)
			for _, c := range must(x.Conversations()) {
				for problem := range x.Problems(c.ID) {
					t.Errorf("%s: %s", x.Name(), problem.Reason)
				}
				for m := range x.Messages(c.ID, 0) {
					if !m.Indexed {
						t.Errorf("%s: %q at %d isn't indexed", x.Name(), m.Text, m.Position)
					}
				}
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (p *party) revoke(x *person) {
	p.Helper()
	p.mu.Lock()
	p.org.Add(&control.Revocation{Device: x.Hash(), Reason: "lost"}, p.org.Officers[0])
	p.mu.Unlock()
}

func TestDirect(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	phone := p.deviceOf(a.member, "Alice")
	id := a.create("the plan", b)
	var want []string
	for i := range 3 {
		for _, x := range []*person{a, phone, b} {
			x.restart()
			x.sync()
			text := fmt.Sprintf("%s %d", x.Hash().Short(), i)
			x.say(id, text)
			want = append(want, text)
		}
	}
	p.org.SetClock(func() time.Time { return time.Now().Add(2 * time.Minute) })
	for _, x := range []*person{a, phone, b} {
		x.sync()
		x.want(id, want...)
		conv, err := x.Conversation(id)
		if err != nil || !conv.Direct || conv.Name != "the plan" || conv.Devices != 3 || len(conv.Members) != 2 || conv.Epoch != 0 {
			t.Errorf("got %+v, %v", conv, err)
		}
		for m, err := range x.Messages(id, 0) {
			if err != nil || !m.Archived || !m.Indexed {
				t.Errorf("%s: got %+v, %v", x.Name(), m, err)
			}
		}
	}
	fine(t, a, phone, b)
	c := p.person("Carol")
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); !errors.Is(err, client.ErrDirect) {
		t.Errorf("got %v", err)
	}
	if err := a.Remove(t.Context(), id, []codec.ID{b.member}); !errors.Is(err, client.ErrDirect) {
		t.Errorf("got %v", err)
	}
	// Another conversation of the two goes on the same sessions.
	other := b.create("", a)
	b.say(other, "and another thing")
	a.sync()
	a.want(other, "and another thing")
	if err := b.Leave(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	a.sync()
	for _, x := range []*person{a, b} {
		if _, err := x.Send(t.Context(), other, client.Draft{Text: "x"}); !errors.Is(err, client.ErrLeft) {
			t.Errorf("got %v", err)
		}
	}
}

// TestDirectDevices adds and revokes devices: the next message states who is
// there now, and the server refuses what was for others.
func TestDirectDevices(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("x", b)
	a.say(id, "one")
	p.down = true
	b.say(id, "queued before the phone came") // under a roster that is out of date when it goes
	p.down = false
	phone := p.deviceOf(a.member, "Alice")
	b.sync()
	phone.sync()
	phone.want(id, "queued before the phone came")
	phone.say(id, "from the phone")
	tablet := p.deviceOf(b.member, "Bob")
	once := true
	p.refuse = func(h *envelope.Header) string {
		if once && h.Device == a.Hash() {
			once = false
			p.mu.Unlock() // sealed, and on its way
			defer p.mu.Lock()
			p.revoke(phone)
			return "roster: the members' devices are others now"
		}
		return ""
	}
	a.say(id, "without the phone")
	for _, x := range []*person{a, b, tablet} {
		x.sync()
		x.sync()
	}
	a.want(id, "one", "queued before the phone came", "from the phone", "without the phone")
	b.want(id, "one", "queued before the phone came", "from the phone", "without the phone")
	tablet.want(id, "without the phone")
	if conv, err := tablet.Conversation(id); err != nil || conv.Devices != 3 || conv.Name != "x" {
		t.Errorf("got %+v, %v", conv, err)
	}
	fine(t, a, b, tablet)
	// In silence it is stated too.
	p.revoke(tablet)
	if err := p.cfg.Replica.Sync(t.Context(), conn{fakeServer: p.fakeServer}); err != nil {
		t.Fatal(err)
	}
	b.sync()
	a.sync()
	if conv, err := a.Conversation(id); err != nil || conv.Devices != 2 {
		t.Errorf("got %+v, %v", conv, err)
	}
	// Who has no device left can't be written to, and holds nothing else up.
	p.revoke(b)
	c := p.person("Carol")
	var refusal *client.Refusal
	if _, err := a.Send(t.Context(), id, client.Draft{Text: "x"}); !errors.As(err, &refusal) {
		t.Errorf("got %v", err)
	}
	other := a.create("", c)
	a.say(other, "hello")
	c.sync()
	c.want(other, "hello")
	fine(t, a, c)
}

// TestDirectRoster: a server and a device that send past a new device, or to a
// revoked one, are found out by the recipients.
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

// fork gives a device a replica of its own.
func (x *person) fork(p *party) {
	p.Helper()
	cfg := p.cfg
	cfg.Replica = replica.New(p.org.ID)
	if err := cfg.Replica.Sync(p.Context(), conn{fakeServer: p.fakeServer}); err != nil {
		p.Fatal(err)
	}
	x.close()
	d, err := client.Open(cfg, x.dir, x.key)
	if err != nil {
		p.Fatal(err)
	}
	x.Device = d
}

func (x *person) close() {
	x.p.Helper()
	if err := x.Close(); err != nil {
		x.p.Fatal(err)
	}
}

// TestDirectSwapped: the server gives devices one another's ciphertexts, or the
// same one twice.
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

// TestDirectPreKeys: what a server can do with prekeys.
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
	t.Run("another device's", func(t *testing.T) {
		p := newParty(t)
		a, b, mallory := p.person("Alice"), p.person("Bob"), p.person("Mallory")
		bundle := must(p.ClaimBundles(t.Context(), []codec.Hash{mallory.Hash()}))[0]
		p.bundles = func(_ []codec.Hash, bundles [][]byte) { bundles[0] = bundle }
		if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); !errors.Is(err, client.ErrServer) {
			t.Errorf("got %v", err)
		}
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
	t.Run("published while a message was on its way", func(t *testing.T) {
		p := newParty(t)
		a, b := p.person("Alice"), p.person("Bob")
		tablet := p.deviceOf(b.member, "Bob")
		had := p.prekeys[tablet.Hash()]
		p.prekeys[tablet.Hash()] = nil
		id := a.create("", b)
		p.refuse = func(h *envelope.Header) string {
			if h.Kind == envelope.KindRecord && p.prekeys[tablet.Hash()] == nil {
				p.prekeys[tablet.Hash()] = had
				return "prekeys: nothing for the tablet"
			}
			return ""
		}
		a.say(id, "hello")
		tablet.sync()
		tablet.want(id, "hello")
		fine(t, a, tablet)
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

// TestDirectStateLoss: Bob loses his sessions with Alice. What she sends meanwhile is
// lost to him, which accuses nobody; he begins anew, once, and they go on.
func TestDirectStateLoss(t *testing.T) {
	p := newParty(t)
	now := time.Now()
	p.org.SetClock(func() time.Time { return now })
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "one")
	b.sync()
	b.say(id, "two")
	a.sync()
	restarts := func() (n int) {
		for m := range b.Messages(id, 0) {
			if slices.Contains(m.Flags, client.FlagRestart) {
				n++
			}
		}
		return n
	}
	if err := b.TestOnlyForgetSessions(a.Hash()); err != nil {
		t.Fatal(err)
	}
	lost := a.say(id, "lost")
	a.say(id, "lost as well")
	b.sync()
	if restarts() != 1 {
		t.Errorf("%d restarts", restarts())
	}
	for problem, err := range b.Problems(id) {
		if err != nil || problem.Mismatch || len(problem.Report) > 0 || problem.Position < lost.Position {
			t.Errorf("got %+v, %v", problem, err)
		}
	}
	a.sync()
	a.say(id, "three")
	b.sync()
	b.say(id, "four")
	a.sync()
	a.want(id, "one", "two", "lost", "lost as well", "", "three", "four")
	b.want(id, "one", "two", "", "three", "four")
	if n := b.Counters(); n.Undecryptable != 2 || n.Faulty+n.Mismatches > 0 {
		t.Errorf("got %+v", n)
	}
	fine(t, a)
}

// TestDirectOrder: two devices begin at once, and messages cross.
func TestDirectOrder(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	first, second := a.create("", b), b.create("", a)
	for i := range 4 {
		a.say(first, fmt.Sprint("a", i))
		b.say(second, fmt.Sprint("b", i))
	}
	// The server turns the order of the two conversations round for Bob.
	b.sync()
	a.sync()
	for i := 4; i < 6; i++ {
		b.say(first, fmt.Sprint("b", i))
		a.say(second, fmt.Sprint("a", i))
		a.sync()
		b.sync()
	}
	a.want(first, "a0", "a1", "a2", "a3", "b4", "b5")
	b.want(first, "a0", "a1", "a2", "a3", "b4", "b5")
	a.want(second, "b0", "b1", "b2", "b3", "a4", "a5")
	b.want(second, "b0", "b1", "b2", "b3", "a4", "a5")
	fine(t, a, b)
}

// TestDirectReordered delivers a conversation backwards: what the server left out
// it is charged with, and every message opens all the same.
func TestDirectReordered(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	start := len(p.queue)
	for i := range 5 {
		a.say(id, fmt.Sprint(i))
	}
	slices.Reverse(p.queue[start:])
	for i := start; i < len(p.queue); i++ {
		p.queue[i].Cursor = uint64(i) + 1
	}
	b.sync()
	b.want(id, "0", "1", "2", "3", "4")
	if n := b.Counters(); n.Delivered != 5 || n.Undecryptable > 0 {
		t.Errorf("got %+v", n)
	}
}

// TestDirectPolicy: a device that goes back to an earlier policy than that of its
// last message is refused by the recipients, within the server's grace.
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

// TestDirectLiar: a sender that archives something other than what it sends is
// convicted here too, and every device of the two has the report.
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

// TestDirectKind: nobody makes a group of a direct conversation, nor one of other
// members or devices.
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

// TestGroupsOfTwoGoOn: conversations of two that were made as groups stay groups,
// and a device of before can be written to once it has come back.
func TestGroupsOfTwoGoOn(t *testing.T) {
	p := newParty(t)
	pairs := p.cfg.Pairs
	p.cfg.Pairs = nil
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("old", b)
	a.say(id, "one")
	p.cfg.Pairs = pairs
	a.restart()
	a.sync()
	if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); !errors.Is(err, client.ErrNoSession) {
		t.Errorf("got %v", err)
	}
	b.restart()
	b.sync()
	b.say(id, "two")
	a.sync()
	direct := a.create("new", b)
	a.say(direct, "three")
	b.sync()
	b.want(id, "one", "two")
	b.want(direct, "three")
	for _, x := range []*person{a, b} {
		old, err := x.Conversation(id)
		if err != nil || old.Direct || old.Epoch == 0 {
			t.Errorf("got %+v, %v", old, err)
		}
	}
	fine(t, a, b)
}

// TestDirectCrashes stops Alice's device between any two steps of founding a
// conversation, stating a change, sending and receiving, and starts it again from
// its disk. Nothing is lost or doubled, and no key is used twice.
func TestDirectCrashes(t *testing.T) {
	server := newServer(t)
	type scene struct {
		*party
		a, b, phone *person
		id          codec.ID
	}
	setup := func(t *testing.T) *scene {
		server.t, server.org.T = t, t
		p := newPartyOf(t, server)
		s := &scene{party: p, a: p.person("Alice"), b: p.person("Bob")}
		s.id = s.b.create("x", s.a)
		s.b.say(s.id, "from Bob")
		s.phone = p.deviceOf(s.b.member, "Bob")
		return s
	}
	play := func(s *scene) error {
		if _, err := s.a.Sync(context.Background()); err != nil {
			return err
		}
		if _, err := s.a.Send(context.Background(), s.id, client.Draft{ID: "first", Text: "one"}); err != nil {
			return err
		}
		if _, err := s.a.Create(context.Background(), "y", []codec.ID{s.b.member}); err != nil {
			return err
		}
		_, err := s.a.Send(context.Background(), s.id, client.Draft{ID: "second", Text: "two"})
		return err
	}
	steps := 0
	s := setup(t)
	s.a.TestOnlyStep(func(string) error { steps++; return nil })
	if err := play(s); err != nil {
		t.Fatal(err)
	}
	if steps < 15 {
		t.Fatalf("only %d steps", steps)
	}
	for n := 1; n <= steps; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := setup(t)
			at, name := 0, ""
			s.a.TestOnlyStep(func(step string) error {
				if at++; at >= n {
					if at == n {
						name = step
					}
					return errCrash
				}
				return nil
			})
			if err := play(s); !errors.Is(err, errCrash) && n < steps {
				t.Fatalf("crash at %d (%s): got %v", n, name, err)
			}
			if err := s.a.TestOnlyCrash(); err != nil {
				t.Fatal(err)
			}
			s.a.reopen()
			s.a.sync()
			for _, text := range []string{"one", "two"} {
				if !slices.Contains(s.a.texts(s.id), text) {
					s.a.say(s.id, text)
				}
			}
			for _, x := range []*person{s.b, s.phone, s.a} {
				x.sync()
				x.sync()
			}
			fine(t, s.a, s.b, s.phone)
			got := s.b.texts(s.id)
			if !slices.Equal(got, s.a.texts(s.id)) {
				t.Errorf("crash at %d (%s): %q and %q", n, name, got, s.a.texts(s.id))
			}
			for _, text := range []string{"one", "two", "from Bob"} {
				if i := slices.Index(got, text); i < 0 || slices.Contains(got[i+1:], text) {
					t.Errorf("crash at %d (%s): %q", n, name, got)
				}
			}
		})
	}
}
