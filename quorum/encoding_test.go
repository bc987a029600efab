package quorum

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"

	"chancery/codec"

	"filippo.io/nistec"
)

func TestPublicKeyRefuses(t *testing.T) {
	f := split(t, "key", 3, 5)
	change := func(edit func(*PublicKey)) *PublicKey {
		k := *f.key
		k.Shares = slices.Clone(k.Shares)
		edit(&k)
		return &k
	}
	other := baseMult(t, number("other"))
	flat := split(t, "flat", 2, 5)
	flat.key.T = 3
	for name, c := range map[string]struct {
		key  *PublicKey
		want error
	}{
		"empty":            {&PublicKey{}, ErrThreshold},
		"t 0":              {change(func(k *PublicKey) { k.T = 0 }), ErrThreshold},
		"n below 2t-1":     {change(func(k *PublicKey) { k.T = 4 }), ErrThreshold},
		"n too large":      {change(func(k *PublicKey) { k.Shares = make([]Point, MaxHolders+1) }), ErrThreshold},
		"t negative":       {change(func(k *PublicKey) { k.T = -3 }), ErrThreshold},
		"other key":        {change(func(k *PublicKey) { k.Key = other }), ErrKey},
		"key no point":     {change(func(k *PublicKey) { k.Key = Point{} }), ErrPoint},
		"first share":      {change(func(k *PublicKey) { k.Shares[0] = other }), ErrKey},
		"last share":       {change(func(k *PublicKey) { k.Shares[4] = other }), ErrKey},
		"share no point":   {change(func(k *PublicKey) { k.Shares[2] = Point{4} }), ErrPoint},
		"swapped":          {change(func(k *PublicKey) { k.Shares[3], k.Shares[4] = k.Shares[4], k.Shares[3] }), ErrKey},
		"threshold raised": {flat.key, ErrKey},
		"threshold cut":    {change(func(k *PublicKey) { k.T = 2 }), ErrKey},
	} {
		if err := c.key.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if err := split(t, "one", 1, 3).key.Validate(); err != nil {
		t.Errorf("1 of 3: %v", err)
	}
}

func badPoints(t testing.TB) map[string][]byte {
	g := Generator()
	off := g
	off[64] ^= 1
	p := elliptic.P256().Params().P
	large := g // x + p has no 32-byte form for G; y = p is out of range
	p.FillBytes(large[33:])
	twist := Point{4}
	twist[32] = 1 // x = 1, y = 0
	hybrid := g
	hybrid[0] = 6 + g[64]&1
	return map[string][]byte{
		"empty":      {},
		"infinity":   {0},
		"long zero":  make([]byte, PointSize),
		"off curve":  off[:],
		"y = p":      large[:],
		"twist":      twist[:],
		"hybrid":     hybrid[:],
		"compressed": nistec.NewP256Point().SetGenerator().BytesCompressed(),
		"short":      g[:64],
		"long":       append(g[:], 0),
	}
}

func TestPointsRefused(t *testing.T) {
	f := split(t, "points", 1, 1)
	for name, b := range badPoints(t) {
		if _, err := ParsePoint(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: got %v, want ErrPoint", name, err)
		}
		if len(b) != PointSize {
			continue
		}
		bad := Point(b)
		if _, err := f.shares[0].Partial(bad); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: partial of it: %v", name, err)
		}
		if _, err := f.shares[0].Prove(bad, Generator(), nil); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: proof about it: %v", name, err)
		}
		if _, err := NewKey(f.key, bad, []Answer{{Holder: 1, Point: Generator()}}); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: key for it: %v", name, err)
		}
	}
}

func TestScalarsRefused(t *testing.T) {
	n := groupOrder()
	for name, b := range map[string][]byte{
		"empty": {},
		"short": make([]byte, 31),
		"long":  append(scalarBytes(big.NewInt(1)), 0),
		"zero":  make([]byte, 32),
		"n":     n.FillBytes(make([]byte, 32)),
		"n + 1": new(big.Int).Add(n, big.NewInt(1)).FillBytes(make([]byte, 32)),
		"ones":  bytes.Repeat([]byte{0xff}, 32),
	} {
		if _, err := ScalarBaseMult(b); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: got %v, want ErrScalar", name, err)
		}
		if _, err := NewShare(1, b); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: got %v, want ErrScalar", name, err)
		}
	}
	for _, i := range []int{-1, 0, MaxHolders + 1} {
		if _, err := NewShare(i, scalarBytes(big.NewInt(1))); err == nil {
			t.Errorf("share %d accepted", i)
		}
	}
	last := new(big.Int).Sub(n, big.NewInt(1))
	if _, err := NewShare(MaxHolders, scalarBytes(last)); err != nil {
		t.Error(err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	f := split(t, "printed", 1, 1)
	s := f.shares[0]
	E := baseMult(t, number("e"))
	key, err := NewKey(f.key, E, f.answers(t, E))
	if err != nil {
		t.Fatal(err)
	}
	c, keys := ceremony(t, 1, 1)
	p := participants(t, c, keys)[0]
	guard := &Guard{ct: []byte("ciphertext"), ss: s.Bytes()}
	secrets := [][]byte{s.Bytes(), key.x, p.seed}
	var out bytes.Buffer
	for _, v := range []any{s, *s, key, *key, guard, *guard, p, *p, struct{ S *Share }{s}, struct{ S Share }{*s}, []*Share{s}, []any{*key}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			fmt.Fprintf(&out, format+"\n", v)
		}
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "share", s, "value", *s)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "share", s, "value", *s)
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	out.Write(codec.Encode(s))
	printed := strings.ToLower(out.String())
	for _, secret := range secrets {
		for _, form := range []string{fmt.Sprintf("%x", secret[:4]), fmt.Sprintf("%d %d %d", secret[0], secret[1], secret[2]), fmt.Sprintf("%#x, %#x, %#x", secret[0], secret[1], secret[2]), string(secret[:4])} {
			if strings.Contains(printed, strings.ToLower(form)) {
				t.Errorf("%q is in the output", form)
			}
		}
	}
	if !strings.Contains(printed, "redacted") {
		t.Error("nothing was redacted")
	}
}

func TestErased(t *testing.T) {
	f := split(t, "erased", 1, 1)
	s := f.shares[0]
	E := baseMult(t, number("e"))
	scalar := s.scalar
	key, err := NewKey(f.key, E, f.answers(t, E))
	if err != nil {
		t.Fatal(err)
	}
	remote := key.e
	s.Erase()
	key.Erase()
	if !bytes.Equal(scalar, make([]byte, ScalarSize)) || s.Bytes() != nil {
		t.Error("scalar is still there")
	}
	if _, err := s.Partial(E); !errors.Is(err, ErrErased) {
		t.Errorf("partial: got %v", err)
	}
	if _, err := s.Prove(E, E, nil); !errors.Is(err, ErrErased) {
		t.Errorf("proof: got %v", err)
	}
	if _, err := key.ECDH(remote); !errors.Is(err, ErrErased) {
		t.Errorf("key: got %v", err)
	}
}

func FuzzParsePoint(f *testing.F) {
	g := Generator()
	f.Add(g[:])
	for _, b := range badPoints(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePoint(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p[:], b) {
			t.Fatal("parsed into something else")
		}
		//lint:ignore SA1019 an independent parser
		if x, y := elliptic.Unmarshal(elliptic.P256(), b); x == nil || y == nil {
			t.Fatal("accepted what crypto/elliptic refuses")
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	for _, s := range [][2]int{{1, 1}, {2, 3}, {3, 5}} {
		f.Add(codec.Encode(split(f, "fuzz", s[0], s[1]).key))
	}
	f.Add([]byte{0x83, 0x01, 0x40, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var k PublicKey
		if codec.Decode(b, &k) != nil {
			return
		}
		if !bytes.Equal(codec.Encode(&k), b) {
			t.Fatal("not canonical")
		}
		if k.Validate() == nil && k.N() < 2*k.T-1 {
			t.Fatal("accepted too few keyholders")
		}
	})
}
