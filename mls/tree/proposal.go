package tree

import (
	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// ProposalType is a value of RFC 9420 §17.4.
type ProposalType uint16

const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPreSharedKey           ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
)

// everywhere reports whether all clients know the type, so that capabilities
// don't list it (RFC 9420 §7.2).
func (t ProposalType) everywhere() bool {
	return t >= ProposalAdd && t <= ProposalGroupContextExtensions
}

// needsPath reports whether a commit that covers such a proposal must carry a
// path (RFC 9420 §12.4).
func (t ProposalType) needsPath() bool {
	switch t {
	case ProposalAdd, ProposalPreSharedKey, ProposalReInit:
		return false
	}
	return true
}

// outside reports whether external senders may send the type (RFC 9420
// §12.1.8).
func (t ProposalType) outside() bool {
	switch t {
	case ProposalAdd, ProposalRemove, ProposalPreSharedKey, ProposalReInit, ProposalGroupContextExtensions:
		return true
	}
	return false
}

// Proposal is one change to a group: *Add, *Update, *Remove, *PreSharedKey,
// *ReInit, *ExternalInit or *GroupContextExtensions. Encode writes it without
// its type; EncodeProposal with it.
type Proposal interface {
	syntax.Encoder
	syntax.Decoder
	Type() ProposalType
}

// EncodeProposal writes the proposal behind its type (RFC 9420 §12.1).
func EncodeProposal(b *syntax.Builder, p Proposal) {
	b.Uint16(uint16(p.Type()))
	p.Encode(b)
}

// DecodeProposal reads a proposal behind its type, or nil after a fault. Types
// beyond those of RFC 9420 are faults: their form isn't known, nor where they
// end.
func DecodeProposal(r *syntax.Reader) Proposal {
	var p Proposal
	switch t := ProposalType(r.Uint16()); t {
	case ProposalAdd:
		p = new(Add)
	case ProposalUpdate:
		p = new(Update)
	case ProposalRemove:
		p = new(Remove)
	case ProposalPreSharedKey:
		p = new(PreSharedKey)
	case ProposalReInit:
		p = new(ReInit)
	case ProposalExternalInit:
		p = new(ExternalInit)
	case ProposalGroupContextExtensions:
		p = new(GroupContextExtensions)
	default:
		r.Failf("proposal type %d", t)
		return nil
	}
	p.Decode(r)
	return p
}

// Add asks that a client join (RFC 9420 §12.1.1).
type Add struct{ KeyPackage KeyPackage }

// Type, Encode and Decode make *Add a Proposal.
func (*Add) Type() ProposalType         { return ProposalAdd }
func (p *Add) Encode(b *syntax.Builder) { p.KeyPackage.Encode(b) }
func (p *Add) Decode(r *syntax.Reader)  { p.KeyPackage.Decode(r) }

// Update asks that the sender's leaf be replaced (RFC 9420 §12.1.2).
type Update struct{ Leaf LeafNode }

// Type, Encode and Decode make *Update a Proposal.
func (*Update) Type() ProposalType         { return ProposalUpdate }
func (p *Update) Encode(b *syntax.Builder) { p.Leaf.Encode(b) }
func (p *Update) Decode(r *syntax.Reader)  { p.Leaf.Decode(r) }

// Remove asks that a member leave (RFC 9420 §12.1.3).
type Remove struct{ Removed LeafIndex }

// Type, Encode and Decode make *Remove a Proposal.
func (*Remove) Type() ProposalType         { return ProposalRemove }
func (p *Remove) Encode(b *syntax.Builder) { b.Uint32(uint32(p.Removed)) }
func (p *Remove) Decode(r *syntax.Reader)  { p.Removed = LeafIndex(r.Uint32()) }

// PreSharedKey asks that a pre-shared key enter the key schedule (RFC 9420
// §12.1.4).
type PreSharedKey struct{ PSK PreSharedKeyID }

// Type, Encode and Decode make *PreSharedKey a Proposal.
func (*PreSharedKey) Type() ProposalType         { return ProposalPreSharedKey }
func (p *PreSharedKey) Encode(b *syntax.Builder) { p.PSK.Encode(b) }
func (p *PreSharedKey) Decode(r *syntax.Reader)  { p.PSK.Decode(r) }

// PSKType says where a pre-shared key comes from (RFC 9420 §8.4).
type PSKType uint8

const (
	PSKExternal   PSKType = 1
	PSKResumption PSKType = 2
)

// ResumptionUsage says what a resumption PSK is for.
type ResumptionUsage uint8

const (
	UsageApplication ResumptionUsage = 1
	UsageReInit      ResumptionUsage = 2
	UsageBranch      ResumptionUsage = 3
)

// PreSharedKeyID names a pre-shared key and one use of it (RFC 9420 §8.4).
type PreSharedKeyID struct {
	Type    PSKType
	ID      []byte          // of PSKExternal
	Usage   ResumptionUsage // this and the two below: of PSKResumption
	GroupID []byte
	Epoch   uint64
	Nonce   []byte // random, of the length of the suite's hash
}

// Encode implements syntax.Encoder.
func (p *PreSharedKeyID) Encode(b *syntax.Builder) {
	b.Uint8(uint8(p.Type))
	switch p.Type {
	case PSKExternal:
		b.Opaque(p.ID)
	case PSKResumption:
		b.Uint8(uint8(p.Usage))
		b.Opaque(p.GroupID)
		b.Uint64(p.Epoch)
	}
	b.Opaque(p.Nonce)
}

// Decode implements syntax.Decoder.
func (p *PreSharedKeyID) Decode(r *syntax.Reader) {
	p.Type = PSKType(r.Uint8())
	switch p.Type {
	case PSKExternal:
		p.ID = r.Opaque()
	case PSKResumption:
		p.Usage = ResumptionUsage(r.Uint8())
		if p.Usage < UsageApplication || p.Usage > UsageBranch {
			r.Failf("resumption PSK usage %d", p.Usage)
		}
		p.GroupID = r.Opaque()
		p.Epoch = r.Uint64()
	default:
		r.Failf("PSK type %d", p.Type)
	}
	p.Nonce = r.Opaque()
}

// ReInit asks that the group end and another with these parameters follow
// (RFC 9420 §12.1.5).
type ReInit struct {
	GroupID     []byte
	Version     Version
	CipherSuite cipher.ID
	Extensions  Extensions
}

// Type returns ProposalReInit.
func (*ReInit) Type() ProposalType { return ProposalReInit }

// Encode implements syntax.Encoder.
func (p *ReInit) Encode(b *syntax.Builder) {
	b.Opaque(p.GroupID)
	b.Uint16(uint16(p.Version))
	b.Uint16(uint16(p.CipherSuite))
	p.Extensions.Encode(b)
}

// Decode implements syntax.Decoder.
func (p *ReInit) Decode(r *syntax.Reader) {
	p.GroupID = r.Opaque()
	p.Version = Version(r.Uint16())
	p.CipherSuite = cipher.ID(r.Uint16())
	p.Extensions.Decode(r)
}

// ExternalInit carries the next epoch's init secret, encapsulated by a joiner
// (RFC 9420 §12.1.6).
type ExternalInit struct{ KEMOutput []byte }

// Type, Encode and Decode make *ExternalInit a Proposal.
func (*ExternalInit) Type() ProposalType         { return ProposalExternalInit }
func (p *ExternalInit) Encode(b *syntax.Builder) { b.Opaque(p.KEMOutput) }
func (p *ExternalInit) Decode(r *syntax.Reader)  { p.KEMOutput = r.Opaque() }

// GroupContextExtensions asks that the group's extensions be replaced by these,
// all of them (RFC 9420 §12.1.7).
type GroupContextExtensions struct{ Extensions Extensions }

// Type, Encode and Decode make *GroupContextExtensions a Proposal.
func (*GroupContextExtensions) Type() ProposalType         { return ProposalGroupContextExtensions }
func (p *GroupContextExtensions) Encode(b *syntax.Builder) { p.Extensions.Encode(b) }
func (p *GroupContextExtensions) Decode(r *syntax.Reader)  { p.Extensions.Decode(r) }
