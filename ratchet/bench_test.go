package ratchet

import (
	"testing"
)

func BenchmarkInitiate(b *testing.B) {
	alice, bob := newNode(b, "alice", 0), newNode(b, "bob", 1)
	bundle := bob.bundle(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Initiate(alice.pre, bob.device, bundle, noon, alice.random); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAccept(b *testing.B) {
	alice, bob := newNode(b, "alice", 0), newNode(b, "bob", 1)
	data := encrypt(b, begin(b, alice, bob), "hello")
	state := bob.pre.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		pre, err := UnmarshalPreKeys(state)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := Accept(pre, alice.device, testPin, []byte("ad"), data, noon, bob.random); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	a, peer := newSessions(b)
	talk(b, a, peer)
	text, random := make([]byte, 2048), source("bench")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Encrypt(testPin, nil, text, random); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecrypt reads messages of one chain.
func BenchmarkDecrypt(b *testing.B) {
	a, peer := newSessions(b)
	talk(b, a, peer)
	text, random := make([]byte, 2048), source("bench")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		data, err := a.Encrypt(testPin, nil, text, random)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := peer.Decrypt(testPin, nil, data, noon, random); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTurn is a message each way: two turns of the ratchet.
func BenchmarkTurn(b *testing.B) {
	x, y := newSessions(b)
	talk(b, x, y)
	text, random := make([]byte, 2048), source("bench")
	b.ReportAllocs()
	for b.Loop() {
		for range 2 {
			data, err := x.Encrypt(testPin, nil, text, random)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := y.Decrypt(testPin, nil, data, noon, random); err != nil {
				b.Fatal(err)
			}
			x, y = y, x
		}
	}
}

// BenchmarkSkip reads a message that skips as many as may be.
func BenchmarkSkip(b *testing.B) {
	x, y := newSessions(b)
	talk(b, x, y)
	data := jump(b, x, x.state.Ratchet.Previous, x.state.Ratchet.Send.N+MaxSkip)
	state := y.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s, err := UnmarshalSession(state)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := s.Decrypt(testPin, []byte("ad"), data, noon, source("x")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkState stores and loads a session.
func BenchmarkState(b *testing.B) {
	x, y := newSessions(b)
	talk(b, x, y)
	b.ReportMetric(float64(len(x.Marshal())), "bytes")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := UnmarshalSession(x.Marshal()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGenerate makes a one-time prekey of each kind.
func BenchmarkGenerate(b *testing.B) {
	d := newNode(b, "alice", 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := d.pre.Generate(d.signer, noon, d.random, 1); err != nil {
			b.Fatal(err)
		}
	}
}
