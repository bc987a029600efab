package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"chancery/client"
	"chancery/client/direct"
	"chancery/client/group"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/httpsig"
	"chancery/internal/replica"
)

const (
	mostOpen   = 600             // devices open at a time
	label      = "desk"          // every member has one device in the demo
	settleTime = 2 * time.Minute // within which the witnesses have seen a message
	stockLow   = 8               // conversations joined without a sync; a device stocks 20 KeyPackages
)

// DeviceOptions say what the device host plays.
type DeviceOptions struct {
	Dir         string // folder of the devices' states, one folder each
	KeyFile     string
	Key         [custody.KeySize]byte // seals the devices' states
	Corpus      string
	Limit       int
	Invitations string // file with []ceremony.Invite
	Out         io.Writer
	Log         *slog.Logger
}

// RunDevices hosts the members' devices in one process, each with a state of its
// own, and plays the corpus. It reports to Out in JSON lines.
func RunDevices(ctx context.Context, o DeviceOptions) error {
	enc := json.NewEncoder(o.Out)
	var mu sync.Mutex // guards enc: reports come from several players
	report := func(e event) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(e)
	}
	result, err := playCorpus(ctx, o, report)
	if err != nil {
		return errors.Join(err, report(event{Error: err.Error()}))
	}
	return report(event{Result: result})
}

func playCorpus(ctx context.Context, o DeviceOptions, report func(event) error) (*deviceResult, error) {
	data, err := os.ReadFile(o.Corpus)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the corpus: %w", err)
	}
	lines, err := readCorpus(bytes.NewReader(data), o.Limit)
	if err != nil {
		return nil, err
	}
	if data, err = os.ReadFile(o.Invitations); err != nil {
		return nil, fmt.Errorf("couldn't read the invitations: %w", err)
	}
	var invites []ceremony.Invite
	if err := json.Unmarshal(data, &invites); err != nil {
		return nil, fmt.Errorf("couldn't read the invitations: %w", err)
	}
	h, err := newHost(ctx, o, invites)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	progress := func(phase string, total int) func(int) {
		return func(done int) {
			if err := report(event{Phase: phase, Done: done, Total: total}); err != nil {
				o.Log.Warn("couldn't report", slog.Any("error", err))
			}
		}
	}
	if err := h.enrolAll(ctx, progress("devices enrolled", len(invites))); err != nil {
		return nil, err
	}
	if err := play(ctx, h, lines, progress("messages sent", len(lines))); err != nil {
		return nil, err
	}
	result, err := h.settle(ctx, progress("devices up to date", len(invites)))
	if err != nil {
		return nil, err
	}
	result.Sent = len(lines) // every send above was receipted; profiles don't count
	return result, nil
}

// host is the members' devices, named as the corpus names their members.
type host struct {
	*client.Host
	names   []string
	members map[string]codec.ID
	invites map[string]*ceremony.Invite

	mu     sync.Mutex     // guards joined
	joined map[string]int // conversations that a member was added to since its last sync
}

func newHost(ctx context.Context, o DeviceOptions, invites []ceremony.Invite) (*host, error) {
	if len(invites) == 0 {
		return nil, errors.New("nobody is invited")
	}
	r := replica.New(invites[0].Organisation)
	server := remote.New(invites[0].Server, nil, nil)
	if err := r.Sync(ctx, server); err != nil {
		return nil, err
	}
	config := client.Config{
		Replica: r, Groups: group.New(time.Now), Pairs: direct.New(time.Now),
		Connect: func(key codec.Signer) client.Server { return server.As(httpsig.Ed25519(key)) },
	}
	key := o.Key
	defer clear(key[:])
	devices, err := client.NewHost(config, o.Dir, &key, mostOpen)
	if err != nil {
		return nil, err
	}
	h := &host{Host: devices, members: map[string]codec.ID{}, invites: map[string]*ceremony.Invite{}, joined: map[string]int{}}
	for i := range invites {
		name := invites[i].Name
		h.names = append(h.names, name)
		h.members[name], h.invites[name] = invites[i].Member, &invites[i]
	}
	return h, nil
}

// use calls f with a member's device.
func (h *host) use(name string, f func(d *client.Device) error) error {
	return h.With(h.members[name], label, f)
}

func (h *host) enrolAll(ctx context.Context, progress func(int)) error {
	var mu sync.Mutex // guards done
	done := 0
	return each(ctx, h.names, func(ctx context.Context, name string) error {
		invitation, err := h.invites[name].Key()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		defer cancel()
		if err := h.Enrol(ctx, h.members[name], label, name, invitation); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done++
		progress(done)
		return nil
	})
}

func (h *host) create(ctx context.Context, member, name string, with []string) (codec.ID, error) {
	if err := h.stock(ctx, with); err != nil {
		return codec.ID{}, err
	}
	var ids []codec.ID
	for _, who := range with {
		ids = append(ids, h.members[who])
	}
	var id codec.ID
	err := h.use(member, func(d *client.Device) (err error) {
		id, err = d.Create(ctx, name, ids)
		return err
	})
	return id, err
}

// stock makes sure that those who are to be added have KeyPackages left: a device
// restocks when it syncs, which in the demo it does only when it has to.
func (h *host) stock(ctx context.Context, names []string) error {
	for _, name := range names {
		h.mu.Lock()
		h.joined[name]++
		low := h.joined[name] >= stockLow
		if low {
			h.joined[name] = 0
		}
		h.mu.Unlock()
		if low {
			if err := h.sync(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *host) add(ctx context.Context, member string, conversation codec.ID, who string) error {
	if err := h.stock(ctx, []string{who}); err != nil {
		return err
	}
	return h.use(member, func(d *client.Device) error {
		return d.Add(ctx, conversation, []codec.ID{h.members[who]})
	})
}

func (h *host) send(ctx context.Context, member string, conversation codec.ID, l *line) error {
	return h.use(member, func(d *client.Device) error {
		sent, err := d.Send(ctx, conversation, client.Draft{ID: l.ID, Time: l.time, Text: l.Text})
		if err == nil && sent.Queued {
			err = errors.New("the server can't be reached")
		}
		return err
	})
}

func (h *host) sync(ctx context.Context, member string) error {
	return h.use(member, func(d *client.Device) error {
		_, err := d.Sync(ctx)
		return err
	})
}

// settle brings every device up to date and waits until the witnesses have seen
// all that was sent.
func (h *host) settle(ctx context.Context, progress func(int)) (*deviceResult, error) {
	var mu sync.Mutex // guards what follows
	total, done := deviceResult{}, 0
	err := each(ctx, h.names, func(ctx context.Context, name string) error {
		n, err := h.rest(ctx, name)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		total.Delivered += int(n.Delivered)
		total.Mismatches += int(n.Mismatches)
		total.Archived += int(n.Archived)
		total.Unchecked += int(n.Undecryptable + n.Unverified + n.Index + n.Faulty)
		done++
		progress(done)
		return nil
	})
	return &total, err
}

// rest syncs a device until all that it sent and received is archived under a
// witnessed checkpoint. It gives up where nothing more has been for settleTime:
// how long catching up takes is the conversations' size.
func (h *host) rest(ctx context.Context, name string) (client.Counters, error) {
	var n client.Counters
	since := time.Now()
	for {
		if err := h.sync(ctx, name); err != nil {
			return client.Counters{}, err
		}
		before := n
		if err := h.use(name, func(d *client.Device) error { n = d.Counters(); return nil }); err != nil {
			return n, err
		}
		if n.Archived >= n.Sent+n.Delivered {
			return n, nil
		}
		if n != before {
			since = time.Now()
		}
		if time.Since(since) > settleTime {
			return n, fmt.Errorf("%d of %d messages are archived, and no more for %s", n.Archived, n.Sent+n.Delivered, settleTime)
		}
		select {
		case <-ctx.Done():
			return n, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
