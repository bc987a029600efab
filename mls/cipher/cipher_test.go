package cipher_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"testing"

	"chancery/mls/cipher"
)

// TestUnbuiltSuites: X448 and Ed448 aren't built, nor is a number that nobody has.
// The official vectors of the others run in package mls.
func TestUnbuiltSuites(t *testing.T) {
	for _, id := range []cipher.ID{0, 4, 6, 8, 0xffff} {
		if _, err := cipher.ByID(id); !errors.Is(err, cipher.ErrUnsupported) {
			t.Errorf("suite %d: %v", id, err)
		}
	}
}

func eachSuite(t *testing.T, run func(t *testing.T, s *cipher.Suite)) {
	for _, id := range cipher.IDs() {
		s, err := cipher.ByID(id)
		if err != nil {
			t.Fatal(err)
		}
		run(t, s)
	}
}

func TestSignatures(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *cipher.Suite) {
		private, err := s.GenerateSignatureKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := s.NewSigner(private)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CheckSignatureKey(signer.Public()); err != nil {
			t.Error(err)
		}
		sig, err := signer.Sign("a", []byte("content"))
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(sig)
		bad[len(bad)-1] ^= 1
		for name, err := range map[string]error{
			"label":     s.VerifyWithLabel(signer.Public(), "b", []byte("content"), sig),
			"content":   s.VerifyWithLabel(signer.Public(), "a", []byte("contend"), sig),
			"signature": s.VerifyWithLabel(signer.Public(), "a", []byte("content"), bad),
			"none":      s.VerifyWithLabel(signer.Public(), "a", []byte("content"), nil),
		} {
			if !errors.Is(err, cipher.ErrSignature) {
				t.Errorf("suite %d, other %s: %v", s.ID(), name, err)
			}
		}
		if err := s.VerifyWithLabel(signer.Public()[1:], "a", nil, sig); !errors.Is(err, cipher.ErrKey) {
			t.Errorf("suite %d, short key: %v", s.ID(), err)
		}
	})
}

// TestKeyGenerationIsDeterministic: secrets come from the reader alone.
func TestKeyGenerationIsDeterministic(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *cipher.Suite) {
		fixed := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{5}, 600)) }
		a, err1 := s.GenerateSignatureKey(fixed())
		b, err2 := s.GenerateSignatureKey(fixed())
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("suite %d: %v, %v, or different signature keys", s.ID(), err1, err2)
		}
		k, err1 := s.GenerateKeyPair(fixed())
		l, err2 := s.GenerateKeyPair(fixed())
		if err1 != nil || err2 != nil || !bytes.Equal(k.Public(), l.Public()) {
			t.Errorf("suite %d: %v, %v, or different key pairs", s.ID(), err1, err2)
		}
		if _, err := s.GenerateSignatureKey(bytes.NewReader(nil)); err == nil {
			t.Errorf("suite %d: a key of no randomness", s.ID())
		}
		if _, err := s.GenerateKeyPair(bytes.NewReader(nil)); err == nil {
			t.Errorf("suite %d: a key pair of no randomness", s.ID())
		}
	})
}

func TestHPKE(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *cipher.Suite) {
		key, err := s.GenerateKeyPair(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CheckHPKEKey(key.Public()); err != nil {
			t.Error(err)
		}
		same, err := s.NewPrivateKey(key.ExposeBytes())
		if err != nil || !bytes.Equal(same.Public(), key.Public()) {
			t.Errorf("suite %d: a stored key differs: %v", s.ID(), err)
		}
		kem, ct, err := s.EncryptWithLabel(key.Public(), "a", []byte("c"), []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"label":   func() ([]byte, error) { return key.DecryptWithLabel("b", []byte("c"), kem, ct) },
			"context": func() ([]byte, error) { return key.DecryptWithLabel("a", []byte("d"), kem, ct) },
			"short":   func() ([]byte, error) { return key.DecryptWithLabel("a", []byte("c"), kem, ct[:3]) },
			"kem":     func() ([]byte, error) { return key.DecryptWithLabel("a", []byte("c"), kem[1:], ct) },
		} {
			if _, err := open(); !errors.Is(err, cipher.ErrOpen) {
				t.Errorf("suite %d, other %s: %v", s.ID(), name, err)
			}
		}
		kem, secret, err := s.ExportTo(key.Public(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.ExportFrom(kem, "x"); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("suite %d: exports differ: %v", s.ID(), err)
		}
		key.Erase()
		if bytes.ContainsFunc(key.ExposeBytes(), func(r rune) bool { return r != 0 }) {
			t.Error("an erased key is still there")
		}
	})
}

// TestLowOrderKeys: nobody can encrypt to these, so nobody may publish them.
func TestLowOrderKeys(t *testing.T) {
	one, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	dh, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, low := range cipher.TestOnlyLowOrder {
		for _, top := range []byte{0, 0x80} {
			key := bytes.Clone(low[:])
			key[31] |= top
			if err := one.CheckHPKEKey(key); !errors.Is(err, cipher.ErrKey) {
				t.Errorf("%x accepted", key)
			}
			pub, err := ecdh.X25519().NewPublicKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := dh.ECDH(pub); err == nil {
				t.Errorf("%x is in the list and has no low order", key)
			}
		}
	}
}

func TestAEAD(t *testing.T) {
	eachSuite(t, func(t *testing.T, s *cipher.Suite) {
		key, nonce := make([]byte, s.KeySize()), make([]byte, s.NonceSize())
		ct, err := s.Seal(key, nonce, []byte("aad"), []byte("text"))
		if err != nil || len(ct) != 4+cipher.TagSize {
			t.Fatalf("suite %d: %d bytes, %v", s.ID(), len(ct), err)
		}
		if pt, err := s.Open(key, nonce, []byte("aad"), ct); err != nil || string(pt) != "text" {
			t.Errorf("suite %d: %q, %v", s.ID(), pt, err)
		}
		if _, err := s.Open(key, nonce, nil, ct); !errors.Is(err, cipher.ErrOpen) {
			t.Errorf("suite %d, other data: %v", s.ID(), err)
		}
		if _, err := s.Seal(key[1:], nonce, nil, nil); !errors.Is(err, cipher.ErrKey) {
			t.Errorf("suite %d, short key: %v", s.ID(), err)
		}
		if _, err := s.Open(key, nonce[1:], nil, ct); !errors.Is(err, cipher.ErrKey) {
			t.Errorf("suite %d, short nonce: %v", s.ID(), err)
		}
	})
}
