package cipher_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"chancery/internal/wycheproof"
	"chancery/mls/cipher"
)

func suite(t testing.TB, id cipher.ID) *cipher.Suite {
	t.Helper()
	s, err := cipher.ByID(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// exporter is the suite's exported secret of an HPKE context that was set up
// with a Diffie-Hellman secret and no info (RFC 9180 §4.1, §5.1, §5.3), written
// from the RFC: the suite itself never shows that secret. KEM and AEAD are
// numbers of §7; the KDF, which both share, is the suite's.
type exporter struct {
	suite     *cipher.Suite
	kem, aead uint16
}

var exporters = map[cipher.ID]exporter{
	cipher.X25519AES128SHA256Ed25519:           {kem: 0x20, aead: 1},
	cipher.P256AES128SHA256P256:                {kem: 0x10, aead: 1},
	cipher.X25519ChaCha20Poly1305SHA256Ed25519: {kem: 0x20, aead: 3},
	cipher.P521AES256SHA512P521:                {kem: 0x12, aead: 2},
	cipher.P384AES256SHA384P384:                {kem: 0x11, aead: 2},
}

func (x exporter) export(shared, enc, public []byte, label string) []byte {
	kdf := map[int]uint16{32: 1, 48: 2, 64: 3}[x.suite.HashSize()]
	kem := binary.BigEndian.AppendUint16([]byte("KEM"), x.kem)
	all := []byte("HPKE")
	for _, n := range []uint16{x.kem, kdf, x.aead} {
		all = binary.BigEndian.AppendUint16(all, n)
	}
	prk := x.extract(kem, nil, "eae_prk", shared)
	secret := x.expand(kem, prk, "shared_secret", slices.Concat(enc, public))
	context := slices.Concat([]byte{0}, x.extract(all, nil, "psk_id_hash", nil), x.extract(all, nil, "info_hash", nil))
	secret = x.extract(all, secret, "secret", nil)
	return x.expand(all, x.expand(all, secret, "exp", context), "sec", []byte(label))
}

func (x exporter) extract(id, salt []byte, label string, ikm []byte) []byte {
	return x.suite.Extract(salt, slices.Concat([]byte("HPKE-v1"), id, []byte(label), ikm))
}

func (x exporter) expand(id, prk []byte, label string, info []byte) []byte {
	n := x.suite.HashSize()
	size := binary.BigEndian.AppendUint16(nil, uint16(n))
	return x.suite.TestOnlyExpand(prk, slices.Concat(size, []byte("HPKE-v1"), id, []byte(label), info), n)
}

// exchange has the suite agree with the private key on the public one as HPKE
// does, in both directions, and judge the public key as one for a tree.
func exchange(s *cipher.Suite, c *wycheproof.Exchange, size int) error {
	key, err := s.NewPrivateKey(c.Scalar(size))
	if err != nil {
		return fmt.Errorf("private key: %w", err)
	}
	x := exporters[s.ID()]
	x.suite = s
	got, err := key.ExportFrom(c.Public, "label")
	if err == nil && !bytes.Equal(got, x.export(c.Shared, c.Public, key.Public(), "label")) {
		return errors.New("another secret")
	}
	if check := s.CheckHPKEKey(c.Public); (check == nil) != (err == nil) {
		return fmt.Errorf("as a key for a tree: %v, as one to agree with: %v", check, err)
	}
	if c.Result != "valid" { // of the others it is known, and slow
		if _, _, seal := s.EncryptWithLabel(c.Public, "", nil, nil); (seal == nil) != (err == nil) {
			return fmt.Errorf("as a key to encrypt to: %v, as one to agree with: %v", seal, err)
		}
	}
	switch {
	case c.Result != "acceptable" || err == nil:
		return c.Judge(err)
	case c.Has("ZeroSharedSecret"):
		return wycheproof.Stricter("the shared secret is zero (RFC 9180 §7.1.4)")
	case c.Has("CompressedPoint"):
		return wycheproof.Stricter("a compressed point (RFC 9180 §7.1.1)")
	}
	return fmt.Errorf("refused without a rule of ours: %w", err)
}

func TestWycheproofAgreement(t *testing.T) {
	for _, f := range []struct {
		suite cipher.ID
		file  string
		size  int // of a private key in bytes
	}{
		{cipher.X25519AES128SHA256Ed25519, "x25519_test", 32},
		{cipher.P256AES128SHA256P256, "ecdh_secp256r1_ecpoint_test", 32},
		{cipher.X25519ChaCha20Poly1305SHA256Ed25519, "x25519_test", 32},
		{cipher.P521AES256SHA512P521, "ecdh_secp521r1_ecpoint_test", 66},
		{cipher.P384AES256SHA384P384, "ecdh_secp384r1_ecpoint_test", 48},
	} {
		s := suite(t, f.suite)
		wycheproof.Run(t, f.file, func(_ *struct{}, c *wycheproof.Exchange) error { return exchange(s, c, f.size) })
	}
}

// TestWycheproofHybridKeys: the suite with X-Wing takes its ML-KEM half only as
// FIPS 203 §7.2 allows.
func TestWycheproofHybridKeys(t *testing.T) {
	s := suite(t, cipher.XWingAES256SHA384Ed25519)
	base := make([]byte, 32)
	base[0] = 9
	wycheproof.Run(t, "mlkem_768_encaps_test", func(_ *struct{}, c *struct {
		wycheproof.Case
		EK wycheproof.Bytes
	}) error {
		key := append(bytes.Clone(c.EK), base...)
		err := s.CheckHPKEKey(key)
		if _, _, seal := s.EncryptWithLabel(key, "", nil, nil); (seal == nil) != (err == nil) {
			return fmt.Errorf("as a key for a tree: %v, as one to encrypt to: %v", err, seal)
		}
		return c.Judge(err)
	})
}

func TestWycheproofSignatures(t *testing.T) {
	type group struct {
		PublicKey struct {
			Point wycheproof.Bytes `json:"uncompressed"` // ECDSA
			PK    wycheproof.Bytes // Ed25519
		}
	}
	type signature struct {
		wycheproof.Case
		Msg, Sig wycheproof.Bytes
	}
	for _, f := range []struct {
		suite cipher.ID
		file  string
	}{
		{cipher.X25519AES128SHA256Ed25519, "ed25519_test"},
		{cipher.P256AES128SHA256P256, "ecdsa_secp256r1_sha256_test"},
		{cipher.P384AES256SHA384P384, "ecdsa_secp384r1_sha384_test"},
		{cipher.P521AES256SHA512P521, "ecdsa_secp521r1_sha512_test"},
	} {
		s := suite(t, f.suite)
		wycheproof.Run(t, f.file, func(g *group, c *signature) error {
			key := slices.Concat(g.PublicKey.Point, g.PublicKey.PK)
			if err := s.CheckSignatureKey(key); err != nil {
				return err
			}
			return c.Judge(s.TestOnlyVerify(key, c.Msg, c.Sig))
		})
	}
}

func TestWycheproofAEAD(t *testing.T) {
	type sealed struct {
		wycheproof.Case
		Key, IV, AAD, Msg, CT, Tag wycheproof.Bytes
	}
	run := func(file string, suites map[int]*cipher.Suite) { // by length of the key
		wycheproof.Run(t, file, func(_ *struct{}, c *sealed) error {
			s := suites[len(c.Key)]
			if s == nil {
				for _, id := range cipher.IDs() {
					if _, err := suite(t, id).Seal(c.Key, c.IV, c.AAD, c.Msg); !errors.Is(err, cipher.ErrKey) {
						return fmt.Errorf("suite %d took a key of %d bytes: %v", id, len(c.Key), err)
					}
				}
				return wycheproof.Stricter("AES-192 is in no suite")
			}
			ct, err := s.Seal(c.Key, c.IV, c.AAD, c.Msg)
			pt, opened := s.Open(c.Key, c.IV, c.AAD, slices.Concat(c.CT, c.Tag))
			if len(c.IV) != s.NonceSize() {
				if !errors.Is(err, cipher.ErrKey) || !errors.Is(opened, cipher.ErrKey) {
					return fmt.Errorf("a nonce of %d bytes: %v, %v", len(c.IV), err, opened)
				}
				return wycheproof.Stricter("nonces have 12 bytes (RFC 5116 §5.1, RFC 8439 §2.8)")
			}
			if opened == nil && (err != nil || !bytes.Equal(pt, c.Msg) || !bytes.Equal(ct, slices.Concat(c.CT, c.Tag))) {
				return fmt.Errorf("opens as %x, seals as %x, %v", pt, ct, err)
			}
			return c.Judge(opened)
		})
	}
	run("aes_gcm_test", map[int]*cipher.Suite{
		16: suite(t, cipher.X25519AES128SHA256Ed25519), 32: suite(t, cipher.P384AES256SHA384P384),
	})
	run("chacha20_poly1305_test", map[int]*cipher.Suite{32: suite(t, cipher.X25519ChaCha20Poly1305SHA256Ed25519)})
}

// hashes are suites by their hash.
var hashes = []struct {
	name  string
	suite cipher.ID
}{
	{"sha256", cipher.X25519AES128SHA256Ed25519},
	{"sha384", cipher.P384AES256SHA384P384},
	{"sha512", cipher.P521AES256SHA512P521},
}

func TestWycheproofHKDF(t *testing.T) {
	type derivation struct {
		wycheproof.Case
		IKM, Salt, Info, OKM wycheproof.Bytes
		Size                 int
	}
	for _, h := range hashes {
		s := suite(t, h.suite)
		wycheproof.Run(t, "hkdf_"+h.name+"_test", func(_ *struct{}, c *derivation) error {
			if c.Size > s.MaxExpand() {
				return c.Judge(errors.New("longer than MaxExpand"))
			}
			if !bytes.Equal(s.TestOnlyExpand(s.Extract(c.Salt, c.IKM), c.Info, c.Size), c.OKM) {
				return errors.New("other bytes")
			}
			return c.Judge(nil)
		})
	}
}

func TestWycheproofHMAC(t *testing.T) {
	type tagged struct {
		wycheproof.Case
		Key, Msg, Tag wycheproof.Bytes
	}
	for _, h := range hashes {
		s := suite(t, h.suite)
		wycheproof.Run(t, "hmac_"+h.name+"_test", func(_ *struct{}, c *tagged) error {
			ok := s.VerifyMAC(c.Key, c.Msg, c.Tag)
			if len(c.Tag) == s.HashSize() {
				if !ok {
					return c.Judge(cipher.ErrOpen)
				}
				return c.Judge(nil)
			}
			if begins := bytes.HasPrefix(s.MAC(c.Key, c.Msg), c.Tag); ok || begins == c.Invalid() {
				return fmt.Errorf("a cut tag: taken %t, of the right MAC %t", ok, begins)
			}
			return wycheproof.Stricter("a MAC isn't cut short (RFC 9420 §5.2)")
		})
	}
}
