package directory_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/directory"
	"chancery/internal/wire"
	"chancery/manifest"
)

func upload(number uint64, expires time.Time, n int) *wire.PreKeys {
	text := func(name string) []byte { return fmt.Appendf(nil, "%s %d", name, number) }
	p := &wire.PreKeys{Number: number, Expires: expires.UnixMilli(), Identity: text("identity"), Signed: text("signed"), Last: text("last")}
	for i := range n {
		p.OneTime = append(p.OneTime, text(fmt.Sprint("one ", i)))
		p.KEM = append(p.KEM, text(fmt.Sprint("kem ", i)))
	}
	return p
}

// TestPreKeys: each one-time prekey is handed out once, whatever is uploaded
// again, and nothing that has expired.
func TestPreKeys(t *testing.T) {
	d, alice, bob := stocked(t)
	now := time.Now()
	d.Config.Now = func() time.Time { return now }
	claim := func() string {
		t.Helper()
		raw, err := d.ClaimBundles(t.Context(), bob.Hash, []codec.Hash{alice.Hash})
		if err != nil {
			t.Fatal(err)
		}
		if len(raw[0]) == 0 {
			return "nothing"
		}
		var b wire.Bundle
		if err := codec.Decode(raw[0], &b); err != nil || b.Version != 1 {
			t.Fatal(b, err)
		}
		return fmt.Sprintf("%s, %s, %s", b.Signed, b.OneTime, b.KEM)
	}
	want := func(bundle string) {
		t.Helper()
		if got := claim(); got != bundle {
			t.Errorf("got %s, want %s", got, bundle)
		}
	}
	want("nothing")
	first := upload(1, now.Add(90*24*time.Hour), 2)
	for range 2 {
		if err := d.StockPreKeys(t.Context(), alice.Hash, first); err != nil {
			t.Fatal(err)
		}
	}
	want("signed 1, one 0 1, kem 0 1")
	if err := d.StockPreKeys(t.Context(), alice.Hash, first); err != nil {
		t.Fatal(err)
	}
	now = now.Add(84 * 24 * time.Hour) // too late to count, not to be handed out
	if left, err := d.PreKeys(t.Context(), alice.Hash); err != nil || left.Number != 1 || left.OneTime != 0 || left.KEM != 0 {
		t.Errorf("got %+v, %v", left, err)
	}
	want("signed 1, one 1 1, kem 1 1")
	want("signed 1, , last 1")
	now = now.Add(7 * 24 * time.Hour)
	want("nothing")

	for name, bad := range map[string]func(p *wire.PreKeys){
		"no number":           func(p *wire.PreKeys) { p.Number = 0 },
		"expired":             func(p *wire.PreKeys) { p.Expires = now.UnixMilli() },
		"living too long":     func(p *wire.PreKeys) { p.Expires = now.Add(92 * 24 * time.Hour).UnixMilli() },
		"more of one kind":    func(p *wire.PreKeys) { p.KEM = p.KEM[1:] },
		"a signed one alone":  func(p *wire.PreKeys) { p.Last = nil },
		"no identity":         func(p *wire.PreKeys) { p.Identity = nil },
		"a long identity":     func(p *wire.PreKeys) { p.Identity = make([]byte, 5<<10) },
		"an empty prekey":     func(p *wire.PreKeys) { p.OneTime[0] = nil },
		"a long prekey":       func(p *wire.PreKeys) { p.KEM[0] = make([]byte, 5<<10) },
		"more than one stock": func(p *wire.PreKeys) { *p = *upload(9, now.Add(time.Hour), 101) },
	} {
		p := upload(2, now.Add(90*24*time.Hour), 2)
		bad(p)
		if err := d.StockPreKeys(t.Context(), alice.Hash, p); !errors.Is(err, directory.ErrSize) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bare := upload(1, now.Add(time.Hour), 1)
	bare.Signed, bare.Last = nil, nil
	if err := d.StockPreKeys(t.Context(), bob.Hash, bare); !errors.Is(err, directory.ErrSize) {
		t.Errorf("one-time prekeys before a signed one: %v", err)
	}
	var err error
	for n := uint64(2); n < 9 && err == nil; n++ {
		err = d.StockPreKeys(t.Context(), alice.Hash, upload(n, now.Add(90*24*time.Hour), 100))
	}
	if !errors.Is(err, directory.ErrFull) {
		t.Errorf("got %v", err)
	}
	var busy *directory.Busy
	for range manifest.MaxRoster/manifest.MaxDirect + 1 {
		if _, err = d.ClaimBundles(t.Context(), bob.Hash, make([]codec.Hash, manifest.MaxDirect)); err != nil {
			break
		}
	}
	if !errors.As(err, &busy) {
		t.Errorf("got %v", err)
	}
}
