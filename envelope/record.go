package envelope

import (
	"fmt"
	"unicode/utf8"

	"chancery/codec"
)

const (
	// MaxRecordSize is the length in bytes of the longest encoded record.
	MaxRecordSize = 2 << 20
	// MaxTextSize is the length in bytes of the longest text.
	MaxTextSize = 1 << 20
	// MaxAttachments is the largest number of attachments of a message.
	MaxAttachments = 256

	maxNameSize = 256  // of ids, names, types, flags and sources
	maxTitle    = 1024 // of a conversation's name and an attachment's
	maxMentions = 4096
	maxSpans    = 4096
	maxFlags    = 64
)

// What a record does (spec/envelope.md#record).
const (
	ActionMessage  uint8 = 0
	ActionReply    uint8 = 1
	ActionEdit     uint8 = 2
	ActionDelete   uint8 = 3
	ActionReaction uint8 = 4
	ActionProfile  uint8 = 5 // the conversation's name
)

// Record is what a message says, as the archive keeps it. Each field is
// committed to by itself, so that a production can show one and hide another
// (spec/envelope.md#record). Sizes are in bytes.
type Record struct {
	_                struct{} `cbor:",toarray"`
	ID               string   // at most 256
	Time             int64    // milliseconds since 1970 UTC, as the sender says
	Sender           string   // at most 256
	Conversation     codec.ID
	ConversationName string // at most 1,024
	Text             string // at most MaxTextSize
	Action           uint8
	Target           string // the id that a reply, edit, deletion or reaction is about, at most 256; else empty
	Attachments      []Attachment
	Mentions         []string // at most 4,096 of at most 256
	Redactions       []Span   // ascending, disjoint, within Text; at most 4,096
	Flags            []string // at most 64 of at most 256
	Source           string   // what captured it, empty for messages of our own; at most 256
}

// Attachment describes one attached file. Sizes are in bytes.
type Attachment struct {
	_    struct{} `cbor:",toarray"`
	Name string   // at most 1,024
	Type string   // at most 256
	Size uint64
	Hash codec.Hash // of the stored, encrypted bytes
	Key  []byte     // that decrypts them, at most 256
}

// Span is the half-open range of bytes Start to End of a record's text.
type Span struct {
	_          struct{} `cbor:",toarray"`
	Start, End uint64
}

// Encode returns the deterministic CBOR encoding of r. ParseRecord takes it back
// where Check returns nil.
func (r *Record) Encode() []byte { return codec.Encode(r) }

// ParseRecord reads what Encode writes. It returns codec.ErrSize for a field
// over its bound, ErrVersion for an action that it does not know and
// codec.ErrEncoding for anything else that is no record.
func ParseRecord(b []byte) (*Record, error) {
	if len(b) > MaxRecordSize {
		return nil, fmt.Errorf("record of %d bytes: %w", len(b), codec.ErrSize)
	}
	r := new(Record)
	if err := codec.Decode(b, r); err != nil {
		return nil, fmt.Errorf("couldn't read record: %w", err)
	}
	if err := r.Check(); err != nil {
		return nil, err
	}
	return r, nil
}

// Check reports whether r is within the bounds of its fields. Senders call it
// before they seal; its errors are those of ParseRecord.
func (r *Record) Check() error {
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"id", r.ID, maxNameSize},
		{"sender", r.Sender, maxNameSize},
		{"conversation name", r.ConversationName, maxTitle},
		{"text", r.Text, MaxTextSize},
		{"target", r.Target, maxNameSize},
		{"source", r.Source, maxNameSize},
	} {
		if err := checkString(f.name, f.value, f.most); err != nil {
			return err
		}
	}
	if r.Action > ActionProfile {
		return fmt.Errorf("record's action %d: %w", r.Action, ErrVersion)
	}
	if named := r.Action != ActionMessage && r.Action != ActionProfile; named != (r.Target != "") {
		return fmt.Errorf("record's action %d and target don't fit: %w", r.Action, codec.ErrEncoding)
	}
	if len(r.Attachments) > MaxAttachments {
		return fmt.Errorf("record of %d attachments: %w", len(r.Attachments), codec.ErrSize)
	}
	for _, a := range r.Attachments {
		if err := a.check(); err != nil {
			return err
		}
	}
	if err := checkStrings("mention", r.Mentions, maxMentions); err != nil {
		return err
	}
	if err := checkStrings("flag", r.Flags, maxFlags); err != nil {
		return err
	}
	return checkSpans(r.Text, r.Redactions)
}

func (a *Attachment) check() error {
	if err := checkString("attachment's name", a.Name, maxTitle); err != nil {
		return err
	}
	if err := checkString("attachment's type", a.Type, maxNameSize); err != nil {
		return err
	}
	if len(a.Key) > maxNameSize {
		return fmt.Errorf("attachment's key of %d bytes: %w", len(a.Key), codec.ErrSize)
	}
	return nil
}

func checkStrings(name string, list []string, most int) error {
	if len(list) > most {
		return fmt.Errorf("record with %d of %s, at most %d: %w", len(list), name, most, codec.ErrSize)
	}
	for _, s := range list {
		if err := checkString(name, s, maxNameSize); err != nil {
			return err
		}
	}
	return nil
}

func checkString(name, s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("record's %s of %d bytes, at most %d: %w", name, len(s), most, codec.ErrSize)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("record's %s is not UTF-8: %w", name, codec.ErrEncoding)
	}
	return nil
}

// checkSpans holds spans to character boundaries, so that what is left of a
// redacted text is text.
func checkSpans(text string, spans []Span) error {
	if len(spans) > maxSpans {
		return fmt.Errorf("record of %d redactions: %w", len(spans), codec.ErrSize)
	}
	var last uint64
	for _, s := range spans {
		if s.Start < last || s.End <= s.Start || s.End > uint64(len(text)) || !boundary(text, s.Start) || !boundary(text, s.End) {
			return fmt.Errorf("record's redaction %d to %d of a text of %d bytes: %w", s.Start, s.End, len(text), codec.ErrEncoding)
		}
		last = s.End
	}
	return nil
}

func boundary(text string, i uint64) bool {
	return i == uint64(len(text)) || utf8.RuneStart(text[i])
}
