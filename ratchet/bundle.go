package ratchet

import (
	"crypto/mlkem"
	"fmt"
	"time"

	"chancery/codec"
)

// Labels of what a device signs (spec/conventions.md#signatures-of-programs-and-devices).
const (
	labelIdentity = "ratchet/identity"
	labelPreKey   = "ratchet/prekey"
)

// kind tells prekeys apart, within what is signed.
type kind uint8

const (
	kindSigned     kind = 1 // X25519
	kindOneTime    kind = 2 // X25519
	kindKEM        kind = 3 // ML-KEM-1024, one-time
	kindLastResort kind = 4 // ML-KEM-1024
)

// size returns the length in bytes of a public key of the kind, 0 for others.
func (k kind) size() int {
	switch k {
	case kindSigned, kindOneTime:
		return keySize
	case kindKEM, kindLastResort:
		return mlkem.EncapsulationKeySize1024
	}
	return 0
}

// signed is a statement of a device, with its bare signature.
type signed struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte
	Signature [64]byte
}

// sign encodes body and signs it.
func sign(signer codec.Signer, label string, body any) ([]byte, error) {
	s := signed{Body: codec.Encode(body)}
	signature, err := signer.Sign(label, s.Body)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign: %w", err)
	}
	if len(signature) != len(s.Signature) {
		return nil, codec.ErrSignature
	}
	s.Signature = [64]byte(signature)
	return codec.Encode(s), nil
}

// verify checks that d signed the statement.
func (s *signed) verify(d Device, label string) error {
	return codec.Verify(d.Key, label, s.Body, s.Signature[:])
}

type identityBody struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Leaf    codec.Hash
	Key     point
}

// identity is a device's agreement key, with its signature.
type identity struct {
	signed
	identityBody
}

func parseIdentity(data []byte) (*identity, error) {
	var i identity
	if err := codec.Decode(data, &i.signed); err != nil {
		return nil, err
	}
	if err := codec.Decode(i.Body, &i.identityBody); err != nil {
		return nil, err
	}
	if i.Version != version {
		return nil, fmt.Errorf("identity of version %d: %w", i.Version, codec.ErrEncoding)
	}
	return &i, nil
}

// verify checks that it is d's. It returns ErrDevice or codec.ErrSignature.
func (i *identity) verify(d Device) error {
	if i.Leaf != d.Leaf {
		return fmt.Errorf("agreement key: %w", ErrDevice)
	}
	if err := i.signed.verify(d, labelIdentity); err != nil {
		return fmt.Errorf("agreement key: %w", err)
	}
	return nil
}

type preKeyBody struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Leaf    codec.Hash
	Kind    kind
	ID      uint32
	Expires int64 // milliseconds since 1970, UTC
	Public  []byte
}

// preKey is the public half of a prekey, with its signature.
type preKey struct {
	signed
	preKeyBody
}

// parsePreKey reads a prekey of one of two kinds.
func parsePreKey(data []byte, one, other kind) (*preKey, error) {
	var k preKey
	if err := codec.Decode(data, &k.signed); err != nil {
		return nil, err
	}
	if err := codec.Decode(k.Body, &k.preKeyBody); err != nil {
		return nil, err
	}
	if k.Version != version || k.Kind != one && k.Kind != other || k.ID == 0 || len(k.Public) != k.Kind.size() {
		return nil, fmt.Errorf("prekey of version %d, kind %d, %d bytes: %w", k.Version, k.Kind, len(k.Public), codec.ErrEncoding)
	}
	return &k, nil
}

// verify checks that it is d's and in date. It returns ErrDevice, ErrExpired or
// codec.ErrSignature.
func (k *preKey) verify(d Device, now time.Time) error {
	if k.Leaf != d.Leaf {
		return fmt.Errorf("prekey %d: %w", k.ID, ErrDevice)
	}
	if err := k.signed.verify(d, labelPreKey); err != nil {
		return fmt.Errorf("prekey %d: %w", k.ID, err)
	}
	if now.UnixMilli() >= k.Expires {
		return fmt.Errorf("prekey %d: %w", k.ID, ErrExpired)
	}
	return nil
}

// Bundle is what begins a session with a device: its agreement key and a prekey
// of each sort (spec/ratchet.md#bundle). Parsing says nothing about who made
// it; that is for Verify.
type Bundle struct {
	wire     bundleWire
	identity *identity
	signed   *preKey
	oneTime  *preKey // nil where there is none
	kem      *preKey
}

type bundleWire struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Identity []byte
	Signed   []byte
	OneTime  []byte // empty where there is none
	KEM      []byte
}

// NewBundle puts a bundle together from what a device published: the results of
// PreKeys.Identity, Rotate and Generate. oneTime may be nil; kem is a one-time or
// a last-resort prekey. It returns codec.ErrEncoding, wrapped.
func NewBundle(identity, signed, oneTime, kem []byte) (*Bundle, error) {
	return newBundle(bundleWire{Version: version, Identity: identity, Signed: signed, OneTime: oneTime, KEM: kem})
}

// ParseBundle reads a bundle of at most MaxBundle bytes. It returns
// codec.ErrSize or codec.ErrEncoding, wrapped.
func ParseBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("bundle of %d bytes: %w", len(data), codec.ErrSize)
	}
	var w bundleWire
	if err := codec.Decode(data, &w); err != nil {
		return nil, fmt.Errorf("couldn't read a bundle: %w", err)
	}
	return newBundle(w)
}

func newBundle(w bundleWire) (*Bundle, error) {
	if w.Version != version {
		return nil, fmt.Errorf("bundle of version %d: %w", w.Version, codec.ErrEncoding)
	}
	b := &Bundle{wire: w}
	var err error
	if b.identity, err = parseIdentity(w.Identity); err != nil {
		return nil, fmt.Errorf("couldn't read a bundle's agreement key: %w", err)
	}
	if b.signed, err = parsePreKey(w.Signed, kindSigned, kindSigned); err != nil {
		return nil, fmt.Errorf("couldn't read a bundle's signed prekey: %w", err)
	}
	if len(w.OneTime) > 0 {
		if b.oneTime, err = parsePreKey(w.OneTime, kindOneTime, kindOneTime); err != nil {
			return nil, fmt.Errorf("couldn't read a bundle's one-time prekey: %w", err)
		}
	}
	if b.kem, err = parsePreKey(w.KEM, kindKEM, kindLastResort); err != nil {
		return nil, fmt.Errorf("couldn't read a bundle's ML-KEM prekey: %w", err)
	}
	return b, nil
}

// Encode returns the bytes that ParseBundle reads.
func (b *Bundle) Encode() []byte { return codec.Encode(b.wire) }

// Verify checks that the bundle is d's in every part and in date. It returns
// ErrDevice, ErrExpired or codec.ErrSignature, wrapped. Initiate does the same.
func (b *Bundle) Verify(d Device, now time.Time) error {
	if err := b.identity.verify(d); err != nil {
		return err
	}
	for _, k := range []*preKey{b.signed, b.oneTime, b.kem} {
		if k == nil {
			continue
		}
		if err := k.verify(d, now); err != nil {
			return err
		}
	}
	return nil
}
