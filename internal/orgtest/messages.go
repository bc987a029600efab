package orgtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
	"chancery/request"
)

// Log is one of the organisation's two logs, in memory.
type Log struct {
	org     *Org
	name    ledger.Log
	signer  note.Signer
	edge    ledger.Edge
	hashes  []tlog.Hash
	entries [][]byte
}

func newLog(o *Org, name ledger.Log, key *codec.PrivateKey) *Log {
	signer, err := ledger.NewLogSigner(ledger.Origin(o.ID, name), ed25519.NewKeyFromSeed(key.Seed()))
	must(o.T, err)
	return &Log{org: o, name: name, signer: signer}
}

// Append adds an entry and returns its index.
func (l *Log) Append(entry []byte) int64 {
	l.org.T.Helper()
	var err error
	l.hashes, err = l.edge.Append(l.hashes, entry)
	must(l.org.T, err)
	l.entries = append(l.entries, entry)
	return l.edge.Size() - 1
}

// Size returns the number of leaves.
func (l *Log) Size() int64 { return l.edge.Size() }

// Root returns the root of the first size leaves.
func (l *Log) Root(size int64) codec.Hash {
	l.org.T.Helper()
	root, err := ledger.Root(l, size)
	must(l.org.T, err)
	return codec.Hash(root)
}

// ReadHashes implements tlog.HashReader.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(l.hashes)) {
			return nil, ledger.ErrSize
		}
		out[i] = l.hashes[x]
	}
	return out, nil
}

// Entries returns the entries from start up to end.
func (l *Log) Entries(start, end int64) [][]byte { return l.entries[start:end] }

// State returns the log's newest checkpoint, unsigned.
func (l *Log) State() ledger.Checkpoint {
	return ledger.Checkpoint{Origin: ledger.Origin(l.org.ID, l.name), Size: l.Size(), Root: tlog.Hash(l.Root(l.Size()))}
}

// Checkpoint returns the newest checkpoint, signed by the log and all witnesses
// now.
func (l *Log) Checkpoint() []byte {
	l.org.T.Helper()
	return l.Witnessed(l.State(), l.org.Witnesses)
}

// Witnessed signs any checkpoint, with the cosignatures of these witnesses.
func (l *Log) Witnessed(c ledger.Checkpoint, witnesses []Witness) []byte {
	l.org.T.Helper()
	signers := []note.Signer{l.signer}
	for _, w := range witnesses {
		s, err := ledger.NewWitnessSigner(w.Name, w.Key, l.org.Now)
		must(l.org.T, err)
		signers = append(signers, s)
	}
	signed, err := ledger.Sign(c, signers...)
	must(l.org.T, err)
	return signed
}

// Policy returns who must have signed the log's checkpoints.
func (l *Log) Policy() *ledger.Policy {
	g := l.org.Genesis
	p := &ledger.Policy{Log: ledger.LogKey{Origin: ledger.Origin(l.org.ID, l.name), Key: g.ControlKey}, Quorum: int(g.WitnessQuorum)}
	if l.name == ledger.MessagesLog {
		p.Log.Key = g.MessagesKey
	}
	for _, w := range l.org.Witnesses {
		p.Witnesses = append(p.Witnesses, w.VerifierKey())
	}
	return p
}

// Log returns one of the two logs.
func (o *Org) Log(name ledger.Log) *Log {
	if name == ledger.ControlLog {
		return o.Control
	}
	return o.Messages
}

// Source serves the organisation's logs as a server would, in memory.
type Source struct{ *Org }

// Checkpoint returns the log's newest checkpoint, witnessed now.
func (s Source) Checkpoint(_ context.Context, log ledger.Log) ([]byte, error) {
	return s.Log(log).Checkpoint(), nil
}

// Entries returns entries from up to to.
func (s Source) Entries(_ context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	l := s.Log(log)
	if from < 0 || from > to || to > l.Size() {
		return nil, ledger.ErrSize
	}
	return l.Entries(from, to), nil
}

// Openings returns the openings of sealed leaves from an index on.
func (s Source) Openings(_ context.Context, from int64) ([]wire.Opening, error) {
	var out []wire.Opening
	for i, l := range s.Leaves {
		if l.Opening != nil && int64(i) >= from {
			out = append(out, wire.Opening{Index: int64(i), Opening: *l.Opening})
		}
	}
	return out, nil
}

type chain struct {
	seq  uint64
	prev codec.Hash
}

type head struct {
	position uint64 // of the next leaf
	leaf     codec.Hash
	epoch    uint64 // of the next commit
	commit   codec.Hash
	roster   *Roster
	index    map[uint32]*Message // index envelope by day
}

// Roster is an epoch of a conversation, receipted.
type Roster struct {
	Hash    codec.Hash // of the commit statement
	Commit  []byte
	Body    *manifest.Commit
	Devices manifest.Roster
	Receipt []byte
	Index   int64
	Opening manifest.Opening
}

// Proof returns the roster with its proof in the messages log of a size.
func (r *Roster) Proof(o *Org, size int64) request.Roster {
	return request.Roster{Commit: r.Commit, Proof: o.Proof(r.Index, r.Opening, size), Devices: r.Devices}
}

// Message is an envelope with everything that belongs to it, receipted.
type Message struct {
	Core     codec.Hash // H(Body)
	Body     *envelope.Core
	Proof    envelope.Proof
	Tag      [32]byte // pq
	Manifest *manifest.Manifest
	Envelope *envelope.Envelope
	Seed     envelope.Seed
	Record   []byte
	Scalar   []byte // e
	Secret   []byte // ML-KEM's
	secrets  *envelope.Secrets
	Tags     []byte
	Receipt  []byte
	Leaf     int64 // index in the messages log
	Opening  manifest.Opening
}

// Item returns the message as one asks a keyholder (guard false) or guard about
// it, with its proof in the messages log of a size.
func (m *Message) Item(o *Org, guard bool, size int64) request.Item {
	enc := m.Envelope.E()
	if guard {
		enc = m.Envelope.Enc
	}
	return request.Item{Manifest: m.Manifest.Bytes(), Encapsulation: enc, Proof: o.Proof(m.Leaf, m.Opening, size)}
}

// Proof returns an inclusion proof of a messages leaf in the log of a size.
func (o *Org) Proof(index int64, opening manifest.Opening, size int64) request.Proof {
	o.T.Helper()
	p, err := ledger.ProveInclusion(o.Messages, size, index)
	must(o.T, err)
	return request.Proof{Index: index, Opening: opening, Hashes: p.Hashes}
}

// Conversation makes a conversation of devices, at epoch 0.
func (o *Org) Conversation(devices ...*Device) codec.ID {
	o.T.Helper()
	id := codec.NewID()
	o.heads[id] = &head{index: map[uint32]*Message{}}
	o.Commit(id, devices[0], devices...)
	return id
}

// Roster returns a conversation's newest epoch.
func (o *Org) Roster(conversation codec.ID) *Roster { return o.heads[conversation].roster }

// Commit logs the next epoch of a conversation.
func (o *Org) Commit(conversation codec.ID, by *Device, devices ...*Device) *Roster {
	o.T.Helper()
	h := o.heads[conversation]
	var hashes []codec.Hash
	for _, d := range devices {
		hashes = append(hashes, d.Hash)
	}
	r := &Roster{Devices: manifest.NewRoster(hashes)}
	r.Body = &manifest.Commit{
		Organisation: o.ID, Conversation: conversation, Epoch: h.epoch, Device: by.Hash,
		Roster: r.Devices.Root(), Previous: h.commit,
	}
	if h.epoch > 0 {
		r.Body.Transcript = make([]byte, 32)
		_, err := rand.Read(r.Body.Transcript)
		must(o.T, err)
		r.Body.Message = manifest.CiphertextHash(r.Body.Transcript)
	}
	var err error
	r.Commit, err = manifest.SignCommit(by.Key, r.Body)
	must(o.T, err)
	r.Hash = manifest.CommitHash(r.Commit)
	r.Receipt, r.Index, r.Opening = o.Receive(manifest.LeafCommit, conversation, r.Hash)
	h.epoch++
	h.commit, h.roster = r.Hash, r
	h.index = map[uint32]*Message{} // a new epoch draws a new index key
	return r
}

// Receive logs an object in the messages log as the server does and returns the
// signed receipt, the leaf's index and opening.
func (o *Org) Receive(kind manifest.LeafKind, conversation codec.ID, object codec.Hash) ([]byte, int64, manifest.Opening) {
	o.T.Helper()
	h := o.heads[conversation]
	opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
		Kind: kind, Conversation: conversation, ControlSize: o.Control.Size(), ControlRoot: o.Control.Root(o.Control.Size()),
		Time: o.Now().UnixMilli(), Position: h.position, Previous: h.leaf,
	})
	must(o.T, err)
	leaf := opening.Leaf(object)
	index := o.Messages.Append(leaf[:])
	h.position++
	h.leaf = leaf
	raw, err := manifest.SignReceipt(o.Keys.Receipt, &manifest.Receipt{Index: index, Object: object, Opening: *opening})
	must(o.T, err)
	return raw, index, *opening
}

// Send sends a text to a conversation and receipts it, after the index envelope
// of the day where there is none yet.
func (o *Org) Send(conversation codec.ID, by *Device, text string) *Message {
	o.T.Helper()
	return o.SendRecord(conversation, by, &envelope.Record{
		ID: codec.NewID().String(), Time: o.Now().UnixMilli(), Sender: by.Member.String(), Conversation: conversation, Text: text,
	})
}

// SendRecord is Send for any record.
func (o *Org) SendRecord(conversation codec.ID, by *Device, record *envelope.Record) *Message {
	o.T.Helper()
	index := o.IndexOf(conversation, by)
	m := o.Seal(conversation, by, envelope.KindRecord, record.Encode(), index)
	o.Accept(m)
	return m
}

// IndexOf returns today's index envelope of a conversation, sent by the device
// where there is none.
func (o *Org) IndexOf(conversation codec.ID, by *Device) *Message {
	o.T.Helper()
	h, day := o.heads[conversation], envelope.DayOf(o.Now())
	if h.index[day] == nil {
		m := o.Seal(conversation, by, envelope.KindIndex, nil, nil)
		o.Accept(m)
		h.index[day] = m
	}
	return h.index[day]
}

// Accept receipts a message.
func (o *Org) Accept(m *Message) {
	o.T.Helper()
	m.Receipt, m.Leaf, m.Opening = o.Receive(manifest.LeafMessage, m.Manifest.Header.Conversation, m.Manifest.Hash())
}

// Seal makes a message that is not yet receipted and moves the device's chain
// on. Tags are made where index is not nil.
func (o *Org) Seal(conversation codec.ID, by *Device, kind envelope.Kind, record []byte, index *Message) *Message {
	o.T.Helper()
	header := o.Header(conversation, by, kind)
	m := o.SealHeader(by, header, record, index)
	c := by.chain(conversation)
	c.seq++
	c.prev = m.Core
	return m
}

func (d *Device) chain(conversation codec.ID) *chain {
	if d.chains[conversation] == nil {
		d.chains[conversation] = &chain{}
	}
	return d.chains[conversation]
}

// Header returns the header of the device's next message in a conversation, but
// for its commitment.
func (o *Org) Header(conversation codec.ID, by *Device, kind envelope.Kind) *envelope.Header {
	c := by.chain(conversation)
	return &envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: o.ID, EscrowKey: o.Month,
		PolicyLeaf: o.State.Policy().Hash, Device: by.Hash, Conversation: conversation,
		Seq: c.seq, Prev: c.prev, Kind: kind, Day: envelope.DayOf(o.Now()),
	}
}

// SealHeader seals a record under a header, whose commitment it fills in, and
// signs the manifest. The transport names the conversation's newest epoch, and
// as ciphertext the core itself.
func (o *Org) SealHeader(by *Device, header *envelope.Header, record []byte, index *Message) *Message {
	o.T.Helper()
	m := o.SealCore(header, record)
	t := &manifest.Transport{}
	if h := o.heads[header.Conversation]; h != nil && h.roster != nil {
		t.Epoch, t.Roster = h.roster.Body.Epoch, h.roster.Hash
	}
	if header.Kind == envelope.KindRecord || header.Kind == envelope.KindCapture {
		t.Ciphertexts = []codec.Hash{manifest.CiphertextHash(m.Core[:])}
	}
	if index != nil {
		m.Index(o.T, index, t)
	}
	m.Sign(o.T, by.Key, t)
	return m
}

// SealCore seals a record to the escrow key that the header names and fills in
// the header's commitment. The message has no manifest yet: Sign makes it.
func (o *Org) SealCore(header *envelope.Header, record []byte) *Message {
	o.T.Helper()
	month, ok := o.State.Month(header.EscrowKey)
	if !ok {
		o.T.Fatalf("no escrow key %s", header.EscrowKey.Short())
	}
	public, err := month.PublicKey()
	must(o.T, err)
	return SealCore(o.T, public, header, record)
}

// SealCore is Org.SealCore for any escrow key.
func SealCore(t testing.TB, public *envelope.PublicKey, header *envelope.Header, record []byte) *Message {
	t.Helper()
	seed, err := envelope.NewSeed(rand.Reader)
	must(t, err)
	header.Commitment, err = envelope.Commit(&seed, record)
	must(t, err)
	env, secrets, err := envelope.Seal(public, header.Encode(), &seed, record)
	must(t, err)
	core := &envelope.Core{Header: header.Encode(), Envelope: env.Hash()}
	proof, err := secrets.Prove(core.Hash())
	must(t, err)
	return &Message{
		Core: core.Hash(), Body: core, Proof: proof, Tag: secrets.Tag(core.Hash()), Envelope: env,
		Seed: seed, Record: record, Scalar: secrets.Scalar(), Secret: secrets.SharedSecret(), secrets: secrets,
	}
}

// Reprove makes proof and tag anew after Body was changed.
func (m *Message) Reprove(t testing.TB) {
	t.Helper()
	m.Core = m.Body.Hash()
	var err error
	m.Proof, err = m.secrets.Prove(m.Core)
	must(t, err)
	m.Tag = m.secrets.Tag(m.Core)
}

// Index makes the message's tags under an index envelope's key and names both in
// the transport: the terms of the text, sender and recipients' digests left out.
func (m *Message) Index(t testing.TB, index *Message, transport *manifest.Transport) {
	t.Helper()
	record, err := envelope.ParseRecord(m.Record)
	must(t, err)
	terms := []blindindex.Term{{Field: blindindex.FieldSender, Text: record.Sender}}
	for _, word := range blindindex.Tokenize(record.Text) {
		terms = append(terms, blindindex.Term{Field: blindindex.FieldText, Text: word})
	}
	key := blindindex.KeyFromSeed(index.Seed[:])
	tags := blindindex.Tags(&key, m.Seed[:], m.Envelope.Hash(), terms)
	m.Tags = blindindex.Encode(tags)
	transport.Index, transport.Tokenizer, transport.Tags = index.Core, blindindex.TokenizerVersion, blindindex.Hash(tags)
}

// Sign makes the message's manifest.
func (m *Message) Sign(t testing.TB, device codec.Signer, transport *manifest.Transport) {
	t.Helper()
	var err error
	m.Manifest, err = manifest.Sign(device, m.Body, m.Proof, m.Tag, transport)
	must(t, err)
}

// Partial returns keyholder i's (from 1) right answer for the message.
func (o *Org) Partial(i int, m *Message) quorum.Answer {
	o.T.Helper()
	e, err := quorum.ParsePoint(m.Envelope.E())
	must(o.T, err)
	p, err := o.Keyholders[i-1].Share.Partial(e)
	must(o.T, err)
	return quorum.Answer{Holder: i, Point: p}
}
