package issuer_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/issuer"
	"chancery/internal/orgtest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestIssue: what the authority issues is what the log takes.
func TestIssue(t *testing.T) {
	o := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	d := o.NewMember()
	dir, secret := t.TempDir(), custody.Key([custody.KeySize]byte{1})
	if _, err := issuer.Open(dir, secret); !errors.Is(err, issuer.ErrNone) {
		t.Errorf("an empty folder: %v", err)
	}
	der, err := issuer.Create(dir, secret, o.ID, o.Now())
	must(t, err)
	a, err := issuer.Open(dir, secret)
	must(t, err)
	if !bytes.Equal(a.DER(), der) {
		t.Error("another certificate comes back")
	}
	o.Add(&control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: 720}, o.Two()...)
	certificate, err := a.Issue(o.ID, d.Hash, d.Key.PublicKey(), o.Now(), 720*time.Hour)
	must(t, err)
	o.Add(&control.Certificate{Device: d.Hash, Certificate: certificate}, d)
	longest, err := a.Issue(o.ID, d.Hash, d.Key.PublicKey(), o.Now().Add(3640*24*time.Hour), 720*time.Hour)
	must(t, err)
	o.SetClock(func() time.Time { return time.Now().Add(3640 * 24 * time.Hour) })
	o.Add(&control.Certificate{Device: d.Hash, Certificate: longest}, d) // cut to the authority's own life
	a.Erase()
	if der, err := a.Issue(o.ID, d.Hash, d.Key.PublicKey(), o.Now(), time.Hour); err == nil {
		if _, err := o.Try(&control.Certificate{Device: d.Hash, Certificate: der}, d); err == nil {
			t.Error("an erased key issues")
		}
	}
}

func TestFolder(t *testing.T) {
	dir, secret := t.TempDir(), custody.Key([custody.KeySize]byte{1})
	_, err := issuer.Create(dir, secret, codec.Sum("test"), time.Now())
	must(t, err)
	if _, err := issuer.Create(dir, secret, codec.Sum("test"), time.Now()); !errors.Is(err, issuer.ErrExist) {
		t.Errorf("a second authority: %v", err)
	}
	if _, err := issuer.Open(dir, custody.Key([custody.KeySize]byte{2})); !errors.Is(err, custody.ErrSecret) {
		t.Errorf("another key file: %v", err)
	}
	other := t.TempDir()
	_, err = issuer.Create(other, secret, codec.Sum("test"), time.Now())
	must(t, err)
	swapped, err := os.ReadFile(filepath.Join(other, "ca.crt"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), swapped, 0o600))
	if _, err := issuer.Open(dir, secret); err == nil {
		t.Error("opened with another authority's certificate")
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "two": append(swapped, swapped...), "a request": issuer.EncodeRequest([]byte{1}), "no PEM": []byte("x"),
		"too much": make([]byte, 1<<20),
	} {
		if _, err := issuer.DecodePEM(data); !errors.Is(err, issuer.ErrPEM) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
