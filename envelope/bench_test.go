package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"testing"

	"filippo.io/nistec"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
)

// benchText makes an encoded record of about 2 KB.
func benchText() []byte { return testRecord(string(bytes.Repeat([]byte("word "), 380))).Encode() }

func BenchmarkCommit(b *testing.B) {
	seed, record := testSeed("bench"), benchText()
	for b.Loop() {
		if _, err := Commit(seed, record); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSend is all that a sender computes: commitment, envelope, core, proof,
// tag.
func BenchmarkSend(b *testing.B) {
	k, seed, record := newKeys(b, "bench"), testSeed("bench"), benchText()
	for b.Loop() {
		seal(b, k, seed, record).secrets.Erase()
	}
}

func BenchmarkSeal(b *testing.B) {
	k, seed, record := newKeys(b, "bench"), testSeed("bench"), benchText()
	header := testHeader(b, seed, record)
	b.ResetTimer()
	for b.Loop() {
		if _, _, err := Seal(k.pub, header, seed, record); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLimitSeal is what no sealing can do without: two multiplications, one
// encapsulation, AES-GCM.
func BenchmarkLimitSeal(b *testing.B) {
	k, record := newKeys(b, "bench"), benchText()
	e := testSeed("scalar")[:]
	block, err := aes.NewCipher(testSeed("aes")[:])
	if err != nil {
		b.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	ct, ss := make([]byte, mlkem768.CiphertextSize), make([]byte, 32)
	for b.Loop() {
		if _, err := nistec.NewP256Point().ScalarBaseMult(e); err != nil {
			b.Fatal(err)
		}
		if _, err := nistec.NewP256Point().ScalarMult(k.pub.y, e); err != nil {
			b.Fatal(err)
		}
		k.pub.pq.EncapsulateTo(ct, ss, e)
		aead.Seal(nil, make([]byte, 12), record, nil)
	}
}

// BenchmarkLimitStdSeal is crypto/hpke's own sealing, randomised.
func BenchmarkLimitStdSeal(b *testing.B) {
	k, record := newKeys(b, "bench"), benchText()
	for b.Loop() {
		_, s, err := hpke.NewSender(k.pub.HPKE(), hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Seal(nil, record); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	k := newKeys(b, "bench")
	s := seal(b, k, testSeed("bench"), benchText())
	for b.Loop() {
		if err := Check(k.pub, s.core, s.seed, s.record, &s.proof, &s.tag); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKeys(b, "bench")
	s := seal(b, k, testSeed("bench"), benchText())
	for b.Loop() {
		if _, _, err := Open(k.priv, s.header, s.env); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLimitOpen is ECDH, decapsulation and AES-GCM of std alone.
func BenchmarkLimitOpen(b *testing.B) {
	k := newKeys(b, "bench")
	s := seal(b, k, testSeed("bench"), benchText())
	e, err := ecdh.P256().NewPublicKey(s.env.E())
	if err != nil {
		b.Fatal(err)
	}
	block, err := aes.NewCipher(testSeed("aes")[:])
	if err != nil {
		b.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	ct := aead.Seal(nil, make([]byte, 12), s.record, nil)
	for b.Loop() {
		if _, err := k.t.ECDH(e); err != nil {
			b.Fatal(err)
		}
		if _, err := k.pq.Decapsulate(s.env.Enc[:mlkemCiphertextSize]); err != nil {
			b.Fatal(err)
		}
		if _, err := aead.Open(nil, make([]byte, 12), ct, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProve(b *testing.B) {
	s := seal(b, newKeys(b, "bench"), testSeed("bench"), benchText())
	core := s.core.Hash()
	for b.Loop() {
		if _, err := s.secrets.Prove(core); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckProof(b *testing.B) {
	s := seal(b, newKeys(b, "bench"), testSeed("bench"), benchText())
	core := s.core.Hash()
	for b.Loop() {
		if err := s.secrets.CheckProof(core, &s.proof); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyProof(b *testing.B) {
	s := seal(b, newKeys(b, "bench"), testSeed("bench"), benchText())
	e, core := s.env.E(), s.core.Hash()
	for b.Loop() {
		if err := VerifyProof(e, core, &s.proof); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLimitVerifyProof is one multiplication of the base and one of another
// point.
func BenchmarkLimitVerifyProof(b *testing.B) {
	k, scalar := newKeys(b, "bench"), make([]byte, 32)
	if _, err := rand.Read(scalar); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := nistec.NewP256Point().ScalarBaseMult(scalar); err != nil {
			b.Fatal(err)
		}
		if _, err := nistec.NewP256Point().ScalarMult(k.pub.y, scalar); err != nil {
			b.Fatal(err)
		}
	}
}
