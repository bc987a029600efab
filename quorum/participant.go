package quorum

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chancery/codec"

	"filippo.io/bigmod"
)

// SeedSize is the length in bytes of a Participant's seed.
const SeedSize = 32

// ErrSeed means that the board holds a commitment, opening or deal in a
// participant's name which its seed did not make: the seed was lost or replaced, or somebody else speaks
// for it. The ceremony can't go on.
var ErrSeed = errors.New("board has a message that this seed did not make")

// Participant is one keyholder in a ceremony. All that it says follows from its
// seed, its decryption key and the board, so that one that was restarted says
// the same again and can't be made to contradict itself. It holds no other
// state, and is safe for concurrent use until Erase.
type Participant struct {
	ceremony Ceremony
	index    int
	seed     []byte // nil once erased
	key      ecdh.KeyExchanger
}

// Result is a ceremony's end for one keyholder.
type Result struct {
	Key        *PublicKey
	Share      *Share
	Transcript codec.Hash
	Excluded   []Misbehaviour // dealers left out of the key
}

// NewParticipant returns keyholder index, from 1, of a ceremony. seed must be
// fresh and random, and stored before the first message is posted. key is the
// private half of the keyholder's PeerKey and may be opaque. It returns
// Ceremony.Validate's errors, or one where index or key don't fit.
func NewParticipant(c Ceremony, index int, seed [SeedSize]byte, key ecdh.KeyExchanger) (*Participant, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if index < 1 || index > len(c.Peers) {
		return nil, fmt.Errorf("no keyholder %d among %d", index, len(c.Peers))
	}
	if key.Curve() != ecdh.P256() || Point(key.PublicKey().Bytes()) != c.Peers[index-1] {
		return nil, fmt.Errorf("decryption key is not keyholder %d's", index)
	}
	c.Peers = slices.Clone(c.Peers)
	return &Participant{ceremony: c, index: index, seed: slices.Clone(seed[:]), key: key}, nil
}

// Erase overwrites the seed: after the result is stored, what was dealt can't
// be found again. No other method may run meanwhile.
func (p *Participant) Erase() {
	clear(p.seed)
	p.seed = nil
}

// Format prints no secret, whatever the verb.
func (p Participant) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "quorum.Participant(%d, redacted)", p.index)
}

// Step reads the board and returns what this keyholder must post next; nil
// where it waits for others. Once all n have confirmed it returns the result
// instead. Until its message is on the board it returns the same one again.
//
// The board must only ever grow from call to call, which the caller knows from
// the log's witnessed checkpoints: a Participant remembers nothing, and would
// confirm one key in each of two histories.
//
// An error is a *Misbehaviour that ends the ceremony, ErrSeed, ErrErased, or a
// failure of the decryption key that says nothing about anybody: the caller may
// try again.
func (p *Participant) Step(board []Message) (next *Message, result *Result, err error) {
	if p.seed == nil {
		return nil, nil, ErrErased
	}
	s, err := replay(&p.ceremony, board)
	if err != nil {
		return nil, nil, err
	}
	d, err := p.dealer(s)
	if err != nil {
		return nil, nil, err
	}
	defer d.erase()
	if err := p.recognise(s, d); err != nil {
		return nil, nil, err
	}
	if s.round == done {
		result, err := p.result(s)
		return nil, result, err
	}
	if !slices.Contains(s.waiting(), p.index) {
		return nil, nil, nil
	}
	body, err := p.speak(s, d, s.round)
	if err != nil {
		return nil, nil, err
	}
	return &Message{Ceremony: s.ID, From: p.index, Round: s.round, Body: body}, nil, nil
}

// recognise compares what the board has from this keyholder with what its seed
// says: to go on with another seed would be to equivocate.
func (p *Participant) recognise(s *state, d *dealer) error {
	for round := RoundCommit; round <= RoundDeal; round++ {
		m, ok := s.said[slot{round, p.index}]
		if !ok {
			return nil
		}
		body, err := p.speak(s, d, round)
		if err != nil {
			return err
		}
		if !bytes.Equal(m.Body, body) {
			return fmt.Errorf("round %d: %w", round, ErrSeed)
		}
	}
	return nil
}

// speak returns the body for a round; for the first three it depends on the
// seed alone.
func (p *Participant) speak(s *state, d *dealer, round int) ([]byte, error) {
	switch round {
	case RoundCommit:
		return d.commit(), nil
	case RoundOpen:
		return d.open, nil
	case RoundDeal:
		return d.deal()
	case RoundVerdict:
		return p.verdict(s)
	case RoundJustify:
		return d.justify(s.accusers[p.index]), nil
	default:
		// Whoever confirms has its share.
		share, err := p.share(s)
		if err != nil {
			return nil, err
		}
		share.Erase()
		return s.confirmation(), nil
	}
}

// verdict accuses each dealer whose share is not what it committed to.
func (p *Participant) verdict(s *state) ([]byte, error) {
	var accused []int
	for _, from := range slices.Sorted(maps.Keys(s.deals)) {
		scalar, err := p.unseal(s, from)
		if err != nil {
			return nil, err
		}
		if !s.fits(from, p.index, scalar) {
			accused = append(accused, from)
		}
		clear(scalar)
	}
	return codec.Encode(accused), nil
}

// unseal opens a dealer's share. The result is nil where the ciphertext is bad,
// which is the dealer's fault, while an error is this side's own: were the two
// confused, a decryption key that is briefly out of reach would accuse others,
// and a restart would say something else.
func (p *Participant) unseal(s *state, from int) ([]byte, error) {
	key := &watched{KeyExchanger: p.key}
	scalar := unseal(key, s.deals[from][p.index-1], dealInfo(s.id, from, p.index))
	if key.err != nil {
		return nil, fmt.Errorf("couldn't use the decryption key: %w", key.err)
	}
	return scalar, nil
}

// watched remembers its key's own failure, which crypto/hpke hands on among
// failures of the ciphertext.
type watched struct {
	ecdh.KeyExchanger
	err error
}

func (w *watched) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	z, err := w.KeyExchanger.ECDH(remote)
	if err != nil {
		w.err = err
	}
	return z, err
}

// share adds up what the dealers in good standing dealt: in secret, or in
// public where this keyholder had accused them.
func (p *Participant) share(s *state) (*Share, error) {
	n := order()
	total := bigmod.NewNat().ExpandFor(n)
	defer wipe(total)
	for from := range s.commitments {
		var scalar []byte
		if disclosed, ok := s.disclosed[edge{from, p.index}]; ok {
			scalar = disclosed[:]
		} else {
			var err error
			if scalar, err = p.unseal(s, from); err != nil {
				return nil, err
			}
		}
		x, err := parseScalar(scalar)
		clear(scalar)
		if err != nil {
			return nil, fmt.Errorf("share of dealer %d: %w", from, err)
		}
		total.Add(x, n)
		wipe(x)
	}
	b := total.Bytes(n)
	defer clear(b)
	share, err := NewShare(p.index, b)
	if err != nil {
		return nil, err
	}
	if share.Public() != s.key.Shares[p.index-1] {
		share.Erase()
		return nil, fmt.Errorf("share does not fit verification key %d", p.index)
	}
	return share, nil
}

func (p *Participant) result(s *state) (*Result, error) {
	share, err := p.share(s)
	if err != nil {
		return nil, err
	}
	return &Result{Key: s.key, Share: share, Transcript: s.transcript, Excluded: s.excluded}, nil
}

// dealer is a participant's own polynomial and what follows from it.
type dealer struct {
	*state
	index        int
	seed         []byte
	coefficients []*bigmod.Nat
	open         []byte // round 2's body
}

func (p *Participant) dealer(s *state) (*dealer, error) {
	d := &dealer{state: s, index: p.index, seed: p.seed}
	var commitments []Point
	for k := range s.T {
		a, err := d.derive("coefficient", k)
		if err != nil {
			return nil, err
		}
		d.coefficients = append(d.coefficients, a)
		b := a.Bytes(order())
		A, err := ScalarBaseMult(b)
		clear(b)
		if err != nil {
			return nil, err
		}
		commitments = append(commitments, A)
	}
	nonce, err := d.derive("possession", 0)
	if err != nil {
		return nil, err
	}
	defer wipe(nonce)
	proof, err := provePossession(d.coefficients[0], nonce, commitments[0], possession(s.id, d.index, commitments))
	if err != nil {
		return nil, err
	}
	d.open = codec.Encode(opening{Commitments: commitments, Proof: proof})
	return d, nil
}

// derive gives the seed's scalar for one purpose in this ceremony. The
// ceremony's hash covers threshold and peers: one seed in two ceremonies makes
// two unrelated polynomials.
func (d *dealer) derive(purpose string, k int) (*bigmod.Nat, error) {
	return derive(d.seed, slices.Concat([]byte(purpose), d.id[:], []byte{byte(d.index), byte(k)}))
}

func (d *dealer) erase() { wipe(d.coefficients...) }

func (d *dealer) commit() []byte {
	return codec.Encode(commitment(d.id, d.index, d.open))
}

func (d *dealer) deal() ([]byte, error) {
	deal := make([]sealed, len(d.Peers))
	for i, peer := range d.Peers {
		ephemeral, err := d.derive("deal", i+1)
		if err != nil {
			return nil, err
		}
		share := evaluate(d.coefficients, i+1)
		b := share.Bytes(order())
		deal[i], err = seal(peer, ephemeral, dealInfo(d.id, d.index, i+1), b)
		clear(b)
		wipe(ephemeral, share)
		if err != nil {
			return nil, fmt.Errorf("couldn't seal a share for keyholder %d: %w", i+1, err)
		}
	}
	return codec.Encode(deal), nil
}

func (d *dealer) justify(accusers []int) []byte {
	scalars := make([][ScalarSize]byte, len(accusers))
	for i, accuser := range accusers {
		share := evaluate(d.coefficients, accuser)
		scalars[i] = [ScalarSize]byte(share.Bytes(order()))
		wipe(share)
	}
	return codec.Encode(scalars)
}

// dealInfo is HPKE's info: a share sealed by one dealer for one keyholder opens
// as nobody else's.
func dealInfo(ceremony codec.Hash, from, to int) []byte {
	h := codec.Sum(labelDeal, ceremony[:], []byte{byte(from), byte(to)})
	return h[:]
}
