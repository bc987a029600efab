package ratchet

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"
	"time"

	"chancery/codec"
)

// accept has b accept a message of a, and hand out its encoding before and after.
func (d *node) accept(from *node, data []byte, at time.Time) (*Accepted, error) {
	return Accept(d.pre, from.device, testPin, []byte("ad"), data, at, d.random)
}

// mustNotAccept holds that an initial message is refused and nothing changed.
func (d *node) mustNotAccept(t *testing.T, from *node, data []byte, at time.Time, want error, what string) {
	t.Helper()
	before := d.pre.Marshal()
	got, err := d.accept(from, data, at)
	if got != nil || !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if !bytes.Equal(d.pre.Marshal(), before) {
		t.Errorf("%s: refused, and the prekeys changed", what)
	}
}

// TestOneTimeKeysServeOnce, whatever combination of them a bundle had.
func TestOneTimeKeysServeOnce(t *testing.T) {
	for _, c := range []struct {
		name         string
		oneTime, kem bool
		want         error
	}{
		{"both", true, true, ErrPreKey},
		{"X25519 alone", true, false, ErrPreKey},
		{"ML-KEM alone", false, true, ErrPreKey},
		{"neither", false, false, ErrReplay},
	} {
		t.Run(c.name, func(t *testing.T) {
			alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
			if !c.oneTime {
				bob.oneTime = nil
			}
			if !c.kem {
				bob.kem = nil
			}
			data := encrypt(t, begin(t, alice, bob), "hello")
			accepted, err := bob.accept(alice, data, noon)
			if err != nil || string(accepted.Plaintext) != "hello" || accepted.LastResort != (!c.oneTime && !c.kem) {
				t.Fatalf("got %+v, %v", accepted, err)
			}
			if len(bob.pre.state.OneTime) != 1-count(c.oneTime) || len(bob.pre.state.KEM) != 1-count(c.kem) {
				t.Error("what was used is still there, or more than that is gone")
			}
			bob.mustNotAccept(t, alice, data, noon, c.want, "again")
			again, err := UnmarshalPreKeys(bob.pre.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			bob.pre = again
			bob.mustNotAccept(t, alice, data, noon, c.want, "again after a restart")
		})
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPreKeyHandedOutTwice: the second initiator is refused, whoever it is.
func TestPreKeyHandedOutTwice(t *testing.T) {
	alice, carol, bob := newNode(t, "alice", 0), newNode(t, "carol", 0), newNode(t, "bob", 1)
	bundle := bob.bundle(t)
	var data [][]byte
	for _, n := range []*node{alice, carol} {
		s, err := Initiate(n.pre, bob.device, bundle, noon, n.random)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, encrypt(t, s, "hello"))
	}
	if _, err := bob.accept(alice, data[0], noon); err != nil {
		t.Fatal(err)
	}
	bob.mustNotAccept(t, carol, data[1], noon, ErrPreKey, "one-time key of another session")
}

func TestLastResortIsBounded(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 0)
	last := &bob.pre.state.LastResort[0]
	for i := range MaxLastResort - 1 {
		last.Seen = append(last.Seen, codec.Sum("test", []byte(numbered(i))))
	}
	if !bob.pre.NeedsRotation(noon) {
		t.Error("no rotation is asked for")
	}
	one, two := begin(t, alice, bob), begin(t, alice, bob)
	if _, err := bob.accept(alice, encrypt(t, one, "x"), noon); err != nil {
		t.Fatal(err)
	}
	if n := len(bob.pre.Marshal()); n > MaxPreKeys/MaxRotated {
		t.Errorf("%d bytes", n)
	}
	bob.mustNotAccept(t, alice, encrypt(t, two, "x"), noon, ErrFull, "one more")
	var err error
	if bob.signed, bob.lastResort, err = bob.pre.Rotate(bob.signer, noon, bob.random); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.accept(alice, encrypt(t, begin(t, alice, bob), "x"), noon); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
}

// TestRotation: a replaced prekey serves for its grace and no longer.
func TestRotation(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 0)
	data := encrypt(t, begin(t, alice, bob), "slow")
	if bob.pre.NeedsRotation(noon.Add(RotateAfter-time.Millisecond)) || !bob.pre.NeedsRotation(noon.Add(RotateAfter)) {
		t.Error("asks for rotation at another age")
	}
	week := noon.Add(RotateAfter)
	if _, _, err := bob.pre.Rotate(bob.signer, week, bob.random); err != nil {
		t.Fatal(err)
	}
	last := week.Add(PreKeyGrace)
	bob.mustNotAccept(t, alice, data, last, ErrPreKey, "after its grace")
	kept := bob.pre.Marshal()
	if _, err := bob.accept(alice, data, last.Add(-time.Millisecond)); err != nil {
		t.Errorf("within its grace: %v", err)
	}
	old := bob.pre.state.Signed[0].Key
	dumped := bytes.Clone(old)
	bob.pre.Expire(last)
	if len(bob.pre.state.Signed) != 1 || len(bob.pre.state.LastResort) != 1 || !bytes.Equal(old, make([]byte, keySize)) {
		t.Error("not erased after its grace")
	}
	if !bytes.Contains(kept, dumped) || bytes.Contains(bob.pre.Marshal(), dumped) {
		t.Error("still in the state")
	}
}

// TestUnrotated: without a rotation a prekey ends by itself.
func TestUnrotated(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 3)
	bundle := bob.bundle(t)
	end := noon.Add(PreKeyLife)
	if _, err := Initiate(alice.pre, bob.device, bundle, end, alice.random); !errors.Is(err, ErrExpired) {
		t.Errorf("got %v, want ErrExpired", err)
	}
	if _, err := Initiate(alice.pre, bob.device, bundle, end.Add(-time.Millisecond), alice.random); err != nil {
		t.Error(err)
	}
	bob.pre.Expire(end.Add(PreKeyGrace))
	for _, list := range bob.pre.state.lists() {
		if len(*list) != 0 {
			t.Error("private halves are left")
		}
	}
}

func TestStockIsBounded(t *testing.T) {
	bob := newNode(t, "bob", 5)
	first := bytes.Clone(bob.pre.state.OneTime[0].Key)
	if _, _, err := bob.pre.Generate(bob.signer, noon, bob.random, MaxOneTime); err != nil {
		t.Fatal(err)
	}
	if len(bob.pre.state.OneTime) != MaxOneTime || len(bob.pre.state.KEM) != MaxOneTime || bytes.Contains(bob.pre.Marshal(), first) {
		t.Error("more are held, or the oldest")
	}
	for range 2 * MaxRotated {
		if _, _, err := bob.pre.Rotate(bob.signer, noon, bob.random); err != nil {
			t.Fatal(err)
		}
	}
	if len(bob.pre.state.Signed) != MaxRotated || len(bob.pre.state.LastResort) != MaxRotated {
		t.Error("more are held")
	}
	if _, err := UnmarshalPreKeys(bob.pre.Marshal()); err != nil {
		t.Error(err)
	}
	for _, n := range []int{-1, MaxOneTime + 1} {
		if _, _, err := bob.pre.Generate(bob.signer, noon, bob.random, n); !errors.Is(err, codec.ErrSize) {
			t.Errorf("%d: %v", n, err)
		}
	}
	bob.pre.state.Next = 1<<32 - 2
	if _, _, err := bob.pre.Rotate(bob.signer, noon, bob.random); !errors.Is(err, ErrExhausted) {
		t.Errorf("ids at their end: %v", err)
	}
}

func TestMakingFailsWhole(t *testing.T) {
	bob, mallory := newNode(t, "bob", 1), newNode(t, "mallory", 0)
	before := bob.pre.Marshal()
	short := func(n int) func() error {
		return func() error {
			_, _, err := bob.pre.Generate(bob.signer, noon, bytes.NewReader(make([]byte, n)), 2)
			return err
		}
	}
	for name, f := range map[string]func() error{
		"no randomness": func() error {
			_, _, err := bob.pre.Rotate(bob.signer, noon, iotest.ErrReader(errors.New("none")))
			return err
		},
		"randomness for one of two": func() error {
			_, _, err := bob.pre.Rotate(bob.signer, noon, bytes.NewReader(make([]byte, 40)))
			return err
		},
		"for one":          short(32),
		"for one and more": short(130),
		"another's signer": func() error {
			_, _, err := bob.pre.Rotate(mallory.signer, noon, bob.random)
			return err
		},
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(bob.pre.Marshal(), before) {
			t.Errorf("%s: the prekeys changed", name)
		}
	}
	if _, err := NewPreKeys(bob.device, mallory.signer, bob.random); !errors.Is(err, ErrDevice) {
		t.Errorf("prekeys under another's signer: %v", err)
	}
}

func TestClock(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	data := encrypt(t, begin(t, alice, bob), "x")
	bob.mustNotAccept(t, alice, data, noon.Add(-MaxAhead-time.Millisecond), ErrClock, "from the future")
	if _, err := bob.accept(alice, data, noon.Add(-MaxAhead)); err != nil {
		t.Error(err)
	}
}

func TestErase(t *testing.T) {
	alice, bob := newNode(t, "alice", 2), newNode(t, "bob", 1)
	s := begin(t, alice, bob)
	key := alice.pre.state.KEM[0].Key
	alice.pre.Erase()
	s.Erase()
	if alice.pre.state.Agreement != (secret{}) || !bytes.Equal(key, make([]byte, len(key))) || s.state.Ratchet != (ratchet{}) {
		t.Error("keys are left")
	}
}
