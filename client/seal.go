package client

import (
	"crypto/rand"
	"fmt"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

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
