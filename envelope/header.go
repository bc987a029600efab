package envelope

import (
	"fmt"
	"math"
	"time"

	"chancery/codec"
)

const (
	// Version is the version of header and envelope that this package makes.
	Version = 1
	// Suite is MLKEM768-P256, HKDF-SHA256, AES-256-GCM.
	Suite = 1
	// MaxHeaderSize is the length in bytes of the longest encoded header.
	MaxHeaderSize = 239
)

// Kind says what an envelope holds (spec/envelope.md#kinds).
type Kind uint8

const (
	KindRecord     Kind = 1 // a message's record
	KindIndex      Kind = 2 // nothing but its seed, which is an index secret
	KindReport     Kind = 3 // a recipient's report of a mismatch
	KindDelegation Kind = 4 // the private half of a delegating pair
	KindCapture    Kind = 5 // a record from another channel: captured, not verified
	KindVoid       Kind = 6 // fills a sequence number that the server refused
)

// String returns the kind's name in the specification.
func (k Kind) String() string {
	switch k {
	case KindRecord:
		return "record"
	case KindIndex:
		return "index"
	case KindReport:
		return "report"
	case KindDelegation:
		return "delegation"
	case KindCapture:
		return "capture"
	case KindVoid:
		return "void"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) known() bool { return KindRecord <= k && k <= KindVoid }

// Header is what an envelope says in clear; its encoding is the aad of the HPKE
// ciphertext (spec/envelope.md#header). At most MaxHeaderSize bytes encoded.
type Header struct {
	_            struct{} `cbor:",toarray"`
	Version      uint8    // 1
	Suite        uint16   // 1
	Organisation codec.Hash
	EscrowKey    codec.Hash // the control leaf of the public key it is sealed to
	PolicyLeaf   codec.Hash // the conversation's policy
	Device       codec.Hash // the control leaf of the signing device
	Conversation codec.ID
	Seq          uint64     // runs for each device and conversation
	Prev         codec.Hash // H(core) of the one before, zero for the first
	Kind         Kind
	Day          uint32 // UTC days since 1970
	Commitment   codec.Hash
}

// Encode returns the deterministic CBOR encoding of h.
func (h *Header) Encode() []byte { return codec.Encode(h) }

// ParseHeader reads what Encode writes. It returns ErrVersion for a version,
// suite or kind that it doesn't know, codec.ErrSize for more than the longest
// header and codec.ErrEncoding for anything else that is no header.
func ParseHeader(b []byte) (*Header, error) {
	if len(b) > MaxHeaderSize {
		// A later version may be longer, and must not be called malformed.
		if v := peekVersion(b); v != Version {
			return nil, fmt.Errorf("header of version %d: %w", v, ErrVersion)
		}
		return nil, fmt.Errorf("header of %d bytes: %w", len(b), codec.ErrSize)
	}
	h := new(Header)
	if err := codec.Decode(b, h); err != nil {
		if v := peekVersion(b); v != Version {
			return nil, fmt.Errorf("header of version %d: %w", v, ErrVersion)
		}
		return nil, fmt.Errorf("couldn't read header: %w", err)
	}
	switch {
	case h.Version != Version:
		return nil, fmt.Errorf("header of version %d: %w", h.Version, ErrVersion)
	case h.Suite != Suite:
		return nil, fmt.Errorf("header of suite %d: %w", h.Suite, ErrVersion)
	case !h.Kind.known():
		return nil, fmt.Errorf("header of %v: %w", h.Kind, ErrVersion)
	}
	return h, nil
}

// peekVersion returns the version of a header whose other fields may be of a
// later form, and Version where b is no header of any version.
func peekVersion(b []byte) uint64 {
	if len(b) < 2 || b[0]>>5 != majorArray {
		return Version
	}
	_, _, rest, err := head(b)
	if err != nil {
		return Version
	}
	major, v, _, err := head(rest)
	if err != nil || major != majorUint {
		return Version
	}
	return v
}

// DayOf returns the UTC day of t, counted from 1 January 1970: 0 for earlier
// times, and the last day there is for times after it.
func DayOf(t time.Time) uint32 {
	s := t.Unix()
	if s < 0 {
		return 0
	}
	return uint32(min(s/86400, math.MaxUint32))
}
