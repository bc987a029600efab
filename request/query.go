package request

import (
	"bytes"
	"crypto/hpke"
	"fmt"
	"strings"

	"chancery/codec"
	"chancery/control"
	"chancery/manifest"

	"golang.org/x/mod/sumdb/tlog"
)

// Bounds of a query.
const (
	MaxItems   = 20_000   // envelopes in one query
	MaxQuery   = 64 << 20 // bytes of one query
	MaxUses    = 8        // uses a request, phase and holder
	maxMessage = 4096     // bytes of a refusal's reason
)

const (
	labelQuery   = "query"
	labelAnswer  = "answer"
	labelRefusal = "holder-refusal"
)

// Proof shows that an object's leaf is in the messages log.
type Proof struct {
	_       struct{} `cbor:",toarray"`
	Index   int64
	Opening manifest.Opening
	Hashes  []tlog.Hash // inclusion proof in the query's checkpoint
}

// Roster shows who was in a conversation at an epoch.
type Roster struct {
	_       struct{} `cbor:",toarray"`
	Commit  []byte   // signed commit statement
	Proof   Proof
	Devices manifest.Roster
}

// Item is one envelope asked about. A keyholder gets the 65 bytes of E, a guard
// all 1,153 of enc; neither gets the ciphertext.
type Item struct {
	_             struct{} `cbor:",toarray"`
	Manifest      []byte
	Encapsulation []byte
	Proof         Proof
}

// Query is what an opener asks one holder. The items are the whole set of the
// request, phase and opener: a later query repeats them and adds.
type Query struct {
	_          struct{} `cbor:",toarray"`
	Request    codec.Hash
	Phase      control.Phase
	Opener     codec.Hash
	Guard      bool
	Holder     uint8  // index from 1
	Checkpoint []byte // of the messages log, witnessed
	Rosters    []Roster
	Items      []Item
	Proofs     bool // a keyholder proves its answers by DLEQ: where no quorum opens
}

// SignQuery returns the encoded query, signed by the opener.
func SignQuery(opener codec.Signer, q *Query) ([]byte, error) {
	return opener.Sign1(labelQuery, codec.Encode(q))
}

// ParseQuery reads a query without checking its signature: it names the opener
// whose key the control log has.
func ParseQuery(raw []byte) (*Query, error) {
	if len(raw) > MaxQuery {
		return nil, fmt.Errorf("query of %d bytes: %w", len(raw), codec.ErrSize)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the query: %w", err)
	}
	var q Query
	if err := codec.Decode(payload, &q); err != nil {
		return nil, fmt.Errorf("couldn't read the query: %w", err)
	}
	if len(q.Items) == 0 || len(q.Items) > MaxItems || len(q.Rosters) > MaxItems {
		return nil, fmt.Errorf("query of %d envelopes and %d rosters: %w", len(q.Items), len(q.Rosters), codec.ErrSize)
	}
	return &q, nil
}

// VerifyQuery checks the opener's signature over an encoded query.
func VerifyQuery(opener codec.PublicKey, raw []byte) error {
	_, err := codec.Open1(opener, labelQuery, raw)
	return err
}

// Answer is a holder's answer: sealed to the opener, signed by the holder.
type Answer struct {
	_      struct{}   `cbor:",toarray"`
	Use    codec.Hash // the use leaf under which it was given
	Guard  bool
	Holder uint8
	Sealed []byte // HPKE enc (1,120 bytes) ‖ ciphertext of a Parts
}

// Parts is what an answer seals: one entry an item, in the query's order.
type Parts struct {
	_      struct{} `cbor:",toarray"`
	Parts  [][]byte // 65 bytes of a keyholder (its partial), 32 of a guard (shared secret) or 0 where it withholds it
	Proofs [][]byte // of a keyholder 64 bytes each (DLEQ) where the query asked; of a guard that withholds, Withheld or empty; else none
}

// Withheld returns what a guard signs in place of a secret where a manifest's tag
// doesn't verify under it (spec/opening.md#withheld): H("withheld" ‖ H(manifest) ‖
// enc), 32 bytes. It names what the guard was asked about, since a guard can't
// tell that from what was archived, and its opener may be a liar.
func Withheld(manifest codec.Hash, enc []byte) []byte {
	h := codec.Sum("withheld", manifest[:], enc)
	return h[:]
}

// Withholds reports whether a guard's answer withholds the secret of the item at
// a position, of a manifest and the 1,153 bytes of enc. An empty part alone
// doesn't say of what.
func (p *Parts) Withholds(position int, manifest codec.Hash, enc []byte) bool {
	return position < len(p.Parts) && position < len(p.Proofs) &&
		len(p.Parts[position]) == 0 && bytes.Equal(p.Proofs[position], Withheld(manifest, enc))
}

// ProofContext ties a keyholder's proof of an answer (Query.Proofs), and an
// opener's proof that an answer was wrong, to one envelope of one request:
// H("answer-proof", request ‖ H(core)), 32 bytes.
func ProofContext(request, core codec.Hash) []byte {
	h := codec.Sum("answer-proof", request[:], core[:])
	return h[:]
}

// Suite of answers and productions: MLKEM768-X25519, HKDF-SHA256, AES-256-GCM.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// answerInfo binds an answer to the request, the use leaf and the holder.
func answerInfo(request, use codec.Hash, guard bool, holder uint8) []byte {
	return codec.Encode([]any{"chancery/answer/v1", request, use, guard, holder})
}

// SealAnswer seals parts to the opener and signs the answer.
func SealAnswer(holder codec.Signer, opener *control.Opener, use codec.Hash, guard bool, index uint8, parts *Parts) ([]byte, error) {
	kem, kdf, aead := suite()
	key, err := kem.NewPublicKey(opener.Encrypt)
	if err != nil {
		return nil, fmt.Errorf("the opener's key: %w", err)
	}
	plain := codec.Encode(parts)
	defer clear(plain)
	sealed, err := hpke.Seal(key, kdf, aead, answerInfo(opener.Request, use, guard, index), plain)
	if err != nil {
		return nil, fmt.Errorf("couldn't seal the answer: %w", err)
	}
	return holder.Sign1(labelAnswer, codec.Encode(&Answer{Use: use, Guard: guard, Holder: index, Sealed: sealed}))
}

// OpenAnswer verifies a holder's answer and opens it with the opener's key. The
// answer says who gave it, under what use: the caller compares that with whom
// it asked and what the log has, since a holder may claim to be another. It
// returns codec.ErrSignature, codec.ErrEncoding, or hpke's error where the
// answer is for another request, use, holder or opener.
func OpenAnswer(holder codec.PublicKey, key hpke.PrivateKey, request codec.Hash, raw []byte) (*Answer, *Parts, error) {
	payload, err := codec.Open1(holder, labelAnswer, raw)
	if err != nil {
		return nil, nil, fmt.Errorf("answer: %w", err)
	}
	var a Answer
	if err := codec.Decode(payload, &a); err != nil {
		return nil, nil, fmt.Errorf("couldn't read the answer: %w", err)
	}
	_, kdf, aead := suite()
	plain, err := hpke.Open(key, kdf, aead, answerInfo(request, a.Use, a.Guard, a.Holder), a.Sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't open the answer: %w", err)
	}
	defer clear(plain)
	var parts Parts
	if err := codec.Decode(plain, &parts); err != nil {
		return nil, nil, fmt.Errorf("couldn't read the answer's parts: %w", err)
	}
	return &a, &parts, nil
}

// Refusal is a holder's signed no.
type Refusal struct {
	_       struct{} `cbor:",toarray"`
	Request codec.Hash
	Core    codec.Hash // the envelope it is about; zero where it is about the request
	Code    Code
	Reason  string
	Time    int64 // milliseconds since 1970, UTC
}

// Code says why, for programs.
type Code string

// The codes of a refusal.
const (
	CodeUnknown    Code = "unknown-request" // not on the witnessed log, or its opening is missing
	CodeApprovals  Code = "approvals"       // too few, refused, or in veto time
	CodeExpired    Code = "expired"
	CodeWithdrawn  Code = "withdrawn"
	CodeOpener     Code = "opener" // not the opener that the log names
	CodeScope      Code = "scope"
	CodeEnvelope   Code = "envelope" // signature, header, proof or inclusion is wrong
	CodeLimit      Code = "limit"    // count, uses or set
	CodeStale      Code = "stale"    // checkpoint or cosignatures too old, or the log rolled back
	CodeUnopened   Code = "unopened" // a sealed leaf's opening was withheld
	CodeDestroyed  Code = "destroyed"
	CodeMalformed  Code = "malformed"
	CodeInternal   Code = "internal"
	CodeIncomplete Code = "unwitnessed" // the use could not be logged and witnessed
)

// Error implements error, so that a refusal travels as one.
func (r *Refusal) Error() string { return fmt.Sprintf("refused (%s): %s", r.Code, r.Reason) }

// SignRefusal returns the encoded refusal, signed by the holder. A reason that is
// too long is cut.
func SignRefusal(holder codec.Signer, r *Refusal) ([]byte, error) {
	short := *r
	// An error's text may quote input; what is cut may be half a letter.
	short.Reason = strings.ToValidUTF8(r.Reason[:min(len(r.Reason), maxMessage)], "")
	return holder.Sign1(labelRefusal, codec.Encode(&short))
}

// OpenRefusal verifies a holder's refusal.
func OpenRefusal(holder codec.PublicKey, raw []byte) (*Refusal, error) {
	payload, err := codec.Open1(holder, labelRefusal, raw)
	if err != nil {
		return nil, fmt.Errorf("refusal: %w", err)
	}
	var r Refusal
	if err := codec.Decode(payload, &r); err != nil {
		return nil, fmt.Errorf("couldn't read the refusal: %w", err)
	}
	if len(r.Reason) > maxMessage || len(r.Code) > 64 {
		return nil, fmt.Errorf("refusal: %w", codec.ErrSize)
	}
	return &r, nil
}
