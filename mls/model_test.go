package mls

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

var (
	modelRuns = flag.Int("model-runs", 24, "random schedules of TestModel")
	modelSeed = flag.Uint64("model-seed", 1, "seed of the first of them; each is printed where it fails")
)

// TestModel runs random schedules: devices join, leave, renew keys and write,
// messages are dropped, delayed and doubled, devices crash, lose their state or
// are set back to an old one, groups end and begin anew, and a server tries to
// fork them. All devices in an epoch agree, each message is read once, who is
// out reads nothing, and no key is used twice.
//
// The schedules are the same in every run; what the standard library draws by
// itself, the ephemeral keys of HPKE, isn't.
//
// Each assertion was seen to fail, by changing the code until it deserved it:
//
//	a sender's ratchet isn't stored              a key is used again after a crash
//	keys stay after their use                    a message is read twice
//	keys of skipped messages are dropped         a late message isn't read
//	a past epoch too many is kept                a message is read too late
//	PSKs are left out, the tag isn't checked     two in an epoch disagree
//	the server starts without the last tag       server and members disagree
//	one epoch secret, whatever is committed      two commits lead to one epoch
//	message keys and signatures ignore the fork  a forked member reads the others
//	message keys are the same in all epochs      who was removed reads on
//	the commit secret is left out                who was removed derives the next epoch
//	a removal takes no path                      who was removed could follow
//	a removed leaf's parents keep their keys     who was removed opens a path secret
//	the reuse guard is zero                      a device set back repeats a nonce
//	the server judges commits of past epochs     a late commit isn't late
//	a group goes on after a ReInit               an ended group takes more
func TestModel(t *testing.T) {
	var m sync.Mutex
	events := make(map[string]int)
	t.Cleanup(func() {
		fmt.Printf("model %d schedules from seed %d: %d devices, %d commits, %d messages delivered, %d refused\n",
			*modelRuns, *modelSeed, events["device"], events["commit"]+events["external join"], events["read"], events["refused"])
		if *modelRuns < 200 {
			return
		}
		for _, e := range kinds {
			if events[e] == 0 {
				t.Errorf("no %s in all schedules, but %v", e, events)
			}
		}
	})
	for i := range uint64(*modelRuns) {
		seed := *modelSeed + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			w.run()
			m.Lock()
			defer m.Unlock()
			for e, n := range w.events {
				events[e] += n
			}
		})
	}
}

// kinds are the events that many schedules can't do without.
var kinds = []string{
	"branch", "certificate", "commit", "crash", "doubled", "external join", "join", "lost state", "proposal", "psk", "race",
	"read", "refused", "reinit", "removed", "revoked", "set back",
}

// world is a group, its server, and all devices, in the group or not.
type world struct {
	t       testing.TB
	random  *rand.Rand
	suite   *cipher.Suite
	ca      *authority // where devices have certificates
	devices []*device
	server  *tree.Group   // nil where handshakes are encrypted: it orders them by epoch alone
	officer cipher.Signer // the external sender that removes revoked devices
	epochs  []epochFacts
	spent   map[string]string // keys used by messages that were sent, and for what
	nonces  map[string]bool   // the same, with the nonces
	ghosts  []*device         // states of members as they were before their removal
	texts   int
	events  map[string]int
}

// epochFacts is what all devices in an epoch must agree on.
type epochFacts struct {
	members       map[string]bool
	authenticator []byte
	context       *tree.GroupContext // as the server has it, or the first device
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
	backup     map[string][]byte // a copy of the disk as it was once, or nil
}

// text is an application message on its way.
type text struct {
	message []byte
	epoch   uint64
	from    string
	body    string
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 9420)),
		spent: make(map[string]string), nonces: make(map[string]bool), events: make(map[string]int),
	}
	id, most := cipher.X25519AES128SHA256Ed25519, 10
	switch seed % 8 {
	case 0: // these go the same ways, but slowly
		id, most = cipher.IDs()[w.random.IntN(len(cipher.IDs()))], 6
	case 1:
		w.ca = newAuthority(t)
		w.events["certificate"]++
	case 2:
		most = 30
	}
	w.suite = testSuite(t, id)
	for i := range 3 + w.random.IntN(most-2) {
		w.devices = append(w.devices, w.newDevice(fmt.Sprintf("%d of run %d", i, seed)))
	}
	w.events["device"] = len(w.devices)
	w.officer = must(w.suite.NewSigner(must(w.suite.GenerateSignatureKey(random("officer")))(t)))(t)
	first := w.devices[0]
	first.create("group", w.officers().Extension())
	w.begin(first)
	return w
}

func (w *world) newDevice(name string) *device {
	m := newMember(w.t, w.suite, name)
	m.psks["shared"] = []byte("among all")
	d := &device{member: m, disk: make(map[string][]byte), read: make(map[string]bool)}
	if w.ca != nil {
		m.config.Rules = w.ca
		m.id = w.identity(d)
	}
	return d
}

// identity returns a device's identity with a new signature key.
func (w *world) identity(d *device) *Identity {
	id := d.newIdentity()
	if w.ca != nil {
		id.Credential = w.ca.certify(d.name, id.Signer.Public())
		id.Capabilities.Credentials = []tree.CredentialType{tree.CredentialX509, tree.CredentialBasic}
	}
	return id
}

// name returns the name of the device whose leaf it is.
func (w *world) name(leaf *tree.LeafNode) string { return w.devices[0].config.Rules.Client(leaf) }

func (w *world) officers() tree.ExternalSenders {
	return tree.ExternalSenders{{SignatureKey: w.officer.Public(), Credential: tree.BasicCredential([]byte("officer"))}}
}

// begin starts a group that a device has created and is alone in.
func (w *world) begin(first *device) {
	w.epochs, w.ghosts, w.server = nil, nil, nil
	clear(first.disk)
	first.save()
	first.joined, first.handshakes, first.backup = 0, nil, nil
	if w.random.IntN(4) > 0 {
		w.server = serve(w.t, first)
	}
	w.note(first)
}

// serve returns a server's view of a new group.
func serve(t testing.TB, first *device) *tree.Group {
	info, ratchetTree, err := openGroupInfo(must(first.GroupInfo(false))(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return must(tree.JoinGroup(first.config.Rules, info, ratchetTree))(t)
}

func (w *world) run() {
	steps := 40 + 8*len(w.devices)
	w.live(steps)
	if w.chance(40) && w.succeed() {
		w.live(steps / 2)
	}
	w.t.Logf("%d devices, %d epochs, %v", len(w.devices), w.now(), w.events)
}

// live has things happen, until all devices have read what waits for them.
func (w *world) live(steps int) {
	for range steps {
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
	case n < 93:
		w.loseState(d)
	case n < 94:
		w.setBack(w.pick(func(d *device) bool { return inside(d) && d.backup != nil }))
	case n < 95:
		d.restart()
	case n < 97:
		d.backup = maps.Clone(d.disk)
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
			facts.members[w.name(leaf)] = true
		}
		facts.context = d.Public().Context()
		if w.server != nil {
			facts.context = w.server.Context()
		}
		w.epochs = append(w.epochs, facts)
	}
	facts := w.epochs[epoch]
	if !bytes.Equal(facts.authenticator, d.EpochAuthenticator()) {
		w.t.Fatalf("%s has another secret in epoch %d", d.name, epoch)
	}
	if !facts.context.Equal(d.Public().Context()) {
		w.t.Fatalf("%s has another context in epoch %d", d.name, epoch)
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
	w.spend(d, m.message, m.body)
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
		w.haunts(ghost, &m)
	}
}

// receive has a device read something that the server holds for it.
func (w *world) receive(d *device) {
	if len(d.handshakes) > 0 && w.chance(60) {
		w.handshake(d)
	} else {
		w.deliver(d)
	}
}

// handshake has a device read the next handshake, once, or twice.
func (w *world) handshake(d *device) {
	w.t.Helper()
	before, epoch, message := maps.Clone(d.disk), d.Epoch(), d.handshakes[0]
	if _, err := d.Process(message); err != nil {
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
		member := *d.member
		ghost := &device{member: &member, disk: before}
		ghost.restart()
		w.lockedOut(ghost, message)
		if len(w.ghosts) < 3 {
			w.ghosts = append(w.ghosts, ghost)
		}
		return
	}
	w.note(d)
	if d.Epoch() > epoch && w.chance(10) {
		_, err := d.Process(message)
		w.refused(err, tree.ErrEpoch)
		w.events["doubled"]++
	}
}

// refused verifies that something was, and counts it.
func (w *world) refused(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("got %v, want %v", err, want)
	}
	w.events["refused"]++
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
	if err == nil && (string(r.Application) != m.body || w.name(r.Leaf) != m.from || r.Epoch != m.epoch) {
		w.t.Fatalf("%s reads %q of %q in epoch %d", d.name, r.Application, w.name(r.Leaf), r.Epoch)
	}
	if w.crash(d) {
		return // it wasn't delivered, and comes again
	}
	d.save()
	d.inbox = slices.Delete(d.inbox, i, i+1)
	if err != nil {
		w.events["refused"]++
		return
	}
	d.read[m.body] = true
	w.events["read"]++
}

// welcome has a new member join, of a group that continues another, or nil.
func (w *world) welcome(d *device, message []byte, former *Group) {
	w.t.Helper()
	for _, own := range d.packages {
		g, err := Join(d.config, own, message, nil, former)
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
	d.Group, d.joined, d.handshakes, d.packages, d.backup = g, g.Epoch(), nil, nil, nil
	clear(d.disk)
	d.save()
	w.note(d)
}
