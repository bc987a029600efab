package quorum

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
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

// What the opener does with liars among the answers: try subsets until one
// gives the right secret, then name every wrong one, with a proof.
func TestLiarsAreNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threshold, n := sizes(t, 7)
		f := split(t, "liars", threshold, n)
		e := number("e" + rapid.StringN(1, 8, 8).Draw(t, "e"))
		E, err := ScalarBaseMult(scalarBytes(e))
		fatal(t, err)
		answers := f.answers(t, E)
		var liars []int
		for i := range answers {
			if len(liars) < n-threshold && rapid.Bool().Draw(t, "lies") {
				liars = append(liars, i+1)
				answers[i].Point = lie(t, E, i)
			}
		}
		right, err := scalarMult(f.key.Key, scalarBytes(e))
		fatal(t, err)
		opened := false
		for subset := range Subsets(answers, threshold) {
			got, err := Combine(f.key, subset)
			if opened = err == nil && got == right; opened {
				break
			}
		}
		if !opened {
			t.Fatal("no subset opened")
		}
		context := []byte("request 7")
		faults, err := Blame(f.key, E, scalarBytes(e), answers, context)
		fatal(t, err)
		var named []int
		for _, f1 := range faults {
			named = append(named, f1.Holder)
			fatal(t, f1.Verify(f.key, E, context))
			var again Fault
			fatal(t, codec.Decode(codec.Encode(f1), &again))
			if again != f1 {
				t.Fatal("fault changed on the way")
			}
		}
		if !slices.Equal(named, liars) {
			t.Fatalf("named %v, want %v", named, liars)
		}
	})
}

// lie returns a wrong answer: another point, the negated one, or none at all.
func lie(t rapid.TB, E Point, kind int) Point {
	switch kind % 3 {
	case 0:
		return E
	case 1:
		var junk Point
		junk[0], junk[64] = 4, byte(kind)
		return junk
	default:
		p, err := ScalarBaseMult(scalarBytes(number(fmt.Sprint("lie ", kind))))
		fatal(t, err)
		return p
	}
}

func TestHonestKeyholderIsNeverConvicted(t *testing.T) {
	f := split(t, "honest", 3, 5)
	e := number("e")
	E := baseMult(t, e)
	answers := f.answers(t, E)
	faults, err := Blame(f.key, E, scalarBytes(e), answers, nil)
	if err != nil || len(faults) != 0 {
		t.Fatalf("got %v, %v", faults, err)
	}
	// A conviction can't be made with the right answer, a right answer of
	// somebody else, another context or another encapsulation.
	answers[1].Point = E
	faults, err = Blame(f.key, E, scalarBytes(e), answers, []byte("c"))
	if err != nil || len(faults) != 1 {
		t.Fatalf("got %v, %v", faults, err)
	}
	fault := faults[0]
	change := func(edit func(*Fault)) Fault { g := fault; edit(&g); return g }
	for name, g := range map[string]Fault{
		"answered right": change(func(g *Fault) { g.Answered = g.Right }),
		"swapped":        change(func(g *Fault) { g.Answered, g.Right = g.Right, g.Answered }),
		"other holder":   change(func(g *Fault) { g.Holder = 3 }),
		"no holder":      change(func(g *Fault) { g.Holder = 0 }),
		"sixth holder":   change(func(g *Fault) { g.Holder = 6 }),
		"another right":  change(func(g *Fault) { g.Right = answers[2].Point }),
		"right no point": change(func(g *Fault) { g.Right = Point{} }),
		"no proof":       change(func(g *Fault) { g.Proof = DLEQ{} }),
	} {
		if g.Verify(f.key, E, []byte("c")) == nil {
			t.Errorf("%s: convicted", name)
		}
	}
	if fault.Verify(f.key, E, []byte("d")) == nil {
		t.Error("convicted in another context")
	}
	if fault.Verify(f.key, baseMult(t, number("f")), []byte("c")) == nil {
		t.Error("convicted for another encapsulation")
	}
	if _, err := Blame(f.key, E, scalarBytes(number("f")), answers, nil); !errors.Is(err, ErrWitness) {
		t.Errorf("wrong witness: got %v", err)
	}
	if _, err := Blame(f.key, E, scalarBytes(e), append(answers, answers[0]), nil); !errors.Is(err, ErrAnswers) {
		t.Errorf("two answers of one keyholder: got %v", err)
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

func TestPublicKeyRefuses(t *testing.T) {
	f := split(t, "key", 3, 5)
	change := func(edit func(*PublicKey)) *PublicKey {
		k := *f.key
		k.Shares = slices.Clone(k.Shares)
		edit(&k)
		return &k
	}
	other := baseMult(t, number("other"))
	flat := split(t, "flat", 2, 5)
	flat.key.T = 3
	for name, c := range map[string]struct {
		key  *PublicKey
		want error
	}{
		"empty":            {&PublicKey{}, ErrThreshold},
		"t 0":              {change(func(k *PublicKey) { k.T = 0 }), ErrThreshold},
		"n below 2t-1":     {change(func(k *PublicKey) { k.T = 4 }), ErrThreshold},
		"n too large":      {change(func(k *PublicKey) { k.Shares = make([]Point, MaxHolders+1) }), ErrThreshold},
		"t negative":       {change(func(k *PublicKey) { k.T = -3 }), ErrThreshold},
		"other key":        {change(func(k *PublicKey) { k.Key = other }), ErrKey},
		"key no point":     {change(func(k *PublicKey) { k.Key = Point{} }), ErrPoint},
		"first share":      {change(func(k *PublicKey) { k.Shares[0] = other }), ErrKey},
		"last share":       {change(func(k *PublicKey) { k.Shares[4] = other }), ErrKey},
		"share no point":   {change(func(k *PublicKey) { k.Shares[2] = Point{4} }), ErrPoint},
		"swapped":          {change(func(k *PublicKey) { k.Shares[3], k.Shares[4] = k.Shares[4], k.Shares[3] }), ErrKey},
		"threshold raised": {flat.key, ErrKey},
		"threshold cut":    {change(func(k *PublicKey) { k.T = 2 }), ErrKey},
	} {
		if err := c.key.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if err := split(t, "one", 1, 3).key.Validate(); err != nil {
		t.Errorf("1 of 3: %v", err)
	}
}

func badPoints(t testing.TB) map[string][]byte {
	g := Generator()
	off := g
	off[64] ^= 1
	p := elliptic.P256().Params().P
	large := g // x + p has no 32-byte form for G; y = p is out of range
	p.FillBytes(large[33:])
	twist := Point{4}
	twist[32] = 1 // x = 1, y = 0
	hybrid := g
	hybrid[0] = 6 + g[64]&1
	return map[string][]byte{
		"empty":      {},
		"infinity":   {0},
		"long zero":  make([]byte, PointSize),
		"off curve":  off[:],
		"y = p":      large[:],
		"twist":      twist[:],
		"hybrid":     hybrid[:],
		"compressed": nistec.NewP256Point().SetGenerator().BytesCompressed(),
		"short":      g[:64],
		"long":       append(g[:], 0),
	}
}

func TestPointsRefused(t *testing.T) {
	f := split(t, "points", 1, 1)
	for name, b := range badPoints(t) {
		if _, err := ParsePoint(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: got %v, want ErrPoint", name, err)
		}
		if len(b) != PointSize {
			continue
		}
		bad := Point(b)
		if _, err := f.shares[0].Partial(bad); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: partial of it: %v", name, err)
		}
		if _, err := f.shares[0].Prove(bad, Generator(), nil); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: proof about it: %v", name, err)
		}
		if _, err := NewKey(f.key, bad, []Answer{{Holder: 1, Point: Generator()}}); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: key for it: %v", name, err)
		}
	}
}

func TestScalarsRefused(t *testing.T) {
	n := groupOrder()
	for name, b := range map[string][]byte{
		"empty": {},
		"short": make([]byte, 31),
		"long":  append(scalarBytes(big.NewInt(1)), 0),
		"zero":  make([]byte, 32),
		"n":     n.FillBytes(make([]byte, 32)),
		"n + 1": new(big.Int).Add(n, big.NewInt(1)).FillBytes(make([]byte, 32)),
		"ones":  bytes.Repeat([]byte{0xff}, 32),
	} {
		if _, err := ScalarBaseMult(b); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: got %v, want ErrScalar", name, err)
		}
		if _, err := NewShare(1, b); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: got %v, want ErrScalar", name, err)
		}
	}
	for _, i := range []int{-1, 0, MaxHolders + 1} {
		if _, err := NewShare(i, scalarBytes(big.NewInt(1))); err == nil {
			t.Errorf("share %d accepted", i)
		}
	}
	last := new(big.Int).Sub(n, big.NewInt(1))
	if _, err := NewShare(MaxHolders, scalarBytes(last)); err != nil {
		t.Error(err)
	}
}

func TestDLEQAttacks(t *testing.T) {
	x := number("x")
	G, E := Generator(), baseMult(t, number("e"))
	Y, P := mult(t, G, x), mult(t, E, x)
	s, err := NewShare(4, scalarBytes(x))
	if err != nil {
		t.Fatal(err)
	}
	context := []byte("request 7, use 2")
	proof, err := s.Prove(E, P, context)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyDLEQ(G, Y, E, P, context, proof); err != nil {
		t.Fatal(err)
	}
	other := baseMult(t, number("other"))
	// A proof about a wrong answer proves nothing, even made with the share.
	wrong, err := s.Prove(E, other, context)
	if err != nil {
		t.Fatal(err)
	}
	// z + n is the same number modulo the order, in another encoding.
	shifted := proof
	z := new(big.Int).SetBytes(proof[32:])
	if z.Add(z, groupOrder()); z.BitLen() <= 256 {
		z.FillBytes(shifted[32:])
	} else {
		copy(shifted[32:], bytes.Repeat([]byte{0xff}, 32))
	}
	for name, err := range map[string]error{
		"other context":    VerifyDLEQ(G, Y, E, P, []byte("request 8, use 2"), proof),
		"no context":       VerifyDLEQ(G, Y, E, P, nil, proof),
		"other base":       VerifyDLEQ(G, Y, other, P, context, proof),
		"other answer":     VerifyDLEQ(G, Y, E, other, context, proof),
		"other holder":     VerifyDLEQ(G, other, E, P, context, proof),
		"bases swapped":    VerifyDLEQ(E, P, G, Y, context, proof),
		"wrong answer":     VerifyDLEQ(G, Y, E, other, context, wrong),
		"zero":             VerifyDLEQ(G, Y, E, P, context, DLEQ{}),
		"not canonical":    VerifyDLEQ(G, Y, E, P, context, shifted),
		"invalid point":    VerifyDLEQ(G, Y, E, Point{}, context, proof),
		"simulated z only": VerifyDLEQ(G, Y, E, P, context, DLEQ(append(make([]byte, 32), proof[32:]...))),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for i := range proof {
		bad := proof
		bad[i] ^= 0x10
		if err := VerifyDLEQ(G, Y, E, P, context, bad); !errors.Is(err, ErrProof) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	// The statement's points are of fixed length and the context comes last, so
	// that none can be read as another. Two proofs of one thing have two nonces.
	again, err := s.Prove(E, P, context)
	if err != nil || again == proof {
		t.Fatalf("nonce repeated, or %v", err)
	}
	key := &PublicKey{T: 1, Key: Y, Shares: []Point{Y}}
	if err := key.VerifyAnswer(E, Answer{Holder: 1, Point: P}, context, proof); err != nil {
		t.Error(err)
	}
	if err := key.VerifyAnswer(E, Answer{Holder: 2, Point: P}, context, proof); !errors.Is(err, ErrAnswers) {
		t.Errorf("got %v", err)
	}
}

// Under a broken random generator proofs of different statements, or in
// different contexts, still have different nonces.
func TestNonceIsNeverShared(t *testing.T) {
	x, stuck := scalarBytes(number("x")), make([]byte, 32)
	G, E := Generator(), baseMult(t, number("e"))
	Y, P := mult(t, G, number("x")), mult(t, E, number("x"))
	seen := make(map[Point]string)
	for name, c := range map[string]struct {
		s       statement
		context string
	}{
		"one":      {statement{G, Y, E, P}, "a"},
		"context":  {statement{G, Y, E, P}, "b"},
		"wrong":    {statement{G, Y, E, E}, "a"},
		"reversed": {statement{G, Y, P, E}, "a"},
	} {
		proof, err := prove(x, c.s, []byte(c.context), stuck)
		if err != nil {
			t.Fatal(err)
		}
		ch, z, err := parseProof(proof)
		if err != nil {
			t.Fatal(err)
		}
		r, err := recommit(G, Y, ch, z)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[r]; ok {
			t.Errorf("%s and %s share a nonce", before, name)
		}
		seen[r] = name
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	f := split(t, "printed", 1, 1)
	s := f.shares[0]
	E := baseMult(t, number("e"))
	key, err := NewKey(f.key, E, f.answers(t, E))
	if err != nil {
		t.Fatal(err)
	}
	c, keys := ceremony(t, 1, 1)
	p := participants(t, c, keys)[0]
	guard := &Guard{ct: []byte("ciphertext"), ss: s.Bytes()}
	secrets := [][]byte{s.Bytes(), key.x, p.seed}
	var out bytes.Buffer
	for _, v := range []any{s, *s, key, *key, guard, *guard, p, *p, struct{ S *Share }{s}, struct{ S Share }{*s}, []*Share{s}, []any{*key}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&out, format+"\n", v)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "share", s, "value", *s)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "share", s, "value", *s)
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	out.Write(codec.Encode(s))
	printed := strings.ToLower(out.String())
	for _, secret := range secrets {
		for _, form := range []string{fmt.Sprintf("%x", secret[:4]), fmt.Sprintf("%d %d %d", secret[0], secret[1], secret[2]), fmt.Sprintf("%#x, %#x, %#x", secret[0], secret[1], secret[2]), string(secret[:4])} {
			if strings.Contains(printed, strings.ToLower(form)) {
				t.Errorf("%q is in the output", form)
			}
		}
	}
	if !strings.Contains(printed, "redacted") {
		t.Error("nothing was redacted")
	}
}

func TestErased(t *testing.T) {
	f := split(t, "erased", 1, 1)
	s := f.shares[0]
	E := baseMult(t, number("e"))
	scalar := s.scalar
	key, err := NewKey(f.key, E, f.answers(t, E))
	if err != nil {
		t.Fatal(err)
	}
	remote := key.e
	s.Erase()
	key.Erase()
	if !bytes.Equal(scalar, make([]byte, ScalarSize)) || s.Bytes() != nil {
		t.Error("scalar is still there")
	}
	if _, err := s.Partial(E); !errors.Is(err, ErrErased) {
		t.Errorf("partial: got %v", err)
	}
	if _, err := s.Prove(E, E, nil); !errors.Is(err, ErrErased) {
		t.Errorf("proof: got %v", err)
	}
	if _, err := key.ECDH(remote); !errors.Is(err, ErrErased) {
		t.Errorf("key: got %v", err)
	}
}

func FuzzParsePoint(f *testing.F) {
	g := Generator()
	f.Add(g[:])
	for _, b := range badPoints(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePoint(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p[:], b) {
			t.Fatal("parsed into something else")
		}
		//lint:ignore SA1019 an independent parser
		if x, y := elliptic.Unmarshal(elliptic.P256(), b); x == nil || y == nil {
			t.Fatal("accepted what crypto/elliptic refuses")
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	for _, s := range [][2]int{{1, 1}, {2, 3}, {3, 5}} {
		f.Add(codec.Encode(split(f, "fuzz", s[0], s[1]).key))
	}
	f.Add([]byte{0x83, 0x01, 0x40, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var k PublicKey
		if codec.Decode(b, &k) != nil {
			return
		}
		if !bytes.Equal(codec.Encode(&k), b) {
			t.Fatal("not canonical")
		}
		if k.Validate() == nil && k.N() < 2*k.T-1 {
			t.Fatal("accepted too few keyholders")
		}
	})
}
