package replica

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/evidence"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
)

// Conviction is an error with a file that proves what the server did (package
// evidence).
type Conviction struct {
	Kind     evidence.Kind
	Evidence []byte
	Err      error
}

// Error implements error.
func (c *Conviction) Error() string { return c.Err.Error() }

// Unwrap returns what was refused.
func (c *Conviction) Unwrap() error { return c.Err }

// hasher is a Source that reads trees, as devices' and people's do.
type hasher interface {
	Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader
}

// convict adds to an error of advance what proves it, where something does.
func (r *Replica) convict(err error, signed []byte, entries [][]byte, openings []wire.Opening, hashes func(ledger.Checkpoint) tlog.HashReader) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	genesis := r.genesis(entries)
	var fork *ledger.Fork
	switch {
	case genesis == nil:
		return err
	case errors.As(err, &fork): // two of one size
	case errors.Is(err, ledger.ErrEntries):
		// Either whoever served them changed the entries, or the log forked.
		if fork = r.fork(r.follower.Held(), signed, hashes); fork != nil {
			err = fmt.Errorf("%w: %w", fork, err)
		}
	case errors.Is(err, ErrForgotten):
		if fork = r.fork(r.memory, signed, hashes); fork != nil {
			err = fmt.Errorf("%w: %w", fork, err)
		}
	case errors.Is(err, control.ErrMalformed), errors.Is(err, control.ErrUnauthorised), errors.Is(err, control.ErrConflict), errors.Is(err, codec.ErrSignature):
		if errors.Is(err, control.ErrKind) {
			return err // of a later version, for all that this one knows
		}
		return r.convicted(&evidence.Leaf{Checkpoint: signed, Entries: concat(r.entries, entries), Openings: r.sealed(openings)}, genesis, err)
	}
	if fork == nil {
		return err
	}
	return r.convicted(&evidence.Fork{Log: ledger.ControlLog, Fork: fork.Encode()}, genesis, err)
}

func concat(a, b [][]byte) [][]byte { return append(a[:len(a):len(a)], b...) }

// genesis returns entry 0, if it is at hand.
func (r *Replica) genesis(entries [][]byte) []byte {
	if all := concat(r.entries, entries); len(all) > 0 {
		return all[0]
	}
	return nil
}

func (r *Replica) fork(held *ledger.Cosigned, signed []byte, hashes func(ledger.Checkpoint) tlog.HashReader) *ledger.Fork {
	offered, err := r.policy.Verify(signed)
	if err != nil || held == nil || hashes == nil || offered.Size < held.Size {
		return nil
	}
	fork, err := ledger.ProveFork(held, offered, hashes(offered.Checkpoint))
	if err != nil {
		return nil // the tree is not to be had: nothing is proved
	}
	return fork
}

// sealed returns the openings known, those that came last included.
func (r *Replica) sealed(more []wire.Opening) (out []evidence.Opening) {
	known := map[int64]bool{}
	for _, o := range more {
		known[o.Index] = true
		out = append(out, evidence.Opening{Index: o.Index, Opening: o.Opening})
	}
	for i, o := range r.openings {
		if !known[i] {
			out = append(out, evidence.Opening{Index: i, Opening: *o})
		}
	}
	return out
}

// convicted returns the conviction by a body, if the auditor's program will find
// it so too: a file that proves nothing helps nobody.
func (r *Replica) convicted(body evidence.Body, genesis []byte, err error) error {
	return r.convictedBy(nil, body, genesis, err)
}

func (r *Replica) convictedBy(packageKey evidence.PackageKey, body evidence.Body, genesis []byte, err error) error {
	raw := evidence.New(genesis, body).Encode()
	if _, verifyErr := evidence.Verify(r.organisation, raw, packageKey); verifyErr != nil {
		return err
	}
	return &Conviction{Kind: body.Kind(), Evidence: raw, Err: err}
}

// Promised judges what the receipt key signed under a control log of a size and
// root, at a time in milliseconds since 1970 UTC. The log must have been
// replayed to the size; of a larger one it says nothing. It returns a
// *Conviction where the promise contradicts the log that its own checkpoint
// signs, or a log of that size was older or not there yet.
func (r *Replica) Promised(p evidence.Promise, size int64, root codec.Hash, time int64) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	own, ok := r.root(size)
	if !ok {
		return nil
	}
	if own != root {
		return r.otherLog(p, size, fmt.Errorf("%w: at %d leaves", ErrOtherLog, size))
	}
	if err := r.state.CheckReceived(size, time); err != nil {
		return r.oldLog(p, size, time, err)
	}
	return nil
}

// ErrOtherLog means that the server signed for a control log which isn't the one
// that its checkpoints show.
var ErrOtherLog = errors.New("the server speaks of another control log")

func (r *Replica) otherLog(p evidence.Promise, size int64, err error) error {
	held := r.follower.Held()
	body := &evidence.OtherLog{Promise: p, Checkpoint: held.Note}
	if size < held.Size {
		tree, treeErr := ledger.NewTree(r.entries)
		if treeErr != nil {
			return errors.Join(err, treeErr)
		}
		body.Prefix = r.roots[size-1]
		if body.Proof, treeErr = ledger.ProveConsistency(tree, size, held.Size); treeErr != nil {
			return errors.Join(err, treeErr)
		}
	}
	return r.convicted(body, r.entries[0], err)
}

func (r *Replica) oldLog(p evidence.Promise, size, time int64, err error) error {
	index := size
	if last, ok := r.state.TimeAt(size - 1); ok && last > time {
		index = size - 1
	}
	if index >= int64(len(r.entries)) {
		return err
	}
	included, proofErr := r.included(index)
	if proofErr != nil {
		return errors.Join(err, proofErr)
	}
	return r.convicted(&evidence.OldLog{Promise: p, Leaf: *included}, r.entries[0], err)
}

// included shows an entry under the newest checkpoint.
func (r *Replica) included(index int64) (*evidence.Included, error) {
	tree, err := ledger.NewTree(r.entries)
	if err != nil {
		return nil, err
	}
	held := r.follower.Held()
	proof, err := ledger.ProveInclusion(tree, held.Size, index)
	if err != nil {
		return nil, err
	}
	return &evidence.Included{Checkpoint: held.Note, Entry: r.entries[index], Proof: proof}, nil
}

// Claimed judges a KeyPackage that the server handed out for a device, and its
// signed claim, which was opened before. It returns a *Conviction where the
// KeyPackage has another key than the device's.
func (r *Replica) Claimed(signed []byte, c *manifest.Claim, keyPackage []byte, packageKey evidence.PackageKey) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	device, ok := r.state.Device(c.Device)
	if !ok {
		return fmt.Errorf("device %s: not on the control log", c.Device.Short())
	}
	key, err := packageKey.Of(keyPackage)
	if err != nil || key == device.Key {
		return err
	}
	err = fmt.Errorf("the KeyPackage of device %s has another key than the device: %w", c.Device.Short(), ErrSwapped)
	if c.ControlSize > int64(len(r.entries)) || c.ControlSize <= device.Since {
		return err
	}
	tree, treeErr := ledger.NewTree(r.entries)
	if treeErr != nil {
		return errors.Join(err, treeErr)
	}
	proof, treeErr := ledger.ProveInclusion(tree, c.ControlSize, device.Since)
	if treeErr != nil {
		return errors.Join(err, treeErr)
	}
	body := &evidence.KeyPackage{Claim: signed, Package: keyPackage, Entry: r.entries[device.Since], Proof: proof}
	return r.convictedBy(packageKey, body, r.entries[0], err)
}

// ErrSwapped means that a KeyPackage isn't of the device that it was handed out
// for.
var ErrSwapped = errors.New("somebody else would be added")
