package mls

import (
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// choose returns references to those waiting proposals that can stand together
// in a commit of one's own, beside the given ones (RFC 9420 §12.2). Among those
// that exclude each other a Remove goes before an Update, and what arrived
// first before the rest.
func (g *Group) choose(own []tree.Proposal) []tree.ProposalOrRef {
	c := chooser{
		group:   g,
		removed: make(map[tree.LeafIndex]bool),
		updated: make(map[tree.LeafIndex]bool),
		psks:    make(map[string]bool),
		clients: make(map[string]bool),
	}
	for _, w := range g.proposals {
		if p, ok := w.content.Content.Proposal.(*tree.Remove); ok && p.Removed != g.own {
			c.removed[p.Removed] = true
		}
	}
	for _, p := range own {
		if q, ok := p.(*tree.Remove); ok {
			c.removed[q.Removed] = true
		}
	}
	for l, leaf := range g.public.Tree().Members() {
		if name := g.config.Rules.Client(leaf); name != "" && !c.removed[l] {
			c.clients[name] = true
		}
	}
	taken := make(map[tree.LeafIndex]bool) // Removes in the list
	for _, p := range own {
		if q, ok := p.(*tree.Remove); ok {
			taken[q.Removed] = true
			continue
		}
		c.takes(tree.Member(g.own), p)
	}
	var list []tree.ProposalOrRef
	for _, w := range g.proposals {
		content := &w.content.Content
		if p, ok := content.Proposal.(*tree.Remove); ok {
			if p.Removed != g.own && !taken[p.Removed] {
				taken[p.Removed] = true
				list = append(list, tree.ProposalOrRef{Ref: w.ref})
			}
			continue
		}
		// A ReInit stands alone, and what else waits would be lost with it.
		if content.Proposal.Type() == tree.ProposalReInit && (len(own) > 0 || len(g.proposals) > 1) {
			continue
		}
		if c.takes(content.Sender, content.Proposal) {
			list = append(list, tree.ProposalOrRef{Ref: w.ref})
		}
	}
	return list
}

// chooser remembers what a list of proposals has.
type chooser struct {
	group      *Group
	removed    map[tree.LeafIndex]bool
	updated    map[tree.LeafIndex]bool
	psks       map[string]bool
	clients    map[string]bool
	extensions bool
}

// takes reports whether a proposal other than a Remove can join the list, and
// counts it in.
func (c *chooser) takes(from tree.Sender, p tree.Proposal) bool {
	switch p := p.(type) {
	case *tree.Update:
		l, ok := from.Leaf()
		return ok && l != c.group.own && !c.removed[l] && first(c.updated, l)
	case *tree.Add:
		name := c.group.config.Rules.Client(&p.KeyPackage.Leaf)
		return name == "" || first(c.clients, name)
	case *tree.PreSharedKey:
		return first(c.psks, string(syntax.Marshal(&p.PSK)))
	case *tree.GroupContextExtensions:
		before := c.extensions
		c.extensions = true
		return !before
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
