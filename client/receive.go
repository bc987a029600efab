package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/evidence"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/report"
)

// What became of a message (spec/client.md#outcomes).
const (
	outcomeDelivered     outcome = 1
	outcomeMismatch      outcome = 2 // archived otherwise than sent
	outcomeUndecryptable outcome = 3
	outcomeUnverified    outcome = 4 // of a version that this program doesn't know
	outcomeFaulty        outcome = 5 // what no device may send or the server may not take
)

type outcome uint8

// stored is a message as the device keeps it.
type stored struct {
	_        struct{} `cbor:",toarray"`
	Outcome  outcome
	Problem  string
	Own      bool
	Index    bool // the tags were verified
	Archived bool
	Kind     envelope.Kind
	Position uint64
	Leaf     int64
	Core     codec.Hash
	Device   codec.Hash
	Member   codec.ID
	Time     int64 // of the receipt
	Record   []byte
	Seed     []byte // until the leaf is under a witnessed checkpoint
	Manifest []byte // until then, and for good where there is a problem
	Receipt  []byte
	Report   []byte // the proof of a mismatch
}

func (s *stored) fill(m *manifest.Manifest, r *manifest.Receipt, receipt []byte) {
	body := &r.Opening.Body
	s.Position, s.Leaf, s.Time = body.Position, r.Index, body.Time
	s.Core, s.Device, s.Kind = m.CoreHash(), m.Header.Device, m.Header.Kind
	s.Manifest, s.Receipt = m.Bytes(), receipt
}

func messageKey(conversation codec.ID, position uint64) string {
	return string(conversation[:]) + number(position)
}

func (d *Device) record(conversation codec.ID, s *stored) {
	d.put(bucketMessage, messageKey(conversation, s.Position), codec.Encode(s))
}

func (d *Device) recorded(conversation codec.ID, position uint64) (*stored, bool, error) {
	raw, ok, err := d.get(bucketMessage, messageKey(conversation, position))
	if err != nil || !ok {
		return nil, false, err
	}
	var s stored
	if err := codec.Decode(raw, &s); err != nil {
		return nil, false, fmt.Errorf("couldn't read a message: %w", err)
	}
	return &s, true, nil
}

// receive takes the queue, batch by batch, until it is empty or has to wait.
func (d *Device) receive(ctx context.Context, sum *Summary) (taken int, err error) {
	for {
		items, err := d.server.Queue(ctx, d.progress.Cursor, 0)
		if err != nil {
			return taken, fmt.Errorf("couldn't receive: %w", err)
		}
		if len(items) == 0 {
			return taken, nil
		}
		if !slices.ContainsFunc(items, func(it wire.Delivery) bool { return it.Cursor > d.progress.Cursor }) {
			return taken, fmt.Errorf("the queue gives again what was confirmed: %w", ErrServer)
		}
		if err := d.step("received"); err != nil {
			return taken, err
		}
		for i := range items {
			it := &items[i]
			if it.Cursor <= d.progress.Cursor {
				continue
			}
			err = d.take(ctx, it, sum)
			if err != nil {
				break
			}
			d.progress.Cursor = it.Cursor
			d.touch(bucketDevice)
			taken++
		}
		if err != nil && !errors.Is(err, errPending) {
			return taken, errors.Join(err, d.reload())
		}
		if saveErr := d.save(); saveErr != nil {
			return taken, saveErr
		}
		if err != nil {
			sum.Pending = true
			return taken, nil
		}
	}
}

// take takes one delivery. What is wrong with it is recorded and doesn't stop
// the queue; an error does.
func (d *Device) take(ctx context.Context, it *wire.Delivery, sum *Summary) error {
	switch it.Kind {
	case wire.DeliveryMessage:
		return d.message(ctx, it, sum)
	case wire.DeliveryCommit, wire.DeliveryWelcome:
		return d.handshake(ctx, it, sum)
	case wire.DeliveryVoid:
		return d.void(ctx, it, sum)
	case wire.DeliveryNotice:
		return d.notice(it, sum)
	}
	d.fault(sum, fmt.Sprintf("delivery of unknown kind %d", it.Kind))
	return nil
}

// judge opens a receipt and brings the control log to where it was given. It
// returns errPending where that isn't witnessed yet, and ok false where the
// receipt is none.
func (d *Device) judge(ctx context.Context, raw []byte, sum *Summary) (r *manifest.Receipt, ok bool, err error) {
	var key codec.PublicKey
	d.cfg.Replica.Read(func(s *control.State) { key = s.Genesis().ReceiptKey })
	r, err = d.cfg.Keyring.receipt(key, raw)
	if err != nil {
		d.fault(sum, fmt.Sprintf("delivery without a receipt: %v", err))
		return nil, false, nil
	}
	body := &r.Opening.Body
	if body.ControlSize > d.cfg.Replica.Size() {
		if err := d.readLog(ctx); err != nil {
			return nil, false, err
		}
		if body.ControlSize > d.cfg.Replica.Size() {
			return nil, false, errPending
		}
	}
	if err := d.upTo(ctx, body.Time); err != nil {
		return nil, false, err
	}
	err = d.promised(evidence.PromiseReceipt, raw, body.ControlSize, body.ControlRoot, body.Time)
	if errors.Is(err, replica.ErrOtherLog) {
		d.fault(sum, fmt.Sprintf("receipt of leaf %d speaks of another control log: %v", r.Index, err))
		return nil, false, nil
	}
	if err != nil {
		d.fault(sum, fmt.Sprintf("receipt under an old control log: %v", err))
		return nil, false, nil
	}
	return r, true, nil
}

// handshake checks a commit statement before the step that it speaks of.
func (d *Device) handshake(ctx context.Context, it *wire.Delivery, sum *Summary) error {
	r, ok, err := d.judge(ctx, it.Receipt, sum)
	if err != nil || !ok {
		return err
	}
	body, err := d.checkStatement(r, it)
	if err != nil {
		d.fault(sum, fmt.Sprintf("commit statement of leaf %d: %v", r.Index, err))
		return d.except(r, sum)
	}
	if problem := d.changesKind(body); problem != "" {
		d.fault(sum, fmt.Sprintf("commit statement of leaf %d: %s", r.Index, problem))
		return d.except(r, sum)
	}
	if body.Direct() {
		return d.enterDirect(r, it, body, sum)
	}
	if it.Kind == wire.DeliveryWelcome {
		return d.join(r, it, body, sum)
	}
	return d.applyCommit(r, it, body, sum)
}

func (d *Device) checkStatement(r *manifest.Receipt, it *wire.Delivery) (*manifest.Commit, error) {
	body, err := manifest.ParseCommit(it.Manifest)
	if err != nil {
		return nil, err
	}
	if r.Object != manifest.CommitHash(it.Manifest) || r.Opening.Body.Kind != manifest.LeafCommit || r.Opening.Body.Conversation != body.Conversation {
		return nil, errors.New("the receipt is another's")
	}
	if body.Organisation != d.self.Organisation {
		return nil, errors.New("of another organisation")
	}
	var author *control.DeviceState
	d.cfg.Replica.Read(func(s *control.State) {
		author, err = s.CheckDevice(body.Device, r.Opening.Body.ControlSize, r.Opening.Body.Time)
	})
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", body.Device.Short(), err)
	}
	return body, manifest.VerifyCommit(author.Key, it.Manifest)
}

// keyAt returns the key of a device that is valid in a log of that size.
func (d *Device) keyAt(device codec.Hash, size int64) (key codec.PublicKey, ok bool) {
	d.cfg.Replica.Read(func(s *control.State) {
		if dev, found := s.Device(device); found && dev.ValidAt(size) {
			key, ok = dev.Key, true
		}
	})
	return key, ok
}

// message checks a message in the order of spec/client.md#checks.
func (d *Device) message(ctx context.Context, it *wire.Delivery, sum *Summary) error {
	r, ok, err := d.judge(ctx, it.Receipt, sum)
	if err != nil || !ok {
		return err
	}
	m, err := d.cfg.Keyring.manifest(it.Manifest)
	body := &r.Opening.Body
	switch {
	case errors.Is(err, envelope.ErrVersion) && r.Object == codec.Sum("manifest", it.Manifest):
		// Somebody newer: no accusation, and nothing shown.
		sum.Unverified++
		d.counters().Unverified++
		return d.except(r, sum)
	case err != nil || r.Object != m.Hash() || body.Kind != manifest.LeafMessage || body.Conversation != m.Header.Conversation:
		d.fault(sum, fmt.Sprintf("leaf %d: the manifest is not the one receipted", r.Index))
		return d.except(r, sum)
	}
	c, err := d.conversation(m.Header.Conversation)
	if errors.Is(err, ErrNoConversation) {
		return nil // sent before this device joined, or after it was removed
	}
	if err != nil {
		return err
	}
	d.follow(c, r, sum)
	if _, seen, err := d.recorded(c.ID, body.Position); err != nil || seen {
		return err // delivered again, or its own
	}
	kind := m.Header.Kind
	switch {
	case kind != envelope.KindRecord && kind != envelope.KindReport || m.Header.Device == d.self.Device:
		// Nothing for this member's eyes.
		if err := d.vouched(m, body); err != nil {
			d.fault(sum, fmt.Sprintf("leaf %d: %v", r.Index, err))
			c.except(body.Position)
			return nil
		}
		if kind == envelope.KindIndex && m.Header.Device != d.self.Device {
			return d.announce(c.ID, &announced{Core: m.CoreHash(), Manifest: m.Bytes(), Receipt: it.Receipt})
		}
		return nil
	case len(it.Body) == 0 && c.before(m.Transport.Epoch), c.direct == nil && c.unreadable(m.Transport.Epoch):
		if err := d.vouched(m, body); err != nil {
			d.fault(sum, fmt.Sprintf("leaf %d: %v", r.Index, err))
		}
		c.except(body.Position)
		return nil
	}
	msg := &stored{}
	msg.fill(m, r, it.Receipt)
	if err := d.check(c, m, r, it, msg); err != nil {
		return err
	}
	d.count(c, msg, sum)
	d.record(c.ID, msg)
	d.watch(r, m)
	if msg.Outcome == outcomeMismatch {
		d.enqueue(&entry{Conversation: c.ID, Kind: envelope.KindReport, ID: codec.NewID().String(), Record: msg.Report})
	}
	return nil
}

func (d *Device) count(c *conversation, msg *stored, sum *Summary) {
	n := d.counters()
	if msg.Outcome != outcomeDelivered {
		c.except(msg.Position)
	}
	if msg.Problem != "" {
		sum.Problems = append(sum.Problems, fmt.Sprintf("message at %d of %s: %s", msg.Position, c.ID, msg.Problem))
	}
	switch msg.Outcome {
	case outcomeDelivered:
		sum.Delivered++
		n.Delivered++
		if !msg.Index {
			sum.Unindexed++
			n.Index++
		}
	case outcomeMismatch:
		sum.Mismatches++
		n.Mismatches++
	case outcomeUndecryptable:
		sum.Undecryptable++
		n.Undecryptable++
	case outcomeUnverified:
		sum.Unverified++
		n.Unverified++
	case outcomeFaulty:
		sum.Faulty++
		n.Faulty++
	}
}

// check decides a message's outcome. It returns an error only where the device's
// own state fails.
func (d *Device) check(c *conversation, m *manifest.Manifest, r *manifest.Receipt, it *wire.Delivery, msg *stored) error {
	settle := func(o outcome, format string, args ...any) error {
		msg.Outcome, msg.Problem = o, fmt.Sprintf(format, args...)
		return nil
	}
	body := &r.Opening.Body
	var public *envelope.PublicKey
	var device *control.DeviceState
	var headerErr, keyErr error
	d.cfg.Replica.Read(func(s *control.State) {
		var month *control.MonthState
		if device, month, headerErr = s.CheckHeader(m.Header, body.ControlSize, body.Time); headerErr == nil {
			msg.Member = device.Member
			public, keyErr = d.cfg.Keyring.get(month)
		}
	})
	if headerErr != nil {
		// The device signed it, if it did, and the server took it: both convicted.
		msg.Report = report.New(m, it.Receipt, envelope.Seed{}, nil).Encode()
		return settle(outcomeFaulty, "%v", headerErr)
	}
	if keyErr != nil {
		return keyErr
	}
	if err := d.cfg.Keyring.verify(m, device.Key); err != nil {
		return settle(outcomeFaulty, "manifest: %v", err)
	}
	statement, known := c.epoch(m.Transport.Epoch)
	if !known || statement != m.Transport.Roster {
		return settle(outcomeFaulty, "names a roster that is not the one of epoch %d", m.Transport.Epoch)
	}
	if err := d.checkCiphertext(c, m, body, it.Body); err != nil {
		return settle(outcomeFaulty, "%v", err)
	}
	plain, err := d.decrypt(c, m, device.Key, it.Body)
	if err != nil {
		return settle(outcomeUndecryptable, "%v", err)
	}
	defer clear(plain.Data)
	core := m.CoreHash()
	switch {
	case plain.Sender != m.Header.Device || plain.Epoch != m.Transport.Epoch:
		return settle(outcomeUndecryptable, "the ciphertext is of another device or epoch than the manifest")
	case !slices.Equal(plain.AD, manifest.AuthenticatedData(core)):
		return settle(outcomeUndecryptable, "the ciphertext belongs to another envelope")
	}
	if d.outdated(plain.Policy, m.Header.PolicyLeaf) {
		return settle(outcomeFaulty, "names an older policy than the conversation pins")
	}
	p, err := parsePayload(plain.Data)
	if errors.Is(err, envelope.ErrVersion) {
		return settle(outcomeUnverified, "%v", err)
	}
	if err != nil {
		return settle(outcomeUndecryptable, "payload: %v", err)
	}
	switch err := envelope.Check(public, m.Core, &p.Seed, p.Record, &m.Proof, &m.Tag); {
	case errors.Is(err, envelope.ErrMismatch) || errors.Is(err, envelope.ErrProof) || errors.Is(err, envelope.ErrTag):
		msg.Record = p.Record
		msg.Report = report.New(m, it.Receipt, p.Seed, p.Record).Encode()
		return settle(outcomeMismatch, "%v", err)
	case errors.Is(err, envelope.ErrVersion):
		return settle(outcomeUnverified, "%v", err)
	case err != nil:
		return settle(outcomeUndecryptable, "%v", err)
	}
	msg.Record, msg.Seed = p.Record, p.Seed[:]
	if m.Header.Kind == envelope.KindReport {
		if _, err := report.Parse(p.Record); err != nil {
			return settle(outcomeUnverified, "%v", err)
		}
		msg.Index = true // it has no tags
		return settle(outcomeDelivered, "")
	}
	record, err := envelope.ParseRecord(p.Record)
	switch {
	case err != nil:
		return settle(outcomeUnverified, "record: %v", err)
	case record.Conversation != c.ID:
		return settle(outcomeFaulty, "the record is of another conversation")
	}
	problem := d.checkIndex(c, m, p, record, plain.Roster, it.Tags)
	msg.Index = problem == ""
	c.apply(record, device.Member)
	return settle(outcomeDelivered, "%s", problem)
}

func (d *Device) memberOf(device codec.Hash) (m codec.ID) {
	d.cfg.Replica.Read(func(s *control.State) {
		if dev, ok := s.Device(device); ok {
			m = dev.Member
		}
	})
	return m
}

// apply takes what a record changes in the conversation itself.
func (c *conversation) apply(r *envelope.Record, from codec.ID) {
	if r.Action == envelope.ActionProfile {
		c.Name, c.changed = r.ConversationName, true
	}
	switch {
	case !slices.Contains(r.Flags, FlagLeave):
	case c.direct != nil:
		c.Left, c.changed = true, true
	case !slices.Contains(c.Leaving, from):
		c.Leaving, c.changed = append(c.Leaving, from), true
	}
}

// Notice is a hold that names the device's member.
type Notice struct {
	Hold codec.Hash // its control leaf
	Text string     // what custodians are told
}

// notice takes a hold's opening, which proves itself: its seal must be a leaf of
// the control log.
func (d *Device) notice(it *wire.Delivery, sum *Summary) error {
	var o wire.Opening
	if err := codec.Decode(it.Body, &o); err != nil {
		d.fault(sum, fmt.Sprintf("notice: %v", err))
		return nil
	}
	var hold control.Hold
	if err := codec.Decode(o.Opening.Body, &hold); err != nil || !slices.Contains(hold.Custodians, d.self.Member) {
		d.fault(sum, "notice that is no hold of this member")
		return nil
	}
	seal := o.Opening.Seal()
	statement := control.Statement{Organisation: d.self.Organisation, Kind: control.KindHold, Body: seal[:]}
	hash := statement.Hash()
	logged := false
	d.cfg.Replica.Read(func(s *control.State) { _, logged = s.Index(hash) })
	if !logged {
		// The notice may come before the log is witnessed that far.
		return errPending
	}
	if slices.ContainsFunc(d.progress.Notices, func(b []byte) bool { return slices.Equal(b, it.Body) }) {
		return nil
	}
	d.progress.Notices = append(d.progress.Notices, it.Body)
	d.touch(bucketDevice)
	sum.Notices = append(sum.Notices, &Notice{Hold: hash, Text: hold.Text})
	return nil
}
