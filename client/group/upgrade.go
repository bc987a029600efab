package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"chancery/client"
	"chancery/codec"
	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// Groups of versions before 0.2 lie under names of the device:
//
//	group/ID       which epochs are at hand
//	tree/ID        the present epoch but for its messages, the JSON of a library
//	epoch/ID/N     what the messages of epoch N need
//	ratchets/ID/N  where the senders' ratchets stand in epoch N
//	pending/ID     the epoch that a staged commit leads to
//
// What follows reads them once, and erases them with the step that first writes
// the group as it is kept now. A staged commit stays until it is merged or lost.

// earlierPlace is group/ID.
type earlierPlace struct {
	_       struct{} `cbor:",toarray"`
	Current uint64
	Oldest  uint64
}

// earlierStaged is pending/ID.
type earlierStaged struct {
	_    struct{} `cbor:",toarray"`
	Tree []byte   // tree/ID of its epoch
	Keys []byte   // epoch/ID/N
}

// earlierEpoch is epoch/ID/N.
type earlierEpoch struct {
	_          struct{} `cbor:",toarray"`
	Number     uint64
	Own        uint32 // unused: the tree says it too
	Width      uint32 // leaves of the tree, blank ones included
	SenderData []byte
	Encryption []byte
	Context    []byte
	Transcript []byte
	Leaves     []earlierLeaf
}

type earlierLeaf struct {
	_      struct{} `cbor:",toarray"`
	Index  uint32
	Device codec.Hash
	Key    codec.PublicKey
}

// earlierRatchet is an element of ratchets/ID/N.
type earlierRatchet struct {
	_          struct{} `cbor:",toarray"`
	Leaf       uint32
	Generation uint32
	Secret     []byte
}

// earlierTree is what is needed of tree/ID.
type earlierTree struct {
	Own     uint32            `json:"own_leaf_index"`
	Tree    []byte            `json:"ratchet_tree"`
	Interim []byte            `json:"interim_transcript_hash"`
	Leaf    []byte            `json:"my_leaf_encryption_key"`
	Nodes   map[uint32][]byte `json:"path_node_priv_keys"`
	Secrets struct {
		Exporter       []byte `json:"exporter_secret"`
		External       []byte `json:"external_secret"`
		Confirmation   []byte `json:"confirmation_key"`
		Membership     []byte `json:"membership_key"`
		Resumption     []byte `json:"resumption_secret"`
		Authentication []byte `json:"authentication_secret"`
		Init           []byte `json:"init_secret"`
	} `json:"epoch_secrets"`
}

func stagedName(id codec.ID) string { return "pending/" + id.String() }

// earlierEntry returns a group that an earlier version stored, or ErrNoGroup.
func (s *Groups) earlierEntry(id codec.ID) (*entry, error) {
	g, err := s.upgrade(id)
	if err != nil {
		return nil, err
	}
	if g == nil {
		return nil, client.ErrNoGroup
	}
	staged, err := s.get(stagedName(id))
	if err != nil {
		return nil, err
	}
	e := s.enter(id, g)
	e.staged = staged != nil
	return e, nil
}

// upgrade returns a group that an earlier version stored, nil where there is
// none, and stages that its values are erased.
func (s *Groups) upgrade(id codec.ID) (*mls.Group, error) {
	names := []string{"group/" + id.String(), "tree/" + id.String()}
	var at earlierPlace
	if found, err := s.earlier(names[0], &at); !found || err != nil {
		return nil, err
	}
	if at.Oldest > at.Current || at.Current-at.Oldest > mls.PastEpochs {
		return nil, errors.New("couldn't read a group of an earlier version: too many epochs")
	}
	raw, err := s.get(names[1])
	if err != nil {
		return nil, err
	}
	f, err := s.readTree(raw)
	if err != nil {
		return nil, err
	}
	for n := at.Oldest; n <= at.Current; n++ {
		var keys earlierEpoch
		var ratchets []earlierRatchet
		epoch, position := fmt.Sprintf("epoch/%s/%d", id, n), fmt.Sprintf("ratchets/%s/%d", id, n)
		if _, err := s.earlier(epoch, &keys); err != nil {
			return nil, err
		}
		if _, err := s.earlier(position, &ratchets); err != nil {
			return nil, err
		}
		e, err := keys.foreign(ratchets)
		if err != nil {
			return nil, err
		}
		names = append(names, epoch, position)
		if n < at.Current {
			f.Past = append(f.Past, *e)
			continue
		}
		f.Present = *e
	}
	g, err := s.importGroup(f)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s.put(name, nil)
	}
	return g, nil
}

// mergeEarlier enters the epoch of a commit that an earlier version staged. It
// returns ErrEpoch where there is none for this epoch.
func (s *Groups) mergeEarlier(id codec.ID, e *entry) error {
	var staged earlierStaged
	found, err := s.earlier(stagedName(id), &staged)
	if err != nil {
		return err
	}
	var keys earlierEpoch
	if found {
		if err := codec.Decode(staged.Keys, &keys); err != nil {
			return fmt.Errorf("couldn't read a commit that an earlier version staged: %w", err)
		}
	}
	if !found || keys.Number != e.Group.Epoch()+1 {
		return fmt.Errorf("no commit is staged in epoch %d: %w", e.Group.Epoch(), client.ErrEpoch)
	}
	f, err := s.readTree(staged.Tree)
	if err != nil {
		return err
	}
	present, err := keys.foreign(nil)
	if err != nil {
		return err
	}
	f.Present, f.Former = *present, e.Group
	g, err := s.importGroup(f)
	if err != nil {
		return err
	}
	e.Group = g
	s.dropEarlier(id, e)
	return nil
}

// dropEarlier forgets a commit that an earlier version staged.
func (s *Groups) dropEarlier(id codec.ID, e *entry) {
	if e.staged {
		s.put(stagedName(id), nil)
		e.staged = false
	}
}

func (s *Groups) earlier(name string, v any) (found bool, err error) {
	raw, err := s.get(name)
	if err != nil || raw == nil {
		return false, err
	}
	if err := codec.Decode(raw, v); err != nil {
		return false, fmt.Errorf("couldn't read %s of an earlier version: %w", name[:5], err)
	}
	return true, nil
}

func (s *Groups) importGroup(f *mls.Foreign) (*mls.Group, error) {
	g, err := mls.Import(s.config, f)
	if err != nil {
		return nil, fmt.Errorf("couldn't take over a group of an earlier version: %w", err)
	}
	return g, nil
}

// readTree reads all of a group but what its messages need.
func (s *Groups) readTree(raw []byte) (*mls.Foreign, error) {
	defer clear(raw)
	var t earlierTree
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, errors.New("couldn't read a group of an earlier version: not the JSON that was written")
	}
	nodes, err := readNodes(s.suite, t.Tree)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the tree of an earlier version: %w", err)
	}
	x := &t.Secrets
	own := tree.LeafIndex(t.Own)
	f := &mls.Foreign{
		Own: own, Tree: nodes, Interim: t.Interim, Keys: map[tree.NodeIndex][]byte{own.Node(): t.Leaf},
		Exporter: x.Exporter, External: x.External, Confirmation: x.Confirmation, Membership: x.Membership,
		Resumption: x.Resumption, Authentication: x.Authentication, Init: x.Init,
	}
	for n, key := range t.Nodes {
		f.Keys[tree.NodeIndex(n)] = key
	}
	return f, nil
}

func (k *earlierEpoch) foreign(ratchets []earlierRatchet) (*mls.ForeignEpoch, error) {
	e := &mls.ForeignEpoch{
		Size: sizeOf(k.Width), SenderData: k.SenderData, Encryption: k.Encryption,
		Members: map[tree.LeafIndex]*tree.LeafNode{},
	}
	if err := syntax.Unmarshal(k.Context, &e.Context); err != nil {
		return nil, fmt.Errorf("couldn't read an epoch of an earlier version: %w", err)
	}
	for _, l := range k.Leaves {
		// Of a past epoch's leaves no more is known than whose they were.
		e.Members[tree.LeafIndex(l.Index)] = &tree.LeafNode{
			SignatureKey: l.Key[:], Credential: tree.BasicCredential(l.Device[:]), Source: tree.SourceUpdate,
		}
	}
	for _, r := range ratchets {
		e.Ratchets = append(e.Ratchets, mls.ForeignRatchet{Leaf: tree.LeafIndex(r.Leaf), Next: r.Generation, Secret: r.Secret})
	}
	return e, nil
}

// sizeOf returns the size of the tree with that many leaves, blank ones at its
// end left out.
func sizeOf(leaves uint32) tree.Size {
	return tree.Size(1) << bits.Len32(max(leaves, 1)-1)
}

// readNodes reads a tree as the library wrote it: the number of leaves, then a
// byte for each node, 0 for a blank one, 1 before a leaf, 2 before a parent.
func readNodes(s *cipher.Suite, raw []byte) (*tree.Tree, error) {
	r := syntax.NewReader(raw)
	width := r.Uint32()
	if width == 0 || width > tree.MaxLeaves {
		return nil, fmt.Errorf("%d leaves", width)
	}
	leaves, parents := map[tree.LeafIndex]*tree.LeafNode{}, map[tree.NodeIndex]*tree.ParentNode{}
	for n := range tree.NodeIndex(2*width - 1) {
		switch kind := r.Uint8(); {
		case kind == 0:
		case kind == 1 && n.IsLeaf():
			l := &tree.LeafNode{}
			if err := syntax.Unmarshal(r.Opaque(), l); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", n.Leaf(), err)
			}
			leaves[n.Leaf()] = l
		case kind == 2 && !n.IsLeaf():
			p := &tree.ParentNode{}
			p.Decode(r)
			parents[n] = p
		default:
			return nil, fmt.Errorf("node %d of kind %d", n, kind)
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
	}
	if err := r.Finish(); err != nil {
		return nil, err
	}
	return tree.RestoreTree(s, sizeOf(width), leaves, parents)
}
