package quorum

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"chancery/codec"

	"filippo.io/nistec"
	"pgregory.net/rapid"
)

// The tests hold the arithmetic against math/big, which shares no code with
// bigmod, and compute what no function of the package does: the private key.

func groupOrder() *big.Int { return elliptic.P256().Params().N }

// number returns a fixed number from 1 to n-1 for a name.
func number(name string) *big.Int {
	h := codec.Sum("quorum/test", []byte(name))
	x := new(big.Int).Mod(new(big.Int).SetBytes(h[:]), new(big.Int).Sub(groupOrder(), big.NewInt(1)))
	return x.Add(x, big.NewInt(1))
}

func scalarBytes(x *big.Int) []byte {
	return new(big.Int).Mod(x, groupOrder()).FillBytes(make([]byte, ScalarSize))
}

func baseMult(t testing.TB, x *big.Int) Point {
	t.Helper()
	p, err := ScalarBaseMult(scalarBytes(x))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mult(t testing.TB, p Point, x *big.Int) Point {
	t.Helper()
	q, err := scalarMult(p, scalarBytes(x))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// fixture is a shared key whose private half the test knows.
type fixture struct {
	secret *big.Int
	key    *PublicKey
	shares []*Share
}

func fatal(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// split shares number(name) by Shamir's scheme, in math/big.
func split(t rapid.TB, name string, threshold, n int) fixture {
	t.Helper()
	coefficients := make([]*big.Int, threshold)
	for k := range coefficients {
		coefficients[k] = number(fmt.Sprintf("%s %d of %d, %d", name, threshold, n, k))
	}
	f := fixture{secret: coefficients[0], key: &PublicKey{T: threshold}}
	var err error
	f.key.Key, err = ScalarBaseMult(scalarBytes(f.secret))
	fatal(t, err)
	for i := 1; i <= n; i++ {
		y := new(big.Int)
		for k := threshold - 1; k >= 0; k-- {
			y.Mul(y, big.NewInt(int64(i))).Add(y, coefficients[k])
		}
		s, err := NewShare(i, scalarBytes(y))
		fatal(t, err)
		f.shares = append(f.shares, s)
		f.key.Shares = append(f.key.Shares, s.Public())
	}
	return f
}

func (f fixture) answers(t rapid.TB, E Point) []Answer {
	t.Helper()
	var as []Answer
	for _, s := range f.shares {
		p, err := s.Partial(E)
		fatal(t, err)
		as = append(as, Answer{Holder: s.Index(), Point: p})
	}
	return as
}

// sizes draws a threshold and a number of keyholders that fit.
func sizes(t *rapid.T, most int) (threshold, n int) {
	n = rapid.IntRange(1, most).Draw(t, "n")
	return rapid.IntRange(1, (n+1)/2).Draw(t, "t"), n
}

func TestEveryQuorumOpens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threshold, n := sizes(t, 12)
		f := split(t, "opens", threshold, n)
		fatal(t, f.key.Validate())
		e := number(rapid.StringN(1, 8, 8).Draw(t, "e"))
		E, err := ScalarBaseMult(scalarBytes(e))
		fatal(t, err)
		want, err := ScalarBaseMult(scalarBytes(new(big.Int).Mul(e, f.secret)))
		fatal(t, err)
		quorum := rapid.Permutation(f.answers(t, E)).Draw(t, "order")[:threshold]
		got, err := Combine(f.key, quorum)
		fatal(t, err)
		if got != want {
			t.Fatalf("%d of %d combined to something else", threshold, n)
		}
	})
}

func TestLargestQuorum(t *testing.T) {
	f := split(t, "largest", 16, MaxHolders)
	if err := f.key.Validate(); err != nil {
		t.Fatal(err)
	}
	E := baseMult(t, number("e"))
	answers := f.answers(t, E)
	for _, quorum := range [][]Answer{answers[:16], answers[16:]} {
		got, err := Combine(f.key, quorum)
		if err != nil || got != mult(t, E, f.secret) {
			t.Fatalf("got %x, %v", got, err)
		}
	}
}

// t-1 shares are shares of every key: for any other secret there is a
// polynomial that passes through it and through all of them.
func TestFewerLearnNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threshold := rapid.IntRange(2, 5).Draw(t, "t")
		f := split(t, "fewer", threshold, 2*threshold-1)
		E, err := ScalarBaseMult(scalarBytes(number("e")))
		fatal(t, err)
		few := rapid.Permutation(f.answers(t, E)).Draw(t, "order")[:threshold-1]
		if _, err := Combine(f.key, few); !errors.Is(err, ErrAnswers) {
			t.Fatalf("%d of %d: got %v, want ErrAnswers", threshold-1, threshold, err)
		}
		lowered := *f.key
		lowered.T = threshold - 1
		if err := lowered.Validate(); !errors.Is(err, ErrKey) {
			t.Fatalf("lowered threshold: got %v, want ErrKey", err)
		}
		got, err := Combine(&lowered, few)
		fatal(t, err)
		if want, err := scalarMult(E, scalarBytes(f.secret)); err != nil || got == want {
			t.Fatalf("%d of %d opened", threshold-1, threshold)
		}
		// Any point at all completes them: choose the last answer to suit.
		other := number(rapid.String().Draw(t, "other secret"))
		xs, ys := []int64{0}, []*big.Int{other}
		for _, a := range few {
			xs = append(xs, int64(a.Holder))
			ys = append(ys, new(big.Int).SetBytes(f.shares[a.Holder-1].Bytes()))
		}
		missing := 1
		for slices.ContainsFunc(few, func(a Answer) bool { return a.Holder == missing }) {
			missing++
		}
		forged, err := NewShare(missing, scalarBytes(interpolate(xs, ys, int64(missing))))
		fatal(t, err)
		p, err := forged.Partial(E)
		fatal(t, err)
		got, err = Combine(f.key, append(slices.Clone(few), Answer{Holder: missing, Point: p}))
		fatal(t, err)
		if want, err := scalarMult(E, scalarBytes(other)); err != nil || got != want {
			t.Fatalf("%d shares ruled a secret out: %v", threshold-1, err)
		}
	})
}

// interpolate is Lagrange's formula modulo the order, the textbook way.
func interpolate(xs []int64, ys []*big.Int, at int64) *big.Int {
	n, total := groupOrder(), new(big.Int)
	for i := range xs {
		term := new(big.Int).Set(ys[i])
		for j := range xs {
			if i != j {
				term.Mul(term, big.NewInt(at-xs[j]))
				term.Mul(term, new(big.Int).ModInverse(new(big.Int).Mod(big.NewInt(xs[i]-xs[j]), n), n))
				term.Mod(term, n)
			}
		}
		total.Add(total, term)
	}
	return total.Mod(total, n)
}

func TestLagrangeAgainstTextbook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		indices := rapid.SliceOfNDistinct(rapid.IntRange(1, MaxHolders), 1, 16, rapid.ID[int]).Draw(t, "indices")
		at := rapid.IntRange(0, MaxHolders).Draw(t, "at")
		coefficients, d := lagrange(indices, at)
		n := groupOrder()
		inverse := new(big.Int).ModInverse(d, n)
		for k := range indices {
			xs, ys := make([]int64, len(indices)), make([]*big.Int, len(indices))
			for i := range indices {
				xs[i], ys[i] = int64(indices[i]), new(big.Int)
			}
			ys[k] = big.NewInt(1)
			got := new(big.Int).Mul(coefficients[k], inverse)
			if got.Mod(got, n).Cmp(interpolate(xs, ys, int64(at))) != 0 {
				t.Fatalf("coefficient of %d among %v at %d is wrong", indices[k], indices, at)
			}
		}
	})
}

func TestSumAgainstScalarMult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 5).Draw(t, "count")
		want := nistec.NewP256Point()
		var points []*nistec.P256Point
		var coefficients []*big.Int
		for i := range count {
			P, err := ScalarBaseMult(scalarBytes(number(fmt.Sprint("point ", rapid.IntRange(0, 2).Draw(t, "point")))))
			fatal(t, err)
			p, err := P.point()
			fatal(t, err)
			c := number(fmt.Sprint("coefficient ", i, rapid.Uint64().Draw(t, "coefficient")))
			c.Rsh(c, uint(rapid.IntRange(0, 256).Draw(t, "shift")))
			if rapid.Bool().Draw(t, "negative") {
				c.Neg(c)
			}
			q, err := nistec.NewP256Point().ScalarMult(p, scalarBytes(c))
			fatal(t, err)
			want.Add(want, q)
			points, coefficients = append(points, p), append(coefficients, c)
		}
		if sum(points, coefficients).Equal(want) != 1 {
			t.Fatal("sum differs from separate multiplications")
		}
	})
}

func TestReduceAgainstBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wide := rapid.SliceOfN(rapid.Byte(), wideSize, wideSize).Draw(t, "wide")
		got, err := reduce(wide)
		fatal(t, err)
		if !bytes.Equal(got.Bytes(order()), scalarBytes(new(big.Int).SetBytes(wide))) {
			t.Fatal("wrong residue")
		}
	})
	got, err := reduce(bytes.Repeat([]byte{0xff}, wideSize))
	if err != nil || !bytes.Equal(got.Bytes(order()), scalarBytes(new(big.Int).SetBytes(bytes.Repeat([]byte{0xff}, wideSize)))) {
		t.Fatalf("all ones: %v", err)
	}
}

func TestCombineRefuses(t *testing.T) {
	f := split(t, "refuses", 3, 5)
	as := f.answers(t, baseMult(t, number("e")))
	bad := Answer{Holder: 3}
	for name, c := range map[string]struct {
		answers []Answer
		want    error
	}{
		"none":          {nil, ErrAnswers},
		"too few":       {as[:2], ErrAnswers},
		"too many":      {as[:4], ErrAnswers},
		"one twice":     {[]Answer{as[0], as[1], as[0]}, ErrAnswers},
		"holder 0":      {[]Answer{as[0], as[1], {Holder: 0, Point: as[2].Point}}, ErrAnswers},
		"holder -1":     {[]Answer{as[0], as[1], {Holder: -1, Point: as[2].Point}}, ErrAnswers},
		"holder 6":      {[]Answer{as[0], as[1], {Holder: 6, Point: as[2].Point}}, ErrAnswers},
		"no point":      {[]Answer{as[0], as[1], bad}, ErrPoint},
		"sum vanishing": {vanishing(t, as), ErrPoint},
	} {
		if _, err := Combine(f.key, c.answers); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// vanishing returns answers that combine to infinity: 3P_1 - 3P_2 + P_3 = 0.
func vanishing(t *testing.T, as []Answer) []Answer {
	a := slices.Clone(as[:3])
	a[0].Point, a[1].Point, a[2].Point = Generator(), baseMult(t, big.NewInt(2)), baseMult(t, big.NewInt(3))
	return a
}

func TestSubsets(t *testing.T) {
	as := []Answer{{Holder: 4}, {Holder: 1}, {Holder: 3}, {Holder: 9}}
	var got []string
	for s := range Subsets(as, 2) {
		got = append(got, fmt.Sprint(s[0].Holder, s[1].Holder))
	}
	if want := []string{"4 1", "4 3", "4 9", "1 3", "1 9", "3 9"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	many := make([]Answer, MaxHolders+1)
	for i := range many {
		many[i].Holder = i
	}
	for name, seq := range map[string]struct {
		as []Answer
		t  int
	}{"t 0": {as, 0}, "t 5": {as, 5}, "negative": {as, -1}, "twice": {append(as, as[0]), 2}, "many": {many, 1}, "none": {nil, 0}} {
		for range Subsets(seq.as, seq.t) {
			t.Errorf("%s: yielded", name)
			break
		}
	}
	count := 0
	for range Subsets(many[:MaxHolders], 16) { // stops when told to
		if count++; count == 1000 {
			break
		}
	}
	if count != 1000 {
		t.Errorf("%d subsets", count)
	}
}
