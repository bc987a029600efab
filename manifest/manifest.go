// Package manifest is what stands beside an envelope: the device's signed
// statement of what it sent, the commits that say who was in the conversation,
// the server's receipt, and the leaves of the messages log that bind them
// (spec/manifest.md).
//
// It knows the order of bytes and who signed them. What a header may say, and
// whether a device was valid, is decided by those who also hold the control log.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/envelope"
)

// Domain labels of the signatures in this package.
const (
	labelManifest = "manifest"
	labelCommit   = "commit"
	labelReceipt  = "receipt"
	labelRefusal  = "refusal"
	labelVoid     = "void"
	labelAck      = "acknowledgement"
)

// Bounds, in bytes and items, of what a parser accepts.
const (
	MaxManifest = 64 << 10 // a manifest or commit statement, encoded
	MaxRoster   = 4096     // devices in one conversation

	maxStatement  = 64 << 10 // a receipt, refusal, void or acknowledgement, encoded
	maxTranscript = 64       // the longest hash of an MLS suite
	maxReason     = 512
)

// ErrMalformed means that bytes are not a structure of this package.
var ErrMalformed = errors.New("malformed")

// Transport is what a manifest says about the message's way: it may differ
// between retries of one core, so nothing in the core depends on it.
type Transport struct {
	_           struct{}     `cbor:",toarray"`
	Epoch       uint64       // MLS epoch of the ciphertext
	Roster      codec.Hash   // hash of the commit statement that lists the members of that epoch
	Ciphertexts []codec.Hash // one for a group message, one for each other device of a direct conversation: H("ciphertext", bytes)
	Index       codec.Hash   // index id: hash of the index envelope's core; zero where the kind has no tags
	Tokenizer   uint8        // version of the tokenizer; zero where there are no tags
	Tags        codec.Hash   // hash of the encoded tags; zero where there are none
	Capsule     codec.Hash   // reserved for proxy re-encryption; zero
}

// Manifest is the signed record of one envelope.
type Manifest struct {
	Core      *envelope.Core
	Header    *envelope.Header
	Proof     envelope.Proof
	Tag       [32]byte // pq tag
	Transport *Transport
	raw       []byte
	coreBytes []byte
}

type manifestBody struct {
	_         struct{} `cbor:",toarray"`
	Core      []byte
	Proof     envelope.Proof
	Tag       [32]byte
	Transport []byte
}

// Sign makes the manifest of a core, signed by the device.
func Sign(device codec.Signer, core *envelope.Core, proof envelope.Proof, tag [32]byte, t *Transport) (*Manifest, error) {
	body := codec.Encode(manifestBody{Core: core.Encode(), Proof: proof, Tag: tag, Transport: codec.Encode(t)})
	raw, err := device.Sign1(labelManifest, body)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign the manifest: %w", err)
	}
	return Parse(raw)
}

// Parse reads a manifest of at most MaxManifest bytes without checking its
// signature: the header names the device, and only the control log gives its
// key. Nothing may be acted on before Verify.
func Parse(raw []byte) (*Manifest, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes: %w", len(raw), codec.ErrSize)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the manifest: %w", err)
	}
	var body manifestBody
	if err := codec.Decode(payload, &body); err != nil {
		return nil, fmt.Errorf("couldn't read the manifest's body: %w", err)
	}
	core, err := envelope.ParseCore(body.Core)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the manifest's core: %w", err)
	}
	header, err := envelope.ParseHeader(core.Header)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the manifest's header: %w", err)
	}
	var t Transport
	if err := codec.Decode(body.Transport, &t); err != nil {
		return nil, fmt.Errorf("couldn't read the manifest's transport: %w", err)
	}
	if !t.Capsule.IsZero() {
		return nil, fmt.Errorf("manifest with a capsule: %w", ErrMalformed)
	}
	return &Manifest{
		Core: core, Header: header, Proof: body.Proof, Tag: body.Tag, Transport: &t,
		raw: bytes.Clone(raw), coreBytes: body.Core,
	}, nil
}

// Verify checks the device's signature. It returns codec.ErrSignature.
func (m *Manifest) Verify(device codec.PublicKey) error {
	_, err := codec.Open1(device, labelManifest, m.raw)
	return err
}

// Bytes returns the encoded, signed manifest. The caller must not change it.
func (m *Manifest) Bytes() []byte { return m.raw }

// Hash returns H("manifest", bytes).
func (m *Manifest) Hash() codec.Hash { return codec.Sum("manifest", m.raw) }

// CoreHash returns H(core), the name of the envelope everywhere.
func (m *Manifest) CoreHash() codec.Hash { return m.Core.Hash() }

// CiphertextHash names an end-to-end ciphertext in a Transport.
func CiphertextHash(ciphertext []byte) codec.Hash { return codec.Sum("ciphertext", ciphertext) }

// AuthenticatedData is what an end-to-end message authenticates beside its
// text: the hash of the list of H(core), one for each archive, one in v1.
func AuthenticatedData(core codec.Hash) []byte {
	h := codec.Sum("archive-list", codec.Encode([]codec.Hash{core}))
	return h[:]
}

// Roster is the devices in a conversation at one epoch: hashes of their
// control leaves, ascending, distinct.
type Roster []codec.Hash

// NewRoster sorts and de-duplicates devices.
func NewRoster(devices []codec.Hash) Roster {
	r := slices.Clone(devices)
	slices.SortFunc(r, func(a, b codec.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(r)
}

// Root returns H("roster", device hashes in order).
func (r Roster) Root() codec.Hash {
	parts := make([][]byte, len(r))
	for i := range r {
		parts[i] = r[i][:]
	}
	return codec.Sum("roster", parts...)
}

// Contains reports whether device is in the roster.
func (r Roster) Contains(device codec.Hash) bool {
	_, ok := slices.BinarySearchFunc(r, device, func(a, b codec.Hash) int { return bytes.Compare(a[:], b[:]) })
	return ok
}

// Validate reports ErrMalformed unless the roster is ascending, distinct, not
// empty and of at most MaxRoster devices.
func (r Roster) Validate() error {
	if len(r) == 0 || len(r) > MaxRoster {
		return fmt.Errorf("roster of %d devices: %w", len(r), ErrMalformed)
	}
	for i := 1; i < len(r); i++ {
		if bytes.Compare(r[i-1][:], r[i][:]) >= 0 {
			return fmt.Errorf("roster not in ascending order: %w", ErrMalformed)
		}
	}
	return nil
}

// Commit is a member's statement of an epoch: every member compares it with its
// own group, or in a direct conversation with the control log, before it lives
// in that epoch, so that a keyholder may take the roster from it.
type Commit struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Conversation codec.ID
	Epoch        uint64
	Device       codec.Hash // the committer's control leaf
	Transcript   []byte     // confirmed transcript hash (RFC 9420 §8.2), 32 bytes; empty at epoch 0 and in a direct conversation
	Roster       codec.Hash // root of the roster
	Previous     codec.Hash // statement of the epoch before; zero at epoch 0
	Message      codec.Hash // H("ciphertext", MLS commit), zero at epoch 0; in a direct conversation Direct.Hash
}

// SignCommit returns the encoded, signed statement.
func SignCommit(device codec.Signer, c *Commit) ([]byte, error) {
	return device.Sign1(labelCommit, codec.Encode(c))
}

// ParseCommit reads a statement without checking its signature.
func ParseCommit(raw []byte) (*Commit, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("commit statement of %d bytes: %w", len(raw), codec.ErrSize)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the commit statement: %w", err)
	}
	var c Commit
	if err := codec.Decode(payload, &c); err != nil {
		return nil, fmt.Errorf("couldn't read the commit statement's body: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, nil
}

// check keeps epochs in one chain: the first has nothing before it, every other
// names what it follows.
func (c *Commit) check() error {
	first := c.Epoch == 0
	if len(c.Transcript) > maxTranscript {
		return fmt.Errorf("transcript hash of %d bytes: %w", len(c.Transcript), ErrMalformed)
	}
	if c.Previous.IsZero() != first || !c.Direct() && (c.Message.IsZero() != first || (len(c.Transcript) == 0) != first) {
		return fmt.Errorf("commit statement of epoch %d doesn't name the epoch before as it should: %w", c.Epoch, ErrMalformed)
	}
	return nil
}

// VerifyCommit checks the committer's signature over an encoded statement.
func VerifyCommit(device codec.PublicKey, raw []byte) error {
	_, err := codec.Open1(device, labelCommit, raw)
	return err
}

// CommitHash names a commit statement.
func CommitHash(raw []byte) codec.Hash { return codec.Sum("commit", raw) }
