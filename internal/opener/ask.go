package opener

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/request"
)

// answers are what holders said about one set of items, in its order.
type answers struct {
	keyholders []*answer // those that answered, by index
	guard      *answer   // right for every item by its tag
	liars      []*answer // guards that were wrong for some item
}

// answer is one holder's, verified to be signed by it and to rest on a use that
// the witnesses saw.
type answer struct {
	name   string
	holder uint8
	guard  bool
	raw    []byte
	parts  [][]byte
	proofs [][]byte
	wrong  int // of a guard: the first item it was wrong for
}

// ask asks all keyholders and one guard about a set of items, the other guards
// where that one fails. It returns ErrQuorum or ErrGuard, wrapped.
func (s *session) ask(ctx context.Context, phase control.Phase, items []*item, proofs bool) (*answers, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	step := "asking for index keys"
	if phase == control.PhaseRecord {
		step = "asking for records"
	}
	need := int(s.genesis.Threshold)
	total := len(s.genesis.Keyholders) + 1
	s.Progress(step, 0, total)

	var (
		mu     sync.Mutex // guards out, done and err
		out    answers
		done   int
		failed error
		wg     sync.WaitGroup
	)
	late, stop := context.WithCancel(ctx)
	defer stop()
	for i, h := range s.genesis.Keyholders {
		wg.Go(func() {
			a, err := s.askOne(late, s.Keyholders[h.Name], &h, uint8(i+1), false, phase, items, proofs)
			mu.Lock()
			defer mu.Unlock()
			done++
			s.Progress(step, done, total)
			if err != nil {
				if late.Err() != nil && ctx.Err() == nil {
					err = errors.New("it was slow, and enough others had answered")
				}
				s.refuse(refusal(h.Name, phase, err))
				return
			}
			out.keyholders = append(out.keyholders, a)
			if len(out.keyholders) == need {
				// Those that are slow or gone get a little longer: their answers
				// are wanted, and not needed.
				time.AfterFunc(s.Grace, stop)
			}
		})
	}
	wg.Go(func() {
		guard, liars, err := s.askGuards(ctx, phase, items)
		mu.Lock()
		defer mu.Unlock()
		done++
		s.Progress(step, done, total)
		out.guard, out.liars, failed = guard, liars, err
	})
	wg.Wait()
	if len(out.keyholders) < need {
		return nil, &TooFewAnswers{Have: len(out.keyholders), Need: need, Refusals: s.refusalsOf(phase)}
	}
	return &out, failed
}

func (s *session) refusalsOf(phase control.Phase) []Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Refusal
	for _, r := range s.result.Refusals {
		if r.Phase == phase {
			out = append(out, r)
		}
	}
	return out
}

// askGuards asks one guard after another until one is right for every item. The
// tags in the manifests tell a lying guard from a lying sender.
func (s *session) askGuards(ctx context.Context, phase control.Phase, items []*item) (*answer, []*answer, error) {
	var liars []*answer
	var refusals []Refusal
	for i, h := range s.genesis.Guards {
		a, err := s.askOne(ctx, s.Guards[h.Name], &h, uint8(i+1), true, phase, items, false)
		if err != nil {
			r := refusal(h.Name, phase, err)
			s.refuse(r)
			refusals = append(refusals, r)
			continue
		}
		if a.wrong = firstWrong(a, items); a.wrong < 0 {
			return a, liars, nil
		}
		refusals = append(refusals, Refusal{Holder: h.Name, Phase: phase, Reason: "its answer is wrong by the sender's tag"})
		liars = append(liars, a)
	}
	return nil, liars, fmt.Errorf("%w%s", ErrGuard, list(refusals))
}

func firstWrong(a *answer, items []*item) int {
	for i, it := range items {
		if envelope.VerifyTag(a.parts[i], it.core, &it.manifest.Tag) != nil {
			return i
		}
	}
	return -1
}

// transient are refusals that pass when a holder has caught up with the log.
func transient(c request.Code) bool {
	switch c {
	case request.CodeStale, request.CodeUnknown, request.CodeOpener, request.CodeIncomplete, request.CodeInternal:
		return true
	}
	return false
}

// errAnswer means that a holder's answer is not one to this query.
var errAnswer = errors.New("its answer is not one to this query")

func (s *session) askOne(ctx context.Context, peer Holder, h *control.Holder, index uint8, guard bool, phase control.Phase, items []*item, proofs bool) (*answer, error) {
	if peer == nil {
		return nil, errors.New("nobody knows where to reach it")
	}
	q := &request.Query{
		Request: s.Config.Request, Phase: phase, Opener: s.leaf, Guard: guard, Holder: index,
		Checkpoint: s.archive.checkpoint, Rosters: s.archive.rostersOf(items), Proofs: proofs,
	}
	for _, it := range items {
		enc := it.envelope.E()
		if guard {
			enc = it.envelope.Enc
		}
		q.Items = append(q.Items, request.Item{Manifest: it.manifest.Bytes(), Encapsulation: enc, Proof: it.proof})
	}
	signed, err := request.SignQuery(s.keys.sign, q)
	if err != nil {
		return nil, err
	}
	var raw []byte
	for try := 1; ; try++ {
		raw, err = retry(ctx, func() ([]byte, error) { return peer.Query(ctx, signed) })
		if err == nil {
			break
		}
		var refused *Refused
		if !errors.As(err, &refused) {
			return nil, err
		}
		r, bad := request.OpenRefusal(h.Sign, refused.Raw)
		if bad != nil {
			return nil, bad
		}
		if !transient(r.Code) || try == 5 {
			return nil, r
		}
		select {
		case <-ctx.Done():
			return nil, r
		case <-time.After(time.Second):
		}
	}
	return s.openAnswer(ctx, raw, h, index, guard, phase, items, proofs)
}

func (s *session) openAnswer(ctx context.Context, raw []byte, h *control.Holder, index uint8, guard bool, phase control.Phase, items []*item, proofs bool) (*answer, error) {
	a, parts, err := request.OpenAnswer(h.Sign, s.keys.hpke, s.Config.Request, raw)
	if err != nil {
		return nil, err
	}
	if a.Guard != guard || a.Holder != index || len(parts.Parts) != len(items) || (proofs && len(parts.Proofs) != len(items)) {
		return nil, errAnswer
	}
	// No answer counts that the log doesn't show: it is logged before it's given.
	if err := s.replica.Sync(ctx, source{s}); err != nil {
		return nil, err
	}
	if !s.used(a.Use, index, guard, phase, items) {
		return nil, errors.New("it answered without a witnessed use")
	}
	return &answer{name: h.Name, holder: index, guard: guard, raw: raw, parts: parts.Parts, proofs: parts.Proofs}, nil
}

func (s *session) used(leaf codec.Hash, index uint8, guard bool, phase control.Phase, items []*item) bool {
	root := control.UseSet(cores(items))
	found := false
	s.replica.Read(func(st *control.State) {
		r, ok := st.Request(s.Config.Request)
		if !ok {
			return
		}
		for _, u := range r.Uses {
			found = found || u.Hash == leaf && u.Opener == s.leaf && u.Holder == index && u.Guard == guard &&
				u.Phase == phase && u.Root == root && u.Count == uint64(len(items))
		}
	})
	return found
}

func cores(items []*item) []codec.Hash {
	out := make([]codec.Hash, len(items))
	for i, it := range items {
		out[i] = it.core
	}
	return out
}

// rostersOf returns the epochs that a set of items is of, and no others.
func (a *archive) rostersOf(items []*item) []request.Roster {
	needed := map[codec.Hash]bool{}
	for _, it := range items {
		needed[it.manifest.Transport.Roster] = true
	}
	var out []request.Roster
	for _, r := range a.rosters {
		if needed[r.Object] {
			out = append(out, request.Roster{Commit: r.commit, Proof: r.proof, Devices: r.devices})
		}
	}
	return out
}

func refusal(name string, phase control.Phase, err error) Refusal {
	var signed *request.Refusal
	if errors.As(err, &signed) {
		return Refusal{Holder: name, Phase: phase, Code: signed.Code, Reason: signed.Reason}
	}
	return Refusal{Holder: name, Phase: phase, Reason: err.Error()}
}
