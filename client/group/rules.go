package group

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/mls/tree"
)

// rules judge groups for the call at hand. Between calls they refuse all.
type rules struct {
	check client.Credentials
	// at is the time that new members' KeyPackages must cover, or zero: what
	// others have committed is of whatever time it was.
	at time.Time
}

var _ tree.Rules = (*rules)(nil)

// judge sets the credentials of a call. The function it returns ends the call.
func (r *rules) judge(check client.Credentials, at time.Time) (end func()) {
	r.check, r.at = check, at
	return func() { *r = rules{} }
}

// leaf is who a leaf says it is.
type leaf struct {
	device codec.Hash
	key    codec.PublicKey
}

func readLeaf(l *tree.LeafNode) (leaf, error) {
	if l == nil || l.Credential.Type != tree.CredentialBasic || len(l.Credential.Identity) != codec.HashSize || len(l.SignatureKey) != ed25519.PublicKeySize {
		return leaf{}, fmt.Errorf("not a basic credential of 32 bytes with an Ed25519 key: %w", client.ErrCredential)
	}
	return leaf{codec.Hash(l.Credential.Identity), codec.PublicKey(l.SignatureKey)}, nil
}

// Leaf implements tree.Rules.
func (r *rules) Leaf(e tree.Event, old, node *tree.LeafNode) error {
	l, err := readLeaf(node)
	if err != nil {
		return err
	}
	switch {
	case r.check == nil:
		return errors.New("a leaf outside of any call")
	case e == tree.EventExternalJoin:
		return errors.New("nobody joins without being added")
	case old != nil && (!bytes.Equal(old.Credential.Identity, node.Credential.Identity) || !bytes.Equal(old.SignatureKey, node.SignatureKey)):
		return fmt.Errorf("leaf replaced by another device's: %w", client.ErrCredential)
	}
	return r.check(l.device, l.key, e != tree.EventTree)
}

// Lifetime implements tree.Rules.
func (r *rules) Lifetime(e tree.Event, l tree.Lifetime) error {
	if e == tree.EventTree {
		return nil // who is a member stays one
	}
	if !l.AtMost(lifetime + skew) {
		return errors.New("KeyPackage that lives too long")
	}
	if !r.at.IsZero() && !l.Covers(r.at) {
		return errors.New("KeyPackage isn't valid now")
	}
	return nil
}

// Client implements tree.Rules: a device has one leaf.
func (r *rules) Client(l *tree.LeafNode) string { return string(l.Credential.Identity) }

// ExternalSender implements tree.Rules.
func (r *rules) ExternalSender(*tree.ExternalSender) error {
	return errors.New("groups have no external senders")
}

// Proposal implements tree.Rules.
func (r *rules) Proposal(_ *tree.Group, from tree.Sender, p tree.Proposal) error {
	switch p.(type) {
	case *tree.Add, *tree.Remove:
		if from.Type == tree.SenderMember {
			return nil
		}
	}
	return fmt.Errorf("proposal of type %d by a sender of type %d", p.Type(), from.Type)
}
