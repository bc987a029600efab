package tree

import (
	"bytes"
	"testing"
)

// TestUpdatePaths breaks each rule about an UpdatePath (RFC 9420 §7.6, §7.9.2,
// §12.4.2).
func TestUpdatePaths(t *testing.T) {
	g := grown(t, suite1, 8)
	path := func(change func(*UpdatePath)) *AuthenticatedContent {
		return g.finish(draft{from: Member(1), path: change})
	}
	g.accepted("a path", path(func(*UpdatePath) {}))
	g.refused("a node too few", "7.6", path(func(p *UpdatePath) { p.Nodes = p.Nodes[1:] }))
	g.refused("a node too many", "7.6", path(func(p *UpdatePath) { p.Nodes = append(p.Nodes, p.Nodes[0]) }))
	g.refused("a secret too few", "7.6", path(func(p *UpdatePath) { p.Nodes[1].Secrets = p.Nodes[1].Secrets[1:] }))
	g.refused("a secret too many", "7.6", path(func(p *UpdatePath) { p.Nodes[1].Secrets = append(p.Nodes[1].Secrets, p.Nodes[0].Secrets...) }))
	g.refused("a key that is none", "7.6", path(func(p *UpdatePath) { p.Nodes[0].EncryptionKey = make([]byte, 32) }))
	g.refused("another new key", "7.9.2", path(func(p *UpdatePath) { p.Nodes[2].EncryptionKey = g.hpkeKey(g.suite) }))
	for n := range NodeIndex(g.Tree().Size().Nodes()) {
		if key := g.Tree().EncryptionKey(n); key != nil {
			g.refused("a key of the tree", "12.4.2", path(func(p *UpdatePath) { p.Nodes[1].EncryptionKey = key }))
		}
	}
	// A path that is right in all but two equal keys: the hashes cover them.
	twice := g.hpkeKey(g.suite)
	g.refused("one key twice", "7.3", g.rehashed(1, func(p *UpdatePath) { p.Nodes[0].EncryptionKey, p.Nodes[2].EncryptionKey = twice, twice }))
	g.refused("the leaf's key above it", "7.3", g.rehashed(1, func(p *UpdatePath) { p.Nodes[2].EncryptionKey = p.Leaf.EncryptionKey }))
	g.refused("a wrong parent hash", "7.9.2", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) { l.ParentHash = bytes.Clone(l.ParentHash); l.ParentHash[0] ^= 1 }}))
	g.refused("no parent hash", "7.9.2", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) { l.ParentHash = nil }}))

	// New members get no secret by the path.
	s := g.must(g.commit(0, g.add("x"), g.add("y")))
	if len(s.Added) != 2 || s.Added[0].Leaf != 8 {
		t.Fatalf("added %+v", s.Added)
	}
	for _, step := range s.Path() {
		for _, n := range s.Recipients(step) {
			if n == LeafIndex(8).Node() || n == LeafIndex(9).Node() {
				t.Errorf("node %d is sent a path secret", n)
			}
		}
	}
}

// rehashed returns a commit whose path is changed before its hashes are made.
func (g *testGroup) rehashed(from LeafIndex, change func(*UpdatePath)) *AuthenticatedContent {
	return g.finish(draft{from: Member(from), path: func(p *UpdatePath) {
		change(p)
		keys := make([][]byte, len(p.Nodes))
		for i := range keys {
			keys[i] = p.Nodes[i].EncryptionKey
		}
		hash, err := g.tree.Clone().setPath(from, keys)
		if err != nil {
			g.t.Fatal(err)
		}
		p.Leaf.ParentHash = hash
		g.signLeaf(&p.Leaf, g.Context().GroupID, from)
	}})
}

// TestForeignTrees breaks each rule about a tree that a newcomer is given, in
// the hands of a member who signs the GroupInfo (RFC 9420 §12.4.3.1).
func TestForeignTrees(t *testing.T) {
	g := grown(t, suite1, 7)
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("8"))})) // unmerged at 7, 11 and 13
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("9"))})) // the tree grows, all blank above
	g.must(g.commit(5))
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("10"))}))

	join := func(tree *Tree, change func(*GroupInfo)) error {
		tree = tree.Clone()
		clear(tree.hashes)
		info := g.info(1)
		info.Context.TreeHash = tree.Hash()
		if change != nil {
			change(info)
		}
		info.Signature = g.sign(g.Tree().Leaf(1).SignatureKey, LabelGroupInfo, info.SignedContent())
		_, err := JoinGroup(g.rules, info, tree)
		return err
	}
	if err := join(g.tree, nil); err != nil {
		t.Fatal(err)
	}
	violation(t, "another tree hash", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Context.TreeHash = g.bytes(32) }))
	violation(t, "another suite", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Context.CipherSuite = 3 }))
	violation(t, "a blank signer", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Signer = 15 }))
	violation(t, "another signer", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Signer = 2 }))
	violation(t, "another group: the leaves are of this one", "7.3", join(g.tree, func(i *GroupInfo) { i.Context.GroupID = []byte("other") }))
	violation(t, "an extension that members don't support", "13.4", join(g.tree, func(i *GroupInfo) { i.Context.Extensions = Extensions{{Type: 0xff03}} }))

	leaf := func(l LeafIndex, change func(*LeafNode)) *Tree {
		tree := g.tree.Clone()
		changed := *tree.leaves[l]
		change(&changed)
		tree.leaves[l] = &changed
		return tree
	}
	parent := func(n NodeIndex, change func(*ParentNode)) *Tree {
		tree := g.tree.Clone()
		if tree.Parent(n) == nil {
			t.Fatalf("node %d is blank", n)
		}
		changed := *tree.Parent(n)
		change(&changed)
		tree.parents[n/2] = &changed
		return tree
	}
	mallory := func(l *LeafNode) { l.Credential = BasicCredential([]byte("mallory")) }
	violation(t, "a leaf changed", "7.9.2", join(leaf(3, mallory), nil))
	violation(t, "a leaf changed that is unmerged", "7.3", join(leaf(9, mallory), nil))
	violation(t, "a leaf moved", "7.9.2", join(func() *Tree {
		tree := g.tree.Clone()
		tree.leaves[15], tree.leaves[4] = tree.leaves[4], nil
		return tree
	}(), nil))
	violation(t, "a member's encryption key twice", "7.3", join(leaf(3, func(l *LeafNode) { l.EncryptionKey = g.Tree().Leaf(2).EncryptionKey }), nil))
	violation(t, "a member's signature key twice", "7.3", join(leaf(3, func(l *LeafNode) { l.SignatureKey = g.Tree().Leaf(2).SignatureKey }), nil))

	const rootNode, inner = NodeIndex(15), NodeIndex(7)
	violation(t, "a parent node's key changed", "7.9.2", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.hpkeKey(g.suite) }), nil))
	violation(t, "a parent hash changed", "7.9.2", join(parent(inner, func(p *ParentNode) { p.ParentHash = g.bytes(32) }), nil))
	violation(t, "the root's key changed", "7.9.2", join(parent(rootNode, func(p *ParentNode) { p.EncryptionKey = g.hpkeKey(g.suite) }), nil))
	violation(t, "a parent node put in", "7.9.2", join(func() *Tree {
		tree := g.tree.Clone()
		for n := NodeIndex(1); ; n += 2 {
			if tree.Parent(n) == nil && tree.populated(n) {
				tree.parents[n/2] = &ParentNode{EncryptionKey: g.hpkeKey(g.suite)}
				return tree
			}
		}
	}(), nil))
	violation(t, "a parent node's key twice", "7.3", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.Tree().Parent(rootNode).EncryptionKey }), nil))
	violation(t, "a parent node's key of a leaf", "7.3", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.Tree().Leaf(2).EncryptionKey }), nil))

	violation(t, "an unmerged leaf that is blank", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9, 14} }), nil))
	violation(t, "an unmerged leaf beyond the tree", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9, 99} }), nil))
	violation(t, "an unmerged leaf elsewhere", "12.4.3.1", join(parent(inner, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9} }), nil))
	violation(t, "a leaf unmerged above and not below", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{5, 9} }), nil))
	violation(t, "an unmerged leaf left out", "7.9.2", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = nil }), nil))
	violation(t, "a merged leaf made unmerged", "7.9.2", join(func() *Tree {
		tree := parent(inner, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{0} })
		for _, n := range tree.Size().DirectPath(0) {
			if p := tree.Parent(n); p != nil && n != inner {
				tree.parents[n/2] = &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: append([]LeafIndex{0}, p.UnmergedLeaves...)}
			}
		}
		return tree
	}(), nil))
	violation(t, "a parent node's key that is none, set by a member", "7.1", join(func() *Tree {
		tree := g.tree.Clone()
		keys := make([][]byte, len(tree.FilteredDirectPath(5)))
		for i := range keys {
			keys[i] = g.hpkeKey(g.suite)
		}
		keys[1] = make([]byte, 32)
		hash, err := tree.setPath(5, keys)
		if err != nil {
			t.Fatal(err)
		}
		changed := g.replacement(5, SourceCommit)
		changed.ParentHash = hash
		g.signLeaf(&changed, g.Context().GroupID, 5)
		tree.setLeaf(5, &changed)
		return tree
	}(), nil))

	g.rules.sameName = true
	violation(t, "two leaves of one client", "12.2", join(func() *Tree {
		tree := g.tree.Clone()
		twin := g.keyPackage(g.suite, "8").Leaf
		tree.add([]*LeafNode{&twin})
		return tree
	}(), nil))
}
