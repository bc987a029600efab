package sqlite

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/internal/store"
	"chancery/ledger"
	"chancery/manifest"
)

var _ store.Tx = (*transaction)(nil)

// transaction is a running Update. What its methods do is store.Tx's to say.
type transaction struct {
	s      *Store
	ctx    context.Context
	edges  map[ledger.Log]*ledger.Edge
	signed map[ledger.Log]*head
}

// exec runs one prepared statement as a named step.
func (tx *transaction) exec(step, query string, args ...any) error {
	if err := tx.s.fault(step); err != nil {
		return err
	}
	return tx.quiet(query, args...)
}

func (tx *transaction) quiet(query string, args ...any) error {
	stmt, err := tx.s.writeStatements.get(tx.ctx, query)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(tx.ctx, args...)
	return err
}

func (tx *transaction) Size(log ledger.Log) int64 {
	if e := tx.edges[log]; e != nil {
		return e.Size()
	}
	return tx.s.Size(log)
}

func (tx *transaction) Append(log ledger.Log, entry []byte) (int64, error) {
	if err := tx.s.fault("Append"); err != nil {
		return 0, err
	}
	if tx.edges[log] == nil {
		tx.s.mu.RLock()
		tx.edges[log] = tx.s.heads[log].edge.Clone()
		tx.s.mu.RUnlock()
	}
	edge := tx.edges[log]
	index := edge.Size()
	stored, err := edge.Append(nil, entry)
	if err != nil {
		return 0, err
	}
	if err := tx.quiet(`INSERT INTO entries (log, idx, entry) VALUES (?, ?, ?)`, number(log), index, entry); err != nil {
		return 0, err
	}
	first := tlog.StoredHashIndex(0, index)
	for i, h := range stored {
		if err := tx.quiet(`INSERT INTO hashes (log, idx, hash) VALUES (?, ?, ?)`, number(log), first+int64(i), h[:]); err != nil {
			return 0, err
		}
	}
	return index, nil
}

func (tx *transaction) SetCheckpoint(log ledger.Log, size int64, signed []byte) error {
	tx.signed[log] = &head{signed: signed, covered: size}
	return tx.exec("SetCheckpoint", `INSERT OR REPLACE INTO checkpoints (log, size, note) VALUES (?, ?, ?)`, number(log), size, signed)
}

func (tx *transaction) PutOpening(index int64, opening []byte) error {
	return tx.exec("PutOpening", `INSERT INTO openings (idx, opening) VALUES (?, ?)`, index, opening)
}

func (tx *transaction) PutPending(hash codec.Hash, body []byte, since int64) error {
	return tx.exec("PutPending", `INSERT OR REPLACE INTO pending (hash, body, since) VALUES (?, ?, ?)`, hash[:], body, since)
}

func (tx *transaction) DropPending(hash codec.Hash) error {
	return tx.exec("DropPending", `DELETE FROM pending WHERE hash = ?`, hash[:])
}

func (tx *transaction) PutMember(id codec.ID, name string) error {
	if name == "" {
		return tx.exec("PutMember", `DELETE FROM members WHERE id = ?`, id[:])
	}
	return tx.exec("PutMember", `INSERT OR REPLACE INTO members (id, name) VALUES (?, ?)`, id[:], name)
}

func (tx *transaction) PutConversation(c *store.Conversation) error {
	return tx.exec("PutConversation", `INSERT OR REPLACE INTO conversations (id, epoch, removal, commitment, positions, leaf, last, followed, policy, pinned, members) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.ID[:], int64(c.Epoch), int64(c.Removal), c.Commit[:], int64(c.Positions), c.Leaf[:], c.Last, c.Followed, c.Policy[:], int64(c.Pinned), packMembers(c.Members))
}

func (tx *transaction) PutGroup(conversation codec.ID, state, info []byte) error {
	return tx.exec("PutGroup", `INSERT OR REPLACE INTO groups (conversation, state, info) VALUES (?, ?, ?)`, conversation[:], state, bytesOf(info))
}

func (tx *transaction) PutNode(conversation codec.ID, node uint32, data []byte) error {
	if data == nil {
		return tx.exec("PutNode", `DELETE FROM nodes WHERE conversation = ? AND node = ?`, conversation[:], int64(node))
	}
	return tx.exec("PutNode", `INSERT OR REPLACE INTO nodes (conversation, node, data) VALUES (?, ?, ?)`, conversation[:], int64(node), data)
}

func (tx *transaction) PutEpoch(e *store.Epoch) error {
	return tx.exec("PutEpoch", `INSERT INTO epochs (hash, conversation, epoch, leaf, roster) VALUES (?, ?, ?, ?, ?)`,
		e.Hash[:], e.Conversation[:], int64(e.Epoch), e.Leaf, packRoster(e.Roster))
}

func (tx *transaction) PutMembership(m *store.Membership) error {
	return tx.exec("PutMembership", `INSERT OR REPLACE INTO memberships (device, conversation, since, epoch, until) VALUES (?, ?, ?, ?, ?)`,
		m.Device[:], m.Conversation[:], m.Since, int64(m.Epoch), m.Until)
}

func (tx *transaction) PutLeaf(l *store.Leaf) error {
	var seq, core any
	if l.Chained {
		seq, core = int64(l.Seq), l.Core[:]
	}
	return tx.exec("PutLeaf", `INSERT INTO leaves (idx, kind, conversation, position, epoch, device, seq, core, envelope_kind, day, object, receipt, envelope, tags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		l.Index, int64(l.Kind), l.Conversation[:], int64(l.Position), int64(l.Epoch), l.Device[:], seq, core,
		int64(l.EnvelopeKind), int64(l.Day), bytesOf(l.Object), bytesOf(l.Receipt), bytesOf(l.Envelope), bytesOf(l.Tags))
}

func (tx *transaction) PutBody(index int64, body, welcome []byte) error {
	return tx.exec("PutBody", `INSERT INTO bodies (idx, body, welcome) VALUES (?, ?, ?)`, index, bytesOf(body), bytesOf(welcome))
}

func (tx *transaction) PutCopy(index int64, c *store.Copy) error {
	return tx.exec("PutCopy", `INSERT INTO copies (idx, device, body) VALUES (?, ?, ?)`, index, c.Device[:], bytesOf(c.Body))
}

func (tx *transaction) DropBodies(conversation codec.ID, from, upTo int64) error {
	err := tx.exec("DropBodies", `DELETE FROM bodies WHERE idx IN (SELECT l.idx FROM leaves l JOIN bodies b ON b.idx = l.idx
		WHERE l.conversation = ? AND l.idx >= ? AND l.idx <= ?)`, conversation[:], from, upTo)
	if err != nil {
		return err
	}
	return tx.quiet(`DELETE FROM copies WHERE idx IN (SELECT l.idx FROM leaves l JOIN copies k ON k.idx = l.idx
		WHERE l.conversation = ? AND l.idx >= ? AND l.idx <= ?)`, conversation[:], from, upTo)
}

func (tx *transaction) PutChain(c *store.Chain) error {
	return tx.exec("PutChain", `INSERT OR REPLACE INTO chains (device, conversation, next, prev) VALUES (?, ?, ?, ?)`,
		c.Device[:], c.Conversation[:], int64(c.Next), c.Prev[:])
}

func (tx *transaction) PutCursor(device codec.Hash, cursor uint64) error {
	return tx.exec("PutCursor", `INSERT OR REPLACE INTO cursors (device, cursor) VALUES (?, ?)`, device[:], int64(cursor))
}

func (tx *transaction) AddNotice(device codec.Hash, body []byte) error {
	// The newest leaf is Size-1, so that no cursor above Cursor(Size-1) was ever
	// given for a leaf.
	floor := int64(store.Cursor(tx.Size(ledger.MessagesLog) - 1))
	return tx.exec("AddNotice", `INSERT INTO notices (device, cursor, body)
		VALUES (?1, COALESCE((SELECT MAX(cursor) FROM notices WHERE device = ?1 AND cursor > ?2), ?2) + 1, ?3)`,
		device[:], floor, body)
}

func (tx *transaction) DropNotices(device codec.Hash, cursor uint64) error {
	return tx.exec("DropNotices", `DELETE FROM notices WHERE device = ? AND cursor <= ?`, device[:], int64(cursor))
}

func (tx *transaction) PutAck(conversation codec.ID, device codec.Hash, position, read uint64, ack []byte) error {
	return tx.exec("PutAck", `INSERT INTO acks (conversation, device, position, read, ack) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (conversation, device) DO UPDATE SET position = excluded.position, read = excluded.read, ack = excluded.ack
		WHERE excluded.position >= position AND excluded.read >= read`,
		conversation[:], device[:], int64(position), int64(read), ack)
}

func (tx *transaction) PutProduction(request codec.Hash, sealed []byte) error {
	return tx.exec("PutProduction", `INSERT OR REPLACE INTO productions (request, sealed) VALUES (?, ?)`, request[:], sealed)
}

func packMembers(members []codec.ID) []byte {
	out := make([]byte, 0, len(members)*codec.IDSize)
	for _, m := range members {
		out = append(out, m[:]...)
	}
	return out
}

func unpackMembers(b []byte) ([]codec.ID, error) {
	if len(b)%codec.IDSize != 0 {
		return nil, fmt.Errorf("members of %d bytes", len(b))
	}
	var members []codec.ID
	for ; len(b) > 0; b = b[codec.IDSize:] {
		members = append(members, codec.ID(b[:codec.IDSize]))
	}
	return members, nil
}

func packRoster(r manifest.Roster) []byte {
	out := make([]byte, 0, len(r)*codec.HashSize)
	for _, d := range r {
		out = append(out, d[:]...)
	}
	return out
}

func unpackRoster(b []byte) (manifest.Roster, error) {
	if len(b)%codec.HashSize != 0 {
		return nil, fmt.Errorf("roster of %d bytes", len(b))
	}
	r := make(manifest.Roster, len(b)/codec.HashSize)
	for i := range r {
		copy(r[i][:], b[i*codec.HashSize:])
	}
	return r, nil
}

// bytesOf keeps SQL's NULL out of columns that never are.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
