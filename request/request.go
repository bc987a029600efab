// Package request decides about openings: whether a request may be answered
// now, and whether an envelope falls within it (spec/opening.md). Keyholders,
// guards, openers and auditors call the same code, and each by itself.
//
// It also holds the formats of what an opener asks and a holder answers. The
// package is pure: the log's state and the time are parameters.
package request

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
)

var (
	// ErrWithdrawn means that the request was withdrawn.
	ErrWithdrawn = errors.New("the request was withdrawn")
	// ErrExpired means that the request's time is over.
	ErrExpired = errors.New("the request has expired")
	// ErrRefused means that an approver has refused the request.
	ErrRefused = errors.New("an approver refused the request")
	// ErrVeto means that the policy's time for a veto is not over.
	ErrVeto = errors.New("the time for a veto is not over")
	// ErrScope means that an envelope is not one that the request names. The
	// error is an *OutOfScope.
	ErrScope = errors.New("outside the request's scope")
	// ErrApprovals means that fewer approvers than needed have approved. The
	// error is a *TooFewApprovals.
	ErrApprovals = errors.New("too few approvals")
)

// TooFewApprovals matches ErrApprovals.
type TooFewApprovals struct{ Have, Need int }

// Error implements error.
func (e *TooFewApprovals) Error() string {
	return fmt.Sprintf("%d of %d approvals: %v", e.Have, e.Need, ErrApprovals)
}

// Is reports that e is an ErrApprovals.
func (e *TooFewApprovals) Is(target error) bool { return target == ErrApprovals }

// OutOfScope matches ErrScope and names the envelope.
type OutOfScope struct {
	Core   codec.Hash
	Reason string
}

// Error implements error.
func (e *OutOfScope) Error() string {
	return fmt.Sprintf("envelope %s: %s: %v", e.Core.Short(), e.Reason, ErrScope)
}

// Is reports that e is an ErrScope.
func (e *OutOfScope) Is(target error) bool { return target == ErrScope }

// Details is what requester, approvers and opener see in clear, and keyholders,
// guards and the server as a salted hash.
type Details struct {
	_          struct{} `cbor:",toarray"`
	Salt       [32]byte
	Title      string   // at most 256 bytes
	Purpose    string   // at most 4,096 bytes
	LegalBasis string   // at most 4,096 bytes
	Terms      []string // at most 64, of at most 256 bytes; a record matches if it has any
}

// NewDetails salts details from rand.
func NewDetails(rand io.Reader, title, purpose, legalBasis string, terms []string) (*Details, error) {
	d := &Details{Title: title, Purpose: purpose, LegalBasis: legalBasis, Terms: terms}
	if _, err := io.ReadFull(rand, d.Salt[:]); err != nil {
		return nil, fmt.Errorf("couldn't draw a salt: %w", err)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// maxDetails bounds encoded details in bytes.
const maxDetails = 32 + 256 + 2*4096 + 64*256 + 512

// ParseDetails reads encoded details. It returns codec.ErrEncoding or
// codec.ErrSize, wrapped.
func ParseDetails(data []byte) (*Details, error) {
	if len(data) > maxDetails {
		return nil, fmt.Errorf("request details of %d bytes: %w", len(data), codec.ErrSize)
	}
	var d Details
	if err := codec.Decode(data, &d); err != nil {
		return nil, fmt.Errorf("request details: %w", err)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return &d, nil
}

func (d *Details) check() error {
	if len(d.Title) > 256 || len(d.Purpose) > 4096 || len(d.LegalBasis) > 4096 || len(d.Terms) > 64 {
		return fmt.Errorf("request details: %w", codec.ErrSize)
	}
	for _, t := range d.Terms {
		if t == "" || len(t) > 256 {
			return fmt.Errorf("a term has 1 to 256 bytes: %w", codec.ErrSize)
		}
	}
	for _, text := range append([]string{d.Title, d.Purpose, d.LegalBasis}, d.Terms...) {
		if !utf8.ValidString(text) {
			return fmt.Errorf("request details: text that is not UTF-8: %w", codec.ErrEncoding)
		}
	}
	return nil
}

// Encode returns the details' encoding.
func (d *Details) Encode() []byte { return codec.Encode(d) }

// Hash returns H("details", encoding), which the request's leaf carries.
func (d *Details) Hash() codec.Hash { return codec.Sum("details", d.Encode()) }

// Ready decides whether a request may be answered at a time in milliseconds
// since 1970 under a policy (see control.State.PolicyFor). It returns
// ErrWithdrawn, ErrExpired, ErrRefused, ErrVeto or a *TooFewApprovals. An
// approval counts while its signer is an approver, and has been one for 72
// hours or since the genesis leaf; a refusal counts for ever.
func Ready(r *control.RequestState, policy *control.Policy, now int64) error {
	if r.Withdrawn != control.Never {
		return ErrWithdrawn
	}
	if now > r.Expiry {
		return fmt.Errorf("%w at %s", ErrExpired, time.UnixMilli(r.Expiry).UTC().Format(time.RFC3339))
	}
	approved := map[codec.ID]bool{}
	newest := int64(0)
	for _, a := range r.Approvals {
		if a.Decision == control.Refuse {
			return ErrRefused
		}
		// The log's replay refused an approval by the requester; an auditor of
		// this function need not take that on trust.
		if a.Decision == control.Approve && a.Member != r.Member && now >= a.Counts && (a.Lapsed == 0 || now < a.Lapsed) {
			approved[a.Member] = true
			newest = max(newest, a.Time)
		}
	}
	if need := max(1, int(policy.Approvals)); len(approved) < need {
		return &TooFewApprovals{Have: len(approved), Need: need}
	}
	if now < newest+int64(policy.VetoSeconds)*1000 {
		return ErrVeto
	}
	return nil
}

// Within decides whether an envelope that was checked falls within the scope of
// a request in a phase: its kind, day and conversation, and a custodian among
// the members of its epoch. It returns an *OutOfScope.
func Within(s *control.State, r *control.RequestState, phase control.Phase, m *manifest.Manifest, roster manifest.Roster) error {
	out := func(reason string) error { return &OutOfScope{Core: m.CoreHash(), Reason: reason} }
	h := m.Header
	switch {
	case phase == control.PhaseIndex && !r.Search:
		return out("the request allows no search")
	case phase == control.PhaseIndex && h.Kind != envelope.KindIndex:
		return out("a search opens index envelopes first")
	case phase == control.PhaseRecord && h.Kind != envelope.KindRecord && h.Kind != envelope.KindCapture:
		return out("kind " + h.Kind.String())
	case phase != control.PhaseIndex && phase != control.PhaseRecord:
		return out("unknown phase")
	case h.Day < r.FromDay || h.Day > r.ToDay:
		return out("its day is not among those requested")
	case len(r.Conversations) > 0 && !slices.Contains(r.Conversations, h.Conversation):
		return out("its conversation is not among those requested")
	}
	// Custodian ids may be many; the roster is what we walk.
	custodians := make(map[codec.ID]bool, len(r.Custodians))
	for _, c := range r.Custodians {
		custodians[c] = true
	}
	for _, d := range roster {
		if device, ok := s.Device(d); ok && custodians[device.Member] {
			return nil
		}
	}
	return out("no custodian was in the conversation")
}
