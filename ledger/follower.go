package ledger

import (
	"errors"
	"fmt"
	"math/bits"

	"chancery/codec"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrEntries means that entries are not the ones a checkpoint commits to as
// the continuation of what was followed before. Either whoever handed them
// over changed them, or the log forked: ProveFork tells.
var ErrEntries = errors.New("entries do not continue the log to this checkpoint")

// Fork is proof that a log signed two histories, and, by Check, that a
// quorum cosigned each. It convicts without trust in whoever shows it.
type Fork struct {
	_       struct{} `cbor:",toarray"`
	Held    []byte   // the signed checkpoint of m leaves
	Offered []byte   // the signed checkpoint of n ≥ m leaves
	// Prefix is the root of Offered's first m leaves, and Proof shows it. Both
	// are zero where n = m.
	Prefix tlog.Hash
	Proof  []tlog.Hash
}

// Error implements error.
func (f *Fork) Error() string { return "the log has forked: two checkpoints contradict each other" }

// Encode returns the evidence in deterministic CBOR.
func (f *Fork) Encode() []byte { return codec.Encode(f) }

// ParseFork reads what Encode writes. It checks form alone: Check is the
// judge. It returns ErrMalformed or ErrSize, wrapped.
func ParseFork(data []byte) (*Fork, error) {
	if len(data) > 2*MaxNote+64+maxProof*(2+tlog.HashSize) {
		return nil, fmt.Errorf("fork of %d bytes: %w", len(data), ErrSize)
	}
	var f Fork
	if err := codec.Decode(data, &f); err != nil {
		return nil, fmt.Errorf("fork: %w: %w", ErrMalformed, err)
	}
	return &f, nil
}

// Check returns nil where f proves a fork against the log and each witness
// that cosigned both: both checkpoints verify under policy, and they contradict
// each other. A quorum above half of the witnesses makes sure that there is
// such a one. It returns Policy.Verify's errors, ErrProof or ErrSize, wrapped.
func (f *Fork) Check(policy *Policy) error {
	return f.check(func(signed []byte) (Checkpoint, error) {
		c, err := policy.Verify(signed)
		if err != nil {
			return Checkpoint{}, err
		}
		return c.Checkpoint, nil
	})
}

// CheckLog returns nil where f proves a fork against the log alone: it signed
// both checkpoints, whoever cosigned them, and they contradict each other. It
// returns OpenUnwitnessed's errors, ErrProof or ErrSize, wrapped.
func (f *Fork) CheckLog(log LogKey) error {
	return f.check(func(signed []byte) (Checkpoint, error) { return OpenUnwitnessed(log, signed) })
}

func (f *Fork) check(verify func(signed []byte) (Checkpoint, error)) error {
	held, err := verify(f.Held)
	if err != nil {
		return fmt.Errorf("held checkpoint: %w", err)
	}
	offered, err := verify(f.Offered)
	if err != nil {
		return fmt.Errorf("offered checkpoint: %w", err)
	}
	prefix := f.Prefix
	if held.Size == offered.Size {
		if len(f.Proof) != 0 || prefix != (tlog.Hash{}) {
			return fmt.Errorf("fork at %d leaves with a prefix: %w", held.Size, ErrProof)
		}
		prefix = offered.Root
	} else if err := CheckConsistency(f.Proof, held.Size, prefix, offered.Size, offered.Root); err != nil {
		return err
	}
	if prefix == held.Root {
		return fmt.Errorf("the checkpoints agree: %w", ErrProof)
	}
	return nil
}

// ProveFork compares held with the first leaves of offered, which is of the
// same size or larger, and returns the proof where they differ, nil where they
// agree. offeredHashes reads hashes that were checked against offered, such as
// tlog.TileHashReader gives: with others the proof does not hold.
func ProveFork(held, offered *Cosigned, offeredHashes tlog.HashReader) (*Fork, error) {
	err := succeeds(held, offered)
	var fork *Fork
	if errors.As(err, &fork) {
		return fork, nil
	}
	if err != nil || held.Size == 0 || held.Size == offered.Size {
		return nil, err
	}
	prefix, err := Root(offeredHashes, held.Size)
	if err != nil {
		return nil, err
	}
	if prefix == held.Root {
		return nil, nil
	}
	proof, err := ProveConsistency(offeredHashes, held.Size, offered.Size)
	if err != nil {
		return nil, err
	}
	return &Fork{Held: held.Note, Offered: offered.Note, Prefix: prefix, Proof: proof}, nil
}

// Follower replays a log from its first leaf and refuses every history but
// one (spec/ledger.md#followers). It is not safe for concurrent use.
type Follower struct {
	policy *Policy
	edge   *Edge
	held   *Cosigned // nil before the first checkpoint
}

// NewFollower returns a follower at the empty log. It returns ErrPolicy,
// wrapped, where the policy is unusable.
func NewFollower(policy *Policy) (*Follower, error) {
	if err := policy.Check(); err != nil {
		return nil, err
	}
	return &Follower{policy: policy, edge: &Edge{}}, nil
}

// Size returns the number of leaves followed so far.
func (f *Follower) Size() int64 { return f.edge.Size() }

// Held returns the last checkpoint accepted, nil before the first. The caller
// must not change it.
func (f *Follower) Held() *Cosigned { return f.held }

// Policy returns the policy in force.
func (f *Follower) Policy() *Policy { return f.policy }

// SetPolicy puts another policy in force for checkpoints to come, such as when
// a control leaf replaces a witness. It returns ErrPolicy, or ErrOrigin where
// the policy is for another log or another key of it, wrapped.
func (f *Follower) SetPolicy(policy *Policy) error {
	if err := policy.Check(); err != nil {
		return err
	}
	if policy.Log != f.policy.Log {
		return fmt.Errorf("%.200q, not %.200q: %w", policy.Log, f.policy.Log, ErrOrigin)
	}
	f.policy = policy
	return nil
}

// Advance verifies signed and moves on to it. entries are all the leaves from
// Size() up to the checkpoint's size, none where the sizes are equal: then the
// checkpoint vouched for later is kept.
//
// It returns Policy.Verify's errors, ErrRollback, ErrEntries, ErrSize, or a
// *Fork where two checkpoints of one size differ, and stays where it was. The
// entries may be acted on only when it returns no error.
func (f *Follower) Advance(signed []byte, entries [][]byte) (*Cosigned, error) {
	c, err := f.policy.Verify(signed)
	if err != nil {
		return nil, err
	}
	if f.held != nil {
		if err := succeeds(f.held, c); err != nil {
			return nil, err
		}
	}
	if int64(len(entries)) != c.Size-f.edge.Size() {
		return nil, fmt.Errorf("%s: %d entries from %d to %d leaves: %w", c.Origin, len(entries), f.edge.Size(), c.Size, ErrEntries)
	}
	edge := f.edge.Clone()
	var stored []tlog.Hash
	for _, e := range entries {
		if stored, err = edge.Append(stored[:0], e); err != nil {
			return nil, err
		}
	}
	if edge.Root() != c.Root {
		return nil, fmt.Errorf("%s from %d to %d leaves: %w", c.Origin, f.edge.Size(), c.Size, ErrEntries)
	}
	if f.held != nil {
		c = later(f.held, c)
	}
	f.edge, f.held = edge, c
	return c, nil
}

type followerState struct {
	_    struct{} `cbor:",toarray"`
	Size int64
	Edge []tlog.Hash
	Note []byte // empty before the first checkpoint
}

// Encode returns the follower's state in deterministic CBOR, for
// RestoreFollower. It holds nothing secret; whoever can replace it by an older
// one can make the follower accept a rollback to that.
func (f *Follower) Encode() []byte {
	s := followerState{Size: f.edge.size, Edge: f.edge.hashes}
	if f.held != nil {
		s.Note = f.held.Note
	}
	return codec.Encode(s)
}

// RestoreFollower reads what Encode writes. The stored checkpoint must be
// signed by the policy's log and its root must be the stored edge's; its
// witnesses may since have been replaced, so that no quorum is asked of it. It
// returns ErrMalformed, ErrPolicy, ErrOrigin, ErrLogSignature or
// ErrCosignature, wrapped.
func RestoreFollower(policy *Policy, data []byte) (*Follower, error) {
	f, err := NewFollower(policy)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxNote+64+64*(2+tlog.HashSize) {
		return nil, fmt.Errorf("follower state of %d bytes: %w", len(data), ErrMalformed)
	}
	var s followerState
	if err := codec.Decode(data, &s); err != nil {
		return nil, fmt.Errorf("follower state: %w: %w", ErrMalformed, err)
	}
	if s.Size < 0 || s.Size > MaxSize || len(s.Edge) != bits.OnesCount64(uint64(s.Size)) {
		return nil, fmt.Errorf("follower state at %d leaves: %w", s.Size, ErrMalformed)
	}
	f.edge = &Edge{size: s.Size, hashes: s.Edge}
	if len(s.Note) == 0 {
		if s.Size != 0 {
			return nil, fmt.Errorf("follower state at %d leaves without checkpoint: %w", s.Size, ErrMalformed)
		}
		return f, nil
	}
	if f.held, err = policy.open(s.Note); err != nil {
		return nil, fmt.Errorf("follower state: %w", err)
	}
	if f.held.Size != s.Size || f.held.Root != f.edge.Root() {
		return nil, fmt.Errorf("follower state at %d leaves is not its checkpoint's: %w", s.Size, ErrMalformed)
	}
	return f, nil
}
