package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// treeVectors are the files that need no secrets.
var treeVectors = []officialVector{
	{"deserialization.json", vector(runDeserialization)},
	{"messages.json", vector(runMessages)},
	{"transcript-hashes.json", inSuite(runTranscriptHashes)},
	{"tree-math.json", vector(runTreeMath)},
	{"tree-operations.json", inSuite(runTreeOperations)},
	{"tree-validation.json", inSuite(runTreeValidation)},
}

type deserialization struct {
	Header hexBytes `json:"vlbytes_header"`
	Length int      `json:"length"`
}

func runDeserialization(c *deserialization) error {
	r := syntax.NewReader(c.Header)
	n := r.Length()
	if err := r.Finish(); err != nil || n != c.Length {
		return fmt.Errorf("length %d, %w", n, err)
	}
	var b syntax.Builder
	b.Length(n)
	var d differences
	d.bytes("header", b.Bytes(), c.Header)
	return errors.Join(d...)
}

// wire is a type with one encoding.
type wire interface {
	syntax.Encoder
	syntax.Decoder
}

func runMessages(c *map[string]hexBytes) error {
	var d differences
	for name, data := range *c {
		var v wire
		switch name {
		case "group_secrets":
			v = new(groupSecrets)
		case "add_proposal":
			v = new(tree.Add)
		case "update_proposal":
			v = new(tree.Update)
		case "remove_proposal":
			v = new(tree.Remove)
		case "pre_shared_key_proposal":
			v = new(tree.PreSharedKey)
		case "re_init_proposal":
			v = new(tree.ReInit)
		case "external_init_proposal":
			v = new(tree.ExternalInit)
		case "group_context_extensions_proposal":
			v = new(tree.GroupContextExtensions)
		case "commit":
			v = new(tree.Commit)
		case "ratchet_tree":
			d.bytes(name, marshalled(tree.ParseTree(anySuite(), data)), data)
			continue
		default: // an MLSMessage
			m, err := tree.ParseMessage(data)
			d.err(name, err)
			if err == nil {
				d.bytes(name, tree.MarshalMessage(m), data)
			}
			continue
		}
		d.err(name, syntax.Unmarshal(data, v))
		d.bytes(name, syntax.Marshal(v), data)
	}
	return errors.Join(d...)
}

// anySuite is for trees whose suite doesn't matter, since they aren't hashed.
func anySuite() *cipher.Suite {
	s, _ := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	return s
}

func marshalled(t *tree.Tree, err error) []byte {
	if err != nil {
		return nil
	}
	return t.Marshal()
}

type transcriptHashes struct {
	Key           hexBytes `json:"confirmation_key"`
	Content       hexBytes `json:"authenticated_content"`
	InterimBefore hexBytes `json:"interim_transcript_hash_before"`
	Confirmed     hexBytes `json:"confirmed_transcript_hash_after"`
	Interim       hexBytes `json:"interim_transcript_hash_after"`
}

func runTranscriptHashes(s *cipher.Suite, c *transcriptHashes) error {
	var a tree.AuthenticatedContent
	if err := syntax.Unmarshal(c.Content, &a); err != nil {
		return err
	}
	if a.Content.Commit == nil {
		return errors.New("not a commit")
	}
	var d differences
	confirmed := tree.ConfirmedTranscriptHash(s, c.InterimBefore, a.WireFormat, &a.Content, a.Auth.Signature)
	d.bytes("confirmed transcript hash", confirmed, c.Confirmed)
	d.bytes("interim transcript hash", tree.InterimTranscriptHash(s, confirmed, a.Auth.ConfirmationTag), c.Interim)
	x := &secrets{confirmation: c.Key}
	d.bytes("confirmation tag", x.confirmationTag(s, confirmed), a.Auth.ConfirmationTag)
	return errors.Join(d...)
}

type treeMath struct {
	Leaves  tree.Size         `json:"n_leaves"`
	Nodes   uint32            `json:"n_nodes"`
	Root    tree.NodeIndex    `json:"root"`
	Left    []*tree.NodeIndex `json:"left"`
	Right   []*tree.NodeIndex `json:"right"`
	Parent  []*tree.NodeIndex `json:"parent"`
	Sibling []*tree.NodeIndex `json:"sibling"`
}

func runTreeMath(c *treeMath) error {
	var d differences
	if c.Leaves.Nodes() != c.Nodes || c.Leaves.Root() != c.Root {
		d.err("size", fmt.Errorf("%d nodes under %d", c.Leaves.Nodes(), c.Leaves.Root()))
	}
	for n := range tree.NodeIndex(c.Nodes) {
		check := func(what string, want *tree.NodeIndex, got tree.NodeIndex, ok bool) {
			if ok != (want != nil) || ok && got != *want {
				d.err(what, fmt.Errorf("of %d: got %d, %v", n, got, ok))
			}
		}
		got, ok := n.Left()
		check("left", c.Left[n], got, ok)
		got, ok = n.Right()
		check("right", c.Right[n], got, ok)
		got, ok = c.Leaves.Parent(n)
		check("parent", c.Parent[n], got, ok)
		got, ok = c.Leaves.Sibling(n)
		check("sibling", c.Sibling[n], got, ok)
	}
	return errors.Join(d...)
}

type treeOperation struct {
	Before     hexBytes       `json:"tree_before"`
	Proposal   hexBytes       `json:"proposal"`
	Sender     tree.LeafIndex `json:"proposal_sender"`
	HashBefore hexBytes       `json:"tree_hash_before"`
	After      hexBytes       `json:"tree_after"`
	HashAfter  hexBytes       `json:"tree_hash_after"`
}

func runTreeOperations(s *cipher.Suite, c *treeOperation) error {
	before, err := tree.ParseTree(s, c.Before)
	if err != nil {
		return err
	}
	r := syntax.NewReader(c.Proposal)
	p := tree.DecodeProposal(r)
	if err := r.Finish(); err != nil {
		return err
	}
	var updated map[tree.LeafIndex]*tree.LeafNode
	var removed []tree.LeafIndex
	var added []*tree.LeafNode
	switch p := p.(type) {
	case *tree.Add:
		added = append(added, &p.KeyPackage.Leaf)
	case *tree.Update:
		updated = map[tree.LeafIndex]*tree.LeafNode{c.Sender: &p.Leaf}
	case *tree.Remove:
		removed = append(removed, p.Removed)
	}
	var d differences
	d.bytes("tree hash before", before.Hash(), c.HashBefore)
	after, _, err := before.Apply(updated, removed, added)
	if err != nil {
		return err
	}
	d.bytes("tree after", after.Marshal(), c.After)
	d.bytes("tree hash after", after.Hash(), c.HashAfter)
	return errors.Join(d...)
}

type treeValidation struct {
	Tree        hexBytes           `json:"tree"`
	GroupID     hexBytes           `json:"group_id"`
	Hashes      []hexBytes         `json:"tree_hashes"`
	Resolutions [][]tree.NodeIndex `json:"resolutions"`
}

func runTreeValidation(s *cipher.Suite, c *treeValidation) error {
	t, err := tree.ParseTree(s, c.Tree)
	if err != nil {
		return err
	}
	var d differences
	if n := int(t.Size().Nodes()); n != len(c.Hashes) || n != len(c.Resolutions) {
		return fmt.Errorf("%d nodes", n)
	}
	for n := range tree.NodeIndex(t.Size().Nodes()) {
		if got := t.Resolution(n); !slices.Equal(got, c.Resolutions[n]) {
			d.err("resolution", fmt.Errorf("of %d: %v", n, got))
		}
		d.bytes("tree hash", t.NodeHash(n), c.Hashes[n])
	}
	// Parent hashes, unmerged leaves, each leaf's signature: as a newcomer.
	_, err = tree.NewGroup(anything{}, t, tree.GroupContext{CipherSuite: s.ID(), GroupID: c.GroupID, TreeHash: t.Hash()}, nil)
	d.err("tree", err)
	return errors.Join(d...)
}

type treeKEM struct {
	Suite      cipher.ID `json:"cipher_suite"`
	GroupID    hexBytes  `json:"group_id"`
	Epoch      uint64
	Transcript hexBytes `json:"confirmed_transcript_hash"`
	Tree       hexBytes `json:"ratchet_tree"`
	Leaves     []struct {
		Index       tree.LeafIndex
		Encryption  hexBytes `json:"encryption_priv"`
		Signature   hexBytes `json:"signature_priv"`
		PathSecrets []struct {
			Node   tree.NodeIndex
			Secret hexBytes `json:"path_secret"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	Paths []struct {
		Sender      tree.LeafIndex
		Path        hexBytes    `json:"update_path"`
		PathSecrets []*hexBytes `json:"path_secrets"`
		Commit      hexBytes    `json:"commit_secret"`
		TreeHash    hexBytes    `json:"tree_hash_after"`
	} `json:"update_paths"`
}

// keys returns the private keys of each member whose secrets the vector has,
// held against the tree.
func (c *treeKEM) keys(s *cipher.Suite, t *tree.Tree) (map[tree.LeafIndex]keys, error) {
	out := make(map[tree.LeafIndex]keys)
	for _, l := range c.Leaves {
		key, err := s.NewPrivateKey(padded(s, l.Encryption))
		if err != nil {
			return nil, err
		}
		k := keys{l.Index.Node(): key}
		for _, p := range l.PathSecrets {
			up := ladder{s, p.Secret}
			if _, k[p.Node], err = up.next(); err != nil {
				return nil, err
			}
		}
		if len(k.matching(t)) != len(k) {
			return nil, fmt.Errorf("private keys of leaf %d don't match the tree", l.Index)
		}
		out[l.Index] = k
	}
	return out, nil
}

// plan returns an empty commit of the sender that leads to the vector's epoch.
// The trees of suite 7 don't name their suite among the capabilities, which
// only RestoreGroup overlooks.
func (c *treeKEM) plan(t *tree.Tree, sender tree.LeafIndex) (*tree.Plan, error) {
	context := tree.GroupContext{
		CipherSuite: c.Suite, GroupID: c.GroupID, Epoch: c.Epoch - 1, TreeHash: t.Hash(), ConfirmedTranscriptHash: c.Transcript,
	}
	g, err := tree.RestoreGroup(anything{}, t, context, nil, nil)
	if err != nil {
		return nil, err
	}
	return g.Plan(tree.Member(sender), nil)
}

func planPath(plan *tree.Plan, path *tree.UpdatePath) *receivedPath {
	context := plan.Context()
	return &receivedPath{plan.Committer, plan.Path(), plan.Recipients, plan.Tree(), &context, path}
}

func runTreeKEM(s *cipher.Suite, c *treeKEM) error {
	t, err := tree.ParseTree(s, c.Tree)
	if err != nil {
		return err
	}
	private, err := c.keys(s, t)
	if err != nil {
		return err
	}
	var d differences
	for _, p := range c.Paths {
		plan, err := c.plan(t, p.Sender)
		if err != nil {
			return err
		}
		var path tree.UpdatePath
		if err := syntax.Unmarshal(p.Path, &path); err != nil {
			return err
		}
		d.err("merge", plan.Merge(&path))
		d.bytes("tree hash", plan.Tree().Hash(), p.TreeHash)
		r := planPath(plan, &path)
		for l, k := range private {
			if l == p.Sender {
				continue
			}
			fresh, commit, err := r.read(s, l, k)
			d.err("path", err)
			d.bytes("commit secret", commit, p.Commit)
			up := ladder{s, *p.PathSecrets[l]}
			_, want, err := up.next()
			d.err("path secret", err)
			if got := fresh[tree.CommonAncestor(l, p.Sender)]; got == nil || !bytes.Equal(got.Public(), want.Public()) {
				d.err("path secret", errors.New("another one"))
			}
		}
		d.err("own path", c.send(s, t, p.Sender, private))
	}
	return errors.Join(d...)
}

// send makes a path of our own, which the others must read.
func (c *treeKEM) send(s *cipher.Suite, t *tree.Tree, sender tree.LeafIndex, private map[tree.LeafIndex]keys) error {
	plan, err := c.plan(t, sender)
	if err != nil {
		return err
	}
	leaf := t.Leaf(sender)
	id := &Identity{Credential: leaf.Credential, Capabilities: leaf.Capabilities, Extensions: leaf.Extensions}
	id.Capabilities.CipherSuites = append(id.Capabilities.CipherSuites, c.Suite)
	for _, l := range c.Leaves {
		if l.Index == sender {
			if id.Signer, err = s.NewSigner(padded(s, l.Signature)); err != nil {
				return err
			}
		}
	}
	path, err := makePath(s, plan, c.GroupID, id, random("treekem"))
	if err != nil {
		return err
	}
	var d differences
	r := planPath(plan, &path.public)
	for l, k := range private {
		if l == sender {
			continue
		}
		_, commit, err := r.read(s, l, k)
		d.err("path", err)
		d.bytes("commit secret", commit, path.commit)
	}
	return errors.Join(d...)
}
