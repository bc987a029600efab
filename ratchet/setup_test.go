package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"chancery/codec"
)

// noon is the clock of tests, 1 January 2026.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

var testPin = Pin{Policy: codec.Sum("test", []byte("policy")), Escrow: codec.Sum("test", []byte("escrow"))}

// source is deterministic randomness.
func source(name string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(name))) }

// node is a device with its prekeys and what it published.
type node struct {
	device             Device
	signer             *codec.PrivateKey
	random             io.Reader
	pre                *PreKeys
	signed, lastResort []byte
	oneTime, kem       [][]byte
}

// newNode makes a device with n one-time prekeys of each kind.
func newNode(t testing.TB, name string, n int) *node {
	t.Helper()
	seed := sha256.Sum256([]byte("signing key of " + name))
	signer, err := codec.PrivateKeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	d := &node{signer: signer, random: source(name)}
	d.device = Device{Leaf: codec.Sum("test", []byte(name)), Key: signer.PublicKey()}
	if d.pre, err = NewPreKeys(d.device, signer, d.random); err != nil {
		t.Fatal(err)
	}
	if d.signed, d.lastResort, err = d.pre.Rotate(signer, noon, d.random); err != nil {
		t.Fatal(err)
	}
	if d.oneTime, d.kem, err = d.pre.Generate(signer, noon, d.random, n); err != nil {
		t.Fatal(err)
	}
	return d
}

// bundle hands out a bundle as the server does, with one-time prekeys while
// there are any.
func (d *node) bundle(t testing.TB) *Bundle {
	t.Helper()
	var oneTime []byte
	kem := d.lastResort
	if len(d.oneTime) > 0 {
		oneTime, d.oneTime = d.oneTime[0], d.oneTime[1:]
	}
	if len(d.kem) > 0 {
		kem, d.kem = d.kem[0], d.kem[1:]
	}
	b, err := NewBundle(d.pre.Identity(), d.signed, oneTime, kem)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// coins make ML-KEM's encapsulation deterministic.
func coins(random io.Reader) encapsulate {
	return func(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
		m := make([]byte, 32)
		if err := draw(random, m); err != nil {
			panic(err)
		}
		shared, ciphertext, err := mlkemtest.Encapsulate1024(key, m)
		if err != nil {
			panic(err)
		}
		return shared, ciphertext
	}
}

// begin has a begin a session with b.
func begin(t testing.TB, a, b *node) *Session {
	t.Helper()
	s, err := initiate(a.pre, b.device, b.bundle(t), noon, stamp{at: noon.UnixMilli()}, a.random, coins(a.random))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newSessions returns both ends of a session on which one message was read.
func newSessions(t testing.TB) (a, b *Session) {
	t.Helper()
	alice, bob := newNode(t, "alice", 1), newNode(t, "bob", 1)
	a = begin(t, alice, bob)
	accepted, err := Accept(bob.pre, alice.device, testPin, []byte("ad"), encrypt(t, a, "first"), noon, bob.random)
	if err != nil {
		t.Fatal(err)
	}
	return a, accepted.Session
}

// talk has both ends read one message of the other, so that both have answered.
func talk(t testing.TB, a, b *Session) {
	t.Helper()
	mustRead(t, b, encrypt(t, a, "ping"), "ping")
	mustRead(t, a, encrypt(t, b, "pong"), "pong")
}

func encrypt(t testing.TB, s *Session, text string) []byte {
	t.Helper()
	m, err := s.Encrypt(testPin, []byte("ad"), []byte(text), source(text+string(s.Marshal())))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func decrypt(s *Session, data []byte) (string, error) {
	plaintext, err := s.Decrypt(testPin, []byte("ad"), data, noon, source(string(data)))
	return string(plaintext), err
}

func mustRead(t testing.TB, s *Session, data []byte, want string) {
	t.Helper()
	got, err := decrypt(s, data)
	if err != nil || got != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// mustRefuse holds that a message is refused with an error, and that nothing of
// the session changed.
func mustRefuse(t testing.TB, s *Session, data []byte, want error, what string) {
	t.Helper()
	before := s.Marshal()
	got, err := decrypt(s, data)
	if got != "" || !errors.Is(err, want) {
		t.Fatalf("%s: read %q, %v; want %v", what, got, err, want)
	}
	if !bytes.Equal(s.Marshal(), before) {
		t.Fatalf("%s: refused, and the session changed", what)
	}
}

// clone is the session as a restart finds it.
func clone(t testing.TB, s *Session) *Session {
	t.Helper()
	again, err := UnmarshalSession(s.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// edit changes a message's parts.
func edit(t testing.TB, data []byte, change func(*message)) []byte {
	t.Helper()
	m, err := parseMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	return codec.Encode(m)
}

func numbered(n int) string { return fmt.Sprint("message ", n) }
