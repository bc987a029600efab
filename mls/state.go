package mls

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// ErrState means that records aren't what Changes gave, all of them.
var ErrState = errors.New("stored group state is damaged")

// Record is a part of a group's stored state. A group of n members changes
// about log n of them in a step.
type Record struct {
	// Key is unique within the group, 14 bytes.
	Key []byte
	// Value is nil where the record is to be deleted. It holds secrets: it must
	// be encrypted before it is stored, and cleared afterwards.
	Value []byte
}

// recordKey names a record. Not every kind uses every field.
type recordKey struct {
	kind  recordKind
	epoch uint64
	n     uint32
	sub   uint8
}

// recordKind sorts records, in the order in which Restore reads them.
type recordKind uint8

const (
	recordGroup        recordKind = 1 + iota
	recordLeaf                    // n: leaf index
	recordParent                  // n: node index
	recordPathKey                 // n: node index
	recordEpoch                   // epoch
	recordSecretNode              // epoch; n: node index
	recordRatchet                 // epoch; n: leaf index; sub: 1 for handshakes
	recordFormer                  // epoch; n: leaf index
	recordProposal                // n: place among those that wait
	recordFormerCommit            // a pending commit as earlier versions kept it
	recordCommit                  // the pending commit
)

func ratchetKey(epoch uint64, id ratchetID) recordKey {
	k := recordKey{kind: recordRatchet, epoch: epoch, n: uint32(id.leaf)}
	if id.handshake {
		k.sub = 1
	}
	return k
}

func secretNodeKey(epoch uint64, n tree.NodeIndex) recordKey {
	return recordKey{kind: recordSecretNode, epoch: epoch, n: uint32(n)}
}

// recordKeySize is the length of a Record.Key in bytes.
const recordKeySize = 1 + 8 + 4 + 1

func (k recordKey) bytes() []byte {
	out := binary.BigEndian.AppendUint64([]byte{byte(k.kind)}, k.epoch)
	return append(binary.BigEndian.AppendUint32(out, k.n), k.sub)
}

func parseRecordKey(b []byte) (recordKey, error) {
	if len(b) != recordKeySize {
		return recordKey{}, ErrState
	}
	return recordKey{recordKind(b[0]), binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint32(b[9:]), b[13]}, nil
}

func compareKeys(a, b recordKey) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.n, b.n), cmp.Compare(a.sub, b.sub))
}

// Changes returns the records that changed since the last call, in order of
// their keys; all of them the first time after Create or a join. They must be
// stored together, with whatever else the step does, before anything is sent
// or delivered. If that fails the Group is to be thrown away and restored.
func (g *Group) Changes() []Record {
	ordered := make([]recordKey, 0, len(g.changed))
	for k := range g.changed {
		ordered = append(ordered, k)
	}
	slices.SortFunc(ordered, compareKeys)
	out := make([]Record, 0, len(ordered))
	for _, k := range ordered {
		var b *syntax.Builder
		if e := g.record(k); e != nil {
			b = new(syntax.Builder)
			e(b)
		}
		r := Record{Key: k.bytes()}
		if b != nil {
			r.Value = b.Bytes()
		}
		out = append(out, r)
	}
	clear(g.changed)
	return out
}

// record returns what writes a record, or nil where there is none any more.
func (g *Group) record(k recordKey) func(*syntax.Builder) {
	switch k.kind {
	case recordGroup:
		return g.encodeGroup
	case recordLeaf:
		if leaf := g.public.Tree().Leaf(tree.LeafIndex(k.n)); leaf != nil {
			return leaf.Encode
		}
	case recordParent:
		if p := g.public.Tree().Parent(tree.NodeIndex(k.n)); p != nil {
			return p.Encode
		}
	case recordPathKey:
		if key := g.keys[tree.NodeIndex(k.n)]; key != nil {
			return func(b *syntax.Builder) { b.Opaque(key.ExposeBytes()) }
		}
	case recordProposal:
		if uint64(k.n) < uint64(len(g.proposals)) {
			return g.proposals[k.n].Encode
		}
	case recordCommit:
		if g.pending != nil {
			return g.pending.Encode
		}
	case recordFormerCommit: // stored in the other's form by now
	default:
		return g.epochRecord(k)
	}
	return nil
}

// epochRecord is record for kinds that belong to an epoch.
func (g *Group) epochRecord(k recordKey) func(*syntax.Builder) {
	e, former := g.epochByNumber(k.epoch)
	if e == nil {
		return nil
	}
	switch k.kind {
	case recordEpoch:
		return func(b *syntax.Builder) { g.encodeEpoch(b, e) }
	case recordSecretNode:
		if secret := e.keys.nodes[tree.NodeIndex(k.n)]; secret != nil {
			return func(b *syntax.Builder) { b.Opaque(secret) }
		}
	case recordRatchet:
		if r := e.keys.ratchets[ratchetID{tree.LeafIndex(k.n), k.sub == 1}]; r != nil {
			return r.Encode
		}
	case recordFormer:
		if leaf, ok := former[tree.LeafIndex(k.n)]; ok {
			return func(b *syntax.Builder) { encodeOptional(b, leaf) }
		}
	}
	return nil
}

// epochByNumber returns the present epoch or a past one that is kept, or nil.
func (g *Group) epochByNumber(number uint64) (*epoch, map[tree.LeafIndex]*tree.LeafNode) {
	if g.removed {
		return nil, nil
	}
	if number == g.Epoch() {
		return g.now, nil
	}
	for _, p := range g.past {
		if p.context.Epoch == number {
			return &p.epoch, p.former
		}
	}
	return nil, nil
}

// stateVersion begins a group's record. A change of any record's form takes
// another.
const stateVersion = 1

func (g *Group) encodeGroup(b *syntax.Builder) {
	b.Uint8(stateVersion)
	b.Uint32(uint32(g.own))
	b.Present(g.removed)
	b.Uint32(uint32(g.public.Tree().Size()))
	g.public.Context().Encode(b)
	b.Opaque(g.public.InterimTranscriptHash())
	ended := g.public.Ended()
	b.Present(ended != nil)
	if ended != nil {
		ended.Encode(b)
	}
}

func (g *Group) encodeEpoch(b *syntax.Builder, e *epoch) {
	e.context.Encode(b)
	b.Uint32(uint32(e.keys.size))
	e.secrets.Encode(b)
	b.Opaque(g.psks[e.context.Epoch])
}

func encodeOptional(b *syntax.Builder, leaf *tree.LeafNode) {
	b.Present(leaf != nil)
	if leaf != nil {
		leaf.Encode(b)
	}
}

func (w *waiting) Encode(b *syntax.Builder) {
	w.content.Encode(b)
	b.Present(w.key != nil)
	if w.key != nil {
		b.Opaque(w.key.ExposeBytes())
	}
}

// settled are rules for what the application's have judged before the state was
// stored: they mustn't have second thoughts while it is read.
type settled struct {
	tree.Rules
	reading bool
}

func (s *settled) Leaf(e tree.Event, old, leaf *tree.LeafNode) error {
	if s.reading {
		return nil
	}
	return s.Rules.Leaf(e, old, leaf)
}

func (s *settled) Lifetime(e tree.Event, l tree.Lifetime) error {
	if s.reading {
		return nil
	}
	return s.Rules.Lifetime(e, l)
}

func (s *settled) ExternalSender(x *tree.ExternalSender) error {
	if s.reading {
		return nil
	}
	return s.Rules.ExternalSender(x)
}

func (s *settled) Proposal(g *tree.Group, from tree.Sender, p tree.Proposal) error {
	if s.reading {
		return nil
	}
	return s.Rules.Proposal(g, from, p)
}

// Restore returns a group from all records that Changes gave in its life, each
// with its last value, without those deleted; their order doesn't matter. It
// returns ErrState, wrapped.
func Restore(config Config, records []Record) (*Group, error) {
	r := &restorer{
		config: config, leaves: make(map[tree.LeafIndex]*tree.LeafNode), parents: make(map[tree.NodeIndex]*tree.ParentNode),
		epochs: make(map[uint64]*pastEpoch),
	}
	g, err := r.restore(records)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return g, nil
}

// restorer collects records.
type restorer struct {
	config  Config
	rules   *settled
	suite   *cipher.Suite
	group   *Group
	size    tree.Size
	context tree.GroupContext
	interim []byte
	ended   *tree.ReInit
	leaves  map[tree.LeafIndex]*tree.LeafNode
	parents map[tree.NodeIndex]*tree.ParentNode
	epochs  map[uint64]*pastEpoch
}

var errMissing = errors.New("a record is missing")

func (r *restorer) restore(records []Record) (*Group, error) {
	type entry struct {
		key   recordKey
		value []byte
	}
	entries := make([]entry, 0, len(records))
	for _, rec := range records {
		k, err := parseRecordKey(rec.Key)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{k, slices.Clone(rec.Value)})
	}
	slices.SortFunc(entries, func(a, b entry) int { return compareKeys(a.key, b.key) })
	ready := false
	for _, e := range entries {
		// Proposals and a pending commit are judged by the public group.
		if !ready && e.key.kind >= recordProposal {
			if err := r.assemble(); err != nil {
				return nil, err
			}
			ready = true
		}
		in := syntax.NewReader(e.value)
		r.read(e.key, in)
		if err := in.Finish(); err != nil {
			return nil, fmt.Errorf("record %x: %w", e.key.bytes(), err)
		}
	}
	if !ready {
		if err := r.assemble(); err != nil {
			return nil, err
		}
	}
	r.rules.reading = false
	return r.group, nil
}

// read reads one record. All but the group's own need that one first.
func (r *restorer) read(k recordKey, in *syntax.Reader) {
	if r.group == nil && k.kind != recordGroup {
		in.Fail(errMissing)
		return
	}
	switch k.kind {
	case recordGroup:
		r.readGroup(in)
	case recordLeaf:
		leaf := new(tree.LeafNode)
		leaf.Decode(in)
		r.leaves[tree.LeafIndex(k.n)] = leaf
	case recordParent:
		p := new(tree.ParentNode)
		p.Decode(in)
		r.parents[tree.NodeIndex(k.n)] = p
	case recordPathKey:
		r.group.keys[tree.NodeIndex(k.n)] = r.readKey(in)
	case recordEpoch:
		r.readEpoch(k, in)
	case recordSecretNode, recordRatchet, recordFormer:
		e := r.epochs[k.epoch]
		if e == nil {
			in.Fail(errMissing)
			return
		}
		e.readPart(k, in)
	case recordProposal:
		r.readProposal(k, in)
	case recordFormerCommit:
		r.readFormerCommit(in)
	case recordCommit:
		r.readCommit(in)
	default:
		in.Failf("record kind %d", k.kind)
	}
}

func (r *restorer) readGroup(in *syntax.Reader) {
	if v := in.Uint8(); v != stateVersion {
		in.Failf("state version %d", v)
		return
	}
	g := &Group{
		own: tree.LeafIndex(in.Uint32()), removed: in.Present(), keys: make(keys),
		psks: make(map[uint64][]byte), changed: make(map[recordKey]struct{}),
	}
	r.size = tree.Size(in.Uint32())
	r.context.Decode(in)
	r.interim = in.Opaque()
	if in.Present() {
		r.ended = new(tree.ReInit)
		r.ended.Decode(in)
	}
	s, err := cipher.ByID(r.context.CipherSuite)
	if err != nil {
		in.Fail(err)
		return
	}
	r.suite, g.suite, r.group = s, s, g
	r.rules = &settled{Rules: r.config.Rules, reading: true}
	g.config = r.config
	g.config.Rules = r.rules
}

func (r *restorer) readKey(in *syntax.Reader) *cipher.PrivateKey {
	key, err := r.suite.NewPrivateKey(in.Opaque())
	if err != nil {
		in.Fail(err)
		return nil
	}
	return key
}

func (r *restorer) readEpoch(k recordKey, in *syntax.Reader) {
	e := &pastEpoch{epoch: epoch{suite: r.suite}, former: make(map[tree.LeafIndex]*tree.LeafNode)}
	e.context.Decode(in)
	size := tree.Size(in.Uint32())
	e.secrets.Decode(in)
	if secret := in.Opaque(); len(secret) > 0 {
		r.group.psks[k.epoch] = secret
	}
	if e.context.Epoch != k.epoch {
		in.Failf("epoch %d in the place of %d", e.context.Epoch, k.epoch)
	}
	if size == 0 || size > tree.MaxLeaves || size&(size-1) != 0 {
		in.Failf("a tree of %d leaves", size)
		return
	}
	e.keys = &secretTree{
		suite: r.suite, size: size, epoch: k.epoch, changed: r.group.note,
		nodes: make(map[tree.NodeIndex][]byte), ratchets: make(map[ratchetID]*ratchet),
	}
	r.epochs[k.epoch] = e
}

func (e *pastEpoch) readPart(k recordKey, in *syntax.Reader) {
	switch k.kind {
	case recordSecretNode:
		e.keys.nodes[tree.NodeIndex(k.n)] = in.Opaque()
	case recordRatchet:
		x := new(ratchet)
		x.Decode(in)
		e.keys.ratchets[ratchetID{tree.LeafIndex(k.n), k.sub == 1}] = x
	case recordFormer:
		var leaf *tree.LeafNode
		if in.Present() {
			leaf = new(tree.LeafNode)
			leaf.Decode(in)
		}
		e.former[tree.LeafIndex(k.n)] = leaf
	}
}

// assemble builds the group from all but its proposals and pending commit.
func (r *restorer) assemble() error {
	g := r.group
	if g == nil {
		return errMissing
	}
	t, err := tree.RestoreTree(r.suite, r.size, r.leaves, r.parents)
	if err != nil {
		return err
	}
	if g.public, err = tree.RestoreGroup(r.rules, t, r.context, r.interim, r.ended); err != nil {
		return err
	}
	if g.removed {
		g.now = noEpoch(r.suite, &r.context)
		return nil
	}
	now := r.epochs[r.context.Epoch]
	if now == nil || t.Leaf(g.own) == nil || g.keys[g.own.Node()] == nil || len(g.keys.matching(t)) != len(g.keys) {
		return errMissing
	}
	g.now = &now.epoch
	for number, e := range r.epochs {
		if number != r.context.Epoch {
			g.past = append(g.past, e)
		}
	}
	slices.SortFunc(g.past, func(a, b *pastEpoch) int { return cmp.Compare(a.context.Epoch, b.context.Epoch) })
	return nil
}

func (r *restorer) readProposal(k recordKey, in *syntax.Reader) {
	var w waiting
	w.content.Decode(in)
	if in.Present() {
		w.key = r.readKey(in)
	}
	if in.Err() != nil {
		return
	}
	var err error
	if w.ref, err = r.group.public.Propose(&w.content); err != nil {
		in.Fail(err)
	}
	r.group.proposals = append(r.group.proposals, w)
	if uint64(k.n)+1 != uint64(len(r.group.proposals)) {
		in.Fail(errMissing)
	}
}
