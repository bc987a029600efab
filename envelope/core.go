package envelope

import (
	"fmt"

	"chancery/codec"
)

// maxCoreSize bounds an encoded core in bytes.
const maxCoreSize = MaxHeaderSize + codec.HashSize + MaxAttachments*(codec.HashSize+2) + 16

// Core is what the associated data of a message, the proof and the tag are bound
// to: header, envelope and attachments (spec/envelope.md#core).
type Core struct {
	_           struct{} `cbor:",toarray"`
	Header      []byte   // an encoded Header
	Envelope    codec.Hash
	Attachments []codec.Hash // of the stored bytes, at most MaxAttachments
}

// Encode returns the deterministic CBOR encoding of c.
func (c *Core) Encode() []byte { return codec.Encode(c) }

// ParseCore reads what Encode writes, with a header that ParseHeader takes,
// whose errors it returns. It returns codec.ErrSize and codec.ErrEncoding
// besides.
func ParseCore(b []byte) (*Core, error) {
	if len(b) > maxCoreSize {
		return nil, fmt.Errorf("core of %d bytes: %w", len(b), codec.ErrSize)
	}
	c := new(Core)
	if err := codec.Decode(b, c); err != nil {
		return nil, fmt.Errorf("couldn't read core: %w", err)
	}
	if len(c.Attachments) > MaxAttachments {
		return nil, fmt.Errorf("core of %d attachments: %w", len(c.Attachments), codec.ErrSize)
	}
	if _, err := ParseHeader(c.Header); err != nil {
		return nil, err
	}
	return c, nil
}

// Hash returns H(core) = H("core" ‖ encoding): the next header's chain value,
// and what proof, tag and associated data are bound to.
func (c *Core) Hash() codec.Hash { return codec.Sum("core", c.Encode()) }
