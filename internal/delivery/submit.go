package delivery

import (
	"context"
	"errors"
	"maps"
	"slices"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/handshake"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/manifest"
)

// Message takes a message of a device with all that belongs to it, and returns
// the signed receipts, of its index envelope first where it brings one. The
// same cores again get the same receipts. It returns a *Refused, ErrMalformed,
// ErrForbidden or ErrStopped; nothing is stored then.
func (s *Server) Message(ctx context.Context, device codec.Hash, in *wire.Submission) ([][]byte, error) {
	m, err := s.checkMessage(device, in)
	if err != nil {
		return nil, s.sign(err)
	}
	rows, err := s.do(ctx, func(b *batch, j *job) error { return b.message(j, m) })
	if err != nil {
		return nil, err
	}
	return receipts(rows), nil
}

func (b *batch) message(j *job, m *message) error {
	items := []*item{m.item}
	if m.index != nil {
		items = []*item{m.index, m.item}
	}
	header := m.item.Header
	conversation := b.conversation(header.Conversation)
	chain, err := b.chain(header.Device, header.Conversation)
	if err != nil {
		return err
	}
	var answers, fresh []*row
	for _, it := range items {
		r, err := b.taken(it)
		if err != nil {
			return err
		}
		if r == nil {
			if r, err = b.item(it, conversation, chain, fresh); err != nil {
				return err
			}
			if it == m.item {
				r.body = m.ciphertext
				if r.copies, err = conversation.copies(it, m.copies); err != nil {
					return err
				}
			}
			fresh = append(fresh, r)
		}
		answers = append(answers, r)
	}
	if len(fresh) > 0 {
		b.add(conversation, chain, fresh...)
	}
	j.rows = answers
	return nil
}

// taken returns the row of a core that was taken before: a retry, whatever its
// transport.
func (b *batch) taken(it *item) (*row, error) {
	if r := b.cores[it.core]; r != nil && r.leaf.Kind == manifest.LeafMessage {
		return r, nil
	}
	leaf, err := b.s.Store.LeafByCore(b.ctx, it.core)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if leaf.Kind != manifest.LeafMessage {
		return nil, refuse(it.core, ReasonSequence, "a void has taken the place of this core")
	}
	return &row{leaf: *leaf}, nil
}

// item decides one envelope's place and makes its row; conversation and chain
// are the caller's copies, which it moves on.
func (b *batch) item(it *item, c *conversation, chain *store.Chain, before []*row) (*row, error) {
	h, t := it.Header, it.Transport
	if size := b.state.Size(); size != it.size {
		if _, err := it.checkHeader(b.state, size, b.now); err != nil {
			return nil, err
		}
	}
	if c == nil {
		return nil, refuse(it.core, ReasonUnknown, "no such conversation")
	}
	if err := b.checkRoster(it, c); err != nil {
		return nil, err
	}
	switch {
	case h.Seq != chain.Next:
		return nil, refuse(it.core, ReasonSequence, "number %d, and %d is next", h.Seq, chain.Next)
	case h.Prev != chain.Prev:
		return nil, refuse(it.core, ReasonChain, "another core came before number %d", h.Seq)
	}
	if !t.Index.IsZero() {
		if err := b.checkIndex(it, c, before); err != nil {
			return nil, err
		}
	}
	r := &row{object: it.Manifest.Hash()}
	r.leaf = store.Leaf{
		Kind: manifest.LeafMessage, Epoch: t.Epoch, Device: h.Device, Chained: true, Seq: h.Seq, Core: it.core,
		EnvelopeKind: uint8(h.Kind), Day: h.Day, Object: it.Bytes(), Envelope: it.envelope, Tags: it.tags,
	}
	if err := b.receipt(c, r, len(before)); err != nil {
		return nil, err
	}
	chain.Next, chain.Prev = h.Seq+1, it.core
	return r, nil
}

// checkRoster checks the epoch that a message was encrypted for. An earlier one
// will do as long as nobody has been removed since: those could read it.
func (b *batch) checkRoster(it *item, c *conversation) error {
	if c.direct() {
		return b.checkDirectRoster(it, c)
	}
	t := it.Transport
	roster := c.roster
	if device, ok := c.stays(b.state.Revoked()); ok {
		return refuse(it.core, ReasonEpoch, "device %s is revoked and still in the conversation: a member removes it first", device.Short())
	}
	switch {
	case t.Epoch > c.Epoch:
		return refuse(it.core, ReasonEpoch, "the conversation is at epoch %d, not yet at %d", c.Epoch, t.Epoch)
	case t.Epoch < c.Removal:
		return refuse(it.core, ReasonEpoch, "a device was removed at epoch %d, after %d", c.Removal, t.Epoch)
	case t.Roster != c.Commit || t.Epoch != c.Epoch:
		e, err := b.epoch(t.Roster)
		if errors.Is(err, store.ErrNotFound) || (err == nil && (e.Conversation != c.ID || e.Epoch != t.Epoch)) {
			return refuse(it.core, ReasonRoster, "not the roster of epoch %d of the conversation", t.Epoch)
		}
		if err != nil {
			return err
		}
		roster = e.Roster
	}
	if !roster.Contains(it.Header.Device) {
		return refuse(it.core, ReasonRoster, "the device is not in the conversation")
	}
	if !c.Policy.IsZero() && t.Epoch >= c.Pinned && !handshake.Later(b.state, c.Policy, it.Header.PolicyLeaf) {
		return refuse(it.core, ReasonHeader, "the policy is an earlier one than the conversation pins")
	}
	return nil
}

// stays returns a revoked device that the roster still has: what is encrypted
// for that roster it could read. Once there is none there won't be one of those
// revocations again, since no commit adds a device that isn't valid.
func (c *conversation) stays(revoked []codec.Hash) (codec.Hash, bool) {
	for _, device := range revoked[c.clean:] {
		if c.roster.Contains(device) {
			return device, true
		}
	}
	c.clean = len(revoked)
	return codec.Hash{}, false
}

// epoch returns the epoch of a commit statement, of this batch or before.
func (b *batch) epoch(statement codec.Hash) (*store.Epoch, error) {
	if r := b.cores[statement]; r != nil && r.epoch != nil {
		return r.epoch, nil
	}
	return b.s.Store.Epoch(b.ctx, statement)
}

// checkIndex checks that the index envelope which a message's tags are made
// under is held: for this conversation, of this day and epoch. A key of an
// earlier epoch is known to devices that were removed since, and out of reach of
// a matter whose custodian joined since.
func (b *batch) checkIndex(it *item, c *conversation, before []*row) error {
	var leaf *store.Leaf
	for _, r := range before {
		if r.leaf.Core == it.Transport.Index {
			leaf = &r.leaf
		}
	}
	if r := b.cores[it.Transport.Index]; leaf == nil && r != nil {
		leaf = &r.leaf
	}
	if leaf == nil {
		var err error
		if leaf, err = b.s.Store.LeafByCore(b.ctx, it.Transport.Index); errors.Is(err, store.ErrNotFound) {
			return refuse(it.core, ReasonIndex, "no such index envelope is held")
		} else if err != nil {
			return err
		}
	}
	switch {
	case leaf.Kind != manifest.LeafMessage || leaf.EnvelopeKind != uint8(envelope.KindIndex):
		return refuse(it.core, ReasonIndex, "what it names as index envelope is none")
	case leaf.Conversation != c.ID:
		return refuse(it.core, ReasonIndex, "the index envelope is another conversation's")
	case leaf.Day != it.Header.Day:
		return refuse(it.core, ReasonIndex, "the index envelope is of day %d, the message of day %d", leaf.Day, it.Header.Day)
	case leaf.Epoch != it.Transport.Epoch:
		return refuse(it.core, ReasonIndex, "the index envelope is of epoch %d, the message of epoch %d", leaf.Epoch, it.Transport.Epoch)
	}
	return nil
}

// Commit takes a step of a group and returns its receipt. Of two commits for
// one epoch the first wins, and the loser is refused with ReasonEpoch. Errors
// are Message's.
func (s *Server) Commit(ctx context.Context, device codec.Hash, in *wire.CommitSubmission) ([][]byte, error) {
	c, err := s.checkCommit(device, in)
	if err != nil {
		return nil, s.sign(err)
	}
	if !c.Direct() {
		if c.judged, err = s.judge(ctx, c); err != nil {
			return nil, s.sign(err)
		}
	}
	rows, err := s.do(ctx, func(b *batch, j *job) error { return b.commitStep(j, c) })
	if err != nil {
		return nil, err
	}
	return receipts(rows), nil
}

func (b *batch) commitStep(j *job, in *commit) error {
	if r := b.cores[in.hash]; r != nil {
		j.rows = []*row{r}
		return nil
	}
	if e, err := b.s.Store.Epoch(b.ctx, in.hash); err == nil { // a retry
		leaf, err := b.s.Store.Leaf(b.ctx, e.Leaf)
		if err != nil {
			return err
		}
		j.rows = []*row{{leaf: *leaf}}
		return nil
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	c, err := b.step(in)
	if err != nil {
		return err
	}
	r := &row{object: in.hash, body: in.message, welcome: in.welcome, group: in.judged}
	r.leaf = store.Leaf{Kind: manifest.LeafCommit, Epoch: in.Epoch, Device: in.Device, Object: in.raw}
	if err := b.receipt(c, r, 0); err != nil {
		return err
	}
	r.epoch = &store.Epoch{Hash: in.hash, Conversation: c.ID, Epoch: in.Epoch, Leaf: r.leaf.Index, Roster: in.roster}
	r.changed = c.enter(in, r.leaf.Index)
	b.rows = append(b.rows, r)
	b.cores[in.hash] = r
	b.conversations[c.ID] = c
	j.rows = []*row{r}
	return nil
}

// step checks that a commit follows from where its conversation stands.
func (b *batch) step(in *commit) (*conversation, error) {
	c := b.conversation(in.Conversation)
	if in.Epoch == 0 {
		if c != nil {
			return nil, refuse(in.hash, ReasonUnknown, "the conversation exists")
		}
		c = &conversation{members: map[codec.Hash]*store.Membership{}}
		c.ID = in.Conversation
	} else if err := in.follows(c); err != nil {
		return nil, err
	}
	if err := b.judgeDirect(in, c); err != nil {
		return nil, err
	}
	added, removed := difference(in.roster, c.roster), difference(c.roster, in.roster)
	welcomed := in.added
	if in.joins() {
		welcomed = append(slices.Clone(welcomed), in.Device)
	}
	if in.Epoch > 0 && !c.direct() && !slices.Equal(manifest.NewRoster(welcomed), added) {
		return nil, refuse(in.hash, ReasonCommit, "the Welcome is for other devices than the roster adds")
	}
	if !in.roster.Contains(in.Device) && in.Epoch == 0 {
		return nil, refuse(in.hash, ReasonRoster, "whoever founds a conversation is in it")
	}
	for _, d := range added {
		if _, err := b.state.CheckDevice(d, b.state.Size(), b.now); err != nil {
			return nil, refuse(in.hash, ReasonRoster, "it adds device %s: %v", d.Short(), err)
		}
	}
	if _, err := b.state.CheckDevice(in.Device, b.state.Size(), b.now); err != nil {
		return nil, refuse(in.hash, ReasonDevice, "%v", err)
	}
	if !c.direct() {
		if err := b.settle(in, c); err != nil {
			return nil, err
		}
	}
	if len(removed) > 0 {
		c.Removal = in.Epoch
	}
	c.Epoch, c.Commit, c.roster = in.Epoch, in.hash, in.roster
	return c, nil
}

// joins reports whether a commit brings its own device in.
func (in *commit) joins() bool { return in.judged != nil && in.judged.joins }

func (in *commit) follows(c *conversation) error {
	switch {
	case c == nil:
		return refuse(in.hash, ReasonUnknown, "no such conversation")
	case in.Epoch != c.Epoch+1:
		return refuse(in.hash, ReasonEpoch, "epoch %d, and the conversation is at %d", in.Epoch, c.Epoch)
	case in.Previous != c.Commit:
		return refuse(in.hash, ReasonEpoch, "epoch %d follows another statement", in.Epoch)
	case !in.joins() && !c.roster.Contains(in.Device):
		return refuse(in.hash, ReasonRoster, "the device is not in the conversation")
	}
	return nil
}

// enter brings the members to the new roster and returns the memberships that
// changed.
func (c *conversation) enter(in *commit, leaf int64) []*store.Membership {
	var changed []*store.Membership
	c.members = maps.Clone(c.members) // readers hold the old one
	for device, m := range c.members {
		if !in.roster.Contains(device) {
			left := *m
			left.Until = leaf
			changed = append(changed, &left)
			delete(c.members, device)
		}
	}
	for _, device := range in.roster {
		if c.members[device] == nil {
			m := &store.Membership{Device: device, Conversation: c.ID, Since: leaf, Epoch: in.Epoch, Until: -1}
			c.members[device] = m
			changed = append(changed, m)
		}
	}
	return changed
}

// difference returns what a has and b hasn't.
func difference(a, b manifest.Roster) manifest.Roster {
	var out manifest.Roster
	for _, d := range a {
		if !b.Contains(d) {
			out = append(out, d)
		}
	}
	return out
}

// Void fills a refused sequence number and returns its receipt. Errors are
// Message's.
func (s *Server) Void(ctx context.Context, device codec.Hash, raw []byte) ([][]byte, error) {
	v, err := s.checkVoid(device, raw)
	if err != nil {
		return nil, s.sign(err)
	}
	rows, err := s.do(ctx, func(b *batch, j *job) error { return b.void(j, v) })
	if err != nil {
		return nil, err
	}
	return receipts(rows), nil
}

func (b *batch) void(j *job, v *void) error {
	if r := b.cores[v.Core]; r != nil && r.leaf.Kind == manifest.LeafVoid {
		j.rows = []*row{r}
		return nil
	}
	if leaf, err := b.s.Store.LeafByCore(b.ctx, v.Core); err == nil {
		if leaf.Kind == manifest.LeafVoid {
			j.rows = []*row{{leaf: *leaf}}
			return nil
		}
		return refuse(v.Core, ReasonSequence, "the core was taken after all")
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	c := b.conversation(v.Conversation)
	chain, err := b.chain(v.Device, v.Conversation)
	if err != nil {
		return err
	}
	switch {
	case c == nil:
		return refuse(v.Core, ReasonUnknown, "no such conversation")
	case !c.roster.Contains(v.Device):
		return refuse(v.Core, ReasonRoster, "the device is not in the conversation")
	case v.Seq != chain.Next:
		return refuse(v.Core, ReasonSequence, "number %d, and %d is next", v.Seq, chain.Next)
	case b.cores[v.Core] != nil:
		return refuse(v.Core, ReasonSequence, "the core was taken after all")
	}
	r := &row{object: v.hash}
	r.leaf = store.Leaf{
		Kind: manifest.LeafVoid, Epoch: c.Epoch, Device: v.Device, Chained: true, Seq: v.Seq, Core: v.Core,
		EnvelopeKind: uint8(envelope.KindVoid), Object: v.raw,
	}
	if err := b.receipt(c, r, 0); err != nil {
		return err
	}
	chain.Next, chain.Prev = v.Seq+1, v.Core
	b.add(c, chain, r)
	j.rows = []*row{r}
	return nil
}

// Acknowledge keeps a device's newest acknowledgement of a conversation; an
// older one than is held changes nothing. It returns ErrMalformed or
// ErrForbidden.
func (s *Server) Acknowledge(ctx context.Context, device codec.Hash, raw []byte) error {
	a, err := s.checkAck(device, raw)
	if err != nil {
		return err
	}
	if err := s.checkPosition(ctx, a); err != nil {
		return err
	}
	position, read, err := s.Store.Ack(ctx, a.Conversation, device)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && (a.Position < position || a.Read < read) {
		return nil
	}
	_, err = s.do(ctx, func(b *batch, _ *job) error {
		b.writes = append(b.writes, func(tx store.Tx) error {
			return tx.PutAck(a.Conversation, device, a.Position, a.Read, raw)
		})
		return nil
	})
	return err
}
