package control

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/codec"
)

const (
	// MaxCertificate is the greatest length in bytes of an X.509 certificate on
	// the log.
	MaxCertificate = 8 << 10
	// MaxCertificateHours is the longest life in hours that an authority's leaf
	// may allow: a year.
	MaxCertificateHours = 366 * 24
	// DefaultCertificateHours is what an authority's leaf says unless officers
	// want another: 30 days.
	DefaultCertificateHours = 30 * 24
	// CertificateGrace is for how long devices do without a certificate after the
	// organisation's first authority, and for how long certificates of an
	// authority that was removed still count: a device that is offline over a
	// weekend comes back to a conversation that it can speak in.
	CertificateGrace = 72 * time.Hour

	maxAuthorities = 16 // in force at one time
)

// ErrDevice means that a device may not act at a place of the log and a time:
// it is unknown there, revoked, or without a certificate that covers the time.
var ErrDevice = errors.New("device not valid at that point of the log")

// Authority names a certificate authority of the organisation, or ends one.
type Authority struct {
	_           struct{} `cbor:",toarray"`
	Nonce       codec.ID
	Certificate []byte // X.509, DER, at most MaxCertificate bytes
	Hours       uint32 // longest life of a certificate of a device; 0 where Remove is set
	Remove      bool
}

// Certificate is what an authority issued to a device for its own key.
type Certificate struct {
	_           struct{} `cbor:",toarray"`
	Device      codec.Hash
	Certificate []byte // X.509, DER, at most MaxCertificate bytes
}

// AuthorityState is a certificate authority as the log has it.
type AuthorityState struct {
	Authority
	Hash        codec.Hash
	Since       int64
	Time        int64 // milliseconds since 1970 UTC
	Removed     int64 // leaf index, or Never
	RemovedTime int64 // milliseconds since 1970 UTC
}

// CertificateState is a device's certificate as the log has it.
type CertificateState struct {
	Certificate
	Hash      codec.Hash
	Authority codec.Hash // the leaf of who issued it
	Since     int64
	NotBefore int64 // milliseconds since 1970 UTC, inclusive, as NotAfter
	NotAfter  int64
}

// authorityChange is what an authority's leaf changed: how many are in force
// after it, and since when there has always been one.
type authorityChange struct {
	since   int64
	inForce int
	from    int64 // milliseconds since 1970 UTC
}

// CertificateURI is the name that a device's certificate bears: the only URI
// among its alternative names.
func CertificateURI(organisation, device codec.Hash) string {
	return "chancery:" + organisation.String() + "/" + device.String()
}

// Kind implements Body.
func (*Authority) Kind() Kind { return KindAuthority }

// Kind implements Body.
func (*Certificate) Kind() Kind { return KindCertificate }

// Authorities returns the certificate authorities in the order of their leaves,
// those that were removed included.
func (s *State) Authorities() []AuthorityState { return slices.Clone(s.authorities) }

// Certificates returns the certificates of a device in the order of their leaves.
func (d *DeviceState) Certificates() []CertificateState { return slices.Clone(d.certificates) }

func (a *Authority) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	if a.Remove {
		return s.removeAuthority(a, e)
	}
	if a.Hours < 1 || a.Hours > MaxCertificateHours {
		return malformed("certificates live 1 to %d hours, not %d", MaxCertificateHours, a.Hours)
	}
	ca, err := parseAuthority(a.Certificate)
	if err != nil {
		return err
	}
	if e.Time < ca.NotBefore.UnixMilli() || e.Time > ca.NotAfter.UnixMilli() {
		return conflict("the authority's own certificate is of another time")
	}
	if s.authority(a.Certificate) != nil {
		return conflict("the authority is in force already")
	}
	if s.inForce() >= maxAuthorities {
		return conflict("%d authorities are in force", maxAuthorities)
	}
	s.authorities = append(s.authorities, AuthorityState{Authority: *a, Hash: e.hash, Since: e.index, Time: e.Time, Removed: Never})
	s.changeAuthorities(e)
	return nil
}

func (s *State) removeAuthority(a *Authority, e *entry) error {
	if a.Hours != 0 {
		return malformed("a removal allows no hours")
	}
	old := s.authority(a.Certificate)
	if old == nil {
		return conflict("no such authority is in force")
	}
	old.Removed, old.RemovedTime = e.index, e.Time
	s.changeAuthorities(e)
	return nil
}

// authority returns the authority in force that has this certificate, or nil.
func (s *State) authority(der []byte) *AuthorityState {
	for i := range s.authorities {
		if a := &s.authorities[i]; a.Removed == Never && bytes.Equal(a.Certificate, der) {
			return a
		}
	}
	return nil
}

func (s *State) inForce() (n int) {
	for i := range s.authorities {
		if s.authorities[i].Removed == Never {
			n++
		}
	}
	return n
}

func (s *State) changeAuthorities(e *entry) {
	change := authorityChange{since: e.index, inForce: s.inForce(), from: e.Time}
	if n := len(s.authorityChanges); n > 0 && s.authorityChanges[n-1].inForce > 0 {
		change.from = s.authorityChanges[n-1].from
	}
	s.authorityChanges = append(s.authorityChanges, change)
}

// parseAuthority reads a certificate that may issue others.
func parseAuthority(der []byte) (*x509.Certificate, error) {
	ca, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	switch {
	case !ca.BasicConstraintsValid || !ca.IsCA:
		return nil, malformed("the certificate is no authority's")
	case ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, malformed("the authority's key is not for signing certificates")
	}
	return ca, checkAuthorityKey(ca.PublicKey)
}

// checkAuthorityKey keeps to keys and sizes that every reader verifies alike.
func checkAuthorityKey(key any) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if !weak(codec.PublicKey(k)) {
			return nil
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 4096 && k.E == 65537 {
			return nil
		}
	}
	return malformed("the authority's key is not Ed25519, P-256, P-384, or RSA of 2,048 to 4,096 bits")
}

// parseCertificate reads an X.509 certificate (RFC 5280 §4.1) with nothing
// critical in it that isn't understood.
func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) == 0 || len(der) > MaxCertificate {
		return nil, malformed("certificate of %d bytes, want 1 to %d", len(der), MaxCertificate)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, malformed("certificate: %v", err)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return nil, malformed("certificate with a critical extension that isn't known")
	}
	return c, nil
}

func (c *Certificate) apply(s *State, e *entry) error {
	device, ok := s.devices[c.Device]
	if !ok || !device.ValidAt(e.index) {
		return conflict("no such device, or it is revoked")
	}
	if len(e.signed) != 1 || !e.by(device.Key) {
		return fmt.Errorf("%w: want one signature, of the device", ErrUnauthorised)
	}
	cert, err := parseCertificate(c.Certificate)
	if err != nil {
		return err
	}
	if err := s.checkSubject(cert, device); err != nil {
		return err
	}
	authority, err := s.issuer(cert)
	if err != nil {
		return err
	}
	from, until := cert.NotBefore.UnixMilli(), cert.NotAfter.UnixMilli()
	switch {
	case e.Time < from || e.Time > until:
		return conflict("the certificate is of another time")
	case until-from > int64(authority.Hours)*time.Hour.Milliseconds():
		return conflict("the certificate lives longer than %d hours", authority.Hours)
	}
	device.certificates = append(device.certificates, CertificateState{
		Certificate: *c, Hash: e.hash, Authority: authority.Hash, Since: e.index, NotBefore: from, NotAfter: until,
	})
	return nil
}

// checkSubject compares whom a certificate is for with the device that logs it.
func (s *State) checkSubject(cert *x509.Certificate, device *DeviceState) error {
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok || codec.PublicKey(key) != device.Key:
		return conflict("the certificate is for another key than the device's")
	case cert.IsCA:
		return malformed("the certificate would make the device an authority")
	case len(cert.URIs) != 1 || cert.URIs[0].String() != CertificateURI(s.organisation, device.Hash):
		return conflict("the certificate doesn't name this organisation and device")
	}
	return nil
}

// issuer returns the authority in force that signed a certificate. What is
// tried costs a signature check for each of at most 16.
func (s *State) issuer(cert *x509.Certificate) (*AuthorityState, error) {
	switch cert.SignatureAlgorithm {
	case x509.PureEd25519, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.SHA256WithRSA, x509.SHA384WithRSA:
	default:
		return nil, malformed("certificate signed with %s", cert.SignatureAlgorithm)
	}
	for i := range s.authorities {
		a := &s.authorities[i]
		if a.Removed != Never {
			continue
		}
		ca, err := parseAuthority(a.Authority.Certificate)
		if err != nil {
			return nil, err // it was parsed when it was logged
		}
		if !bytes.Equal(cert.RawIssuer, ca.RawSubject) || cert.NotAfter.After(ca.NotAfter) || cert.NotBefore.Before(ca.NotBefore) {
			continue
		}
		if cert.CheckSignatureFrom(ca) == nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: no authority in force issued the certificate", ErrUnauthorised)
}

// NeedsCertificate reports whether, in a log of that size and at that time in
// milliseconds, a device may act with a certificate alone: there has been an
// authority in force for longer than the grace, without a gap.
func (s *State) NeedsCertificate(size, now int64) bool {
	var last *authorityChange
	for i := range s.authorityChanges {
		if c := &s.authorityChanges[i]; c.since < size {
			last = c
		}
	}
	return last != nil && last.inForce > 0 && now > last.from+CertificateGrace.Milliseconds()
}

// CheckDevice decides what everybody decides alike: whether, in a log of that
// size and at that time in milliseconds, a device may speak and be added to
// conversations. It returns ErrDevice with the reason.
func (s *State) CheckDevice(h codec.Hash, size, now int64) (*DeviceState, error) {
	device, ok := s.devices[h]
	if !ok || !device.ValidAt(size) {
		return nil, ErrDevice
	}
	if s.NeedsCertificate(size, now) && s.covering(device, size, now) == nil {
		return nil, fmt.Errorf("%w: it has no certificate that covers %s", ErrDevice, time.UnixMilli(now).UTC().Format(time.RFC3339))
	}
	return device, nil
}

// covering returns a certificate of the device that is good at a size and time.
func (s *State) covering(d *DeviceState, size, now int64) *CertificateState {
	for i := len(d.certificates) - 1; i >= 0; i-- {
		c := &d.certificates[i]
		if c.Since < size && c.NotBefore <= now && now <= c.NotAfter && !s.withdrawn(c.Authority, size, now) {
			return c
		}
	}
	return nil
}

// withdrawn reports whether an authority was removed longer ago than the grace.
func (s *State) withdrawn(authority codec.Hash, size, now int64) bool {
	for i := range s.authorities {
		if a := &s.authorities[i]; a.Hash == authority {
			return a.Removed != Never && a.Removed < size && now > a.RemovedTime+CertificateGrace.Milliseconds()
		}
	}
	return true
}

// CertificateDue reports whether a device should get a certificate at a time in
// milliseconds: there is an authority in force, and the newest certificate of
// one in force has less than a third of its life left.
func (s *State) CertificateDue(h codec.Hash, now int64) bool {
	device, ok := s.devices[h]
	if !ok || !device.ValidAt(s.size) || s.inForce() == 0 {
		return false
	}
	for i := range device.certificates {
		c := &device.certificates[i]
		if s.removed(c.Authority) {
			continue
		}
		if now >= c.NotBefore && now < c.NotAfter-(c.NotAfter-c.NotBefore)/3 {
			return false
		}
	}
	return true
}

func (s *State) removed(authority codec.Hash) bool {
	for i := range s.authorities {
		if a := &s.authorities[i]; a.Hash == authority {
			return a.Removed != Never
		}
	}
	return true
}
