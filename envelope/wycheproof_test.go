package envelope

import (
	"bytes"
	"crypto/sha3"
	"errors"
	"slices"
	"testing"

	"chancery/codec"
	"chancery/internal/wycheproof"
)

// TestWycheproofMLKEM: an escrow key's ML-KEM half, and encapsulation to it with
// given coins.
func TestWycheproofMLKEM(t *testing.T) {
	point := newKeys(t, "wycheproof").pub.Point()
	prk := make([]byte, 32)
	one := append(make([]byte, 31), 1)
	wycheproof.Run(t, "mlkem_768_encaps_test", func(_ *struct{}, c *struct {
		wycheproof.Case
		M, EK, C, K wycheproof.Bytes
	}) error {
		key, err := NewPublicKey(point, c.EK)
		if err != nil {
			return c.Judge(err)
		}
		enc, _, s, err := encapsulate(key, prk, &coins{e: one, m: c.M})
		if err == nil && (!bytes.Equal(enc[:mlkemCiphertextSize], c.C) || !bytes.Equal(s.SharedSecret(), c.K)) {
			return errors.New("another encapsulation")
		}
		return c.Judge(err)
	})
}

// TestWycheproofPoints: an escrow key's P-256 half, agreement with it, and the
// ephemeral point of a proof.
func TestWycheproofPoints(t *testing.T) {
	mlkem := newKeys(t, "wycheproof").pub.MLKEM()
	prk, m := make([]byte, 32), make([]byte, 32)
	wycheproof.Run(t, "ecdh_secp256r1_ecpoint_test", func(_ *struct{}, c *wycheproof.Exchange) error {
		key, err := NewPublicKey(c.Public, mlkem)
		if c.Has("CompressedPoint") && errors.Is(err, ErrKey) {
			return wycheproof.Stricter("points have one form, uncompressed (spec/envelope.md)")
		}
		if err != nil {
			if VerifyProof(c.Public, codec.Hash{}, new(Proof)) == nil {
				return errors.New("a proof for what is no point")
			}
			return c.Judge(err)
		}
		enc, shared, s, err := encapsulate(key, prk, &coins{e: c.Scalar(32), m: m})
		if err != nil {
			return c.Judge(err)
		}
		want := sha3.Sum256(slices.Concat(s.SharedSecret(), c.Shared, enc[mlkemCiphertextSize:], c.Public, []byte("MLKEM768-P256")))
		if !bytes.Equal(shared, want[:]) {
			return errors.New("another secret")
		}
		return c.Judge(nil)
	})
}
