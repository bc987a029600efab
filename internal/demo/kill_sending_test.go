package demo

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	crand "crypto/rand"

	"chancery/client"
	"chancery/codec"
)

// journal is what senders were told of their messages.
type journal struct {
	mu   sync.Mutex // guards said
	said map[string]*utterance
}

// utterance is a message that a device was asked to send.
type utterance struct {
	conversation codec.ID
	promised     bool // by the device: receipted, or safe in the outbox
	receipt      *client.Sent
}

func newJournal() *journal { return &journal{said: map[string]*utterance{}} }

func textOf(id string) string { return "these are the words of " + id }

func (j *journal) try(id string, conversation codec.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.said[id] = &utterance{conversation: conversation}
}

func (j *journal) told(id string, sent *client.Sent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.said[id].promised = true
	if !sent.Queued {
		j.said[id].receipt = sent
	}
}

func (j *journal) receipted() map[string]*client.Sent {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := map[string]*client.Sent{}
	for id, u := range j.said {
		if u.receipt != nil {
			out[id] = u.receipt
		}
	}
	return out
}

// say has a device send one message and notes what it is told.
func (j *journal) say(ctx context.Context, h *host, name, id string, conversation codec.ID) error {
	queued := false
	err := h.use(name, func(d *client.Device) error {
		j.try(id, conversation)
		sent, err := d.Send(ctx, conversation, client.Draft{ID: id, Text: textOf(id)})
		if err == nil {
			j.told(id, sent)
			queued = sent.Queued
		}
		return err
	})
	if queued {
		time.Sleep(50 * time.Millisecond) // the server is dead: enough waits for it
	}
	return err
}

// spoken is a message as a device has it.
type spoken struct {
	id       string
	text     string
	core     codec.Hash
	position uint64
	leaf     int64
}

func transcript(t *testing.T, h *host, name string, conversation codec.ID) []spoken {
	t.Helper()
	var out []spoken
	err := h.use(name, func(d *client.Device) error {
		for m, err := range d.Messages(conversation, 0) {
			if err != nil {
				return err
			}
			out = append(out, spoken{m.ID, m.Text, m.Core, m.Position, m.Leaf})
			if !m.Archived {
				t.Errorf("%s has %s, which no witnessed checkpoint covers", name, m.ID)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return out
}

// settled brings all devices to rest: outboxes empty, queues read, everything
// under a witnessed checkpoint.
func settled(ctx context.Context, t *testing.T, h *host) {
	t.Helper()
	for range 3 { // what one sends when it comes back another has to receive
		for _, name := range h.names {
			for try := 1; ; try++ {
				_, err := h.rest(ctx, name)
				if err == nil {
					break
				}
				if try == 20 || ctx.Err() != nil || !temporary(err) {
					t.Fatalf("%s doesn't come to rest: %v", name, err)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
	for _, name := range h.names {
		err := h.use(name, func(d *client.Device) error {
			n := d.Counters()
			if n.Refused+n.Mismatches+n.Undecryptable+n.Unverified+n.Index+n.Faulty > 0 {
				t.Errorf("%s: %+v", name, n)
			}
			talks, err := d.Conversations()
			for _, c := range talks {
				if c.Broken != "" {
					t.Errorf("%s: conversation %s is broken: %s", name, c.ID, c.Broken)
				}
				for p, err := range d.Problems(c.ID) {
					t.Errorf("%s: %+v, %v", name, p, err)
				}
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// checkDelivered checks that all members of a conversation have the same
// messages in the same places: each that was promised, each once.
func (j *journal) checkDelivered(t *testing.T, conversation codec.ID, members map[string]*host) {
	t.Helper()
	var first []spoken
	for i, name := range slices.Sorted(maps.Keys(members)) {
		got := transcript(t, members[name], name, conversation)
		if i == 0 {
			first = got
		} else if !slices.Equal(got, first) {
			t.Errorf("%s has %d messages of %s, and others %d, or in other places", name, len(got), conversation, len(first))
		}
	}
	j.checkOnce(t, conversation, first)
}

// checkOnce checks that what was promised was heard, as it was receipted, and
// that nothing was heard twice.
func (j *journal) checkOnce(t *testing.T, conversation codec.ID, heard []spoken) {
	t.Helper()
	count := map[string]int{}
	for _, m := range heard {
		u := j.said[m.id]
		if u == nil {
			continue // a profile
		}
		count[m.id]++
		if u.conversation != conversation || m.text != textOf(m.id) {
			t.Errorf("%s says %q in %s", m.id, m.text, conversation)
		}
		if r := u.receipt; r != nil && (r.Core != m.core || r.Position != m.position || r.Leaf != m.leaf) {
			t.Errorf("%s was receipted as %+v and delivered as %+v", m.id, *r, m)
		}
	}
	for id, u := range j.said {
		if u.conversation != conversation {
			continue
		}
		if n := count[id]; n > 1 || n == 0 && u.promised {
			t.Errorf("%s (receipt %v) was delivered %d times", id, u.receipt, n)
		}
	}
}

// TestKillWhileSending kills server and witnesses under the load of devices that
// send, in a group and one-to-one, and change groups, without a pause.
func TestKillWhileSending(t *testing.T) {
	ctx, s, k := underFire(t, "keys")
	names := []string{"Ada", "Ben", "Cleo", "Dora"}
	o := DeviceOptions{Dir: s.path("devices")}
	crand.Read(o.Key[:]) // never fails
	h := enrolled(ctx, t, o, s.invite(ctx, t, names...))
	var fixed []codec.ID
	for _, with := range [][]string{{"Ben", "Cleo", "Dora"}, {"Ben"}, {"Cleo"}} {
		id, err := h.create(ctx, "Ada", "", with)
		if err != nil {
			t.Fatal(err)
		}
		fixed = append(fixed, id)
	}
	for _, name := range names {
		if err := h.sync(ctx, name); err != nil {
			t.Fatal(err)
		}
	}

	j, seen := newJournal(), newSightings(s)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, name := range names {
		rng := k.stream(name)
		var own []codec.ID
		for i, id := range fixed {
			if name == "Ada" || i == 0 || name == "Ben" && i == 1 || name == "Cleo" && i == 2 {
				own = append(own, id)
			}
		}
		load.Go(func() {
			for n := 0; !closed(stop); n++ {
				err := j.say(ctx, h, name, fmt.Sprintf("%s-%d", name, n), own[rng.IntN(len(own))])
				if err == nil && n%4 == 3 {
					err = h.sync(ctx, name)
				}
				if err != nil && !temporary(err) {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	load.Go(func() { changeGroups(ctx, t, h, k.stream("groups"), j, stop) })
	load.Go(func() { seen.watch(ctx, t, stop) })

	victims := []*program{s.program(t, "server"), s.program(t, "server"), s.program(t, "server"), s.program(t, "witness-1"), s.program(t, "witness-2")}
	for range rounds(36, 300) {
		victim := victims[k.IntN(len(victims))]
		err := k.strike(victim, 100*time.Millisecond)
		if err == nil && k.IntN(4) > 0 { // else it may be killed while it starts
			err = up(ctx, victim)
			k.pause(800 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	load.Wait()
	for _, p := range victims {
		if err := up(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	settled(ctx, t, h)
	j.checkDelivered(t, fixed[0], map[string]*host{"Ada": h, "Ben": h, "Cleo": h, "Dora": h})
	j.checkDelivered(t, fixed[1], map[string]*host{"Ada": h, "Ben": h})
	j.checkDelivered(t, fixed[2], map[string]*host{"Ada": h, "Cleo": h})
	j.checkGroups(t, h)
	receipted := j.receipted()
	t.Logf("%d messages tried, %d receipted at once", len(j.said), len(receipted))
	if len(receipted) < 20 {
		t.Errorf("%d messages receipted: the test shows little", len(receipted))
	}
	checkInclusion(ctx, t, s, receipted)
	checkBooks(ctx, t, s, receipted, seen)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// changeGroups founds groups, talks in them, and adds and removes members.
func changeGroups(ctx context.Context, t *testing.T, h *host, rng *rand.Rand, j *journal, stop <-chan struct{}) {
	for n := 0; !closed(stop); n++ {
		order := rng.Perm(len(h.names))
		who := func(i int) string { return h.names[order[i]] }
		var id codec.ID
		for _, step := range []func() error{
			func() (err error) {
				id, err = h.create(ctx, who(0), fmt.Sprint("group ", n), []string{who(1), who(3)})
				return err
			},
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-first", n), id) },
			func() error { return h.add(ctx, who(0), id, who(2)) },
			func() error { return h.sync(ctx, who(1)) },
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-second", n), id) },
			func() error {
				return h.use(who(0), func(d *client.Device) error { return d.Remove(ctx, id, []codec.ID{h.members[who(1)]}) })
			},
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-third", n), id) },
		} {
			err := step()
			if err != nil && !temporary(err) {
				t.Errorf("changing group %d: %v", n, err)
				return
			}
			if id.IsZero() || closed(stop) {
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// checkGroups checks that members of a conversation agree on its epoch, members
// and messages: who came late or went early has what was said in between.
func (j *journal) checkGroups(t *testing.T, h *host) {
	t.Helper()
	type view struct {
		name, members string
		epoch         uint64
		left          bool
		heard         []spoken
	}
	views := map[codec.ID][]view{}
	for _, name := range h.names {
		var talks []client.Conversation
		err := h.use(name, func(d *client.Device) (err error) {
			talks, err = d.Conversations()
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, c := range talks {
			slices.SortFunc(c.Members, func(a, b codec.ID) int { return bytes.Compare(a[:], b[:]) })
			views[c.ID] = append(views[c.ID], view{name, fmt.Sprint(c.Members), c.Epoch, c.Left, transcript(t, h, name, c.ID)})
		}
	}
	compared := 0
	for id, all := range views {
		whole := slices.MaxFunc(all, func(a, b view) int { return len(a.heard) - len(b.heard) })
		for _, v := range all {
			compared++
			if !v.left && !whole.left && (v.epoch != whole.epoch || v.members != whole.members) {
				t.Errorf("%s is at epoch %d of %s with %s, %s at %d with %s", v.name, v.epoch, id, v.members, whole.name, whole.epoch, whole.members)
			}
			if len(v.heard) == 0 {
				continue
			}
			from := slices.Index(whole.heard, v.heard[0])
			if from < 0 || !slices.Equal(v.heard, whole.heard[from:min(from+len(v.heard), len(whole.heard))]) || !v.left && from+len(v.heard) != len(whole.heard) {
				t.Errorf("%s has %d messages of %s that are no part of the %d that %s has", v.name, len(v.heard), id, len(whole.heard), whole.name)
			}
		}
		j.checkOnce(t, id, whole.heard)
	}
	t.Logf("%d conversations, %d members' views", len(views), compared)
}
