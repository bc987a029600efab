package group

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"chancery/client"
	"chancery/codec"
	"chancery/mls"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// stock is the KeyPackages handed out and not used yet.
type stock struct {
	Refs    [][]byte
	changed bool
}

const stockName = "keypackages"

// keyPackage is a KeyPackage with its private halves.
type keyPackage struct {
	_       struct{} `cbor:",toarray"`
	Package []byte
	Init    []byte
	Leaf    []byte
}

func packageName(ref []byte) string { return "keypackage/" + hex.EncodeToString(ref) }

func (s *Groups) loadStock() error {
	if s.stock != nil {
		return nil
	}
	raw, err := s.get(stockName)
	if err != nil {
		return err
	}
	st := &stock{}
	if raw != nil {
		if err := codec.Decode(raw, &st.Refs); err != nil {
			return fmt.Errorf("couldn't read the list of KeyPackages: %w", err)
		}
	}
	s.stock = st
	return nil
}

func (s *Groups) generate(extensions ...tree.Extension) (*mls.OwnKeyPackage, error) {
	now := s.now()
	life := tree.Lifetime{NotBefore: uint64(now.Add(-skew).Unix()), NotAfter: uint64(now.Add(lifetime).Unix())}
	own, err := mls.NewKeyPackage(s.suite, s.identity(), life, extensions, s.config.Random)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a KeyPackage: %w", err)
	}
	return own, nil
}

// KeyPackages implements client.Groups. Each is an MLSMessage (RFC 9420 §6).
func (s *Groups) KeyPackages(n, keep int) ([][]byte, error) {
	if err := s.loadStock(); err != nil {
		return nil, err
	}
	out := make([][]byte, 0, n)
	for range n {
		own, err := s.generate()
		if err != nil {
			return nil, err
		}
		s.stock.Refs = append(s.stock.Refs, s.keepPackage(own))
		s.stock.changed = true
		out = append(out, own.Message())
	}
	for len(s.stock.Refs) > keep {
		s.spend(s.stock.Refs[0])
	}
	return out, nil
}

// keepPackage stages a KeyPackage to be written and erases it in memory. It
// returns its reference.
func (s *Groups) keepPackage(own *mls.OwnKeyPackage) []byte {
	k := keyPackage{Package: syntax.Marshal(&own.Public)}
	k.Init, k.Leaf = own.ExposeSecrets()
	ref := own.Public.Ref(s.suite)
	s.put(packageName(ref), codec.Encode(k))
	own.Erase()
	return ref
}

// mine returns this device's KeyPackage that a Welcome is for.
func (s *Groups) mine(welcome []byte) (ref []byte, own *mls.OwnKeyPackage, err error) {
	m, err := tree.ParseMessage(bytes.Clone(welcome))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read the Welcome: %w", err)
	}
	w, ok := m.(*tree.Welcome)
	if !ok {
		return nil, nil, errors.New("not a Welcome")
	}
	if err := s.loadStock(); err != nil {
		return nil, nil, err
	}
	wanted := make(map[string]bool, len(w.Secrets))
	for i := range w.Secrets {
		wanted[string(w.Secrets[i].NewMember)] = true
	}
	refs := s.stock.Refs
	last, err := s.resorts()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range last {
		refs = append(refs[:len(refs):len(refs)], r.Ref)
	}
	for _, ref := range refs {
		if !wanted[string(ref)] {
			continue
		}
		raw, err := s.get(packageName(ref))
		if err != nil {
			return nil, nil, err
		}
		own, err := readKeyPackage(raw)
		return ref, own, err
	}
	return nil, nil, fmt.Errorf("the Welcome is for no KeyPackage of this device: %w", client.ErrShutOut)
}

func readKeyPackage(raw []byte) (*mls.OwnKeyPackage, error) {
	var k keyPackage
	if err := codec.Decode(raw, &k); err != nil {
		return nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	var public tree.KeyPackage
	if err := syntax.Unmarshal(k.Package, &public); err != nil {
		return nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	own, err := mls.RestoreKeyPackage(tree.MarshalMessage(&public), k.Init, k.Leaf)
	clear(k.Init)
	clear(k.Leaf)
	if err != nil {
		return nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	return own, nil
}

// spend erases a KeyPackage: it is for one group alone.
func (s *Groups) spend(ref []byte) {
	s.put(packageName(ref), nil)
	s.stock.Refs = slices.DeleteFunc(s.stock.Refs, func(r []byte) bool { return bytes.Equal(r, ref) })
	s.stock.changed = true
}
