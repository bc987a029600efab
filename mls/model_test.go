package mls

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

var (
	modelRuns = flag.Int("model-runs", 16, "random schedules of TestModel")
	modelSeed = flag.Uint64("model-seed", 1, "seed of the first of them; each is printed where it fails")
)

// TestModel runs random schedules: devices join, leave, renew keys and write,
// messages are dropped, delayed and doubled, devices crash and lose their state,
// and a server tries to fork the group. All devices in an epoch agree, each
// message is read once, who is out reads nothing, and no key is used twice.
func TestModel(t *testing.T) {
	events := make(map[string]int)
	for i := range uint64(*modelRuns) {
		seed := *modelSeed + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			w.run()
			for e, n := range w.events {
				events[e] += n
			}
		})
	}
	if *modelRuns < 16 {
		return
	}
	for _, e := range []string{"commit", "crash", "external join", "join", "lost state", "proposal", "psk", "race", "read", "refused", "removed", "revoked"} {
		if events[e] == 0 {
			t.Errorf("no %s in all schedules, but %v", e, events)
		}
	}
}

// world is a group, its server, and all devices, in the group or not.
type world struct {
	t       testing.TB
	random  *rand.Rand
	devices []*device
	server  *tree.Group   // nil where handshakes are encrypted: it orders them by epoch alone
	officer cipher.Signer // the external sender that removes revoked devices
	epochs  []epochFacts
	spent   map[string]bool // keys used by messages that were sent
	ghosts  []*device       // states of members as they were before their removal
	texts   int
	events  map[string]int
}

// epochFacts is what all devices in an epoch must agree on.
type epochFacts struct {
	members       map[string]bool
	authenticator []byte
	context       *tree.GroupContext // as the server has it, or nil
}

// device is a client with a disk and what the server holds for it.
type device struct {
	*member
	disk       map[string][]byte
	packages   []*OwnKeyPackage
	handshakes [][]byte // in the server's order
	inbox      []text
	joined     uint64
	read       map[string]bool
}

// text is an application message on its way.
type text struct {
	message []byte
	epoch   uint64
	from    string
	body    string
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 9420)), spent: make(map[string]bool), events: make(map[string]int)}
	id, most := cipher.X25519AES128SHA256Ed25519, 30
	if seed%8 == 0 { // the others go the same ways, but slowly
		id, most = cipher.IDs()[w.random.IntN(len(cipher.IDs()))], 8
	}
	s := testSuite(t, id)
	for i := range 3 + w.random.IntN(most-2) {
		m := newMember(t, s, fmt.Sprintf("%d of run %d", i, seed))
		m.psks["shared"] = []byte("among all")
		w.devices = append(w.devices, &device{member: m, disk: make(map[string][]byte), read: make(map[string]bool)})
	}
	w.officer = must(s.NewSigner(must(s.GenerateSignatureKey(random("officer")))(t)))(t)
	first := w.devices[0]
	first.create("group", tree.ExternalSenders{{
		SignatureKey: w.officer.Public(), Credential: tree.BasicCredential([]byte("officer")),
	}}.Extension())
	first.save()
	if w.random.IntN(4) > 0 {
		w.server = serve(t, first)
	}
	w.note(first)
	return w
}

// serve returns a server's view of a new group.
func serve(t testing.TB, first *device) *tree.Group {
	info, ratchetTree, err := openGroupInfo(must(first.GroupInfo(false))(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return must(tree.JoinGroup(&testRules{}, info, ratchetTree))(t)
}

func (w *world) run() {
	for range 40 + 8*len(w.devices) {
		w.step()
	}
	for _, d := range w.devices {
		w.catchUp(d)
		for len(d.inbox) > 0 {
			w.deliver(d)
		}
		if d.Group != nil && !d.Removed() && d.Epoch() != w.now() {
			w.t.Errorf("%s stays behind in epoch %d of %d", d.name, d.Epoch(), w.now())
		}
	}
	w.t.Logf("%d devices, %d epochs, %v", len(w.devices), w.now(), w.events)
}

func (w *world) now() uint64 { return uint64(len(w.epochs) - 1) }

func (w *world) chance(percent int) bool { return w.random.IntN(100) < percent }

// pick returns a random device that fits, or nil.
func (w *world) pick(fits func(d *device) bool) *device {
	var all []*device
	for _, d := range w.devices {
		if fits(d) {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.random.IntN(len(all))]
}

// Kinds of devices. Who was removed and doesn't know yet still acts as inside.
func inside(d *device) bool  { return d.Group != nil && !d.Removed() }
func outside(d *device) bool { return !inside(d) }

func (w *world) step() {
	d := w.pick(inside)
	switch n := w.random.IntN(100); {
	case n < 30:
		w.write(d)
	case n < 60:
		w.receive(w.pick(inside))
	case n < 75:
		w.commit(d)
	case n < 81:
		w.propose(d)
	case n < 83:
		w.revoke()
	case n < 88:
		w.race(d)
	case n < 92:
		w.joinExternally(w.pick(outside))
	case n < 94:
		w.loseState(d)
	case n < 97:
		d.restart()
	default:
		w.catchUp(d)
	}
}

// save stores what changed.
func (d *device) save() {
	for _, r := range d.Changes() {
		if r.Value == nil {
			delete(d.disk, string(r.Key))
		} else {
			d.disk[string(r.Key)] = bytes.Clone(r.Value)
		}
	}
}

// stored returns the group as it is on disk.
func (d *device) stored() *Group {
	d.t.Helper()
	var records []Record
	for k, v := range d.disk {
		records = append(records, Record{Key: []byte(k), Value: bytes.Clone(v)})
	}
	return must(Restore(d.config, records))(d.t)
}

func (d *device) restart() { d.Group = d.stored() }

// crash loses what isn't stored, now and then. It reports whether it did.
func (w *world) crash(d *device) bool {
	if !w.chance(10) {
		return false
	}
	w.events["crash"]++
	d.restart()
	return true
}

// note records the epoch that a device is the first to be in, and compares what
// others have.
func (w *world) note(d *device) {
	w.t.Helper()
	epoch := d.Epoch()
	if epoch > w.now()+1 {
		w.t.Fatalf("%s is in epoch %d after %d", d.name, epoch, w.now())
	}
	if epoch == w.now()+1 {
		facts := epochFacts{members: make(map[string]bool), authenticator: d.EpochAuthenticator()}
		for _, leaf := range d.Public().Tree().Members() {
			facts.members[string(leaf.Credential.Identity)] = true
		}
		if w.server != nil {
			facts.context = w.server.Context()
		}
		w.epochs = append(w.epochs, facts)
	}
	facts := w.epochs[epoch]
	if !bytes.Equal(facts.authenticator, d.EpochAuthenticator()) {
		w.t.Fatalf("%s has another secret in epoch %d", d.name, epoch)
	}
	if facts.context != nil && !facts.context.Equal(d.Public().Context()) {
		w.t.Fatalf("%s and the server have different contexts in epoch %d", d.name, epoch)
	}
}

// write sends an application message to all members of the sender's epoch.
func (w *world) write(d *device) {
	w.texts++
	m := text{epoch: d.Epoch(), from: d.name, body: fmt.Sprintf("text %d", w.texts)}
	m.message = must(d.Encrypt([]byte(m.body), nil))(w.t)
	if w.crash(d) {
		return // it wasn't stored, so it isn't sent
	}
	d.save()
	w.spend(d, m.message)
	for _, to := range w.devices {
		if to == d || !w.epochs[m.epoch].members[to.name] || w.chance(10) {
			continue
		}
		to.inbox = append(to.inbox, m)
		if w.chance(10) {
			to.inbox = append(to.inbox, m)
		}
	}
	for _, ghost := range w.ghosts {
		if m.epoch > ghost.Epoch() {
			if _, err := ghost.Process(m.message); err == nil {
				w.t.Fatalf("%s, removed after epoch %d, reads epoch %d", ghost.name, ghost.Epoch(), m.epoch)
			}
		}
	}
}

// spend verifies that an encrypted message which is sent uses a key for the
// first time.
func (w *world) spend(d *device, message []byte) {
	w.t.Helper()
	m, ok := must(tree.ParseMessage(message))(w.t).(*tree.PrivateMessage)
	if !ok {
		return
	}
	key, nonce := d.now.senderDataKeys(m.Ciphertext)
	data := must(d.suite.Open(key, nonce, senderDataAAD(m), m.EncryptedSenderData))(w.t)
	data = data[:len(data)-reuseGuardSize] // leaf and generation
	use := fmt.Sprintf("epoch %d, type %t, %x", m.Epoch, m.ContentType == tree.ContentApplication, data)
	if w.spent[use] {
		w.t.Fatalf("%s uses a key again: %s", d.name, use)
	}
	w.spent[use] = true
}

// receive has a device read something that the server holds for it.
func (w *world) receive(d *device) {
	if len(d.handshakes) > 0 && w.chance(60) {
		w.handshake(d)
	} else {
		w.deliver(d)
	}
}

// handshake has a device read the next handshake.
func (w *world) handshake(d *device) {
	w.t.Helper()
	before, epoch := maps.Clone(d.disk), d.Epoch()
	if _, err := d.Process(d.handshakes[0]); err != nil {
		w.t.Fatalf("%s in epoch %d: %v", d.name, epoch, err)
	}
	if w.crash(d) {
		return // it comes again
	}
	d.save()
	d.handshakes = d.handshakes[1:]
	if d.Removed() {
		w.events["removed"]++
		d.handshakes = nil
		if len(w.ghosts) < 3 {
			member := *d.member
			ghost := &device{member: &member, disk: before}
			ghost.restart()
			w.ghosts = append(w.ghosts, ghost)
		}
		return
	}
	w.note(d)
}

// catchUp has a device read all handshakes.
func (w *world) catchUp(d *device) {
	for d.Group != nil && !d.Removed() && len(d.handshakes) > 0 {
		w.handshake(d)
	}
}

// deliver has a device read one of the application messages that wait for it.
func (w *world) deliver(d *device) {
	w.t.Helper()
	if len(d.inbox) == 0 {
		return
	}
	i := w.random.IntN(len(d.inbox))
	m := d.inbox[i]
	if inside(d) && m.epoch > d.Epoch() {
		w.catchUp(d)
	}
	if d.Group == nil {
		d.inbox = slices.Delete(d.inbox, i, i+1)
		return
	}
	r, err := d.Process(m.message)
	var want error
	switch {
	case d.Removed():
		want = ErrRemoved
	case m.epoch < d.joined || m.epoch > d.Epoch() || m.epoch+PastEpochs < d.Epoch():
		want = tree.ErrEpoch
	case d.read[m.body]:
		want = ErrKeyGone
	}
	if !errors.Is(err, want) {
		w.t.Fatalf("%s in epoch %d reads a message of epoch %d: got %v, want %v", d.name, d.Epoch(), m.epoch, err, want)
	}
	if err == nil && (string(r.Application) != m.body || string(r.Leaf.Credential.Identity) != m.from || r.Epoch != m.epoch) {
		w.t.Fatalf("%s reads %q of %q in epoch %d", d.name, r.Application, r.Leaf.Credential.Identity, r.Epoch)
	}
	if w.crash(d) {
		return // it wasn't delivered, and comes again
	}
	d.save()
	d.inbox = slices.Delete(d.inbox, i, i+1)
	if err == nil {
		d.read[m.body] = true
		w.events["read"]++
	}
}

// options returns a random commit: additions, a removal, new keys.
func (w *world) options(d *device) CommitOptions {
	o := CommitOptions{Encrypt: w.server == nil, Path: w.chance(50), Alone: w.chance(20)}
	if w.chance(20) {
		o.Identity = d.newIdentity()
	}
	if w.chance(60) {
		for range 1 + w.random.IntN(3) {
			if other := w.pick(w.newTo(d)); other != nil && !slices.ContainsFunc(o.Proposals, adds(other)) {
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
		members[string(leaf.Credential.Identity)] = true
	}
	return func(other *device) bool { return outside(other) && !members[other.name] }
}

func adds(d *device) func(tree.Proposal) bool {
	return func(p tree.Proposal) bool {
		add, ok := p.(*tree.Add)
		return ok && string(add.KeyPackage.Leaf.Credential.Identity) == d.name
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
		w.submit(d, c)
	}
}

// submit gives a commit to the server, which takes the first of an epoch.
func (w *world) submit(d *device, c *Committed) bool {
	w.t.Helper()
	if d.Epoch() != w.now() {
		w.refuses(c.Message)
		w.events["refused"]++
		return false
	}
	w.takes(c.Message)
	w.events["commit"]++
	w.spend(d, c.Message)
	w.enqueue(c.Message, nil)
	w.catchUp(d)
	for _, added := range d.Public().Tree().Members() {
		name := string(added.Credential.Identity)
		if other := w.find(name); !w.epochs[w.now()-1].members[name] && other != d {
			w.welcome(other, c.Welcome)
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
	if w.server == nil {
		return
	}
	m := must(tree.ParseMessage(message))(w.t).(*tree.PublicMessage)
	if _, err := w.server.Stage(m.AuthenticatedContent()); !errors.Is(err, tree.ErrEpoch) {
		w.t.Fatalf("the server judges a late commit: %v", err)
	}
}

// welcome has a new member join.
func (w *world) welcome(d *device, message []byte) {
	w.t.Helper()
	for _, own := range d.packages {
		g, err := Join(d.config, own, message, nil, nil)
		if errors.Is(err, ErrNotForUs) {
			continue
		} else if err != nil {
			w.t.Fatalf("%s joins: %v", d.name, err)
		}
		w.enter(d, g)
		w.events["join"]++
		return
	}
	w.t.Fatalf("%s has no key package for its Welcome", d.name)
}

// enter gives a device a new state.
func (w *world) enter(d *device, g *Group) {
	w.t.Helper()
	d.Group, d.joined, d.handshakes, d.packages = g, g.Epoch(), nil, nil
	clear(d.disk)
	d.save()
	w.note(d)
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
	w.spend(d, message)
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
	w.submit(d, c)
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
	}
	d.save()
	lure := must(astray.Encrypt([]byte("to the others"), nil))(w.t)
	if _, err := d.Process(lure); err == nil {
		w.t.Fatal("a message leads out of a fork")
	}
}

// joinExternally has a device outside join by an external commit.
func (w *world) joinExternally(d *device) {
	w.t.Helper()
	helper := w.pick(func(o *device) bool { return inside(o) && o.Epoch() == w.now() })
	if d == nil || helper == nil {
		return
	}
	j := ExternalJoin{Identity: d.newIdentity(), GroupInfo: must(helper.GroupInfo(false))(w.t)}
	for l, leaf := range helper.Public().Tree().Members() {
		if string(leaf.Credential.Identity) == d.name {
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
	d.Group = nil
	clear(d.disk)
	d.handshakes = nil
	w.events["lost state"]++
	w.joinExternally(d)
}
