package quorum

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/mlkem"
	"crypto/subtle"
	"errors"
	"fmt"
)

// ErrOther means that a Key or Guard was asked about another encapsulation than
// the one its answers are for.
var ErrOther = errors.New("answers are for another encapsulation")

// Key is the quorum as the private key of crypto/hpke's P-256 half, for one
// encapsulation. It is safe for concurrent use until Erase.
type Key struct {
	public, e *ecdh.PublicKey
	x         []byte // nil once erased
}

var _ ecdh.KeyExchanger = (*Key)(nil)

// NewKey combines exactly t answers for the encapsulation E. It returns
// ErrAnswers or ErrPoint. That the answers are right shows only when hpke opens
// the ciphertext.
func NewKey(pk *PublicKey, E Point, answers []Answer) (*Key, error) {
	public, err := ecdh.P256().NewPublicKey(pk.Key[:])
	if err != nil {
		return nil, fmt.Errorf("quorum key: %w", ErrPoint)
	}
	e, err := ecdh.P256().NewPublicKey(E[:])
	if err != nil {
		return nil, fmt.Errorf("encapsulation: %w", ErrPoint)
	}
	z, err := Combine(pk, answers)
	if err != nil {
		return nil, err
	}
	defer clear(z[:])
	return &Key{public: public, e: e, x: bytes.Clone(z[1 : 1+ScalarSize])}, nil
}

// PublicKey returns the quorum's key.
func (k *Key) PublicKey() *ecdh.PublicKey { return k.public }

// Curve returns P-256.
func (k *Key) Curve() ecdh.Curve { return ecdh.P256() }

// ECDH returns the 32-byte x coordinate of the combined answers, as
// [ecdh.PrivateKey.ECDH] would. It returns ErrOther unless remote is the
// encapsulation that the answers are for, and ErrErased.
func (k *Key) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	if !k.e.Equal(remote) {
		return nil, ErrOther
	}
	if k.x == nil {
		return nil, ErrErased
	}
	return bytes.Clone(k.x), nil
}

// Erase overwrites the combined answer. No other method may run meanwhile.
func (k *Key) Erase() {
	clear(k.x)
	k.x = nil
}

// Format prints no secret, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, "quorum.Key(redacted)") }

// Guard is a guard as the private key of crypto/hpke's ML-KEM half, for one
// ciphertext. It is safe for concurrent use until Erase.
type Guard struct {
	ek *mlkem.EncapsulationKey768
	ct []byte
	ss []byte // nil once erased
}

var _ crypto.Decapsulator = (*Guard)(nil)

// NewGuard returns a Guard that knows the shared secret ss, 32 bytes, which a
// guard answered for the ML-KEM-768 ciphertext ct, 1,088 bytes, under ek. Both
// are copied.
func NewGuard(ek *mlkem.EncapsulationKey768, ct, ss []byte) (*Guard, error) {
	if ek == nil {
		return nil, errors.New("no ML-KEM key")
	}
	if len(ct) != mlkem.CiphertextSize768 || len(ss) != mlkem.SharedKeySize {
		return nil, fmt.Errorf("ML-KEM ciphertext of %d and shared secret of %d bytes, want %d and %d",
			len(ct), len(ss), mlkem.CiphertextSize768, mlkem.SharedKeySize)
	}
	return &Guard{ek: ek, ct: bytes.Clone(ct), ss: bytes.Clone(ss)}, nil
}

// Encapsulator returns the guard's public key, an *[mlkem.EncapsulationKey768].
func (g *Guard) Encapsulator() crypto.Encapsulator { return g.ek }

// Decapsulate returns the 32-byte shared secret. It returns ErrOther unless
// ciphertext is the one that the answer is for, and ErrErased.
func (g *Guard) Decapsulate(ciphertext []byte) ([]byte, error) {
	if subtle.ConstantTimeCompare(g.ct, ciphertext) != 1 {
		return nil, ErrOther
	}
	if g.ss == nil {
		return nil, ErrErased
	}
	return bytes.Clone(g.ss), nil
}

// Erase overwrites the shared secret. No other method may run meanwhile.
func (g *Guard) Erase() {
	clear(g.ss)
	g.ss = nil
}

// Format prints no secret, whatever the verb.
func (g Guard) Format(f fmt.State, _ rune) { fmt.Fprint(f, "quorum.Guard(redacted)") }
