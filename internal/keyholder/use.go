package keyholder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/request"
)

// usePoll is the time between two looks for a use under a witnessed checkpoint.
const usePoll = 100 * time.Millisecond

// maxReason is the greatest length in bytes of a refusal's reason.
const maxReason = 1024

// Steps of an answer, between which a process may die.
const (
	stepSigned    = "signed"    // the use is signed, nobody has it
	stepSubmitted = "submitted" // the server has it
	stepWitnessed = "witnessed" // a witnessed checkpoint covers it
	stepRecorded  = "recorded"  // the holder's record has the answer
)

func (h *holder) reached(step string) error {
	if h.testOnlyFailure == nil {
		return nil
	}
	return h.testOnlyFailure(step)
}

// statement is the use of the query: the same query makes the same statement,
// so that a use that was logged before a crash is found again.
func (j *judgement) statement() *control.Statement {
	q := j.query
	body := &control.Use{
		Request: q.Request, Phase: q.Phase, Opener: q.Opener, Guard: q.Guard, Holder: q.Holder,
		Root: control.UseSet(j.cores), Count: uint64(len(j.cores)),
	}
	return &control.Statement{Organisation: j.Organisation, Kind: body.Kind(), Body: codec.Encode(body)}
}

// use writes the use ahead of the answer: on the log, under a witnessed
// checkpoint. What came onto the log or was handed over meanwhile counts.
func (j *judgement) use(ctx context.Context) (codec.Hash, *request.Refusal) {
	statement := j.statement()
	hash := statement.Hash()
	incomplete := func(err error) (codec.Hash, *request.Refusal) {
		return codec.Hash{}, no(request.CodeIncomplete, "the use couldn't be logged and witnessed: %v", err)
	}
	if !j.logged(hash) {
		if err := j.reached(stepSigned); err != nil {
			return incomplete(err)
		}
		if _, err := j.submit(ctx, statement); err != nil {
			return incomplete(err)
		}
		if err := j.reached(stepSubmitted); err != nil {
			return incomplete(err)
		}
		if err := j.await(ctx, hash); err != nil {
			return incomplete(err)
		}
		if r := j.standing(); r != nil {
			return codec.Hash{}, r
		}
	}
	if err := j.reached(stepWitnessed); err != nil {
		return incomplete(err)
	}
	var r *request.Refusal
	j.replica.Read(func(s *control.State) {
		// A second machine with this key may have logged a use in between: the
		// log's order decides which of the two was allowed.
		index, _ := s.Index(hash)
		r = j.limits(s, index)
	})
	if r != nil {
		return codec.Hash{}, r
	}
	for i := range j.items {
		if j.notices.isRevoked(j.items[i].device, j.items[i].received) {
			return codec.Hash{}, about(j.items[i].core, request.CodeEnvelope, errors.New("its device was revoked, as was handed over"))
		}
	}
	return hash, nil
}

// logged reports whether a statement is in the replica, which holds witnessed
// leaves alone.
func (h *holder) logged(hash codec.Hash) bool {
	found := false
	h.replica.Read(func(s *control.State) { _, found = s.Index(hash) })
	return found
}

// await returns when a witnessed checkpoint covers a statement.
func (h *holder) await(ctx context.Context, hash codec.Hash) error {
	ctx, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	poll := time.NewTicker(usePoll)
	defer poll.Stop()
	var last error
	for {
		if err := h.sync(ctx); err != nil && ctx.Err() == nil {
			last = err
		}
		if h.logged(hash) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no witnessed checkpoint covers it after %s", h.wait), last)
		case <-poll.C:
		}
	}
}

// answer computes, records and only then returns what the query asked for.
func (j *judgement) answer(use codec.Hash) ([]byte, *request.Refusal) {
	parts, err := j.parts()
	if err != nil {
		return nil, no(request.CodeInternal, "%v", err)
	}
	defer func() {
		for _, p := range parts.Parts {
			clear(p)
		}
	}()
	if err := j.record.append(&entry{
		Time: j.Now().UnixMilli(), What: didAnswer, Request: j.query.Request, Use: use,
		Root: control.UseSet(j.cores), Count: uint64(len(j.cores)), Outcome: j.outcome(),
	}); err != nil {
		return nil, no(request.CodeInternal, "%v", err)
	}
	if err := j.reached(stepRecorded); err != nil {
		return nil, no(request.CodeInternal, "%v", err)
	}
	answer, err := request.SealAnswer(j.Custody, &j.opener, use, j.query.Guard, j.query.Holder, parts)
	if err != nil {
		return nil, no(request.CodeInternal, "%v", err)
	}
	return answer, nil
}

// withheld counts the items that a guard gives no secret for.
func (j *judgement) withheld() (n int) {
	for i := range j.items {
		if j.items[i].withheld != nil {
			n++
		}
	}
	return n
}

// outcome is what the record says of an answer.
func (j *judgement) outcome() string {
	if n := j.withheld(); n > 0 {
		return fmt.Sprintf("answered, %d withheld", n)
	}
	return "answered"
}

// secrets returns a guard's shared secrets, which were checked already, and what
// it was asked about where it withholds one.
func (j *judgement) secrets() *request.Parts {
	out := &request.Parts{Parts: make([][]byte, len(j.items))}
	if j.withheld() > 0 {
		out.Proofs = make([][]byte, len(j.items))
	}
	for i := range j.items {
		out.Parts[i] = j.items[i].secret
		if out.Proofs != nil {
			out.Proofs[i] = j.items[i].withheld
		}
	}
	return out
}

// parts returns a guard's secrets, or computes a keyholder's partials, and their
// proofs where the query asks.
func (j *judgement) parts() (*request.Parts, error) {
	if j.query.Guard {
		return j.secrets(), nil
	}
	out := &request.Parts{Parts: make([][]byte, len(j.items))}
	if j.query.Proofs {
		out.Proofs = make([][]byte, len(j.items))
	}
	errs := make([]error, len(j.items))
	parallel(context.Background(), len(j.items), func(i int) bool {
		errs[i] = j.partial(out, i)
		return errs[i] == nil
	})
	return out, errors.Join(errs...)
}

func (j *judgement) partial(out *request.Parts, i int) error {
	x := &j.items[i]
	point, err := j.Custody.Partial(x.ceremony, x.point)
	if err != nil {
		return fmt.Errorf("envelope %s: %w", x.core.Short(), err)
	}
	out.Parts[i] = point[:]
	if !j.query.Proofs {
		return nil
	}
	proof, err := j.Custody.Prove(x.ceremony, x.point, point, request.ProofContext(j.query.Request, x.core))
	if err != nil {
		return fmt.Errorf("envelope %s: %w", x.core.Short(), err)
	}
	out.Proofs[i] = proof[:]
	return nil
}

// refuse signs a refusal.
func (h *holder) refuse(r *request.Refusal) ([]byte, error) {
	r.Time = h.Now().UnixMilli()
	r.Reason = strings.ToValidUTF8(r.Reason[:min(len(r.Reason), maxReason)], "")
	return request.SignRefusal(h.Custody, r)
}
