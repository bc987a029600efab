package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// The faults here are those of the library that this package replaces, and what
// members and servers could try besides. Each says who notices: the recipient.

// unchanged runs f and verifies that the members' groups stay as they are, and
// of use.
func unchanged(t *testing.T, m []*member, f func()) {
	t.Helper()
	epoch, secret := m[0].Epoch(), m[0].EpochAuthenticator()
	f()
	for _, x := range m {
		if x.Epoch() != epoch || !bytes.Equal(x.EpochAuthenticator(), secret) {
			t.Fatalf("%s was moved by what it refused", x.name)
		}
	}
	talk(t, m...)
}

// reprotect returns content that a member signs and protects, whatever it says.
func (m *member) reprotect(a *tree.AuthenticatedContent) []byte {
	m.t.Helper()
	signed := must(sign(a.WireFormat, &a.Content, &m.now.context, m.id.Signer))(m.t)
	signed.Auth.ConfirmationTag = a.Auth.ConfirmationTag
	return must(m.now.protect(signed, 0, m.config.Random))(m.t)
}

// forgeCommit returns a member's commit after change has been at it.
func (m *member) forgeCommit(o CommitOptions, change func(a *tree.AuthenticatedContent)) []byte {
	m.t.Helper()
	a, n, _, err := m.makeCommit(&o, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	m.pending = &pending{next: n}
	change(a)
	if err := m.Discard(); err != nil {
		m.t.Fatal(err)
	}
	return m.reprotect(a)
}

// flip returns data with one bit turned over.
func flip(data []byte, bit int) []byte {
	out := bytes.Clone(data)
	out[bit/8] ^= 1 << (bit % 8)
	return out
}

func TestForgedWelcome(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	add := CommitOptions{Path: true, Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}}
	must(m[0].Commit(add))(t)
	n, tag := m[0].pending.next, m[0].pending.tag
	kept := *n // its secrets survive the commit
	kept.joiner, kept.member = bytes.Clone(n.joiner), bytes.Clone(n.member)
	n = &kept
	path := new(newPath) // its secret isn't needed
	n.staged.HasPath = false
	forge := func(signer cipher.Signer, tag []byte, omitTree bool) []byte {
		return must(welcome(m[0].suite, n, tag, path, signer, omitTree))(t)
	}
	join := func(welcome []byte) error {
		_, err := Join(next.config, own, welcome, nil, nil)
		return err
	}
	good := forge(m[0].id.Signer, tag, false)
	mallory := newMember(t, m[0].suite, "mallory")

	wants(t, "no tree", join(forge(m[0].id.Signer, tag, true)), ErrNoTree)
	refuses(t, "another's signature", join(forge(mallory.id.Signer, tag, false)), "12.4.3.1")
	refuses(t, "another member's signature", join(forge(m[1].id.Signer, tag, false)), "12.4.3.1")
	wants(t, "wrong confirmation tag", join(forge(m[0].id.Signer, flip(tag, 3), false)), ErrNotAuthentic)
	next.rules.refused["b"] = true
	wants(t, "a member nobody vouches for", join(forge(m[0].id.Signer, tag, false)), errRefused)
	next.rules.refused["b"] = false

	other := newMember(t, m[0].suite, "other").keyPackage()
	_, err := Join(next.config, other, forge(m[0].id.Signer, tag, false), nil, nil)
	wants(t, "another key package", err, ErrNotForUs)

	// Mallory knows the key package and makes up a group in which a is, with the
	// leaf that a has in another.
	mallory.create("made up")
	if err := m[0].Discard(); err != nil {
		t.Fatal(err)
	}
	m[0].commits(CommitOptions{Path: true}, m...)
	real := m[0].Public().Tree().Leaf(0)
	fake := mallory.now.context
	fake.Epoch = 1
	leaves := map[tree.LeafIndex]*tree.LeafNode{0: real, 1: mallory.Public().Tree().Leaf(0), 2: &own.Public.Leaf}
	made := must(tree.RestoreTree(m[0].suite, 4, leaves, nil))(t)
	fake.TreeHash = made.Hash()
	x := newSecrets(m[0].suite, epochSecret(m[0].suite, n.member, syntax.Marshal(&fake)))
	ghost := &madeUp{n, made, fake}
	refuses(t, "a made-up group in a's name", join(ghost.welcome(t, m[0].suite, x, 0, mallory.id.Signer, own)), "12.4.3.1")
	refuses(t, "a made-up group with a's leaf", join(ghost.welcome(t, m[0].suite, x, 1, mallory.id.Signer, own)), "7.3")
	must(Join(next.config, own, good, nil, nil))(t)
	_, err = Join(next.config, own, good, nil, nil)
	wants(t, "the key package again", err, ErrNotAuthentic)
}

// madeUp makes a Welcome to a group that somebody made up.
type madeUp struct {
	next    *next
	tree    *tree.Tree
	context tree.GroupContext
}

func (g *madeUp) welcome(t *testing.T, s *cipher.Suite, x *secrets, at tree.LeafIndex, signer cipher.Signer, own *OwnKeyPackage) []byte {
	t.Helper()
	n := *g.next
	n.staged = &tree.Staged{Tree: g.tree, Context: g.context}
	n.staged.Committer = at
	n.staged.Added = []tree.Added{{Leaf: 2, KeyPackage: &own.Public}}
	return must(welcome(s, &n, x.confirmationTag(s, g.context.ConfirmedTranscriptHash), nil, signer, false))(t)
}

// TestDamagedWelcome turns over each bit and cuts at each byte.
func TestDamagedWelcome(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage(tree.Extension{Type: ExtensionLastResort})
	c := must(m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}}))(t)
	for i := range c.Welcome {
		if _, err := Join(next.config, own, flip(c.Welcome, 8*i+i%8), nil, nil); err == nil {
			t.Fatalf("joined by a Welcome with byte %d damaged", i)
		}
		if _, err := Join(next.config, own, c.Welcome[:i], nil, nil); err == nil {
			t.Fatalf("joined by a Welcome cut to %d bytes", i)
		}
	}
	must(Join(next.config, own, c.Welcome, nil, nil))(t)
	must(Join(next.config, own, c.Welcome, nil, nil))(t) // a last resort lives on
}

// TestDamagedMessages does so with all that is sent within a group.
func TestDamagedMessages(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	next := newMember(t, m[0].suite, "next").keyPackage()
	add := []tree.Proposal{&tree.Add{KeyPackage: next.Public}}
	for name, message := range map[string][]byte{
		"application":        must(m[0].Encrypt([]byte("text"), []byte("header")))(t),
		"proposal":           must(m[0].Propose(&tree.Remove{Removed: 2}, false, nil))(t),
		"encrypted proposal": must(m[0].Propose(&tree.Remove{Removed: 2}, true, nil))(t),
		"commit":             must(m[0].Commit(CommitOptions{Proposals: add, Alone: true, Path: true}))(t).Message,
		"encrypted commit":   must(m[1].Commit(CommitOptions{Proposals: add, Alone: true, Path: true, Encrypt: true}))(t).Message,
	} {
		for i := range message {
			for _, bad := range [][]byte{flip(message, 8*i+i%8), message[:i]} {
				if _, err := m[2].Process(bad); err == nil {
					t.Fatalf("%s with byte %d damaged was taken", name, i)
				}
			}
		}
	}
	if m[2].Epoch() != 1 {
		t.Fatal("moved by damaged messages")
	}
}

// TestRefusedCredentials: the rules are asked about each leaf that appears or
// changes, whatever the path.
func TestRefusedCredentials(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	next := newMember(t, m[0].suite, "ghost")
	reader := m[2]
	add := []tree.Proposal{&tree.Add{KeyPackage: next.keyPackage().Public}}
	refuse := func(name string, messages ...[]byte) {
		t.Helper()
		reader.rules.refused[name] = true
		for _, message := range messages {
			_, err := reader.Process(message)
			wants(t, name, err, errRefused)
		}
		reader.rules.refused[name] = false
	}
	unchanged(t, m, func() {
		info := must(m[0].GroupInfo(false))(t)
		_, external, err := JoinExternally(next.config, ExternalJoin{Identity: next.id, GroupInfo: info})
		if err != nil {
			t.Fatal(err)
		}
		refuse("ghost",
			must(m[0].Commit(CommitOptions{Proposals: add}))(t).Message,
			must(m[1].Commit(CommitOptions{Proposals: add, Encrypt: true}))(t).Message,
			must(m[0].Propose(add[0], false, nil))(t),
			must(ProposeToJoin(m[0].ID(), m[0].Epoch(), next.keyPackage(), next.id.Signer))(t),
			external,
		)
		for _, x := range m[:2] {
			if err := x.Discard(); err != nil {
				t.Fatal(err)
			}
		}
		refuse("b",
			must(m[1].Commit(CommitOptions{Path: true}))(t).Message,
			must(m[1].ProposeUpdate(nil, false, nil))(t),
			must(m[1].ProposeUpdate(nil, true, nil))(t),
		)
		if err := m[1].Discard(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReplays(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	text := must(m[0].Encrypt([]byte("once"), nil))(t)
	must(m[1].Process(text))(t)
	_, err := m[1].Process(text)
	wants(t, "application message", err, ErrKeyGone)
	_, err = m[0].Process(text)
	wants(t, "one's own message", err, ErrOwnMessage)

	secret := must(m[0].Propose(&tree.Remove{Removed: 2}, true, nil))(t)
	must(m[1].Process(secret))(t)
	_, err = m[1].Process(secret)
	wants(t, "encrypted proposal", err, ErrKeyGone)

	// A proposal in the clear is the same as before.
	public := must(m[0].ProposeUpdate(nil, false, nil))(t)
	for range 3 {
		must(m[1].Process(public))(t)
	}
	if len(m[1].proposals) != 2 {
		t.Fatalf("%d proposals wait, want 2", len(m[1].proposals))
	}
	c := must(m[0].Commit(CommitOptions{Alone: true, Path: true}))(t)
	must(m[0].Confirm())(t)
	must(m[1].Process(c.Message))(t)
	for _, old := range [][]byte{c.Message, public, secret} {
		_, err = m[1].Process(old)
		wants(t, "handshake of the last epoch", err, tree.ErrEpoch)
	}
	_, err = m[0].Process(c.Message)
	wants(t, "one's own commit again", err, tree.ErrEpoch)
	elsewhere := newMember(t, m[0].suite, "z").create("elsewhere")
	_, err = m[1].Process(must(elsewhere.Encrypt([]byte("x"), nil))(t))
	wants(t, "message of another group", err, tree.ErrOtherGroup)
}

// TestIllegalSelfUpdate: no commit of ours covers an Update of our own, and none
// of others covers one of theirs.
func TestIllegalSelfUpdate(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	update := must(m[0].ProposeUpdate(nil, false, nil))(t)
	for _, x := range m[1:] {
		must(x.Process(update))(t)
	}
	ref := m[0].proposals[0].ref
	var covered int
	illegal := m[0].forgeCommit(CommitOptions{Path: true}, func(a *tree.AuthenticatedContent) {
		covered = len(a.Content.Commit.Proposals)
		c := *a.Content.Commit
		c.Proposals = []tree.ProposalOrRef{{Ref: ref}}
		a.Content.Commit = &c
	})
	if covered != 0 {
		t.Fatal("a commit covers one's own Update")
	}
	_, err := m[0].Propose(&tree.Update{}, false, nil)
	wants(t, "an Update without its key", err, errUpdate)
	_, err = m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Update{}}})
	refuses(t, "an Update by value", err, "12.2")
	unchanged(t, m, func() {
		for _, x := range m[1:] {
			_, err := x.Process(illegal)
			refuses(t, "illegal self-update", err, "12.2")
		}
	})
	m[0].commits(CommitOptions{Path: true}, m...)
}

// TestForgedCommits: what a member could do to the others by a commit.
func TestForgedCommits(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 5)
	other := must(m[0].suite.GenerateKeyPair(m[0].config.Random))(t)
	forged := map[string]func(a *tree.AuthenticatedContent){
		"confirmation tag": func(a *tree.AuthenticatedContent) { a.Auth.ConfirmationTag = flip(a.Auth.ConfirmationTag, 0) },
		"no tag":           func(a *tree.AuthenticatedContent) { a.Auth.ConfirmationTag = nil },
		"path key":         func(a *tree.AuthenticatedContent) { a.Content.Commit.Path.Nodes[0].EncryptionKey = other.Public() },
		"short path":       func(a *tree.AuthenticatedContent) { a.Content.Commit.Path.Nodes = a.Content.Commit.Path.Nodes[1:] },
		"no path":          func(a *tree.AuthenticatedContent) { a.Content.Commit.Path = nil },
		"missing secret": func(a *tree.AuthenticatedContent) {
			n := a.Content.Commit.Path.Nodes
			n[len(n)-1].Secrets = nil
		},
		"garbled secret": func(a *tree.AuthenticatedContent) {
			for _, n := range a.Content.Commit.Path.Nodes {
				for i := range n.Secrets {
					n.Secrets[i].Ciphertext = flip(n.Secrets[i].Ciphertext, 0)
				}
			}
		},
		"unknown proposal": func(a *tree.AuthenticatedContent) {
			a.Content.Commit.Proposals = append(a.Content.Commit.Proposals, tree.ProposalOrRef{Ref: make([]byte, 32)})
		},
		"another's place": func(a *tree.AuthenticatedContent) { a.Content.Sender = tree.Member(1) },
		"nobody's place":  func(a *tree.AuthenticatedContent) { a.Content.Sender = tree.Member(7) },
		"next epoch":      func(a *tree.AuthenticatedContent) { a.Content.Epoch++ },
	}
	for name, change := range forged {
		for _, encrypt := range []bool{false, true} {
			if encrypt && name == "another's place" {
				continue // that leaf's keys are used up for good in the forger's own state
			}
			bad := m[0].forgeCommit(CommitOptions{Path: true, Encrypt: encrypt}, func(a *tree.AuthenticatedContent) {
				commit := *a.Content.Commit
				path := *commit.Path
				path.Nodes = slices.Clone(path.Nodes)
				commit.Path = &path
				a.Content.Commit = &commit
				change(a)
			})
			unchanged(t, m, func() {
				for _, x := range m[1:] {
					if _, err := x.Process(bad); err == nil {
						t.Fatalf("%s took a commit with a forged %s", x.name, name)
					}
				}
			})
		}
	}
	m[0].commits(CommitOptions{Path: true}, m...)
	talk(t, m...)
}

// TestPathSecretMismatch: a committer gives some members a path secret of other
// keys than those in the tree. They notice, and say so before the epoch begins.
func TestPathSecretMismatch(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	bad := m[0].forgeCommit(CommitOptions{Path: true}, func(a *tree.AuthenticatedContent) {
		staged := m[0].pending.next.staged
		kem, ct, err := m[0].suite.EncryptWithLabel(m[1].keys[m[1].Own().Node()].Public(), labelPath, syntax.Marshal(&staged.Provisional), make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		a.Content.Commit.Path.Nodes[0].Secrets[0] = tree.HPKECiphertext{KEMOutput: kem, Ciphertext: ct}
	})
	unchanged(t, m, func() {
		_, err := m[1].Process(bad)
		wants(t, "another path secret", err, ErrNotAuthentic)
	})
}

// TestMemberInAnothersName: each member has the keys of all senders; the
// signature tells them apart, and a forgery doesn't use up the true key.
func TestMemberInAnothersName(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	content := &tree.FramedContent{
		GroupID: m[0].ID(), Epoch: m[0].Epoch(), Sender: tree.Member(0),
		ContentType: tree.ContentApplication, ApplicationData: []byte("a says yes"),
	}
	a := must(sign(tree.WirePrivateMessage, content, &m[1].now.context, m[1].id.Signer))(t)
	forged := must(m[1].now.protect(a, 0, m[1].config.Random))(t)
	_, err := m[2].Process(forged)
	refuses(t, "b in a's name", err, "6.1")
	r := must(m[2].Process(must(m[0].Encrypt([]byte("a says no"), nil))(t)))(t)
	if string(r.Application) != "a says no" {
		t.Fatalf("read %q", r.Application)
	}

	// In the clear too, where a proposal has a membership tag besides.
	content.ContentType, content.Proposal = tree.ContentProposal, &tree.Remove{Removed: 2}
	a = must(sign(tree.WirePublicMessage, content, &m[1].now.context, m[1].id.Signer))(t)
	_, err = m[2].Process(must(m[1].now.protect(a, 0, nil))(t))
	refuses(t, "b's proposal in a's name", err, "6.1")
	p := m[0].now.protectPublic(must(sign(tree.WirePublicMessage, content, &m[0].now.context, m[0].id.Signer))(t))
	p.MembershipTag = flip(p.MembershipTag, 0)
	_, err = m[2].Process(tree.MarshalMessage(p))
	wants(t, "membership tag", err, ErrNotAuthentic)
	content.ContentType = tree.ContentApplication
	a = must(sign(tree.WirePublicMessage, content, &m[0].now.context, m[0].id.Signer))(t)
	_, err = m[2].Process(must(m[0].now.protect(a, 0, nil))(t))
	wants(t, "application message in the clear", err, ErrNotAuthentic)
}

// TestFarGeneration: a generation far ahead costs nothing. A tree without a suite
// would panic at the first derivation.
func TestFarGeneration(t *testing.T) {
	id := ratchetID{leaf: 0}
	for _, generation := range []uint32{MaxSkip + 1, 1 << 31, 1<<32 - 2, 1<<32 - 1} {
		x := &secretTree{ratchets: map[ratchetID]*ratchet{id: {secret: []byte{1}}, {0, true}: {}}}
		if _, err := x.find(id, generation); !errors.Is(err, ErrGeneration) {
			t.Errorf("generation %d: %v", generation, err)
		}
	}

	// The last generation that can be counted, then none.
	s := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	x := newSecretTree(s, 0, 1, make([]byte, s.HashSize()))
	if err := x.grow(0); err != nil {
		t.Fatal(err)
	}
	x.ratchets[id].next = lastGeneration
	if _, g, err := x.spend(id); g != lastGeneration || err != nil {
		t.Fatalf("generation %d, %v", g, err)
	}
	_, _, err := x.spend(id)
	wants(t, "generation 2^32-1", err, ErrGeneration)

	// Through a group, as a malicious member would send it.
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	must(m[0].Encrypt(nil, nil))(t)
	m[0].now.keys.ratchets[ratchetID{leaf: m[0].Own()}].next = 1<<32 - 2
	far := must(m[0].Encrypt([]byte("x"), nil))(t)
	_, err = m[1].Process(far)
	wants(t, "a message far ahead", err, ErrGeneration)
}

// TestSkipBounds: MaxSkip generations may be left out, and MaxLateKeys wait.
func TestSkipBounds(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	var messages [][]byte
	for range 2*MaxSkip + 3 {
		messages = append(messages, must(m[0].Encrypt([]byte("x"), nil))(t))
	}
	_, err := m[1].Process(messages[MaxSkip+1])
	wants(t, "MaxSkip+1 left out", err, ErrGeneration)
	must(m[1].Process(messages[MaxSkip]))(t)
	must(m[1].Process(messages[2*MaxSkip+1]))(t)
	r := m[1].now.keys.ratchets[ratchetID{leaf: m[0].Own()}]
	if len(r.late) != MaxLateKeys {
		t.Fatalf("%d keys wait", len(r.late))
	}
	_, err = m[1].Process(messages[0])
	wants(t, "one of the oldest", err, ErrKeyGone)
	must(m[1].Process(messages[MaxSkip+1]))(t)
	must(m[1].Process(messages[2*MaxSkip+2]))(t)
}

// TestNonzeroPadding: padding isn't a channel.
func TestNonzeroPadding(t *testing.T) {
	a := &tree.AuthenticatedContent{Content: tree.FramedContent{ContentType: tree.ContentApplication, ApplicationData: []byte("x")}}
	var b syntax.Builder
	a.Content.EncodeBody(&b)
	a.Auth.Encode(&b, a.Content.ContentType)
	if err := decodePrivateContent(a, append(bytes.Clone(b.Bytes()), 0, 0)); err != nil {
		t.Fatal(err)
	}
	wants(t, "padding", decodePrivateContent(a, append(bytes.Clone(b.Bytes()), 0, 1)), syntax.ErrSyntax)
}

// TestFormerMember: who was removed can't send to those who know, nor follow.
func TestFormerMember(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	spy := *m[2] // keeps its state of before
	state := make(disk)
	state.save(m[2].Group)
	spy.Group = must(Restore(spy.config, state.records()))(t)
	c := m[0].commits(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: m[2].Own()}}}, m...)
	text := must(m[0].Encrypt([]byte("among us"), nil))(t)
	_, err := spy.Process(text)
	wants(t, "message after removal", err, tree.ErrEpoch)
	if _, err := spy.Process(c.Message); err != nil || !spy.Removed() {
		t.Fatalf("%v, or not removed", err)
	}
	_, err = m[2].Process(text)
	wants(t, "message after removal", err, ErrRemoved)
}

// TestBadKeyPackages: they are refused before they come into a group.
func TestBadKeyPackages(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	data := own.Message()
	for i := range data {
		parsed, err := tree.ParseMessage(flip(data, 8*i+i%8))
		if err != nil {
			continue
		}
		p, ok := parsed.(*tree.KeyPackage)
		if !ok {
			continue
		}
		if _, err := m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: *p}}}); err == nil {
			t.Fatalf("added a key package with byte %d damaged", i)
		}
	}
	initKey, leafKey := own.ExposeSecrets()
	_, err := RestoreKeyPackage(data, leafKey, initKey)
	wants(t, "keys of another package", err, cipher.ErrKey)
	must(RestoreKeyPackage(data, initKey, leafKey))(t)
}

// TestProposalsThatFitNothing: who sends proposals with which no commit can be
// made doesn't stop commits.
func TestProposalsThatFitNothing(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 4)
	everyone := func(message []byte) {
		t.Helper()
		for _, x := range m {
			if x != m[1] {
				must(x.Process(message))(t)
			}
		}
	}
	// b updates to a's encryption key, of which nobody asks a proof.
	leaf := m[1].id.leaf(tree.SourceUpdate, m[0].Public().Tree().Leaf(0).EncryptionKey)
	if err := signLeaf(leaf, m[1].id.Signer, m[1].ID(), m[1].Own()); err != nil {
		t.Fatal(err)
	}
	everyone(must(m[1].propose(&tree.Update{Leaf: *leaf}, nil, false, nil))(t))
	// Clients under a's signature key and c's encryption key, and one that can't
	// do what another proposal requires.
	thief := newMember(t, m[0].suite, "thief")
	thief.id.Signer = m[0].id.Signer
	everyone(must(m[1].Propose(&tree.Add{KeyPackage: thief.keyPackage().Public}, false, nil))(t))
	copied := newMember(t, m[0].suite, "copied")
	own := copied.keyPackage()
	own.Public.Leaf.EncryptionKey = m[2].Public().Tree().Leaf(m[2].Own()).EncryptionKey
	if err := signLeaf(&own.Public.Leaf, copied.id.Signer, nil, 0); err != nil {
		t.Fatal(err)
	}
	own.Public.Signature = must(copied.id.Signer.Sign(tree.LabelKeyPackage, own.Public.SignedContent()))(t)
	everyone(must(m[1].Propose(&tree.Add{KeyPackage: own.Public}, false, nil))(t))
	required := tree.RequiredCapabilities{Extensions: []tree.ExtensionType{0xfafa}}
	everyone(must(m[1].Propose(&tree.GroupContextExtensions{Extensions: tree.Extensions{required.Extension()}}, false, nil))(t))
	// A PSK that nobody has.
	everyone(must(m[1].Propose(&tree.PreSharedKey{PSK: tree.PreSharedKeyID{
		Type: tree.PSKExternal, ID: []byte("nobody's"), Nonce: make([]byte, 32),
	}}, false, nil))(t))
	// And one that is all right.
	everyone(must(m[1].Propose(&tree.Remove{Removed: m[3].Own()}, false, nil))(t))

	m[0].commits(CommitOptions{}, m...)
	if !m[3].Removed() || m[0].Public().Tree().Count() != 3 {
		t.Fatalf("%d members", m[0].Public().Tree().Count())
	}
	talk(t, m[:3]...)
}

func FuzzProcess(f *testing.F) {
	m := group(f, cipher.X25519AES128SHA256Ed25519, 3)
	f.Add(must(m[0].Encrypt([]byte("text"), []byte("header")))(f))
	f.Add(must(m[0].ProposeUpdate(nil, false, nil))(f))
	f.Add(must(m[0].ProposeUpdate(nil, true, nil))(f))
	f.Add(must(m[0].Commit(CommitOptions{Path: true}))(f).Message)
	f.Add(must(m[1].Commit(CommitOptions{Path: true, Encrypt: true}))(f).Message)
	d := make(disk)
	d.save(m[2].Group)
	seeds := m[2]
	f.Fuzz(func(t *testing.T, data []byte) {
		g := must(Restore(seeds.config, d.records()))(t)
		g.Process(data) // mustn't panic
	})
}

func FuzzJoin(f *testing.F) {
	m := group(f, cipher.X25519AES128SHA256Ed25519, 2)
	next := newMember(f, m[0].suite, "next")
	own := next.keyPackage(tree.Extension{Type: ExtensionLastResort})
	c := must(m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}}))(f)
	f.Add(c.Welcome, []byte(nil))
	f.Add(c.Welcome, m[0].Public().Tree().Marshal())
	must(m[0].Confirm())(f)
	f.Fuzz(func(t *testing.T, welcome, ratchetTree []byte) {
		g, err := Join(next.config, own, welcome, ratchetTree, nil)
		if err == nil && !bytes.Equal(g.EpochAuthenticator(), m[0].EpochAuthenticator()) {
			t.Fatalf("joined %x by a forged Welcome", g.ID())
		}
	})
}

// FuzzGroupSecrets: one encoding for each value.
func FuzzGroupSecrets(f *testing.F) {
	f.Add(syntax.Marshal(&groupSecrets{joiner: make([]byte, 32)}))
	f.Add(syntax.Marshal(&groupSecrets{joiner: make([]byte, 32), path: make([]byte, 32), psks: []tree.PreSharedKeyID{
		{Type: tree.PSKExternal, ID: []byte("id"), Nonce: make([]byte, 32)},
	}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s groupSecrets
		if syntax.Unmarshal(data, &s) == nil && !bytes.Equal(syntax.Marshal(&s), data) {
			t.Fatalf("read %x, wrote %x", data, syntax.Marshal(&s))
		}
	})
}
