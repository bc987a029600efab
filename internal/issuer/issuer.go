// Package issuer is the organisation's own certificate authority, where it has
// no other: a key in a sealed file of the server's folder, and the certificates
// that it makes for devices of the control log (spec/control.md#certificates).
//
// What it is trusted with is little: a certificate counts only on the log, for
// a device that was enrolled there by others, under that device's signature.
// Whoever has the key can let a device go on that should have run out, until
// officers take the authority off the log; it can't make a device.
//
// In the folder are ca.sealed, the key (custody, label "certificate-authority"),
// and ca.crt, its certificate in PEM.
package issuer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
)

const (
	sealedFile = "ca.sealed"
	publicFile = "ca.crt"
	label      = "certificate-authority"

	// life is the authority's own: certificates of devices end before it, so that
	// officers name a new one in time.
	life = 10 * 365 * 24 * time.Hour
	// backdate lets a device's clock, or another reader's, be a little behind.
	backdate = 5 * time.Minute

	pemCertificate = "CERTIFICATE"
	pemRequest     = "CERTIFICATE REQUEST"
	maxPEM         = 2 * control.MaxCertificate
)

var (
	// ErrExist means that the folder has an authority already.
	ErrExist = errors.New("the server has a certificate authority already")
	// ErrNone means that the folder has no authority.
	ErrNone = errors.New("the server has no certificate authority")
	// ErrPEM means that a file isn't one PEM block of the kind that is wanted.
	ErrPEM = errors.New("not one PEM block of the kind that is wanted")
)

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	key         ed25519.PrivateKey
	certificate *x509.Certificate
}

// Create makes an authority in a server's folder, its key sealed under a
// secret, and returns its certificate in DER. It returns ErrExist, wrapped.
func Create(dir string, secret custody.Secret, organisation codec.Hash, now time.Time) ([]byte, error) {
	path := filepath.Join(dir, sealedFile)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrExist), err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("couldn't make the authority's key: %w", err)
	}
	defer clear(private)
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Chancery devices of " + organisation.Short()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("couldn't make the authority's certificate: %w", err)
	}
	// The certificate first: a key whose certificate is lost would be of no use,
	// and would stand in the way of another.
	if err := custody.WriteFile(filepath.Join(dir, publicFile), EncodePEM(der), 0o644); err != nil {
		return nil, err
	}
	seed := private.Seed()
	defer clear(seed)
	if err := custody.SealFile(path, secret, label, seed); err != nil {
		return nil, err
	}
	return der, nil
}

// Certificate returns the certificate in DER of the authority in a server's
// folder. It returns ErrNone or ErrPEM, wrapped.
func Certificate(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, publicFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the authority's certificate: %w", err)
	}
	return DecodePEM(data)
}

// Open opens the authority in a server's folder. It returns ErrNone, custody's
// errors, or an error where key and certificate don't belong together.
func Open(dir string, secret custody.Secret) (*Authority, error) {
	der, err := Certificate(dir)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the authority's certificate: %w", err)
	}
	seed, err := custody.OpenFile(filepath.Join(dir, sealedFile), secret, label)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s: %w", sealedFile, custody.ErrSealed)
	}
	key := ed25519.NewKeyFromSeed(seed)
	if public, ok := certificate.PublicKey.(ed25519.PublicKey); !ok || !bytes.Equal(public, key.Public().(ed25519.PublicKey)) {
		return nil, fmt.Errorf("%s and %s are of two authorities", sealedFile, publicFile)
	}
	return &Authority{key: key, certificate: certificate}, nil
}

// DER returns the authority's certificate, as the log names it. The caller must
// not change it.
func (a *Authority) DER() []byte { return a.certificate.Raw }

// Erase overwrites the key: the authority issues nothing afterwards.
func (a *Authority) Erase() { clear(a.key) }

// Issue returns a certificate in DER for a device's key, good from a little
// before now until life has passed since then, and no longer than the
// authority's own. Whether there is such a device is for the caller to know.
func (a *Authority) Issue(organisation, device codec.Hash, key codec.PublicKey, now time.Time, life time.Duration) ([]byte, error) {
	uri, err := url.Parse(control.CertificateURI(organisation, device))
	if err != nil {
		return nil, fmt.Errorf("couldn't name the device: %w", err)
	}
	from := now.Add(-backdate).Truncate(time.Second)
	until := from.Add(life)
	if until.After(a.certificate.NotAfter) {
		until = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "device " + device.Short()},
		NotBefore: from, NotAfter: until, URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, a.certificate, ed25519.PublicKey(key[:]), a.key)
	if err != nil {
		return nil, fmt.Errorf("couldn't issue a certificate: %w", err)
	}
	return der, nil
}

// serial returns 127 random bits: positive, and under the 20 bytes that
// RFC 5280 §4.1.2.2 allows.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	b[15] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}

// EncodePEM returns a certificate as the files of certificate authorities have
// it (RFC 7468 §5).
func EncodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
}

// EncodeRequest returns a certificate request in PEM (RFC 7468 §7).
func EncodeRequest(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})
}

// DecodePEM reads a file of one certificate in PEM. It returns ErrPEM.
func DecodePEM(data []byte) ([]byte, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("%d bytes: %w", len(data), ErrPEM)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemCertificate || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrPEM, pemCertificate)
	}
	return block.Bytes, nil
}
