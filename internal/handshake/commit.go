package handshake

import (
	"bytes"
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/mls/tree"
)

// ReadCommit reads a commit as a conversation sends it: a PublicMessage. Nothing
// of it is authentic yet.
func ReadCommit(message []byte) (*tree.PublicMessage, error) {
	parsed, err := tree.ParseMessage(bytes.Clone(message))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the commit: %w", err)
	}
	m, ok := parsed.(*tree.PublicMessage)
	if !ok || m.Content.ContentType != tree.ContentCommit {
		return nil, errors.New("not a commit in the clear")
	}
	return m, nil
}

// step is a commit before it is applied.
type step struct {
	before  *tree.Group
	content *tree.FramedContent
	removed map[tree.LeafIndex]bool
	pinned  tree.Extensions // after the commit
	pins    bool            // whether it changes them
}

// Commit refuses what is valid MLS and no step of a conversation, and commits
// after which somebody would be in the group who may not be there. The caller
// has before, the group that it is sent in, judge the commit too, signature
// included: here nothing is authentic. It returns ErrCredential, ErrJoin and
// ErrArchive, wrapped, among others.
func Commit(c Credentials, before *tree.Group, m *tree.PublicMessage) error {
	s := &step{before: before, content: &m.Content, removed: map[tree.LeafIndex]bool{}, pinned: before.Context().Extensions}
	for _, p := range m.Content.Commit.Proposals {
		switch p := p.Proposal.(type) {
		case nil:
			return errors.New("proposal by reference")
		case *tree.Remove:
			s.removed[p.Removed] = true
		case *tree.GroupContextExtensions:
			s.pinned, s.pins = p.Extensions, true
		}
	}
	switch m.Content.Sender.Type {
	case tree.SenderMember:
		if before.Tree().Leaf(tree.LeafIndex(m.Content.Sender.Index)) == nil {
			return errors.New("commit of no member")
		}
	case tree.SenderNewMemberCommit:
		if err := s.join(c); err != nil {
			return err
		}
	default:
		return fmt.Errorf("commit by a sender of type %d", m.Content.Sender.Type)
	}
	if err := s.staying(c); err != nil {
		return err
	}
	return s.archive(c)
}

// join judges an external commit (RFC 9420 §12.4.3.2): by a device of the group
// that replaces its own leaf, or by one that may join by itself.
func (s *step) join(c Credentials) error {
	if archive, err := ArchiveOf(s.before.Context().Extensions); err != nil || archive == nil {
		return fmt.Errorf("a member of an earlier version would be left behind: %w", ErrJoin)
	}
	if s.content.Commit.Path == nil {
		return fmt.Errorf("external commit without a path: %w", ErrJoin)
	}
	joiner, err := ReadLeaf(&s.content.Commit.Path.Leaf)
	if err != nil {
		return err
	}
	own, inside := s.leafOf(joiner.Device)
	if inside {
		if len(s.removed) != 1 || !s.removed[own] {
			return fmt.Errorf("a member that comes back doesn't replace its own leaf: %w", ErrJoin)
		}
		return nil
	}
	if len(s.removed) > 0 {
		return fmt.Errorf("a newcomer that removes somebody: %w", ErrJoin)
	}
	roster, err := Roster(s.before.Tree())
	if err != nil {
		return err
	}
	return c.Join(joiner.Device, roster)
}

func (s *step) leafOf(device codec.Hash) (tree.LeafIndex, bool) {
	for i, node := range s.before.Tree().Members() {
		if bytes.Equal(node.Credential.Identity, device[:]) {
			return i, true
		}
	}
	return 0, false
}

// staying judges the leaves that the commit keeps. Those that it brings are for
// Rules.
func (s *step) staying(c Credentials) error {
	from, member := s.content.Sender.Leaf()
	for i, node := range s.before.Tree().Members() {
		if s.removed[i] {
			continue
		}
		l, err := ReadLeaf(node)
		if err != nil {
			return err
		}
		if err := c.Leaf(l.Device, l.Key, member && i == from); err != nil {
			return err
		}
	}
	return nil
}

// archive judges what the group pins after the commit. A group pins an archive
// unless one of its leaves doesn't know how.
func (s *step) archive(c Credentials) error {
	before, err := ArchiveOf(s.before.Context().Extensions)
	if err != nil {
		return err
	}
	after, err := ArchiveOf(s.pinned)
	if err != nil {
		return err
	}
	if !s.pins {
		if after == nil && s.capable() {
			return fmt.Errorf("a commit that leads to no archive: %w", ErrArchive)
		}
		return nil
	}
	if after == nil {
		return fmt.Errorf("a proposal of no archive: %w", ErrArchive)
	}
	return c.Pinned(before, *after)
}

// capable reports whether all leaves after the commit know ExtensionArchive.
func (s *step) capable() bool {
	from, member := s.content.Sender.Leaf()
	path := s.content.Commit.Path
	for i, node := range s.before.Tree().Members() {
		switch {
		case s.removed[i]:
		case member && i == from && path != nil:
			if !Capable(&path.Leaf) {
				return false
			}
		case !Capable(node):
			return false
		}
	}
	for _, p := range s.content.Commit.Proposals {
		if add, ok := p.Proposal.(*tree.Add); ok && !Capable(&add.KeyPackage.Leaf) {
			return false
		}
	}
	return true
}

// Context judges what a group pins to whoever comes to it new: by a Welcome, at
// its founding, or from a GroupInfo. It returns ErrArchive, wrapped.
func Context(c Credentials, g *tree.Group) error {
	archive, err := ArchiveOf(g.Context().Extensions)
	if err != nil {
		return err
	}
	if archive != nil {
		return c.Pinned(nil, *archive)
	}
	for _, node := range g.Tree().Members() {
		if !Capable(node) {
			return nil
		}
	}
	return fmt.Errorf("none, though all members know it: %w", ErrArchive)
}
