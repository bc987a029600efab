package quorum

import (
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"sync"

	"filippo.io/bigmod"
	"filippo.io/nistec"
)

// order is the order of P-256's group, in the form constant-time arithmetic
// wants. A Modulus is immutable and safe for concurrent use.
var order = sync.OnceValue(func() *bigmod.Modulus {
	m, err := bigmod.NewModulus(elliptic.P256().Params().N.Bytes())
	if err != nil {
		panic(err) // constant
	}
	return m
})

// wideSize is the length of bytes that reduce modulo the order with a bias
// below 2^-128.
const wideSize = 48

const deriveSalt = "chancery/quorum/v1"

// parseScalar reads 32 bytes from 1 to n-1.
func parseScalar(b []byte) (*bigmod.Nat, error) {
	if len(b) != ScalarSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrScalar, len(b), ScalarSize)
	}
	x, err := bigmod.NewNat().SetBytes(b, order())
	if err != nil || x.IsZero() == 1 {
		return nil, ErrScalar
	}
	return x, nil
}

// derive returns HKDF-SHA256(secret, salt, info) modulo the order: bytes from
// which the secret can't be found, and the same ones at each call
// (spec/quorum.md#derivation). It errs at zero, which never comes up.
func derive(secret []byte, info []byte) (*bigmod.Nat, error) {
	wide, err := hkdf.Key(sha256.New, secret, []byte(deriveSalt), string(info), wideSize)
	if err != nil {
		return nil, fmt.Errorf("couldn't derive a scalar: %w", err)
	}
	defer clear(wide)
	x, err := reduce(wide)
	if err != nil {
		return nil, err
	}
	if x.IsZero() == 1 {
		return nil, ErrScalar
	}
	return x, nil
}

// reduce returns 48 big-endian bytes modulo the order, in constant time:
// high·2^192 + low, each half being below the order already.
func reduce(wide []byte) (*bigmod.Nat, error) {
	n := order()
	x, err := bigmod.NewNat().SetBytes(wide[:wideSize/2], n)
	if err != nil {
		return nil, fmt.Errorf("couldn't reduce: %w", err)
	}
	low, err := bigmod.NewNat().SetBytes(wide[wideSize/2:], n)
	if err != nil {
		return nil, fmt.Errorf("couldn't reduce: %w", err)
	}
	defer wipe(low)
	shift := make([]byte, wideSize/2+1)
	shift[0] = 1
	power, err := bigmod.NewNat().SetBytes(shift, n)
	if err != nil {
		return nil, fmt.Errorf("couldn't reduce: %w", err)
	}
	return x.Mul(power, n).Add(low, n), nil
}

// evaluate returns Σ c_k·x^k for secret coefficients and a public x.
func evaluate(coefficients []*bigmod.Nat, x int) *bigmod.Nat {
	n := order()
	at := bigmod.NewNat().SetUint(uint(x)).ExpandFor(n)
	y := bigmod.NewNat().ExpandFor(n)
	for k := len(coefficients) - 1; k >= 0; k-- {
		y.Mul(at, n).Add(coefficients[k], n)
	}
	return y
}

// response returns k + c·x, the last move of a Schnorr proof.
func response(k, c, x *bigmod.Nat) []byte {
	n := order()
	z := bigmod.NewNat().ExpandFor(n)
	z.Add(c, n).Mul(x, n).Add(k, n)
	return z.Bytes(n)
}

// wipe overwrites a secret in memory.
func wipe(xs ...*bigmod.Nat) {
	for _, x := range xs {
		clear(x.Bits())
	}
}

// ScalarBaseMult returns k·G for a scalar of 32 bytes, in constant time. It
// returns ErrScalar unless k is from 1 to n-1.
func ScalarBaseMult(k []byte) (Point, error) {
	x, err := parseScalar(k)
	if err != nil {
		return Point{}, err
	}
	wipe(x)
	return scalarMult(Generator(), k)
}

// scalarMult returns k·p in constant time, for a scalar that was checked. The
// base point, which is no secret, has a table of its own.
func scalarMult(p Point, k []byte) (Point, error) {
	q, err := multiply(p, k)
	if err != nil {
		return Point{}, err
	}
	return encode(q)
}

func multiply(p Point, k []byte) (*nistec.P256Point, error) {
	q, err := p.point()
	if err != nil {
		return nil, err
	}
	if p == Generator() {
		q, err = q.ScalarBaseMult(k) // five times faster
	} else {
		q, err = q.ScalarMult(q, k)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't multiply: %w", err)
	}
	return q, nil
}
