package delivery

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/manifest"
	"chancery/mls/tree"
)

// judged is a commit that was judged in public: what it leads to, and from
// where.
type judged struct {
	before *followed // nil at epoch 0, and where the group becomes known
	next   *followed // nil where nothing is known of the group
	joins  bool      // by an external commit of a device that isn't in the group
	policy codec.Hash
}

// judge decides what a commit does to its group (spec/delivery.md#commits), in
// the caller's goroutine: it is most of the work. It returns nil where the
// conversation isn't where the commit says: the writer has the last word on that.
func (s *Server) judge(ctx context.Context, in *commit) (*judged, error) {
	s.mu.RLock()
	c := s.conversations[in.Conversation]
	s.mu.RUnlock()
	var j *judged
	var err error
	switch {
	case in.Epoch == 0 && c == nil:
		j, err = s.founded(in)
	case in.Epoch == 0 || c == nil || c.direct() || c.Commit != in.Previous || c.Epoch+1 != in.Epoch:
		return nil, nil
	case c.Followed:
		j, err = s.follow(ctx, c, in)
	case len(in.info) > 0:
		j, err = s.adopt(in)
	default:
		return &judged{}, nil // of an earlier version, all of it
	}
	if errors.Is(err, errMoved) {
		return nil, nil
	}
	if err != nil {
		return nil, in.refusal(err)
	}
	archive, err := handshake.ArchiveOf(j.next.Context().Extensions)
	if err != nil {
		return nil, in.refusal(err)
	}
	if archive != nil {
		j.policy = archive.Policy
	}
	return j, nil
}

// refusal names what is wrong with a commit. Errors of the store are no
// refusals.
func (in *commit) refusal(err error) error {
	var r *Refused
	var violation *tree.Violation
	switch {
	case errors.As(err, &r) || errors.Is(err, ErrDamaged):
		return err
	case errors.Is(err, handshake.ErrCredential):
		return refuse(in.hash, ReasonRoster, "%v", err)
	case errors.Is(err, handshake.ErrArchive):
		return refuse(in.hash, ReasonArchive, "%v", err)
	case errors.Is(err, handshake.ErrJoin):
		return refuse(in.hash, ReasonJoin, "%v", err)
	case errors.Is(err, handshake.ErrInfo):
		return refuse(in.hash, ReasonInfo, "%v", err)
	case errors.As(err, &violation):
		return refuse(in.hash, ReasonGroup, "%v", err)
	}
	return err
}

// stated checks that an epoch is the one that the statement is of.
func (in *commit) stated(g *tree.Group) error {
	c := g.Context()
	roster, err := handshake.Roster(g.Tree())
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(c.GroupID, in.Conversation[:]) || c.Epoch != in.Epoch:
		return refuse(in.hash, ReasonGroup, "the group is another, or in another epoch")
	case !bytes.Equal(c.ConfirmedTranscriptHash, in.Transcript):
		return refuse(in.hash, ReasonGroup, "the transcript hash is another than stated")
	case !slices.Equal(roster, in.roster):
		return refuse(in.hash, ReasonRoster, "the group has other devices than the roster")
	}
	return nil
}

// by checks that a leaf is that of the device which signed the statement.
func (in *commit) by(leaf *tree.LeafNode) error {
	l, err := handshake.ReadLeaf(leaf)
	if err != nil {
		return err
	}
	if l.Device != in.Device {
		return refuse(in.hash, ReasonGroup, "device %s committed, and another made the statement", l.Device.Short())
	}
	return nil
}

// founded judges a conversation's first epoch: its founder alone, pinning an
// archive.
func (s *Server) founded(in *commit) (*judged, error) {
	g, info, err := s.introduced(in)
	if err != nil {
		return nil, err
	}
	if archive, err := handshake.ArchiveOf(g.Context().Extensions); err != nil || archive == nil {
		return nil, refuse(in.hash, ReasonArchive, "a conversation pins its archive")
	}
	if g.Tree().Count() != 1 {
		return nil, refuse(in.hash, ReasonRoster, "whoever founds a conversation is alone in it")
	}
	return &judged{next: s.next(in, g, info)}, nil
}

// introduced reads a group that the server doesn't know, from a GroupInfo with
// the tree.
func (s *Server) introduced(in *commit) (*tree.Group, *tree.GroupInfo, error) {
	info, err := handshake.ReadInfo(in.info)
	if err != nil {
		return nil, nil, err
	}
	g, err := handshake.ReadGroup(s.rules(), in.info, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := in.stated(g); err != nil {
		return nil, nil, err
	}
	if err := in.by(g.Tree().Leaf(info.Signer)); err != nil {
		return nil, nil, err
	}
	if err := handshake.CheckInfo(info, g, info.Signer, info.ConfirmationTag); err != nil {
		return nil, nil, err
	}
	if err := handshake.Context(s.credentials(), g); err != nil {
		return nil, nil, err
	}
	return g, info, nil
}

// adopt takes up a group that was founded before the server followed any: what
// the commit did is its members' to judge, the epoch it leads to is pinned by
// the statement.
func (s *Server) adopt(in *commit) (*judged, error) {
	m, err := in.read()
	if err != nil {
		return nil, err
	}
	g, info, err := s.introduced(in)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(info.ConfirmationTag, m.Auth.ConfirmationTag) {
		return nil, refuse(in.hash, ReasonInfo, "the GroupInfo has another confirmation tag than the commit")
	}
	if from, ok := m.Content.Sender.Leaf(); !ok || from != info.Signer {
		return nil, refuse(in.hash, ReasonInfo, "the GroupInfo is signed by another than the committer")
	}
	if err := in.welcomes(g, added(m)); err != nil {
		return nil, err
	}
	return &judged{next: s.next(in, g, info)}, nil
}

// read reads the commit, which is of the epoch before the statement's.
func (in *commit) read() (*tree.PublicMessage, error) {
	m, err := handshake.ReadCommit(in.message)
	if err != nil {
		return nil, refuse(in.hash, ReasonGroup, "%v", err)
	}
	if !bytes.Equal(m.Content.GroupID, in.Conversation[:]) || m.Content.Epoch+1 != in.Epoch {
		return nil, refuse(in.hash, ReasonGroup, "the commit is of another group or epoch than its statement")
	}
	return m, nil
}

// follow judges a commit of a group that the server knows, as its members will.
func (s *Server) follow(ctx context.Context, c *conversation, in *commit) (*judged, error) {
	before, err := s.group(ctx, c)
	if err != nil {
		return nil, err
	}
	m, err := in.read()
	if err != nil {
		return nil, err
	}
	staged, g, err := s.stage(before, m)
	if errors.Is(err, errUnfit) {
		return nil, refuse(in.hash, ReasonGroup, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	if err := in.stated(g); err != nil {
		return nil, err
	}
	if err := in.by(g.Tree().Leaf(staged.Committer)); err != nil {
		return nil, err
	}
	if err := in.welcomes(g, staged.Added); err != nil {
		return nil, err
	}
	j := &judged{before: before, joins: staged.External && len(staged.Removed) == 0}
	if len(in.info) == 0 && len(g.Context().Extensions) == 0 {
		j.next = s.next(in, g, nil) // by a device of an earlier version
		return j, nil
	}
	info, err := handshake.ReadInfo(in.info)
	if err != nil {
		return nil, err
	}
	if err := handshake.CheckInfo(info, g, staged.Committer, m.Auth.ConfirmationTag); err != nil {
		return nil, err
	}
	j.next = s.next(in, g, info)
	return j, nil
}

// errUnfit wraps what is wrong with a commit beyond what has a name of its own.
var errUnfit = errors.New("no step of this group")

func (s *Server) stage(before *followed, m *tree.PublicMessage) (*tree.Staged, *tree.Group, error) {
	fit := func(err error) error {
		for _, named := range []error{handshake.ErrCredential, handshake.ErrArchive, handshake.ErrJoin} {
			if errors.Is(err, named) {
				return err
			}
		}
		return errors.Join(errUnfit, err)
	}
	if err := handshake.Commit(s.credentials(), before.Group, m); err != nil {
		return nil, nil, fit(err)
	}
	staged, err := before.Stage(m.AuthenticatedContent())
	if err != nil {
		return nil, nil, fit(err)
	}
	g, err := before.After(staged, m.Auth.ConfirmationTag)
	if err != nil {
		return nil, nil, fit(err)
	}
	return staged, g, nil
}

// added returns what a commit adds, by what it says.
func added(m *tree.PublicMessage) []tree.Added {
	var out []tree.Added
	for _, p := range m.Content.Commit.Proposals {
		if add, ok := p.Proposal.(*tree.Add); ok {
			out = append(out, tree.Added{KeyPackage: &add.KeyPackage})
		}
	}
	return out
}

// welcomes checks that the devices added are those stated, and that the Welcome
// is for their KeyPackages.
func (in *commit) welcomes(g *tree.Group, added []tree.Added) error {
	devices := make([]codec.Hash, 0, len(added))
	for _, a := range added {
		l, err := handshake.ReadLeaf(&a.KeyPackage.Leaf)
		if err != nil {
			return err
		}
		devices = append(devices, l.Device)
	}
	if !slices.Equal(manifest.NewRoster(devices), manifest.NewRoster(in.added)) {
		return refuse(in.hash, ReasonCommit, "the commit adds other devices than its Welcome is said to be for")
	}
	if err := handshake.CheckWelcome(in.welcome, g.Suite(), added); err != nil {
		return refuse(in.hash, ReasonWelcome, "%v", err)
	}
	return nil
}

// next is the group that a commit leads to. A GroupInfo is kept where members
// take external commits.
func (s *Server) next(in *commit, g *tree.Group, info *tree.GroupInfo) *followed {
	f := &followed{Group: g, statement: in.hash}
	if info != nil && len(g.Context().Extensions) > 0 {
		f.info = in.info
	}
	return f
}

// settle takes over what was judged into the conversation, and repeats what
// depends on the control log: it may have grown.
func (b *batch) settle(in *commit, c *conversation) error {
	j := in.judged
	switch {
	case j == nil:
		return refuse(in.hash, ReasonEpoch, "the conversation moved on while the commit was judged")
	case j.next == nil:
		return nil
	}
	if j.joins {
		log := handshake.Log{Read: func(f func(*control.State)) { f(b.state) }}
		if err := log.Join(in.Device, c.roster); err != nil {
			return refuse(in.hash, ReasonJoin, "%v", err)
		}
	}
	c.Followed = true
	if c.Policy != j.policy {
		c.Policy, c.Pinned = j.policy, in.Epoch
	}
	return nil
}
