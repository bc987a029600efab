package cipher

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
)

// Signer holds a signature key. Implementations may keep it in hardware.
type Signer interface {
	// Public returns the public key as LeafNode.signature_key carries it.
	Public() []byte
	// Sign is SignWithLabel (RFC 9420 §5.1.2): it signs content under label.
	// Each call needs thought: a signer that signs what others choose is an
	// oracle.
	Sign(label string, content []byte) ([]byte, error)
}

var (
	_ Signer = edSigner{}
	_ Signer = ecSigner{}
)

// NewSigner returns a Signer in memory of a private key: an Ed25519 seed of 32
// bytes, or an ECDSA scalar of the curve's size, big-endian. It returns ErrKey
// for anything else.
func (s *Suite) NewSigner(private []byte) (Signer, error) {
	if s.curve == nil {
		if len(private) != ed25519.SeedSize {
			return nil, ErrKey
		}
		return edSigner{ed25519.NewKeyFromSeed(private)}, nil
	}
	key, err := ecdsa.ParseRawPrivateKey(s.curve, private)
	if err != nil {
		return nil, ErrKey
	}
	return ecSigner{key, s.hash}, nil
}

// GenerateSignatureKey returns a new private key for NewSigner.
func (s *Suite) GenerateSignatureKey(random io.Reader) ([]byte, error) {
	size, mask := ed25519.SeedSize, byte(0xff)
	if s.curve != nil {
		bits := s.curve.Params().BitSize
		size, mask = (bits+7)/8, byte(0xff)>>(-bits&7)
	}
	// Of scalars drawn at random, less than one in 2^31 is out of range: a
	// source that gives nothing else is broken.
	for range 8 {
		private := make([]byte, size)
		if _, err := io.ReadFull(random, private); err != nil {
			return nil, fmt.Errorf("couldn't draw a signature key: %w", err)
		}
		private[0] &= mask
		if _, err := s.NewSigner(private); err == nil {
			return private, nil
		}
	}
	return nil, fmt.Errorf("couldn't draw a signature key: %w", ErrKey)
}

// CheckSignatureKey returns ErrKey unless public can be the public key of a
// signer: 32 bytes for Ed25519, an uncompressed point on the curve for ECDSA.
func (s *Suite) CheckSignatureKey(public []byte) error {
	if s.curve == nil {
		if len(public) != ed25519.PublicKeySize {
			return ErrKey
		}
		return nil
	}
	if _, err := ecdsa.ParseUncompressedPublicKey(s.curve, public); err != nil {
		return ErrKey
	}
	return nil
}

// VerifyWithLabel is RFC 9420 §5.1.2. It returns ErrKey or ErrSignature.
func (s *Suite) VerifyWithLabel(public []byte, label string, content, signature []byte) error {
	return s.verify(public, labelled(label, content), signature)
}

func (s *Suite) verify(public, message, signature []byte) error {
	if s.curve == nil {
		if len(public) != ed25519.PublicKeySize {
			return ErrKey
		}
		if !ed25519.Verify(public, message, signature) {
			return ErrSignature
		}
		return nil
	}
	key, err := ecdsa.ParseUncompressedPublicKey(s.curve, public)
	if err != nil {
		return ErrKey
	}
	if !ecdsa.VerifyASN1(key, s.Hash(message), signature) {
		return ErrSignature
	}
	return nil
}

type edSigner struct{ key ed25519.PrivateKey }

func (s edSigner) Public() []byte { return s.key.Public().(ed25519.PublicKey) }

func (s edSigner) Sign(label string, content []byte) ([]byte, error) {
	return ed25519.Sign(s.key, labelled(label, content)), nil
}

type ecSigner struct {
	key  *ecdsa.PrivateKey
	hash crypto.Hash
}

func (s ecSigner) Public() []byte {
	public, err := s.key.PublicKey.Bytes()
	if err != nil {
		panic("cipher: a key that was parsed has no encoding: " + err.Error())
	}
	return public
}

func (s ecSigner) Sign(label string, content []byte) ([]byte, error) {
	h := s.hash.New()
	h.Write(labelled(label, content))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, h.Sum(nil))
	if err != nil {
		return nil, fmt.Errorf("couldn't sign: %w", err)
	}
	return sig, nil
}
