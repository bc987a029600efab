package mls

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// labelPath is the label under which path secrets are encrypted (RFC 9420 §7.6).
const labelPath = "UpdatePathNode"

// keys are a member's private keys: of its leaf and of those nodes above it
// whose key it knows.
type keys map[tree.NodeIndex]*cipher.PrivateKey

// matching returns those keys that belong to the tree.
func (k keys) matching(t *tree.Tree) keys {
	out := make(keys, len(k))
	for n, key := range k {
		if bytes.Equal(t.EncryptionKey(n), key.Public()) {
			out[n] = key
		}
	}
	return out
}

// ladder derives the secrets of a path upwards (RFC 9420 §7.4).
type ladder struct {
	suite  *cipher.Suite
	secret []byte // path secret of the next node
}

// next returns the path secret and the key pair of the next node.
func (l *ladder) next() (pathSecret []byte, key *cipher.PrivateKey, err error) {
	pathSecret = l.secret
	node := l.suite.DeriveSecret(pathSecret, "node")
	defer clear(node)
	key, err = l.suite.DeriveKeyPair(node)
	if err != nil {
		return nil, nil, err
	}
	l.secret = l.suite.DeriveSecret(pathSecret, "path")
	return pathSecret, key, nil
}

// newPath is what a committer knows of its own path.
type newPath struct {
	steps   []tree.PathStep
	secrets [][]byte // path secrets by step
	keys    keys     // leaf included
	commit  []byte   // commit secret
	public  tree.UpdatePath
}

func (p *newPath) eraseSecrets() {
	for _, s := range p.secrets {
		clear(s)
	}
	clear(p.commit)
}

// secretFor returns the path secret that a member added at the leaf needs: of
// the lowest node above both it and the committer.
func (p *newPath) secretFor(committer, leaf tree.LeafIndex) []byte {
	common := tree.CommonAncestor(committer, leaf)
	for i, s := range p.steps {
		if s.Node == common {
			return p.secrets[i]
		}
	}
	return nil
}

// makePath gives the plan a path: new keys for the committer's leaf and the
// nodes above, the secrets encrypted to the other members (RFC 9420 §7.4-§7.6).
func makePath(s *cipher.Suite, plan *tree.Plan, groupID []byte, id *Identity, random io.Reader) (*newPath, error) {
	p := &newPath{steps: plan.Path(), keys: make(keys)}
	first := make([]byte, s.HashSize())
	if _, err := io.ReadFull(random, first); err != nil {
		return nil, fmt.Errorf("couldn't draw a path secret: %w", err)
	}
	up := ladder{s, first}
	public := make([][]byte, len(p.steps))
	for i, step := range p.steps {
		secret, key, err := up.next()
		if err != nil {
			return nil, err
		}
		p.secrets = append(p.secrets, secret)
		p.keys[step.Node], public[i] = key, key.Public()
	}
	p.commit = up.secret
	parentHash, err := plan.SetKeys(public)
	if err != nil {
		return nil, err
	}
	if err := p.makeLeaf(s, plan, groupID, id, parentHash, random); err != nil {
		return nil, err
	}
	return p, p.encrypt(s, plan, public)
}

func (p *newPath) makeLeaf(s *cipher.Suite, plan *tree.Plan, groupID []byte, id *Identity, parentHash []byte, random io.Reader) error {
	key, err := s.GenerateKeyPair(random)
	if err != nil {
		return err
	}
	leaf := id.leaf(tree.SourceCommit, key.Public())
	leaf.ParentHash = parentHash
	if err := signLeaf(leaf, id.Signer, groupID, plan.Committer); err != nil {
		return err
	}
	p.keys[plan.Committer.Node()] = key
	p.public.Leaf = *leaf
	return plan.SetLeaf(leaf)
}

// encrypt gives each path secret to the nodes below the copath, but for members
// that the commit adds.
func (p *newPath) encrypt(s *cipher.Suite, plan *tree.Plan, public [][]byte) error {
	provisional := plan.Context()
	sealer := s.Sealer(labelPath, syntax.Marshal(&provisional))
	for i, step := range p.steps {
		recipients := plan.Recipients(step)
		node := tree.UpdatePathNode{EncryptionKey: public[i], Secrets: make([]tree.HPKECiphertext, len(recipients))}
		err := cipher.AtOnce(len(recipients), func(j int) (err error) {
			c := &node.Secrets[j]
			c.KEMOutput, c.Ciphertext, err = sealer.Seal(plan.Tree().EncryptionKey(recipients[j]), p.secrets[i])
			return err
		})
		if err != nil {
			return fmt.Errorf("couldn't encrypt to the nodes below %d: %w", step.Copath, err)
		}
		p.public.Nodes = append(p.public.Nodes, node)
	}
	return nil
}

// climb derives the keys of the steps from a path secret of the first, and
// verifies each against the tree. It returns the secret one beyond the last.
func (k keys) climb(s *cipher.Suite, t *tree.Tree, steps []tree.PathStep, pathSecret []byte) ([]byte, error) {
	up := ladder{s, pathSecret}
	for _, step := range steps {
		secret, key, err := up.next()
		if err != nil {
			return nil, err
		}
		clear(secret)
		if !bytes.Equal(key.Public(), t.EncryptionKey(step.Node)) {
			return nil, fmt.Errorf("path secret of node %d: %w", step.Node, ErrNotAuthentic)
		}
		k[step.Node] = key
	}
	return up.secret, nil
}

// receivedPath is a path to be decrypted, with the tree and context that it leads
// to.
type receivedPath struct {
	committer  tree.LeafIndex
	steps      []tree.PathStep
	recipients func(tree.PathStep) []tree.NodeIndex
	tree       *tree.Tree
	context    *tree.GroupContext // provisional
	path       *tree.UpdatePath
}

func stagedPath(s *tree.Staged, p *tree.UpdatePath) *receivedPath {
	return &receivedPath{s.Committer, s.Path(), s.Recipients, s.Tree, &s.Provisional, p}
}

// read decrypts the path with a member's keys as they are after the commit's
// proposals. It returns the new keys above the member and the commit secret
// (RFC 9420 §7.5).
func (p *receivedPath) read(suite *cipher.Suite, own tree.LeafIndex, mine keys) (keys, []byte, error) {
	common := tree.CommonAncestor(p.committer, own)
	i := slices.IndexFunc(p.steps, func(s tree.PathStep) bool { return s.Node == common })
	if i < 0 {
		return nil, nil, errNoPathSecret
	}
	for j, to := range p.recipients(p.steps[i]) {
		key := mine[to]
		if key == nil {
			continue
		}
		sealed := &p.path.Nodes[i].Secrets[j]
		secret, err := key.DecryptWithLabel(labelPath, syntax.Marshal(p.context), sealed.KEMOutput, sealed.Ciphertext)
		if err != nil {
			return nil, nil, fmt.Errorf("path secret: %w", ErrNotAuthentic)
		}
		fresh := make(keys)
		commit, err := fresh.climb(suite, p.tree, p.steps[i:], secret)
		if err != nil {
			return nil, nil, err
		}
		return fresh, commit, nil
	}
	return nil, nil, errNoPathSecret
}

var errNoPathSecret = fmt.Errorf("path without a secret for this member: %w", ErrNotAuthentic)
