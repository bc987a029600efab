package handshake

import (
	"bytes"
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// ErrInfo means that bytes are no GroupInfo, or of another epoch than they
// should be.
var ErrInfo = errors.New("not the group's GroupInfo")

// ReadInfo reads an MLSMessage that carries a GroupInfo (RFC 9420 §12.4.3). It
// returns ErrInfo, wrapped.
func ReadInfo(message []byte) (*tree.GroupInfo, error) {
	parsed, err := tree.ParseMessage(bytes.Clone(message))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInfo, err)
	}
	info, ok := parsed.(*tree.GroupInfo)
	if !ok {
		return nil, ErrInfo
	}
	return info, nil
}

// ReadGroup returns the group that a GroupInfo describes, with its own tree or,
// where it has none, the one given. Signature, tree and leaves are verified, the
// leaves by the rules. It returns ErrInfo or a *tree.Violation, wrapped.
func ReadGroup(r tree.Rules, message, ratchetTree []byte) (*tree.Group, error) {
	info, err := ReadInfo(message)
	if err != nil {
		return nil, err
	}
	s, err := cipher.ByID(info.Context.CipherSuite)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInfo, err)
	}
	if data, ok := info.Extensions.Find(tree.ExtensionRatchetTree); ok {
		ratchetTree = data
	}
	t, err := tree.ParseTree(s, bytes.Clone(ratchetTree))
	if err != nil {
		return nil, fmt.Errorf("%w: the tree: %w", ErrInfo, err)
	}
	return tree.JoinGroup(r, info, t)
}

// CheckInfo verifies that a GroupInfo is of the epoch that a group is in, signed
// by the leaf of that device, with the confirmation tag of the commit that began
// it, and lets members join. It returns ErrInfo, wrapped.
func CheckInfo(info *tree.GroupInfo, g *tree.Group, signer tree.LeafIndex, confirmationTag []byte) error {
	leaf := g.Tree().Leaf(info.Signer)
	switch {
	case info.Signer != signer || leaf == nil:
		return fmt.Errorf("signed by leaf %d and not by the committer's: %w", info.Signer, ErrInfo)
	case !info.Context.Equal(g.Context()):
		return fmt.Errorf("of another epoch than the commit leads to: %w", ErrInfo)
	case !bytes.Equal(info.ConfirmationTag, confirmationTag):
		return fmt.Errorf("with another confirmation tag than the commit's: %w", ErrInfo)
	case !joinable(info.Extensions, g.Suite()):
		return fmt.Errorf("without a key for external commits, or with more than it and the tree: %w", ErrInfo)
	}
	if err := g.Suite().VerifyWithLabel(leaf.SignatureKey, tree.LabelGroupInfo, info.SignedContent(), info.Signature); err != nil {
		return fmt.Errorf("its signature: %w: %w", ErrInfo, err)
	}
	return nil
}

// joinable reports whether a GroupInfo's extensions are the key for external
// commits and no others but the tree.
func joinable(x tree.Extensions, s *cipher.Suite) bool {
	key, ok, err := x.ExternalPub()
	if err != nil || !ok || s.CheckHPKEKey(key) != nil {
		return false
	}
	for _, e := range x {
		if e.Type != tree.ExtensionExternalPub && e.Type != tree.ExtensionRatchetTree {
			return false
		}
	}
	return true
}

// CheckWelcome verifies, as far as that takes no secret, that a Welcome is for
// the KeyPackages which a commit adds and for no others (RFC 9420 §12.4.3.1). An
// empty one is for nobody.
func CheckWelcome(message []byte, s *cipher.Suite, added []tree.Added) error {
	if len(message) == 0 && len(added) == 0 {
		return nil
	}
	parsed, err := tree.ParseMessage(bytes.Clone(message))
	if err != nil {
		return fmt.Errorf("couldn't read the Welcome: %w", err)
	}
	w, ok := parsed.(*tree.Welcome)
	if !ok || w.CipherSuite != s.ID() || len(w.Secrets) != len(added) {
		return errors.New("not a Welcome for as many as are added")
	}
	wanted := make(map[string]bool, len(added))
	for i := range added {
		wanted[string(added[i].KeyPackage.Ref(s))] = true
	}
	for i := range w.Secrets {
		ref := string(w.Secrets[i].NewMember)
		if !wanted[ref] {
			return errors.New("a Welcome for another KeyPackage than those added")
		}
		delete(wanted, ref)
	}
	return nil
}
