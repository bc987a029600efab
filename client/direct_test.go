package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/replica"
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
// TestDirectPreKeys: what a server can do with prekeys.
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
// TestDirectLiar: a sender that archives something other than what it sends is
// convicted here too, and every device of the two has the report.
// TestDirectKind: nobody makes a group of a direct conversation, nor one of other
// members or devices.
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
