package pack_test

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/opener/openertest"
	"chancery/manifest"
	"chancery/pack"
)

// real returns the packs of three openings: a search, one with a lying keyholder
// and an envelope that doesn't open, and a search with envelopes set aside in
// both phases.
func real(t testing.TB) (*openertest.World, [][]byte) {
	t.Helper()
	w := openertest.New(t, openertest.Options{})
	_, _, search := w.Open()
	liar := openertest.New(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) { w.SendBroken(w.Pair, w.Other) }})
	liar.Keyholders["keyholder-1"].Lie = func(_ control.Phase, _ int, p []byte) []byte { return p[1:] }
	_, _, broken := liar.Open()
	aside := openertest.New(t, openertest.Options{Messages: func(w *openertest.World) {
		w.SendMistagged(w.Pair, w.Other, "a budget")
		w.SendMistagged(w.Pair, w.Other, "another budget")
		id := w.Conversation(w.Other, w.Custodian)
		w.Accept(w.Mistag(w.Org.Seal(id, w.Other, envelope.KindIndex, nil, nil), w.Other))
	}})
	_, _, refuted := aside.Open()
	return w, [][]byte{search, broken, refuted}
}

func TestRoundTrip(t *testing.T) {
	_, packs := real(t)
	for i, data := range packs {
		p, err := pack.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if elements := p.Body.Encode()[0] - 0x80; (elements == 19) != (i == 2) || (elements == 18) != (i != 2) {
			t.Errorf("pack %d: a body of %d elements", i, elements)
		}
		again, err := pack.Assemble(p.Body.Encode(), p.Tail)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("another encoding: %v", err)
		}
	}
	for _, bad := range [][]byte{nil, {0}, []byte(pack.Magic), packs[0][1:], append(bytes.Clone(packs[0]), 0)} {
		if _, err := pack.Parse(bad); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%d bytes: got %v", len(bad), err)
		}
	}
	if _, err := pack.Assemble([]byte{0x80}, &pack.Tail{}); !errors.Is(err, pack.ErrMalformed) {
		t.Errorf("assembled no body: %v", err)
	}
}

// A body says everything once and in order.
func TestBodyOrder(t *testing.T) {
	_, packs := real(t)
	for name, edit := range map[string]func(b *pack.Body){
		"items swapped":     func(b *pack.Body) { b.Items[0], b.Items[1] = b.Items[1], b.Items[0] },
		"item twice":        func(b *pack.Body) { b.Items = append(b.Items, b.Items[len(b.Items)-1]) },
		"rosters swapped":   func(b *pack.Body) { b.Rosters[0], b.Rosters[1] = b.Rosters[1], b.Rosters[0] },
		"void twice":        func(b *pack.Body) { b.Voids = append(b.Voids, b.Voids[0]) },
		"openings swapped":  func(b *pack.Body) { b.Openings[0], b.Openings[1] = b.Openings[1], b.Openings[0] },
		"ack twice":         func(b *pack.Body) { b.Acks = [][]byte{{1}, {1}} },
		"point of opened":   func(b *pack.Body) { b.Items[0].Opened, b.Items[0].E = &pack.Opened{}, make([]byte, 65) },
		"tags of neighbour": func(b *pack.Body) { b.Items[0].Opened, b.Items[0].E, b.Items[0].Tags = nil, nil, make([]byte, 40) },
	} {
		p, err := pack.Parse(packs[0])
		if err != nil {
			t.Fatal(err)
		}
		edit(p.Body)
		if _, err := pack.ParseBody(p.Body.Encode()); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// What was set aside has one encoding, and none where nothing was.
func TestSetAsideOrder(t *testing.T) {
	_, packs := real(t)
	for name, edit := range map[string]func(b *pack.Body){
		"phases swapped":    func(b *pack.Body) { slices.Reverse(b.SetAside) },
		"phase twice":       func(b *pack.Body) { b.SetAside[1].Phase = b.SetAside[0].Phase },
		"no envelope":       func(b *pack.Body) { b.SetAside[0].Envelopes = nil },
		"envelopes swapped": func(b *pack.Body) { slices.Reverse(b.SetAside[1].Envelopes) },
		"envelope twice":    func(b *pack.Body) { b.SetAside[1].Envelopes[1] = b.SetAside[1].Envelopes[0] },
	} {
		p, err := pack.Parse(packs[2])
		if err != nil {
			t.Fatal(err)
		}
		edit(p.Body)
		if _, err := pack.ParseBody(p.Body.Encode()); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	p, err := pack.Parse(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	without := p.Body.Encode()
	for name, body := range map[string][]byte{
		"an empty list":         codec.Encode(p.Body),
		"a field too few":       without[:len(without)-34],
		"a field too many":      append(codec.Encode(p.Body), 0x80),
		"the head of a longer":  append([]byte{0x93}, without[1:]...),
		"the head of a shorter": append([]byte{0x92}, codec.Encode(p.Body)[1:]...),
		"nothing":               nil,
		"a head alone":          {0x92},
	} {
		if _, err := pack.ParseBody(body); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestProduction(t *testing.T) {
	w, packs := real(t)
	export, body, err := pack.OpenProduction(w.Recipient, w.Server.Stored)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pack.Parse(packs[0])
	if err != nil || p.BodyHash != pack.BodyHash(body) || p.Body.Export != pack.ExportHash(export) {
		t.Errorf("another body or export: %v", err)
	}
	other, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := pack.OpenProduction(other, w.Server.Stored); err == nil {
		t.Error("opened with another key")
	}
	for _, i := range []int{0, 1100, 1120, len(w.Server.Stored) - 1} {
		bad := bytes.Clone(w.Server.Stored)
		bad[i] ^= 1
		if _, _, err := pack.OpenProduction(w.Recipient, bad); err == nil {
			t.Errorf("byte %d changed and opened", i)
		}
	}
	// An opener can't name one export and seal another.
	sealed, err := pack.SealProduction(w.Recipient.PublicKey().Bytes(), append(bytes.Clone(export), '\n'), body)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := pack.OpenProduction(w.Recipient, sealed); !errors.Is(err, pack.ErrMalformed) {
		t.Errorf("another export: %v", err)
	}
}

func TestSearch(t *testing.T) {
	var key blindindex.Key
	seed := make([]byte, 32)
	env := codec.Sum("test")
	tagsOf := func(text string) []byte {
		var terms []blindindex.Term
		for _, w := range blindindex.Tokenize(text) {
			terms = append(terms, blindindex.Term{Field: blindindex.FieldText, Text: w})
		}
		return blindindex.Encode(blindindex.Tags(&key, seed, env, terms))
	}
	for _, c := range []struct {
		terms []string
		text  string
		want  bool
	}{
		{[]string{"budget"}, "The BUDGET.", true},
		{[]string{"budget"}, "budgets", false},
		{[]string{"late budget"}, "budget, and late", true},
		{[]string{"late budget"}, "budget", false},
		{[]string{"zebra", "ﬁle"}, "a file", true},
		{[]string{"straße"}, "STRASSE", true},
		{[]string{"x"}, "", false},
	} {
		s, err := pack.NewSearch(c.terms)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Contains(c.text); got != c.want {
			t.Errorf("%q in %q: %t", c.terms, c.text, got)
		}
		if got := s.Scan(&key).Match(env, tagsOf(c.text)); got != c.want {
			t.Errorf("%q in the tags of %q: %t", c.terms, c.text, got)
		}
		if !pack.Indexed(&key, env, tagsOf(c.text), c.text) || pack.Indexed(&key, env, tagsOf(c.text), c.text+" more") {
			t.Errorf("tags of %q", c.text)
		}
	}
	for _, terms := range [][]string{nil, {}, {"--"}, {"budget", "!"}} {
		if _, err := pack.NewSearch(terms); !errors.Is(err, pack.ErrMalformed) {
			t.Errorf("%q: got %v", terms, err)
		}
	}
}

func TestLine(t *testing.T) {
	w, packs := real(t)
	p, err := pack.Parse(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(p.Body.Items[1].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	r := &envelope.Record{ID: "1", Time: 1000, Sender: "a <b>", Conversation: w.Pair, Text: "\u2028 & \"</script>\"\x00", Action: envelope.ActionReply, Target: "0", Flags: []string{"x"}}
	var b bytes.Buffer
	if err := pack.NewLine(m, 7, w.Other.Member, r, pack.FlagIndex).Encode(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || bytes.Count(b.Bytes(), []byte{'\n'}) != 1 {
		t.Fatalf("%v: %s", err, b.Bytes())
	}
	for k, want := range map[string]any{
		"id": "1", "ts": "1970-01-01T00:00:01Z", "sender": "a <b>", "conversation": w.Pair.String(), "text": r.Text,
		"leaf": 7.0, "envelope": m.CoreHash().String(), "action": "reply", "target": "0",
	} {
		if got[k] != want {
			t.Errorf("%s: %v, want %v", k, got[k], want)
		}
	}
	if flags, _ := json.Marshal(got["flags"]); string(flags) != `["x","index unverified"]` {
		t.Errorf("flags: %s", flags)
	}
}

// A run is shown whole by positions, the leaves named, and receipt times.
func TestCheckRun(t *testing.T) {
	c := codec.NewID()
	var all []pack.Leaf
	var previous codec.Hash
	for i := range 10 {
		o := &manifest.Opening{Body: manifest.ReceiptBody{
			Kind: manifest.LeafMessage, Conversation: c, ControlSize: 1, Time: int64(i) * 100, Position: uint64(i), Previous: previous,
		}}
		l := pack.Leaf{Index: int64(i) * 3, Opening: o, Object: codec.Sum("test", []byte{byte(i)})}
		previous = o.Leaf(l.Object)
		all = append(all, l)
	}
	heads := func(i int) *manifest.Heads {
		return &manifest.Heads{Heads: []manifest.Head{{Conversation: c, Position: uint64(i), Leaf: all[i].Opening.Leaf(all[i].Object)}}}
	}
	for name, x := range map[string]struct {
		leaves []pack.Leaf
		lo, hi int64
		heads  *manifest.Heads
		run    int // 0: refused
	}{
		"all":               {all, 0, 2000, heads(9), 10},
		"middle":            {all, 350, 550, heads(9), 4}, // 300 to 600
		"from the first":    {all, -5, 50, heads(9), 2},
		"up to the newest":  {all, 750, 2000, heads(9), 3},
		"after everything":  {all, 5000, 6000, heads(9), 1},
		"before everything": {all, -600, -500, heads(9), 1},
		"no first":          {all[1:], 0, 2000, heads(9), 0},
		"no neighbour":      {all[4:], 350, 550, heads(9), 0},
		"no end":            {all[:6], 350, 550, heads(9), 0},
		"older heads":       {all, 0, 2000, heads(8), 0},
		"no heads":          {all, 0, 2000, &manifest.Heads{}, 0},
		"a gap":             {slices.Concat(all[:5], all[6:]), 350, 550, heads(9), 0},
		"a gap outside":     {slices.Concat(all[:1], all[2:]), 350, 550, heads(9), 4},
	} {
		ordered := pack.Order(x.leaves)
		if len(ordered) != 1 {
			t.Fatal("one conversation")
		}
		run, beside := pack.Run(ordered[0], x.lo, x.hi)
		err := pack.CheckRun(run, x.lo, x.hi, x.heads)
		if ok := x.run > 0; ok != (err == nil) || (ok && len(run) != x.run) || len(run)+len(beside) != len(x.leaves) {
			t.Errorf("%s: %d leaves, %d beside, %v", name, len(run), len(beside), err)
		}
		if err != nil && !errors.Is(err, pack.ErrIncomplete) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Another leaf in a place of the middle breaks what the next one names.
	forged := slices.Clone(all)
	forged[4].Object = codec.Sum("forged")
	if err := pack.CheckRun(forged, 0, 2000, heads(9)); !errors.Is(err, pack.ErrIncomplete) {
		t.Errorf("forged: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	_, packs := real(f)
	for _, data := range packs {
		f.Add(data)
	}
	f.Add([]byte(pack.Magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := pack.Parse(data)
		if err != nil {
			return
		}
		again, err := pack.Assemble(p.Body.Encode(), p.Tail)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("another encoding: %v", err)
		}
	})
}

// FuzzParseBody goes past the checksum.
func FuzzParseBody(f *testing.F) {
	_, packs := real(f)
	for _, data := range packs {
		p, err := pack.Parse(data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Body.Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := pack.ParseBody(data)
		if err == nil && !bytes.Equal(b.Encode(), data) {
			t.Fatal("another encoding")
		}
	})
}
