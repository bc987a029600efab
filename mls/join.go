package mls

import (
	"bytes"
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

var (
	// ErrNotForUs means that a Welcome doesn't name the key package.
	ErrNotForUs = errors.New("the Welcome is for other key packages")
	// ErrNoTree means that neither the GroupInfo nor the caller gives the
	// ratchet tree, without which nothing about a group can be verified.
	ErrNoTree = errors.New("no ratchet tree is given")
)

// labelWelcome is the label under which group secrets are encrypted (RFC 9420
// §12.4.3.1).
const labelWelcome = "Welcome"

// groupSecrets is GroupSecrets of RFC 9420 §12.4.3.1.
type groupSecrets struct {
	joiner []byte
	path   []byte // nil where the commit had no path
	psks   []tree.PreSharedKeyID
}

func (s *groupSecrets) Encode(b *syntax.Builder) {
	b.Opaque(s.joiner)
	b.Present(s.path != nil)
	if s.path != nil {
		b.Opaque(s.path)
	}
	b.Vector(func(b *syntax.Builder) {
		for i := range s.psks {
			s.psks[i].Encode(b)
		}
	})
}

func (s *groupSecrets) Decode(r *syntax.Reader) {
	s.joiner = r.Opaque()
	if r.Present() {
		if s.path = r.Opaque(); s.path == nil {
			r.Failf("an empty path secret")
		}
	}
	r.Each(func(r *syntax.Reader) {
		var id tree.PreSharedKeyID
		id.Decode(r)
		s.psks = append(s.psks, id)
	})
}

// Join returns the group that a Welcome invites to (RFC 9420 §12.4.3.1). The
// whole tree is verified, each leaf by the rules. ratchetTree is the encoded
// tree for a Welcome that doesn't carry it, or nil; ErrNoTree is returned where
// both are missing. former is the group that this one continues by ReInit or
// branch, or nil.
//
// The key package's private keys are erased unless it is a last resort. It
// returns ErrNotForUs, ErrNoTree, ErrNotAuthentic, ErrNoPSK, syntax.ErrSyntax or
// a *tree.Violation.
func Join(config Config, own *OwnKeyPackage, welcome, ratchetTree []byte, former *Group) (*Group, error) {
	m, err := tree.ParseMessage(bytes.Clone(welcome))
	if err != nil {
		return nil, err
	}
	w, ok := m.(*tree.Welcome)
	if !ok {
		return nil, fmt.Errorf("%w: no Welcome", syntax.ErrSyntax)
	}
	if w.CipherSuite != own.Public.CipherSuite {
		return nil, ErrNotForUs
	}
	s, err := cipher.ByID(w.CipherSuite)
	if err != nil {
		return nil, err
	}
	j := &joining{config: config, suite: s, own: own}
	g, err := j.join(w, bytes.Clone(ratchetTree), former)
	if err != nil {
		return nil, err
	}
	if own.LastResort() {
		// The key package lives on; its leaf key is the group's own copy.
		g.keys[g.own.Node()] = own.leaf.Clone()
	} else {
		own.init.Erase()
	}
	return g, nil
}

// joining is a Welcome being read.
type joining struct {
	config  Config
	suite   *cipher.Suite
	own     *OwnKeyPackage
	secrets groupSecrets
	member  []byte
	info    tree.GroupInfo
}

func (j *joining) join(w *tree.Welcome, ratchetTree []byte, former *Group) (*Group, error) {
	defer j.erase()
	if err := j.openSecrets(w); err != nil {
		return nil, err
	}
	if err := j.openInfo(w, former); err != nil {
		return nil, err
	}
	t, err := treeOf(j.suite, &j.info, ratchetTree)
	if err != nil {
		return nil, err
	}
	public, err := tree.JoinGroup(j.config.Rules, &j.info, t)
	if err != nil {
		return nil, err
	}
	at, ok := t.Find(&j.own.Public.Leaf)
	if !ok {
		return nil, fmt.Errorf("a tree without this key package: %w", ErrNotAuthentic)
	}
	if err := j.checkFormer(public, former); err != nil {
		return nil, err
	}
	k, err := j.keys(t, at)
	if err != nil {
		return nil, err
	}
	root := epochSecret(j.suite, j.member, syntax.Marshal(&j.info.Context))
	defer clear(root)
	x := newSecrets(j.suite, root)
	if !j.suite.VerifyMAC(x.confirmation, j.info.Context.ConfirmedTranscriptHash, j.info.ConfirmationTag) {
		return nil, fmt.Errorf("confirmation tag: %w", ErrNotAuthentic)
	}
	g := newGroup(j.config, public, at, k, x)
	g.inviter = j.info.Signer
	return g, nil
}

// erase overwrites what the Welcome carried.
func (j *joining) erase() {
	clear(j.secrets.joiner)
	clear(j.secrets.path)
	clear(j.member)
}

// openSecrets decrypts what the Welcome has for this key package.
func (j *joining) openSecrets(w *tree.Welcome) error {
	ref := j.own.Public.Ref(j.suite)
	for i := range w.Secrets {
		e := &w.Secrets[i]
		if !bytes.Equal(e.NewMember, ref) {
			continue
		}
		plain, err := j.own.init.DecryptWithLabel(labelWelcome, w.EncryptedGroupInfo, e.Secrets.KEMOutput, e.Secrets.Ciphertext)
		if err != nil {
			return fmt.Errorf("group secrets: %w", ErrNotAuthentic)
		}
		if err := syntax.Unmarshal(plain, &j.secrets); err != nil {
			return fmt.Errorf("group secrets: %w", err)
		}
		if len(j.secrets.joiner) != j.suite.HashSize() {
			return fmt.Errorf("%w: a joiner secret of %d bytes", syntax.ErrSyntax, len(j.secrets.joiner))
		}
		return nil
	}
	return ErrNotForUs
}

// openInfo decrypts the GroupInfo, for which the PSKs are needed.
func (j *joining) openInfo(w *tree.Welcome, former *Group) error {
	var groupID []byte
	var known map[uint64][]byte
	if former != nil {
		groupID, known = former.ID(), former.psks
	}
	psks, err := j.config.findPSKs(j.secrets.psks, groupID, known)
	if err != nil {
		return err
	}
	secret, err := pskSecret(j.suite, psks)
	if err != nil {
		return err
	}
	defer clear(secret)
	j.member = memberSecret(j.suite, j.secrets.joiner, secret)
	welcome := welcomeSecret(j.suite, j.member)
	defer clear(welcome)
	key, nonce := welcomeKeys(j.suite, welcome)
	defer clear(key)
	plain, err := j.suite.Open(key, nonce, nil, w.EncryptedGroupInfo)
	if err != nil {
		return fmt.Errorf("GroupInfo: %w", ErrNotAuthentic)
	}
	if err := syntax.Unmarshal(plain, &j.info); err != nil {
		return fmt.Errorf("GroupInfo: %w", err)
	}
	if j.info.Context.CipherSuite != w.CipherSuite {
		return fmt.Errorf("GroupInfo of another cipher suite: %w", ErrNotAuthentic)
	}
	return nil
}

// treeOf returns the tree of a GroupInfo: its own, or else the one given.
func treeOf(s *cipher.Suite, info *tree.GroupInfo, given []byte) (*tree.Tree, error) {
	if data, ok := info.Extensions.Find(tree.ExtensionRatchetTree); ok {
		given = data
	}
	if given == nil {
		return nil, ErrNoTree
	}
	return tree.ParseTree(s, given)
}

// keys returns the private keys of a new member: of its leaf, and of the nodes
// for which the Welcome has the path secret.
func (j *joining) keys(t *tree.Tree, at tree.LeafIndex) (keys, error) {
	k := keys{at.Node(): j.own.leaf}
	if j.secrets.path == nil {
		return k, nil
	}
	if at == j.info.Signer {
		return nil, fmt.Errorf("a Welcome from oneself: %w", ErrNotAuthentic)
	}
	common := tree.CommonAncestor(at, j.info.Signer)
	steps := t.FilteredDirectPath(j.info.Signer)
	for i, step := range steps {
		if step.Node != common {
			continue
		}
		rest, err := k.climb(j.suite, t, steps[i:], j.secrets.path)
		clear(rest)
		return k, err
	}
	return nil, fmt.Errorf("path secret of no node: %w", ErrNotAuthentic)
}
