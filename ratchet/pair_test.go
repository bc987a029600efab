package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/codec"
)

// end is a device's end of a pair.
type end struct {
	*node
	pair  *Pair
	peer  *end
	clock time.Time
}

// newEnds returns both ends of a pair without a session.
func newEnds(t testing.TB, stock int) (a, b *end) {
	t.Helper()
	a = &end{node: newNode(t, "alice", stock), clock: noon}
	b = &end{node: newNode(t, "bob", stock), clock: noon}
	a.peer, b.peer = b, a
	a.forget()
	b.forget()
	return a, b
}

// forget loses all sessions, and keeps the prekeys.
func (e *end) forget() { e.pair = NewPair(e.peer.device) }

func (e *end) begin(t testing.TB) {
	t.Helper()
	if err := e.pair.Begin(e.pre, e.peer.bundle(t), e.clock, e.random); err != nil {
		t.Fatal(err)
	}
}

func (e *end) send(t testing.TB, text string) []byte {
	t.Helper()
	data, err := e.pair.Encrypt(testPin, []byte("ad"), []byte(text), e.random)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (e *end) receive(data []byte) (*Opened, error) {
	return e.pair.Decrypt(e.pre, testPin, []byte("ad"), data, e.clock, e.random)
}

func (e *end) mustReceive(t testing.TB, data []byte, want string) *Opened {
	t.Helper()
	got, err := e.receive(data)
	if err != nil || string(got.Plaintext) != want {
		t.Fatalf("got %v, %v; want %q", got, err, want)
	}
	e.restart(t)
	return got
}

func (e *end) mustNotReceive(t testing.TB, data []byte, want error, what string) {
	t.Helper()
	pair, pre := e.pair.Marshal(), e.pre.Marshal()
	if got, err := e.receive(data); got != nil || !errors.Is(err, want) {
		t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
	}
	if !bytes.Equal(e.pair.Marshal(), pair) || !bytes.Equal(e.pre.Marshal(), pre) {
		t.Errorf("%s: refused, and the state changed", what)
	}
}

// restart stores and loads the state.
func (e *end) restart(t testing.TB) {
	t.Helper()
	pair, err := UnmarshalPair(e.pair.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	pre, err := UnmarshalPreKeys(e.pre.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if pair.Remote() != e.peer.device || pre.Device() != e.device {
		t.Fatal("stored for others")
	}
	e.pair, e.pre = pair, pre
}

// mustAgree exchanges messages and holds that both then send on one session.
func mustAgree(t testing.TB, a, b *end) {
	t.Helper()
	for i := range 3 {
		b.mustReceive(t, a.send(t, numbered(i)), numbered(i))
		a.mustReceive(t, b.send(t, numbered(i)), numbered(i))
	}
	if a.pair.Session() != b.pair.Session() {
		t.Fatalf("%s and %s are sent on", a.pair.Session().Short(), b.pair.Session().Short())
	}
}

func TestPair(t *testing.T) {
	a, b := newEnds(t, 1)
	if _, err := a.pair.Encrypt(testPin, nil, nil, a.random); !errors.Is(err, ErrNoSession) {
		t.Errorf("without a session: %v", err)
	}
	a.begin(t)
	first, second := a.send(t, "first"), a.send(t, "second")
	b.mustNotReceive(t, edit(t, first, func(m *message) { m.Hello = nil }), ErrOpen, "of no session")
	opened := b.mustReceive(t, second, "second")
	if !opened.Began || opened.LastResort || opened.Session != a.pair.Session() {
		t.Errorf("got %+v", opened)
	}
	if opened = b.mustReceive(t, first, "first"); opened.Began {
		t.Error("begun twice")
	}
	b.mustNotReceive(t, first, ErrReplay, "replayed, with its hello")
	mustAgree(t, a, b)
	if n := len(a.pair.Marshal()); n > 600 {
		t.Errorf("a pair of %d bytes", n)
	}
}

// TestBothBegin: whatever is late, both come to send on the lower session, and
// nothing is lost.
func TestBothBegin(t *testing.T) {
	for i := range 8 {
		a, b := newEnds(t, 8)
		for range i { // other randomness
			a.bundle(t)
		}
		a.begin(t)
		b.begin(t)
		fromA, fromB := [][]byte{a.send(t, "a0"), a.send(t, "a1")}, [][]byte{b.send(t, "b0"), b.send(t, "b1")}
		ids := [2]codec.Hash{a.pair.Session(), b.pair.Session()}
		b.mustReceive(t, fromA[1], "a1")
		a.mustReceive(t, fromB[0], "b0")
		a.mustReceive(t, b.send(t, "b2"), "b2")
		a.mustReceive(t, fromB[1], "b1")
		b.mustReceive(t, fromA[0], "a0")
		mustAgree(t, a, b)
		lower := ids[0]
		if bytes.Compare(ids[1][:], ids[0][:]) < 0 {
			lower = ids[1]
		}
		if a.pair.Session() != lower {
			t.Error("the higher session won")
		}
	}
}

// TestLateLoser: the hello of the session that lost arrives when the winner has
// been answered. It looks like a restart, and the two agree all the same.
func TestLateLoser(t *testing.T) {
	for i := range 8 {
		a, b := newEnds(t, 8)
		for range i { // other randomness
			a.bundle(t)
		}
		a.begin(t)
		b.begin(t)
		late := b.send(t, "late")
		b.mustReceive(t, a.send(t, "first"), "first")
		a.mustReceive(t, b.send(t, "answer"), "answer")
		a.mustReceive(t, late, "late")
		mustAgree(t, a, b)
	}
}

// TestStateLoss: a new session replaces the old one, whose late messages are
// still read for a time.
func TestStateLoss(t *testing.T) {
	a, b := newEnds(t, 4)
	a.begin(t)
	b.mustReceive(t, a.send(t, "x"), "x")
	mustAgree(t, a, b)
	a.clock = noon.Add(RetiredLife)
	b.clock = a.clock
	late, later := b.send(t, "late"), b.send(t, "later")
	lost := a.send(t, "lost")
	b.forget()
	b.mustNotReceive(t, lost, ErrOpen, "of a session that was forgotten")
	b.begin(t)
	a.mustReceive(t, b.send(t, "again"), "again")
	mustAgree(t, a, b)
	if opened := a.mustReceive(t, late, "late"); opened.Session == a.pair.Session() {
		t.Error("a late message changed the session")
	}
	mustAgree(t, a, b)
	a.clock = a.clock.Add(RetiredLife)
	a.mustNotReceive(t, later, ErrOpen, "late beyond the bound")
	a.pair.Expire(a.clock)
	if len(a.pair.retired) != 0 {
		t.Error("retired sessions are left")
	}
}

// TestLostBeforeTheAnswer: A's session never reached B's memory; B begins one and
// A sends on that.
func TestLostBeforeTheAnswer(t *testing.T) {
	a, b := newEnds(t, 4)
	a.begin(t)
	b.mustReceive(t, a.send(t, "x"), "x")
	b.forget()
	again := a.send(t, "y")
	b.mustNotReceive(t, again, ErrPreKey, "of a session that was forgotten")
	b.begin(t)
	a.mustReceive(t, b.send(t, "new"), "new")
	b.mustReceive(t, a.send(t, "on the new one"), "on the new one")
}

// TestDelayedHelloRestartsNothing: a server that kept back an initial message
// can't bring its session back, and its text is still read.
func TestDelayedHelloRestartsNothing(t *testing.T) {
	a, b := newEnds(t, 4)
	a.begin(t)
	kept, keptToo := a.send(t, "kept back"), a.send(t, "kept back too")
	a.begin(t)
	b.mustReceive(t, a.send(t, "x"), "x")
	mustAgree(t, a, b)
	session := b.pair.Session()
	if opened := b.mustReceive(t, kept, "kept back"); !opened.Began {
		t.Error("not told as begun")
	}
	b.mustReceive(t, keptToo, "kept back too")
	if b.pair.Session() != session {
		t.Error("an old initial message restarted the session")
	}
	b.mustNotReceive(t, kept, ErrReplay, "replayed")
	mustAgree(t, a, b)
}

// TestReplayRestartsNothing: not one that used the last resort alone, and not
// after its session was given up.
func TestReplayRestartsNothing(t *testing.T) {
	a, b := newEnds(t, 0)
	a.begin(t)
	first := a.send(t, "first")
	if opened := b.mustReceive(t, first, "first"); !opened.LastResort {
		t.Error("not told as last resort")
	}
	for range 2 * MaxRetired {
		a.begin(t)
		b.mustReceive(t, a.send(t, "x"), "x")
	}
	if len(b.pair.retired) != MaxRetired {
		t.Errorf("%d retired sessions", len(b.pair.retired))
	}
	b.mustNotReceive(t, first, ErrReplay, "of a session that was given up")
	b.forget()
	b.mustNotReceive(t, first, ErrReplay, "of a session that was forgotten")
}

// TestForcedRestart: without a signature nobody makes a pair change its session.
func TestForcedRestart(t *testing.T) {
	a, b := newEnds(t, 6)
	a.begin(t)
	initial := a.send(t, "x")
	b.mustReceive(t, initial, "x")
	mustAgree(t, a, b)
	mallory := &end{node: newNode(t, "mallory", 1), peer: b, clock: noon}
	mallory.forget()
	posing := mallory.pre.state
	posing.Self, posing.Identity = a.device, a.pre.Identity()
	mallory.pre = &PreKeys{posing}
	mallory.begin(t)
	session := b.pair.Session()
	for name, data := range map[string][]byte{
		"a's identity, own keys": mallory.send(t, "x"),
		"a's hello, other body":  edit(t, initial, func(m *message) { m.Ciphertext[0] ^= 1 }),
		"a's hello, other time":  editHello(t, initial, func(h *hello) { h.Time++ }),
	} {
		pair := b.pair.Marshal()
		if _, err := b.receive(data); err == nil || b.pair.Session() != session || !bytes.Equal(b.pair.Marshal(), pair) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustAgree(t, a, b)
}

// TestWrongClocks: times only go up, and one from a clock that was wrong doesn't
// lock anybody out.
func TestWrongClocks(t *testing.T) {
	a, b := newEnds(t, 8)
	a.clock = noon.Add(time.Hour)
	a.begin(t)
	b.mustNotReceive(t, a.send(t, "x"), ErrClock, "an hour ahead")
	a.clock = noon
	a.begin(t) // its own time from then doesn't count
	b.mustReceive(t, a.send(t, "y"), "y")
	a.clock = noon.Add(-MaxAhead)
	a.begin(t) // back a little: its time goes up all the same
	b.mustReceive(t, a.send(t, "z"), "z")
	if b.pair.Session() != a.pair.Session() {
		t.Error("a clock that went back began no session")
	}
	mustAgree(t, a, b)
	a.clock, b.clock = noon.Add(time.Hour), noon.Add(time.Hour)
	a.begin(t)
	b.mustReceive(t, a.send(t, "both ahead"), "both ahead")
	a.clock, b.clock = noon, noon
	a.forget()
	a.begin(t)
	b.mustReceive(t, a.send(t, "both back"), "both back")
	if b.pair.Session() != a.pair.Session() {
		t.Error("locked out by a time from a wrong clock")
	}
}

// TestSeveralDevices: one session for each pair, none opens another's messages.
func TestSeveralDevices(t *testing.T) {
	phone, tablet, bob := newNode(t, "phone", 2), newNode(t, "tablet", 2), newNode(t, "bob", 4)
	var pairs [2]*Pair
	var data [2][]byte
	for i, to := range []*node{phone, tablet} {
		pairs[i] = NewPair(to.device)
		if err := pairs[i].Begin(bob.pre, to.bundle(t), noon, bob.random); err != nil {
			t.Fatal(err)
		}
		var err error
		if data[i], err = pairs[i].Encrypt(testPin, nil, []byte("to both"), bob.random); err != nil {
			t.Fatal(err)
		}
	}
	for i, to := range []*node{phone, tablet} {
		if _, err := NewPair(bob.device).Decrypt(to.pre, testPin, nil, data[1-i], noon, to.random); err == nil {
			t.Error("one device opens what is for the other")
		}
		opened, err := NewPair(bob.device).Decrypt(to.pre, testPin, nil, data[i], noon, to.random)
		if err != nil || string(opened.Plaintext) != "to both" {
			t.Errorf("got %v", err)
		}
	}
}

// TestPairWork: a message that belongs nowhere costs a bounded number of trials.
func TestPairWork(t *testing.T) {
	a, b := newEnds(t, 0)
	for i := range MaxRetired + 2 {
		a.begin(t)
		b.mustReceive(t, a.send(t, numbered(i)), numbered(i))
	}
	work := 0
	for _, s := range b.pair.sessions(b.clock) {
		s.testOnlyWork = func() { work++ }
	}
	x, _ := newSessions(t)
	data := edit(t, encrypt(t, x, "x"), func(m *message) { m.Hello = nil })
	b.mustNotReceive(t, data, ErrOpen, "of nobody")
	if most := (2 + MaxRetired) * (MaxChains + 2); work > most {
		t.Errorf("%d trials, want at most %d", work, most)
	}
	if fmt.Sprint(b.pair) != "sessions with "+a.device.Leaf.Short() {
		t.Errorf("printed as %v", b.pair)
	}
	b.pair.Erase()
	if len(b.pair.sessions(b.clock)) != 0 {
		t.Error("sessions are left")
	}
}

// TestUnanswered: a session that this device began waits for the first message
// that comes back on it.
func TestUnanswered(t *testing.T) {
	a, b := newEnds(t, 1)
	waits := func(e *end, want bool) {
		t.Helper()
		if began, ok := e.pair.Unanswered(); ok != want || ok && !began.Equal(e.clock) {
			t.Errorf("got %v, %v", began, ok)
		}
	}
	waits(a, false)
	a.begin(t)
	waits(a, true)
	b.mustReceive(t, a.send(t, "hello"), "hello")
	waits(a, true)
	waits(b, false)
	a.mustReceive(t, b.send(t, "hello"), "hello")
	waits(a, false)
}
