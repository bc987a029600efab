package manifest

import (
	"bytes"
	"fmt"
	"slices"

	"chancery/codec"
)

// MaxDirect is how many devices the two members of a direct conversation may
// have together.
const MaxDirect = 64

const directVersion = 1

// Direct says whose a direct conversation is, its two members for good, and which
// devices an epoch brings. Every commit statement of the conversation names its
// own where a group's names an MLS commit (spec/manifest.md#direct-conversations).
type Direct struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Members []codec.ID // two, ascending
	Added   Roster     // devices that the epoch before hadn't: at epoch 0 all
}

// NewDirect returns the Direct of an epoch, from both members in either order,
// its roster and that of the epoch before, which is empty at epoch 0.
func NewDirect(members []codec.ID, roster, before Roster) *Direct {
	members = slices.SortedFunc(slices.Values(members), compareIDs)
	added := slices.DeleteFunc(slices.Clone(roster), before.Contains)
	return &Direct{Version: directVersion, Members: members, Added: added}
}

// ParseDirect reads what Encode writes. It returns ErrMalformed or codec's
// errors, wrapped.
func ParseDirect(raw []byte) (*Direct, error) {
	var d Direct
	if err := codec.Decode(raw, &d); err != nil {
		return nil, fmt.Errorf("couldn't read the members of a direct conversation: %w", err)
	}
	if d.Version != directVersion || len(d.Members) != 2 || d.Members[0].IsZero() || compareIDs(d.Members[0], d.Members[1]) >= 0 {
		return nil, fmt.Errorf("members of a direct conversation: %w", ErrMalformed)
	}
	if len(d.Added) > MaxDirect {
		return nil, fmt.Errorf("%d devices added to a direct conversation: %w", len(d.Added), ErrMalformed)
	}
	if len(d.Added) > 0 {
		if err := d.Added.Validate(); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

func compareIDs(a, b codec.ID) int { return bytes.Compare(a[:], b[:]) }

// Encode returns the deterministic encoding.
func (d *Direct) Encode() []byte { return codec.Encode(d) }

// Hash returns H("direct", encoding), which a statement has as its message.
func (d *Direct) Hash() codec.Hash { return codec.Sum("direct", d.Encode()) }

// Direct reports whether the statement is of a direct conversation: it names
// its members and has no transcript. One of a group has neither, at epoch 0, or
// both.
func (c *Commit) Direct() bool { return len(c.Transcript) == 0 && !c.Message.IsZero() }

// Without returns the roster without a device: who gets a copy of what that
// device sends in a direct conversation, in the order in which a Transport names
// the copies.
func (r Roster) Without(device codec.Hash) Roster {
	return slices.DeleteFunc(slices.Clone(r), func(h codec.Hash) bool { return h == device })
}

// EncodeCopies encodes the ciphertexts of one message of a direct conversation,
// in the order of the devices that they are for.
func EncodeCopies(copies [][]byte) []byte {
	if copies == nil {
		copies = [][]byte{}
	}
	return codec.Encode(copies)
}

// ParseCopies reads what EncodeCopies writes, fewer than MaxDirect. The slices
// alias nothing. It returns ErrMalformed or codec's errors, wrapped.
func ParseCopies(raw []byte) ([][]byte, error) {
	var copies [][]byte
	if err := codec.Decode(raw, &copies); err != nil {
		return nil, fmt.Errorf("couldn't read the ciphertexts: %w", err)
	}
	if len(copies) >= MaxDirect {
		return nil, fmt.Errorf("%d ciphertexts, fewer than %d: %w", len(copies), MaxDirect, ErrMalformed)
	}
	return copies, nil
}

// CopyHashes returns the hashes of copies, as a Transport names them.
func CopyHashes(copies [][]byte) []codec.Hash {
	out := make([]codec.Hash, len(copies))
	for i := range copies {
		out[i] = CiphertextHash(copies[i])
	}
	return out
}
