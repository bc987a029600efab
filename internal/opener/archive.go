package opener

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/pack"
	"chancery/request"
)

// maxLeaves bounds what one opening downloads.
const maxLeaves = 1 << 20

// archive is what the server gave, checked.
type archive struct {
	heads      *manifest.Heads
	headsLeaf  leaf
	checkpoint []byte // of the messages log
	messages   *ledger.Cosigned

	rosters []*roster // ascending by leaf, as items are
	items   []*item
	voids   []*void
	acks    [][]byte

	epochs map[codec.Hash]*request.Epoch // by commit statement

	search *pack.Search
	index  []*item              // index envelopes asked for
	keys   map[codec.Hash]*item // those that opened, by H(core)
	hits   []*item              // records asked for
}

// leaf is a place in the messages log.
type leaf struct {
	pack.Leaf
	proof request.Proof
}

type roster struct {
	leaf
	commit  []byte
	devices manifest.Roster
}

type void struct {
	leaf
	raw []byte
}

type item struct {
	leaf
	manifest *manifest.Manifest
	core     codec.Hash
	envelope *envelope.Envelope // nil of a neighbour
	tags     []byte
	member   codec.ID // of the sending device

	opened *opened
	broken string // why it doesn't open
}

// opened is an envelope's content.
type opened struct {
	seed   envelope.Seed
	record []byte
	parsed *envelope.Record // nil where it is no record
	scalar []byte
	secret []byte
}

// download fetches the archive of the request's scope and checks all of it.
func (s *session) download(ctx context.Context) error {
	s.archive = &archive{epochs: map[codec.Hash]*request.Epoch{}}
	// Heads first: what they show is then in the pages, or its absence shows.
	if err := s.readHeads(ctx); err != nil {
		return err
	}
	if err := s.readPages(ctx); err != nil {
		return err
	}
	if err := s.trim(); err != nil {
		return err
	}
	if err := s.prove(ctx); err != nil {
		return err
	}
	return s.check(ctx)
}

func (s *session) readHeads(ctx context.Context) error {
	heads, err := retry(ctx, func() (*wire.Heads, error) { return s.Server.Heads(ctx) })
	if err != nil {
		return fmt.Errorf("couldn't get the heads of all conversations: %w", err)
	}
	a := s.archive
	if a.heads, err = pack.ParseHeads(heads.Heads); err != nil {
		return fmt.Errorf("%w: %w", ErrWithheld, err)
	}
	a.headsLeaf, err = s.receipt(heads.Receipt, manifest.LeafHeads, a.heads.Hash())
	return err
}

// receipt opens a receipt of the server for an object.
func (s *session) receipt(raw []byte, kind manifest.LeafKind, object codec.Hash) (leaf, error) {
	r, err := manifest.OpenReceipt(s.genesis.ReceiptKey, raw)
	if err != nil {
		return leaf{}, fmt.Errorf("%w: %w", ErrWithheld, err)
	}
	return s.leafOf(r, kind, object)
}

func (s *session) leafOf(r *manifest.Receipt, kind manifest.LeafKind, object codec.Hash) (leaf, error) {
	if r.Object != object || r.Opening.Body.Kind != kind {
		return leaf{}, fmt.Errorf("%w: the receipt at leaf %d is for something else", ErrWithheld, r.Index)
	}
	return leaf{Leaf: pack.Leaf{Index: r.Index, Opening: &r.Opening, Object: object}}, nil
}

func (s *session) readPages(ctx context.Context) error {
	a := s.archive
	seen := map[int64]codec.Hash{}
	fresh := func(l leaf) (bool, error) {
		if old, ok := seen[l.Index]; ok {
			if old != l.Object {
				return false, fmt.Errorf("%w: two things at leaf %d", ErrWithheld, l.Index)
			}
			return false, nil
		}
		if len(seen) == maxLeaves {
			return false, fmt.Errorf("%w: more than %d leaves in one opening", ErrCount, maxLeaves)
		}
		seen[l.Index] = l.Object
		return l.Index < a.headsLeaf.Index, nil // what came after the heads is no part of this opening
	}
	acks := map[string][]byte{}
	for after := uint64(0); ; {
		page, err := retry(ctx, func() (*wire.ArchivePage, error) { return s.Server.Archive(ctx, s.Config.Request, after) })
		if err != nil {
			return fmt.Errorf("couldn't download the archive: %w", err)
		}
		for i := range page.Rosters {
			if err := s.takeRoster(&page.Rosters[i], fresh); err != nil {
				return err
			}
		}
		for i := range page.Items {
			if err := s.takeItem(&page.Items[i], fresh); err != nil {
				return err
			}
			for _, ack := range page.Items[i].Acks {
				acks[string(ack)] = ack
			}
		}
		s.Progress("downloading", len(seen), 0)
		if page.Next == 0 {
			break
		}
		if page.Next <= after {
			return fmt.Errorf("%w: pages that don't end", ErrWithheld)
		}
		after = page.Next
	}
	byIndex := func(x, y *leaf) int { return cmp.Compare(x.Index, y.Index) }
	slices.SortFunc(a.rosters, func(x, y *roster) int { return byIndex(&x.leaf, &y.leaf) })
	slices.SortFunc(a.items, func(x, y *item) int { return byIndex(&x.leaf, &y.leaf) })
	slices.SortFunc(a.voids, func(x, y *void) int { return byIndex(&x.leaf, &y.leaf) })
	for _, ack := range acks {
		a.acks = append(a.acks, ack)
	}
	slices.SortFunc(a.acks, slices.Compare)
	return nil
}

func (s *session) takeRoster(r *wire.ArchiveRoster, fresh func(leaf) (bool, error)) error {
	l, err := s.receipt(r.Receipt, manifest.LeafCommit, manifest.CommitHash(r.Commit))
	if err != nil {
		return err
	}
	if ok, err := fresh(l); err != nil || !ok {
		return err
	}
	s.archive.rosters = append(s.archive.rosters, &roster{leaf: l, commit: r.Commit, devices: r.Devices})
	return nil
}

// takeItem takes a message, or a void, which comes in the manifest's place. What
// the request doesn't cover comes without its envelope.
func (s *session) takeItem(w *wire.ArchiveItem, fresh func(leaf) (bool, error)) error {
	r, err := manifest.OpenReceipt(s.genesis.ReceiptKey, w.Receipt)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWithheld, err)
	}
	if r.Opening.Body.Kind == manifest.LeafVoid {
		l, err := s.leafOf(r, manifest.LeafVoid, manifest.VoidHash(w.Manifest))
		if err != nil {
			return err
		}
		if ok, err := fresh(l); err != nil || !ok {
			return err
		}
		s.archive.voids = append(s.archive.voids, &void{leaf: l, raw: w.Manifest})
		return nil
	}
	m, err := manifest.Parse(w.Manifest)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWithheld, err)
	}
	l, err := s.leafOf(r, manifest.LeafMessage, m.Hash())
	if err != nil {
		return err
	}
	if ok, err := fresh(l); err != nil || !ok {
		return err
	}
	it := &item{leaf: l, manifest: m, core: m.CoreHash()}
	s.archive.items = append(s.archive.items, it)
	if len(w.Envelope) == 0 {
		return nil
	}
	if it.envelope, err = envelope.Parse(w.Envelope); err != nil {
		return fmt.Errorf("%w: envelope %s: %w", ErrWithheld, it.core.Short(), err)
	}
	if it.envelope.Hash() != m.Core.Envelope {
		return fmt.Errorf("%w: envelope %s is not the one that its manifest names", ErrWithheld, it.core.Short())
	}
	if err := checkTags(m, w.Tags); err != nil {
		return fmt.Errorf("%w: envelope %s: %w", ErrWithheld, it.core.Short(), err)
	}
	it.tags = w.Tags
	return nil
}

func checkTags(m *manifest.Manifest, encoded []byte) error {
	if m.Transport.Tags.IsZero() && len(encoded) == 0 {
		return nil
	}
	tags, err := blindindex.Parse(encoded)
	if err != nil {
		return err
	}
	if blindindex.Hash(tags) != m.Transport.Tags {
		return fmt.Errorf("its tags are not the ones that its manifest names")
	}
	return nil
}

func (a *archive) leaves() []*leaf {
	out := []*leaf{&a.headsLeaf}
	for _, r := range a.rosters {
		out = append(out, &r.leaf)
	}
	for _, i := range a.items {
		out = append(out, &i.leaf)
	}
	for _, v := range a.voids {
		out = append(out, &v.leaf)
	}
	return out
}

// trim holds each conversation to the range that the request's days call for,
// with a neighbour at each end, and makes sure that nothing in it is missing.
func (s *session) trim() error {
	a := s.archive
	lo, hi := request.Window(&s.request)
	keep := map[int64]bool{}
	var leaves []pack.Leaf
	for _, l := range a.leaves()[1:] {
		leaves = append(leaves, l.Leaf)
	}
	shown := map[codec.ID]bool{}
	for _, conversation := range pack.Order(leaves) {
		run, _ := pack.Run(conversation, lo, hi)
		if err := pack.CheckRun(run, lo, hi, a.heads); err != nil {
			return fmt.Errorf("%w: %w", ErrWithheld, err)
		}
		shown[run[0].Opening.Body.Conversation] = true
		for _, l := range run {
			keep[l.Index] = true
		}
	}
	for _, c := range s.request.Conversations {
		if has := slices.ContainsFunc(a.heads.Heads, func(h manifest.Head) bool { return h.Conversation == c }); has && !shown[c] {
			return fmt.Errorf("%w: nothing of conversation %s", ErrWithheld, c)
		}
	}
	a.items = slices.DeleteFunc(a.items, func(i *item) bool { return !keep[i.Index] })
	a.voids = slices.DeleteFunc(a.voids, func(v *void) bool { return !keep[v.Index] })
	// An epoch may have begun long before: its statement is kept for who was in it.
	needed := map[codec.Hash]bool{}
	for _, i := range a.items {
		needed[i.manifest.Transport.Roster] = true
	}
	a.rosters = slices.DeleteFunc(a.rosters, func(r *roster) bool { return !keep[r.Index] && !needed[r.Object] })
	return nil
}

// prove fetches a fresh checkpoint of the messages log and proves every leaf
// under it.
func (s *session) prove(ctx context.Context) error {
	a := s.archive
	leaves := a.leaves()
	if err := s.messagesCheckpoint(ctx); err != nil {
		return err
	}
	// One pass collects which hashes all proofs need, so that tiles are fetched
	// once.
	wanted := map[int64]tlog.Hash{}
	collect := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		for _, i := range indexes {
			wanted[i] = tlog.Hash{}
		}
		return make([]tlog.Hash, len(indexes)), nil
	})
	for _, l := range leaves {
		if _, err := ledger.ProveInclusion(collect, a.messages.Size, l.Index); err != nil {
			return fmt.Errorf("%w: %w", ErrWithheld, err)
		}
	}
	if err := s.readHashes(ctx, wanted); err != nil {
		return err
	}
	known := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = wanted[x]
		}
		return out, nil
	})
	for _, l := range leaves {
		p, err := ledger.ProveInclusion(known, a.messages.Size, l.Index)
		if err != nil {
			return err
		}
		l.proof = request.Proof{Index: l.Index, Opening: *l.Opening, Hashes: p.Hashes}
	}
	return nil
}

func (s *session) readHashes(ctx context.Context, wanted map[int64]tlog.Hash) error {
	indexes := make([]int64, 0, len(wanted))
	for i := range wanted {
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	for chunk := range slices.Chunk(indexes, 1<<14) {
		hashes, err := retry(ctx, func() ([]tlog.Hash, error) {
			return s.Server.Hashes(ctx, ledger.MessagesLog, s.archive.messages.Checkpoint).ReadHashes(chunk)
		})
		if err != nil {
			return fmt.Errorf("couldn't prove what was downloaded: %w", err)
		}
		for i, x := range chunk {
			wanted[x] = hashes[i]
		}
	}
	return nil
}

// messagesCheckpoint waits for a witnessed checkpoint that covers the heads.
func (s *session) messagesCheckpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		signed, err := s.Server.Checkpoint(ctx, ledger.MessagesLog)
		if err == nil {
			var c *ledger.Cosigned
			if c, err = s.replica.Messages(signed); err == nil && c.Size > s.archive.headsLeaf.Index {
				s.archive.checkpoint, s.archive.messages = signed, c
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("the witnessed messages log doesn't reach leaf %d: %w", s.archive.headsLeaf.Index, ctx.Err()), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freshen proves everything again where the checkpoint has aged: holders refuse
// one of more than five minutes.
func (s *session) freshen(ctx context.Context) error {
	if s.Now().Sub(s.archive.messages.Time()) < 2*time.Minute {
		return nil
	}
	return s.prove(ctx)
}

// check checks every item as holders and auditors will.
func (s *session) check(ctx context.Context) error {
	a := s.archive
	size := a.headsLeaf.Opening.Body.ControlSize
	for _, l := range a.leaves() {
		size = max(size, l.Opening.Body.ControlSize)
	}
	if err := s.await(ctx, func() bool { return s.replica.Size() >= size }); err != nil {
		return err
	}
	var failed error
	s.replica.Read(func(st *control.State) {
		log := s.replica.Log(a.messages.Checkpoint, st)
		if err := log.CheckProof(a.heads.Hash(), manifest.LeafHeads, &a.headsLeaf.proof); err != nil {
			failed = err
			return
		}
		for _, r := range a.rosters {
			epoch, hash, err := log.CheckRoster(&request.Roster{Commit: r.commit, Proof: r.proof, Devices: r.devices})
			if err != nil {
				failed = err
				return
			}
			a.epochs[hash] = epoch
		}
		for _, v := range a.voids {
			if err := log.CheckProof(v.Object, manifest.LeafVoid, &v.proof); err != nil {
				failed = err
				return
			}
		}
		r, _ := st.Request(s.Config.Request)
		failed = parallel(len(a.items), func(i int) error {
			it := a.items[i]
			if err := it.check(log, r, a.epochs); err != nil {
				return err
			}
			device, _ := st.Device(it.manifest.Header.Device)
			it.member = device.Member
			return nil
		}, func(done int) { s.Progress("checking", done, len(a.items)) })
		a.acks = slices.DeleteFunc(a.acks, func(raw []byte) bool {
			ack, err := manifest.ParseAck(raw)
			if err != nil {
				return true
			}
			device, ok := st.Device(ack.Device)
			return !ok || ack.Organisation != s.Organisation || !a.has(ack.Conversation) || manifest.VerifyAck(device.Key, raw) != nil
		})
	})
	if failed != nil {
		return fmt.Errorf("%w: %w", ErrWithheld, failed)
	}
	s.narrow()
	return nil
}

// check checks an item, and that it came with its envelope where a phase may
// need that.
func (it *item) check(log *request.Log, r *control.RequestState, epochs map[codec.Hash]*request.Epoch) error {
	if it.envelope != nil {
		_, err := log.CheckManifest(it.manifest.Bytes(), &it.proof, it.envelope.E(), epochs)
		return err
	}
	if _, err := log.CheckNeighbour(it.manifest.Bytes(), &it.proof, epochs); err != nil {
		return err
	}
	for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
		if request.Within(log.State, r, phase, it.manifest, epochs[it.manifest.Transport.Roster].Devices) == nil {
			return fmt.Errorf("envelope %s is in scope and came without its bytes", it.core.Short())
		}
	}
	return nil
}

// narrow drops conversations that the request is not about: not named, or,
// where none is, without a custodian in any epoch shown.
func (s *session) narrow() {
	a := s.archive
	about := map[codec.ID]bool{}
	for _, c := range s.request.Conversations {
		about[c] = true
	}
	if len(s.request.Conversations) == 0 {
		s.replica.Read(func(st *control.State) {
			for _, e := range a.epochs {
				about[e.Conversation] = about[e.Conversation] || slices.ContainsFunc(e.Devices, func(h codec.Hash) bool {
					d, ok := st.Device(h)
					return ok && slices.Contains(s.request.Custodians, d.Member)
				})
			}
		})
	}
	other := func(l *leaf) bool { return !about[l.Opening.Body.Conversation] }
	a.rosters = slices.DeleteFunc(a.rosters, func(r *roster) bool { return other(&r.leaf) })
	a.items = slices.DeleteFunc(a.items, func(i *item) bool { return other(&i.leaf) })
	a.voids = slices.DeleteFunc(a.voids, func(v *void) bool { return other(&v.leaf) })
	a.acks = slices.DeleteFunc(a.acks, func(raw []byte) bool {
		ack, err := manifest.ParseAck(raw)
		return err != nil || !about[ack.Conversation]
	})
	s.result.Items = len(a.items)
}

func (a *archive) has(conversation codec.ID) bool {
	return slices.ContainsFunc(a.items, func(i *item) bool { return i.manifest.Header.Conversation == conversation })
}

// within returns the items that a phase may open, in the order of the log.
func (s *session) within(phase control.Phase) []*item {
	var out []*item
	s.replica.Read(func(st *control.State) {
		r, _ := st.Request(s.Config.Request)
		for _, i := range s.archive.items {
			if request.Within(st, r, phase, i.manifest, s.archive.epochs[i.manifest.Transport.Roster].Devices) == nil {
				out = append(out, i)
			}
		}
	})
	return out
}

// parallel calls f for each index on all cores and returns the error of the
// lowest index that failed. progress is called now and then, one at a time.
func parallel(n int, f func(i int) error, progress func(done int)) error {
	var (
		mu     sync.Mutex // guards what follows
		next   int
		done   int
		failed = n
		first  error
		wg     sync.WaitGroup
	)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || i > failed
				mu.Unlock()
				if stop {
					return
				}
				err := f(i)
				mu.Lock()
				done++
				if err != nil && i < failed {
					failed, first = i, err
				}
				if done%64 == 0 || done == n {
					progress(done)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}
