package blindindex

import (
	"bytes"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chancery/codec"
	"chancery/internal/published"
)

func secret(name string) []byte { h := sha256.Sum256([]byte(name)); return h[:] }

func testKey(name string) *Key { k := KeyFromSeed(secret(name)); return &k }

func words(n int) []Term {
	terms := make([]Term, n)
	for i := range terms {
		terms[i] = Term{FieldText, fmt.Sprintf("word%d", i)}
	}
	return terms
}

// oracle makes tags from the spec with another structure: all tags first, then
// what is missing, by a set.
func oracle(key, seed []byte, envelope codec.Hash, terms []Term) []byte {
	set := map[string]bool{}
	for _, t := range terms {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(t.Field + t.Text))
		block, _ := aes.NewCipher(mac.Sum(nil)[:16])
		out := make([]byte, 16)
		block.Encrypt(out, envelope[:16])
		set[string(out[:5])] = true
	}
	want := 8
	if len(set) > 8 {
		want = 1 << bits.Len(uint(len(set)-1))
	}
	for j := 0; len(set) < want; j++ {
		info := append([]byte("pad"), envelope[:]...)
		info = binary.BigEndian.AppendUint32(info, uint32(j/8))
		block, _ := hkdf.Key(sha256.New, seed, []byte("chancery/envelope/v1"), string(info), 40)
		set[string(block[j%8*5:j%8*5+5])] = true
	}
	var all []string
	for t := range set {
		all = append(all, t)
	}
	slices.Sort(all)
	return []byte(strings.Join(all, ""))
}

func TestTagsAgainstOracle(t *testing.T) {
	k, seed := testKey("k"), secret("message")
	for _, n := range []int{0, 1, 7, 8, 9, 16, 17, 64, 65, 1000} {
		env := codec.Sum("test", []byte{byte(n)})
		tags := Tags(k, seed, env, words(n))
		if got := Encode(tags); !bytes.Equal(got, oracle(k[:], seed, env, words(n))) {
			t.Errorf("%d terms: tags differ from the specification's", n)
		}
		again, err := Parse(Encode(tags))
		if err != nil || !slices.Equal(again, tags) {
			t.Errorf("%d terms: %v", n, err)
		}
	}
}

func TestTagsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		term := rapid.Custom(func(t *rapid.T) Term {
			return Term{rapid.SampledFrom([]string{FieldText, FieldSender, FieldRecipient, FieldAttachment}).Draw(t, "field"), rapid.StringN(0, 8, -1).Draw(t, "text")}
		})
		terms := rapid.SliceOfN(term, 0, 40).Draw(t, "terms")
		k, seed, env := testKey("k"), secret("message"), codec.Sum("test")
		tags := Tags(k, seed, env, terms)
		for _, term := range terms {
			q := NewQuery(k, term)
			if !q.Match(env, tags) || !q.MatchEncoded(env, Encode(tags)) {
				t.Fatalf("%v isn't found", term)
			}
		}
		// Recipients may have the terms in another order or twice.
		other := append(slices.Clone(terms), terms...)
		slices.Reverse(other)
		if !slices.Equal(Tags(k, seed, env, other), tags) {
			t.Fatal("order or repetition matters")
		}
		if Hash(tags) != codec.Sum("tags", Encode(tags)) {
			t.Fatal("hash isn't of the encoding")
		}
	})
}

// TestNothingAtRest: without the index key, equal terms of two messages show
// nothing, and padding can't be told from terms.
func TestNothingAtRest(t *testing.T) {
	k := testKey("k")
	term := Term{FieldText, "merger"}
	a, b := codec.Sum("test", []byte("a")), codec.Sum("test", []byte("b"))
	tagOf := func(k *Key, t Term, env codec.Hash) Tag { return NewQuery(k, t).tag(env) }
	base := tagOf(k, term, a)
	for name, other := range map[string]Tag{
		"another message": tagOf(k, term, b),
		"another key":     tagOf(testKey("l"), term, a),
		"another field":   tagOf(k, Term{FieldSender, "merger"}, a),
		"another term":    tagOf(k, Term{FieldText, "merge"}, a),
	} {
		if other == base {
			t.Errorf("%s: same tag", name)
		}
	}
	// All that a message's tags say is the bucket.
	for n, want := range map[int]int{0: 8, 1: 8, 8: 8, 9: 16, 16: 16, 17: 32, 300: 512} {
		if got := len(Tags(k, secret("m"), a, words(n))); got != want {
			t.Errorf("%d terms: %d tags, want %d", n, got, want)
		}
	}
}

// TestRetryPadsAnew: a seed may be sealed under two headers, in a retry. Were the
// padding the same, what two sets of tags share would be the padding, and the
// number of terms plain.
func TestRetryPadsAnew(t *testing.T) {
	k, seed := testKey("k"), secret("m")
	a := Tags(k, seed, codec.Sum("test", []byte("a")), words(3))
	b := Tags(k, seed, codec.Sum("test", []byte("b")), words(3))
	for _, tag := range a {
		if slices.Contains(b, tag) {
			t.Fatal("tags of a retry are linked")
		}
	}
}

// TestTagsChecked: tags for terms that the text doesn't have, missing ones, and
// those of another message have another hash than what a recipient recomputes.
func TestTagsChecked(t *testing.T) {
	k, seed, env := testKey("k"), secret("m"), codec.Sum("test")
	want := Hash(Tags(k, seed, env, words(5)))
	for name, tags := range map[string][]Tag{
		"one more":        Tags(k, seed, env, words(6)),
		"one less":        Tags(k, seed, env, words(4)),
		"another key":     Tags(testKey("l"), seed, env, words(5)),
		"another seed":    Tags(k, secret("n"), env, words(5)),
		"another message": Tags(k, seed, codec.Sum("other"), words(5)),
	} {
		if Hash(tags) == want {
			t.Errorf("%s: same hash", name)
		}
	}
}

// TestSearchCorpus holds a search over real mails against a plain search of
// their terms: nothing missing, nothing more.
func TestSearchCorpus(t *testing.T) {
	k := testKey("corpus")
	type message struct {
		env   codec.Hash
		tags  []byte
		terms []string
	}
	var messages []message
	eachText(t, "enron_mailbox.jsonl", func(text string) {
		if len(messages) == 400 {
			return
		}
		m := message{env: codec.Sum("test", []byte(fmt.Sprint(len(messages)))), terms: Tokenize(text)}
		var terms []Term
		for _, w := range m.terms {
			terms = append(terms, Term{FieldText, w})
		}
		m.tags = Encode(Tags(k, secret(fmt.Sprint(len(messages))), m.env, terms))
		messages = append(messages, m)
	})
	found := 0
	for _, w := range append(messages[0].terms, "gas", "the", "meeting", "nosuchword") {
		q := NewQuery(k, Term{FieldText, w})
		for i, m := range messages {
			if got, want := q.MatchEncoded(m.env, m.tags), slices.Contains(m.terms, w); got != want {
				t.Fatalf("%q in message %d: search says %v", w, i, got)
			} else if got {
				found++
			}
		}
	}
	if found < 100 {
		t.Fatalf("%d hits: the test tests nothing", found)
	}
}

func TestParseRefuses(t *testing.T) {
	good := Encode(Tags(testKey("k"), secret("m"), codec.Sum("test"), words(12)))
	swapped := bytes.Clone(good)
	copy(swapped, good[TagSize:2*TagSize])
	copy(swapped[TagSize:], good[:TagSize])
	twice := bytes.Clone(good)
	copy(twice, good[TagSize:2*TagSize])
	for name, b := range map[string][]byte{
		"nothing":      nil,
		"one byte":     {1},
		"four tags":    good[:4*TagSize],
		"fifteen tags": good[:15*TagSize],
		"half a tag":   good[:len(good)-1],
		"out of order": swapped,
		"twice":        twice,
		"too many":     make([]byte, 2*MaxTags*TagSize),
	} {
		if tags, err := Parse(b); !errors.Is(err, ErrTags) || tags != nil {
			t.Errorf("%s: got %v, want ErrTags", name, err)
		}
	}
}

func TestMatchTotal(t *testing.T) {
	q := NewQuery(testKey("k"), Term{FieldText, "x"})
	for n := range 12 {
		q.MatchEncoded(codec.Hash{}, make([]byte, n))
	}
	if q.Match(codec.Hash{}, nil) {
		t.Error("found among nothing")
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	k, env := testKey("k"), codec.Sum("test")
	tags := Tags(k, secret("m"), env, words(12))
	encoded := Encode(tags)
	q := NewQuery(k, Term{FieldText, "word3"})
	if n := testing.AllocsPerRun(100, func() { q.Match(env, tags); q.MatchEncoded(env, encoded) }); n != 0 {
		t.Errorf("%v allocations a match", n)
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	k := testKey("k")
	if s := fmt.Sprintf("%v %+v %#v %s %v", k, *k, *k, *k, *k); strings.Contains(s, fmt.Sprintf("%x", k[:4])) || strings.Contains(s, strings.Trim(fmt.Sprint(k[:4]), "[]")) {
		t.Error("the key is printed")
	}
	if k.Erase(); *k != (Key{}) {
		t.Error("key left")
	}
}

// TestStreamSafe: more than thirty marks on one letter are broken up by U+034F,
// as x/text's normalisation does everywhere (UAX #15 §13), and stay one term.
func TestStreamSafe(t *testing.T) {
	text := "a" + strings.Repeat("\u0300", 40) + "b"
	got := Tokenize(text)
	if len(got) != 1 || !strings.Contains(got[0], "\u034f") {
		t.Fatalf("got %+q", got)
	}
	if again := Tokenize(got[0]); !slices.Equal(again, got) {
		t.Fatalf("%+q isn't its own term", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Encode(Tags(testKey("k"), secret("m"), codec.Sum("test"), words(3))))
	f.Add(Encode(Tags(testKey("k"), secret("m"), codec.Sum("test"), words(20))))
	f.Fuzz(func(t *testing.T, data []byte) {
		tags, err := Parse(data)
		if err == nil && (!bytes.Equal(Encode(tags), data) || len(tags) < MinTags || len(tags) > MaxTags) {
			t.Fatal("accepted bytes that are not canonical")
		}
		NewQuery(testKey("k"), Term{FieldText, "x"}).MatchEncoded(codec.Hash{}, data)
	})
}

type tagVectors struct {
	Description string      `json:"description"`
	Valid       []tagVector `json:"valid"`
	Invalid     []badVector `json:"invalid"`
}

type tagVector struct {
	Name      string     `json:"name"`
	IndexSeed string     `json:"index_seed"`
	Key       string     `json:"key"`
	Seed      string     `json:"seed"`
	Envelope  codec.Hash `json:"envelope"`
	Terms     []Term     `json:"terms"`
	Tags      string     `json:"tags"`
	Hash      codec.Hash `json:"hash"`
	Absent    Term       `json:"absent"`
}

type badVector struct {
	Name string `json:"name"`
	Tags string `json:"tags"`
}

func makeTagVectors() tagVectors {
	v := tagVectors{Description: "Tags by spec/blind-index.md#tags. Seeds are SHA-256 of names. Every term is found among the tags and `absent` is not; tags of `invalid` are no message's."}
	mixed := []Term{{FieldText, "price"}, {FieldText, "café"}, {FieldSender, "alice"}, {FieldRecipient, "bob"}, {FieldAttachment, strings.Repeat("0a", 32)}}
	for _, c := range []struct {
		name  string
		terms []Term
	}{{"no term", []Term{}}, {"each field", mixed}, {"eight terms, no padding", words(8)}, {"nine terms", words(9)}, {"forty terms", words(40)}} {
		key, seed, env := KeyFromSeed(secret("index "+c.name)), secret("message "+c.name), codec.Sum("envelope", []byte(c.name))
		tags := Tags(&key, seed, env, c.terms)
		v.Valid = append(v.Valid, tagVector{
			Name: c.name, IndexSeed: hex.EncodeToString(secret("index " + c.name)), Key: hex.EncodeToString(key[:]), Seed: hex.EncodeToString(seed),
			Envelope: env, Terms: c.terms, Tags: hex.EncodeToString(Encode(tags)), Hash: Hash(tags), Absent: Term{FieldText, "nosuchword"},
		})
	}
	good, err := hex.DecodeString(v.Valid[1].Tags)
	if err != nil {
		panic(err)
	}
	bad := func(name string, b []byte) {
		v.Invalid = append(v.Invalid, badVector{name, hex.EncodeToString(b)})
	}
	bad("empty", nil)
	bad("seven tags", good[:35])
	bad("nine tags", append(bytes.Clone(good), 0xff, 0xff, 0xff, 0xff, 0xff))
	bad("last tag cut", good[:39])
	bad("first tag twice", append(bytes.Clone(good[:5]), good[:35]...))
	bad("descending", slices.Concat(good[5:10], good[:5], good[10:]))
	return v
}

func TestVectors(t *testing.T) {
	got := published.Same(t, "blindindex.json", makeTagVectors(), " ")
	var v tagVectors
	if err := json.Unmarshal(got, &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Valid {
		tags, err := hex.DecodeString(c.Tags)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := hex.DecodeString(c.IndexSeed)
		if err != nil {
			t.Fatal(err)
		}
		k := KeyFromSeed(seed)
		for _, term := range c.Terms {
			if !NewQuery(&k, term).MatchEncoded(c.Envelope, tags) {
				t.Errorf("%s: %v isn't found", c.Name, term)
			}
		}
		if NewQuery(&k, c.Absent).MatchEncoded(c.Envelope, tags) {
			t.Errorf("%s: %v is found", c.Name, c.Absent)
		}
	}
	for _, c := range v.Invalid {
		tags, err := hex.DecodeString(c.Tags)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(tags); !errors.Is(err, ErrTags) {
			t.Errorf("%s: got %v, want ErrTags", c.Name, err)
		}
	}
}

func BenchmarkTokenize(b *testing.B) {
	text := strings.Repeat("The price of gas, delivered at Henry Hub, moved again. ", 36)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Tokenize(text)
	}
}

func BenchmarkTags20(b *testing.B) {
	k, seed, env, terms := testKey("k"), secret("m"), codec.Sum("test"), words(20)
	for b.Loop() {
		Tags(k, seed, env, terms)
	}
}

func BenchmarkNewQuery(b *testing.B) {
	k := testKey("k")
	for b.Loop() {
		NewQuery(k, Term{FieldText, "merger"})
	}
}

func BenchmarkMatch16(b *testing.B) {
	k, env := testKey("k"), codec.Sum("test")
	tags := Encode(Tags(k, secret("m"), env, words(16)))
	q := NewQuery(k, Term{FieldText, "merger"})
	b.ReportAllocs()
	for b.Loop() {
		env[0]++
		q.MatchEncoded(env, tags)
	}
}

// BenchmarkLimitMatch is the AES block alone.
func BenchmarkLimitMatch(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 16)
	for b.Loop() {
		block.Encrypt(buf, buf)
	}
}
