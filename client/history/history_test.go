package history

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/envelope"
)

// asked is a request with its key, and a place of an answer.
func asked(t testing.TB) (private, public []byte, at Place) {
	t.Helper()
	private, public, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	at = Place{
		Organisation: codec.Sum("org"), From: codec.Sum("old"), To: codec.Sum("new"), Request: codec.Sum("request"),
		Stream: codec.NewID(), Conversation: codec.NewID(), Number: 3, Last: true,
	}
	return private, public, at
}

func record(text string) []byte {
	return (&envelope.Record{ID: "1", Sender: "Alice", Conversation: codec.NewID(), Text: text}).Encode()
}

func body(texts ...string) *Body {
	b := &Body{Name: "talk"}
	for i, text := range texts {
		b.Entries = append(b.Entries, Entry{Position: uint64(i) * 2, Leaf: 7, Core: codec.Sum("core"), Member: codec.NewID(), Archived: true, Record: record(text)})
	}
	return b
}

func TestRequest(t *testing.T) {
	_, public, at := asked(t)
	device, other := codec.NewPrivateKey(), codec.NewPrivateKey()
	good := Request{Organisation: at.Organisation, Device: at.To, Key: public, Nonce: codec.NewID()}
	raw, err := SignRequest(device, &good)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRequest(raw)
	if err != nil || !bytes.Equal(codec.Encode(got), codec.Encode(&good)) {
		t.Fatal(got, err)
	}
	if err := VerifyRequest(device.PublicKey(), raw); err != nil {
		t.Fatal(err)
	}
	if err := VerifyRequest(other.PublicKey(), raw); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another device's: %v", err)
	}
	for name, key := range map[string][]byte{"none": nil, "short": public[1:], "long": append(bytes.Clone(public), 0), "no point": bytes.Repeat([]byte{255}, keySize)} {
		bad := good
		bad.Key = key
		raw, err := SignRequest(device, &bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("key %s: %v", name, err)
		}
	}
	if _, err := ParseRequest(make([]byte, MaxRequest+1)); !errors.Is(err, codec.ErrSize) {
		t.Error(err)
	}
}

// A chunk opens for its place, under its sender's signature and for the key that
// asked, and no otherwise.
func TestChunkIsBound(t *testing.T) {
	private, public, at := asked(t)
	device := codec.NewPrivateKey()
	raw, err := Seal(device, public, at, body("one", "two"))
	if err != nil {
		t.Fatal(err)
	}
	c, b, err := Open(device.PublicKey(), private, raw)
	if err != nil || c.Place != at || len(b.Entries) != 2 || b.Name != "talk" {
		t.Fatal(c, b, err)
	}
	if _, _, err := Open(codec.NewPrivateKey().PublicKey(), private, raw); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another device's: %v", err)
	}
	otherKey, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(device.PublicKey(), otherKey, raw); err == nil {
		t.Error("opened with another key")
	}
	for name, change := range map[string]func(p *Place){
		"organisation": func(p *Place) { p.Organisation = codec.Sum("x") },
		"from":         func(p *Place) { p.From = codec.Sum("x") },
		"to":           func(p *Place) { p.To = codec.Sum("x") },
		"request":      func(p *Place) { p.Request = codec.Sum("x") },
		"stream":       func(p *Place) { p.Stream = codec.NewID() },
		"conversation": func(p *Place) { p.Conversation = codec.NewID() },
		"number":       func(p *Place) { p.Number++ },
		"last":         func(p *Place) { p.Last = false },
	} {
		moved := *c
		change(&moved.Place)
		// Even where the sending device itself signs for it.
		signed, err := device.Sign1(labelChunk, codec.Encode(&moved))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(device.PublicKey(), private, signed); err == nil {
			t.Errorf("opened with another %s", name)
		}
	}
}

func TestBodiesRefused(t *testing.T) {
	_, public, at := asked(t)
	end := at
	end.Conversation, end.Number = codec.ID{}, 0
	device := codec.NewPrivateKey()
	for name, c := range map[string]struct {
		at   Place
		body *Body
	}{
		"positions that fall": {at, &Body{Entries: []Entry{{Position: 1}, {Position: 1}}}},
		"a record of nothing": {at, &Body{Entries: []Entry{{Record: []byte("x")}}}},
		"too many entries":    {at, &Body{Entries: make([]Entry, MaxEntries+1)}},
		"too long a name":     {at, &Body{Name: strings.Repeat("x", maxName+1)}},
		"too long":            {at, body(strings.Repeat("x", 600<<10), strings.Repeat("y", 600<<10))},
		"an end in between":   {at, &Body{Conversations: make([]Extent, 1)}},
		"entries at the end":  {end, body("one")},
	} {
		if _, err := Seal(device, public, c.at, c.body); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	longest := body(strings.Repeat("x", 1000<<10))
	raw, err := Seal(device, public, at, longest)
	if err != nil || len(raw) > MaxChunk {
		t.Errorf("a chunk of %d bytes: %v", len(raw), err)
	}
}

func FuzzChunk(f *testing.F) {
	_, public, at := asked(f)
	device := codec.NewPrivateKey()
	raw, err := Seal(device, public, at, body("one"))
	if err != nil {
		f.Fatal(err)
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		raw, err := device.Sign1(labelChunk, payload)
		if err != nil {
			return
		}
		if c, err := ParseChunk(raw); err == nil && !bytes.Equal(codec.Encode(c), payload) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add(codec.Encode(body("one", "two")), false)
	f.Add(codec.Encode(&Body{Conversations: []Extent{{Conversation: codec.NewID(), Chunks: 2}}}), true)
	f.Fuzz(func(t *testing.T, plain []byte, end bool) {
		if b, err := parseBody(plain, end); err == nil && !bytes.Equal(codec.Encode(b), plain) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzRequest(f *testing.F) {
	_, public, at := asked(f)
	device := codec.NewPrivateKey()
	f.Add(codec.Encode(&Request{Organisation: at.Organisation, Device: at.To, Key: public}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		raw, err := device.Sign1(labelRequest, payload)
		if err != nil {
			return
		}
		if r, err := ParseRequest(raw); err == nil && !bytes.Equal(codec.Encode(r), payload) {
			t.Fatal("a second encoding was accepted")
		}
	})
}
