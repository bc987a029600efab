package ratchet

import (
	"bytes"
	"testing"

	"chancery/codec"
)

func FuzzParseBundle(f *testing.F) {
	bob := newNode(f, "bob", 1)
	f.Add(bob.bundle(f).Encode())
	f.Add(bob.bundle(f).Encode()) // with the last resort
	f.Add(codec.Encode([]any{1, []byte{}, []byte{}, []byte{}, []byte{}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			return
		}
		if !bytes.Equal(b.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		again, err := NewBundle(b.wire.Identity, b.wire.Signed, b.wire.OneTime, b.wire.KEM)
		if err != nil || !bytes.Equal(again.Encode(), data) {
			t.Fatalf("its parts make another bundle: %v", err)
		}
		_ = b.Verify(bob.device, noon)
	})
}

func FuzzPeek(f *testing.F) {
	a, b := newSessions(f)
	f.Add(encrypt(f, a, "initial"))
	f.Add(encrypt(f, b, "answer"))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := Peek(data)
		if err != nil {
			return
		}
		m, err := parseMessage(data)
		if err != nil || !bytes.Equal(codec.Encode(m), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		if info.Initial != (len(m.Hello) > 0) {
			t.Fatalf("%+v of %d bytes of hello", info, len(m.Hello))
		}
		if info.Initial {
			if h, _, err := parseHello(m.Hello); err != nil || !bytes.Equal(codec.Encode(h), m.Hello) {
				t.Fatal("accepted a hello that is not canonical")
			}
		}
	})
}

// FuzzDecrypt gives a pair arbitrary messages: none but its peer's own is read,
// and no other changes anything.
func FuzzDecrypt(f *testing.F) {
	a, b := newEnds(f, 1)
	a.begin(f)
	first, second := a.send(f, "first"), a.send(f, "second")
	b.mustReceive(f, first, "first")
	f.Add(first)
	f.Add(second)
	f.Add(b.send(f, "answer"))
	f.Add(second[:len(second)-1])
	pair, pre := b.pair.Marshal(), b.pre.Marshal()
	f.Fuzz(func(t *testing.T, data []byte) {
		b.restart(t)
		opened, err := b.receive(data)
		switch {
		case err == nil && (!bytes.Equal(data, second) || string(opened.Plaintext) != "second"):
			t.Fatal("read what was never sent")
		case err == nil:
			b.restore(t, pair, pre)
		case !bytes.Equal(b.pair.Marshal(), pair) || !bytes.Equal(b.pre.Marshal(), pre):
			t.Fatal("refused, and the state changed")
		}
	})
}

// restore goes back to a stored state.
func (e *end) restore(t testing.TB, pair, pre []byte) {
	t.Helper()
	var err error
	if e.pair, err = UnmarshalPair(pair); err != nil {
		t.Fatal(err)
	}
	if e.pre, err = UnmarshalPreKeys(pre); err != nil {
		t.Fatal(err)
	}
}

// FuzzAccept gives a device arbitrary initial messages.
func FuzzAccept(f *testing.F) {
	alice, bob := newNode(f, "alice", 0), newNode(f, "bob", 1)
	good := encrypt(f, begin(f, alice, bob), "first")
	f.Add(good)
	f.Add(editHello(f, good, func(h *hello) { h.OneTime = 0 }))
	state := bob.pre.Marshal()
	f.Fuzz(func(t *testing.T, data []byte) {
		pre, err := UnmarshalPreKeys(state)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Accept(pre, alice.device, testPin, []byte("ad"), data, noon, source("x"))
		if (err == nil) != bytes.Equal(data, good) {
			t.Fatalf("got %v", err)
		}
		if err != nil && !bytes.Equal(pre.Marshal(), state) {
			t.Fatal("refused, and the prekeys changed")
		}
	})
}

func FuzzUnmarshalSession(f *testing.F) {
	a, b := newSessions(f)
	f.Add(a.Marshal())
	encrypt(f, a, "lost")
	mustRead(f, b, encrypt(f, a, "x"), "x")
	f.Add(b.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := UnmarshalSession(data)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Marshal(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		if m, err := s.Encrypt(testPin, nil, []byte("x"), source("x")); err == nil {
			_, _ = s.Decrypt(testPin, nil, m, noon, source("y"))
		}
		if _, err := UnmarshalSession(s.Marshal()); err != nil {
			t.Fatalf("a session that was used isn't read again: %v", err)
		}
	})
}

func FuzzUnmarshalPair(f *testing.F) {
	a, b := newEnds(f, 2)
	f.Add(a.pair.Marshal())
	a.begin(f)
	b.begin(f)
	f.Add(a.pair.Marshal())
	b.mustReceive(f, a.send(f, "x"), "x")
	a.mustReceive(f, b.send(f, "y"), "y")
	f.Add(a.pair.Marshal())
	f.Add(b.pair.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := UnmarshalPair(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		p.Expire(noon)
		if _, err := UnmarshalPair(p.Marshal()); err != nil {
			t.Fatalf("a pair that was used isn't read again: %v", err)
		}
	})
}

func FuzzUnmarshalPreKeys(f *testing.F) {
	bob := newNode(f, "bob", 1)
	f.Add(bob.pre.Marshal())
	bob.pre.state.LastResort[0].Seen = []codec.Hash{{1}}
	f.Add(bob.pre.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := UnmarshalPreKeys(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		p.Expire(noon)
		if _, err := UnmarshalPreKeys(p.Marshal()); err != nil {
			t.Fatalf("prekeys that were used aren't read again: %v", err)
		}
	})
}
