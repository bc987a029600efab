// Package delivery takes messages, commits and voids from devices, makes each
// durable in one step with all that belongs to it, answers with a signed
// receipt or a signed refusal, and hands what it took to the other devices of
// the conversation in order (spec/delivery.md).
//
// It can read no message and make none. It can refuse, and the refusal is
// evidence; it can't drop or reorder what it has receipted without proof left
// behind: receipts chain the leaves of a conversation, and the leaves are in a
// witnessed log.
package delivery

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
)

const (
	maxQueued = 1024 // jobs that wait for the writer
	maxBatch  = 256  // jobs in one transaction
)

// ErrStopped means that the server is shutting down.
var ErrStopped = errors.New("the server is shutting down")

// Directory is the control log as delivery judges by it.
type Directory interface {
	// Read calls f with the state and the log's root at its size. f must not
	// call back.
	Read(f func(s *control.State, root codec.Hash))
}

// Config says what a Server works with.
type Config struct {
	Store     store.Store
	Directory Directory
	Receipt   codec.Signer // signs receipts and refusals
	Now       func() time.Time
	Log       *slog.Logger
	// Logged, where not nil, is told when the messages log has grown.
	Logged func()
}

// Server is safe for concurrent use. Run must be running.
type Server struct {
	Config
	jobs    chan *job
	stopped chan struct{}
	groups  *groups

	mu            sync.RWMutex // guards what follows; only the writer changes conversations
	conversations map[codec.ID]*conversation
	mailboxes     map[codec.Hash]*mailbox
	size          int64 // leaves of the messages log that queues may show
	time          int64 // of the newest receipt, milliseconds
	messages      int64
	envelopes     int64
}

// conversation is where a conversation stands. A *conversation that readers can
// see is never changed but replaced.
type conversation struct {
	store.Conversation
	roster  manifest.Roster
	members map[codec.Hash]*store.Membership // those that are in it now
	clean   int                              // revocations of the control log none of which is of a device in the roster
}

// mailbox is a device's side of the queues.
type mailbox struct {
	memberships []*store.Membership // oldest first
	cursor      uint64              // it has everything up to here
	wake        chan struct{}       // closed when something comes
}

// New reads where everything stands from the store.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logged == nil {
		cfg.Logged = func() {}
	}
	s := &Server{Config: cfg, jobs: make(chan *job, maxQueued), stopped: make(chan struct{}), groups: newGroups(maxFollowed)}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// load reads everything that is kept in memory.
func (s *Server) load(ctx context.Context) error {
	conversations := map[codec.ID]*conversation{}
	var all []*store.Conversation
	if err := s.Store.Conversations(ctx, func(c *store.Conversation) error { all = append(all, c); return nil }); err != nil {
		return err
	}
	for _, c := range all {
		entry := &conversation{Conversation: *c, members: map[codec.Hash]*store.Membership{}}
		if !c.Commit.IsZero() {
			epoch, err := s.Store.Epoch(ctx, c.Commit)
			if err != nil {
				return fmt.Errorf("couldn't read a conversation's epoch: %w", err)
			}
			entry.roster = epoch.Roster
		}
		conversations[c.ID] = entry
	}
	mailboxes := map[codec.Hash]*mailbox{}
	box := func(device codec.Hash) *mailbox {
		if mailboxes[device] == nil {
			mailboxes[device] = &mailbox{wake: make(chan struct{})}
		}
		return mailboxes[device]
	}
	err := s.Store.Memberships(ctx, func(m *store.Membership) error {
		b := box(m.Device)
		b.memberships = append(b.memberships, m)
		if c := conversations[m.Conversation]; c != nil && m.Until < 0 {
			c.members[m.Device] = m
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.Store.Cursors(ctx, func(d codec.Hash, cursor uint64) error { box(d).cursor = cursor; return nil }); err != nil {
		return err
	}
	messages, envelopes, err := s.Store.Counts(ctx)
	if err != nil {
		return err
	}
	size := s.Store.Size(ledger.MessagesLog)
	newest, err := s.newest(ctx, size)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, old := range s.mailboxes { // those who wait go on waiting
		b := box(d)
		b.wake, b.cursor = old.wake, max(b.cursor, old.cursor)
	}
	s.conversations, s.mailboxes, s.size, s.time = conversations, mailboxes, size, newest
	s.messages, s.envelopes = messages, envelopes
	return nil
}

// newest returns the time of the newest receipt, so that time never goes
// backwards along the log.
func (s *Server) newest(ctx context.Context, size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	leaf, err := s.Store.Leaf(ctx, size-1)
	if err != nil {
		return 0, fmt.Errorf("couldn't read the newest leaf: %w", err)
	}
	r, err := manifest.OpenReceipt(s.Receipt.PublicKey(), leaf.Receipt)
	if err != nil {
		return 0, fmt.Errorf("the newest leaf: %w", err)
	}
	return r.Opening.Body.Time, nil
}

// job is one decision of the writer.
type job struct {
	// decide checks what depends on order and adds to the batch, or returns an
	// error and adds nothing.
	decide func(b *batch) error
	rows   []*row // whose receipts are the answer
	err    error
	done   chan struct{}
}

// row is a leaf with what is written beside it.
type row struct {
	leaf    store.Leaf
	object  codec.Hash
	body    []byte
	copies  []store.Copy
	welcome []byte
	epoch   *store.Epoch
	changed []*store.Membership
	group   *judged // of a commit
}

type place struct {
	device       codec.Hash
	conversation codec.ID
}

// batch is what the writer has decided since the last transaction: nobody sees
// it before it is durable.
type batch struct {
	s     *Server
	ctx   context.Context
	state *control.State
	root  codec.Hash
	now   int64
	next  int64 // index of the batch's first leaf

	rows          []*row
	cores         map[codec.Hash]*row // by H(core) or commit statement
	conversations map[codec.ID]*conversation
	chains        map[place]*store.Chain
	writes        []func(tx store.Tx) error
}

// Run writes until ctx ends, then finishes what has been taken.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	tidy := &sweeper{s: s, stored: map[codec.Hash]uint64{}, swept: map[codec.ID]int64{}}
	for {
		select {
		case <-ctx.Done():
			s.drain()
			return nil
		case j := <-s.jobs:
			s.write(ctx, s.gather(j))
		case <-tick.C:
			if err := tidy.sweep(context.WithoutCancel(ctx)); err != nil {
				s.Log.Error("couldn't tidy the queues", "error", err)
			}
		}
	}
}

// gather takes what else has queued: under load a transaction carries many.
func (s *Server) gather(first *job) []*job {
	jobs := []*job{first}
	for len(jobs) < maxBatch {
		select {
		case j := <-s.jobs:
			jobs = append(jobs, j)
		default:
			return jobs
		}
	}
	return jobs
}

func (s *Server) drain() {
	for {
		select {
		case j := <-s.jobs:
			j.err = ErrStopped
			close(j.done)
		default:
			return
		}
	}
}

// do hands a decision to the writer and waits for it to be durable.
func (s *Server) do(ctx context.Context, decide func(b *batch, j *job) error) ([]*row, error) {
	j := &job{done: make(chan struct{})}
	j.decide = func(b *batch) error { return decide(b, j) }
	select {
	case s.jobs <- j:
	case <-s.stopped:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-j.done:
		return j.rows, j.err
	case <-s.stopped:
		// The writer may have answered with its last breath.
		select {
		case <-j.done:
			return j.rows, j.err
		default:
			return nil, ErrStopped
		}
	}
}

// write decides a batch, makes it durable, and answers.
func (s *Server) write(ctx context.Context, jobs []*job) {
	b := &batch{
		s: s, ctx: context.WithoutCancel(ctx), next: s.Store.Size(ledger.MessagesLog),
		cores: map[codec.Hash]*row{}, conversations: map[codec.ID]*conversation{}, chains: map[place]*store.Chain{},
	}
	// Size and root of the control log that the whole batch is judged at and
	// receipted under: what is logged from now on comes after these messages.
	s.Directory.Read(func(state *control.State, root codec.Hash) {
		b.state, b.root, b.now = state, root, max(s.Now().UnixMilli(), s.time)
		for _, j := range jobs {
			j.err = j.decide(b)
		}
		b.state = nil // it may change from here on
	})
	err := b.commit()
	if err != nil {
		s.Log.Error("couldn't write a batch", "jobs", len(jobs), "error", err)
		// Some of it may be on the disk or none; what is in memory follows it.
		if loadErr := s.load(b.ctx); loadErr != nil {
			s.Log.Error("couldn't read the store again", "error", loadErr)
		}
	} else {
		b.publish()
	}
	for _, j := range jobs {
		if j.err == nil && err != nil {
			j.err = err
		}
		j.err = s.sign(j.err)
		if j.err != nil {
			j.rows = nil
		}
		close(j.done)
	}
	if err == nil && len(b.rows) > 0 {
		s.Logged()
	}
}

// commit writes the batch in one transaction.
func (b *batch) commit() error {
	if len(b.rows) == 0 && len(b.writes) == 0 {
		return nil
	}
	return b.s.Store.Update(b.ctx, func(tx store.Tx) error {
		for _, r := range b.rows {
			if err := r.write(tx); err != nil {
				return err
			}
		}
		for _, c := range b.conversations {
			if err := tx.PutConversation(&c.Conversation); err != nil {
				return err
			}
		}
		for _, c := range b.chains {
			if err := tx.PutChain(c); err != nil {
				return err
			}
		}
		for _, w := range b.writes {
			if err := w(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *row) write(tx store.Tx) error {
	receipt, err := codec.PeekUnverifiedPayload(r.leaf.Receipt) // our own, made just now
	if err != nil {
		return err
	}
	var body manifest.Receipt
	if err := codec.Decode(receipt, &body); err != nil {
		return err
	}
	leaf := body.Leaf()
	index, err := tx.Append(ledger.MessagesLog, leaf[:])
	if err != nil {
		return err
	}
	if index != r.leaf.Index {
		return fmt.Errorf("leaf %d of the messages log where %d was promised", index, r.leaf.Index)
	}
	if err := tx.PutLeaf(&r.leaf); err != nil {
		return err
	}
	if len(r.body) > 0 || len(r.welcome) > 0 {
		if err := tx.PutBody(index, r.body, r.welcome); err != nil {
			return err
		}
	}
	for i := range r.copies {
		if err := tx.PutCopy(index, &r.copies[i]); err != nil {
			return err
		}
	}
	if r.epoch != nil {
		if err := tx.PutEpoch(r.epoch); err != nil {
			return err
		}
	}
	for _, m := range r.changed {
		if err := tx.PutMembership(m); err != nil {
			return err
		}
	}
	if r.group != nil && r.group.next != nil {
		return r.group.next.write(tx, r.leaf.Conversation, r.group.before)
	}
	return nil
}

// publish shows readers what is durable now and wakes those it is for.
func (b *batch) publish() {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size, s.time = b.next+int64(len(b.rows)), max(s.time, b.now)
	for id, c := range b.conversations {
		s.conversations[id] = c
	}
	for _, r := range b.rows {
		if r.leaf.Kind == manifest.LeafMessage {
			s.envelopes++
			if r.leaf.EnvelopeKind == 1 {
				s.messages++
			}
		}
		for _, m := range r.changed {
			s.box(m.Device).set(m)
		}
		if r.group != nil && r.group.next != nil {
			s.groups.put(r.leaf.Conversation, r.group.next)
		}
		c := s.conversations[r.leaf.Conversation]
		if c == nil {
			continue
		}
		for device := range c.members {
			if device != r.leaf.Device {
				s.box(device).ring()
			}
		}
		for _, m := range r.changed {
			s.box(m.Device).ring()
		}
	}
}

// box returns a device's mailbox; the caller holds the lock for writing.
func (s *Server) box(device codec.Hash) *mailbox {
	b := s.mailboxes[device]
	if b == nil {
		b = &mailbox{wake: make(chan struct{})}
		s.mailboxes[device] = b
	}
	return b
}

func (b *mailbox) ring() {
	close(b.wake)
	b.wake = make(chan struct{})
}

func (b *mailbox) set(m *store.Membership) {
	for i, old := range b.memberships {
		if old.Conversation == m.Conversation && old.Since == m.Since {
			b.memberships[i] = m
			return
		}
	}
	b.memberships = append(b.memberships, m)
}

// Wake tells devices that wait that there is something for them.
func (s *Server) Wake(devices []codec.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range devices {
		s.box(d).ring()
	}
}

// Status returns how many messages and envelopes have been taken.
func (s *Server) Status() (messages, envelopes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.messages, s.envelopes
}

// receipt makes the signed receipt and the index of the next leaf of a
// conversation, which it moves on; ahead is how many rows of the same job come
// before it. Nobody sees the receipt before the batch is durable.
func (b *batch) receipt(c *conversation, r *row, ahead int) error {
	opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
		Kind: r.leaf.Kind, Conversation: c.ID, ControlSize: b.state.Size(), ControlRoot: b.root,
		Time: b.now, Position: c.Positions, Previous: c.Leaf,
	})
	if err != nil {
		return err
	}
	r.leaf.Index, r.leaf.Conversation, r.leaf.Position = b.next+int64(len(b.rows)+ahead), c.ID, c.Positions
	r.leaf.Receipt, err = manifest.SignReceipt(b.s.Receipt, &manifest.Receipt{Index: r.leaf.Index, Object: r.object, Opening: *opening})
	if err != nil {
		return fmt.Errorf("couldn't sign a receipt: %w", err)
	}
	c.Positions++
	c.Leaf, c.Last = opening.Leaf(r.object), r.leaf.Index
	return nil
}

// conversation returns a copy of where a conversation stands in this batch, nil
// where there is none.
func (b *batch) conversation(id codec.ID) *conversation {
	c := b.conversations[id]
	if c == nil {
		b.s.mu.RLock()
		c = b.s.conversations[id]
		b.s.mu.RUnlock()
	}
	if c == nil {
		return nil
	}
	own := *c
	return &own
}

// chain returns a copy of a device's place in a conversation.
func (b *batch) chain(device codec.Hash, conversation codec.ID) (*store.Chain, error) {
	if c := b.chains[place{device, conversation}]; c != nil {
		own := *c
		return &own, nil
	}
	return b.s.Store.Chain(b.ctx, device, conversation)
}

// add takes over what a job has decided, all of it.
func (b *batch) add(c *conversation, chain *store.Chain, rows ...*row) {
	for _, r := range rows {
		b.rows = append(b.rows, r)
		b.cores[r.leaf.Core] = r
	}
	b.conversations[c.ID] = c
	if chain != nil {
		b.chains[place{chain.Device, chain.Conversation}] = chain
	}
}

func receipts(rows []*row) [][]byte {
	out := make([][]byte, len(rows))
	for i, r := range rows {
		out[i] = r.leaf.Receipt
	}
	return out
}

// Heads logs the newest leaf of every conversation and returns them with the
// receipt.
func (s *Server) Heads(ctx context.Context) (*wire.Heads, error) {
	rows, err := s.do(ctx, func(b *batch, j *job) error {
		c := b.conversation(codec.ID{})
		if c == nil {
			c = &conversation{members: map[codec.Hash]*store.Membership{}}
		}
		heads := b.heads()
		r := &row{object: heads.Hash()}
		r.leaf.Kind, r.leaf.Object = manifest.LeafHeads, codec.Encode(heads)
		if err := b.receipt(c, r, 0); err != nil {
			return err
		}
		j.rows = []*row{r}
		b.rows = append(b.rows, r)
		b.conversations[c.ID] = c
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &wire.Heads{Heads: rows[0].leaf.Object, Receipt: rows[0].leaf.Receipt}, nil
}

// DailyHeads does what Heads does where it wasn't done yet on this day and there
// are conversations.
func (s *Server) DailyHeads(ctx context.Context) error {
	s.mu.RLock()
	own, n := s.conversations[codec.ID{}], len(s.conversations)
	s.mu.RUnlock()
	if n == 0 {
		return nil
	}
	if own != nil {
		leaf, err := s.Store.Leaf(ctx, own.Last)
		if err != nil {
			return err
		}
		r, err := manifest.OpenReceipt(s.Receipt.PublicKey(), leaf.Receipt)
		if err != nil {
			return err
		}
		if envelope.DayOf(time.UnixMilli(r.Opening.Body.Time)) == envelope.DayOf(s.Now()) {
			return nil
		}
	}
	_, err := s.Heads(ctx)
	return err
}

func (b *batch) heads() *manifest.Heads {
	heads := &manifest.Heads{Time: b.now}
	add := func(c *conversation) {
		if !c.ID.IsZero() {
			heads.Heads = append(heads.Heads, manifest.Head{Conversation: c.ID, Position: c.Positions - 1, Leaf: c.Leaf})
		}
	}
	for _, c := range b.conversations {
		add(c)
	}
	b.s.mu.RLock()
	defer b.s.mu.RUnlock()
	for id, c := range b.s.conversations {
		if b.conversations[id] == nil {
			add(c)
		}
	}
	slices.SortFunc(heads.Heads, func(x, y manifest.Head) int { return bytes.Compare(x.Conversation[:], y.Conversation[:]) })
	return heads
}
