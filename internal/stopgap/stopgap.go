// Package stopgap is one device's MLS groups (RFC 9420) on
// github.com/thomas-vilte/mls-go, which no other package imports. It stands
// behind client.Groups until MLS of our own takes its place.
//
// What that library leaves out is done here. It accepts a Welcome without a
// ratchet tree: refused. It checks no credential on a received commit: every
// leaf is checked against the control log before a step takes effect. It accepts
// a replayed ciphertext after a restart: each sender's generations only go up.
// It mutates a group by commits that turn out wrong: the group is read again
// from its last good state. It persists neither KeyPackages nor the keys of past
// epochs: both are kept here.
//
// A group lies in four kinds of value: its place (current and oldest epoch), the
// library's state, which only handshakes need, and for each of the last few
// epochs its message keys, fixed, and its ratchets, small and changed by every
// message. Forward secrecy is by epoch: until the epoch ends, its encryption
// secret is kept. Handshakes are PublicMessages of Add and Remove proposals by
// value and nothing else; no external commit is accepted.
package stopgap

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/thomas-vilte/mls-go/ciphersuite"
	"github.com/thomas-vilte/mls-go/credentials"
	"github.com/thomas-vilte/mls-go/framing"
	"github.com/thomas-vilte/mls-go/group"
	"github.com/thomas-vilte/mls-go/keypackages"

	"chancery/client"
	"chancery/codec"
)

const (
	suite = ciphersuite.MLS128DHKEMX25519
	// keptEpochs is how many epochs' message keys are kept, the current one
	// included, for messages that were accepted just before a commit.
	keptEpochs = 4
	// lifetime is for how long a KeyPackage may be used. The server keeps them
	// until then, and a device away for longer joins when it is back.
	lifetime = 83 * 24 * time.Hour
	skew     = time.Hour
)

// Groups is one device's MLS state. It is not safe for concurrent use.
type Groups struct {
	device codec.Hash
	key    ed25519.PrivateKey
	now    func() time.Time
	load   func(name string) ([]byte, error)

	groups map[codec.ID]*entry
	stock  *stock
	dirty  map[string][]byte // name → new value, nil where it is gone
}

var _ client.Groups = (*Groups)(nil)

// New returns a client.NewGroups whose KeyPackages live from now's time on.
func New(now func() time.Time) client.NewGroups {
	return func(device codec.Hash, seed []byte, load func(string) ([]byte, error)) (client.Groups, error) {
		if len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("signing key seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
		}
		return &Groups{
			device: device, key: ed25519.NewKeyFromSeed(seed), now: now, load: load,
			groups: map[codec.ID]*entry{}, dirty: map[string][]byte{},
		}, nil
	}
}

func (s *Groups) signer() *ciphersuite.SignaturePrivateKey {
	return ciphersuite.NewEd25519SignaturePrivateKey(s.key)
}

// put stages a value; nil erases it.
func (s *Groups) put(name string, value []byte) { s.dirty[name] = value }

// get reads a value, staged or stored; nil where there is none.
func (s *Groups) get(name string) ([]byte, error) {
	if v, ok := s.dirty[name]; ok {
		return v, nil
	}
	v, err := s.load(name)
	if err != nil {
		return nil, fmt.Errorf("couldn't load MLS state: %w", err)
	}
	return v, nil
}

// Changes implements client.Groups.
func (s *Groups) Changes() ([]client.Change, error) {
	for _, e := range s.groups {
		if err := s.save(e); err != nil {
			return nil, err
		}
	}
	if s.stock != nil && s.stock.changed {
		s.put(stockName, codec.Encode(s.stock.Refs))
		s.stock.changed = false
	}
	changes := make([]client.Change, 0, len(s.dirty))
	for name, value := range s.dirty {
		changes = append(changes, client.Change{Name: name, Value: value})
	}
	slices.SortFunc(changes, func(a, b client.Change) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	clear(s.dirty)
	return changes, nil
}

// Revert implements client.Groups.
func (s *Groups) Revert() {
	clear(s.groups)
	clear(s.dirty)
	s.stock = nil
}

// guarded turns a panic of the library, which parses what others sent, into an
// error: one member's malformed message must not end the program.
func guarded(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("MLS library gave up: %v", r)
	}
}

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

func (s *Groups) generate() (*keypackages.KeyPackage, *keypackages.KeyPackagePrivateKeys, error) {
	now := s.now()
	kp, private, err := keypackages.Generate(&credentials.CredentialWithKey{
		Credential:        credentials.NewBasicCredential(s.device[:]),
		Ed25519PrivateKey: s.key,
		SignatureKeyBytes: s.key.Public().(ed25519.PublicKey),
	}, suite, keypackages.WithLifetime(uint64(now.Add(-skew).Unix()), uint64(now.Add(lifetime).Unix())))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a KeyPackage: %w", err)
	}
	return kp, private, nil
}

// KeyPackages implements client.Groups. Each is an MLSMessage (RFC 9420 §6).
func (s *Groups) KeyPackages(n, keep int) ([][]byte, error) {
	if err := s.loadStock(); err != nil {
		return nil, err
	}
	out := make([][]byte, 0, n)
	for range n {
		kp, private, err := s.generate()
		if err != nil {
			return nil, err
		}
		raw := kp.Marshal()
		ref := ciphersuite.MakeKeyPackageRef(raw, suite.HashFunction()).AsSlice()
		s.put(packageName(ref), codec.Encode(keyPackage{
			Package: raw, Init: private.InitKey.Bytes(), Leaf: private.EncryptionKey.Bytes(),
		}))
		s.stock.Refs = append(s.stock.Refs, ref)
		s.stock.changed = true
		out = append(out, (&framing.MLSMessage{KeyPackage: raw}).Marshal())
	}
	for len(s.stock.Refs) > keep {
		s.spend(s.stock.Refs[0])
	}
	return out, nil
}

// mine returns this device's KeyPackage that a Welcome is for.
func (s *Groups) mine(w *group.Welcome) (ref []byte, kp *keypackages.KeyPackage, private *keypackages.KeyPackagePrivateKeys, err error) {
	if err := s.loadStock(); err != nil {
		return nil, nil, nil, err
	}
	wanted := make(map[string]bool, len(w.Secrets))
	for i := range w.Secrets {
		wanted[string(w.Secrets[i].NewMember)] = true
	}
	for _, r := range s.stock.Refs {
		if !wanted[string(r)] {
			continue
		}
		raw, err := s.get(packageName(r))
		if err != nil {
			return nil, nil, nil, err
		}
		kp, private, err := readKeyPackage(raw)
		return r, kp, private, err
	}
	return nil, nil, nil, errors.New("the Welcome is for no KeyPackage of this device")
}

func readKeyPackage(raw []byte) (*keypackages.KeyPackage, *keypackages.KeyPackagePrivateKeys, error) {
	var k keyPackage
	if err := codec.Decode(raw, &k); err != nil {
		return nil, nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	kp, err := keypackages.UnmarshalKeyPackage(k.Package)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	private := &keypackages.KeyPackagePrivateKeys{}
	if private.InitKey, err = ecdh.X25519().NewPrivateKey(k.Init); err != nil {
		return nil, nil, errors.New("couldn't read a KeyPackage's init key")
	}
	if private.EncryptionKey, err = ecdh.X25519().NewPrivateKey(k.Leaf); err != nil {
		return nil, nil, errors.New("couldn't read a KeyPackage's leaf key")
	}
	return kp, private, nil
}

// spend erases a KeyPackage: it is for one group alone.
func (s *Groups) spend(ref []byte) {
	s.put(packageName(ref), nil)
	s.stock.Refs = slices.DeleteFunc(s.stock.Refs, func(r []byte) bool { return bytes.Equal(r, ref) })
	s.stock.changed = true
}

// parseKeyPackage reads another device's KeyPackage and checks all of it.
func parseKeyPackage(message []byte, check client.Credentials) (*keypackages.KeyPackage, leaf, error) {
	m, err := framing.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, leaf{}, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	if m.KeyPackage == nil {
		return nil, leaf{}, errors.New("not a KeyPackage")
	}
	kp, err := keypackages.UnmarshalKeyPackage(m.KeyPackage)
	if err != nil {
		return nil, leaf{}, fmt.Errorf("couldn't read a KeyPackage: %w", err)
	}
	l, err := checkPackage(kp, check)
	return kp, l, err
}

func checkPackage(kp *keypackages.KeyPackage, check client.Credentials) (leaf, error) {
	if kp == nil || kp.LeafNode == nil || kp.CipherSuite != suite {
		return leaf{}, errors.New("KeyPackage of another cipher suite")
	}
	if err := kp.Validate(); err != nil {
		return leaf{}, fmt.Errorf("KeyPackage: %w", err)
	}
	if err := kp.Verify(suite); err != nil {
		return leaf{}, fmt.Errorf("KeyPackage: %w", err)
	}
	l, err := readLeaf(kp.LeafNode.Credential, kp.LeafNode.SignatureKeyBytes)
	if err != nil {
		return leaf{}, err
	}
	return l, check(l.Device, l.Key, true)
}

// readLeaf reads who a leaf says it is.
func readLeaf(c *credentials.Credential, key []byte) (leaf, error) {
	if c == nil || c.CredentialType != credentials.BasicCredential || len(c.Identity) != codec.HashSize || len(key) != ed25519.PublicKeySize {
		return leaf{}, fmt.Errorf("not a basic credential of 32 bytes with an Ed25519 key: %w", client.ErrCredential)
	}
	return leaf{Device: codec.Hash(c.Identity), Key: codec.PublicKey(key)}, nil
}
