package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/ledger"
	"chancery/manifest"
)

// Tx is a running Update. It is not safe for concurrent use.
type Tx struct {
	s      *Store
	ctx    context.Context
	edges  map[ledger.Log]*ledger.Edge
	signed map[ledger.Log]*head
}

// exec runs one prepared statement as a named step.
func (tx *Tx) exec(step, query string, args ...any) error {
	if err := tx.s.fault(step); err != nil {
		return err
	}
	return tx.quiet(query, args...)
}

func (tx *Tx) quiet(query string, args ...any) error {
	stmt, err := tx.s.writeStatements.get(tx.ctx, query)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(tx.ctx, args...)
	return err
}

// Size returns the number of leaves of a log with those appended in tx.
func (tx *Tx) Size(log ledger.Log) int64 {
	if e := tx.edges[log]; e != nil {
		return e.Size()
	}
	return tx.s.Size(log)
}

// Append adds an entry to a log with the hashes that its tree needs, and
// returns its index.
func (tx *Tx) Append(log ledger.Log, entry []byte) (int64, error) {
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

// SetCheckpoint keeps a log's newest witnessed checkpoint.
func (tx *Tx) SetCheckpoint(log ledger.Log, size int64, signed []byte) error {
	tx.signed[log] = &head{signed: signed, covered: size}
	return tx.exec("SetCheckpoint", `INSERT OR REPLACE INTO checkpoints (log, size, note) VALUES (?, ?, ?)`, number(log), size, signed)
}

// PutOpening keeps the encoded opening of a sealed control leaf.
func (tx *Tx) PutOpening(index int64, opening []byte) error {
	return tx.exec("PutOpening", `INSERT INTO openings (idx, opening) VALUES (?, ?)`, index, opening)
}

// PutPending keeps a statement that waits for signatures.
func (tx *Tx) PutPending(hash codec.Hash, body []byte, since int64) error {
	return tx.exec("PutPending", `INSERT OR REPLACE INTO pending (hash, body, since) VALUES (?, ?, ?)`, hash[:], body, since)
}

// DropPending forgets a statement that waits no longer.
func (tx *Tx) DropPending(hash codec.Hash) error {
	return tx.exec("DropPending", `DELETE FROM pending WHERE hash = ?`, hash[:])
}

// PutMember names a member; an empty name erases it.
func (tx *Tx) PutMember(id codec.ID, name string) error {
	if name == "" {
		return tx.exec("PutMember", `DELETE FROM members WHERE id = ?`, id[:])
	}
	return tx.exec("PutMember", `INSERT OR REPLACE INTO members (id, name) VALUES (?, ?)`, id[:], name)
}

// PutKeyPackage stocks a KeyPackage.
func (tx *Tx) PutKeyPackage(device codec.Hash, pkg []byte) error {
	return tx.exec("PutKeyPackage", `INSERT INTO keypackages (device, package) VALUES (?, ?)`, device[:], pkg)
}

// TakeKeyPackage takes the oldest KeyPackage of a device, nil where it has
// none. Once committed nobody is given it again.
func (tx *Tx) TakeKeyPackage(device codec.Hash) ([]byte, error) {
	if err := tx.s.fault("TakeKeyPackage"); err != nil {
		return nil, err
	}
	stmt, err := tx.s.writeStatements.get(tx.ctx, `DELETE FROM keypackages WHERE id =
		(SELECT id FROM keypackages WHERE device = ? ORDER BY id LIMIT 1) RETURNING package`)
	if err != nil {
		return nil, err
	}
	var pkg []byte
	err = stmt.QueryRowContext(tx.ctx, device[:]).Scan(&pkg)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return pkg, err
}

// Conversation is where a conversation stands.
type Conversation struct {
	ID        codec.ID
	Epoch     uint64     // newest
	Removal   uint64     // newest epoch that removed a device, 0 for none
	Commit    codec.Hash // newest commit statement
	Positions uint64     // leaves so far: the position of the next
	Leaf      codec.Hash // newest leaf
	Last      int64      // its index in the messages log
}

// PutConversation keeps where a conversation stands.
func (tx *Tx) PutConversation(c *Conversation) error {
	return tx.exec("PutConversation", `INSERT OR REPLACE INTO conversations (id, epoch, removal, commitment, positions, leaf, last) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.ID[:], int64(c.Epoch), int64(c.Removal), c.Commit[:], int64(c.Positions), c.Leaf[:], c.Last)
}

// Epoch is an epoch of a conversation.
type Epoch struct {
	Hash         codec.Hash // of the commit statement
	Conversation codec.ID
	Epoch        uint64
	Leaf         int64 // index of the statement's leaf
	Roster       manifest.Roster
}

// PutEpoch keeps an epoch.
func (tx *Tx) PutEpoch(e *Epoch) error {
	return tx.exec("PutEpoch", `INSERT INTO epochs (hash, conversation, epoch, leaf, roster) VALUES (?, ?, ?, ?, ?)`,
		e.Hash[:], e.Conversation[:], int64(e.Epoch), e.Leaf, packRoster(e.Roster))
}

// Membership is a device's time in a conversation.
type Membership struct {
	Device       codec.Hash
	Conversation codec.ID
	Since        int64  // leaf index of the commit that added it
	Epoch        uint64 // of that commit
	Until        int64  // leaf index of the commit that removed it, or -1
}

// PutMembership keeps a membership.
func (tx *Tx) PutMembership(m *Membership) error {
	return tx.exec("PutMembership", `INSERT OR REPLACE INTO memberships (device, conversation, since, epoch, until) VALUES (?, ?, ?, ?, ?)`,
		m.Device[:], m.Conversation[:], m.Since, int64(m.Epoch), m.Until)
}

// Leaf is what a leaf of the messages log stands for.
type Leaf struct {
	Index        int64
	Kind         manifest.LeafKind
	Conversation codec.ID
	Position     uint64
	Epoch        uint64 // of the conversation, that its members are to be in
	Device       codec.Hash
	Queued       bool       // is delivered to the conversation's other devices
	Chained      bool       // has a place in the device's chain: messages and voids
	Seq          uint64     // where Chained
	Core         codec.Hash // where Chained
	EnvelopeKind uint8
	Day          uint32
	Object       []byte // manifest, commit statement, void or heads
	Receipt      []byte // signed
	Envelope     []byte
	Tags         []byte
}

// PutLeaf keeps a leaf.
func (tx *Tx) PutLeaf(l *Leaf) error {
	var seq, core any
	if l.Chained {
		seq, core = int64(l.Seq), l.Core[:]
	}
	return tx.exec("PutLeaf", `INSERT INTO leaves (idx, kind, conversation, position, epoch, device, queued, seq, core, envelope_kind, day, object, receipt, envelope, tags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		l.Index, int64(l.Kind), l.Conversation[:], int64(l.Position), int64(l.Epoch), l.Device[:], l.Queued, seq, core,
		int64(l.EnvelopeKind), int64(l.Day), bytesOf(l.Object), bytesOf(l.Receipt), bytesOf(l.Envelope), bytesOf(l.Tags))
}

// PutBody keeps a leaf's ciphertext, and the Welcome that came with a commit.
func (tx *Tx) PutBody(index int64, body, welcome []byte) error {
	return tx.exec("PutBody", `INSERT INTO bodies (idx, body, welcome) VALUES (?, ?, ?)`, index, bytesOf(body), bytesOf(welcome))
}

// DropBodies forgets the ciphertexts of a conversation's leaves from an index up
// to another, both included.
func (tx *Tx) DropBodies(conversation codec.ID, from, upTo int64) error {
	return tx.exec("DropBodies", `DELETE FROM bodies WHERE idx IN (SELECT l.idx FROM leaves l JOIN bodies b ON b.idx = l.idx
		WHERE l.conversation = ? AND l.idx >= ? AND l.idx <= ?)`, conversation[:], from, upTo)
}

// Chain is a device's place in a conversation.
type Chain struct {
	Device       codec.Hash
	Conversation codec.ID
	Next         uint64     // sequence number
	Prev         codec.Hash // core
}

// PutChain keeps a device's place.
func (tx *Tx) PutChain(c *Chain) error {
	return tx.exec("PutChain", `INSERT OR REPLACE INTO chains (device, conversation, next, prev) VALUES (?, ?, ?, ?)`,
		c.Device[:], c.Conversation[:], int64(c.Next), c.Prev[:])
}

// PutCursor keeps up to where a device has its queue.
func (tx *Tx) PutCursor(device codec.Hash, cursor uint64) error {
	return tx.exec("PutCursor", `INSERT OR REPLACE INTO cursors (device, cursor) VALUES (?, ?)`, device[:], int64(cursor))
}

// noticeShift leaves room between the cursors of two leaves for notices.
const noticeShift = 16

// Cursor returns a leaf's place in queues. Between two leaves there is room for
// 65,535 notices.
func Cursor(leaf int64) uint64 { return uint64(leaf+1) << noticeShift }

// AddNotice queues a notice for a device, behind everything that it may have
// been given before.
func (tx *Tx) AddNotice(device codec.Hash, body []byte) error {
	// The newest leaf is Size-1, so that no cursor above Cursor(Size-1) was ever
	// given for a leaf.
	floor := int64(tx.Size(ledger.MessagesLog)) << noticeShift
	return tx.exec("AddNotice", `INSERT INTO notices (device, cursor, body)
		VALUES (?1, COALESCE((SELECT MAX(cursor) FROM notices WHERE device = ?1 AND cursor > ?2), ?2) + 1, ?3)`,
		device[:], floor, body)
}

// DropNotices forgets a device's notices up to a cursor.
func (tx *Tx) DropNotices(device codec.Hash, cursor uint64) error {
	return tx.exec("DropNotices", `DELETE FROM notices WHERE device = ? AND cursor <= ?`, device[:], int64(cursor))
}

// PutAck keeps a device's newest acknowledgement of a conversation: one that
// says less than the one that is there changes nothing.
func (tx *Tx) PutAck(conversation codec.ID, device codec.Hash, position, read uint64, ack []byte) error {
	return tx.exec("PutAck", `INSERT INTO acks (conversation, device, position, read, ack) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (conversation, device) DO UPDATE SET position = excluded.position, read = excluded.read, ack = excluded.ack
		WHERE excluded.position >= position AND excluded.read >= read`,
		conversation[:], device[:], int64(position), int64(read), ack)
}

// PutProduction keeps a request's sealed production.
func (tx *Tx) PutProduction(request codec.Hash, sealed []byte) error {
	return tx.exec("PutProduction", `INSERT OR REPLACE INTO productions (request, sealed) VALUES (?, ?)`, request[:], sealed)
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
