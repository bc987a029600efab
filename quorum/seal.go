package quorum

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"filippo.io/bigmod"
)

// unseal opens what seal sealed, with crypto/hpke; nil where it doesn't open.
func unseal(key ecdh.KeyExchanger, b sealed, info []byte) []byte {
	private, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return nil
	}
	r, err := hpke.NewRecipient(b[:PointSize], private, hpke.HKDFSHA256(), hpke.AES256GCM(), info)
	if err != nil {
		return nil
	}
	scalar, err := r.Open(nil, b[PointSize:])
	if err != nil {
		return nil
	}
	return scalar
}

// seal is HPKE's SealBase (RFC 9180 §6.1) in the suite DHKEM(P-256,
// HKDF-SHA256), HKDF-SHA256, AES-256-GCM with a given ephemeral key, which
// crypto/hpke would draw at random: a dealer that restarts must deal the same
// bytes. One ephemeral key seals one plaintext for one peer and info.
func seal(peer PeerKey, ephemeral *bigmod.Nat, info, plaintext []byte) (sealed, error) {
	public, err := ecdh.P256().NewPublicKey(peer[:])
	if err != nil {
		return sealed{}, ErrPoint
	}
	private, err := ecdh.P256().NewPrivateKey(ephemeral.Bytes(order()))
	if err != nil {
		return sealed{}, fmt.Errorf("couldn't make an ephemeral key: %w", err)
	}
	dh, err := private.ECDH(public)
	if err != nil {
		return sealed{}, fmt.Errorf("couldn't exchange keys: %w", err)
	}
	defer clear(dh)
	enc := private.PublicKey().Bytes()
	aead, nonce, err := schedule(dh, slices.Concat(enc, peer[:]), info)
	if err != nil {
		return sealed{}, err
	}
	out := aead.Seal(enc, nonce, plaintext, nil)
	if len(out) != len(sealed{}) {
		return sealed{}, fmt.Errorf("%d bytes to seal, want %d", len(plaintext), ScalarSize)
	}
	return sealed(out), nil
}

// schedule derives the cipher and first nonce (RFC 9180 §4.1 and §5.1).
func schedule(dh, kemContext, info []byte) (cipher.AEAD, []byte, error) {
	kem := suite{id: "KEM\x00\x10"}
	shared := kem.expand(kem.extract(nil, "eae_prk", dh), "shared_secret", kemContext, 32)
	full := suite{id: "HPKE\x00\x10\x00\x01\x00\x02"}
	const modeBase = 0
	context := slices.Concat([]byte{modeBase},
		full.extract(nil, "psk_id_hash", nil), full.extract(nil, "info_hash", info))
	secret := full.extract(shared, "secret", nil)
	key := full.expand(secret, "key", context, 32)
	nonce := full.expand(secret, "base_nonce", context, 12)
	defer clear(shared)
	defer clear(secret)
	defer clear(key)
	if err := errors.Join(kem.err, full.err); err != nil {
		return nil, nil, fmt.Errorf("couldn't derive a key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	return aead, nonce, nil
}

// suite is a suite_id with LabeledExtract and LabeledExpand (RFC 9180 §4). It
// keeps the first error, which only a policy against an algorithm gives.
type suite struct {
	id  string
	err error
}

func (s *suite) extract(salt []byte, label string, ikm []byte) []byte {
	if s.err != nil {
		return nil
	}
	var prk []byte
	prk, s.err = hkdf.Extract(sha256.New, slices.Concat([]byte("HPKE-v1"), []byte(s.id), []byte(label), ikm), salt)
	return prk
}

func (s *suite) expand(prk []byte, label string, info []byte, size int) []byte {
	if s.err != nil {
		return nil
	}
	labelled := slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(size)), []byte("HPKE-v1"), []byte(s.id), []byte(label), info)
	var out []byte
	out, s.err = hkdf.Expand(sha256.New, prk, string(labelled), size)
	return out
}
