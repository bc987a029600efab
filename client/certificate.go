package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// ErrUncertified means that the organisation wants certificates and this device
// has none that is good now.
var ErrUncertified = errors.New("this device has no certificate that is good now")

// renewInterval is how long a device waits before it asks again for a
// certificate that it didn't get, or that isn't witnessed yet.
const renewInterval = time.Minute

// recertify gets a certificate where the device needs one, or its last has less
// than a third of its life left, and logs it. Where the organisation's own
// authority doesn't answer it says so in sum, and an outside one is for people
// (CertificateRequest, Certify).
func (d *Device) recertify(ctx context.Context, sum *Summary) error {
	now := d.cfg.Now()
	due := false
	d.cfg.Replica.Read(func(s *control.State) { due = s.CertificateDue(d.self.Device, now.UnixMilli()) })
	if !due || now.Sub(d.asked) < renewInterval {
		return nil
	}
	d.asked = now
	der, err := d.server.Certificate(ctx)
	var p *wire.Problem
	if errors.As(err, &p) && p.Status == http.StatusNotFound {
		sum.Warnings = append(sum.Warnings, fmt.Sprintf("this device's certificate is to be renewed, and the server has none for it: %s", p))
		return nil
	}
	if err != nil {
		return fmt.Errorf("couldn't get a certificate: %w", err)
	}
	if _, err = d.certify(ctx, der); err != nil {
		return err
	}
	d.certified = d.cfg.Now()
	return nil
}

// certify logs a certificate and returns its leaf's index.
func (d *Device) certify(ctx context.Context, der []byte) (int64, error) {
	s, _, err := control.NewStatement(rand.Reader, d.self.Organisation, &control.Certificate{Device: d.self.Device, Certificate: der})
	if err != nil {
		return 0, err
	}
	sig, err := control.Sign(d.key, s)
	if err != nil {
		return 0, fmt.Errorf("couldn't sign for the certificate: %w", err)
	}
	done, err := d.server.Submit(ctx, &wire.Submit{Statement: codec.Encode(s), Signatures: []control.Signature{sig}})
	if err != nil {
		return 0, fmt.Errorf("couldn't log the certificate: %w", err)
	}
	if done.Hash != s.Hash() || done.Index < 0 {
		return 0, fmt.Errorf("certificate: %w", ErrServer)
	}
	return done.Index, nil
}

// Certify logs a certificate in DER that an authority of the organisation has
// issued to this device, and returns its leaf's index.
func (d *Device) Certify(ctx context.Context, der []byte) (int64, error) {
	end, err := d.begin()
	if err != nil {
		return 0, err
	}
	defer end()
	if err := d.ready(ctx); err != nil {
		return 0, err
	}
	index, err := d.certify(ctx, der)
	if err == nil {
		d.certified = d.cfg.Now()
	}
	return index, err
}

// CertificateRequest returns a PKCS #10 request in DER (RFC 2986) for this
// device's key and name, for a certificate authority outside the server.
//
// The key signs other things under labels (spec/conventions.md): a request is
// none of those, since it begins with the head of an ASN.1 sequence.
func (d *Device) CertificateRequest() ([]byte, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	uri, err := url.Parse(control.CertificateURI(d.self.Organisation, d.self.Device))
	if err != nil {
		return nil, fmt.Errorf("couldn't name the device: %w", err)
	}
	key := ed25519.NewKeyFromSeed(d.self.Seed)
	defer clear(key)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "device " + d.self.Device.Short()}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("couldn't make the request: %w", err)
	}
	return der, nil
}

// hasCertificate reports whether the log has one for this device.
func (d *Device) hasCertificate(s *control.State) bool {
	device, ok := s.Device(d.self.Device)
	return ok && len(device.Certificates()) > 0
}

// justCertified reports whether the device has logged a certificate that its
// control log may not show yet.
func (d *Device) justCertified() bool {
	return !d.certified.IsZero() && d.cfg.Now().Sub(d.certified) < renewInterval
}

// silenced reports whether an error says why a device sends nothing, though it
// goes on receiving.
func silenced(err error) bool {
	return errors.Is(err, ErrUncertified) || errors.Is(err, ErrHalted) || errors.Is(err, ErrStale)
}

// mayAct returns ErrHalted or ErrStale where nothing may be sent under the
// control log, and ErrUncertified where everybody would refuse what this device
// signs now. A certificate that was logged and isn't witnessed yet will do: the
// server judges by what it has logged.
func (d *Device) mayAct(ctx context.Context) error {
	err := d.trusts(ctx)
	if err != nil {
		return err
	}
	check := func() {
		d.cfg.Replica.Read(func(s *control.State) {
			if !s.NeedsCertificate(s.Size(), d.cfg.Now().UnixMilli()) {
				err = nil
				return
			}
			_, err = s.CheckDevice(d.self.Device, s.Size(), d.cfg.Now().UnixMilli())
		})
	}
	if check(); err == nil || d.justCertified() || d.testOnlyUncertified {
		return nil
	}
	if renewErr := d.recertify(ctx, &Summary{}); renewErr != nil {
		return renewErr
	}
	if d.justCertified() {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUncertified, err)
}
