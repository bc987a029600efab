package pack

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/manifest"
)

// ErrIncomplete means that a range of a conversation was not shown whole.
var ErrIncomplete = errors.New("not shown complete")

// Leaf is a leaf of the messages log that was checked to be there.
type Leaf struct {
	Index   int64
	Opening *manifest.Opening
	Object  codec.Hash
}

func (l *Leaf) body() *manifest.ReceiptBody { return &l.Opening.Body }

// Order sorts leaves by conversation and, within each, by position.
func Order(leaves []Leaf) [][]Leaf {
	sorted := slices.Clone(leaves)
	slices.SortFunc(sorted, func(a, b Leaf) int {
		ca, cb := a.body().Conversation, b.body().Conversation
		if c := bytes.Compare(ca[:], cb[:]); c != 0 {
			return c
		}
		return cmp.Compare(a.body().Position, b.body().Position)
	})
	var out [][]Leaf
	for i, l := range sorted {
		if i == 0 || l.body().Conversation != sorted[i-1].body().Conversation {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], l)
	}
	return out
}

// Run splits one conversation's leaves, in the order of Order, into the range
// that shows what was received from lo up to hi, with a neighbour at each end,
// and what there is beside it.
func Run(leaves []Leaf, lo, hi int64) (run, beside []Leaf) {
	start, end := 0, len(leaves)
	for i, l := range leaves {
		if l.body().Time < lo {
			start = i
		}
		if l.body().Time >= hi {
			end = min(end, i+1)
		}
	}
	end = max(end, start)
	beside = slices.Concat(leaves[:start], leaves[end:])
	return leaves[start:end], beside
}

// CheckRun checks that a run, as Run returns it, is all that its conversation
// received from lo up to hi: its leaves name one another and no position is
// missing; its first is the conversation's first or was received before lo; its
// last was received at hi or later, or is the conversation's newest by the leaf
// of heads. Receipt times don't decrease along a conversation. It returns an
// ErrIncomplete that names the place.
func CheckRun(run []Leaf, lo, hi int64, heads *manifest.Heads) error {
	if len(run) == 0 {
		return fmt.Errorf("no leaf: %w", ErrIncomplete)
	}
	first, last := &run[0], &run[len(run)-1]
	fail := func(l *Leaf, reason string) error {
		return fmt.Errorf("conversation %s at position %d (leaf %d): %s: %w", l.body().Conversation, l.body().Position, l.Index, reason, ErrIncomplete)
	}
	if first.body().Position != 0 && first.body().Time >= lo {
		return fail(first, "what was received before it is missing")
	}
	for i := 1; i < len(run); i++ {
		a, b := &run[i-1], &run[i]
		switch {
		case b.body().Position != a.body().Position+1:
			return fail(b, fmt.Sprintf("nothing between it and position %d", a.body().Position))
		case b.body().Previous != a.Opening.Leaf(a.Object):
			return fail(b, "it names another leaf before it")
		case b.Index <= a.Index:
			return fail(b, "it stands earlier in the log than the position before it")
		case b.body().Time < a.body().Time:
			return fail(b, "it was received earlier than the position before it")
		}
	}
	if last.body().Time >= hi {
		return nil
	}
	i, ok := slices.BinarySearchFunc(heads.Heads, last.body().Conversation, func(h manifest.Head, c codec.ID) int {
		return bytes.Compare(h.Conversation[:], c[:])
	})
	if !ok || heads.Heads[i].Position != last.body().Position || heads.Heads[i].Leaf != last.Opening.Leaf(last.Object) {
		return fail(last, "it is not the conversation's newest by the leaf of heads, and nothing after it is shown")
	}
	return nil
}

// ParseHeads reads an encoded leaf of heads: ascending, each conversation once.
func ParseHeads(data []byte) (*manifest.Heads, error) {
	h := new(manifest.Heads)
	if err := codec.Decode(data, h); err != nil {
		return nil, fmt.Errorf("%w: heads: %w", ErrMalformed, err)
	}
	for i := 1; i < len(h.Heads); i++ {
		if bytes.Compare(h.Heads[i-1].Conversation[:], h.Heads[i].Conversation[:]) >= 0 {
			return nil, fmt.Errorf("%w: heads not in ascending order", ErrMalformed)
		}
	}
	return h, nil
}
