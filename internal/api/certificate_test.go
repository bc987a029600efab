package api_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/issuer"
	"chancery/internal/wire"
)

// TestCertificate: the server certifies live devices for the keys that the log
// has, once officers have named its authority, and nobody else.
func TestCertificate(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	refused := func(when, why string) {
		t.Helper()
		var p *wire.Problem
		if _, err := s.as(alice).Certificate(t.Context()); !errors.As(err, &p) || p.Status != http.StatusNotFound || !strings.Contains(p.Detail, why) || p.Hint == "" {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("without an authority", "no certificate authority")
	secret, err := custody.CreateKeyFile(filepath.Join(s.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := issuer.Create(s.dir, secret, s.ID, s.Now()) // while the server runs
	if err != nil {
		t.Fatal(err)
	}
	refused("before the officers have named it", "the log doesn't name it")
	s.Add(&control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: 48}, s.Two()...)
	certificate, err := s.as(alice).Certificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Try(&control.Certificate{Device: bob.Hash, Certificate: certificate}, bob); !errors.Is(err, control.ErrConflict) {
		t.Errorf("Bob's device logs Alice's: %v", err)
	}
	s.Add(&control.Certificate{Device: alice.Hash, Certificate: certificate}, alice)
	if d, _ := s.State.Device(alice.Hash); d.Certificates()[0].NotAfter-d.Certificates()[0].NotBefore != 48*3_600_000 {
		t.Errorf("got %+v", d.Certificates())
	}
	s.Add(&control.Revocation{Device: bob.Hash, Reason: "lost"}, s.Officers[0])
	if _, err := s.as(bob).Certificate(t.Context()); err == nil {
		t.Error("a revoked device was certified")
	}
	s.Add(&control.Authority{Nonce: codec.NewID(), Certificate: der, Remove: true}, s.Two()...)
	refused("after its end", "not any more")
}
