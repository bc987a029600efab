// Package cipher holds the cipher suites of MLS (RFC 9420 §5, §17.1) and the
// labelled operations built on them.
//
// A Suite has no state. Private keys hide behind operations (Signer,
// PrivateKey) and can be erased. Fresh secrets come from readers that the
// caller gives; only the ephemeral keys of HPKE and the nonces of ECDSA come
// from crypto/rand, because the standard library takes no other source.
//
// It promises nothing about X448 and Ed448 (suites 4 and 6), for which the
// standard library has no code.
package cipher

import (
	"crypto"
	"crypto/aes"
	stdcipher "crypto/cipher"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	_ "crypto/sha256" // hash functions that suites name
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"chancery/mls/syntax"
)

// ID is a cipher suite's number on the wire (RFC 9420 §17.1). Any number can
// be carried; ByID tells which ones can be used.
type ID uint16

// The suites that can be used.
const (
	X25519AES128SHA256Ed25519           ID = 1
	P256AES128SHA256P256                ID = 2
	X25519ChaCha20Poly1305SHA256Ed25519 ID = 3
	P521AES256SHA512P521                ID = 5
	P384AES256SHA384P384                ID = 7

	// XWingAES256SHA384Ed25519 has the hybrid of ML-KEM-768 and X25519 as its
	// KEM. No number is assigned yet: this one is of the range for private
	// use, and whoever uses it must be ready to give it up.
	XWingAES256SHA384Ed25519 ID = 0xf0c1
)

var (
	// ErrUnsupported means that a suite isn't implemented.
	ErrUnsupported = errors.New("unsupported MLS cipher suite")
	// ErrKey means that bytes aren't a key of the suite.
	ErrKey = errors.New("not a key of the cipher suite")
	// ErrSignature means that a signature doesn't verify.
	ErrSignature = errors.New("signature doesn't verify")
	// ErrOpen means that a ciphertext isn't authentic or meant for another key.
	ErrOpen = errors.New("couldn't decrypt")
)

// TagSize is the number of bytes by which each AEAD ciphertext is longer than
// its plaintext.
const TagSize = 16

// Suite is one cipher suite. It can be used from several goroutines.
type Suite struct {
	id      ID
	hash    crypto.Hash
	kem     hpke.KEM
	kdf     hpke.KDF
	hpke    hpke.AEAD
	aead    func(key []byte) (stdcipher.AEAD, error)
	keySize int
	curve   elliptic.Curve // of signatures; nil for Ed25519
}

// IDs returns the suites that can be used, in ascending order.
func IDs() []ID {
	return []ID{
		X25519AES128SHA256Ed25519, P256AES128SHA256P256, X25519ChaCha20Poly1305SHA256Ed25519,
		P521AES256SHA512P521, P384AES256SHA384P384, XWingAES256SHA384Ed25519,
	}
}

// ByID returns the suite with the given number, or ErrUnsupported.
func ByID(id ID) (*Suite, error) {
	s := &Suite{id: id, aead: aesGCM}
	switch id {
	case X25519AES128SHA256Ed25519:
		s.kem, s.kdf, s.hpke = hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.AES128GCM()
		s.hash, s.keySize = crypto.SHA256, 16
	case P256AES128SHA256P256:
		s.kem, s.kdf, s.hpke = hpke.DHKEM(ecdh.P256()), hpke.HKDFSHA256(), hpke.AES128GCM()
		s.hash, s.keySize, s.curve = crypto.SHA256, 16, elliptic.P256()
	case X25519ChaCha20Poly1305SHA256Ed25519:
		s.kem, s.kdf, s.hpke = hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305()
		s.hash, s.keySize, s.aead = crypto.SHA256, chacha20poly1305.KeySize, chacha20poly1305.New
	case P521AES256SHA512P521:
		s.kem, s.kdf, s.hpke = hpke.DHKEM(ecdh.P521()), hpke.HKDFSHA512(), hpke.AES256GCM()
		s.hash, s.keySize, s.curve = crypto.SHA512, 32, elliptic.P521()
	case P384AES256SHA384P384:
		s.kem, s.kdf, s.hpke = hpke.DHKEM(ecdh.P384()), hpke.HKDFSHA384(), hpke.AES256GCM()
		s.hash, s.keySize, s.curve = crypto.SHA384, 32, elliptic.P384()
	case XWingAES256SHA384Ed25519:
		s.kem, s.kdf, s.hpke = hpke.MLKEM768X25519(), hpke.HKDFSHA384(), hpke.AES256GCM()
		s.hash, s.keySize = crypto.SHA384, 32
	default:
		return nil, fmt.Errorf("suite %d: %w", id, ErrUnsupported)
	}
	return s, nil
}

func aesGCM(key []byte) (stdcipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return stdcipher.NewGCM(b)
}

// ID returns the suite's number.
func (s *Suite) ID() ID { return s.id }

// HashSize returns the length in bytes of a hash, of a MAC and of each secret
// of the key schedule (Nh, KDF.Nh).
func (s *Suite) HashSize() int { return s.hash.Size() }

// KeySize returns the length of an AEAD key in bytes.
func (s *Suite) KeySize() int { return s.keySize }

// NonceSize returns the length of an AEAD nonce in bytes, 12 in all suites.
func (s *Suite) NonceSize() int { return 12 }

// Hash returns the hash of the concatenated parts.
func (s *Suite) Hash(parts ...[]byte) []byte {
	h := s.hash.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// MAC returns the HMAC of data under key.
func (s *Suite) MAC(key, data []byte) []byte {
	m := hmac.New(s.hash.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// VerifyMAC reports whether tag is MAC(key, data), in time that doesn't depend
// on where they differ.
func (s *Suite) VerifyMAC(key, data, tag []byte) bool {
	return hmac.Equal(s.MAC(key, data), tag)
}

// Extract is KDF.Extract; a nil salt or ikm stands for no bytes.
func (s *Suite) Extract(salt, ikm []byte) []byte {
	m := hmac.New(s.hash.New, salt) // RFC 5869 §2.2; HMAC itself pads the key with zeros
	m.Write(ikm)
	return m.Sum(nil)
}

// MaxExpand returns the greatest length in bytes that ExpandWithLabel gives.
func (s *Suite) MaxExpand() int { return min(255*s.HashSize(), 1<<16-1) }

// ExpandWithLabel is RFC 9420 §8. It panics where length is above MaxExpand or
// label or context is above 1 GiB, which callers rule out.
func (s *Suite) ExpandWithLabel(secret []byte, label string, context []byte, length int) []byte {
	if length < 0 || length > s.MaxExpand() {
		panic(fmt.Sprintf("cipher: %d bytes can't be expanded", length))
	}
	b := syntax.NewBuilder(2 + 1 + len(prefix) + len(label) + 4 + len(context))
	b.Uint16(uint16(length))
	b.Opaque([]byte(prefix + label))
	b.Opaque(context)
	return s.expand(secret, b.Bytes(), length)
}

// expand is KDF.Expand, of a length up to MaxExpand.
func (s *Suite) expand(prk, info []byte, length int) []byte {
	out, err := hkdf.Expand(s.hash.New, prk, string(info), length)
	if err != nil {
		panic("cipher: HKDF refused a length that was checked: " + err.Error())
	}
	return out
}

// DeriveSecret is RFC 9420 §8: HashSize bytes.
func (s *Suite) DeriveSecret(secret []byte, label string) []byte {
	return s.ExpandWithLabel(secret, label, nil, s.HashSize())
}

// DeriveTreeSecret is RFC 9420 §9.
func (s *Suite) DeriveTreeSecret(secret []byte, label string, generation uint32, length int) []byte {
	var context [4]byte
	binary.BigEndian.PutUint32(context[:], generation)
	return s.ExpandWithLabel(secret, label, context[:], length)
}

// RefHash is RFC 9420 §5.2. The label is given in full, "MLS 1.0 " included.
func (s *Suite) RefHash(label string, value []byte) []byte {
	b := syntax.NewBuilder(len(label) + len(value) + 8)
	b.Opaque([]byte(label))
	b.Opaque(value)
	return s.Hash(b.Bytes())
}

// Seal encrypts plaintext with the suite's AEAD. It returns ErrKey where key or
// nonce has another length than the suite's.
func (s *Suite) Seal(key, nonce, aad, plaintext []byte) ([]byte, error) {
	a, err := s.newAEAD(key, nonce)
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nonce, plaintext, aad), nil
}

// Open decrypts what Seal returned. It returns ErrKey as Seal does, and ErrOpen
// for a ciphertext that isn't authentic.
func (s *Suite) Open(key, nonce, aad, ciphertext []byte) ([]byte, error) {
	a, err := s.newAEAD(key, nonce)
	if err != nil {
		return nil, err
	}
	plaintext, err := a.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

func (s *Suite) newAEAD(key, nonce []byte) (stdcipher.AEAD, error) {
	if len(key) != s.keySize || len(nonce) != s.NonceSize() {
		return nil, ErrKey
	}
	return s.aead(key)
}

// prefix begins each label (RFC 9420 §5.1.2).
const prefix = "MLS 1.0 "

// labelled is SignContent (RFC 9420 §5.1.2) and EncryptContext (§5.1.3), which
// have one form.
func labelled(label string, content []byte) []byte {
	b := syntax.NewBuilder(len(prefix) + len(label) + len(content) + 8)
	b.Opaque([]byte(prefix + label))
	b.Opaque(content)
	return b.Bytes()
}
