package handshake

import (
	"errors"
	"testing"

	"chancery/codec"
	"chancery/manifest"
	"chancery/mls/tree"
)

// everybody are credentials that refuse nobody.
type everybody struct{}

func (everybody) Leaf(codec.Hash, codec.PublicKey, bool) error { return nil }
func (everybody) Join(codec.Hash, manifest.Roster) error       { return nil }
func (everybody) Newest() (Archive, error)                     { return Archive{}, nil }
func (everybody) Pinned(*Archive, Archive) error               { return nil }

// TestLeaves: a leaf is a device's, no larger than it has to be, and replaced by
// the same device alone.
func TestLeaves(t *testing.T) {
	leaf := func(change func(l *tree.LeafNode)) *tree.LeafNode {
		device := codec.Sum("device")
		l := &tree.LeafNode{SignatureKey: make([]byte, 32), Credential: tree.BasicCredential(device[:]), Source: tree.SourceUpdate}
		if change != nil {
			change(l)
		}
		return l
	}
	r := &Rules{Check: everybody{}}
	if err := r.Leaf(tree.EventCommit, leaf(nil), leaf(nil)); err != nil {
		t.Fatal(err)
	}
	other := codec.Sum("other")
	for name, l := range map[string]*tree.LeafNode{
		"another device":   leaf(func(l *tree.LeafNode) { l.Credential = tree.BasicCredential(other[:]) }),
		"another key":      leaf(func(l *tree.LeafNode) { l.SignatureKey = append([]byte{1}, make([]byte, 31)...) }),
		"a longer name":    leaf(func(l *tree.LeafNode) { l.Credential = tree.BasicCredential(make([]byte, 33)) }),
		"an X.509 leaf":    leaf(func(l *tree.LeafNode) { l.Credential.Type = tree.CredentialX509 }),
		"more than a leaf": leaf(func(l *tree.LeafNode) { l.Extensions = tree.Extensions{{Type: 0xf0a2, Data: make([]byte, maxLeaf)}} }),
	} {
		if err := r.Leaf(tree.EventCommit, leaf(nil), l); !errors.Is(err, ErrCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if (&Rules{}).Leaf(tree.EventTree, nil, leaf(nil)) == nil {
		t.Error("a leaf is judged by nobody")
	}
}
