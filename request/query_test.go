package request_test

import (
	"bytes"
	"crypto/hpke"
	"errors"
	"strings"
	"testing"

	"filippo.io/nistec"

	"chancery/codec"
	"chancery/control"
	"chancery/manifest"
	"chancery/request"
)

// shift returns E + G.
func shift(t testing.TB, e []byte) []byte {
	t.Helper()
	p, err := nistec.NewP256Point().SetBytes(e)
	must(t, err)
	return p.Add(p, nistec.NewP256Point().SetGenerator()).Bytes()
}

func TestQuery(t *testing.T) {
	s := newScene(t)
	opener := codec.NewPrivateKey()
	q := &request.Query{
		Request: codec.Sum("request"), Phase: control.PhaseRecord, Opener: codec.Sum("opener"), Holder: 1,
		Checkpoint: []byte("checkpoint"), Rosters: []request.Roster{*s.roster(s.conversation)}, Items: []request.Item{*s.item(s.message)},
	}
	raw, err := request.SignQuery(opener, q)
	must(t, err)
	got, err := request.ParseQuery(raw)
	must(t, err)
	if !bytes.Equal(codec.Encode(got), codec.Encode(q)) {
		t.Error("another query comes back")
	}
	must(t, request.VerifyQuery(opener.PublicKey(), raw))
	if err := request.VerifyQuery(codec.NewPrivateKey().PublicKey(), raw); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another opener: %v", err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := request.ParseQuery(bad); err == nil && request.VerifyQuery(opener.PublicKey(), bad) == nil {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
	for what, change := range map[string]func(*request.Query){
		"no items":         func(q *request.Query) { q.Items = nil },
		"too many items":   func(q *request.Query) { q.Items = make([]request.Item, request.MaxItems+1) },
		"too many rosters": func(q *request.Query) { q.Rosters = make([]request.Roster, request.MaxItems+1) },
	} {
		bad := *q
		change(&bad)
		raw, err := request.SignQuery(opener, &bad)
		must(t, err)
		if _, err := request.ParseQuery(raw); !errors.Is(err, codec.ErrSize) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := request.ParseQuery(make([]byte, request.MaxQuery+1)); !errors.Is(err, codec.ErrSize) {
		t.Error(err)
	}
}

// answered is a keyholder's answer to an opener.
type answered struct {
	holder *codec.PrivateKey
	key    hpke.PrivateKey
	opener *control.Opener
	use    codec.Hash
	raw    []byte
}

func answer(t testing.TB) *answered {
	t.Helper()
	key, err := hpke.MLKEM768X25519().GenerateKey()
	must(t, err)
	a := &answered{holder: codec.NewPrivateKey(), key: key, use: codec.Sum("use")}
	a.opener = &control.Opener{Request: codec.Sum("request"), Encrypt: key.PublicKey().Bytes()}
	a.raw, err = request.SealAnswer(a.holder, a.opener, a.use, false, 2, &request.Parts{Parts: [][]byte{{1}, {2}}})
	must(t, err)
	return a
}

func TestAnswer(t *testing.T) {
	a := answer(t)
	got, parts, err := request.OpenAnswer(a.holder.PublicKey(), a.key, a.opener.Request, a.raw)
	if err != nil || got.Use != a.use || got.Guard || got.Holder != 2 || len(parts.Parts) != 2 || parts.Parts[1][0] != 2 {
		t.Fatalf("%+v, %+v, %v", got, parts, err)
	}
	if bytes.Contains(a.raw, codec.Encode(parts)) {
		t.Error("the parts are there to read")
	}
	other, err := hpke.MLKEM768X25519().GenerateKey()
	must(t, err)
	if _, _, err := request.OpenAnswer(a.holder.PublicKey(), other, a.opener.Request, a.raw); err == nil {
		t.Error("another opener opens it")
	}
	if _, _, err := request.OpenAnswer(a.holder.PublicKey(), a.key, codec.Sum("another"), a.raw); err == nil {
		t.Error("it opens for another request")
	}
	if _, _, err := request.OpenAnswer(codec.NewPrivateKey().PublicKey(), a.key, a.opener.Request, a.raw); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another holder's signature: %v", err)
	}
	// A holder that signs another's sealed parts as its own, or under another use.
	payload, err := codec.PeekUnverifiedPayload(a.raw)
	must(t, err)
	thief := codec.NewPrivateKey()
	for what, change := range map[string]func(*request.Answer){
		"as its own":        func(x *request.Answer) { x.Holder = 1 },
		"as a guard's":      func(x *request.Answer) { x.Guard = true },
		"under another use": func(x *request.Answer) { x.Use = codec.Sum("later") },
		"cut":               func(x *request.Answer) { x.Sealed = x.Sealed[:100] },
		"empty":             func(x *request.Answer) { x.Sealed = nil },
		"flipped":           func(x *request.Answer) { x.Sealed[len(x.Sealed)-1] ^= 1 },
	} {
		var x request.Answer
		must(t, codec.Decode(payload, &x))
		change(&x)
		raw, err := thief.Sign1("answer", codec.Encode(&x))
		must(t, err)
		if _, _, err := request.OpenAnswer(thief.PublicKey(), a.key, a.opener.Request, raw); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
	for i := range a.raw {
		bad := bytes.Clone(a.raw)
		bad[i] ^= 1
		if _, _, err := request.OpenAnswer(a.holder.PublicKey(), a.key, a.opener.Request, bad); err == nil {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
	if _, err := request.SealAnswer(a.holder, &control.Opener{Encrypt: []byte("key")}, a.use, false, 2, &request.Parts{}); err == nil {
		t.Error("sealed to no key")
	}
}

// A guard withholds by an empty part and a word about what it was asked; neither
// is one without the other, nor about anything else.
func TestWithholds(t *testing.T) {
	m, enc := codec.Sum("manifest"), make([]byte, 1153)
	word := request.Withheld(m, enc)
	p := &request.Parts{
		Parts:  [][]byte{nil, make([]byte, 32), {}, nil},
		Proofs: [][]byte{word, word, nil},
	}
	for i, want := range []bool{true, false, false, false, false} {
		if got := p.Withholds(i, m, enc); got != want {
			t.Errorf("item %d: %t", i, got)
		}
	}
	other := bytes.Clone(enc)
	other[0] ^= 1
	if p.Withholds(0, codec.Sum("another"), enc) || p.Withholds(0, m, other) || p.Withholds(0, m, enc[1:]) {
		t.Error("a word about one envelope is one about another")
	}
}

func TestRefusal(t *testing.T) {
	holder := codec.NewPrivateKey()
	r := &request.Refusal{Request: codec.Sum("request"), Code: request.CodeScope, Reason: strings.Repeat("é", 4096) + "\xff", Time: 1}
	before := r.Reason
	raw, err := request.SignRefusal(holder, r)
	must(t, err)
	got, err := request.OpenRefusal(holder.PublicKey(), raw)
	must(t, err)
	if r.Reason != before || len(got.Reason) != 4096 || got.Code != r.Code || got.Request != r.Request {
		t.Errorf("a reason of %d bytes comes back", len(got.Reason))
	}
	odd := &request.Refusal{Reason: "x" + strings.Repeat("é", 4096)}
	raw, err = request.SignRefusal(holder, odd)
	must(t, err)
	if got, err = request.OpenRefusal(holder.PublicKey(), raw); err != nil || len(got.Reason) != 4095 {
		t.Errorf("half a letter: %v", err)
	}
	// The server's refusal of a core is another statement.
	server, err := manifest.SignRefusal(holder, &manifest.Refusal{Reason: "no"})
	must(t, err)
	if _, err := request.OpenRefusal(holder.PublicKey(), server); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("a server's refusal: %v", err)
	}
	long, err := holder.Sign1("holder-refusal", codec.Encode(&request.Refusal{Reason: strings.Repeat("x", 4097)}))
	must(t, err)
	if _, err := request.OpenRefusal(holder.PublicKey(), long); !errors.Is(err, codec.ErrSize) {
		t.Error(err)
	}
}

func FuzzParseQuery(f *testing.F) {
	s := newScene(f)
	raw, err := request.SignQuery(codec.NewPrivateKey(), &request.Query{
		Checkpoint: s.Messages.Checkpoint(), Rosters: []request.Roster{*s.roster(s.conversation)}, Items: []request.Item{*s.item(s.message)},
	})
	must(f, err)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	log := s.log()
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := request.ParseQuery(data)
		if err != nil {
			return
		}
		if payload, err := codec.PeekUnverifiedPayload(data); err != nil || !bytes.Equal(codec.Encode(q), payload) {
			t.Fatal("a second encoding was accepted")
		}
		// What a stranger sends reaches these before anything else is known of it.
		epochs := map[codec.Hash]*request.Epoch{}
		for i := range q.Rosters {
			if e, h, err := log.CheckRoster(&q.Rosters[i]); err == nil {
				epochs[h] = e
			}
		}
		for i := range q.Items {
			_, _ = log.CheckManifest(q.Items[i].Manifest, &q.Items[i].Proof, q.Items[i].Encapsulation, epochs)
		}
	})
}

func FuzzOpenAnswer(f *testing.F) {
	a := answer(f)
	f.Add(a.raw)
	f.Add(a.raw[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := request.OpenAnswer(a.holder.PublicKey(), a.key, a.opener.Request, data); err == nil && !bytes.Equal(data, a.raw) {
			t.Fatal("accepted an answer that was never given")
		}
	})
}

// FuzzAnswerBody gives a holder's signature to whatever comes.
func FuzzAnswerBody(f *testing.F) {
	a := answer(f)
	payload, err := codec.PeekUnverifiedPayload(a.raw)
	must(f, err)
	f.Add(payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, err := a.holder.Sign1("answer", data)
		if err != nil {
			return
		}
		if _, _, err := request.OpenAnswer(a.holder.PublicKey(), a.key, a.opener.Request, raw); err == nil && !bytes.Equal(data, payload) {
			t.Fatal("accepted an answer that was never sealed")
		}
	})
}

func FuzzRefusal(f *testing.F) {
	holder := codec.NewPrivateKey()
	f.Add(codec.Encode(&request.Refusal{Code: request.CodeScope, Reason: "no", Time: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, err := holder.Sign1("holder-refusal", data)
		if err != nil {
			return
		}
		if r, err := request.OpenRefusal(holder.PublicKey(), raw); err == nil && !bytes.Equal(codec.Encode(r), data) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzDetails(f *testing.F) {
	f.Add((&request.Details{Title: "t", Purpose: "p", LegalBasis: "b", Terms: []string{"a", "é"}}).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := request.ParseDetails(data); err == nil && !bytes.Equal(d.Encode(), data) {
			t.Fatal("a second encoding was accepted")
		}
	})
}
