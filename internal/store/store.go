// Package store says what the server keeps, and what keeping means: both logs
// with their hashes, the messages and all that belongs to them, the directory
// of names, and the queues' places. It is a contract and holds no database;
// package sqlite fulfils it, and package storetest tests whoever does.
//
// Whatever belongs together is written in one Update: a message, its envelope,
// its tags, its ciphertext, its ledger leaf and the tree's hashes are there
// together after a crash, or not at all. Update returns only when the disk has
// it. There is one writer; readers see what was committed.
//
// A store holds who writes to whom and when, sizes, ciphertext, and members'
// names; it holds no key and no text. Who can write to it can withhold, and
// can't forge: what matters in it is signed and committed to by witnessed
// checkpoints. It promises nothing about a copy that was restored from a
// backup: witnesses and followers notice that one.
package store

import (
	"context"
	"errors"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/ledger"
)

var (
	// ErrNewer means that the data was written by a later version of the
	// program, whose tables this one doesn't know.
	ErrNewer = errors.New("the database is of a newer version than the program")
	// ErrRepeated means that a KeyPackage has a key of another one.
	ErrRepeated = errors.New("repeats a key of another KeyPackage")
	// ErrNotFound means that there is no such row.
	ErrNotFound = errors.New("not found")
)

// Store is what an adapter provides, safe for concurrent use and for one
// process alone: a second one that opens the same data is refused, since two
// could give one index of a log to two leaves.
//
// It is one wide interface where engines could each declare a narrow one,
// because a step of one engine writes rows that another reads: a leaf of the
// control log comes with notices in the queues of devices, a leaf of the
// messages log with memberships and chains. One Tx for all of them is what makes
// such a step one durable transaction, and no adapter can be taken that has it
// for a part only. Who needs less asks for the part, such as Logs.
//
// Slices that a store returns are the caller's, but for Checkpoint's, which
// nobody changes. A store keeps none that it is given.
type Store interface {
	Logs
	Directory
	Messages
	Groups
	Queues
	Letters
	Productions

	// Update runs f in the one writing transaction, and returns when the disk
	// has it, whether or not ctx has ended meanwhile. f must not call Update, and
	// of what it wrote the readers see nothing before Update returns.
	//
	// Where f or the commit fails Update returns an error that wraps its, and
	// nothing of it stays. Where the commit's outcome is unknown, it returns an
	// error too, and the store reads again what the disk has: who gets an error
	// can't conclude that nothing was written, and Size and Head tell.
	Update(ctx context.Context, f func(tx Tx) error) error
}

// Tx is a running Update. It is not safe for concurrent use, and is of no use
// after f has returned.
type Tx interface {
	LogsTx
	DirectoryTx
	MessagesTx
	GroupsTx
	QueuesTx
	LettersTx
	ProductionsTx
}

// Logs are the two logs: their entries, their trees' hashes, and the newest
// checkpoint of each that a quorum of witnesses has cosigned. Entries are never
// changed and never go.
type Logs interface {
	// Size returns the number of leaves of a log, witnessed or not.
	Size(log ledger.Log) int64
	// Head returns a log's size and root, of one moment.
	Head(log ledger.Log) (int64, codec.Hash)
	// Checkpoint returns a log's newest witnessed checkpoint and its size, nil
	// and 0 where there is none.
	Checkpoint(log ledger.Log) ([]byte, int64)
	// Hashes returns a reader of a log's stored hashes.
	Hashes(ctx context.Context, log ledger.Log) tlog.HashReader
	// ReadHashes returns stored hashes of a log (tlog.StoredHashIndex), in the
	// indexes' order, or an error where one isn't there.
	ReadHashes(ctx context.Context, log ledger.Log, indexes []int64) ([]tlog.Hash, error)
	// Entries returns a log's entries from start up to end, all of them or an
	// error.
	Entries(ctx context.Context, log ledger.Log, start, end int64) ([][]byte, error)
}

// LogsTx appends to the logs.
type LogsTx interface {
	// Size returns the number of leaves of a log with those appended in tx.
	Size(log ledger.Log) int64
	// Append adds an entry to a log with the hashes that its tree needs, and
	// returns its index.
	Append(log ledger.Log, entry []byte) (int64, error)
	// SetCheckpoint keeps a log's newest witnessed checkpoint.
	SetCheckpoint(log ledger.Log, size int64, signed []byte) error
}

// Directory is what belongs to the control log beside its entries, and the only
// names there are.
type Directory interface {
	// Openings calls f with the encoded opening of each sealed control leaf from
	// an index on, in order.
	Openings(ctx context.Context, from int64, f func(index int64, opening []byte) error) error
	// Pending calls f with each statement that waits for signatures, oldest
	// first.
	Pending(ctx context.Context, f func(hash codec.Hash, body []byte, since int64) error) error
	// Members calls f with each member's name.
	Members(ctx context.Context, f func(member codec.ID, name string) error) error
	// KeyPackages returns what a device has in stock that hasn't expired.
	KeyPackages(ctx context.Context, device codec.Hash, now time.Time) (*Stock, error)
	// PreKeys returns what a device has in stock of prekeys that live at a time,
	// in milliseconds since 1970, UTC.
	PreKeys(ctx context.Context, device codec.Hash, at int64) (*PreKeyStock, error)
}

// DirectoryTx writes a Directory.
type DirectoryTx interface {
	// PutOpening keeps the encoded opening of a sealed control leaf.
	PutOpening(index int64, opening []byte) error
	// PutPending keeps a statement that waits for signatures, in the place of
	// what was kept for its hash.
	PutPending(hash codec.Hash, body []byte, since int64) error
	// DropPending forgets a statement that waits no longer.
	DropPending(hash codec.Hash) error
	// PutMember names a member; an empty name erases it.
	PutMember(id codec.ID, name string) error
	// PutKeyPackage stocks a KeyPackage; one of last resort in the place of the
	// device's. The same one again changes nothing, though it was taken since. It
	// returns ErrRepeated where another KeyPackage of the device, not expired,
	// had one of its keys.
	PutKeyPackage(p *KeyPackage, now time.Time) error
	// TakeKeyPackage takes the oldest single-use KeyPackage of a device, nil where
	// it has none. Once committed nobody is given it again.
	TakeKeyPackage(device codec.Hash) ([]byte, error)
	// LastResort returns a device's KeyPackage of last resort and notes that it
	// was given out; nil where there is none.
	LastResort(device codec.Hash) ([]byte, error)
	// DropKeyPackages forgets a device's KeyPackages that have expired, and the
	// keys of those that no expiry is left of.
	DropKeyPackages(device codec.Hash, now time.Time) error
	// PutPreKeys stocks a device's prekeys, unless their number is not above that
	// of all it stocked before: then nothing changes.
	PutPreKeys(device codec.Hash, p *PreKeys) error
	// TakeBundle returns a device's prekeys for one session, nil where it has none
	// that live at a time, in milliseconds since 1970, UTC. It takes the oldest
	// one-time ones: once committed nobody is given them again.
	TakeBundle(device codec.Hash, at int64) (*Bundle, error)
}

// Messages are the conversations and what the leaves of the messages log stand
// for.
type Messages interface {
	// Conversations calls f with each conversation, the heads' own among them.
	Conversations(ctx context.Context, f func(c *Conversation) error) error
	// Epoch returns the epoch of a commit statement, or ErrNotFound.
	Epoch(ctx context.Context, statement codec.Hash) (*Epoch, error)
	// Memberships calls f with each membership, oldest first.
	Memberships(ctx context.Context, f func(m *Membership) error) error
	// Leaf returns a leaf by its index, or ErrNotFound.
	Leaf(ctx context.Context, index int64) (*Leaf, error)
	// LeafByCore returns the leaf of a core, or ErrNotFound.
	LeafByCore(ctx context.Context, core codec.Hash) (*Leaf, error)
	// LeafAt returns a conversation's leaf at a position, or ErrNotFound.
	LeafAt(ctx context.Context, conversation codec.ID, position uint64) (*Leaf, error)
	// Leaves calls f with a conversation's leaves between two positions, both
	// included, in order, until it returns false.
	Leaves(ctx context.Context, conversation codec.ID, first, last uint64, f func(l *Leaf) bool) error
	// Range returns the first and last position of a conversation's envelopes
	// that a request may open (records, index envelopes, captures) of the given
	// days, both included, and false where there are none.
	Range(ctx context.Context, conversation codec.ID, fromDay, toDay uint32) (first, last uint64, ok bool, err error)
	// Chain returns a device's place in a conversation: the beginning where it
	// has sent nothing.
	Chain(ctx context.Context, device codec.Hash, conversation codec.ID) (*Chain, error)
	// Counts returns how many leaves are messages and how many carry an envelope.
	Counts(ctx context.Context) (messages, envelopes int64, err error)
}

// MessagesTx writes Messages. A conversation has one leaf at each position, and
// the log one leaf for each core: PutLeaf of a second one fails, whatever was
// checked before.
type MessagesTx interface {
	// PutConversation keeps where a conversation stands.
	PutConversation(c *Conversation) error
	// PutEpoch keeps an epoch.
	PutEpoch(e *Epoch) error
	// PutMembership keeps a membership, in the place of the same device's in the
	// same conversation since the same leaf.
	PutMembership(m *Membership) error
	// PutLeaf keeps a leaf.
	PutLeaf(l *Leaf) error
	// PutBody keeps a leaf's ciphertext, and the Welcome that came with a commit.
	PutBody(index int64, body, welcome []byte) error
	// PutCopy keeps a leaf's ciphertext for one device, where each has its own.
	PutCopy(index int64, c *Copy) error
	// DropBodies forgets the ciphertexts of a conversation's leaves from an index
	// up to another, both included, copies among them.
	DropBodies(conversation codec.ID, from, upTo int64) error
	// PutChain keeps a device's place.
	PutChain(c *Chain) error
}

// Groups are the public states of the conversations' groups, in parts that
// chancery/mls/tree writes.
type Groups interface {
	// Group returns the group of a conversation, or ErrNotFound.
	Group(ctx context.Context, conversation codec.ID) (*Group, error)
}

// GroupsTx writes Groups.
type GroupsTx interface {
	// PutGroup keeps a group's state and GroupInfo, in the place of those before.
	PutGroup(conversation codec.ID, state, info []byte) error
	// PutNode keeps a node of a group's tree; nil erases it.
	PutNode(conversation codec.ID, node uint32, data []byte) error
}

// Queues are what waits for devices, and what they have acknowledged.
type Queues interface {
	// Queue returns up to limit leaves of a member's conversation from index from
	// on and below index to, in order: all of them, so that a device can tell that
	// none was left out.
	Queue(ctx context.Context, m *Membership, from, to int64, limit int) ([]*Queued, error)
	// Cursors calls f with the place of each device's queue.
	Cursors(ctx context.Context, f func(device codec.Hash, cursor uint64) error) error
	// Notices returns a device's first 100 notices after a cursor, in order.
	Notices(ctx context.Context, device codec.Hash, after uint64) ([]Notice, error)
	// Ack returns up to where a device has acknowledged a conversation and read
	// it, or ErrNotFound.
	Ack(ctx context.Context, conversation codec.ID, device codec.Hash) (position, read uint64, err error)
	// Acks returns the newest acknowledgement of each device of a conversation.
	Acks(ctx context.Context, conversation codec.ID) ([][]byte, error)
}

// QueuesTx writes Queues.
type QueuesTx interface {
	// PutCursor keeps up to where a device has its queue.
	PutCursor(device codec.Hash, cursor uint64) error
	// AddNotice queues a notice for a device, behind everything that it may have
	// been given before.
	AddNotice(device codec.Hash, body []byte) error
	// DropNotices forgets a device's notices up to a cursor.
	DropNotices(device codec.Hash, cursor uint64) error
	// PutAck keeps a device's newest acknowledgement of a conversation: one that
	// says less than the one that is there changes nothing.
	PutAck(conversation codec.ID, device codec.Hash, position, read uint64, ack []byte) error
}

// Letters are what a member's devices leave for one another.
type Letters interface {
	// Letters returns a device's letters after a cursor, oldest first: up to
	// limit, and about size bytes, but one at least where there is one.
	Letters(ctx context.Context, device codec.Hash, after uint64, limit, size int) ([]Letter, error)
	// LettersHeld returns how many letters wait for a device, and their bytes.
	LettersHeld(ctx context.Context, device codec.Hash) (n, size int, err error)
}

// LettersTx writes Letters.
type LettersTx interface {
	// PutLetter leaves a letter for a device, behind all that were ever left for
	// it.
	PutLetter(l *Letter, now time.Time) error
	// DropLetters forgets a device's letters up to a cursor.
	DropLetters(device codec.Hash, upTo uint64) error
	// DropOldLetters forgets all letters that were left before a time.
	DropOldLetters(before time.Time) error
}

// Productions are the openers' sealed answers to requests.
type Productions interface {
	// Production returns a request's sealed production, or ErrNotFound.
	Production(ctx context.Context, request codec.Hash) ([]byte, error)
}

// ProductionsTx writes Productions.
type ProductionsTx interface {
	// PutProduction keeps a request's sealed production.
	PutProduction(request codec.Hash, sealed []byte) error
}

// Cursor returns a leaf's place in queues. Between two leaves there is room for
// 65,535 notices.
func Cursor(leaf int64) uint64 { return uint64(leaf+1) << 16 }
