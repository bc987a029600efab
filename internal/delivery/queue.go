package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
)

const (
	queuePage     = 200      // items of one answer
	queueBytes    = 16 << 20 // and about so many bytes
	sweepInterval = 2 * time.Second
	noticeBits    = 16 // of a cursor, see store.Cursor
)

// checkPosition checks that an acknowledgement speaks of what is there.
func (s *Server) checkPosition(ctx context.Context, a *manifest.Ack) error {
	s.mu.RLock()
	member := slices.ContainsFunc(s.memberships(a.Device), func(m *store.Membership) bool { return m.Conversation == a.Conversation })
	s.mu.RUnlock()
	if !member {
		return fmt.Errorf("%w: the device was not in the conversation", ErrForbidden)
	}
	leaf, err := s.Store.LeafAt(ctx, a.Conversation, a.Position)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: the conversation has no position %d", ErrMalformed, a.Position)
	}
	if err != nil {
		return err
	}
	entries, err := s.Store.Entries(ctx, ledger.MessagesLog, leaf.Index, leaf.Index+1)
	if err != nil {
		return err
	}
	if string(entries[0]) != string(a.Leaf[:]) {
		return fmt.Errorf("%w: another leaf is at position %d", ErrMalformed, a.Position)
	}
	if a.Read > a.Position+1 {
		return fmt.Errorf("%w: read up to %d, checked up to %d", ErrMalformed, a.Read, a.Position)
	}
	return nil
}

// memberships returns a device's; the caller holds the lock.
func (s *Server) memberships(device codec.Hash) []*store.Membership {
	if b := s.mailboxes[device]; b != nil {
		return b.memberships
	}
	return nil
}

// Queue returns what comes after a cursor in a device's queue, in order, and
// forgets what comes up to it. Where there is nothing it waits up to wait.
func (s *Server) Queue(ctx context.Context, device codec.Hash, after uint64, wait time.Duration) ([]wire.Delivery, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		s.mu.Lock()
		b := s.box(device)
		b.cursor = max(b.cursor, min(after, store.Cursor(s.size)))
		after = max(after, b.cursor)
		wake, size := b.wake, s.size
		wanted := s.wanted(b, device, after)
		s.mu.Unlock()
		out, err := s.collect(ctx, device, after, size, wanted)
		if err != nil || len(out) > 0 {
			return out, err
		}
		s.caughtUp(device, after, size)
		select {
		case <-wake:
		case <-timer.C:
			return []wire.Delivery{}, nil
		case <-s.stopped:
			return []wire.Delivery{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// wanted returns the memberships in which something may have come after a
// cursor; the caller holds the lock.
func (s *Server) wanted(b *mailbox, device codec.Hash, after uint64) []store.Membership {
	var out []store.Membership
	for _, m := range b.memberships {
		c := s.conversations[m.Conversation]
		if c == nil || c.Last < firstAfter(after) || (m.Until >= 0 && m.Until < firstAfter(after)) {
			continue
		}
		out = append(out, *m)
	}
	return out
}

// firstAfter returns the first leaf whose cursor is greater.
func firstAfter(cursor uint64) int64 { return int64(cursor >> noticeBits) }

// caughtUp notes that there is nothing for a device up to a size of the log, so
// that one that only sends doesn't keep others' ciphertexts.
func (s *Server) caughtUp(device codec.Hash, after uint64, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.box(device)
	b.cursor = max(b.cursor, after, store.Cursor(size-1))
}

func (s *Server) collect(ctx context.Context, device codec.Hash, after uint64, size int64, wanted []store.Membership) ([]wire.Delivery, error) {
	var found []*store.Queued
	rosters := map[int64]manifest.Roster{}
	for _, m := range wanted {
		to := size
		if m.Until >= 0 {
			to = min(to, m.Until+1)
		}
		q, err := s.Store.Queue(ctx, &m, max(m.Since, firstAfter(after)), to, queuePage)
		if err != nil {
			return nil, err
		}
		found = append(found, q...)
	}
	slices.SortFunc(found, func(a, b *store.Queued) int { return int(a.Index - b.Index) })
	found = found[:min(len(found), queuePage)]
	notices, err := s.Store.Notices(ctx, device, after)
	if err != nil {
		return nil, err
	}
	out := []wire.Delivery{}
	total := 0
	for len(found) > 0 || len(notices) > 0 {
		if len(found) == 0 || (len(notices) > 0 && notices[0].Cursor < store.Cursor(found[0].Index)) {
			// A notice behind a leaf that is beyond this page waits for it.
			if len(found) == 0 && len(out) >= queuePage {
				break
			}
			out = append(out, wire.Delivery{Cursor: notices[0].Cursor, Kind: wire.DeliveryNotice, Body: notices[0].Body})
			notices = notices[1:]
			continue
		}
		q := found[0]
		if total += len(q.Body) + len(q.Welcome) + len(q.Object); total > queueBytes && len(out) > 0 {
			break
		}
		found = found[1:]
		d, err := s.delivery(ctx, device, q, wanted, rosters)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (s *Server) delivery(ctx context.Context, device codec.Hash, q *store.Queued, wanted []store.Membership, rosters map[int64]manifest.Roster) (wire.Delivery, error) {
	d := wire.Delivery{Cursor: store.Cursor(q.Index), Manifest: q.Object, Receipt: q.Receipt, Body: q.Body, Tags: q.Tags}
	switch q.Kind {
	case manifest.LeafMessage:
		d.Kind = wire.DeliveryMessage
		return d, nil
	case manifest.LeafVoid:
		d.Kind = wire.DeliveryVoid
		return d, nil
	}
	d.Kind = wire.DeliveryCommit
	joined := func(m store.Membership) bool { return m.Conversation == q.Conversation && m.Since == q.Index }
	if slices.ContainsFunc(wanted, joined) && len(q.Welcome) > 0 {
		d.Kind, d.Body = wire.DeliveryWelcome, q.Welcome
	}
	if _, ok := rosters[q.Index]; !ok {
		e, err := s.Store.Epoch(ctx, manifest.CommitHash(q.Object))
		if err != nil {
			return wire.Delivery{}, fmt.Errorf("couldn't read the roster of leaf %d: %w", q.Index, err)
		}
		rosters[q.Index] = e.Roster
	}
	d.Roster = rosters[q.Index]
	return d, nil
}

// sweeper keeps the cursors and forgets the ciphertexts and notices that every
// device they were for has. Losing the last cursors in a crash loses nothing:
// the devices tell them again.
type sweeper struct {
	s      *Server
	stored map[codec.Hash]uint64 // cursors on disk
	swept  map[codec.ID]int64    // leaf up to which a conversation has no ciphertexts
}

func (w *sweeper) sweep(ctx context.Context) error {
	live := map[codec.Hash]bool{}
	w.s.mu.RLock()
	for d := range w.s.mailboxes {
		live[d] = true
	}
	w.s.mu.RUnlock()
	w.s.Directory.Read(func(state *control.State, _ codec.Hash) {
		for d := range live {
			device, ok := state.Device(d)
			live[d] = ok && device.ValidAt(state.Size()) // a revoked one fetches nothing more
		}
	})
	cursors, reached := w.due(live)
	if len(cursors) == 0 && len(reached) == 0 {
		return nil
	}
	err := w.s.Store.Update(ctx, func(tx store.Tx) error {
		for d, c := range cursors {
			if err := tx.PutCursor(d, c); err != nil {
				return err
			}
			if err := tx.DropNotices(d, c); err != nil {
				return err
			}
		}
		for id, leaf := range reached {
			if err := tx.DropBodies(id, w.swept[id], leaf); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for d, c := range cursors {
		w.stored[d] = c
	}
	for id, leaf := range reached {
		w.swept[id] = leaf
	}
	return nil
}

// due returns the cursors that moved, and up to which leaf each conversation's
// ciphertexts have reached all.
func (w *sweeper) due(live map[codec.Hash]bool) (cursors map[codec.Hash]uint64, reached map[codec.ID]int64) {
	w.s.mu.RLock()
	defer w.s.mu.RUnlock()
	cursors, reached = map[codec.Hash]uint64{}, map[codec.ID]int64{}
	for id, c := range w.s.conversations {
		if before, ok := w.swept[id]; !ok || before < c.Last {
			reached[id] = c.Last
		}
	}
	for d, b := range w.s.mailboxes {
		if b.cursor > w.stored[d] {
			cursors[d] = b.cursor
		}
		if !live[d] {
			continue
		}
		has := firstAfter(b.cursor) - 1
		for _, m := range b.memberships {
			if upTo, ok := reached[m.Conversation]; ok && (m.Until < 0 || has < m.Until) {
				reached[m.Conversation] = min(upTo, has)
			}
		}
	}
	for id, leaf := range reached {
		if before, ok := w.swept[id]; leaf < 0 || (ok && leaf <= before) {
			delete(reached, id)
		}
	}
	return cursors, reached
}

// Conversations returns a device's conversations and its place in each.
func (s *Server) Conversations(ctx context.Context, device codec.Hash) ([]wire.Conversation, error) {
	out := []wire.Conversation{}
	s.mu.RLock()
	for _, m := range s.memberships(device) {
		if c := s.conversations[m.Conversation]; c != nil && m.Until < 0 {
			out = append(out, wire.Conversation{ID: c.ID, Epoch: c.Epoch, Position: c.Positions})
		}
	}
	s.mu.RUnlock()
	for i := range out {
		chain, err := s.Store.Chain(ctx, device, out[i].ID)
		if err != nil {
			return nil, err
		}
		out[i].NextSeq, out[i].Prev = chain.Next, chain.Prev
	}
	return out, nil
}
