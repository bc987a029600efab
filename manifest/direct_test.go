package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"chancery/codec"
	"chancery/internal/published"
)

func TestDirect(t *testing.T) {
	a, b := id("a"), id("b")
	before := NewRoster([]codec.Hash{hash("a"), hash("gone")})
	roster := NewRoster([]codec.Hash{hash("a"), hash("new")})
	d := NewDirect([]codec.ID{a, b}, roster, before)
	if !bytes.Equal(d.Encode(), NewDirect([]codec.ID{b, a}, roster, before).Encode()) || d.Hash() == NewDirect([]codec.ID{a, id("c")}, roster, before).Hash() {
		t.Error("the encoding is not that of the pair")
	}
	if len(d.Added) != 1 || d.Added[0] != hash("new") || len(NewDirect([]codec.ID{a, b}, roster, nil).Added) != 2 {
		t.Errorf("added %v", d.Added)
	}
	if got, err := ParseDirect(d.Encode()); err != nil || got.Hash() != d.Hash() {
		t.Error(got, err)
	}
	swapped := &Direct{Version: 1, Members: []codec.ID{d.Members[1], d.Members[0]}}
	for what, bad := range map[string]*Direct{
		"a later version": {Version: 2, Members: d.Members},
		"one":             {Version: 1, Members: d.Members[:1]},
		"three":           {Version: 1, Members: append([]codec.ID{{0, 1}}, d.Members...)},
		"twice the same":  {Version: 1, Members: []codec.ID{a, a}},
		"nobody":          {Version: 1, Members: []codec.ID{{}, a}},
		"not in order":    swapped,
		"added twice":     {Version: 1, Members: d.Members, Added: Roster{hash("a"), hash("a")}},
		"too many added":  {Version: 1, Members: d.Members, Added: make(Roster, MaxDirect+1)},
	} {
		if _, err := ParseDirect(bad.Encode()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := newSample(t)
	c, err := ParseCommit(s.commit)
	must(t, err)
	first := Commit{Organisation: c.Organisation, Conversation: c.Conversation, Device: c.Device, Roster: c.Roster}
	if c.Direct() || first.Direct() {
		t.Error("a group's statement is taken for a direct conversation's")
	}
	first.Message = d.Hash()
	later := first
	later.Epoch, later.Previous = 3, hash("before")
	for _, c := range []Commit{first, later} {
		raw, err := SignCommit(s.device, &c)
		must(t, err)
		if got, err := ParseCommit(raw); err != nil || !got.Direct() {
			t.Errorf("epoch %d: %v", c.Epoch, err)
		}
	}
}

func TestCopies(t *testing.T) {
	copies := [][]byte{[]byte("one"), {}, []byte("three")}
	got, err := ParseCopies(EncodeCopies(copies))
	if err != nil || len(got) != 3 || string(got[2]) != "three" || CopyHashes(got)[1] != CiphertextHash(nil) {
		t.Error(got, err)
	}
	if got, err := ParseCopies(EncodeCopies(nil)); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	if _, err := ParseCopies(EncodeCopies(make([][]byte, MaxDirect))); err == nil {
		t.Error("a copy for more than all devices")
	}
	if _, err := ParseCopies([]byte{0xf6}); err == nil {
		t.Error("nothing taken for a list")
	}
	r := NewRoster([]codec.Hash{hash("a"), hash("b"), hash("c")})
	if w := r.Without(r[1]); len(w) != 2 || w[0] != r[0] || w[1] != r[2] || len(r) != 3 {
		t.Error(w)
	}
}

func FuzzDirect(f *testing.F) {
	f.Add(NewDirect([]codec.ID{id("a"), id("b")}, Roster{hash("a")}, nil).Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if d, err := ParseDirect(raw); err == nil && !bytes.Equal(d.Encode(), raw) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzCopies(f *testing.F) {
	f.Add(EncodeCopies([][]byte{[]byte("one"), {}}))
	f.Add(EncodeCopies(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ParseCopies(raw); err == nil && !bytes.Equal(EncodeCopies(c), raw) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

// directVectors are statements of a direct conversation and a message's copies.
type directVectors struct {
	Description string          `json:"description"`
	Device      codec.PublicKey `json:"device"`
	Epochs      []directEpoch   `json:"epochs"`
	Copies      []published.Hex `json:"copies"`
	Encoded     published.Hex   `json:"copies_encoded"`
	Hashes      []codec.Hash    `json:"copies_hashes"`
}

type directEpoch struct {
	Roster    []codec.Hash  `json:"roster"`
	Direct    published.Hex `json:"direct"`
	Message   codec.Hash    `json:"message"` // H("direct", direct)
	Statement published.Hex `json:"statement"`
	Hash      codec.Hash    `json:"hash"`
}

func makeDirectVectors(t testing.TB) *directVectors {
	s := newSample(t)
	v := &directVectors{
		Description: "A direct conversation (spec/manifest.md#direct-conversations): its first epoch, one that adds a device and one that removes one, by the device of manifest.json; then a message's ciphertexts for three devices, the second without a session.",
		Device:      s.device.PublicKey(),
	}
	members := []codec.ID{id("alice"), id("bob")}
	var before Roster
	c := Commit{Organisation: hash("organisation"), Conversation: id("conversation"), Device: hash("device")}
	for _, devices := range [][]string{{"device", "bob"}, {"device", "bob", "phone"}, {"device", "phone"}} {
		var roster Roster
		for _, d := range devices {
			roster = append(roster, hash(d))
		}
		roster = NewRoster(roster)
		direct := NewDirect(members, roster, before)
		c.Roster, c.Message = roster.Root(), direct.Hash()
		raw, err := SignCommit(s.device, &c)
		must(t, err)
		v.Epochs = append(v.Epochs, directEpoch{roster, direct.Encode(), direct.Hash(), raw, CommitHash(raw)})
		before, c.Epoch, c.Previous = roster, c.Epoch+1, CommitHash(raw)
	}
	copies := [][]byte{[]byte("for the first"), {}, []byte("for the third")}
	for _, b := range copies {
		v.Copies = append(v.Copies, b)
	}
	v.Encoded, v.Hashes = EncodeCopies(copies), CopyHashes(copies)
	return v
}

func TestDirectVectors(t *testing.T) {
	var v directVectors
	must(t, json.Unmarshal(published.Same(t, "direct.json", makeDirectVectors(t), "  "), &v))
	for _, e := range v.Epochs {
		must(t, VerifyCommit(v.Device, e.Statement))
		c, err := ParseCommit(e.Statement)
		must(t, err)
		d, err := ParseDirect(e.Direct)
		must(t, err)
		if !c.Direct() || d.Hash() != c.Message || Roster(e.Roster).Root() != c.Roster || CommitHash(e.Statement) != e.Hash {
			t.Errorf("epoch %d: another comes back", c.Epoch)
		}
	}
	copies, err := ParseCopies(v.Encoded)
	must(t, err)
	if !slices.Equal(CopyHashes(copies), v.Hashes) {
		t.Error("other copies come back")
	}
}
