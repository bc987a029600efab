package custody

import (
	"bytes"
	"crypto/mlkem"
	"errors"
	"testing"

	"chancery/internal/wycheproof"
)

// TestWycheproof: a guard's answer for a ciphertext under a month's key.
func TestWycheproof(t *testing.T) {
	dir, _ := create(t, Guard)
	f := open(t, dir)
	defer f.Close()
	wycheproof.Run(t, "mlkem_768_test", func(_ *struct{}, c *struct {
		wycheproof.Case
		Seed, EK, C, K wycheproof.Bytes
	}) error {
		if len(c.Seed) != mlkem.SeedSize {
			return c.Judge(f.expand(c.Seed))
		}
		ek, err := public(c.Seed)
		if err != nil || !bytes.Equal(ek, c.EK) {
			return errors.Join(errors.New("another public key"), err)
		}
		if err := f.expand(c.Seed); err != nil {
			return err
		}
		secret, err := f.Decapsulate(c.EK, c.C)
		if err == nil && !bytes.Equal(secret, c.K) {
			return errors.New("another secret")
		}
		return c.Judge(err)
	})
}
