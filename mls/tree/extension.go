package tree

import (
	"bytes"

	"chancery/mls/syntax"
)

// ExtensionType is a value of RFC 9420 §17.3. Types that nobody here knows,
// GREASE among them (§13.5), are carried as they came.
type ExtensionType uint16

const (
	ExtensionApplicationID        ExtensionType = 1
	ExtensionRatchetTree          ExtensionType = 2
	ExtensionRequiredCapabilities ExtensionType = 3
	ExtensionExternalPub          ExtensionType = 4
	ExtensionExternalSenders      ExtensionType = 5
)

// ExtensionLastResort marks a key package that may be used more than once,
// because there was no other (draft-ietf-mls-extensions, last_resort). Its data
// is empty.
const ExtensionLastResort ExtensionType = 0x000a

// everywhere reports whether all clients know the type, so that capabilities
// don't list it (RFC 9420 §7.2).
func (t ExtensionType) everywhere() bool {
	return t >= ExtensionApplicationID && t <= ExtensionExternalSenders
}

// Extension is one parameter of a key package, leaf, group or GroupInfo.
type Extension struct {
	Type ExtensionType
	Data []byte
}

// Extensions is a list in which no type occurs twice (RFC 9420 §13.4).
type Extensions []Extension

// Encode implements syntax.Encoder.
func (x Extensions) Encode(b *syntax.Builder) {
	encodeEach(b, x, func(b *syntax.Builder, e Extension) {
		b.Uint16(uint16(e.Type))
		b.Opaque(e.Data)
	})
}

// Decode refuses a list with two extensions of a type.
func (x *Extensions) Decode(r *syntax.Reader) {
	var seen map[ExtensionType]bool
	*x = decodeEach(r, func(r *syntax.Reader) Extension {
		e := Extension{Type: ExtensionType(r.Uint16()), Data: r.Opaque()}
		if seen == nil {
			seen = make(map[ExtensionType]bool)
		}
		if seen[e.Type] {
			r.Failf("two extensions of type %d", e.Type)
		}
		seen[e.Type] = true
		return e
	})
}

// Find returns the data of the extension of that type.
func (x Extensions) Find(t ExtensionType) ([]byte, bool) {
	for _, e := range x {
		if e.Type == t {
			return e.Data, true
		}
	}
	return nil, false
}

// Equal reports whether both lists have the same extensions in the same order.
func (x Extensions) Equal(y Extensions) bool {
	return bytes.Equal(syntax.Marshal(x), syntax.Marshal(y))
}

// RequiredCapabilities is what all members of a group must support, beyond what
// every client does (RFC 9420 §11.1).
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// Encode implements syntax.Encoder.
func (c *RequiredCapabilities) Encode(b *syntax.Builder) {
	encodeCodes(b, c.Extensions)
	encodeCodes(b, c.Proposals)
	encodeCodes(b, c.Credentials)
}

// Decode implements syntax.Decoder.
func (c *RequiredCapabilities) Decode(r *syntax.Reader) {
	c.Extensions = decodeCodes[ExtensionType](r)
	c.Proposals = decodeCodes[ProposalType](r)
	c.Credentials = decodeCodes[CredentialType](r)
}

// Extension returns the capabilities as an extension of a GroupContext.
func (c *RequiredCapabilities) Extension() Extension {
	return Extension{Type: ExtensionRequiredCapabilities, Data: syntax.Marshal(c)}
}

// RequiredCapabilities returns what the list requires: nothing, where it
// doesn't say. It returns syntax.ErrSyntax for a malformed extension.
func (x Extensions) RequiredCapabilities() (RequiredCapabilities, error) {
	data, ok := x.Find(ExtensionRequiredCapabilities)
	if !ok {
		return RequiredCapabilities{}, nil
	}
	var c RequiredCapabilities
	if err := syntax.Unmarshal(data, &c); err != nil {
		return RequiredCapabilities{}, err
	}
	return c, nil
}

// ExternalSender may propose from outside the group (RFC 9420 §12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// Encode implements syntax.Encoder.
func (s *ExternalSender) Encode(b *syntax.Builder) {
	b.Opaque(s.SignatureKey)
	s.Credential.Encode(b)
}

// Decode implements syntax.Decoder.
func (s *ExternalSender) Decode(r *syntax.Reader) {
	s.SignatureKey = r.Opaque()
	s.Credential.Decode(r)
}

// equals reports whether both have the same key and credential.
func (s *ExternalSender) equals(o ExternalSender) bool {
	return bytes.Equal(syntax.Marshal(s), syntax.Marshal(&o))
}

// ExternalSenders is the extension of a GroupContext that lists them. A Sender
// names one by its place.
type ExternalSenders []ExternalSender

// Encode implements syntax.Encoder.
func (s ExternalSenders) Encode(b *syntax.Builder) {
	encodeEach(b, s, func(b *syntax.Builder, e ExternalSender) { e.Encode(b) })
}

// Decode implements syntax.Decoder.
func (s *ExternalSenders) Decode(r *syntax.Reader) {
	*s = decodeEach(r, func(r *syntax.Reader) (e ExternalSender) {
		e.Decode(r)
		return e
	})
}

// Extension returns the list as an extension of a GroupContext.
func (s ExternalSenders) Extension() Extension {
	return Extension{Type: ExtensionExternalSenders, Data: syntax.Marshal(s)}
}

// ExternalSenders returns who may propose from outside: nobody, where the list
// doesn't say. It returns syntax.ErrSyntax for a malformed extension.
func (x Extensions) ExternalSenders() (ExternalSenders, error) {
	data, ok := x.Find(ExtensionExternalSenders)
	if !ok {
		return nil, nil
	}
	var s ExternalSenders
	if err := syntax.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	return s, nil
}

// ExternalPubExtension returns the extension of a GroupInfo that lets others
// join by an external commit, encrypting to the key (RFC 9420 §12.4.3.2).
func ExternalPubExtension(key []byte) Extension {
	var b syntax.Builder
	b.Opaque(key)
	return Extension{Type: ExtensionExternalPub, Data: b.Bytes()}
}

// ExternalPub returns the key for external commits; false where there is none.
// It returns syntax.ErrSyntax for a malformed extension.
func (x Extensions) ExternalPub() ([]byte, bool, error) {
	data, ok := x.Find(ExtensionExternalPub)
	if !ok {
		return nil, false, nil
	}
	r := syntax.NewReader(data)
	key := r.Opaque()
	if err := r.Finish(); err != nil {
		return nil, false, err
	}
	return key, true, nil
}
