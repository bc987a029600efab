package quorum

import (
	"testing"

	"filippo.io/nistec"
)

// The raw limit that the others are read against.
func BenchmarkScalarMult(b *testing.B) {
	p := must(baseMult(b, number("e")).point())
	k := scalarBytes(number("k"))
	for b.Loop() {
		must(nistec.NewP256Point().ScalarMult(p, k))
	}
}

func BenchmarkPartial(b *testing.B) {
	s := split(b, "bench", 3, 5).shares[0]
	E := baseMult(b, number("e"))
	for b.Loop() {
		must(s.Partial(E))
	}
}

func BenchmarkCombine3(b *testing.B) {
	f := split(b, "bench", 3, 5)
	as := f.answers(b, baseMult(b, number("e")))
	for name, quorum := range map[string][]Answer{
		"whole":    {as[0], as[1], as[2]}, // coefficients 3, -3, 1
		"fraction": {as[0], as[1], as[3]}, // 8/3, -2, 1/3
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				must(Combine(f.key, quorum))
			}
		})
	}
}

func BenchmarkDLEQ(b *testing.B) {
	f := split(b, "bench", 3, 5)
	E := baseMult(b, number("e"))
	P := must(f.shares[0].Partial(E))
	b.Run("prove", func(b *testing.B) {
		for b.Loop() {
			must(f.shares[0].Prove(E, P, nil))
		}
	})
	proof := must(f.shares[0].Prove(E, P, nil))
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if err := VerifyDLEQ(Generator(), f.key.Shares[0], E, P, nil, proof); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBlame5(b *testing.B) {
	f := split(b, "bench", 3, 5)
	e := number("e")
	E := baseMult(b, e)
	as := f.answers(b, E)
	for b.Loop() {
		must(Blame(f.key, E, scalarBytes(e), as, nil))
	}
}

func BenchmarkValidate5(b *testing.B) {
	f := split(b, "bench", 3, 5)
	for b.Loop() {
		if err := f.key.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyCeremony5(b *testing.B) {
	c, keys := ceremony(b, 3, 5)
	board, _, err := run(participants(b, c, keys), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := Verify(c, board); err != nil {
			b.Fatal(err)
		}
	}
}
