package codec

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/veraison/go-cose"
)

// PublicKey is an Ed25519 public key, 32 bytes (RFC 8032).
type PublicKey [ed25519.PublicKeySize]byte

// ErrSignature means that a signature does not verify under the expected key
// and label.
var ErrSignature = errors.New("signature does not verify")

// String returns the key in lower-case hexadecimal.
func (k PublicKey) String() string { return Hash(k).String() }

// IsZero reports whether k is all zeros, which stands for "none".
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *PublicKey) UnmarshalText(text []byte) error { return unhex(k[:], text) }

// Signer signs under a domain label. A label is fixed by the calling format
// and never taken from input, so that no caller can be used to sign for
// another format.
type Signer interface {
	// PublicKey returns the key that verifies.
	PublicKey() PublicKey
	// Sign returns a 64-byte Ed25519 signature over H(label, msg).
	Sign(label string, msg []byte) ([]byte, error)
	// Sign1 returns a COSE_Sign1 message that carries payload, its external
	// data the label (RFC 9052 §4.4).
	Sign1(label string, payload []byte) ([]byte, error)
}

// PrivateKey is a Signer in memory. The zero value is not usable. It is safe
// for concurrent use until Erase.
type PrivateKey struct {
	key ed25519.PrivateKey
}

var _ Signer = (*PrivateKey)(nil)

// PrivateKeySize is the length in bytes of a PrivateKey's seed.
const PrivateKeySize = ed25519.SeedSize

// NewPrivateKey returns a fresh random key.
func NewPrivateKey() *PrivateKey {
	seed := make([]byte, PrivateKeySize)
	rand.Read(seed) // never fails
	defer clear(seed)
	return &PrivateKey{key: ed25519.NewKeyFromSeed(seed)}
}

// PrivateKeyFromSeed returns the key of a 32-byte seed (RFC 8032 §5.1.5).
func PrivateKeyFromSeed(seed []byte) (*PrivateKey, error) {
	if len(seed) != PrivateKeySize {
		return nil, fmt.Errorf("signing key seed of %d bytes, want %d", len(seed), PrivateKeySize)
	}
	return &PrivateKey{key: ed25519.NewKeyFromSeed(seed)}, nil
}

// Seed returns a copy of the seed, for storage under encryption.
func (k *PrivateKey) Seed() []byte { return bytes.Clone(k.key.Seed()) }

// Erase overwrites the key; k can't sign afterwards.
func (k *PrivateKey) Erase() { clear(k.key) }

// PublicKey implements Signer.
func (k *PrivateKey) PublicKey() PublicKey { return PublicKey(k.key.Public().(ed25519.PublicKey)) }

// Sign implements Signer.
func (k *PrivateKey) Sign(label string, msg []byte) ([]byte, error) {
	h := Sum(label, msg)
	return ed25519.Sign(k.key, h[:]), nil
}

// Sign1 implements Signer.
func (k *PrivateKey) Sign1(label string, payload []byte) ([]byte, error) {
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, crypto.Signer(k.key))
	if err != nil {
		return nil, fmt.Errorf("couldn't make a COSE signer: %w", err)
	}
	msg := cose.Sign1Message{
		Headers: cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmEdDSA}},
		Payload: payload,
	}
	if err := msg.Sign(zeroReader{}, external(label), signer); err != nil {
		return nil, fmt.Errorf("couldn't sign: %w", err)
	}
	return msg.MarshalCBOR()
}

// Verify checks a signature that Sign made. It returns ErrSignature.
func Verify(key PublicKey, label string, msg, sig []byte) error {
	h := Sum(label, msg)
	return verify(key, h[:], sig)
}

func verify(key PublicKey, signed, sig []byte) error {
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(key[:], signed, sig) {
		return ErrSignature
	}
	return nil
}

// Open1 verifies a COSE_Sign1 message that Sign1 made and returns its payload,
// which the caller has yet to decode. It returns ErrSignature, or ErrEncoding
// where the message is not in its one form: tagged, EdDSA in the protected
// header, nothing else.
func Open1(key PublicKey, label string, msg []byte) ([]byte, error) {
	m, err := parse1(msg)
	if err != nil {
		return nil, err
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmEdDSA, ed25519.PublicKey(key[:]))
	if err != nil {
		return nil, fmt.Errorf("couldn't make a COSE verifier: %w", err)
	}
	if err := m.Verify(external(label), verifier); err != nil {
		return nil, ErrSignature
	}
	return m.Payload, nil
}

// PeekUnverifiedPayload returns the payload of a COSE_Sign1 message without
// checking its signature: for finding out which key to check it with. Nothing
// read from it may be acted on before Open1.
func PeekUnverifiedPayload(msg []byte) ([]byte, error) {
	m, err := parse1(msg)
	if err != nil {
		return nil, err
	}
	return m.Payload, nil
}

func parse1(msg []byte) (*cose.Sign1Message, error) {
	var m cose.Sign1Message
	if err := m.UnmarshalCBOR(msg); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrEncoding, err)
	}
	alg, err := m.Headers.Protected.Algorithm()
	if err != nil || alg != cose.AlgorithmEdDSA || len(m.Headers.Protected) != 1 || len(m.Headers.Unprotected) != 0 {
		return nil, fmt.Errorf("%w: unexpected COSE header", ErrEncoding)
	}
	m.Headers.RawProtected, m.Headers.RawUnprotected = nil, nil // re-encode them rather than repeat what came
	again, err := m.MarshalCBOR()
	if err != nil || !bytes.Equal(again, msg) {
		return nil, ErrEncoding
	}
	return &m, nil
}

func external(label string) []byte { return []byte("chancery/" + label + "/v1") }

// zeroReader stands where go-cose wants randomness that Ed25519 doesn't use.
type zeroReader struct{}

var _ io.Reader = zeroReader{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
