package mls

import (
	"fmt"
	"io"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// ExtensionLastResort marks a key package that may be used more than once.
const ExtensionLastResort = tree.ExtensionLastResort

// Identity is what a client says about itself in its leaf.
type Identity struct {
	Signer       cipher.Signer
	Credential   tree.Credential
	Capabilities tree.Capabilities
	Extensions   tree.Extensions
}

// leaf returns an unsigned leaf.
func (id *Identity) leaf(source tree.LeafNodeSource, encryptionKey []byte) *tree.LeafNode {
	return &tree.LeafNode{
		EncryptionKey: encryptionKey,
		SignatureKey:  id.Signer.Public(),
		Credential:    id.Credential,
		Capabilities:  id.Capabilities,
		Source:        source,
		Extensions:    id.Extensions,
	}
}

// signLeaf signs a leaf for its place in a group; key packages have none.
func signLeaf(leaf *tree.LeafNode, signer cipher.Signer, groupID []byte, i tree.LeafIndex) error {
	signature, err := signer.Sign(tree.LabelLeafNode, leaf.SignedContent(groupID, i))
	if err != nil {
		return fmt.Errorf("couldn't sign a leaf: %w", err)
	}
	leaf.Signature = signature
	return nil
}

// OwnKeyPackage is a key package with its private keys.
type OwnKeyPackage struct {
	Public tree.KeyPackage
	init   *cipher.PrivateKey
	leaf   *cipher.PrivateKey
}

// NewKeyPackage returns a key package of the identity for groups of the suite.
func NewKeyPackage(s *cipher.Suite, id *Identity, lifetime tree.Lifetime, extensions tree.Extensions, random io.Reader) (*OwnKeyPackage, error) {
	initKey, err := s.GenerateKeyPair(random)
	if err != nil {
		return nil, err
	}
	leafKey, err := s.GenerateKeyPair(random)
	if err != nil {
		return nil, err
	}
	leaf := id.leaf(tree.SourceKeyPackage, leafKey.Public())
	leaf.Lifetime = lifetime
	if err := signLeaf(leaf, id.Signer, nil, 0); err != nil {
		return nil, err
	}
	p := tree.KeyPackage{Version: tree.MLS10, CipherSuite: s.ID(), InitKey: initKey.Public(), Leaf: *leaf, Extensions: extensions}
	p.Signature, err = id.Signer.Sign(tree.LabelKeyPackage, p.SignedContent())
	if err != nil {
		return nil, fmt.Errorf("couldn't sign a key package: %w", err)
	}
	return &OwnKeyPackage{Public: p, init: initKey, leaf: leafKey}, nil
}

// RestoreKeyPackage returns a key package from what was stored of it: the public
// part as MLSMessage, and the two secrets that ExposeSecrets gave. It returns
// cipher.ErrKey where they don't belong together.
func RestoreKeyPackage(message, initKey, leafKey []byte) (*OwnKeyPackage, error) {
	m, err := tree.ParseMessage(message)
	if err != nil {
		return nil, err
	}
	public, ok := m.(*tree.KeyPackage)
	if !ok {
		return nil, fmt.Errorf("%w: no key package", syntax.ErrSyntax)
	}
	s, err := cipher.ByID(public.CipherSuite)
	if err != nil {
		return nil, err
	}
	p := &OwnKeyPackage{Public: *public}
	for _, k := range []struct {
		to             **cipher.PrivateKey
		secret, public []byte
	}{{&p.init, initKey, public.InitKey}, {&p.leaf, leafKey, public.Leaf.EncryptionKey}} {
		*k.to, err = s.NewPrivateKey(k.secret)
		if err != nil {
			return nil, err
		}
		if !slices.Equal((*k.to).Public(), k.public) {
			return nil, fmt.Errorf("private key of another key package: %w", cipher.ErrKey)
		}
	}
	return p, nil
}

// Message returns the MLSMessage to publish.
func (p *OwnKeyPackage) Message() []byte { return tree.MarshalMessage(&p.Public) }

// ExposeSecrets returns the private keys, for a caller that stores them
// encrypted. They alias p: Erase clears them too.
func (p *OwnKeyPackage) ExposeSecrets() (initKey, leafKey []byte) {
	return p.init.ExposeBytes(), p.leaf.ExposeBytes()
}

// LastResort reports whether the key package may be used more than once.
func (p *OwnKeyPackage) LastResort() bool { return p.Public.LastResort() }

// Erase overwrites the private keys.
func (p *OwnKeyPackage) Erase() {
	p.init.Erase()
	p.leaf.Erase()
}
