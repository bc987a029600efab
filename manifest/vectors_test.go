package manifest

import (
	"bytes"
	"encoding/json"
	"testing"

	"chancery/codec"
	"chancery/internal/published"
)

const vectorFile = "manifest.json"

type vectors struct {
	Description string          `json:"description"`
	Device      codec.PublicKey `json:"device"`
	Server      codec.PublicKey `json:"server"`
	Structures  []vector        `json:"structures"`
	Core        codec.Hash      `json:"core"`
	Associated  published.Hex   `json:"associated_data"`
	Roster      []codec.Hash    `json:"roster"`
	RosterRoot  codec.Hash      `json:"roster_root"`
	Object      codec.Hash      `json:"leaf_object"`
	Leaf        codec.Hash      `json:"leaf"`
	Heads       published.Hex   `json:"heads"`
	HeadsHash   codec.Hash      `json:"heads_hash"`
}

// vector is a signed structure: COSE_Sign1 of Body under the label, external data
// "chancery/" + label + "/v1".
type vector struct {
	Name   string        `json:"name"`
	Signer string        `json:"signer"`
	Body   published.Hex `json:"body"`
	Signed published.Hex `json:"signed"`
	Hash   codec.Hash    `json:"hash"` // H(name, signed), by which others name it
}

func makeVectors(t testing.TB) *vectors {
	s := newSample(t)
	roster := NewRoster([]codec.Hash{hash("device"), hash("other")})
	heads := &Heads{Time: 1_763_208_000_000, Heads: []Head{{Conversation: id("conversation"), Position: 5, Leaf: hash("leaf 5")}}}
	receipt, err := OpenReceipt(s.server.PublicKey(), s.receipt)
	must(t, err)
	v := &vectors{
		Description: "Signed structures of spec/manifest.md. The device's key is Ed25519 of the seed 01…01, the server's of 02…02; Ed25519 and the encodings are deterministic, so that all of it can be made again.",
		Device:      s.device.PublicKey(), Server: s.server.PublicKey(),
		Core: s.manifest.CoreHash(), Associated: AuthenticatedData(s.manifest.CoreHash()),
		Roster: roster, RosterRoot: roster.Root(), Object: receipt.Object, Leaf: receipt.Leaf(),
		Heads: codec.Encode(heads), HeadsHash: heads.Hash(),
	}
	for _, f := range s.formats() {
		payload, err := codec.PeekUnverifiedPayload(f.raw)
		must(t, err)
		signer := "device"
		if f.key == s.server {
			signer = "server"
		}
		v.Structures = append(v.Structures, vector{f.label, signer, payload, f.raw, codec.Sum(f.label, f.raw)})
	}
	return v
}

func TestVectors(t *testing.T) {
	stored := published.Same(t, vectorFile, makeVectors(t), "  ")
	var v vectors
	must(t, json.Unmarshal(stored, &v))
	if len(v.Structures) != len(newSample(t).formats()) {
		t.Errorf("%d structures", len(v.Structures))
	}
	for i, f := range newSample(t).formats() {
		got, err := f.open(f.key.PublicKey(), v.Structures[i].Signed)
		must(t, err)
		if !bytes.Equal(codec.Encode(got), v.Structures[i].Body) {
			t.Errorf("%s: another body", f.name)
		}
	}
}
