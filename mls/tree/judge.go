package tree

import (
	"bytes"
	"slices"

	"chancery/mls/cipher"
)

// maxCodes bounds each list of capabilities, of required ones, and a group's
// extensions: far beyond what anybody supports, and little to compare for each
// member.
const maxCodes = 256

// judge holds what doesn't change in a group's life and decides by it.
type judge struct {
	suite *cipher.Suite
	rules Rules
}

// sources says where a leaf must come from (RFC 9420 §7.3).
var sources = map[Event]LeafNodeSource{
	EventAdd:          SourceKeyPackage,
	EventUpdate:       SourceUpdate,
	EventCommit:       SourceCommit,
	EventExternalJoin: SourceCommit,
}

// CheckKeyPackage verifies a key package (RFC 9420 §10.1) before it is used or
// handed on. It returns a *Violation.
func CheckKeyPackage(s *cipher.Suite, r Rules, p *KeyPackage) error {
	return judge{suite: s, rules: r}.keyPackage(p)
}

func (j judge) keyPackage(p *KeyPackage) error {
	if err := j.soundPackage(p); err != nil {
		return err
	}
	return j.ask(EventAdd, nil, &p.Leaf)
}

// soundPackage verifies what takes no rules. It can be called by several
// goroutines.
func (j judge) soundPackage(p *KeyPackage) error {
	if p.Version != MLS10 || p.CipherSuite != j.suite.ID() {
		return broken("10.1", "a key package of version %d and cipher suite %d", p.Version, p.CipherSuite)
	}
	if err := j.suite.CheckHPKEKey(p.InitKey); err != nil {
		return &Violation{"10", "an init key that is none", err}
	}
	if bytes.Equal(p.InitKey, p.Leaf.EncryptionKey) {
		return broken("10.1", "init key and encryption key are the same")
	}
	// The signature comes before the application's rules, which needn't be
	// ready for what nobody signed.
	if err := j.suite.VerifyWithLabel(p.Leaf.SignatureKey, LabelKeyPackage, p.SignedContent(), p.Signature); err != nil {
		return &Violation{"10.1", "a key package's signature", err}
	}
	if err := p.Leaf.Capabilities.runs(j.suite); err != nil {
		return err
	}
	return j.sound(EventAdd, nil, &p.Leaf, nil, 0)
}

// leaf verifies a leaf by itself (RFC 9420 §7.3), then by the rules. What
// concerns other members is for members to check. old is the leaf that it
// replaces, or nil.
func (j judge) leaf(e Event, old, leaf *LeafNode, groupID []byte, i LeafIndex) error {
	if err := j.sound(e, old, leaf, groupID, i); err != nil {
		return err
	}
	return j.ask(e, old, leaf)
}

// sound verifies what takes no rules. It can be called by several goroutines.
func (j judge) sound(e Event, old, leaf *LeafNode, groupID []byte, i LeafIndex) error {
	if want, ok := sources[e]; ok && leaf.Source != want {
		return broken("7.3", "a leaf of source %d where %d belongs", leaf.Source, want)
	}
	if err := j.suite.CheckHPKEKey(leaf.EncryptionKey); err != nil {
		return &Violation{"7.3", "an encryption key that is none", err}
	}
	if err := j.suite.CheckSignatureKey(leaf.SignatureKey); err != nil {
		return &Violation{"7.3", "a signature key that is none", err}
	}
	if old != nil && bytes.Equal(old.EncryptionKey, leaf.EncryptionKey) {
		return broken("7.3", "a leaf replaced by one with the same encryption key")
	}
	if err := j.suite.VerifyWithLabel(leaf.SignatureKey, LabelLeafNode, leaf.SignedContent(groupID, i), leaf.Signature); err != nil {
		return &Violation{"7.3", "a leaf's signature", err}
	}
	if err := capabilities(leaf); err != nil {
		return err
	}
	return leaf.Credential.certifies(leaf.SignatureKey)
}

// ask puts a leaf that has been verified before the rules.
func (j judge) ask(e Event, old, leaf *LeafNode) error {
	if leaf.Source == SourceKeyPackage {
		if err := j.rules.Lifetime(e, leaf.Lifetime); err != nil {
			return &Violation{"7.2", "a leaf's lifetime", err}
		}
	}
	if err := j.rules.Leaf(e, old, leaf); err != nil {
		return &Violation{"5.3.1", "a leaf's credential", err}
	}
	return nil
}

// capabilities verifies that a leaf supports what it itself uses.
func capabilities(leaf *LeafNode) error {
	c := &leaf.Capabilities
	if max(len(c.Versions), len(c.CipherSuites), len(c.Extensions), len(c.Proposals), len(c.Credentials), len(leaf.Extensions)) > maxCodes {
		return broken("7.2", "more than %d capabilities of a kind", maxCodes)
	}
	if !slices.Contains(c.Credentials, leaf.Credential.Type) {
		return broken("7.2", "a leaf that doesn't support its own credential")
	}
	for _, x := range leaf.Extensions {
		if !c.extension(x.Type) {
			return broken("7.3", "a leaf that doesn't support its own extension %d", x.Type)
		}
	}
	return nil
}

func (c *Capabilities) extension(t ExtensionType) bool {
	return t.everywhere() || slices.Contains(c.Extensions, t)
}

// runs verifies that the group's version and suite are supported (RFC 9420
// §11.1).
func (c *Capabilities) runs(s *cipher.Suite) error {
	if !slices.Contains(c.Versions, MLS10) || !slices.Contains(c.CipherSuites, s.ID()) {
		return broken("11.1", "a leaf that doesn't support the group's version or cipher suite")
	}
	return nil
}

// supports verifies that all that is required is supported.
func (c *Capabilities) supports(required *RequiredCapabilities, l LeafIndex) error {
	for _, t := range required.Extensions {
		if !c.extension(t) {
			return broken("13.4", "leaf %d doesn't support extension %d of the group", l, t)
		}
	}
	for _, t := range required.Proposals {
		if !t.everywhere() && !slices.Contains(c.Proposals, t) {
			return broken("11.1", "leaf %d doesn't support the required proposal %d", l, t)
		}
	}
	for _, t := range required.Credentials {
		if !slices.Contains(c.Credentials, t) {
			return broken("7.3", "leaf %d doesn't support credential %d of the group", l, t)
		}
	}
	return nil
}

// members verifies what concerns all members of a tree together: nobody shares
// a key, and each supports what the group requires and others use (RFC 9420
// §7.3, §11.1, §13.4).
func (j judge) members(t *Tree, x Extensions) error {
	required, err := x.RequiredCapabilities()
	if err != nil {
		return &Violation{"11.1", "the required_capabilities extension", err}
	}
	if max(len(x), len(required.Extensions), len(required.Proposals), len(required.Credentials)) > maxCodes {
		return broken("11.1", "more than %d extensions or required capabilities of a kind", maxCodes)
	}
	for _, e := range x {
		required.Extensions = append(required.Extensions, e.Type)
	}
	for _, leaf := range t.Members() {
		if !slices.Contains(required.Credentials, leaf.Credential.Type) {
			required.Credentials = append(required.Credentials, leaf.Credential.Type)
		}
	}
	for l, leaf := range t.Members() {
		if err := leaf.Capabilities.runs(j.suite); err != nil {
			return err
		}
		if err := leaf.Capabilities.supports(&required, l); err != nil {
			return err
		}
	}
	return t.checkKeys()
}

// clients verifies that no two leaves are of one client (RFC 9420 §12.2).
func (j judge) clients(t *Tree) error {
	seen := make(map[string]LeafIndex)
	for l, leaf := range t.Members() {
		name := j.rules.Client(leaf)
		if name == "" {
			continue
		}
		if other, ok := seen[name]; ok {
			return broken("12.2", "leaves %d and %d are of the same client", other, l)
		}
		seen[name] = l
	}
	return nil
}
