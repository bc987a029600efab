package mls

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// continues makes a group whose first commit claims to continue another, as
// given, and returns what joining it with that other group gives.
func (m *member) continues(guest *member, groupID string, claims []tree.PreSharedKeyID, others ...*tree.KeyPackage) error {
	m.t.Helper()
	own := guest.keyPackage()
	o := CommitOptions{Path: true, Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}}
	for _, p := range others {
		o.Proposals = append(o.Proposals, &tree.Add{KeyPackage: *p})
	}
	for _, id := range claims {
		o.Proposals = append(o.Proposals, &tree.PreSharedKey{PSK: id})
	}
	next := must(Create(m.config, []byte(groupID), m.keyPackage(), nil))(m.t)
	c := must(next.commit(&o, m.Group))(m.t)
	_, err := Join(guest.config, own, c.Welcome, nil, guest.Group)
	return err
}

// TestFormerGroups: a group that says it continues another is held against it.
func TestFormerGroups(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	claim := func(usage tree.ResumptionUsage, epoch uint64) []tree.PreSharedKeyID {
		return []tree.PreSharedKeyID{{
			Type: tree.PSKResumption, Usage: usage, GroupID: m[0].ID(), Epoch: epoch, Nonce: make([]byte, 32),
		}}
	}
	now := m[0].Epoch()
	wants(t, "no claim", m[0].continues(m[1], "next", nil), ErrNotAuthentic)
	wants(t, "a resumption that claims nothing", m[0].continues(m[1], "next", claim(tree.UsageApplication, now)), ErrNotAuthentic)
	wants(t, "ReInit of a group that lives", m[0].continues(m[1], "next", claim(tree.UsageReInit, now)), ErrNotAuthentic)
	two := append(claim(tree.UsageBranch, now), claim(tree.UsageReInit, now)...)
	wants(t, "two claims", m[0].continues(m[1], "next", two), ErrNotAuthentic)
	if err := m[0].continues(m[1], "branch", claim(tree.UsageBranch, now)); err != nil {
		t.Fatal(err)
	}
	_, _, err := m[0].Branch([]byte("branch"), newMember(t, testSuite(t, 2), "a").keyPackage(), nil, nil)
	wants(t, "branch of another suite", err, cipher.ErrUnsupported)
	_, _, err = m[0].Reinitialise(m[0].keyPackage(), nil)
	wants(t, "ReInit of a group that lives", err, ErrNotEnded)

	m[0].commits(CommitOptions{Proposals: []tree.Proposal{&tree.ReInit{
		GroupID: []byte("next"), Version: tree.MLS10, CipherSuite: m[0].suite.ID(),
	}}}, m...)
	now = m[0].Epoch()
	stranger := newMember(t, m[0].suite, "stranger").keyPackage()
	wants(t, "another epoch", m[0].continues(m[1], "next", claim(tree.UsageReInit, now-1)), ErrNotAuthentic)
	wants(t, "another group id", m[0].continues(m[1], "other", claim(tree.UsageReInit, now)), ErrNotAuthentic)
	wants(t, "a stranger", m[0].continues(m[1], "next", claim(tree.UsageReInit, now), &stranger.Public), ErrNotAuthentic)
	if err := m[0].continues(m[1], "next", claim(tree.UsageReInit, now)); err != nil {
		t.Fatal(err)
	}
	_, _, err = m[0].Reinitialise(newMember(t, testSuite(t, 2), "a").keyPackage(), nil)
	wants(t, "ReInit with another suite", err, cipher.ErrUnsupported)
}

// TestPSKAcrossGroups: who joins by an external commit shows that it knows
// another group's epoch.
func TestPSKAcrossGroups(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	other := newMember(t, m[0].suite, "other").create("other")
	next := newMember(t, m[0].suite, "next")
	own := next.keyPackage()
	c := other.commits(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}}})
	next.Group = must(Join(next.config, own, c.Welcome, nil, nil))(t)

	secret := must(other.ResumptionPSK(other.Epoch()))(t)
	if same := must(next.ResumptionPSK(next.Epoch()))(t); !bytes.Equal(secret, same) {
		t.Fatal("resumption PSKs differ")
	}
	_, err := other.ResumptionPSK(99)
	wants(t, "PSK of no epoch", err, ErrNoPSK)
	id := tree.PreSharedKeyID{
		Type: tree.PSKResumption, Usage: tree.UsageApplication, GroupID: other.ID(), Epoch: other.Epoch(), Nonce: make([]byte, 32),
	}
	find := func(wanted *tree.PreSharedKeyID) ([]byte, error) {
		if bytes.Equal(wanted.GroupID, other.ID()) {
			return secret, nil
		}
		return nil, ErrNoPSK
	}
	config := next.config
	config.PSK = find
	m[0].Group.config.PSK = find
	g, message, err := JoinExternally(config, ExternalJoin{
		Identity: next.id, GroupInfo: must(m[0].GroupInfo(false))(t), PSKs: []tree.PreSharedKeyID{id},
	})
	if err != nil {
		t.Fatal(err)
	}
	must(m[0].Process(message))(t)
	if !bytes.Equal(g.EpochAuthenticator(), m[0].EpochAuthenticator()) {
		t.Fatal("the newcomer is in another epoch")
	}
	_, err = m[1].Process(message)
	wants(t, "a PSK that a member lacks", err, ErrNoPSK)
}

// TestNoRandomness: nothing is made without it, and nothing changes.
func TestNoRandomness(t *testing.T) {
	broken := errors.New("no randomness")
	m := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	m[0].Group.config.Random = iotest.ErrReader(broken)
	unchanged(t, []*member{m[1]}, func() {
		_, err := m[0].Encrypt([]byte("x"), nil)
		wants(t, "Encrypt", err, broken)
		_, err = m[0].ProposeUpdate(nil, false, nil)
		wants(t, "ProposeUpdate", err, broken)
		_, err = m[0].Propose(&tree.Remove{Removed: 1}, true, nil)
		wants(t, "Propose", err, broken)
		_, err = m[0].Commit(CommitOptions{Path: true})
		wants(t, "Commit", err, broken)
		_, _, err = m[0].Branch([]byte("x"), m[0].keyPackage(), nil, nil)
		wants(t, "Branch", err, broken)
	})
	if len(m[0].proposals) != 0 || m[0].pending != nil {
		t.Fatal("something was kept")
	}
	m[0].Group.config.Random = random("again")
	talk(t, m...)

	lost := newMember(t, m[0].suite, "lost")
	own := lost.keyPackage()
	config := lost.config
	config.Random = iotest.ErrReader(broken)
	_, err := Create(config, []byte("x"), own, nil)
	wants(t, "Create", err, broken)
	_, err = NewKeyPackage(m[0].suite, lost.id, tree.Lifetime{}, nil, config.Random)
	wants(t, "NewKeyPackage", err, broken)
	_, _, err = JoinExternally(config, ExternalJoin{Identity: lost.id, GroupInfo: must(m[0].GroupInfo(false))(t)})
	wants(t, "JoinExternally", err, broken)
	own.Erase()
	initKey, leafKey := own.ExposeSecrets()
	if !bytes.Equal(initKey, make([]byte, 32)) || !bytes.Equal(leafKey, make([]byte, 32)) {
		t.Fatal("an erased key package has keys")
	}
}
