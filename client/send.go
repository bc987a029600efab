package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/blindindex"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

// Draft is what a member says. Only Text or an action is needed.
type Draft struct {
	ID         string    // names the message in replies and exports; random where empty
	Time       time.Time // the message's own; now where zero
	Sender     string    // the name that the record carries; the member's where empty
	Text       string    // at most envelope.MaxTextSize bytes
	Action     uint8     // envelope.ActionMessage and so on
	Target     string    // id of the message that a reply, edit, deletion or reaction is about
	Mentions   []string
	Redactions []envelope.Span
	Flags      []string
}

// Sent says what became of a message.
type Sent struct {
	ID       string
	Queued   bool       // the server couldn't be reached: it goes with the next Sync
	Core     codec.Hash // H(core), the name of its envelope
	Position uint64     // in the conversation
	Leaf     int64      // in the messages log
}

// Refusal is the server's signed no to a message. Its place in the device's
// chain is filled by a void, so that what comes after it stands.
type Refusal struct {
	ID           string
	Conversation codec.ID
	Core         codec.Hash
	Reason       string
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("the server refused message %s: %s", r.ID, r.Reason)
}

// entry is a message in the outbox: a record, and once it is sealed everything
// that the server gets, which stays the same bytes through every retry but for
// the parts that an epoch's end makes new.
type entry struct {
	_            struct{} `cbor:",toarray"`
	Conversation codec.ID
	Kind         envelope.Kind
	ID           string
	Record       []byte
	Index        *sealed // an index envelope that the message introduces
	Message      *sealed // nil while it is a draft
	IndexCore    codec.Hash
	IndexHeader  []byte
	IndexSeed    []byte
	Epoch        uint64
	Submission   []byte
	Clear        bool   // the server refused a part: the others are sent or voided one by one
	Void         []byte // on its way, in place of a refused envelope
	Reason       string // of the refusal
	Tries        uint8  // times that it was sealed again after a refusal
}

// sealed is an envelope with what its manifest says besides the transport.
type sealed struct {
	_        struct{} `cbor:",toarray"`
	Core     []byte
	Envelope []byte
	Proof    envelope.Proof
	Tag      [32]byte
	Seed     envelope.Seed
}

func (s *sealed) core() (*envelope.Core, error) { return envelope.ParseCore(s.Core) }

// Send says something in a conversation. It returns once the server has
// receipted it, or, with Queued set, once it lies safely in the outbox because
// the server can't be reached, or because a device of the conversation was
// revoked and no witness has signed for that yet; a *Refusal where the server won't have it;
// ErrNoConversation, ErrLeft, ErrBroken; and envelope.Record's errors.
func (d *Device) Send(ctx context.Context, conversation codec.ID, draft Draft) (*Sent, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	c, err := d.live(conversation)
	if err != nil {
		return nil, err
	}
	return d.send(ctx, c, draft)
}

func (d *Device) send(ctx context.Context, c *conversation, draft Draft) (*Sent, error) {
	record := &envelope.Record{
		ID: draft.ID, Time: draft.Time.UnixMilli(), Sender: draft.Sender, Conversation: c.ID, ConversationName: c.Name,
		Text: draft.Text, Action: draft.Action, Target: draft.Target,
		Mentions: draft.Mentions, Redactions: draft.Redactions, Flags: draft.Flags,
	}
	if record.ID == "" {
		record.ID = codec.NewID().String()
	}
	if draft.Time.IsZero() {
		record.Time = d.cfg.Now().UnixMilli()
	}
	if record.Sender == "" {
		record.Sender = d.self.Name
	}
	if err := record.Check(); err != nil {
		return nil, err
	}
	n := d.enqueue(&entry{Conversation: c.ID, Kind: envelope.KindRecord, ID: record.ID, Record: record.Encode()})
	sent := &Sent{ID: record.ID, Queued: true}
	err := d.flush(ctx, func(i uint64, s *Sent) {
		if i == n {
			sent = s
		}
	}, true)
	var refusal *Refusal
	if errors.As(err, &refusal) && refusal.ID != record.ID {
		err = nil // an older one's; Sync tells
	}
	if err != nil && (unreachable(err) || errors.Is(err, errPending)) {
		err = nil
	}
	// Whatever happened, the message is safe before the caller hears of it.
	if saveErr := d.save(); saveErr != nil {
		return nil, saveErr
	}
	if err != nil {
		return nil, err
	}
	return sent, nil
}

// unreachable reports whether an error is no answer, so that another try may
// succeed.
func unreachable(err error) bool {
	return errors.Is(err, remote.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func (d *Device) enqueue(e *entry) uint64 {
	n := d.progress.Tail
	d.progress.Tail++
	d.touch(bucketDevice)
	d.put(bucketOutbox, number(n), codec.Encode(e))
	return n
}

// flush sends the outbox in order, until it is empty or something is in the way.
// done is told of each message that the server took. A refusal ends it with the
// *Refusal, after the refused message has made room.
func (d *Device) flush(ctx context.Context, done func(n uint64, s *Sent), receive bool) error {
	for d.progress.Head < d.progress.Tail {
		n := d.progress.Head
		raw, ok, err := d.get(bucketOutbox, number(n))
		if err != nil {
			return err
		}
		if !ok {
			d.pop(n)
			continue
		}
		e := &entry{}
		if err := codec.Decode(raw, e); err != nil {
			return fmt.Errorf("couldn't read the outbox: %w", err)
		}
		s, err := d.dispatch(ctx, n, e, receive)
		if err != nil {
			return err
		}
		if s != nil && done != nil {
			done(n, s)
		}
	}
	return nil
}

// pop takes the first entry off the outbox.
func (d *Device) pop(n uint64) {
	d.put(bucketOutbox, number(n), nil)
	d.progress.Head = n + 1
	d.touch(bucketDevice)
}

// dispatch takes one entry as far as it goes.
func (d *Device) dispatch(ctx context.Context, n uint64, e *entry, receive bool) (*Sent, error) {
	c, err := d.conversation(e.Conversation)
	if err != nil {
		return nil, err
	}
	if c.Broken != "" || c.Left && len(c.Statements) == 0 {
		return nil, d.drop(n, e, "the conversation can't go on, or this member was removed from it")
	}
	if len(e.Void) == 0 {
		if err := d.ready(ctx); err != nil {
			return nil, err
		}
		if err := d.mayAct(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.settle(ctx, c); err != nil {
		if !errors.Is(err, ErrConflict) {
			return nil, err
		}
		// Another's commit won; ours is given up, and receiving brings theirs.
	}
	if len(e.Void) == 0 && receive {
		if c, err = d.expel(ctx, c); err != nil {
			return nil, err
		}
	}
	if e.Message == nil && len(e.Void) == 0 {
		if c.direct != nil {
			if err := d.prepare(ctx, c.ID); hopeless(err) {
				return nil, d.drop(n, e, err.Error())
			} else if err != nil {
				return nil, err
			}
			if c, err = d.conversation(e.Conversation); err != nil {
				return nil, err
			}
		}
		if err := d.seal(c, e); err != nil {
			if errors.Is(err, ErrNoGroup) {
				return nil, d.drop(n, e, "this member was removed from the conversation")
			}
			return nil, err
		}
		if err := d.keep(n, e); err != nil {
			return nil, err
		}
	}
	for range attempts {
		var s *Sent
		switch {
		case len(e.Void) > 0:
			err = d.fill(ctx, n, e)
		case e.Clear && e.Index != nil:
			err = d.submitIndex(ctx, n, c, e)
		case e.Message == nil:
			return nil, nil // to be sealed again
		default:
			s, err = d.submit(ctx, n, c, e)
		}
		if s != nil || err != nil && !errors.Is(err, errStale) {
			return s, err
		}
		if err == nil {
			continue
		}
		if done, err := d.catchUp(ctx, n, e, receive); done || err != nil {
			return nil, err
		}
		if c, err = d.conversation(e.Conversation); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("message %s: %w", e.ID, ErrConflict)
}

// catchUp brings a message to the epoch that the conversation is in. The core
// stays: only what carries it is made anew.
func (d *Device) catchUp(ctx context.Context, n uint64, e *entry, receive bool) (done bool, err error) {
	if receive {
		if _, err := d.receive(ctx, &Summary{}); err != nil {
			return false, err
		}
	}
	c, err := d.conversation(e.Conversation)
	if err != nil {
		return false, err
	}
	if c.direct != nil {
		if err := d.restated(ctx, c.ID, e.Epoch); err != nil {
			return false, err
		}
		if c, err = d.conversation(e.Conversation); err != nil {
			return false, err
		}
	}
	epoch, err := d.epoch(c)
	if errors.Is(err, ErrNoGroup) {
		return true, d.drop(n, e, "this member was removed from the conversation")
	}
	if err != nil {
		return false, err
	}
	if epoch.Number == e.Epoch && receive {
		if c, err = d.awaitRevocation(ctx, c); err != nil {
			return false, err
		}
		if epoch, err = d.groups.Epoch(c.ID); err != nil {
			return false, err
		}
	}
	if epoch.Number == e.Epoch {
		return false, fmt.Errorf("message %s: %w: %w", e.ID, ErrConflict, errStale)
	}
	if err := d.encrypt(c, e, epoch); err != nil {
		return false, err
	}
	return false, d.keep(n, e)
}

// keep writes an entry durably. An MLS key that it spent is thereby never used
// for anything else.
func (d *Device) keep(n uint64, e *entry) error {
	d.put(bucketOutbox, number(n), codec.Encode(e))
	return d.save()
}

// drop gives up a message that can't be sent any more.
func (d *Device) drop(n uint64, e *entry, reason string) error {
	d.pop(n)
	d.counters().Refused++
	if err := d.save(); err != nil {
		return err
	}
	return &Refusal{ID: e.ID, Conversation: e.Conversation, Reason: reason}
}

// seal makes the envelope of a record, and of the day's and epoch's index
// where the device knows none yet, and all that the server gets.
func (d *Device) seal(c *conversation, e *entry) error {
	epoch, err := d.epoch(c)
	if err != nil {
		return err
	}
	day := envelope.DayOf(d.cfg.Now())
	header := &envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: d.self.Organisation,
		Device: d.self.Device, Conversation: c.ID, Day: day,
	}
	var public *envelope.PublicKey
	d.cfg.Replica.Read(func(s *control.State) {
		policy := s.Policy()
		var month *control.MonthState
		if month, err = s.Escrow(policy.Region, policy.Class, day); err != nil {
			return
		}
		header.EscrowKey, header.PolicyLeaf = month.Hash, policy.Hash
		public, err = d.cfg.Keyring.get(month)
	})
	if err != nil {
		return err
	}
	var key *indexKey
	if e.Kind == envelope.KindRecord {
		var ok bool
		if key, ok = c.index(day, epoch.Number); !ok {
			if e.Index, err = d.envelope(c, header, envelope.KindIndex, public, nil); err != nil {
				return err
			}
			core, err := e.Index.core()
			if err != nil {
				return err
			}
			key = &indexKey{Core: core.Hash(), Header: core.Header, Seed: e.Index.Seed, Day: day, Epoch: epoch.Number}
			c.addIndex(*key, day)
		}
		e.IndexCore, e.IndexHeader, e.IndexSeed = key.Core, key.Header, key.Seed[:]
	}
	if e.Message, err = d.envelope(c, header, e.Kind, public, e.Record); err != nil {
		return err
	}
	return d.encrypt(c, e, epoch)
}

// envelope seals a record as the device's next in the conversation.
func (d *Device) envelope(c *conversation, header *envelope.Header, kind envelope.Kind, public *envelope.PublicKey, record []byte) (*sealed, error) {
	h := *header
	h.Kind, h.Seq, h.Prev = kind, c.Seq, c.Prev
	out := &sealed{}
	var err error
	if out.Seed, err = envelope.NewSeed(rand.Reader); err != nil {
		return nil, err
	}
	if h.Commitment, err = envelope.Commit(&out.Seed, record); err != nil {
		return nil, err
	}
	encoded, archived := h.Encode(), record
	if d.testOnlyArchive != nil && kind == envelope.KindRecord {
		// A liar's envelope is sealed under a header of its own, and its proof is
		// made for the core that names it.
		archived = d.testOnlyArchive(record)
		if h.Commitment, err = envelope.Commit(&out.Seed, archived); err != nil {
			return nil, err
		}
	}
	env, secrets, err := envelope.Seal(public, h.Encode(), &out.Seed, archived)
	if err != nil {
		return nil, err
	}
	defer secrets.Erase()
	core := &envelope.Core{Header: encoded, Envelope: env.Hash()}
	hash := core.Hash()
	if out.Proof, err = secrets.Prove(hash); err != nil {
		return nil, err
	}
	out.Core, out.Envelope, out.Tag = core.Encode(), env.Encode(), secrets.Tag(hash)
	if d.testOnlyTag != nil {
		d.testOnlyTag(kind, &out.Tag)
	}
	c.Seq, c.Prev, c.changed = c.Seq+1, hash, true
	return out, nil
}

// encrypt makes what depends on the epoch: the ciphertext, the tags, which name
// the recipients, and the manifests.
func (d *Device) encrypt(c *conversation, e *entry, epoch *Epoch) error {
	statement, ok := c.epoch(epoch.Number)
	if !ok {
		return fmt.Errorf("%s: no statement of epoch %d is known", c.ID, epoch.Number)
	}
	core, err := e.Message.core()
	if err != nil {
		return err
	}
	p := payload{Record: e.Record, Seed: e.Message.Seed, IndexHeader: e.IndexHeader, IndexSeed: e.IndexSeed}
	plain := p.encode()
	defer clear(plain)
	ciphertext, hashes, err := d.encryptFor(c, epoch, core, plain)
	if err != nil {
		return err
	}
	transport := manifest.Transport{Epoch: epoch.Number, Roster: statement}
	var sub wire.Submission
	if e.Index != nil {
		if key, ok := c.known(e.IndexCore); ok {
			key.Epoch, c.changed = epoch.Number, true
		}
		t := transport
		item, err := d.item(e.Index, &t, nil)
		if err != nil {
			return err
		}
		sub.Index = item
	}
	transport.Ciphertexts = hashes
	var encoded []byte
	if e.Kind == envelope.KindRecord {
		record, err := envelope.ParseRecord(e.Record)
		if err != nil {
			return err
		}
		k := blindindex.KeyFromSeed(e.IndexSeed)
		defer k.Erase()
		tags := blindindex.Tags(&k, e.Message.Seed[:], core.Envelope, d.terms(record, d.self.Member, epoch.Roster))
		encoded = blindindex.Encode(tags)
		transport.Index, transport.Tokenizer, transport.Tags = e.IndexCore, blindindex.TokenizerVersion, blindindex.Hash(tags)
	}
	item, err := d.item(e.Message, &transport, encoded)
	if err != nil {
		return err
	}
	sub.Message, sub.Ciphertext = *item, ciphertext
	e.Submission, e.Epoch = codec.Encode(&sub), epoch.Number
	return nil
}

func (d *Device) item(s *sealed, t *manifest.Transport, tags []byte) (*wire.Item, error) {
	core, err := s.core()
	if err != nil {
		return nil, err
	}
	m, err := manifest.Sign(d.key, core, s.Proof, s.Tag, t)
	if err != nil {
		return nil, err
	}
	return &wire.Item{Manifest: m.Bytes(), Envelope: s.Envelope, Tags: tags}, nil
}

// terms returns what a message is found by: the words of its text, its sender,
// its recipients and its attachments (spec/blind-index.md#terms). Members are
// the 32 hexadecimal characters of their ids.
func (d *Device) terms(r *envelope.Record, sender codec.ID, roster manifest.Roster) []blindindex.Term {
	words := blindindex.Tokenize(r.Text)
	members := d.members(roster)
	terms := make([]blindindex.Term, 0, len(words)+len(members)+len(r.Attachments)+1)
	for _, w := range words {
		terms = append(terms, blindindex.Term{Field: blindindex.FieldText, Text: w})
	}
	terms = append(terms, blindindex.Term{Field: blindindex.FieldSender, Text: sender.String()})
	for _, m := range members {
		if m != sender {
			terms = append(terms, blindindex.Term{Field: blindindex.FieldRecipient, Text: m.String()})
		}
	}
	for i := range r.Attachments {
		terms = append(terms, blindindex.Term{Field: blindindex.FieldAttachment, Text: r.Attachments[i].Hash.String()})
	}
	return terms
}

// submit offers a sealed entry and keeps what the server receipts.
func (d *Device) submit(ctx context.Context, n uint64, c *conversation, e *entry) (*Sent, error) {
	var sub wire.Submission
	if err := codec.Decode(e.Submission, &sub); err != nil {
		return nil, fmt.Errorf("couldn't read the outbox: %w", err)
	}
	if e.Clear {
		sub.Index = nil
	}
	if err := d.step("send"); err != nil {
		return nil, err
	}
	receipts, err := d.server.Send(ctx, &sub)
	var refused *remote.Refused
	if errors.As(err, &refused) {
		return nil, d.refuse(n, e, refused)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't send: %w", err)
	}
	if err := d.step("sent"); err != nil {
		return nil, err
	}
	items := []*wire.Item{&sub.Message}
	if sub.Index != nil {
		items = []*wire.Item{sub.Index, &sub.Message}
	}
	if len(receipts) != len(items) {
		return nil, fmt.Errorf("%d receipts for %d envelopes: %w", len(receipts), len(items), ErrServer)
	}
	var sent *Sent
	for i, it := range items {
		m, err := manifest.Parse(it.Manifest)
		if err != nil {
			return nil, err
		}
		r, err := d.openReceipt(receipts[i], manifest.LeafMessage, m.Hash(), c.ID)
		if err != nil {
			return nil, err
		}
		c.Next, c.changed = max(c.Next, r.Opening.Body.Position+1), true
		own := &stored{
			Outcome: outcomeDelivered, Own: true, Index: true, Kind: e.Kind, Member: d.self.Member,
			Record: e.Record, Seed: e.Message.Seed[:],
		}
		if m.Header.Kind == envelope.KindIndex {
			d.watch(r, m) // its inclusion is checked, and nothing of it shown
			continue
		}
		own.fill(m, r, receipts[i])
		d.record(c.ID, own)
		d.watch(r, m)
		sent = &Sent{ID: e.ID, Core: m.CoreHash(), Position: r.Opening.Body.Position, Leaf: r.Index}
	}
	d.counters().Sent++
	// Not yet durable: should the device stop here, it sends the same bytes again
	// and gets the same receipts.
	d.pop(n)
	return sent, nil
}

// refuse takes the server's no. It returns errStale where the message has only
// to be encrypted anew; else the refused envelope's place is filled by a void.
func (d *Device) refuse(n uint64, e *entry, refused *remote.Refused) error {
	var key codec.PublicKey
	d.cfg.Replica.Read(func(s *control.State) { key = s.Genesis().ReceiptKey })
	r, err := manifest.OpenRefusal(key, refused.Refusal)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	for _, part := range []*sealed{e.Index, e.Message} {
		if part == nil {
			continue
		}
		core, err := part.core()
		if err != nil {
			return err
		}
		if core.Hash() == r.Core {
			return d.refused(n, e, part, core, r, refused.Refusal)
		}
	}
	return fmt.Errorf("%w: a refusal of something else", ErrServer)
}

// refused decides what a refusal of one part means. Numbers are taken in order,
// so that an index envelope before a refused message has to be sent by itself,
// and a message after a refused index envelope be refused by its own name.
func (d *Device) refused(n uint64, e *entry, part *sealed, core *envelope.Core, r *manifest.Refusal, raw []byte) error {
	word, _, _ := strings.Cut(r.Reason, ":")
	switch {
	case (word == "epoch" || word == "roster") && !e.Clear:
		return fmt.Errorf("message %s: %w", e.ID, errStale)
	case word == "sequence" || word == "chain":
		// The server has more of this device's chain than the device knows of.
		return fmt.Errorf("message %s: %w: %s (is this a restored copy of the device?)", e.ID, ErrServer, r.Reason)
	}
	e.Clear, e.Reason = true, r.Reason
	if part == e.Message && e.Index != nil {
		return d.keep(n, e)
	}
	header, err := envelope.ParseHeader(core.Header)
	if err != nil {
		return err
	}
	if e.Void, err = manifest.SignVoid(d.key, &manifest.Void{
		Organisation: d.self.Organisation, Device: d.self.Device, Conversation: e.Conversation,
		Seq: header.Seq, Core: r.Core, Refusal: raw,
	}); err != nil {
		return fmt.Errorf("couldn't sign a void: %w", err)
	}
	if c, err := d.conversation(e.Conversation); err == nil {
		c.dropIndex(e.IndexCore) // it isn't held, or not of use any more
	}
	if part == e.Index {
		e.Index = nil
	} else {
		e.Message = nil
	}
	return d.keep(n, e)
}

// submitIndex sends an index envelope by itself, whose message was refused.
func (d *Device) submitIndex(ctx context.Context, n uint64, c *conversation, e *entry) error {
	var sub wire.Submission
	if err := codec.Decode(e.Submission, &sub); err != nil {
		return fmt.Errorf("couldn't read the outbox: %w", err)
	}
	if err := d.step("send"); err != nil {
		return err
	}
	receipts, err := d.server.Send(ctx, &wire.Submission{Message: *sub.Index})
	var no *remote.Refused
	if errors.As(err, &no) {
		return d.refuse(n, e, no)
	}
	if err != nil {
		return fmt.Errorf("couldn't send: %w", err)
	}
	if len(receipts) != 1 {
		return fmt.Errorf("%d receipts for an index envelope: %w", len(receipts), ErrServer)
	}
	m, err := manifest.Parse(sub.Index.Manifest)
	if err != nil {
		return err
	}
	r, err := d.openReceipt(receipts[0], manifest.LeafMessage, m.Hash(), c.ID)
	if err != nil {
		return err
	}
	c.Next, c.changed = max(c.Next, r.Opening.Body.Position+1), true
	d.watch(r, m)
	e.Index = nil
	return d.keep(n, e)
}

// again reports whether a refused message may be taken if it's sealed anew:
// under today's key and policy, and with an index key that is still of use.
func (e *entry) again() bool {
	word, _, _ := strings.Cut(e.Reason, ":")
	return e.Tries < 2 && (word == "header" || word == "index" || word == "epoch" || word == "roster")
}

func (c *conversation) dropIndex(core codec.Hash) {
	for i := range c.Indexes {
		if c.Indexes[i].Core == core {
			c.Indexes = append(c.Indexes[:i:i], c.Indexes[i+1:]...)
			c.changed = true
			return
		}
	}
}

// fill sends the void of a refused envelope. It returns the *Refusal once the
// message itself is voided and there is no use in sealing it again.
func (d *Device) fill(ctx context.Context, n uint64, e *entry) error {
	if err := d.step("void"); err != nil {
		return err
	}
	receipts, err := d.server.Void(ctx, e.Void)
	if err != nil {
		return fmt.Errorf("couldn't void a refused message: %w", err)
	}
	if len(receipts) != 1 {
		return fmt.Errorf("%d receipts for a void: %w", len(receipts), ErrServer)
	}
	r, err := d.openReceipt(receipts[0], manifest.LeafVoid, manifest.VoidHash(e.Void), e.Conversation)
	if err != nil {
		return err
	}
	c, err := d.conversation(e.Conversation)
	if err != nil {
		return err
	}
	c.Next, c.changed = max(c.Next, r.Opening.Body.Position+1), true
	v, err := manifest.ParseVoid(e.Void)
	if err != nil {
		return err
	}
	e.Void = nil
	switch {
	case e.Message != nil: // it was the index before it
		return d.keep(n, e)
	case e.again():
		*e = entry{Conversation: e.Conversation, Kind: e.Kind, ID: e.ID, Record: e.Record, Tries: e.Tries + 1}
		return d.keep(n, e)
	}
	d.pop(n)
	d.counters().Refused++
	if err := d.save(); err != nil {
		return err
	}
	return &Refusal{ID: e.ID, Conversation: e.Conversation, Core: v.Core, Reason: e.Reason}
}
