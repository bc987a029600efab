// Package direct is one device's one-to-one sessions (package ratchet) behind
// client.Pairs: a pair for each other device, and the device's prekeys.
//
// A message that doesn't open is noted beside its pair, and a new session begins
// with what is said next: at first at once, then after waits that double, and
// not while the last one begun is unanswered, since every message on that one
// begins it still (spec/client.md#lost-sessions).
package direct

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/ratchet"
)

const (
	firstWait = time.Hour      // before a second new session after the last
	longest   = 24 * time.Hour // of these waits, and for an answer
	maxBegins = 5              // the wait after so many is the longest
	maxUpload = 100            // one-time prekeys of a kind in one upload
)

// Names of the device's values.
const (
	nameStock = "prekeys"
	namePair  = "pair/" // and the other device's hash
)

// Pairs is one device's sessions. It is not safe for concurrent use.
type Pairs struct {
	self   ratchet.Device
	signer codec.Signer
	now    func() time.Time
	stored client.Stored

	stock *stock               // nil until it is needed
	pairs map[codec.Hash]*pair // those that were needed
}

var _ client.Pairs = (*Pairs)(nil)

// stock is the device's prekeys.
type stock struct {
	keys    *ratchet.PreKeys
	number  uint64 // of the newest upload
	upload  []byte // it, until it is confirmed
	changed bool
}

type stockState struct {
	_      struct{} `cbor:",toarray"`
	Number uint64
	Upload []byte
	Keys   []byte
}

// pair is the sessions with one other device.
type pair struct {
	*ratchet.Pair
	lostState
	told    bool // the caller, that a new session is due
	changed bool
}

// lostState is what is known of messages that didn't open.
type lostState struct {
	_      struct{} `cbor:",toarray"`
	Lost   bool     // one didn't open since the last that did, or the last new session
	Begun  int64    // milliseconds since 1970, UTC, of the last new session that answered one
	Begins uint8    // how many did, since a day without one
}

type pairState struct {
	_    struct{} `cbor:",toarray"`
	Lost lostState
	Pair []byte
}

// New returns a client.NewPairs with now's clock.
func New(now func() time.Time) client.NewPairs {
	return func(device codec.Hash, signer codec.Signer, stored client.Stored) (client.Pairs, error) {
		return &Pairs{
			self: ratchet.Device{Leaf: device, Key: signer.PublicKey()}, signer: signer, now: now, stored: stored,
			pairs: map[codec.Hash]*pair{},
		}, nil
	}
}

// Ready implements client.Pairs.
func (s *Pairs) Ready(peer client.Peer) (ready, renew bool, err error) {
	p, err := s.pair(peer)
	if err != nil {
		return false, false, err
	}
	ready = !p.Session().IsZero()
	return ready, !ready || p.due(s.now()), nil
}

// due reports whether a new session is to answer a message that didn't open.
func (p *pair) due(now time.Time) bool {
	if !p.Lost {
		return false
	}
	if began, ok := p.Unanswered(); ok && now.Before(began.Add(longest)) {
		return false
	}
	return !now.Before(time.UnixMilli(p.Begun).Add(p.wait()))
}

// wait returns how long after the last new session another may begin: an hour,
// and twice as long each time until there were none for a day.
func (p *pair) wait() time.Duration {
	switch {
	case p.Begins == 0:
		return 0
	case p.Begins >= maxBegins:
		return longest
	}
	return firstWait << (p.Begins - 1)
}

// begun counts a new session that answers a message which didn't open.
func (p *pair) begun(now time.Time) {
	if !now.Before(time.UnixMilli(p.Begun).Add(longest)) {
		p.Begins = 0
	}
	p.Lost, p.told, p.Begun, p.Begins = false, false, now.UnixMilli(), min(p.Begins+1, maxBegins)
}

// Begin implements client.Pairs.
func (s *Pairs) Begin(peer client.Peer, bundle []byte) error {
	p, err := s.pair(peer)
	if err != nil {
		return err
	}
	keys, err := s.preKeys()
	if err != nil {
		return err
	}
	b, err := ratchet.ParseBundle(bundle)
	if err != nil {
		return err
	}
	now := s.now()
	due := p.due(now)
	if err := p.Begin(keys, b, now, rand.Reader); err != nil {
		return fmt.Errorf("couldn't begin a session with device %s: %w", peer.Device.Short(), err)
	}
	if due {
		p.begun(now)
	}
	p.changed = true
	return nil
}

// Encrypt implements client.Pairs.
func (s *Pairs) Encrypt(peer client.Peer, pin client.Pin, ad, plaintext []byte) ([]byte, error) {
	p, err := s.pair(peer)
	if err != nil {
		return nil, err
	}
	message, err := p.Encrypt(ratchet.Pin(pin), ad, plaintext, rand.Reader)
	switch {
	case errors.Is(err, ratchet.ErrNoSession):
		return nil, fmt.Errorf("device %s: %w", peer.Device.Short(), client.ErrNoSession)
	case err != nil:
		return nil, fmt.Errorf("couldn't encrypt for device %s: %w", peer.Device.Short(), err)
	}
	p.changed = true
	return message, nil
}

// Decrypt implements client.Pairs.
func (s *Pairs) Decrypt(peer client.Peer, pin client.Pin, ad, message []byte) ([]byte, error) {
	p, err := s.pair(peer)
	if err != nil {
		return nil, err
	}
	keys, err := s.preKeys()
	if err != nil {
		return nil, err
	}
	o, err := p.Decrypt(keys, ratchet.Pin(pin), ad, message, s.now(), rand.Reader)
	if err != nil {
		return nil, s.failed(p, err)
	}
	p.Lost, p.changed = false, true
	// A hello used up a one-time prekey, or is remembered beside the last-resort one.
	s.stock.changed = s.stock.changed || o.Began
	return o.Plaintext, nil
}

// failed notes a message that didn't open, where a new session may help: not
// where it was read already.
func (s *Pairs) failed(p *pair, err error) error {
	if errors.Is(err, ratchet.ErrReplay) {
		return fmt.Errorf("%w (%w)", client.ErrReplay, err)
	}
	for _, lost := range []error{ratchet.ErrOpen, ratchet.ErrPreKey, ratchet.ErrTooFar, ratchet.ErrFull} {
		if !errors.Is(err, lost) {
			continue
		}
		if !p.Lost {
			p.Lost, p.changed = true, true
		}
		if p.due(s.now()) && !p.told {
			p.told = true
			return fmt.Errorf("%w (%w)", client.ErrLost, err)
		}
		break
	}
	return fmt.Errorf("couldn't decrypt: %w", err)
}

func pairName(device codec.Hash) string { return namePair + string(device[:]) }

// pair returns the sessions with a device, from memory or as they were stored.
func (s *Pairs) pair(peer client.Peer) (*pair, error) {
	if p, ok := s.pairs[peer.Device]; ok {
		return p, nil
	}
	remote := ratchet.Device{Leaf: peer.Device, Key: peer.Key}
	raw, err := s.stored.Value(pairName(peer.Device))
	if err != nil {
		return nil, fmt.Errorf("couldn't load the sessions with device %s: %w", peer.Device.Short(), err)
	}
	if raw == nil {
		p := &pair{Pair: ratchet.NewPair(remote)}
		s.pairs[peer.Device] = p
		return p, nil
	}
	defer clear(raw)
	p, err := readPair(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the sessions with device %s: %w", peer.Device.Short(), err)
	}
	if p.Remote() != remote {
		return nil, fmt.Errorf("the sessions with device %s are another's", peer.Device.Short())
	}
	s.pairs[peer.Device] = p
	return p, nil
}

func readPair(raw []byte) (*pair, error) {
	var st pairState
	if err := codec.Decode(raw, &st); err != nil {
		return nil, err
	}
	defer clear(st.Pair)
	p, err := ratchet.UnmarshalPair(st.Pair)
	if err != nil {
		return nil, err
	}
	return &pair{Pair: p, lostState: st.Lost}, nil
}

func (p *pair) encode() []byte {
	st := pairState{Lost: p.lostState, Pair: p.Pair.Marshal()}
	defer clear(st.Pair)
	return codec.Encode(st)
}

// Changes implements client.Pairs.
func (s *Pairs) Changes() ([]client.Change, error) {
	var changes []client.Change
	for device, p := range s.pairs {
		if p.changed {
			changes = append(changes, client.Change{Name: pairName(device), Value: p.encode()})
			p.changed = false
		}
	}
	if s.stock != nil && s.stock.changed {
		changes = append(changes, client.Change{Name: nameStock, Value: s.stock.encode()})
		s.stock.changed = false
	}
	slices.SortFunc(changes, func(a, b client.Change) int { return cmp.Compare(a.Name, b.Name) })
	return changes, nil
}

// Revert implements client.Pairs.
func (s *Pairs) Revert() {
	for _, p := range s.pairs {
		p.Erase()
	}
	clear(s.pairs)
	if s.stock != nil {
		s.stock.keys.Erase()
		s.stock = nil
	}
}
