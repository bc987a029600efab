package envelope

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"filippo.io/nistec"
	"pgregory.net/rapid"

	"chancery/codec"
)

// TestStdOpensWithSeed: a KeyExchanger and a Decapsulator that are made of the
// seed and public keys alone open, under crypto/hpke, the bytes that Seal made.
// So an auditor needs no code of ours to see that a published seed is the
// envelope's.
func TestStdOpensWithSeed(t *testing.T) {
	k := newKeys(t, "escrow")
	for _, size := range []int{0, 1, 100, 2000, 70000} {
		s := seal(t, k, testSeed(fmt.Sprint(size)), testRecord(strings.Repeat("x", size)).Encode())

		// All from the spec, nothing from the package but the hash.
		h := codec.Sum("header", s.header)
		wide, err := hkdf.Key(sha256.New, s.seed[:], []byte("chancery/envelope/v1"), "eph"+string(h[:]), 48)
		if err != nil {
			t.Fatal(err)
		}
		m, err := hkdf.Key(sha256.New, s.seed[:], []byte("chancery/envelope/v1"), "mlkem"+string(h[:]), 32)
		if err != nil {
			t.Fatal(err)
		}
		v := new(big.Int).SetBytes(wide)
		v.Mod(v, new(big.Int).Sub(order(), big.NewInt(1))).Add(v, big.NewInt(1))
		e, err := ecdh.P256().NewPrivateKey(v.FillBytes(make([]byte, 32)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e.PublicKey().Bytes(), s.env.E()) {
			t.Fatal("E isn't e·G")
		}
		x, err := e.ECDH(k.t.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		ss, ct, err := mlkemtest.Encapsulate768(k.pq.EncapsulationKey(), m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ct, s.env.MLKEMCiphertext()) || !bytes.Equal(ss, s.secrets.SharedSecret()) {
			t.Fatal("circl and std encapsulate differently")
		}
		seed, record, err := Open(answers{pub: k, x: x, ss: ss}.key(t), s.header, s.env)
		if err != nil || *seed != *s.seed || !bytes.Equal(record, s.record) {
			t.Fatalf("std doesn't open with the seed: %v", err)
		}
	}
}

// TestEncapsulation: circl's derandomised encapsulation is std's, byte for byte,
// and std decapsulates it.
func TestEncapsulation(t *testing.T) {
	for i := range 50 {
		k := newKeys(t, fmt.Sprint("key", i))
		m := testSeed(fmt.Sprint("m", i))[:]
		ct, ss := make([]byte, mlkem.CiphertextSize768), make([]byte, mlkem.SharedKeySize)
		k.pub.pq.EncapsulateTo(ct, ss, m)
		want, wantCT, err := mlkemtest.Encapsulate768(k.pq.EncapsulationKey(), m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.pq.Decapsulate(ct)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ct, wantCT) || !bytes.Equal(ss, want) || !bytes.Equal(got, ss) {
			t.Fatalf("key %d: implementations differ", i)
		}
	}
}

// TestScalars holds bigmod's reductions against math/big, edges included.
func TestScalars(t *testing.T) {
	n := order()
	one := big.NewInt(1)
	check := func(t interface{ Fatalf(string, ...any) }, wide []byte) {
		v := new(big.Int).SetBytes(wide)
		want := new(big.Int).Mod(v, n).FillBytes(make([]byte, 32))
		if got := scalar(wide).Bytes(scalars().n); !bytes.Equal(got, want) {
			t.Fatalf("%x mod n: got %x, want %x", wide, got, want)
		}
		e := new(big.Int).Mod(v, new(big.Int).Sub(n, one))
		if got := nonZeroScalar(wide); !bytes.Equal(got, e.Add(e, one).FillBytes(make([]byte, 32))) {
			t.Fatalf("1 + (%x mod (n-1)): got %x, want %x", wide, got, e)
		}
	}
	for _, k := range []int64{-2, -1, 0, 1, 2} {
		for _, base := range []*big.Int{new(big.Int), n, new(big.Int).Lsh(n, 1), new(big.Int).Lsh(n, 127), new(big.Int).Lsh(one, 256), new(big.Int).Lsh(one, 384)} {
			v := new(big.Int).Add(base, big.NewInt(k))
			if v.Sign() >= 0 && v.BitLen() <= 384 {
				check(t, v.FillBytes(make([]byte, wideSize)))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.SliceOfN(rapid.Byte(), wideSize, wideSize).Draw(t, "wide"))
	})
}

// TestProofProperty: every seed and core proves, and no proof verifies for
// another core.
func TestProofProperty(t *testing.T) {
	k := newKeys(t, "escrow")
	signs := map[byte]bool{}
	rapid.Check(t, func(t *rapid.T) {
		seed := Seed(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
		prk := seed.extract()
		_, _, s, err := encapsulate(k.pub, prk, deriveCoins(prk, codec.Hash{}))
		if err != nil {
			t.Fatal(err)
		}
		core := codec.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "core"))
		p, err := s.Prove(core)
		if err != nil {
			t.Fatal(err)
		}
		if err := VerifyProof(s.point[:], core, &p); err != nil {
			t.Fatal(err)
		}
		if err := s.CheckProof(core, &p); err != nil {
			t.Fatal(err)
		}
		core[0] ^= 1
		if err := VerifyProof(s.point[:], core, &p); !errors.Is(err, ErrProof) {
			t.Fatalf("another core: got %v", err)
		}
		// Both signs of the nonce's point have to occur for the test to mean much.
		core[0] ^= 1
		r, err := nistec.NewP256Point().ScalarBaseMult(scalar(expand(prk, "pok", core[:], wideSize)).Bytes(scalars().n))
		if err != nil {
			t.Fatal(err)
		}
		signs[r.Bytes()[64]&1] = true
	})
	if len(signs) != 2 {
		t.Fatal("nonces of one sign only")
	}
}

func TestPublicKeyRefuses(t *testing.T) {
	k := newKeys(t, "escrow")
	point, pq := k.pub.Point(), k.pub.MLKEM()
	off := bytes.Clone(point)
	off[64] ^= 1
	unreduced := bytes.Clone(pq)
	unreduced[0], unreduced[1] = 0xff, 0xff // a coefficient above 3328 (FIPS 203 §7.2)
	compressed := append([]byte{2}, point[1:33]...)
	for name, c := range map[string]struct{ point, mlkem []byte }{
		"empty":               {nil, nil},
		"off the curve":       {off, pq},
		"infinity":            {[]byte{0}, pq},
		"infinity, long":      {make([]byte, 65), pq},
		"compressed":          {compressed, pq},
		"unreduced":           {point, unreduced},
		"short ML-KEM key":    {point, pq[1:]},
		"halves interchanged": {pq, point},
	} {
		if key, err := NewPublicKey(c.point, c.mlkem); !errors.Is(err, ErrKey) || key != nil {
			t.Errorf("%s: got %v, want ErrKey", name, err)
		}
	}
	if got := k.pub.HPKE().Bytes(); !bytes.Equal(got, append(pq, point...)) {
		t.Error("hpke has another key")
	}
}

// TestErase: nothing is left in memory that an Erase owns.
func TestErase(t *testing.T) {
	s := seal(t, newKeys(t, "escrow"), testSeed("a"), testRecord("x").Encode())
	s.secrets.Erase()
	if *s.secrets != (Secrets{}) {
		t.Error("secrets left")
	}
	if _, err := s.secrets.Prove(s.core.Hash()); err == nil {
		t.Error("erased secrets prove")
	}
	if err := s.secrets.CheckProof(s.core.Hash(), &s.proof); err == nil {
		t.Error("erased secrets check")
	}
	s.seed.Erase()
	if *s.seed != (Seed{}) {
		t.Error("seed left")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := seal(t, newKeys(t, "escrow"), testSeed("a"), testRecord("x").Encode())
	out := fmt.Sprintf("%v %+v %#v %s %v %+v %#v %s", s.seed, *s.seed, *s.seed, *s.seed, s.secrets, s.secrets, s.secrets, s.secrets)
	for _, secret := range [][]byte{s.seed[:], s.secrets.Scalar(), s.secrets.SharedSecret()} {
		if strings.Contains(out, fmt.Sprintf("%x", secret[:4])) || strings.Contains(out, strings.Trim(fmt.Sprint(secret[:4]), "[]")) {
			t.Fatalf("a secret is printed: %s", out)
		}
	}
}

// TestConcurrentUse runs what is said to be safe at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := Check(k.pub, s.core, s.seed, s.record, &s.proof, &s.tag); err != nil {
				t.Error(err)
			}
			if _, err := s.secrets.Prove(s.core.Hash()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestFIPSOnly: where only approved algorithms run, sealing says so instead of
// running one that isn't. Opening and verifying are not refused by this package.
func TestFIPSOnly(t *testing.T) {
	if os.Getenv("CHANCERY_TEST_FIPS") == "1" {
		pub := &PublicKey{}
		if _, _, err := Seal(pub, nil, new(Seed), nil); !errors.Is(err, ErrFIPS) {
			t.Fatalf("got %v, want ErrFIPS", err)
		}
		set, k := publishedVectors(t)
		v := set.Valid[0]
		env, err := Parse(v.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		if _, record, err := Open(k.priv, v.Header, env); err != nil || !bytes.Equal(record, v.Record) {
			t.Fatalf("doesn't open: %v", err)
		}
		if err := VerifyProof(env.E(), codec.Hash(v.CoreHash), (*Proof)(v.Proof)); err != nil {
			t.Fatal(err)
		}
		if err := VerifyTag(v.MLKEMSecret, codec.Hash(v.CoreHash), (*[TagSize]byte)(v.Tag)); err != nil {
			t.Fatal(err)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestFIPSOnly$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", "CHANCERY_TEST_FIPS=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS: TestFIPSOnly")) {
		t.Fatalf("%v\n%s", err, out)
	}
}
