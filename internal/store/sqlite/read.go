package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/internal/store"
	"chancery/manifest"
)

var errStop = errors.New("enough")

// hash, id and treeHash scan byte columns of one size.
type (
	hash     struct{ to *codec.Hash }
	id       struct{ to *codec.ID }
	treeHash struct{ to *tlog.Hash }
)

func (h hash) Scan(v any) error     { return fixed(h.to[:], v) }
func (i id) Scan(v any) error       { return fixed(i.to[:], v) }
func (h treeHash) Scan(v any) error { return fixed(h.to[:], v) }

func fixed(to []byte, v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(to) {
		return fmt.Errorf("want %d bytes", len(to))
	}
	copy(to, b)
	return nil
}

// Openings implements [store.Directory].
func (s *Store) Openings(ctx context.Context, from int64, f func(index int64, opening []byte) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		var index int64
		var opening []byte
		if err := r.Scan(&index, &opening); err != nil {
			return err
		}
		return f(index, opening)
	}, `SELECT idx, opening FROM openings WHERE idx >= ? ORDER BY idx`, from)
}

// Pending implements [store.Directory].
func (s *Store) Pending(ctx context.Context, f func(hash codec.Hash, body []byte, since int64) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		var h codec.Hash
		var body []byte
		var since int64
		if err := r.Scan(hash{&h}, &body, &since); err != nil {
			return err
		}
		return f(h, body, since)
	}, `SELECT hash, body, since FROM pending ORDER BY since, hash`)
}

// Members implements [store.Directory].
func (s *Store) Members(ctx context.Context, f func(member codec.ID, name string) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		var m codec.ID
		var name string
		if err := r.Scan(id{&m}, &name); err != nil {
			return err
		}
		return f(m, name)
	}, `SELECT id, name FROM members ORDER BY id`)
}

// Conversations implements [store.Messages].
func (s *Store) Conversations(ctx context.Context, f func(c *store.Conversation) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		c := new(store.Conversation)
		var epoch, removal, positions, pinned int64
		var members []byte
		err := r.Scan(id{&c.ID}, &epoch, &removal, hash{&c.Commit}, &positions, hash{&c.Leaf}, &c.Last, &c.Followed, hash{&c.Policy}, &pinned, &members)
		if err != nil {
			return err
		}
		if c.Members, err = unpackMembers(members); err != nil {
			return err
		}
		c.Epoch, c.Removal, c.Positions, c.Pinned = uint64(epoch), uint64(removal), uint64(positions), uint64(pinned)
		return f(c)
	}, `SELECT id, epoch, removal, commitment, positions, leaf, last, followed, policy, pinned, members FROM conversations ORDER BY id`)
}

// Group implements [store.Groups]. It is one statement, so that state and nodes
// are of one epoch.
func (s *Store) Group(ctx context.Context, conversation codec.ID) (*store.Group, error) {
	g := &store.Group{Nodes: map[uint32][]byte{}}
	err := s.each(ctx, func(r *sql.Rows) error {
		var node int64
		var data, info []byte
		if err := r.Scan(&node, &data, &info); err != nil {
			return err
		}
		if node < 0 {
			g.State, g.Info = data, info
		} else {
			g.Nodes[uint32(node)] = data
		}
		return nil
	}, `SELECT -1, state, info FROM groups WHERE conversation = ?1
		UNION ALL SELECT node, data, x'' FROM nodes WHERE conversation = ?1`, conversation[:])
	if err != nil {
		return nil, err
	}
	if g.State == nil {
		return nil, store.ErrNotFound
	}
	return g, nil
}

// Epoch implements [store.Messages].
func (s *Store) Epoch(ctx context.Context, statement codec.Hash) (*store.Epoch, error) {
	e := &store.Epoch{Hash: statement}
	var epoch int64
	var roster []byte
	err := s.one(ctx, []any{id{&e.Conversation}, &epoch, &e.Leaf, &roster},
		`SELECT conversation, epoch, leaf, roster FROM epochs WHERE hash = ?`, statement[:])
	if err != nil {
		return nil, err
	}
	e.Epoch = uint64(epoch)
	e.Roster, err = unpackRoster(roster)
	return e, err
}

// Memberships implements [store.Messages].
func (s *Store) Memberships(ctx context.Context, f func(m *store.Membership) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		m := new(store.Membership)
		var epoch int64
		if err := r.Scan(hash{&m.Device}, id{&m.Conversation}, &m.Since, &epoch, &m.Until); err != nil {
			return err
		}
		m.Epoch = uint64(epoch)
		return f(m)
	}, `SELECT device, conversation, since, epoch, until FROM memberships ORDER BY since, device`)
}

const leafColumns = `idx, kind, conversation, position, epoch, device, COALESCE(seq, -1), COALESCE(core, zeroblob(32)),
	envelope_kind, day, object, receipt, envelope, tags`

func scanLeaf(scan func(dest ...any) error) (*store.Leaf, error) {
	l := new(store.Leaf)
	var kind, position, epoch, seq, envelopeKind, day int64
	err := scan(&l.Index, &kind, id{&l.Conversation}, &position, &epoch, hash{&l.Device}, &seq, hash{&l.Core},
		&envelopeKind, &day, &l.Object, &l.Receipt, &l.Envelope, &l.Tags)
	if err != nil {
		return nil, err
	}
	l.Kind, l.Position, l.Epoch, l.Chained = manifest.LeafKind(kind), uint64(position), uint64(epoch), seq >= 0
	l.Seq = uint64(max(seq, 0))
	l.EnvelopeKind, l.Day = uint8(envelopeKind), uint32(day)
	return l, nil
}

// Leaf implements [store.Messages].
func (s *Store) Leaf(ctx context.Context, index int64) (*store.Leaf, error) {
	return s.leaf(ctx, `idx = ?`, index)
}

// LeafByCore implements [store.Messages].
func (s *Store) LeafByCore(ctx context.Context, core codec.Hash) (*store.Leaf, error) {
	return s.leaf(ctx, `core = ?`, core[:])
}

func (s *Store) leaf(ctx context.Context, where string, args ...any) (*store.Leaf, error) {
	var out *store.Leaf
	err := s.each(ctx, func(r *sql.Rows) (err error) {
		out, err = scanLeaf(r.Scan)
		return err
	}, `SELECT `+leafColumns+` FROM leaves WHERE `+where, args...)
	if err == nil && out == nil {
		err = store.ErrNotFound
	}
	return out, err
}

// Chain implements [store.Messages].
func (s *Store) Chain(ctx context.Context, device codec.Hash, conversation codec.ID) (*store.Chain, error) {
	c := &store.Chain{Device: device, Conversation: conversation}
	var next int64
	err := s.one(ctx, []any{&next, hash{&c.Prev}}, `SELECT next, prev FROM chains WHERE device = ? AND conversation = ?`, device[:], conversation[:])
	c.Next = uint64(next)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return c, err
}

// LeafAt implements [store.Messages].
func (s *Store) LeafAt(ctx context.Context, conversation codec.ID, position uint64) (*store.Leaf, error) {
	return s.leaf(ctx, `conversation = ? AND position = ?`, conversation[:], int64(position))
}

// Queue implements [store.Queues].
func (s *Store) Queue(ctx context.Context, m *store.Membership, from, to int64, limit int) ([]*store.Queued, error) {
	var out []*store.Queued
	err := s.each(ctx, func(r *sql.Rows) error {
		q := new(store.Queued)
		var kind, position, epoch int64
		err := r.Scan(&q.Index, &kind, &position, &epoch, hash{&q.Device}, &q.Object, &q.Receipt, &q.Tags, &q.Body, &q.Welcome)
		q.Conversation, q.Kind, q.Position, q.Epoch = m.Conversation, manifest.LeafKind(kind), uint64(position), uint64(epoch)
		out = append(out, q)
		return err
	}, `SELECT l.idx, l.kind, l.position, l.epoch, l.device, l.object, l.receipt,
			IIF(COALESCE(b.idx, k.idx) IS NULL OR l.epoch < ?5, x'', l.tags),
			IIF(COALESCE(b.idx, k.idx) IS NULL OR l.epoch < ?5, x'', COALESCE(k.body, b.body)), COALESCE(b.welcome, x'')
		FROM leaves l LEFT JOIN bodies b ON b.idx = l.idx AND l.device != ?4 LEFT JOIN copies k ON k.idx = l.idx AND k.device = ?4
		WHERE l.conversation = ?1 AND l.idx >= ?2 AND l.idx < ?3 ORDER BY l.idx LIMIT ?6`,
		m.Conversation[:], from, to, m.Device[:], int64(m.Epoch), limit)
	return out, err
}

// Range implements [store.Messages].
func (s *Store) Range(ctx context.Context, conversation codec.ID, fromDay, toDay uint32) (first, last uint64, ok bool, err error) {
	var lo, hi sql.NullInt64
	err = s.one(ctx, []any{&lo, &hi}, `SELECT MIN(position), MAX(position) FROM leaves
		WHERE conversation = ? AND kind = 1 AND envelope_kind IN (1, 2, 5) AND day >= ? AND day <= ?`, conversation[:], int64(fromDay), int64(toDay))
	return uint64(lo.Int64), uint64(hi.Int64), lo.Valid, err
}

// Leaves implements [store.Messages].
func (s *Store) Leaves(ctx context.Context, conversation codec.ID, first, last uint64, f func(l *store.Leaf) bool) error {
	err := s.each(ctx, func(r *sql.Rows) error {
		l, err := scanLeaf(r.Scan)
		if err == nil && !f(l) {
			return errStop
		}
		return err
	}, `SELECT `+leafColumns+` FROM leaves WHERE conversation = ? AND position >= ? AND position <= ? ORDER BY position`,
		conversation[:], int64(first), int64(last))
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// Cursors implements [store.Queues].
func (s *Store) Cursors(ctx context.Context, f func(device codec.Hash, cursor uint64) error) error {
	return s.each(ctx, func(r *sql.Rows) error {
		var d codec.Hash
		var cursor int64
		if err := r.Scan(hash{&d}, &cursor); err != nil {
			return err
		}
		return f(d, uint64(cursor))
	}, `SELECT device, cursor FROM cursors`)
}

// Notices implements [store.Queues].
func (s *Store) Notices(ctx context.Context, device codec.Hash, after uint64) ([]store.Notice, error) {
	var out []store.Notice
	err := s.each(ctx, func(r *sql.Rows) error {
		var n store.Notice
		var cursor int64
		err := r.Scan(&cursor, &n.Body)
		n.Cursor = uint64(cursor)
		out = append(out, n)
		return err
	}, `SELECT cursor, body FROM notices WHERE device = ? AND cursor > ? ORDER BY cursor LIMIT 100`, device[:], int64(after))
	return out, err
}

// Ack implements [store.Queues].
func (s *Store) Ack(ctx context.Context, conversation codec.ID, device codec.Hash) (position, read uint64, err error) {
	var p, r int64
	err = s.one(ctx, []any{&p, &r}, `SELECT position, read FROM acks WHERE conversation = ? AND device = ?`, conversation[:], device[:])
	return uint64(p), uint64(r), err
}

// Acks implements [store.Queues].
func (s *Store) Acks(ctx context.Context, conversation codec.ID) ([][]byte, error) {
	var out [][]byte
	err := s.each(ctx, func(r *sql.Rows) error {
		var b []byte
		err := r.Scan(&b)
		out = append(out, b)
		return err
	}, `SELECT ack FROM acks WHERE conversation = ? ORDER BY device`, conversation[:])
	return out, err
}

// Production implements [store.Productions].
func (s *Store) Production(ctx context.Context, request codec.Hash) ([]byte, error) {
	var b []byte
	err := s.one(ctx, []any{&b}, `SELECT sealed FROM productions WHERE request = ?`, request[:])
	return b, err
}

// Counts implements [store.Messages].
func (s *Store) Counts(ctx context.Context) (messages, envelopes int64, err error) {
	err = s.one(ctx, []any{&messages, &envelopes}, `SELECT COALESCE(SUM(envelope_kind = 1), 0), COUNT(*) FROM leaves WHERE kind = 1`)
	return messages, envelopes, err
}
