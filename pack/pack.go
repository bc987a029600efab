// Package pack is the format of the evidence pack: one file from which an
// outsider who knows nothing but an organisation's identity can check who asked
// for which messages, who allowed it, what was opened, and that nothing in scope
// was left out (spec/pack.md). It also seals the production, and makes the
// export's lines from opened records, so that whoever checks a pack can make
// them again.
//
// A pack is a body, which the opener's last statement on the control log names
// by its hash, and a tail: the control log up to and beyond that statement. The
// package knows the order of bytes alone. It promises one encoding for each
// pack, and nothing about the truth of what is in one: package verify judges.
package pack

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/quorum"
	"chancery/request"
)

const (
	// Magic begins every pack, 16 bytes: the format and its version.
	Magic = "chancery/pack/v1"
	// MaxSize is the greatest length of a pack in bytes.
	MaxSize = 1 << 30

	labelBody   = "pack-body"
	labelExport = "export"

	// A body without envelopes set aside has no field for them, as none had before
	// there was one. These are the heads of the CBOR arrays, one byte each.
	headWithout = 0x80 | 18
	headWith    = 0x80 | 19
	emptyArray  = 0x80
)

// ErrMalformed means that bytes are not an evidence pack or production.
var ErrMalformed = errors.New("malformed evidence pack")

// Pack is a parsed pack.
type Pack struct {
	Body *Body
	Tail *Tail

	// BodyHash is what the opening statement names.
	BodyHash codec.Hash
}

// Body is everything up to the opener's last statement.
type Body struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Request      codec.Hash // the request's control leaf
	Opener       codec.Hash // the opener's control leaf
	Details      []byte     // encoded request.Details: terms, purpose, legal basis

	Control           [][]byte  // entries of the control log from 0
	ControlCheckpoint []byte    // witnessed, of exactly those entries
	Openings          []Opening // of the matter's and the request's leaves, ascending

	MessagesCheckpoint []byte           // witnessed; every proof below leads to it
	Heads              Heads            // of all conversations, to show open ends complete
	Rosters            []request.Roster // ascending by leaf
	Items              []Item           // ascending by leaf
	Voids              []Void           // ascending by leaf
	Acks               [][]byte         // signed acknowledgements, ascending

	IndexSet  []codec.Hash // H(core)s of the index envelopes, in the order asked
	RecordSet []codec.Hash // H(core)s of the records, in the order asked
	Faults    []Fault      // holders that answered otherwise
	Broken    []Broken     // envelopes that no right answers open

	Export codec.Hash // H("export", lines)

	SetAside []SetAside // by phase; not in the encoding where there is none
}

// Opening opens a sealed leaf of the control log.
type Opening struct {
	_       struct{} `cbor:",toarray"`
	Index   int64
	Opening control.Opening
}

// Heads is the leaf that lists the newest leaf of every conversation.
type Heads struct {
	_     struct{} `cbor:",toarray"`
	Heads []byte   // encoded manifest.Heads
	Proof request.Proof
}

// Item is one envelope of the conversations and days in question, opened or not.
type Item struct {
	_        struct{} `cbor:",toarray"`
	Manifest []byte
	Proof    request.Proof
	E        []byte  // the ephemeral point, 65 bytes; empty where Opened gives it, and of a neighbour
	Tags     []byte  // encoded blindindex tags; empty where the kind has none
	Opened   *Opened // nil where the request did not lead to it
}

// Neighbour reports whether the item shows its place in the log alone: the request
// doesn't cover it, and it is there to show that nothing is missing beside it.
func (i *Item) Neighbour() bool { return i.Opened == nil && len(i.E) == 0 }

// Opened is an envelope's content. The envelope itself is not here: seed,
// record and header seal to its very bytes again.
type Opened struct {
	_      struct{} `cbor:",toarray"`
	Seed   envelope.Seed
	Record []byte
}

// Void is a filled sequence number, which takes a place in its conversation.
type Void struct {
	_     struct{} `cbor:",toarray"`
	Void  []byte   // signed manifest void
	Proof request.Proof
}

// Fault convicts a holder of an answer that was not the right one.
type Fault struct {
	_        struct{} `cbor:",toarray"`
	Guard    bool
	Holder   uint8 // index from 1
	Phase    control.Phase
	Position uint64   // of the envelope in the phase's set, from 0
	Answer   []byte   // as the holder signed and sealed it
	Secrets  [64]byte // what opens Answer and nothing else, as Disclose returns it
	Proof    []byte   // encoded quorum.Fault of a keyholder; empty for a guard, or where the part is no point
}

// Broken is an envelope that right answers do not open, or that opens to
// something its sender did not commit to. Proven answers show that it was the
// sender.
type Broken struct {
	_        struct{} `cbor:",toarray"`
	Core     codec.Hash
	Envelope []byte
	Secret   []byte // the guard's answer, 32 bytes, right by the manifest's tag
	Answers  []Proven
}

// Proven is a keyholder's answer with its proof that it is right.
type Proven struct {
	_      struct{} `cbor:",toarray"`
	Answer quorum.Answer
	Proof  quorum.DLEQ
}

// SetAside are the envelopes of one phase's set for which every guard of the
// genesis leaf signed that the tag is wrong: nobody may tell what opens them.
type SetAside struct {
	_         struct{} `cbor:",toarray"`
	Phase     control.Phase
	Envelopes []Refuted   // ascending by position
	Answers   []Disclosed // one of each guard, in the genesis leaf's order
}

// Refuted is an envelope that was set aside. All of it is here: the guards named
// the encapsulation that they were asked about, and it must be the archived one.
type Refuted struct {
	_        struct{} `cbor:",toarray"`
	Position uint64   // in the phase's set, from 0
	Envelope []byte
}

// Disclosed is an answer with what opens it.
type Disclosed struct {
	_       struct{} `cbor:",toarray"`
	Answer  []byte   // as the holder signed and sealed it
	Secrets [64]byte // what opens Answer and nothing else, as Disclose returns it
}

// Tail is the control log from the body's last entry on, with the opener's last
// statement in it.
type Tail struct {
	_          struct{} `cbor:",toarray"`
	Control    [][]byte
	Checkpoint []byte // witnessed, of all entries of body and tail
}

type file struct {
	_    struct{} `cbor:",toarray"`
	Body []byte
	Tail Tail
}

// Encode returns the body's encoding, which BodyHash names.
func (b *Body) Encode() []byte {
	out := codec.Encode(b)
	if len(b.SetAside) == 0 {
		out = out[:len(out)-1]
		out[0] = headWithout
	}
	return out
}

// BodyHash returns H("pack-body", body).
func BodyHash(body []byte) codec.Hash { return codec.Sum(labelBody, body) }

// ParseBody reads what Encode writes and checks its order: everything that has a
// place in a log ascends by it, so that nothing can be there twice. It returns
// ErrMalformed or codec.ErrSize.
func ParseBody(data []byte) (*Body, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("body of %d bytes: %w", len(data), codec.ErrSize)
	}
	without := len(data) > 0 && data[0] == headWithout
	if without {
		data = append(bytes.Clone(data), emptyArray)
		data[0] = headWith
	}
	b := new(Body)
	if err := codec.Decode(data, b); err != nil {
		return nil, fmt.Errorf("%w: body: %w", ErrMalformed, err)
	}
	if without != (len(b.SetAside) == 0) {
		return nil, fmt.Errorf("%w: an empty list of what was set aside", ErrMalformed)
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Body) check() error {
	for _, list := range []struct {
		name  string
		n     int
		index func(i int) int64
	}{
		{"openings", len(b.Openings), func(i int) int64 { return b.Openings[i].Index }},
		{"rosters", len(b.Rosters), func(i int) int64 { return b.Rosters[i].Proof.Index }},
		{"items", len(b.Items), func(i int) int64 { return b.Items[i].Proof.Index }},
		{"voids", len(b.Voids), func(i int) int64 { return b.Voids[i].Proof.Index }},
	} {
		last := int64(-1)
		for i := range list.n {
			if list.index(i) <= last {
				return fmt.Errorf("%w: %s not in ascending order", ErrMalformed, list.name)
			}
			last = list.index(i)
		}
	}
	for i := 1; i < len(b.Acks); i++ {
		if bytes.Compare(b.Acks[i-1], b.Acks[i]) >= 0 {
			return fmt.Errorf("%w: acknowledgements not in ascending order", ErrMalformed)
		}
	}
	for i := range b.Items {
		item := &b.Items[i]
		if item.Opened != nil && len(item.E) != 0 {
			return fmt.Errorf("%w: item %d has both the ephemeral point and what gives it", ErrMalformed, i)
		}
		if item.Neighbour() && len(item.Tags) != 0 {
			return fmt.Errorf("%w: item %d has tags and no envelope", ErrMalformed, i)
		}
	}
	return b.checkSetAside()
}

func (b *Body) checkSetAside() error {
	for i := range b.SetAside {
		aside := &b.SetAside[i]
		if i > 0 && aside.Phase <= b.SetAside[i-1].Phase {
			return fmt.Errorf("%w: phases of what was set aside not in ascending order", ErrMalformed)
		}
		if len(aside.Envelopes) == 0 {
			return fmt.Errorf("%w: nothing was set aside in phase %d", ErrMalformed, aside.Phase)
		}
		for j := 1; j < len(aside.Envelopes); j++ {
			if aside.Envelopes[j].Position <= aside.Envelopes[j-1].Position {
				return fmt.Errorf("%w: envelopes set aside not in ascending order", ErrMalformed)
			}
		}
	}
	return nil
}

// Assemble makes the pack of an encoded body and its tail:
// magic ‖ CBOR [body, tail] ‖ SHA-256 of all before it. It returns ErrMalformed
// or codec.ErrSize.
func Assemble(body []byte, tail *Tail) ([]byte, error) {
	if _, err := ParseBody(body); err != nil {
		return nil, err
	}
	out := append([]byte(Magic), codec.Encode(&file{Body: body, Tail: *tail})...)
	sum := sha256.Sum256(out)
	out = append(out, sum[:]...)
	if len(out) > MaxSize {
		return nil, fmt.Errorf("pack of %d bytes: %w", len(out), codec.ErrSize)
	}
	return out, nil
}

// Parse reads what Assemble writes and nothing else. The sum at the end tells an
// accident from a forgery, and is no more than that. It returns ErrMalformed or
// codec.ErrSize.
func Parse(data []byte) (*Pack, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("pack of %d bytes: %w", len(data), codec.ErrSize)
	}
	rest, ok := bytes.CutPrefix(data, []byte(Magic))
	if !ok || len(rest) < sha256.Size {
		return nil, fmt.Errorf("%w: it does not begin as one of this version", ErrMalformed)
	}
	at := len(data) - sha256.Size
	if sum := sha256.Sum256(data[:at]); !bytes.Equal(sum[:], data[at:]) {
		return nil, fmt.Errorf("%w: the checksum at its end differs: the file was damaged or changed", ErrMalformed)
	}
	var f file
	if err := codec.Decode(rest[:len(rest)-sha256.Size], &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	body, err := ParseBody(f.Body)
	if err != nil {
		return nil, err
	}
	return &Pack{Body: body, Tail: &f.Tail, BodyHash: BodyHash(f.Body)}, nil
}
