package envelope

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"filippo.io/bigmod"
	"filippo.io/nistec"

	"chancery/codec"
)

const (
	// ProofSize is the length in bytes of a Proof.
	ProofSize = 64
	// TagSize is the length in bytes of a tag under the ML-KEM secret.
	TagSize = sha256.Size
)

// Proof is a Schnorr proof of knowledge of an envelope's ephemeral key, bound to
// a core: x(R) ‖ z, 64 bytes (spec/envelope.md#proof).
type Proof [ProofSize]byte

// Secrets are what the sender knows of an envelope besides its seed: the
// ephemeral scalar and the ML-KEM shared secret. Its methods are safe for
// concurrent use until Erase.
type Secrets struct {
	e     [32]byte
	point [pointSize]byte // eG
	ss    [mlkemSecretSize]byte
	prk   [32]byte // of the seed
}

// Scalar returns e, 32 bytes. It tells every keyholder's only right answer, so
// that a wrong one can be named; it is a secret for as long as the record is.
func (s *Secrets) Scalar() []byte { return append([]byte{}, s.e[:]...) }

// SharedSecret returns ML-KEM's shared secret, 32 bytes: a guard's only right
// answer.
func (s *Secrets) SharedSecret() []byte { return append([]byte{}, s.ss[:]...) }

// Erase overwrites the secrets; s is of no use afterwards.
func (s *Secrets) Erase() { *s = Secrets{} }

// String hides the secrets from logs and error texts.
func (s *Secrets) String() string { return "secrets" }

// GoString hides the secrets from logs and error texts.
func (s *Secrets) GoString() string { return "secrets" }

// Prove returns the proof for the core of hash H(core). The nonce comes from
// seed and core, so that two cores under one seed never share it: with one nonce
// under two challenges anyone computes e.
func (s *Secrets) Prove(core codec.Hash) (Proof, error) {
	n := scalars().n
	wide := expand(s.prk[:], "pok", core[:], wideSize)
	defer clear(wide)
	k := scalar(wide)
	if k.IsZero() == 1 {
		return Proof{}, fmt.Errorf("nonce is zero: %w", ErrProof) // once in 2^256
	}
	r, err := nistec.NewP256Point().ScalarBaseMult(k.Bytes(n))
	if err != nil {
		return Proof{}, fmt.Errorf("couldn't multiply the base point: %w", err)
	}
	point := r.Bytes()
	// R is public, so the branch on its sign discloses nothing.
	if point[pointSize-1]&1 == 1 {
		k = bigmod.NewNat().ExpandFor(n).Sub(k, n)
		r.Negate(r)
		point = r.Bytes()
	}
	e, ok := parseScalar(s.e[:])
	if !ok || e.IsZero() == 1 {
		return Proof{}, fmt.Errorf("secrets are erased: %w", ErrProof)
	}
	z := e.Mul(challenge(s.point[:], point, core), n).Add(k, n)
	var p Proof
	copy(p[:32], point[1:33])
	copy(p[32:], z.Bytes(n))
	return p, nil
}

// challenge returns c = H("pok" ‖ E ‖ R ‖ H(core)) mod n, points uncompressed.
func challenge(e, r []byte, core codec.Hash) *bigmod.Nat {
	h := codec.Sum("pok", e, r, core[:])
	return scalar(h[:])
}

// CheckProof does what VerifyProof does, for someone who knows e: z - c·e is R's
// logarithm, which takes one multiplication of the base point.
func (s *Secrets) CheckProof(core codec.Hash, proof *Proof) error {
	n := scalars().n
	z, ok := parseScalar(proof[32:])
	if !ok {
		return ErrProof
	}
	r, err := liftX(proof[:32])
	if err != nil {
		return ErrProof
	}
	e, ok := parseScalar(s.e[:])
	if !ok || e.IsZero() == 1 {
		return fmt.Errorf("secrets are erased: %w", ErrProof)
	}
	k := z.Sub(e.Mul(challenge(s.point[:], r.Bytes(), core), n), n)
	got, err := nistec.NewP256Point().ScalarBaseMult(k.Bytes(n))
	if err != nil || got.Equal(r) != 1 {
		return ErrProof
	}
	return nil
}

// VerifyProof checks a proof against the ephemeral point E, 65 bytes, and
// H(core): zG = R + cE. It returns ErrProof. All of its inputs are public.
func VerifyProof(E []byte, core codec.Hash, proof *Proof) error {
	if len(E) != pointSize {
		return ErrProof
	}
	e, err := nistec.NewP256Point().SetBytes(E)
	if err != nil {
		return ErrProof
	}
	z, ok := parseScalar(proof[32:])
	if !ok {
		return ErrProof
	}
	r, err := liftX(proof[:32])
	if err != nil {
		return ErrProof
	}
	n := scalars().n
	left, err := nistec.NewP256Point().ScalarBaseMult(z.Bytes(n))
	if err != nil {
		return ErrProof
	}
	right, err := nistec.NewP256Point().ScalarMult(e, challenge(E, r.Bytes(), core).Bytes(n))
	if err != nil {
		return ErrProof
	}
	if left.Equal(right.Add(right, r)) != 1 {
		return ErrProof
	}
	return nil
}

// liftX returns the point of the given x, 32 bytes, whose y is even.
func liftX(x []byte) (*nistec.P256Point, error) {
	return nistec.NewP256Point().SetBytes(append([]byte{2}, x...))
}

// Tag returns HMAC-SHA256(HKDF(ss, "pqtag"), H(core)), 32 bytes: it binds the
// ML-KEM half to the core, as the proof binds the other.
func (s *Secrets) Tag(core codec.Hash) [TagSize]byte { return tag(s.ss[:], core) }

func tag(ss []byte, core codec.Hash) [TagSize]byte {
	prk := extract(ss)
	defer clear(prk)
	key := expand(prk, "pqtag", nil, 32)
	defer clear(key)
	mac := hmac.New(sha256.New, key)
	mac.Write(core[:])
	return [TagSize]byte(mac.Sum(nil))
}

// VerifyTag checks a tag with the 32-byte ML-KEM shared secret that a guard
// decapsulated, in constant time. It returns ErrTag.
func VerifyTag(ss []byte, core codec.Hash, want *[TagSize]byte) error {
	if len(ss) != mlkemSecretSize {
		return ErrTag
	}
	got := tag(ss, core)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return ErrTag
	}
	return nil
}
