package quorum

import (
	"bytes"
	"fmt"
	"slices"

	"chancery/codec"

	"filippo.io/bigmod"
)

const (
	labelDLEQ       = "quorum/dleq"
	labelPossession = "quorum/possession"
)

// ProofSize is the length in bytes of a DLEQ and of a proof of possession:
// challenge ‖ response.
const ProofSize = 2 * ScalarSize

// DLEQ proves that two points have the same discrete logarithm to two bases,
// without disclosing it (Chaum and Pedersen, made non-interactive as in
// spec/quorum.md#equality): challenge ‖ response, 64 bytes, in CBOR a byte
// string.
type DLEQ [ProofSize]byte

// statement says that one x has public1 = x·base1 and public2 = x·base2.
type statement struct{ base1, public1, base2, public2 Point }

func (s *statement) bytes() []byte {
	return slices.Concat(s.base1[:], s.public1[:], s.base2[:], s.public2[:])
}

// VerifyDLEQ checks that one scalar takes base1 to pub1 and base2 to pub2. It
// returns ErrPoint where one of them is no point, and ErrProof where the proof
// is for something else, for another context, or not canonical. Its time
// depends on its arguments, which are public.
func VerifyDLEQ(base1, pub1, base2, pub2 Point, context []byte, proof DLEQ) error {
	c, z, err := parseProof(proof)
	if err != nil {
		return err
	}
	s := statement{base1, pub1, base2, pub2}
	r1, err := recommit(base1, pub1, c, z)
	if err != nil {
		return err
	}
	r2, err := recommit(base2, pub2, c, z)
	if err != nil {
		return err
	}
	h := codec.Sum(labelDLEQ, s.bytes(), r1[:], r2[:], context)
	if !bytes.Equal(challenge(h).Bytes(order()), proof[:ScalarSize]) {
		return ErrProof
	}
	return nil
}

func prove(x []byte, s statement, context, hedge []byte) (DLEQ, error) {
	secret, err := parseScalar(x)
	if err != nil {
		return DLEQ{}, err
	}
	defer wipe(secret)
	// The statement is in the nonce: one nonce under two challenges is two
	// equations in two unknowns.
	h := codec.Sum(labelDLEQ, s.bytes(), context)
	ikm := slices.Concat(x, hedge)
	defer clear(ikm)
	k, err := derive(ikm, slices.Concat([]byte("dleq"), h[:]))
	if err != nil {
		return DLEQ{}, err
	}
	nonce := k.Bytes(order())
	defer wipe(k)
	defer clear(nonce)
	r1, err := scalarMult(s.base1, nonce)
	if err != nil {
		return DLEQ{}, err
	}
	r2, err := scalarMult(s.base2, nonce)
	if err != nil {
		return DLEQ{}, err
	}
	c := challenge(codec.Sum(labelDLEQ, s.bytes(), r1[:], r2[:], context))
	return DLEQ(append(c.Bytes(order()), response(k, c, secret)...)), nil
}

// provePossession shows knowledge of the discrete logarithm x of public, for
// one context. The nonce is derived, since a ceremony's participant must say
// the same thing after a restart (spec/quorum.md#possession).
func provePossession(x, nonce *bigmod.Nat, public Point, context []byte) ([ProofSize]byte, error) {
	r, err := ScalarBaseMult(nonce.Bytes(order()))
	if err != nil {
		return [ProofSize]byte{}, err
	}
	c := challenge(codec.Sum(labelPossession, public[:], r[:], context))
	return [ProofSize]byte(append(c.Bytes(order()), response(nonce, c, x)...)), nil
}

func verifyPossession(public Point, context []byte, proof [ProofSize]byte) error {
	c, z, err := parseProof(proof)
	if err != nil {
		return err
	}
	r, err := recommit(Generator(), public, c, z)
	if err != nil {
		return err
	}
	h := codec.Sum(labelPossession, public[:], r[:], context)
	if !bytes.Equal(challenge(h).Bytes(order()), proof[:ScalarSize]) {
		return ErrProof
	}
	return nil
}

// challenge reduces a hash modulo the order; what that loses of uniformity,
// 2^-32, is nothing for a challenge.
func challenge(h codec.Hash) *bigmod.Nat {
	c, err := bigmod.NewNat().SetOverflowingBytes(h[:], order())
	if err != nil {
		panic(err) // 32 bytes are never longer than the order
	}
	return c
}

// parseProof accepts numbers below the order alone, so that a proof has one
// encoding.
func parseProof(proof [ProofSize]byte) (c, z *bigmod.Nat, err error) {
	c, errC := bigmod.NewNat().SetBytes(proof[:ScalarSize], order())
	z, errZ := bigmod.NewNat().SetBytes(proof[ScalarSize:], order())
	if errC != nil || errZ != nil {
		return nil, nil, fmt.Errorf("%w: not canonical", ErrProof)
	}
	return c, z, nil
}

// recommit returns z·base - c·public, the commitment that a right proof began
// with.
func recommit(base, public Point, c, z *bigmod.Nat) (Point, error) {
	b, err := multiply(base, z.Bytes(order()))
	if err != nil {
		return Point{}, err
	}
	p, err := multiply(public, c.Bytes(order()))
	if err != nil {
		return Point{}, err
	}
	r, err := encode(b.Add(b, p.Negate(p)))
	if err != nil {
		return Point{}, ErrProof // an honest nonce is never zero
	}
	return r, nil
}
