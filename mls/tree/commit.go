package tree

import "chancery/mls/syntax"

// HPKECiphertext is the result of cipher.Suite.EncryptWithLabel (RFC 9420
// §7.6).
type HPKECiphertext struct {
	KEMOutput  []byte
	Ciphertext []byte
}

// Encode implements syntax.Encoder.
func (c *HPKECiphertext) Encode(b *syntax.Builder) {
	b.Opaque(c.KEMOutput)
	b.Opaque(c.Ciphertext)
}

// Decode implements syntax.Decoder.
func (c *HPKECiphertext) Decode(r *syntax.Reader) {
	c.KEMOutput = r.Opaque()
	c.Ciphertext = r.Opaque()
}

// UpdatePathNode is a new key for one node, and the secret it comes from,
// encrypted to each node that the copath child resolves to.
type UpdatePathNode struct {
	EncryptionKey []byte // HPKE public key
	Secrets       []HPKECiphertext
}

// Encode implements syntax.Encoder.
func (n *UpdatePathNode) Encode(b *syntax.Builder) {
	b.Opaque(n.EncryptionKey)
	encodeEach(b, n.Secrets, func(b *syntax.Builder, c HPKECiphertext) { c.Encode(b) })
}

// Decode implements syntax.Decoder.
func (n *UpdatePathNode) Decode(r *syntax.Reader) {
	n.EncryptionKey = r.Opaque()
	n.Secrets = decodeEach(r, func(r *syntax.Reader) (c HPKECiphertext) {
		c.Decode(r)
		return c
	})
}

// UpdatePath replaces the committer's leaf and the nodes of its filtered direct
// path, from the leaf upwards (RFC 9420 §7.6).
type UpdatePath struct {
	Leaf  LeafNode
	Nodes []UpdatePathNode
}

// Encode implements syntax.Encoder.
func (p *UpdatePath) Encode(b *syntax.Builder) {
	p.Leaf.Encode(b)
	encodeEach(b, p.Nodes, func(b *syntax.Builder, n UpdatePathNode) { n.Encode(b) })
}

// Decode implements syntax.Decoder.
func (p *UpdatePath) Decode(r *syntax.Reader) {
	p.Leaf.Decode(r)
	p.Nodes = decodeEach(r, func(r *syntax.Reader) (n UpdatePathNode) {
		n.Decode(r)
		return n
	})
}

// Values of ProposalOrRefType in RFC 9420 §12.4.
const (
	proposalByValue     = 1
	proposalByReference = 2
)

// ProposalOrRef is a proposal of the committer's own or, where Proposal is nil,
// the reference of one that was sent before.
type ProposalOrRef struct {
	Proposal Proposal
	Ref      []byte
}

// Encode implements syntax.Encoder.
func (p *ProposalOrRef) Encode(b *syntax.Builder) {
	if p.Proposal != nil {
		b.Uint8(proposalByValue)
		EncodeProposal(b, p.Proposal)
		return
	}
	b.Uint8(proposalByReference)
	b.Opaque(p.Ref)
}

// Decode implements syntax.Decoder.
func (p *ProposalOrRef) Decode(r *syntax.Reader) {
	switch t := r.Uint8(); t {
	case proposalByValue:
		p.Proposal = DecodeProposal(r)
	case proposalByReference:
		p.Ref = r.Opaque()
	default:
		r.Failf("type %d of a proposal or reference", t)
	}
}

// Commit starts a new epoch (RFC 9420 §12.4).
type Commit struct {
	Proposals []ProposalOrRef
	Path      *UpdatePath // may be nil
}

// room returns about how many bytes the commit takes.
func (c *Commit) room() int {
	n := 2 * roughSize * len(c.Proposals)
	if c.Path == nil {
		return n
	}
	n += 2 * roughSize
	for i := range c.Path.Nodes {
		n += roughSize
		for _, s := range c.Path.Nodes[i].Secrets {
			n += len(s.KEMOutput) + len(s.Ciphertext) + 4
		}
	}
	return n
}

// Encode implements syntax.Encoder.
func (c *Commit) Encode(b *syntax.Builder) {
	encodeEach(b, c.Proposals, func(b *syntax.Builder, p ProposalOrRef) { p.Encode(b) })
	b.Present(c.Path != nil)
	if c.Path != nil {
		c.Path.Encode(b)
	}
}

// Decode implements syntax.Decoder.
func (c *Commit) Decode(r *syntax.Reader) {
	c.Proposals = decodeEach(r, func(r *syntax.Reader) (p ProposalOrRef) {
		p.Decode(r)
		return p
	})
	if r.Present() {
		c.Path = new(UpdatePath)
		c.Path.Decode(r)
	}
}
