// Package report is what a recipient says of a message that was archived other
// than it was sent: a proof that needs no trust in whoever reports
// (spec/client.md#report). It carries the manifest, the server's receipt, and
// the seed and record that came with the message. Whoever has the control log
// seals again and sees the difference.
//
// The package is pure. A report discloses the record: it is kept, and sent, like
// the message itself.
package report

import (
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
)

// Version is the version of reports that this package makes.
const Version = 1

// MaxSize is the length of the longest encoded report in bytes. It is below
// envelope.MaxRecordSize, since a report is itself archived.
const MaxSize = envelope.MaxRecordSize

var (
	// ErrUnproven means that a report accuses nobody: the server or the device
	// has not signed what it carries, or the commitment doesn't open.
	ErrUnproven = errors.New("report proves nothing")
	// ErrHonest means that the envelope is the one that was sent.
	ErrHonest = errors.New("the envelope is the one that was sent")
	// ErrControl means that the control log at hand ends before the receipt.
	ErrControl = errors.New("control log is too short to judge by")
)

// Fault says what a verdict is about.
type Fault uint8

const (
	// FaultEnvelope: the archived envelope is another than seed, header and
	// record make.
	FaultEnvelope Fault = 1
	// FaultProof: the proof of knowledge is wrong, so that no keyholder answers.
	FaultProof Fault = 2
	// FaultTag: the tag under the ML-KEM secret is wrong, so that no guard
	// answers.
	FaultTag Fault = 3
	// FaultHeader: the device signed, and the server took, a header that the
	// control log forbids.
	FaultHeader Fault = 4
)

// String returns the fault in words.
func (f Fault) String() string {
	switch f {
	case FaultEnvelope:
		return "archived another message than it sent"
	case FaultProof:
		return "sent a wrong proof of knowledge"
	case FaultTag:
		return "sent a wrong tag under the ML-KEM secret"
	case FaultHeader:
		return "sent under a header that the control log forbids"
	}
	return fmt.Sprintf("unknown fault %d", uint8(f))
}

// Report is the evidence. For a FaultHeader seed and record may be missing.
type Report struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Target   codec.Hash // H(core) of the message
	Manifest []byte
	Receipt  []byte
	Seed     envelope.Seed
	Record   []byte // the bytes received
}

// New makes a report of a message.
func New(m *manifest.Manifest, receipt []byte, seed envelope.Seed, record []byte) *Report {
	return &Report{Version: Version, Target: m.CoreHash(), Manifest: m.Bytes(), Receipt: receipt, Seed: seed, Record: record}
}

// Encode returns the deterministic CBOR encoding, a CBOR array, so that an
// envelope of kind report commits to it as to any record.
func (r *Report) Encode() []byte { return codec.Encode(r) }

// Parse reads what Encode writes. It returns envelope.ErrVersion, codec.ErrSize
// or codec.ErrEncoding, wrapped, and judges nothing: Verify does.
func Parse(raw []byte) (*Report, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("report of %d bytes: %w", len(raw), codec.ErrSize)
	}
	var r Report
	if err := codec.Decode(raw, &r); err != nil {
		return nil, fmt.Errorf("couldn't read the report: %w", err)
	}
	if r.Version != Version {
		return nil, fmt.Errorf("report of version %d: %w", r.Version, envelope.ErrVersion)
	}
	return &r, nil
}

// Verdict names who is convicted, of what.
type Verdict struct {
	Fault        Fault
	Device       codec.Hash // of the sender
	Member       codec.ID
	Core         codec.Hash
	Conversation codec.ID
	Position     uint64 // in the conversation
	Leaf         int64  // in the messages log
	Time         int64  // of the receipt, milliseconds since 1970 UTC
	Server       bool   // the server is convicted too: it took what it must refuse
}

// Verify judges an encoded report by the control log. state must have been
// replayed to the receipt's size, and root returns the log's root at a size. It
// returns ErrUnproven, ErrHonest, ErrControl, or Parse's errors.
func Verify(state *control.State, root func(size int64) (codec.Hash, bool), raw []byte) (*Verdict, error) {
	r, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	unproven := func(err error) (*Verdict, error) { return nil, fmt.Errorf("%w: %w", ErrUnproven, err) }
	receipt, err := manifest.OpenReceipt(state.Genesis().ReceiptKey, r.Receipt)
	if err != nil {
		return unproven(err)
	}
	m, err := manifest.Parse(r.Manifest)
	if err != nil {
		return unproven(err)
	}
	body := &receipt.Opening.Body
	switch at, ok := root(body.ControlSize); {
	case body.ControlSize > state.Size() || !ok:
		return nil, fmt.Errorf("%w: %d leaves, the receipt speaks of %d", ErrControl, state.Size(), body.ControlSize)
	case at != body.ControlRoot:
		return unproven(errors.New("the receipt speaks of another control log"))
	case receipt.Object != m.Hash() || body.Kind != manifest.LeafMessage || body.Conversation != m.Header.Conversation:
		return unproven(errors.New("the receipt is another message's"))
	case r.Target != m.CoreHash():
		return unproven(errors.New("the target is another message"))
	}
	device, ok := state.Device(m.Header.Device)
	if !ok {
		return unproven(errors.New("no such device"))
	}
	if err := m.Verify(device.Key); err != nil {
		return unproven(err)
	}
	v := &Verdict{
		Device: m.Header.Device, Member: device.Member, Core: m.CoreHash(), Conversation: m.Header.Conversation,
		Position: body.Position, Leaf: receipt.Index, Time: body.Time,
	}
	_, month, err := state.CheckHeader(m.Header, body.ControlSize, body.Time)
	if err != nil {
		v.Fault, v.Server = FaultHeader, true
		return v, nil
	}
	public, err := month.PublicKey()
	if err != nil {
		return unproven(err)
	}
	switch err := envelope.Check(public, m.Core, &r.Seed, r.Record, &m.Proof, &m.Tag); {
	case err == nil:
		return nil, ErrHonest
	case errors.Is(err, envelope.ErrMismatch):
		v.Fault = FaultEnvelope
	case errors.Is(err, envelope.ErrProof):
		v.Fault = FaultProof
	case errors.Is(err, envelope.ErrTag):
		v.Fault = FaultTag
	default: // the commitment doesn't open, or can't be judged: whoever reports may have invented the rest
		return unproven(err)
	}
	return v, nil
}
