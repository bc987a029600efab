package manifest_test

import (
	"bytes"
	"errors"
	"testing"

	"chancery/codec"
	"chancery/manifest"
)

func TestClaim(t *testing.T) {
	key := codec.NewPrivateKey()
	claim := manifest.Claim{
		Device: codec.Sum("test"), ControlSize: 7, ControlRoot: codec.Sum("root"), Package: manifest.PackageHash([]byte("package")), Time: 1,
	}
	signed, err := manifest.SignClaim(key, &claim)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := manifest.OpenClaim(key.PublicKey(), signed); err != nil || *got != claim {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := manifest.OpenClaim(codec.NewPrivateKey().PublicKey(), signed); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	for i := range signed {
		changed := bytes.Clone(signed)
		changed[i] ^= 1
		if _, err := manifest.OpenClaim(key.PublicKey(), changed); err == nil {
			t.Fatalf("byte %d changed, and it opens", i)
		}
	}
	if _, err := manifest.OpenClaim(key.PublicKey(), make([]byte, 1<<20)); !errors.Is(err, codec.ErrSize) {
		t.Errorf("a megabyte: %v", err)
	}
	// The receipt key's other words are no claims.
	receipt, err := manifest.SignReceipt(key, &manifest.Receipt{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.OpenClaim(key.PublicKey(), receipt); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("a receipt: %v", err)
	}
	claim.ControlSize = 0
	if signed, err = manifest.SignClaim(key, &claim); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.OpenClaim(key.PublicKey(), signed); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("under no log: %v", err)
	}
}
