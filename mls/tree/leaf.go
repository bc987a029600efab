package tree

import (
	"bytes"
	"fmt"
	"time"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// Version is a protocol version of RFC 9420 §6.
type Version uint16

// MLS10 is the one version there is.
const MLS10 Version = 1

// Labels of signatures (RFC 9420 §17.6): the label argument of
// cipher.Signer.Sign and cipher.Suite.VerifyWithLabel.
const (
	LabelLeafNode      = "LeafNodeTBS"
	LabelKeyPackage    = "KeyPackageTBS"
	LabelGroupInfo     = "GroupInfoTBS"
	LabelFramedContent = "FramedContentTBS"
)

// Capabilities lists what a client supports (RFC 9420 §7.2). What is default
// there, every client supports without a word.
type Capabilities struct {
	Versions     []Version
	CipherSuites []cipher.ID
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

// Encode implements syntax.Encoder.
func (c *Capabilities) Encode(b *syntax.Builder) {
	encodeCodes(b, c.Versions)
	encodeCodes(b, c.CipherSuites)
	encodeCodes(b, c.Extensions)
	encodeCodes(b, c.Proposals)
	encodeCodes(b, c.Credentials)
}

// Decode implements syntax.Decoder.
func (c *Capabilities) Decode(r *syntax.Reader) {
	c.Versions = decodeCodes[Version](r)
	c.CipherSuites = decodeCodes[cipher.ID](r)
	c.Extensions = decodeCodes[ExtensionType](r)
	c.Proposals = decodeCodes[ProposalType](r)
	c.Credentials = decodeCodes[CredentialType](r)
}

// LeafNodeSource says how a leaf came to be (RFC 9420 §7.2).
type LeafNodeSource uint8

const (
	SourceKeyPackage LeafNodeSource = 1
	SourceUpdate     LeafNodeSource = 2
	SourceCommit     LeafNodeSource = 3
)

// Lifetime bounds the times at which a key package's leaf counts as valid, in
// seconds since 1970-01-01T00:00:00Z, both included.
type Lifetime struct {
	NotBefore uint64
	NotAfter  uint64
}

// Covers reports whether the time is within the lifetime.
func (l Lifetime) Covers(t time.Time) bool {
	now := t.Unix()
	return now >= 0 && l.NotBefore <= uint64(now) && uint64(now) <= l.NotAfter
}

// AtMost reports whether the lifetime is well-formed and no longer than d, the
// bound that applications must set (RFC 9420 §7.2).
func (l Lifetime) AtMost(d time.Duration) bool {
	return l.NotBefore <= l.NotAfter && l.NotAfter-l.NotBefore <= uint64(max(d, 0)/time.Second)
}

// LeafNode describes a member, signed by it (RFC 9420 §7.2).
type LeafNode struct {
	EncryptionKey []byte // HPKE public key
	SignatureKey  []byte
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafNodeSource
	Lifetime      Lifetime // of SourceKeyPackage
	ParentHash    []byte   // of SourceCommit; empty where the tree has one member
	Extensions    Extensions
	Signature     []byte
}

// encodeUnsigned writes all fields above the signature.
func (l *LeafNode) encodeUnsigned(b *syntax.Builder) {
	b.Opaque(l.EncryptionKey)
	b.Opaque(l.SignatureKey)
	l.Credential.Encode(b)
	l.Capabilities.Encode(b)
	b.Uint8(uint8(l.Source))
	switch l.Source {
	case SourceKeyPackage:
		b.Uint64(l.Lifetime.NotBefore)
		b.Uint64(l.Lifetime.NotAfter)
	case SourceCommit:
		b.Opaque(l.ParentHash)
	}
	l.Extensions.Encode(b)
}

// Encode implements syntax.Encoder.
func (l *LeafNode) Encode(b *syntax.Builder) {
	l.encodeUnsigned(b)
	b.Opaque(l.Signature)
}

// Decode implements syntax.Decoder.
func (l *LeafNode) Decode(r *syntax.Reader) {
	l.EncryptionKey = r.Opaque()
	l.SignatureKey = r.Opaque()
	l.Credential.Decode(r)
	l.Capabilities.Decode(r)
	l.Source = LeafNodeSource(r.Uint8())
	switch l.Source {
	case SourceKeyPackage:
		l.Lifetime = Lifetime{NotBefore: r.Uint64(), NotAfter: r.Uint64()}
	case SourceUpdate:
	case SourceCommit:
		l.ParentHash = r.Opaque()
	default:
		r.Failf("leaf node source %d", l.Source)
	}
	l.Extensions.Decode(r)
	l.Signature = r.Opaque()
}

// SignedContent returns what the signature covers, under LabelLeafNode: the
// leaf and, unless it stands in a key package, its place in the group.
func (l *LeafNode) SignedContent(groupID []byte, i LeafIndex) []byte {
	b := syntax.NewBuilder(2 * roughSize)
	l.encodeUnsigned(b)
	if l.Source != SourceKeyPackage {
		b.Opaque(groupID)
		b.Uint32(uint32(i))
	}
	return b.Bytes()
}

// Equal reports whether both leaves have the same encoding.
func (l *LeafNode) Equal(o *LeafNode) bool {
	return bytes.Equal(syntax.Marshal(l), syntax.Marshal(o))
}

// KeyPackage is what a client publishes so that others can add it to a group
// (RFC 9420 §10).
type KeyPackage struct {
	Version     Version
	CipherSuite cipher.ID
	InitKey     []byte // HPKE public key that a Welcome is encrypted to
	Leaf        LeafNode
	Extensions  Extensions
	Signature   []byte
}

func (p *KeyPackage) encodeUnsigned(b *syntax.Builder) {
	b.Uint16(uint16(p.Version))
	b.Uint16(uint16(p.CipherSuite))
	b.Opaque(p.InitKey)
	p.Leaf.Encode(b)
	p.Extensions.Encode(b)
}

// Encode implements syntax.Encoder.
func (p *KeyPackage) Encode(b *syntax.Builder) {
	p.encodeUnsigned(b)
	b.Opaque(p.Signature)
}

// Decode implements syntax.Decoder.
func (p *KeyPackage) Decode(r *syntax.Reader) {
	p.Version = Version(r.Uint16())
	p.CipherSuite = cipher.ID(r.Uint16())
	p.InitKey = r.Opaque()
	p.Leaf.Decode(r)
	p.Extensions.Decode(r)
	p.Signature = r.Opaque()
}

// SignedContent returns what the signature covers, under LabelKeyPackage.
func (p *KeyPackage) SignedContent() []byte {
	b := syntax.NewBuilder(2 * roughSize)
	p.encodeUnsigned(b)
	return b.Bytes()
}

// LastResort reports whether the key package may be used more than once.
func (p *KeyPackage) LastResort() bool {
	_, ok := p.Extensions.Find(ExtensionLastResort)
	return ok
}

// Ref returns the hash by which a Welcome names the key package (RFC 9420
// §5.2).
func (p *KeyPackage) Ref(s *cipher.Suite) []byte {
	return s.RefHash("MLS 1.0 KeyPackage Reference", syntax.Marshal(p))
}

// KeyPackageSigner returns the signature key of a KeyPackage in an MLSMessage
// (RFC 9420 §10). Nothing of it is judged. It returns syntax.ErrSyntax, wrapped.
func KeyPackageSigner(message []byte) ([]byte, error) {
	m, err := ParseMessage(bytes.Clone(message))
	if err != nil {
		return nil, err
	}
	p, ok := m.(*KeyPackage)
	if !ok {
		return nil, fmt.Errorf("%w: a %T and no KeyPackage", syntax.ErrSyntax, m)
	}
	return p.Leaf.SignatureKey, nil
}
