package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/direct"
	"chancery/client/group"
	"chancery/client/remote"
	"chancery/client/state"
	"chancery/codec"
	"chancery/internal/api"
	"chancery/internal/httpsig"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/witness"
	"chancery/ledger"
)

// live is the real server on a loopback port, with two real witnesses.
type live struct {
	testing.TB
	*orgtest.Org
	cfg    client.Config
	server *remote.Client
}

func newLive(t testing.TB) *live {
	t.Helper()
	dir := t.TempDir()
	keys, err := api.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := orgtest.NewWith(t, orgtest.Options{ControlKey: keys.ControlKey, MessagesKey: keys.MessagesKey, ReceiptKey: keys.ReceiptKey})
	if err := api.Found(dir, o.Leaves[0].Entry); err != nil {
		t.Fatal(err)
	}
	run := func(serve func(ctx context.Context, l net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- serve(ctx, l) }()
		t.Cleanup(sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}))
		return "http://" + l.Addr().String()
	}
	var witnesses []string
	for _, w := range o.Witnesses {
		wdir := t.TempDir()
		witnesses = append(witnesses, run(func(ctx context.Context, l net.Listener) error {
			return witness.Run(ctx, witness.Config{Listener: l, Dir: wdir, Name: w.Name, Key: w.Key, Logs: []ledger.LogKey{
				{Origin: ledger.Origin(o.ID, ledger.ControlLog), Key: keys.ControlKey},
				{Origin: ledger.Origin(o.ID, ledger.MessagesLog), Key: keys.MessagesKey},
			}, Now: time.Now})
		}))
	}
	url := run(func(ctx context.Context, l net.Listener) error {
		return api.Run(ctx, api.Config{Dir: dir, Listener: l, Witnesses: witnesses, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	})
	server := remote.New(url, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}, nil)
	o.Upload(server)
	return &live{TB: t, Org: o, server: server, cfg: client.Config{
		Replica: replica.New(o.ID), Groups: group.New(time.Now), Pairs: direct.New(time.Now), Keyring: &client.Keyring{},
		Connect: func(k codec.Signer) client.Server { return server.As(httpsig.Ed25519(k)) },
	}}
}

func (l *live) person(name string) *client.Device {
	l.Helper()
	member := codec.NewID()
	d, err := client.Enrol(l.Context(), l.cfg, client.Enrolment{
		Dir: l.TempDir(), Key: state.NewKey(), Member: member, Name: name, Invitation: l.Invite(member),
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { d.Close() })
	return d
}

// until syncs a device until something holds.
func until(t testing.TB, d *client.Device, what string, holds func() bool) {
	t.Helper()
	for range 100 {
		if _, err := d.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if holds() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s: %s never happened: %+v", d.Name(), what, d.Counters())
}

// TestLive is the whole path of a conversation over the real server.
func TestLive(t *testing.T) {
	l := newLive(t)
	a, b, c := l.person("Alice"), l.person("Bob"), l.person("Carol")
	var id codec.ID
	var err error
	a.TestOnlyWithoutPairs(func() { id, err = a.Create(t.Context(), "live", []codec.ID{b.Member()}) })
	if err != nil {
		t.Fatal(err)
	}
	say := func(d *client.Device, text string) {
		t.Helper()
		if s, err := d.Send(t.Context(), id, client.Draft{Text: text}); err != nil || s.Queued {
			t.Fatalf("%s: %+v, %v", d.Name(), s, err)
		}
	}
	say(a, "one")
	until(t, b, "delivery", func() bool { return b.Counters().Delivered == 2 }) // the profile and the text
	say(b, "two")
	if err := b.Add(t.Context(), id, []codec.ID{c.Member()}); err != nil {
		t.Fatal(err)
	}
	say(a, "three, of the epoch before")
	until(t, c, "joining", func() bool { _, err := c.Conversation(id); return err == nil })
	say(c, "four")
	until(t, a, "delivery", func() bool { return a.Counters().Delivered == 3 }) // Bob's, the profile for Carol, and hers
	if err := a.Remove(t.Context(), id, []codec.ID{b.Member()}); err != nil {
		t.Fatal(err)
	}
	until(t, b, "removal", func() bool { conv, err := b.Conversation(id); return err == nil && conv.Left })
	say(a, "five")
	until(t, c, "delivery", func() bool { return c.Counters().Delivered == 2 }) // the profile and the text; "three" is of an epoch before hers
	until(t, a, "archiving", func() bool { n := a.Counters(); return n.Archived == n.Sent+n.Delivered })
	for _, d := range []*client.Device{a, b, c} {
		if err := d.Acknowledge(t.Context()); err != nil {
			t.Errorf("%s: %v", d.Name(), err)
		}
		if n := d.Counters(); n.Mismatches+n.Undecryptable+n.Index+n.Faulty+n.Refused+n.Unverified > 0 {
			t.Errorf("%s: %+v", d.Name(), n)
		}
	}
	texts := func(d *client.Device) string {
		var out []string
		for m, err := range d.Messages(id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Text != "" {
				out = append(out, m.Text)
			}
		}
		return strings.Join(out, "|")
	}
	if got, want := texts(a), "one|two|three, of the epoch before|four|five"; got != want {
		t.Errorf("Alice shows %q, want %q", got, want)
	}
	if got := texts(b); strings.Contains(got, "five") {
		t.Errorf("Bob, removed, shows %q", got)
	}
	if got := texts(c); strings.Contains(got, "one") || !strings.HasSuffix(got, "four|five") {
		t.Errorf("Carol, who came late, shows %q", got)
	}
}

// TestLiveLiar: the real server takes the lie, and the recipient finds it.
func TestLiveLiar(t *testing.T) {
	l := newLive(t)
	a, b := l.person("Alice"), l.person("Bob")
	id, err := a.Create(t.Context(), "", []codec.ID{b.Member()})
	if err != nil {
		t.Fatal(err)
	}
	a.TestOnlyArchive(func([]byte) []byte { return nil }) // an empty envelope
	if _, err := a.Send(t.Context(), id, client.Draft{Text: "sell everything"}); err != nil {
		t.Fatal(err)
	}
	a.TestOnlyArchive(nil)
	until(t, b, "conviction", func() bool { return b.Counters().Mismatches == 1 })
	until(t, a, "report", func() bool { return a.Counters().Delivered == 1 })
}

// TestLiveRaces: several devices change and use a group at the same time.
func TestLiveRaces(t *testing.T) {
	l := newLive(t)
	var ds []*client.Device
	for i := range 4 {
		ds = append(ds, l.person(fmt.Sprint("person ", i)))
	}
	id, err := ds[0].Create(t.Context(), "", []codec.ID{ds[1].Member(), ds[2].Member(), ds[3].Member()})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ds[1:] {
		until(t, d, "joining", func() bool { _, err := d.Conversation(id); return err == nil })
	}
	var extra []codec.ID
	for i := range ds {
		extra = append(extra, l.person(fmt.Sprint("extra ", i)).Member())
	}
	const rounds = 5
	var wg sync.WaitGroup
	for i, d := range ds {
		wg.Go(func() {
			for n := range rounds {
				if n == 2 {
					if err := d.Add(t.Context(), id, []codec.ID{extra[i]}); err != nil {
						t.Errorf("%s: %v", d.Name(), err)
					}
				}
				if _, err := d.Send(t.Context(), id, client.Draft{Text: "x"}); err != nil {
					t.Errorf("%s: %v", d.Name(), err)
				}
				if _, err := d.Sync(t.Context()); err != nil && !errors.Is(err, client.ErrConflict) {
					t.Errorf("%s: %v", d.Name(), err)
				}
			}
		})
	}
	wg.Wait()
	for _, d := range ds {
		until(t, d, "delivery of all", func() bool { return d.Counters().Delivered == rounds*uint64(len(ds)-1) })
		conv, err := d.Conversation(id)
		if err != nil || len(conv.Members) != 8 {
			t.Errorf("%s: %+v, %v", d.Name(), conv, err)
		}
		if n := d.Counters(); n.Mismatches+n.Undecryptable+n.Index+n.Faulty+n.Refused+n.Unverified > 0 {
			t.Errorf("%s: %+v", d.Name(), n)
		}
	}
}

func BenchmarkLive(b *testing.B) {
	l := newLive(b)
	alice, bob := l.person("Alice"), l.person("Bob")
	id, err := alice.Create(b.Context(), "", []codec.ID{bob.Member()})
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("a message of some length. ", 40)
	b.Run("send", func(b *testing.B) {
		for b.Loop() {
			if _, err := alice.Send(b.Context(), id, client.Draft{Text: text}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("receive", func(b *testing.B) {
		const batch = 50
		for b.Loop() {
			b.StopTimer()
			for range batch {
				if _, err := alice.Send(b.Context(), id, client.Draft{Text: text}); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
			if _, err := bob.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*batch), "µs/message")
	})
}

// TestLiveDirect is a one-to-one conversation over the real server, whose
// witnesses sign a little later than it logs: a device more on one side, and one
// fewer.
func TestLiveDirect(t *testing.T) {
	l := newLive(t)
	a, b := l.person("Alice"), l.person("Bob")
	id, err := a.Create(t.Context(), "live", []codec.ID{b.Member()})
	if err != nil {
		t.Fatal(err)
	}
	say := func(d *client.Device, text string) {
		t.Helper()
		if s, err := d.Send(t.Context(), id, client.Draft{Text: text}); err != nil || s.Queued {
			t.Fatalf("%s: %+v, %v", d.Name(), s, err)
		}
	}
	reads := func(d *client.Device, text string) {
		t.Helper()
		until(t, d, text, func() bool {
			for m := range d.Messages(id, 0) {
				if m.Text == text {
					return true
				}
			}
			return false
		})
	}
	say(a, "one")
	reads(b, "one")
	say(b, "two")
	reads(a, "two")
	phone, err := client.Enrol(t.Context(), l.cfg, client.Enrolment{
		Dir: t.TempDir(), Key: state.NewKey(), Member: b.Member(), Name: "Bob", Invitation: l.Invite(b.Member()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	say(a, "three, for the phone too")
	reads(phone, "three, for the phone too")
	say(phone, "four")
	reads(a, "four")
	reads(b, "four")
	l.revoke(phone)
	say(b, "five, without the phone")
	reads(a, "five, without the phone")
	for _, d := range []*client.Device{a, b} {
		conv, err := d.Conversation(id)
		if err != nil || !conv.Direct || conv.Devices != 2 || conv.Epoch != 2 {
			t.Errorf("%s: %+v, %v", d.Name(), conv, err)
		}
		if n := d.Counters(); n.Undecryptable+n.Faulty+n.Mismatches+n.Index > 0 {
			t.Errorf("%s: %+v", d.Name(), n)
		}
	}
}
