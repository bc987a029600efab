package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/wycheproof"
)

func TestWycheproofAgreement(t *testing.T) {
	wycheproof.Run(t, "x25519_test", func(_ *struct{}, c *wycheproof.Exchange) error {
		private := secret(c.Private)
		key, err := private.private()
		if err != nil {
			return err
		}
		got, err := agree(key, point(c.Public))
		if c.Has("ZeroSharedSecret") && errors.Is(err, ErrPoint) {
			return wycheproof.Stricter("the shared secret is zero (RFC 7748 §6.1)")
		}
		if err == nil && !bytes.Equal(got[:], c.Shared) {
			return errors.New("another secret")
		}
		return errors.Join(err, c.Judge(err)) // whatever else is acceptable, we take
	})
}

// TestWycheproofDecapsulation: what a responder makes of an initial message's
// ciphertext.
func TestWycheproofDecapsulation(t *testing.T) {
	ephemeral := point{9}
	signed := bytes.Repeat([]byte{1}, keySize)
	mine, err := (&half{Key: signed}).agreement()
	if err != nil {
		t.Fatal(err)
	}
	wycheproof.Run(t, "mlkem_1024_test", func(_ *struct{}, c *struct {
		wycheproof.Case
		Seed, EK, C, K wycheproof.Bytes
	}) error {
		h := hello{Ephemeral: ephemeral}
		if err := codec.Decode(codec.Encode([]byte(c.C)), &h.Ciphertext); err != nil {
			return c.Judge(err)
		}
		var a agreement
		err := a.agreeAsResponder(mine, &halves{signed: &half{Key: signed}, kem: &half{Key: c.Seed}}, ephemeral, &h)
		if err == nil && (!bytes.Equal(a.shared, c.K) || !bytes.Equal(a.kem, c.EK)) {
			return errors.New("another secret or public key")
		}
		return c.Judge(err)
	})
}

// TestWycheproofEncapsulation: what an initiator makes of a bundle's ML-KEM key,
// though the device signed it.
func TestWycheproofEncapsulation(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	w := bob.bundle(t).wire
	wycheproof.Run(t, "mlkem_1024_encaps_test", func(_ *struct{}, c *struct {
		wycheproof.Case
		M, EK, C, K wycheproof.Bytes
	}) error {
		var err error
		w.KEM, err = sign(bob.signer, labelPreKey, preKeyBody{
			Version: version, Leaf: bob.device.Leaf, Kind: kindKEM, ID: 9, Expires: noon.Add(time.Hour).UnixMilli(), Public: c.EK,
		})
		if err != nil {
			return err
		}
		b, err := newBundle(w)
		if err != nil {
			return c.Judge(err)
		}
		var shared, ciphertext []byte
		var failed error
		_, err = initiate(alice.pre, bob.device, b, noon, stamp{at: noon.UnixMilli()}, alice.random,
			func(key *mlkem.EncapsulationKey1024) ([]byte, []byte) {
				shared, ciphertext, failed = mlkemtest.Encapsulate1024(key, c.M)
				return shared, ciphertext
			})
		if failed != nil {
			return fmt.Errorf("encapsulation: %w", failed)
		}
		if err == nil && !bytes.Equal(ciphertext, c.C) {
			return errors.New("another ciphertext")
		}
		return c.Judge(err)
	})
}
