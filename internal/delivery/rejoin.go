package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/store"
	"chancery/internal/wire"
)

// Elsewhere returns the groups that other live devices of the device's member are
// in and it isn't. To direct conversations the others bring it.
func (s *Server) Elsewhere(device codec.Hash) []codec.ID {
	siblings := s.siblings(device)
	out := []codec.ID{}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, d := range siblings {
		for _, m := range s.memberships(d) {
			c := s.conversations[m.Conversation]
			if m.Until < 0 && c != nil && c.Followed && c.members[device] == nil && !slices.Contains(out, c.ID) {
				out = append(out, c.ID)
			}
		}
	}
	return out
}

// siblings returns the live devices of a device's member, itself included.
func (s *Server) siblings(device codec.Hash) []codec.Hash {
	var out []codec.Hash
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		own, ok := state.Device(device)
		if !ok {
			return
		}
		for _, h := range state.Devices(own.Member) {
			if d, ok := state.Device(h); ok && d.ValidAt(state.Size()) {
				out = append(out, h)
			}
		}
	})
	return out
}

// Group returns where a conversation's group stands, to a device whose member is
// in it. It returns store.ErrNotFound, wrapped, for others, and where nobody can
// join it by an external commit.
func (s *Server) Group(ctx context.Context, device codec.Hash, id codec.ID) (*wire.Group, error) {
	siblings := s.siblings(device)
	for range 3 { // a commit may come between two readings
		s.mu.RLock()
		c := s.conversations[id]
		s.mu.RUnlock()
		if c == nil || !slices.ContainsFunc(siblings, c.roster.Contains) {
			return nil, fmt.Errorf("no conversation %s of the member: %w", id, store.ErrNotFound)
		}
		if !c.Followed {
			return nil, fmt.Errorf("no group of conversation %s is known: %w", id, store.ErrNotFound)
		}
		f, err := s.group(ctx, c)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(f.info) == 0 {
			return nil, fmt.Errorf("conversation %s has members of an earlier version: %w", id, store.ErrNotFound)
		}
		return s.describe(ctx, c, f)
	}
	return nil, fmt.Errorf("conversation %s: %w", id, errMoved)
}

func (s *Server) describe(ctx context.Context, c *conversation, f *followed) (*wire.Group, error) {
	epoch, err := s.Store.Epoch(ctx, c.Commit)
	if err != nil {
		return nil, err
	}
	leaf, err := s.Store.Leaf(ctx, epoch.Leaf)
	if err != nil {
		return nil, err
	}
	return &wire.Group{
		Statement: leaf.Object, Receipt: leaf.Receipt, Roster: c.roster, GroupInfo: f.info, Tree: f.Tree().Marshal(),
	}, nil
}
