package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/request"
)

const (
	archivePage  = 2000     // items of one answer
	archiveBytes = 16 << 20 // and about so many bytes

	positionBits = 40 // of an archive cursor: place of the conversation ‖ position
)

// Archive returns a page of what a request may touch to the opener that the
// request's log leaf names: of every conversation in which a custodian ever was,
// all leaves received when envelopes of the requested days can have been
// (request.Window), with the one before and the one after, so that nothing can be
// missing between. Envelopes that the request doesn't cover come without their
// bytes.
//
// It returns ErrForbidden, wrapped with the reason, where the caller is not that
// opener or the request may not be answered now.
func (s *Server) Archive(ctx context.Context, opener codec.PublicKey, hash codec.Hash, after uint64) (*wire.ArchivePage, error) {
	r, places, err := s.scope(hash, opener)
	if err != nil {
		return nil, err
	}
	p := &pager{s: s, request: r, page: &wire.ArchivePage{}, rosters: map[codec.Hash]bool{}}
	ordinal, position := after>>positionBits, after&(1<<positionBits-1)
	for ; ordinal < uint64(len(places)); ordinal, position = ordinal+1, 0 {
		next, more, err := p.conversation(ctx, places[ordinal], position)
		if err != nil {
			return nil, err
		}
		if more {
			p.page.Next = ordinal<<positionBits | next
			break
		}
	}
	return p.page, nil
}

// scope returns a copy of the request and the conversations it may touch, in
// the order in which the first custodian joined: that order only grows at its
// end while an opener turns pages.
func (s *Server) scope(hash codec.Hash, opener codec.PublicKey) (*control.Request, []codec.ID, error) {
	var out *control.Request
	devices := map[codec.Hash]bool{}
	err := ErrForbidden
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		r, ok := state.Request(hash)
		if !ok {
			err = fmt.Errorf("%w: no such request", ErrForbidden)
			return
		}
		named := false
		for _, o := range r.Openers {
			named = named || (o.Sign == opener && !o.Done)
		}
		if !named {
			err = fmt.Errorf("%w: the log names another opener for this request", ErrForbidden)
			return
		}
		now := s.Now().UnixMilli()
		policy, policyErr := state.PolicyFor(r, now)
		if policyErr == nil {
			policyErr = request.Ready(r, &policy, now)
		}
		if policyErr != nil {
			err = fmt.Errorf("%w: %w", ErrForbidden, policyErr)
			return
		}
		for _, c := range r.Custodians {
			for _, d := range state.Devices(c) {
				devices[d] = true
			}
		}
		own := r.Request
		out, err = &own, nil
	})
	if err != nil {
		return nil, nil, err
	}
	return out, s.joined(devices, out.Conversations), nil
}

func (s *Server) joined(devices map[codec.Hash]bool, only []codec.ID) []codec.ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	first := map[codec.ID]int64{}
	for d := range devices {
		for _, m := range s.memberships(d) {
			if len(only) > 0 && !slices.Contains(only, m.Conversation) {
				continue
			}
			if since, ok := first[m.Conversation]; !ok || m.Since < since {
				first[m.Conversation] = m.Since
			}
		}
	}
	var out []codec.ID
	for id := range first {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b codec.ID) int {
		if first[a] != first[b] {
			return int(first[a] - first[b])
		}
		return bytes.Compare(a[:], b[:])
	})
	return out
}

type pager struct {
	s       *Server
	request *control.Request
	page    *wire.ArchivePage
	rosters map[codec.Hash]bool // those on the page
	bytes   int
}

// span returns the first and last position of what a conversation received at the
// times that envelopes of the requested days can have, with the neighbour at each
// end where there is one. Days are the senders' word within some bounds; receipt
// times never go backwards along a conversation, so that neighbours by time show
// that nothing is missing.
func (p *pager) span(ctx context.Context, id codec.ID) (first, last uint64, err error) {
	p.s.mu.RLock()
	n := int(p.s.conversations[id].Positions)
	p.s.mu.RUnlock()
	lo, hi := request.Window(p.request)
	// from returns the first position received at t or later, n where there is none.
	from := func(t int64) int {
		return sort.Search(n, func(i int) bool {
			at, e := p.received(ctx, id, uint64(i))
			err = errors.Join(err, e)
			return at >= t
		})
	}
	a, b := from(lo), from(hi)
	if err != nil {
		return 0, 0, fmt.Errorf("couldn't find the days of a conversation: %w", err)
	}
	return uint64(max(a-1, 0)), uint64(max(min(b, n-1), 0)), nil
}

// received returns when the leaf at a position was.
func (p *pager) received(ctx context.Context, id codec.ID, position uint64) (at int64, err error) {
	var bad error
	err = p.s.Store.Leaves(ctx, id, position, position, func(l *store.Leaf) bool {
		var r *manifest.Receipt
		if r, bad = manifest.OpenReceipt(p.s.Receipt.PublicKey(), l.Receipt); bad == nil {
			at = r.Opening.Body.Time
		} else {
			bad = damaged(l.Index, bad)
		}
		return false
	})
	return at, errors.Join(err, bad)
}

// conversation adds a conversation's leaves from a position on, and returns the
// position to go on from where the page is full.
func (p *pager) conversation(ctx context.Context, id codec.ID, from uint64) (next uint64, more bool, err error) {
	first, last, err := p.span(ctx, id)
	if err != nil {
		return 0, false, err
	}
	newest := -1 // index of the page's newest envelope in scope
	var leaves []*store.Leaf
	err = p.s.Store.Leaves(ctx, id, max(from, first), last, func(l *store.Leaf) bool {
		if len(p.page.Items)+len(leaves) >= archivePage || p.bytes > archiveBytes {
			next, more = l.Position, true
			return false
		}
		leaves = append(leaves, l)
		p.bytes += len(l.Object) + len(l.Receipt) + len(l.Envelope) + len(l.Tags)
		return true
	})
	if err != nil {
		return 0, false, err
	}
	for _, l := range leaves {
		if err := p.leaf(ctx, l); err != nil {
			return 0, false, err
		}
		if l.Kind == manifest.LeafMessage && p.covers(l) {
			newest = len(p.page.Items) - 1
		}
	}
	if newest < 0 {
		newest = len(p.page.Items) - 1
	}
	if !more && len(leaves) > 0 && newest >= 0 {
		if p.page.Items[newest].Acks, err = p.s.Store.Acks(ctx, id); err != nil {
			return 0, false, err
		}
	}
	return next, more, nil
}

func (p *pager) leaf(ctx context.Context, l *store.Leaf) error {
	if l.Kind == manifest.LeafCommit {
		return p.roster(ctx, l.Index, manifest.CommitHash(l.Object))
	}
	item := wire.ArchiveItem{Manifest: l.Object, Receipt: l.Receipt}
	if l.Kind == manifest.LeafMessage {
		m, err := manifest.Parse(l.Object)
		if err != nil {
			return damaged(l.Index, err)
		}
		item.Envelope, item.Tags = l.Envelope, l.Tags
		if err := p.roster(ctx, l.Index, m.Transport.Roster); err != nil {
			return err
		}
	}
	p.page.Items = append(p.page.Items, item)
	return nil
}

// damaged is the error of a leaf that can't have been stored so: the cause, in
// words alone, since a caller has no part in it.
func damaged(index int64, cause error) error {
	return fmt.Errorf("%w: leaf %d: %v", ErrDamaged, index, cause)
}

// covers reports whether the request covers a message, but for its roster.
func (p *pager) covers(l *store.Leaf) bool {
	switch envelope.Kind(l.EnvelopeKind) {
	case envelope.KindRecord, envelope.KindIndex, envelope.KindCapture:
		return l.Day >= p.request.FromDay && l.Day <= p.request.ToDay
	}
	return false
}

// roster adds the statement of a leaf's epoch to the page, once.
func (p *pager) roster(ctx context.Context, index int64, statement codec.Hash) error {
	if p.rosters[statement] {
		return nil
	}
	p.rosters[statement] = true
	var l *store.Leaf
	e, err := p.s.Store.Epoch(ctx, statement)
	if err == nil {
		l, err = p.s.Store.Leaf(ctx, e.Leaf)
	}
	if errors.Is(err, store.ErrNotFound) {
		return damaged(index, errors.New("there is no roster of its epoch"))
	}
	if err != nil {
		return fmt.Errorf("couldn't read the roster of a message: %w", err)
	}
	p.page.Rosters = append(p.page.Rosters, wire.ArchiveRoster{Commit: l.Object, Receipt: l.Receipt, Devices: e.Roster})
	p.bytes += len(l.Object) + len(l.Receipt) + len(e.Roster)*codec.HashSize
	return nil
}
