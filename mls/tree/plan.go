package tree

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// Changes is what a commit does beyond new keys.
type Changes struct {
	Committer LeafIndex // where it stands in the new tree
	External  bool      // whether the committer joins by this commit
	Added     []Added   // in the order of their Add proposals
	Updated   []LeafIndex
	Removed   []LeafIndex
	PSKs      []PreSharedKeyID // in the order of their proposals
	KEMOutput []byte           // of the ExternalInit of an external commit
	ReInit    *ReInit          // the group ends with this commit, unless nil
}

// Added is a new member.
type Added struct {
	Leaf       LeafIndex
	KeyPackage *KeyPackage
}

// Plan is a commit in the making: its proposals have been applied to a copy of
// the tree; a path may follow. A committer calls SetKeys and SetLeaf for a
// path, then Finish. The group stays as it is.
type Plan struct {
	Changes
	group      *Group
	epoch      uint64
	extensions Extensions
	tree       *Tree // as far as it has come
	before     *Tree // with the proposals and without the path; nil as long as there is none
	needsPath  bool
	parentHash []byte // that the committer's leaf must carry
	complete   bool   // whether the path has its leaf
}

// Staged is the epoch after a commit, ready for Group.Apply.
type Staged struct {
	Changes
	Tree    *Tree
	Context GroupContext
	// Provisional is Context with the confirmed transcript hash of the epoch
	// before: what path secrets are encrypted under (RFC 9420 §7.6).
	Provisional GroupContext
	HasPath     bool

	from *Tree // of the epoch that it follows
}

// Path returns the nodes that got keys by the commit's path, upwards: step i is
// of node i of its UpdatePath.
func (s *Staged) Path() []PathStep {
	if !s.HasPath {
		return nil
	}
	return s.Tree.FilteredDirectPath(s.Committer)
}

// Recipients returns the nodes to whose keys the path secret of a step is
// encrypted, in order. The path changes none of these keys.
func (s *Staged) Recipients(step PathStep) []NodeIndex { return s.Changes.recipients(s.Tree, step) }

// Plan verifies a list of proposals (RFC 9420 §12.2) and applies it (§12.3), for
// a commit by that sender: a member, or SenderNewMemberCommit for an external
// commit. It returns ErrEnded, ErrUnknownProposal, ErrTooManyProposals, ErrFull
// or a *Violation.
func (g *Group) Plan(from Sender, proposals []ProposalOrRef) (*Plan, error) {
	if g.ended != nil {
		return nil, ErrEnded
	}
	epoch, err := g.nextEpoch()
	if err != nil {
		return nil, err
	}
	list, err := g.resolve(from, proposals)
	if err != nil {
		return nil, err
	}
	p := &Plan{group: g, epoch: epoch, extensions: g.context.Extensions}
	switch from.Type {
	case SenderMember:
		p.Committer, _ = from.Leaf()
		if g.tree.Leaf(p.Committer) == nil {
			return nil, broken("12.4", "a commit by leaf %d, which is blank", p.Committer)
		}
		err = p.checkList(list)
	case SenderNewMemberCommit:
		p.External = true
		err = p.checkExternalList(proposals, list)
	default:
		err = broken("12.4", "a commit by a sender of type %d", from.Type)
	}
	if err != nil {
		return nil, err
	}
	p.needsPath = len(list) == 0 || slices.ContainsFunc(list, func(e pending) bool { return e.proposal.Type().needsPath() })
	if err := p.apply(list); err != nil {
		return nil, err
	}
	return p, nil
}

// resolve returns the proposals of a commit. Those given by value are judged by
// themselves; the others have been.
func (g *Group) resolve(from Sender, proposals []ProposalOrRef) ([]pending, error) {
	if len(proposals) > MaxProposals {
		return nil, ErrTooManyProposals
	}
	// The signatures of all that are added first, and at once.
	if err := cipher.AtOnce(len(proposals), func(i int) error {
		if add, ok := proposals[i].Proposal.(*Add); ok {
			return g.soundPackage(&add.KeyPackage)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	list := make([]pending, 0, len(proposals))
	for i := range proposals {
		p := proposals[i].Proposal
		if p == nil {
			e, ok := g.proposals[string(proposals[i].Ref)]
			if !ok {
				return nil, ErrUnknownProposal
			}
			list = append(list, e)
			continue
		}
		if p.Type() == ProposalUpdate {
			return nil, broken("12.2", "an Update by the committer")
		}
		if err := g.soundProposal(from, p); err != nil {
			return nil, err
		}
		list = append(list, pending{from, p})
	}
	return list, nil
}

// checkList verifies what RFC 9420 §12.2 asks of a member's list as a whole. What
// concerns the new tree is verified with it, in Finish.
func (p *Plan) checkList(list []pending) error {
	changed := make(map[LeafIndex]bool)
	psks := make(map[string]bool)
	extensions := 0
	for _, e := range list {
		leaf, changes := e.changes()
		if changes && leaf == p.Committer {
			return broken("12.2", "an Update or Remove of the committer")
		}
		if changes && changed[leaf] {
			return broken("12.2", "two Updates or Removes of leaf %d", leaf)
		}
		changed[leaf] = changed[leaf] || changes
		switch q := e.proposal.(type) {
		case *PreSharedKey:
			if err := once(psks, &q.PSK); err != nil {
				return err
			}
		case *GroupContextExtensions:
			if extensions++; extensions > 1 {
				return broken("12.2", "two GroupContextExtensions")
			}
		case *ReInit:
			if len(list) > 1 {
				return broken("12.2", "a ReInit beside another proposal")
			}
		case *ExternalInit:
			return broken("12.2", "an ExternalInit by a member")
		}
	}
	return nil
}

// changes returns the leaf that an Update or Remove is about.
func (e *pending) changes() (LeafIndex, bool) {
	switch q := e.proposal.(type) {
	case *Update:
		return e.from.Leaf()
	case *Remove:
		return q.Removed, true
	}
	return 0, false
}

// once verifies that a PSK isn't used before in the list.
func once(seen map[string]bool, id *PreSharedKeyID) error {
	key := string(syntax.Marshal(id))
	if seen[key] {
		return broken("12.2", "a PSK used twice")
	}
	seen[key] = true
	return nil
}

// checkExternalList verifies the list of an external commit (RFC 9420 §12.2,
// §12.4.3.2).
func (p *Plan) checkExternalList(proposals []ProposalOrRef, list []pending) error {
	psks := make(map[string]bool)
	inits, removes := 0, 0
	for i, e := range list {
		if proposals[i].Proposal == nil {
			return broken("12.4.3.2", "an external commit that refers to a proposal")
		}
		switch q := e.proposal.(type) {
		case *ExternalInit:
			inits++
		case *Remove:
			removes++
		case *PreSharedKey:
			if err := once(psks, &q.PSK); err != nil {
				return err
			}
		default:
			return broken("12.2", "a proposal of type %d in an external commit", q.Type())
		}
	}
	if inits != 1 || removes > 1 {
		return broken("12.2", "an external commit with %d ExternalInits and %d Removes", inits, removes)
	}
	return nil
}

// apply applies a list in the order of RFC 9420 §12.3.
func (p *Plan) apply(list []pending) error {
	updated := make(map[LeafIndex]*LeafNode)
	var leaves []*LeafNode
	for _, e := range list {
		switch q := e.proposal.(type) {
		case *GroupContextExtensions:
			p.extensions = q.Extensions
		case *Update:
			l, _ := e.from.Leaf()
			updated[l] = &q.Leaf
			p.Updated = append(p.Updated, l)
		case *Remove:
			p.Removed = append(p.Removed, q.Removed)
		case *Add:
			leaves = append(leaves, &q.KeyPackage.Leaf)
			p.Added = append(p.Added, Added{KeyPackage: &q.KeyPackage})
		case *PreSharedKey:
			p.PSKs = append(p.PSKs, q.PSK)
		case *ExternalInit:
			p.KEMOutput = q.KEMOutput
		case *ReInit:
			p.ReInit = q
		}
	}
	tree, added, err := p.group.tree.Apply(updated, p.Removed, leaves)
	if err != nil {
		return err
	}
	p.tree = tree
	for i, l := range added {
		p.Added[i].Leaf = l
	}
	if p.External {
		p.Committer, err = p.tree.nextFree()
	}
	return err
}

// NeedsPath reports whether the commit must carry a path (RFC 9420 §12.4).
func (p *Plan) NeedsPath() bool { return p.needsPath }

// Tree returns the new tree as far as it has come. It mustn't be changed.
func (p *Plan) Tree() *Tree { return p.tree }

// Path returns the nodes that a path of the committer gives keys to, upwards.
func (p *Plan) Path() []PathStep { return p.tree.FilteredDirectPath(p.Committer) }

// Recipients returns the nodes to whose keys the path secret of a step is
// encrypted, in order: members added by this commit get theirs by a Welcome
// (RFC 9420 §7.6).
func (p *Plan) Recipients(step PathStep) []NodeIndex { return p.Changes.recipients(p.tree, step) }

func (c *Changes) recipients(t *Tree, step PathStep) []NodeIndex {
	return slices.DeleteFunc(t.Resolution(step.Copath), func(n NodeIndex) bool {
		_, found := slices.BinarySearchFunc(c.Added, n, func(a Added, n NodeIndex) int { return cmp.Compare(a.Leaf.Node(), n) })
		return found
	})
}

// SetKeys gives the nodes of Path their public keys, once. It returns the parent
// hash that the committer's new leaf must carry. It returns a *Violation for keys
// that aren't new (RFC 9420 §12.4.2).
func (p *Plan) SetKeys(keys [][]byte) ([]byte, error) {
	p.before = p.tree
	p.tree = p.tree.Clone()
	for i, k := range keys {
		if err := p.group.suite.CheckHPKEKey(k); err != nil {
			return nil, &Violation{"7.6", fmt.Sprintf("key %d of the path", i), err}
		}
	}
	if err := p.fresh(keys...); err != nil {
		return nil, err
	}
	hash, err := p.tree.setPath(p.Committer, keys)
	if err != nil {
		return nil, &Violation{"7.6", "the path", err}
	}
	p.parentHash = hash
	return hash, nil
}

// fresh verifies that keys of a path occur nowhere in the tree before it.
func (p *Plan) fresh(keys ...[]byte) error {
	set := make(map[string]bool, len(keys))
	for _, k := range keys {
		set[string(k)] = true
	}
	for n := range NodeIndex(p.before.Size().Nodes()) {
		if key := p.before.EncryptionKey(n); key != nil && set[string(key)] {
			return broken("12.4.2", "a key of the path is that of node %d", n)
		}
	}
	return nil
}

// SetLeaf gives the committer its new leaf, signed, after SetKeys. It returns a
// *Violation.
func (p *Plan) SetLeaf(leaf *LeafNode) error {
	event, old := EventCommit, p.group.tree.Leaf(p.Committer)
	if p.External {
		event, old = EventExternalJoin, nil
		if len(p.Removed) > 0 {
			old = p.group.tree.Leaf(p.Removed[0])
		}
	}
	if err := p.group.leaf(event, old, leaf, p.group.context.GroupID, p.Committer); err != nil {
		return err
	}
	if !bytes.Equal(leaf.ParentHash, p.parentHash) {
		return broken("7.9.2", "the committer's leaf has the wrong parent hash")
	}
	if err := p.fresh(leaf.EncryptionKey); err != nil {
		return err
	}
	p.tree.setLeaf(p.Committer, leaf)
	p.complete = true
	return nil
}

// Merge applies a received path to the tree (RFC 9420 §7.5, §7.6): SetKeys and
// SetLeaf in one. It returns a *Violation.
func (p *Plan) Merge(path *UpdatePath) error {
	steps := p.Path()
	if len(path.Nodes) != len(steps) {
		return broken("7.6", "a path of %d nodes and not %d", len(path.Nodes), len(steps))
	}
	keys := make([][]byte, len(steps))
	for i, n := range path.Nodes {
		if want := len(p.Recipients(steps[i])); len(n.Secrets) != want {
			return broken("7.6", "node %d of the path is encrypted to %d keys and not %d", i, len(n.Secrets), want)
		}
		keys[i] = n.EncryptionKey
	}
	if _, err := p.SetKeys(keys); err != nil {
		return err
	}
	return p.SetLeaf(&path.Leaf)
}

// Context returns the provisional context (RFC 9420 §12.4.1): that of the new
// epoch, with the confirmed transcript hash of the old one.
func (p *Plan) Context() GroupContext {
	c := p.group.context
	c.Epoch = p.epoch
	c.TreeHash = p.tree.Hash()
	c.Extensions = p.extensions
	return c
}

// Check verifies the members of the new tree as far as it has come: that they
// share no keys and support what the group requires (RFC 9420 §7.3, §12.2).
// Proposals that are sound one by one can fail together here; a committer that
// is free in its choice tries before it makes a path. Finish checks again. It
// returns a *Violation.
func (p *Plan) Check() error {
	if err := p.group.members(p.tree, p.extensions); err != nil {
		return err
	}
	if len(p.Added) > 0 || p.External {
		return p.group.clients(p.tree)
	}
	return nil
}

// Finish verifies what the commit leads to and returns it. The content is the
// commit's, signed for that wire format. It returns a *Violation.
func (p *Plan) Finish(w WireFormat, content *FramedContent, signature []byte) (*Staged, error) {
	return p.finish(func(g *Group) []byte { return ConfirmedTranscriptHash(g.suite, g.interim, w, content, signature) })
}

// Resume is Finish for a commit of one's own that was finished before, of which
// the content wasn't kept: its confirmed transcript hash is taken on trust.
func (p *Plan) Resume(confirmedTranscriptHash []byte) (*Staged, error) {
	return p.finish(func(*Group) []byte { return confirmedTranscriptHash })
}

func (p *Plan) finish(transcript func(*Group) []byte) (*Staged, error) {
	if (p.needsPath || p.External) && p.before == nil {
		return nil, broken("12.4", "a commit without the path that its proposals require")
	}
	if p.before != nil && !p.complete {
		return nil, broken("12.4", "a commit whose path has no leaf")
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	g := p.group
	provisional := p.Context()
	context := provisional
	context.ConfirmedTranscriptHash = transcript(g)
	return &Staged{
		Changes:     p.Changes,
		Tree:        p.tree,
		Context:     context,
		Provisional: provisional,
		HasPath:     p.before != nil,
		from:        g.tree,
	}, nil
}
