package ratchet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
)

const (
	keySize   = 32
	nonceSize = 12
	tagSize   = 16
	saltSize  = 16

	// Labels of HKDF (spec/ratchet.md).
	infoAgree   = "chancery/ratchet/v1 pqxdh"
	infoRoot    = "chancery/ratchet/v1 root"
	infoHeader  = "chancery/ratchet/v1 header"
	infoMessage = "chancery/ratchet/v1 message"
)

// secret is a symmetric key or an X25519 private key.
type secret [keySize]byte

func (s *secret) erase() { clear(s[:]) }

func erase(secrets ...*secret) {
	for _, s := range secrets {
		s.erase()
	}
}

// String hides the key from logs and error texts.
func (s secret) String() string { return "secret" }

// GoString hides the key from logs and error texts.
func (s secret) GoString() string { return "secret" }

// point is an X25519 public key.
type point [keySize]byte

// newPrivate draws an X25519 private key into s. crypto/ecdh would not take the
// randomness given.
func (s *secret) newPrivate(random io.Reader) (*ecdh.PrivateKey, error) {
	if err := draw(random, s[:]); err != nil {
		s.erase()
		return nil, err
	}
	return s.private()
}

// private returns the key for agreeing with it. That copy goes when it is
// collected, since crypto/ecdh can't erase it.
func (s *secret) private() (*ecdh.PrivateKey, error) {
	private, err := ecdh.X25519().NewPrivateKey(s[:])
	if err != nil {
		return nil, fmt.Errorf("couldn't make an agreement key: %w", err)
	}
	return private, nil
}

func publicOf(private *ecdh.PrivateKey) point { return point(private.PublicKey().Bytes()) }

// agree is X25519. It returns ErrPoint where the result would be zeros, whoever
// chose p (RFC 7748 §6.1).
func agree(private *ecdh.PrivateKey, p point) (secret, error) {
	public, err := ecdh.X25519().NewPublicKey(p[:])
	if err != nil {
		return secret{}, fmt.Errorf("couldn't read an agreement key: %w", err)
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return secret{}, ErrPoint
	}
	defer clear(shared)
	return secret(shared), nil
}

// derive3 returns three keys of HKDF-SHA256.
func derive3(ikm, salt []byte, info string) (a, b, c secret, err error) {
	okm, err := hkdf.Key(sha256.New, ikm, salt, info, 3*keySize)
	if err != nil {
		return secret{}, secret{}, secret{}, fmt.Errorf("couldn't derive keys: %w", err)
	}
	defer clear(okm)
	return secret(okm[:32]), secret(okm[32:64]), secret(okm[64:]), nil
}

// chain is one direction's symmetric ratchet, with its header key.
type chain struct {
	_      struct{} `cbor:",toarray"`
	Key    secret
	Header secret
	N      uint32 // the next message's number
}

func (c *chain) erase() { *c = chain{} }

// step returns the next message's key and erases what gave it.
func (c *chain) step() secret {
	mac := hmac.New(sha256.New, c.Key[:])
	mac.Write([]byte{1})
	var message secret
	mac.Sum(message[:0])
	mac.Reset()
	mac.Write([]byte{2})
	mac.Sum(c.Key[:0])
	c.N++
	return message
}

// sealer makes the cipher for one message or header. The salt keeps key and
// nonce new even where a restored state brings key back.
func sealer(key *secret, info string, salt []byte) (cipher.AEAD, []byte, error) {
	okm, err := hkdf.Expand(sha256.New, key[:], info+string(salt), keySize+nonceSize)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't derive a key: %w", err)
	}
	defer clear(okm)
	block, err := aes.NewCipher(okm[:keySize])
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	return aead, slices.Clone(okm[keySize:]), nil
}

func seal(key *secret, info string, salt, plaintext, aad []byte) ([]byte, error) {
	aead, nonce, err := sealer(key, info, salt)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nonce, plaintext, aad), nil
}

// open returns ErrOpen where the ciphertext isn't one of this key, salt and aad.
func open(key *secret, info string, salt, ciphertext, aad []byte) ([]byte, error) {
	aead, nonce, err := sealer(key, info, salt)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}
