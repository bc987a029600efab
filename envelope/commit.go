package envelope

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"

	"chancery/codec"
)

// SeedSize is the length of a Seed in bytes.
const SeedSize = 32

// info is HPKE's info and the salt of every HKDF in this package.
const info = "chancery/envelope/v1"

// Seed is the secret from which all of an envelope follows, 32 bytes. Whoever
// has it and the archived envelope's header reads the record: it is erased after
// the check and the witnessed receipt.
type Seed [SeedSize]byte

// NewSeed reads a fresh seed from rand.
func NewSeed(rand io.Reader) (Seed, error) {
	var s Seed
	if _, err := io.ReadFull(rand, s[:]); err != nil {
		return Seed{}, fmt.Errorf("couldn't draw a seed: %w", err)
	}
	return s, nil
}

// Erase overwrites s.
func (s *Seed) Erase() { clear(s[:]) }

// String hides the seed from logs and error texts.
func (s Seed) String() string { return "seed" }

// GoString hides the seed from logs and error texts.
func (s Seed) GoString() string { return "seed" }

func (s *Seed) extract() []byte { return extract(s[:]) }

// extract is HKDF-Extract with the salt of this package (RFC 5869 §2.2).
func extract(secret []byte) []byte {
	prk, err := hkdf.Extract(sha256.New, secret, []byte(info))
	if err != nil {
		panic(err) // SHA-256 and 32 bytes of key are approved, so no mode refuses them
	}
	return prk
}

// expand is HKDF-Expand with the info label ‖ context (RFC 5869 §2.3).
func expand(prk []byte, label string, context []byte, size int) []byte {
	out, err := hkdf.Expand(sha256.New, prk, label+string(context), size)
	if err != nil {
		panic(err) // sizes are constants far below HKDF's bound
	}
	return out
}

// Commit returns C, the commitment to seed and record that a header carries
// (spec/envelope.md#commitment). Its errors are those of Fields.
func Commit(seed *Seed, record []byte) (codec.Hash, error) {
	prk := seed.extract()
	defer clear(prk)
	return commit(prk, record)
}

func commit(prk, record []byte) (codec.Hash, error) {
	fields, err := Fields(record)
	if err != nil {
		return codec.Hash{}, err
	}
	if len(fields) == 0 {
		// Without a leaf, C would open to every seed, and anyone could invent one
		// that convicts the sender of an index envelope.
		key := fieldKey(prk, 0)
		defer clear(key[:])
		leaf := FieldLeaf(0, key, nil)
		return codec.Sum("commit", []byte{0}, leaf[:]), nil
	}
	leaves := make([]codec.Hash, len(fields))
	for i, f := range fields {
		key := fieldKey(prk, i)
		leaves[i] = FieldLeaf(i, key, f)
		clear(key[:])
	}
	return CommitmentOf(leaves), nil
}

// FieldKey returns k_i, 32 bytes, the salt of field i < MaxFields. A key of its
// own for each field keeps the hidden fields of a partial production from being
// guessed with a key that the shown ones disclose.
func FieldKey(seed *Seed, i int) [32]byte {
	prk := seed.extract()
	defer clear(prk)
	return fieldKey(prk, i)
}

func fieldKey(prk []byte, i int) [32]byte {
	return [32]byte(expand(prk, "field", []byte{byte(i)}, 32))
}

// FieldLeaf returns leaf_i = H("field" ‖ i ‖ k_i ‖ field) of a field's CBOR
// encoding, i < MaxFields.
func FieldLeaf(i int, key [32]byte, field []byte) codec.Hash {
	return codec.Sum("field", []byte{byte(i)}, key[:], field)
}

// CommitmentOf returns C = H("commit" ‖ count ‖ leaf_0 ‖ …) of a record of 1 to
// MaxFields fields. A partial production shows fields with their keys and the other leaves
// as they are.
func CommitmentOf(leaves []codec.Hash) codec.Hash {
	buf := make([]byte, 0, 1+len(leaves)*codec.HashSize)
	buf = append(buf, byte(len(leaves)))
	for _, l := range leaves {
		buf = append(buf, l[:]...)
	}
	return codec.Sum("commit", buf)
}
