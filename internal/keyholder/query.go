package keyholder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/custody"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
	"chancery/request"
)

const (
	mlkemSize = 1088
	pointSize = quorum.PointSize
	// batch is how many items are checked under one hold of the replica's lock:
	// a tenth of a second or so, that the log's replay may have to wait.
	batch = 256
	// maxRosters bounds the rosters of a query: one an item is more than enough.
	maxRosters = request.MaxItems
)

// no makes a refusal about the request.
func no(code request.Code, format string, args ...any) *request.Refusal {
	return &request.Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// about makes a refusal about an envelope.
func about(core codec.Hash, code request.Code, err error) *request.Refusal {
	return &request.Refusal{Core: core, Code: code, Reason: err.Error()}
}

// item is an envelope of the query that was checked, and what answers it.
type item struct {
	core     codec.Hash
	device   codec.Hash
	received int64 // the receipt's time
	ceremony codec.ID
	point    quorum.Point // E, of a keyholder's query
	secret   []byte       // what a guard decapsulated, nil where the tag doesn't verify under it
	withheld []byte       // and then request.Withheld of what it was asked about
}

// judgement is one query on its way through the checks of spec/opening.md#order.
type judgement struct {
	*holder
	query  *request.Query
	raw    []byte
	opener control.Opener
	policy control.Policy
	known  bool // the log's opener signed the query: what follows goes on record
	items  []item
	cores  []codec.Hash
}

// judge answers a query or says why not. What is refused before the opener's
// signature was checked is anybody's doing, and is not recorded: a stranger
// could otherwise fill the disk.
func (h *holder) judge(ctx context.Context, raw []byte) (answer []byte, refusal *request.Refusal) {
	q, err := request.ParseQuery(raw)
	if err != nil {
		return nil, no(request.CodeMalformed, "%v", err)
	}
	j := &judgement{holder: h, query: q, raw: raw}
	defer j.erase()
	answer, refusal = j.run(ctx)
	if refusal == nil {
		return answer, nil
	}
	if j.known {
		if err := h.record.append(&entry{
			Time: h.Now().UnixMilli(), What: didRefuse, Request: q.Request, Root: control.UseSet(j.cores),
			Count: uint64(len(q.Items)), Outcome: string(refusal.Code),
		}); err != nil {
			refusal = no(request.CodeInternal, "%v", err)
		}
	}
	refusal.Request = q.Request
	return nil, refusal
}

func (j *judgement) run(ctx context.Context) ([]byte, *request.Refusal) {
	if r := j.addressed(); r != nil {
		return nil, r
	}
	if r := j.current(ctx); r != nil {
		return nil, r
	}
	// Only queries that their opener signed take turns: strangers could keep
	// others waiting. What happened during the wait counts.
	defer j.take(j.query.Request)()
	if r := j.current(ctx); r != nil {
		return nil, r
	}
	messages, r := j.checkpoint(ctx)
	if r != nil {
		return nil, r
	}
	if r := j.check(ctx, messages.Checkpoint); r != nil {
		return nil, r
	}
	use, r := j.use(ctx)
	if r != nil {
		return nil, r
	}
	return j.answer(use)
}

func (j *judgement) erase() {
	for i := range j.items {
		clear(j.items[i].secret)
	}
}

func (j *judgement) addressed() *request.Refusal {
	q := j.query
	switch {
	case q.Guard != j.Custody.Guard():
		return no(request.CodeMalformed, "this is a %s", j.role())
	case q.Phase != control.PhaseIndex && q.Phase != control.PhaseRecord:
		return no(request.CodeMalformed, "phase %d", q.Phase)
	case len(q.Rosters) > maxRosters:
		return no(request.CodeMalformed, "%d rosters", len(q.Rosters))
	}
	return nil
}

// current is standing by the newest log there is.
func (j *judgement) current(ctx context.Context) *request.Refusal {
	if err := j.sync(ctx); err != nil {
		return no(request.CodeStale, "couldn't bring the control log up to date: %v", err)
	}
	return j.standing()
}

// standing decides everything about the request that the log, what was handed
// over and the holder's own floor say, at this moment. It is asked again after
// the use was logged.
func (j *judgement) standing() (refusal *request.Refusal) {
	if err := j.replicaFresh(); err != nil {
		return no(request.CodeStale, "%v", err)
	}
	j.replica.Read(func(s *control.State) { refusal = j.stands(s) })
	return refusal
}

func (j *judgement) stands(s *control.State) *request.Refusal {
	now := j.Now()
	if n := s.Unopened(); n > 0 {
		return no(request.CodeUnopened, "%d sealed leaves lack their opening: one may be a hold or more", n)
	}
	if int(j.query.Holder) != j.index() {
		return no(request.CodeMalformed, "the query is for %s %d, this is %d", j.role(), j.query.Holder, j.index())
	}
	r, ok := s.Request(j.query.Request)
	if !ok {
		return no(request.CodeUnknown, "no such request on the witnessed log")
	}
	opener, ok := r.Openers[j.query.Opener]
	if !ok {
		return no(request.CodeOpener, "no such opener of this request on the witnessed log")
	}
	// The signature is checked once; what it covers doesn't change.
	if !j.known {
		if err := request.VerifyQuery(opener.Sign, j.raw); err != nil {
			return no(request.CodeOpener, "the query is not signed by the opener that the log names")
		}
		j.known = true
	}
	if opener.Done {
		return no(request.CodeOpener, "the opener has said that its keys are gone")
	}
	if j.notices.isWithdrawn(r.Hash) {
		return no(request.CodeWithdrawn, "%v, as was handed over", request.ErrWithdrawn)
	}
	if j.notices.isVetoed(r.Hash) {
		return no(request.CodeApprovals, "%v, as was handed over", request.ErrRefused)
	}
	policy, err := s.PolicyFor(r, now.UnixMilli())
	if err != nil {
		return no(request.CodeUnknown, "%v", err)
	}
	policy = j.Floor.over(policy)
	if err := request.Ready(r, &policy, now.UnixMilli()); err != nil {
		return no(readyCode(err), "%v", err)
	}
	if refusal := permitted(r, &policy, now.UnixMilli()); refusal != nil {
		return refusal
	}
	j.opener, j.policy = opener.Opener, policy
	return nil
}

// replicaFresh returns ledger.ErrStale, wrapped, unless a quorum of witnesses
// cosigned the control log within the last five minutes. It is not for use
// under the replica's lock.
func (h *holder) replicaFresh() error {
	c := h.replica.Checkpoint()
	if c == nil {
		return fmt.Errorf("the control log has not been read yet: %w", ledger.ErrStale)
	}
	return c.Fresh(h.Now(), fresh)
}

func readyCode(err error) request.Code {
	switch {
	case errors.Is(err, request.ErrWithdrawn):
		return request.CodeWithdrawn
	case errors.Is(err, request.ErrExpired):
		return request.CodeExpired
	}
	return request.CodeApprovals
}

// permitted compares a request with a policy that may have become stricter, or
// have a stricter floor, since the log took the request.
func permitted(r *control.RequestState, p *control.Policy, now int64) *request.Refusal {
	switch {
	case now > r.Time+int64(p.RequestHours)*3_600_000:
		return no(request.CodeExpired, "the request is older than %d hours", p.RequestHours)
	case r.ToDay-r.FromDay >= p.MaxRequestDays:
		return no(request.CodeLimit, "the request spans more than %d days", p.MaxRequestDays)
	case r.MaxCount > p.MaxCount:
		return no(request.CodeLimit, "the request may open %d envelopes, the policy allows %d", r.MaxCount, p.MaxCount)
	case r.Evidence == control.EvidenceNone && !p.OpenerEvidenceNone:
		return no(request.CodeOpener, "the policy refuses openers without evidence")
	}
	return nil
}

// checkpoint judges the messages log's checkpoint: witnessed, fresh, and of the
// same log as the newest one seen, of which the larger is kept.
func (j *judgement) checkpoint(ctx context.Context) (*ledger.Cosigned, *request.Refusal) {
	c, err := j.replica.Messages(j.query.Checkpoint)
	if err != nil {
		return nil, no(request.CodeStale, "messages checkpoint: %v", err)
	}
	if err := c.Fresh(j.Now(), fresh); err != nil {
		return nil, no(request.CodeStale, "%v", err)
	}
	if err := j.follow(ctx, c); err != nil {
		return nil, no(request.CodeStale, "messages log: %v", err)
	}
	return c, nil
}

// follow compares a witnessed checkpoint of the messages log with the newest
// that this holder has seen, in this run or before.
func (h *holder) follow(ctx context.Context, c *ledger.Cosigned) error {
	// One at a time: two that each continue what was seen may contradict one
	// another.
	h.following.Lock()
	defer h.following.Unlock()
	h.mu.Lock()
	held, raw := h.messages, h.raw
	h.mu.Unlock()
	if held == nil && raw != nil {
		var err error
		if held, err = h.replica.Messages(raw); err != nil {
			return fmt.Errorf("the checkpoint seen before: %w", err)
		}
	}
	if held != nil {
		if err := h.consistent(ctx, held, c); err != nil {
			return err
		}
	}
	if held == nil || held.Size < c.Size {
		// Stored first: what was seen must be seen after a restart too.
		if err := custody.WriteFile(filepath.Join(h.Dir, messageSeen), c.Note, 0o600); err != nil {
			return err
		}
		held = c
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages, h.raw = held, nil
	return nil
}

// consistent returns an error unless one of the two checkpoints is a prefix of
// the other. The server proves it; who is right is for the hashes to say. An
// opener that took its checkpoint before another's is no rollback, so that the
// smaller may come second.
func (h *holder) consistent(ctx context.Context, a, b *ledger.Cosigned) error {
	if a.Size > b.Size {
		a, b = b, a
	}
	if a.Size == b.Size {
		if a.Root != b.Root {
			return &ledger.Fork{Held: a.Note, Offered: b.Note}
		}
		return nil
	}
	if a.Size == 0 {
		return nil
	}
	proof, err := ledger.ProveConsistency(h.Server.Hashes(ctx, ledger.MessagesLog, b.Checkpoint), a.Size, b.Size)
	if err != nil {
		return fmt.Errorf("couldn't compare it with the checkpoint seen before: %w", err)
	}
	return ledger.CheckConsistency(proof, a.Size, a.Root, b.Size, b.Root)
}

// check judges the set and every envelope in it. One bad envelope refuses the
// whole: there are no partial batches, but for a tag that only a guard can check.
func (j *judgement) check(ctx context.Context, messages ledger.Checkpoint) *request.Refusal {
	if r := j.name(); r != nil {
		return r
	}
	var r *request.Refusal
	j.replica.Read(func(s *control.State) { r = j.limits(s, s.Size()) })
	if r != nil {
		return r
	}
	epochs, r := j.rosters(ctx, messages)
	if r != nil {
		return r
	}
	j.items = make([]item, len(j.query.Items))
	for from := 0; from < len(j.items); from += batch {
		to := min(from+batch, len(j.items))
		refusals := make([]*request.Refusal, to-from)
		j.replica.Read(func(s *control.State) {
			log := j.replica.Log(messages, s)
			parallel(ctx, to-from, func(i int) bool {
				j.items[from+i], refusals[i] = j.envelope(log, epochs, from+i)
				return refusals[i] == nil
			})
		})
		for _, r := range refusals {
			if r != nil {
				return r
			}
		}
		if ctx.Err() != nil {
			return no(request.CodeInternal, "the query was given up")
		}
	}
	return nil
}

// parallel calls f for 0 to n-1 on all cores, and starts no more once f has
// returned false or ctx has ended.
func parallel(ctx context.Context, n int, f func(i int) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if !f(i) {
				cancel()
			}
			return nil
		})
	}
	g.Wait() // no f returns an error
}

// name reads which envelopes the query is about, each once.
func (j *judgement) name() *request.Refusal {
	seen := make(map[codec.Hash]bool, len(j.query.Items))
	cores := make([]codec.Hash, len(j.query.Items))
	for i := range j.query.Items {
		m, err := manifest.Parse(j.query.Items[i].Manifest)
		if err != nil {
			return no(request.CodeMalformed, "envelope %d: %v", i+1, err)
		}
		cores[i] = m.CoreHash()
		if seen[cores[i]] {
			return about(cores[i], request.CodeLimit, errors.New("the envelope is in the set twice"))
		}
		seen[cores[i]] = true
	}
	j.cores = cores
	return nil
}

// limits counts from the log (spec/opening.md#limits): how many uses of this
// request and phase came before an index, and whether the set grew from the
// last of them. A rolled-back machine can't forget them.
func (j *judgement) limits(s *control.State, before int64) *request.Refusal {
	r, ok := s.Request(j.query.Request)
	if !ok {
		return no(request.CodeUnknown, "no such request on the witnessed log")
	}
	most := r.MaxCount
	if j.query.Phase == control.PhaseIndex {
		most = j.policy.MaxIndexKeys
	}
	if n := uint64(len(j.cores)); n > most {
		return no(request.CodeLimit, "%d envelopes, and the greatest count is %d", n, most)
	}
	var last *control.UseState
	uses := 0
	own := j.statement().Hash()
	for i := range r.Uses {
		u := &r.Uses[i]
		if u.Phase != j.query.Phase || u.Guard != j.query.Guard || u.Holder != j.query.Holder || u.Since >= before {
			continue
		}
		if u.Hash == own {
			return nil // these answers were given before, to this opener
		}
		last = u
		uses++
	}
	if uses >= request.MaxUses {
		return no(request.CodeLimit, "%d uses of this request and phase, and %d are allowed", uses+1, request.MaxUses)
	}
	if last == nil {
		return nil
	}
	if last.Count > uint64(len(j.cores)) || control.UseSet(j.cores[:last.Count]) != last.Root {
		return no(request.CodeLimit, "the set doesn't begin with the %d envelopes of the last use", last.Count)
	}
	return nil
}

func (j *judgement) rosters(ctx context.Context, messages ledger.Checkpoint) (map[codec.Hash]*request.Epoch, *request.Refusal) {
	n := len(j.query.Rosters)
	epochs := make(map[codec.Hash]*request.Epoch, n)
	for from := 0; from < n; from += batch {
		to := min(from+batch, n)
		found, hashes, errs := make([]*request.Epoch, to-from), make([]codec.Hash, to-from), make([]error, to-from)
		j.replica.Read(func(s *control.State) {
			log := j.replica.Log(messages, s)
			parallel(ctx, to-from, func(i int) bool {
				found[i], hashes[i], errs[i] = log.CheckRoster(&j.query.Rosters[from+i])
				return errs[i] == nil
			})
		})
		for i, err := range errs {
			if err != nil {
				return nil, no(request.CodeEnvelope, "%v", err)
			}
			if found[i] != nil {
				epochs[hashes[i]] = found[i]
			}
		}
		if ctx.Err() != nil {
			return nil, no(request.CodeInternal, "the query was given up")
		}
	}
	return epochs, nil
}

// envelope judges one item. It runs under the replica's read lock.
func (j *judgement) envelope(log *request.Log, epochs map[codec.Hash]*request.Epoch, i int) (item, *request.Refusal) {
	q, core := &j.query.Items[i], j.cores[i]
	want := pointSize
	if j.query.Guard {
		want = envelope.EncSize
	}
	if len(q.Encapsulation) != want {
		return item{}, about(core, request.CodeMalformed, fmt.Errorf("encapsulation of %d bytes, want %d", len(q.Encapsulation), want))
	}
	e := q.Encapsulation[want-pointSize:]
	m, err := log.CheckManifest(q.Manifest, &q.Proof, e, epochs)
	if err != nil {
		return item{}, about(core, request.CodeEnvelope, err)
	}
	r, ok := log.State.Request(j.query.Request)
	if !ok {
		return item{}, no(request.CodeUnknown, "no such request on the witnessed log")
	}
	if err := request.Within(log.State, r, j.query.Phase, m, epochs[m.Transport.Roster].Devices); err != nil {
		return item{}, about(core, request.CodeScope, err)
	}
	out := item{core: core, device: m.Header.Device, received: q.Proof.Opening.Body.Time, point: quorum.Point(e)}
	if j.notices.isRevoked(out.device, out.received) {
		return item{}, about(core, request.CodeEnvelope, errors.New("its device had been revoked, as was handed over"))
	}
	month, ok := log.State.Month(m.Header.EscrowKey)
	if !ok {
		return item{}, about(core, request.CodeEnvelope, errors.New("no such escrow key"))
	}
	if j.query.Guard {
		return j.decapsulate(out, month, m, q.Encapsulation)
	}
	epoch, ok := log.State.Epoch(month.Epoch)
	if !ok || !j.Custody.HasShare(epoch.Ceremony) {
		return item{}, about(core, request.CodeInternal, errors.New("no share of its escrow key is here"))
	}
	out.ceremony = epoch.Ceremony
	return out, nil
}

// decapsulate finds what a guard answers, and whether it belongs to the core:
// else it may be another envelope's and never leaves. A copied ML-KEM ciphertext
// gets nothing, and keeps nobody from the rest of the batch.
func (j *judgement) decapsulate(out item, month *control.MonthState, m *manifest.Manifest, enc []byte) (item, *request.Refusal) {
	if month.Destroyed != control.Never {
		return item{}, about(out.core, request.CodeDestroyed, errors.New("its month's key is destroyed"))
	}
	if !j.Custody.HasMonth(month.MLKEM) {
		return item{}, about(out.core, request.CodeInternal, errors.New("its month's key is not here"))
	}
	secret, err := j.Custody.Decapsulate(month.MLKEM, enc[:mlkemSize])
	if err != nil {
		return item{}, about(out.core, request.CodeEnvelope, err)
	}
	if err := envelope.VerifyTag(secret, out.core, &m.Tag); err != nil {
		clear(secret)
		out.withheld = request.Withheld(m.Hash(), enc)
		return out, nil
	}
	out.secret = secret
	return out, nil
}
