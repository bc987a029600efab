package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/report"
)

func TestConversation(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("the plan", b, c)
	a.say(id, "hello")
	b.sync()
	b.say(id, "hi")
	for _, x := range []*person{a, b, c} {
		x.sync()
		x.want(id, "hello", "hi")
		conv, err := x.Conversation(id)
		if err != nil || conv.Name != "the plan" || len(conv.Members) != 3 {
			t.Errorf("%s: got %+v, %v", x.Name(), conv, err)
		}
	}
	for _, x := range []*person{a, b, c} {
		sum := x.sync()
		if n := x.Counters(); n.Mismatches+n.Undecryptable+n.Index+n.Faulty > 0 || len(sum.Problems) > 0 {
			t.Errorf("%s: got %+v, %q", x.Name(), n, sum.Problems)
		}
		for m, err := range x.Messages(id, 0) {
			if err != nil || !m.Archived || !m.Indexed {
				t.Errorf("%s: got %+v, %v", x.Name(), m, err)
			}
		}
	}
}

func TestEditsDeletionsReactionsReplies(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	first, second := a.say(id, "teh plan"), a.say(id, "a secret")
	a.send(id, client.Draft{Action: envelope.ActionEdit, Target: first.ID, Text: "the plan"})
	a.send(id, client.Draft{Action: envelope.ActionDelete, Target: second.ID})
	b.sync()
	b.send(id, client.Draft{Action: envelope.ActionReaction, Target: first.ID, Text: "👍"})
	reply := b.send(id, client.Draft{Action: envelope.ActionReply, Target: first.ID, Text: "agreed"})
	// Nobody edits another's words, nor takes their id.
	b.send(id, client.Draft{Action: envelope.ActionEdit, Target: first.ID, Text: "no plan"})
	b.send(id, client.Draft{Action: envelope.ActionDelete, Target: first.ID})
	b.send(id, client.Draft{ID: first.ID, Text: "not Alice's"})
	for _, x := range []*person{a, b} {
		x.sync()
		entries, err := x.Timeline(id)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 4 {
			t.Fatalf("%d entries", len(entries))
		}
		e := entries[0]
		if e.Text != "the plan" || !e.Edited || e.Deleted || !slices.Equal(e.Reactions["👍"], []codec.ID{b.member}) || !slices.Equal(e.Replies, []string{reply.ID}) {
			t.Errorf("%s: got %+v", x.Name(), e)
		}
		if e := entries[1]; e.Text != "" || !e.Deleted {
			t.Errorf("%s: got %+v", x.Name(), e)
		}
		if e := entries[3]; e.Member != b.member || e.Text != "not Alice's" {
			t.Errorf("%s: got %+v", x.Name(), e)
		}
	}
}

func TestNoteToSelfAndSecondDevice(t *testing.T) {
	p := newParty(t)
	a := p.person("Alice")
	id := a.create("notes")
	a.say(id, "milk")
	a.want(id, "milk")
	phone := p.deviceOf(a.member, "Alice")
	both := a.create("both")
	phone.sync()
	a.say(both, "eggs")
	phone.sync()
	phone.want(both, "eggs")
	phone.say(both, "bread")
	a.sync()
	a.want(both, "eggs", "bread")
}

func TestRestart(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("x", b)
	var want []string
	for i := range 6 {
		for _, x := range []*person{a, b} {
			x.restart()
			x.sync()
			text := fmt.Sprintf("%s %d", x.Name(), i)
			x.say(id, text)
			want = append(want, text)
		}
	}
	a.restart()
	a.sync()
	b.restart()
	a.want(id, want...)
	b.want(id, want...)
}

func TestOffline(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("x", b)
	p.down = true
	for _, text := range []string{"one", "two", "three"} {
		if s := a.say(id, text); !s.Queued {
			t.Error("sent without a server")
		}
	}
	a.restart()
	if sum, err := a.Sync(t.Context()); !errors.Is(err, remote.ErrUnavailable) || sum.Waiting != 3 {
		t.Errorf("got %+v, %v", sum, err)
	}
	p.down = false
	if sum := a.sync(); sum.Sent != 3 || sum.Waiting != 0 {
		t.Errorf("got %+v", sum)
	}
	b.sync()
	b.want(id, "one", "two", "three")
	a.want(id, "one", "two", "three")
}

// TestLostAnswers: the server took it, and the answer never came.
func TestLostAnswers(t *testing.T) {
	for _, what := range []string{"send", "commit", "void"} {
		t.Run(what, func(t *testing.T) {
			p := newParty(t)
			a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
			id := a.create("x", b)
			if what == "void" {
				p.refuse = func(h *envelope.Header) string {
					if h.Kind == envelope.KindRecord {
						p.refuse = nil
						return "kind: not today"
					}
					return ""
				}
			}
			times := 2
			p.lost = func(w string) bool {
				if w == what && times > 0 {
					times--
					return true
				}
				return false
			}
			if what == "commit" {
				if err := a.Add(t.Context(), id, []codec.ID{c.member}); !errors.Is(err, remote.ErrUnavailable) {
					t.Fatalf("got %v", err)
				}
			} else {
				a.say(id, "one")
			}
			a.restart()
			a.Sync(t.Context())
			a.restart()
			a.sync()
			a.say(id, "two")
			b.sync()
			want := []string{"one", "two"}
			switch what {
			case "void":
				want = want[1:]
			case "commit":
				want = want[1:]
				c.sync()
				c.want(id, want...)
			}
			b.want(id, want...)
			a.want(id, want...)
		})
	}
}

var errCrash = errors.New("crash")

// TestCrashes stops a device between any two steps of sending, receiving,
// committing and voiding, and starts it again from its disk. Nothing is lost or
// doubled, and no MLS key is used twice (the receivers would see a replay).
func TestCrashes(t *testing.T) {
	scenario := func(p *party, a *person, id codec.ID, c *person) error {
		if _, err := a.Sync(t.Context()); err != nil {
			return err
		}
		if _, err := a.Send(t.Context(), id, client.Draft{ID: "first", Text: "one"}); err != nil {
			return err
		}
		if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
			return err
		}
		if _, err := a.Send(t.Context(), id, client.Draft{ID: "refused", Text: "never"}); err != nil {
			var r *client.Refusal
			if !errors.As(err, &r) {
				return err
			}
		}
		if _, err := a.Send(t.Context(), id, client.Draft{ID: "second", Text: "two"}); err != nil {
			return err
		}
		return nil
	}
	server := newServer(t) // one for all, as making an organisation takes a while
	setup := func(t *testing.T) (*party, *person, *person, *person, codec.ID) {
		server.t, server.org.T, server.refuse = t, t, nil
		p := newPartyOf(t, server)
		a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
		id := a.create("x", b)
		b.say(id, "from Bob")
		p.refuse = func(h *envelope.Header) string {
			// The refused message is not a profile, its number known.
			if h.Device == a.Hash() && h.Kind == envelope.KindRecord && h.Seq == 5 {
				return "kind: not this one"
			}
			return ""
		}
		return p, a, b, c, id
	}
	steps := 0
	p, a, _, c, id := setup(t)
	a.TestOnlyStep(func(string) error { steps++; return nil })
	if err := scenario(p, a, id, c); err != nil {
		t.Fatal(err)
	}
	if steps < 20 {
		t.Fatalf("only %d steps", steps)
	}
	for n := 1; n <= steps; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			p, a, b, c, id := setup(t)
			at, name := 0, ""
			a.TestOnlyStep(func(step string) error {
				if at++; at >= n { // and nothing after it
					if at == n {
						name = step
					}
					return errCrash
				}
				return nil
			})
			if err := scenario(p, a, id, c); !errors.Is(err, errCrash) && n < steps {
				t.Fatalf("crash at %d (%s): got %v", n, name, err)
			}
			if err := a.TestOnlyCrash(); err != nil {
				t.Fatal(err)
			}
			a.reopen()
			a.sync()
			// What the user would do: say again what isn't there.
			have := a.texts(id)
			if !slices.Contains(have, "one") {
				a.say(id, "one")
			}
			// The refused number may now be the profile's that goes with an Add.
			var refused *client.Refusal
			err := a.Add(t.Context(), id, []codec.ID{c.member})
			if errors.As(err, &refused) {
				err = a.Add(t.Context(), id, []codec.ID{c.member})
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(have, "two") {
				a.refusedSay(id, "two")
			}
			for _, x := range []*person{b, c, a} {
				x.sync()
				x.sync()
				if n := x.Counters(); n.Undecryptable+n.Mismatches+n.Faulty > 0 {
					t.Errorf("crash at %d (%s): %s has %+v", n, name, x.Name(), n)
				}
			}
			got := b.texts(id)
			if !slices.Equal(got, a.texts(id)) {
				t.Errorf("crash at %d (%s): %q and %q", n, name, got, a.texts(id))
			}
			for _, text := range []string{"one", "two", "from Bob"} {
				if i := slices.Index(got, text); i < 0 || slices.Contains(got[i+1:], text) {
					t.Errorf("crash at %d (%s): %q", n, name, got)
				}
			}
			if conv, err := c.Conversation(id); err != nil || len(conv.Members) != 3 {
				t.Errorf("crash at %d (%s): %v", n, name, err)
			}
		})
	}
}

// refusedSay says something until the one number that the server refuses is
// behind.
func (x *person) refusedSay(id codec.ID, text string) {
	x.p.Helper()
	var r *client.Refusal
	_, err := x.Send(x.p.Context(), id, client.Draft{Text: text})
	if errors.As(err, &r) {
		_, err = x.Send(x.p.Context(), id, client.Draft{Text: text})
	}
	if err != nil {
		x.p.Fatal(err)
	}
}

func TestRefusalIsVoided(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	refuse := map[envelope.Kind]string{}
	p.refuse = func(h *envelope.Header) string {
		r := refuse[h.Kind]
		delete(refuse, h.Kind)
		return r
	}
	var r *client.Refusal
	refuse[envelope.KindRecord] = "kind: no" // the index before it is sent by itself
	if _, err := a.Send(t.Context(), id, client.Draft{ID: "7", Text: "no"}); err == nil {
		// The number is taken by the index, so the next try is the message's own.
		t.Log("accepted at the second try")
	}
	refuse[envelope.KindRecord] = "kind: no"
	if _, err := a.Send(t.Context(), id, client.Draft{ID: "8", Text: "no"}); !errors.As(err, &r) || r.ID != "8" || r.Reason != "kind: no" {
		t.Errorf("got %v", err)
	}
	a.say(id, "yes")
	// A day or an index that is over needs only to be sealed anew.
	for _, reason := range []string{"header: an old day", "index: older than a removal"} {
		refuse[envelope.KindRecord] = reason
		a.say(id, reason)
	}
	if n := a.Counters().Refused; n != 1 {
		t.Errorf("%d refused", n)
	}
	b.sync()
	if got := b.texts(id); got[len(got)-1] != "index: older than a removal" || slices.Contains(got[1:], "no") || b.Counters().Faulty > 0 {
		t.Errorf("got %q, %+v", got, b.Counters())
	}
}

// TestRefusedIndex: the index envelope of a first message is refused.
func TestRefusedIndex(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	once := true
	p.refuse = func(h *envelope.Header) string {
		if once && h.Kind == envelope.KindIndex {
			once = false
			return "header: bad luck"
		}
		return ""
	}
	a.say(id, "hello")
	b.sync()
	b.want(id, "hello")
	if n := b.Counters(); n.Faulty+n.Index > 0 {
		t.Errorf("got %+v", n)
	}
}

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

// TestReplayedCiphertext: the server shows a message twice, at two places.
func TestReplayedCiphertext(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
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
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			a, b := p.person("Alice"), p.person("Bob")
			id := a.create("", b)
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

// TestPending: a message waits until the control log is witnessed as far as its
// receipt says.
func TestPending(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	p.org.NewMember() // the log grows by an invitation and a device
	p.hidden = 2
	a.say(id, "hello")
	if sum := b.sync(); !sum.Pending || sum.Delivered != 0 {
		t.Errorf("got %+v", sum)
	}
	b.restart()
	p.hidden = 0
	if sum := b.sync(); sum.Pending || sum.Delivered != 1 {
		t.Errorf("got %+v", sum)
	}
	b.want(id, "hello")
}

func TestLostRace(t *testing.T) {
	p := newParty(t)
	a, b, c, d := p.person("Alice"), p.person("Bob"), p.person("Carol"), p.person("Dave")
	id := a.create("", b)
	p.commits = func(*wire.CommitSubmission) bool {
		p.commits = nil
		p.mu.Unlock() // Bob is quicker
		defer p.mu.Lock()
		if err := b.Add(t.Context(), id, []codec.ID{d.member}); err != nil {
			t.Error(err)
		}
		return false
	}
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*person{b, c, d} {
		x.sync()
	}
	a.say(id, "all here")
	for _, x := range []*person{b, c, d} {
		x.sync()
		x.want(id, "all here")
	}
}

// TestStaleEpoch: a message on its way when somebody is removed is encrypted
// anew, and indexed under a key that the removed one doesn't have.
func TestStaleEpoch(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	a.say(id, "before")
	p.down = true
	b.say(id, "queued") // sealed later, when the server is there
	p.down = false
	once := true
	p.refuse = func(h *envelope.Header) string {
		if once && h.Device == b.Hash() {
			once = false
			p.mu.Unlock()
			defer p.mu.Lock()
			if err := a.Remove(t.Context(), id, []codec.ID{c.member}); err != nil {
				t.Error(err)
			}
			return "epoch: somebody was removed"
		}
		return ""
	}
	b.sync()
	if once {
		t.Fatal("the race didn't happen")
	}
	a.sync()
	c.sync()
	for problem, err := range a.Problems(id) {
		t.Error(problem, err)
	}
	a.want(id, "before", "queued")
	c.want(id, "before")
	if n := a.Counters(); n.Index+n.Undecryptable+n.Faulty > 0 {
		t.Errorf("got %+v", n)
	}
	if conv, err := c.Conversation(id); err != nil || !conv.Left {
		t.Errorf("Carol: %+v, %v", conv, err)
	}
	if _, err := c.Send(t.Context(), id, client.Draft{Text: "still here?"}); !errors.Is(err, client.ErrLeft) {
		t.Errorf("got %v", err)
	}
	// And she may come back.
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	c.sync()
	c.say(id, "back")
	a.sync()
	a.want(id, "before", "queued", "back")
}

func TestLeaveAndRevocation(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	if err := b.Leave(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Send(t.Context(), id, client.Draft{Text: "x"}); !errors.Is(err, client.ErrLeft) {
		t.Errorf("got %v", err)
	}
	a.sync()
	b.sync()
	c.sync()
	members := func(x *person) int {
		conv, err := x.Conversation(id)
		if err != nil {
			t.Fatal(err)
		}
		return len(conv.Members)
	}
	if members(a) != 2 || members(c) != 2 {
		t.Errorf("%d and %d members after one has left", members(a), members(c))
	}
	p.org.Add(&control.Revocation{Device: c.Hash(), Reason: "lost"}, p.org.Officers[0])
	if err := p.cfg.Replica.Sync(t.Context(), conn{fakeServer: p.fakeServer}); err != nil {
		t.Fatal(err)
	}
	a.sync()
	if members(a) != 1 {
		t.Errorf("%d members after a revocation", members(a))
	}
	a.say(id, "alone")
}

// TestFalseStatement: a committer signs another roster than it commits. Nobody
// lives in that epoch.
func TestFalseStatement(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b)
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

func TestAcknowledgements(t *testing.T) {
	s := newServer(t)
	now := time.Now()
	s.org.SetClock(func() time.Time { return now })
	p := newPartyOf(t, s)
	p.cfg.Now = s.org.Now
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	count := func() int { return len(p.acks[b.Hash()]) }
	before := count()
	for range 5 {
		a.say(id, "x")
		b.sync()
	}
	if count() != before {
		t.Errorf("%d acknowledgements within a minute", count()-before)
	}
	now = now.Add(time.Minute)
	last := a.say(id, "last")
	b.sync()
	if err := b.MarkRead(id, last.Position); err != nil {
		t.Fatal(err)
	}
	if count() != before+1 {
		t.Errorf("%d acknowledgements after a minute", count()-before)
	}
	now = now.Add(time.Minute)
	b.sync()
	if acks := p.acks[b.Hash()]; len(acks) != before+2 || acks[before+1].Read != last.Position+1 || acks[before].Position != last.Position {
		t.Errorf("got %+v", acks[before:])
	}
	if err := b.MarkRead(id, last.Position+100); err == nil {
		t.Error("read what isn't there")
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

func TestEnrolment(t *testing.T) {
	p := newParty(t)
	member, dir, key := codec.NewID(), t.TempDir(), state.NewKey()
	e := client.Enrolment{Dir: dir, Key: key, Member: member, Name: "Alice", Invitation: p.org.Invite(member)}
	times := 1
	p.lost = func(w string) bool { times--; return times >= 0 && w == "submit" }
	if _, err := client.Enrol(t.Context(), p.cfg, e); !errors.Is(err, remote.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if _, err := client.Open(p.cfg, dir, key); !errors.Is(err, client.ErrNotEnrolled) {
		t.Errorf("got %v", err)
	}
	d, err := client.Enrol(t.Context(), p.cfg, e) // goes on with the same key
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := client.Enrol(t.Context(), p.cfg, e); !errors.Is(err, client.ErrEnrolled) {
		t.Errorf("got %v", err)
	}
	if _, err := client.Open(p.cfg, dir, state.NewKey()); !errors.Is(err, state.ErrKey) {
		t.Errorf("got %v", err)
	}
	other := p.cfg
	other.Replica = replica.New(codec.Sum("test"))
	if _, err := client.Open(other, dir, key); err == nil {
		t.Error("opened for another organisation")
	}
	e.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := client.Enrol(ctx, p.cfg, e); err == nil {
		t.Error("an invitation enrolled two devices")
	}
}

func TestNotice(t *testing.T) {
	p := newParty(t)
	a := p.person("Alice")
	matter := codec.NewID()
	p.org.Add(&control.Matter{ID: matter, Reviewer: p.org.Reviewers[0].Credential()}, p.org.Reviewers[0])
	hold := p.org.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{a.member}, ToDay: 1 << 30, Text: "keep everything"}, p.org.Reviewers[0])
	p.deliver(codec.Hash{}, manifest.Roster{a.Hash()}, wire.Delivery{
		Kind: wire.DeliveryNotice, Body: codec.Encode(&wire.Opening{Opening: *p.org.Leaves[len(p.org.Leaves)-1].Opening}),
	})
	sum := a.sync()
	if sum.Pending { // the log had grown
		if err := p.cfg.Replica.Sync(t.Context(), conn{fakeServer: p.fakeServer}); err != nil {
			t.Fatal(err)
		}
		sum = a.sync()
	}
	if len(sum.Notices) != 1 || sum.Notices[0].Text != "keep everything" || sum.Notices[0].Hold != hold {
		t.Fatalf("got %+v", sum)
	}
	if err := a.AcknowledgeHold(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	if h, _ := p.org.State.Hold(hold); len(h.Acknowledged) != 1 {
		t.Errorf("got %+v", h)
	}
}

func TestHost(t *testing.T) {
	p := newParty(t)
	h, err := client.NewHost(p.cfg, t.TempDir(), state.NewKey(), 2)
	if err != nil {
		t.Fatal(err)
	}
	var members []codec.ID
	for i := range 5 {
		m := codec.NewID()
		if err := h.Enrol(t.Context(), m, "desk", fmt.Sprint("member ", i), p.org.Invite(m)); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	var id codec.ID
	if err := h.With(members[0], "desk", func(d *client.Device) (err error) {
		id, err = d.Create(t.Context(), "all", members)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for i, m := range members {
		go func() {
			errs <- h.With(m, "desk", func(d *client.Device) error {
				if _, err := d.Sync(t.Context()); err != nil {
					return err
				}
				_, err := d.Send(t.Context(), id, client.Draft{Text: fmt.Sprint(i)})
				return err
			})
		}()
	}
	for range members {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, m := range members {
		if err := h.With(m, "desk", func(d *client.Device) error {
			if _, err := d.Sync(t.Context()); err != nil {
				return err
			}
			n := 0
			for msg, err := range d.Messages(id, 0) {
				if err != nil {
					return err
				}
				if msg.Text != "" {
					n++
				}
			}
			if n != len(members) {
				return fmt.Errorf("%s has %d messages", d.Name(), n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := h.With(codec.NewID(), "desk", func(*client.Device) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := h.With(members[0], "../x", func(*client.Device) error { return nil }); err == nil {
		t.Error("a label that is a path")
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.With(members[0], "desk", func(*client.Device) error { return nil }); !errors.Is(err, client.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
