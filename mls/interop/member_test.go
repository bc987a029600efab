package interop

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// member is a client of some implementation, in a group or about to join one.
type member interface {
	identity() string
	keyPackage() ([]byte, error)
	create(group string) error
	join(welcome, ratchetTree []byte) error
	joinExternally(j externalJoin) ([]byte, error)
	commit(c change) (committed, error)
	propose(c change) ([]byte, error)
	process(message []byte) (received, error)
	encrypt(data []byte) ([]byte, error)
	groupInfo(omitTree bool) (info, ratchetTree []byte, err error)
	epoch() (epoch, error)
	learnPSK(id, secret []byte) error
}

var (
	_ member = (*ours)(nil)
	_ member = (*theirs)(nil)
)

// change is what a commit or proposal does: the first thing that is set. A
// commit of nothing renews the committer's keys.
type change struct {
	add     [][]byte // key packages
	remove  *target
	psk     []byte // an external PSK's id
	update  bool   // of a proposal: the proposer's own leaf
	pending bool   // of a commit: what was proposed

	encrypt  bool // send it as a PrivateMessage
	omitTree bool // leave the tree out of the Welcome
}

// target is a member to remove; implementations name it in different ways.
type target struct {
	identity string
	leaf     tree.LeafIndex
}

type committed struct{ message, welcome, tree []byte }

type received struct {
	data    []byte
	removed bool
}

// externalJoin is what an external commit needs; former is the client's own
// earlier leaf, which it replaces.
type externalJoin struct {
	info, tree []byte
	former     *tree.LeafIndex
}

// epoch is what members of a group have in common. Not every implementation
// tells its authenticator.
type epoch struct {
	number                  uint64
	exported, authenticator []byte
}

// same returns an error unless both are of one epoch with one set of secrets.
func (e epoch) same(o epoch) error {
	if e.number != o.number {
		return fmt.Errorf("epochs %d and %d", e.number, o.number)
	}
	if !bytes.Equal(e.exported, o.exported) {
		return errors.New("other exported secrets")
	}
	if e.authenticator != nil && o.authenticator != nil && !bytes.Equal(e.authenticator, o.authenticator) {
		return errors.New("other epoch authenticators")
	}
	return nil
}

// rules are an application's that knows clients by their name alone.
type rules struct{}

func (rules) Leaf(_ tree.Event, old, leaf *tree.LeafNode) error {
	if old != nil && !bytes.Equal(old.Credential.Identity, leaf.Credential.Identity) {
		return errors.New("another client's leaf")
	}
	return nil
}

func (rules) Lifetime(_ tree.Event, l tree.Lifetime) error {
	if now := uint64(time.Now().Unix()); now < l.NotBefore || now > l.NotAfter {
		return errors.New("out of its lifetime")
	}
	return nil
}

func (rules) Client(leaf *tree.LeafNode) string { return string(leaf.Credential.Identity) }

func (rules) ExternalSender(*tree.ExternalSender) error { return nil }

func (rules) Proposal(*tree.Group, tree.Sender, tree.Proposal) error { return nil }

// ours is a client of package mls.
type ours struct {
	suite  *cipher.Suite
	id     *mls.Identity
	config mls.Config
	psks   map[string][]byte
	own    *mls.OwnKeyPackage // for the next Welcome
	*mls.Group
}

// grease are values that nobody knows (RFC 9420 §13.5).
const (
	greaseSuite      cipher.ID           = 0x3a3a
	greaseExtension  tree.ExtensionType  = 0x4a4a
	greaseProposal   tree.ProposalType   = 0x5a5a
	greaseCredential tree.CredentialType = 0x6a6a
)

func newOurs(t *testing.T, s *cipher.Suite, id string) *ours {
	t.Helper()
	private, err := s.GenerateSignatureKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := s.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	m := &ours{suite: s, psks: make(map[string][]byte)}
	m.id = &mls.Identity{
		Signer: signer, Credential: tree.BasicCredential([]byte(id)),
		Capabilities: tree.Capabilities{
			Versions: []tree.Version{tree.MLS10}, CipherSuites: append(cipher.IDs(), greaseSuite),
			Extensions:  []tree.ExtensionType{greaseExtension, mls.ExtensionLastResort},
			Proposals:   []tree.ProposalType{greaseProposal},
			Credentials: []tree.CredentialType{tree.CredentialBasic, tree.CredentialX509, greaseCredential},
		},
		Extensions: unknown(),
	}
	m.config = mls.Config{
		Rules: rules{}, Random: rand.Reader, PadTo: 32,
		Signer: func([]byte) (cipher.Signer, error) { return signer, nil },
		PSK: func(id *tree.PreSharedKeyID) ([]byte, error) {
			if secret, ok := m.psks[string(id.ID)]; ok && id.Type == tree.PSKExternal {
				return secret, nil
			}
			return nil, mls.ErrNoPSK
		},
	}
	return m
}

func unknown() tree.Extensions {
	return tree.Extensions{{Type: greaseExtension, Data: []byte("unknown")}}
}

func (m *ours) identity() string { return string(m.id.Credential.Identity) }

func (m *ours) newKeyPackage() (*mls.OwnKeyPackage, error) {
	now := uint64(time.Now().Unix())
	return mls.NewKeyPackage(m.suite, m.id, tree.Lifetime{NotBefore: now - 3600, NotAfter: now + 86400}, unknown(), rand.Reader)
}

func (m *ours) keyPackage() ([]byte, error) {
	own, err := m.newKeyPackage()
	if err != nil {
		return nil, err
	}
	m.own = own
	return own.Message(), nil
}

func (m *ours) create(group string) error {
	own, err := m.newKeyPackage()
	if err != nil {
		return err
	}
	m.Group, err = mls.Create(m.config, []byte(group), own, nil)
	return err
}

func (m *ours) join(welcome, ratchetTree []byte) (err error) {
	m.Group, err = mls.Join(m.config, m.own, welcome, ratchetTree, nil)
	return err
}

func (m *ours) joinExternally(j externalJoin) (commit []byte, err error) {
	m.Group, commit, err = mls.JoinExternally(m.config, mls.ExternalJoin{
		Identity: m.id, GroupInfo: j.info, RatchetTree: j.tree, Remove: j.former,
	})
	return commit, err
}

// proposals returns what a change proposes.
func (m *ours) proposals(c change) ([]tree.Proposal, error) {
	var list []tree.Proposal
	switch {
	case c.add != nil:
		for _, data := range c.add {
			p, err := tree.ParseMessage(data)
			if err != nil {
				return nil, err
			}
			list = append(list, &tree.Add{KeyPackage: *p.(*tree.KeyPackage)})
		}
	case c.remove != nil:
		list = append(list, &tree.Remove{Removed: c.remove.leaf})
	case c.psk != nil:
		nonce := make([]byte, m.suite.HashSize())
		rand.Read(nonce)
		list = append(list, &tree.PreSharedKey{PSK: tree.PreSharedKeyID{Type: tree.PSKExternal, ID: c.psk, Nonce: nonce}})
	}
	return list, nil
}

func (m *ours) commit(c change) (committed, error) {
	list, err := m.proposals(c)
	if err != nil {
		return committed{}, err
	}
	done, err := m.Group.Commit(mls.CommitOptions{
		Proposals: list, Alone: !c.pending, Path: list == nil, Encrypt: c.encrypt, OmitTree: c.omitTree,
	})
	if err != nil {
		return committed{}, err
	}
	if _, err := m.Confirm(); err != nil {
		return committed{}, err
	}
	return committed{message: done.Message, welcome: done.Welcome, tree: m.Public().Tree().Marshal()}, nil
}

func (m *ours) propose(c change) ([]byte, error) {
	if c.update {
		return m.ProposeUpdate(nil, c.encrypt, nil)
	}
	list, err := m.proposals(c)
	if err != nil {
		return nil, err
	}
	return m.Group.Propose(list[0], c.encrypt, nil)
}

func (m *ours) process(message []byte) (received, error) {
	r, err := m.Process(message)
	if err != nil {
		return received{}, err
	}
	return received{data: r.Application, removed: m.Removed()}, nil
}

func (m *ours) encrypt(data []byte) ([]byte, error) {
	return m.Encrypt(data, []byte("in the clear"))
}

func (m *ours) groupInfo(omitTree bool) (info, ratchetTree []byte, err error) {
	info, err = m.GroupInfo(omitTree)
	return info, m.Public().Tree().Marshal(), err
}

func (m *ours) epoch() (epoch, error) {
	exported, err := m.Export("exporter", nil, 32)
	return epoch{number: m.Epoch(), exported: exported, authenticator: m.EpochAuthenticator()}, err
}

func (m *ours) learnPSK(id, secret []byte) error {
	m.psks[string(id)] = secret
	return nil
}

// at returns the place of the member with that identity.
func (m *ours) at(identity string) (tree.LeafIndex, bool) {
	for l, leaf := range m.Public().Tree().Members() {
		if string(leaf.Credential.Identity) == identity {
			return l, true
		}
	}
	return 0, false
}
