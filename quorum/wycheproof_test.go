package quorum

import (
	"bytes"
	"errors"
	"testing"

	"chancery/internal/wycheproof"
)

// TestWycheproof: a keyholder's answer for an encapsulation is what its share
// agrees on with that point, and for no other bytes is there one.
func TestWycheproof(t *testing.T) {
	wycheproof.Run(t, "ecdh_secp256r1_ecpoint_test", func(_ *struct{}, c *wycheproof.Exchange) error {
		share, err := NewShare(1, c.Scalar(ScalarSize))
		if err != nil {
			return err
		}
		point, err := ParsePoint(c.Public)
		if c.Has("CompressedPoint") && errors.Is(err, ErrPoint) {
			return wycheproof.Stricter("points have one form, uncompressed (spec/quorum.md)")
		}
		if err != nil {
			return c.Judge(err)
		}
		partial, err := share.Partial(point)
		if err == nil && !bytes.Equal(partial[1:1+ScalarSize], c.Shared) {
			return errors.New("another answer")
		}
		return c.Judge(err)
	})
}
