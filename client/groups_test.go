package client_test

import (
	"errors"
	"testing"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
)

func TestLostRace(t *testing.T) {
	p := newParty(t)
	a, b, c, d := p.person("Alice"), p.person("Bob"), p.person("Carol"), p.person("Dave")
	id := a.group("", b)
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
