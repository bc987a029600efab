package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// testRules are an application's: names are clients, and those in refused are
// no good.
type testRules struct {
	refused map[string]bool
}

var errRefused = errors.New("credential refused")

func (r *testRules) Leaf(_ tree.Event, old, leaf *tree.LeafNode) error {
	if r.refused[string(leaf.Credential.Identity)] {
		return errRefused
	}
	if old != nil && !bytes.Equal(old.Credential.Identity, leaf.Credential.Identity) {
		return errors.New("another client's leaf")
	}
	return nil
}

func (r *testRules) Lifetime(tree.Event, tree.Lifetime) error { return nil }

func (r *testRules) Client(leaf *tree.LeafNode) string { return string(leaf.Credential.Identity) }

func (r *testRules) ExternalSender(*tree.ExternalSender) error { return nil }

// Proposal lets external senders remove, and never add.
func (r *testRules) Proposal(_ *tree.Group, from tree.Sender, p tree.Proposal) error {
	if from.Type == tree.SenderExternal && p.Type() != tree.ProposalRemove {
		return errors.New("external senders may remove and nothing else")
	}
	return nil
}

// member is a client in tests.
type member struct {
	t       testing.TB
	name    string
	suite   *cipher.Suite
	id      *Identity
	rules   *testRules
	signers map[string]cipher.Signer
	psks    map[string][]byte
	config  Config
	*Group
}

func testSuite(t testing.TB, id cipher.ID) *cipher.Suite {
	t.Helper()
	s, err := cipher.ByID(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newMember(t testing.TB, s *cipher.Suite, name string) *member {
	t.Helper()
	m := &member{
		t: t, name: name, suite: s, rules: &testRules{refused: make(map[string]bool)},
		signers: make(map[string]cipher.Signer), psks: make(map[string][]byte),
	}
	m.config = Config{
		Rules:  m.rules,
		Random: random(fmt.Sprintf("%s of suite %d", name, s.ID())),
		PadTo:  32,
		Signer: func(public []byte) (cipher.Signer, error) {
			if s, ok := m.signers[string(public)]; ok {
				return s, nil
			}
			return nil, cipher.ErrKey
		},
		PSK: func(id *tree.PreSharedKeyID) ([]byte, error) {
			if secret, ok := m.psks[string(id.ID)]; ok && id.Type == tree.PSKExternal {
				return secret, nil
			}
			return nil, ErrNoPSK
		},
	}
	m.id = m.newIdentity()
	return m
}

// newIdentity returns the member's identity with a new signature key.
func (m *member) newIdentity() *Identity {
	m.t.Helper()
	private := must(m.suite.GenerateSignatureKey(m.config.Random))(m.t)
	signer := must(m.suite.NewSigner(private))(m.t)
	m.signers[string(signer.Public())] = signer
	return &Identity{
		Signer: signer, Credential: tree.BasicCredential([]byte(m.name)),
		Capabilities: tree.Capabilities{
			Versions: []tree.Version{tree.MLS10}, CipherSuites: cipher.IDs(),
			Extensions:  []tree.ExtensionType{0xf0a0, ExtensionLastResort},
			Credentials: []tree.CredentialType{tree.CredentialBasic},
		},
	}
}

func (m *member) keyPackage(extensions ...tree.Extension) *OwnKeyPackage {
	m.t.Helper()
	return must(NewKeyPackage(m.suite, m.id, tree.Lifetime{NotAfter: 1 << 40}, extensions, m.config.Random))(m.t)
}

// must returns a function that returns the value, or ends the test.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (m *member) create(id string, extensions ...tree.Extension) *member {
	m.t.Helper()
	m.Group = must(Create(m.config, []byte(id), m.keyPackage(), extensions))(m.t)
	return m
}

// adds commits the addition of others, which join, and everyone follows.
func (m *member) adds(others []*member, everyone ...*member) {
	m.t.Helper()
	var o CommitOptions
	packages := make([]*OwnKeyPackage, len(others))
	for i, other := range others {
		packages[i] = other.keyPackage()
		o.Proposals = append(o.Proposals, &tree.Add{KeyPackage: packages[i].Public})
	}
	c := m.commits(o, everyone...)
	for i, other := range others {
		other.Group = must(Join(other.config, packages[i], c.Welcome, nil, nil))(m.t)
		m.same(other)
	}
}

// commits makes a commit that everyone takes.
func (m *member) commits(o CommitOptions, everyone ...*member) *Committed {
	m.t.Helper()
	c := must(m.Commit(o))(m.t)
	must(m.Confirm())(m.t)
	for _, other := range everyone {
		if other == m {
			continue
		}
		must(other.Process(c.Message))(m.t)
		if !other.Removed() {
			m.same(other)
		}
	}
	return c
}

// same verifies that both are in one epoch with one set of secrets.
func (m *member) same(other *member) {
	m.t.Helper()
	if m.Epoch() != other.Epoch() || !bytes.Equal(m.EpochAuthenticator(), other.EpochAuthenticator()) {
		m.t.Fatalf("%s in epoch %d and %s in epoch %d disagree", m.name, m.Epoch(), other.name, other.Epoch())
	}
}

// talk sends a message of each to all others.
func talk(t testing.TB, everyone ...*member) {
	t.Helper()
	for _, from := range everyone {
		text := []byte("from " + from.name)
		message := must(from.Encrypt(text, []byte("header")))(t)
		for _, to := range everyone {
			if to == from {
				continue
			}
			r := must(to.Process(message))(t)
			if !bytes.Equal(r.Application, text) || string(r.AuthenticatedData) != "header" || string(r.Leaf.Credential.Identity) != from.name {
				t.Fatalf("%s read %q of %q", to.name, r.Application, r.Leaf.Credential.Identity)
			}
		}
	}
}

// wants ends the test unless err is the expected one.
func wants(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got %v, want %v", what, err, want)
	}
}

// refuses ends the test unless err is a breach of a section of RFC 9420.
func refuses(t testing.TB, what string, err error, section string) {
	t.Helper()
	var v *tree.Violation
	if !errors.As(err, &v) || v.Section != section {
		t.Fatalf("%s: got %v, want a violation of §%s", what, err, section)
	}
}

// group returns members of a new group, named a, b, c…
func group(t testing.TB, id cipher.ID, n int) []*member {
	t.Helper()
	s := testSuite(t, id)
	all := make([]*member, n)
	for i := range all {
		all[i] = newMember(t, s, string(rune('a'+i)))
	}
	all[0].create("group")
	if n > 1 {
		all[0].adds(all[1:])
	}
	return all
}
