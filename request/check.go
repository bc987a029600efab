package request

import (
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/ledger"
	"chancery/manifest"
)

// Log is what items are checked against: the organisation's replayed state, the
// roots of its control log, and a witnessed checkpoint of its messages log.
type Log struct {
	State    *control.State
	Root     func(size int64) (codec.Hash, bool) // root of the control log at a size
	Messages ledger.Checkpoint
}

// CheckProof checks that the object's leaf is in the messages log and that its
// receipt speaks of this organisation's control log, as it was when the object
// was received.
func (l *Log) CheckProof(object codec.Hash, kind manifest.LeafKind, p *Proof) error {
	body := &p.Opening.Body
	if body.Kind != kind {
		return fmt.Errorf("leaf of a %s where a %s was expected", body.Kind, kind)
	}
	leaf := p.Opening.Leaf(object)
	if err := ledger.CheckInclusion(p.Hashes, l.Messages.Size, l.Messages.Root, p.Index, leaf[:]); err != nil {
		return fmt.Errorf("leaf %d: %w", p.Index, err)
	}
	if body.ControlSize < 1 || body.ControlSize > l.State.Size() {
		return fmt.Errorf("receipted at control size %d, replayed to %d", body.ControlSize, l.State.Size())
	}
	if root, ok := l.Root(body.ControlSize); !ok || root != body.ControlRoot {
		return fmt.Errorf("receipted under another control log at size %d", body.ControlSize)
	}
	if err := l.State.CheckReceived(body.ControlSize, body.Time); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}

// Epoch is a conversation's epoch as a checked commit statement has it.
type Epoch struct {
	manifest.Commit
	Devices manifest.Roster
}

// CheckRoster checks a commit statement, its place in the log, its signer and
// the list of devices, and returns the epoch and the statement's hash.
func (l *Log) CheckRoster(r *Roster) (*Epoch, codec.Hash, error) {
	none := codec.Hash{}
	hash := manifest.CommitHash(r.Commit)
	commit, err := manifest.ParseCommit(r.Commit)
	if err != nil {
		return nil, none, err
	}
	if err := l.CheckProof(hash, manifest.LeafCommit, &r.Proof); err != nil {
		return nil, none, fmt.Errorf("commit statement %s: %w", hash.Short(), err)
	}
	body := &r.Proof.Opening.Body
	device, err := l.State.CheckDevice(commit.Device, body.ControlSize, body.Time)
	if err != nil {
		return nil, none, fmt.Errorf("commit statement %s: %w", hash.Short(), err)
	}
	if err := manifest.VerifyCommit(device.Key, r.Commit); err != nil {
		return nil, none, fmt.Errorf("commit statement %s: %w", hash.Short(), err)
	}
	if commit.Organisation != l.State.Organisation() || commit.Conversation != body.Conversation {
		return nil, none, fmt.Errorf("commit statement %s: of another organisation or conversation", hash.Short())
	}
	if err := r.Devices.Validate(); err != nil {
		return nil, none, err
	}
	if r.Devices.Root() != commit.Roster {
		return nil, none, fmt.Errorf("commit statement %s: the roster is another", hash.Short())
	}
	return &Epoch{Commit: *commit, Devices: r.Devices}, hash, nil
}

// CheckManifest checks everything about one envelope but its scope: place in
// the log, device and signature, header, epoch and roster, proof of knowledge of e
// (65 bytes, uncompressed).
func (l *Log) CheckManifest(raw []byte, p *Proof, e []byte, epochs map[codec.Hash]*Epoch) (*manifest.Manifest, error) {
	m, err := l.CheckNeighbour(raw, p, epochs)
	if err != nil {
		return nil, err
	}
	if err := envelope.VerifyProof(e, m.CoreHash(), &m.Proof); err != nil {
		return nil, fmt.Errorf("envelope %s: %w", m.CoreHash().Short(), err)
	}
	return m, nil
}

// CheckNeighbour is CheckManifest without the proof of knowledge, for an envelope
// that nobody opens and that only shows that nothing is missing beside it.
func (l *Log) CheckNeighbour(raw []byte, p *Proof, epochs map[codec.Hash]*Epoch) (*manifest.Manifest, error) {
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, err
	}
	body := &p.Opening.Body
	if err := l.CheckProof(m.Hash(), manifest.LeafMessage, p); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.CoreHash().Short(), err)
	}
	device, _, err := l.State.CheckHeader(m.Header, body.ControlSize, body.Time)
	if err != nil {
		return nil, fmt.Errorf("envelope %s: %w", m.CoreHash().Short(), err)
	}
	if err := m.Verify(device.Key); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.CoreHash().Short(), err)
	}
	if m.Header.Conversation != body.Conversation {
		return nil, fmt.Errorf("envelope %s: receipted in another conversation", m.CoreHash().Short())
	}
	epoch, ok := epochs[m.Transport.Roster]
	if !ok || epoch.Conversation != m.Header.Conversation || epoch.Epoch != m.Transport.Epoch {
		return nil, fmt.Errorf("envelope %s: no roster of its conversation and epoch", m.CoreHash().Short())
	}
	if !epoch.Devices.Contains(m.Header.Device) {
		return nil, fmt.Errorf("envelope %s: its device was not in the conversation", m.CoreHash().Short())
	}
	return m, nil
}

// Receipt times of envelopes, in milliseconds about their day, that
// control.State.CheckHeader allows.
const (
	milliDay  = 86_400_000
	dayBefore = 72 * 3_600_000 // a message may be received this long after its day
	dayAfter  = 10 * 60_000    // and this long before it
)

// Window returns the receipt times, from lo up to but not hi, in milliseconds
// since 1970, that an envelope of the requested days can have: a conversation is
// shown complete for these days where all that it received then is shown.
func Window(r *control.Request) (lo, hi int64) {
	return int64(r.FromDay)*milliDay - dayAfter, (int64(r.ToDay)+1)*milliDay + dayBefore
}
