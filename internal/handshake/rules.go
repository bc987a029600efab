// Package handshake has the rules of a conversation's group beyond RFC 9420, for
// its members and the server alike (spec/client.md#groups): who may stand in it,
// who may change it and how, and which archive it pins.
//
// Whoever judges by it has the control log and a tree.Group, which is public. No
// secret comes in here.
package handshake

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

var (
	// ErrCredential means that a leaf of a group is no device of the control
	// log, or not with that device's key.
	ErrCredential = errors.New("leaf is not a device of the organisation")
	// ErrJoin means that a device may not join by itself.
	ErrJoin = errors.New("the device may not join by itself")
)

// Credentials decide what takes the control log. An error refuses.
type Credentials interface {
	// Leaf decides whether a leaf may stand in a group: device is the hash of a
	// control leaf, key the leaf's signature key. Fresh is true where it enters
	// the group or speaks by the step at hand, so that a device which was revoked
	// since it joined is refused only where it acts.
	Leaf(device codec.Hash, key codec.PublicKey, fresh bool) error
	// Join decides whether a device that isn't among the members may join them
	// by an external commit. It returns ErrJoin, wrapped.
	Join(device codec.Hash, members manifest.Roster) error
	// Newest returns what a commit made now should pin.
	Newest() (Archive, error)
	// Pinned decides whether a group may pin what it does: before is nil where
	// it is new to whoever asks. It returns ErrArchive, wrapped.
	Pinned(before *Archive, after Archive) error
}

// maxLeaf bounds a leaf, in bytes: one of ours has 300. The server keeps all of
// them, and nobody shall fill its memory with what a leaf may carry besides.
const maxLeaf = 4096

// Rules judge groups by credentials. Without any they refuse all.
type Rules struct {
	Check Credentials
	// At is the time that new members' KeyPackages must cover, or zero: what
	// others have committed is of whatever time it was.
	At time.Time
}

var _ tree.Rules = (*Rules)(nil)

// Leaf is who a leaf says it is.
type Leaf struct {
	Device codec.Hash
	Key    codec.PublicKey
}

// ReadLeaf returns who a leaf says it is. It returns ErrCredential, wrapped, for
// one that is no conversation's, or nil.
func ReadLeaf(l *tree.LeafNode) (Leaf, error) {
	if l == nil || l.Credential.Type != tree.CredentialBasic || len(l.Credential.Identity) != codec.HashSize || len(l.SignatureKey) != ed25519.PublicKeySize {
		return Leaf{}, fmt.Errorf("not a basic credential of 32 bytes with an Ed25519 key: %w", ErrCredential)
	}
	return Leaf{codec.Hash(l.Credential.Identity), codec.PublicKey(l.SignatureKey)}, nil
}

// Roster returns the devices of a tree. It returns ErrCredential, wrapped.
func Roster(t *tree.Tree) (manifest.Roster, error) {
	devices := make([]codec.Hash, 0, t.Count())
	for _, node := range t.Members() {
		l, err := ReadLeaf(node)
		if err != nil {
			return nil, err
		}
		devices = append(devices, l.Device)
	}
	return manifest.NewRoster(devices), nil
}

// Leaf implements tree.Rules.
func (r *Rules) Leaf(e tree.Event, old, node *tree.LeafNode) error {
	l, err := ReadLeaf(node)
	if err != nil {
		return err
	}
	switch {
	case r.Check == nil:
		return errors.New("a leaf outside of any call")
	case len(syntax.Marshal(node)) > maxLeaf:
		return fmt.Errorf("leaf of more than %d bytes: %w", maxLeaf, ErrCredential)
	case old != nil && (!bytes.Equal(old.Credential.Identity, node.Credential.Identity) || !bytes.Equal(old.SignatureKey, node.SignatureKey)):
		return fmt.Errorf("leaf replaced by another device's: %w", ErrCredential)
	}
	return r.Check.Leaf(l.Device, l.Key, e != tree.EventTree)
}

// Lifetime implements tree.Rules.
func (r *Rules) Lifetime(e tree.Event, l tree.Lifetime) error {
	if e == tree.EventTree {
		return nil // who is a member stays one
	}
	if !l.AtMost(wire.KeyPackageLifetime) {
		return errors.New("KeyPackage that lives too long")
	}
	if !r.At.IsZero() && !l.Covers(r.At) {
		return errors.New("KeyPackage isn't valid now")
	}
	return nil
}

// Client implements tree.Rules: a device has one leaf.
func (r *Rules) Client(l *tree.LeafNode) string { return string(l.Credential.Identity) }

// ExternalSender implements tree.Rules.
func (r *Rules) ExternalSender(*tree.ExternalSender) error {
	return errors.New("groups have no external senders")
}

// Proposal implements tree.Rules. What an archive may be is for Commit to say,
// which knows the group that the commit leads to.
func (r *Rules) Proposal(_ *tree.Group, from tree.Sender, p tree.Proposal) error {
	switch p.(type) {
	case *tree.Add, *tree.GroupContextExtensions:
		if from.Type == tree.SenderMember {
			return nil
		}
	case *tree.Remove:
		if from.Type == tree.SenderMember || from.Type == tree.SenderNewMemberCommit {
			return nil
		}
	case *tree.ExternalInit:
		if from.Type == tree.SenderNewMemberCommit {
			return nil
		}
	}
	return fmt.Errorf("proposal of type %d by a sender of type %d", p.Type(), from.Type)
}
