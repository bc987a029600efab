package keyholder

import (
	"bytes"
	"context"
	"crypto/hpke"
	"crypto/mlkem"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/custody"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/quorum"
	"chancery/request"
)

var (
	_ Custody = (*custody.File)(nil)
	_ Custody = memory{}
	_ Server  = (*desk)(nil)
)

var errNone = errors.New("not in this role")

// memory is a custody over an organisation's test keys: no disk.
type memory struct {
	*codec.PrivateKey
	h     *orgtest.Holder
	guard bool
}

func (m memory) Guard() bool      { return m.guard }
func (m memory) Held() (int, int) { return 1, len(m.h.MLKEM) }
func (m memory) Step(quorum.Ceremony, int, []quorum.Message) (*quorum.Message, *quorum.Result, error) {
	return nil, nil, errNone
}
func (m memory) HasShare(codec.ID) bool { return m.h.Share != nil }
func (m memory) Partial(_ codec.ID, E quorum.Point) (quorum.Point, error) {
	return m.h.Share.Partial(E)
}
func (m memory) Prove(_ codec.ID, E, partial quorum.Point, context []byte) (quorum.DLEQ, error) {
	return m.h.Share.Prove(E, partial, context)
}
func (m memory) MakeMonth(codec.Hash) ([]byte, error)                 { return nil, errNone }
func (m memory) Hand(_, _, _ []byte) ([]byte, error)                  { return nil, errNone }
func (m memory) Destroy([]byte) error                                 { return nil }
func (m memory) HasMonth(public []byte) bool                          { return m.month(public) != nil }
func (m memory) Receive() ([]byte, func(_, _, _ []byte) error, error) { return nil, nil, errNone }
func (m memory) Decapsulate(public, ciphertext []byte) ([]byte, error) {
	return m.month(public).Decapsulate(ciphertext)
}

func (m memory) month(public []byte) *mlkem.DecapsulationKey768 {
	for _, k := range m.h.MLKEM {
		if bytes.Equal(k.EncapsulationKey().Bytes(), public) {
			return k
		}
	}
	return nil
}

// desk is a server in memory, over an organisation made for the test: honest
// unless a field says otherwise. Its fields are for the test's goroutine while
// no daemon runs.
type desk struct {
	org *orgtest.Org

	mu       sync.Mutex // the organisation is nobody's for concurrent use
	pending  map[codec.Hash]*wire.Pending
	frozen   []byte // control checkpoint to serve instead of the newest
	hidden   bool   // openings
	deaf     error  // what Submit returns
	onSubmit func(*control.Statement)
	submits  int
}

func (d *desk) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if log == ledger.ControlLog && d.frozen != nil {
		return d.frozen, nil
	}
	return orgtest.Source{Org: d.org}.Checkpoint(ctx, log)
}

func (d *desk) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return orgtest.Source{Org: d.org}.Entries(ctx, log, from, to)
}

func (d *desk) Openings(ctx context.Context, from int64) ([]wire.Opening, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hidden {
		return nil, nil
	}
	return orgtest.Source{Org: d.org}.Openings(ctx, from)
}

func (d *desk) Hashes(_ context.Context, log ledger.Log, _ ledger.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.org.Log(log).ReadHashes(indexes)
	})
}

func (d *desk) Pending(context.Context) ([]wire.Pending, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []wire.Pending
	for _, p := range d.pending {
		out = append(out, *p)
	}
	return out, nil
}

// made is a signature that somebody made elsewhere.
type made control.Signature

func (m made) Sign(*control.Statement) (control.Signature, error) { return control.Signature(m), nil }

func (d *desk) Submit(_ context.Context, s *wire.Submit) (*wire.Submitted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	statement, err := control.ParseStatement(s.Statement)
	if err != nil {
		return nil, err
	}
	if d.onSubmit != nil {
		d.onSubmit(statement)
	}
	if d.deaf != nil {
		return nil, d.deaf
	}
	d.submits++
	hash := statement.Hash()
	if i, ok := d.org.State.Index(hash); ok {
		return &wire.Submitted{Hash: hash, Index: i}, nil
	}
	p := d.pending[hash]
	if p == nil {
		p = &wire.Pending{Statement: s.Statement}
	}
	p.Signatures = merge(p.Signatures, s.Signatures)
	var body control.Body
	switch statement.Kind {
	case control.KindUse:
		body = new(control.Use)
	case control.KindDKG:
		body = new(control.DKG)
	case control.KindEpoch:
		body = new(control.Epoch)
	case control.KindMonth:
		body = new(control.Month)
	case control.KindAnswer:
		body = new(control.CanaryAnswer)
	case control.KindDestruction:
		body = new(control.Destruction)
	default:
		return nil, control.ErrMalformed
	}
	if err := codec.Decode(statement.Body, body); err != nil {
		return nil, err
	}
	var by []orgtest.Signer
	for _, g := range p.Signatures {
		by = append(by, made(g))
	}
	_, err = d.org.Try(body, by...)
	if errors.Is(err, control.ErrUnauthorised) {
		d.pending[hash] = p
		return &wire.Submitted{Hash: hash, Index: -1, Missing: err.Error()}, nil
	}
	delete(d.pending, hash)
	if err != nil {
		return nil, err
	}
	i, _ := d.org.State.Index(hash)
	return &wire.Submitted{Hash: hash, Index: i}, nil
}

func merge(a, b []control.Signature) []control.Signature {
	for _, g := range b {
		known := false
		for _, x := range a {
			known = known || x.Key == g.Key
		}
		if !known {
			a = append(a, g)
		}
	}
	return a
}

// clock is a clock that the test moves.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

// stage is an organisation with messages, and a request that covers them,
// approved, with its opener.
type stage struct {
	*desk
	*clock
	t *testing.T

	alice, bob   *orgtest.Device
	conversation codec.ID
	messages     []*orgtest.Message
	body         control.Request
	request      codec.Hash
	key          *codec.PrivateKey // the opener's
	decrypt      hpke.PrivateKey
	opener       codec.Hash
	dirs         map[string]string
}

// options say how a stage differs.
type options struct {
	approvals int // 0 means 3
	request   func(*stage, *control.Request)
}

func newStage(t *testing.T, o options) *stage {
	t.Helper()
	s := &stage{t: t, clock: newClock(), dirs: map[string]string{}}
	org := orgtest.NewWith(t, orgtest.Options{Now: s.now})
	s.desk = &desk{org: org, pending: map[codec.Hash]*wire.Pending{}}
	s.alice, s.bob = org.NewMember(), org.NewMember()
	s.conversation = org.Conversation(s.alice, s.bob)
	for _, text := range []string{"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"} {
		s.messages = append(s.messages, org.Send(s.conversation, s.alice, text))
	}
	reviewer := org.Reviewers[0]
	matter := codec.NewID()
	org.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	day := envelope.DayOf(s.now())
	s.body = control.Request{
		ID: codec.NewID(), Matter: matter, Requester: reviewer.Credential(), Policy: org.State.Policy().Hash,
		Custodians: []codec.ID{s.alice.Member}, FromDay: day - 1, ToDay: day + 1, MaxCount: 100, Search: true,
		Evidence: control.EvidenceNone, Expiry: s.now().Add(48 * time.Hour).UnixMilli(),
	}
	if o.request != nil {
		o.request(s, &s.body)
	}
	s.request = org.Add(&s.body, reviewer)
	if o.approvals == 0 {
		o.approvals = 3
	}
	for _, a := range org.Approvers[:o.approvals] {
		s.approve(a, control.Approve)
	}
	s.opener, s.key, s.decrypt = s.newOpener()
	return s
}

func (s *stage) approve(a orgtest.Person, d control.Decision) {
	s.t.Helper()
	s.org.Add(&control.Approval{
		Request: s.request, Decision: d, Role: control.RoleApprover, Policy: s.body.Policy, Reason: "read by " + a.Member.String(),
	}, a)
}

func (s *stage) newOpener() (codec.Hash, *codec.PrivateKey, hpke.PrivateKey) {
	s.t.Helper()
	decrypt, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		s.t.Fatal(err)
	}
	key := codec.NewPrivateKey()
	h := s.org.Add(&control.Opener{
		Request: s.request, Sign: key.PublicKey(), Encrypt: decrypt.PublicKey().Bytes(), Evidence: control.EvidenceNone,
	}, orgtest.Key{PrivateKey: key}, s.org.Reviewers[0])
	return h, key, decrypt
}

// holder opens the daemon of keyholder or guard index, from 1, in the same
// directory as before.
func (s *stage) holder(guard bool, index int) *holder {
	s.t.Helper()
	kind := s.org.Keyholders
	if guard {
		kind = s.org.Guards
	}
	x := kind[index-1]
	if s.dirs[x.Name] == "" {
		s.dirs[x.Name] = s.t.TempDir()
	}
	h, err := open(Config{
		Dir: s.dirs[x.Name], Custody: memory{PrivateKey: x.Key, h: x, guard: guard}, Organisation: s.org.ID,
		Server: s.desk, Now: s.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	h.wait = 300 * time.Millisecond
	s.t.Cleanup(func() { h.record.Close() })
	return h
}

// query asks about messages under a fresh checkpoint; change may alter it
// before it's signed by the opener.
func (s *stage) query(guard bool, messages []*orgtest.Message, change func(*request.Query)) []byte {
	s.t.Helper()
	size := s.org.Messages.Size()
	q := &request.Query{
		Request: s.request, Phase: control.PhaseRecord, Opener: s.opener, Guard: guard, Holder: 1,
		Checkpoint: s.org.Messages.Checkpoint(),
	}
	seen := map[codec.Hash]bool{}
	for _, m := range messages {
		q.Items = append(q.Items, m.Item(s.org, guard, size))
		roster := s.org.Roster(m.Manifest.Header.Conversation)
		if !seen[roster.Hash] {
			seen[roster.Hash] = true
			q.Rosters = append(q.Rosters, roster.Proof(s.org, size))
		}
	}
	if change != nil {
		change(q)
	}
	raw, err := request.SignQuery(s.key, q)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// parts opens an answer of a holder.
func (s *stage) parts(h *holder, answer []byte) (*request.Answer, *request.Parts) {
	s.t.Helper()
	a, p, err := request.OpenAnswer(h.Custody.PublicKey(), s.decrypt, s.request, answer)
	if err != nil {
		s.t.Fatal(err)
	}
	return a, p
}

// uses counts the uses of the stage's request on the log.
func (s *stage) uses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _ := s.org.State.Request(s.request)
	return len(r.Uses)
}
