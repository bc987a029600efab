package control_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/published"
	"chancery/sshsig"
)

func publishedVectors(t testing.TB) *vectors {
	t.Helper()
	v := new(vectors)
	must(t, json.Unmarshal(published.Read(t, vectorFile), v))
	if len(v.Leaves) == 0 {
		t.Fatal("no leaves to begin with")
	}
	return v
}

// prefixes makes the states of a log's beginnings, and each once for as long as
// it stays what it was.
type prefixes struct {
	v    *vectors
	made map[int]*control.State
}

// at returns the state of a number of leaves, and what to call once it has
// changed.
func (p *prefixes) at(t testing.TB, n int) (s *control.State, spoilt func()) {
	t.Helper()
	if p.made[n] == nil {
		s := control.NewState(p.v.Organisation)
		for _, l := range p.v.Leaves[:n] {
			must(t, s.Apply(l.Entry, opening(t, l.Opening)))
		}
		p.made[n] = s
	}
	return p.made[n], func() { delete(p.made, n) }
}

func FuzzParse(f *testing.F) {
	later := new(vectors)
	must(f, json.Unmarshal(published.Read(f, laterFile), later))
	for _, l := range later.Leaves {
		f.Add([]byte(l.Entry))
	}
	v := publishedVectors(f)
	for _, l := range v.Leaves {
		f.Add([]byte(l.Entry))
	}
	for _, r := range v.Refused {
		f.Add([]byte(r.Entry))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, s, err := control.Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Encode(), data) || !bytes.Equal(codec.Encode(s), l.Statement) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

// FuzzApply offers entries to a log that a part of the published one has made:
// no panic, no change where one is refused, and nothing taken but what was
// signed.
func FuzzApply(f *testing.F) {
	v := publishedVectors(f)
	for i, l := range v.Leaves {
		f.Add(uint8(i), []byte(l.Entry), []byte(l.Opening))
	}
	for _, r := range v.Refused {
		f.Add(uint8(r.Size), []byte(r.Entry), []byte(r.Opening))
	}
	real := map[codec.Hash]bool{}
	for _, l := range v.Leaves {
		real[l.Hash] = true
	}
	log := &prefixes{v, map[int]*control.State{}}
	f.Fuzz(func(t *testing.T, size uint8, entry, rawOpening []byte) {
		s, spoilt := log.at(t, int(size)%len(v.Leaves))
		var o *control.Opening
		if len(rawOpening) > 0 {
			o = new(control.Opening)
			if codec.Decode(rawOpening, o) != nil {
				return
			}
		}
		before := control.Fingerprint(s)
		if err := s.Apply(entry, o); err != nil {
			if control.Fingerprint(s) != before {
				t.Fatalf("refused (%v), and the state has changed", err)
			}
			return
		}
		spoilt()
		_, statement, err := control.Parse(entry)
		if err != nil || !real[statement.Hash()] {
			t.Fatal("took a leaf that nobody signed")
		}
	})
}

// FuzzBody gives every authority there is to whatever body comes: no panic, one
// encoding, and no change where it is refused.
func FuzzBody(f *testing.F) {
	v := publishedVectors(f)
	for i, l := range v.Leaves {
		_, s, err := control.Parse(l.Entry)
		must(f, err)
		body := s.Body
		if o := opening(f, l.Opening); o != nil {
			body = o.Body
		}
		f.Add(uint8(i), string(s.Kind), body)
		f.Add(uint8(i+1), string(s.Kind), body)
	}
	log := &prefixes{v, map[int]*control.State{}}
	f.Fuzz(func(t *testing.T, size uint8, kind string, data []byte) {
		body := control.NewBody(control.Kind(kind))
		if body == nil || codec.Decode(data, body) != nil {
			return
		}
		if body.Kind() != control.Kind(kind) || !bytes.Equal(codec.Encode(body), data) {
			t.Fatal("a second encoding was accepted")
		}
		n := 0 // where a genesis leaf belongs
		if body.Kind() != control.KindGenesis {
			n = 1 + int(size)%len(v.Leaves)
		}
		s, spoilt := log.at(t, n)
		before := control.Fingerprint(s)
		for _, signed := range authorities(v, body) {
			if err := control.ApplyBody(s, control.Kind(kind), data, signed); err == nil {
				spoilt()
				return
			} else if control.Fingerprint(s) != before {
				t.Fatalf("refused (%v), and the state has changed", err)
			}
		}
	})
}

// authorities returns who could have signed a body: everybody together, each
// reviewer and approver alone, and a device with who lets it in.
func authorities(v *vectors, body control.Body) []map[codec.Hash]control.Algorithm {
	s := control.NewState(v.Organisation)
	if s.Apply(v.Leaves[0].Entry, nil) != nil {
		return nil
	}
	g := s.Genesis()
	all := map[codec.Hash]control.Algorithm{}
	out := []map[codec.Hash]control.Algorithm{all}
	for _, h := range append(append([]control.Holder(nil), g.Keyholders...), g.Guards...) {
		all[codec.Hash(h.Sign)] = control.Ed25519
	}
	for _, people := range [][]control.Person{g.Officers, g.Approvers, g.Reviewers} {
		for _, p := range people {
			id := sshsig.Credential(p.Credential).ID()
			all[id] = control.SSH
			out = append(out, map[codec.Hash]control.Algorithm{id: control.SSH})
		}
	}
	for _, l := range v.Leaves {
		leaf, _, err := control.Parse(l.Entry)
		if err == nil {
			signed := map[codec.Hash]control.Algorithm{}
			for _, x := range leaf.Signatures {
				signed[x.Key] = x.Algorithm
				all[x.Key] = x.Algorithm
			}
			out = append(out, signed)
		}
	}
	switch b := body.(type) {
	case *control.Device:
		out = append(out, map[codec.Hash]control.Algorithm{codec.Hash(b.Key): control.Ed25519, codec.Sum("other"): control.Ed25519})
	case *control.Opener:
		all[codec.Hash(b.Sign)] = control.Ed25519
	}
	return out
}
