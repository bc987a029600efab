package group_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// anything are the rules of members who refuse nothing.
type anything struct{}

func (anything) Leaf(tree.Event, *tree.LeafNode, *tree.LeafNode) error  { return nil }
func (anything) Lifetime(tree.Event, tree.Lifetime) error               { return nil }
func (anything) Client(*tree.LeafNode) string                           { return "" }
func (anything) ExternalSender(*tree.ExternalSender) error              { return nil }
func (anything) Proposal(*tree.Group, tree.Sender, tree.Proposal) error { return nil }

// insider is a device with a program of its own, which keeps to RFC 9420 and to
// nothing else.
type insider struct {
	t      testing.TB
	device *device
	suite  *cipher.Suite
	signer cipher.Signer
	config mls.Config
	knows  []tree.ExtensionType // extensions
	*mls.Group
}

func newInsider(w *world, name string) *insider {
	d := w.device(name)
	suite := must[*cipher.Suite](w.t)(cipher.ByID(cipher.X25519AES128SHA256Ed25519))
	i := &insider{t: w.t, device: d, suite: suite, signer: must[cipher.Signer](w.t)(suite.NewSigner(d.key.Seed()))}
	i.config = mls.Config{
		Rules: anything{}, Random: rand.Reader,
		Signer: func([]byte) (cipher.Signer, error) { return i.signer, nil },
		PSK:    func(*tree.PreSharedKeyID) ([]byte, error) { return make([]byte, 32), nil },
	}
	return i
}

func (i *insider) identity(signer cipher.Signer, name []byte) *mls.Identity {
	return &mls.Identity{Signer: signer, Credential: tree.BasicCredential(name), Capabilities: tree.Capabilities{
		Versions: []tree.Version{tree.MLS10}, CipherSuites: []cipher.ID{i.suite.ID()},
		Extensions:  append([]tree.ExtensionType{tree.ExtensionExternalSenders, 0xf0a0}, i.knows...),
		Credentials: []tree.CredentialType{tree.CredentialBasic},
	}}
}

func (i *insider) keyPackage(life time.Duration) *mls.OwnKeyPackage {
	now := time.Now()
	return must[*mls.OwnKeyPackage](i.t)(mls.NewKeyPackage(i.suite, i.identity(i.signer, i.device.hash[:]), tree.Lifetime{
		NotBefore: uint64(now.Add(-time.Hour).Unix()), NotAfter: uint64(now.Add(life).Unix()),
	}, nil, rand.Reader))
}

// create makes a group in which the insider is alone.
func (i *insider) create(id []byte, x ...tree.Extension) {
	i.t.Helper()
	i.Group = must[*mls.Group](i.t)(mls.Create(i.config, id, i.keyPackage(time.Hour), x))
}

func adds(t testing.TB, packages ...[]byte) []tree.Proposal {
	t.Helper()
	var out []tree.Proposal
	for _, raw := range packages {
		out = append(out, &tree.Add{KeyPackage: *must[tree.Message](t)(tree.ParseMessage(raw)).(*tree.KeyPackage)})
	}
	return out
}

// invites adds devices, who join.
func (i *insider) invites(ds ...*device) {
	i.t.Helper()
	var packages [][]byte
	for _, d := range ds {
		packages = append(packages, d.pkg())
	}
	c := must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, packages...)}))
	must[*tree.Changes](i.t)(i.Confirm())
	for _, d := range ds {
		must[*client.Epoch](i.t)(d.Join(c.Welcome, d.w))
	}
}

// commits makes a commit and drops it: the tests offer it to others.
func (i *insider) commits(o mls.CommitOptions) []byte {
	i.t.Helper()
	c := must[*mls.Committed](i.t)(i.Commit(o))
	if err := i.Discard(); err != nil {
		i.t.Fatal(err)
	}
	return c.Message
}

// TestUnknownSteps: what is valid MLS and not for members of a conversation to
// do is refused, and leaves no trace.
func TestUnknownSteps(t *testing.T) {
	w := newWorld(t)
	i, b, c := newInsider(w, "insider"), w.device("b"), w.device("c")
	id := codec.NewID()
	i.create(id[:])
	i.invites(b, c)
	b.restart()

	other := newInsider(w, "other")
	senders := tree.ExternalSenders{{SignatureKey: other.signer.Public(), Credential: tree.BasicCredential(other.device.hash[:])}}
	psk := tree.PreSharedKeyID{Type: tree.PSKExternal, ID: []byte("psk"), Nonce: make([]byte, 32)}
	reference := func() []byte {
		must[[]byte](t)(i.Propose(&tree.Remove{Removed: 2}, false, nil))
		return i.commits(mls.CommitOptions{})
	}
	outside := func() []byte {
		info := must[[]byte](t)(i.GroupInfo(false))
		_, commit, err := mls.JoinExternally(other.config, mls.ExternalJoin{GroupInfo: info, Identity: other.identity(other.signer, other.device.hash[:])})
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	for name, message := range map[string][]byte{
		"a PSK":                       i.commits(mls.CommitOptions{Alone: true, Proposals: []tree.Proposal{&tree.PreSharedKey{PSK: psk}}}),
		"ReInit":                      i.commits(mls.CommitOptions{Alone: true, Proposals: []tree.Proposal{&tree.ReInit{GroupID: id[:], Version: tree.MLS10, CipherSuite: i.suite.ID()}}}),
		"extensions":                  i.commits(mls.CommitOptions{Alone: true, Proposals: []tree.Proposal{&tree.GroupContextExtensions{}}}),
		"an encrypted commit":         i.commits(mls.CommitOptions{Alone: true, Path: true, Encrypt: true}),
		"an external commit":          outside(),
		"a proposal":                  must[[]byte](t)(i.Propose(&tree.Remove{Removed: 1}, false, nil)),
		"a proposal to join":          must[[]byte](t)(mls.ProposeToJoin(id[:], i.Epoch(), other.keyPackage(time.Hour), other.signer)),
		"a proposal from outside":     must[[]byte](t)(mls.ProposeFromOutside(id[:], i.Epoch(), 0, other.signer, &tree.Remove{Removed: 1})),
		"an application message":      must[[]byte](t)(i.Encrypt([]byte("x"), nil)),
		"proposals by reference":      reference(),
		"a KeyPackage of 84 days":     i.commits(mls.CommitOptions{Alone: true, Proposals: adds(t, other.keyPackage(84*24*time.Hour).Message())}),
		"another's name in a path":    i.commits(mls.CommitOptions{Alone: true, Identity: i.identity(i.signer, c.hash[:])}),
		"a stranger's name in a path": i.commits(mls.CommitOptions{Alone: true, Identity: i.identity(i.signer, other.device.hash[:])}),
		"another key in a path":       i.commits(mls.CommitOptions{Alone: true, Identity: i.identity(other.signer, i.device.hash[:])}),
		"another device in a path":    i.commits(mls.CommitOptions{Alone: true, Identity: i.identity(other.signer, other.device.hash[:])}),
		"external senders": i.commits(mls.CommitOptions{Alone: true, Proposals: []tree.Proposal{
			&tree.GroupContextExtensions{Extensions: tree.Extensions{senders.Extension()}}}}),
	} {
		if _, err := b.Process(id, message, w); err == nil || errors.Is(err, client.ErrRemoved) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := b.Decrypt(id, message); err == nil && name != "an application message" {
			t.Errorf("%s: decrypted", name)
		}
	}
	// A member's new keys alone are welcome.
	update := must[*mls.Committed](t)(i.Commit(mls.CommitOptions{Alone: true, Path: true}))
	must[*tree.Changes](t)(i.Confirm())
	e := must[*client.Epoch](t)(b.Process(id, update.Message, w))
	if e.Number != i.Epoch() || len(e.Roster) != 3 {
		t.Errorf("epoch %d with %d devices", e.Number, len(e.Roster))
	}
	b.restart()
	b.want(id, i.device, must[[]byte](t)(i.Encrypt([]byte("healed"), []byte("ad"))), "healed")
}

func raw(id codec.ID) []byte { return id[:] }

// TestBadWelcomes: a group that no conversation has isn't entered, and the
// KeyPackage stays.
func TestBadWelcomes(t *testing.T) {
	for name, make := range map[string]func(i *insider, b *device) []byte{
		"without a tree": func(i *insider, b *device) []byte {
			i.create(raw(codec.NewID()))
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg()), OmitTree: true})).Welcome
		},
		"another group id": func(i *insider, b *device) []byte {
			i.create([]byte("group"))
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg())})).Welcome
		},
		"the group id of none": func(i *insider, b *device) []byte {
			i.create(raw(codec.ID{}))
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg())})).Welcome
		},
		"external senders": func(i *insider, b *device) []byte {
			senders := tree.ExternalSenders{{SignatureKey: i.signer.Public(), Credential: tree.BasicCredential(i.device.hash[:])}}
			i.create(raw(codec.NewID()), senders.Extension())
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg())})).Welcome
		},
		"from a revoked device": func(i *insider, b *device) []byte {
			i.device.w.revoked[i.device.hash] = true
			i.create(raw(codec.NewID()))
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg())})).Welcome
		},
		"with a stranger": func(i *insider, b *device) []byte {
			stranger := newInsider(i.device.w, "stranger")
			delete(i.device.w.keys, stranger.device.hash)
			i.create(raw(codec.NewID()))
			return must[*mls.Committed](i.t)(i.Commit(mls.CommitOptions{Proposals: adds(i.t, b.pkg(), stranger.keyPackage(time.Hour).Message())})).Welcome
		},
	} {
		w := newWorld(t)
		i, b := newInsider(w, "insider"), w.device("b")
		welcome := make(i, b)
		b.restart()
		before := len(b.disk)
		if _, err := b.Join(welcome, w); err == nil {
			t.Errorf("%s: joined", name)
		}
		if b.restart(); len(b.disk) != before {
			t.Errorf("%s: %d values on disk, %d before", name, len(b.disk), before)
		}
	}
}

// TestUsedKeysAreGone: what a device has on disk after a message opens neither
// that message nor one before it.
func TestUsedKeysAreGone(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	w.found(id, a, b)
	first := a.send(id, "first")
	second := a.send(id, "second")
	b.want(id, a, first, "first")
	b.want(id, a, second, "second")
	b.save()
	copied := &device{w: w, hash: b.hash, key: b.key, disk: disk{}}
	for at, v := range b.disk {
		copied.disk[at] = bytes.Clone(v)
	}
	copied.open()
	for _, ct := range [][]byte{first, second} {
		if _, err := copied.Decrypt(id, ct); !errors.Is(err, client.ErrReplay) {
			t.Errorf("got %v, want ErrReplay", err)
		}
	}
	// A commit heals: the copy can't follow what comes after its owner's next.
	x := w.device("x")
	step := must[*client.Step](t)(b.Add(id, [][]byte{x.pkg()}, w))
	if err := b.Merge(id); err != nil {
		t.Fatal(err)
	}
	must[*client.Epoch](t)(a.Process(id, step.Commit, w))
	if _, err := copied.Process(id, step.Commit, w); err == nil {
		t.Error("a stolen copy follows the commit that its owner made")
	}
	if _, err := copied.Decrypt(id, a.send(id, "healed")); err == nil {
		t.Error("a stolen copy reads on")
	}
}

// TestStepsAreSmall: what a message or a commit writes grows with the tree's
// height and not with its size.
func TestStepsAreSmall(t *testing.T) {
	written := map[string][2]int{}
	for k, n := range []int{8, 256} {
		w := newWorld(t)
		ds := make([]*device, n)
		for i := range ds {
			ds[i] = w.device(fmt.Sprint(i))
		}
		a, b := ds[0], ds[n-1]
		id := codec.NewID()
		w.found(id, a, ds[1], b)
		var kps [][]byte
		for _, d := range ds[2 : n-1] {
			kps = append(kps, d.pkg())
		}
		step := must[*client.Step](t)(a.Add(id, kps, w))
		if err := a.Merge(id); err != nil {
			t.Fatal(err)
		}
		must[*client.Epoch](t)(b.Process(id, step.Commit, w))
		note := func(what string, bytes int) {
			v := written[what]
			v[k] = bytes
			written[what] = v
		}
		for range 6 { // the epochs of the addition have to go first
			step := must[*client.Step](t)(a.Remove(id, nil, w))
			note("stage", a.save())
			if err := a.Merge(id); err != nil {
				t.Fatal(err)
			}
			note("merge", a.save())
			must[*client.Epoch](t)(b.Process(id, step.Commit, w))
			note("process", b.save())
		}
		first, second := a.send(id, "first"), a.send(id, "second")
		note("send", a.save())
		b.want(id, a, first, "first")
		note("first message", b.save())
		b.want(id, a, second, "second")
		note("message", b.save())
	}
	for what, v := range written {
		t.Logf("%s: %d bytes with 8 members, %d with 256", what, v[0], v[1])
		if v[1] > 4*v[0] { // log2(256) = 8, log2(8) = 3
			t.Errorf("%s writes %d bytes with 8 members and %d with 256", what, v[0], v[1])
		}
	}
}
