// Package quorum shares one P-256 private key among n keyholders so that any t
// of them together can act as that key and fewer learn nothing about it:
// distributed key generation, partial results, their combination, and proofs
// that name whoever answered wrongly (spec/quorum.md).
//
// A Key makes a quorum's answers an [ecdh.KeyExchanger] and a Guard makes a
// guard's answer a [crypto.Decapsulator], so that crypto/hpke opens a hybrid
// ciphertext without knowing that a quorum exists. No function here takes or
// returns the shared private key, and none computes it.
//
// The package doesn't decide whether a keyholder should answer: a Share
// multiplies any valid point and is, unguarded, a Diffie-Hellman oracle. Nor
// does it authenticate anybody: who sent an answer or a ceremony's message is
// for the caller to have checked.
package quorum

import (
	"crypto/elliptic"
	"errors"
	"fmt"

	"filippo.io/nistec"
)

const (
	// PointSize is the length in bytes of a Point: 0x04 ‖ x ‖ y (SEC 1 §2.3.3).
	PointSize = 65
	// ScalarSize is the length in bytes of a scalar, big-endian.
	ScalarSize = 32
	// MaxHolders is the greatest number of keyholders of one key. It bounds
	// every loop over input in this package.
	MaxHolders = 32
)

var (
	// ErrPoint means that bytes are not an uncompressed point of P-256 other
	// than infinity.
	ErrPoint = errors.New("not a point of P-256")
	// ErrScalar means that bytes are not a scalar of 32 bytes from 1 to n-1.
	ErrScalar = errors.New("not a scalar of P-256")
	// ErrThreshold means that t and n are not 1 ≤ t and 2t-1 ≤ n ≤ MaxHolders.
	ErrThreshold = errors.New("threshold and number of keyholders don't fit")
	// ErrKey means that a public key's parts contradict one another.
	ErrKey = errors.New("inconsistent quorum key")
	// ErrAnswers means that answers are too few, too many, or not from
	// different keyholders of the key.
	ErrAnswers = errors.New("not one answer each of exactly t keyholders")
	// ErrProof means that a proof does not verify.
	ErrProof = errors.New("proof does not verify")
	// ErrWitness means that a scalar is not the private half of the
	// encapsulation it is said to belong to.
	ErrWitness = errors.New("scalar is not the discrete logarithm of the encapsulation")
	// ErrErased means that a secret was used after its Erase.
	ErrErased = errors.New("secret has been erased")
)

// Point is a point of P-256, uncompressed, 65 bytes; in CBOR a byte string.
// A Point that was decoded rather than parsed may hold anything: every
// function of this package that computes with one checks it first.
type Point [PointSize]byte

// ParsePoint reads an uncompressed point, 65 bytes. It returns ErrPoint where b
// is of another length or form, off the curve, or infinity.
func ParsePoint(b []byte) (Point, error) {
	if len(b) != PointSize {
		return Point{}, fmt.Errorf("%w: %d bytes, want %d", ErrPoint, len(b), PointSize)
	}
	p := Point(b)
	if err := p.Validate(); err != nil {
		return Point{}, err
	}
	return p, nil
}

// Generator returns the base point G of P-256.
func Generator() Point {
	curve := elliptic.P256().Params()
	g := Point{4}
	curve.Gx.FillBytes(g[1 : 1+ScalarSize])
	curve.Gy.FillBytes(g[1+ScalarSize:])
	return g
}

// Validate returns ErrPoint unless p is on the curve.
func (p Point) Validate() error {
	_, err := p.point()
	return err
}

func (p Point) point() (*nistec.P256Point, error) {
	// 65 bytes leave no room for infinity's one-byte form or a compressed one.
	q, err := nistec.NewP256Point().SetBytes(p[:])
	if err != nil {
		return nil, ErrPoint
	}
	return q, nil
}

// encode returns ErrPoint where q is infinity, which has no 65-byte form.
func encode(q *nistec.P256Point) (Point, error) {
	b := q.Bytes()
	if len(b) != PointSize {
		return Point{}, fmt.Errorf("%w: infinity", ErrPoint)
	}
	return Point(b), nil
}

// PublicKey is the P-256 half of an escrow key as everybody sees it: the
// threshold, the key that envelopes are sealed to, and the verification key
// Y_i = s_i·G of each share, Shares[0] being keyholder 1's. In CBOR it is the
// array [t, key, [shares]] (spec/quorum.md#public-key). It is read-only and so
// safe for concurrent use.
type PublicKey struct {
	_      struct{} `cbor:",toarray"`
	T      int
	Key    Point
	Shares []Point
}

// N returns the number of keyholders.
func (p *PublicKey) N() int { return len(p.Shares) }

// Validate checks that any t shares, and no fewer, are shares of Key: that all
// n verification keys lie on one polynomial in the exponent, of degree exactly
// t-1, whose value at 0 is Key. It returns ErrThreshold, ErrPoint or ErrKey.
//
// A key whose shares disagree would open for some quorums only; one of a lower
// degree would open for fewer keyholders than t.
func (p *PublicKey) Validate() error {
	if err := checkThreshold(p.T, p.N()); err != nil {
		return err
	}
	key, err := p.Key.point()
	if err != nil {
		return fmt.Errorf("quorum key: %w", err)
	}
	shares := make([]*nistec.P256Point, p.N())
	for i := range shares {
		if shares[i], err = p.Shares[i].point(); err != nil {
			return fmt.Errorf("verification key %d: %w", i+1, err)
		}
	}
	if !interpolates(shares[:p.T], 0, key) {
		return fmt.Errorf("%w: shares don't combine to the key", ErrKey)
	}
	for i := p.T; i < p.N(); i++ {
		if !interpolates(shares[:p.T], i+1, shares[i]) {
			return fmt.Errorf("%w: verification key %d is off the others' polynomial", ErrKey, i+1)
		}
	}
	if p.T > 1 && interpolates(shares[:p.T-1], 0, key) {
		return fmt.Errorf("%w: fewer than %d shares combine to the key", ErrKey, p.T)
	}
	return nil
}

// holder returns the verification key of keyholder i, from 1.
func (p *PublicKey) holder(i int) (Point, error) {
	if i < 1 || i > p.N() {
		return Point{}, fmt.Errorf("%w: no keyholder %d among %d", ErrAnswers, i, p.N())
	}
	return p.Shares[i-1], nil
}

// checkThreshold demands n ≥ 2t-1: with t-1 keyholders bad, t honest ones are
// left to open, and to outvote them in a ceremony.
func checkThreshold(t, n int) error {
	if t < 1 || n > MaxHolders || t > n || n < 2*t-1 {
		return fmt.Errorf("%w: %d of %d", ErrThreshold, t, n)
	}
	return nil
}
