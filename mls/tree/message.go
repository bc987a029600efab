package tree

import (
	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// WireFormat is a value of RFC 9420 §17.2.
type WireFormat uint16

const (
	WirePublicMessage  WireFormat = 1
	WirePrivateMessage WireFormat = 2
	WireWelcome        WireFormat = 3
	WireGroupInfo      WireFormat = 4
	WireKeyPackage     WireFormat = 5
)

// Message is what an MLSMessage carries (RFC 9420 §6): *PublicMessage,
// *PrivateMessage, *Welcome, *GroupInfo or *KeyPackage.
type Message interface {
	syntax.Encoder
	syntax.Decoder
	WireFormat() WireFormat
}

// WireFormat makes each of these a Message.
func (*PublicMessage) WireFormat() WireFormat  { return WirePublicMessage }
func (*PrivateMessage) WireFormat() WireFormat { return WirePrivateMessage }
func (*Welcome) WireFormat() WireFormat        { return WireWelcome }
func (*GroupInfo) WireFormat() WireFormat      { return WireGroupInfo }
func (*KeyPackage) WireFormat() WireFormat     { return WireKeyPackage }

// roughSize is the room in bytes that is made for what has no great parts.
const roughSize = 256

// MarshalMessage returns the MLSMessage that carries m.
func MarshalMessage(m Message) []byte {
	size := roughSize
	switch m := m.(type) {
	case *PrivateMessage:
		size += len(m.AuthenticatedData) + len(m.Ciphertext)
	case *PublicMessage:
		size += m.Content.room()
	}
	b := syntax.NewBuilder(size)
	b.Uint16(uint16(MLS10))
	b.Uint16(uint16(m.WireFormat()))
	m.Encode(b)
	return b.Bytes()
}

// ParseMessage reads an MLSMessage and returns what it carries. It returns
// syntax.ErrSyntax for anything but its one encoding, and for versions other
// than MLS 1.0.
func ParseMessage(data []byte) (Message, error) {
	r := syntax.NewReader(data)
	if v := Version(r.Uint16()); v != MLS10 {
		r.Failf("protocol version %d", v)
	}
	var m Message
	switch w := WireFormat(r.Uint16()); w {
	case WirePublicMessage:
		m = new(PublicMessage)
	case WirePrivateMessage:
		m = new(PrivateMessage)
	case WireWelcome:
		m = new(Welcome)
	case WireGroupInfo:
		m = new(GroupInfo)
	case WireKeyPackage:
		m = new(KeyPackage)
	default:
		r.Failf("wire format %d", w)
		return nil, r.Err()
	}
	m.Decode(r)
	// The key package has the version of what carries it (RFC 9420 §10).
	if p, ok := m.(*KeyPackage); ok && p.Version != MLS10 {
		r.Failf("protocol version %d of a key package", p.Version)
	}
	if err := r.Finish(); err != nil {
		return nil, err
	}
	return m, nil
}

// ContentType is a kind of framed content (RFC 9420 §6).
type ContentType uint8

const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// SenderType says in which role something is sent (RFC 9420 §6).
type SenderType uint8

const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender says who sends.
type Sender struct {
	Type  SenderType
	Index uint32 // the leaf of a member, or the place of an external sender
}

// Member returns the member at the leaf as a sender.
func Member(l LeafIndex) Sender { return Sender{Type: SenderMember, Index: uint32(l)} }

// Leaf returns the leaf of a member; false for other senders.
func (s Sender) Leaf() (LeafIndex, bool) { return LeafIndex(s.Index), s.Type == SenderMember }

// Encode implements syntax.Encoder.
func (s *Sender) Encode(b *syntax.Builder) {
	b.Uint8(uint8(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		b.Uint32(s.Index)
	}
}

// Decode implements syntax.Decoder.
func (s *Sender) Decode(r *syntax.Reader) {
	s.Type = SenderType(r.Uint8())
	switch s.Type {
	case SenderMember, SenderExternal:
		s.Index = r.Uint32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.Failf("sender type %d", s.Type)
	}
}

// FramedContent is what is sent to a group, before it is protected (RFC 9420
// §6). One of the last three fields is set, as ContentType says.
type FramedContent struct {
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
	ContentType       ContentType
	ApplicationData   []byte
	Proposal          Proposal
	Commit            *Commit
}

// Encode implements syntax.Encoder.
func (c *FramedContent) Encode(b *syntax.Builder) {
	b.Opaque(c.GroupID)
	b.Uint64(c.Epoch)
	c.Sender.Encode(b)
	b.Opaque(c.AuthenticatedData)
	b.Uint8(uint8(c.ContentType))
	c.EncodeBody(b)
}

// Decode implements syntax.Decoder.
func (c *FramedContent) Decode(r *syntax.Reader) {
	c.GroupID = r.Opaque()
	c.Epoch = r.Uint64()
	c.Sender.Decode(r)
	c.AuthenticatedData = r.Opaque()
	c.ContentType = ContentType(r.Uint8())
	c.DecodeBody(r)
}

// EncodeBody writes what ContentType names, alone.
func (c *FramedContent) EncodeBody(b *syntax.Builder) {
	switch c.ContentType {
	case ContentApplication:
		b.Opaque(c.ApplicationData)
	case ContentProposal:
		EncodeProposal(b, c.Proposal)
	case ContentCommit:
		c.Commit.Encode(b)
	}
}

// DecodeBody reads what ContentType names, alone.
func (c *FramedContent) DecodeBody(r *syntax.Reader) {
	switch c.ContentType {
	case ContentApplication:
		c.ApplicationData = r.Opaque()
	case ContentProposal:
		c.Proposal = DecodeProposal(r)
	case ContentCommit:
		c.Commit = new(Commit)
		c.Commit.Decode(r)
	default:
		r.Failf("content type %d", c.ContentType)
	}
}

// room returns about how many bytes the content takes, signed: those of a commit
// in a large group are encoded several times.
func (c *FramedContent) room() int {
	n := 2*roughSize + len(c.AuthenticatedData) + len(c.ApplicationData)
	if c.Commit != nil {
		n += c.Commit.room()
	}
	return n
}

// SignedContent returns what the signature covers, under LabelFramedContent
// (RFC 9420 §6.1). The context is that of the epoch in which the content is
// sent; it isn't used for senders outside of the group.
func (c *FramedContent) SignedContent(w WireFormat, context *GroupContext) []byte {
	b := syntax.NewBuilder(c.room())
	b.Uint16(uint16(MLS10))
	b.Uint16(uint16(w))
	c.Encode(b)
	if c.Sender.Type == SenderMember || c.Sender.Type == SenderNewMemberCommit {
		context.Encode(b)
	}
	return b.Bytes()
}

// AuthData authenticates content: FramedContentAuthData of RFC 9420 §6.1.
type AuthData struct {
	Signature       []byte
	ConfirmationTag []byte // of a commit
}

// Encode writes the data that goes with content of type t.
func (a *AuthData) Encode(b *syntax.Builder, t ContentType) {
	b.Opaque(a.Signature)
	if t == ContentCommit {
		b.Opaque(a.ConfirmationTag)
	}
}

// Decode reads the data that goes with content of type t.
func (a *AuthData) Decode(r *syntax.Reader, t ContentType) {
	a.Signature = r.Opaque()
	if t == ContentCommit {
		a.ConfirmationTag = r.Opaque()
	}
}

// AuthenticatedContent is content with its signature, in the clear (RFC 9420
// §6).
type AuthenticatedContent struct {
	WireFormat WireFormat
	Content    FramedContent
	Auth       AuthData
}

// Encode implements syntax.Encoder.
func (a *AuthenticatedContent) Encode(b *syntax.Builder) {
	b.Uint16(uint16(a.WireFormat))
	a.Content.Encode(b)
	a.Auth.Encode(b, a.Content.ContentType)
}

// Decode implements syntax.Decoder.
func (a *AuthenticatedContent) Decode(r *syntax.Reader) {
	a.WireFormat = WireFormat(r.Uint16())
	if a.WireFormat != WirePublicMessage && a.WireFormat != WirePrivateMessage {
		r.Failf("wire format %d of content", a.WireFormat)
	}
	a.Content.Decode(r)
	a.Auth.Decode(r, a.Content.ContentType)
}

// ProposalRef returns the hash by which a commit names the proposal in a
// (RFC 9420 §5.2).
func (a *AuthenticatedContent) ProposalRef(s *cipher.Suite) []byte {
	return s.RefHash("MLS 1.0 Proposal Reference", syntax.Marshal(a))
}

// MembershipContent returns what the membership tag of a PublicMessage covers
// (RFC 9420 §6.2).
func (a *AuthenticatedContent) MembershipContent(context *GroupContext) []byte {
	signed := a.Content.SignedContent(WirePublicMessage, context)
	b := syntax.NewBuilder(len(signed) + roughSize)
	b.Fixed(signed)
	a.Auth.Encode(b, a.Content.ContentType)
	return b.Bytes()
}

// PublicMessage is signed and not encrypted (RFC 9420 §6.2). That a member sent
// it is shown by the membership tag to whoever has the membership key.
type PublicMessage struct {
	Content       FramedContent
	Auth          AuthData
	MembershipTag []byte // of members only
}

// Encode implements syntax.Encoder.
func (m *PublicMessage) Encode(b *syntax.Builder) {
	m.Content.Encode(b)
	m.Auth.Encode(b, m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		b.Opaque(m.MembershipTag)
	}
}

// Decode implements syntax.Decoder.
func (m *PublicMessage) Decode(r *syntax.Reader) {
	m.Content.Decode(r)
	m.Auth.Decode(r, m.Content.ContentType)
	if m.Content.Sender.Type == SenderMember {
		m.MembershipTag = r.Opaque()
	}
}

// AuthenticatedContent returns the content without its membership tag, which
// isn't checked here.
func (m *PublicMessage) AuthenticatedContent() *AuthenticatedContent {
	return &AuthenticatedContent{WireFormat: WirePublicMessage, Content: m.Content, Auth: m.Auth}
}

// PrivateMessage is signed and encrypted (RFC 9420 §6.3).
type PrivateMessage struct {
	GroupID             []byte
	Epoch               uint64
	ContentType         ContentType
	AuthenticatedData   []byte
	EncryptedSenderData []byte
	Ciphertext          []byte
}

// Encode implements syntax.Encoder.
func (m *PrivateMessage) Encode(b *syntax.Builder) {
	b.Opaque(m.GroupID)
	b.Uint64(m.Epoch)
	b.Uint8(uint8(m.ContentType))
	b.Opaque(m.AuthenticatedData)
	b.Opaque(m.EncryptedSenderData)
	b.Opaque(m.Ciphertext)
}

// Decode implements syntax.Decoder.
func (m *PrivateMessage) Decode(r *syntax.Reader) {
	m.GroupID = r.Opaque()
	m.Epoch = r.Uint64()
	m.ContentType = ContentType(r.Uint8())
	if m.ContentType < ContentApplication || m.ContentType > ContentCommit {
		r.Failf("content type %d", m.ContentType)
	}
	m.AuthenticatedData = r.Opaque()
	m.EncryptedSenderData = r.Opaque()
	m.Ciphertext = r.Opaque()
}
