package tree

import (
	"bytes"
	"errors"
	"math"
	"testing"

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
