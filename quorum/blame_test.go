package quorum

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"chancery/codec"

	"pgregory.net/rapid"
)

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
