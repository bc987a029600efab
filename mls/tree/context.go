package tree

import (
	"bytes"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// GroupContext sums up a group in one epoch (RFC 9420 §8.1).
type GroupContext struct {
	CipherSuite             cipher.ID
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte // empty in epoch 0
	Extensions              Extensions
}

// Encode implements syntax.Encoder.
func (c *GroupContext) Encode(b *syntax.Builder) {
	b.Uint16(uint16(MLS10))
	b.Uint16(uint16(c.CipherSuite))
	b.Opaque(c.GroupID)
	b.Uint64(c.Epoch)
	b.Opaque(c.TreeHash)
	b.Opaque(c.ConfirmedTranscriptHash)
	c.Extensions.Encode(b)
}

// Decode implements syntax.Decoder.
func (c *GroupContext) Decode(r *syntax.Reader) {
	if v := Version(r.Uint16()); v != MLS10 {
		r.Failf("protocol version %d", v)
	}
	c.CipherSuite = cipher.ID(r.Uint16())
	c.GroupID = r.Opaque()
	c.Epoch = r.Uint64()
	c.TreeHash = r.Opaque()
	c.ConfirmedTranscriptHash = r.Opaque()
	c.Extensions.Decode(r)
}

// Equal reports whether both contexts have the same encoding.
func (c *GroupContext) Equal(o *GroupContext) bool {
	return bytes.Equal(syntax.Marshal(c), syntax.Marshal(o))
}

// ConfirmedTranscriptHash extends the transcript of all commits by one more, up
// to its signature (RFC 9420 §8.2). interim is the interim transcript hash of
// the epoch in which the commit is sent.
func ConfirmedTranscriptHash(s *cipher.Suite, interim []byte, w WireFormat, commit *FramedContent, signature []byte) []byte {
	b := syntax.NewBuilder(commit.room())
	b.Fixed(interim)
	b.Uint16(uint16(w))
	commit.Encode(b)
	b.Opaque(signature)
	return s.Hash(b.Bytes())
}

// InterimTranscriptHash extends a confirmed transcript hash by the confirmation
// tag of its last commit (RFC 9420 §8.2).
func InterimTranscriptHash(s *cipher.Suite, confirmed, confirmationTag []byte) []byte {
	var b syntax.Builder
	b.Fixed(confirmed)
	b.Opaque(confirmationTag)
	return s.Hash(b.Bytes())
}

// GroupInfo describes a group to those who join it (RFC 9420 §12.4.3).
type GroupInfo struct {
	Context         GroupContext
	Extensions      Extensions
	ConfirmationTag []byte
	Signer          LeafIndex
	Signature       []byte
}

func (i *GroupInfo) encodeUnsigned(b *syntax.Builder) {
	i.Context.Encode(b)
	i.Extensions.Encode(b)
	b.Opaque(i.ConfirmationTag)
	b.Uint32(uint32(i.Signer))
}

// Encode implements syntax.Encoder.
func (i *GroupInfo) Encode(b *syntax.Builder) {
	i.encodeUnsigned(b)
	b.Opaque(i.Signature)
}

// Decode implements syntax.Decoder.
func (i *GroupInfo) Decode(r *syntax.Reader) {
	i.Context.Decode(r)
	i.Extensions.Decode(r)
	i.ConfirmationTag = r.Opaque()
	i.Signer = LeafIndex(r.Uint32())
	i.Signature = r.Opaque()
}

// SignedContent returns what the signature covers, under LabelGroupInfo.
func (i *GroupInfo) SignedContent() []byte {
	var b syntax.Builder
	i.encodeUnsigned(&b)
	return b.Bytes()
}

// EncryptedGroupSecrets is a Welcome's part for one new member (RFC 9420
// §12.4.3.1).
type EncryptedGroupSecrets struct {
	NewMember []byte // KeyPackage.Ref
	Secrets   HPKECiphertext
}

// Encode implements syntax.Encoder.
func (s *EncryptedGroupSecrets) Encode(b *syntax.Builder) {
	b.Opaque(s.NewMember)
	s.Secrets.Encode(b)
}

// Decode implements syntax.Decoder.
func (s *EncryptedGroupSecrets) Decode(r *syntax.Reader) {
	s.NewMember = r.Opaque()
	s.Secrets.Decode(r)
}

// Welcome lets new members join (RFC 9420 §12.4.3.1).
type Welcome struct {
	CipherSuite        cipher.ID
	Secrets            []EncryptedGroupSecrets
	EncryptedGroupInfo []byte
}

// Encode implements syntax.Encoder.
func (w *Welcome) Encode(b *syntax.Builder) {
	b.Uint16(uint16(w.CipherSuite))
	encodeEach(b, w.Secrets, func(b *syntax.Builder, s EncryptedGroupSecrets) { s.Encode(b) })
	b.Opaque(w.EncryptedGroupInfo)
}

// Decode implements syntax.Decoder.
func (w *Welcome) Decode(r *syntax.Reader) {
	w.CipherSuite = cipher.ID(r.Uint16())
	w.Secrets = decodeEach(r, func(r *syntax.Reader) (s EncryptedGroupSecrets) {
		s.Decode(r)
		return s
	})
	w.EncryptedGroupInfo = r.Opaque()
}
