package mls

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

var mutationRuns = flag.Int("mutations", 10_000, "damaged messages of TestMutations")

// target is a message that gets damaged on its way.
type target struct {
	name     string
	original []byte
	take     func(data []byte) error // what its recipient makes of it
}

// errSame is returned for a damaged message that, sealed anew, is the original
// again, or has more or less padding, which nobody signs (RFC 9420 §6.3.1).
var errSame = errors.New("the message says the same")

// TestMutations gives recipients messages that are cut or differ from what was
// sent in a bit or more, and messages that another member damaged and sealed
// anew, with all it knows: everything but the sender's signature key. Nobody may
// accept one or panic, and each recipient takes the original afterwards.
func TestMutations(t *testing.T) {
	var sum mutationCount
	for id, n := range map[cipher.ID]int{
		cipher.X25519AES128SHA256Ed25519: *mutationRuns / 2, // the suite in use
		cipher.P256AES128SHA256P256:      *mutationRuns / 4,
		cipher.XWingAES256SHA384Ed25519:  *mutationRuns / 4,
	} {
		mutators := make([]*mutator, runtime.GOMAXPROCS(0))
		for i := range mutators {
			mutators[i] = &mutator{t: t, suite: id, targets: mutationTargets(t, id)}
		}
		var wait sync.WaitGroup
		for i, m := range mutators {
			wait.Go(func() { m.run(n, i, len(mutators)) })
		}
		wait.Wait()
		for _, m := range mutators {
			sum.tried += m.tried
			sum.accepted += m.accepted
			sum.panics += m.panics
		}
	}
	fmt.Printf("mutations %d: %d accepted, %d panics\n", sum.tried, sum.accepted, sum.panics)
}

type mutationCount struct{ tried, accepted, panics int }

// mutator damages the messages of one suite.
type mutator struct {
	t       *testing.T
	suite   cipher.ID
	targets []target
	random  *rand.Rand // the same for a mutation's number, whoever does it
	mutationCount
}

// run does one worker's share of n mutations: half of them cuts and single bits,
// all there are or as many as fit, evenly spread; the others random. Then it
// delivers the originals.
func (m *mutator) run(n, worker, workers int) {
	all := 0
	for i := range m.targets {
		all += cuts * len(m.targets[i].original)
	}
	half := (n + 1) / 2
	for i := worker; i < n; i += workers {
		m.random = rand.New(rand.NewPCG(uint64(i), uint64(m.suite)))
		tried := i < min(half, all) && m.try(m.simple(i*max(all, half)/half))
		for !tried {
			tried = m.try(m.wild())
		}
	}
	for _, v := range m.targets {
		if err := v.take(v.original); err != nil {
			m.t.Errorf("%s isn't accepted after all: %v", v.name, err)
		}
	}
}

// cuts is the number of simple mutations of a byte: to end before it, and to turn
// over a bit.
const cuts = 9

func (m *mutator) simple(i int) (*target, []byte) {
	for j := range m.targets {
		v := &m.targets[j]
		if i >= cuts*len(v.original) {
			i -= cuts * len(v.original)
			continue
		}
		if bit := i % cuts; bit < 8 {
			return v, flip(v.original, i/cuts*8+bit)
		}
		return v, v.original[:i/cuts]
	}
	panic("no such mutation")
}

// wild damages a message in up to eight places.
func (m *mutator) wild() (*target, []byte) {
	v := &m.targets[m.random.IntN(len(m.targets))]
	data := bytes.Clone(v.original)
	for range 1 + m.random.IntN(8) {
		if len(data) == 0 {
			break
		}
		at := m.random.IntN(len(data))
		some := data[at:min(len(data), at+1+m.random.IntN(64))]
		switch m.random.IntN(7) {
		case 0:
			data = flip(data, 8*at+m.random.IntN(8))
		case 1:
			data[at] = byte(m.random.Uint32())
		case 2:
			data = slices.Delete(data, at, at+len(some))
		case 3:
			data = slices.Insert(data, at, bytes.Clone(some)...)
		case 4:
			data = data[:at]
		case 5:
			data = append(data, some...)
		case 6: // from another message
			other := m.targets[m.random.IntN(len(m.targets))].original
			from := m.random.IntN(len(other))
			copy(data[at:], other[from:min(len(other), from+1+m.random.IntN(64))])
		}
	}
	return v, data
}

// try reports whether the data was one to be refused.
func (m *mutator) try(v *target, data []byte) bool {
	if bytes.Equal(data, v.original) {
		return false
	}
	defer func() {
		if r := recover(); r != nil {
			m.panics++
			m.t.Errorf("%s: panic %v at %x", v.name, r, data)
		}
	}()
	err := v.take(data)
	if errors.Is(err, errSame) {
		return false
	}
	m.tried++
	if err == nil {
		m.accepted++
		m.t.Errorf("%s: %x accepted in the place of %x", v.name, data, v.original)
	}
	return true
}

// mutationTargets returns what a member and a newcomer are sent, each message
// with a recipient of its own. A Welcome has one newcomer: what it says to others
// is theirs to check.
func mutationTargets(t testing.TB, id cipher.ID) []target {
	m := group(t, id, 3)
	talk(t, m...) // keys exist
	state := make(disk)
	state.save(m[2].Group)
	reader := func() *Group { return must(Restore(m[2].config, state.records()))(t) }
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	proposed := tree.PreSharedKeyID{Type: tree.PSKExternal, ID: []byte("shared"), Nonce: make([]byte, m[0].suite.HashSize())}
	for _, x := range append(m, next) {
		x.psks["shared"] = []byte("among all")
	}
	add := CommitOptions{Path: true, Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}, &tree.PreSharedKey{PSK: proposed}}}
	c := must(m[0].Commit(add))(t)
	encrypted := must(m[1].Commit(CommitOptions{Path: true, Encrypt: true, Proposals: add.Proposals[1:]}))(t).Message
	_, external, err := JoinExternally(next.config, ExternalJoin{Identity: next.newIdentity(), GroupInfo: must(m[2].GroupInfo(false))(t)})
	if err != nil {
		t.Fatal(err)
	}
	text := must(m[0].Encrypt([]byte("text"), []byte("header")))(t)
	update := must(m[1].ProposeUpdate(nil, false, nil))(t)
	private := must(m[1].Propose(&tree.Remove{Removed: m[0].Own()}, true, nil))(t)
	targets := []target{
		joins(t, next, c.Welcome, own),
		joinsExternally(next, must(m[2].GroupInfo(false))(t)),
		invites(t, m[2], own.Message()),
	}
	for name, message := range map[string][]byte{
		"commit": c.Message, "encrypted commit": encrypted, "external commit": external, "message": text,
		"proposal": update, "encrypted proposal": private,
	} {
		targets = append(targets, reads(name, message, reader()))
	}
	for name, message := range map[string][]byte{"commit": c.Message, "proposal": update} {
		targets = append(targets, readsTagged(name, message, reader(), reader().now))
	}
	for name, message := range map[string][]byte{"commit": encrypted, "message": text, "proposal": private} {
		targets = append(targets, readsSealed(t, name, message, reader(), reader().now))
	}
	slices.SortFunc(targets, func(a, b target) int { return strings.Compare(a.name, b.name) })
	return targets
}

// parsed reads an MLSMessage of one kind.
func parsed[T any](data []byte) (T, error) {
	m, err := tree.ParseMessage(bytes.Clone(data))
	t, ok := m.(T)
	if err == nil && !ok {
		err = fmt.Errorf("a %T", m)
	}
	return t, err
}

func reads(name string, message []byte, g *Group) target {
	return target{name, message, func(data []byte) error {
		_, err := g.Process(data)
		return err
	}}
}

// readsTagged has another member make the membership tag anew.
func readsTagged(name string, message []byte, g *Group, insider *epoch) target {
	return target{name + ", tagged anew", message, func(data []byte) error {
		m, err := parsed[*tree.PublicMessage](data)
		if err != nil {
			return err
		}
		if m.Content.Sender.Type == tree.SenderMember {
			m.MembershipTag = insider.suite.MAC(insider.secrets.membership, m.AuthenticatedContent().MembershipContent(&insider.context))
		}
		anew := tree.MarshalMessage(m)
		if bytes.Equal(anew, message) && !bytes.Equal(data, message) {
			return errSame
		}
		_, err = g.Process(anew)
		return err
	}}
}

// readsSealed has another member damage the plaintext and encrypt it anew, with
// the sender's key.
func readsSealed(t testing.TB, name string, message []byte, g *Group, insider *epoch) target {
	m := must(tree.ParseMessage(message))(t).(*tree.PrivateMessage)
	key, nonce := insider.senderDataKeys(m.Ciphertext)
	sender := must(insider.suite.Open(key, nonce, senderDataAAD(m), m.EncryptedSenderData))(t)
	var data senderData
	if err := syntax.Unmarshal(sender, &data); err != nil {
		t.Fatal(err)
	}
	k := must(insider.keys.find(ratchetID{data.leaf, m.ContentType != tree.ContentApplication}, data.generation))(t)
	nonce = guard(k.nonce, data.reuseGuard)
	plain := must(insider.suite.Open(k.key, nonce, contentAAD(m), m.Ciphertext))(t)
	seal := func(plain []byte) []byte {
		sealed := *m
		sealed.Ciphertext = must(insider.suite.Seal(k.key, nonce, contentAAD(m), plain))(t)
		key, nonce := insider.senderDataKeys(sealed.Ciphertext)
		sealed.EncryptedSenderData = must(insider.suite.Seal(key, nonce, senderDataAAD(m), sender))(t)
		return tree.MarshalMessage(&sealed)
	}
	if !bytes.Equal(seal(plain), message) {
		t.Fatal("sealed in another way than the sender did")
	}
	return target{"encrypted " + name + ", sealed anew", plain, func(data []byte) error {
		if said := bytes.TrimRight(plain, "\x00"); !bytes.Equal(data, plain) && bytes.Equal(bytes.TrimRight(data, "\x00"), said) {
			return errSame
		}
		_, err := g.Process(seal(data))
		return err
	}}
}

func joins(t testing.TB, next *member, welcome []byte, own *OwnKeyPackage) target {
	initKey, leafKey := own.ExposeSecrets()
	initKey, leafKey = bytes.Clone(initKey), bytes.Clone(leafKey)
	return target{"Welcome", welcome, func(data []byte) error {
		mine, err := RestoreKeyPackage(own.Message(), initKey, leafKey)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Join(next.config, mine, data, nil, nil)
		return err
	}}
}

func joinsExternally(next *member, info []byte) target {
	return target{"GroupInfo", info, func(data []byte) error {
		_, _, err := JoinExternally(next.config, ExternalJoin{Identity: next.id, GroupInfo: data})
		return err
	}}
}

// invites has a member judge a key package.
func invites(t testing.TB, m *member, message []byte) target {
	return target{"KeyPackage", message, func(data []byte) error {
		p, err := parsed[*tree.KeyPackage](data)
		if err != nil {
			return err
		}
		return tree.CheckKeyPackage(m.suite, m.rules, p)
	}}
}
