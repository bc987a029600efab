package demo

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"chancery/codec"
)

// deviceResult is what the device host reports at its end.
type deviceResult struct {
	Sent       int `json:"sent"`
	Delivered  int `json:"delivered"`
	Mismatches int `json:"mismatches"`
	Unchecked  int `json:"unchecked"` // received, and not shown or not fully verified
	Archived   int `json:"archived"`
}

// devices is what playing a corpus needs of the members' devices. Every method
// names the member whose device acts.
type devices interface {
	create(ctx context.Context, member, name string, with []string) (codec.ID, error)
	add(ctx context.Context, member string, conversation codec.ID, who string) error
	send(ctx context.Context, member string, conversation codec.ID, l *line) error
	sync(ctx context.Context, member string) error
}

// players is how many conversations are played at a time.
const players = 4

// play sends the lines, in order within each conversation: who speaks in a
// channel for the first time is added to its group by who spoke last.
func play(ctx context.Context, d devices, lines []line, progress func(done int)) error {
	var queues [players]chan *line
	for i := range queues {
		queues[i] = make(chan *line, 64)
	}
	group, ctx := errgroup.WithContext(ctx)
	seed := maphash.MakeSeed()
	group.Go(func() error {
		defer func() {
			for _, q := range queues {
				close(q)
			}
		}()
		for i := range lines {
			q := queues[maphash.String(seed, lines[i].conversation())%players]
			select {
			case q <- &lines[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	var done atomic.Int64
	for _, q := range queues {
		group.Go(func() error {
			p := player{devices: d, talks: map[string]*talk{}}
			for l := range q {
				if err := p.say(ctx, l); err != nil {
					return fmt.Errorf("message %q of %q: %w", l.ID, l.Sender, err)
				}
				progress(int(done.Add(1)))
			}
			return nil
		})
	}
	return group.Wait()
}

// talk is a conversation under way.
type talk struct {
	id      codec.ID
	members map[string]bool
	last    string // who spoke last, and so adds newcomers
}

type player struct {
	devices
	talks map[string]*talk
}

func (p *player) say(ctx context.Context, l *line) error {
	t, err := p.join(ctx, l)
	if err != nil {
		return err
	}
	t.last = l.Sender
	return p.send(ctx, l.Sender, t.id, l)
}

// join makes sure that the conversation is there and its sender in it.
func (p *player) join(ctx context.Context, l *line) (*talk, error) {
	key := l.conversation()
	t, ok := p.talks[key]
	if !ok {
		name, with := l.Channel, []string(nil)
		if l.addressed {
			name = ""
			for _, who := range l.party() {
				if who != l.Sender {
					with = append(with, who)
				}
			}
		}
		id, err := p.create(ctx, l.Sender, name, with)
		if err != nil {
			return nil, err
		}
		t = &talk{id: id, members: map[string]bool{l.Sender: true}, last: l.Sender}
		for _, who := range with {
			t.members[who] = true
		}
		p.talks[key] = t
	}
	if !t.members[l.Sender] {
		if err := p.sync(ctx, t.last); err != nil {
			return nil, err
		}
		if err := p.add(ctx, t.last, t.id, l.Sender); err != nil {
			return nil, err
		}
		t.members[l.Sender] = true
	}
	return t, p.sync(ctx, l.Sender)
}

// each calls f for every name, some at a time, and joins the errors.
func each(ctx context.Context, names []string, f func(ctx context.Context, name string) error) error {
	var mu sync.Mutex
	var errs []error
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(players)
	for _, name := range names {
		group.Go(func() error {
			if err := f(ctx, name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				return err
			}
			return nil
		})
	}
	group.Wait() // its error is among errs
	return errors.Join(errs...)
}
