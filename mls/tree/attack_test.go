package tree

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

const suite1 = cipher.X25519AES128SHA256Ed25519

// refused verifies that a commit breaks the rule of that section, and leaves no
// trace.
func (g *testGroup) refused(what, section string, ac *AuthenticatedContent) {
	g.t.Helper()
	before, hash := g.Tree().Marshal(), g.InterimTranscriptHash()
	_, err := g.Stage(ac)
	violation(g.t, what, section, err)
	if !bytes.Equal(g.Tree().Marshal(), before) || !bytes.Equal(g.InterimTranscriptHash(), hash) || !bytes.Equal(g.Tree().Hash(), g.Context().TreeHash) {
		g.t.Errorf("%s: the group has changed", what)
	}
}

// accepted verifies that a commit is fine. The group stays as it is.
func (g *testGroup) accepted(what string, ac *AuthenticatedContent) {
	g.t.Helper()
	if _, err := g.Stage(ac); err != nil {
		g.t.Errorf("%s: %v", what, err)
	}
}

func byReference(refs ...ProposalOrRef) []ProposalOrRef { return refs }

// TestProposalLists breaks each rule of RFC 9420 §12.2 for a member's commit.
func TestProposalLists(t *testing.T) {
	g := grown(t, suite1, 5)
	list := func(from LeafIndex, proposals ...ProposalOrRef) *AuthenticatedContent {
		return g.finish(draft{from: Member(from), proposals: proposals})
	}
	// A path can't be made for what can't be applied, and isn't looked at.
	bare := func(from LeafIndex, proposals ...ProposalOrRef) *AuthenticatedContent {
		return g.finish(draft{from: Member(from), proposals: proposals, noPath: true})
	}
	value := func(p Proposal) ProposalOrRef { return ProposalOrRef{Proposal: p} }

	g.refused("an Update by the committer, by value", "12.2", bare(1, value(g.update(1))))
	g.refused("an Update by the committer, by reference", "12.2", bare(1, g.propose(1, g.update(1))))
	g.refused("an Update of another's leaf", "12.2", bare(1, value(g.update(2))))
	g.refused("a Remove of the committer", "12.2", bare(1, value(&Remove{Removed: 1})))
	g.refused("a Remove of the committer, proposed by another", "12.2", bare(1, g.propose(2, &Remove{Removed: 1})))
	g.refused("an Update and a Remove of one leaf", "12.2", bare(1, g.propose(2, g.update(2)), value(&Remove{Removed: 2})))
	g.refused("two Updates of one leaf", "12.2", bare(1, g.propose(2, g.update(2)), g.propose(2, g.update(2))))
	g.refused("one Update twice", "12.2", bare(1, g.propose(2, g.update(2)), g.propose(2, g.update(2))))
	g.refused("two Removes of one leaf", "12.2", bare(1, value(&Remove{Removed: 2}), g.propose(3, &Remove{Removed: 2})))
	g.refused("two GroupContextExtensions", "12.2", list(1, value(&GroupContextExtensions{}), value(&GroupContextExtensions{})))
	reinit := &ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite1}
	g.refused("a ReInit beside another proposal", "12.2", list(1, value(reinit), value(g.psk("a"))))
	g.accepted("a ReInit alone", list(1, value(reinit)))
	g.refused("an ExternalInit by a member", "12.2", list(1, value(&ExternalInit{KEMOutput: []byte{1}})))
	psk := g.psk("a")
	g.refused("a PSK twice", "12.2", list(1, value(psk), value(psk)))
	g.accepted("a PSK twice with two nonces", list(1, value(psk), value(g.psk("a"))))

	add := g.add("new")
	g.refused("one client added twice", "7.3", list(1, value(add), value(add)))
	again := g.add("new", func(p *KeyPackage) { p.Leaf.SignatureKey = add.KeyPackage.Leaf.SignatureKey })
	g.refused("one signature key added twice", "7.3", list(1, value(add), value(again)))
	present := g.add("3", func(p *KeyPackage) { p.Leaf.SignatureKey = g.Tree().Leaf(3).SignatureKey })
	g.refused("a member added again", "7.3", list(1, value(present)))
	g.accepted("a member removed and added", list(1, value(present), value(&Remove{Removed: 3})))
	g.rules.sameName = true
	g.refused("one client of two keys", "12.2", list(1, value(add), value(g.add("new"))))
	g.refused("a member's client with another key", "12.2", list(1, value(g.add("3"))))
	g.accepted("a client removed and added", list(1, value(g.add("3")), value(&Remove{Removed: 3})))
	g.rules.sameName = false
}

// strange is a proposal of a type that isn't built.
type strange struct{ *Remove }

func (strange) Type() ProposalType { return 0xff02 }

// TestSingleProposals breaks each rule of RFC 9420 §12.1, by value and by
// reference.
func TestSingleProposals(t *testing.T) {
	g := grown(t, suite1, 3)
	resumption := func(u ResumptionUsage) *PreSharedKey {
		p := g.psk("")
		p.PSK.Type, p.PSK.Usage, p.PSK.GroupID = PSKResumption, u, []byte("old")
		return p
	}
	short := g.psk("a")
	short.PSK.Nonce = short.PSK.Nonce[1:]
	ext := func(t ExtensionType, data string) *GroupContextExtensions {
		return &GroupContextExtensions{Extensions: Extensions{{Type: t, Data: []byte(data)}}}
	}
	for _, c := range []struct {
		what, section string
		p             Proposal
	}{
		{"a Remove of a blank leaf", "12.1.3", &Remove{Removed: 3}},
		{"a Remove beyond the tree", "12.1.3", &Remove{Removed: math.MaxUint32}},
		{"a short PSK nonce", "12.1.4", short},
		{"a PSK for reinitialisation", "12.1.4", resumption(UsageReInit)},
		{"a PSK for a branch", "12.1.4", resumption(UsageBranch)},
		{"a ReInit to an older version", "12.1.5", &ReInit{Version: 0}},
		{"malformed external senders", "12.1.8.1", ext(ExtensionExternalSenders, "\x01")},
		{"an external sender's key that is none", "12.1.8.1", ext(ExtensionExternalSenders, string(syntax.Marshal(ExternalSenders{{Credential: BasicCredential(nil)}})))},
		{"an external sender's certificate of another key", "5.3", ext(ExtensionExternalSenders, string(syntax.Marshal(ExternalSenders{{SignatureKey: make([]byte, 32), Credential: certificate(t, nil)}})))},
		{"a key package of another suite", "10.1", g.add("x", func(p *KeyPackage) { p.CipherSuite = 3 })},
		{"a key package of another version", "10.1", g.add("x", func(p *KeyPackage) { p.Version = 2 })},
		{"an init key that is none", "10", g.add("x", func(p *KeyPackage) { p.InitKey = make([]byte, 32) })},
		{"an init key that is the encryption key", "10.1", g.add("x", func(p *KeyPackage) { p.InitKey = p.Leaf.EncryptionKey })},
		{"a key package changed after it was signed", "10.1", func() Proposal {
			p := g.add("x")
			p.KeyPackage.InitKey = g.hpkeKey(g.suite)
			return p
		}()},
	} {
		g.refused(c.what, c.section, g.finish(draft{from: Member(0), proposals: byValue(c.p), noPath: true}))
		_, err := g.Propose(g.message(1, c.p))
		violation(t, c.what+", proposed", c.section, err)
	}
	_, err := g.Plan(Member(0), byValue(strange{new(Remove)}))
	violation(t, "a proposal of another type", "12.2", err)
	g.accepted("a PSK of the application's", g.commit(0, resumption(UsageApplication)))
	g.refused("malformed required capabilities", "11.1", g.commit(0, ext(ExtensionRequiredCapabilities, "\x01")))
	_, err = g.Propose(g.message(1, &ExternalInit{}))
	violation(t, "an ExternalInit, proposed", "12.1.6", err)

	// A new group's creator resumes another group, and nobody else does.
	alone := newTestGroup(t, suite1)
	alone.accepted("a branch", alone.commit(0, resumption(UsageBranch), alone.add("x")))
}

// TestPathRequired: RFC 9420 §12.4.
func TestPathRequired(t *testing.T) {
	g := grown(t, suite1, 4)
	noPath := func(proposals ...ProposalOrRef) *AuthenticatedContent {
		return g.finish(draft{from: Member(0), proposals: proposals, noPath: true})
	}
	g.refused("an empty commit", "12.4", noPath())
	g.refused("an Update", "12.4", noPath(g.propose(1, g.update(1))))
	g.refused("a Remove", "12.4", noPath(byValue(&Remove{Removed: 1})...))
	g.refused("new extensions", "12.4", noPath(byValue(&GroupContextExtensions{})...))
	g.refused("a Remove beside an Add", "12.4", noPath(byValue(g.add("x"), &Remove{Removed: 1})...))
	g.accepted("an Add", noPath(byValue(g.add("x"))...))
	g.accepted("a PSK", noPath(byValue(g.psk("x"))...))
}

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

// TestPaths breaks each rule about an UpdatePath (RFC 9420 §7.6, §7.9.2,
// §12.4.2).
func TestUpdatePaths(t *testing.T) {
	g := grown(t, suite1, 8)
	path := func(change func(*UpdatePath)) *AuthenticatedContent {
		return g.finish(draft{from: Member(1), path: change})
	}
	g.accepted("a path", path(func(*UpdatePath) {}))
	g.refused("a node too few", "7.6", path(func(p *UpdatePath) { p.Nodes = p.Nodes[1:] }))
	g.refused("a node too many", "7.6", path(func(p *UpdatePath) { p.Nodes = append(p.Nodes, p.Nodes[0]) }))
	g.refused("a secret too few", "7.6", path(func(p *UpdatePath) { p.Nodes[1].Secrets = p.Nodes[1].Secrets[1:] }))
	g.refused("a secret too many", "7.6", path(func(p *UpdatePath) { p.Nodes[1].Secrets = append(p.Nodes[1].Secrets, p.Nodes[0].Secrets...) }))
	g.refused("a key that is none", "7.6", path(func(p *UpdatePath) { p.Nodes[0].EncryptionKey = make([]byte, 32) }))
	g.refused("another new key", "7.9.2", path(func(p *UpdatePath) { p.Nodes[2].EncryptionKey = g.hpkeKey(g.suite) }))
	for n := range NodeIndex(g.Tree().Size().Nodes()) {
		if key := g.Tree().EncryptionKey(n); key != nil {
			g.refused("a key of the tree", "12.4.2", path(func(p *UpdatePath) { p.Nodes[1].EncryptionKey = key }))
		}
	}
	// A path that is right in all but two equal keys: the hashes cover them.
	twice := g.hpkeKey(g.suite)
	g.refused("one key twice", "7.3", g.rehashed(1, func(p *UpdatePath) { p.Nodes[0].EncryptionKey, p.Nodes[2].EncryptionKey = twice, twice }))
	g.refused("the leaf's key above it", "7.3", g.rehashed(1, func(p *UpdatePath) { p.Nodes[2].EncryptionKey = p.Leaf.EncryptionKey }))
	g.refused("a wrong parent hash", "7.9.2", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) { l.ParentHash = bytes.Clone(l.ParentHash); l.ParentHash[0] ^= 1 }}))
	g.refused("no parent hash", "7.9.2", g.finish(draft{from: Member(1), leaf: func(l *LeafNode) { l.ParentHash = nil }}))

	// New members get no secret by the path.
	s := g.must(g.commit(0, g.add("x"), g.add("y")))
	if len(s.Added) != 2 || s.Added[0].Leaf != 8 {
		t.Fatalf("added %+v", s.Added)
	}
	for _, step := range s.Path() {
		for _, n := range s.Recipients(step) {
			if n == LeafIndex(8).Node() || n == LeafIndex(9).Node() {
				t.Errorf("node %d is sent a path secret", n)
			}
		}
	}
}

// rehashed returns a commit whose path is changed before its hashes are made.
func (g *testGroup) rehashed(from LeafIndex, change func(*UpdatePath)) *AuthenticatedContent {
	return g.finish(draft{from: Member(from), path: func(p *UpdatePath) {
		change(p)
		keys := make([][]byte, len(p.Nodes))
		for i := range keys {
			keys[i] = p.Nodes[i].EncryptionKey
		}
		hash, err := g.tree.Clone().setPath(from, keys)
		if err != nil {
			g.t.Fatal(err)
		}
		p.Leaf.ParentHash = hash
		g.signLeaf(&p.Leaf, g.Context().GroupID, from)
	}})
}

// TestExternalCommits breaks each rule of RFC 9420 §12.2 and §12.4.3.2 for them.
func TestExternalCommits(t *testing.T) {
	g := grown(t, suite1, 4)
	with := func(proposals ...Proposal) *AuthenticatedContent {
		return g.finish(g.externalCommit("x", proposals...))
	}
	g.accepted("a join", with())
	g.accepted("a return with PSKs", with(&Remove{Removed: 1}, g.psk("a"), g.psk("b")))
	g.refused("two ExternalInits", "12.2", with(&ExternalInit{KEMOutput: []byte{1}}))
	g.refused("two Removes", "12.2", with(&Remove{Removed: 1}, &Remove{Removed: 2}))
	g.refused("an Add", "12.2", with(g.add("y")))
	g.refused("new extensions", "12.2", with(&GroupContextExtensions{}))
	g.refused("a ReInit", "12.2", with(&ReInit{Version: MLS10}))
	g.refused("a Remove of a blank leaf", "12.1.3", func() *AuthenticatedContent {
		d := g.externalCommit("x")
		d.content = func(c *FramedContent) {
			c.Commit.Proposals = append(c.Commit.Proposals, byValue(&Remove{Removed: 9})...)
		}
		return g.finish(d)
	}())
	psk := g.psk("a")
	g.refused("a PSK twice", "12.2", with(psk, psk))

	d := g.externalCommit("x")
	d.proposals = nil
	g.refused("no ExternalInit", "12.2", g.finish(d))
	d = g.externalCommit("x")
	d.proposals = append(d.proposals, g.propose(1, &Remove{Removed: 2}))
	g.refused("a proposal by reference", "12.4.3.2", g.finish(d))
	d = g.externalCommit("x")
	d.content = func(c *FramedContent) { c.Commit.Path = nil }
	g.refused("no path", "12.4.3.2", g.finish(d))
	d = g.externalCommit("x")
	d.key = g.signer(g.suite).Public()
	g.refused("signed by somebody else", "6.1", g.finish(d))
	g.refused("a member's key again", "7.3", func() *AuthenticatedContent {
		d := g.externalCommit("x")
		d.joiner.SignatureKey = g.Tree().Leaf(2).SignatureKey
		return g.finish(d)
	}())
	g.accepted("a member's key after its removal", func() *AuthenticatedContent {
		d := g.externalCommit("x", &Remove{Removed: 2})
		d.joiner.SignatureKey = g.Tree().Leaf(2).SignatureKey
		return g.finish(d)
	}())
}

// TestMessages breaks each rule about who may send what, and how (RFC 9420 §6,
// §12.1.8).
func TestMessages(t *testing.T) {
	outsider := newTestGroup(t, suite1)
	key := outsider.signer(outsider.suite)
	senders := ExternalSenders{{SignatureKey: key.Public(), Credential: BasicCredential([]byte("officer"))}}
	g := newTestGroup(t, suite1)
	g.signers[string(key.Public())] = key
	g.must(g.commit(0, g.add("1"), g.add("2"), &GroupContextExtensions{Extensions: Extensions{senders.Extension()}}))

	send := func(from Sender, key []byte, p Proposal, change ...func(*AuthenticatedContent)) error {
		c := g.content(from)
		c.ContentType, c.Proposal = ContentProposal, p
		ac := g.signed(key, c)
		for _, f := range change {
			f(ac)
		}
		_, err := g.Propose(ac)
		return err
	}
	external := Sender{Type: SenderExternal}
	newcomer := Sender{Type: SenderNewMemberProposal}
	add := g.add("x")
	own := add.KeyPackage.Leaf.SignatureKey
	member := func(l LeafIndex) []byte { return g.Tree().Leaf(l).SignatureKey }

	for what, err := range map[string]error{
		"an external Remove":           send(external, key.Public(), &Remove{Removed: 1}),
		"a newcomer that adds itself":  send(newcomer, own, add),
		"an external ReInit":           send(external, key.Public(), &ReInit{Version: MLS10}),
		"an external PSK":              send(external, key.Public(), g.psk("x")),
		"a member that leaves":         send(Member(1), member(1), &Remove{Removed: 1}),
		"the same proposal once more":  send(external, key.Public(), &Remove{Removed: 1}),
		"an Add by an external sender": send(external, key.Public(), g.add("y")),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	private := func(ac *AuthenticatedContent) {
		ac.WireFormat = WirePrivateMessage
		ac.Auth.Signature = g.sign(key.Public(), LabelFramedContent, ac.Content.SignedContent(WirePrivateMessage, g.Context()))
	}
	for _, c := range []struct {
		what, section string
		err           error
	}{
		{"an external Update", "12.1.8", send(external, key.Public(), g.update(1))},
		{"an external ExternalInit", "12.1.8", send(external, key.Public(), &ExternalInit{})},
		{"an external sender that isn't listed", "6.1", send(Sender{Type: SenderExternal, Index: 1}, key.Public(), &Remove{Removed: 1})},
		{"an external sender's place with another key", "6.1", send(external, member(1), &Remove{Removed: 1})},
		{"an external sender in a PrivateMessage", "6", send(external, key.Public(), &Remove{Removed: 2}, private)},
		{"a newcomer that removes", "6.1", send(newcomer, own, &Remove{Removed: 1})},
		{"a newcomer that adds another", "6.1", send(newcomer, own, g.add("y"))},
		{"an external joiner that proposes", "12.4.3.2", send(Sender{Type: SenderNewMemberCommit}, own, add)},
		{"a member that isn't there", "6.1", send(Member(3), member(1), &Remove{Removed: 1})},
		{"a member far beyond the tree", "6.1", send(Member(math.MaxUint32), member(1), &Remove{Removed: 1})},
		{"another member's name", "6.1", send(Member(1), member(2), &Remove{Removed: 0})},
		{"a changed proposal", "6.1", send(Member(1), member(1), &Remove{Removed: 2}, func(ac *AuthenticatedContent) { ac.Content.Proposal = &Remove{Removed: 0} })},
		{"changed authenticated data", "6.1", send(Member(1), member(1), &Remove{Removed: 2}, func(ac *AuthenticatedContent) { ac.Content.AuthenticatedData = []byte{1} })},
		{"a signature for the other wire format", "6.1", send(Member(1), member(1), &Remove{Removed: 2}, func(ac *AuthenticatedContent) { ac.WireFormat = WirePrivateMessage })},
		{"an Update signed by its new key", "6.1", func() error {
			fresh := g.signer(g.suite).Public()
			return send(Member(1), fresh, g.update(1, func(l *LeafNode) { l.SignatureKey = fresh }))
		}()},
	} {
		violation(t, c.what, c.section, c.err)
	}

	app := g.content(Member(1))
	app.ContentType, app.ApplicationData = ContentApplication, []byte("hello")
	violation(t, "an application message in clear", "6", VerifyContent(g.Tree(), g.Context(), g.signed(member(1), app)))
	_, err := g.Stage(g.message(1, &Remove{Removed: 2}))
	violation(t, "a proposal where a commit belongs", "12.4", err)
	commit := g.commit(1)
	_, err = g.Propose(commit)
	violation(t, "a commit where a proposal belongs", "12.1", err)
	commit.Auth.ConfirmationTag = nil
	g.refused("a commit without a confirmation tag", "6.1", commit)
	commit = g.commit(1)
	commit.Auth.Signature[0] ^= 1
	g.refused("a commit with another signature", "6.1", commit)
	ext := draft{from: external, key: key.Public(), noPath: true, proposals: byValue(&Remove{Removed: 1})}
	g.refused("a commit by an external sender", "12.1.8", g.finish(ext))
}

// TestOrder: what comes at the wrong time is refused, and says so.
func TestOrder(t *testing.T) {
	g := grown(t, suite1, 3)
	old := g.propose(1, &Remove{Removed: 2})
	late, first, second := g.message(2, &Remove{Removed: 1}), g.commit(0), g.commit(1)
	other := newTestGroup(t, suite1)

	s, err := g.Stage(second)
	if err != nil {
		t.Fatal(err)
	}
	g.must(first)
	if err := g.Apply(s, second.Auth.ConfirmationTag); !errors.Is(err, ErrEpoch) {
		t.Errorf("the second commit of an epoch, staged before: %v", err)
	}
	for what, c := range map[string]*AuthenticatedContent{"the first commit again": first, "the second commit of an epoch": second} {
		if _, err := g.Stage(c); !errors.Is(err, ErrEpoch) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := g.Propose(late); !errors.Is(err, ErrEpoch) {
		t.Errorf("a proposal of the epoch before: %v", err)
	}
	if _, err := g.Plan(Member(0), byReference(old)); !errors.Is(err, ErrUnknownProposal) {
		t.Errorf("a commit of the last epoch's proposal: %v", err)
	}
	c := g.commit(0)
	c.Content.GroupID = []byte("group2")
	if _, err := g.Stage(c); !errors.Is(err, ErrOtherGroup) {
		t.Errorf("another group's commit: %v", err)
	}
	if _, err := other.Stage(g.commit(0)); err == nil {
		t.Error("a commit of a group of the same name")
	}

	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(&ReInit{Version: MLS10})}))
	if _, err := g.Stage(g.commit(0)); !errors.Is(err, ErrEnded) {
		t.Errorf("a commit after the end: %v", err)
	}
	if _, err := g.Propose(g.message(0, &Remove{Removed: 1})); !errors.Is(err, ErrEnded) {
		t.Errorf("a proposal after the end: %v", err)
	}
	if _, err := g.Plan(Member(0), nil); !errors.Is(err, ErrEnded) {
		t.Errorf("a plan after the end: %v", err)
	}
}

// TestLastEpoch: epochs don't start again.
func TestLastEpoch(t *testing.T) {
	g := grown(t, suite1, 2)
	g.context.Epoch = math.MaxUint64
	g.refused("a commit in the last epoch", "12", g.commit(0))
}

// TestRulesAreAsked: about each leaf that comes or changes, whatever the way.
func TestRulesAreAsked(t *testing.T) {
	g := grown(t, suite1, 4)
	asked := func(what string, want ...string) {
		t.Helper()
		for _, w := range want {
			found := false
			for _, got := range g.rules.leaves {
				found = found || got == w
			}
			if !found {
				t.Errorf("%s: the rules weren't asked about %s, but %v", what, w, g.rules.leaves)
			}
		}
		g.rules.leaves = nil
	}
	rename := func(to string) func(*LeafNode) {
		return func(l *LeafNode) { l.Credential = BasicCredential([]byte(to)) }
	}
	g.rules.leaves = nil
	g.must(g.finish(draft{from: Member(0), leaf: rename("zero"), proposals: append(byValue(g.add("4")), g.propose(1, g.update(1, rename("one"))))}))
	asked("a commit", "1:→4", "2:1→one", "3:0→zero")
	g.must(g.finish(g.externalCommit("two", &Remove{Removed: 2})))
	asked("an external commit", "4:2→two")
	g.must(g.finish(g.externalCommit("5")))
	asked("an external join", "4:→5")
	if _, err := g.join(); err != nil {
		t.Fatal(err)
	}
	asked("a tree", "5:→zero", "5:→one", "5:→two", "5:→3", "5:→4", "5:→5")

	for what, c := range map[string]struct {
		name   string
		commit func() *AuthenticatedContent
	}{
		"an Add":           {"bad", func() *AuthenticatedContent { return g.commit(0, g.add("bad")) }},
		"a path":           {"bad", func() *AuthenticatedContent { return g.finish(draft{from: Member(0), leaf: rename("bad")}) }},
		"an external path": {"bad", func() *AuthenticatedContent { return g.finish(g.externalCommit("bad")) }},
		"an external sender": {"bad", func() *AuthenticatedContent {
			senders := ExternalSenders{{SignatureKey: g.signer(g.suite).Public(), Credential: BasicCredential([]byte("bad"))}}
			return g.commit(0, &GroupContextExtensions{Extensions: Extensions{senders.Extension()}})
		}},
	} {
		g.rules.refuse = c.name
		g.refused(what, "5.3.1", c.commit())
	}
	g.rules.refuse = "proposal 3 by a sender of type 1"
	g.refused("a Remove that the rules refuse", "12.2", g.commit(0, &Remove{Removed: 1}))
	_, err := g.Propose(g.message(1, &Remove{Removed: 0}))
	violation(t, "a Remove that the rules refuse, proposed", "12.2", err)
	g.rules.refuse = "one"
	_, err = g.join()
	violation(t, "a tree with a member that the rules refuse", "5.3.1", err)
	g.rules.refuse = ""

	// An external sender is asked about once.
	g.rules.external = nil
	senders := ExternalSenders{{SignatureKey: g.signer(g.suite).Public(), Credential: BasicCredential([]byte("officer"))}}
	g.must(g.commit(0, &GroupContextExtensions{Extensions: Extensions{senders.Extension()}}))
	g.must(g.commit(0, &GroupContextExtensions{Extensions: Extensions{senders.Extension()}}))
	if len(g.rules.external) != 1 {
		t.Errorf("asked about external senders %v", g.rules.external)
	}
}

// TestForeignTrees breaks each rule about a tree that a newcomer is given, in
// the hands of a member who signs the GroupInfo (RFC 9420 §12.4.3.1).
func TestForeignTrees(t *testing.T) {
	g := grown(t, suite1, 7)
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("8"))})) // unmerged at 7, 11 and 13
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("9"))})) // the tree grows, all blank above
	g.must(g.commit(5))
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("10"))}))

	join := func(tree *Tree, change func(*GroupInfo)) error {
		tree = tree.Clone()
		clear(tree.hashes)
		info := g.info(1)
		info.Context.TreeHash = tree.Hash()
		if change != nil {
			change(info)
		}
		info.Signature = g.sign(g.Tree().Leaf(1).SignatureKey, LabelGroupInfo, info.SignedContent())
		_, err := JoinGroup(g.rules, info, tree)
		return err
	}
	if err := join(g.tree, nil); err != nil {
		t.Fatal(err)
	}
	violation(t, "another tree hash", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Context.TreeHash = g.bytes(32) }))
	violation(t, "another suite", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Context.CipherSuite = 3 }))
	violation(t, "a blank signer", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Signer = 15 }))
	violation(t, "another signer", "12.4.3.1", join(g.tree, func(i *GroupInfo) { i.Signer = 2 }))
	violation(t, "another group: the leaves are of this one", "7.3", join(g.tree, func(i *GroupInfo) { i.Context.GroupID = []byte("other") }))
	violation(t, "an extension that members don't support", "13.4", join(g.tree, func(i *GroupInfo) { i.Context.Extensions = Extensions{{Type: 0xff03}} }))

	leaf := func(l LeafIndex, change func(*LeafNode)) *Tree {
		tree := g.tree.Clone()
		changed := *tree.leaves[l]
		change(&changed)
		tree.leaves[l] = &changed
		return tree
	}
	parent := func(n NodeIndex, change func(*ParentNode)) *Tree {
		tree := g.tree.Clone()
		if tree.Parent(n) == nil {
			t.Fatalf("node %d is blank", n)
		}
		changed := *tree.Parent(n)
		change(&changed)
		tree.parents[n/2] = &changed
		return tree
	}
	mallory := func(l *LeafNode) { l.Credential = BasicCredential([]byte("mallory")) }
	violation(t, "a leaf changed", "7.9.2", join(leaf(3, mallory), nil))
	violation(t, "a leaf changed that is unmerged", "7.3", join(leaf(9, mallory), nil))
	violation(t, "a leaf moved", "7.9.2", join(func() *Tree {
		tree := g.tree.Clone()
		tree.leaves[15], tree.leaves[4] = tree.leaves[4], nil
		return tree
	}(), nil))
	violation(t, "a member's encryption key twice", "7.3", join(leaf(3, func(l *LeafNode) { l.EncryptionKey = g.Tree().Leaf(2).EncryptionKey }), nil))
	violation(t, "a member's signature key twice", "7.3", join(leaf(3, func(l *LeafNode) { l.SignatureKey = g.Tree().Leaf(2).SignatureKey }), nil))

	const rootNode, inner = NodeIndex(15), NodeIndex(7)
	violation(t, "a parent node's key changed", "7.9.2", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.hpkeKey(g.suite) }), nil))
	violation(t, "a parent hash changed", "7.9.2", join(parent(inner, func(p *ParentNode) { p.ParentHash = g.bytes(32) }), nil))
	violation(t, "the root's key changed", "7.9.2", join(parent(rootNode, func(p *ParentNode) { p.EncryptionKey = g.hpkeKey(g.suite) }), nil))
	violation(t, "a parent node put in", "7.9.2", join(func() *Tree {
		tree := g.tree.Clone()
		for n := NodeIndex(1); ; n += 2 {
			if tree.Parent(n) == nil && tree.populated(n) {
				tree.parents[n/2] = &ParentNode{EncryptionKey: g.hpkeKey(g.suite)}
				return tree
			}
		}
	}(), nil))
	violation(t, "a parent node's key twice", "7.3", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.Tree().Parent(rootNode).EncryptionKey }), nil))
	violation(t, "a parent node's key of a leaf", "7.3", join(parent(inner, func(p *ParentNode) { p.EncryptionKey = g.Tree().Leaf(2).EncryptionKey }), nil))

	violation(t, "an unmerged leaf that is blank", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9, 14} }), nil))
	violation(t, "an unmerged leaf beyond the tree", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9, 99} }), nil))
	violation(t, "an unmerged leaf elsewhere", "12.4.3.1", join(parent(inner, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{9} }), nil))
	violation(t, "a leaf unmerged above and not below", "12.4.3.1", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{5, 9} }), nil))
	violation(t, "an unmerged leaf left out", "7.9.2", join(parent(rootNode, func(p *ParentNode) { p.UnmergedLeaves = nil }), nil))
	violation(t, "a merged leaf made unmerged", "7.9.2", join(func() *Tree {
		tree := parent(inner, func(p *ParentNode) { p.UnmergedLeaves = []LeafIndex{0} })
		for _, n := range tree.Size().DirectPath(0) {
			if p := tree.Parent(n); p != nil && n != inner {
				tree.parents[n/2] = &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: append([]LeafIndex{0}, p.UnmergedLeaves...)}
			}
		}
		return tree
	}(), nil))
	violation(t, "a parent node's key that is none, set by a member", "7.1", join(func() *Tree {
		tree := g.tree.Clone()
		keys := make([][]byte, len(tree.FilteredDirectPath(5)))
		for i := range keys {
			keys[i] = g.hpkeKey(g.suite)
		}
		keys[1] = make([]byte, 32)
		hash, err := tree.setPath(5, keys)
		if err != nil {
			t.Fatal(err)
		}
		changed := g.replacement(5, SourceCommit)
		changed.ParentHash = hash
		g.signLeaf(&changed, g.Context().GroupID, 5)
		tree.setLeaf(5, &changed)
		return tree
	}(), nil))

	g.rules.sameName = true
	violation(t, "two leaves of one client", "12.2", join(func() *Tree {
		tree := g.tree.Clone()
		twin := g.keyPackage(g.suite, "8").Leaf
		tree.add([]*LeafNode{&twin})
		return tree
	}(), nil))
}

// TestBitFlips: no changed bit of a handshake is accepted, whoever looks.
func TestBitFlips(t *testing.T) {
	g := grown(t, suite1, 4)
	commit := g.commit(1, g.add("x"), &Remove{Removed: 2})
	good := MarshalMessage(&PublicMessage{Content: commit.Content, Auth: commit.Auth})
	tags := len(commit.Auth.ConfirmationTag) + 2 // they and the membership tag are for others to check
	for i := range len(good) - tags {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			m, err := ParseMessage(bad)
			if err != nil {
				if !errors.Is(err, syntax.ErrSyntax) {
					t.Fatalf("byte %d: %v", i, err)
				}
				continue
			}
			if p, ok := m.(*PublicMessage); ok {
				if _, err := g.Stage(p.AuthenticatedContent()); err == nil {
					t.Fatalf("bit %d of byte %d is of no account", bit, i)
				}
			}
		}
	}
	for n := range len(good) {
		if _, err := ParseMessage(good[:n]); !errors.Is(err, syntax.ErrSyntax) {
			t.Fatalf("%d bytes of %d: %v", n, len(good), err)
		}
	}
}
