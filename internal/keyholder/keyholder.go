// Package keyholder is the daemon that keyholders and guards run
// (spec/opening.md): it takes part in key generation, makes and shares months'
// keys, and answers an opener's query after it has checked everything itself
// against its own replay of the control log, logged the use and seen it
// witnessed.
//
// In its directory lie, beside what its Custody keeps, record.log and
// record.head (what it answered and refused, hash-chained), notices/ (what
// people handed over), control.seen and messages.seen (the newest checkpoints,
// so that a restart can't be shown an older log). All of it is written durably
// before anything follows from it.
//
// It promises that whatever was answered is on the witnessed log, and was
// within a request that enough approvers approved. It doesn't promise that it
// answers: whoever controls its network, or withholds the witnesses, stops it.
// Whoever puts back an old copy of the whole directory can make it forget
// notices and its record; never uses, which it counts from the log.
package keyholder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/quorum"
)

var (
	// ErrRole means that the organisation's genesis leaf names the holder in
	// the other role, or doesn't name it at all.
	ErrRole = errors.New("the organisation doesn't know this holder in its role")
	// ErrRecord means that the holder's own record was cut or changed.
	ErrRecord = errors.New("the holder's record has been cut or changed")
	// ErrNotices means that what was handed over can't be read back.
	ErrNotices = errors.New("a notice that was handed over is damaged")
)

const (
	// fresh is how old the newest cosignature may be (spec/opening.md#order).
	fresh = 5 * time.Minute

	defaultPoll = 500 * time.Millisecond
	defaultWait = 30 * time.Second // for a use to be witnessed
	offerAgain  = 30 * time.Second // after which a statement that isn't logged is offered again
	callTimeout = 60 * time.Second // of a round of duties
	maxQueries  = 4                // at a time: one may have 64 MiB
	maxNotices  = 10_000
	noticesDir  = "notices"
	controlSeen = "control.seen"
	messageSeen = "messages.seen"
)

// Custody is what a holder's keys can do. Every method that changes something
// has stored it when it returns, and none gives a private key away. Those of
// the other role return an error. internal/custody.File is one. Safe for
// concurrent use.
type Custody interface {
	codec.Signer
	Shares
	Months
	// Guard reports whether the holder is a guard; otherwise it is a keyholder.
	Guard() bool
	// Held returns how many shares and months' keys there are.
	Held() (shares, months int)
}

// Shares is a keyholder's side of Custody.
type Shares interface {
	// Step is quorum.Participant.Step; the result comes without its share,
	// which is stored by then.
	Step(c quorum.Ceremony, index int, board []quorum.Message) (*quorum.Message, *quorum.Result, error)
	// HasShare reports whether the share of a ceremony is there.
	HasShare(ceremony codec.ID) bool
	// Partial multiplies a point whose sender is known to know its logarithm.
	Partial(ceremony codec.ID, E quorum.Point) (quorum.Point, error)
	// Prove shows that a partial is right.
	Prove(ceremony codec.ID, E, partial quorum.Point, context []byte) (quorum.DLEQ, error)
}

// Months is a guard's side of Custody. Keys are named by their ML-KEM-768
// public half, 1,184 bytes.
type Months interface {
	// MakeMonth makes the key pair of a slot, once, and returns the public half.
	MakeMonth(slot codec.Hash) ([]byte, error)
	// HasMonth reports whether the private half is there.
	HasMonth(public []byte) bool
	// Decapsulate returns 32 bytes that are a secret of somebody's until the tag
	// under them was checked.
	Decapsulate(public, ciphertext []byte) ([]byte, error)
	// Hand seals a month's seed to another guard's one-time key.
	Hand(public, recipient, info []byte) ([]byte, error)
	// Receive returns a one-time key and what takes a seed sealed to it.
	Receive() (recipient []byte, take func(public, info, sealed []byte) error, err error)
	// Destroy erases a month's key.
	Destroy(public []byte) error
}

// Server is what a holder needs of the server, which it doesn't trust:
// client/remote.Client satisfies it. Its requests are signed with the holder's
// key, so that it is given openings and what waits for signatures.
type Server interface {
	replica.Source
	// Hashes reads a log's stored hashes under a checkpoint.
	Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader
	// Submit offers a statement with signatures.
	Submit(ctx context.Context, s *wire.Submit) (*wire.Submitted, error)
	// Pending returns the statements that wait for signatures.
	Pending(ctx context.Context) ([]wire.Pending, error)
}

// Peer is another guard. client/remote.Holder satisfies it.
type Peer interface {
	// Transfer asks for a month's key (spec/opening.md#transfer).
	Transfer(ctx context.Context, request []byte) ([]byte, error)
}

// Floor is a holder's own least strictness, which the log can't lower. Zero
// fields ask for nothing.
type Floor struct {
	Approvals      uint8  // different approvers
	VetoSeconds    uint32 // between the last approval and the answer
	MaxRequestDays uint32 // span of a request
	MaxCount       uint64 // records of a request
	MaxIndexKeys   uint64 // index envelopes of a request
	RequestHours   uint32 // life of a request
	Evidence       bool   // answers go to openers with evidence alone
}

// over returns the policy as strict as both.
func (f *Floor) over(p control.Policy) control.Policy {
	out := p
	out.Approvals = max(p.Approvals, f.Approvals)
	out.VetoSeconds = max(p.VetoSeconds, f.VetoSeconds)
	out.OpenerEvidenceNone = p.OpenerEvidenceNone && !f.Evidence
	out.MaxRequestDays = least(p.MaxRequestDays, f.MaxRequestDays)
	out.MaxCount = least(p.MaxCount, f.MaxCount)
	out.MaxIndexKeys = least(p.MaxIndexKeys, f.MaxIndexKeys)
	out.RequestHours = least(p.RequestHours, f.RequestHours)
	return out
}

func least[T uint32 | uint64](policy, floor T) T {
	if floor == 0 {
		return policy
	}
	return min(policy, floor)
}

// Config says what a holder is.
type Config struct {
	// Dir is the holder's directory.
	Dir string
	// Custody has the holder's keys, and its role.
	Custody Custody
	// Organisation is the identity that the holder works for, pinned.
	Organisation codec.Hash
	// Server is the organisation's.
	Server Server
	// Guards are a guard's peers by the names in the genesis leaf.
	Guards map[string]Peer
	// Listener takes the requests. Run closes it.
	Listener net.Listener
	// Floor is the holder's own policy.
	Floor Floor
	// Now is the clock.
	Now func() time.Time
	// Log is told of duties and of problems, never of content, names or keys.
	Log *slog.Logger
	// PollInterval is the time between two looks at the log; 0 means half a
	// second.
	PollInterval time.Duration
}

// holder is a running daemon.
type holder struct {
	Config
	replica *replica.Replica
	record  *record
	notices *notices
	slots   chan struct{} // one for each query in work

	place    atomic.Int64 // index from 1 in the genesis leaf; 0 while unknown
	answered atomic.Uint64
	refused  atomic.Uint64

	following sync.Mutex // held while a messages checkpoint is compared and stored

	mu       sync.Mutex // guards what follows
	busy     map[codec.Hash]*busy
	offered  map[codec.Hash]time.Time
	messages *ledger.Cosigned // newest checkpoint seen
	raw      []byte           // the same as an earlier run stored it
	problem  string
	stored   int64 // size of the control checkpoint stored

	wait            time.Duration
	testOnlyFailure func(step string) error // injected between the steps of an answer
}

// busy makes queries under one request take turns.
type busy struct {
	sync.Mutex
	users int
}

// Run is the daemon, until ctx ends or the holder can't go on: it returns
// ErrRole where the genesis leaf doesn't name it in its role, ErrRecord or
// ErrNotices where its own files were changed, nil when ctx ended.
func Run(ctx context.Context, c Config) error {
	h, err := open(c)
	if err != nil {
		c.Listener.Close()
		return err
	}
	defer h.record.Close()
	return h.run(ctx)
}

func open(c Config) (*holder, error) {
	if c.PollInterval <= 0 {
		c.PollInterval = defaultPoll
	}
	h := &holder{
		Config: c, replica: replica.New(c.Organisation), slots: make(chan struct{}, maxQueries),
		busy: map[codec.Hash]*busy{}, offered: map[codec.Hash]time.Time{}, wait: defaultWait,
	}
	memory, err := readOptional(filepath.Join(c.Dir, controlSeen))
	if err != nil {
		return nil, err
	}
	h.replica.Remember(memory)
	if h.raw, err = readOptional(filepath.Join(c.Dir, messageSeen)); err != nil {
		return nil, err
	}
	if h.notices, err = openNotices(filepath.Join(c.Dir, noticesDir)); err != nil {
		return nil, err
	}
	h.record, err = openRecord(c.Dir, c.Custody)
	return h, err
}

func readOptional(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read what was seen before: %w", err)
	}
	return b, nil
}

// run serves and does the duties of the log until ctx ends.
func (h *holder) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(h.serve(ctx)) })
	defer wg.Wait()
	defer cancel(nil)
	tick := time.NewTicker(h.PollInterval)
	defer tick.Stop()
	for {
		if err := h.round(ctx); errors.Is(err, ErrRole) {
			return err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return nil
		case <-tick.C:
		}
	}
}

// round brings the replica up to date and does what the log asks of the
// holder. Whatever fails is tried again in the next.
func (h *holder) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := h.sync(ctx)
	if err == nil {
		err = h.duties(ctx)
	}
	if ctx.Err() == nil {
		h.note(err)
	}
	return err
}

// note keeps a problem for the status, and logs it when it is a new one.
func (h *holder) note(err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	h.mu.Lock()
	changed := problem != h.problem
	h.problem = problem
	h.mu.Unlock()
	if changed && err != nil {
		h.Log.Warn("a duty waits", "problem", problem)
	}
}

// sync reads the log to its newest witnessed checkpoint and stores which that
// was before anything follows from it.
func (h *holder) sync(ctx context.Context) error {
	if err := h.replica.Sync(ctx, h.Server); err != nil {
		return err
	}
	if err := h.identify(); err != nil {
		return err
	}
	c := h.replica.Checkpoint()
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.Size <= h.stored {
		return nil
	}
	if err := custody.WriteFile(filepath.Join(h.Dir, controlSeen), c.Note, 0o600); err != nil {
		return err
	}
	h.stored = c.Size
	return nil
}

// identify finds the holder in the genesis leaf, where its key is in one role.
func (h *holder) identify() error {
	if h.place.Load() > 0 {
		return nil
	}
	index := 0
	h.replica.Read(func(s *control.State) {
		holders := s.Genesis().Keyholders
		if h.Custody.Guard() {
			holders = s.Genesis().Guards
		}
		for i, x := range holders {
			if x.Sign == h.Custody.PublicKey() {
				index = i + 1
			}
		}
	})
	if index == 0 {
		return fmt.Errorf("%w: %s", ErrRole, h.role())
	}
	h.place.Store(int64(index))
	return nil
}

// index returns the holder's place among its kind, from 1.
func (h *holder) index() int { return int(h.place.Load()) }

func (h *holder) role() string {
	if h.Custody.Guard() {
		return "guard"
	}
	return "keyholder"
}

// take waits for its turn under a request; the function returned ends it.
func (h *holder) take(request codec.Hash) (release func()) {
	h.mu.Lock()
	b := h.busy[request]
	if b == nil {
		b = &busy{}
		h.busy[request] = b
	}
	b.users++
	h.mu.Unlock()
	b.Lock()
	return func() {
		b.Unlock()
		h.mu.Lock()
		defer h.mu.Unlock()
		if b.users--; b.users == 0 {
			delete(h.busy, request)
		}
	}
}

func (h *holder) status() *wire.HolderStatus {
	shares, months := h.Custody.Held()
	h.mu.Lock()
	problem := h.problem
	h.mu.Unlock()
	s := &wire.HolderStatus{
		Role: h.role(), Index: h.index(), ControlSize: h.replica.Size(), Epochs: shares, Months: months,
		Answered: h.answered.Load(), Refused: h.refused.Load(), Problem: problem,
	}
	h.replica.Read(func(state *control.State) {
		if g := state.Genesis(); g != nil && s.Index > 0 {
			holders := g.Keyholders
			if h.Custody.Guard() {
				holders = g.Guards
			}
			s.Name = holders[s.Index-1].Name
		}
	})
	return s
}
