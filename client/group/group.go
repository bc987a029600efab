// Package group is one device's MLS groups (RFC 9420, package mls) behind
// client.Groups.
//
// A conversation is a group in cipher suite 1. Which steps it takes, from whom,
// and what it pins, package handshake says: each leaf that appears or changes, by
// whatever path, is judged by the credentials of the call, and each leaf of the
// epoch that a commit leads to.
//
// Keys are deleted as they are used: one message's key opens no other message,
// and each commit heals the group from whoever had copied its committer's
// state. A group is stored in parts, of which a step writes those it changes.
package group

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

const (
	// lifetime is for how long a KeyPackage may be used. The server keeps them
	// until then, and a device away for longer joins when it is back.
	skew     = time.Hour
	lifetime = wire.KeyPackageLifetime - skew
)

// Groups is one device's MLS state. It is not safe for concurrent use.
type Groups struct {
	device codec.Hash
	suite  *cipher.Suite
	signer cipher.Signer
	now    func() time.Time
	stored client.Stored
	config mls.Config
	rules  *handshake.Rules

	groups map[codec.ID]*entry
	stock  *stock
	dirty  map[place][]byte // new values, nil where one is gone
}

var _ client.Groups = (*Groups)(nil)

// place is where a value is stored.
type place struct {
	conversation codec.ID // zero: of the device
	name         string
}

// entry is one group in memory.
type entry struct {
	*mls.Group
	rosters map[uint64]manifest.Roster // by epoch, made when first asked for
	staged  bool                       // an earlier version staged a commit
}

// New returns a client.NewGroups whose KeyPackages live from now's time on.
func New(now func() time.Time) client.NewGroups {
	return func(device codec.Hash, seed []byte, stored client.Stored) (client.Groups, error) {
		if len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("signing key seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
		}
		suite, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
		if err != nil {
			return nil, err
		}
		signer, err := suite.NewSigner(seed)
		if err != nil {
			return nil, fmt.Errorf("couldn't use the signing key: %w", err)
		}
		s := &Groups{
			device: device, suite: suite, signer: signer, now: now, stored: stored, rules: &handshake.Rules{},
			groups: map[codec.ID]*entry{}, dirty: map[place][]byte{},
		}
		s.config = mls.Config{Rules: s.rules, Signer: s.signerOf, Random: rand.Reader}
		return s, nil
	}
}

func (s *Groups) signerOf(key []byte) (cipher.Signer, error) {
	if !bytes.Equal(key, s.signer.Public()) {
		return nil, errors.New("not this device's signature key")
	}
	return s.signer, nil
}

// put stages a value of the device; nil erases it.
func (s *Groups) put(name string, value []byte) { s.dirty[place{name: name}] = value }

// get reads a value of the device, staged or stored; nil where there is none.
func (s *Groups) get(name string) ([]byte, error) {
	if v, ok := s.dirty[place{name: name}]; ok {
		return v, nil
	}
	v, err := s.stored.Value(name)
	if err != nil {
		return nil, fmt.Errorf("couldn't load MLS state: %w", err)
	}
	return v, nil
}

// values returns all values of a group that are stored and not erased since.
func (s *Groups) values(id codec.ID) (map[string][]byte, error) {
	values, err := s.stored.Group(id)
	if err != nil {
		return nil, fmt.Errorf("couldn't load a group: %w", err)
	}
	for at := range s.dirty {
		if at.conversation == id {
			delete(values, at.name) // nothing else is staged between calls of Changes
		}
	}
	return values, nil
}

// entry returns a group, from memory or as it was stored.
func (s *Groups) entry(id codec.ID) (*entry, error) {
	if e, ok := s.groups[id]; ok {
		return e, nil
	}
	values, err := s.values(id)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return s.earlierEntry(id)
	}
	staged, err := s.get(stagedName(id))
	if err != nil {
		return nil, err
	}
	records := make([]mls.Record, 0, len(values))
	for name, v := range values {
		records = append(records, mls.Record{Key: []byte(name), Value: v})
	}
	g, err := mls.Restore(s.config, records)
	for _, v := range values {
		clear(v)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the group: %w", err)
	}
	e := s.enter(id, g)
	e.staged = staged != nil
	return e, nil
}

func (s *Groups) enter(id codec.ID, g *mls.Group) *entry {
	e := &entry{Group: g, rosters: map[uint64]manifest.Roster{}}
	s.groups[id] = e
	return e
}

// roster returns the devices of an epoch. The caller must not change it.
func (e *entry) roster(epoch uint64) (manifest.Roster, error) {
	if r, ok := e.rosters[epoch]; ok {
		return r, nil
	}
	members, err := e.Members(epoch)
	if err != nil {
		return nil, err
	}
	for old := range e.rosters {
		if old+mls.PastEpochs < e.Group.Epoch() {
			delete(e.rosters, old)
		}
	}
	r, err := rosterOf(members)
	if err != nil {
		return nil, err
	}
	e.rosters[epoch] = r
	return r, nil
}

func rosterOf(members iter.Seq2[tree.LeafIndex, *tree.LeafNode]) (manifest.Roster, error) {
	var devices []codec.Hash
	for _, node := range members {
		l, err := handshake.ReadLeaf(node)
		if err != nil {
			return nil, err
		}
		devices = append(devices, l.Device)
	}
	return manifest.NewRoster(devices), nil
}

// at says what the present epoch is.
func (e *entry) at(id codec.ID) (*client.Epoch, error) {
	roster, err := e.roster(e.Group.Epoch())
	if err != nil {
		return nil, err
	}
	return &client.Epoch{
		Conversation: id, Number: e.Group.Epoch(),
		Transcript: bytes.Clone(e.Public().Context().ConfirmedTranscriptHash), Roster: roster,
	}, nil
}

// Epoch implements client.Groups.
func (s *Groups) Epoch(conversation codec.ID) (*client.Epoch, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	return e.at(conversation)
}

// absent returns an error unless the device is not in a group.
func (s *Groups) absent(id codec.ID) error {
	switch _, err := s.entry(id); {
	case err == nil:
		return errors.New("this device is in the group")
	case errors.Is(err, client.ErrNoGroup):
		return nil
	default:
		return err
	}
}

// Create implements client.Groups.
func (s *Groups) Create(conversation codec.ID, check client.Credentials) (*client.Step, error) {
	if err := s.absent(conversation); err != nil {
		return nil, err
	}
	archive, err := check.Newest()
	if err != nil {
		return nil, err
	}
	kp, err := s.generate()
	if err != nil {
		return nil, err
	}
	defer s.judge(own{check, s}, time.Time{})()
	g, err := mls.Create(s.config, conversation[:], kp, archive.Extensions())
	if err != nil {
		return nil, fmt.Errorf("couldn't make a group: %w", err)
	}
	info, err := g.GroupInfo(false)
	if err != nil {
		return nil, err
	}
	at, err := s.enter(conversation, g).at(conversation)
	if err != nil {
		return nil, err
	}
	return &client.Step{Epoch: *at, GroupInfo: info}, nil
}

// alone refuses every device but this one.
func (s *Groups) alone(device codec.Hash, key codec.PublicKey) error {
	if device != s.device || !bytes.Equal(key[:], s.signer.Public()) {
		return fmt.Errorf("device %s: %w", device.Short(), client.ErrCredential)
	}
	return nil
}

// Join implements client.Groups.
func (s *Groups) Join(welcome []byte, check client.Credentials) (*client.Epoch, error) {
	ref, own, err := s.mine(welcome)
	if err != nil {
		return nil, err
	}
	end := s.judge(check, time.Time{})
	g, err := mls.Join(s.config, own, welcome, nil, nil)
	end()
	if err != nil {
		own.Erase()
		return nil, fmt.Errorf("couldn't join: %w", failure(err))
	}
	id, err := s.checkJoined(g, check)
	if err != nil {
		own.Erase() // the group's leaf key among them
		return nil, err
	}
	last := own.LastResort()
	if !last {
		s.spend(ref)
	}
	epoch, err := s.enter(id, g).at(id)
	if err != nil {
		return nil, err
	}
	epoch.Shared = last
	return epoch, nil
}

// checkJoined refuses groups that are valid MLS, and no conversation's.
func (s *Groups) checkJoined(g *mls.Group, check client.Credentials) (codec.ID, error) {
	if err := handshake.Context(check, g.Public()); err != nil {
		return codec.ID{}, err
	}
	if len(g.ID()) != codec.IDSize || codec.ID(g.ID()).IsZero() {
		return codec.ID{}, errors.New("group whose id is no conversation's")
	}
	own, err := handshake.ReadLeaf(g.Public().Tree().Leaf(g.Own()))
	if err != nil {
		return codec.ID{}, err
	}
	if err := s.alone(own.Device, own.Key); err != nil {
		return codec.ID{}, fmt.Errorf("the Welcome puts another in this device's leaf: %w", err)
	}
	inviter, err := handshake.ReadLeaf(g.Public().Tree().Leaf(g.Inviter()))
	if err != nil {
		return codec.ID{}, err
	}
	if err := check.Leaf(inviter.Device, inviter.Key, true); err != nil {
		return codec.ID{}, err
	}
	id := codec.ID(g.ID())
	if err := s.absent(id); err != nil {
		return codec.ID{}, fmt.Errorf("a Welcome: %w", err)
	}
	return id, nil
}

// Forget implements client.Groups.
func (s *Groups) Forget(conversation codec.ID) error {
	values, err := s.values(conversation)
	if err != nil {
		return err
	}
	if _, err := s.entry(conversation); err != nil && len(values) == 0 {
		return err
	}
	return s.erase(conversation)
}

// erase forgets all there is of a group, also of one that can't be read.
func (s *Groups) erase(id codec.ID) error {
	values, err := s.values(id)
	if err != nil {
		return err
	}
	if e, err := s.entry(id); err == nil {
		s.dropEarlier(id, e)
	}
	delete(s.groups, id)
	for name := range values {
		s.dirty[place{id, name}] = nil
	}
	return nil
}

// Changes implements client.Groups.
func (s *Groups) Changes() ([]client.Change, error) {
	for id, e := range s.groups {
		for _, r := range e.Changes() {
			s.dirty[place{id, string(r.Key)}] = r.Value
		}
	}
	if s.stock != nil && s.stock.changed {
		s.put(stockName, codec.Encode(s.stock.Refs))
		s.stock.changed = false
	}
	changes := make([]client.Change, 0, len(s.dirty))
	for at, value := range s.dirty {
		changes = append(changes, client.Change{Conversation: at.conversation, Name: at.name, Value: value})
	}
	slices.SortFunc(changes, func(a, b client.Change) int {
		return cmp.Or(bytes.Compare(a.Conversation[:], b.Conversation[:]), cmp.Compare(a.Name, b.Name))
	})
	clear(s.dirty)
	return changes, nil
}

// Revert implements client.Groups.
func (s *Groups) Revert() {
	clear(s.groups)
	clear(s.dirty)
	s.stock = nil
}

// failure gives an error of package mls the name by which a device knows it.
func failure(err error) error {
	for of, name := range map[error]error{
		mls.ErrKeyGone: client.ErrReplay, mls.ErrOwnMessage: client.ErrReplay,
		tree.ErrEpoch: client.ErrEpoch, mls.ErrNotAuthentic: client.ErrShutOut,
	} {
		if errors.Is(err, of) {
			return fmt.Errorf("%w (%w)", name, err)
		}
	}
	return err
}
