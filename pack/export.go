package pack

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/envelope"
	"chancery/manifest"
)

// Flags that an export line carries beside the record's own.
const (
	// FlagCaptured marks a record of another channel, which no recipient checked.
	FlagCaptured = "captured, not verified"
	// FlagIndex marks a record whose tags do not say of every word that it is
	// there: a search may miss it.
	FlagIndex = "index unverified"
)

// Line is one exported message, one line of JSON.
type Line struct {
	ID             string   `json:"id"`
	TS             string   `json:"ts"` // RFC 3339, UTC, without trailing zeros
	Sender         string   `json:"sender"`
	Conversation   string   `json:"conversation"` // its name, or its id where it has none
	Text           string   `json:"text"`
	Envelope       string   `json:"envelope"` // H(core)
	Leaf           int64    `json:"leaf"`     // index in the messages log
	ConversationID string   `json:"conversation_id"`
	Device         string   `json:"device"` // control leaf
	Member         string   `json:"member"`
	Kind           string   `json:"kind"`
	Action         string   `json:"action,omitempty"` // what it is where it's no plain message
	Target         string   `json:"target,omitempty"` // id of the message that the action is about
	Flags          []string `json:"flags,omitempty"`
}

// NewLine makes the line of an opened record.
func NewLine(m *manifest.Manifest, leaf int64, member codec.ID, r *envelope.Record, flags ...string) *Line {
	l := &Line{
		ID: r.ID, TS: time.UnixMilli(r.Time).UTC().Format(time.RFC3339Nano), Sender: r.Sender,
		Conversation: r.ConversationName, Text: r.Text,
		Envelope: m.CoreHash().String(), Leaf: leaf, ConversationID: m.Header.Conversation.String(),
		Device: m.Header.Device.String(), Member: member.String(), Kind: m.Header.Kind.String(),
		Action: action(r.Action), Target: r.Target, Flags: slices.Concat(r.Flags, flags),
	}
	if l.Conversation == "" {
		l.Conversation = l.ConversationID
	}
	if m.Header.Kind == envelope.KindCapture {
		l.Flags = append(l.Flags, FlagCaptured)
	}
	return l
}

// Exported reports whether a record is a message, which an export lists. A
// conversation's profile is opened and in the pack, and no message.
func Exported(r *envelope.Record) bool { return r.Action != envelope.ActionProfile }

func action(a uint8) string {
	switch a {
	case envelope.ActionReply:
		return "reply"
	case envelope.ActionEdit:
		return "edit"
	case envelope.ActionDelete:
		return "delete"
	case envelope.ActionReaction:
		return "reaction"
	}
	return ""
}

// Encode appends the line as JSON, and its newline, to b.
func (l *Line) Encode(b *bytes.Buffer) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return e.Encode(l)
}

// ExportHash returns H("export", lines).
func ExportHash(lines []byte) codec.Hash { return codec.Sum(labelExport, lines) }

// LineOf returns the line of an opened record, or nil where it's no message or,
// under a search, its text does not match; and whether its tags say of every word
// that it is there. search and key are nil without a search.
func LineOf(search *Search, key *blindindex.Key, m *manifest.Manifest, leaf int64, member codec.ID, tags []byte, r *envelope.Record) (line *Line, indexed bool) {
	indexed = key == nil || Indexed(key, m.Core.Envelope, tags, r.Text)
	if !Exported(r) || (search != nil && !search.Contains(r.Text)) {
		return nil, indexed
	}
	if !indexed {
		return NewLine(m, leaf, member, r, FlagIndex), false
	}
	return NewLine(m, leaf, member, r), true
}
