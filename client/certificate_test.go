package client_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
)

// clocked is a party whose time the test sets.
func clocked(t *testing.T) (*party, func(time.Duration)) {
	s := newServer(t)
	now := time.Now()
	s.org.SetClock(func() time.Time { return now })
	p := newPartyOf(t, s)
	return p, func(d time.Duration) { now = now.Add(d) }
}

func (p *party) certificates(d *client.Device) int {
	dev, _ := p.org.State.Device(d.Hash())
	return len(dev.Certificates())
}

// TestCertificates: devices get certificates by themselves and renew them, and
// whoever couldn't is refused until it has one.
func TestCertificates(t *testing.T) {
	p, pass := clocked(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	ca := orgtest.NewAuthority(t, p.org.Now())
	p.authority = ca
	p.org.AddAuthority(ca, 720)
	pass(2 * time.Minute)
	a.sync()
	if p.certificates(a.Device) != 1 || p.certificates(b.Device) != 0 {
		t.Fatalf("%d and %d certificates", p.certificates(a.Device), p.certificates(b.Device))
	}
	c := p.person("Carol") // who enrols under an authority
	if p.certificates(c.Device) != 1 {
		t.Error("Carol enrolled without a certificate")
	}
	pass(control.CertificateGrace + time.Hour)
	a.sync()
	a.say(id, "hello")
	if p.certificates(a.Device) != 1 {
		t.Error("renewed after three days")
	}
	b.say(id, "just in time") // it gets one on the way
	if p.certificates(b.Device) != 1 {
		t.Errorf("Bob has %d certificates", p.certificates(b.Device))
	}
	pass(18 * 24 * time.Hour)
	a.sync()
	a.sync() // not twice
	if p.certificates(a.Device) != 2 {
		t.Errorf("%d certificates after two thirds of a life", p.certificates(a.Device))
	}
	a.sync()
	a.want(id, "hello", "just in time")
}

// TestOutsideAuthority: a device makes a request, and logs what came of it.
func TestOutsideAuthority(t *testing.T) {
	p, pass := clocked(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	ca := orgtest.NewAuthority(t, p.org.Now())
	p.org.AddAuthority(ca, 720)
	pass(control.CertificateGrace + time.Hour)
	if sum := a.sync(); len(sum.Warnings) == 0 {
		t.Error("nobody says that a certificate is needed")
	}
	if _, err := a.Send(t.Context(), id, client.Draft{Text: "hello"}); !errors.Is(err, client.ErrUncertified) {
		t.Errorf("sent without a certificate: %v", err)
	}
	if _, err := a.Create(t.Context(), "", []codec.ID{b.member}); !errors.Is(err, client.ErrUncertified) {
		t.Errorf("committed without a certificate: %v", err)
	}
	der, err := a.CertificateRequest()
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil || len(request.URIs) != 1 || request.URIs[0].String() != control.CertificateURI(p.org.ID, a.Hash()) {
		t.Errorf("got %v, %v", request.URIs, err)
	}
	key := a.Signer().PublicKey()
	if _, err := a.Certify(t.Context(), ca.Issue(p.org.ID, b.Hash(), key, p.org.Now(), time.Hour, nil)); err == nil {
		t.Error("logged another device's certificate")
	}
	if _, err := a.Certify(t.Context(), ca.Issue(p.org.ID, a.Hash(), key, p.org.Now(), time.Hour, nil)); err != nil {
		t.Fatal(err)
	}
	a.sync() // what waited in the outbox goes
	a.want(id, "hello")
}

// TestUncertifiedSpeaks: a device that says something without a certificate,
// with the server's help, is not shown.
func TestUncertifiedSpeaks(t *testing.T) {
	p, pass := clocked(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	p.org.AddAuthority(orgtest.NewAuthority(t, p.org.Now()), 720)
	pass(2 * time.Minute)
	a.say(id, "before")
	b.sync()
	pass(control.CertificateGrace)
	p.careless = true
	a.TestOnlyUncertified()
	a.say(id, "after")
	b.sync()
	b.want(id, "before")
	if b.Counters().Faulty != 2 { // the day's index key and the message
		t.Errorf("got %+v", b.Counters())
	}
}
