package manifest

import (
	"fmt"

	"chancery/codec"
)

const labelClaim = "keypackage"

// Claim is the server's signed word about a KeyPackage that it handed out: for
// which device, and where the control log stood. With a key in it that isn't
// the device's it convicts the server (package evidence).
type Claim struct {
	_           struct{}   `cbor:",toarray"`
	Device      codec.Hash // whose KeyPackage was asked for
	ControlSize int64      // leaves of the control log
	ControlRoot codec.Hash // its root at that size
	Package     codec.Hash // PackageHash of what was handed out
	Time        int64      // milliseconds since 1970, UTC
}

// PackageHash returns H("keypackage", the MLSMessage that carries it).
func PackageHash(keyPackage []byte) codec.Hash { return codec.Sum(labelClaim, keyPackage) }

// SignClaim returns the encoded, signed claim.
func SignClaim(server codec.Signer, c *Claim) ([]byte, error) {
	return server.Sign1(labelClaim, codec.Encode(c))
}

// OpenClaim verifies a claim under the organisation's receipt key. It returns
// codec.ErrSignature, codec.ErrEncoding, codec.ErrSize or ErrMalformed, wrapped.
func OpenClaim(server codec.PublicKey, raw []byte) (*Claim, error) {
	if err := bounded("claim", raw); err != nil {
		return nil, err
	}
	payload, err := codec.Open1(server, labelClaim, raw)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	var c Claim
	if err := codec.Decode(payload, &c); err != nil {
		return nil, fmt.Errorf("couldn't read the claim: %w", err)
	}
	if c.ControlSize < 1 || c.Time < 0 {
		return nil, fmt.Errorf("claim of no possible place: %w", ErrMalformed)
	}
	return &c, nil
}
