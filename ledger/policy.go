package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrOrigin means that a checkpoint is of another log.
	ErrOrigin = errors.New("checkpoint of another log")
	// ErrLogSignature means that a checkpoint is not signed by its log.
	ErrLogSignature = errors.New("checkpoint not signed by its log")
	// ErrCosignature means that a line in a known witness's name does not
	// verify, which makes the whole note suspect.
	ErrCosignature = errors.New("cosignature does not verify")
	// ErrUnwitnessed means that too few witnesses have cosigned a checkpoint.
	// The error is an *Unwitnessed, which says how many of how many.
	ErrUnwitnessed = errors.New("not witnessed")
	// ErrStale means that a checkpoint was cosigned too long ago.
	ErrStale = errors.New("stale checkpoint")
	// ErrPolicy means that a Policy itself is unusable.
	ErrPolicy = errors.New("unusable witness policy")
	// ErrRollback means that a checkpoint is smaller than one already held.
	ErrRollback = errors.New("checkpoint rolls the log back")
)

// Unwitnessed says how many witnesses have cosigned, of how many needed. It
// matches ErrUnwitnessed.
type Unwitnessed struct {
	Origin string
	Size   int64
	Have   int
	Need   int
	Known  int // witnesses that the policy knows
}

// Error implements error.
func (e *Unwitnessed) Error() string {
	return fmt.Sprintf("checkpoint of %s at %d leaves: %d of %d required cosignatures (%d witnesses known): %v",
		e.Origin, e.Size, e.Have, e.Need, e.Known, ErrUnwitnessed)
}

// Is reports that e is an ErrUnwitnessed.
func (e *Unwitnessed) Is(target error) bool { return target == ErrUnwitnessed }

// Policy says who must have signed a checkpoint: the log, and at least Quorum
// different Witnesses. It is safe for concurrent use while nobody changes it.
type Policy struct {
	Log       LogKey
	Witnesses []WitnessKey
	Quorum    int
}

// Check returns ErrPolicy, wrapped, where the policy could never hold or would
// hold too easily: a quorum below one or above the number of witnesses, one
// name twice, one key twice (cosignature/v1 doesn't sign the name: a single
// cosignature would count twice), or the log's key as a witness's.
func (p *Policy) Check() error {
	if !validName(p.Log.Origin) {
		return fmt.Errorf("%w: origin %.120q", ErrPolicy, p.Log.Origin)
	}
	if p.Quorum < 1 || p.Quorum > len(p.Witnesses) {
		return fmt.Errorf("%w: %d of %d witnesses", ErrPolicy, p.Quorum, len(p.Witnesses))
	}
	for i, w := range p.Witnesses {
		if !validName(w.Name) || w.Key == p.Log.Key {
			return fmt.Errorf("%w: witness %.120q", ErrPolicy, w.Name)
		}
		for _, other := range p.Witnesses[:i] {
			if w.Name == other.Name || w.Key == other.Key {
				return fmt.Errorf("%w: witness %.120q is there twice", ErrPolicy, w.Name)
			}
		}
	}
	return nil
}

// Cosignature says that a witness held a checkpoint to be the log's largest
// at Time.
type Cosignature struct {
	Witness string
	Time    time.Time
}

// Cosigned is a checkpoint that a Policy accepted.
type Cosigned struct {
	Checkpoint
	// Cosignatures has one element for each different known witness whose
	// cosignature verified, newest first.
	Cosignatures []Cosignature
	// Note is the signed note as it was verified, to be kept as evidence.
	Note []byte

	quorum int
}

// Newest returns the time of the newest cosignature. One lying witness can
// set it: to judge freshness use Time.
func (c *Cosigned) Newest() time.Time { return c.nth(1) }

// Oldest returns the time of the oldest cosignature counted.
func (c *Cosigned) Oldest() time.Time { return c.nth(len(c.Cosignatures)) }

// Time returns the latest time that a whole quorum vouches for: as many
// cosignatures as the policy asked for are of that time or later, so that
// fewer lying clocks cannot make a checkpoint look fresh.
func (c *Cosigned) Time() time.Time { return c.nth(c.quorum) }

func (c *Cosigned) nth(n int) time.Time {
	if n < 1 || n > len(c.Cosignatures) {
		return time.Time{}
	}
	return c.Cosignatures[n-1].Time
}

// Fresh returns ErrStale, wrapped, unless a quorum cosigned within maxAge of
// now. Cosignatures more than maxAge in the future are not counted.
func (c *Cosigned) Fresh(now time.Time, maxAge time.Duration) error {
	n := 0
	for _, s := range c.Cosignatures {
		if age := now.Sub(s.Time); age <= maxAge && age >= -maxAge {
			n++
		}
	}
	if c.quorum < 1 || n < c.quorum {
		return fmt.Errorf("%s at %d leaves was cosigned by its quorum at %s, over %s from now: %w",
			c.Origin, c.Size, c.Time().UTC().Format(time.RFC3339), maxAge, ErrStale)
	}
	return nil
}

// Verify accepts a signed note that is a checkpoint of the policy's log, signed
// by it and by at least Quorum different witnesses. Lines of unknown keys are
// ignored. It returns, wrapped, ErrPolicy, ErrMalformed, ErrOrigin,
// ErrLogSignature, ErrCosignature or an *Unwitnessed.
//
// It does not compare with what was accepted before: Extend and Follower do.
func (p *Policy) Verify(signed []byte) (*Cosigned, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	c, err := p.open(signed)
	if err != nil {
		return nil, err
	}
	if len(c.Cosignatures) < p.Quorum {
		return nil, &Unwitnessed{Origin: c.Origin, Size: c.Size, Have: len(c.Cosignatures), Need: p.Quorum, Known: len(p.Witnesses)}
	}
	return c, nil
}

// OpenUnwitnessed accepts a checkpoint on its log's signature alone. A log can
// sign as many histories as it likes: this is for witnesses, and for a log
// that reads back its own. It returns, wrapped, ErrMalformed, ErrOrigin,
// ErrLogSignature.
func OpenUnwitnessed(log LogKey, signed []byte) (Checkpoint, error) {
	c, err := (&Policy{Log: log}).open(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	return c.Checkpoint, nil
}

// open checks the log's signature and collects the cosignatures that verify,
// however few.
func (p *Policy) open(signed []byte) (*Cosigned, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return nil, err
	}
	if c.Origin != p.Log.Origin {
		return nil, fmt.Errorf("%.120q, not %.120q: %w", c.Origin, p.Log.Origin, ErrOrigin)
	}
	logVerifier := p.Log.Verifier()
	known := []note.Verifier{logVerifier}
	for _, w := range p.Witnesses {
		known = append(known, w.Verifier())
	}
	// Open verifies each known key's first line and drops its repetitions, so
	// that a witness counts once.
	n, err := note.Open(signed, note.VerifierList(known...))
	var invalid *note.InvalidSignatureError
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &invalid) && invalid.Name == logVerifier.Name() && invalid.Hash == logVerifier.KeyHash():
		return nil, fmt.Errorf("%s at %d leaves: %w", c.Origin, c.Size, ErrLogSignature)
	case errors.As(err, &invalid):
		return nil, fmt.Errorf("witness %s: %w", invalid.Name, ErrCosignature)
	case errors.As(err, &unverified):
		return nil, fmt.Errorf("%s at %d leaves: %w", c.Origin, c.Size, ErrLogSignature)
	case err != nil:
		return nil, fmt.Errorf("signed note: %v: %w", err, ErrMalformed)
	}
	byLog := false
	out := &Cosigned{Checkpoint: c, Note: slices.Clone(signed), quorum: p.Quorum}
	for _, s := range n.Sigs {
		if s.Name == logVerifier.Name() && s.Hash == logVerifier.KeyHash() {
			byLog = true
			continue
		}
		raw, err := decode64(s.Base64)
		if err != nil || len(raw) != 4+cosignatureSize {
			return nil, fmt.Errorf("witness %s: %w", s.Name, ErrCosignature)
		}
		t := binary.BigEndian.Uint64(raw[4:])
		out.Cosignatures = append(out.Cosignatures, Cosignature{Witness: s.Name, Time: time.Unix(int64(t), 0).UTC()})
	}
	if !byLog {
		return nil, fmt.Errorf("%s at %d leaves: %w", c.Origin, c.Size, ErrLogSignature)
	}
	if c.Size == 0 && c.Root != EmptyRoot() {
		return nil, fmt.Errorf("%s: empty log with a root of its own: %w", c.Origin, ErrMalformed)
	}
	slices.SortStableFunc(out.Cosignatures, func(a, b Cosignature) int { return b.Time.Compare(a.Time) })
	return out, nil
}

// Extend verifies signed and that it extends held, by a consistency proof
// between their sizes. Where held is nil, signed is the first checkpoint seen
// and proof must be empty; so too where the sizes are equal or held's is zero.
// Of two notes over the same tree it returns the one vouched for later.
//
// It returns Verify's errors, ErrRollback, ErrProof, or a *Fork where two
// checkpoints of one size differ.
func (p *Policy) Extend(held *Cosigned, signed []byte, proof []tlog.Hash) (*Cosigned, error) {
	c, err := p.Verify(signed)
	if err != nil {
		return nil, err
	}
	if held == nil {
		if len(proof) != 0 {
			return nil, fmt.Errorf("proof from nothing: %w", ErrProof)
		}
		return c, nil
	}
	if err := succeeds(held, c); err != nil {
		return nil, err
	}
	if held.Size == c.Size || held.Size == 0 {
		if len(proof) != 0 {
			return nil, fmt.Errorf("proof of nothing: %w", ErrProof)
		}
		return later(held, c), nil
	}
	if err := CheckConsistency(proof, held.Size, held.Root, c.Size, c.Root); err != nil {
		return nil, err
	}
	return c, nil
}

// succeeds refuses what contradicts held by size and root alone.
func succeeds(held, c *Cosigned) error {
	switch {
	case held.Origin != c.Origin:
		return fmt.Errorf("%.120q, not %.120q: %w", c.Origin, held.Origin, ErrOrigin)
	case c.Size < held.Size:
		return fmt.Errorf("%s: %d leaves after %d: %w", c.Origin, c.Size, held.Size, ErrRollback)
	case c.Size == held.Size && c.Root != held.Root:
		return &Fork{Held: held.Note, Offered: c.Note}
	}
	return nil
}

func later(held, c *Cosigned) *Cosigned {
	if held.Size == c.Size && held.Time().After(c.Time()) {
		return held
	}
	return c
}
