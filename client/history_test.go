package client_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// link makes a further device of a member, which another one signs for.
func (x *person) link(much client.History) *person {
	x.p.Helper()
	n := &person{p: x.p, member: x.member, dir: x.p.TB.(interface{ TempDir() string }).TempDir(), key: state.NewKey()}
	e := client.Enrolment{Dir: n.dir, Key: n.key, Member: x.member, Name: x.Name()}
	request, err := client.Link(x.p.cfg, e)
	if err != nil {
		x.p.Fatal(err)
	}
	again, err := client.Link(x.p.cfg, e)
	if err != nil || !slices.Equal(request, again) {
		x.p.Fatalf("a second link is another: %v", err)
	}
	device, err := x.SignFor(x.p.Context(), request, much)
	if err != nil {
		x.p.Fatal(err)
	}
	if shown, err := client.LinkHash(request); err != nil || shown != device {
		x.p.Fatal(shown, device, err)
	}
	if n.Device, err = client.Enrol(x.p.Context(), x.p.cfg, e); err != nil {
		x.p.Fatal(err)
	}
	x.p.Cleanup(func() { n.Close() })
	return n
}

// past returns the texts of a conversation's history.
func (x *person) past(id codec.ID) []string {
	x.p.Helper()
	out := []string{}
	for m, err := range x.History(id) {
		if err != nil {
			x.p.Fatal(err)
		}
		if m.From.IsZero() {
			x.p.Errorf("%q is shown as if this device had checked it", m.Text)
		}
		if m.Text != "" {
			out = append(out, m.Text)
		}
	}
	return out
}

func (x *person) wantPast(id codec.ID, texts ...string) {
	x.p.Helper()
	if got := x.past(id); !slices.Equal(got, texts) {
		x.p.Errorf("history shows %.200q, want %.200q", got, texts)
	}
}

func (x *person) status() client.HistoryStatus {
	x.p.Helper()
	s, err := x.HistoryStatus()
	if err != nil {
		x.p.Fatal(err)
	}
	return *s
}

// A new device shows what the old one has, on the old one's word.
func TestHistory(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	talk, other := a.create("talk", b), b.create("", a)
	a.say(talk, "one")
	b.sync()
	b.say(talk, "two")
	b.say(other, "elsewhere")
	a.sync()
	n := a.link(client.History{All: true})
	n.sync() // asks
	if s := n.status(); s.Asked.IsZero() || s.Complete || s.Partial {
		t.Errorf("%+v", s)
	}
	if sum := a.sync(); sum.HistorySent == 0 || sum.HistoryWaiting {
		t.Errorf("%+v", sum)
	}
	n.sync()
	n.wantPast(talk, "one", "two")
	n.wantPast(other, "elsewhere")
	if s := n.status(); !s.Complete || s.Partial {
		t.Errorf("%+v", s)
	}
	past, err := n.HistoryConversations()
	if err != nil || len(past) != 2 || past[0].Name != "talk" || !past[0].Complete {
		t.Errorf("%+v, %v", past, err)
	}
	// Nothing twice, and nothing of it stays at the server.
	n.restart()
	n.sync()
	n.wantPast(talk, "one", "two")
	if len(p.letters[n.Hash()])+len(p.letters[a.Hash()]) != 0 {
		t.Error("letters stay at the server")
	}
	// A third device gets from the second what the first one said, too.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	third := n.link(client.History{All: true})
	third.sync()
	n.sync()
	third.sync()
	third.wantPast(talk, "one", "two")
	for m := range third.History(talk) {
		if m.From != a.Hash() {
			t.Errorf("%q is on the word of %s", m.Text, m.From.Short())
		}
	}
}

// The member says how much, and nothing is given that was not granted.
func TestHistoryIsGranted(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "old")
	p.advance(10 * 24 * time.Hour)
	a.say(id, "new")
	a.sync()
	for _, c := range []struct {
		much client.History
		want []string
	}{
		{client.History{}, nil}, {client.History{Days: 5}, []string{"new"}}, {client.History{Days: 30}, []string{"old", "new"}},
	} {
		n := a.link(c.much)
		n.sync()
		a.sync()
		n.sync()
		n.wantPast(id, c.want...)
	}
	// One that the officers invited gets none, until the member says so.
	invited := p.deviceOf(a.member, "Alice")
	invited.sync()
	a.sync()
	invited.sync()
	invited.wantPast(id)
	if err := a.GrantHistory(invited.Hash(), client.History{All: true}); err != nil {
		t.Fatal(err)
	}
	a.sync()
	invited.sync()
	invited.wantPast(id, "old", "new")
	if err := a.GrantHistory(b.Hash(), client.History{All: true}); err == nil {
		t.Error("another member's device was granted history")
	}
	// More, when it asks again: whichever comes first.
	few := a.link(client.History{Days: 5})
	few.sync()
	a.sync()
	few.sync()
	few.wantPast(id, "new")
	if err := a.GrantHistory(few.Hash(), client.History{All: true}); err != nil {
		t.Fatal(err)
	}
	if sum := a.sync(); sum.HistorySent != 0 {
		t.Errorf("a request was answered twice: %+v", sum)
	}
	if err := few.AskHistory(); err != nil {
		t.Fatal(err)
	}
	few.sync()
	a.sync()
	few.sync()
	few.wantPast(id, "new", "old")
}

// A device whose older siblings don't answer asks again, under another key, and
// stops some day.
func TestHistoryIsAskedAgain(t *testing.T) {
	p := newParty(t)
	a := p.person("Alice")
	id := a.create("notes")
	a.say(id, "one")
	a.sync()
	n := a.link(client.History{})
	asked := map[string]bool{}
	for range 25 {
		n.sync()
		n.sync()
		for _, l := range p.letters[a.Hash()] {
			asked[string(l.Body)] = true
		}
		p.advance(73 * time.Hour)
	}
	if len(asked) != 20 || len(p.letters[a.Hash()]) != 20 {
		t.Errorf("%d requests in %d letters", len(asked), len(p.letters[a.Hash()]))
	}
	if err := a.GrantHistory(n.Hash(), client.History{All: true}); err != nil {
		t.Fatal(err)
	}
	a.sync()
	n.sync()
	n.wantPast(id, "one")
}

// Much takes several chunks, several syncs, and waits where the other device has
// to fetch first.
func TestLongHistory(t *testing.T) {
	p := newParty(t)
	a := p.person("Alice")
	id := a.create("notes")
	var want []string
	for i := range 24 {
		want = append(want, fmt.Sprint(i, " ", strings.Repeat("long ", 60<<10)))
		a.say(id, want[i])
	}
	a.say(id, strings.Repeat("x", 1<<20)) // doesn't fit
	a.sync()
	p.full = 2
	n := a.link(client.History{All: true})
	n.sync()
	if sum := a.sync(); !sum.HistoryWaiting || sum.HistorySent == 0 {
		t.Errorf("%+v", sum)
	}
	n.sync()
	if s := n.status(); !s.Partial || s.Complete {
		t.Errorf("%+v", s)
	}
	for range 20 {
		a.restart()
		a.sync()
		n.restart()
		n.sync()
	}
	n.wantPast(id, want...)
	if s := n.status(); s.Partial || !s.Complete {
		t.Errorf("%+v", s)
	}
}

// Both sides are killed at each step, and nothing is lost or shown twice.
func TestHistoryIsKilled(t *testing.T) {
	killed := errors.New("killed")
	for _, step := range []string{"letter", "left", "save", "saved"} {
		for nth := range 4 {
			p := newParty(t)
			a := p.person("Alice")
			id, second := a.create("notes"), a.create("more")
			a.say(id, "one")
			a.say(second, "two")
			a.sync()
			n := a.link(client.History{All: true})
			for _, x := range []*person{n, a, n} {
				seen := 0
				x.TestOnlyStep(func(s string) error {
					if s == step {
						if seen++; seen > nth {
							return killed
						}
					}
					return nil
				})
				if _, err := x.Sync(t.Context()); err != nil && !errors.Is(err, killed) {
					t.Fatal(err)
				}
				if err := x.TestOnlyCrash(); err != nil {
					t.Fatal(err)
				}
				x.reopen()
				x.sync()
			}
			a.sync()
			n.sync()
			n.wantPast(id, "one")
			n.wantPast(second, "two")
			if s := n.status(); !s.Complete {
				t.Errorf("killed at %s, time %d: %+v", step, nth, s)
			}
		}
	}
}

// What the server does to letters is noticed, and what isn't noticed isn't shown.
func TestHistoryAttacks(t *testing.T) {
	type scene struct {
		*party
		a, n *person
		id   codec.ID
	}
	set := func(t *testing.T) *scene {
		p := newParty(t)
		a := p.person("Alice")
		s := &scene{party: p, a: a, id: a.create("notes")}
		for range 3 {
			a.say(s.id, strings.Repeat("word ", 120<<10))
		}
		a.sync()
		s.n = a.link(client.History{All: true})
		s.n.sync()
		a.sync()
		if got := len(p.letters[s.n.Hash()]); got != 4 { // three chunks and the end
			t.Fatalf("%d letters", got)
		}
		return s
	}
	for name, c := range map[string]struct {
		attack   func(s *scene, l []wire.Letter) []wire.Letter
		shown    int
		problems bool
	}{
		"two swapped": {func(_ *scene, l []wire.Letter) []wire.Letter {
			l[1].Body, l[2].Body = l[2].Body, l[1].Body
			return l
		}, 2, true},
		"one withheld": {func(_ *scene, l []wire.Letter) []wire.Letter { return slices.Delete(l, 1, 2) }, 1, true},
		"the newest withheld": {func(_ *scene, l []wire.Letter) []wire.Letter {
			return slices.Delete(l, 2, 3)
		}, 2, false},
		"the end withheld": {func(_ *scene, l []wire.Letter) []wire.Letter { return l[:3] }, 3, false},
		"one bit": {func(_ *scene, l []wire.Letter) []wire.Letter {
			l[0].Body[len(l[0].Body)/2] ^= 1
			return l
		}, 0, true},
		"one cut": {func(_ *scene, l []wire.Letter) []wire.Letter {
			l[1].Body = l[1].Body[:len(l[1].Body)-1]
			return l
		}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := set(t)
			s.letters[s.n.Hash()] = c.attack(s, s.letters[s.n.Hash()])
			sum := s.n.sync()
			if got := len(s.n.past(s.id)); got != c.shown {
				t.Errorf("%d messages are shown, want %d", got, c.shown)
			}
			if (len(sum.Problems) > 0) != c.problems {
				t.Errorf("problems %q", sum.Problems)
			}
			if st := s.n.status(); st.Complete {
				t.Error("taken for complete")
			}
		})
	}
	t.Run("replayed", func(t *testing.T) {
		s := set(t)
		kept := slices.Clone(s.letters[s.n.Hash()])
		s.n.sync()
		for i := range kept {
			s.cursor++
			kept[i].Cursor = s.cursor
		}
		s.letters[s.n.Hash()] = kept
		s.n.sync()
		if got := len(s.n.past(s.id)); got != 3 {
			t.Errorf("%d messages", got)
		}
	})
	t.Run("to another device", func(t *testing.T) {
		s := set(t)
		kept := slices.Clone(s.letters[s.n.Hash()])
		other := s.a.link(client.History{})
		other.sync()
		s.letters[other.Hash()] = kept
		if sum := other.sync(); len(sum.Problems) == 0 || len(other.past(s.id)) != 0 {
			t.Errorf("%q", sum.Problems)
		}
	})
	t.Run("another member asks", func(t *testing.T) {
		s := set(t)
		b := s.person("Bob")
		second := s.deviceOf(b.member, "Bob")
		second.sync() // asks Bob's first
		asks := s.letters[b.Hash()]
		if len(asks) != 1 {
			t.Fatalf("%d letters", len(asks))
		}
		s.letters[s.a.Hash()] = append(s.letters[s.a.Hash()], asks[0])
		if sum := s.a.sync(); len(sum.Problems) != 1 || sum.HistorySent != 0 {
			t.Errorf("%+v", sum)
		}
		if err := s.a.GrantHistory(second.Hash(), client.History{All: true}); err == nil {
			t.Error("granted")
		}
	})
	t.Run("a revoked device asks", func(t *testing.T) {
		s := set(t)
		lost := s.a.link(client.History{})
		lost.sync()
		if err := s.a.GrantHistory(lost.Hash(), client.History{All: true}); err != nil {
			t.Fatal(err)
		}
		s.org.Add(&control.Revocation{Device: lost.Hash()}, s.org.Officers[0])
		before := len(s.letters[lost.Hash()])
		s.a.sync()
		if len(s.letters[lost.Hash()]) != before {
			t.Error("a revoked device was given history")
		}
	})
}

// Only a device of the same member, and of the same organisation, is signed for.
func TestSignFor(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	request, err := client.Link(p.cfg, client.Enrolment{Dir: t.TempDir(), Key: state.NewKey(), Member: b.member, Name: "Bob"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.SignFor(t.Context(), request, client.History{}); err == nil {
		t.Error("signed for another member's device")
	}
	for i := range request {
		changed := slices.Clone(request)
		changed[i] ^= 1
		if _, err := b.SignFor(t.Context(), changed, client.History{}); err == nil {
			t.Fatalf("signed for what the new device hasn't signed: byte %d", i)
		}
	}
	if _, err := b.SignFor(t.Context(), nil, client.History{}); err == nil {
		t.Error("signed for nothing")
	}
	if _, err := b.SignFor(t.Context(), request, client.History{}); err != nil {
		t.Error(err)
	}
}
