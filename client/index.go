package client

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
	"chancery/report"
)

// checkIndex re-seals the index envelope, once, and recomputes the tags. It
// returns why they are unverified, which accuses nobody.
func (d *Device) checkIndex(c *conversation, m *manifest.Manifest, p *payload, record *envelope.Record, roster manifest.Roster, encoded []byte) string {
	t := m.Transport
	if t.Tokenizer != blindindex.TokenizerVersion {
		return fmt.Sprintf("index unverified: tokenizer version %d", t.Tokenizer)
	}
	key, ok := c.known(t.Index)
	if !ok {
		var err error
		if key, err = d.openIndex(c, m, p); err != nil {
			return fmt.Sprintf("index unverified: %v", err)
		}
		c.addIndex(*key, envelope.DayOf(d.cfg.Now()))
	}
	switch {
	case key.Day != m.Header.Day:
		return "index unverified: the index key is of another day"
	case key.Epoch != t.Epoch:
		return "index unverified: the index key is of another epoch"
	}
	members := roster.Root()
	want, err := d.cfg.Keyring.tags.do(digest(key.Seed[:], p.Seed[:], m.Core.Envelope[:], m.Header.Device[:], members[:], p.Record), func() (codec.Hash, error) {
		k := blindindex.KeyFromSeed(key.Seed[:])
		defer k.Erase()
		return blindindex.Hash(blindindex.Tags(&k, p.Seed[:], m.Core.Envelope, d.terms(record, d.memberOf(m.Header.Device), roster))), nil
	})
	if err != nil {
		return "index unverified: " + err.Error()
	}
	if tags, err := blindindex.Parse(encoded); err != nil || want != t.Tags || blindindex.Hash(tags) != want {
		return "index unverified: the tags are not those of the text"
	}
	return ""
}

func (c *conversation) known(core codec.Hash) (*indexKey, bool) {
	for i := range c.Indexes {
		if c.Indexes[i].Core == core {
			return &c.Indexes[i], true
		}
	}
	return nil, false
}

// openIndex seals an index envelope again from what came with a message.
func (d *Device) openIndex(c *conversation, m *manifest.Manifest, p *payload) (*indexKey, error) {
	if len(p.IndexSeed) != envelope.SeedSize {
		return nil, errors.New("no index seed")
	}
	h, err := envelope.ParseHeader(p.IndexHeader)
	if err != nil {
		return nil, err
	}
	if h.Kind != envelope.KindIndex || h.Conversation != c.ID || h.Organisation != d.self.Organisation {
		return nil, errors.New("not an index of this conversation")
	}
	var public *envelope.PublicKey
	d.cfg.Replica.Read(func(s *control.State) {
		month, ok := s.Month(h.EscrowKey)
		if !ok {
			err = errors.New("index under an unknown escrow key")
			return
		}
		public, err = d.cfg.Keyring.get(month)
	})
	if err != nil {
		return nil, err
	}
	seed := envelope.Seed(p.IndexSeed)
	env, secrets, err := envelope.Seal(public, p.IndexHeader, &seed, nil)
	if err != nil {
		return nil, err
	}
	defer secrets.Erase()
	core := envelope.Core{Header: p.IndexHeader, Envelope: env.Hash()}
	if core.Hash() != m.Transport.Index {
		return nil, errors.New("the index envelope is another")
	}
	if err := d.checkAnnounced(c.ID, core.Hash(), secrets, &seed); err != nil {
		return nil, err
	}
	return &indexKey{Core: core.Hash(), Header: p.IndexHeader, Seed: seed, Day: h.Day, Epoch: m.Transport.Epoch}, nil
}

// announced is an index envelope's manifest, which comes before the message that
// brings its seed.
type announced struct {
	_        struct{} `cbor:",toarray"`
	Core     codec.Hash
	Manifest []byte
	Receipt  []byte
}

// maxAnnounced is how many a conversation remembers: a member that draws index
// keys without end fills no disk.
const maxAnnounced = 16

func (d *Device) announce(conversation codec.ID, a *announced) error {
	var known []announced
	if err := d.readOf(bucketAnnounced, string(conversation[:]), &known); err != nil {
		return err
	}
	known = append(known, *a)
	known = known[max(0, len(known)-maxAnnounced):]
	d.put(bucketAnnounced, string(conversation[:]), codec.Encode(known))
	return nil
}

// checkAnnounced checks proof and tag of an index envelope whose seed has come:
// under a wrong one no guard would ever answer, and what is indexed under the
// key be found by no search. That convicts who drew it, and is reported once.
func (d *Device) checkAnnounced(conversation codec.ID, core codec.Hash, secrets *envelope.Secrets, seed *envelope.Seed) error {
	var known []announced
	if err := d.readOf(bucketAnnounced, string(conversation[:]), &known); err != nil {
		return err
	}
	i := slices.IndexFunc(known, func(a announced) bool { return a.Core == core })
	if i < 0 {
		return nil // one of an earlier version's queue, or pushed out by many others
	}
	m, err := manifest.Parse(known[i].Manifest)
	if err != nil {
		return err
	}
	receipt := known[i].Receipt
	d.put(bucketAnnounced, string(conversation[:]), codec.Encode(slices.Delete(known, i, i+1)))
	tag := secrets.Tag(core)
	if secrets.CheckProof(core, &m.Proof) == nil && subtle.ConstantTimeCompare(tag[:], m.Tag[:]) == 1 {
		return nil
	}
	d.enqueue(&entry{
		Conversation: conversation, Kind: envelope.KindReport, ID: codec.NewID().String(),
		Record: report.New(m, receipt, *seed, nil).Encode(),
	})
	return fmt.Errorf("device %s archived the index envelope so that nobody can open it", m.Header.Device.Short())
}
