package mls

import (
	"bytes"
	"slices"

	"chancery/mls/tree"
)

// options returns a random commit: additions, a removal, new keys.
func (w *world) options(d *device) CommitOptions {
	o := CommitOptions{Encrypt: w.server == nil, Path: w.chance(50), Alone: w.chance(20)}
	if w.chance(20) {
		o.Identity = w.identity(d)
	}
	if w.chance(60) {
		for range 1 + w.random.IntN(3) {
			if other := w.pick(w.newTo(d)); other != nil && !slices.ContainsFunc(o.Proposals, w.adds(other)) {
				o.Proposals = append(o.Proposals, other.invitation())
			}
		}
	}
	if w.chance(10) {
		nonce := make([]byte, d.suite.HashSize())
		must(d.config.Random.Read(nonce))(w.t)
		o.Proposals = append(o.Proposals, &tree.PreSharedKey{PSK: tree.PreSharedKeyID{Type: tree.PSKExternal, ID: []byte("shared"), Nonce: nonce}})
		w.events["psk"]++
	}
	if l, ok := w.other(d); ok && w.chance(25) {
		o.Proposals = append(o.Proposals, &tree.Remove{Removed: l})
	}
	return o
}

// newTo says who is outside, and not a member in the eyes of d either.
func (w *world) newTo(d *device) func(*device) bool {
	members := make(map[string]bool)
	for _, leaf := range d.Public().Tree().Members() {
		members[w.name(leaf)] = true
	}
	return func(other *device) bool { return outside(other) && !members[other.name] }
}

func (w *world) adds(d *device) func(tree.Proposal) bool {
	return func(p tree.Proposal) bool {
		add, ok := p.(*tree.Add)
		return ok && w.name(&add.KeyPackage.Leaf) == d.name
	}
}

// invitation returns a proposal to add the device.
func (d *device) invitation() *tree.Add {
	p := d.keyPackage()
	d.packages = append(d.packages, p)
	return &tree.Add{KeyPackage: p.Public}
}

// other returns the leaf of another member.
func (w *world) other(d *device) (tree.LeafIndex, bool) {
	var all []tree.LeafIndex
	for l := range d.Public().Tree().Members() {
		if l != d.Own() {
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return all[w.random.IntN(len(all))], true
}

// prepare makes a commit and stores it; nil where it isn't to be sent.
func (w *world) prepare(d *device) *Committed {
	w.t.Helper()
	if d.pending != nil {
		return nil // its commit was refused, and the one that was taken is on its way
	}
	c, err := d.Commit(w.options(d))
	if err != nil {
		w.t.Fatalf("%s commits: %v", d.name, err)
	}
	if w.crash(d) {
		return nil
	}
	d.save()
	return c
}

func (w *world) commit(d *device) {
	w.t.Helper()
	if c := w.prepare(d); c != nil {
		w.submit(d, c, nil)
	}
}

// submit gives a commit to the server, which takes the first of an epoch. formers
// are the groups that newcomers know to be continued.
func (w *world) submit(d *device, c *Committed, formers map[*device]*Group) bool {
	w.t.Helper()
	if d.Epoch() != w.now() {
		w.refuses(c.Message)
		return false
	}
	w.takes(c.Message)
	w.events["commit"]++
	w.spend(d, c.Message, "a commit")
	w.enqueue(c.Message, nil)
	w.catchUp(d)
	for _, added := range d.Public().Tree().Members() {
		name := w.name(added)
		if other := w.find(name); !w.epochs[w.now()-1].members[name] && other != d {
			w.welcome(other, c.Welcome, formers[other])
		}
	}
	return true
}

func (w *world) find(name string) *device {
	return w.devices[slices.IndexFunc(w.devices, func(d *device) bool { return d.name == name })]
}

// enqueue has the server hold a handshake of the present epoch for all members
// but one.
func (w *world) enqueue(message []byte, but *device) {
	for _, d := range w.devices {
		if d != but && w.epochs[w.now()].members[d.name] {
			d.handshakes = append(d.handshakes, message)
		}
	}
}

// takes has the server judge and take a commit of the present epoch.
func (w *world) takes(message []byte) {
	w.t.Helper()
	if w.server == nil {
		return
	}
	m := must(tree.ParseMessage(bytes.Clone(message)))(w.t).(*tree.PublicMessage)
	staged, err := w.server.Stage(m.AuthenticatedContent())
	if err != nil {
		w.t.Fatalf("the server refuses a commit in epoch %d: %v", w.now(), err)
	}
	if err := w.server.Apply(staged, m.Auth.ConfirmationTag); err != nil {
		w.t.Fatal(err)
	}
}

// refuses verifies that the server refuses a commit of an epoch before.
func (w *world) refuses(message []byte) {
	w.t.Helper()
	if w.server != nil {
		m := must(tree.ParseMessage(message))(w.t).(*tree.PublicMessage)
		_, err := w.server.Stage(m.AuthenticatedContent())
		w.refused(err, tree.ErrEpoch)
	}
}

// propose sends a proposal for somebody's commit.
func (w *world) propose(d *device) {
	w.t.Helper()
	var message []byte
	var err error
	private := w.server == nil
	switch other := w.pick(w.newTo(d)); w.random.IntN(3) {
	case 0:
		message, err = d.ProposeUpdate(nil, private, nil)
	case 1:
		if other == nil {
			return
		}
		message, err = d.Propose(other.invitation(), private, nil)
	default:
		l, ok := w.other(d)
		if !ok {
			return
		}
		message, err = d.Propose(&tree.Remove{Removed: l}, private, nil)
	}
	if err != nil {
		w.t.Fatalf("%s proposes: %v", d.name, err)
	}
	if w.crash(d) {
		return
	}
	d.save()
	w.spend(d, message, "a proposal")
	if d.Epoch() != w.now() {
		return // the server refuses it
	}
	w.orders(message, d)
	w.events["proposal"]++
}

// orders has the server judge a proposal and hold it for all members but one.
func (w *world) orders(message []byte, but *device) {
	w.t.Helper()
	if w.server != nil {
		m := must(tree.ParseMessage(bytes.Clone(message)))(w.t).(*tree.PublicMessage)
		if _, err := w.server.Propose(m.AuthenticatedContent()); err != nil {
			w.t.Fatalf("the server refuses a proposal: %v", err)
		}
	}
	w.enqueue(message, but)
}

// revoke has the external sender propose that a member leave.
func (w *world) revoke() {
	w.t.Helper()
	d := w.pick(func(d *device) bool { return inside(d) && d.Epoch() == w.now() })
	if d == nil {
		return
	}
	if l, ok := w.other(d); ok {
		w.orders(must(ProposeFromOutside(d.ID(), w.now(), 0, w.officer, &tree.Remove{Removed: l}))(w.t), nil)
		w.events["revoked"]++
	}
}

// race has two devices commit in one epoch. The server shows the commit that it
// refused to a third, which goes astray; nothing leads from there to the
// others or back.
func (w *world) race(d *device) {
	w.t.Helper()
	w.catchUp(d)
	other := w.pick(func(o *device) bool { return inside(o) && o != d })
	third := w.pick(func(o *device) bool { return inside(o) && o != d && o != other })
	if !inside(d) || other == nil || third == nil {
		return
	}
	w.catchUp(other)
	w.catchUp(third)
	if !inside(d) || !inside(other) || !inside(third) {
		return
	}
	late := w.prepare(other)
	if late == nil {
		return
	}
	c := w.prepare(d)
	if c == nil {
		return
	}
	astray := third.stored()
	w.submit(d, c, nil)
	if _, err := astray.Process(late.Message); err != nil {
		w.t.Fatalf("a commit that came too late isn't sound: %v", err)
	}
	w.events["race"]++
	w.refuses(late.Message)
	if astray.Removed() {
		return
	}
	if bytes.Equal(astray.EpochAuthenticator(), w.epochs[w.now()].authenticator) {
		w.t.Fatal("two commits lead to one epoch")
	}
	for _, m := range [][]byte{c.Message, must(d.Encrypt([]byte("to the others"), nil))(w.t)} {
		if _, err := astray.Process(m); err == nil {
			w.t.Fatal("a forked member reads the others' messages")
		}
		w.events["refused"]++
	}
	d.save()
	lure := must(astray.Encrypt([]byte("to the others"), nil))(w.t)
	if _, err := d.Process(lure); err == nil {
		w.t.Fatal("a message leads out of a fork")
	}
	w.events["refused"]++
}

// joinExternally has a device outside join by an external commit.
func (w *world) joinExternally(d *device) {
	w.t.Helper()
	helper := w.pick(func(o *device) bool { return inside(o) && o.Epoch() == w.now() })
	if d == nil || helper == nil {
		return
	}
	j := ExternalJoin{Identity: w.identity(d), GroupInfo: must(helper.GroupInfo(false))(w.t)}
	for l, leaf := range helper.Public().Tree().Members() {
		if w.name(leaf) == d.name {
			j.Remove = &l
		}
	}
	g, message, err := JoinExternally(d.config, j)
	if err != nil {
		w.t.Fatalf("%s joins by itself: %v", d.name, err)
	}
	if w.chance(10) {
		return // somebody else was faster
	}
	w.takes(message)
	w.enqueue(message, d)
	w.enter(d, g)
	w.events["external join"]++
}

// loseState has a device begin anew, and come back by an external commit.
func (w *world) loseState(d *device) {
	if w.pick(func(o *device) bool { return o != d && inside(o) && o.Epoch() == w.now() }) == nil {
		return // nobody would be left
	}
	d.Group, d.backup, d.handshakes = nil, nil, nil
	clear(d.disk)
	w.events["lost state"]++
	w.joinExternally(d)
}
