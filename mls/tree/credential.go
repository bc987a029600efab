package tree

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"

	"chancery/mls/syntax"
)

// CredentialType is a value of RFC 9420 §17.5.
type CredentialType uint16

const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// Credential says who a member is (RFC 9420 §5.3). What it is worth is for the
// application to say: see Rules.
type Credential struct {
	Type         CredentialType
	Identity     []byte   // of a basic credential: the application's format
	Certificates [][]byte // of an X.509 credential: DER, the member's own first
}

// BasicCredential returns a bare assertion of an identity.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Identity: identity}
}

// Encode implements syntax.Encoder.
func (c *Credential) Encode(b *syntax.Builder) {
	b.Uint16(uint16(c.Type))
	switch c.Type {
	case CredentialBasic:
		b.Opaque(c.Identity)
	case CredentialX509:
		encodeEach(b, c.Certificates, (*syntax.Builder).Opaque)
	}
}

// Decode refuses types other than basic and X.509: the form of others isn't
// known, nor where they end.
func (c *Credential) Decode(r *syntax.Reader) {
	c.Type = CredentialType(r.Uint16())
	switch c.Type {
	case CredentialBasic:
		c.Identity = r.Opaque()
	case CredentialX509:
		c.Certificates = decodeEach(r, (*syntax.Reader).Opaque)
	default:
		r.Failf("credential type %d", c.Type)
	}
}

// certifies verifies that an X.509 credential's first certificate is of the
// signature key (RFC 9420 §5.3). It says nothing about who issued it.
func (c *Credential) certifies(signatureKey []byte) error {
	if c.Type != CredentialX509 {
		return nil
	}
	if len(c.Certificates) == 0 {
		return broken("5.3", "an X.509 credential without a certificate")
	}
	cert, err := x509.ParseCertificate(c.Certificates[0])
	if err != nil {
		return &Violation{"5.3", "a member's certificate", err}
	}
	var key []byte
	switch k := cert.PublicKey.(type) {
	case ed25519.PublicKey:
		key = k
	case *ecdsa.PublicKey:
		if key, err = k.Bytes(); err != nil {
			return &Violation{"5.3", "a member's certificate", err}
		}
	}
	if !bytes.Equal(key, signatureKey) {
		return broken("5.3", "a member's certificate is of another key")
	}
	return nil
}
