package opener

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
	"chancery/pack"
	"chancery/quorum"
	"chancery/request"
)

// maxSubsets bounds how many choices of answers are tried for one envelope
// before keyholders are asked for proofs; 3 of 5 has 10.
const maxSubsets = 5000

// scan opens the index envelopes of the scope and finds the records whose tags
// match. Without a search every record in scope is a hit.
func (s *session) scan(ctx context.Context) error {
	records := s.within(control.PhaseRecord)
	s.result.InScope = len(records)
	a := s.archive
	if !s.request.Search {
		s.result.Hits = len(records)
		a.hits = records
		return nil
	}
	search, err := pack.NewSearch(s.Details.Terms)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	a.search = search
	a.index = s.within(control.PhaseIndex)
	if most := s.policy().MaxIndexKeys; uint64(len(a.index)) > most {
		return fmt.Errorf("%w: %d index envelopes in scope, the policy allows %d in one request; ask for fewer days or custodians", ErrCount, len(a.index), most)
	}
	if err := s.open(ctx, control.PhaseIndex, a.index); err != nil {
		return err
	}
	a.keys = map[codec.Hash]*item{}
	for _, it := range a.index {
		if it.opened != nil {
			a.keys[it.core] = it
			s.result.IndexKeys++
		}
	}
	scans := map[codec.Hash]*pack.Scan{}
	for n, it := range records {
		key := a.keyOf(it)
		if key == nil {
			s.result.Unsearchable++
			continue
		}
		id := it.manifest.Transport.Index
		if scans[id] == nil {
			scans[id] = search.Scan(key)
		}
		if scans[id].Match(it.manifest.Core.Envelope, it.tags) {
			a.hits = append(a.hits, it)
		}
		if n%1024 == 0 || n == len(records)-1 {
			s.Progress("scanning", n+1, len(records))
		}
	}
	s.result.Hits = len(a.hits)
	return nil
}

// keyOf returns the index key under which an item can be searched, nil where
// there is none: its index wasn't in scope or didn't open, belongs to another
// conversation, or its tags were made by other rules.
func (a *archive) keyOf(it *item) *blindindex.Key {
	index := a.keys[it.manifest.Transport.Index]
	if index == nil || !pack.Searchable(it.manifest, index.manifest) {
		return nil
	}
	key := blindindex.KeyFromSeed(index.opened.seed[:])
	return &key
}

func (s *session) policy() control.Policy {
	var out control.Policy
	s.replica.Read(func(st *control.State) {
		r, _ := st.Request(s.Config.Request)
		out, _ = st.PolicyFor(r, s.Now().UnixMilli()) // readRequest has seen that it is there
	})
	return out
}

func (s *session) openRecords(ctx context.Context) error {
	hits := s.archive.hits
	if uint64(len(hits)) > s.request.MaxCount {
		return fmt.Errorf("%w: %d records match, the request allows %d; none of them was opened", ErrCount, len(hits), s.request.MaxCount)
	}
	if err := s.freshen(ctx); err != nil {
		return err
	}
	return s.open(ctx, control.PhaseRecord, hits)
}

// open asks for a set of items and opens each.
func (s *session) open(ctx context.Context, phase control.Phase, items []*item) error {
	if len(items) == 0 {
		return nil
	}
	given, err := s.ask(ctx, phase, items)
	if err != nil {
		return err
	}
	if err := s.setAside(phase, items, given); err != nil {
		return err
	}
	if err := s.openWith(phase, items, given); err != nil {
		return err
	}
	stuck := slices.ContainsFunc(items, func(it *item) bool { return it.broken != "" })
	if stuck {
		if err := s.openProven(ctx, phase, items, given); err != nil {
			return err
		}
	}
	return s.blameGuards(phase, given)
}

// lock is an escrow key: the quorum's half and the whole.
type lock struct {
	quorum *quorum.PublicKey
	public *envelope.PublicKey
}

func (s *session) locks(items []*item) (map[codec.Hash]lock, error) {
	out := map[codec.Hash]lock{}
	var err error
	s.replica.Read(func(st *control.State) {
		for _, it := range items {
			h := it.manifest.Header.EscrowKey
			if _, ok := out[h]; ok {
				continue
			}
			month, ok := st.Month(h)
			if !ok {
				err = fmt.Errorf("no escrow key %s", h.Short())
				return
			}
			epoch, ok := st.Epoch(month.Epoch)
			if !ok {
				err = fmt.Errorf("no escrow epoch %s", month.Epoch.Short())
				return
			}
			public, e := month.PublicKey()
			if e != nil {
				err = e
				return
			}
			key := epoch.Key
			out[h] = lock{quorum: &key, public: public}
		}
	})
	return out, err
}

// openWith tries subsets of the answers for each item until one opens it, and
// names who answered otherwise.
func (s *session) openWith(phase control.Phase, items []*item, given *answers) error {
	locks, err := s.locks(items)
	if err != nil {
		return err
	}
	var (
		mu    sync.Mutex // guards first
		first []int      // the keyholders whose answers opened the last envelope
	)
	step := "opening index keys"
	if phase == control.PhaseRecord {
		step = "opening records"
	}
	return parallel(len(items), func(i int) error {
		it, l := items[i], locks[items[i].manifest.Header.EscrowKey]
		if given.secrets[i] == nil {
			return nil // set aside
		}
		mu.Lock()
		hint := first
		mu.Unlock()
		points, _ := given.points(i)
		worked, err := it.open(l, points, given.secrets[i], hint)
		if err != nil {
			it.broken = err.Error()
			return nil
		}
		mu.Lock()
		first = worked
		mu.Unlock()
		return s.blame(phase, i, it, l, given)
	}, func(done int) { s.Progress(step, done, len(items)) })
}

func (g *answers) of(holder int) *answer {
	for _, a := range g.keyholders {
		if int(a.holder) == holder {
			return a
		}
	}
	return nil
}

// points returns the answers for an item, and those that are no points of the
// right length.
func (g *answers) points(i int) (points []quorum.Answer, malformed []*answer) {
	for _, a := range g.keyholders {
		if len(a.parts[i]) != quorum.PointSize {
			malformed = append(malformed, a)
			continue
		}
		points = append(points, quorum.Answer{Holder: int(a.holder), Point: quorum.Point(a.parts[i])})
	}
	return points, malformed
}

// open tries subsets, that of hint first, and returns the one that opened. What
// it opened is sealed again and compared.
func (it *item) open(l lock, points []quorum.Answer, secret []byte, hint []int) ([]int, error) {
	header := it.manifest.Core.Header
	order := slices.Clone(points)
	slices.SortStableFunc(order, func(a, b quorum.Answer) int {
		switch ha, hb := slices.Contains(hint, a.Holder), slices.Contains(hint, b.Holder); {
		case ha && !hb:
			return -1
		case hb && !ha:
			return 1
		}
		return 0
	})
	tried := 0
	for subset := range quorum.Subsets(order, l.quorum.T) {
		if tried++; tried > maxSubsets {
			break
		}
		seed, record, err := control.OpenWith(l.quorum, l.public, header, it.envelope, subset, secret)
		if err != nil {
			continue
		}
		var worked []int
		for _, a := range subset {
			worked = append(worked, a.Holder)
		}
		return worked, it.take(l, seed, record)
	}
	return nil, fmt.Errorf("no %d of %d answers open it", l.quorum.T, len(points))
}

// take seals again what was opened, and keeps it where it is what the sender
// committed to.
func (it *item) take(l lock, seed *envelope.Seed, record []byte) error {
	env, secrets, err := envelope.Reseal(l.public, it.manifest.Core.Header, seed, record)
	if err != nil {
		return fmt.Errorf("it opens to what its header doesn't commit to: %w", err)
	}
	defer secrets.Erase()
	if env.Hash() != it.manifest.Core.Envelope {
		return fmt.Errorf("it opens to what seals to another envelope: %w", envelope.ErrMismatch)
	}
	if tag := secrets.Tag(it.core); tag != it.manifest.Tag {
		return envelope.ErrTag
	}
	o := &opened{seed: *seed, record: record, scalar: secrets.Scalar(), secret: secrets.SharedSecret()}
	if it.manifest.Header.Kind != envelope.KindIndex {
		// A record of a version to come is kept as it is and exported as nothing.
		if r, err := envelope.ParseRecord(record); err == nil {
			o.parsed = r
		}
	}
	it.opened, it.broken = o, ""
	return nil
}

// blame names the keyholders whose answers for an opened item were not the right
// ones: the seed gives the ephemeral key, and that each right answer.
func (s *session) blame(phase control.Phase, i int, it *item, l lock, given *answers) error {
	e, err := quorum.ParsePoint(it.envelope.E())
	if err != nil {
		return err
	}
	points, malformed := given.points(i)
	faults, err := quorum.Blame(l.quorum, e, it.opened.scalar, points, request.ProofContext(s.Config.Request, it.core))
	if err != nil {
		return fmt.Errorf("couldn't tell who answered rightly for envelope %s: %w", it.core.Short(), err)
	}
	for j := range faults {
		if err := s.convict(given.of(faults[j].Holder), phase, i, codec.Encode(&faults[j])); err != nil {
			return err
		}
	}
	for _, a := range malformed {
		if err := s.convict(a, phase, i, nil); err != nil {
			return err
		}
	}
	return nil
}

// convict keeps the proof of a holder's first wrong answer in a phase.
func (s *session) convict(a *answer, phase control.Phase, position int, proof []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fault{a.guard, a.holder, phase}
	if old, ok := s.faults[key]; ok && old.Position <= uint64(position) {
		return nil
	}
	secrets, err := pack.Disclose(s.keys.pq, s.keys.t, a.raw)
	if err != nil {
		return err
	}
	s.faults[key] = pack.Fault{
		Guard: a.guard, Holder: a.holder, Phase: phase, Position: uint64(position),
		Answer: a.raw, Secrets: secrets, Proof: proof,
	}
	if !slices.Contains(s.result.Faults, a.name) {
		s.result.Faults = append(s.result.Faults, a.name)
		slices.Sort(s.result.Faults)
	}
	return nil
}

// blameGuards keeps the proof against guards that gave another part than the
// secret which the tag shows to be right, or withheld it.
func (s *session) blameGuards(phase control.Phase, given *answers) error {
	for _, a := range given.guards {
		for i, right := range given.secrets {
			if right != nil && !bytes.Equal(a.parts[i], right) {
				if err := s.convict(a, phase, i, nil); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// setAside keeps every guard's word for the items that have no secret: their
// senders made them so that no guard may answer, and nothing opens them.
func (s *session) setAside(phase control.Phase, items []*item, given *answers) error {
	out := pack.SetAside{Phase: phase}
	for i, it := range items {
		if given.secrets[i] != nil {
			continue
		}
		out.Envelopes = append(out.Envelopes, pack.Refuted{Position: uint64(i), Envelope: it.envelope.Encode()})
		s.notOpened(it, "every guard says that the sender's tag is wrong")
	}
	if len(out.Envelopes) == 0 {
		return nil
	}
	for _, a := range given.guards {
		secrets, err := pack.Disclose(s.keys.pq, s.keys.t, a.raw)
		if err != nil {
			return err
		}
		out.Answers = append(out.Answers, pack.Disclosed{Answer: a.raw, Secrets: secrets})
	}
	s.aside = append(s.aside, out)
	return nil
}

// notOpened counts an envelope that its sender made so that it isn't opened.
func (s *session) notOpened(it *item, reason string) {
	s.result.Broken = append(s.result.Broken, Broken{
		Core: it.core, Device: it.manifest.Header.Device, Member: it.member,
		Acknowledged: s.acknowledged(it), Reason: reason,
	})
}

// errUnproven means that too few keyholders proved their answers for an
// envelope that doesn't open, so that nobody can be named.
var errUnproven = errors.New("an envelope doesn't open, and too few keyholders proved that it is not they")

// openProven asks the keyholders again, with proofs, about what no subset opened:
// either right answers are now told from wrong ones, or they show that it's the
// sender.
func (s *session) openProven(ctx context.Context, phase control.Phase, items []*item, first *answers) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	given, err := s.askKeyholders(ctx, phase, items, true, s.asking(phase, len(s.genesis.Keyholders)))
	if err != nil {
		return err
	}
	locks, err := s.locks(items)
	if err != nil {
		return err
	}
	for i, it := range items {
		if it.broken == "" {
			continue
		}
		l := locks[it.manifest.Header.EscrowKey]
		e, err := quorum.ParsePoint(it.envelope.E())
		if err != nil {
			return err
		}
		var proven []pack.Proven
		var points []quorum.Answer
		for _, a := range given {
			if len(a.parts[i]) != quorum.PointSize || len(a.proofs[i]) != quorum.ProofSize {
				continue
			}
			p := pack.Proven{Answer: quorum.Answer{Holder: int(a.holder), Point: quorum.Point(a.parts[i])}, Proof: quorum.DLEQ(a.proofs[i])}
			if l.quorum.VerifyAnswer(e, p.Answer, request.ProofContext(s.Config.Request, it.core), p.Proof) == nil {
				proven = append(proven, p)
				points = append(points, p.Answer)
			}
		}
		if len(proven) < l.quorum.T {
			return fmt.Errorf("envelope %s: %w (%d of %d)", it.core.Short(), errUnproven, len(proven), l.quorum.T)
		}
		if _, err := it.open(l, points[:l.quorum.T], first.secrets[i], nil); err == nil {
			if err := s.blame(phase, i, it, l, first); err != nil {
				return err
			}
			continue
		} else {
			it.broken = err.Error()
		}
		s.broken = append(s.broken, pack.Broken{
			Core: it.core, Envelope: it.envelope.Encode(), Secret: first.secrets[i], Answers: proven[:l.quorum.T],
		})
		s.notOpened(it, it.broken)
	}
	return nil
}

// acknowledged returns the devices that signed that they checked an item: of
// those that it was for, since an acknowledgement is cumulative and speaks of
// nothing else (spec/manifest.md#acknowledgement). Of an index envelope it says
// nothing: recipients accuse nobody of one.
func (s *session) acknowledged(it *item) []codec.Hash {
	if it.manifest.Header.Kind == envelope.KindIndex {
		return nil
	}
	var out []codec.Hash
	recipients := s.archive.epochs[it.manifest.Transport.Roster].Devices
	position := it.Opening.Body.Position
	for _, raw := range s.archive.acks {
		ack, err := manifest.ParseAck(raw)
		if err != nil || ack.Device == it.manifest.Header.Device || !recipients.Contains(ack.Device) {
			continue
		}
		if ack.Conversation == it.manifest.Header.Conversation && ack.Position >= position && !slices.Contains(ack.Exceptions, position) {
			out = append(out, ack.Device)
		}
	}
	return out
}
