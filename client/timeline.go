package client

import (
	"slices"

	"chancery/codec"
	"chancery/envelope"
)

// Entry is a message with what was said about it afterwards.
type Entry struct {
	*Message                        // as it was first sent
	Text      string                // as last edited; empty once deleted
	Edited    bool                  // by its own member
	Deleted   bool                  // by its own member
	Reactions map[string][]codec.ID // text of the reaction → members, in order
	Replies   []string              // ids of replies
}

// Timeline returns a conversation as a member reads it: edits, deletions and
// reactions applied to the messages that they name. Nobody edits or deletes what
// another member has sent. The archive keeps each of these records.
func (d *Device) Timeline(conversation codec.ID) ([]*Entry, error) {
	var out []*Entry
	byID := map[string]*Entry{}
	for m, err := range d.Messages(conversation, 0) {
		if err != nil {
			return nil, err
		}
		restart := m.Text == "" && slices.Contains(m.Flags, FlagRestart)
		if m.Report || restart || m.Action == envelope.ActionProfile {
			continue
		}
		target := byID[m.Target]
		switch m.Action {
		case envelope.ActionEdit:
			if target != nil && target.Member == m.Member && !target.Deleted {
				target.Text, target.Edited = m.Text, true
			}
			continue
		case envelope.ActionDelete:
			if target != nil && target.Member == m.Member {
				target.Text, target.Deleted = "", true
			}
			continue
		case envelope.ActionReaction:
			if target != nil {
				if target.Reactions == nil {
					target.Reactions = map[string][]codec.ID{}
				}
				target.Reactions[m.Text] = append(target.Reactions[m.Text], m.Member)
			}
			continue
		case envelope.ActionReply:
			if target != nil {
				target.Replies = append(target.Replies, m.ID)
			}
		}
		e := &Entry{Message: m, Text: m.Text}
		out = append(out, e)
		// The first to use an id keeps it, so that nobody puts other words in its
		// place.
		if byID[m.ID] == nil {
			byID[m.ID] = e
		}
	}
	return out, nil
}
