package client_test

import (
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
	p.refuseOnce(envelope.KindIndex, "header: bad luck")
	a.say(id, "hello")
	b.sync()
	b.want(id, "hello")
	if n := b.Counters(); n.Faulty+n.Index > 0 {
		t.Errorf("got %+v", n)
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
