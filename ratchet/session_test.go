package ratchet

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"chancery/codec"
)

func TestConversation(t *testing.T) {
	a, b := newSessions(t)
	for i := range 20 {
		mustRead(t, a, encrypt(t, b, numbered(i)), numbered(i))
		mustRead(t, b, encrypt(t, a, numbered(i)), numbered(i))
		a, b = clone(t, a), clone(t, b)
	}
}

// TestEveryInitialMessageCanBeFirst: the hello is on each message until an answer
// was read, so that order doesn't matter.
func TestEveryInitialMessageCanBeFirst(t *testing.T) {
	alice, bob := newNode(t, "alice", 1), newNode(t, "bob", 1)
	a := begin(t, alice, bob)
	messages := [][]byte{encrypt(t, a, "0"), encrypt(t, a, "1"), encrypt(t, a, "2")}
	accepted, err := Accept(bob.pre, alice.device, testPin, []byte("ad"), messages[1], noon, bob.random)
	if err != nil || string(accepted.Plaintext) != "1" {
		t.Fatalf("got %v", err)
	}
	b := accepted.Session
	if b.ID() != a.ID() || b.Began() || !a.Began() {
		t.Fatal("both sides name the session otherwise")
	}
	mustRead(t, b, messages[2], "2")
	mustRead(t, b, messages[0], "0")
	mustRead(t, a, encrypt(t, b, "answer"), "answer")
	info, err := Peek(encrypt(t, a, "answered"))
	if err != nil || info.Initial {
		t.Fatalf("after the answer: %+v, %v", info, err)
	}
	info, err = Peek(messages[0])
	if err != nil || info != (Info{Initial: true, Device: alice.device.Leaf, Session: a.ID()}) {
		t.Fatalf("before the answer: %+v, %v", info, err)
	}
}

func TestOutOfOrderAndDropped(t *testing.T) {
	a, b := newSessions(t)
	var first, second [][]byte
	for i := range 5 {
		first = append(first, encrypt(t, a, numbered(i)))
	}
	mustRead(t, a, encrypt(t, b, "turn"), "turn")
	for i := range 5 {
		second = append(second, encrypt(t, a, numbered(i)))
	}
	mustRead(t, b, second[3], numbered(3)) // skips five of the old chain, three of the new
	for _, i := range []int{4, 0, 3} {
		mustRead(t, b, first[i], numbered(i))
	}
	b = clone(t, b)
	mustRead(t, b, second[0], numbered(0))
	mustRead(t, b, second[4], numbered(4))
	mustRead(t, b, first[1], numbered(1))
	mustRefuse(t, b, first[0], ErrReplay, "read twice, of an old chain")
	mustRefuse(t, b, second[0], ErrReplay, "read twice, of this chain")
	if got := b.skipped(); got != 3 { // first[2], second[1] and second[2]
		t.Errorf("%d skipped keys held, want 3", got)
	}
	talk(t, a, b)
}

// skipped counts the skipped keys held.
func (s *Session) skipped() int {
	n := 0
	for _, c := range s.state.Skipped {
		n += len(c.Keys)
	}
	return n
}

// TestSkipsAreBoundedBeforeWork counts operations for headers of an honest key
// that name numbers up to 2^32-1.
func TestSkipsAreBoundedBeforeWork(t *testing.T) {
	for _, c := range []struct {
		name  string
		turn  bool // whether the message begins a new chain
		pn, n uint32
		work  int // trials and derivations at most
		err   error
	}{
		{"next", false, 0, 2, 2, nil},
		{"furthest of this chain", false, 0, MaxSkip + 2, MaxSkip + 2, nil},
		{"one too far", false, 0, MaxSkip + 3, 1, ErrTooFar},
		{"generation 2^32-1", false, 0, math.MaxUint32, 1, ErrTooFar},
		{"furthest of the new chain", true, 2, MaxSkip, MaxSkip + 3, nil},
		{"old chain too far", true, MaxSkip + 3, 0, 2, ErrTooFar},
		{"old chain at 2^32-1", true, math.MaxUint32, 0, 2, ErrTooFar},
		{"new chain too far", true, 2, MaxSkip + 1, 2, ErrTooFar},
		{"new chain at 2^32-1", true, 2, math.MaxUint32, 2, ErrTooFar},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newSessions(t)
			mustRead(t, b, encrypt(t, a, "second"), "second")
			if c.turn {
				mustRead(t, a, encrypt(t, b, "turn"), "turn")
			}
			data := jump(t, a, c.pn, c.n)
			work := 0
			b.testOnlyWork = func() { work++ }
			before := b.Marshal()
			_, err := decrypt(b, data)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if work > c.work {
				t.Errorf("%d operations, want at most %d", work, c.work)
			}
			if err != nil && !bytes.Equal(b.Marshal(), before) {
				t.Error("refused, and the session changed")
			}
			if b.skipped() > MaxSkipped {
				t.Errorf("%d skipped keys", b.skipped())
			}
		})
	}
}

// jump returns a message that says that it is number n after a chain of pn,
// under the sender's header key and, within reach, the right message key.
func jump(t testing.TB, s *Session, pn, n uint32) []byte {
	t.Helper()
	for s.state.Ratchet.Send.N < min(n, 4*MaxSkip) {
		s.state.Ratchet.Send.step()
	}
	m, err := parseMessage(encrypt(t, s, "jump"))
	if err != nil {
		t.Fatal(err)
	}
	if s.state.Ratchet.Previous != pn || s.state.Ratchet.Send.N != n+1 {
		h := header{public: s.state.Ratchet.Public, pn: pn, n: n}
		reseal(t, s, m, h)
	}
	return codec.Encode(m)
}

// reseal gives a message another header, under the sender's header key.
func reseal(t testing.TB, s *Session, m *message, h header) {
	t.Helper()
	sealed, err := seal(&s.state.Ratchet.Send.Header, infoHeader, m.Salt[:], h.encode(), s.state.Parties[:])
	if err != nil {
		t.Fatal(err)
	}
	m.Header = [headerSize + tagSize]byte(sealed)
}

// TestFurthestOfBothChains is the most work that one message can cause.
func TestFurthestOfBothChains(t *testing.T) {
	a, b := newSessions(t)
	for range MaxSkip {
		encrypt(t, a, "lost")
	}
	mustRead(t, a, encrypt(t, b, "turn"), "turn")
	data := jump(t, a, a.state.Ratchet.Previous, MaxSkip)
	work := 0
	b.testOnlyWork = func() { work++ }
	mustRead(t, b, data, "jump")
	if work > 2*MaxSkip+3 || b.skipped() != MaxSkipped {
		t.Errorf("%d operations, %d keys kept", work, b.skipped())
	}
	if n := len(clone(t, b).Marshal()); n > MaxSession {
		t.Errorf("%d bytes", n)
	}
}

func TestReceivingChainEnds(t *testing.T) {
	a, b := newSessions(t)
	a.state.Ratchet.Send.N, b.state.Ratchet.Receive.N = math.MaxUint32-1, math.MaxUint32-1
	mustRead(t, b, encrypt(t, a, "the last"), "the last")
	a.state.Ratchet.Send.N--
	data := encrypt(t, a, "x")
	m, err := parseMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	reseal(t, a, m, header{public: a.state.Ratchet.Public, n: math.MaxUint32})
	mustRefuse(t, b, codec.Encode(m), ErrTooFar, "number 2^32-1")
}

func TestSendingChainEnds(t *testing.T) {
	a, _ := newSessions(t)
	a.state.Ratchet.Send.N = math.MaxUint32 - 1
	encrypt(t, a, "the last")
	before := a.Marshal()
	if _, err := a.Encrypt(testPin, nil, nil, source("x")); !errors.Is(err, ErrExhausted) {
		t.Errorf("got %v, want ErrExhausted", err)
	}
	if !bytes.Equal(a.Marshal(), before) {
		t.Error("refused, and the session changed")
	}
}

// TestSkippedKeysAreBounded: a peer that skips all it can leaves no more than the
// bounds, the newest ones.
func TestSkippedKeysAreBounded(t *testing.T) {
	a, b := newSessions(t)
	var old []byte
	for i := range 8 {
		if i == 0 {
			old = encrypt(t, a, "old")
		}
		for range 3 { // three jumps in one chain
			r := &a.state.Ratchet
			mustRead(t, b, jump(t, a, r.Previous, r.Send.N+MaxSkip-1), "jump")
			for j, c := range b.state.Skipped {
				if len(c.Keys) > MaxSkip {
					t.Fatalf("chain %d of %d keys", j, len(c.Keys))
				}
			}
			if n := b.skipped(); n > MaxSkipped || len(b.state.Skipped) > MaxChains {
				t.Fatalf("%d keys of %d chains", n, len(b.state.Skipped))
			}
		}
		mustRead(t, a, encrypt(t, b, "turn"), "turn")
	}
	if n := b.skipped(); n != MaxSkipped {
		t.Errorf("%d keys, want %d", n, MaxSkipped)
	}
	mustRefuse(t, b, old, ErrOpen, "of a chain that was given up")
	if n := len(clone(t, b).Marshal()); n > MaxSession {
		t.Errorf("%d bytes", n)
	}
	// Many chains with one skipped each.
	for range 2 * MaxChains {
		encrypt(t, a, "lost")
		mustRead(t, b, encrypt(t, a, "x"), "x")
		mustRead(t, a, encrypt(t, b, "turn"), "turn")
	}
	if n := len(b.state.Skipped); n != MaxChains {
		t.Errorf("%d chains, want %d", n, MaxChains)
	}
	// A message that opens nowhere costs that many trials and the two of now.
	work := 0
	b.testOnlyWork = func() { work++ }
	_, other := newSessions(t)
	mustRefuse(t, b, encrypt(t, other, "x"), ErrOpen, "of another session")
	if work > MaxChains+2 {
		t.Errorf("%d trials", work)
	}
}

func TestSkippedKeysExpire(t *testing.T) {
	for _, c := range []struct {
		name  string
		later int // messages read before the late one
		wait  time.Duration
		err   error
	}{
		{"in time", MaxLater - 1, SkippedLife - time.Millisecond, nil},
		{"too many messages later", MaxLater + 1, 0, ErrReplay},
		{"too late", 0, SkippedLife, ErrReplay},
	} {
		a, b := newSessions(t)
		late := encrypt(t, a, "late")
		for i := range c.later + 1 {
			mustRead(t, b, encrypt(t, a, numbered(i)), numbered(i))
		}
		if _, err := b.Decrypt(testPin, []byte("ad"), late, noon.Add(c.wait), source("")); !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.err)
		}
		b.Expire(noon.Add(c.wait))
		if n := b.skipped(); n != 0 {
			t.Errorf("%s: %d keys left", c.name, n)
		}
	}
}

// TestBoundToEverything: a message opens for one pin and one associated data.
func TestBoundToEverything(t *testing.T) {
	a, b := newSessions(t)
	data := encrypt(t, a, "x")
	other := codec.Sum("test", []byte("other"))
	for name, c := range map[string]struct {
		pin Pin
		ad  string
	}{
		"policy":           {Pin{other, testPin.Escrow}, "ad"},
		"escrow key":       {Pin{testPin.Policy, other}, "ad"},
		"swapped":          {Pin{testPin.Escrow, testPin.Policy}, "ad"},
		"associated data":  {testPin, "ae"},
		"longer":           {testPin, "ad\x00"},
		"none":             {testPin, ""},
		"all of them gone": {},
	} {
		before := b.Marshal()
		if _, err := b.Decrypt(c.pin, []byte(c.ad), data, noon, source("")); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %v, want ErrOpen", name, err)
		}
		if !bytes.Equal(b.Marshal(), before) {
			t.Errorf("%s: refused, and the session changed", name)
		}
	}
	mustRead(t, b, data, "x")
}

// TestRandomnessFails: where it does nothing has changed, and nothing is lost.
func TestRandomnessFails(t *testing.T) {
	broken := iotest.ErrReader(errors.New("no randomness"))
	a, b := newSessions(t)
	before := a.Marshal()
	if _, err := a.Encrypt(testPin, nil, nil, broken); err == nil || !bytes.Equal(a.Marshal(), before) {
		t.Errorf("encrypt: %v", err)
	}
	answer := encrypt(t, b, "answer")
	if _, err := a.Decrypt(testPin, []byte("ad"), answer, noon, broken); err == nil || !bytes.Equal(a.Marshal(), before) {
		t.Errorf("decrypt: %v", err)
	}
	mustRead(t, a, answer, "answer")
}

func TestSizes(t *testing.T) {
	a, b := newSessions(t)
	if _, err := a.Encrypt(testPin, nil, make([]byte, MaxPlaintext+1), source("x")); !errors.Is(err, codec.ErrSize) {
		t.Errorf("long plaintext: %v", err)
	}
	if _, err := decrypt(b, make([]byte, MaxMessage+1)); !errors.Is(err, codec.ErrSize) {
		t.Errorf("long message: %v", err)
	}
	long := strings.Repeat("x", MaxPlaintext)
	mustRead(t, b, encrypt(t, a, long), long)
	mustRead(t, b, encrypt(t, a, ""), "")
	talk(t, a, b)
	if n := len(a.Marshal()); n > 500 {
		t.Errorf("a session of %d bytes", n)
	}
	// Nothing is padded: the length is the plaintext's and a constant.
	if x, y := len(encrypt(t, a, "12")), len(encrypt(t, a, "123")); y != x+1 {
		t.Errorf("%d and %d bytes", x, y)
	}
	t.Logf("session %d bytes, message of no text %d bytes", len(a.Marshal()), len(encrypt(t, a, "")))
}
