package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"chancery/codec"
	"chancery/internal/published"
)

const vectorFile = "history.json"

// vectors are a request and an answer to it. Sealing draws its own randomness,
// so that they open again and can't be made again.
type vectors struct {
	Description string          `json:"description"`
	New         codec.PublicKey `json:"new_device"`
	Old         codec.PublicKey `json:"old_device"`
	Key         published.Hex   `json:"private_key"` // of the request
	Request     published.Hex   `json:"request"`
	RequestHash codec.Hash      `json:"request_hash"`
	Chunks      []vector        `json:"chunks"`
}

// vector is a chunk with what it opens to, or with why it doesn't.
type vector struct {
	Name  string        `json:"name"`
	Chunk published.Hex `json:"chunk"`
	Body  published.Hex `json:"body,omitempty"`
	Fault string        `json:"fault,omitempty"` // signature, form or sealed
}

func makeVectors(t testing.TB) []byte {
	old, young := codec.NewPrivateKey(), codec.NewPrivateKey()
	private, public, at := asked(t)
	request, err := SignRequest(young, &Request{Organisation: at.Organisation, Device: at.To, Key: public, Nonce: codec.NewID()})
	if err != nil {
		t.Fatal(err)
	}
	v := &vectors{
		Description: "A request of spec/history.md by a new device, and chunks of an old device's answer: with their bodies, or with one fault each.",
		New:         young.PublicKey(), Old: old.PublicKey(), Key: private, Request: request, RequestHash: RequestHash(request),
	}
	at.Request, at.Number, at.Last = v.RequestHash, 0, false
	seal := func(name string, at Place, b *Body) []byte {
		raw, err := Seal(old, public, at, b)
		if err != nil {
			t.Fatal(err)
		}
		v.Chunks = append(v.Chunks, vector{Name: name, Chunk: raw, Body: codec.Encode(b)})
		return raw
	}
	first := seal("first of two", at, body("one", "two"))
	last := at
	last.Number, last.Last = 1, true
	seal("last of two, with an entry that was too long", last, &Body{Name: "talk", Entries: []Entry{{Position: 9, Core: codec.Sum("core")}}})
	end := at
	end.Conversation, end.Last = codec.ID{}, true
	seal("end", end, &Body{Conversations: []Extent{{Conversation: at.Conversation, Chunks: 2}}})

	fault := func(name, why string, by *codec.PrivateKey, change func(c *Chunk)) {
		c, err := ParseChunk(first)
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		raw, err := by.Sign1(labelChunk, codec.Encode(c))
		if err != nil {
			t.Fatal(err)
		}
		v.Chunks = append(v.Chunks, vector{Name: name, Chunk: raw, Fault: why})
	}
	fault("signed by the new device", "signature", young, func(*Chunk) {})
	fault("another number", "sealed", old, func(c *Chunk) { c.Place.Number++ })
	fault("another conversation", "sealed", old, func(c *Chunk) { c.Place.Conversation[0] ^= 1 })
	fault("said to be the last", "sealed", old, func(c *Chunk) { c.Place.Last = true })
	fault("a bit of the ciphertext", "sealed", old, func(c *Chunk) { c.Sealed[0] ^= 1 })
	fault("a short encapsulation", "form", old, func(c *Chunk) { c.Enc = c.Enc[1:] })
	fault("an end that isn't the last", "form", old, func(c *Chunk) { c.Place.Conversation = codec.ID{} })
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func TestVectors(t *testing.T) {
	published.Update(t, vectorFile, func() []byte { return makeVectors(t) })
	var v vectors
	if err := json.Unmarshal(published.Read(t, vectorFile), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Chunks) != 10 {
		t.Errorf("%d chunks", len(v.Chunks))
	}
	if _, err := ParseRequest(v.Request); err != nil {
		t.Error(err)
	}
	if err := VerifyRequest(v.New, v.Request); err != nil || RequestHash(v.Request) != v.RequestHash {
		t.Errorf("request: %v", err)
	}
	for _, c := range v.Chunks {
		_, b, err := Open(v.Old, v.Key, c.Chunk)
		switch c.Fault {
		case "":
			if err != nil || !bytes.Equal(codec.Encode(b), c.Body) {
				t.Errorf("%s: %v", c.Name, err)
			}
		case "signature":
			if !errors.Is(err, codec.ErrSignature) {
				t.Errorf("%s: %v", c.Name, err)
			}
		case "form":
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", c.Name, err)
			}
		default:
			if err == nil || errors.Is(err, codec.ErrSignature) || errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}
