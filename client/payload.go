package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"chancery/codec"
	"chancery/envelope"
)

const (
	payloadVersion = 1
	payloadHead    = 5 // version, length
	maxPayload     = envelope.MaxRecordSize + 64<<10
)

var errPayload = errors.New("not a message's payload")

// payload is what travels inside the end-to-end ciphertext: the record as it was
// sealed, the seed, and the index envelope's header and seed, so that recipients
// re-seal both (spec/client.md#payload). Index header and seed are empty where
// the message has no tags.
type payload struct {
	_           struct{} `cbor:",toarray"`
	Record      []byte
	Seed        envelope.Seed
	IndexHeader []byte
	IndexSeed   []byte // 32 bytes or none
}

// encode returns version ‖ length ‖ CBOR ‖ zeros, padded by Padmé.
func (p *payload) encode() []byte {
	body := codec.Encode(p)
	defer clear(body)
	out := make([]byte, padme(payloadHead+len(body)))
	out[0] = payloadVersion
	binary.BigEndian.PutUint32(out[1:], uint32(len(body)))
	copy(out[payloadHead:], body)
	return out
}

// parsePayload reads what encode writes. It returns envelope.ErrVersion for a
// later version, of which nothing else is known.
func parsePayload(b []byte) (*payload, error) {
	if len(b) < payloadHead || len(b) > maxPayload {
		return nil, fmt.Errorf("%d bytes: %w", len(b), errPayload)
	}
	if b[0] != payloadVersion {
		return nil, fmt.Errorf("payload of version %d: %w", b[0], envelope.ErrVersion)
	}
	n := int64(binary.BigEndian.Uint32(b[1:]))
	if n > int64(len(b)-payloadHead) || padme(payloadHead+int(n)) != len(b) {
		return nil, fmt.Errorf("padding: %w", errPayload)
	}
	for _, z := range b[payloadHead+n:] {
		if z != 0 {
			return nil, fmt.Errorf("padding: %w", errPayload)
		}
	}
	var p payload
	if err := codec.Decode(b[payloadHead:payloadHead+n], &p); err != nil {
		return nil, fmt.Errorf("%w: %w", errPayload, err)
	}
	if indexed := len(p.IndexHeader) > 0; indexed != (len(p.IndexSeed) > 0) || indexed && len(p.IndexSeed) != envelope.SeedSize {
		return nil, fmt.Errorf("index seed of %d bytes: %w", len(p.IndexSeed), errPayload)
	}
	return &p, nil
}

// padme rounds n up so that only about log log n bits of the length show, as
// envelopes are padded.
func padme(n int) int {
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}
