package mls

import (
	"slices"

	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// choose returns references to those waiting proposals that can stand together
// in a commit of one's own, beside the given ones (RFC 9420 §12.2). Among those
// that exclude each other a Remove goes before an Update, and what arrived
// first before the rest.
func (g *Group) choose(own []tree.Proposal) []tree.ProposalOrRef {
	if slices.ContainsFunc(own, func(p tree.Proposal) bool { return p.Type() == tree.ProposalReInit }) {
		return nil // it stands alone
	}
	c := g.newChooser(own)
	for _, p := range own {
		c.takes(tree.Member(g.own), p)
	}
	var list []tree.ProposalOrRef
	for _, w := range g.proposals {
		if c.takes(w.content.Content.Sender, w.content.Content.Proposal) {
			list = append(list, tree.ProposalOrRef{Ref: w.ref})
		}
	}
	return list
}

// chooser remembers what a list of proposals has.
type chooser struct {
	own        tree.LeafIndex
	client     func(*tree.LeafNode) string
	knows      func(*tree.PreSharedKeyID) bool
	single     bool                    // whether there is but one proposal
	leaving    map[tree.LeafIndex]bool // members that a Remove is about
	removed    map[tree.LeafIndex]bool // those of them in the list
	updated    map[tree.LeafIndex]bool
	psks       map[string]bool
	clients    map[string]bool // those that stay, and those in the list
	extensions bool
}

func (g *Group) newChooser(own []tree.Proposal) *chooser {
	c := &chooser{
		own:     g.own,
		client:  g.config.Rules.Client,
		knows:   g.knows,
		single:  len(own)+len(g.proposals) == 1,
		leaving: make(map[tree.LeafIndex]bool),
		removed: make(map[tree.LeafIndex]bool),
		updated: make(map[tree.LeafIndex]bool),
		psks:    make(map[string]bool),
		clients: make(map[string]bool),
	}
	all := slices.Clone(own)
	for _, w := range g.proposals {
		all = append(all, w.content.Content.Proposal)
	}
	for _, p := range all {
		if q, ok := p.(*tree.Remove); ok && q.Removed != g.own {
			c.leaving[q.Removed] = true
		}
	}
	for l, leaf := range g.public.Tree().Members() {
		if name := c.client(leaf); name != "" && !c.leaving[l] {
			c.clients[name] = true
		}
	}
	return c
}

// knows reports whether a PSK is known to this member. That all others know it
// too is for the rules to see to: who doesn't can't follow the commit.
func (g *Group) knows(id *tree.PreSharedKeyID) bool {
	_, err := g.config.findPSKs([]tree.PreSharedKeyID{*id}, g.ID(), g.psks)
	return err == nil
}

// takes reports whether a proposal can join the list, and counts it in. Nobody
// commits its own Update or Remove.
func (c *chooser) takes(from tree.Sender, p tree.Proposal) bool {
	switch p := p.(type) {
	case *tree.Remove:
		return p.Removed != c.own && first(c.removed, p.Removed)
	case *tree.Update:
		l, ok := from.Leaf()
		return ok && l != c.own && !c.leaving[l] && first(c.updated, l)
	case *tree.Add:
		// The rules may call a client by no name, and then it has no other leaf.
		name := c.client(&p.KeyPackage.Leaf)
		return name == "" || first(c.clients, name)
	case *tree.PreSharedKey:
		return c.knows(&p.PSK) && first(c.psks, string(syntax.Marshal(&p.PSK)))
	case *tree.GroupContextExtensions:
		before := c.extensions
		c.extensions = true
		return !before
	case *tree.ReInit:
		return c.single
	}
	return true
}

// first reports whether a key is new to the set, and adds it.
func first[K comparable](set map[K]bool, k K) bool {
	if set[k] {
		return false
	}
	set[k] = true
	return true
}

// maxTries bounds how often a list of proposals is tried, whatever members send.
const maxTries = 64

// fitting returns those waiting proposals with which a commit can be made beside
// the given ones. A proposal that is fine by itself may not fit the tree, such as
// an Update with another member's key: without this, whoever sends one would
// stop all commits. What doesn't fit is found by halving; what remains after
// maxTries is left for the next commit.
func (g *Group) fitting(own, waiting []tree.ProposalOrRef) []tree.ProposalOrRef {
	tries := 0
	fits := func(list []tree.ProposalOrRef) bool {
		tries++
		plan, err := g.public.Plan(tree.Member(g.own), slices.Concat(list, own))
		return err == nil && plan.Check() == nil
	}
	var take func(taken, rest []tree.ProposalOrRef) []tree.ProposalOrRef
	take = func(taken, rest []tree.ProposalOrRef) []tree.ProposalOrRef {
		if len(rest) == 0 || tries == maxTries {
			return taken
		}
		if all := slices.Concat(taken, rest); fits(all) {
			return all
		}
		if len(rest) == 1 {
			return taken
		}
		half := len(rest) / 2
		return take(take(taken, rest[:half]), rest[half:])
	}
	return take(nil, waiting)
}
