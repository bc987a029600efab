package mls

import (
	"bytes"
	"errors"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// disk is what a member stored.
type disk map[string][]byte

// save stores what changed and returns how many bytes were written.
func (d disk) save(g *Group) int {
	n := 0
	for _, r := range g.Changes() {
		n += len(r.Key) + len(r.Value)
		if r.Value == nil {
			delete(d, string(r.Key))
		} else {
			d[string(r.Key)] = bytes.Clone(r.Value)
		}
	}
	return n
}

func (d disk) records() []Record {
	var out []Record
	for k, v := range d {
		out = append(out, Record{[]byte(k), v})
	}
	return out
}

func (d disk) dump() []byte {
	var out []byte
	for k, v := range d {
		out = append(append(out, k...), v...)
	}
	return out
}

// crash stores the member's state and goes on from what is stored alone.
func (d disk) crash(m *member) {
	m.t.Helper()
	d.save(m.Group)
	m.Group = must(Restore(m.config, d.records()))(m.t)
	if more := m.Group.Changes(); len(more) > 0 {
		m.t.Fatalf("%d records to store after a restart", len(more))
	}
}

// TestCrashes: all members lose their memory after each step.
func TestCrashes(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 5)
	disks := make(map[*member]disk)
	for _, x := range m {
		disks[x] = make(disk)
	}
	crash := func() {
		for _, x := range m {
			disks[x].crash(x)
		}
	}
	crash()
	late := must(m[1].Encrypt([]byte("late"), nil))(t)
	crash()
	talk(t, m...)
	crash()
	update := must(m[2].ProposeUpdate(nil, true, nil))(t)
	crash()
	for _, x := range m {
		if x != m[2] {
			must(x.Process(update))(t)
		}
	}
	crash()
	// A commit is pending over the crash. What was judged before isn't judged
	// again while the state is read.
	c := must(m[0].Commit(CommitOptions{Path: true}))(t)
	m[0].rules.refused["c"] = true
	crash()
	m[0].rules.refused["c"] = false
	for _, x := range m {
		must(x.Process(c.Message))(t)
		crash()
		x.same(m[0])
	}
	talk(t, m...)
	must(m[3].Process(late))(t)
	crash()
	_, err := m[3].Process(late)
	wants(t, "replay after a crash", err, ErrKeyGone)

	m[4].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: m[3].Own()}}}, m...)
	crash()
	if !m[3].Removed() {
		t.Fatal("forgot that it was removed")
	}
	m = append(m[:3], m[4])
	m[0].commits(CommitOptions{Path: true}, m...)
	crash()
	must(m[2].Process(must(m[0].Encrypt([]byte("hello"), nil))(t)))(t)
	m[1].commits(CommitOptions{Proposals: []tree.Proposal{&tree.ReInit{GroupID: []byte("next"), Version: tree.MLS10, CipherSuite: 1}}}, m...)
	crash()
	if m[0].Public().Ended() == nil {
		t.Fatal("forgot that it ended")
	}
}

// TestRestoreRefuses: no record can be missing, and none be cut.
func TestRestoreRefuses(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	talk(t, m...)
	must(m[0].ProposeUpdate(nil, false, nil))(t)
	must(m[0].ProposeUpdate(nil, false, nil))(t)
	must(m[0].Commit(CommitOptions{Path: true}))(t)
	d := make(disk)
	d.save(m[0].Group)
	_, err := Restore(m[0].config, nil)
	wants(t, "nothing", err, ErrState)
	for key, value := range d {
		for cut := range value {
			d[key] = value[:cut]
			if _, err := Restore(m[0].config, d.records()); !errors.Is(err, ErrState) {
				t.Fatalf("record %x cut to %d bytes: %v", key, cut, err)
			}
		}
		delete(d, key)
		_, err := Restore(m[0].config, d.records())
		kind := recordKind(key[0])
		// These can be absent by right: a used key, no former leaf, no proposal, no
		// commit.
		optional := kind == recordRatchet || kind == recordSecretNode || kind == recordCommit || kind == recordProposal || kind == recordFormer
		if err == nil && !optional {
			t.Fatalf("restored without record %x", key)
		}
		d[key] = value
	}
}

// TestUsedKeysAreGone looks for used keys in all that is stored.
func TestUsedKeysAreGone(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	a, b := make(disk), make(disk)
	a.save(m[0].Group)
	b.save(m[1].Group)
	before := b.dump()

	// The keys of b's next three messages from a, taken from a copy of b.
	spy := must(Restore(m[1].config, b.records()))(t)
	id := ratchetID{leaf: m[0].Own()}
	var used [][]byte
	for g := range uint32(3) {
		k, err := spy.now.keys.find(id, g)
		if err != nil {
			t.Fatal(err)
		}
		used = append(used, bytes.Clone(k.key), bytes.Clone(k.nonce))
	}
	used = append(used, bytes.Clone(spy.now.keys.ratchets[id].secret))
	root := must(Restore(m[1].config, b.records()))(t).now.keys.nodes[spy.now.keys.size.Root()]
	used = append(used, bytes.Clone(root))
	if !bytes.Contains(before, root) {
		t.Fatal("looking for the wrong secrets")
	}

	messages := make([][]byte, 3)
	for i := range messages {
		messages[i] = must(m[0].Encrypt([]byte("x"), nil))(t)
	}
	for _, i := range []int{2, 0, 1} {
		must(m[1].Process(messages[i]))(t)
	}
	a.save(m[0].Group)
	b.save(m[1].Group)
	for i, secret := range used {
		for name, d := range map[string]disk{"sender": a, "recipient": b} {
			if bytes.Contains(d.dump(), secret) {
				t.Errorf("the %s still has secret %d", name, i)
			}
		}
	}
	// Whoever takes the state now can't read what was read before.
	thief := must(Restore(m[1].config, b.records()))(t)
	for _, message := range messages {
		_, err := thief.Process(message)
		wants(t, "a message that was read", err, ErrKeyGone)
	}
}

// TestOldEpochsAreGone looks for the secrets of an epoch that is too old, and of
// nodes that got other keys.
func TestOldEpochsAreGone(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 4)
	d := make(disk)
	d.save(m[0].Group)
	talk(t, m...)
	var old [][]byte
	note := func(secret []byte) { old = append(old, bytes.Clone(secret)) }
	e := m[0].now
	e.secrets.each(func(p *[]byte) {
		if *p != nil {
			note(*p)
		}
	})
	for _, r := range e.keys.ratchets {
		note(r.secret)
	}
	for _, secret := range e.keys.nodes {
		note(secret)
	}
	d.save(m[0].Group)
	for range PastEpochs + 1 {
		for _, x := range m {
			x.commits(CommitOptions{Path: true}, m...)
			for _, k := range m[0].keys {
				note(k.ExposeBytes())
			}
		}
	}
	for _, k := range m[0].keys { // these are in use
		old = without(old, k.ExposeBytes())
	}
	d.save(m[0].Group)
	dump := d.dump()
	for i, secret := range old {
		if bytes.Contains(dump, secret) {
			t.Errorf("secret %d of %d is still there", i, len(old))
		}
	}
	m[1].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: m[0].Own()}}}, m...)
	d.save(m[0].Group)
	for key := range d {
		if k := recordKind(key[0]); k != recordGroup && k != recordLeaf && k != recordParent {
			t.Errorf("a record of kind %d after removal", k)
		}
	}
}

func without(list [][]byte, gone []byte) [][]byte {
	var out [][]byte
	for _, b := range list {
		if !bytes.Equal(b, gone) {
			out = append(out, b)
		}
	}
	return out
}

// TestSavedBytes: what a step stores grows with log n and not with n.
func TestSavedBytes(t *testing.T) {
	sizes := map[string][]int{}
	for _, n := range []int{16, 256} {
		m := bigGroup(t, n)
		a, b := m[0], m[1]
		for _, x := range m[:2] {
			make(disk).save(x.Group)
		}
		for range 3 { // the tree fills
			a.commits(CommitOptions{Path: true}, b)
			b.commits(CommitOptions{Path: true}, a)
		}
		make(disk).save(a.Group)
		make(disk).save(b.Group)
		message := must(a.Encrypt([]byte("text"), nil))(t)
		sizes["encrypt"] = append(sizes["encrypt"], make(disk).save(a.Group))
		must(b.Process(message))(t)
		sizes["decrypt"] = append(sizes["decrypt"], make(disk).save(b.Group))
		// One that most members have to be sent a secret of: the tree isn't full.
		c := must(a.Commit(CommitOptions{Path: true}))(t)
		sizes["pending commit"] = append(sizes["pending commit"], make(disk).save(a.Group))
		must(a.Confirm())(t)
		must(b.Process(c.Message))(t)
		sizes["commit"] = append(sizes["commit"], make(disk).save(a.Group))
		sizes["process"] = append(sizes["process"], make(disk).save(b.Group))
	}
	for step, s := range sizes {
		t.Logf("%s: %d bytes at 16 members, %d at 256", step, s[0], s[1])
		if s[1] > 3*s[0] {
			t.Errorf("%s stores %d bytes at 16 members and %d at 256", step, s[0], s[1])
		}
	}
}

// bigGroup returns the first two members of a group of n.
func bigGroup(t testing.TB, n int) []*member {
	t.Helper()
	s := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	a, b := newMember(t, s, "a"), newMember(t, s, "b")
	a.create("big")
	second := b.keyPackage()
	o := CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: second.Public}}}
	for i := 2; i < n; i++ {
		x := newMember(t, s, "member "+string(rune('0'+i/100))+string(rune('0'+i/10%10))+string(rune('0'+i%10)))
		o.Proposals = append(o.Proposals, &tree.Add{KeyPackage: x.keyPackage().Public})
	}
	c := a.commits(o)
	b.Group = must(Join(b.config, second, c.Welcome, nil, nil))(t)
	return []*member{a, b}
}

func FuzzRestore(f *testing.F) {
	m := group(f, cipher.X25519AES128SHA256Ed25519, 2)
	talk(f, m...)
	must(m[0].ProposeUpdate(nil, true, nil))(f)
	must(m[0].Commit(CommitOptions{Path: true}))(f)
	d := make(disk)
	d.save(m[0].Group)
	join := func(records []Record) []byte {
		var b syntax.Builder
		for _, r := range records {
			b.Opaque(r.Key)
			b.Opaque(r.Value)
		}
		return b.Bytes()
	}
	f.Add(join(d.records()))
	f.Fuzz(func(t *testing.T, data []byte) {
		var records []Record
		for r := syntax.NewReader(data); !r.Empty(); {
			records = append(records, Record{r.Opaque(), r.Opaque()})
		}
		Restore(m[0].config, records) // mustn't panic
	})
}
