package envelope

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"chancery/codec"
)

const (
	// MaxFields is the largest number of fields of a record: their count and
	// index take one byte each in the commitment.
	MaxFields = 255

	maxDepth = 16

	majorUint  = 0
	majorInt   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorOther = 7
)

// Fields splits a record into the CBOR encodings of its array's elements, which
// are what the commitment covers one by one. It takes any definite array of at
// most MaxFields elements in deterministic encoding (RFC 8949 §4.2.1), of any
// version, without tags and floating-point numbers, which no record has. The
// empty byte string has no fields, and is the one record that has none. The
// results alias record.
//
// It returns codec.ErrEncoding, or codec.ErrSize for more than MaxRecordSize
// bytes or MaxFields fields. Memory is bounded by MaxFields, work by
// len(record).
func Fields(record []byte) ([][]byte, error) {
	if len(record) == 0 {
		return nil, nil
	}
	if len(record) > MaxRecordSize {
		return nil, fmt.Errorf("record of %d bytes: %w", len(record), codec.ErrSize)
	}
	major, n, rest, err := head(record)
	switch {
	case err != nil:
		return nil, err
	case major != majorArray:
		return nil, fmt.Errorf("record is no array: %w", codec.ErrEncoding)
	case n == 0:
		// A second record without fields would open the same commitment.
		return nil, fmt.Errorf("record of an empty array: %w", codec.ErrEncoding)
	case n > MaxFields:
		return nil, fmt.Errorf("record of %d fields: %w", n, codec.ErrSize)
	}
	fields := make([][]byte, n)
	for i := range fields {
		after, err := skip(rest, maxDepth)
		if err != nil {
			return nil, fmt.Errorf("couldn't read field %d: %w", i, err)
		}
		size := len(rest) - len(after)
		fields[i], rest = rest[:size:size], after
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the record: %w", len(rest), codec.ErrEncoding)
	}
	return fields, nil
}

// head reads the initial byte of a data item and its argument in shortest form
// (RFC 8949 §3).
func head(b []byte) (major byte, arg uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, fmt.Errorf("truncated: %w", codec.ErrEncoding)
	}
	major, low := b[0]>>5, b[0]&31
	b = b[1:]
	if low < 24 {
		return major, uint64(low), b, nil
	}
	if low > 27 {
		return 0, 0, nil, fmt.Errorf("indefinite or reserved length: %w", codec.ErrEncoding)
	}
	size := 1 << (low - 24)
	if len(b) < size {
		return 0, 0, nil, fmt.Errorf("truncated: %w", codec.ErrEncoding)
	}
	var wide [8]byte
	copy(wide[8-size:], b[:size])
	arg = binary.BigEndian.Uint64(wide[:])
	least := uint64(24) // the smallest argument that needs this size
	if size > 1 {
		least = 1 << (4 * size)
	}
	if arg < least {
		return 0, 0, nil, fmt.Errorf("argument not in shortest form: %w", codec.ErrEncoding)
	}
	return major, arg, b[size:], nil
}

// skip returns what follows the first data item of b.
func skip(b []byte, depth int) ([]byte, error) {
	if depth == 0 {
		return nil, fmt.Errorf("nested too deeply: %w", codec.ErrEncoding)
	}
	major, arg, rest, err := head(b)
	if err != nil {
		return nil, err
	}
	switch major {
	case majorUint, majorInt:
		return rest, nil
	case majorBytes, majorText:
		if arg > uint64(len(rest)) {
			return nil, fmt.Errorf("truncated: %w", codec.ErrEncoding)
		}
		if major == majorText && !utf8.Valid(rest[:arg]) {
			return nil, fmt.Errorf("text is not UTF-8: %w", codec.ErrEncoding)
		}
		return rest[arg:], nil
	case majorArray:
		for range arg { // each element takes a byte at least, so a lie ends soon
			if rest, err = skip(rest, depth-1); err != nil {
				return nil, err
			}
		}
		return rest, nil
	case majorMap:
		var last []byte
		for i := range arg {
			value, err := skip(rest, depth-1)
			if err != nil {
				return nil, err
			}
			key := rest[:len(rest)-len(value)]
			if i > 0 && bytes.Compare(last, key) >= 0 {
				return nil, fmt.Errorf("map keys out of order: %w", codec.ErrEncoding)
			}
			last = key
			if rest, err = skip(value, depth-1); err != nil {
				return nil, err
			}
		}
		return rest, nil
	case majorOther:
		if b[0] == 0xf4 || b[0] == 0xf5 || b[0] == 0xf6 { // false, true, null
			return rest, nil
		}
	}
	return nil, fmt.Errorf("tag, floating-point number or simple value: %w", codec.ErrEncoding)
}
