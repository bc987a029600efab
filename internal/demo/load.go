package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/client"
	"chancery/internal/ceremony"
)

// Load founds an organisation as the demo does and lets senders devices talk at
// the same time, each in a conversation of its own with the next, for about d.
// It returns how many messages of size bytes the server receipted and how long
// that took: sealed, proved, checked by all parties to a send, and durable.
//
// The devices' states lie in devices: senders share this machine's disk with the
// server, as they would not elsewhere, so that a folder in memory measures the
// server's durability and not theirs.
func Load(ctx context.Context, o Options, devices string, senders, size int, d time.Duration) (messages int, took time.Duration, err error) {
	s, err := newStage(o)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	if err := s.found(ctx); err != nil {
		return 0, 0, err
	}
	if err := s.keys(ctx); err != nil {
		return 0, 0, err
	}
	var names []string
	for i := range senders {
		names = append(names, fmt.Sprintf("sender %d", i+1))
	}
	invites, err := ceremony.InviteMembers(ctx, s.server, s.server, rand.Reader, s.home.Organisation, s.home.Server, names,
		time.Now().Add(time.Hour), s.officer, nil)
	if err != nil {
		return 0, 0, err
	}
	hosted := DeviceOptions{Dir: devices}
	rand.Read(hosted.Key[:]) // never fails
	h, err := newHost(ctx, hosted, invites)
	if err != nil {
		return 0, 0, err
	}
	defer h.Close()
	if err := h.enrolAll(ctx, func(int) {}); err != nil {
		return 0, 0, err
	}
	return h.load(ctx, names, strings.Repeat("a quick brown fox, and so on. ", size/30+1)[:size], d)
}

func (h *host) load(ctx context.Context, names []string, text string, d time.Duration) (int, time.Duration, error) {
	counts := make([]int, len(names))
	group, ctx := errgroup.WithContext(ctx)
	var start time.Time
	ready := make(chan struct{})
	var waiting errgroup.Group
	for i, name := range names {
		waiting.Go(func() error {
			id, err := h.create(ctx, name, "", []string{names[(i+1)%len(names)]})
			if err != nil {
				return err
			}
			group.Go(func() error {
				<-ready
				return h.use(name, func(device *client.Device) error {
					for time.Since(start) < d {
						if _, err := device.Send(ctx, id, client.Draft{Text: text}); err != nil {
							return err
						}
						counts[i]++
					}
					return nil
				})
			})
			return nil
		})
	}
	if err := waiting.Wait(); err != nil {
		close(ready)
		group.Wait() // the first error is the one to tell
		return 0, 0, err
	}
	start = time.Now()
	close(ready)
	err := group.Wait()
	took, total := time.Since(start), 0
	for _, n := range counts {
		total += n
	}
	return total, took, err
}
