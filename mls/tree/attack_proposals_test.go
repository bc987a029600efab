package tree

import (
	"math"
	"testing"

	"chancery/mls/syntax"
)

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
