// Package replica keeps an organisation's control log, authenticated and
// replayed: what devices, keyholders, guards, openers and the command line all
// judge by. It takes nothing from the server on trust but that it is there.
package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/pack"
	"chancery/request"
)

// Source is where the log is read from.
type Source interface {
	// Checkpoint returns the newest witnessed checkpoint of a log.
	Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error)
	// Entries returns the leaves [from, to) of a log.
	Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error)
	// Openings returns the openings of sealed control leaves from an index on,
	// as far as the caller is entitled to them.
	Openings(ctx context.Context, from int64) ([]wire.Opening, error)
}

// ErrForgotten means that the log served does not contain what this replica
// has seen before: the server rolled it back or replaced it.
var ErrForgotten = errors.New("the log served lacks what was witnessed before")

// ErrBackdated means that a leaf claims to be older than the log without it.
var ErrBackdated = errors.New("a leaf of the control log is dated before its time")

// backdating is what clocks of server and witnesses may differ by.
const backdating = 5 * time.Minute

// Replica is safe for concurrent use.
type Replica struct {
	organisation codec.Hash

	syncing sync.Mutex // held for a whole Sync, so that there is one at a time

	mu       sync.RWMutex // guards what follows; never held across a network call
	follower *ledger.Follower
	policy   *ledger.Policy // of the control log
	messages *ledger.Policy
	state    *control.State
	entries  [][]byte
	openings map[int64]*control.Opening
	applied  map[int64]bool // sealed leaves applied with their opening
	roots    []codec.Hash   // roots[n] is the root at size n+1
	edge     *ledger.Edge
	memory   *ledger.Cosigned // newest checkpoint that an earlier run had seen
	raw      []byte           // memory before the policy to read it with is known
}

// New returns an empty replica of the organisation of that identity.
func New(organisation codec.Hash) *Replica {
	return &Replica{
		organisation: organisation,
		state:        control.NewState(organisation),
		openings:     map[int64]*control.Opening{},
		applied:      map[int64]bool{},
		edge:         &ledger.Edge{},
	}
}

// Sync brings the replica to the newest witnessed checkpoint. It returns the
// errors of ledger.Follower.Advance and control.State.Apply, or ErrForgotten, in
// a *Conviction where they prove something; the replica then stays where it was.
func (r *Replica) Sync(ctx context.Context, src Source) error {
	r.syncing.Lock()
	defer r.syncing.Unlock()
	if err := r.bootstrap(ctx, src); err != nil {
		return err
	}
	signed, err := src.Checkpoint(ctx, ledger.ControlLog)
	if err != nil {
		return fmt.Errorf("couldn't fetch the control checkpoint: %w", err)
	}
	c, err := r.policy.Verify(signed)
	if err != nil {
		return err
	}
	size := r.Size()
	var entries [][]byte
	if c.Size > size {
		if entries, err = src.Entries(ctx, ledger.ControlLog, size, c.Size); err != nil {
			return fmt.Errorf("couldn't fetch the control log from %d to %d: %w", size, c.Size, err)
		}
	}
	openings, err := src.Openings(ctx, r.firstUnopened(size))
	if err != nil {
		return fmt.Errorf("couldn't fetch openings: %w", err)
	}
	if err := r.advance(signed, entries, openings); err != nil {
		var hashes func(ledger.Checkpoint) tlog.HashReader
		if h, ok := src.(hasher); ok {
			hashes = func(at ledger.Checkpoint) tlog.HashReader { return h.Hashes(ctx, ledger.ControlLog, at) }
		}
		return r.convict(err, signed, entries, openings, hashes)
	}
	return nil
}

// bootstrap reads the genesis leaf, whose hash is pinned, and from it who signs
// and who witnesses the logs.
func (r *Replica) bootstrap(ctx context.Context, src Source) error {
	if r.follower != nil {
		return nil
	}
	first, err := src.Entries(ctx, ledger.ControlLog, 0, 1)
	if err != nil {
		return fmt.Errorf("couldn't fetch the genesis leaf: %w", err)
	}
	if len(first) != 1 {
		return fmt.Errorf("couldn't fetch the genesis leaf: %w", control.ErrMalformed)
	}
	policy, messages, err := Policies(r.organisation, first[0])
	if err != nil {
		return err
	}
	follower, err := ledger.NewFollower(policy)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.raw) > 0 {
		if r.memory, err = policy.Verify(r.raw); err != nil {
			return fmt.Errorf("remembered checkpoint: %w", err)
		}
	}
	r.follower, r.policy, r.messages = follower, policy, messages
	return nil
}

// Policies reads from the genesis entry, checked against the organisation's
// identity, who must sign checkpoints of the control and messages logs.
func Policies(organisation codec.Hash, genesis []byte) (controlLog, messagesLog *ledger.Policy, err error) {
	state := control.NewState(organisation)
	if err := state.Apply(genesis, nil); err != nil {
		return nil, nil, err
	}
	return state.Genesis().Logs(organisation)
}

// firstUnopened returns the first leaf whose opening is wanted.
func (r *Replica) firstUnopened(size int64) int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := range r.entries {
		if done, sealed := r.applied[int64(i)]; sealed && !done {
			return int64(i)
		}
	}
	return size
}

func (r *Replica) advance(signed []byte, entries [][]byte, openings []wire.Opening) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	late := false
	for _, o := range openings {
		if done, sealed := r.applied[o.Index]; sealed && !done {
			late = true
		}
		r.openings[o.Index] = &o.Opening
	}
	from := r.follower.Size()
	// The follower checks entries against the checkpoint before anything else
	// looks at them.
	next, err := ledger.RestoreFollower(r.policy, r.follower.Encode())
	if err != nil {
		return err
	}
	if _, err := next.Advance(signed, entries); err != nil {
		return err
	}
	if err := r.checkMemory(entries); err != nil {
		return err
	}
	all := append(r.entries[:len(r.entries):len(r.entries)], entries...)
	state, applied := r.state, r.applied
	if late {
		// What was applied without its opening has to be judged again, and all
		// that came after it.
		state, applied, from = control.NewState(r.organisation), map[int64]bool{}, 0
	}
	err = r.replay(state, applied, all, from)
	if err == nil {
		err = r.checkTime(state)
	}
	if err != nil {
		r.rebuild()
		return err
	}
	for _, e := range entries {
		if _, err := r.edge.Append(nil, e); err != nil {
			return err
		}
		r.roots = append(r.roots, codec.Hash(r.edge.Root()))
	}
	r.follower, r.entries, r.state, r.applied = next, all, state, applied
	return nil
}

// checkTime refuses leaves that are dated more than five minutes before the
// witnesses saw the log without them: with two officers a server could make a
// loosened policy look old, or the time for a veto over.
func (r *Replica) checkTime(state *control.State) error {
	held := r.follower.Held()
	if held == nil || state.Size() == held.Size {
		return nil
	}
	first, ok := state.TimeAt(held.Size)
	if seen := held.Time().Add(-backdating); ok && first < seen.UnixMilli() {
		return fmt.Errorf("%w: leaf %d is dated %s, and the log ended before it at %s", ErrBackdated, held.Size,
			time.UnixMilli(first).UTC().Format(time.RFC3339), held.Time().UTC().Format(time.RFC3339))
	}
	return nil
}

func (r *Replica) replay(state *control.State, applied map[int64]bool, entries [][]byte, from int64) error {
	for i := from; i < int64(len(entries)); i++ {
		opening := r.openings[i]
		before := state.Unopened()
		if err := state.Apply(entries[i], opening); err != nil {
			return err
		}
		if state.Unopened() > before {
			applied[i] = false
		} else if opening != nil {
			applied[i] = true
		}
	}
	return nil
}

// rebuild brings the state back to the entries held, after a leaf that the
// witnesses saw but the rules refuse. Those held were accepted before.
func (r *Replica) rebuild() {
	state, applied := control.NewState(r.organisation), map[int64]bool{}
	if r.replay(state, applied, r.entries, 0) == nil {
		r.state, r.applied = state, applied
	}
}

// checkMemory refuses a log that contradicts the checkpoint of an earlier run.
func (r *Replica) checkMemory(entries [][]byte) error {
	if r.memory == nil || r.memory.Size <= int64(len(r.roots)) {
		return nil
	}
	if r.memory.Size > int64(len(r.roots)+len(entries)) {
		return fmt.Errorf("%w: %d leaves served, %d seen", ErrForgotten, len(r.roots)+len(entries), r.memory.Size)
	}
	edge := r.edge.Clone()
	for _, e := range entries[:r.memory.Size-int64(len(r.roots))] {
		if _, err := edge.Append(nil, e); err != nil {
			return err
		}
	}
	if edge.Root() != r.memory.Root {
		return fmt.Errorf("%w: another root at %d leaves", ErrForgotten, r.memory.Size)
	}
	r.memory = nil
	return nil
}

// Read calls f with the state under the read lock. f must keep nothing of it
// beyond copies.
func (r *Replica) Read(f func(s *control.State)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	f(r.state)
}

// Organisation returns the pinned identity.
func (r *Replica) Organisation() codec.Hash { return r.organisation }

// Size returns how many leaves have been replayed.
func (r *Replica) Size() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(len(r.entries))
}

// Root returns the root of the control log at a size that has been replayed.
func (r *Replica) Root(size int64) (codec.Hash, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.root(size)
}

func (r *Replica) root(size int64) (codec.Hash, bool) {
	if size < 1 || size > int64(len(r.roots)) {
		return codec.Hash{}, false
	}
	return r.roots[size-1], true
}

// Checkpoint returns the newest control checkpoint accepted, or nil.
func (r *Replica) Checkpoint() *ledger.Cosigned {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.follower == nil {
		return nil
	}
	return r.follower.Held()
}

// Messages verifies a checkpoint of the messages log under the organisation's
// witnesses. It is for use after a first Sync.
func (r *Replica) Messages(signed []byte) (*ledger.Cosigned, error) {
	r.mu.RLock()
	policy := r.messages
	r.mu.RUnlock()
	if policy == nil {
		return nil, errors.New("the control log has not been read yet")
	}
	return policy.Verify(signed)
}

// Trim verifies a control checkpoint and returns it with the signature lines of
// the organisation's log and witnesses alone, as evidence packs carry it.
func (r *Replica) Trim(signed []byte) ([]byte, error) {
	r.mu.RLock()
	policy := r.policy
	r.mu.RUnlock()
	if policy == nil {
		return nil, errors.New("the control log has not been read yet")
	}
	trimmed, _, err := pack.Trim(policy, signed)
	return trimmed, err
}

// Log returns what request.Log needs to check items against a messages
// checkpoint. It holds s, so that it is for use inside Read alone.
func (r *Replica) Log(messages ledger.Checkpoint, s *control.State) *request.Log {
	return &request.Log{State: s, Root: r.root, Messages: messages}
}

// Entries returns the leaves replayed and the openings known, for an evidence
// pack. The caller must not change them.
func (r *Replica) Entries() ([][]byte, map[int64]*control.Opening) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	openings := make(map[int64]*control.Opening, len(r.openings))
	for i, o := range r.openings {
		openings[i] = o
	}
	return r.entries[:len(r.entries):len(r.entries)], openings
}

// Memory returns what Remember takes after a restart: the newest checkpoint.
func (r *Replica) Memory() []byte {
	c := r.Checkpoint()
	if c == nil {
		return nil
	}
	return bytes.Clone(c.Note)
}

// Remember makes a new replica refuse every log that lacks the checkpoint that
// an earlier run had seen. It is for use before the first Sync.
func (r *Replica) Remember(memory []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = bytes.Clone(memory)
}
