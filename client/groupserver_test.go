package client_test

import (
	"context"
	"errors"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/mls/tree"
)

// fakeGroup is what the server has of a conversation's group.
type fakeGroup struct {
	*tree.Group
	in      *wire.CommitSubmission // of the newest epoch
	receipt []byte
}

// follow takes over a commit that the server took, whatever it is: what isn't a
// step of the group ends the server's knowledge of it.
func (c *fakeConversation) follow(s *fakeServer, body *manifest.Commit, in *wire.CommitSubmission, receipt []byte) {
	rules := &handshake.Rules{Check: handshake.Log{Read: func(f func(*control.State)) { f(s.org.State) }}}
	if body.Epoch == 0 {
		if g, err := handshake.ReadGroup(rules, in.GroupInfo, nil); err == nil {
			c.group = &fakeGroup{g, in, receipt}
		}
		return
	}
	before := c.group
	c.group = nil
	if before == nil {
		return
	}
	m, err := handshake.ReadCommit(in.Commit)
	if err != nil {
		return
	}
	staged, err := before.Stage(m.AuthenticatedContent())
	if err != nil {
		return
	}
	g, err := before.After(staged, m.Auth.ConfirmationTag)
	if err != nil {
		return
	}
	c.group = &fakeGroup{g, in, receipt}
}

func (c conn) Group(_ context.Context, conversation codec.ID) (*wire.Group, error) {
	end, err := c.begin("group")
	if err != nil {
		return nil, err
	}
	defer end()
	conv := c.conversations[conversation]
	if conv == nil || conv.group == nil {
		return nil, errors.New("no such group")
	}
	g := conv.group
	out := &wire.Group{Statement: g.in.Statement, Receipt: g.receipt, Roster: g.in.Roster, GroupInfo: g.in.GroupInfo, Tree: g.Tree().Marshal()}
	if c.groups != nil {
		c.groups(out)
	}
	return out, nil
}

func (c conn) Elsewhere(context.Context) ([]codec.ID, error) {
	end, err := c.begin("elsewhere")
	if err != nil {
		return nil, err
	}
	defer end()
	own, _ := c.org.State.Device(c.device(c.key))
	var out []codec.ID
	for id, conv := range c.conversations {
		if conv.group == nil || conv.roster.Contains(own.Hash) {
			continue // without a group, it is a direct one
		}
		if slices.ContainsFunc(c.org.State.Devices(own.Member), conv.roster.Contains) {
			out = append(out, id)
		}
	}
	return out, nil
}
