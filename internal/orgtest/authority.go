package orgtest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
)

// Authority is a certificate authority outside the server.
type Authority struct {
	T           testing.TB
	Key         crypto.Signer
	Certificate *x509.Certificate
}

// NewAuthority makes an authority of an Ed25519 key whose certificate is good
// for ten years from a day before now.
func NewAuthority(t testing.TB, now time.Time) *Authority {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return NewAuthorityOf(t, now, key, nil)
}

// NewAuthorityOf makes an authority of a key. change may alter its certificate
// before it is signed.
func NewAuthorityOf(t testing.TB, now time.Time, key crypto.Signer, change func(*x509.Certificate)) *Authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Example CA"},
		NotBefore: now.Add(-24 * time.Hour).Truncate(time.Second), NotAfter: now.AddDate(10, 0, 0).Truncate(time.Second),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return &Authority{T: t, Key: key, Certificate: c}
}

// Issue returns a certificate in DER for a device's key from a time on. change
// may alter it before it is signed.
func (a *Authority) Issue(organisation, device codec.Hash, key codec.PublicKey, from time.Time, life time.Duration, change func(*x509.Certificate)) []byte {
	a.T.Helper()
	uri, err := url.Parse(control.CertificateURI(organisation, device))
	must(a.T, err)
	from = from.Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "device"}, NotBefore: from, NotAfter: from.Add(life),
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	public := any(ed25519.PublicKey(key[:]))
	if template.PublicKey != nil {
		public = template.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.Key)
	must(a.T, err)
	return der
}

// AddAuthority logs a certificate authority of two officers.
func (o *Org) AddAuthority(a *Authority, hours uint32) codec.Hash {
	o.T.Helper()
	return o.Add(&control.Authority{Nonce: codec.NewID(), Certificate: a.Certificate.Raw, Hours: hours}, o.Two()...)
}

// Certify logs a certificate that an authority issues to a device now.
func (o *Org) Certify(a *Authority, d *Device, life time.Duration) codec.Hash {
	o.T.Helper()
	der := a.Issue(o.ID, d.Hash, d.Key.PublicKey(), o.Now(), life, nil)
	return o.Add(&control.Certificate{Device: d.Hash, Certificate: der}, d)
}
