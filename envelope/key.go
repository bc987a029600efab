package envelope

import (
	"bytes"
	"crypto/hpke"
	"fmt"

	"filippo.io/nistec"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
)

const (
	pointSize           = 65
	mlkemKeySize        = 1184
	mlkemCiphertextSize = 1088
	mlkemSecretSize     = 32
)

// PublicKey is an escrow public key: a P-256 point, whose private half is shared
// by keyholders, and the ML-KEM-768 key of a region, class and month, which
// guards hold. It holds both expanded, for sealing many envelopes; it is
// immutable and safe for concurrent use.
type PublicKey struct {
	point []byte // 65 bytes
	y     *nistec.P256Point
	mlkem []byte // 1184 bytes
	pq    *mlkem768.PublicKey
	hpke  hpke.PublicKey
}

// NewPublicKey returns the public key of an uncompressed P-256 point, 65 bytes,
// and an ML-KEM-768 encapsulation key, 1,184 bytes (FIPS 203 §7.2). It returns
// ErrKey for a point off the curve or at infinity, coefficients that are not
// reduced, and wrong sizes.
func NewPublicKey(point, mlkem []byte) (*PublicKey, error) {
	if len(point) != pointSize || len(mlkem) != mlkemKeySize {
		return nil, fmt.Errorf("point of %d and ML-KEM key of %d bytes: %w", len(point), len(mlkem), ErrKey)
	}
	k := &PublicKey{point: bytes.Clone(point), mlkem: bytes.Clone(mlkem), pq: new(mlkem768.PublicKey)}
	var err error
	if k.y, err = nistec.NewP256Point().SetBytes(k.point); err != nil {
		return nil, fmt.Errorf("point: %w", ErrKey)
	}
	if err := k.pq.Unpack(k.mlkem); err != nil {
		return nil, fmt.Errorf("ML-KEM key: %w", ErrKey)
	}
	leaveAVX(k.mlkem)
	// Two implementations must agree that the key is one.
	if k.hpke, err = hpke.MLKEM768P256().NewPublicKey(append(k.MLKEM(), k.point...)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return k, nil
}

// Point returns the uncompressed P-256 point, 65 bytes.
func (k *PublicKey) Point() []byte { return bytes.Clone(k.point) }

// MLKEM returns the ML-KEM-768 encapsulation key, 1,184 bytes.
func (k *PublicKey) MLKEM() []byte { return bytes.Clone(k.mlkem) }

// HPKE returns the key as crypto/hpke knows it.
func (k *PublicKey) HPKE() hpke.PublicKey { return k.hpke }
