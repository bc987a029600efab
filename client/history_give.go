package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery/client/history"
	"chancery/codec"
	"chancery/envelope"
)

// answer is a stream that this device is giving. What is given is settled when
// it begins, so that a chunk that is made again after a crash is the same.
type answer struct {
	_       struct{} `cbor:",toarray"`
	To      codec.Hash
	Request codec.Hash
	Key     []byte
	Stream  codec.ID
	Since   int64
	List    []extent
	At      int    // in List; its end is the end of the stream
	Held    uint64 // chunks of other devices' history that were looked through
	Next    uint64 // position
	Number  uint64 // of the next chunk
	Sent    []history.Extent
}

// extent is a conversation with the position after its last.
type extent struct {
	_            struct{} `cbor:",toarray"`
	Conversation codec.ID
	End          uint64
}

// keptRequests is how many answered requests are remembered.
const keptRequests = 64

// giveHistory begins the answers that the member has granted and sends what it
// can. Where the other device has to fetch first, or the Sync has sent enough,
// the next one goes on.
func (d *Device) giveHistory(ctx context.Context, h *historyState, sum *Summary) error {
	if err := d.beginAnswers(h); err != nil {
		return err
	}
	for sent := 0; len(h.Answers) > 0 && sent < chunksPerSync; sent++ {
		a := &h.Answers[0]
		if _, ok := d.sibling(a.To); !ok {
			h.Answers = slices.Delete(h.Answers, 0, 1) // it was revoked
			continue
		}
		n, err := d.giveChunk(ctx, a)
		if errors.Is(err, errNotNow) {
			break
		}
		if err != nil {
			return err
		}
		sum.HistorySent += n
		if a.At > len(a.List) {
			h.Answers = slices.Delete(h.Answers, 0, 1)
		}
		// Should the device stop before this, it sends the chunk again.
		if err := d.saveHistory(h); err != nil {
			return err
		}
	}
	sum.HistoryWaiting = len(h.Answers) > 0
	return nil
}

// beginAnswers turns grants into answers where the device has asked.
func (d *Device) beginAnswers(h *historyState) error {
	changed := false
	for _, raw := range slices.Clone(h.Waiting) {
		r, err := history.ParseRequest(raw)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(h.Grants, func(g grant) bool { return g.Device == r.Device })
		if i < 0 || d.checkRequest(r, raw) != nil {
			continue
		}
		a := answer{To: r.Device, Request: history.RequestHash(raw), Key: r.Key, Stream: codec.NewID(), Since: h.Grants[i].Since}
		for _, id := range append(slices.Clone(d.list), h.List...) {
			if slices.ContainsFunc(a.List, func(x extent) bool { return x.Conversation == id }) {
				continue
			}
			end := uint64(0)
			if c, err := d.conversation(id); err == nil {
				end = c.Next
			} else if !errors.Is(err, ErrNoConversation) {
				return err
			}
			a.List = append(a.List, extent{Conversation: id, End: end})
		}
		h.Grants = slices.Delete(h.Grants, i, i+1)
		h.Waiting = slices.DeleteFunc(h.Waiting, func(other []byte) bool { return bytes.Equal(other, raw) })
		h.Done = append(h.Done, a.Request)
		h.Done = h.Done[max(0, len(h.Done)-keptRequests):]
		h.Answers, changed = append(h.Answers, a), true
	}
	if !changed {
		return nil
	}
	return d.saveHistory(h)
}

// giveChunk sends an answer's next chunk and moves the answer on.
func (d *Device) giveChunk(ctx context.Context, a *answer) (entries int, err error) {
	next := *a
	at := history.Place{Organisation: d.self.Organisation, From: d.self.Device, To: a.To, Request: a.Request, Stream: a.Stream, Last: true}
	b := &history.Body{}
	if a.At == len(a.List) {
		b.Conversations = a.Sent
		next.At++
	} else {
		x := a.List[a.At]
		if b, err = d.collect(&next, x); err != nil {
			return 0, err
		}
		at.Conversation, at.Number, at.Last = x.Conversation, a.Number, next.At > a.At
		if at.Last && a.Number == 0 && len(b.Entries) == 0 {
			*a = next // nothing of this conversation is given
			return 0, nil
		}
		if at.Last {
			next.Sent = append(slices.Clone(a.Sent), history.Extent{Conversation: x.Conversation, Chunks: a.Number + 1})
		} else {
			next.Number++
		}
	}
	raw, err := history.Seal(d.key, a.Key, at, b)
	if err != nil {
		return 0, fmt.Errorf("couldn't seal history: %w", err)
	}
	if err := d.leave(ctx, a.To, raw); err != nil {
		return 0, err
	}
	*a = next
	return len(b.Entries), nil
}

const (
	// roomFor is more than what an entry takes beside its record, encoded.
	roomFor = 256
	// roomInChunk is for entries: a chunk that another device passes on may get a
	// longer name.
	roomInChunk = history.MaxPlain - 2<<10
)

// collect makes the next chunk's body of a conversation: first what this device
// has from others, chunk by chunk, then what it checked itself. It moves a to the
// next conversation with the last.
func (d *Device) collect(a *answer, x extent) (*history.Body, error) {
	b := &history.Body{}
	var held heldHistory
	if err := d.readOf(bucketHistoryOf, string(x.Conversation[:]), &held); err != nil {
		return nil, err
	}
	b.Name = held.Name
	if c, err := d.conversation(x.Conversation); err == nil {
		b.Name = c.Name
	}
	for {
		entries, ok, err := d.heldChunk(&held, x.Conversation, a.Held)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		a.Held++
		if b.Entries = d.given(entries, a.Since); len(b.Entries) > 0 {
			return b, nil
		}
	}
	room := roomInChunk
	for ; a.Next < x.End && len(b.Entries) < history.MaxEntries; a.Next++ {
		msg, ok, err := d.recorded(x.Conversation, a.Next)
		if err != nil {
			return nil, err
		}
		if !ok || msg.Outcome != outcomeDelivered || msg.Kind != envelope.KindRecord || msg.Time < a.Since {
			continue
		}
		e := history.Entry{
			Position: msg.Position, Leaf: msg.Leaf, Core: msg.Core, Device: msg.Device, Member: msg.Member, Time: msg.Time,
			Indexed: msg.Index, Archived: msg.Archived, Record: msg.Record,
		}
		if len(e.Record) > roomInChunk-roomFor {
			e.Record = nil // its place is shown, and that it didn't fit
		}
		if room -= roomFor + len(e.Record); room < 0 && len(b.Entries) > 0 {
			return b, nil
		}
		b.Entries = append(b.Entries, e)
	}
	if a.Next < x.End {
		return b, nil
	}
	a.At, a.Held, a.Next, a.Number = a.At+1, 0, 0, 0
	return b, nil
}

// heldChunk returns the nth chunk of what is held of a conversation.
func (d *Device) heldChunk(held *heldHistory, conversation codec.ID, n uint64) ([]history.Entry, bool, error) {
	for i := range held.Parts {
		p := &held.Parts[i]
		if n >= p.Chunks {
			n -= p.Chunks
			continue
		}
		var entries []history.Entry
		if err := d.readOf(bucketHistoryChunk, p.key(conversation, n), &entries); err != nil {
			return nil, false, err
		}
		for k := range entries {
			if entries[k].Via.IsZero() {
				entries[k].Via = p.From
			}
		}
		return entries, true, nil
	}
	return nil, false, nil
}

// given returns those entries that are new enough.
func (d *Device) given(entries []history.Entry, since int64) []history.Entry {
	return slices.DeleteFunc(entries, func(e history.Entry) bool { return e.Time < since })
}

// GrantHistory lets another device of this member have history, when it asks or
// has asked: no History takes a grant back that was not used yet. It returns an
// error for a device that is none of the member's.
func (d *Device) GrantHistory(device codec.Hash, much History) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if _, ok := d.sibling(device); !ok {
		return fmt.Errorf("device %s is no other device of this member", device.Short())
	}
	return d.grant(device, much)
}

// grant writes what a device may have.
func (d *Device) grant(device codec.Hash, much History) error {
	h, err := d.historyState()
	if err != nil {
		return err
	}
	h.Grants = slices.DeleteFunc(h.Grants, func(g grant) bool { return g.Device == device })
	if !much.none() {
		since := int64(0)
		if !much.All {
			since = d.cfg.Now().AddDate(0, 0, -much.Days).UnixMilli()
		}
		h.Grants = append(h.Grants, grant{Device: device, Since: since})
		h.Grants = h.Grants[max(0, len(h.Grants)-maxSiblings):]
	}
	return d.saveHistory(h)
}
