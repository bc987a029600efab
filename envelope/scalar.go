package envelope

import (
	"bytes"
	"encoding/hex"
	"sync"

	"filippo.io/bigmod"
)

// wideSize is the length in bytes of what scalars are reduced from: 128 bits
// more than the order, so that the bias is below 2^-128.
const wideSize = 48

// field is the arithmetic modulo P-256's order n. Its moduli are immutable and
// safe for concurrent use.
type field struct {
	n, less *bigmod.Modulus // n, n-1
	wide    *bigmod.Modulus // above every wideSize-byte number, only to hold one
}

var scalars = sync.OnceValue(func() field {
	n, err := hex.DecodeString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") // SP 800-186 §3.2.1.3
	if err != nil {
		panic(err) // a constant
	}
	less := bytes.Clone(n)
	less[31]--
	return field{mod(n), mod(less), mod(bytes.Repeat([]byte{0xff}, wideSize+1))}
})

func mod(b []byte) *bigmod.Modulus {
	m, err := bigmod.NewModulus(b)
	if err != nil {
		panic(err) // a constant
	}
	return m
}

// reduce returns the big-endian number b, at most wideSize bytes, modulo m.
func (f *field) reduce(b []byte, m *bigmod.Modulus) *bigmod.Nat {
	var buf [wideSize + 1]byte
	copy(buf[len(buf)-len(b):], b)
	defer clear(buf[:])
	v, err := bigmod.NewNat().SetBytes(buf[:], f.wide)
	if err != nil {
		panic(err) // below wide by its size
	}
	return bigmod.NewNat().Mod(v, m)
}

// scalar returns wide mod n.
func scalar(wide []byte) *bigmod.Nat {
	f := scalars()
	return f.reduce(wide, f.n)
}

// nonZeroScalar returns 1 + (wide mod (n-1)), 32 bytes, uniform in [1, n-1].
func nonZeroScalar(wide []byte) []byte {
	f := scalars()
	v := f.reduce(wide, f.less).ExpandFor(f.n)
	one := bigmod.NewNat().SetUint(1).ExpandFor(f.n)
	return v.Add(one, f.n).Bytes(f.n)
}

// parseScalar returns a scalar of 32 bytes, or false where it is not below n.
func parseScalar(b []byte) (*bigmod.Nat, bool) {
	f := scalars()
	v, err := bigmod.NewNat().SetBytes(b, f.n)
	return v, err == nil
}
