package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"chancery/internal/store"
)

// migrations bring the tables from each version to the next. What has been
// released is never changed.
func migrations() []string {
	return []string{`
CREATE TABLE entries (
	log   INTEGER NOT NULL,            -- 1 control, 2 messages
	idx   INTEGER NOT NULL,
	entry BLOB NOT NULL,
	PRIMARY KEY (log, idx)
) WITHOUT ROWID;
CREATE TABLE hashes (                  -- tlog.StoredHashIndex
	log  INTEGER NOT NULL,
	idx  INTEGER NOT NULL,
	hash BLOB NOT NULL,
	PRIMARY KEY (log, idx)
) WITHOUT ROWID;
CREATE TABLE checkpoints (             -- newest witnessed
	log  INTEGER PRIMARY KEY,
	size INTEGER NOT NULL,
	note BLOB NOT NULL
);
CREATE TABLE openings (                -- of sealed control leaves
	idx     INTEGER PRIMARY KEY,
	opening BLOB NOT NULL
);
CREATE TABLE pending (                 -- statements that wait for signatures
	hash BLOB PRIMARY KEY,
	body BLOB NOT NULL,
	since INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE members (                 -- the only names there are
	id   BLOB PRIMARY KEY,
	name TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE keypackages (
	id      INTEGER PRIMARY KEY,
	device  BLOB NOT NULL,
	package BLOB NOT NULL
);
CREATE INDEX keypackages_device ON keypackages (device, id);
CREATE TABLE conversations (
	id        BLOB PRIMARY KEY,        -- all zeros: the heads' own
	epoch     INTEGER NOT NULL,
	removal   INTEGER NOT NULL,        -- newest epoch that removed a device
	commitment BLOB NOT NULL,          -- hash of the newest commit statement
	positions INTEGER NOT NULL,        -- leaves so far
	leaf      BLOB NOT NULL,           -- newest
	last      INTEGER NOT NULL         -- index of the newest leaf, in the messages log
) WITHOUT ROWID;
CREATE TABLE epochs (
	hash         BLOB PRIMARY KEY,     -- of the commit statement
	conversation BLOB NOT NULL,
	epoch        INTEGER NOT NULL,
	leaf         INTEGER NOT NULL,
	roster       BLOB NOT NULL         -- device hashes, 32 bytes each
) WITHOUT ROWID;
CREATE TABLE memberships (
	device       BLOB NOT NULL,
	conversation BLOB NOT NULL,
	since        INTEGER NOT NULL,     -- leaf index of the commit that added
	epoch        INTEGER NOT NULL,     -- its epoch
	until        INTEGER NOT NULL,     -- leaf index of the commit that removed, or -1
	PRIMARY KEY (device, conversation, since)
) WITHOUT ROWID;
CREATE TABLE leaves (                  -- what the leaves of the messages log stand for
	idx          INTEGER PRIMARY KEY,
	kind         INTEGER NOT NULL,     -- manifest.LeafKind
	conversation BLOB NOT NULL,
	position     INTEGER NOT NULL,
	epoch        INTEGER NOT NULL,
	device       BLOB NOT NULL,
	queued       INTEGER NOT NULL,     -- 1 where there is something to deliver
	seq          INTEGER,              -- of messages and voids
	core         BLOB,
	envelope_kind INTEGER NOT NULL,
	day          INTEGER NOT NULL,
	object       BLOB NOT NULL,        -- manifest, commit statement, void or heads
	receipt      BLOB NOT NULL,        -- signed
	envelope     BLOB NOT NULL,
	tags         BLOB NOT NULL
);
CREATE UNIQUE INDEX leaves_place ON leaves (conversation, position);
CREATE INDEX leaves_conversation ON leaves (conversation); -- ends with idx, as every index does
CREATE UNIQUE INDEX leaves_core ON leaves (core) WHERE core IS NOT NULL;
CREATE TABLE bodies (                  -- ciphertext, until it is delivered to all
	idx     INTEGER PRIMARY KEY,
	body    BLOB NOT NULL,
	welcome BLOB NOT NULL
);
CREATE TABLE chains (
	device       BLOB NOT NULL,
	conversation BLOB NOT NULL,
	next         INTEGER NOT NULL,
	prev         BLOB NOT NULL,
	PRIMARY KEY (device, conversation)
) WITHOUT ROWID;
CREATE TABLE cursors (                 -- up to where a device has its queue
	device BLOB PRIMARY KEY,
	cursor INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE notices (
	device BLOB NOT NULL,
	cursor INTEGER NOT NULL,
	body   BLOB NOT NULL,
	PRIMARY KEY (device, cursor)
) WITHOUT ROWID;
CREATE TABLE acks (                    -- newest of each device and conversation
	conversation BLOB NOT NULL,
	device       BLOB NOT NULL,
	position     INTEGER NOT NULL,
	read         INTEGER NOT NULL,
	ack          BLOB NOT NULL,
	PRIMARY KEY (conversation, device)
) WITHOUT ROWID;
CREATE TABLE productions (
	request BLOB PRIMARY KEY,
	sealed  BLOB NOT NULL
);
`, `
ALTER TABLE leaves DROP COLUMN queued; -- a queue has every leaf of its conversations
`, `
ALTER TABLE keypackages ADD COLUMN not_after INTEGER NOT NULL DEFAULT 9223372036854775807; -- seconds since 1970; of rows of before nobody knows
ALTER TABLE keypackages ADD COLUMN last_resort INTEGER NOT NULL DEFAULT 0; -- 1 where it may be given out again, 2 once it was given out
CREATE UNIQUE INDEX keypackages_last ON keypackages (device) WHERE last_resort > 0;
CREATE TABLE keypackage_keys (         -- of all KeyPackages that haven't expired, given out or not
	device    BLOB NOT NULL,
	key       BLOB NOT NULL,           -- init key or leaf's
	package   BLOB NOT NULL,           -- SHA-256
	not_after INTEGER NOT NULL,
	PRIMARY KEY (device, key)
) WITHOUT ROWID;
`, `
DELETE FROM keypackages; -- no new group can be entered with them: devices stock others
ALTER TABLE conversations ADD COLUMN followed INTEGER NOT NULL DEFAULT 0;           -- 1 where groups has its group
ALTER TABLE conversations ADD COLUMN policy BLOB NOT NULL
	DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000'; -- that the group pins
ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;             -- since this epoch
CREATE TABLE groups (                  -- public states of MLS groups, in their newest epoch
	conversation BLOB PRIMARY KEY,
	state        BLOB NOT NULL,        -- tree.Group.MarshalState
	info         BLOB NOT NULL         -- GroupInfo, without the tree
) WITHOUT ROWID;
CREATE TABLE nodes (                   -- of their trees, those that aren't blank
	conversation BLOB NOT NULL,
	node         INTEGER NOT NULL,
	data         BLOB NOT NULL,        -- tree.Tree.MarshalNode
	PRIMARY KEY (conversation, node)
) WITHOUT ROWID;
`, `
ALTER TABLE conversations ADD COLUMN members BLOB NOT NULL DEFAULT x''; -- of a direct one, 16 bytes each
CREATE TABLE copies (                  -- ciphertext, one for each device, until all have theirs
	idx    INTEGER NOT NULL,
	device BLOB NOT NULL,
	body   BLOB NOT NULL,
	PRIMARY KEY (idx, device)
) WITHOUT ROWID;
CREATE TABLE prekeys (                 -- of a device, what every session with it begins with
	device   BLOB PRIMARY KEY,
	number   INTEGER NOT NULL,         -- of its newest upload
	expires  INTEGER NOT NULL,
	identity BLOB NOT NULL,
	signed   BLOB NOT NULL,
	last     BLOB NOT NULL             -- last-resort
) WITHOUT ROWID;
CREATE TABLE onetime (                 -- one-time prekeys
	id      INTEGER PRIMARY KEY,
	device  BLOB NOT NULL,
	kind    INTEGER NOT NULL,          -- 1 X25519, 2 ML-KEM
	expires INTEGER NOT NULL,
	prekey  BLOB NOT NULL
);
CREATE INDEX onetime_device ON onetime (device, kind, id);
`, `
CREATE TABLE letters (                 -- from one device of a member to another
	cursor   INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice
	receiver BLOB NOT NULL,
	sender   BLOB NOT NULL,
	since    INTEGER NOT NULL,         -- seconds since 1970
	body     BLOB NOT NULL
);
CREATE INDEX letters_receiver ON letters (receiver, cursor);
CREATE INDEX letters_left ON letters (since);
`}
}

// migrate brings the tables to the newest version, each step in a transaction
// with its number.
func migrate(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL)`); err != nil {
		return fmt.Errorf("couldn't read the database's version: %w", err)
	}
	var version int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM migrations`).Scan(&version); err != nil {
		return fmt.Errorf("couldn't read the database's version: %w", err)
	}
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("version %d, known to %d: %w", version, len(steps), store.ErrNewer)
	}
	for n := version; n < len(steps); n++ {
		if err := step(ctx, conn, n+1, steps[n]); err != nil {
			return fmt.Errorf("couldn't bring the database to version %d: %w", n+1, err)
		}
	}
	return nil
}

func step(ctx context.Context, conn *sql.Conn, version int, statements string) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if _, err := tx.ExecContext(ctx, statements); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO migrations VALUES (?, ?)`, version, now()); err != nil {
		return err
	}
	return tx.Commit()
}
