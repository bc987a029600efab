package syntax

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

func TestLengths(t *testing.T) {
	for _, c := range []struct {
		n    int
		head []byte
	}{
		{0, []byte{0}},
		{63, []byte{63}},
		{64, []byte{0x40, 64}},
		{1<<14 - 1, []byte{0x7f, 0xff}},
		{1 << 14, []byte{0x80, 0, 0x40, 0}},
		{MaxLength, []byte{0xbf, 0xff, 0xff, 0xff}},
	} {
		var b Builder
		b.Length(c.n)
		if !bytes.Equal(b.Bytes(), c.head) {
			t.Errorf("%d: wrote %x, want %x", c.n, b.Bytes(), c.head)
		}
		r := NewReader(c.head)
		if n := r.Length(); n != c.n || r.Finish() != nil {
			t.Errorf("%x: read %d, %v, want %d", c.head, n, r.Err(), c.n)
		}
	}
}

func TestLengthRefuses(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":               {},
		"two bytes, cut":      {0x40},
		"two bytes for 63":    {0x40, 63},
		"four bytes, cut":     {0x80, 0, 0x40},
		"four bytes for 2^14": {0x80, 0, 0x3f, 0xff},
		"prefix 3":            {0xc0, 0, 0, 0, 0, 0, 0x40, 0},
	} {
		r := NewReader(data)
		if n := r.Length(); n != 0 || !errors.Is(r.Err(), ErrSyntax) {
			t.Errorf("%s: got %d, %v", name, n, r.Err())
		}
	}
}

// TestVectorGrows writes vectors on both sides of each length's bounds.
func TestVectorGrows(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 100, 1<<14 - 1, 1 << 14, 1<<14 + 9} {
		body := bytes.Repeat([]byte{7, 8, 9}, n)[:n]
		var got, want Builder
		got.Uint8(1)
		got.Vector(func(b *Builder) { b.Fixed(body) })
		got.Uint8(2)
		want.Uint8(1)
		want.Opaque(body)
		want.Uint8(2)
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes: Vector and Opaque differ", n)
		}
	}
}

func TestEachStaysInItsVector(t *testing.T) {
	r := NewReader([]byte{3, 0, 1, 0, 9}) // a vector of a uint16 and half of one
	r.Each(func(r *Reader) { r.Uint16() })
	if !errors.Is(r.Finish(), ErrSyntax) {
		t.Fatal("read beyond the vector")
	}
	r = NewReader([]byte{2, 0, 1, 9})
	r.Each(func(r *Reader) { r.Uint16() })
	if v := r.Uint8(); v != 9 || r.Finish() != nil {
		t.Fatalf("got %d, %v after the vector", v, r.Err())
	}
	r = NewReader([]byte{2, 0, 1})
	r.Each(func(*Reader) {})
	if !errors.Is(r.Err(), ErrSyntax) {
		t.Fatal("values of no bytes go on for ever")
	}
}

func TestFaultStays(t *testing.T) {
	r := NewReader([]byte{2, 1, 2, 3, 4})
	if r.Present() || !errors.Is(r.Err(), ErrSyntax) {
		t.Fatal("presence octet 2 accepted")
	}
	if !r.Empty() || r.Uint64() != 0 || r.Opaque() != nil || r.Fixed(1) != nil {
		t.Fatal("read on after a fault")
	}
	r.Fail(errors.New("another"))
	if !errors.Is(r.Finish(), ErrSyntax) {
		t.Fatal("a later fault replaced the first")
	}
}

// sample has one of each form.
type sample struct {
	a    uint8
	b    uint16
	c    uint32
	d    uint64
	opt  *uint16
	body []byte
	list []uint16
}

func (s *sample) Encode(b *Builder) {
	b.Uint8(s.a)
	b.Uint16(s.b)
	b.Uint32(s.c)
	b.Uint64(s.d)
	b.Present(s.opt != nil)
	if s.opt != nil {
		b.Uint16(*s.opt)
	}
	b.Opaque(s.body)
	b.Vector(func(b *Builder) {
		for _, v := range s.list {
			b.Uint16(v)
		}
	})
}

func (s *sample) Decode(r *Reader) {
	s.a, s.b, s.c, s.d = r.Uint8(), r.Uint16(), r.Uint32(), r.Uint64()
	if r.Present() {
		v := r.Uint16()
		s.opt = &v
	}
	s.body = r.Opaque()
	r.Each(func(r *Reader) { s.list = append(s.list, r.Uint16()) })
}

func FuzzRoundTrip(f *testing.F) {
	one := uint16(1)
	f.Add(Marshal(&sample{}))
	f.Add(Marshal(&sample{a: 1, b: 2, c: 3, d: 4, opt: &one, body: make([]byte, 70), list: make([]uint16, 40)}))
	f.Add(binary.BigEndian.AppendUint64(nil, 1<<63))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		if err := Unmarshal(data, &s); err != nil {
			return
		}
		if again := Marshal(&s); !bytes.Equal(again, data) {
			t.Fatalf("read %x, wrote %x", data, again)
		}
	})
}
