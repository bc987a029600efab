package mls

import (
	"slices"

	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// pending is a commit of one's own that the group hasn't taken yet: what it does,
// without the secrets encrypted to each member, of which there can be as many as
// there are members.
type pending struct {
	digest            []byte // of the message
	proposals         []tree.ProposalOrRef
	authenticatedData []byte
	tag               []byte // confirmation tag
	next              *next
}

// erase overwrites a commit that isn't taken.
func (p *pending) erase() {
	p.next.erase()
	for _, k := range p.next.keys {
		k.Erase()
	}
}

// Confirm begins the epoch of the pending commit: the Delivery Service has
// taken it. It returns ErrNoPending.
func (g *Group) Confirm() (*tree.Changes, error) {
	r, err := g.confirm()
	if err != nil {
		return nil, err
	}
	return r.Commit, nil
}

func (g *Group) confirm() (*Received, error) {
	if g.pending == nil {
		return nil, ErrNoPending
	}
	p := g.pending
	r := &Received{
		Epoch: g.Epoch(), Sender: tree.Member(g.own), Leaf: g.public.Tree().Leaf(g.own),
		AuthenticatedData: p.authenticatedData, ContentType: tree.ContentCommit, Commit: &p.next.staged.Changes,
	}
	if err := g.advance(p.next, p.tag); err != nil {
		return nil, err
	}
	return r, nil
}

// Discard drops the pending commit, which mustn't have been taken. It returns
// ErrNoPending.
func (g *Group) Discard() error {
	if g.pending == nil {
		return ErrNoPending
	}
	g.dropPending()
	return nil
}

func (g *Group) dropPending() {
	if g.pending != nil {
		g.pending.erase()
		g.pending = nil
		g.note(recordKey{kind: recordCommit})
	}
}

func (p *pending) Encode(b *syntax.Builder) {
	b.Opaque(p.digest)
	b.Vector(func(b *syntax.Builder) {
		for i := range p.proposals {
			p.proposals[i].Encode(b)
		}
	})
	b.Opaque(p.authenticatedData)
	b.Opaque(p.tag)
	staged := p.next.staged
	b.Opaque(staged.Context.ConfirmedTranscriptHash)
	b.Present(staged.HasPath)
	if staged.HasPath {
		staged.Tree.Leaf(staged.Committer).Encode(b)
		b.Vector(func(b *syntax.Builder) {
			for _, step := range staged.Path() {
				b.Opaque(staged.Tree.EncryptionKey(step.Node))
			}
		})
	}
	p.next.secrets.Encode(b)
	b.Vector(func(b *syntax.Builder) {
		for _, n := range sortedKeys(p.next.keys) {
			b.Uint32(uint32(n))
			b.Opaque(p.next.keys[n].ExposeBytes())
		}
	})
}

func sortedKeys(k keys) []tree.NodeIndex {
	out := make([]tree.NodeIndex, 0, len(k))
	for n := range k {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// readCommit reads the pending commit. Its proposals and its path, which were
// judged when it was made, are applied again; the transcript, which covers the
// whole message, is what it was.
func (r *restorer) readCommit(in *syntax.Reader) {
	p := &pending{digest: in.Opaque(), next: &next{secrets: new(secrets), keys: make(keys)}}
	in.Each(func(in *syntax.Reader) {
		var q tree.ProposalOrRef
		q.Decode(in)
		p.proposals = append(p.proposals, q)
	})
	p.authenticatedData = in.Opaque()
	p.tag = in.Opaque()
	transcript := in.Opaque()
	var leaf *tree.LeafNode
	var public [][]byte
	if in.Present() {
		leaf = new(tree.LeafNode)
		leaf.Decode(in)
		in.Each(func(in *syntax.Reader) { public = append(public, in.Opaque()) })
	}
	r.readNext(in, p.next)
	if in.Err() != nil {
		return
	}
	plan, err := r.group.public.Plan(tree.Member(r.group.own), p.proposals)
	if err == nil && leaf != nil {
		if _, err = plan.SetKeys(public); err == nil {
			err = plan.SetLeaf(leaf)
		}
	}
	if err != nil {
		in.Fail(err)
		return
	}
	if p.next.staged, err = plan.Resume(transcript); err != nil {
		in.Fail(err)
		return
	}
	r.group.pending = p
}

// readNext reads the secrets of the epoch that a pending commit leads to.
func (r *restorer) readNext(in *syntax.Reader, n *next) {
	n.secrets.Decode(in)
	in.Each(func(in *syntax.Reader) {
		i := tree.NodeIndex(in.Uint32())
		n.keys[i] = r.readKey(in)
	})
}

// readFormerCommit reads a pending commit as earlier versions kept it, with the
// whole message. It is stored in the present form with the next step.
func (r *restorer) readFormerCommit(in *syntax.Reader) {
	p := &pending{digest: in.Opaque(), next: &next{secrets: new(secrets), keys: make(keys)}}
	var a tree.AuthenticatedContent
	a.Decode(in)
	r.readNext(in, p.next)
	if in.Err() != nil {
		return
	}
	staged, err := r.group.public.Stage(&a)
	if err != nil {
		in.Fail(err)
		return
	}
	p.next.staged = staged
	p.proposals, p.authenticatedData, p.tag = a.Content.Commit.Proposals, a.Content.AuthenticatedData, a.Auth.ConfirmationTag
	r.group.pending = p
	r.group.note(recordKey{kind: recordFormerCommit})
	r.group.note(recordKey{kind: recordCommit})
}
