// Package history is what a member's devices say to each other so that a new
// one can show what was said before it (spec/client.md#history): the new
// device's request, and the old one's answer in sealed and signed chunks.
//
// The package is pure. It judges form, signatures and what a chunk is bound to;
// whether a device may ask, and which chunk is next, is for the caller. An entry
// is the old device's word, and no more.
package history

import (
	"crypto/hpke"
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/envelope"
)

// Domain labels of the signatures, and of the sealing.
const (
	labelRequest = "history-request"
	labelChunk   = "history-chunk"
	infoChunk    = "chancery/history/v1"
)

// Bounds, in bytes and items, of what a parser accepts.
const (
	MaxRequest = 2 << 10 // a request, encoded
	MaxChunk   = 1 << 20 // a chunk, encoded
	MaxPlain   = MaxChunk - 4<<10
	MaxEntries = 4096 // of one chunk; also conversations of a stream's end
	maxName    = 1024

	keySize = 1216 // of a public key for MLKEM768-X25519
	encSize = 1120 // of an encapsulation
)

// ErrMalformed means that bytes are not a structure of this package.
var ErrMalformed = errors.New("malformed")

// Request asks the other devices of the member for history.
type Request struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Device       codec.Hash // that asks
	Key          []byte     // HPKE public key, MLKEM768-X25519
	Nonce        codec.ID
}

// NewKey returns a private key and the public one for a Request.
func NewKey() (private, public []byte, err error) {
	key, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a key for history: %w", err)
	}
	if private, err = key.Bytes(); err != nil {
		return nil, nil, fmt.Errorf("couldn't make a key for history: %w", err)
	}
	return private, key.PublicKey().Bytes(), nil
}

// SignRequest returns the encoded, signed request.
func SignRequest(device codec.Signer, r *Request) ([]byte, error) {
	return device.Sign1(labelRequest, codec.Encode(r))
}

// ParseRequest reads a request without checking its signature. It returns
// codec.ErrEncoding, codec.ErrSize or ErrMalformed, wrapped.
func ParseRequest(raw []byte) (*Request, error) {
	if len(raw) > MaxRequest {
		return nil, fmt.Errorf("request of %d bytes: %w", len(raw), codec.ErrSize)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the request: %w", err)
	}
	var r Request
	if err := codec.Decode(payload, &r); err != nil {
		return nil, fmt.Errorf("couldn't read the request: %w", err)
	}
	if len(r.Key) != keySize {
		return nil, fmt.Errorf("request with a key of %d bytes: %w", len(r.Key), ErrMalformed)
	}
	if _, err := hpke.MLKEM768X25519().NewPublicKey(r.Key); err != nil {
		return nil, fmt.Errorf("request's key: %w: %w", ErrMalformed, err)
	}
	return &r, nil
}

// VerifyRequest checks the device's signature over an encoded request.
func VerifyRequest(device codec.PublicKey, raw []byte) error {
	_, err := codec.Open1(device, labelRequest, raw)
	return err
}

// RequestHash names an encoded request.
func RequestHash(raw []byte) codec.Hash { return codec.Sum("history-request", raw) }

// Place is what a chunk is bound to.
type Place struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	From, To     codec.Hash // devices
	Request      codec.Hash
	Stream       codec.ID // of one answer to the request
	Conversation codec.ID // zero: the end of the stream
	Number       uint64   // of the conversation's chunk, from 0
	Last         bool     // of the conversation
}

// Chunk is a part of a stream as it travels.
type Chunk struct {
	_      struct{} `cbor:",toarray"`
	Place  Place
	Enc    []byte
	Sealed []byte
}

// Body is what a chunk carries: entries, or at a stream's end the conversations
// that it has.
type Body struct {
	_             struct{} `cbor:",toarray"`
	Name          string   // of the conversation
	Entries       []Entry  // ascending by position
	Conversations []Extent
}

// Extent says how many chunks a conversation has in a stream.
type Extent struct {
	_            struct{} `cbor:",toarray"`
	Conversation codec.ID
	Chunks       uint64
}

// Entry is a message as the old device has it.
type Entry struct {
	_        struct{} `cbor:",toarray"`
	Position uint64
	Leaf     int64      // in the messages log
	Core     codec.Hash // H(core)
	Device   codec.Hash // that sent it
	Member   codec.ID
	Time     int64      // of the receipt, milliseconds since 1970 UTC
	Indexed  bool       // the tags were verified
	Archived bool       // a witnessed checkpoint covered it
	Via      codec.Hash // the device that the sender of the stream had it from; zero where it checked it itself
	Record   []byte     // empty where it was too long for a chunk
}

// check bounds what is in a body.
func (b *Body) check(end bool) error {
	if len(b.Name) > maxName || len(b.Entries) > MaxEntries || len(b.Conversations) > MaxEntries {
		return fmt.Errorf("a chunk's body: %w", codec.ErrSize)
	}
	if end && (len(b.Entries) > 0 || b.Name != "") || !end && len(b.Conversations) > 0 {
		return fmt.Errorf("entries at a stream's end, or an end before it: %w", ErrMalformed)
	}
	for i := range b.Entries {
		if i > 0 && b.Entries[i-1].Position >= b.Entries[i].Position {
			return fmt.Errorf("positions not ascending: %w", ErrMalformed)
		}
		if len(b.Entries[i].Record) == 0 {
			continue
		}
		if _, err := envelope.ParseRecord(b.Entries[i].Record); err != nil {
			return fmt.Errorf("entry at %d: %w", b.Entries[i].Position, err)
		}
	}
	return nil
}

// Seal seals a body to the key of a request and signs the chunk. The body's
// encoding is at most MaxPlain bytes.
func Seal(device codec.Signer, key []byte, at Place, b *Body) ([]byte, error) {
	if err := b.check(at.Conversation.IsZero()); err != nil {
		return nil, err
	}
	plain := codec.Encode(b)
	defer clear(plain)
	if len(plain) > MaxPlain {
		return nil, fmt.Errorf("a chunk's body of %d bytes: %w", len(plain), codec.ErrSize)
	}
	public, err := hpke.MLKEM768X25519().NewPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("the request's key: %w", err)
	}
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(infoChunk))
	if err != nil {
		return nil, fmt.Errorf("couldn't seal a chunk: %w", err)
	}
	sealed, err := sender.Seal(codec.Encode(&at), plain)
	if err != nil {
		return nil, fmt.Errorf("couldn't seal a chunk: %w", err)
	}
	return device.Sign1(labelChunk, codec.Encode(&Chunk{Place: at, Enc: enc, Sealed: sealed}))
}

// ParseChunk reads a chunk without checking its signature. It returns
// codec.ErrEncoding, codec.ErrSize or ErrMalformed, wrapped.
func ParseChunk(raw []byte) (*Chunk, error) {
	if len(raw) > MaxChunk {
		return nil, fmt.Errorf("chunk of %d bytes: %w", len(raw), codec.ErrSize)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the chunk: %w", err)
	}
	var c Chunk
	if err := codec.Decode(payload, &c); err != nil {
		return nil, fmt.Errorf("couldn't read the chunk: %w", err)
	}
	if len(c.Enc) != encSize || c.Place.Conversation.IsZero() && (!c.Place.Last || c.Place.Number != 0) {
		return nil, fmt.Errorf("chunk: %w", ErrMalformed)
	}
	return &c, nil
}

// Open verifies a chunk's signature by the device that sent it and opens it with
// the private key of the request. The caller compares the chunk's Place with
// what it expects. It returns codec.ErrSignature, hpke's error where the chunk
// was sealed for another place or key, and what ParseChunk does.
func Open(device codec.PublicKey, private, raw []byte) (*Chunk, *Body, error) {
	c, err := ParseChunk(raw)
	if err != nil {
		return nil, nil, err
	}
	if _, err := codec.Open1(device, labelChunk, raw); err != nil {
		return nil, nil, fmt.Errorf("chunk: %w", err)
	}
	key, err := hpke.MLKEM768X25519().NewPrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't use the key for history: %w", err)
	}
	recipient, err := hpke.NewRecipient(c.Enc, key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(infoChunk))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't open a chunk: %w", err)
	}
	plain, err := recipient.Open(codec.Encode(&c.Place), c.Sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't open a chunk: %w", err)
	}
	defer clear(plain)
	b, err := parseBody(plain, c.Place.Conversation.IsZero())
	if err != nil {
		return nil, nil, err
	}
	return c, b, nil
}

func parseBody(plain []byte, end bool) (*Body, error) {
	var b Body
	if err := codec.Decode(plain, &b); err != nil {
		return nil, fmt.Errorf("couldn't read a chunk's body: %w", err)
	}
	if err := b.check(end); err != nil {
		return nil, err
	}
	return &b, nil
}
