package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// The tests' groups have real signatures and keys, and stand-ins for what is
// secret: path secrets and tags, which nobody checks here, are random bytes.

// testGroup is a group with the members' signature keys.
type testGroup struct {
	*Group
	t       testing.TB
	random  io.Reader
	rules   *testRules
	signers map[string]cipher.Signer // by signature key
	last    []byte                   // confirmation tag of this epoch
}

// testRules allow what isn't forbidden by name, and remember what they were
// asked.
type testRules struct {
	leaves   []string // event:old→new, by identity
	external []string
	refuse   string // an identity, a proposal ("add from 3") or "lifetime"
	sameName bool   // whether equal identities mean the same client
}

var errRefused = errors.New("refused by the tests' rules")

func (r *testRules) no(what string) error {
	if what == r.refuse && what != "" {
		return errRefused
	}
	return nil
}

func (r *testRules) Leaf(e Event, old, leaf *LeafNode) error {
	before := ""
	if old != nil {
		before = string(old.Credential.Identity)
	}
	r.leaves = append(r.leaves, fmt.Sprintf("%d:%s→%s", e, before, leaf.Credential.Identity))
	return r.no(string(leaf.Credential.Identity))
}

func (r *testRules) Lifetime(e Event, l Lifetime) error { return r.no("lifetime") }

func (r *testRules) Client(leaf *LeafNode) string {
	if r.sameName {
		return string(leaf.Credential.Identity)
	}
	return ""
}

func (r *testRules) ExternalSender(s *ExternalSender) error {
	r.external = append(r.external, string(s.Credential.Identity))
	return r.no(string(s.Credential.Identity))
}

func (r *testRules) Proposal(g *Group, from Sender, p Proposal) error {
	return r.no(fmt.Sprintf("proposal %d by a sender of type %d", p.Type(), from.Type))
}

// newTestGroup returns a group of one member, "0", of a suite.
func newTestGroup(t testing.TB, id cipher.ID, extensions ...Extension) *testGroup {
	t.Helper()
	g := &testGroup{
		t:       t,
		random:  rand.NewChaCha8([32]byte{byte(id)}),
		rules:   new(testRules),
		signers: make(map[string]cipher.Signer),
	}
	tree := NewTree(testSuite(t, id), &g.keyPackage(testSuite(t, id), "0").Leaf)
	context := GroupContext{CipherSuite: id, GroupID: []byte("group"), TreeHash: tree.Hash(), Extensions: extensions}
	g.last = g.bytes(tree.suite.HashSize())
	var err error
	if g.Group, err = NewGroup(g.rules, tree, context, g.last); err != nil {
		t.Fatal(err)
	}
	return g
}

// grown returns a group of n members in which the first added all others and
// each of the following committed once: a tree without blank nodes on the left.
func grown(t testing.TB, id cipher.ID, n int) *testGroup {
	g := newTestGroup(t, id)
	var adds []Proposal
	for i := 1; i < n; i++ {
		adds = append(adds, g.add(fmt.Sprint(i)))
	}
	g.must(g.commit(0, adds...))
	for i := range min(n, 4) {
		g.must(g.commit(LeafIndex(i)))
	}
	return g
}

func (g *testGroup) bytes(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(g.random, b); err != nil {
		g.t.Fatal(err)
	}
	return b
}

func (g *testGroup) hpkeKey(s *cipher.Suite) []byte {
	k, err := s.GenerateKeyPair(g.random)
	if err != nil {
		g.t.Fatal(err)
	}
	return k.Public()
}

func (g *testGroup) signer(s *cipher.Suite) cipher.Signer {
	private, err := s.GenerateSignatureKey(g.random)
	if err != nil {
		g.t.Fatal(err)
	}
	signer, err := s.NewSigner(private)
	if err != nil {
		g.t.Fatal(err)
	}
	g.signers[string(signer.Public())] = signer
	return signer
}

func (g *testGroup) sign(key []byte, label string, content []byte) []byte {
	signature, err := g.signers[string(key)].Sign(label, content)
	if err != nil {
		g.t.Fatal(err)
	}
	return signature
}

func (g *testGroup) newLeaf(s *cipher.Suite, name string) LeafNode {
	return LeafNode{
		EncryptionKey: g.hpkeKey(s),
		SignatureKey:  g.signer(s).Public(),
		Credential:    BasicCredential([]byte(name)),
		Capabilities: Capabilities{
			Versions:     []Version{MLS10},
			CipherSuites: []cipher.ID{s.ID(), 0x0a0a},
			Extensions:   []ExtensionType{0x0a0a, 0xff01},
			Proposals:    []ProposalType{0x1a1a, 0xff02},
			Credentials:  []CredentialType{CredentialBasic, CredentialX509, 0x2a2a},
		},
		Source:     SourceKeyPackage,
		Lifetime:   Lifetime{NotBefore: 1, NotAfter: 2},
		Extensions: Extensions{{Type: 0x0a0a, Data: []byte("grease")}},
	}
}

// keyPackage returns a signed key package, after changes to its leaf.
func (g *testGroup) keyPackage(s *cipher.Suite, name string, change ...func(*KeyPackage)) *KeyPackage {
	p := &KeyPackage{
		Version:     MLS10,
		CipherSuite: s.ID(),
		InitKey:     g.hpkeKey(s),
		Leaf:        g.newLeaf(s, name),
		Extensions:  Extensions{{Type: 0x3a3a}},
	}
	for _, c := range change {
		c(p)
	}
	g.signLeaf(&p.Leaf, nil, 0)
	p.Signature = g.sign(p.Leaf.SignatureKey, LabelKeyPackage, p.SignedContent())
	return p
}

func (g *testGroup) signLeaf(leaf *LeafNode, groupID []byte, l LeafIndex) {
	leaf.Signature = g.sign(leaf.SignatureKey, LabelLeafNode, leaf.SignedContent(groupID, l))
}

func (g *testGroup) add(name string, change ...func(*KeyPackage)) *Add {
	return &Add{KeyPackage: *g.keyPackage(g.suite, name, change...)}
}

// replacement returns a successor of a member's leaf, with a new encryption key.
func (g *testGroup) replacement(l LeafIndex, source LeafNodeSource) LeafNode {
	leaf := *g.Tree().Leaf(l)
	leaf.EncryptionKey = g.hpkeKey(g.suite)
	leaf.Source = source
	return leaf
}

func (g *testGroup) update(l LeafIndex, change ...func(*LeafNode)) *Update {
	leaf := g.replacement(l, SourceUpdate)
	for _, c := range change {
		c(&leaf)
	}
	g.signLeaf(&leaf, g.Context().GroupID, l)
	return &Update{Leaf: leaf}
}

func (g *testGroup) psk(id string) *PreSharedKey {
	return &PreSharedKey{PSK: PreSharedKeyID{Type: PSKExternal, ID: []byte(id), Nonce: g.bytes(g.suite.HashSize())}}
}

func (g *testGroup) content(from Sender) FramedContent {
	return FramedContent{GroupID: g.Context().GroupID, Epoch: g.Context().Epoch, Sender: from}
}

// signed signs content with a key, as a public message.
func (g *testGroup) signed(key []byte, c FramedContent) *AuthenticatedContent {
	ac := &AuthenticatedContent{WireFormat: WirePublicMessage, Content: c}
	ac.Auth.Signature = g.sign(key, LabelFramedContent, c.SignedContent(WirePublicMessage, g.Context()))
	if c.ContentType == ContentCommit {
		ac.Auth.ConfirmationTag = g.bytes(g.suite.HashSize())
	}
	return ac
}

// proposal returns a member's proposal as a message.
func (g *testGroup) message(from LeafIndex, p Proposal) *AuthenticatedContent {
	c := g.content(Member(from))
	c.ContentType, c.Proposal = ContentProposal, p
	return g.signed(g.Tree().Leaf(from).SignatureKey, c)
}

// propose has the group receive a member's proposal.
func (g *testGroup) propose(from LeafIndex, p Proposal) ProposalOrRef {
	g.t.Helper()
	ref, err := g.Propose(g.message(from, p))
	if err != nil {
		g.t.Fatal(err)
	}
	return ProposalOrRef{Ref: ref}
}

// draft is a commit before it is signed.
type draft struct {
	from      Sender
	key       []byte // that signs it
	proposals []ProposalOrRef
	noPath    bool
	leaf      func(*LeafNode)   // changes the path's leaf before it is signed
	path      func(*UpdatePath) // changes the whole path after that
	joiner    *LeafNode         // of an external commit
	content   func(*FramedContent)
}

func byValue(proposals ...Proposal) []ProposalOrRef {
	var list []ProposalOrRef
	for _, p := range proposals {
		list = append(list, ProposalOrRef{Proposal: p})
	}
	return list
}

// commit returns a member's commit of proposals of its own, with a path.
func (g *testGroup) commit(from LeafIndex, proposals ...Proposal) *AuthenticatedContent {
	return g.finish(draft{from: Member(from), proposals: byValue(proposals...)})
}

// finish makes the commit. It doesn't go through Plan's checks, so that it can
// break each rule.
func (g *testGroup) finish(d draft) *AuthenticatedContent {
	g.t.Helper()
	if leaf, ok := d.from.Leaf(); ok && d.key == nil {
		d.key = g.Tree().Leaf(leaf).SignatureKey
	}
	commit := &Commit{Proposals: d.proposals}
	if !d.noPath {
		commit.Path = g.updatePath(&d)
	}
	c := g.content(d.from)
	c.ContentType, c.Commit = ContentCommit, commit
	if d.content != nil {
		d.content(&c)
	}
	return g.signed(d.key, c)
}

func (g *testGroup) updatePath(d *draft) *UpdatePath {
	g.t.Helper()
	p := &Plan{group: g.Group}
	p.Committer, _ = d.from.Leaf()
	p.External = d.from.Type == SenderNewMemberCommit
	var list []pending
	for _, q := range d.proposals {
		e := g.Group.proposals[string(q.Ref)]
		if q.Proposal != nil {
			e = pending{d.from, q.Proposal}
		}
		if _, ok := e.proposal.(*Update); ok && e.from == d.from {
			continue
		}
		list = append(list, e)
	}
	if err := p.apply(list); err != nil {
		g.t.Fatal(err)
	}
	path := new(UpdatePath)
	for _, step := range p.Path() {
		n := UpdatePathNode{EncryptionKey: g.hpkeKey(g.suite)}
		for range p.Recipients(step) {
			n.Secrets = append(n.Secrets, HPKECiphertext{KEMOutput: g.bytes(8), Ciphertext: g.bytes(8)})
		}
		path.Nodes = append(path.Nodes, n)
	}
	keys := make([][]byte, len(path.Nodes))
	for i := range path.Nodes {
		keys[i] = path.Nodes[i].EncryptionKey
	}
	hash, err := p.tree.setPath(p.Committer, keys)
	if err != nil {
		g.t.Fatal(err)
	}
	if d.joiner != nil {
		path.Leaf = *d.joiner
	} else {
		path.Leaf = g.replacement(p.Committer, SourceCommit)
	}
	path.Leaf.Source, path.Leaf.ParentHash = SourceCommit, hash
	if d.leaf != nil {
		d.leaf(&path.Leaf)
	}
	g.signLeaf(&path.Leaf, g.Context().GroupID, p.Committer)
	if d.key == nil {
		d.key = path.Leaf.SignatureKey
	}
	if d.path != nil {
		d.path(path)
	}
	return path
}

// externalCommit returns a draft of an external commit by a newcomer.
func (g *testGroup) externalCommit(name string, proposals ...Proposal) draft {
	leaf := g.newLeaf(g.suite, name)
	return draft{
		from:      Sender{Type: SenderNewMemberCommit},
		proposals: byValue(append([]Proposal{&ExternalInit{KEMOutput: g.bytes(32)}}, proposals...)...),
		joiner:    &leaf,
	}
}

// must stages and applies a commit. It goes by the wire, as a server's would,
// and compares what follows with a newcomer's view.
func (g *testGroup) must(ac *AuthenticatedContent) *Staged {
	g.t.Helper()
	m, err := ParseMessage(MarshalMessage(&PublicMessage{Content: ac.Content, Auth: ac.Auth, MembershipTag: g.bytes(32)}))
	if err != nil {
		g.t.Fatal(err)
	}
	ac = m.(*PublicMessage).AuthenticatedContent()
	s, err := g.Stage(ac)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Apply(s, ac.Auth.ConfirmationTag); err != nil {
		g.t.Fatal(err)
	}
	g.last = ac.Auth.ConfirmationTag
	return s
}

// info returns a GroupInfo of the epoch.
func (g *testGroup) info(signer LeafIndex) *GroupInfo {
	info := &GroupInfo{Context: *g.Context(), ConfirmationTag: g.last, Signer: signer}
	info.Signature = g.sign(g.Tree().Leaf(signer).SignatureKey, LabelGroupInfo, info.SignedContent())
	return info
}

// join returns a newcomer's view of the group, from bytes.
func (g *testGroup) join() (*Group, error) {
	tree, err := ParseTree(g.suite, g.Tree().Marshal())
	if err != nil {
		return nil, err
	}
	var signer LeafIndex
	for signer = range g.Tree().Members() {
		break
	}
	var info GroupInfo
	if err := syntax.Unmarshal(syntax.Marshal(g.info(signer)), &info); err != nil {
		return nil, err
	}
	return JoinGroup(g.rules, &info, tree)
}

func violation(t testing.TB, what, section string, err error) {
	t.Helper()
	var v *Violation
	if !errors.As(err, &v) {
		t.Errorf("%s: got %v, want a Violation", what, err)
	} else if v.Section != section {
		t.Errorf("%s: breaks §%s and not §%s: %v", what, v.Section, section, err)
	}
}

// TestLife takes a group of each suite through all kinds of commits. After each,
// newcomers get the same state, and the tree hash is that of the whole tree.
func TestLife(t *testing.T) {
	for _, id := range cipher.IDs() {
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			g := newTestGroup(t, id)
			check := func(what string, want string) {
				t.Helper()
				var names []string
				for l, leaf := range g.Tree().Members() {
					names = append(names, fmt.Sprintf("%d%s", l, leaf.Credential.Identity))
				}
				if got := fmt.Sprint(names); got != want {
					t.Fatalf("%s: members %s, want %s", what, got, want)
				}
				joined, err := g.join()
				if err != nil {
					t.Fatalf("%s: a newcomer: %v", what, err)
				}
				if !bytes.Equal(joined.InterimTranscriptHash(), g.InterimTranscriptHash()) || !joined.Context().Equal(g.Context()) {
					t.Fatalf("%s: a newcomer has another state", what)
				}
			}
			check("created", "[00]")
			g.must(g.commit(0))
			check("alone", "[00]")
			g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("a"), g.add("b"), g.add("c"), g.add("d"))}))
			check("four added without a path", "[00 1a 2b 3c 4d]")
			g.must(g.commit(3))
			check("a path over unmerged leaves", "[00 1a 2b 3c 4d]")
			g.must(g.commit(1, g.add("e"), g.add("f")))
			check("two added with a path", "[00 1a 2b 3c 4d 5e 6f]")
			g.must(g.finish(draft{from: Member(4), proposals: []ProposalOrRef{g.propose(1, g.update(1)), g.propose(2, g.update(2)), g.propose(1, &Remove{Removed: 3})}}))
			check("two updates and a removal by reference", "[00 1a 2b 4d 5e 6f]")
			g.must(g.commit(0, g.add("g"), &Remove{Removed: 1}))
			check("a leaf taken again", "[00 1g 2b 4d 5e 6f]")
			g.must(g.commit(2))
			g.must(g.finish(g.externalCommit("h")))
			check("an external join", "[00 1g 2b 3h 4d 5e 6f]")
			s := g.must(g.finish(g.externalCommit("b2", &Remove{Removed: 2}, g.psk("k"))))
			check("an external return", "[00 1g 2b2 3h 4d 5e 6f]")
			if !s.External || s.Committer != 2 || len(s.PSKs) != 1 || len(s.KEMOutput) != 32 || !slices.Equal(s.Removed, []LeafIndex{2}) {
				t.Errorf("staged %+v", s.Changes)
			}
			g.must(g.commit(0, &Remove{Removed: 4}, &Remove{Removed: 5}, &Remove{Removed: 6}))
			check("truncated", "[00 1g 2b2 3h]")
			if g.Tree().Size() != 4 {
				t.Errorf("%d leaves", g.Tree().Size())
			}
			g.must(g.commit(3, &GroupContextExtensions{Extensions: Extensions{{Type: 0xff01, Data: []byte("x")}}}, g.psk("k")))
			check("extensions", "[00 1g 2b2 3h]")
			g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: 1})}))
			if g.Ended() == nil || string(g.Ended().GroupID) != "next" {
				t.Error("the group goes on after a ReInit")
			}
		})
	}
}

// TestPlanInSteps: a committer goes the way of merge in steps of its own.
func TestPlanInSteps(t *testing.T) {
	g := grown(t, suite1, 4)
	plan := func() *Plan {
		p, err := g.Plan(Member(1), byValue(&Remove{Removed: 2}, g.add("x")))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	content := g.content(Member(1))
	content.ContentType, content.Commit = ContentCommit, new(Commit)
	finish := func(p *Plan) error {
		_, err := p.Finish(WirePublicMessage, &content, []byte("signature"))
		return err
	}
	p := plan()
	if !p.NeedsPath() {
		t.Error("a Remove needs no path")
	}
	violation(t, "no path", "12.4", finish(p))
	_, err := p.SetKeys(nil)
	violation(t, "no keys", "7.6", err)

	p = plan()
	var keys [][]byte
	for range p.Path() {
		keys = append(keys, g.hpkeKey(g.suite))
	}
	hash, err := p.SetKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	violation(t, "no leaf", "12.4", finish(p))
	leaf := g.replacement(1, SourceCommit)
	leaf.ParentHash = hash
	g.signLeaf(&leaf, g.Context().GroupID, 2)
	violation(t, "a leaf signed for another place", "7.3", p.SetLeaf(&leaf))
	violation(t, "no good leaf", "12.4", finish(p))
	g.signLeaf(&leaf, g.Context().GroupID, 1)
	if err := p.SetLeaf(&leaf); err != nil {
		t.Fatal(err)
	}
	s, err := p.Finish(WirePublicMessage, &content, []byte("signature"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Context.Epoch != g.Context().Epoch+1 || !bytes.Equal(s.Context.TreeHash, p.Tree().Hash()) || len(s.Path()) != len(keys) {
		t.Errorf("staged %+v", s.Context)
	}
	for i, step := range s.Path() {
		if !slices.Equal(s.Recipients(step), p.Recipients(step)) || !bytes.Equal(s.Tree.EncryptionKey(step.Node), keys[i]) {
			t.Errorf("step %d differs", i)
		}
	}

	_, err = g.Plan(Member(9), nil)
	violation(t, "a plan of nobody", "12.4", err)
	_, err = g.Plan(Sender{Type: SenderExternal}, nil)
	violation(t, "a plan from outside", "12.4", err)
	if _, err := g.Plan(Member(0), make([]ProposalOrRef, MaxProposals+1)); !errors.Is(err, ErrTooManyProposals) {
		t.Errorf("too many proposals: %v", err)
	}
	for i := range MaxProposals {
		g.Group.proposals[fmt.Sprint(i)] = pending{}
	}
	if _, err := g.Propose(g.message(1, &Remove{Removed: 2})); !errors.Is(err, ErrTooManyProposals) {
		t.Errorf("one proposal too many: %v", err)
	}
	var v *Violation
	if !errors.As(p.SetLeaf(&LeafNode{Source: SourceCommit}), &v) || !errors.Is(v, cipher.ErrKey) {
		t.Errorf("%v doesn't say what is wrong with the key", v)
	}
}
