package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/report"
)

// waiting is a receipted leaf that no witnessed checkpoint covers yet.
type waiting struct {
	_            struct{} `cbor:",toarray"`
	Conversation codec.ID
	Position     uint64
	Leaf         int64
	Hash         codec.Hash
	Time         int64
	Index        bool // an index envelope of the device's own, of which nothing is shown
	Told         bool // that it is overdue
}

func (d *Device) watch(r *manifest.Receipt, m *manifest.Manifest) {
	body := &r.Opening.Body
	d.waiting = append(d.waiting, waiting{
		Conversation: body.Conversation, Position: body.Position, Leaf: r.Index, Hash: r.Leaf(), Time: body.Time,
		Index: m.Header.Kind == envelope.KindIndex,
	})
	d.touch(bucketWaiting)
}

// include checks that what was receipted is in the messages log, and erases what
// was kept in case it is not.
func (d *Device) include(ctx context.Context, sum *Summary) error {
	if len(d.waiting) == 0 {
		return nil
	}
	signed, err := d.server.Checkpoint(ctx, ledger.MessagesLog)
	if err != nil {
		return fmt.Errorf("couldn't fetch the messages checkpoint: %w", err)
	}
	c, err := d.cfg.Replica.Messages(signed)
	var unwitnessed *ledger.Unwitnessed
	if errors.As(err, &unwitnessed) {
		return d.remind(sum) // witnesses are late; nothing is proved yet
	}
	if err != nil {
		return fmt.Errorf("messages checkpoint: %w", err)
	}
	hashes := d.server.Hashes(ctx, ledger.MessagesLog, c.Checkpoint)
	if err := d.extends(c, hashes); err != nil {
		return err
	}
	var covered []waiting
	var indexes []int64
	for _, w := range d.waiting {
		if w.Leaf < c.Size {
			covered = append(covered, w)
			indexes = append(indexes, tlog.StoredHashIndex(0, w.Leaf))
		}
	}
	if len(covered) == 0 {
		return d.remind(sum)
	}
	found, err := hashes.ReadHashes(indexes)
	if err != nil {
		return fmt.Errorf("couldn't check that messages are archived: %w", err)
	}
	for i, w := range covered {
		// The reader has proved the leaf's hash to be in the tree.
		if found[i] != tlog.RecordHash(w.Hash[:]) {
			d.fault(sum, fmt.Sprintf("leaf %d is not what its receipt promises: the receipt convicts the server", w.Leaf))
			continue
		}
		if err := d.archived(w, sum); err != nil {
			return err
		}
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(w waiting) bool { return w.Leaf < c.Size })
	d.touch(bucketWaiting)
	if err := d.remind(sum); err != nil {
		return err
	}
	return d.save()
}

// extends refuses a messages log that doesn't begin with what was seen of it.
func (d *Device) extends(c *ledger.Cosigned, hashes tlog.HashReader) error {
	p := &d.progress
	if c.Size < p.Size {
		return fmt.Errorf("messages log of %d leaves, %d were witnessed before: %w", c.Size, p.Size, ledger.ErrProof)
	}
	if p.Size > 0 {
		root, err := ledger.Root(hashes, p.Size)
		if err != nil {
			return fmt.Errorf("couldn't compare the messages log with the one seen before: %w", err)
		}
		if codec.Hash(root) != p.Root {
			return fmt.Errorf("messages log was another at %d leaves: %w", p.Size, ledger.ErrProof)
		}
	}
	if c.Size > p.Size {
		p.Size, p.Root = c.Size, codec.Hash(c.Root)
		d.touch(bucketDevice)
	}
	return nil
}

// archived turns a message's mark, and erases its seed and evidence.
func (d *Device) archived(w waiting, sum *Summary) error {
	if w.Index {
		return nil
	}
	msg, ok, err := d.recorded(w.Conversation, w.Position)
	if err != nil || !ok {
		return err
	}
	msg.Archived = true
	clear(msg.Seed)
	msg.Seed = nil
	if msg.Outcome == outcomeDelivered {
		msg.Manifest, msg.Receipt = nil, nil
		sum.Archived++
		d.counters().Archived++
	}
	d.record(w.Conversation, msg)
	return nil
}

// remind counts the leaves that the server still owes after a day.
func (d *Device) remind(sum *Summary) error {
	now := d.cfg.Now().UnixMilli()
	for i := range d.waiting {
		w := &d.waiting[i]
		if now-w.Time < overdue.Milliseconds() {
			continue
		}
		sum.Overdue++
		if !w.Told {
			w.Told = true
			d.touch(bucketWaiting)
			sum.Problems = append(sum.Problems, fmt.Sprintf("leaf %d was receipted over a day ago and is in no witnessed checkpoint", w.Leaf))
		}
	}
	return nil
}

// Acknowledge signs and sends what has been checked and read since the last
// time, for each conversation in which something has.
func (d *Device) Acknowledge(ctx context.Context) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := d.ready(ctx); err != nil {
		return err
	}
	return d.acknowledge(ctx)
}

func (d *Device) acknowledge(ctx context.Context) error {
	now := d.cfg.Now().UnixMilli()
	for _, id := range d.list {
		c, err := d.conversation(id)
		if err != nil {
			return err
		}
		// What it sent itself may have come back from the queue later.
		read := min(c.Read, c.Checked)
		if c.Checked == 0 || c.Checked == c.Acked && read == c.AckedRead || c.Left && len(c.Statements) == 0 {
			continue
		}
		raw, err := manifest.SignAck(d.key, &manifest.Ack{
			Organisation: d.self.Organisation, Device: d.self.Device, Conversation: id,
			Position: c.Checked - 1, Leaf: c.Leaf, Read: read, Exceptions: c.Exceptions, Time: now,
		})
		if err != nil {
			return fmt.Errorf("couldn't sign an acknowledgement: %w", err)
		}
		if err := d.server.Acknowledge(ctx, raw); err != nil {
			var p *wire.Problem
			if !errors.As(err, &p) {
				return fmt.Errorf("couldn't acknowledge: %w", err)
			}
			// Such as that the member was removed meanwhile: it stays owed, and
			// keeps nobody else's back.
			continue
		}
		c.Acked, c.AckedRead, c.changed = c.Checked, read, true
		d.progress.LastAck = now
		d.touch(bucketDevice)
	}
	return d.save()
}

// MarkRead notes that the member has read all positions of a conversation up to
// and including one. The next acknowledgement says so.
func (d *Device) MarkRead(conversation codec.ID, position uint64) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	c, err := d.conversation(conversation)
	if err != nil {
		return err
	}
	if position+1 > c.Next || position+1 < position {
		return fmt.Errorf("position %d of a conversation of %d", position, c.Next)
	}
	if position+1 > c.Read {
		c.Read, c.changed = position+1, true
	}
	return d.save()
}

// AcknowledgeHold tells the organisation's log that the member has read a hold's
// notice.
func (d *Device) AcknowledgeHold(ctx context.Context, hold codec.Hash) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	s, opening, err := control.NewStatement(rand.Reader, d.self.Organisation, &control.HoldAcknowledgement{Hold: hold, Device: d.self.Device})
	if err != nil {
		return err
	}
	sig, err := control.Sign(d.key, s)
	if err != nil {
		return fmt.Errorf("couldn't sign the acknowledgement: %w", err)
	}
	if _, err := d.server.Submit(ctx, &wire.Submit{Statement: codec.Encode(s), Opening: opening, Signatures: []control.Signature{sig}}); err != nil {
		return fmt.Errorf("couldn't acknowledge the hold: %w", err)
	}
	return nil
}

// Message is a message that was sent or received and checked.
type Message struct {
	ID           string
	Conversation codec.ID
	Position     uint64
	Leaf         int64 // in the messages log
	Core         codec.Hash
	Member       codec.ID // who sent it: the member of the device that signed
	Device       codec.Hash
	Sender       string    // the name that the sender gave itself
	Time         time.Time // as the sender says
	Received     time.Time // as the server's receipt says
	Text         string
	Action       uint8
	Target       string
	Mentions     []string
	Flags        []string
	From         codec.Hash `json:",omitzero"` // of History: the device on whose word it is shown; zero for what this device checked itself
	Own          bool       // sent by this device
	Archived     bool       // a witnessed checkpoint covers it
	Indexed      bool       // its tags were verified: a search finds it
	Report       bool       // a report of a mismatch; Target is the H(core) of the message it accuses
	Evidence     []byte     // of a report, for report.Verify
}

// Messages returns the messages of a conversation from a position on, in order.
// Nothing that failed a check is among them.
func (d *Device) Messages(conversation codec.ID, from uint64) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for s, err := range d.each(conversation, from) {
			if err != nil {
				yield(nil, err)
				return
			}
			if s.Outcome != outcomeDelivered {
				continue
			}
			m, err := s.message(conversation)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// each goes through what is stored. It holds the device one message at a time,
// so that the caller may use the device in between.
func (d *Device) each(conversation codec.ID, from uint64) iter.Seq2[*stored, error] {
	read := func(n uint64) (s *stored, ok, more bool, err error) {
		end, err := d.begin()
		if err != nil {
			return nil, false, false, err
		}
		defer end()
		c, err := d.conversation(conversation)
		if err != nil {
			return nil, false, false, err
		}
		if n >= c.Next {
			return nil, false, false, nil
		}
		s, ok, err = d.recorded(conversation, n)
		return s, ok, true, err
	}
	return func(yield func(*stored, error) bool) {
		for n := from; ; n++ {
			s, ok, more, err := read(n)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
			if ok && !yield(s, nil) {
				return
			}
		}
	}
}

func (s *stored) message(conversation codec.ID) (*Message, error) {
	m := &Message{
		Conversation: conversation, Position: s.Position, Leaf: s.Leaf, Core: s.Core, Member: s.Member, Device: s.Device,
		Received: time.UnixMilli(s.Time).UTC(), Own: s.Own, Archived: s.Archived, Indexed: s.Index,
	}
	if s.Kind == envelope.KindReport {
		return m, m.accuse(s.Record)
	}
	r, err := envelope.ParseRecord(s.Record)
	if err != nil {
		return nil, err
	}
	m.ID, m.Sender, m.Time, m.Text = r.ID, r.Sender, time.UnixMilli(r.Time).UTC(), r.Text
	m.Action, m.Target, m.Mentions, m.Flags = r.Action, r.Target, r.Mentions, r.Flags
	return m, nil
}

// accuse fills in what a report says.
func (m *Message) accuse(raw []byte) error {
	r, err := report.Parse(raw)
	if err != nil {
		return err
	}
	m.Report, m.Target, m.Evidence = true, r.Target.String(), raw
	return nil
}

// Problem is a message that failed a check. Its text is not shown.
type Problem struct {
	Conversation codec.ID
	Position     uint64
	Leaf         int64
	Core         codec.Hash
	Device       codec.Hash
	Member       codec.ID
	Mismatch     bool   // archived otherwise than it was sent
	Reason       string // in words
	Report       []byte // that proves it (package report), or nil
}

// Problems returns what failed a check in a conversation, in order.
func (d *Device) Problems(conversation codec.ID) iter.Seq2[*Problem, error] {
	return func(yield func(*Problem, error) bool) {
		for s, err := range d.each(conversation, 0) {
			if err != nil {
				yield(nil, err)
				return
			}
			if s.Outcome == outcomeDelivered {
				continue
			}
			if !yield(&Problem{
				Conversation: conversation, Position: s.Position, Leaf: s.Leaf, Core: s.Core, Device: s.Device, Member: s.Member,
				Mismatch: s.Outcome == outcomeMismatch, Reason: s.Problem, Report: s.Report,
			}, nil) {
				return
			}
		}
	}
}
