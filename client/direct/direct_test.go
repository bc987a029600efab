package direct

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/wire"
	"chancery/ratchet"
)

// disk is what Changes has handed over.
type disk map[string][]byte

func (d disk) Value(name string) ([]byte, error) { return bytes.Clone(d[name]), nil }

func (d disk) Group(codec.ID) (map[string][]byte, error) {
	return nil, errors.New("nothing here belongs to a conversation")
}

// side is one device.
type side struct {
	t *testing.T
	*Pairs
	client.Peer
	key  *codec.PrivateKey
	disk disk
	now  *time.Time

	server *wire.PreKeys // its prekeys at the server
}

func newSide(t *testing.T, name string, now *time.Time) *side {
	s := &side{t: t, key: codec.NewPrivateKey(), disk: disk{}, now: now}
	s.Peer = client.Peer{Device: codec.Sum("test", []byte(name)), Key: s.key.PublicKey()}
	s.reopen()
	up, err := s.Restock(&wire.PreKeyStock{}, 4)
	if err != nil || up == nil || up.Number != 1 || len(up.OneTime) != 4 || len(up.KEM) != 4 || len(up.Signed) == 0 {
		t.Fatalf("got %+v, %v", up, err)
	}
	s.server = up
	if err := s.Confirmed(); err != nil {
		t.Fatal(err)
	}
	s.save()
	return s
}

func (s *side) reopen() {
	s.t.Helper()
	p, err := New(func() time.Time { return *s.now })(s.Device, s.key, s.disk)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Pairs = p.(*Pairs)
}

func (s *side) save() {
	s.t.Helper()
	changes, err := s.Changes()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range changes {
		s.disk[c.Name] = bytes.Clone(c.Value)
	}
}

func (s *side) bundle() []byte {
	s.t.Helper()
	u := s.server
	b := wire.Bundle{Version: 1, Identity: u.Identity, Signed: u.Signed, OneTime: u.OneTime[0], KEM: u.KEM[0]}
	u.OneTime, u.KEM = u.OneTime[1:], u.KEM[1:]
	return codec.Encode(b)
}

var (
	pin = client.Pin{Policy: codec.Sum("policy"), Escrow: codec.Sum("escrow")}
	ad  = []byte("archive list")
)

func (s *side) begin(to *side) {
	s.t.Helper()
	if err := s.Begin(to.Peer, to.bundle()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *side) seal(to *side, text string) []byte {
	s.t.Helper()
	m, err := s.Encrypt(to.Peer, pin, ad, []byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.save()
	return m
}

func (s *side) open(from *side, m []byte, text string) {
	s.t.Helper()
	got, err := s.Decrypt(from.Peer, pin, ad, m)
	if err != nil || string(got) != text {
		s.t.Fatalf("got %q, %v", got, err)
	}
	s.save()
}

func twoSides(t *testing.T) (a, b *side, now *time.Time) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return newSide(t, "a", &at), newSide(t, "b", &at), &at
}

// TestStep: a device that stops anywhere goes on from what was written, and what
// wasn't written never happened.
func TestStep(t *testing.T) {
	a, b, _ := twoSides(t)
	if ready, renew, err := a.Ready(b.Peer); ready || !renew || err != nil {
		t.Fatal(ready, renew, err)
	}
	if _, err := a.Encrypt(b.Peer, pin, ad, nil); !errors.Is(err, client.ErrNoSession) {
		t.Fatal(err)
	}
	a.begin(b)
	first := a.seal(b, "first")
	a.reopen()
	if ready, renew, err := a.Ready(b.Peer); !ready || renew || err != nil {
		t.Fatal(ready, renew, err)
	}
	second := a.seal(b, "second")
	b.open(a, second, "second")
	b.reopen()
	b.open(a, first, "first")
	if _, err := b.Decrypt(a.Peer, pin, ad, second); !errors.Is(err, client.ErrReplay) {
		t.Fatalf("got %v", err)
	}
	// A read that was not written can be repeated.
	reply := b.seal(a, "reply")
	if _, err := a.Decrypt(b.Peer, pin, ad, reply); err != nil {
		t.Fatal(err)
	}
	a.Revert()
	a.open(b, reply, "reply")
	for what, open := range map[string]func(m []byte) error{
		"another pin": func(m []byte) error {
			_, err := b.Decrypt(a.Peer, client.Pin{Policy: pin.Escrow, Escrow: pin.Policy}, ad, m)
			return err
		},
		"another core": func(m []byte) error { _, err := b.Decrypt(a.Peer, pin, []byte("another"), m); return err },
		"another sender": func(m []byte) error {
			_, err := b.Decrypt(client.Peer{Device: codec.Sum("c"), Key: codec.NewPrivateKey().PublicKey()}, pin, ad, m)
			return err
		},
	} {
		if open(a.seal(b, "x")) == nil {
			t.Error(what)
		}
	}
	if changes, err := a.Changes(); err != nil || len(changes) != 0 {
		t.Errorf("%d changes, %v", len(changes), err)
	}
}

// TestStock: the same upload until it is confirmed, and no more than is needed.
func TestStock(t *testing.T) {
	a, _, now := twoSides(t)
	full := &wire.PreKeyStock{Number: 1, OneTime: 4, KEM: 4}
	if up, err := a.Restock(full, 4); up != nil || err != nil {
		t.Fatal(up, err)
	}
	half := &wire.PreKeyStock{Number: 1, OneTime: 2, KEM: 3}
	up, err := a.Restock(half, 4)
	if err != nil || up == nil || up.Number != 2 || len(up.OneTime) != 2 || len(up.Signed) != 0 {
		t.Fatalf("got %+v, %v", up, err)
	}
	a.save()
	a.reopen()
	again, err := a.Restock(full, 4)
	if err != nil || !bytes.Equal(codec.Encode(up), codec.Encode(again)) {
		t.Fatal("another upload")
	}
	if err := a.Confirmed(); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(ratchet.RotateAfter)
	up, err = a.Restock(full, 4)
	if err != nil || up == nil || up.Number != 3 || len(up.OneTime) != 0 || len(up.Signed) == 0 || len(up.Last) == 0 {
		t.Fatalf("got %+v, %v", up, err)
	}
}

// TestBundles refuses what isn't the peer's, and what is out of date.
func TestBundles(t *testing.T) {
	a, b, now := twoSides(t)
	c := newSide(t, "c", now)
	if err := a.Begin(b.Peer, c.bundle()); err == nil {
		t.Error("another device's bundle")
	}
	if err := a.Begin(b.Peer, []byte("bundle")); err == nil {
		t.Error("no bundle")
	}
	if ready, _, _ := a.Ready(b.Peer); ready {
		t.Error("a session by what was refused")
	}
	*now = now.Add(ratchet.PreKeyLife)
	if err := a.Begin(b.Peer, b.bundle()); !errors.Is(err, ratchet.ErrExpired) {
		t.Errorf("got %v", err)
	}
}

// TestRestarts: a peer whose messages don't open brings on new sessions at once,
// then after an hour, two, and so on up to a day, and none while the last is
// unanswered.
func TestRestarts(t *testing.T) {
	a, b, now := twoSides(t)
	a.begin(b)
	b.open(a, a.seal(b, "hello"), "hello")
	a.open(b, b.seal(a, "hello"), "hello")
	garbage := func() error {
		t.Helper()
		bad := a.seal(b, "x")
		bad[len(bad)-1] ^= 1
		_, err := b.Decrypt(a.Peer, pin, ad, bad)
		if err == nil {
			t.Fatal("opened")
		}
		b.save()
		b.reopen()
		return err
	}
	answered := func() {
		t.Helper()
		a.open(b, b.seal(a, "anew"), "anew")
		b.open(a, a.seal(b, "answer"), "answer")
	}
	var waited []time.Duration
	for len(waited) < 6 {
		if garbage() == nil {
			t.Fatal("opened")
		}
		var wait time.Duration
		for {
			_, renew, err := b.Ready(a.Peer)
			if err != nil {
				t.Fatal(err)
			}
			if renew {
				break
			}
			wait += 15 * time.Minute
			*now = now.Add(15 * time.Minute)
		}
		waited = append(waited, wait)
		if err := garbage(); !errors.Is(err, client.ErrLost) {
			t.Fatalf("got %v", err)
		}
		up, err := a.Restock(&wire.PreKeyStock{}, 4)
		if err != nil || up == nil {
			t.Fatal(err)
		}
		if len(up.Signed) == 0 {
			up.Signed, up.Last = a.server.Signed, a.server.Last
		}
		a.server = up
		if err := a.Confirmed(); err != nil {
			t.Fatal(err)
		}
		a.save()
		b.begin(a)
		if _, renew, _ := b.Ready(a.Peer); renew {
			t.Fatal("two at once")
		}
		if err := garbage(); errors.Is(err, client.ErrLost) {
			t.Fatal("while unanswered")
		}
		answered()
	}
	for i, w := range []time.Duration{0, 1, 2, 4, 8, 24} {
		if waited[i] != w*time.Hour {
			t.Errorf("waited %v", waited)
			break
		}
	}
	*now = now.Add(25 * time.Hour)
	garbage()
	if _, renew, _ := b.Ready(a.Peer); !renew {
		t.Error("a day without one, and it doesn't begin at once")
	}
}
