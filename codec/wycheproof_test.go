package codec

import (
	"crypto/ed25519"
	"fmt"
	"testing"

	"github.com/veraison/go-cose"

	"chancery/internal/wycheproof"
)

// TestWycheproof: bare signatures, and those of COSE_Sign1, of which another
// library checks the bytes around them.
func TestWycheproof(t *testing.T) {
	wycheproof.Run(t, "ed25519_test", func(g *struct{ PublicKey struct{ PK wycheproof.Bytes } }, c *struct {
		wycheproof.Case
		Msg, Sig wycheproof.Bytes
	}) error {
		key := PublicKey(g.PublicKey.PK)
		err := verify(key, c.Msg, c.Sig)
		v, other := cose.NewVerifier(cose.AlgorithmEdDSA, ed25519.PublicKey(key[:]))
		if other == nil {
			other = v.Verify(c.Msg, c.Sig)
		}
		if (other == nil) != (err == nil) {
			return fmt.Errorf("a bare signature: %v, COSE's: %v", err, other)
		}
		return c.Judge(err)
	})
}
