package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

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
