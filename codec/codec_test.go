package codec

import (
	"bytes"
	"errors"
	"testing"
)

type pair struct {
	_ struct{} `cbor:",toarray"`
	A Hash
	B []byte
	C uint64
	D string
}

func TestRoundTrip(t *testing.T) {
	in := pair{A: Sum("test"), B: []byte{1, 2}, C: 300, D: "é"}
	data := Encode(in)
	var out pair
	if err := Decode(data, &out); err != nil {
		t.Fatal(err)
	}
	if out.A != in.A || !bytes.Equal(out.B, in.B) || out.C != in.C || out.D != in.D {
		t.Fatalf("got %+v, want %+v", out, in)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := Encode(pair{B: []byte{}, D: "x"})
	for name, data := range map[string][]byte{
		"empty":             {},
		"trailing byte":     append(bytes.Clone(good), 0),
		"truncated":         good[:len(good)-1],
		"long integer":      bytes.Replace(good, []byte{0x00, 0x61}, []byte{0x18, 0x00, 0x61}, 1),
		"short hash":        append([]byte{0x84, 0x41, 0x01}, good[35:]...),
		"indefinite":        {0x9f, 0xff},
		"tag":               append([]byte{0xc0}, good...),
		"array of ints":     {0x84, 0x81, 0x01, 0x40, 0x00, 0x60},
		"null for bytes":    append(append(bytes.Clone(good[:35]), 0xf6), good[36:]...),
		"one field too few": append([]byte{0x83}, good[1:len(good)-2]...),
	} {
		var out pair
		if err := Decode(data, &out); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: got %v, want ErrEncoding", name, err)
		}
	}
}

func TestSignatures(t *testing.T) {
	key, other := NewPrivateKey(), NewPrivateKey()
	sig, _ := key.Sign("a", []byte("m"))
	if err := Verify(key.PublicKey(), "a", []byte("m"), sig); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"label":   Verify(key.PublicKey(), "b", []byte("m"), sig),
		"message": Verify(key.PublicKey(), "a", []byte("n"), sig),
		"key":     Verify(other.PublicKey(), "a", []byte("m"), sig),
		"short":   Verify(key.PublicKey(), "a", []byte("m"), sig[1:]),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v, want ErrSignature", name, err)
		}
	}
	msg, err := key.Sign1("a", []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := Open1(key.PublicKey(), "a", msg)
	if err != nil || string(payload) != "payload" {
		t.Fatalf("got %q, %v", payload, err)
	}
	if _, err := Open1(key.PublicKey(), "b", msg); !errors.Is(err, ErrSignature) {
		t.Errorf("label: got %v", err)
	}
	// No flipped bit anywhere in the message is accepted.
	for i := range msg {
		for bit := range 8 {
			bad := bytes.Clone(msg)
			bad[i] ^= 1 << bit
			if _, err := Open1(key.PublicKey(), "a", bad); err == nil {
				t.Fatalf("bit %d of byte %d flipped and accepted", bit, i)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(pair{A: Sum("x"), B: []byte("y"), C: 1 << 40, D: "z"}))
	f.Add(Encode(pair{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p pair
		if Decode(data, &p) == nil && !bytes.Equal(Encode(p), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
	})
}

func FuzzOpen1(f *testing.F) {
	key, err := PrivateKeyFromSeed(make([]byte, PrivateKeySize))
	if err != nil {
		f.Fatal(err)
	}
	msg, err := key.Sign1("fuzz", []byte("payload"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg)
	f.Add(msg[:len(msg)-1])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Open1(key.PublicKey(), "fuzz", data); err == nil && !bytes.Equal(data, msg) {
			t.Fatal("accepted a message that was never signed")
		}
	})
}
