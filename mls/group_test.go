package mls

import (
	"bytes"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// TestLife goes through a group's life in each suite.
func TestLife(t *testing.T) {
	for _, id := range cipher.IDs() {
		m := group(t, id, 4)
		talk(t, m...)

		// Each renews its keys by a path.
		for _, x := range m {
			x.commits(CommitOptions{Path: true, Encrypt: x == m[1]}, m...)
			talk(t, m...)
		}

		// An Update waits for another's commit.
		update := must(m[2].ProposeUpdate(nil, true, nil))(t)
		for _, x := range []*member{m[0], m[1], m[3]} {
			if r := must(x.Process(update))(t); r.Proposal.Type() != tree.ProposalUpdate {
				t.Fatalf("read a proposal of type %d", r.Proposal.Type())
			}
		}
		m[0].commits(CommitOptions{}, m...)
		talk(t, m...)

		// A member goes; the rest goes on.
		m[3].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: m[1].Own()}}}, m...)
		if !m[1].Removed() {
			t.Fatal("doesn't know that it was removed")
		}
		_, err := m[1].Encrypt([]byte("still here"), nil)
		wants(t, "message of a former member", err, ErrRemoved)
		rest := []*member{m[0], m[2], m[3]}
		talk(t, rest...)

		// Another comes into the gap.
		next := newMember(t, m[0].suite, "e")
		m[2].adds([]*member{next}, rest...)
		talk(t, append(rest, next)...)
	}
}

func TestExporterAndAuthenticator(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	a := must(m[0].Export("label", []byte("context"), 40))(t)
	if b := must(m[1].Export("label", []byte("context"), 40))(t); !bytes.Equal(a, b) || len(a) != 40 {
		t.Fatal("exported secrets differ")
	}
	if b := must(m[0].Export("other", []byte("context"), 40))(t); bytes.Equal(a, b) {
		t.Fatal("labels don't matter")
	}
	_, err := m[0].Export("label", nil, 1<<20)
	wants(t, "a megabyte", err, ErrTooLong)
	_, err = m[0].Encrypt(make([]byte, MaxMessage+1), nil)
	wants(t, "a long message", err, ErrTooLong)
}

// TestIdentityChanges: a member rotates its signature key by a commit, another by
// an Update.
func TestIdentityChanges(t *testing.T) {
	m := group(t, cipher.P256AES128SHA256P256, 3)
	m[1].id = m[1].newIdentity()
	m[1].commits(CommitOptions{Identity: m[1].id}, m...)
	talk(t, m...)

	m[2].id = m[2].newIdentity()
	update := must(m[2].ProposeUpdate(m[2].id, false, nil))(t)
	must(m[0].Process(update))(t)
	must(m[1].Process(update))(t)
	m[0].commits(CommitOptions{}, m...)
	if !bytes.Equal(m[0].Public().Tree().Leaf(m[2].Own()).SignatureKey, m[2].id.Signer.Public()) {
		t.Fatal("the signature key is still the old one")
	}
	talk(t, m...)
}

// TestCommitRace: of two commits one is taken; the loser follows and makes its
// own again.
func TestCommitRace(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	lost := must(m[0].Commit(CommitOptions{Path: true}))(t)
	_, err := m[0].Commit(CommitOptions{Path: true})
	wants(t, "second commit", err, ErrPending)
	won := must(m[1].Commit(CommitOptions{Path: true}))(t)
	for _, x := range m {
		must(x.Process(won.Message))(t) // m[1] gets its own back
	}
	talk(t, m...)
	for _, x := range m[1:] {
		_, err := x.Process(lost.Message)
		wants(t, "the losing commit", err, tree.ErrEpoch)
	}
	_, err = m[0].Confirm()
	wants(t, "confirming the losing commit", err, ErrNoPending)
	m[0].commits(CommitOptions{Path: true}, m...)

	must(m[2].Commit(CommitOptions{Path: true}))(t)
	if err := m[2].Discard(); err != nil {
		t.Fatal(err)
	}
	wants(t, "discarding nothing", m[2].Discard(), ErrNoPending)
	m[2].commits(CommitOptions{Path: true}, m...)
}

func TestExternalJoin(t *testing.T) {
	m := group(t, cipher.X25519ChaCha20Poly1305SHA256Ed25519, 3)
	next := newMember(t, m[0].suite, "next")
	info := must(m[1].GroupInfo(false))(t)
	g, message, err := JoinExternally(next.config, ExternalJoin{Identity: next.id, GroupInfo: info})
	if err != nil {
		t.Fatal(err)
	}
	next.Group = g
	for _, x := range m {
		r := must(x.Process(message))(t)
		if string(r.Leaf.Credential.Identity) != "next" || !r.Commit.External {
			t.Fatal("the commit isn't from the newcomer")
		}
		x.same(next)
	}
	all := append(m, next)
	talk(t, all...)

	// A client that lost its state comes back in its own place.
	own := m[2].Own()
	info = must(m[0].GroupInfo(true))(t)
	_, _, err = JoinExternally(m[2].config, ExternalJoin{Identity: m[2].id, GroupInfo: info})
	wants(t, "GroupInfo without a tree", err, ErrNoTree)
	again := newMember(t, m[0].suite, "c")
	again.config.Random = random("another life")
	again.Group, message, err = JoinExternally(again.config, ExternalJoin{
		Identity: again.id, GroupInfo: info, RatchetTree: m[0].Public().Tree().Marshal(), Remove: &own,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all {
		must(x.Process(message))(t)
	}
	if !m[2].Removed() {
		t.Fatal("the former state lives on")
	}
	talk(t, m[0], m[1], next, again)
}

func TestExternalSenders(t *testing.T) {
	s := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	server := newMember(t, s, "server")
	senders := tree.ExternalSenders{{SignatureKey: server.id.Signer.Public(), Credential: server.id.Credential}}
	m := []*member{newMember(t, s, "a"), newMember(t, s, "b"), newMember(t, s, "c")}
	m[0].create("group", senders.Extension())
	m[0].adds(m[1:])

	remove := must(ProposeFromOutside(m[0].ID(), m[0].Epoch(), 0, server.id.Signer, &tree.Remove{Removed: m[2].Own()}))(t)
	ghost := newMember(t, s, "ghost").keyPackage()
	add := must(ProposeFromOutside(m[0].ID(), m[0].Epoch(), 0, server.id.Signer, &tree.Add{KeyPackage: ghost.Public}))(t)
	stranger := must(ProposeFromOutside(m[0].ID(), m[0].Epoch(), 1, server.id.Signer, &tree.Remove{Removed: m[2].Own()}))(t)
	for _, x := range m {
		must(x.Process(remove))(t)
		_, err := x.Process(add)
		refuses(t, "an Add from outside", err, "12.2")
		_, err = x.Process(stranger)
		refuses(t, "a sender that isn't listed", err, "6.1")
	}
	m[1].commits(CommitOptions{}, m...)
	if !m[2].Removed() || m[0].Public().Tree().Count() != 2 {
		t.Fatal("the device is still there")
	}
	talk(t, m[:2]...)
}

// TestProposeToJoin: a client asks to be added.
func TestProposeToJoin(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	ask := must(ProposeToJoin(m[0].ID(), m[0].Epoch(), own, next.id.Signer))(t)
	for _, x := range m {
		must(x.Process(ask))(t)
	}
	c := m[1].commits(CommitOptions{}, m...)
	next.Group = must(Join(next.config, own, c.Welcome, nil, nil))(t)
	talk(t, append(m, next)...)
}

func TestPSKs(t *testing.T) {
	m := group(t, cipher.P384AES256SHA384P384, 3)
	external := &tree.PreSharedKey{PSK: tree.PreSharedKeyID{Type: tree.PSKExternal, ID: []byte("meeting"), Nonce: make([]byte, 48)}}
	resumed := &tree.PreSharedKey{PSK: tree.PreSharedKeyID{
		Type: tree.PSKResumption, Usage: tree.UsageApplication, GroupID: m[0].ID(), Epoch: m[0].Epoch(), Nonce: make([]byte, 48),
	}}
	_, err := m[0].Commit(CommitOptions{Proposals: []tree.Proposal{external}})
	wants(t, "a PSK that nobody has", err, ErrNoPSK)
	for _, x := range m {
		x.psks["meeting"] = []byte("a secret of the meeting")
	}
	m[0].commits(CommitOptions{Path: true}, m...)
	m[0].commits(CommitOptions{Proposals: []tree.Proposal{external, resumed}}, m...)
	talk(t, m...)

	m[1].psks["meeting"] = []byte("another secret")
	c := must(m[0].Commit(CommitOptions{Proposals: []tree.Proposal{external}}))(t)
	_, err = m[1].Process(c.Message)
	wants(t, "another PSK", err, ErrNotAuthentic)
	must(m[2].Process(c.Message))(t)
}

// TestGroupContextExtensions: an extension of the application's own, required
// and then replaced.
func TestGroupContextExtensions(t *testing.T) {
	const policy = tree.ExtensionType(0xf0a0)
	s := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	m := []*member{newMember(t, s, "a"), newMember(t, s, "b")}
	required := &tree.RequiredCapabilities{Extensions: []tree.ExtensionType{policy}}
	m[0].create("group", required.Extension(), tree.Extension{Type: policy, Data: []byte("first")})
	m[0].adds(m[1:])

	old := newMember(t, s, "old")
	old.id.Capabilities.Extensions = nil
	_, err := m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: old.keyPackage().Public}}})
	refuses(t, "a client without the extension", err, "13.4")

	m[1].commits(CommitOptions{Proposals: []tree.Proposal{&tree.GroupContextExtensions{
		Extensions: tree.Extensions{required.Extension(), {Type: policy, Data: []byte("second")}},
	}}}, m...)
	if data, _ := m[0].Public().Context().Extensions.Find(policy); string(data) != "second" {
		t.Fatalf("the policy is %q", data)
	}
	talk(t, m...)
}

func TestReInitAndBranch(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	s2 := testSuite(t, cipher.P256AES128SHA256P256)

	// A branch with the same suite and fewer members.
	own, guest := m[0].keyPackage(), m[1].keyPackage()
	branch, c, err := m[0].Branch([]byte("branch"), own, nil, []*tree.KeyPackage{&guest.Public})
	if err != nil {
		t.Fatal(err)
	}
	must(branch.Confirm())(t)
	_, err = Join(m[1].config, guest, c.Welcome, nil, nil)
	wants(t, "branch of a group that isn't given", err, ErrNoPSK)
	joined := must(Join(m[1].config, guest, c.Welcome, nil, m[1].Group))(t)
	if !bytes.Equal(joined.EpochAuthenticator(), branch.EpochAuthenticator()) {
		t.Fatal("the branch has two heads")
	}
	stranger := newMember(t, m[0].suite, "stranger")
	strangers := stranger.keyPackage()
	guest = m[1].keyPackage()
	_, c, err = m[0].Branch([]byte("branch"), m[0].keyPackage(), nil, []*tree.KeyPackage{&guest.Public, &strangers.Public})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Join(m[1].config, guest, c.Welcome, nil, m[1].Group)
	wants(t, "a branch with a stranger", err, ErrNotAuthentic)

	// A new group with another suite follows the old one.
	m[1].commits(CommitOptions{Proposals: []tree.Proposal{&tree.ReInit{
		GroupID: []byte("later"), Version: tree.MLS10, CipherSuite: s2.ID(),
	}}}, m...)
	for _, x := range m {
		_, err := x.Encrypt([]byte("too late"), nil)
		wants(t, "message after ReInit", err, tree.ErrEnded)
	}
	later := make([]*member, len(m))
	packages := make([]*OwnKeyPackage, len(m))
	for i, x := range m {
		later[i] = newMember(t, s2, x.name)
		x.signers = later[i].signers
		packages[i] = later[i].keyPackage()
	}
	m[0].config.Signer = later[0].config.Signer
	m[0].Group.config.Signer = later[0].config.Signer
	g, c, err := m[0].Reinitialise(packages[0], []*tree.KeyPackage{&packages[1].Public, &packages[2].Public})
	if err != nil {
		t.Fatal(err)
	}
	must(g.Confirm())(t)
	later[0].Group = g
	for i := 1; i < 3; i++ {
		later[i].Group = must(Join(later[i].config, packages[i], c.Welcome, nil, m[i].Group))(t)
	}
	talk(t, later...)
}

// TestTreeOutOfBand: a Welcome without the tree needs it from elsewhere.
func TestTreeOutOfBand(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	c := m[0].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}, OmitTree: true}, m...)
	_, err := Join(next.config, own, c.Welcome, nil, nil)
	wants(t, "Welcome without a tree", err, ErrNoTree)
	other := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	_, err = Join(next.config, own, c.Welcome, other[0].Public().Tree().Marshal(), nil)
	if err == nil {
		t.Fatal("joined with another group's tree")
	}
	next.Group = must(Join(next.config, own, c.Welcome, m[1].Public().Tree().Marshal(), nil))(t)
	talk(t, append(m, next)...)
}

// TestOutOfOrder reads messages backwards, and late ones in later epochs, until
// they are too late.
func TestOutOfOrder(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	var messages [][]byte
	for i := range byte(10) {
		messages = append(messages, must(m[0].Encrypt([]byte{i}, nil))(t))
	}
	for i := byte(9); i > 4; i-- {
		if r := must(m[1].Process(messages[i]))(t); r.Application[0] != i {
			t.Fatalf("read %d, want %d", r.Application[0], i)
		}
	}
	for range PastEpochs {
		m[2].commits(CommitOptions{Path: true}, m...)
	}
	// The sender's leaf is another one by now.
	m[0].id = m[0].newIdentity()
	for i := byte(0); i < 4; i++ {
		if r := must(m[1].Process(messages[i]))(t); r.Application[0] != i {
			t.Fatalf("read %d, want %d", r.Application[0], i)
		}
		_, err := m[1].Process(messages[i])
		wants(t, "replay", err, ErrKeyGone)
	}
	m[0].commits(CommitOptions{Identity: m[0].id}, m...)
	_, err := m[1].Process(messages[4])
	wants(t, "message of an epoch that is gone", err, tree.ErrEpoch)
}

// TestLateMessageOfFormerMember: who sent while it was a member is read later,
// under the leaf that it had.
func TestLateMessageOfFormerMember(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	late := must(m[2].Encrypt([]byte("before I go"), nil))(t)
	m[0].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: m[2].Own()}}}, m...)
	next := newMember(t, m[0].suite, "next")
	m[0].adds([]*member{next}, m[:2]...)
	r := must(m[1].Process(late))(t)
	if string(r.Leaf.Credential.Identity) != "c" || string(r.Application) != "before I go" {
		t.Fatalf("read %q of %q", r.Application, r.Leaf.Credential.Identity)
	}
	_, err := next.Process(late)
	wants(t, "message from before one joined", err, tree.ErrEpoch)
}

// TestWaitingProposals: a commit covers what can stand together, and never an
// Update of its own.
func TestWaitingProposals(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 4)
	everyone := func(message []byte, from *member) {
		for _, x := range m {
			if x != from {
				must(x.Process(message))(t)
			}
		}
	}
	everyone(must(m[0].ProposeUpdate(nil, false, nil))(t), m[0])
	everyone(must(m[1].ProposeUpdate(nil, false, nil))(t), m[1])
	everyone(must(m[1].ProposeUpdate(nil, true, nil))(t), m[1])
	everyone(must(m[2].ProposeUpdate(nil, false, nil))(t), m[2])
	everyone(must(m[3].Propose(&tree.Remove{Removed: m[2].Own()}, false, nil))(t), m[3])
	everyone(must(m[1].Propose(&tree.Remove{Removed: m[2].Own()}, true, nil))(t), m[1])
	everyone(must(m[1].Propose(&tree.Remove{Removed: m[0].Own()}, true, nil))(t), m[1])
	everyone(must(m[3].Propose(&tree.ReInit{GroupID: []byte("x"), Version: tree.MLS10, CipherSuite: 1}, false, nil))(t), m[3])
	next := newMember(t, m[0].suite, "next")
	everyone(must(m[3].Propose(&tree.Add{KeyPackage: next.keyPackage().Public}, false, nil))(t), m[3])
	everyone(must(m[1].Propose(&tree.Add{KeyPackage: next.keyPackage().Public}, false, nil))(t), m[1])
	alone := CommitOptions{Proposals: []tree.Proposal{&tree.ReInit{GroupID: []byte("y"), Version: tree.MLS10, CipherSuite: 1}}}
	must(m[0].Commit(alone))(t)
	if err := m[0].Discard(); err != nil {
		t.Fatal(err)
	}
	m[0].commits(CommitOptions{}, m...)
	if !m[2].Removed() || m[0].Public().Tree().Count() != 4 {
		t.Fatalf("%d members", m[0].Public().Tree().Count())
	}
	talk(t, m[0], m[1], m[3])
}
