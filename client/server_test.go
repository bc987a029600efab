package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/client"
	"chancery/client/direct"
	"chancery/client/group"
	"chancery/client/remote"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/mls/tree"
)

// fakeServer is a server in memory with only the checks that clients rely on,
// and faults to inject: what the real one never does.
type fakeServer struct {
	t   testing.TB
	org *orgtest.Org

	mu            sync.Mutex
	conversations map[codec.ID]*fakeConversation
	queue         []fakeDelivery
	packages      map[codec.Hash][][]byte
	prekeys       map[codec.Hash]*fakePreKeys
	resorts       map[codec.Hash]fakeResort
	receipts      map[codec.Hash][]byte // by core, statement or void
	acks          map[codec.Hash][]*manifest.Ack
	letters       map[codec.Hash][]wire.Letter
	cursor        uint64 // of letters
	sends         int
	hidden        int64 // control leaves that checkpoints leave out
	authority     *orgtest.Authority
	swap          func(device codec.Hash, c *wire.Claimed) // before the server signs for it
	mute          bool                                     // it signs for no KeyPackage
	misname       codec.Hash                               // the device that it signs for instead
	silent        bool                                     // its witnesses say nothing new of the control log
	word          []byte                                   // what they said last
	careless      bool                                     // it takes what a header may not say

	full          int                               // letters that wait for one device
	deliverLetter func(l *wire.Letter) *wire.Letter // what becomes of one

	lax     bool                                         // takes messages for revoked devices, and past others
	down    bool                                         // nobody can reach it
	refuse  func(h *envelope.Header) string              // a reason, or empty
	tamper  func(to codec.Hash, d *wire.Delivery)        // with what it delivers
	lost    func(what string) bool                       // an answer that never arrives
	commits func(s *wire.CommitSubmission) (refuse bool) // before one is taken
	groups  func(g *wire.Group)                          // with what it says of a group
	bundles func(devices []codec.Hash, bundles [][]byte) // before they are handed out
}

// fakeResort is a KeyPackage of last resort.
type fakeResort struct {
	raw   []byte
	state uint8
}

// refuseOnce has the server refuse the next envelope of a kind.
func (s *fakeServer) refuseOnce(kind envelope.Kind, reason string) {
	s.refuse = func(h *envelope.Header) string {
		if h.Kind != kind {
			return ""
		}
		s.refuse = nil
		return reason
	}
}

type fakeConversation struct {
	position uint64
	leaf     codec.Hash
	epoch    uint64
	commit   codec.Hash
	removal  uint64
	roster   manifest.Roster
	chains   map[codec.Hash]*fakeChain
	indexes  map[codec.Hash]uint64 // core → epoch
	epochs   map[uint64]codec.Hash
	group    *fakeGroup // nil where it isn't followed
	direct   bool
	members  []codec.ID
}

type fakeChain struct {
	next uint64
	prev codec.Hash
}

type fakeDelivery struct {
	to map[codec.Hash]bool
	wire.Delivery
}

func newServer(t testing.TB) *fakeServer { return newServerOf(t, orgtest.New(t)) }

func newServerOf(t testing.TB, o *orgtest.Org) *fakeServer {
	return &fakeServer{
		t: t, org: o, conversations: map[codec.ID]*fakeConversation{}, packages: map[codec.Hash][][]byte{},
		prekeys:  map[codec.Hash]*fakePreKeys{},
		letters:  map[codec.Hash][]wire.Letter{},
		resorts:  map[codec.Hash]fakeResort{},
		receipts: map[codec.Hash][]byte{}, acks: map[codec.Hash][]*manifest.Ack{},
	}
}

// conn is the server as one device sees it.
type conn struct {
	*fakeServer
	key codec.PublicKey
}

var _ client.Server = conn{}
var _ client.Server = (*remote.Client)(nil)

func (s *fakeServer) begin(what string) (func(), error) {
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", what, remote.ErrUnavailable)
	}
	return s.mu.Unlock, nil
}

// answered loses an answer where the test says so.
func (s *fakeServer) answered(what string, receipts ...[]byte) ([][]byte, error) {
	if s.lost != nil && s.lost(what) {
		return nil, fmt.Errorf("%s: %w", what, remote.ErrUnavailable)
	}
	return receipts, nil
}

func (s *fakeServer) device(key codec.PublicKey) codec.Hash {
	d, ok := s.org.State.DeviceByKey(key)
	if !ok {
		s.t.Error("a request of no device")
		return codec.Hash{}
	}
	return d.Hash
}

func (s *fakeServer) Checkpoint(_ context.Context, log ledger.Log) ([]byte, error) {
	end, err := s.begin("checkpoint")
	if err != nil {
		return nil, err
	}
	defer end()
	l := s.org.Log(log)
	c := l.State()
	if log == ledger.ControlLog && s.hidden > 0 {
		c.Size -= s.hidden
		c.Root = tlog.Hash(l.Root(c.Size))
	}
	return l.Witnessed(c, s.org.Witnesses), nil
}

func (s *fakeServer) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	end, err := s.begin("entries")
	if err != nil {
		return nil, err
	}
	defer end()
	return orgtest.Source{Org: s.org}.Entries(ctx, log, from, to)
}

func (s *fakeServer) Openings(context.Context, int64) ([]wire.Opening, error) {
	end, err := s.begin("openings")
	if err != nil {
		return nil, err
	}
	defer end()
	return nil, nil
}

func (s *fakeServer) Hashes(_ context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		end, err := s.begin("hashes")
		if err != nil {
			return nil, err
		}
		defer end()
		return s.org.Log(log).ReadHashes(indexes)
	})
}

func (s *fakeServer) Submit(_ context.Context, in *wire.Submit) (*wire.Submitted, error) {
	end, err := s.begin("submit")
	if err != nil {
		return nil, err
	}
	defer end()
	st, err := control.ParseStatement(in.Statement)
	if err != nil {
		return nil, err
	}
	if i, ok := s.org.State.Index(st.Hash()); ok {
		return &wire.Submitted{Hash: st.Hash(), Index: i}, nil
	}
	entry := control.NewLeaf(st, s.org.Now().UnixMilli(), in.Signatures).Encode()
	if err := s.org.State.Apply(entry, in.Opening); err != nil {
		return nil, &wire.Problem{Title: "refused", Detail: err.Error(), Status: 403}
	}
	s.org.Leaves = append(s.org.Leaves, orgtest.Leaf{Hash: st.Hash(), Entry: entry, Statement: in.Statement, Opening: in.Opening, Signatures: in.Signatures})
	if _, err := s.answered("submit"); err != nil {
		s.org.Control.Append(entry)
		return nil, err
	}
	return &wire.Submitted{Hash: st.Hash(), Index: s.org.Control.Append(entry)}, nil
}

func (c conn) KeyPackages(context.Context) (*wire.Stock, error) {
	end, err := c.begin("stock")
	if err != nil {
		return nil, err
	}
	defer end()
	d := c.device(c.key)
	out := &wire.Stock{Left: uint16(len(c.packages[d]))}
	if last, ok := c.resorts[d]; ok {
		out.LastResort = last.state
	}
	return out, nil
}

func (c conn) UploadKeyPackages(_ context.Context, packages [][]byte) error {
	end, err := c.begin("upload")
	if err != nil {
		return err
	}
	defer end()
	d := c.device(c.key)
	for _, raw := range packages {
		if lastResort(c.t, raw) {
			c.resorts[d] = fakeResort{raw, wire.LastResortUnused}
			continue
		}
		c.packages[d] = append(c.packages[d], raw)
	}
	_, err = c.answered("upload")
	return err
}

// lastResort reports whether a KeyPackage may be given out more than once.
func lastResort(t testing.TB, raw []byte) bool {
	t.Helper()
	m, err := tree.ParseMessage(bytes.Clone(raw))
	if err != nil {
		t.Error(err)
		return false
	}
	p, ok := m.(*tree.KeyPackage)
	if !ok {
		t.Error("not a KeyPackage")
	}
	return ok && p.LastResort()
}

func (s *fakeServer) ClaimKeyPackages(_ context.Context, devices []codec.Hash) ([]wire.Claimed, error) {
	end, err := s.begin("claim")
	if err != nil {
		return nil, err
	}
	defer end()
	out := make([]wire.Claimed, len(devices))
	word := manifest.Claim{ControlSize: s.org.State.Size(), Time: s.org.Now().UnixMilli()}
	word.ControlRoot = s.org.Control.Root(word.ControlSize)
	for i, d := range devices {
		x := &out[i]
		if have := s.packages[d]; len(have) > 0 {
			x.Package, s.packages[d] = have[0], have[1:]
		} else if last, ok := s.resorts[d]; ok {
			x.Package, s.resorts[d] = last.raw, fakeResort{last.raw, wire.LastResortUsed}
		}
		if s.swap != nil {
			s.swap(d, x)
		}
		if len(x.Package) == 0 {
			continue
		}
		if s.mute {
			continue
		}
		word.Device, word.Package = d, manifest.PackageHash(x.Package)
		if !s.misname.IsZero() {
			word.Device = s.misname
		}
		if x.Claim, err = manifest.SignClaim(s.org.Keys.Receipt, &word); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c conn) PutLetter(_ context.Context, l *wire.Letter) error {
	end, err := c.begin("letter")
	if err != nil {
		return err
	}
	defer end()
	if c.full > 0 && len(c.letters[l.Device]) >= c.full {
		return &wire.Problem{Title: "full", Status: http.StatusTooManyRequests}
	}
	if c.deliverLetter != nil {
		if l = c.deliverLetter(l); l == nil {
			return nil
		}
	}
	c.cursor++
	c.letters[l.Device] = append(c.letters[l.Device], wire.Letter{Cursor: c.cursor, Device: c.device(c.key), Body: l.Body})
	_, err = c.answered("letter")
	return err
}

func (c conn) Letters(_ context.Context, after uint64) ([]wire.Letter, error) {
	end, err := c.begin("letters")
	if err != nil {
		return nil, err
	}
	defer end()
	d := c.device(c.key)
	c.letters[d] = slices.DeleteFunc(c.letters[d], func(l wire.Letter) bool { return l.Cursor <= after })
	return slices.Clone(c.letters[d][:min(len(c.letters[d]), 3)]), nil
}

func (s *fakeServer) no(core codec.Hash, reason string) error {
	raw, err := manifest.SignRefusal(s.org.Keys.Receipt, &manifest.Refusal{Core: core, Reason: reason, Time: s.org.Now().UnixMilli()})
	if err != nil {
		s.t.Error(err)
	}
	return &remote.Refused{Refusal: raw, Reason: reason}
}

// receive logs an object and returns its receipt.
func (s *fakeServer) receive(kind manifest.LeafKind, id codec.ID, object codec.Hash) []byte {
	c, size := s.conversations[id], s.org.Control.Size()
	opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
		Kind: kind, Conversation: id, ControlSize: size, ControlRoot: s.org.Control.Root(size),
		Time: s.org.Now().UnixMilli(), Position: c.position, Previous: c.leaf,
	})
	if err != nil {
		s.t.Error(err)
	}
	leaf := opening.Leaf(object)
	raw, err := manifest.SignReceipt(s.org.Keys.Receipt, &manifest.Receipt{Index: s.org.Messages.Append(leaf[:]), Object: object, Opening: *opening})
	if err != nil {
		s.t.Error(err)
	}
	c.position++
	c.leaf = leaf
	return raw
}

func (s *fakeServer) deliver(from codec.Hash, roster manifest.Roster, d wire.Delivery) {
	own := d
	own.Body, own.Tags = nil, nil
	to := map[codec.Hash]bool{}
	for _, h := range roster {
		if h == from {
			s.enqueue(map[codec.Hash]bool{h: true}, own)
			continue
		}
		to[h] = true
	}
	s.enqueue(to, d)
}

func (s *fakeServer) enqueue(to map[codec.Hash]bool, d wire.Delivery) {
	d.Cursor = uint64(len(s.queue)) + 1
	s.queue = append(s.queue, fakeDelivery{to, d})
}

func (c conn) Certificate(context.Context) ([]byte, error) {
	end, err := c.begin("certificate")
	if err != nil {
		return nil, err
	}
	defer end()
	if c.authority == nil {
		return nil, &wire.Problem{Title: "no certificate authority here", Status: http.StatusNotFound}
	}
	return c.authority.Issue(c.org.ID, c.device(c.key), c.key, c.org.Now(), 30*24*time.Hour, nil), nil
}

func (s *fakeServer) Send(_ context.Context, in *wire.Submission) ([][]byte, error) {
	end, err := s.begin("send")
	if err != nil {
		return nil, err
	}
	defer end()
	s.sends++
	items := []*wire.Item{&in.Message}
	if in.Index != nil {
		items = []*wire.Item{in.Index, &in.Message}
	}
	type step struct {
		m  *manifest.Manifest
		it *wire.Item
	}
	var fresh []step
	chains := map[codec.Hash]fakeChain{}
	known := map[codec.Hash]bool{}
	for _, it := range items {
		m, err := manifest.Parse(it.Manifest)
		if err != nil {
			return nil, err
		}
		core := m.CoreHash()
		if s.receipts[core] != nil {
			continue
		}
		if err := s.check(m, it, in.Ciphertext, chains, known); err != nil {
			return nil, err
		}
		fresh = append(fresh, step{m, it})
	}
	for _, f := range fresh {
		h := f.m.Header
		c := s.conversations[h.Conversation]
		*c.chain(h.Device) = chains[h.Device]
		d := wire.Delivery{Kind: wire.DeliveryMessage, Manifest: f.it.Manifest, Tags: f.it.Tags}
		d.Receipt = s.receive(manifest.LeafMessage, h.Conversation, f.m.Hash())
		s.receipts[f.m.CoreHash()] = d.Receipt
		if h.Kind == envelope.KindIndex {
			c.indexes[f.m.CoreHash()] = f.m.Transport.Epoch
		} else {
			d.Body = in.Ciphertext
		}
		if c.direct && len(d.Body) > 0 {
			s.deliverCopies(h.Device, c.roster, d)
			continue
		}
		s.deliver(h.Device, c.roster, d)
	}
	var out [][]byte
	for _, it := range items {
		m, _ := manifest.Parse(it.Manifest)
		out = append(out, s.receipts[m.CoreHash()])
	}
	return s.answered("send", out...)
}

func (c *fakeConversation) chain(device codec.Hash) *fakeChain {
	if c.chains[device] == nil {
		c.chains[device] = &fakeChain{}
	}
	return c.chains[device]
}

// check is a part of the server's checks (spec/delivery.md#checks).
func (s *fakeServer) check(m *manifest.Manifest, it *wire.Item, ciphertext []byte, chains map[codec.Hash]fakeChain, known map[codec.Hash]bool) error {
	h, t, core := m.Header, m.Transport, m.CoreHash()
	no := func(format string, args ...any) error { return s.no(core, fmt.Sprintf(format, args...)) }
	c := s.conversations[h.Conversation]
	if c == nil {
		return no("conversation: unknown")
	}
	d, _, err := s.org.State.CheckHeader(h, s.org.State.Size(), s.org.Now().UnixMilli())
	if s.careless {
		d, _ = s.org.State.Device(h.Device)
	} else if err != nil {
		return no("header: %v", err)
	}
	if err := m.Verify(d.Key); err != nil {
		return no("signature: %v", err)
	}
	env, err := envelope.Parse(it.Envelope)
	if err != nil || env.Hash() != m.Core.Envelope {
		return no("envelope: %v", err)
	}
	if err := envelope.VerifyProof(env.E(), core, &m.Proof); err != nil {
		return no("proof: %v", err)
	}
	for _, device := range s.org.State.Revoked() {
		if c.roster.Contains(device) && !s.lax {
			return no("epoch: a revoked device is still in the conversation")
		}
	}
	switch {
	case c.direct:
		if err := s.checkDirect(c, m, ciphertext, no); err != nil {
			return err
		}
	case t.Epoch > c.epoch || t.Epoch < c.removal:
		return no("epoch: %d, the conversation is at %d", t.Epoch, c.epoch)
	case c.epochs[t.Epoch] != t.Roster || !c.roster.Contains(h.Device):
		return no("roster: not that of epoch %d", t.Epoch)
	case h.Kind != envelope.KindIndex && (len(t.Ciphertexts) != 1 || t.Ciphertexts[0] != manifest.CiphertextHash(ciphertext)):
		return no("transport: another ciphertext")
	}
	if s.refuse != nil {
		if reason := s.refuse(h); reason != "" {
			return no("%s", reason)
		}
	}
	chain, ok := chains[h.Device]
	if !ok {
		chain = *c.chain(h.Device)
	}
	if h.Seq != chain.next || h.Prev != chain.prev {
		return no("sequence: %d, and %d is next", h.Seq, chain.next)
	}
	chains[h.Device] = fakeChain{h.Seq + 1, core}
	switch h.Kind {
	case envelope.KindIndex:
		known[core] = true
	case envelope.KindRecord:
		if epoch, ok := c.indexes[t.Index]; !known[t.Index] && (!ok || epoch < c.removal || c.direct && epoch != t.Epoch) {
			return no("index: not held, or older than a removal")
		}
	}
	return nil
}

func (c conn) Commit(_ context.Context, in *wire.CommitSubmission) ([][]byte, error) {
	end, err := c.begin("commit")
	if err != nil {
		return nil, err
	}
	defer end()
	body, err := manifest.ParseCommit(in.Statement)
	if err != nil {
		return nil, err
	}
	hash := manifest.CommitHash(in.Statement)
	if r := c.receipts[hash]; r != nil {
		return c.answered("commit", r)
	}
	conv := c.conversations[body.Conversation]
	if body.Epoch == 0 {
		conv = &fakeConversation{chains: map[codec.Hash]*fakeChain{}, indexes: map[codec.Hash]uint64{}, epochs: map[uint64]codec.Hash{}}
		c.conversations[body.Conversation] = conv
	} else if c.commits != nil && c.commits(in) || body.Epoch != conv.epoch+1 || body.Previous != conv.commit {
		return nil, c.no(hash, fmt.Sprintf("epoch: the conversation is at %d", conv.epoch))
	}
	if body.Direct() {
		return c.directStatement(in, body, conv)
	}
	receipt := c.receive(manifest.LeafCommit, body.Conversation, hash)
	c.receipts[hash] = receipt
	added := map[codec.Hash]bool{}
	for _, d := range in.Added {
		added[d] = true
	}
	before := conv.roster
	for _, d := range before {
		if !in.Roster.Contains(d) {
			conv.removal = body.Epoch
		}
	}
	conv.epoch, conv.commit, conv.roster, conv.epochs[body.Epoch] = body.Epoch, hash, in.Roster, hash
	conv.follow(c.fakeServer, body, in, receipt)
	d := wire.Delivery{Kind: wire.DeliveryCommit, Manifest: in.Statement, Receipt: receipt, Roster: in.Roster, Body: in.Commit}
	if body.Epoch == 0 {
		c.deliver(body.Device, in.Roster, d)
	} else {
		if !before.Contains(body.Device) { // it joins by itself
			before = manifest.NewRoster(append(slices.Clone(before), body.Device))
		}
		c.deliver(body.Device, before, d)
		d.Kind, d.Body = wire.DeliveryWelcome, in.Welcome
		c.deliver(body.Device, slices.Collect(maps.Keys(added)), d)
	}
	return c.answered("commit", receipt)
}

func (s *fakeServer) Void(_ context.Context, raw []byte) ([][]byte, error) {
	end, err := s.begin("void")
	if err != nil {
		return nil, err
	}
	defer end()
	v, err := manifest.ParseVoid(raw)
	if err != nil {
		return nil, err
	}
	hash := manifest.VoidHash(raw)
	if r := s.receipts[hash]; r != nil {
		return s.answered("void", r)
	}
	d, _ := s.org.State.Device(v.Device)
	if _, err := manifest.OpenVoid(d.Key, raw); err != nil {
		return nil, err
	}
	if r, err := manifest.OpenRefusal(s.org.Keys.Receipt.PublicKey(), v.Refusal); err != nil || r.Core != v.Core {
		s.t.Errorf("void without its refusal: %v", err)
	}
	c := s.conversations[v.Conversation]
	chain := c.chain(v.Device)
	if v.Seq != chain.next {
		s.t.Errorf("void of number %d, and %d is next", v.Seq, chain.next)
		return nil, s.no(v.Core, "sequence: another is next")
	}
	*chain = fakeChain{v.Seq + 1, v.Core}
	r := s.receive(manifest.LeafVoid, v.Conversation, hash)
	s.receipts[hash] = r
	s.deliver(v.Device, c.roster, wire.Delivery{Kind: wire.DeliveryVoid, Manifest: raw, Receipt: r})
	return s.answered("void", r)
}

func (c conn) Queue(_ context.Context, after uint64, _ time.Duration) ([]wire.Delivery, error) {
	end, err := c.begin("queue")
	if err != nil {
		return nil, err
	}
	defer end()
	device := c.device(c.key)
	var out []wire.Delivery
	for _, d := range c.queue {
		if d.Cursor > after && d.to[device] && len(out) < 50 {
			if c.tamper != nil {
				c.tamper(device, &d.Delivery)
			}
			out = append(out, d.Delivery)
		}
	}
	return out, nil
}

func (s *fakeServer) Acknowledge(_ context.Context, raw []byte) error {
	end, err := s.begin("acknowledge")
	if err != nil {
		return err
	}
	defer end()
	a, err := manifest.ParseAck(raw)
	if err != nil {
		return err
	}
	d, _ := s.org.State.Device(a.Device)
	if err := manifest.VerifyAck(d.Key, raw); err != nil {
		return err
	}
	s.acks[a.Device] = append(s.acks[a.Device], a)
	return nil
}

// party is an organisation's devices over one server and one replica.
type party struct {
	testing.TB
	*fakeServer
	cfg client.Config
}

func newParty(t testing.TB) *party { return newPartyOf(t, newServer(t)) }

func newPartyOf(t testing.TB, s *fakeServer) *party {
	p := &party{TB: t, fakeServer: s}
	p.cfg = client.Config{
		Replica: replica.New(s.org.ID), Now: s.org.Now, Stock: 6,
		Connect: func(k codec.Signer) client.Server { return conn{s, k.PublicKey()} },
		Groups:  group.New(s.org.Now), Pairs: direct.New(s.org.Now),
	}
	return p
}

// person is a member's device that can be stopped and started.
type person struct {
	phone *person // another of the member, where a test has one
	*client.Device
	p      *party
	member codec.ID
	dir    string
	key    *[state.KeySize]byte
}

// advance moves the clock, into the next month's escrow key where it comes to
// that.
func (p *party) advance(by time.Duration) {
	p.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	month := func() uint32 { return control.MonthOf(envelope.DayOf(p.org.Now())) }
	before, now := month(), p.org.Now().Add(by)
	started := time.Now()
	p.org.SetClock(func() time.Time { return now.Add(time.Since(started)) })
	if month() != before {
		p.org.AddMonth(month())
	}
}

func (p *party) person(name string) *person { return p.deviceOf(codec.NewID(), name) }

func (p *party) deviceOf(member codec.ID, name string) *person {
	p.Helper()
	x := &person{p: p, member: member, dir: p.TB.(interface{ TempDir() string }).TempDir(), key: state.NewKey()}
	p.mu.Lock()
	invitation := p.org.Invite(x.member)
	p.mu.Unlock()
	d, err := client.Enrol(p.Context(), p.cfg, client.Enrolment{Dir: x.dir, Key: x.key, Member: x.member, Name: name, Invitation: invitation})
	if err != nil {
		p.Fatal(err)
	}
	x.Device = d
	p.Cleanup(func() { x.Close() })
	return x
}

func (x *person) restart() {
	x.p.Helper()
	if err := x.Close(); err != nil {
		x.p.Fatal(err)
	}
	x.reopen()
}

func (x *person) reopen() {
	x.p.Helper()
	d, err := client.Open(x.p.cfg, x.dir, x.key)
	if err != nil {
		x.p.Fatal(err)
	}
	x.Device = d
}

func (x *person) create(name string, others ...*person) codec.ID {
	x.p.Helper()
	var ids []codec.ID
	for _, o := range others {
		ids = append(ids, o.member)
	}
	id, err := x.Create(x.p.Context(), name, ids)
	if err != nil {
		x.p.Fatal(err)
	}
	for _, o := range others {
		o.sync()
	}
	return id
}

// group makes a group where create would make a direct conversation.
func (x *person) group(name string, others ...*person) (id codec.ID) {
	x.p.Helper()
	x.TestOnlyWithoutPairs(func() { id = x.create(name, others...) })
	return id
}

func (x *person) sync() *client.Summary {
	x.p.Helper()
	sum, err := x.Sync(x.p.Context())
	if err != nil {
		x.p.Fatal(err)
	}
	return sum
}

func (x *person) say(id codec.ID, text string) *client.Sent {
	x.p.Helper()
	return x.send(id, client.Draft{Text: text})
}

func (x *person) send(id codec.ID, draft client.Draft) *client.Sent {
	x.p.Helper()
	s, err := x.Send(x.p.Context(), id, draft)
	if err != nil {
		x.p.Fatal(err)
	}
	return s
}

// texts returns what a device shows of a conversation, but for profiles.
func (x *person) texts(id codec.ID) []string {
	x.p.Helper()
	out := []string{}
	for m, err := range x.Messages(id, 0) {
		if err != nil {
			x.p.Fatal(err)
		}
		if m.Action != envelope.ActionProfile && !m.Report {
			out = append(out, m.Text)
		}
	}
	return out
}

func (x *person) want(id codec.ID, texts ...string) {
	x.p.Helper()
	if got := x.texts(id); !slices.Equal(got, texts) {
		x.p.Errorf("%s shows %q, want %q", x.Name(), got, texts)
	}
}

func readAll(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(dir + "/" + e.Name()); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
