package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"chancery/codec"
)

// Pair is all sessions of this device with one other, and which of them to send
// on (spec/ratchet.md#sessions-of-a-pair).
type Pair struct {
	remote  Device
	began   int64 // the time in the newest hello made
	newest  int64 // the latest time in a hello accepted
	current *Session
	rival   *aging // ours, begun about when the peer began current
	retired []aging
}

// aging is a session that is no longer sent on, or not yet.
type aging struct {
	session *Session
	until   int64 // milliseconds since 1970, UTC
}

func newAging(s *Session, now time.Time) aging {
	return aging{s, now.Add(RetiredLife).UnixMilli()}
}

func (a *aging) over(now time.Time) bool { return now.UnixMilli() >= a.until }

// NewPair returns a pair without a session.
func NewPair(remote Device) *Pair { return &Pair{remote: remote} }

// Remote returns the other device.
func (p *Pair) Remote() Device { return p.remote }

// Begin begins a session by the other device's bundle, to send on from now on:
// the first, or one after messages didn't open. While the session before is ours
// and unanswered there is no need to: its messages begin it, too, and each session
// more displaces an older one. It returns what Initiate returns.
func (p *Pair) Begin(self *PreKeys, bundle *Bundle, now time.Time, random io.Reader) error {
	at := max(now.UnixMilli(), believed(p.began, now)+1)
	s, err := initiate(self, p.remote, bundle, now, stamp{at: at, seen: p.newest}, random, (*mlkem.EncapsulationKey1024).Encapsulate)
	if err != nil {
		return err
	}
	p.began = at
	p.retireRival()
	p.retire(p.current, now)
	p.current = s
	return nil
}

// Session returns the hash that names the session to send on, zeros where there
// is none.
func (p *Pair) Session() codec.Hash {
	if p.current == nil {
		return codec.Hash{}
	}
	return p.current.ID()
}

// Unanswered returns when this device began the current session, if it did and
// has read nothing of the other device on it: each message then still begins it.
func (p *Pair) Unanswered() (began time.Time, ok bool) {
	if p.current == nil || !p.current.Began() || p.current.Heard() {
		return time.Time{}, false
	}
	return time.UnixMilli(p.began), true
}

// Encrypt makes a message on the current session, as Session.Encrypt does. It
// returns ErrNoSession as well.
func (p *Pair) Encrypt(pin Pin, ad, plaintext []byte, random io.Reader) ([]byte, error) {
	if p.current == nil {
		return nil, ErrNoSession
	}
	return p.current.Encrypt(pin, ad, plaintext, random)
}

// Opened is a message that was read.
type Opened struct {
	Plaintext []byte
	Session   codec.Hash // what names the session that it was on
	// Began says that the message began the session; LastResort, that it did so
	// without a one-time key.
	Began, LastResort bool
}

// Decrypt opens a message of the other device, on whichever session it is, or
// accepts the one that it begins. The caller stores pair and prekeys in one step
// with what it does with the plaintext. Where it fails nothing has changed. It
// returns what Session.Decrypt and Accept return.
func (p *Pair) Decrypt(self *PreKeys, pin Pin, ad, data []byte, now time.Time, random io.Reader) (*Opened, error) {
	m, err := parseMessage(data)
	if err != nil {
		return nil, err
	}
	named := m.session()
	for _, s := range p.sessions(now) {
		if len(m.Hello) > 0 && s.ID() != named {
			continue
		}
		plaintext, err := s.open(m, pin, ad, now, random)
		if err == nil {
			p.heard(s, now)
			return &Opened{Plaintext: plaintext, Session: s.ID()}, nil
		}
		if len(m.Hello) > 0 || !errors.Is(err, ErrOpen) {
			return nil, err
		}
	}
	if len(m.Hello) == 0 {
		return nil, ErrOpen
	}
	a, err := accept(self, p.remote, pin, ad, m, now, random)
	if err != nil {
		return nil, err
	}
	p.add(a, now)
	return &Opened{Plaintext: a.Plaintext, Session: a.Session.ID(), Began: true, LastResort: a.LastResort}, nil
}

// sessions returns those that are read, the likeliest first.
func (p *Pair) sessions(now time.Time) []*Session {
	var all []*Session
	if p.current != nil {
		all = append(all, p.current)
	}
	if p.rival != nil && !p.rival.over(now) {
		all = append(all, p.rival.session)
	}
	for i := len(p.retired) - 1; i >= 0; i-- {
		if !p.retired[i].over(now) {
			all = append(all, p.retired[i].session)
		}
	}
	return all
}

// heard settles a contest once the peer is known to hold both sessions: the
// rival's hash is the lower one.
func (p *Pair) heard(s *Session, now time.Time) {
	if p.rival != nil && s == p.rival.session {
		p.retire(p.current, now)
		p.current, p.rival = s, nil
	}
	p.Expire(now)
}

// add puts an accepted session in its place.
func (p *Pair) add(a *Accepted, now time.Time) {
	defer p.Expire(now)
	if a.Time <= believed(p.newest, now) {
		p.retire(a.Session, now)
		return
	}
	p.newest = a.Time
	p.retireRival()
	if c := p.current; c != nil && c.Began() && p.unknown(a, now) && lower(c, a.Session) {
		rival := newAging(c, now)
		p.rival = &rival
	} else {
		p.retire(c, now)
	}
	p.current = a.Session
}

// unknown reports whether the peer may have begun a session before it knew of
// the last of ours, though its hello comes only now.
func (p *Pair) unknown(a *Accepted, now time.Time) bool {
	return a.Seen < p.began && now.UnixMilli() < p.began+RetiredLife.Milliseconds()
}

// lower compares the hashes that name two sessions.
func lower(a, b *Session) bool {
	x, y := a.ID(), b.ID()
	return bytes.Compare(x[:], y[:]) < 0
}

// believed returns a time noted earlier, 0 where it can only come from a clock
// that was wrong: nobody accepts what is later than it, for as long as it lies
// ahead.
func believed(at int64, now time.Time) int64 {
	if at > now.Add(MaxAhead).UnixMilli() {
		return 0
	}
	return at
}

// retire keeps a session for late messages, within the bound.
func (p *Pair) retire(s *Session, now time.Time) {
	if s != nil {
		p.age(newAging(s, now))
	}
}

// retireRival gives up a contest. The rival's time doesn't begin anew.
func (p *Pair) retireRival() {
	if p.rival != nil {
		p.age(*p.rival)
		p.rival = nil
	}
}

func (p *Pair) age(a aging) {
	p.retired = append(p.retired, a)
	if over := len(p.retired) - MaxRetired; over > 0 {
		for _, r := range p.retired[:over] {
			r.session.Erase()
		}
		p.retired = slices.Delete(p.retired, 0, over)
	}
}

// Expire erases retired sessions and skipped keys whose time has come. Decrypt
// does so too, each time it succeeds.
func (p *Pair) Expire(now time.Time) {
	if p.rival != nil && p.rival.over(now) {
		p.rival.session.Erase()
		p.rival = nil
	}
	p.retired = slices.DeleteFunc(p.retired, func(a aging) bool {
		if a.over(now) {
			a.session.Erase()
		}
		return a.over(now)
	})
	for _, s := range p.sessions(now) {
		s.Expire(now)
	}
}

// Erase overwrites all keys.
func (p *Pair) Erase() {
	p.retireRival()
	if p.current != nil {
		p.current.Erase()
	}
	for _, r := range p.retired {
		r.session.Erase()
	}
	p.current, p.retired = nil, nil
}

// String hides the keys from logs and error texts.
func (p *Pair) String() string { return "sessions with " + p.remote.Leaf.Short() }

// GoString hides the keys from logs and error texts.
func (p *Pair) GoString() string { return p.String() }

type pairState struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Remote  Device
	Began   int64
	Newest  int64
	Current []byte       // empty where there is none
	Rival   []agingState // at most one
	Retired []agingState
}

type agingState struct {
	_       struct{} `cbor:",toarray"`
	Session []byte
	Until   int64
}

func (a *aging) state() agingState { return agingState{Session: a.session.Marshal(), Until: a.until} }

// Marshal returns p's canonical encoding, which holds its sessions' keys.
func (p *Pair) Marshal() []byte {
	s := pairState{Version: version, Remote: p.remote, Began: p.began, Newest: p.newest}
	defer s.erase()
	if p.current != nil {
		s.Current = p.current.Marshal()
	}
	if p.rival != nil {
		s.Rival = []agingState{p.rival.state()}
	}
	for i := range p.retired {
		s.Retired = append(s.Retired, p.retired[i].state())
	}
	return codec.Encode(s)
}

// erase overwrites the sessions' encodings.
func (s *pairState) erase() {
	clear(s.Current)
	for _, a := range slices.Concat(s.Rival, s.Retired) {
		clear(a.Session)
	}
}

// UnmarshalPair reads what Marshal wrote. It returns codec.ErrSize or
// codec.ErrEncoding, wrapped.
func UnmarshalPair(data []byte) (*Pair, error) {
	if len(data) > MaxPair {
		return nil, fmt.Errorf("pair of %d bytes: %w", len(data), codec.ErrSize)
	}
	var s pairState
	if err := codec.Decode(data, &s); err != nil {
		return nil, fmt.Errorf("couldn't read a pair: %w", err)
	}
	defer s.erase()
	p, err := s.pair()
	if err != nil {
		return nil, fmt.Errorf("couldn't read a pair: %w", err)
	}
	return p, nil
}

func (s *pairState) pair() (*Pair, error) {
	if s.Version != version || len(s.Rival) > 1 || len(s.Retired) > MaxRetired {
		return nil, codec.ErrEncoding
	}
	p := &Pair{remote: s.Remote, began: s.Began, newest: s.Newest}
	var err error
	if len(s.Current) > 0 {
		if p.current, err = UnmarshalSession(s.Current); err != nil {
			return nil, err
		}
	}
	for _, a := range s.Retired {
		session, err := UnmarshalSession(a.Session)
		if err != nil {
			return nil, err
		}
		p.retired = append(p.retired, aging{session, a.Until})
	}
	if len(s.Rival) == 0 {
		return p, nil
	}
	session, err := UnmarshalSession(s.Rival[0].Session)
	if err != nil {
		return nil, err
	}
	if !session.Began() || p.current == nil || !lower(session, p.current) {
		return nil, codec.ErrEncoding
	}
	p.rival = &aging{session, s.Rival[0].Until}
	return p, nil
}
