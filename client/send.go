package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/envelope"
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
