package api_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/api"
	"chancery/internal/httpsig"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/store/sqlite"
	"chancery/internal/wire"
	"chancery/internal/witness"
	"chancery/ledger"
	"chancery/manifest"
)

// stage is a whole server on a loopback port with two real witnesses.
type stage struct {
	*orgtest.Org
	t      *testing.T
	dir    string
	url    string
	urls   []string // witnesses
	anyone *remote.Client
	stop   func() // the server
	fault  func(step string) error
	faults sync.Mutex

	devices map[codec.Hash]*orgtest.Device // see groups
	members map[codec.Hash]client.Groups
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir(), devices: map[codec.Hash]*orgtest.Device{}, members: map[codec.Hash]client.Groups{}}
	keys, err := api.Init(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := api.Init(s.dir)
	if err != nil || *again != *keys {
		t.Fatalf("a second init gave %v, %v", again, err)
	}
	s.Org = orgtest.NewWith(t, orgtest.Options{ControlKey: keys.ControlKey, MessagesKey: keys.MessagesKey, ReceiptKey: keys.ReceiptKey})
	if err := api.Found(s.dir, s.Leaves[0].Entry); err != nil {
		t.Fatal(err)
	}
	for _, w := range s.Witnesses {
		l := listen(t, "127.0.0.1:0")
		s.urls = append(s.urls, "http://"+l.Addr().String())
		s.background(func(ctx context.Context) error {
			return witness.Run(ctx, witness.Config{Listener: l, Dir: t.TempDir(), Name: w.Name, Key: w.Key, Logs: []ledger.LogKey{
				{Origin: ledger.Origin(s.ID, ledger.ControlLog), Key: keys.ControlKey},
				{Origin: ledger.Origin(s.ID, ledger.MessagesLog), Key: keys.MessagesKey},
			}, Now: time.Now})
		})
	}
	s.start("127.0.0.1:0")
	s.Upload(s.anyone)
	return s
}

// background runs something until the test ends or its stop is called.
func (s *stage) background(run func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

func (s *stage) start(address string) {
	l := listen(s.t, address)
	s.url = "http://" + l.Addr().String()
	s.anyone = remote.New(s.url, nil, nil)
	s.stop = s.background(func(ctx context.Context) error {
		return api.Run(ctx, api.Config{
			Dir: s.dir, Listener: l, Witnesses: s.urls, Now: time.Now, Log: slog.New(slog.DiscardHandler),
			AuthorityKeyFile: filepath.Join(s.dir, "ca.key"),
			Keyholders:       []wire.Endpoint{{Name: "keyholder-1", URL: "http://127.0.0.1:1"}},
			TestOnlyStore:    sqlite.Options{TestOnlyFault: s.inject},
		})
	})
}

func (s *stage) inject(step string) error {
	s.faults.Lock()
	defer s.faults.Unlock()
	if s.fault == nil {
		return nil
	}
	return s.fault(step)
}

func (s *stage) breakAt(fault func(step string) error) {
	s.faults.Lock()
	defer s.faults.Unlock()
	s.fault = fault
}

func (s *stage) as(d *orgtest.Device) *remote.Client { return s.anyone.As(httpsig.Ed25519(d.Key)) }

func (s *stage) person(p orgtest.Person) *remote.Client { return s.anyone.As(httpsig.SSH(p.Key)) }

// talk is a device in one conversation, with its chain.
type talk struct {
	s            *stage
	device       *orgtest.Device
	conversation codec.ID
	epoch        uint64
	statement    codec.Hash
	roster       manifest.Roster
	seq          uint64
	prev         codec.Hash
}

func (t *talk) header(kind envelope.Kind) *envelope.Header {
	return &envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: t.s.ID, EscrowKey: t.s.Month,
		PolicyLeaf: t.s.State.Policy().Hash, Device: t.device.Hash, Conversation: t.conversation,
		Seq: t.seq, Prev: t.prev, Kind: kind, Day: envelope.DayOf(t.s.Now()),
	}
}

func (t *talk) transport() *manifest.Transport {
	return &manifest.Transport{Epoch: t.epoch, Roster: t.statement}
}

func item(m *orgtest.Message) wire.Item {
	return wire.Item{Manifest: m.Manifest.Bytes(), Envelope: m.Envelope.Encode(), Tags: m.Tags}
}

// index seals an index envelope at the chain's end, which it moves on.
func (t *talk) index() *orgtest.Message {
	t.s.t.Helper()
	m := t.s.SealCore(t.header(envelope.KindIndex), nil)
	m.Sign(t.s.t, t.device.Key, t.transport())
	t.seq, t.prev = t.seq+1, m.Core
	return m
}

// draft is a message on its way, to be changed before it is signed.
type draft struct {
	*orgtest.Message
	header     *envelope.Header
	transport  *manifest.Transport
	ciphertext []byte
}

// draft seals a record at the chain's end and moves nothing on.
func (t *talk) draft(text string, index *orgtest.Message) *draft {
	t.s.t.Helper()
	d := &draft{header: t.header(envelope.KindRecord), transport: t.transport()}
	t.seal(d, text, index)
	return d
}

func (t *talk) seal(d *draft, text string, index *orgtest.Message) {
	t.s.t.Helper()
	record := envelope.Record{
		ID: codec.NewID().String(), Time: t.s.Now().UnixMilli(), Sender: t.device.Member.String(), Conversation: t.conversation, Text: text,
	}
	d.Message = t.s.SealCore(d.header, record.Encode())
	d.Index(t.s.t, index, d.transport)
	d.encrypt(t.conversation[:], t.epoch, manifest.AuthenticatedData(d.Core))
}

// encrypt frames an MLS message whose encrypted parts are of no concern here.
func (d *draft) encrypt(group []byte, epoch uint64, ad []byte) {
	b := []byte{0, 1, 0, 2}
	b = append(append(b, byte(len(group))), group...)
	b = append(binary.BigEndian.AppendUint64(b, epoch), 1)
	b = append(append(b, byte(len(ad))), ad...)
	b = append(b, 3, 1, 2, 3) // sender data
	b = append(append(b, 32), d.Core[:]...)
	d.ciphertext = b
	d.transport.Ciphertexts = []codec.Hash{manifest.CiphertextHash(b)}
}

func (t *talk) submission(d *draft) *wire.Submission {
	t.s.t.Helper()
	d.Sign(t.s.t, t.device.Key, d.transport)
	return &wire.Submission{Message: item(d.Message), Ciphertext: d.ciphertext}
}

// send sends a text, with an index envelope before it where index is nil, and
// returns the submission and the receipts.
func (t *talk) send(text string, index *orgtest.Message) (*wire.Submission, []*manifest.Receipt, *orgtest.Message) {
	t.s.t.Helper()
	first := index == nil
	if first {
		index = t.index()
	}
	d := t.draft(text, index)
	in := t.submission(d)
	if first {
		it := item(index)
		in.Index = &it
	}
	raw, err := t.s.as(t.device).Send(t.s.t.Context(), in)
	if err != nil {
		t.s.t.Fatal(err)
	}
	t.seq, t.prev = t.seq+1, d.Core
	return in, t.s.receipts(raw), index
}

func (s *stage) receipts(raw [][]byte) []*manifest.Receipt {
	s.t.Helper()
	var out []*manifest.Receipt
	for _, b := range raw {
		r, err := manifest.OpenReceipt(s.Genesis.ReceiptKey, b)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// refused demands a refusal by name, signed by the server, of the core.
func (s *stage) refused(name string, err error, reason string, core codec.Hash) *remote.Refused {
	s.t.Helper()
	var r *remote.Refused
	if !errors.As(err, &r) {
		s.t.Errorf("%s: got %v, want a refusal", name, err)
		return nil
	}
	signed, err := manifest.OpenRefusal(s.Genesis.ReceiptKey, r.Refusal)
	if err != nil {
		s.t.Errorf("%s: %v", name, err)
		return nil
	}
	if word, _, _ := cut(signed.Reason); word != reason || signed.Core != core || signed.Reason != r.Reason {
		s.t.Errorf("%s: refused with %q of %s, want %s of %s", name, signed.Reason, signed.Core.Short(), reason, core.Short())
	}
	return r
}

func cut(s string) (string, string, bool) {
	for i := range s {
		if s[i] == ':' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// witnessed waits for a witnessed checkpoint of the messages log of that size.
func (s *stage) witnessed(r *replica.Replica, size int64) *ledger.Cosigned {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		signed, err := s.anyone.Checkpoint(s.t.Context(), ledger.MessagesLog)
		if err != nil {
			continue
		}
		c, err := r.Messages(signed)
		if err != nil {
			s.t.Fatal(err)
		}
		if c.Size >= size {
			return c
		}
	}
	s.t.Fatalf("%d messages leaves were not witnessed in time", size)
	return nil
}

// bodies leaves out the positions that come without a message for the device.
func bodies(items []wire.Delivery, err error) ([]wire.Delivery, error) {
	return slices.DeleteFunc(items, func(d wire.Delivery) bool {
		return d.Kind == wire.DeliveryVoid || d.Kind == wire.DeliveryMessage && len(d.Body) == 0
	}), err
}

// TestWholePath: a message is receipted, delivered in order, in the witnessed
// log, acknowledged, and there after a restart.
func TestWholePath(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	sides := s.found(alice, bob)
	_, first, index := sides[0].send("one", nil)
	_, second, _ := sides[0].send("two", index)
	if len(first) != 2 || len(second) != 1 || first[0].Index != 2 || second[0].Index != 4 {
		t.Fatalf("receipts %+v, %+v", first, second)
	}
	if second[0].Opening.Body.Previous != first[1].Leaf() || second[0].Opening.Body.Position != 4 {
		t.Fatal("the conversation's leaves aren't chained")
	}

	every, err := s.as(bob).Queue(t.Context(), 0, 0)
	if err != nil || len(every) != 4 || len(every[1].Body) > 0 {
		t.Fatalf("%d items, want commit, index envelope and messages: %v", len(every), err)
	}
	items, _ := bodies(every, nil)
	for i, kind := range []uint8{wire.DeliveryWelcome, wire.DeliveryMessage, wire.DeliveryMessage} {
		if items[i].Kind != kind || (i > 0 && items[i].Cursor <= items[i-1].Cursor) {
			t.Fatalf("item %d: %+v", i, items[i])
		}
	}
	if !items[0].Roster.Contains(bob.Hash) {
		t.Fatal("the commit came without its roster")
	}
	mine, err := s.as(alice).Queue(t.Context(), 0, 0)
	if err != nil || len(mine) != 5 {
		t.Fatalf("the sender is told of %d leaves, %v", len(mine), err)
	}
	if mine, _ = bodies(mine, nil); len(mine) != 2 {
		t.Fatalf("the sender got %d of its own ciphertexts", len(mine)-2)
	}

	// Bob checks the receipt against the witnessed logs.
	s.WaitWitnessed(s.anyone, s.Leaves[len(s.Leaves)-1].Hash)
	r := replica.New(s.ID)
	if err := r.Sync(t.Context(), s.anyone); err != nil {
		t.Fatal(err)
	}
	c := s.witnessed(r, 5)
	proof, err := ledger.ProveInclusion(s.anyone.Hashes(t.Context(), ledger.MessagesLog, c.Checkpoint), c.Size, second[0].Index)
	if err != nil {
		t.Fatal(err)
	}
	leaf := second[0].Leaf()
	if err := ledger.CheckInclusion(proof.Hashes, c.Size, c.Root, second[0].Index, leaf[:]); err != nil {
		t.Fatal(err)
	}
	if root, ok := r.Root(second[0].Opening.Body.ControlSize); !ok || root != second[0].Opening.Body.ControlRoot {
		t.Fatal("the receipt speaks of another control log")
	}

	ack := func(position uint64, leaf codec.Hash) error {
		raw, err := manifest.SignAck(bob.Key, &manifest.Ack{Organisation: s.ID, Device: bob.Hash, Conversation: sides[0].conversation, Position: position, Leaf: leaf, Time: s.Now().UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		return s.as(bob).Acknowledge(t.Context(), raw)
	}
	if err := ack(4, leaf); err != nil {
		t.Fatal(err)
	}
	if err := ack(4, codec.Sum("another")); err == nil {
		t.Fatal("acknowledged a leaf that isn't there")
	}
	if err := ack(9, leaf); err == nil {
		t.Fatal("acknowledged a position that isn't there")
	}

	s.stop()
	s.start("127.0.0.1:0")
	again, err := s.as(bob).Queue(t.Context(), items[1].Cursor, 0)
	if err != nil || len(again) != 1 || again[0].Cursor != items[2].Cursor || len(again[0].Body) == 0 {
		t.Fatalf("after a restart: %d items, %v", len(again), err)
	}
	own, err := s.as(alice).Conversations(t.Context())
	if err != nil || len(own) != 1 || own[0].NextSeq != 3 || own[0].Prev != sides[0].prev || own[0].Position != 5 {
		t.Fatalf("conversations: %+v, %v", own, err)
	}
	status, err := s.anyone.Status(t.Context())
	if err != nil || status.Messages != 2 || status.Envelopes != 3 || status.Organisation != s.ID {
		t.Fatalf("status: %+v, %v", status, err)
	}
	o, err := s.anyone.Organisation(t.Context())
	if err != nil || string(o.Genesis) != string(s.Leaves[0].Entry) || len(o.Keyholders) != 1 {
		t.Fatalf("organisation: %+v, %v", o, err)
	}
	if _, _, err := replica.Policies(s.ID, o.Genesis); err != nil {
		t.Fatal(err)
	}
}

func TestRetriesAreTheSame(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	sides := s.found(alice, bob)
	in, receipts, index := sides[0].send("one", nil)
	raw, err := s.as(alice).Send(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range s.receipts(raw) {
		if r.Index != receipts[i].Index || r.Opening != receipts[i].Opening {
			t.Fatal("a retry got another receipt")
		}
	}
	// Another transport of the same core is a retry too.
	d := sides[0].draft("two", index)
	first := sides[0].submission(d)
	if _, err := s.as(alice).Send(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	d.encrypt(sides[0].conversation[:], sides[0].epoch, manifest.AuthenticatedData(d.Core))
	d.ciphertext[len(d.ciphertext)-1] ^= 1
	d.transport.Ciphertexts = []codec.Hash{manifest.CiphertextHash(d.ciphertext)}
	raw, err = s.as(alice).Send(t.Context(), sides[0].submission(d))
	if err != nil {
		t.Fatal(err)
	}
	if r := s.receipts(raw)[0]; r.Object == d.Manifest.Hash() {
		t.Fatal("a second transport of one core was receipted beside the first")
	}
	if items, err := bodies(s.as(bob).Queue(t.Context(), 0, 0)); err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	// And all retries at once.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.as(alice).Send(t.Context(), in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
