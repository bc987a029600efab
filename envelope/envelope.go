// Package envelope makes, checks and opens the sealed audit copy of one
// message: its header, the commitment to its record, the HPKE ciphertext whose
// every byte follows from a seed and the header, the sender's proof that it
// knows the ephemeral key, and the tag under the ML-KEM secret
// (spec/envelope.md).
//
// An envelope is a plain HPKE ciphertext (RFC 9180) of the suite MLKEM768-P256,
// HKDF-SHA256, AES-256-GCM, so that crypto/hpke opens it with any private key,
// one held by a quorum and a guard included. Sealing is deterministic, so that
// whoever learns seed and record can seal again and compare.
//
// The package is pure: no clock, no network, no disk, no log; randomness enters
// through NewSeed alone. It doesn't decide whether a device may send, whether
// an escrow key is the right one, or whether a day is plausible. It doesn't hide
// the length of a record beyond Padmé, nor anything that the header says. Its
// multiplications by secret scalars take constant time; checks of public values
// don't. Sealing is refused under GODEBUG=fips140=only, which does not know
// derandomised encapsulation.
package envelope

import (
	"bytes"
	"crypto/fips140"
	"crypto/hpke"
	"crypto/subtle"
	"errors"
	"fmt"

	"chancery/codec"
)

var (
	// ErrVersion means a version, suite, kind or action that this package does
	// not know. It says nothing against the sender: the message is unverified.
	ErrVersion = errors.New("unknown version")
	// ErrCommitment means that the header's commitment does not open to the
	// given seed and record. It accuses nobody: whoever shows them may have
	// invented them.
	ErrCommitment = errors.New("commitment does not open to this seed and record")
	// ErrMismatch means that the commitment opens and the envelope named by the
	// core is still another than seed, header and record make: the sender
	// archived something else than it sent.
	ErrMismatch = errors.New("envelope is not the one that seed, header and record make")
	// ErrProof means that a proof of knowledge of the ephemeral key is wrong.
	ErrProof = errors.New("proof of knowledge of the ephemeral key does not verify")
	// ErrTag means that a tag under the ML-KEM secret is wrong.
	ErrTag = errors.New("tag under the ML-KEM secret does not verify")
	// ErrOpen means that an envelope does not open with a key and header.
	ErrOpen = errors.New("envelope does not open with this key and header")
	// ErrPadding means that an envelope opened to a plaintext that is not in its
	// one padded form.
	ErrPadding = errors.New("padding is not canonical")
	// ErrKey means that bytes are not a public key of the suite.
	ErrKey = errors.New("not a public key of the suite")
	// ErrFIPS means that GODEBUG=fips140=only forbids deterministic sealing.
	ErrFIPS = errors.New("deterministic sealing is not available under fips140=only")
)

const (
	// EncSize is the length in bytes of an encapsulation: an ML-KEM-768
	// ciphertext and an uncompressed P-256 point.
	EncSize = mlkemCiphertextSize + pointSize
	// MaxCiphertextSize is the length in bytes of the longest ciphertext, that of
	// a record of MaxRecordSize.
	MaxCiphertextSize = SeedSize + maxPaddedSize + gcmTagSize

	minCiphertextSize = SeedSize + lengthSize + gcmTagSize
	gcmTagSize        = 16
)

// Envelope is the sealed copy (spec/envelope.md#envelope).
type Envelope struct {
	_ struct{} `cbor:",toarray"`
	// Enc is the ML-KEM-768 ciphertext, 1,088 bytes, followed by the ephemeral
	// point E, 65 bytes.
	Enc []byte
	// Ciphertext is the AES-256-GCM ciphertext of seed and padded record, at most
	// MaxCiphertextSize bytes.
	Ciphertext []byte
}

// Encode returns the deterministic CBOR encoding of e.
func (e *Envelope) Encode() []byte { return codec.Encode(e) }

// Parse reads what Encode writes. It returns codec.ErrSize for more than the
// longest envelope and codec.ErrEncoding for what is no envelope: another
// encoding, an encapsulation of another size, a ciphertext of a length that
// Padmé does not make. It does not check that E is on the curve: VerifyProof
// and opening do.
func Parse(data []byte) (*Envelope, error) {
	if len(data) > EncSize+MaxCiphertextSize+16 {
		return nil, fmt.Errorf("envelope of %d bytes: %w", len(data), codec.ErrSize)
	}
	e := new(Envelope)
	if err := codec.Decode(data, e); err != nil {
		return nil, fmt.Errorf("couldn't read envelope: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Envelope) check() error {
	switch n := len(e.Ciphertext); {
	case len(e.Enc) != EncSize:
		return fmt.Errorf("encapsulation of %d bytes, want %d: %w", len(e.Enc), EncSize, codec.ErrEncoding)
	case e.Enc[mlkemCiphertextSize] != 4:
		return fmt.Errorf("ephemeral point is not uncompressed: %w", codec.ErrEncoding)
	case n > MaxCiphertextSize:
		return fmt.Errorf("ciphertext of %d bytes: %w", n, codec.ErrSize)
	case n < minCiphertextSize || !isPadded(n-SeedSize-gcmTagSize):
		return fmt.Errorf("ciphertext of %d bytes is not padded: %w", n, codec.ErrEncoding)
	}
	return nil
}

// Hash returns H("envelope" ‖ enc ‖ ciphertext), by which a core names the
// envelope. Enc has one size, so that the concatenation is unambiguous.
func (e *Envelope) Hash() codec.Hash { return codec.Sum("envelope", e.Enc, e.Ciphertext) }

// E returns the ephemeral point, 65 bytes, which keyholders get. It returns nil
// where Enc has the wrong size.
func (e *Envelope) E() []byte {
	if len(e.Enc) != EncSize {
		return nil
	}
	return bytes.Clone(e.Enc[mlkemCiphertextSize:])
}

// MLKEMCiphertext returns the ML-KEM-768 ciphertext, 1,088 bytes, which guards
// get. It returns nil where Enc has the wrong size.
func (e *Envelope) MLKEMCiphertext() []byte {
	if len(e.Enc) != EncSize {
		return nil
	}
	return bytes.Clone(e.Enc[:mlkemCiphertextSize])
}

// Seal makes the envelope of a record under an encoded header: all of its
// randomness comes from seed and header, so that equal inputs make equal bytes
// and no other header or record meets the same key and nonce
// (spec/envelope.md#sealing). The header's commitment must open to seed and
// record, else the error is ErrCommitment. The caller erases the Secrets.
//
// Seal does not change its arguments and keeps none of them.
func Seal(pub *PublicKey, header []byte, seed *Seed, record []byte) (*Envelope, *Secrets, error) {
	if fips140.Enforced() {
		return nil, nil, ErrFIPS
	}
	h, err := ParseHeader(header)
	if err != nil {
		return nil, nil, err
	}
	prk := seed.extract()
	defer clear(prk)
	c, err := commit(prk, record)
	if err != nil {
		return nil, nil, err
	}
	// A header that commits to something else would be an accusation of its own
	// sender, whom every recipient would call a liar.
	if c != h.Commitment {
		return nil, nil, ErrCommitment
	}

	coins := deriveCoins(prk, codec.Sum("header", header))
	defer coins.erase()
	enc, shared, secrets, err := encapsulate(pub, prk, coins)
	if err != nil {
		return nil, nil, err
	}
	defer clear(shared)
	aead, nonce, err := keySchedule(shared)
	if err != nil {
		secrets.Erase()
		return nil, nil, err
	}
	defer clear(nonce)
	plain := pad(seed, record)
	defer clear(plain)
	return &Envelope{Enc: enc, Ciphertext: aead.Seal(nil, nonce, plain, header)}, secrets, nil
}

// Check is what a recipient, an opener and an auditor do with a seed and record
// that they learnt: seal again and compare with the core that the manifest
// carries, the proof and the tag (spec/envelope.md#checking). The record is the
// bytes received, never a re-encoding of what they say.
//
// It returns ErrVersion for a header it does not know; codec.ErrEncoding,
// codec.ErrSize or ErrCommitment where the commitment does not open, which
// accuses nobody; and ErrMismatch, ErrProof or ErrTag where it opens and the
// sender is thereby convicted. The caller makes sure that pub is the key that
// the header names: with another, an honest sender looks guilty.
func Check(pub *PublicKey, core *Core, seed *Seed, record []byte, proof *Proof, tag *[TagSize]byte) error {
	env, secrets, err := Seal(pub, core.Header, seed, record)
	if err != nil {
		return err
	}
	defer secrets.Erase()
	if env.Hash() != core.Envelope {
		return ErrMismatch
	}
	h := core.Hash()
	if err := secrets.CheckProof(h, proof); err != nil {
		return err
	}
	want := secrets.Tag(h)
	if subtle.ConstantTimeCompare(want[:], tag[:]) != 1 {
		return ErrTag
	}
	return nil
}

// Reseal is Seal under the name of its other use: the check of a recipient, who
// compares the returned envelope's hash with the core. Check does all of it.
func Reseal(pub *PublicKey, header []byte, seed *Seed, record []byte) (*Envelope, *Secrets, error) {
	return Seal(pub, header, seed, record)
}

// Open opens an envelope with an HPKE private key, which may be a quorum and a
// guard, under the encoded header that its manifest carries. It returns ErrOpen
// where key, header and envelope don't belong together, and ErrPadding where
// the plaintext isn't in its one form. The seed and record it returns are not
// yet known to be what the sender sent to others: Check says that.
func Open(key hpke.PrivateKey, header []byte, env *Envelope) (*Seed, []byte, error) {
	if err := env.check(); err != nil {
		return nil, nil, err
	}
	r, err := hpke.NewRecipient(env.Enc, key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info))
	if err != nil {
		// The key may be remote; what it said matters to whoever asked it.
		return nil, nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	plain, err := r.Open(header, env.Ciphertext)
	if err != nil {
		return nil, nil, ErrOpen
	}
	defer clear(plain)
	return unpad(plain)
}
