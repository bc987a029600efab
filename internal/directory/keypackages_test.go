package directory_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/directory"
	"chancery/internal/orgtest"
	"chancery/internal/store"
	"chancery/manifest"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// stocked is a desk with two members' devices.
func stocked(t *testing.T) (d *desk, alice, bob *orgtest.Device) {
	t.Helper()
	o := orgtest.New(t)
	alice, bob = o.NewMember(), o.NewMember()
	d = newDesk(t, t.TempDir(), o)
	d.replayTo(t)
	return d, alice, bob
}

// claim takes one KeyPackage of a device for another.
func (d *desk) claim(t *testing.T, by, of *orgtest.Device) []byte {
	t.Helper()
	got, err := d.ClaimKeyPackages(t.Context(), by.Hash, []codec.Hash{of.Hash})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

// resign signs a KeyPackage again whose part was changed.
func resign(t *testing.T, o *orgtest.Org, key *codec.PrivateKey, p *tree.KeyPackage) []byte {
	t.Helper()
	suite, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := suite.NewSigner(key.Seed())
	if err != nil {
		t.Fatal(err)
	}
	if p.Leaf.Signature, err = signer.Sign(tree.LabelLeafNode, p.Leaf.SignedContent(nil, 0)); err != nil {
		t.Fatal(err)
	}
	if p.Signature, err = signer.Sign(tree.LabelKeyPackage, p.SignedContent()); err != nil {
		t.Fatal(err)
	}
	return tree.MarshalMessage(p)
}

// A device publishes KeyPackages of its own key and leaf that are good now, and
// nothing else.
func TestUploadsAreJudged(t *testing.T) {
	d, alice, bob := stocked(t)
	o := d.org
	good := o.KeyPackage(alice).Publish(o)
	if err := d.StockKeyPackages(t.Context(), alice.Hash, [][]byte{good}); err != nil {
		t.Fatal(err)
	}
	stock, err := tree.ParseMessage(bytes.Clone(good))
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(k *orgtest.KeyPackage)) []byte {
		k := o.KeyPackage(alice)
		f(k)
		return k.Publish(o)
	}
	forge := func(f func(p *tree.KeyPackage)) []byte {
		p := o.KeyPackage(alice).Make(o)
		f(p)
		return resign(t, o, alice.Key, p)
	}
	flipped := o.KeyPackage(alice).Publish(o)
	flipped[len(flipped)-1] ^= 1
	bad := map[string][]byte{
		"no MLSMessage":            []byte("package"),
		"bytes behind it":          append(slices.Clone(o.KeyPackage(alice).Publish(o)), 0),
		"another MLSMessage":       tree.MarshalMessage(&tree.Welcome{CipherSuite: cipher.X25519AES128SHA256Ed25519}),
		"a signature that is none": flipped,
		"another device's":         o.KeyPackage(bob).Publish(o),
		"another's credential":     change(func(k *orgtest.KeyPackage) { k.Credential = bob.Hash[:] }),
		"another's key":            change(func(k *orgtest.KeyPackage) { k.Signer = bob.Key }),
		"a credential too short":   change(func(k *orgtest.KeyPackage) { k.Credential = alice.Hash[:31] }),
		"expired":                  change(func(k *orgtest.KeyPackage) { k.NotAfter = o.Now().Add(-time.Minute) }),
		"not valid yet":            change(func(k *orgtest.KeyPackage) { k.NotBefore = o.Now().Add(time.Minute) }),
		"too long a life":          change(func(k *orgtest.KeyPackage) { k.NotAfter = k.NotAfter.Add(time.Second) }),
		"a life of minus one":      change(func(k *orgtest.KeyPackage) { k.NotAfter = time.Unix(-1, 0) }),
		"another suite":            forge(func(p *tree.KeyPackage) { p.CipherSuite = 2 }),
		"an init key that is none": forge(func(p *tree.KeyPackage) { p.InitKey = p.InitKey[1:] }),
		"one key for two":          forge(func(p *tree.KeyPackage) { p.InitKey = p.Leaf.EncryptionKey }),
		"a repeated init key":      forge(func(p *tree.KeyPackage) { p.InitKey = stock.(*tree.KeyPackage).InitKey }),
		"a repeated leaf key":      forge(func(p *tree.KeyPackage) { p.Leaf.EncryptionKey = stock.(*tree.KeyPackage).Leaf.EncryptionKey }),
		"an init key as leaf key":  forge(func(p *tree.KeyPackage) { p.Leaf.EncryptionKey = stock.(*tree.KeyPackage).InitKey }),
	}
	for name, raw := range bad {
		// One bad one keeps the good ones beside it out too.
		err := d.StockKeyPackages(t.Context(), alice.Hash, [][]byte{o.KeyPackage(alice).Publish(o), raw})
		if !errors.Is(err, directory.ErrKeyPackage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := d.KeyPackages(t.Context(), alice.Hash); err != nil || got.Left != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	o.Add(&control.Revocation{Device: bob.Hash}, o.Officers[0])
	d.replayTo(t)
	if err := d.StockKeyPackages(t.Context(), bob.Hash, [][]byte{o.KeyPackage(bob).Publish(o)}); !errors.Is(err, directory.ErrKeyPackage) {
		t.Errorf("a revoked device's: %v", err)
	}
}

// Each is given out once, whatever is uploaded again; then the one of last
// resort, as often as it is asked for.
func TestClaims(t *testing.T) {
	d, alice, bob := stocked(t)
	o := d.org
	one, two := o.KeyPackage(alice).Publish(o), o.KeyPackage(alice).Publish(o)
	resort := o.KeyPackage(alice)
	resort.LastResort = true
	last := resort.Publish(o)
	upload := func() {
		t.Helper()
		if err := d.StockKeyPackages(t.Context(), alice.Hash, [][]byte{one, last, two}); err != nil {
			t.Fatal(err)
		}
	}
	upload()
	for i, want := range [][]byte{one, two, last, last} {
		if got := d.claim(t, bob, alice); !bytes.Equal(got, want) {
			t.Fatalf("claim %d gave another", i)
		}
		upload()
	}
	if got, err := d.KeyPackages(t.Context(), alice.Hash); err != nil || got.Left != 0 || !got.Used {
		t.Fatalf("%+v, %v", got, err)
	}
	next := resort.Publish(o)
	if err := d.StockKeyPackages(t.Context(), alice.Hash, [][]byte{next}); err != nil {
		t.Fatal(err)
	}
	if got := d.claim(t, bob, alice); !bytes.Equal(got, next) {
		t.Fatal("the one of last resort wasn't replaced")
	}
	if got := d.claim(t, alice, bob); got != nil {
		t.Fatal("a KeyPackage of a device that has none")
	}
	o.Add(&control.Revocation{Device: alice.Hash}, o.Officers[0])
	d.replayTo(t)
	if got := d.claim(t, bob, alice); got != nil {
		t.Fatal("a KeyPackage of a revoked device")
	}
}

// What has expired, and what a version that judged nothing has stocked, is
// erased and not given out.
func TestOldStock(t *testing.T) {
	d, alice, bob := stocked(t)
	o := d.org
	short := o.KeyPackage(alice)
	short.NotAfter = short.NotBefore.Add(time.Hour + 30*time.Second)
	lasting, resort := o.KeyPackage(alice).Publish(o), o.KeyPackage(alice)
	resort.LastResort, resort.NotAfter = true, short.NotAfter
	unknowing := o.KeyPackage(alice) // of an earlier version
	unknowing.Extensions = nil
	if err := d.StockKeyPackages(t.Context(), alice.Hash, [][]byte{short.Publish(o), unknowing.Publish(o), lasting, resort.Publish(o)}); err != nil {
		t.Fatal(err)
	}
	if err := d.store.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutKeyPackage(&store.KeyPackage{Device: alice.Hash, Package: []byte("junk"), NotAfter: time.Now().Add(time.Hour)}, time.Now())
	}); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	d.Config.Now = func() time.Time { return later }
	if got := d.claim(t, bob, alice); !bytes.Equal(got, lasting) {
		t.Fatal("not the one that is still good")
	}
	for range 2 {
		if got := d.claim(t, bob, alice); got != nil {
			t.Fatal("given out though it has expired, or is none")
		}
	}
	if got, err := d.KeyPackages(t.Context(), alice.Hash); err != nil || got.Left != 0 || got.LastResort {
		t.Fatalf("%+v, %v", got, err)
	}
}

// A device that empties others' stocks is told when to come back, and others
// aren't.
func TestClaimsAreBounded(t *testing.T) {
	d, alice, bob := stocked(t)
	at := time.Now()
	d.Config.Now = func() time.Time { return at }
	many := make([]codec.Hash, manifest.MaxRoster)
	if _, err := d.ClaimKeyPackages(t.Context(), bob.Hash, many); err != nil {
		t.Fatal(err)
	}
	var busy *directory.Busy
	if _, err := d.ClaimKeyPackages(t.Context(), bob.Hash, many[:10]); !errors.As(err, &busy) || busy.Seconds() != 10 {
		t.Fatalf("got %v", err)
	}
	if _, err := d.ClaimKeyPackages(t.Context(), alice.Hash, many[:10]); err != nil {
		t.Fatalf("another device: %v", err)
	}
	at = at.Add(-time.Hour) // a clock that is set back gives nothing
	if _, err := d.ClaimKeyPackages(t.Context(), bob.Hash, many[:1]); err == nil {
		t.Fatal("more for a clock that goes backwards")
	}
	at = at.Add(time.Hour + 10*time.Second)
	if _, err := d.ClaimKeyPackages(t.Context(), bob.Hash, many[:10]); err != nil {
		t.Fatalf("ten seconds later: %v", err)
	}
	if _, err := d.ClaimKeyPackages(t.Context(), bob.Hash, many[:1]); !errors.As(err, &busy) {
		t.Fatalf("got %v", err)
	}
}
