package client

import (
	"context"
	"iter"
	"slices"
	"time"

	"chancery/client/history"
	"chancery/codec"
	"chancery/envelope"
)

// Past is a conversation of which this device has history from another device of
// its member.
type Past struct {
	ID       codec.ID
	Name     string // as the other device showed it
	Complete bool   // all that the other device announced has come
}

// HistoryStatus says how the history that this device asked for stands.
type HistoryStatus struct {
	Asked    time.Time // when it last asked; zero where it never did
	Complete bool      // an answer has come, and all of it
	Partial  bool      // an answer has begun to come, and some of it is missing
}

// HistoryStatus says how the history that this device asked for stands.
func (d *Device) HistoryStatus() (*HistoryStatus, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	h, err := d.historyState()
	if err != nil {
		return nil, err
	}
	out := &HistoryStatus{}
	if h.Times > 0 {
		out.Asked = time.UnixMilli(h.AskedAt).UTC()
	}
	for i := range h.Streams {
		whole, err := d.whole(&h.Streams[i])
		if err != nil {
			return nil, err
		}
		out.Complete = out.Complete || whole
	}
	out.Partial = len(h.Streams) > 0 && !out.Complete
	return out, nil
}

// AskHistory asks the member's older devices for history with the next Sync,
// under a new request: what is still on its way under the one before is lost.
func (d *Device) AskHistory() error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	h, err := d.historyState()
	if err != nil {
		return err
	}
	if err := d.newRequest(h); err != nil {
		return err
	}
	h.AskedAt, h.Times = 0, 1
	return d.saveHistory(h)
}

// HistoryConversations returns the conversations of which this device has
// history, those that it isn't in included.
func (d *Device) HistoryConversations() ([]Past, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	h, err := d.historyState()
	if err != nil {
		return nil, err
	}
	out := make([]Past, 0, len(h.List))
	for _, id := range h.List {
		var held heldHistory
		if err := d.readOf(bucketHistoryOf, string(id[:]), &held); err != nil {
			return nil, err
		}
		p := Past{ID: id, Name: held.Name}
		p.Complete = !slices.ContainsFunc(held.Parts, func(p heldPart) bool { return !p.Last })
		out = append(out, p)
	}
	return out, nil
}

// History returns what other devices of this member say was said in a
// conversation, as far as this device hasn't received it itself, in the order in
// which each of them gave it. Nothing of it was checked by this device: From says
// on whose word it is.
func (d *Device) History(conversation codec.ID) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		seen := map[uint64]bool{}
		for n := uint64(0); ; n++ {
			messages, more, err := d.pastChunk(conversation, n, seen)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
			for _, m := range messages {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// pastChunk returns the nth chunk's messages that were not seen before.
func (d *Device) pastChunk(conversation codec.ID, n uint64, seen map[uint64]bool) ([]*Message, bool, error) {
	end, err := d.begin()
	if err != nil {
		return nil, false, err
	}
	defer end()
	var held heldHistory
	if err := d.readOf(bucketHistoryOf, string(conversation[:]), &held); err != nil {
		return nil, false, err
	}
	entries, ok, err := d.heldChunk(&held, conversation, n)
	if err != nil || !ok {
		return nil, false, err
	}
	var out []*Message
	for i := range entries {
		e := &entries[i]
		own, ok, err := d.recorded(conversation, e.Position)
		if err != nil {
			return nil, false, err
		}
		if ok && own.Outcome == outcomeDelivered || seen[e.Position] || len(e.Record) == 0 {
			continue
		}
		seen[e.Position] = true
		m, err := pastMessage(conversation, e)
		if err != nil {
			return nil, false, err
		}
		out = append(out, m)
	}
	return out, true, nil
}

func pastMessage(conversation codec.ID, e *history.Entry) (*Message, error) {
	s := &stored{
		Kind: envelope.KindRecord, Position: e.Position, Leaf: e.Leaf, Core: e.Core, Device: e.Device, Member: e.Member,
		Time: e.Time, Index: e.Indexed, Archived: e.Archived, Record: e.Record,
	}
	m, err := s.message(conversation)
	if err != nil {
		return nil, err
	}
	m.From = e.Via
	return m, nil
}

// ShareHistory is Sync, again and again, until nothing is left to give or ctx
// ends. progress, which may be nil, is told of the messages given so far.
func (d *Device) ShareHistory(ctx context.Context, progress func(messages int)) error {
	total := 0
	for {
		sum, err := d.Sync(ctx)
		if err != nil {
			return err
		}
		total += sum.HistorySent
		if progress != nil {
			progress(total)
		}
		waits, err := d.owes()
		if err != nil || !waits {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(historyPoll):
		}
	}
}

// historyPoll is how often a device looks whether another one has asked or
// fetched.
const historyPoll = time.Second

// owes reports whether a granted history was not given yet.
func (d *Device) owes() (bool, error) {
	end, err := d.begin()
	if err != nil {
		return false, err
	}
	defer end()
	h, err := d.historyState()
	if err != nil {
		return false, err
	}
	return len(h.Answers)+len(h.Grants) > 0, nil
}

// Siblings returns the other devices of this member that are valid now.
func (d *Device) Siblings() ([]codec.Hash, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	all, _ := d.siblings()
	return all, nil
}
