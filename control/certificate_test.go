package control_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
)

const month = 30 * 24 * time.Hour

func naming(der []byte, hours uint32) *control.Authority {
	return &control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: hours}
}

// certificates leads the organisation of TestKinds through both kinds of leaf.
func (w *world) certificates() {
	t := w.t
	ca := orgtest.NewAuthority(t, w.clock)
	w.authorityForms(ca)
	w.accepts(naming(ca.Certificate.Raw, 720), w.Two()...)
	w.refuses("an authority twice", control.ErrConflict, naming(ca.Certificate.Raw, 720), w.Two()...)

	d, other := w.NewMember(), w.NewMember()
	w.certificateForms(ca, d, other)
	issue := func() []byte { return ca.Issue(w.ID, d.Hash, d.Key.PublicKey(), w.clock, month, nil) }
	w.accepts(&control.Certificate{Device: d.Hash, Certificate: issue()}, d)

	stranger := orgtest.NewAuthority(t, w.clock) // of the same name
	der := stranger.Issue(w.ID, d.Hash, d.Key.PublicKey(), w.clock, month, nil)
	w.refuses("another authority's certificate", control.ErrUnauthorised, &control.Certificate{Device: d.Hash, Certificate: der}, d)
	w.refuses("the end of an authority that isn't in force", control.ErrConflict,
		&control.Authority{Certificate: stranger.Certificate.Raw, Remove: true}, w.Two()...)
	w.refuses("the end with hours", control.ErrMalformed, &control.Authority{Certificate: ca.Certificate.Raw, Hours: 1, Remove: true}, w.Two()...)
	w.accepts(&control.Authority{Nonce: codec.NewID(), Certificate: ca.Certificate.Raw, Remove: true}, w.Two()...)
	w.pass(time.Second)
	w.refuses("a certificate of an authority that was removed", control.ErrUnauthorised, &control.Certificate{Device: d.Hash, Certificate: issue()}, d)

	again := w.AddAuthority(ca, 720)
	w.Add(&control.Revocation{Device: other.Hash, Reason: "lost"}, w.Officers[0])
	der = ca.Issue(w.ID, other.Hash, other.Key.PublicKey(), w.clock, month, nil)
	w.refuses("a certificate of a revoked device", control.ErrConflict, &control.Certificate{Device: other.Hash, Certificate: der}, other)
	if a := w.State.Authorities(); len(a) != 2 || a[0].Removed == control.Never || a[1].Hash != again || a[1].Removed != control.Never {
		t.Errorf("got %+v", a)
	}
}

func (w *world) authorityForms(ca *orgtest.Authority) {
	t := w.t
	for what, hours := range map[string]uint32{"no life": 0, "a life of years": 366*24 + 1} {
		w.refuses("authority of "+what, control.ErrMalformed, naming(ca.Certificate.Raw, hours), w.Two()...)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Logf("no RSA key of 1,024 bits: %v", err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	for what, key := range map[string]crypto.Signer{"1,024 bits": short, "a curve that isn't listed": curve} {
		if key == crypto.Signer((*rsa.PrivateKey)(nil)) {
			continue
		}
		bad := orgtest.NewAuthorityOf(t, w.clock, key, nil)
		w.refuses("authority of "+what, control.ErrMalformed, naming(bad.Certificate.Raw, 720), w.Two()...)
	}
	for what, change := range map[string]struct {
		err    error
		change func(*x509.Certificate)
	}{
		"that is none":           {control.ErrMalformed, func(c *x509.Certificate) { c.IsCA = false }},
		"for other signatures":   {control.ErrMalformed, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
		"that is over":           {control.ErrConflict, func(c *x509.Certificate) { c.NotAfter = w.clock.Add(-time.Minute) }},
		"that hasn't begun":      {control.ErrConflict, func(c *x509.Certificate) { c.NotBefore = w.clock.Add(time.Hour) }},
		"of too many characters": {control.ErrMalformed, func(c *x509.Certificate) { c.Subject.CommonName = string(make([]byte, control.MaxCertificate)) }},
	} {
		bad := orgtest.NewAuthorityOf(t, w.clock, ca.Key, change.change)
		w.refuses("authority "+what, change.err, naming(bad.Certificate.Raw, 720), w.Two()...)
	}
	w.refuses("authority without a certificate", control.ErrMalformed, naming(nil, 720), w.Two()...)
	w.refuses("authority of a certificate and a byte", control.ErrMalformed, naming(append(ca.Certificate.Raw[:len(ca.Certificate.Raw):len(ca.Certificate.Raw)], 0), 720), w.Two()...)
}

func (w *world) certificateForms(ca *orgtest.Authority, d, other *orgtest.Device) {
	t := w.t
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	uri := func(text string) []*url.URL {
		u, err := url.Parse(text)
		must(t, err)
		return []*url.URL{u}
	}
	for what, bad := range map[string]struct {
		err    error
		change func(*x509.Certificate)
	}{
		"for another device's key": {control.ErrConflict, func(c *x509.Certificate) { c.PublicKey = ed25519.PublicKey(keyOf(other)) }},
		"for a P-256 key":          {control.ErrConflict, func(c *x509.Certificate) { c.PublicKey = &p256.PublicKey }},
		"that names another device": {control.ErrConflict, func(c *x509.Certificate) {
			c.URIs = uri(control.CertificateURI(w.ID, other.Hash))
		}},
		"that names another organisation": {control.ErrConflict, func(c *x509.Certificate) {
			c.URIs = uri(control.CertificateURI(codec.Sum("test"), d.Hash))
		}},
		"that names nobody":   {control.ErrConflict, func(c *x509.Certificate) { c.URIs = nil }},
		"that names two":      {control.ErrConflict, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }},
		"that lives too long": {control.ErrConflict, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		"that is over": {control.ErrConflict, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = w.clock.Add(-2*time.Hour), w.clock.Add(-time.Hour)
		}},
		"that hasn't begun":             {control.ErrConflict, func(c *x509.Certificate) { c.NotBefore = w.clock.Add(time.Minute) }},
		"that outlives its authority":   {control.ErrUnauthorised, func(c *x509.Certificate) { c.NotAfter = ca.Certificate.NotAfter.Add(time.Second) }},
		"that makes another authority":  {control.ErrMalformed, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }},
		"with a critical extension":     {control.ErrMalformed, func(c *x509.Certificate) { c.ExtraExtensions = critical() }},
		"of more bytes than the format": {control.ErrMalformed, func(c *x509.Certificate) { c.Subject.CommonName = string(make([]byte, control.MaxCertificate)) }},
	} {
		der := ca.Issue(w.ID, d.Hash, d.Key.PublicKey(), w.clock, month, bad.change)
		w.refuses("certificate "+what, bad.err, &control.Certificate{Device: d.Hash, Certificate: der}, d)
	}
	good := ca.Issue(w.ID, d.Hash, d.Key.PublicKey(), w.clock, month, nil)
	w.refuses("certificate of no device", control.ErrConflict, &control.Certificate{Device: codec.Sum("test"), Certificate: good}, d)
	w.refuses("certificate logged by another device", control.ErrUnauthorised, &control.Certificate{Device: d.Hash, Certificate: good}, other)
	w.refuses("certificate logged by two", control.ErrUnauthorised, &control.Certificate{Device: d.Hash, Certificate: good}, d, other)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	w.refuses("forged certificate", control.ErrUnauthorised, &control.Certificate{Device: d.Hash, Certificate: forged}, d)
}

// critical is an extension that every reader has to know, and none does.
func critical() []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
}

func keyOf(d *orgtest.Device) []byte { k := d.Key.PublicKey(); return k[:] }

// TestAuthorityKeys: what outside authorities have.
func TestAuthorityKeys(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	d := w.NewMember()
	keys := map[string]crypto.Signer{}
	var err error
	if keys["RSA"], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for name, key := range keys {
		ca := orgtest.NewAuthorityOf(t, w.clock, key, nil)
		w.AddAuthority(ca, 720)
		w.Certify(ca, d, month)
		got, _ := w.State.Device(d.Hash)
		if c := got.Certificates(); len(c) == 0 || c[len(c)-1].NotAfter-c[len(c)-1].NotBefore != month.Milliseconds() {
			t.Errorf("%s: got %+v", name, c)
		}
	}
}

// TestCheckDevice follows a device's right to act through all that begins and
// ends it, each judged at its own size, also by who has read further.
func TestCheckDevice(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	d, idle := w.NewMember(), w.NewMember()
	type point struct {
		what     string
		size     int64
		time     int64
		ok, idle bool
	}
	var points []point
	note := func(what string, ok, idleOK bool) {
		t.Helper()
		points = append(points, point{what, w.State.Size(), w.clock.UnixMilli(), ok, idleOK})
	}
	note("without an authority", true, true)
	ca := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(ca, 720)
	note("on the day", true, true)
	w.pass(control.CertificateGrace)
	note("at the end of the grace", true, true)
	w.pass(time.Millisecond)
	note("after it", false, false)
	w.pass(time.Second)
	w.Certify(ca, d, month)
	note("with a certificate", true, false)
	w.pass(month * 2 / 3)
	w.Certify(ca, d, month)
	w.pass(month * 2 / 3)
	note("renewed", true, false)
	next := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(next, 720)
	w.Add(&control.Authority{Nonce: codec.NewID(), Certificate: ca.Certificate.Raw, Remove: true}, w.Two()...)
	w.pass(control.CertificateGrace)
	note("three days after its authority was replaced", true, false)
	w.pass(time.Millisecond)
	note("and later", false, false)
	w.pass(time.Second)
	w.Certify(next, d, month)
	note("of the new authority", true, false)
	w.pass(month + time.Second)
	note("expired", false, false)
	w.Certify(next, d, month)
	w.Add(&control.Revocation{Device: d.Hash, Reason: "lost"}, w.Officers[0])
	note("revoked", false, false)
	w.Add(&control.Authority{Nonce: codec.NewID(), Certificate: next.Certificate.Raw, Remove: true}, w.Two()...)
	note("without an authority again", false, true)

	for _, p := range points {
		for h, want := range map[codec.Hash]bool{d.Hash: p.ok, idle.Hash: p.idle} {
			got, err := w.State.CheckDevice(h, p.size, p.time)
			if want != (err == nil) || want != (got != nil) || err != nil && !errors.Is(err, control.ErrDevice) {
				t.Errorf("%s: got %v, want %t", p.what, err, want)
			}
		}
	}
	if _, err := w.State.CheckDevice(codec.Sum("test"), w.State.Size(), w.clock.UnixMilli()); !errors.Is(err, control.ErrDevice) {
		t.Errorf("nobody's device: %v", err)
	}
}

// TestCertificateDue: two thirds of a certificate's life pass before another is
// asked for.
func TestCertificateDue(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	d := w.NewMember()
	due := func(at time.Time) bool { return w.State.CertificateDue(d.Hash, at.UnixMilli()) }
	if due(w.clock) {
		t.Error("without an authority")
	}
	ca := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(ca, 720)
	if !due(w.clock) {
		t.Error("not with the first authority")
	}
	w.Certify(ca, d, month)
	for days, want := range map[int]bool{0: false, 19: false, 20: true, 31: true} {
		if due(w.clock.AddDate(0, 0, days)) != want {
			t.Errorf("after %d days: %t", days, !want)
		}
	}
	w.Add(&control.Authority{Nonce: codec.NewID(), Certificate: ca.Certificate.Raw, Remove: true}, w.Two()...)
	w.AddAuthority(orgtest.NewAuthority(t, w.clock), 720)
	if !due(w.clock) {
		t.Error("not with another authority")
	}
	w.Add(&control.Revocation{Device: d.Hash, Reason: "lost"}, w.Officers[0])
	if due(w.clock) {
		t.Error("revoked")
	}
}

// TestHeaderNeedsCertificate: senders without a certificate are refused by
// whoever checks a header.
func TestHeaderNeedsCertificate(t *testing.T) {
	w := newWorld(t, orgtest.Options{})
	d := w.NewMember()
	ca := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(ca, 720)
	w.pass(control.CertificateGrace + time.Hour)
	check := func() error {
		h := w.Header(codec.NewID(), d, envelope.KindRecord)
		_, _, err := w.State.CheckHeader(h, w.State.Size(), w.clock.UnixMilli())
		return err
	}
	if err := check(); !errors.Is(err, control.ErrHeader) || !errors.Is(err, control.ErrDevice) {
		t.Errorf("without a certificate: %v", err)
	}
	w.Certify(ca, d, month)
	if err := check(); err != nil {
		t.Error(err)
	}
}
