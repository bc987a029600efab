package ratchet

import (
	"testing"
)

func BenchmarkInitiate(b *testing.B) {
	alice, bob := newNode(b, "alice", 0), newNode(b, "bob", 1)
	bundle := bob.bundle(b)
	measure(b, func() error {
		_, err := Initiate(alice.pre, bob.device, bundle, noon, alice.random)
		return err
	})
}

func BenchmarkAccept(b *testing.B) {
	alice, bob := newNode(b, "alice", 0), newNode(b, "bob", 1)
	data := encrypt(b, begin(b, alice, bob), "hello")
	state := bob.pre.Marshal()
	measureAfter(b, func() (*PreKeys, error) { return UnmarshalPreKeys(state) }, func(pre *PreKeys) error {
		_, err := Accept(pre, alice.device, testPin, []byte("ad"), data, noon, bob.random)
		return err
	})
}

func BenchmarkEncrypt(b *testing.B) {
	x, _ := talking(b)
	text, random := make([]byte, 2048), source("bench")
	measure(b, func() error {
		_, err := x.Encrypt(testPin, nil, text, random)
		return err
	})
}

// BenchmarkDecrypt reads messages of one chain.
func BenchmarkDecrypt(b *testing.B) {
	x, y := talking(b)
	text, random := make([]byte, 2048), source("bench")
	measureAfter(b, func() ([]byte, error) { return x.Encrypt(testPin, nil, text, random) }, func(data []byte) error {
		_, err := y.Decrypt(testPin, nil, data, noon, random)
		return err
	})
}

// BenchmarkTurn is a message each way: two turns of the ratchet.
func BenchmarkTurn(b *testing.B) {
	x, y := talking(b)
	text, random := make([]byte, 2048), source("bench")
	measure(b, func() error {
		for range 2 {
			data, err := x.Encrypt(testPin, nil, text, random)
			if err != nil {
				return err
			}
			if _, err := y.Decrypt(testPin, nil, data, noon, random); err != nil {
				return err
			}
			x, y = y, x
		}
		return nil
	})
}

// BenchmarkSkip reads a message that skips as many as may be.
func BenchmarkSkip(b *testing.B) {
	x, y := talking(b)
	data := jump(b, x, x.state.Ratchet.Previous, x.state.Ratchet.Send.N+MaxSkip)
	state := y.Marshal()
	measureAfter(b, func() (*Session, error) { return UnmarshalSession(state) }, func(s *Session) error {
		_, err := s.Decrypt(testPin, []byte("ad"), data, noon, source("x"))
		return err
	})
}

// BenchmarkState stores and loads a session.
func BenchmarkState(b *testing.B) {
	x, _ := talking(b)
	b.ReportMetric(float64(len(x.Marshal())), "bytes")
	measure(b, func() error {
		_, err := UnmarshalSession(x.Marshal())
		return err
	})
}

// BenchmarkGenerate makes a one-time prekey of each kind.
func BenchmarkGenerate(b *testing.B) {
	d := newNode(b, "alice", 0)
	measure(b, func() error {
		_, _, err := d.pre.Generate(d.signer, noon, d.random, 1)
		return err
	})
}

// talking returns two sessions in which each side has written and read.
func talking(b *testing.B) (x, y *Session) {
	b.Helper()
	x, y = newSessions(b)
	talk(b, x, y)
	return x, y
}

func measure(b *testing.B, step func() error) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if err := step(); err != nil {
			b.Fatal(err)
		}
	}
}

// measureAfter leaves out what each step needs.
func measureAfter[T any](b *testing.B, prepare func() (T, error), step func(T) error) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		v, err := prepare()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := step(v); err != nil {
			b.Fatal(err)
		}
	}
}
