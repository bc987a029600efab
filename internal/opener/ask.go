package opener

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	guards     []*answer // those that were asked and answered, by index
	secrets    [][]byte  // by item: the ML-KEM secret that its tag shows to be right, nil where every guard withholds it
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
}

// askTime bounds how long holders may take for one set.
const askTime = 10 * time.Minute

// ask asks all keyholders and one guard about a set of items, the other guards
// where that one is not enough. It returns ErrQuorum or ErrGuard, wrapped.
func (s *session) ask(ctx context.Context, phase control.Phase, items []*item) (*answers, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var (
		out                answers
		keyholders, guards error
		wg                 sync.WaitGroup
	)
	answered := s.asking(phase, len(s.genesis.Keyholders)+1)
	wg.Go(func() { out.keyholders, keyholders = s.askKeyholders(ctx, phase, items, false, answered) })
	wg.Go(func() {
		out.guards, out.secrets, guards = s.askGuards(ctx, phase, items)
		answered()
	})
	wg.Wait()
	if keyholders != nil {
		return nil, keyholders
	}
	if guards != nil {
		return nil, guards
	}
	return &out, nil
}

// asking says how many of those that are asked at once have answered or failed:
// one more with each call of what it returns, which is safe for concurrent use.
func (s *session) asking(phase control.Phase, total int) func() {
	step := "asking for index keys"
	if phase == control.PhaseRecord {
		step = "asking for records"
	}
	s.Progress(step, 0, total)
	var mu sync.Mutex // guards done, and keeps what is said in order
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		s.Progress(step, done, total)
	}
}

// askKeyholders asks all keyholders at once, and calls answered for each. It
// returns the answers by index, or ErrQuorum, wrapped.
func (s *session) askKeyholders(ctx context.Context, phase control.Phase, items []*item, proofs bool, answered func()) ([]*answer, error) {
	need := int(s.genesis.Threshold)
	var (
		mu  sync.Mutex // guards out
		out []*answer
		wg  sync.WaitGroup
	)
	late, stop := context.WithCancel(ctx)
	defer stop()
	for i, h := range s.genesis.Keyholders {
		wg.Go(func() {
			a, err := s.askOne(late, s.Keyholders[h.Name], &h, uint8(i+1), false, phase, items, proofs)
			answered()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if late.Err() != nil && ctx.Err() == nil {
					err = errors.New("it was slow, and enough others had answered")
				}
				s.refuse(refusal(h.Name, phase, err))
				return
			}
			out = append(out, a)
			if len(out) == need {
				// Those that are slow or gone get a little longer: their answers
				// are wanted, and not needed.
				time.AfterFunc(s.Grace, stop)
			}
		})
	}
	wg.Wait()
	if len(out) < need {
		return nil, &TooFewAnswers{Have: len(out), Need: need, Refusals: s.refusalsOf(phase)}
	}
	slices.SortFunc(out, func(a, b *answer) int { return cmp.Compare(a.holder, b.holder) })
	return out, nil
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

// askGuards asks one guard after another until each item has a secret that its
// tag shows to be right. Where an item has none, every guard must have said so:
// one might lie. It returns the answers and the secrets, or ErrGuard, wrapped.
func (s *session) askGuards(ctx context.Context, phase control.Phase, items []*item) ([]*answer, [][]byte, error) {
	var out []*answer
	var refusals []Refusal
	secrets := make([][]byte, len(items))
	for i, h := range s.genesis.Guards {
		a, err := s.askOne(ctx, s.Guards[h.Name], &h, uint8(i+1), true, phase, items, false)
		if err != nil {
			r := refusal(h.Name, phase, err)
			s.refuse(r)
			refusals = append(refusals, r)
			continue
		}
		out = append(out, a)
		if a.secrets(items, secrets) {
			return out, secrets, nil
		}
	}
	if len(out) == 0 {
		return nil, nil, fmt.Errorf("%w%s", ErrGuard, list(refusals))
	}
	for i, it := range items {
		if secrets[i] != nil {
			continue
		}
		if missing := dissent(i, phase, out, refusals); len(missing) > 0 {
			return nil, nil, fmt.Errorf("%w for envelope %s of device %s: without a right secret, each of the organisation's guards has to say that its tag is wrong%s",
				ErrGuard, it.core.Short(), it.manifest.Header.Device.Short(), list(missing))
		}
	}
	return out, secrets, nil
}

// secrets keeps those of a guard's parts that the tags show to be right, and
// reports whether every item has one now.
func (a *answer) secrets(items []*item, right [][]byte) bool {
	all := true
	for i, it := range items {
		if right[i] == nil && envelope.VerifyTag(a.parts[i], it.core, &it.manifest.Tag) == nil {
			right[i] = a.parts[i]
		}
		all = all && right[i] != nil
	}
	return all
}

// dissent returns the guards that didn't say that an item's tag is wrong, of those
// that answered and of those that didn't.
func dissent(i int, phase control.Phase, given []*answer, refusals []Refusal) []Refusal {
	out := slices.Clone(refusals)
	for _, a := range given {
		if len(a.parts[i]) > 0 {
			out = append(out, Refusal{Holder: a.name, Phase: phase, Reason: "its answer is wrong by the sender's tag"})
		}
	}
	return out
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
	for i, it := range items {
		if guard && len(parts.Parts[i]) == 0 && !parts.Withholds(i, it.manifest.Hash(), it.envelope.Enc) {
			return nil, errAnswer
		}
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
