package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"fmt"

	"filippo.io/nistec"

	"chancery/codec"
)

// coins are the randomness of one encapsulation.
type coins struct {
	e []byte // ephemeral scalar, 32 bytes, in [1, n-1]
	m []byte // ML-KEM's message, 32 bytes
}

// deriveCoins derives them from the seed's PRK and H(header): with the seed
// alone, one seed under two headers would use one key and nonce twice
// (spec/envelope.md#sealing).
func deriveCoins(prk []byte, header codec.Hash) *coins {
	wide := expand(prk, "eph", header[:], wideSize)
	defer clear(wide)
	return &coins{e: nonZeroScalar(wide), m: expand(prk, "mlkem", header[:], 32)}
}

func (c *coins) erase() { clear(c.e); clear(c.m) }

// encapsulate is the encapsulation of MLKEM768-P256 (draft-ietf-hpke-pq-03 §4,
// draft-irtf-cfrg-hybrid-kems) with given coins. It returns enc, the shared
// secret, and the secrets that the sender's proof and tag need.
func encapsulate(pub *PublicKey, prk []byte, c *coins) (enc, shared []byte, s *Secrets, err error) {
	point, err := nistec.NewP256Point().ScalarBaseMult(c.e)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("couldn't multiply the base point: %w", err)
	}
	product, err := nistec.NewP256Point().ScalarMult(pub.y, c.e)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("couldn't multiply the escrow point: %w", err)
	}
	x, err := product.BytesX()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("couldn't agree on a point: %w", err)
	}
	defer clear(x)

	enc = make([]byte, mlkemCiphertextSize, EncSize)
	s = &Secrets{e: [32]byte(c.e), prk: [32]byte(prk), point: [pointSize]byte(point.Bytes())}
	pub.pq.EncapsulateTo(enc, s.ss[:], c.m)
	leaveAVX(enc)
	enc = append(enc, s.point[:]...)

	h := sha3.New256()
	h.Write(s.ss[:])
	h.Write(x)
	h.Write(s.point[:])
	h.Write(pub.point)
	h.Write([]byte("MLKEM768-P256"))
	return enc, h.Sum(nil), s, nil
}

// leaveAVX runs code of the standard library that ends with VZEROUPPER. circl's
// AVX2 code doesn't, and the SHA-256 instructions that follow it are then some
// twenty times slower: 100 µs an envelope.
func leaveAVX(public []byte) { bytes.IndexByte(public, 0) }

// keySchedule is HPKE's in base mode for the suite and info of this package, and
// its first nonce (RFC 9180 §5.1).
func keySchedule(shared []byte) (cipher.AEAD, []byte, error) {
	pskID, err := labeledExtract(nil, "psk_id_hash", nil)
	if err != nil {
		return nil, nil, err
	}
	infoHash, err := labeledExtract(nil, "info_hash", []byte(info))
	if err != nil {
		return nil, nil, err
	}
	context := append(append([]byte{0}, pskID...), infoHash...) // mode_base
	secret, err := labeledExtract(shared, "secret", nil)
	if err != nil {
		return nil, nil, err
	}
	defer clear(secret)
	key, err := labeledExpand(secret, "key", context, 32)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	nonce, err := labeledExpand(secret, "base_nonce", context, 12)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make AES-256: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make GCM: %w", err)
	}
	return aead, nonce, nil
}

// suiteID names KEM 0x0050, KDF 0x0001 and AEAD 0x0002 (RFC 9180 §5.1).
const suiteID = "HPKE\x00\x50\x00\x01\x00\x02"

func labeledExtract(salt []byte, label string, ikm []byte) ([]byte, error) {
	labeled := append([]byte("HPKE-v1"+suiteID+label), ikm...)
	defer clear(labeled)
	prk, err := hkdf.Extract(sha256.New, labeled, salt)
	if err != nil {
		return nil, fmt.Errorf("couldn't extract %s: %w", label, err)
	}
	return prk, nil
}

func labeledExpand(prk []byte, label string, context []byte, size int) ([]byte, error) {
	labeled := binary.BigEndian.AppendUint16(nil, uint16(size))
	labeled = append(labeled, "HPKE-v1"+suiteID+label...)
	labeled = append(labeled, context...)
	out, err := hkdf.Expand(sha256.New, prk, string(labeled), size)
	if err != nil {
		return nil, fmt.Errorf("couldn't expand %s: %w", label, err)
	}
	return out, nil
}
