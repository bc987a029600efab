// Package codec is the ground every Chancery format stands on: deterministic
// CBOR (RFC 8949 §4.2.1), domain-separated hashing and COSE_Sign1 (RFC 9052).
//
// It promises one canonical encoding: bytes that Decode accepts are exactly
// the bytes that Encode writes for the decoded value. Formats themselves live
// in packages of their own; this package knows none of them.
package codec

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// HashSize is the length of a Hash in bytes.
const HashSize = sha256.Size

// IDSize is the length of an ID in bytes.
const IDSize = 16

// Hash is a domain-separated SHA-256 digest, 32 bytes. In CBOR it is a byte
// string, in text lower-case hexadecimal.
type Hash [HashSize]byte

// ID names a member, device, conversation, matter or request: 16 random bytes,
// so that a log of ids says nothing about people.
type ID [IDSize]byte

var (
	// ErrEncoding means that bytes are not the one canonical encoding of a
	// value of the expected form.
	ErrEncoding = errors.New("not a canonical encoding")
	// ErrSize means that bytes are longer than the format allows.
	ErrSize = errors.New("too large")
)

// Sum returns H(label, parts…): SHA-256 over "chancery/" ‖ label ‖ "/v1" ‖ 0x00
// ‖ parts (spec/conventions.md#hash). Parts are concatenated without lengths:
// a format that hashes several of variable length encodes them first.
func Sum(label string, parts ...[]byte) Hash {
	h := sha256.New()
	h.Write([]byte("chancery/"))
	h.Write([]byte(label))
	h.Write([]byte("/v1\x00"))
	for _, p := range parts {
		h.Write(p)
	}
	var out Hash
	h.Sum(out[:0])
	return out
}

// String returns h in lower-case hexadecimal, 64 characters.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short returns the first 12 hexadecimal characters of h, for people.
func (h Hash) Short() string { return hex.EncodeToString(h[:6]) }

// IsZero reports whether h is all zeros, which stands for "none".
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts lower-case
// hexadecimal alone, so that a hash has one spelling.
func (h *Hash) UnmarshalText(text []byte) error { return unhex(h[:], text) }

// ParseHash reads the 64 hexadecimal characters that String writes.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if err := h.UnmarshalText([]byte(s)); err != nil {
		return Hash{}, err
	}
	return h, nil
}

// NewID returns a random ID.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails: crypto/rand aborts the program instead
	return id
}

// String returns id in lower-case hexadecimal, 32 characters.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is all zeros, which stands for "none".
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error { return unhex(id[:], text) }

// ParseID reads the 32 hexadecimal characters that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return ID{}, err
	}
	return id, nil
}

func unhex(dst, text []byte) error {
	if len(text) != 2*len(dst) || !bytes.Equal(text, bytes.ToLower(text)) {
		return fmt.Errorf("want %d lower-case hexadecimal characters: %w", 2*len(dst), ErrEncoding)
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("want %d lower-case hexadecimal characters: %w", 2*len(dst), ErrEncoding)
	}
	return nil
}

// Encode returns the deterministic CBOR encoding of v. Structures are Go
// structs tagged `cbor:",toarray"`, so that field order is the format. It
// panics where v has no encoding, which is a fault in the calling package and
// never depends on input.
func Encode(v any) []byte {
	b, err := encMode().Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("codec: %T has no encoding: %v", v, err))
	}
	return b
}

// Decode reads data into v, a pointer. It returns ErrEncoding, wrapped, unless
// data is exactly what Encode writes for the result: no trailing bytes, no
// longer form, no duplicate key, no indefinite length, no tag, no invalid
// UTF-8. Work and memory are bounded by len(data).
func Decode(data []byte, v any) error {
	if err := decMode().Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %v", ErrEncoding, err)
	}
	again, err := encMode().Marshal(v)
	if err != nil || !bytes.Equal(again, data) {
		return ErrEncoding
	}
	return nil
}
