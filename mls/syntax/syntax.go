// Package syntax reads and writes the TLS presentation language as RFC 9420
// §2.1 uses it: big-endian integers, optional values, and vectors whose
// length in bytes precedes them as a variable-size integer.
//
// There is one encoding for each value: a Reader refuses a length that isn't
// in its shortest form (§2.1.2). It reads nothing beyond its input and its
// work is bounded by the input's length. It promises nothing about meaning;
// the types live in the packages that use this one.
package syntax

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxLength is the greatest length in bytes of a vector (RFC 9420 §2.1.2).
const MaxLength = 1<<30 - 1

// ErrSyntax means that bytes aren't the one encoding of a value of the
// expected form.
var ErrSyntax = errors.New("malformed MLS encoding")

// Encoder is a value that writes its one encoding.
type Encoder interface {
	Encode(b *Builder)
}

// Decoder is a value that reads itself. It reports faults with Reader.Fail;
// after a fault its content has no meaning.
type Decoder interface {
	Decode(r *Reader)
}

// Marshal returns the encoding of v.
func Marshal(v Encoder) []byte {
	b := NewBuilder(128) // what most values take, or half of it
	v.Encode(b)
	return b.Bytes()
}

// Unmarshal reads the whole of data into v. Byte slices in v alias data. It
// returns ErrSyntax, or what v passed to Reader.Fail, wrapped or as it is.
func Unmarshal(data []byte, v Decoder) error {
	r := NewReader(data)
	v.Decode(r)
	return r.Finish()
}

// Reader reads values from the front of its input. The first fault stays: all
// later reads return zero values, and Err and Finish report it. A Reader is
// for one goroutine.
type Reader struct {
	data []byte
	err  error
}

// NewReader returns a Reader of data. What it reads aliases data, which mustn't
// change as long as the values are used.
func NewReader(data []byte) *Reader { return &Reader{data: data} }

// Err returns the first fault, or nil.
func (r *Reader) Err() error { return r.err }

// Fail records err as the fault, unless there was one before. The rest of the
// input is dropped.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.data = nil
}

// Failf records a fault that wraps ErrSyntax.
func (r *Reader) Failf(format string, args ...any) {
	r.Fail(fmt.Errorf("%w: %s", ErrSyntax, fmt.Sprintf(format, args...)))
}

// Finish returns the first fault; bytes left over are one.
func (r *Reader) Finish() error {
	if r.err == nil && len(r.data) > 0 {
		r.Failf("%d bytes left over", len(r.data))
	}
	return r.err
}

// Empty reports whether nothing is left to read, which is so after a fault.
func (r *Reader) Empty() bool { return len(r.data) == 0 }

// Rest returns what hasn't been read, without reading it.
func (r *Reader) Rest() []byte { return r.data[:len(r.data):len(r.data)] }

// Fixed reads n bytes, or returns nil.
func (r *Reader) Fixed(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.Failf("%d bytes wanted, %d left", n, len(r.data))
		return nil
	}
	out := r.data[:n:n]
	r.data = r.data[n:]
	return out
}

// Uint8 reads one byte.
func (r *Reader) Uint8() uint8 {
	if b := r.Fixed(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 reads two bytes.
func (r *Reader) Uint16() uint16 {
	if b := r.Fixed(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads four bytes.
func (r *Reader) Uint32() uint32 {
	if b := r.Fixed(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads eight bytes.
func (r *Reader) Uint64() uint64 {
	if b := r.Fixed(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Present reads the octet before an optional value, 0 or 1 (RFC 9420 §2.1.1).
func (r *Reader) Present() bool {
	switch v := r.Uint8(); v {
	case 0:
		return false
	case 1:
		return r.err == nil
	default:
		r.Failf("presence octet %d", v)
		return false
	}
}

// Length reads the length of a vector: 1, 2 or 4 bytes, the shortest that
// holds the value, at most MaxLength (RFC 9420 §2.1.2).
func (r *Reader) Length() int {
	first := r.Uint8()
	n := int(first & 0x3f)
	var shortest int
	switch first >> 6 {
	case 0:
		return n
	case 1:
		n = n<<8 | int(r.Uint8())
		shortest = 1 << 6
	case 2:
		hi, lo := r.Uint8(), r.Uint16()
		n = n<<24 | int(hi)<<16 | int(lo)
		shortest = 1 << 14
	default:
		r.Failf("length prefix 3")
		return 0
	}
	if r.err != nil {
		return 0
	}
	if n < shortest {
		r.Failf("length %d isn't in its shortest form", n)
		return 0
	}
	return n
}

// Opaque reads opaque<V>. It returns nil where the vector is empty or after a
// fault.
func (r *Reader) Opaque() []byte {
	n := r.Length()
	if r.err != nil || n == 0 {
		return nil
	}
	return r.Fixed(n)
}

// Each reads a vector of values, calling read for one value after the other
// until the vector is used up. A call that reads nothing is a fault.
func (r *Reader) Each(read func(r *Reader)) {
	body := r.Opaque()
	rest := r.data
	for r.data = body; len(r.data) > 0; {
		before := len(r.data)
		read(r)
		if r.err == nil && len(r.data) == before {
			r.Failf("a value of no bytes in a vector")
		}
	}
	if r.err == nil {
		r.data = rest
	}
}

// Builder writes values one after the other. The zero value is ready to use. A
// Builder is for one goroutine.
type Builder struct {
	buf []byte
}

// NewBuilder returns a Builder with room for size bytes.
func NewBuilder(size int) *Builder { return &Builder{buf: make([]byte, 0, size)} }

// Bytes returns what was written. It aliases the Builder until the next write.
func (b *Builder) Bytes() []byte { return b.buf }

// Len returns the number of bytes written.
func (b *Builder) Len() int { return len(b.buf) }

// Fixed writes v without a length.
func (b *Builder) Fixed(v []byte) { b.buf = append(b.buf, v...) }

// Uint8 writes one byte.
func (b *Builder) Uint8(v uint8) { b.buf = append(b.buf, v) }

// Uint16 writes two bytes.
func (b *Builder) Uint16(v uint16) { b.buf = binary.BigEndian.AppendUint16(b.buf, v) }

// Uint32 writes four bytes.
func (b *Builder) Uint32(v uint32) { b.buf = binary.BigEndian.AppendUint32(b.buf, v) }

// Uint64 writes eight bytes.
func (b *Builder) Uint64(v uint64) { b.buf = binary.BigEndian.AppendUint64(b.buf, v) }

// Present writes the octet before an optional value.
func (b *Builder) Present(present bool) {
	if present {
		b.Uint8(1)
	} else {
		b.Uint8(0)
	}
}

// Length writes n as the length of a vector, in its shortest form. It panics
// where n is negative or above MaxLength: callers bound what they build, and
// what a Reader accepted is within it.
func (b *Builder) Length(n int) { b.buf = appendLength(b.buf, n) }

// Opaque writes v as opaque<V>, with Length's bounds.
func (b *Builder) Opaque(v []byte) {
	b.Length(len(v))
	b.Fixed(v)
}

// Vector writes what write writes, preceded by its length, with Length's
// bounds.
func (b *Builder) Vector(write func(b *Builder)) {
	start := len(b.buf)
	b.Uint8(0) // the length of most vectors is one byte
	write(b)
	n := len(b.buf) - start - 1
	var head [4]byte
	h := appendLength(head[:0], n)
	if len(h) > 1 {
		b.Fixed(h[1:]) // makes room; the bytes themselves are overwritten
		copy(b.buf[start+len(h):], b.buf[start+1:start+1+n])
	}
	copy(b.buf[start:], h)
}

func appendLength(buf []byte, n int) []byte {
	switch {
	case n < 0 || n > MaxLength:
		panic(fmt.Sprintf("syntax: a vector of %d bytes has no encoding", n))
	case n < 1<<6:
		return append(buf, byte(n))
	case n < 1<<14:
		return binary.BigEndian.AppendUint16(buf, 1<<14|uint16(n))
	default:
		return binary.BigEndian.AppendUint32(buf, 2<<30|uint32(n))
	}
}
