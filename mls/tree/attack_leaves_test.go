package tree

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"chancery/mls/cipher"
)

// TestLeaves breaks each rule of RFC 9420 §7.3 in each place where a leaf comes
// in.
func TestLeaves(t *testing.T) {
	g := grown(t, suite1, 4)
	p256 := newTestGroup(t, cipher.P256AES128SHA256P256)
	for _, c := range []struct {
		what, section string
		change        func(*LeafNode)
	}{
		{"source of a key package", "7.3", func(l *LeafNode) { l.Source = SourceKeyPackage }},
		{"source of an update", "7.3", func(l *LeafNode) { l.Source = SourceUpdate }},
		{"source of a commit", "7.3", func(l *LeafNode) { l.Source = SourceCommit }},
		{"encryption key of no bytes", "7.3", func(l *LeafNode) { l.EncryptionKey = nil }},
		{"encryption key of low order", "7.3", func(l *LeafNode) { l.EncryptionKey = make([]byte, 32) }},
		{"encryption key of another suite", "7.3", func(l *LeafNode) { l.EncryptionKey = p256.hpkeKey(p256.suite) }},
		{"another member's encryption key", "7.3 12.4.2", func(l *LeafNode) { l.EncryptionKey = g.Tree().Leaf(0).EncryptionKey }},
		{"a parent node's encryption key", "7.3 12.4.2", func(l *LeafNode) { l.EncryptionKey = g.Tree().Parent(1).EncryptionKey }},
		{"another member's signature key", "7.3", func(l *LeafNode) { l.SignatureKey = g.Tree().Leaf(0).SignatureKey }},
		{"own credential not supported", "7.2", func(l *LeafNode) { l.Capabilities.Credentials = []CredentialType{CredentialX509} }},
		{"own extension not supported", "7.3", func(l *LeafNode) { l.Extensions = Extensions{{Type: 0xff77}} }},
		{"version not supported", "11.1", func(l *LeafNode) { l.Capabilities.Versions = []Version{2} }},
		{"suite not supported", "11.1", func(l *LeafNode) { l.Capabilities.CipherSuites = []cipher.ID{2} }},
		{"too many capabilities", "7.2", func(l *LeafNode) { l.Capabilities.Extensions = make([]ExtensionType, maxCodes+1) }},
		{"a credential that the rules refuse", "5.3.1", func(l *LeafNode) { l.Credential = BasicCredential([]byte("stranger")) }},
		{"an X.509 credential without a certificate", "5.3", func(l *LeafNode) { l.Credential = Credential{Type: CredentialX509} }},
		{"a certificate that is none", "5.3", func(l *LeafNode) {
			l.Credential = Credential{Type: CredentialX509, Certificates: [][]byte{{1}}}
		}},
		{"a certificate of another key", "5.3", func(l *LeafNode) { l.Credential = certificate(t, nil) }},
	} {
		g.rules.refuse = "stranger"
		places := map[LeafNodeSource]map[string]func() *AuthenticatedContent{
			SourceKeyPackage: {
				"Add": func() *AuthenticatedContent {
					p := g.add("new", func(p *KeyPackage) { c.change(&p.Leaf) })
					return g.finish(draft{from: Member(1), noPath: true, proposals: byValue(p)})
				},
			},
			SourceCommit: {
				"path": func() *AuthenticatedContent { return g.finish(draft{from: Member(1), leaf: c.change}) },
				"external path": func() *AuthenticatedContent {
					d := g.externalCommit("new")
					d.leaf = c.change
					return g.finish(d)
				},
			},
		}
		var same LeafNode
		for source, makers := range places {
			same.Source = source
			if c.change(&same); same.Source == source && c.what[:6] == "source" {
				continue // right here
			}
			for place, commit := range makers {
				section := c.section
				if len(section) > 4 && c.what[len(c.what)-14:] == "encryption key" {
					section = map[LeafNodeSource]string{SourceKeyPackage: "7.3", SourceCommit: "12.4.2"}[source]
				}
				g.refused(c.what+", "+place, section, commit())
			}
		}
		if same.Source = SourceUpdate; c.what == "source of an update" {
			continue
		}
		// An Update by reference is judged when it arrives, or with the tree.
		if ref, err := g.Propose(g.message(2, g.update(2, c.change))); err != nil {
			violation(t, c.what+", Update", c.section, err)
		} else {
			section, _, _ := strings.Cut(c.section, " ")
			g.refused(c.what+", Update", section, g.finish(draft{from: Member(3), proposals: byReference(ProposalOrRef{Ref: ref})}))
		}
	}
	g.rules.refuse = ""

	g.refused("a path that keeps the encryption key", "7.3", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) {
		l.EncryptionKey = g.Tree().Leaf(1).EncryptionKey
	}}))
	_, err := g.Propose(g.message(2, g.update(2, func(l *LeafNode) { l.EncryptionKey = g.Tree().Leaf(2).EncryptionKey })))
	violation(t, "an Update that keeps the encryption key", "7.3", err)
	back := g.externalCommit("2", &Remove{Removed: 2})
	back.leaf = func(l *LeafNode) { l.EncryptionKey = g.Tree().Leaf(2).EncryptionKey }
	g.refused("an external return that keeps the encryption key", "7.3", g.finish(back))

	g.refused("a path whose leaf is signed for another place", "7.3", g.finish(draft{from: Member(1), path: func(p *UpdatePath) {
		g.signLeaf(&p.Leaf, g.Context().GroupID, 2)
	}}))
	g.refused("a path whose leaf is signed for another group", "7.3", g.finish(draft{from: Member(1), path: func(p *UpdatePath) {
		g.signLeaf(&p.Leaf, []byte("other"), 1)
	}}))
	g.refused("a path whose leaf is changed", "7.3", g.finish(draft{from: Member(1), path: func(p *UpdatePath) {
		p.Leaf.Credential = BasicCredential([]byte("mallory"))
	}}))
	g.refused("an Add whose leaf is changed", "7.3", func() *AuthenticatedContent {
		p := g.add("x")
		p.KeyPackage.Leaf.Lifetime.NotAfter++
		p.KeyPackage.Signature = g.sign(p.KeyPackage.Leaf.SignatureKey, LabelKeyPackage, p.KeyPackage.SignedContent())
		return g.finish(draft{from: Member(1), noPath: true, proposals: byValue(p)})
	}())
	g.rules.refuse = "lifetime"
	g.refused("a lifetime that the rules refuse", "7.2", g.commit(1, g.add("x")))
}

// certificate returns an X.509 credential of a signer's key, or of any.
func certificate(t *testing.T, key ed25519.PublicKey) Credential {
	t.Helper()
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if key == nil {
		key = ca.Public().(ed25519.PublicKey)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "member"}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, ca)
	if err != nil {
		t.Fatal(err)
	}
	return Credential{Type: CredentialX509, Certificates: [][]byte{der}}
}

// TestCredentialTypes: all members support all types in use (RFC 9420 §7.3).
func TestCredentialTypes(t *testing.T) {
	g := grown(t, suite1, 3)
	withCertificate := func(p *KeyPackage) { p.Leaf.Credential = certificate(t, p.Leaf.SignatureKey) }
	g.accepted("a certificate", g.commit(0, g.add("x", withCertificate)))

	basicOnly := func(p *KeyPackage) { p.Leaf.Capabilities.Credentials = []CredentialType{CredentialBasic} }
	g.must(g.commit(0, g.add("old", basicOnly)))
	g.refused("a type that a member doesn't support", "7.3", g.commit(0, g.add("x", withCertificate)))
	g.refused("a type that a member doesn't support, by its own path", "7.3", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) {
		l.Credential = certificate(t, l.SignatureKey)
	}}))
	g.accepted("the same without that member", g.commit(0, &Remove{Removed: 3}, g.add("x", withCertificate)))
	x509Only := func(p *KeyPackage) {
		withCertificate(p)
		p.Leaf.Capabilities.Credentials = []CredentialType{CredentialX509}
	}
	g.must(g.commit(0, &Remove{Removed: 3}))
	g.refused("a newcomer that doesn't support members' type", "7.3", g.commit(0, g.add("x", x509Only)))
}

// TestRequiredCapabilities: RFC 9420 §11.1, §12.1.7, §13.4.
func TestRequiredCapabilities(t *testing.T) {
	g := grown(t, suite1, 3)
	poor := func(p *KeyPackage) {
		p.Leaf.Capabilities.Extensions, p.Leaf.Capabilities.Proposals = []ExtensionType{0x0a0a}, nil
	}
	change := func(x ...Extension) Proposal { return &GroupContextExtensions{Extensions: x} }
	require := func(c RequiredCapabilities) Proposal { return change(c.Extension()) }

	for what, p := range map[string]Proposal{
		"an extension":            change(Extension{Type: 0xff01}),
		"a required extension":    require(RequiredCapabilities{Extensions: []ExtensionType{0xff01}}),
		"a required proposal":     require(RequiredCapabilities{Proposals: []ProposalType{0xff02}}),
		"a default extension too": require(RequiredCapabilities{Extensions: []ExtensionType{0xff01, ExtensionExternalSenders}, Proposals: []ProposalType{ProposalAdd}}),
		"a required credential":   require(RequiredCapabilities{Credentials: []CredentialType{CredentialX509}}),
	} {
		g.accepted(what, g.commit(0, p))
		newcomer := g.add("x", poor, func(p *KeyPackage) { p.Leaf.Capabilities.Credentials = []CredentialType{CredentialBasic} })
		_, err := g.Stage(g.commit(0, p, newcomer))
		var v *Violation
		if !errors.As(err, &v) {
			t.Errorf("%s that a newcomer of the same commit doesn't support: %v", what, err)
		}
	}
	g.refused("an extension that nobody supports", "13.4", g.commit(0, change(Extension{Type: 0xff03})))
	g.refused("a required extension that nobody supports", "13.4", g.commit(0, require(RequiredCapabilities{Extensions: []ExtensionType{0xff03}})))
	g.refused("a required proposal that nobody supports", "11.1", g.commit(0, require(RequiredCapabilities{Proposals: []ProposalType{0xff03}})))
	g.refused("a required credential that nobody supports", "7.3", g.commit(0, require(RequiredCapabilities{Credentials: []CredentialType{9}})))
	g.refused("too much required", "11.1", g.commit(0, require(RequiredCapabilities{Extensions: make([]ExtensionType, maxCodes+1)})))

	g.must(g.commit(0, require(RequiredCapabilities{Extensions: []ExtensionType{0xff01}})))
	g.refused("an Add that lacks what is required", "13.4", g.commit(0, g.add("x", poor)))
	g.refused("a path that lacks what is required", "13.4", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) {
		l.Capabilities.Extensions = []ExtensionType{0x0a0a}
	}}))
	g.accepted("an Add as the requirement goes", g.commit(0, change(), g.add("x", poor)))
}
