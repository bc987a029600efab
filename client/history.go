package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"chancery/client/history"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

const (
	maxSiblings   = 16                 // devices that a new one asks
	askAgain      = 3 * 24 * time.Hour // as long as nothing has come
	askTimes      = 20
	maxStreams    = 8  // of one device, that a request is answered with
	chunksPerSync = 16 // that a device sends

	bucketHistory      = "history"       // historyState
	bucketHistoryOf    = "history-of"    // heldHistory, by conversation
	bucketHistoryChunk = "history-chunk" // entries, by place
)

// History is how much of what it has a device gives to another one of its
// member. The zero value is nothing.
type History struct {
	All  bool
	Days int // before now, as the server's receipts say
}

func (h History) none() bool { return !h.All && h.Days <= 0 }

// historyState is a device's part in the history of its member's devices, in
// both directions.
type historyState struct {
	_       struct{} `cbor:",toarray"`
	Cursor  uint64   // of letters
	Asked   []byte   // this device's request, signed
	Key     []byte   // what answers are sealed to; erased when all has come
	AskedAt int64    // milliseconds since 1970
	Times   uint8
	Streams []gotStream
	List    []codec.ID // conversations of which some is held
	Waiting [][]byte   // newest request of each other device that has no answer yet
	Grants  []grant
	Answers []answer
	Done    []codec.Hash // requests that were answered, newest last
}

// grant is what the member lets a device have.
type grant struct {
	_      struct{} `cbor:",toarray"`
	Device codec.Hash
	Since  int64 // milliseconds since 1970; 0 for everything
}

// gotStream is an answer that this device is getting.
type gotStream struct {
	_       struct{} `cbor:",toarray"`
	From    codec.Hash
	Stream  codec.ID
	Ended   bool
	Extents []history.Extent // where Ended
}

// heldHistory is what is held of one conversation.
type heldHistory struct {
	_     struct{} `cbor:",toarray"`
	Name  string
	Parts []heldPart
}

// heldPart is what one stream had of a conversation.
type heldPart struct {
	_      struct{} `cbor:",toarray"`
	From   codec.Hash
	Stream codec.ID
	Chunks uint64
	Last   bool
}

func (p *heldPart) key(conversation codec.ID, n uint64) string {
	return string(p.From[:]) + string(p.Stream[:]) + string(conversation[:]) + number(n)
}

func (d *Device) historyState() (*historyState, error) {
	h := &historyState{}
	return h, d.read(bucketHistory, h)
}

func (d *Device) putHistory(h *historyState) { d.put(bucketHistory, "", codec.Encode(h)) }

// saveHistory writes the state with what else is staged.
func (d *Device) saveHistory(h *historyState) error {
	d.putHistory(h)
	return d.save()
}

// sibling returns another device of this member that is valid now.
func (d *Device) sibling(h codec.Hash) (dev control.DeviceState, ok bool) {
	d.cfg.Replica.Read(func(s *control.State) {
		if found, known := s.Device(h); known && h != d.self.Device && found.Member == d.self.Member && found.ValidAt(s.Size()) {
			dev, ok = *found, true
		}
	})
	return dev, ok
}

// siblings returns the other devices of this member that are valid now, and
// those of them that were enrolled before this one.
func (d *Device) siblings() (all, older []codec.Hash) {
	d.cfg.Replica.Read(func(s *control.State) {
		own, ok := s.Device(d.self.Device)
		for _, h := range s.Devices(d.self.Member) {
			dev, known := s.Device(h)
			if !known || !ok || h == d.self.Device || !dev.ValidAt(s.Size()) {
				continue
			}
			all = append(all, h)
			if dev.Since < own.Since {
				older = append(older, h)
			}
		}
	})
	return all, older[max(0, len(older)-maxSiblings):]
}

// exchangeHistory asks for history, takes what has come, and gives what the
// member has granted. Without another device there is nobody to do it with.
func (d *Device) exchangeHistory(ctx context.Context, sum *Summary) error {
	all, older := d.siblings()
	if len(all) == 0 {
		return nil
	}
	h, err := d.historyState()
	if err != nil {
		return err
	}
	if err := d.takeLetters(ctx, h, sum); err != nil {
		return err
	}
	if err := d.askForHistory(ctx, h, older); err != nil {
		return err
	}
	return d.giveHistory(ctx, h, sum)
}

// askForHistory sends this device's request to the member's older devices: once,
// and another one after a while, as long as nothing has come.
func (d *Device) askForHistory(ctx context.Context, h *historyState, older []codec.Hash) error {
	now := d.cfg.Now()
	switch {
	case len(older) == 0, h.Times >= askTimes, h.Times > 0 && len(h.Key) == 0:
		return nil
	case h.Times > 0 && (len(h.Streams) > 0 || now.Sub(time.UnixMilli(h.AskedAt)) < askAgain):
		return nil
	}
	if len(h.Key) == 0 || h.AskedAt > 0 {
		if err := d.newRequest(h); err != nil {
			return err
		}
		h.AskedAt = 0
		if err := d.saveHistory(h); err != nil {
			return err
		}
	}
	for _, to := range older {
		if err := d.leave(ctx, to, h.Asked); err != nil && !errors.Is(err, errNotNow) {
			return err
		}
	}
	// Should the device stop before this, it sends the same request again.
	h.AskedAt, h.Times = now.UnixMilli(), h.Times+1
	return d.saveHistory(h)
}

// newRequest makes a request with a key of its own.
func (d *Device) newRequest(h *historyState) error {
	private, public, err := history.NewKey()
	if err != nil {
		return err
	}
	request := &history.Request{Organisation: d.self.Organisation, Device: d.self.Device, Key: public, Nonce: codec.NewID()}
	if h.Asked, err = history.SignRequest(d.key, request); err != nil {
		return fmt.Errorf("couldn't sign the request for history: %w", err)
	}
	clear(h.Key)
	h.Key, h.Streams = private, nil
	return nil
}

// errNotNow means that the server doesn't take a letter: the other device has
// been revoked, or has to fetch what waits for it first.
var errNotNow = errors.New("the server doesn't take a letter now")

// leave leaves a letter for another device.
func (d *Device) leave(ctx context.Context, to codec.Hash, body []byte) error {
	if err := d.step("letter"); err != nil {
		return err
	}
	err := d.server.PutLetter(ctx, &wire.Letter{Device: to, Body: body})
	var p *wire.Problem
	if errors.As(err, &p) && (p.Status == http.StatusForbidden || p.Status == http.StatusTooManyRequests) {
		return fmt.Errorf("%w: %w", errNotNow, err)
	}
	if err != nil {
		return fmt.Errorf("couldn't leave a letter for another device: %w", err)
	}
	return d.step("left")
}

// takeLetters takes what other devices left, page by page: each is one durable
// step with the cursor.
func (d *Device) takeLetters(ctx context.Context, h *historyState, sum *Summary) error {
	for {
		letters, err := d.server.Letters(ctx, h.Cursor)
		if err != nil {
			return fmt.Errorf("couldn't fetch letters of other devices: %w", err)
		}
		if len(letters) == 0 {
			return nil
		}
		for i := range letters {
			l := &letters[i]
			if l.Cursor <= h.Cursor {
				return fmt.Errorf("letters that were confirmed come again: %w", ErrServer)
			}
			h.Cursor = l.Cursor
			if err := d.takeLetter(h, l.Body, sum); err != nil {
				return errors.Join(err, d.reload())
			}
		}
		d.finish(h)
		if err := d.saveHistory(h); err != nil {
			return err
		}
	}
}

// takeLetter takes a letter. What is wrong with it is told and stops nothing; an
// error is the device's own.
func (d *Device) takeLetter(h *historyState, body []byte, sum *Summary) error {
	problem := func(err error) error {
		sum.Problems = append(sum.Problems, fmt.Sprintf("letter of another device: %v", err))
		return nil
	}
	if r, err := history.ParseRequest(body); err == nil {
		if err := d.checkRequest(r, body); err != nil {
			return problem(err)
		}
		h.Waiting = slices.DeleteFunc(h.Waiting, func(raw []byte) bool {
			old, err := history.ParseRequest(raw)
			return err != nil || old.Device == r.Device
		})
		if slices.Contains(h.Done, history.RequestHash(body)) {
			return nil // sent again, or repeated by the server
		}
		h.Waiting = append(h.Waiting, bytes.Clone(body))
		h.Waiting = h.Waiting[max(0, len(h.Waiting)-maxSiblings):]
		return nil
	}
	c, err := history.ParseChunk(body)
	if err != nil {
		return problem(err)
	}
	from, ok := d.sibling(c.Place.From)
	want := history.Place{Organisation: d.self.Organisation, From: from.Hash, To: d.self.Device, Request: history.RequestHash(h.Asked)}
	got := c.Place
	got.Stream, got.Conversation, got.Number, got.Last = want.Stream, want.Conversation, want.Number, want.Last
	switch {
	case !ok:
		return problem(errors.New("history from a device that is none of this member's"))
	case got == want && len(h.Key) == 0:
		return nil // all has come, and this again
	case got != want:
		return problem(errors.New("history that this device hasn't asked for"))
	}
	c, b, err := history.Open(from.Key, h.Key, body)
	if err != nil {
		return problem(err)
	}
	return d.takeChunk(h, c, b, problem, sum)
}

func (d *Device) checkRequest(r *history.Request, raw []byte) error {
	dev, ok := d.sibling(r.Device)
	switch {
	case !ok:
		return fmt.Errorf("device %s asks for history, and is none of this member's", r.Device.Short())
	case r.Organisation != d.self.Organisation:
		return errors.New("a request for history of another organisation")
	}
	if err := history.VerifyRequest(dev.Key, raw); err != nil {
		return fmt.Errorf("request for history: %w", err)
	}
	return nil
}

// takeChunk keeps a chunk that is the next of its conversation in its stream.
func (d *Device) takeChunk(h *historyState, c *history.Chunk, b *history.Body, problem func(error) error, sum *Summary) error {
	at := &c.Place
	i := slices.IndexFunc(h.Streams, func(s gotStream) bool { return s.From == at.From && s.Stream == at.Stream })
	if i < 0 {
		of := 0
		for _, s := range h.Streams {
			if s.From == at.From {
				of++
			}
		}
		if of >= maxStreams {
			return problem(errors.New("one more answer to a request that was answered several times"))
		}
		h.Streams, i = append(h.Streams, gotStream{From: at.From, Stream: at.Stream}), len(h.Streams)
	}
	if at.Conversation.IsZero() {
		h.Streams[i].Ended, h.Streams[i].Extents = true, b.Conversations
		return nil
	}
	var held heldHistory
	if err := d.readOf(bucketHistoryOf, string(at.Conversation[:]), &held); err != nil {
		return err
	}
	n := slices.IndexFunc(held.Parts, func(p heldPart) bool { return p.From == at.From && p.Stream == at.Stream })
	if n < 0 {
		held.Parts, n = append(held.Parts, heldPart{From: at.From, Stream: at.Stream}), len(held.Parts)
	}
	part := &held.Parts[n]
	switch {
	case at.Number < part.Chunks:
		return nil // sent again, since its sender didn't hear that the server had it
	case at.Number > part.Chunks || part.Last:
		return problem(fmt.Errorf("chunk %d of conversation %s's history came, and %d was next", at.Number, at.Conversation, part.Chunks))
	}
	d.put(bucketHistoryChunk, part.key(at.Conversation, at.Number), codec.Encode(b.Entries))
	part.Chunks, part.Last = part.Chunks+1, at.Last
	if held.Name == "" {
		held.Name = b.Name
	}
	d.put(bucketHistoryOf, string(at.Conversation[:]), codec.Encode(&held))
	if !slices.Contains(h.List, at.Conversation) {
		h.List = append(h.List, at.Conversation)
	}
	sum.HistoryReceived += len(b.Entries)
	return nil
}

// finish erases the key of a request that was answered in full.
func (d *Device) finish(h *historyState) {
	for i := range h.Streams {
		if whole, err := d.whole(&h.Streams[i]); err == nil && whole {
			clear(h.Key)
			h.Key = nil
			return
		}
	}
}

// whole reports whether all that a stream announced has come.
func (d *Device) whole(s *gotStream) (bool, error) {
	if !s.Ended {
		return false, nil
	}
	for _, x := range s.Extents {
		var held heldHistory
		if err := d.readOf(bucketHistoryOf, string(x.Conversation[:]), &held); err != nil {
			return false, err
		}
		if !slices.ContainsFunc(held.Parts, func(p heldPart) bool {
			return p.From == s.From && p.Stream == s.Stream && p.Last && p.Chunks == x.Chunks
		}) {
			return false, nil
		}
	}
	return true, nil
}
