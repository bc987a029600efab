package quorum

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
)

// Share is one keyholder's secret: its index from 1 and the 32-byte scalar that
// the polynomial takes there. Printing or marshalling one gives its index
// alone. It is safe for concurrent use until Erase.
type Share struct {
	index  int
	scalar []byte // nil once erased
	public Point
}

var (
	_ fmt.Formatter  = (*Share)(nil)
	_ slog.LogValuer = (*Share)(nil)
)

// NewShare returns the share of keyholder index, from 1 to MaxHolders, with a
// copy of scalar, 32 bytes. It returns ErrScalar unless that is from 1 to n-1.
func NewShare(index int, scalar []byte) (*Share, error) {
	if index < 1 || index > MaxHolders {
		return nil, fmt.Errorf("%w: index %d of a share", ErrThreshold, index)
	}
	public, err := ScalarBaseMult(scalar)
	if err != nil {
		return nil, err
	}
	return &Share{index: index, scalar: bytes.Clone(scalar), public: public}, nil
}

// Index returns the keyholder's index, from 1.
func (s *Share) Index() int { return s.index }

// Public returns the verification key Y = s·G.
func (s *Share) Public() Point { return s.public }

// Bytes returns a copy of the 32-byte scalar, to be stored under encryption and
// cleared; nil once erased.
func (s *Share) Bytes() []byte { return bytes.Clone(s.scalar) }

// Erase overwrites the scalar. No other method may run meanwhile; Partial and
// Prove return ErrErased from then on.
func (s *Share) Erase() {
	clear(s.scalar)
	s.scalar = nil
}

// Partial returns s·E, this keyholder's answer for the encapsulation E, in
// constant time. It returns ErrPoint where E is no point of the curve, and
// ErrErased. Whoever calls it has checked that the sender of E knows its
// discrete logarithm and that the answer was approved (spec/quorum.md#partial).
func (s *Share) Partial(E Point) (Point, error) {
	if s.scalar == nil {
		return Point{}, ErrErased
	}
	return scalarMult(E, s.scalar)
}

// Prove shows that partial is the right answer for E: one scalar takes G to
// this share's verification key and E to partial. The nonce comes from the
// scalar, the statement and fresh randomness together, so that neither a
// broken generator nor an induced fault in a deterministic scheme gives the
// share away. context ties the proof to its use. It returns ErrPoint and
// ErrErased.
func (s *Share) Prove(E, partial Point, context []byte) (DLEQ, error) {
	if s.scalar == nil {
		return DLEQ{}, ErrErased
	}
	return prove(s.scalar, statement{Generator(), s.public, E, partial}, context, hedge())
}

func hedge() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails: crypto/rand aborts the program instead
	return b
}

// String returns the index alone.
func (s Share) String() string { return fmt.Sprintf("quorum.Share(%d, redacted)", s.index) }

// GoString returns the index alone.
func (s Share) GoString() string { return s.String() }

// Format prints the index alone, whatever the verb: %x and %d would otherwise
// reach the scalar.
func (s Share) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// MarshalText returns the index alone. There is no UnmarshalText.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns the index alone.
func (s Share) LogValue() slog.Value { return slog.StringValue(s.String()) }
