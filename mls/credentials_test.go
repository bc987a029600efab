package mls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// authority issues certificates, and is a member's rules about them.
type authority struct {
	testRules
	t    testing.TB
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Unix(1<<32, 0),
	}
	a.cert = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)))(t)
	return a
}

// certify returns a credential of a suite's signature key.
func (a *authority) certify(name string, signatureKey []byte) tree.Credential {
	a.t.Helper()
	var public any = ed25519.PublicKey(signatureKey)
	if len(signatureKey) != ed25519.PublicKeySize {
		public = must(ecdsa.ParseUncompressedPublicKey(elliptic.P256(), signatureKey))(a.t)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1<<32, 0)}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key))(a.t)
	return tree.Credential{Type: tree.CredentialX509, Certificates: [][]byte{der, a.cert.Raw}}
}

var errNoCertificate = errors.New("no certificate")

func certificate(leaf *tree.LeafNode) (*x509.Certificate, error) {
	if len(leaf.Credential.Certificates) == 0 {
		return nil, errNoCertificate
	}
	return x509.ParseCertificate(leaf.Credential.Certificates[0])
}

func (a *authority) Leaf(_ tree.Event, _, leaf *tree.LeafNode) error {
	cert, err := certificate(leaf)
	if err != nil {
		return err
	}
	return cert.CheckSignatureFrom(a.cert)
}

func (a *authority) Client(leaf *tree.LeafNode) string {
	cert, err := certificate(leaf)
	if err != nil {
		return ""
	}
	return cert.Subject.CommonName
}

// certified returns a member with a certificate of the authority's.
func (a *authority) certified(s *cipher.Suite, name string) *member {
	m := newMember(a.t, s, name)
	m.config.Rules = a
	m.id.Credential = a.certify(name, m.id.Signer.Public())
	m.id.Capabilities.Credentials = []tree.CredentialType{tree.CredentialX509}
	return m
}

// hear has others read a message, and look at the sender's certificate.
func (a *authority) hear(from *member, others ...*member) {
	a.t.Helper()
	message := must(from.Encrypt([]byte("hello"), nil))(a.t)
	for _, to := range others {
		r := must(to.Process(message))(a.t)
		if string(r.Application) != "hello" || a.Client(r.Leaf) != from.name {
			a.t.Errorf("%s read %q of %q", to.name, r.Application, a.Client(r.Leaf))
		}
	}
}

// TestCertificates: a group whose members have certificates, and those who come
// with another authority's, or somebody else's.
func TestCertificates(t *testing.T) {
	for _, id := range []cipher.ID{cipher.X25519AES128SHA256Ed25519, cipher.P256AES128SHA256P256} {
		s, ca := testSuite(t, id), newAuthority(t)
		a, b, c := ca.certified(s, "a"), ca.certified(s, "b"), ca.certified(s, "c")
		a.create("group")
		a.adds([]*member{b, c})
		ca.hear(a, b, c)

		// A renewed certificate, with a new key.
		renewed := b.newIdentity()
		renewed.Credential, renewed.Capabilities = ca.certify("b", renewed.Signer.Public()), b.id.Capabilities
		b.commits(CommitOptions{Identity: renewed}, a, b, c)
		ca.hear(b, a, c)

		stranger := newAuthority(t).certified(s, "d")
		_, err := a.Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: stranger.keyPackage().Public}}})
		refuses(t, "another authority's certificate", err, "5.3.1")
		thief := ca.certified(s, "d")
		thief.id.Credential = ca.certify("d", a.id.Signer.Public())
		_, err = a.Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: thief.keyPackage().Public}}})
		refuses(t, "a certificate of another key", err, "5.3")
		plain := newMember(t, s, "d")
		_, err = a.Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: plain.keyPackage().Public}}})
		wants(t, "a bare name in a group of certificates", err, errNoCertificate)
	}
}

// TestUnknownValues: values that nobody here knows, GREASE of RFC 9420 §13.5,
// change nothing wherever they may stand, and arrive as they were sent.
func TestUnknownValues(t *testing.T) {
	s := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	greased := func(name string) *member {
		m := newMember(t, s, name)
		c := &m.id.Capabilities
		c.Versions = append(c.Versions, 0xfafa)
		c.CipherSuites = append(c.CipherSuites, 0x0a0a)
		c.Extensions = append(c.Extensions, 0x1a1a, 0x2a2a)
		c.Proposals = append(c.Proposals, 0x3a3a)
		c.Credentials = append(c.Credentials, 0x4a4a)
		m.id.Extensions = tree.Extensions{{Type: 0x1a1a, Data: []byte("leaf")}}
		return m
	}
	a, b, c := greased("a"), greased("b"), newMember(t, s, "c")
	a.create("group")
	own := b.keyPackage(tree.Extension{Type: 0x5a5a, Data: []byte("key package")})
	plain := c.keyPackage()
	committed := a.commits(CommitOptions{Proposals: []tree.Proposal{&tree.Add{KeyPackage: own.Public}, &tree.Add{KeyPackage: plain.Public}}})
	b.Group = must(Join(b.config, own, committed.Welcome, nil, nil))(t)
	c.Group = must(Join(c.config, plain, committed.Welcome, nil, nil))(t)
	talk(t, a, b, c)
	b.commits(CommitOptions{Path: true}, a, b, c)
	for _, m := range []*member{a, b, c} {
		leaf := m.Public().Tree().Leaf(b.Own())
		if !leaf.Extensions.Equal(b.id.Extensions) || !bytes.Equal(syntax.Marshal(&leaf.Capabilities), syntax.Marshal(&b.id.Capabilities)) {
			t.Errorf("%s has b's leaf with %v", m.name, leaf.Extensions)
		}
	}

	// A GroupInfo with unknown extensions is good for an external join.
	m := must(tree.ParseMessage(must(a.GroupInfo(false))(t)))(t)
	info := m.(*tree.GroupInfo)
	info.Extensions = append(info.Extensions, tree.Extension{Type: 0x6a6a, Data: []byte("info")})
	info.Signature = must(a.id.Signer.Sign(tree.LabelGroupInfo, info.SignedContent()))(t)
	d := greased("d")
	g, message, err := JoinExternally(d.config, ExternalJoin{Identity: d.id, GroupInfo: tree.MarshalMessage(info)})
	if err != nil {
		t.Fatal(err)
	}
	d.Group = g
	for _, m := range []*member{a, b, c} {
		must(m.Process(message))(t)
	}
	talk(t, a, b, c, d)

	// In a GroupContext an unknown extension binds all: c doesn't support it.
	_, err = a.Commit(CommitOptions{Proposals: []tree.Proposal{&tree.GroupContextExtensions{Extensions: tree.Extensions{{Type: 0x1a1a}}}}})
	refuses(t, "an extension that a member doesn't support", err, "13.4")
	a.commits(CommitOptions{Proposals: []tree.Proposal{
		&tree.Remove{Removed: c.Own()}, &tree.GroupContextExtensions{Extensions: tree.Extensions{{Type: 0x1a1a, Data: []byte("policy")}}},
	}}, a, b, d)
	if data, ok := b.Public().Context().Extensions.Find(0x1a1a); !ok || string(data) != "policy" {
		t.Error("the group's extension got lost")
	}
	talk(t, a, b, d)
}
