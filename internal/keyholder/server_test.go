package keyholder

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/client/remote"
	"chancery/control"
	"chancery/internal/api"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/httpsig"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/witness"
	"chancery/ledger"
)

// TestWithServer runs three keyholders and two guards against a real server and
// real witnesses over HTTP, from the genesis leaf to escrow keys in effect. One
// keyholder is stopped and started again on the way.
func TestWithServer(t *testing.T) {
	t.Parallel()
	c := newCampus(t)
	officers, approvers := c.ssh(c.org.Officers), c.ssh(c.org.Approvers)
	id, err := ceremony.Open(t.Context(), c.officer, rand.Reader, c.org.ID, c.org.Genesis, officers[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	c.until("a ceremony's message", func(s *control.State) bool { _, board, _ := s.Ceremony(id); return len(board) > 0 })
	c.holders[1].restart()
	c.until("an epoch", func(s *control.State) bool {
		c.sign(approvers[:3]...)
		return len(s.Epochs()) == 1
	})
	c.until("four months", func(s *control.State) bool {
		c.sign(officers[:2]...)
		return len(s.Months()) == 1+monthsAhead
	})
	if _, err := ceremony.Canaries(t.Context(), c.officer, rand.Reader, time.Now(), c.replica.Read, officers[0]); err != nil {
		t.Fatal(err)
	}
	c.until("four months in effect", func(s *control.State) bool {
		for _, m := range s.Months() {
			if m.Effective == control.Never {
				return false
			}
		}
		return true
	})
	for _, h := range c.holders {
		status, err := remote.NewHolder(h.url, nil, nil).Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string][2]int{"keyholder": {1, 0}, "guard": {0, 1 + monthsAhead}}[status.Role]; status.Epochs != want[0] || status.Months != want[1] {
			t.Errorf("%s holds %d shares and %d months' keys (%s)", status.Name, status.Epochs, status.Months, status.Problem)
		}
	}
}

// campus is an organisation's daemons in one process, on loopback addresses.
type campus struct {
	t       *testing.T
	org     *orgtest.Org
	server  string
	holders []*daemon
	officer *remote.Client
	replica *replica.Replica
}

// daemon is a holder that can be stopped and started.
type daemon struct {
	c     *campus
	dir   string
	name  string
	url   string
	addr  string
	stop  context.CancelFunc
	ended chan error
}

func newCampus(t *testing.T) *campus {
	t.Helper()
	c := &campus{t: t}
	serverDir := t.TempDir()
	keys, err := api.Init(serverDir)
	if err != nil {
		t.Fatal(err)
	}
	var holders []control.Holder
	for i, name := range []string{"keyholder-1", "keyholder-2", "keyholder-3", "guard-1", "guard-2"} {
		role := custody.Keyholder
		if i >= 3 {
			role = custody.Guard
		}
		d := &daemon{c: c, dir: t.TempDir(), name: name}
		h, err := custody.Create(d.dir, fleetKey, name, "CH", role)
		if err != nil {
			t.Fatal(err)
		}
		holders, c.holders = append(holders, h), append(c.holders, d)
	}
	c.org = orgtest.NewWith(t, orgtest.Options{
		ControlKey: keys.ControlKey, MessagesKey: keys.MessagesKey, ReceiptKey: keys.ReceiptKey,
		Holders: holders, Keyholders: 3, Threshold: 2, Guards: 2,
	})
	if err := api.Found(serverDir, c.org.Leaves[0].Entry); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	var witnesses []string
	for _, w := range c.org.Witnesses {
		l := listen(t, "127.0.0.1:0")
		witnesses = append(witnesses, "http://"+l.Addr().String())
		logs := []ledger.LogKey{
			{Origin: ledger.Origin(c.org.ID, ledger.ControlLog), Key: keys.ControlKey},
			{Origin: ledger.Origin(c.org.ID, ledger.MessagesLog), Key: keys.MessagesKey},
		}
		dir := t.TempDir()
		run(func() error {
			return witness.Run(ctx, witness.Config{Listener: l, Dir: dir, Name: w.Name, Key: ed25519.PrivateKey(w.Key), Logs: logs, Now: time.Now})
		})
	}
	l := listen(t, "127.0.0.1:0")
	c.server = "http://" + l.Addr().String()
	run(func() error {
		return api.Run(ctx, api.Config{Dir: serverDir, Listener: l, Witnesses: witnesses, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	})
	c.officer = remote.New(c.server, nil, httpsig.SSH(c.org.Officers[0].Key))
	c.replica = replica.New(c.org.ID)
	for _, d := range c.holders {
		l := listen(t, "127.0.0.1:0")
		d.addr, d.url = l.Addr().String(), "http://"+l.Addr().String()
		l.Close()
	}
	for _, d := range c.holders {
		d.start()
		t.Cleanup(func() { d.end() })
	}
	return c
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (d *daemon) start() {
	d.c.t.Helper()
	keys, err := custody.OpenHolder(d.dir, fleetKey)
	if err != nil {
		d.c.t.Fatal(err)
	}
	auth := httpsig.Ed25519(keys)
	peers := map[string]Peer{}
	for _, other := range d.c.holders[3:] {
		peers[other.name] = remote.NewHolder(other.url, nil, auth)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop, d.ended = cancel, make(chan error, 1)
	l := listen(d.c.t, d.addr)
	go func() {
		err := Run(ctx, Config{
			Dir: d.dir, Custody: keys, Organisation: d.c.org.ID, Server: remote.New(d.c.server, nil, auth), Guards: peers,
			Listener: l, Now: time.Now, Log: slog.New(slog.DiscardHandler), PollInterval: 50 * time.Millisecond,
		})
		d.ended <- errors.Join(err, keys.Close())
	}()
}

func (d *daemon) end() {
	d.stop()
	if err := <-d.ended; err != nil {
		d.c.t.Errorf("%s: %v", d.name, err)
	}
}

func (d *daemon) restart() { d.c.t.Helper(); d.end(); d.start() }

func (c *campus) ssh(people []orgtest.Person) []ssh.Signer {
	var out []ssh.Signer
	for _, p := range people {
		out = append(out, p.Key)
	}
	return out
}

// sign adds people's signatures to what waits for them.
func (c *campus) sign(people ...ssh.Signer) {
	c.t.Helper()
	for _, p := range people {
		if _, err := ceremony.CoSign(c.t.Context(), c.officer, c.replica.Read, p, nil); err != nil {
			c.t.Log("not signed yet:", err)
		}
	}
}

// until reads the log until done, which may act.
func (c *campus) until(what string, done func(*control.State) bool) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if err := c.replica.Sync(c.t.Context(), c.officer); err != nil && time.Now().After(deadline) {
			c.t.Fatal(err)
		}
		finished := false
		if c.replica.Checkpoint() != nil {
			var s *control.State
			c.replica.Read(func(state *control.State) { s = state })
			finished = done(s)
		}
		if finished {
			return
		}
		if time.Now().After(deadline) {
			problems := ""
			for _, d := range c.holders {
				status, err := remote.NewHolder(d.url, nil, nil).Status(c.t.Context())
				problems += fmt.Sprintf("\n%s: %+v %v", d.name, status, err)
			}
			c.t.Fatalf("no %s in time:%s", what, problems)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

var _ Server = (*remote.Client)(nil)
var _ Peer = (*remote.Holder)(nil)
