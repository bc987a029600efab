package ledger

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"chancery/codec"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxProof is the greatest number of hashes in a proof: one for each
	// level below MaxSize, and one more for a consistency proof's first node.
	maxProof = 49
	// maxExtra bounds the extra data of a text proof, in bytes.
	maxExtra = 64 << 10
)

// InclusionProof shows that a leaf is at Index in the first Size leaves of a
// log (RFC 6962 §2.1.1). In CBOR it is an array of three, the hashes from the
// leaf's sibling up.
type InclusionProof struct {
	_      struct{} `cbor:",toarray"`
	Index  int64
	Size   int64
	Hashes []tlog.Hash
}

// ProveInclusion returns the proof for the leaf at index among the first size.
// It returns ErrSize, wrapped, where there is no such leaf.
func ProveInclusion(r tlog.HashReader, size, index int64) (InclusionProof, error) {
	if err := checkIndex(size, index); err != nil {
		return InclusionProof{}, err
	}
	hashes, err := tlog.ProveRecord(size, index, r)
	if err != nil {
		return InclusionProof{}, fmt.Errorf("couldn't prove leaf %d of %d: %w", index, size, err)
	}
	return InclusionProof{Index: index, Size: size, Hashes: hashes}, nil
}

// CheckInclusion checks that entry is the leaf at index in the log of size
// leaves whose root is root. It returns ErrProof or ErrSize, wrapped.
func CheckInclusion(hashes []tlog.Hash, size int64, root tlog.Hash, index int64, entry []byte) error {
	return checkLeaf(hashes, size, root, index, tlog.RecordHash(entry))
}

func checkLeaf(hashes []tlog.Hash, size int64, root tlog.Hash, index int64, leaf tlog.Hash) error {
	if err := checkIndex(size, index); err != nil {
		return err
	}
	if err := tlog.CheckRecord(hashes, size, root, index, leaf); err != nil {
		return fmt.Errorf("leaf %d of %d: %w", index, size, ErrProof)
	}
	return nil
}

func checkIndex(size, index int64) error {
	if size < 1 || size > MaxSize || index < 0 || index >= size {
		return fmt.Errorf("leaf %d of %d: %w", index, size, ErrSize)
	}
	return nil
}

// Check checks that entry is the proof's leaf under c, whose size must be the
// proof's. It returns ErrProof or ErrSize, wrapped. c must come from
// Policy.Verify, or the proof proves nothing.
func (p InclusionProof) Check(c Checkpoint, entry []byte) error {
	if p.Size != c.Size {
		return fmt.Errorf("proof for %d leaves under a checkpoint of %d: %w", p.Size, c.Size, ErrProof)
	}
	return CheckInclusion(p.Hashes, p.Size, c.Root, p.Index, entry)
}

// Encode returns the proof in deterministic CBOR, at most 1,700 bytes.
func (p InclusionProof) Encode() []byte { return codec.Encode(p) }

// ParseInclusionProof reads what Encode writes, and checks that the number of
// hashes is the one that index and size call for. It returns ErrMalformed or
// ErrSize, wrapped.
func ParseInclusionProof(data []byte) (InclusionProof, error) {
	if len(data) > 64+maxProof*(2+tlog.HashSize) {
		return InclusionProof{}, fmt.Errorf("inclusion proof of %d bytes: %w", len(data), ErrSize)
	}
	var p InclusionProof
	if err := codec.Decode(data, &p); err != nil {
		return InclusionProof{}, fmt.Errorf("inclusion proof: %w: %w", ErrMalformed, err)
	}
	if err := p.valid(); err != nil {
		return InclusionProof{}, err
	}
	return p, nil
}

func (p InclusionProof) valid() error {
	if err := checkIndex(p.Size, p.Index); err != nil {
		return err
	}
	if len(p.Hashes) != pathLength(p.Size, p.Index) {
		return fmt.Errorf("%d hashes for leaf %d of %d: %w", len(p.Hashes), p.Index, p.Size, ErrMalformed)
	}
	return nil
}

// pathLength returns the length of the audit path of a leaf: all levels on
// which the leaf's subtree is not yet the right edge, and above them one hash
// for each complete subtree to its left.
func pathLength(size, index int64) int {
	inner := bits.Len64(uint64(index ^ (size - 1)))
	return inner + bits.OnesCount64(uint64(index)>>inner)
}

// ProveConsistency returns the proof that the log of newSize leaves starts
// with the oldSize leaves of the older one (RFC 6962 §2.1.2): at most 49
// hashes. It returns ErrSize, wrapped, unless 0 < oldSize ≤ newSize.
func ProveConsistency(r tlog.HashReader, oldSize, newSize int64) ([]tlog.Hash, error) {
	if err := checkSizes(oldSize, newSize); err != nil {
		return nil, err
	}
	proof, err := tlog.ProveTree(newSize, oldSize, r)
	if err != nil {
		return nil, fmt.Errorf("couldn't prove that %d leaves extend %d: %w", newSize, oldSize, err)
	}
	return proof, nil
}

// CheckConsistency checks that a log of newSize leaves with root newRoot
// starts with the oldSize leaves under oldRoot. It returns ErrProof or
// ErrSize, wrapped. From the empty log there is no proof and nothing to check:
// callers treat a size of zero themselves.
func CheckConsistency(proof []tlog.Hash, oldSize int64, oldRoot tlog.Hash, newSize int64, newRoot tlog.Hash) error {
	if err := checkSizes(oldSize, newSize); err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, newSize, newRoot, oldSize, oldRoot); err != nil {
		return fmt.Errorf("%d leaves after %d: %w", newSize, oldSize, ErrProof)
	}
	return nil
}

func checkSizes(oldSize, newSize int64) error {
	if oldSize < 1 || oldSize > newSize || newSize > MaxSize {
		return fmt.Errorf("%d leaves after %d: %w", newSize, oldSize, ErrSize)
	}
	return nil
}

const proofHeader = "c2sp.org/tlog-proof@v1"

// TextProof is an inclusion proof with the checkpoint that it leads to and
// opaque extra data, as C2SP tlog-proof writes them for other tools. Nothing
// in it may be trusted before Check.
type TextProof struct {
	Extra  []byte // not authenticated; nil for none
	Index  int64
	Hashes []tlog.Hash
	Note   []byte // the signed checkpoint, verbatim
}

// Marshal returns the text form.
func (p TextProof) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString(proofHeader + "\n")
	if len(p.Extra) > 0 {
		fmt.Fprintf(&b, "extra %s\n", base64.StdEncoding.EncodeToString(p.Extra))
	}
	fmt.Fprintf(&b, "index %d\n", p.Index)
	for _, h := range p.Hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(p.Note)
	return b.Bytes()
}

// ParseTextProof reads what Marshal writes. It returns ErrMalformed or
// ErrSize, wrapped.
func ParseTextProof(data []byte) (TextProof, error) {
	if len(data) > MaxNote+2*maxExtra {
		return TextProof{}, fmt.Errorf("text proof of %d bytes: %w", len(data), ErrSize)
	}
	head, signed, ok := bytes.Cut(data, []byte("\n\n"))
	if !ok {
		return TextProof{}, fmt.Errorf("text proof without checkpoint: %w", ErrMalformed)
	}
	if _, _, err := splitNote(signed); err != nil {
		return TextProof{}, err
	}
	p := TextProof{Note: slices.Clone(signed)}
	lines := strings.Split(string(head), "\n")
	if lines[0] != proofHeader || len(lines) > maxProof+3 {
		return TextProof{}, fmt.Errorf("text proof: %w", ErrMalformed)
	}
	lines = lines[1:]
	if len(lines) > 0 {
		if b64, ok := strings.CutPrefix(lines[0], "extra "); ok {
			extra, err := decode64(b64)
			if err != nil || len(extra) == 0 || len(extra) > maxExtra {
				return TextProof{}, fmt.Errorf("text proof's extra data: %w", ErrMalformed)
			}
			p.Extra, lines = extra, lines[1:]
		}
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return TextProof{}, fmt.Errorf("text proof without index: %w", ErrMalformed)
	}
	var err error
	if p.Index, err = ParseSize(lines[0][len("index "):]); err != nil {
		return TextProof{}, fmt.Errorf("text proof's index: %w", err)
	}
	if p.Hashes, err = ParseHashes(lines[1:]); err != nil {
		return TextProof{}, fmt.Errorf("text proof: %w", err)
	}
	return p, nil
}

// Check verifies the checkpoint under policy and that entry is the proof's
// leaf under it. It returns Policy.Verify's errors, ErrProof or ErrSize.
func (p TextProof) Check(policy *Policy, entry []byte) (*Cosigned, error) {
	c, err := policy.Verify(p.Note)
	if err != nil {
		return nil, err
	}
	if err := CheckInclusion(p.Hashes, c.Size, c.Root, p.Index, entry); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseHashes reads proof lines, one base64 hash each, at most 63 as
// tlog-witness allows. It returns ErrMalformed or ErrSize, wrapped.
func ParseHashes(lines []string) ([]tlog.Hash, error) {
	if len(lines) > 63 {
		return nil, fmt.Errorf("proof of %d hashes: %w", len(lines), ErrSize)
	}
	var hashes []tlog.Hash
	for _, line := range lines {
		h, err := ParseHash(line)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}
