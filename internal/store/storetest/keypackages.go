package storetest

import (
	"errors"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/store"
)

// keyPackage is one that lives for an hour.
func keyPackage(device codec.Hash, pkg string, keys ...string) *store.KeyPackage {
	p := &store.KeyPackage{Device: device, Package: []byte(pkg), NotAfter: time.Now().Add(time.Hour)}
	for _, k := range keys {
		p.Keys = append(p.Keys, []byte(k))
	}
	return p
}

func testKeyPackages(t *testing.T, open Open) {
	s, device, now := start(t, open, t.TempDir(), nil), codec.Sum("device"), time.Now()
	put := func(p *store.KeyPackage, at time.Time) error {
		return s.Update(t.Context(), func(tx store.Tx) error { return tx.PutKeyPackage(p, at) })
	}
	take := func(how func(tx store.Tx) ([]byte, error)) string {
		t.Helper()
		var pkg []byte
		if err := s.Update(t.Context(), func(tx store.Tx) (err error) { pkg, err = how(tx); return err }); err != nil {
			t.Fatal(err)
		}
		return string(pkg)
	}
	single := func(tx store.Tx) ([]byte, error) { return tx.TakeKeyPackage(device) }
	last := func(tx store.Tx) ([]byte, error) { return tx.LastResort(device) }
	stock := func(at time.Time) store.Stock {
		t.Helper()
		got, err := s.KeyPackages(t.Context(), device, at)
		if err != nil {
			t.Fatal(err)
		}
		return *got
	}
	for _, p := range []*store.KeyPackage{
		keyPackage(device, "a", "a1", "a2"), keyPackage(device, "b", "b1", "b2"), keyPackage(device, "a", "a1", "a2"),
	} {
		if err := put(p, now); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*store.KeyPackage{keyPackage(device, "c", "c1", "a2"), keyPackage(device, "c", "b1", "c2")} {
		if err := put(p, now); !errors.Is(err, store.ErrRepeated) {
			t.Fatalf("a repeated key: %v", err)
		}
	}
	if err := put(keyPackage(codec.Sum("another"), "a", "a1", "a2"), now); err != nil {
		t.Fatalf("another device's: %v", err)
	}
	if got := stock(now); got != (store.Stock{Left: 2, Keys: 4}) {
		t.Fatalf("%+v", got)
	}
	if a, b, c := take(single), take(single), take(single); a != "a" || b != "b" || c != "" {
		t.Fatalf("got %q, %q, %q", a, b, c)
	}
	// What was taken isn't brought back by being stocked again.
	if err := put(keyPackage(device, "a", "a1", "a2"), now); err != nil || stock(now).Left != 0 {
		t.Fatalf("%v, %+v", err, stock(now))
	}
	if got := take(last); got != "" {
		t.Fatalf("last resort %q of none", got)
	}
	for _, name := range []string{"x", "y"} {
		p := keyPackage(device, name, name+"1", name+"2")
		p.LastResort = true
		if err := put(p, now); err != nil {
			t.Fatal(err)
		}
		if got := stock(now); !got.LastResort || got.Used || got.Left != 0 {
			t.Fatalf("%+v", got)
		}
		if a, b := take(last), take(last); a != name || b != name {
			t.Fatalf("got %q, %q", a, b)
		}
		if got := stock(now); !got.Used {
			t.Fatalf("%+v", got)
		}
	}
	// All expire, and then their keys are free.
	later := now.Add(2 * time.Hour)
	if err := put(keyPackage(device, "d", "d1", "d2"), now); err != nil {
		t.Fatal(err)
	}
	if got := stock(later); got.Left != 0 || got.LastResort || got.Used {
		t.Fatalf("%+v", got)
	}
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.DropKeyPackages(device, later) }); err != nil {
		t.Fatal(err)
	}
	if got := stock(now); got != (store.Stock{}) {
		t.Fatalf("%+v", got)
	}
	if a, x := take(single), take(last); a != "" || x != "" {
		t.Fatalf("got %q, %q", a, x)
	}
}
