// Package openertest makes organisations with an archive, a server and holders
// in memory, for tests of the opener, the pack and the auditor. Messages, logs,
// requests and answers are made by the code that the product runs; server and
// holders are fakes that skip their own checks, and can be told to lie.
package openertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/opener"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/pack"
	"chancery/quorum"
	"chancery/request"
)

// World is an organisation with an archive.
type World struct {
	T   testing.TB
	Org *orgtest.Org

	Recipient hpke.PrivateKey
	Details   *request.Details
	Request   codec.Hash
	Matter    codec.Hash
	Body      control.Request

	// Custodian, Other and Outsider are devices: the request is about the first;
	// the second talks to it, and to the third, who never does.
	Custodian, Other, Outsider *orgtest.Device
	Pair, Group, Apart         codec.ID
	Sent                       []*orgtest.Message // all that was received, index envelopes too

	Server     *FakeServer
	Keyholders map[string]*FakeHolder
	Guards     map[string]*FakeHolder

	mu sync.Mutex // guards Org, the server's and the holders' records
}

// Options change what a World is.
type Options struct {
	Terms    []string   // nil means "budget"; empty means a request without a search
	MaxCount uint64     // 0 means 100
	Approve  int        // 0 means 3
	Clock    *time.Time // what the world's clock shows; nil means now
	Days     [2]uint32  // first and last day requested; zero means yesterday and today
	// Messages sends further messages, before the request is made.
	Messages func(w *World)
}

// New returns a world: a pair of custodian and other, a group of the same and,
// later, a third, with a refused place in it; and a conversation without the
// custodian. There are messages with and without the word budget, an index
// envelope for each epoch, and a request with three approvals.
func New(t testing.TB, opts Options) *World {
	t.Helper()
	now := time.Now
	if opts.Clock != nil {
		now = func() time.Time { return *opts.Clock }
	}
	o := orgtest.NewWith(t, orgtest.Options{Now: now})
	w := &World{T: t, Org: o, Keyholders: map[string]*FakeHolder{}, Guards: map[string]*FakeHolder{}}
	w.Server = &FakeServer{w: w, heads: map[codec.ID]manifest.Head{}}
	w.Custodian, w.Other, w.Outsider = o.NewMember(), o.NewMember(), o.NewMember()
	w.Pair = w.Conversation(w.Custodian, w.Other)
	w.Group = w.Conversation(w.Other, w.Custodian)
	w.Apart = w.Conversation(w.Other, w.Outsider)
	w.Send(w.Pair, w.Custodian, "pair", "The Budget is late.")
	w.Send(w.Pair, w.Other, "pair", "What budget? I <heard> & read nothing, 日本語.")
	w.Send(w.Pair, w.Custodian, "pair", "Lunch?")
	w.Send(w.Group, w.Other, "", "budgets are not a budget")
	w.Send(w.Group, w.Custodian, "", "nothing to see")
	w.Void(w.Group, w.Custodian)
	w.Commit(w.Group, w.Other, w.Other, w.Custodian, w.Outsider)
	w.Send(w.Group, w.Outsider, "", "I joined. BUDGET!")
	w.Send(w.Apart, w.Other, "apart", "the budget that nobody asked about")
	w.Profile(w.Group, w.Other, "budget group")
	if opts.Messages != nil {
		opts.Messages(w)
	}
	w.holders()
	w.ask(opts)
	return w
}

func (w *World) must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Conversation makes a conversation.
func (w *World) Conversation(devices ...*orgtest.Device) codec.ID {
	w.T.Helper()
	id := w.Org.Conversation(devices...)
	w.Server.roster(w.Org.Roster(id))
	return id
}

// Commit begins a conversation's next epoch.
func (w *World) Commit(id codec.ID, by *orgtest.Device, devices ...*orgtest.Device) {
	w.T.Helper()
	w.Server.roster(w.Org.Commit(id, by, devices...))
}

// Send sends a text, after its index envelope where the epoch has none.
func (w *World) Send(id codec.ID, by *orgtest.Device, name, text string) *orgtest.Message {
	w.T.Helper()
	return w.SendRecord(id, by, &envelope.Record{
		ID: codec.NewID().String(), Time: time.Date(2001, 5, 14, 23, 39, 0, 120e6, time.UTC).UnixMilli(), Sender: by.Member.String(),
		Conversation: id, ConversationName: name, Text: text,
	})
}

// Profile sends a record that names a conversation.
func (w *World) Profile(id codec.ID, by *orgtest.Device, name string) *orgtest.Message {
	w.T.Helper()
	return w.SendRecord(id, by, &envelope.Record{
		ID: codec.NewID().String(), Sender: by.Member.String(), Conversation: id, ConversationName: name,
		Text: name, Action: envelope.ActionProfile,
	})
}

// SendRecord sends any record.
func (w *World) SendRecord(id codec.ID, by *orgtest.Device, r *envelope.Record) *orgtest.Message {
	w.T.Helper()
	w.Index(id, by)
	m := w.Org.SendRecord(id, by, r)
	w.Server.message(m)
	return m
}

// Index returns the epoch's index envelope.
func (w *World) Index(id codec.ID, by *orgtest.Device) *orgtest.Message {
	w.T.Helper()
	m := w.Org.IndexOf(id, by)
	if !w.Server.has(m.Leaf) {
		w.Server.message(m)
	}
	return m
}

// Accept receipts a message that was sealed by hand.
func (w *World) Accept(m *orgtest.Message) {
	w.T.Helper()
	w.Org.Accept(m)
	w.Server.message(m)
}

// Void has the server refuse a message, whose place a void then takes.
func (w *World) Void(id codec.ID, by *orgtest.Device) {
	w.T.Helper()
	m := w.Org.Seal(id, by, envelope.KindRecord, (&envelope.Record{ID: "refused", Conversation: id}).Encode(), w.Index(id, by))
	refusal, err := manifest.SignRefusal(w.Org.Keys.Receipt, &manifest.Refusal{Core: m.Core, Reason: "test: refused", Time: w.Org.Now().UnixMilli()})
	w.must(err)
	raw, err := manifest.SignVoid(by.Key, &manifest.Void{
		Organisation: w.Org.ID, Device: by.Hash, Conversation: id, Seq: m.Manifest.Header.Seq, Core: m.Core, Refusal: refusal,
	})
	w.must(err)
	receipt, index, opening := w.Org.Receive(manifest.LeafVoid, id, manifest.VoidHash(raw))
	w.Server.leaf(&stored{index: index, opening: opening, object: manifest.VoidHash(raw), item: &wire.ArchiveItem{Manifest: raw, Receipt: receipt}})
}

func (w *World) ask(opts Options) {
	w.T.Helper()
	o := w.Org
	key, err := hpke.MLKEM768X25519().GenerateKey()
	w.must(err)
	w.Recipient = key
	terms := opts.Terms
	if terms == nil {
		terms = []string{"budget"}
	}
	w.Details, err = request.NewDetails(rand.Reader, "Late budget", "to find out", "a law", terms)
	w.must(err)
	reviewer := o.Reviewers[0]
	matter := &control.Matter{ID: codec.NewID(), Details: codec.Sum("test"), Reviewer: reviewer.Credential()}
	w.Matter = o.Add(matter, reviewer)
	today := envelope.DayOf(o.Now())
	w.Body = control.Request{
		ID: codec.NewID(), Matter: matter.ID, Requester: reviewer.Credential(), Policy: o.State.Policy().Hash,
		Custodians: []codec.ID{w.Custodian.Member}, FromDay: today - 1, ToDay: today,
		MaxCount: cmp.Or(opts.MaxCount, 100), Search: len(terms) > 0, Details: w.Details.Hash(), Recipient: key.PublicKey().Bytes(),
		Evidence: control.EvidenceNone, Expiry: o.Now().Add(time.Hour).UnixMilli(),
	}
	if opts.Days[1] != 0 {
		w.Body.FromDay, w.Body.ToDay = opts.Days[0], opts.Days[1]
	}
	w.Request = o.Add(&w.Body, reviewer)
	for i := range cmp.Or(opts.Approve, 3) {
		o.Add(&control.Approval{
			Nonce: codec.NewID(), Request: w.Request, Decision: control.Approve, Role: control.RoleApprover, Policy: w.Body.Policy,
		}, o.Approvers[i])
	}
}

// Item returns an archived envelope as a pack has it, opened, and its core.
func (w *World) Item(m *orgtest.Message) (pack.Item, codec.Hash) {
	w.T.Helper()
	return pack.Item{
		Manifest: m.Manifest.Bytes(), Proof: w.Org.Proof(m.Leaf, m.Opening, w.Org.Messages.Size()), Tags: m.Tags,
		Opened: &pack.Opened{Seed: m.Seed, Record: m.Record},
	}, m.Core
}

// Config returns what opens the world's request.
func (w *World) Config() opener.Config {
	var openings []wire.Opening
	for i, l := range w.Org.Leaves {
		if l.Opening != nil {
			openings = append(openings, wire.Opening{Index: int64(i), Opening: *l.Opening})
		}
	}
	return opener.Config{
		Organisation: w.Org.ID, Request: w.Request, Details: w.Details, Openings: openings,
		Connect: func(key codec.Signer) (*opener.Peers, error) {
			p := &opener.Peers{Server: w.Server, Keyholders: map[string]opener.Holder{}, Guards: map[string]opener.Holder{}}
			for name, h := range w.Keyholders {
				p.Keyholders[name] = h
			}
			for name, h := range w.Guards {
				p.Guards[name] = h
			}
			return p, nil
		},
		Requester: func(_ context.Context, s *control.Statement) (control.Signature, error) {
			return w.Org.Reviewers[0].Sign(s)
		},
		Now: w.Org.Now, Grace: 200 * time.Millisecond,
	}
}

// Open opens the request, which must go well, and returns the result, the
// export and the evidence pack.
func (w *World) Open() (*opener.Result, []byte, []byte) {
	w.T.Helper()
	result, err := opener.Run(w.T.Context(), w.Config())
	w.must(err)
	export, body, err := pack.OpenProduction(w.Recipient, w.Server.Stored)
	w.must(err)
	return result, export, w.Assemble(body)
}

// Assemble makes the pack of a body with the log as it stands.
func (w *World) Assemble(body []byte) []byte {
	w.T.Helper()
	b, err := pack.ParseBody(body)
	w.must(err)
	data, err := pack.Assemble(body, w.Tail(len(b.Control)))
	w.must(err)
	return data
}

// Tail returns the control log from an entry on.
func (w *World) Tail(from int) *pack.Tail {
	w.T.Helper()
	return &pack.Tail{Control: w.Org.Entries()[from:], Checkpoint: w.Org.Control.Checkpoint()}
}

// FakeServer serves a world's archive and logs from memory.
type FakeServer struct {
	w *World

	Stored   []byte // the sealed production
	PageSize int    // 0 means 4
	Hide     int64  // a leaf that the server leaves out; 0 means none
	Acks     [][]byte
	NoEnd    bool // refuses the opener's last word

	leaves []*stored
	heads  map[codec.ID]manifest.Head
}

var _ opener.Server = (*FakeServer)(nil)

type stored struct {
	index   int64
	opening manifest.Opening
	object  codec.Hash
	item    *wire.ArchiveItem
	roster  *wire.ArchiveRoster
}

func (s *FakeServer) has(index int64) bool {
	return slices.ContainsFunc(s.leaves, func(l *stored) bool { return l.index == index })
}

func (s *FakeServer) leaf(l *stored) {
	s.leaves = append(s.leaves, l)
	b := &l.opening.Body
	s.heads[b.Conversation] = manifest.Head{Conversation: b.Conversation, Position: b.Position, Leaf: l.opening.Leaf(l.object)}
}

func (s *FakeServer) roster(r *orgtest.Roster) {
	s.leaf(&stored{index: r.Index, opening: r.Opening, object: r.Hash, roster: &wire.ArchiveRoster{Commit: r.Commit, Receipt: r.Receipt, Devices: r.Devices}})
}

func (s *FakeServer) message(m *orgtest.Message) {
	s.w.Sent = append(s.w.Sent, m)
	s.leaf(&stored{index: m.Leaf, opening: m.Opening, object: m.Manifest.Hash(), item: &wire.ArchiveItem{
		Manifest: m.Manifest.Bytes(), Receipt: m.Receipt, Envelope: m.Envelope.Encode(), Tags: m.Tags,
	}})
}

// Checkpoint implements opener.Server, as do the methods below.
func (s *FakeServer) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.Org.Log(log).Checkpoint(), nil
}

func (s *FakeServer) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return (orgtest.Source{Org: s.w.Org}).Entries(ctx, log, from, to)
}

func (s *FakeServer) Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		return s.w.Org.Log(log).ReadHashes(indexes)
	})
}

// presigned is a signature made elsewhere.
type presigned control.Signature

func (p presigned) Sign(*control.Statement) (control.Signature, error) {
	return control.Signature(p), nil
}

func (s *FakeServer) Submit(ctx context.Context, x *wire.Submit) (*wire.Submitted, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	statement, err := control.ParseStatement(x.Statement)
	if err != nil {
		return nil, err
	}
	if i, ok := s.w.Org.State.Index(statement.Hash()); ok {
		return &wire.Submitted{Hash: statement.Hash(), Index: i}, nil
	}
	var body control.Body
	switch statement.Kind {
	case control.KindOpener:
		body = new(control.Opener)
	case control.KindOpening:
		if s.NoEnd {
			return nil, &wire.Problem{Title: "no last word", Status: 400}
		}
		body = new(control.OpeningStatement)
	default:
		return nil, fmt.Errorf("the fake server takes no %s", statement.Kind)
	}
	if err := codec.Decode(statement.Body, body); err != nil {
		return nil, err
	}
	var by []orgtest.Signer
	for _, g := range x.Signatures {
		by = append(by, presigned(g))
	}
	h, err := s.w.Org.Try(body, by...)
	if err != nil {
		return nil, &wire.Problem{Title: err.Error(), Status: 409}
	}
	return &wire.Submitted{Hash: h, Index: s.w.Org.Control.Size() - 1}, nil
}

func (s *FakeServer) Heads(context.Context) (*wire.Heads, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	o := s.w.Org
	heads := &manifest.Heads{Time: o.Now().UnixMilli()}
	for _, h := range s.heads {
		heads.Heads = append(heads.Heads, h)
	}
	slices.SortFunc(heads.Heads, func(a, b manifest.Head) int { return bytes.Compare(a.Conversation[:], b.Conversation[:]) })
	opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
		Kind: manifest.LeafHeads, ControlSize: o.Control.Size(), ControlRoot: o.Control.Root(o.Control.Size()), Time: heads.Time,
	})
	if err != nil {
		return nil, err
	}
	leaf := opening.Leaf(heads.Hash())
	index := o.Messages.Append(leaf[:])
	receipt, err := manifest.SignReceipt(o.Keys.Receipt, &manifest.Receipt{Index: index, Object: heads.Hash(), Opening: *opening})
	return &wire.Heads{Heads: codec.Encode(heads), Receipt: receipt}, err
}

func (s *FakeServer) Archive(ctx context.Context, request codec.Hash, after uint64) (*wire.ArchivePage, error) {
	page := &wire.ArchivePage{}
	for i, l := range s.leaves[after:] {
		if i == cmp.Or(s.PageSize, 4) {
			page.Next = after + uint64(i)
			break
		}
		if l.opening.Body.Conversation == s.w.Apart || (s.Hide != 0 && l.index == s.Hide) {
			continue
		}
		if l.roster != nil {
			page.Rosters = append(page.Rosters, *l.roster)
			continue
		}
		item := *l.item
		item.Acks = s.Acks
		if m, err := manifest.Parse(item.Manifest); err == nil && (m.Header.Day < s.w.Body.FromDay || m.Header.Day > s.w.Body.ToDay) {
			item.Envelope, item.Tags = nil, nil
		}
		page.Items = append(page.Items, item)
	}
	return page, nil
}

func (s *FakeServer) PutProduction(ctx context.Context, request codec.Hash, sealed []byte) error {
	s.Stored = bytes.Clone(sealed)
	return nil
}

// FakeHolder is a keyholder or guard that answers whoever asks, after logging
// its use: what a holder checks is tested where holders are.
type FakeHolder struct {
	w      *World
	guard  bool
	index  uint8
	holder *orgtest.Holder

	Refuse   *request.Refusal                                     // refuses with it
	Down     error                                                // fails with it
	Lie      func(phase control.Phase, i int, part []byte) []byte // changes a part of its answer
	LieOnce  bool                                                 // and only where no proof is asked for
	Unlogged bool                                                 // answers without logging its use
	Silent   bool                                                 // withholds without saying of what
	Asked    func(phase control.Phase, i int, enc []byte) []byte  // what it hears in place of the encapsulation it is asked about
}

var _ opener.Holder = (*FakeHolder)(nil)

func (w *World) holders() {
	for i, h := range w.Org.Keyholders {
		w.Keyholders[h.Name] = &FakeHolder{w: w, index: uint8(i + 1), holder: h}
	}
	for i, h := range w.Org.Guards {
		w.Guards[h.Name] = &FakeHolder{w: w, guard: true, index: uint8(i + 1), holder: h}
	}
}

// Query implements opener.Holder.
func (f *FakeHolder) Query(ctx context.Context, raw []byte) ([]byte, error) {
	if f.Down != nil {
		return nil, f.Down
	}
	q, err := request.ParseQuery(raw)
	if err != nil {
		return nil, err
	}
	if f.Refuse != nil {
		refusal, err := request.SignRefusal(f.holder.Key, f.Refuse)
		if err != nil {
			return nil, err
		}
		return nil, &opener.Refused{Raw: refusal}
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	r, ok := f.w.Org.State.Request(q.Request)
	if !ok || r.Openers[q.Opener] == nil {
		return nil, fmt.Errorf("no such opener")
	}
	if err := request.VerifyQuery(r.Openers[q.Opener].Sign, raw); err != nil {
		return nil, err
	}
	var cores []codec.Hash
	parts := &request.Parts{}
	for i := range q.Items {
		m, err := manifest.Parse(q.Items[i].Manifest)
		if err != nil {
			return nil, err
		}
		cores = append(cores, m.CoreHash())
		if err := f.part(q, i, m, parts); err != nil {
			return nil, err
		}
	}
	use := &control.Use{
		Request: q.Request, Phase: q.Phase, Opener: q.Opener, Guard: f.guard, Holder: f.index,
		Root: control.UseSet(cores), Count: uint64(len(cores)),
	}
	statement, _, err := control.NewStatement(rand.Reader, f.w.Org.ID, use)
	if err != nil {
		return nil, err
	}
	if _, ok := f.w.Org.State.Index(statement.Hash()); !ok && !f.Unlogged {
		if _, err := f.w.Org.Try(use, f.holder); err != nil {
			return nil, err
		}
	}
	return request.SealAnswer(f.holder.Key, &r.Openers[q.Opener].Opener, statement.Hash(), f.guard, f.index, parts)
}

func (f *FakeHolder) part(q *request.Query, i int, m *manifest.Manifest, parts *request.Parts) error {
	enc := q.Items[i].Encapsulation
	if f.Asked != nil {
		enc = f.Asked(q.Phase, i, enc)
	}
	var part []byte
	if f.guard {
		secret, err := f.holder.MLKEM[m.Header.EscrowKey].Decapsulate(enc[:len(enc)-quorum.PointSize])
		if err != nil {
			return err
		}
		if envelope.VerifyTag(secret, m.CoreHash(), &m.Tag) == nil {
			part = secret
		}
	} else {
		e, err := quorum.ParsePoint(enc)
		if err != nil {
			return err
		}
		p, err := f.holder.Share.Partial(e)
		if err != nil {
			return err
		}
		part = p[:]
		if q.Proofs {
			proof, err := f.holder.Share.Prove(e, p, request.ProofContext(q.Request, m.CoreHash()))
			if err != nil {
				return err
			}
			parts.Proofs = append(parts.Proofs, proof[:])
		}
	}
	if f.Lie != nil && !(f.LieOnce && q.Proofs) {
		part = f.Lie(q.Phase, i, part)
	}
	if f.guard && len(part) == 0 && !f.Silent {
		if parts.Proofs == nil {
			parts.Proofs = make([][]byte, len(q.Items))
		}
		parts.Proofs[i] = request.Withheld(m.Hash(), enc)
	}
	parts.Parts = append(parts.Parts, part)
	return nil
}

var _ replica.Source = orgtest.Source{}

// Mistag gives a message that wasn't received yet a tag that no secret makes.
func (w *World) Mistag(m *orgtest.Message, by *orgtest.Device) *orgtest.Message {
	w.T.Helper()
	m.Tag[0] ^= 1
	m.Sign(w.T, by.Key, m.Manifest.Transport)
	return m
}

// SendMistagged sends a record under a wrong tag, as a device can that wants
// nobody to open it.
func (w *World) SendMistagged(id codec.ID, by *orgtest.Device, text string) *orgtest.Message {
	w.T.Helper()
	record := &envelope.Record{ID: "mistagged", Conversation: id, Text: text}
	m := w.Mistag(w.Org.Seal(id, by, envelope.KindRecord, record.Encode(), w.Index(id, by)), by)
	w.Accept(m)
	return m
}

// SendBroken sends an envelope whose ciphertext nobody can open, with proofs
// that hold, as a fraudulent sender can; the custodian acknowledges it all the
// same.
func (w *World) SendBroken(id codec.ID, by *orgtest.Device) *orgtest.Message {
	w.T.Helper()
	o := w.Org
	record := &envelope.Record{ID: "broken", Conversation: id, Text: "never read"}
	index := w.Index(id, by)
	m := o.Seal(id, by, envelope.KindRecord, record.Encode(), index)
	m.Envelope.Ciphertext[40] ^= 1
	core := &envelope.Core{Header: m.Manifest.Core.Header, Envelope: m.Envelope.Hash()}
	month, _ := o.State.Month(m.Manifest.Header.EscrowKey)
	public, err := month.PublicKey()
	w.must(err)
	_, secrets, err := envelope.Seal(public, core.Header, &m.Seed, m.Record)
	w.must(err)
	proof, err := secrets.Prove(core.Hash())
	w.must(err)
	m.Manifest, err = manifest.Sign(by.Key, core, proof, secrets.Tag(core.Hash()), m.Manifest.Transport)
	w.must(err)
	m.Core = core.Hash()
	w.Accept(m)
	// The sender's own and one of somebody who was never sent it say nothing.
	for _, d := range []*orgtest.Device{w.Custodian, by, w.Outsider} {
		ack, err := manifest.SignAck(d.Key, &manifest.Ack{
			Organisation: o.ID, Device: d.Hash, Conversation: id, Position: m.Opening.Body.Position,
			Leaf: m.Opening.Leaf(m.Manifest.Hash()), Time: o.Now().UnixMilli(),
		})
		w.must(err)
		w.Server.Acks = append(w.Server.Acks, ack)
	}
	return m
}
