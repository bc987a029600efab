package stopgap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/thomas-vilte/mls-go/ciphersuite"
	"github.com/thomas-vilte/mls-go/extensions"
	"github.com/thomas-vilte/mls-go/framing"
	"github.com/thomas-vilte/mls-go/group"
	"github.com/thomas-vilte/mls-go/keypackages"
	"github.com/thomas-vilte/mls-go/treesync"

	"chancery/client"
	"chancery/codec"
)

// place says which epochs of a group are at hand.
type place struct {
	_       struct{} `cbor:",toarray"`
	Current uint64
	Oldest  uint64
}

// pending is a staged commit's outcome, kept on disk until the server has said
// whether it stands.
type pending struct {
	_    struct{} `cbor:",toarray"`
	Tree []byte
	Keys []byte
}

// entry is one group in memory. Its parts are loaded as they are needed.
type entry struct {
	id       codec.ID
	place    place
	keys     map[uint64]*epochKeys
	ratchets map[uint64]*ratchets

	// tree is the library's state of the current epoch, loaded for handshakes
	// and dropped once written. Applied lists the commits that it took since it
	// was last written, to repeat them after one that fails half-way.
	tree    *group.Group
	changed bool
	applied [][]byte
}

func (e *entry) name(part string) string { return part + "/" + e.id.String() }

func (e *entry) epochName(part string, n uint64) string {
	return fmt.Sprintf("%s/%s/%d", part, e.id, n)
}

func (s *Groups) entry(id codec.ID) (*entry, error) {
	if e, ok := s.groups[id]; ok {
		return e, nil
	}
	e := newEntry(id)
	raw, err := s.get(e.name("group"))
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, client.ErrNoGroup
	}
	if err := codec.Decode(raw, &e.place); err != nil {
		return nil, fmt.Errorf("couldn't read the group's place: %w", err)
	}
	s.groups[id] = e
	return e, nil
}

func newEntry(id codec.ID) *entry {
	return &entry{id: id, keys: map[uint64]*epochKeys{}, ratchets: map[uint64]*ratchets{}}
}

// epoch returns the message keys of an epoch that is still at hand.
func (s *Groups) epoch(e *entry, n uint64) (*epochKeys, *ratchets, error) {
	if n > e.place.Current || n < e.place.Oldest {
		return nil, nil, fmt.Errorf("epoch %d of a group in epoch %d: %w", n, e.place.Current, client.ErrEpoch)
	}
	if k, ok := e.keys[n]; ok {
		return k, e.ratchets[n], nil
	}
	raw, err := s.get(e.epochName("epoch", n))
	if err != nil {
		return nil, nil, err
	}
	keys := &epochKeys{}
	if err := codec.Decode(raw, keys); err != nil {
		return nil, nil, fmt.Errorf("couldn't read the keys of epoch %d: %w", n, err)
	}
	rs := &ratchets{}
	if raw, err = s.get(e.epochName("ratchets", n)); err != nil {
		return nil, nil, err
	}
	if raw != nil {
		if err := codec.Decode(raw, &rs.list); err != nil {
			return nil, nil, fmt.Errorf("couldn't read the ratchets of epoch %d: %w", n, err)
		}
	}
	e.keys[n], e.ratchets[n] = keys, rs
	return keys, rs, nil
}

// library returns the library's state of the group's current epoch.
func (s *Groups) library(e *entry) (*group.Group, error) {
	if e.tree != nil {
		return e.tree, nil
	}
	raw, err := s.get(e.name("tree"))
	if err != nil {
		return nil, err
	}
	g, err := group.UnmarshalGroupState(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the group: %w", err)
	}
	e.tree = g
	return g, nil
}

// state encodes a group of the library without what lies elsewhere or is never
// used: ratchets, and a resumption secret for every epoch there ever was.
func state(g *group.Group) ([]byte, error) {
	raw, err := g.MarshalState()
	if err != nil {
		return nil, fmt.Errorf("couldn't encode the group: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("couldn't encode the group: %w", err)
	}
	delete(fields, "secret_tree")
	delete(fields, "cached_psks")
	clear(raw)
	return json.Marshal(fields)
}

// save stages what has changed in a group.
func (s *Groups) save(e *entry) error {
	if e.changed {
		raw, err := state(e.tree)
		if err != nil {
			return err
		}
		s.put(e.name("tree"), raw)
		e.changed, e.applied = false, nil
	}
	e.tree = nil // large, and not needed for messages
	for n, rs := range e.ratchets {
		if rs.changed {
			s.put(e.epochName("ratchets", n), codec.Encode(rs.list))
			rs.changed = false
		}
	}
	return nil
}

// enter moves a group to its next epoch, or puts a new one in place.
func (s *Groups) enter(e *entry, keys *epochKeys) {
	if _, known := s.groups[e.id]; !known {
		s.groups[e.id] = e
		e.place.Oldest = keys.Number
	}
	e.place.Current = keys.Number
	e.keys[keys.Number], e.ratchets[keys.Number] = keys, &ratchets{}
	s.put(e.epochName("epoch", keys.Number), codec.Encode(keys))
	for ; e.place.Oldest+keptEpochs <= e.place.Current; e.place.Oldest++ {
		s.erase(e, e.place.Oldest)
	}
	s.put(e.name("group"), codec.Encode(e.place))
}

func (s *Groups) erase(e *entry, n uint64) {
	if k, ok := e.keys[n]; ok {
		clear(k.Encryption)
		clear(k.SenderData)
	}
	delete(e.keys, n)
	delete(e.ratchets, n)
	s.put(e.epochName("epoch", n), nil)
	s.put(e.epochName("ratchets", n), nil)
}

// keysOf reads the message keys and leaves of a group's epoch, and refuses one in
// which a leaf is no device or a device has two leaves.
func keysOf(g *group.Group) (*epochKeys, error) {
	ctx := g.GroupContext()
	secrets := g.EpochSecrets()
	k := &epochKeys{
		Number: g.Epoch().AsUint64(), Own: uint32(g.OwnLeafIndex()), Width: g.SecretTree().LeafCount(),
		SenderData: bytes.Clone(secrets.SenderDataSecret.AsSlice()), Encryption: bytes.Clone(secrets.EncryptionSecret.AsSlice()),
		Context: ctx.Marshal(), Transcript: bytes.Clone(ctx.ConfirmedTranscriptHash),
	}
	seen := map[codec.Hash]bool{}
	for i := range k.Width {
		node := g.GetTreeLeaf(group.LeafNodeIndex(i))
		if node == nil || node.State != treesync.NodeStatePresent || node.LeafData == nil {
			continue
		}
		l, err := readLeaf(node.LeafData.Credential, node.LeafData.SigKeyBytes())
		if err != nil {
			return nil, err
		}
		if seen[l.Device] {
			return nil, fmt.Errorf("device %s has two leaves: %w", l.Device.Short(), client.ErrCredential)
		}
		seen[l.Device] = true
		l.Index = i
		k.Leaves = append(k.Leaves, l)
	}
	return k, nil
}

func (k *epochKeys) public(id codec.ID) *client.Epoch {
	return &client.Epoch{Conversation: id, Number: k.Number, Transcript: bytes.Clone(k.Transcript), Roster: k.devices()}
}

// Epoch implements client.Groups.
func (s *Groups) Epoch(conversation codec.ID) (*client.Epoch, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	keys, _, err := s.epoch(e, e.place.Current)
	if err != nil {
		return nil, err
	}
	return keys.public(conversation), nil
}

// Create implements client.Groups.
func (s *Groups) Create(conversation codec.ID) (*client.Epoch, error) {
	if _, err := s.entry(conversation); !errors.Is(err, client.ErrNoGroup) {
		return nil, errors.Join(errors.New("the group exists"), err)
	}
	kp, private, err := s.generate()
	if err != nil {
		return nil, err
	}
	g, err := group.NewGroup(group.NewGroupID(conversation[:]), suite, kp, private)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a group: %w", err)
	}
	keys, err := keysOf(g)
	if err != nil {
		return nil, err
	}
	if err := s.found(newEntry(conversation), g, keys); err != nil {
		return nil, err
	}
	return keys.public(conversation), nil
}

// found puts a new group in place.
func (s *Groups) found(e *entry, g *group.Group, keys *epochKeys) error {
	tree, err := state(g)
	if err != nil {
		return err
	}
	s.put(e.name("tree"), tree)
	s.enter(e, keys)
	return nil
}

// Forget implements client.Groups.
func (s *Groups) Forget(conversation codec.ID) error {
	e, err := s.entry(conversation)
	if err != nil {
		return err
	}
	for n := e.place.Oldest; n <= e.place.Current; n++ {
		s.erase(e, n)
	}
	for _, part := range []string{"tree", "pending", "group"} {
		s.put(e.name(part), nil)
	}
	delete(s.groups, conversation)
	return nil
}

// copyOf returns a copy of a group's library state to stage a commit on: what
// the library does to a group whose commit is lost can't be undone.
func (s *Groups) copyOf(e *entry) (*group.Group, error) {
	g, err := s.library(e)
	if err != nil {
		return nil, err
	}
	if !e.changed {
		e.tree = nil // the next to need it reads it again
		return g, nil
	}
	raw, err := state(g)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	return group.UnmarshalGroupState(raw)
}

// draft returns a group, the keys of its epoch, and a copy to stage a commit on.
func (s *Groups) draft(conversation codec.ID) (*entry, *epochKeys, *group.Group, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, nil, nil, err
	}
	keys, _, err := s.epoch(e, e.place.Current)
	if err != nil {
		return nil, nil, nil, err
	}
	g, err := s.copyOf(e)
	if err != nil {
		return nil, nil, nil, err
	}
	return e, keys, g, nil
}

// Add implements client.Groups.
func (s *Groups) Add(conversation codec.ID, packages [][]byte, check client.Credentials) (step *client.Step, err error) {
	defer guarded(&err)
	e, keys, g, err := s.draft(conversation)
	if err != nil {
		return nil, err
	}
	added := make([]*keypackages.KeyPackage, len(packages))
	for i, raw := range packages {
		kp, l, err := parseKeyPackage(raw, check)
		if err != nil {
			return nil, err
		}
		if _, ok := keys.find(l.Device); ok {
			return nil, fmt.Errorf("device %s is in the group", l.Device.Short())
		}
		if _, err := g.AddMember(kp); err != nil {
			return nil, fmt.Errorf("couldn't add device %s: %w", l.Device.Short(), err)
		}
		added[i] = kp
	}
	return s.stage(e, g, added)
}

// Remove implements client.Groups.
func (s *Groups) Remove(conversation codec.ID, devices []codec.Hash) (step *client.Step, err error) {
	defer guarded(&err)
	e, keys, g, err := s.draft(conversation)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		l, ok := keys.find(d)
		if !ok || l.Index == keys.Own {
			return nil, fmt.Errorf("device %s is not another member of the group", d.Short())
		}
		if _, err := g.RemoveMember(group.LeafNodeIndex(l.Index)); err != nil {
			return nil, fmt.Errorf("couldn't remove device %s: %w", d.Short(), err)
		}
	}
	return s.stage(e, g, nil)
}

// stage commits a copy's proposals on the copy.
func (s *Groups) stage(e *entry, g *group.Group, added []*keypackages.KeyPackage) (*client.Step, error) {
	staged, err := g.Commit(s.signer(), ciphersuite.NewSignaturePublicKey(s.key[32:]), nil)
	if err != nil {
		return nil, fmt.Errorf("couldn't commit: %w", err)
	}
	ac := staged.AuthenticatedContent()
	commit := framing.NewMLSMessagePublic(&framing.PublicMessage{
		Content: ac.Content, Auth: ac.Auth, MembershipTag: staged.MembershipTag(),
	}).Marshal()
	if err := g.MergeCommit(staged); err != nil {
		return nil, fmt.Errorf("couldn't commit: %w", err)
	}
	keys, err := keysOf(g)
	if err != nil {
		return nil, err
	}
	step := &client.Step{Epoch: *keys.public(e.id), Commit: commit}
	if len(added) > 0 {
		w, err := g.CreateWelcomeWithOpts(added, s.signer(),
			group.WithJoinerSecret(staged.JoinerSecret()), group.WithPSKIDs(staged.PskIDs()),
			group.WithPSKSecret(staged.RawPskSecret()), group.WithStagedCommit(staged),
			group.WithGroupInfoOptions(group.WithExternalPub(false)))
		if err != nil {
			return nil, fmt.Errorf("couldn't make the Welcome: %w", err)
		}
		step.Welcome = (&framing.MLSMessage{Welcome: w.Marshal()}).Marshal()
	}
	tree, err := state(g)
	if err != nil {
		return nil, err
	}
	s.put(e.name("pending"), codec.Encode(pending{Tree: tree, Keys: codec.Encode(keys)}))
	return step, nil
}

// Merge implements client.Groups.
func (s *Groups) Merge(conversation codec.ID) error {
	e, err := s.entry(conversation)
	if err != nil {
		return err
	}
	raw, err := s.get(e.name("pending"))
	if err != nil {
		return err
	}
	if raw == nil {
		return errors.New("no commit is staged")
	}
	var p pending
	if err := codec.Decode(raw, &p); err != nil {
		return fmt.Errorf("couldn't read the staged commit: %w", err)
	}
	keys := &epochKeys{}
	if err := codec.Decode(p.Keys, keys); err != nil {
		return fmt.Errorf("couldn't read the staged commit: %w", err)
	}
	if keys.Number != e.place.Current+1 {
		return fmt.Errorf("commit to epoch %d staged in epoch %d: %w", keys.Number, e.place.Current, client.ErrEpoch)
	}
	e.tree, e.changed, e.applied = nil, false, nil
	s.put(e.name("tree"), p.Tree)
	s.put(e.name("pending"), nil)
	s.enter(e, keys)
	return nil
}

// Discard implements client.Groups.
func (s *Groups) Discard(conversation codec.ID) {
	s.put(newEntry(conversation).name("pending"), nil)
}

// Join implements client.Groups.
func (s *Groups) Join(welcome []byte, check client.Credentials) (epoch *client.Epoch, err error) {
	defer guarded(&err)
	m, err := framing.UnmarshalMLSMessage(welcome)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the Welcome: %w", err)
	}
	w, err := group.UnmarshalWelcome(m.Welcome)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the Welcome: %w", err)
	}
	if w.CipherSuite != suite || !bytes.Equal(w.Marshal(), m.Welcome) {
		return nil, errors.New("a Welcome of another cipher suite or form")
	}
	ref, kp, private, err := s.mine(w)
	if err != nil {
		return nil, err
	}
	g, err := group.JoinFromWelcome(w, kp, private, nil)
	if err != nil {
		return nil, fmt.Errorf("couldn't join: %w", err)
	}
	if err := s.checkJoined(g, w.GroupInfo); err != nil {
		return nil, err
	}
	keys, err := keysOf(g)
	if err != nil {
		return nil, err
	}
	own, ok := keys.leaf(keys.Own)
	if !ok || own.Device != s.device || !bytes.Equal(own.Key[:], s.key[32:]) {
		return nil, fmt.Errorf("the Welcome puts another in this device's leaf: %w", client.ErrCredential)
	}
	for _, l := range keys.Leaves {
		if err := check(l.Device, l.Key, l.Index == uint32(w.GroupInfo.Signer)); err != nil {
			return nil, err
		}
	}
	id := codec.ID(g.GroupContext().GroupID.AsSlice())
	if _, err := s.entry(id); !errors.Is(err, client.ErrNoGroup) {
		return nil, errors.Join(errors.New("a Welcome to a group that this device is in"), err)
	}
	if err := s.found(newEntry(id), g, keys); err != nil {
		return nil, err
	}
	s.spend(ref)
	return keys.public(id), nil
}

// checkJoined refuses what the library takes without looking: a Welcome without
// ratchet tree, whose GroupInfo nobody has signed, and extensions.
func (s *Groups) checkJoined(g *group.Group, info *group.Info) error {
	trees := 0
	for _, x := range info.Extensions {
		if x.Type == extensions.ExtensionTypeRatchetTree {
			trees++
		}
	}
	ctx := g.GroupContext()
	switch {
	case trees != 1:
		return errors.New("a Welcome without a ratchet tree")
	case len(ctx.Extensions) != 0:
		return errors.New("group with extensions, of which this version knows none")
	case len(ctx.GroupID.AsSlice()) != codec.IDSize:
		return errors.New("group whose id is no conversation's")
	}
	return nil
}

// Process implements client.Groups.
func (s *Groups) Process(conversation codec.ID, commit []byte, check client.Credentials) (epoch *client.Epoch, err error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	before, _, err := s.epoch(e, e.place.Current)
	if err != nil {
		return nil, err
	}
	g, err := s.library(e)
	if err != nil {
		return nil, err
	}
	pm, err := s.checkCommit(before, commit, conversation, check)
	if errors.Is(err, client.ErrRemoved) {
		// Anyone can write a Remove; only a member can sign it.
		if bad := verify(g, pm); bad != nil {
			return nil, bad
		}
	}
	if err != nil {
		return nil, err
	}
	keys, err := apply(g, pm)
	if err == nil {
		err = checkLeaves(keys, before, check)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("commit refused: %w", err), s.restore(e))
	}
	s.put(e.name("pending"), nil) // whatever was staged in the old epoch has lost
	s.enter(e, keys)
	e.changed = true
	e.applied = append(e.applied, commit)
	return keys.public(conversation), nil
}

func verify(g *group.Group, pm *framing.PublicMessage) (err error) {
	defer guarded(&err)
	return g.VerifyPublicMessage(pm)
}

func apply(g *group.Group, pm *framing.PublicMessage) (keys *epochKeys, err error) {
	defer guarded(&err)
	if err := g.ProcessPublicMessage(pm); err != nil {
		return nil, err
	}
	return keysOf(g)
}

// restore reads a group's library state again, after a commit that failed
// half-way, and repeats the commits that were good.
func (s *Groups) restore(e *entry) error {
	e.tree = nil
	if len(e.applied) == 0 {
		return nil
	}
	g, err := s.library(e)
	if err != nil {
		return err
	}
	for _, raw := range e.applied {
		m, err := framing.UnmarshalMLSMessage(raw)
		if err != nil {
			return err
		}
		if _, err := apply(g, m.PublicMessage); err != nil {
			return err
		}
	}
	return nil
}

// checkCommit reads a commit and checks all that it would change before the
// library touches the group. With ErrRemoved it returns the message, unverified.
func (s *Groups) checkCommit(k *epochKeys, message []byte, conversation codec.ID, check client.Credentials) (pm *framing.PublicMessage, err error) {
	defer guarded(&err)
	m, err := framing.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the commit: %w", err)
	}
	pm, ok := m.AsPublic()
	if !ok || pm.Content.ContentType() != framing.ContentTypeCommit || !bytes.Equal(pm.Content.GroupID, conversation[:]) || !bytes.Equal(m.Marshal(), message) {
		return nil, errors.New("not a commit of this group")
	}
	if pm.Content.Epoch != k.Number {
		return nil, fmt.Errorf("commit of epoch %d in epoch %d: %w", pm.Content.Epoch, k.Number, client.ErrEpoch)
	}
	sender, ok := k.leaf(pm.Content.Sender.LeafIndex)
	if pm.Content.Sender.Type != framing.SenderTypeMember || !ok || sender.Index == k.Own {
		return nil, errors.New("commit of no other member")
	}
	if err := check(sender.Device, sender.Key, true); err != nil {
		return nil, err
	}
	body, _ := pm.Content.CommitData()
	commit, err := group.UnmarshalCommit(body)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the commit: %w", err)
	}
	if commit.Path != nil {
		if commit.Path.LeafNode == nil {
			return nil, errors.New("update path without a leaf")
		}
		l, err := readLeaf(commit.Path.LeafNode.Credential, commit.Path.LeafNode.SigKeyBytes())
		if err != nil {
			return nil, err
		}
		if l.Device != sender.Device || l.Key != sender.Key {
			return nil, fmt.Errorf("committer's new leaf is another's: %w", client.ErrCredential)
		}
	}
	removed := false
	for _, p := range commit.Proposals {
		switch {
		case p.Proposal == nil:
			return nil, errors.New("proposal by reference")
		case p.Proposal.Type == group.ProposalTypeAdd && p.Proposal.Add != nil:
			l, err := checkPackage(p.Proposal.Add.KeyPackage, check)
			if err != nil {
				return nil, err
			}
			if _, ok := k.find(l.Device); ok {
				return nil, fmt.Errorf("device %s is in the group: %w", l.Device.Short(), client.ErrCredential)
			}
		case p.Proposal.Type == group.ProposalTypeRemove && p.Proposal.Remove != nil:
			l, ok := k.leaf(uint32(p.Proposal.Remove.Removed))
			if !ok || l.Index == sender.Index {
				return nil, errors.New("removes a blank leaf or the committer")
			}
			removed = removed || l.Index == k.Own
		default:
			return nil, fmt.Errorf("proposal of type %d", p.Proposal.Type)
		}
	}
	if removed {
		return pm, client.ErrRemoved
	}
	return pm, nil
}

// checkLeaves checks every leaf of the epoch that a commit led to.
func checkLeaves(k, before *epochKeys, check client.Credentials) error {
	if k.Number != before.Number+1 {
		return fmt.Errorf("epoch %d after %d: %w", k.Number, before.Number, client.ErrEpoch)
	}
	for _, l := range k.Leaves {
		if err := check(l.Device, l.Key, false); err != nil {
			return err
		}
	}
	return nil
}
