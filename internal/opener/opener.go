// Package opener opens exactly the envelopes of one approved request, in a
// process of its own. It makes keys that live as long as the process, downloads
// what the request's scope may touch, checks every item itself, asks keyholders
// and a guard, combines their answers, scans, opens, seals again and compares,
// names whoever answered otherwise, writes the export and the evidence pack,
// seals both to the recipient, erases its keys and signs that it did
// (spec/opening.md, spec/pack.md).
//
// It holds no lasting key and takes nothing on trust from server or holders. It
// does see the content of what it opens: what it promises is that it asks for
// nothing else, and that the log shows what it asked for.
package opener

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/pack"
	"chancery/request"
)

// Server is what an opener needs of the server, as the opener's key.
type Server interface {
	Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error)
	Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error)
	// Hashes reads stored hashes that were checked to be in the tree.
	Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader
	Submit(ctx context.Context, s *wire.Submit) (*wire.Submitted, error)
	Heads(ctx context.Context) (*wire.Heads, error)
	Archive(ctx context.Context, request codec.Hash, after uint64) (*wire.ArchivePage, error)
	PutProduction(ctx context.Context, request codec.Hash, sealed []byte) error
}

// Holder is a keyholder or guard. Its signed no is a *Refused.
type Holder interface {
	Query(ctx context.Context, query []byte) ([]byte, error)
}

// Refused is a holder's signed refusal, not yet verified.
type Refused struct{ Raw []byte }

// Error implements error.
func (*Refused) Error() string { return "the holder refused" }

// Peers are whom an opener talks to. Holders go by their names in the genesis
// leaf; one that is missing counts as unreachable.
type Peers struct {
	Server     Server
	Keyholders map[string]Holder
	Guards     map[string]Holder
}

// Config says what to open, and by whom.
type Config struct {
	Organisation codec.Hash
	Request      codec.Hash       // the request's control leaf
	Details      *request.Details // what its leaf carries the hash of
	Openings     []wire.Opening   // of the matter's and the request's leaves at least

	// Connect reaches everybody as the opener's signing key, which is made here.
	Connect func(key codec.Signer) (*Peers, error)
	// Requester returns the requester's signature on the opener's statement: an
	// opener without evidence needs it.
	Requester func(ctx context.Context, s *control.Statement) (control.Signature, error)
	// Keep, where not nil, is handed the sealed production before it is uploaded.
	Keep func(production []byte) error

	Now      func() time.Time // nil means time.Now
	Log      *slog.Logger     // nil means none; it is told neither content nor names
	Progress func(step string, done, total int)
	// Grace is how long the other keyholders have once enough have answered; 0
	// means 15 seconds.
	Grace time.Duration
}

// Result is what an opening came to.
type Result struct {
	Request      codec.Hash    `json:"request"`
	Opener       codec.Hash    `json:"opener"`
	Items        int           `json:"items"`        // envelopes downloaded and checked
	IndexKeys    int           `json:"index_keys"`   // index envelopes opened
	InScope      int           `json:"in_scope"`     // records that the scope names
	Unsearchable int           `json:"unsearchable"` // of them, without an index that could be opened
	Hits         int           `json:"hits"`         // records whose tags match; all in scope without a search
	Opened       int           `json:"opened"`       // records opened
	FalseHits    []codec.Hash  `json:"false_hits"`   // opened, and their text doesn't match
	Unverified   []codec.Hash  `json:"unverified"`   // opened, and their tags miss words of their text
	Exported     int           `json:"exported"`
	Faults       []string      `json:"faults"` // holders that answered otherwise
	Refusals     []Refusal     `json:"refusals"`
	Broken       []Broken      `json:"broken"`
	Pack         codec.Hash    `json:"pack"` // of the pack's body
	Production   codec.Hash    `json:"production"`
	Statement    codec.Hash    `json:"statement"` // the opener's last word
	Index        int64         `json:"index"`     // its control leaf
	Elapsed      time.Duration `json:"elapsed"`
}

// Refusal is a holder that did not answer, and why.
type Refusal struct {
	Holder string        `json:"holder"`
	Phase  control.Phase `json:"phase"`
	Code   request.Code  `json:"code,omitempty"` // where it signed a refusal
	Reason string        `json:"reason"`
}

// Broken is an envelope that right answers don't open, or not to what its sender
// committed to, or that was set aside because every guard says that its tag is
// wrong.
type Broken struct {
	Core         codec.Hash   `json:"envelope"`
	Device       codec.Hash   `json:"device"` // the sender's
	Member       codec.ID     `json:"member"`
	Acknowledged []codec.Hash `json:"acknowledged"` // devices that signed that it was right; none of an index envelope
	Reason       string       `json:"reason"`
}

var (
	// ErrRequest means that the request is not one that this opener can serve:
	// not on the witnessed log, other details, not ready.
	ErrRequest = errors.New("the request can't be opened")
	// ErrWithheld means that the server didn't give all that the scope may touch,
	// or gave what the log doesn't have.
	ErrWithheld = errors.New("the server withheld or changed what it archived")
	// ErrQuorum means that too few keyholders answered. The error is a
	// *TooFewAnswers.
	ErrQuorum = errors.New("too few keyholders answered")
	// ErrGuard means that no guard gave right answers, or that an envelope has no
	// right one and not every guard said so. The error names the guards.
	ErrGuard = errors.New("no guard answered")
	// ErrCount means that more envelopes would have to be opened than the
	// request or the policy allows. Nothing of them was opened.
	ErrCount = errors.New("more than the greatest count")
)

// TooFewAnswers matches ErrQuorum and says who did not answer.
type TooFewAnswers struct {
	Have, Need int
	Refusals   []Refusal
}

func (e *TooFewAnswers) Error() string {
	return fmt.Sprintf("%d of %d answers: %v%s", e.Have, e.Need, ErrQuorum, list(e.Refusals))
}

// Is reports that e is an ErrQuorum.
func (e *TooFewAnswers) Is(target error) bool { return target == ErrQuorum }

func list(refusals []Refusal) string {
	out := ""
	for _, r := range refusals {
		out += "; " + r.Holder + ": "
		if r.Code != "" {
			out += "refused (" + string(r.Code) + "): "
		}
		out += r.Reason
	}
	return out
}

// keys are all that the opener knows which nobody else does.
type keys struct {
	sign *codec.PrivateKey
	pq   *mlkem.DecapsulationKey768
	t    *ecdh.PrivateKey
	hpke hpke.PrivateKey
}

func newKeys() (*keys, error) {
	pq, err := mlkem.GenerateKey768()
	if err != nil {
		return nil, fmt.Errorf("couldn't make a key: %w", err)
	}
	t, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a key: %w", err)
	}
	private, err := hpke.NewHybridPrivateKey(pq, t)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a key: %w", err)
	}
	return &keys{sign: codec.NewPrivateKey(), pq: pq, t: t, hpke: private}, nil
}

// erase overwrites what Go lets us overwrite, and lets go of the rest; the end
// of the process does it for good.
func (k *keys) erase() {
	k.sign.Erase()
	k.pq, k.t, k.hpke = nil, nil, nil
}

// session is one opening.
type session struct {
	*Config
	*Peers
	replica *replica.Replica
	keys    *keys
	started time.Time

	opener  control.Opener
	leaf    codec.Hash // the opener's
	genesis *control.Genesis
	request control.Request

	archive *archive
	broken  []pack.Broken
	aside   []pack.SetAside

	mu     sync.Mutex // guards what follows while holders are asked and items opened
	faults map[fault]pack.Fault
	result Result
}

// fault is who answered otherwise, and in which phase.
type fault struct {
	guard  bool
	holder uint8
	phase  control.Phase
}

// Run opens a request. It returns ErrRequest, ErrWithheld, ErrQuorum, ErrGuard
// or ErrCount, wrapped, or what a peer said. Where it returns an error after
// holders have answered, nothing of their answers is kept; the log still shows
// what was asked.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int, int) {}
	}
	if cfg.Grace == 0 {
		cfg.Grace = 15 * time.Second
	}
	k, err := newKeys()
	if err != nil {
		return nil, err
	}
	defer k.erase()
	s := &session{
		Config: &cfg, keys: k, replica: replica.New(cfg.Organisation), started: cfg.Now(),
		faults: map[fault]pack.Fault{},
	}
	s.result.Request = cfg.Request
	if s.Peers, err = cfg.Connect(k.sign); err != nil {
		return nil, err
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	s.result.Elapsed = cfg.Now().Sub(s.started)
	return &s.result, nil
}

func (s *session) run(ctx context.Context) error {
	if err := s.introduce(ctx); err != nil {
		return err
	}
	if err := s.readRequest(); err != nil {
		return err
	}
	if err := s.download(ctx); err != nil {
		return err
	}
	if err := s.scan(ctx); err != nil {
		return err
	}
	if err := s.openRecords(ctx); err != nil {
		return err
	}
	return s.finish(ctx)
}

// introduce logs the opener's key, signed by itself and by the requester, and
// waits until the witnesses have seen it.
func (s *session) introduce(ctx context.Context) error {
	s.Progress("introducing the opener", 0, 1)
	s.opener = control.Opener{
		Request: s.Config.Request, Sign: s.keys.sign.PublicKey(),
		Encrypt: s.keys.hpke.PublicKey().Bytes(), Evidence: control.EvidenceNone,
	}
	statement, _, err := control.NewStatement(rand.Reader, s.Organisation, &s.opener)
	if err != nil {
		return err
	}
	own, err := control.Sign(s.keys.sign, statement)
	if err != nil {
		return err
	}
	theirs, err := s.Requester(ctx, statement)
	if err != nil {
		return fmt.Errorf("couldn't get the requester's signature: %w", err)
	}
	s.leaf = statement.Hash()
	s.result.Opener = s.leaf
	if _, err := s.submit(ctx, statement, own, theirs); err != nil {
		return err
	}
	s.Progress("introducing the opener", 1, 1)
	return nil
}

// submit logs a statement and waits until the witnesses have seen it.
func (s *session) submit(ctx context.Context, statement *control.Statement, by ...control.Signature) (int64, error) {
	// Logging the same statement twice gives the same leaf, so that a lost
	// answer bears repetition.
	done, err := retry(ctx, func() (*wire.Submitted, error) {
		return s.Server.Submit(ctx, &wire.Submit{Statement: codec.Encode(statement), Signatures: by})
	})
	if err != nil {
		return 0, fmt.Errorf("couldn't log the %s: %w", statement.Kind, err)
	}
	if done.Index < 0 {
		return 0, fmt.Errorf("couldn't log the %s: %s", statement.Kind, done.Missing)
	}
	return done.Index, s.await(ctx, func() bool {
		known := false
		s.replica.Read(func(st *control.State) { _, known = st.Index(statement.Hash()) })
		return known
	})
}

// await syncs the replica until it holds something, for at most two minutes.
func (s *session) await(ctx context.Context, held func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := s.replica.Sync(ctx, source{s})
		if err == nil && held() {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the witnessed control log doesn't show what it should: %w", ctx.Err()), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// source is the server as the replica sees it. The openings come from the
// requester: an opener needs its own matter's and request's, and no others.
type source struct{ *session }

var _ replica.Source = source{}

func (s source) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	return s.Server.Checkpoint(ctx, log)
}

func (s source) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	return s.Server.Entries(ctx, log, from, to)
}

func (s source) Openings(context.Context, int64) ([]wire.Opening, error) {
	return s.Config.Openings, nil
}

// readRequest makes sure that the request is what the requester says, and ready,
// before holders are asked in vain.
func (s *session) readRequest() error {
	var err error
	s.replica.Read(func(st *control.State) {
		s.genesis = st.Genesis()
		r, ok := st.Request(s.Config.Request)
		if !ok {
			err = fmt.Errorf("%w: it is not on the witnessed log, or its opening was not handed over", ErrRequest)
			return
		}
		s.request = r.Request
		now := s.Now().UnixMilli()
		policy, e := st.PolicyFor(r, now)
		if e == nil {
			e = request.Ready(r, &policy, now)
		}
		if e != nil {
			err = fmt.Errorf("%w: %w", ErrRequest, e)
		}
	})
	if err != nil {
		return err
	}
	if s.Details.Hash() != s.request.Details {
		return fmt.Errorf("%w: the details are not those that its leaf names", ErrRequest)
	}
	return nil
}

// retry calls f up to three times, for as long as what fails isn't a refusal.
func retry[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		out, err := f()
		var problem *wire.Problem
		var refused *Refused
		if err == nil || try == 3 || ctx.Err() != nil || errors.As(err, &refused) || (errors.As(err, &problem) && problem.Status < 500 && problem.Status != 429) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(time.Duration(try) * 500 * time.Millisecond):
		}
	}
}

func (s *session) refuse(r Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.result.Refusals, r) {
		s.result.Refusals = append(s.result.Refusals, r)
	}
	s.Log.Warn("a holder didn't answer", "phase", int(r.Phase), "code", string(r.Code))
}
