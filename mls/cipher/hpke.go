package cipher

import (
	"bytes"
	"crypto/hpke"
	"fmt"
	"io"
)

// PrivateKey is a private key of a suite's KEM. It isn't to be used while it is
// erased; otherwise it can be used from several goroutines.
type PrivateKey struct {
	suite  *Suite
	key    hpke.PrivateKey // nil once erased
	bytes  []byte
	public []byte
}

// DeriveKeyPair is KEM.DeriveKeyPair (RFC 9180 §4), of a secret of HashSize
// bytes.
func (s *Suite) DeriveKeyPair(ikm []byte) (*PrivateKey, error) {
	key, err := s.kem.DeriveKeyPair(ikm)
	if err != nil {
		return nil, fmt.Errorf("couldn't derive a key pair: %w", ErrKey)
	}
	return s.wrap(key)
}

// GenerateKeyPair derives a key pair from HashSize fresh bytes.
func (s *Suite) GenerateKeyPair(random io.Reader) (*PrivateKey, error) {
	ikm := make([]byte, s.HashSize())
	defer clear(ikm)
	if _, err := io.ReadFull(random, ikm); err != nil {
		return nil, fmt.Errorf("couldn't draw a key pair: %w", err)
	}
	return s.DeriveKeyPair(ikm)
}

// NewPrivateKey reads what PrivateKey.ExposeBytes gave, or ErrKey. It takes a copy.
func (s *Suite) NewPrivateKey(private []byte) (*PrivateKey, error) {
	key, err := s.kem.NewPrivateKey(private)
	if err != nil {
		return nil, ErrKey
	}
	return s.wrap(key)
}

func (s *Suite) wrap(key hpke.PrivateKey) (*PrivateKey, error) {
	private, err := key.Bytes()
	if err != nil {
		return nil, ErrKey
	}
	return &PrivateKey{s, key, private, key.PublicKey().Bytes()}, nil
}

// Clone returns a copy, which is erased by itself.
func (k *PrivateKey) Clone() *PrivateKey {
	return &PrivateKey{k.suite, k.key, bytes.Clone(k.bytes), k.public}
}

// Public returns the public key, as LeafNode.encryption_key carries it.
func (k *PrivateKey) Public() []byte { return k.public }

// ExposeBytes returns the private key itself, for a caller that stores it
// encrypted. The result aliases k: Erase clears it too.
func (k *PrivateKey) ExposeBytes() []byte { return k.bytes }

// Erase overwrites the private key; the copy that the standard library works
// with is left to the garbage collector. A nil k is allowed.
func (k *PrivateKey) Erase() {
	if k != nil {
		clear(k.bytes)
		k.key = nil
	}
}

// lowOrder are the X25519 public keys with which every exchange gives zero, so
// that nobody can encrypt to them (RFC 7748 §6.1): the points of small order
// and their other encodings below 2^255.
var lowOrder = [...][32]byte{
	{},
	{1},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
	{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	{0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	{0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
}

// kemX25519 and kemXWing are KEM numbers (RFC 9180 §7.1 and its registry). In
// both, the X25519 key is the last 32 bytes of the public key.
const (
	kemX25519 = 0x0020
	kemXWing  = 0x647a
)

// CheckHPKEKey returns ErrKey unless everybody can encrypt to public. A member
// who put another key into the tree would stop all commits.
func (s *Suite) CheckHPKEKey(public []byte) error {
	if _, err := s.kem.NewPublicKey(public); err != nil {
		return ErrKey
	}
	if id := s.kem.ID(); id != kemX25519 && id != kemXWing {
		return nil
	}
	x := [32]byte(public[len(public)-32:])
	x[31] &= 0x7f // X25519 ignores the top bit
	for _, low := range lowOrder {
		if x == low {
			return ErrKey
		}
	}
	return nil
}

// EncryptWithLabel is RFC 9420 §5.1.3. It returns the KEM's output and the
// ciphertext, or ErrKey for a bad public key.
func (s *Suite) EncryptWithLabel(public []byte, label string, context, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	return s.Sealer(label, context).Seal(public, plaintext)
}

// Sealer encrypts to many keys with one label and context. It can be used from
// several goroutines.
type Sealer struct {
	suite *Suite
	info  []byte
}

// Sealer returns what does EncryptWithLabel with that label and context, which
// is encoded once: that of a Welcome is as long as the group's tree.
func (s *Suite) Sealer(label string, context []byte) *Sealer {
	return &Sealer{s, labelled(label, context)}
}

// Seal is EncryptWithLabel.
func (e *Sealer) Seal(public, plaintext []byte) (kemOutput, ciphertext []byte, err error) {
	key, err := e.suite.kem.NewPublicKey(public)
	if err != nil {
		return nil, nil, ErrKey
	}
	kemOutput, sender, err := hpke.NewSender(key, e.suite.kdf, e.suite.hpke, e.info)
	if err != nil {
		return nil, nil, ErrKey
	}
	ciphertext, err = sender.Seal(nil, plaintext)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't encrypt: %w", err)
	}
	return kemOutput, ciphertext, nil
}

// DecryptWithLabel is RFC 9420 §5.1.3. It returns ErrOpen for whatever
// EncryptWithLabel didn't write for this key, label and context.
func (k *PrivateKey) DecryptWithLabel(label string, context, kemOutput, ciphertext []byte) ([]byte, error) {
	r, err := k.recipient(kemOutput, labelled(label, context))
	if err != nil {
		return nil, err
	}
	plaintext, err := r.Open(nil, ciphertext)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// ExportTo makes a secret of HashSize bytes known to whoever holds the private
// key of public: SetupBaseS with no info and Export (RFC 9420 §8.3).
func (s *Suite) ExportTo(public []byte, label string) (kemOutput, secret []byte, err error) {
	key, err := s.kem.NewPublicKey(public)
	if err != nil {
		return nil, nil, ErrKey
	}
	kemOutput, sender, err := hpke.NewSender(key, s.kdf, s.hpke, nil)
	if err != nil {
		return nil, nil, ErrKey
	}
	secret, err = sender.Export(label, s.HashSize())
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't export: %w", err)
	}
	return kemOutput, secret, nil
}

// ExportFrom returns the secret that ExportTo gave together with kemOutput, or
// ErrOpen where that isn't an output of the KEM.
func (k *PrivateKey) ExportFrom(kemOutput []byte, label string) ([]byte, error) {
	r, err := k.recipient(kemOutput, nil)
	if err != nil {
		return nil, err
	}
	secret, err := r.Export(label, k.suite.HashSize())
	if err != nil {
		return nil, fmt.Errorf("couldn't export: %w", err)
	}
	return secret, nil
}

func (k *PrivateKey) recipient(kemOutput, info []byte) (*hpke.Recipient, error) {
	if k.key == nil {
		return nil, ErrKey
	}
	r, err := hpke.NewRecipient(kemOutput, k.key, k.suite.kdf, k.suite.hpke, info)
	if err != nil {
		return nil, ErrOpen
	}
	return r, nil
}
