package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errFraming means that bytes are not an MLS application message.
var errFraming = errors.New("not an MLS application message")

// framing is what an MLSMessage that carries a PrivateMessage says in clear
// (RFC 9420 §6, §6.3). The slices alias the message.
type framing struct {
	Group []byte
	Epoch uint64
	AD    []byte // authenticated_data
}

const (
	mls10              = 1 // ProtocolVersion
	wirePrivateMessage = 2 // WireFormat
	contentApplication = 1 // ContentType
)

// parseFraming reads the cleartext part of an application message. The rest is
// for those who have the group's keys; its lengths are checked to the end, so
// that nothing can hang on behind.
func parseFraming(b []byte) (*framing, error) {
	var f framing
	if len(b) < 4 || binary.BigEndian.Uint16(b) != mls10 || binary.BigEndian.Uint16(b[2:]) != wirePrivateMessage {
		return nil, fmt.Errorf("%w: want version 1, wire format private", errFraming)
	}
	var err error
	if f.Group, b, err = vector(b[4:]); err != nil {
		return nil, err
	}
	if len(b) < 9 || b[8] != contentApplication {
		return nil, fmt.Errorf("%w: want content type application", errFraming)
	}
	f.Epoch = binary.BigEndian.Uint64(b)
	if f.AD, b, err = vector(b[9:]); err != nil {
		return nil, err
	}
	if _, b, err = vector(b); err != nil { // encrypted_sender_data
		return nil, err
	}
	if _, b, err = vector(b); err != nil { // ciphertext
		return nil, err
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes behind it", errFraming, len(b))
	}
	return &f, nil
}

// vector reads a variable-size vector, whose length is in its shortest form
// (RFC 9420 §2.1.2).
func vector(b []byte) (v, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, fmt.Errorf("%w: truncated", errFraming)
	}
	size := 1 << (b[0] >> 6)
	if size > 4 || len(b) < size {
		return nil, nil, fmt.Errorf("%w: length", errFraming)
	}
	n := uint32(b[0] & 0x3f)
	for _, c := range b[1:size] {
		n = n<<8 | uint32(c)
	}
	if (size == 2 && n < 1<<6) || (size == 4 && n < 1<<14) {
		return nil, nil, fmt.Errorf("%w: length not in shortest form", errFraming)
	}
	b = b[size:]
	if uint64(n) > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: truncated", errFraming)
	}
	return b[:n:n], b[n:], nil
}
