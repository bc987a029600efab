package ratchet

import (
	"crypto/ecdh"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"chancery/codec"
)

// Session is one agreement between two devices and the ratchet that follows from
// it (spec/ratchet.md#double-ratchet).
type Session struct {
	state sessionState
	// testOnlyWork hears of each trial of a header key and each derived message
	// key, so that tests count work instead of timing it.
	testOnlyWork func()
}

type sessionState struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	ID      codec.Hash
	Ours    bool // whether this device began it
	Heard   bool // whether a message was read on it: there is a receiving chain
	Parties codec.Hash
	Hello   []byte // on every message until Heard, where Ours
	Ratchet ratchet
	Read    uint64         // messages read
	Skipped []skippedChain // oldest first
}

// ratchet is all of a session's keys but the skipped ones: a value of one size,
// so that a step works on a copy.
type ratchet struct {
	_        struct{} `cbor:",toarray"`
	Root     secret
	Self     secret // own private key
	Public   point  // and its public half
	Peer     point
	Send     chain
	Receive  chain
	NextSend secret // header keys after the next turn
	NextRecv secret
	Previous uint32 // PN: how many messages the sending chain before had
}

func (r *ratchet) erase() { *r = ratchet{} }

// skippedChain are keys of messages of one receiving chain that haven't come.
type skippedChain struct {
	_      struct{} `cbor:",toarray"`
	Header secret
	Keys   []skippedKey // in the order of N
}

func (c *skippedChain) erase() {
	c.Header.erase()
	clear(c.Keys)
}

type skippedKey struct {
	_     struct{} `cbor:",toarray"`
	N     uint32
	Read  uint64 // the session's count when the message was skipped
	Until int64  // milliseconds since 1970, UTC
	Key   secret
}

// newInitiator turns the ratchet once towards the signed prekey
// (RatchetInitAliceHE).
func newInitiator(a *agreement, hello []byte, random io.Reader) (*Session, error) {
	root, header, next, err := a.keys()
	if err != nil {
		return nil, err
	}
	defer erase(&root, &header, &next)
	s := &Session{state: sessionState{Version: version, ID: a.session, Ours: true, Parties: a.parties, Hello: hello}}
	r := &s.state.Ratchet
	r.Root, r.Peer, r.NextSend, r.NextRecv = root, a.signed, header, next
	if err := r.turnSending(random); err != nil {
		s.Erase()
		return nil, err
	}
	return s, nil
}

// newResponder waits for a message under the initiator's header key
// (RatchetInitBobHE). It can't send before.
func newResponder(a *agreement, signed secret) (*Session, error) {
	root, header, next, err := a.keys()
	if err != nil {
		return nil, err
	}
	defer erase(&root, &header, &next)
	s := &Session{state: sessionState{Version: version, ID: a.session, Parties: a.parties}}
	r := &s.state.Ratchet
	r.Root, r.Self, r.NextRecv, r.NextSend = root, signed, header, next
	return s, nil
}

// turnSending draws a key pair and begins a sending chain with it.
func (r *ratchet) turnSending(random io.Reader) error {
	private, err := r.Self.newPrivate(random)
	if err != nil {
		return err
	}
	r.Public = publicOf(private)
	r.Previous = r.Send.N
	r.Send.Header, r.Send.N = r.NextSend, 0
	return r.mix(private, &r.Send.Key, &r.NextSend)
}

// turnReceiving begins a receiving chain with the peer's new key.
func (r *ratchet) turnReceiving(peer point) error {
	private, err := r.Self.private()
	if err != nil {
		return err
	}
	r.Peer = peer
	r.Receive.Header, r.Receive.N = r.NextRecv, 0
	return r.mix(private, &r.Receive.Key, &r.NextRecv)
}

// mix is KDF_RK_HE over the two current ratchet keys.
func (r *ratchet) mix(private *ecdh.PrivateKey, key, next *secret) error {
	shared, err := agree(private, r.Peer)
	if err != nil {
		return err
	}
	defer shared.erase()
	r.Root, *key, *next, err = derive3(shared[:], r.Root[:], infoRoot)
	return err
}

// ID returns the hash that names the session: that of its initial messages'
// hello, the same on both sides.
func (s *Session) ID() codec.Hash { return s.state.ID }

// Began reports whether this device began the session.
func (s *Session) Began() bool { return s.state.Ours }

// Heard reports whether a message was read on the session.
func (s *Session) Heard() bool { return s.state.Heard }

// Encrypt returns a message of plaintext, at most MaxPlaintext bytes, bound to
// pin and ad, with 16 bytes of random. The caller stores the session before it
// sends the message. Where it fails nothing has changed. It returns
// codec.ErrSize, wrapped, or ErrExhausted.
func (s *Session) Encrypt(pin Pin, ad, plaintext []byte, random io.Reader) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("plaintext of %d bytes: %w", len(plaintext), codec.ErrSize)
	}
	r := &s.state.Ratchet
	if r.Send.N == math.MaxUint32 {
		return nil, fmt.Errorf("sending chain: %w", ErrExhausted)
	}
	m := message{Version: version, Hello: s.state.Hello}
	if err := draw(random, m.Salt[:]); err != nil {
		return nil, err
	}
	h := header{public: r.Public, pn: r.Previous, n: r.Send.N}
	sealed, err := seal(&r.Send.Header, infoHeader, m.Salt[:], h.encode(), s.state.Parties[:])
	if err != nil {
		return nil, err
	}
	m.Header = [headerSize + tagSize]byte(sealed)
	next := r.Send
	key := next.step()
	defer key.erase()
	if m.Ciphertext, err = seal(&key, infoMessage, m.Salt[:], plaintext, m.aad(s.state.Parties, pin, ad)); err != nil {
		next.erase()
		return nil, err
	}
	r.Send = next
	next.erase()
	return codec.Encode(m), nil
}

// Decrypt opens a message that the peer made on this session for pin and ad, with
// 32 bytes of random where the ratchet turns. The caller stores the session in
// one step with what it does with the plaintext. Where it fails nothing has
// changed. It returns codec.ErrSize, codec.ErrEncoding, ErrOpen, ErrReplay,
// ErrTooFar or ErrPoint, wrapped.
func (s *Session) Decrypt(pin Pin, ad, data []byte, now time.Time, random io.Reader) ([]byte, error) {
	m, err := parseMessage(data)
	if err != nil {
		return nil, err
	}
	return s.open(m, pin, ad, now, random)
}

func (s *Session) open(m *message, pin Pin, ad []byte, now time.Time, random io.Reader) ([]byte, error) {
	if len(m.Hello) > 0 && m.session() != s.state.ID {
		return nil, ErrOpen
	}
	h, where, err := s.locate(m)
	if err != nil {
		return nil, err
	}
	aad := m.aad(s.state.Parties, pin, ad)
	if where.chain >= 0 {
		return s.openSkipped(m, h, where.chain, aad, now)
	}
	if !where.turn && h.n < s.state.Ratchet.Receive.N {
		return nil, ErrReplay
	}
	return s.openNext(m, h, where.turn, aad, now, random)
}

// place is where a header says that its message is.
type place struct {
	turn  bool // in a chain that it begins
	chain int  // among the skipped ones; -1 for neither
}

// locate opens the header. A number of the current chain that was passed is
// looked for among the skipped ones, like one of an older chain.
func (s *Session) locate(m *message) (header, place, error) {
	r := &s.state.Ratchet
	if s.state.Heard {
		h, ok := s.try(&r.Receive.Header, m)
		if ok {
			where := place{chain: -1}
			if h.n < r.Receive.N {
				where.chain = slices.IndexFunc(s.state.Skipped, func(c skippedChain) bool { return c.Header == r.Receive.Header })
			}
			return h, where, nil
		}
	}
	if h, ok := s.try(&r.NextRecv, m); ok {
		return h, place{turn: true, chain: -1}, nil
	}
	for i := range s.state.Skipped {
		if c := &s.state.Skipped[i]; c.Header != r.Receive.Header {
			if h, ok := s.try(&c.Header, m); ok {
				return h, place{chain: i}, nil
			}
		}
	}
	return header{}, place{}, ErrOpen
}

// try opens the header under one header key.
func (s *Session) try(key *secret, m *message) (header, bool) {
	s.work()
	plaintext, err := open(key, infoHeader, m.Salt[:], m.Header[:], s.state.Parties[:])
	if err != nil {
		return header{}, false
	}
	return parseHeader(plaintext), true
}

func (s *Session) work() {
	if s.testOnlyWork != nil {
		s.testOnlyWork()
	}
}

// openSkipped opens a message whose key was kept, and erases the key.
func (s *Session) openSkipped(m *message, h header, chain int, aad []byte, now time.Time) ([]byte, error) {
	keys := s.state.Skipped[chain].Keys
	i := slices.IndexFunc(keys, func(k skippedKey) bool { return k.N == h.n })
	if i < 0 || now.UnixMilli() >= keys[i].Until {
		return nil, ErrReplay
	}
	plaintext, err := open(&keys[i].Key, infoMessage, m.Salt[:], m.Ciphertext, aad)
	if err != nil {
		return nil, err
	}
	s.state.Skipped[chain].Keys = slices.Delete(keys, i, i+1)
	s.state.Read++
	s.Expire(now)
	return plaintext, nil
}

// openNext opens a message whose key is yet to be derived. All of it happens on
// copies, until the message has opened.
func (s *Session) openNext(m *message, h header, turn bool, aad []byte, now time.Time, random io.Reader) ([]byte, error) {
	if err := s.checkSkips(h, turn); err != nil {
		return nil, err
	}
	next := s.state.Ratchet
	defer next.erase()
	var skipped []skippedChain
	keep := false
	defer func() {
		if !keep {
			eraseChains(skipped)
		}
	}()
	until := now.Add(SkippedLife).UnixMilli()
	if turn {
		if s.state.Heard {
			skipped = s.skip(skipped, &next.Receive, h.pn, until)
		}
		if err := next.turnReceiving(h.public); err != nil {
			return nil, err
		}
	}
	skipped = s.skip(skipped, &next.Receive, h.n, until)
	s.work()
	key := next.Receive.step()
	defer key.erase()
	plaintext, err := open(&key, infoMessage, m.Salt[:], m.Ciphertext, aad)
	if err != nil {
		return nil, err
	}
	if turn {
		if err := next.turnSending(random); err != nil {
			clear(plaintext)
			return nil, err
		}
	}
	keep = true
	s.commit(&next, skipped, now)
	return plaintext, nil
}

// checkSkips refuses, before any work, a header that passes over too many
// messages.
func (s *Session) checkSkips(h header, turn bool) error {
	if h.n == math.MaxUint32 {
		return ErrTooFar // no honest sender gets there, and the next number would be 0
	}
	n := s.state.Ratchet.Receive.N
	if !turn {
		if h.n-n > MaxSkip {
			return ErrTooFar
		}
		return nil
	}
	if h.n > MaxSkip || s.state.Heard && h.pn > n && h.pn-n > MaxSkip {
		return ErrTooFar
	}
	return nil
}

// skip derives and keeps the keys of a chain up to a number.
func (s *Session) skip(to []skippedChain, c *chain, end uint32, until int64) []skippedChain {
	if end <= c.N {
		return to
	}
	keys := make([]skippedKey, 0, end-c.N)
	for c.N < end {
		s.work()
		n := c.N
		keys = append(keys, skippedKey{N: n, Read: s.state.Read, Until: until, Key: c.step()})
	}
	return append(to, skippedChain{Header: c.Header, Keys: keys})
}

// commit makes a step that succeeded the session's state.
func (s *Session) commit(next *ratchet, skipped []skippedChain, now time.Time) {
	s.state.Ratchet = *next
	s.state.Heard = true
	s.state.Hello = nil
	s.state.Read++
	for _, c := range skipped {
		s.keep(c)
	}
	s.Expire(now)
}

// keep adds skipped keys, within the bounds.
func (s *Session) keep(c skippedChain) {
	i := slices.IndexFunc(s.state.Skipped, func(held skippedChain) bool { return held.Header == c.Header })
	if i < 0 {
		old := s.state.Skipped
		s.state.Skipped = append(slices.Clip(old), c)
		clear(old) // it is another array now
	} else {
		s.state.Skipped[i].Keys = joined(s.state.Skipped[i].Keys, c.Keys)
	}
	if over := len(s.state.Skipped) - MaxChains; over > 0 {
		eraseChains(s.state.Skipped[:over])
		s.state.Skipped = slices.Delete(s.state.Skipped, 0, over)
	}
	total := 0
	for i := len(s.state.Skipped) - 1; i >= 0; i-- {
		keys := &s.state.Skipped[i].Keys
		over := max(0, len(*keys)-min(MaxSkip, MaxSkipped-total))
		clear((*keys)[:over])
		*keys = slices.Delete(*keys, 0, over)
		total += len(*keys)
	}
}

// joined returns both in a new list and erases the old ones.
func joined(a, b []skippedKey) []skippedKey {
	out := slices.Concat(a, b)
	clear(a)
	clear(b)
	return out
}

func eraseChains(chains []skippedChain) {
	for i := range chains {
		chains[i].erase()
	}
}

// Expire erases skipped keys whose time has come, by the clock or by the number
// of messages read since. Decrypt does so too, each time it succeeds.
func (s *Session) Expire(now time.Time) {
	for i := range s.state.Skipped {
		keys := &s.state.Skipped[i].Keys
		*keys = slices.DeleteFunc(*keys, func(k skippedKey) bool {
			return now.UnixMilli() >= k.Until || s.state.Read-k.Read > MaxLater
		})
	}
	s.state.Skipped = slices.DeleteFunc(s.state.Skipped, func(c skippedChain) bool { return len(c.Keys) == 0 })
}

// Erase overwrites all keys.
func (s *Session) Erase() {
	s.state.Ratchet.erase()
	eraseChains(s.state.Skipped)
	s.state.Skipped = nil
}

// String hides the keys from logs and error texts.
func (s *Session) String() string { return "session " + s.state.ID.Short() }

// GoString hides the keys from logs and error texts.
func (s *Session) GoString() string { return s.String() }

// Marshal returns s's canonical encoding, which holds its keys.
func (s *Session) Marshal() []byte { return codec.Encode(s.state) }

// UnmarshalSession reads what Marshal wrote. It returns codec.ErrSize or
// codec.ErrEncoding, wrapped.
func UnmarshalSession(data []byte) (*Session, error) {
	s := &Session{}
	if err := unmarshal("a session", data, MaxSession, &s.state); err != nil {
		return nil, err
	}
	return s, nil
}

// check holds the state to what the package itself would write.
func (s *sessionState) check() error {
	unanswered := s.Ours && !s.Heard
	if s.Version != version || !s.Ours && !s.Heard || unanswered != (len(s.Hello) > 0) {
		return codec.ErrEncoding
	}
	if unanswered && sessionOf(s.Hello) != s.ID {
		return codec.ErrEncoding
	}
	if s.Heard != (s.Ratchet.Receive != chain{}) || s.Heard != (s.Read > 0) || len(s.Skipped) > MaxChains {
		return codec.ErrEncoding
	}
	total := 0
	for i, c := range s.Skipped {
		total += len(c.Keys)
		if !s.Heard || len(c.Keys) == 0 || len(c.Keys) > MaxSkip || total > MaxSkipped {
			return codec.ErrEncoding
		}
		if slices.ContainsFunc(s.Skipped[:i], func(o skippedChain) bool { return o.Header == c.Header }) {
			return codec.ErrEncoding
		}
		for j, k := range c.Keys {
			if k.Read > s.Read || j > 0 && k.N <= c.Keys[j-1].N || c.Header == s.Ratchet.Receive.Header && k.N >= s.Ratchet.Receive.N {
				return codec.ErrEncoding
			}
		}
	}
	return nil
}
