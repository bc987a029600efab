package client_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/envelope"
)

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
			id := a.group("x", b)
			if what == "void" {
				p.refuseOnce(envelope.KindRecord, "kind: not today")
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
		id := a.group("x", b)
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
