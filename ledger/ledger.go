// Package ledger is the append-only Merkle log that every Chancery decision
// and every message leaves a trace in (spec/ledger.md): leaves and stored
// hashes, checkpoints, cosignatures, proofs, tiles, and the follower that
// replays a log and refuses a history that changed.
//
// It is RFC 6962 hashing under C2SP formats: tlog-tiles, signed-note,
// tlog-checkpoint, tlog-cosignature and tlog-proof, in the narrower profile
// that the spec states. What it leaves out, others' tools read as well.
//
// It promises that what it accepts was signed by the log, seen by a quorum of
// witnesses and extends what was accepted before. It does not promise that
// what a leaf says was allowed: that is package control's work. It does no
// network, disk or log, and takes its clock as a parameter.
package ledger

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"chancery/codec"

	"golang.org/x/mod/sumdb/tlog"
)

// Log says which of an organisation's two logs is meant.
type Log string

const (
	// ControlLog is small and replayed in full by everyone concerned.
	ControlLog Log = "control"
	// MessagesLog is large: one salted hash for each manifest.
	MessagesLog Log = "messages"
)

const (
	// MaxSize is the greatest number of leaves in a log. It keeps every index
	// computed from a size within int64, and sizes that come from outside
	// within what x/mod/sumdb/tlog computes in bounded time (it does not end
	// above 2⁶²).
	MaxSize = 1 << 48
	// MaxEntry is the greatest length of an entry in bytes, as entry bundles
	// carry a 16-bit length (C2SP tlog-tiles, "Log entries").
	MaxEntry = 1<<16 - 1
	// originPrefix does not resolve (RFC 2606): an organisation may move to
	// other hosts, and its logs' identity must not.
	originPrefix = "chancery.invalid/"
)

var (
	// ErrMalformed means that bytes are not in the one form the format has.
	ErrMalformed = errors.New("malformed")
	// ErrSize means that a size, an index or a length is out of bounds.
	ErrSize = errors.New("out of bounds")
	// ErrProof means that a proof does not lead to the expected root.
	ErrProof = errors.New("proof does not verify")
)

// Origin returns the first line of an organisation's checkpoints:
// "chancery.invalid/", the organisation's 64 hexadecimal characters, "/" and
// the log (spec/ledger.md#origins). The organisation is the hash of leaf 0 of
// control, so it exists before the first checkpoint does.
func Origin(org codec.Hash, log Log) string {
	return originPrefix + org.String() + "/" + string(log)
}

// ParseOrigin reads what Origin writes. It returns ErrMalformed, wrapped.
func ParseOrigin(s string) (codec.Hash, Log, error) {
	rest, ok := strings.CutPrefix(s, originPrefix)
	id, log, _ := strings.Cut(rest, "/")
	org, err := codec.ParseHash(id)
	if !ok || err != nil || (Log(log) != ControlLog && Log(log) != MessagesLog) {
		return codec.Hash{}, "", fmt.Errorf("origin %.120q: %w", s, ErrMalformed)
	}
	return org, Log(log), nil
}

// EmptyRoot returns the root of the log without leaves: SHA-256 of nothing
// (RFC 6962 §2.1).
func EmptyRoot() tlog.Hash {
	var e Edge
	return e.Root()
}

// Append returns the hashes to store when entries are appended to a log of
// size leaves, in order from tlog.StoredHashIndex(0, size). It reads the
// right edge from r, at most 48 hashes in one call. It returns ErrSize where
// an entry is longer than MaxEntry or the log grows past MaxSize.
func Append(r tlog.HashReader, size int64, entries [][]byte) ([]tlog.Hash, error) {
	e, err := ReadEdge(r, size)
	if err != nil {
		return nil, err
	}
	stored := make([]tlog.Hash, 0, 2*len(entries))
	for _, entry := range entries {
		if stored, err = e.Append(stored, entry); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

// Root returns the root of the first size leaves.
func Root(r tlog.HashReader, size int64) (tlog.Hash, error) {
	e, err := ReadEdge(r, size)
	if err != nil {
		return tlog.Hash{}, err
	}
	return e.Root(), nil
}

// Edge is the right edge of a log: the roots of the complete subtrees that
// its leaves divide into, largest first. It is all one needs to append and to
// know the root. The zero value is the empty log. It is not safe for
// concurrent use.
type Edge struct {
	size   int64
	hashes []tlog.Hash // one for each set bit of size
}

// ReadEdge reads the edge of a log of size leaves from its stored hashes, in
// one call of r.
func ReadEdge(r tlog.HashReader, size int64) (*Edge, error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("log of %d leaves: %w", size, ErrSize)
	}
	if size == 0 {
		return &Edge{}, nil
	}
	var indexes []int64
	for rest := size; rest != 0; {
		level := bits.Len64(uint64(rest)) - 1
		rest -= 1 << level
		// The subtree ends where the leaves still to be covered begin.
		indexes = append(indexes, tlog.StoredHashIndex(level, (size-rest)>>level-1))
	}
	hashes, err := r.ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the edge of a log of %d leaves: %w", size, err)
	}
	if len(hashes) != len(indexes) {
		return nil, fmt.Errorf("couldn't read the edge of a log of %d leaves: %d hashes for %d indexes", size, len(hashes), len(indexes))
	}
	return &Edge{size: size, hashes: append([]tlog.Hash(nil), hashes...)}, nil
}

// Size returns the number of leaves.
func (e *Edge) Size() int64 { return e.size }

// Append adds one leaf and appends to stored the one or more hashes that
// become storable, as tlog.StoredHashes orders them. It returns ErrSize, and
// leaves e as it was, where entry is longer than MaxEntry or the log is full.
func (e *Edge) Append(stored []tlog.Hash, entry []byte) ([]tlog.Hash, error) {
	if len(entry) > MaxEntry {
		return nil, fmt.Errorf("entry of %d bytes: %w", len(entry), ErrSize)
	}
	if e.size >= MaxSize {
		return nil, fmt.Errorf("log of %d leaves: %w", e.size, ErrSize)
	}
	h := tlog.RecordHash(entry)
	stored = append(stored, h)
	for n := e.size; n&1 == 1; n >>= 1 {
		last := len(e.hashes) - 1
		h = tlog.NodeHash(e.hashes[last], h)
		e.hashes = e.hashes[:last]
		stored = append(stored, h)
	}
	e.hashes = append(e.hashes, h)
	e.size++
	return stored, nil
}

// Root returns the root of the leaves so far.
func (e *Edge) Root() tlog.Hash {
	if len(e.hashes) == 0 {
		h, _ := tlog.TreeHash(0, nil) // reads nothing for an empty log
		return h
	}
	last := len(e.hashes) - 1
	h := e.hashes[last]
	for i := last - 1; i >= 0; i-- {
		h = tlog.NodeHash(e.hashes[i], h)
	}
	return h
}

// Clone returns a copy that shares nothing with e.
func (e *Edge) Clone() *Edge {
	return &Edge{size: e.size, hashes: append([]tlog.Hash(nil), e.hashes...)}
}
