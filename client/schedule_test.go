package client_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
)

// schedule is a conversation in which anything happens to the devices but what
// accuses somebody.
type schedule struct {
	*party
	*rand.Rand
	id      codec.ID
	devices []*person
	guest   *person
	back    int // times that a device came back or joined by itself
}

// sync has a device send and receive what it can.
func (s *schedule) sync(x *person) {
	sum, err := x.Sync(s.Context())
	if !ordinary(err) {
		s.Error(err)
	}
	s.back += len(sum.Joined)
}

// any returns a device, and whether it is in the conversation.
func (s *schedule) any() (*person, bool) {
	x := s.devices[s.IntN(len(s.devices))]
	return x, x.out(s.id) == ""
}

// ordinary reports an error that says that a device has to wait or was too late.
func ordinary(err error) bool {
	return err == nil || errors.Is(err, client.ErrConflict) || errors.Is(err, client.ErrBroken) || errors.Is(err, client.ErrLeft) || errors.Is(err, remote.ErrUnavailable)
}

// step does one thing.
func (s *schedule) step(n int) {
	x, in := s.any()
	switch s.IntN(8) {
	case 0, 1:
		if in {
			if _, err := x.Send(s.Context(), s.id, client.Draft{Text: fmt.Sprint(n)}); !ordinary(err) {
				s.Error(err)
			}
		}
	case 2, 3:
		s.sync(x)
	case 4, 5:
		if !in {
			return
		}
		change := x.Add
		if c, err := x.Conversation(s.id); err == nil && slices.Contains(c.Members, s.guest.member) {
			change = x.Remove
		}
		if err := change(s.Context(), s.id, []codec.ID{s.guest.member}); !ordinary(err) {
			s.Error(err)
		}
	case 6:
		s.shutOut(x, s.id, s.devices...)
	case 7:
		if s.IntN(3) > 0 {
			x.restart()
			return
		}
		s.lost = func(what string) bool { s.lost = nil; return true }
	}
}

// TestSchedules: whatever happens, all who belong into a conversation are in it
// in the end, agree on who is there, and read what is said.
func TestSchedules(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	back := 0
	for seed := range uint64(seeds) {
		s := &schedule{party: newParty(t), Rand: rand.New(rand.NewPCG(seed, 1))}
		a, b, c := s.person("Alice"), s.person("Bob"), s.person("Carol")
		s.guest = s.person("the guest")
		s.id = a.create("schedule", b, c)
		s.devices = []*person{a, b, c}
		for n := range 30 {
			if n == 15 {
				s.lost = nil
				s.devices = append(s.devices, b.second("Bob"))
			}
			s.step(n)
		}
		s.tamper, s.lost = nil, nil
		for range 12 {
			for _, x := range s.devices {
				s.sync(x)
			}
			s.advance(20 * time.Minute)
		}
		s.devices[len(s.devices)-1].say(s.id, "end")
		var epochs []uint64
		for _, x := range s.devices {
			x.sync()
			texts := x.texts(s.id)
			if x.out(s.id) != "" || len(texts) == 0 || texts[len(texts)-1] != "end" {
				t.Errorf("seed %d: %s (%s) shows %q", seed, x.Name(), x.out(s.id), texts)
				continue
			}
			conv, err := x.Conversation(s.id)
			if err != nil {
				t.Fatal(err)
			}
			epochs = append(epochs, conv.Epoch)
			if n := x.Counters(); n.Mismatches+n.Unverified > 0 {
				t.Errorf("seed %d: %s: %+v", seed, x.Name(), n)
			}
		}
		if len(slices.Compact(epochs)) != 1 {
			t.Errorf("seed %d: epochs %v", seed, epochs)
		}
		back += s.back
	}
	if back <= seeds {
		t.Errorf("devices came back %d times in %d schedules: they try nothing", back, seeds)
	}
}
