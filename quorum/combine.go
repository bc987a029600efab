package quorum

import (
	"crypto/elliptic"
	"fmt"
	"iter"
	"math/big"
	"math/bits"
	"slices"

	"filippo.io/nistec"
)

// Answer is what one keyholder, from 1, answered for an encapsulation E: its
// share times E. In CBOR it is the array [holder, point]. The point is as
// secret as the message it helps to open.
type Answer struct {
	_      struct{} `cbor:",toarray"`
	Holder int
	Point  Point
}

// Combine returns what the shared private key would have made of the point
// that all answers are for: Σ λ_i·P_i with Lagrange's coefficients at 0
// (spec/quorum.md#combination). It can't tell a wrong answer from a right one:
// where the result doesn't open the envelope, try other Subsets, then Blame.
//
// It returns ErrAnswers unless there are exactly t answers of different
// keyholders of pk, and ErrPoint where an answer is no point.
func Combine(pk *PublicKey, answers []Answer) (Point, error) {
	if len(answers) != pk.T || !distinct(answers) {
		return Point{}, ErrAnswers
	}
	indices := make([]int, len(answers))
	points := make([]*nistec.P256Point, len(answers))
	for i, a := range answers {
		if _, err := pk.holder(a.Holder); err != nil {
			return Point{}, err
		}
		p, err := a.Point.point()
		if err != nil {
			return Point{}, fmt.Errorf("answer of keyholder %d: %w", a.Holder, err)
		}
		indices[i], points[i] = a.Holder, p
	}
	coefficients, denominator := lagrange(indices, 0)
	q := sum(points, coefficients)
	if !denominator.IsInt64() || denominator.Int64() != 1 {
		inverse := new(big.Int).ModInverse(denominator, elliptic.P256().Params().N)
		var err error
		if q, err = q.ScalarMult(q, inverse.FillBytes(make([]byte, ScalarSize))); err != nil {
			return Point{}, fmt.Errorf("couldn't combine: %w", err)
		}
	}
	return encode(q)
}

// Subsets yields every choice of t of the answers, each in a slice of its own
// and in the given order, ordered lexicographically by position: the first t
// come first. It yields nothing where t is not from 1 to len(answers), where
// there are more than MaxHolders answers, or where a keyholder answered twice.
//
// There are n!/(t!·(n-t)!) of them, 10 for 3 of 5 and 6·10⁸ for 16 of 32: a
// caller with large numbers stops in time and asks for proofs instead.
func Subsets(answers []Answer, t int) iter.Seq[[]Answer] {
	return func(yield func([]Answer) bool) {
		n := len(answers)
		if t < 1 || t > n || n > MaxHolders || !distinct(answers) {
			return
		}
		at := make([]int, t)
		for i := range at {
			at[i] = i
		}
		for {
			subset := make([]Answer, t)
			for i, j := range at {
				subset[i] = answers[j]
			}
			if !yield(subset) {
				return
			}
			i := t - 1
			for i >= 0 && at[i] == n-t+i {
				i--
			}
			if i < 0 {
				return
			}
			at[i]++
			for j := i + 1; j < t; j++ {
				at[j] = at[j-1] + 1
			}
		}
	}
}

func distinct(answers []Answer) bool {
	seen := make(map[int]bool, len(answers))
	for _, a := range answers {
		if seen[a.Holder] {
			return false
		}
		seen[a.Holder] = true
	}
	return true
}

// lagrange returns integers c_i and d > 0 with f(at) = Σ (c_i/d)·f(i) for each
// polynomial f of degree below len(indices). Fractions of small whole numbers
// stay small, where their residues modulo the order have 256 bits: that is
// what makes combining cheap. Indices are public, so math/big will do.
func lagrange(indices []int, at int) (coefficients []*big.Int, d *big.Int) {
	fractions := make([]*big.Rat, len(indices))
	d = big.NewInt(1)
	for k, i := range indices {
		num, den := big.NewInt(1), big.NewInt(1)
		for _, j := range indices {
			if j != i {
				num.Mul(num, big.NewInt(int64(at-j)))
				den.Mul(den, big.NewInt(int64(i-j)))
			}
		}
		fractions[k] = new(big.Rat).SetFrac(num, den)
		den = fractions[k].Denom()
		gcd := new(big.Int).GCD(nil, nil, d, den)
		d.Mul(d, den).Quo(d, gcd)
	}
	for _, f := range fractions {
		c := new(big.Int).Quo(d, f.Denom())
		coefficients = append(coefficients, c.Mul(c, f.Num()))
	}
	return coefficients, d
}

// interpolates reports whether the polynomial of degree below len(points) that
// takes points at 1, 2, … takes want at the given place.
func interpolates(points []*nistec.P256Point, at int, want *nistec.P256Point) bool {
	indices := make([]int, len(points))
	for i := range indices {
		indices[i] = i + 1
	}
	coefficients, d := lagrange(indices, at)
	left := sum(points, coefficients)
	return left.Equal(sum([]*nistec.P256Point{want}, []*big.Int{d})) == 1
}

// sum returns Σ c_i·P_i in one pass of shared doublings. Its time depends on
// the coefficients, which are public and have few bits, and not on the points.
func sum(points []*nistec.P256Point, coefficients []*big.Int) *nistec.P256Point {
	signed := make([]*nistec.P256Point, len(points))
	magnitudes := make([]*big.Int, len(points))
	longest := 0
	for i, c := range coefficients {
		signed[i], magnitudes[i] = points[i], new(big.Int).Abs(c)
		if c.Sign() < 0 {
			signed[i] = nistec.NewP256Point().Negate(points[i])
		}
		longest = max(longest, c.BitLen())
	}
	acc := nistec.NewP256Point()
	for bit := longest - 1; bit >= 0; bit-- {
		acc.Double(acc)
		for i, m := range magnitudes {
			if m.Bit(bit) == 1 {
				acc.Add(acc, signed[i])
			}
		}
	}
	return acc
}

// evaluateAt returns Σ x^k·C_k, a committed polynomial in the exponent at a public x
// of at most MaxHolders.
func evaluateAt(commitments []*nistec.P256Point, x int) *nistec.P256Point {
	acc := nistec.NewP256Point()
	for _, c := range slices.Backward(commitments) {
		product := nistec.NewP256Point()
		for bit := bits.Len(uint(x)) - 1; bit >= 0; bit-- {
			product.Double(product)
			if x>>bit&1 == 1 {
				product.Add(product, acc)
			}
		}
		acc = product.Add(product, c)
	}
	return acc
}
