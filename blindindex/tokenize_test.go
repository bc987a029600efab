package blindindex

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"chancery/internal/published"
	"chancery/internal/testenv"
)

// termVectors were made by CPython with testdata/terms.py.
type termVectors struct {
	Tokenizer int
	Cases     []struct {
		Name, Text string
		Terms      []string
	}
	Corpora map[string]struct {
		Messages, Terms int
		SHA256          string
	}
}

func loadTermVectors(t testing.TB) termVectors {
	t.Helper()
	var v termVectors
	if err := json.Unmarshal(published.Read(t, "blindindex-terms.json"), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) == 0 || v.Tokenizer != TokenizerVersion {
		t.Fatalf("%d cases for tokenizer %d", len(v.Cases), v.Tokenizer)
	}
	return v
}

func TestTokenizeVectors(t *testing.T) {
	for _, c := range loadTermVectors(t).Cases {
		if got := Tokenize(c.Text); !slices.Equal(got, c.Terms) {
			t.Errorf("%s: got %q, want %q", c.Name, got, c.Terms)
		}
	}
}

// TestUnicodeVersion fails when a newer Go or x/text brings other tables: texts
// may then tokenize otherwise, which takes a new TokenizerVersion.
func TestUnicodeVersion(t *testing.T) {
	const want = "15.0.0"
	if unicode.Version != want || norm.Version != want || cases.UnicodeVersion != want {
		t.Fatalf("Unicode is %s, %s and %s, version %d of the tokenizer means %s",
			unicode.Version, norm.Version, cases.UnicodeVersion, TokenizerVersion, want)
	}
}

// TestCorpora compares with CPython over real conversations.
func TestCorpora(t *testing.T) {
	for name, want := range loadTermVectors(t).Corpora {
		h, messages, terms := sha256.New(), 0, 0
		eachText(t, name, func(text string) {
			messages++
			for _, term := range Tokenize(text) {
				terms++
				h.Write([]byte(term + "\n"))
			}
			h.Write([]byte("\n"))
		})
		if messages != want.Messages || terms != want.Terms || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
			t.Errorf("%s: %d terms of %d messages differ from CPython's %d of %d", name, terms, messages, want.Terms, want.Messages)
		}
	}
}

// eachText calls f with the text of each message of a corpus.
func eachText(t testing.TB, name string, f func(string)) {
	t.Helper()
	file, err := os.Open(testenv.Data(t, "corpus", name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var m struct{ Text string }
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		f(m.Text)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// TestTokenizeASCII needs no tables: ASCII folds by lower case and separates at
// all but letters and digits.
func TestTokenizeASCII(t *testing.T) {
	word := regexp.MustCompile(`[0-9a-z]+`)
	eachText(t, "ncar_zulip.jsonl", func(text string) {
		if strings.IndexFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) >= 0 {
			return
		}
		var want []string
		for _, w := range word.FindAllString(strings.ToLower(text), -1) {
			if !slices.Contains(want, w) {
				want = append(want, w)
			}
		}
		if got := Tokenize(text); !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// TestCases: characters that differ in case alone are one term. x/text's folding
// by itself fails this for Cherokee.
func TestCases(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if next := unicode.SimpleFold(r); next != r && normalise(string(r)) != normalise(string(next)) {
			t.Errorf("%U and %U differ in case alone: %+q, %+q", r, next, normalise(string(r)), normalise(string(next)))
		}
	}
}

// TestNormalFormIsFixed: a term that Tokenize returned is its own term, so that
// searching for it finds it.
func TestNormalFormIsFixed(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !unicode.IsGraphic(r) || unicode.In(r, unicode.Unified_Ideograph, unicode.Hangul) {
			continue // nothing to fold or decompose, and most of Unicode
		}
		for _, s := range []string{string(r), string(r) + "\u0345", "a" + string(r)} {
			once := normalise(s)
			if twice := normalise(once); twice != once {
				t.Errorf("%+q: %+q, then %+q", s, once, twice)
			}
		}
	}
}

func TestTokenizeInvalid(t *testing.T) {
	for text, want := range map[string][]string{
		"a\xffb":         {"a", "b"},
		"\xc3":           nil,
		"x\xed\xa0\x80y": {"x", "y"}, // a surrogate
		"\ufffd":         nil,
	} {
		if got := Tokenize(text); !slices.Equal(got, want) {
			t.Errorf("%+q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzTokenize(f *testing.F) {
	for _, c := range loadTermVectors(f).Cases {
		f.Add(c.Text)
	}
	f.Add("a\xffb")
	f.Fuzz(func(t *testing.T, text string) {
		terms := Tokenize(text)
		if again := Tokenize(strings.Join(terms, " ")); !slices.Equal(again, terms) {
			t.Fatalf("%+q: terms %+q, whose terms are %+q", text, terms, again)
		}
		if got := Tokenize(norm.NFD.String(text)); !slices.Equal(got, terms) {
			t.Fatalf("%+q: decomposed, its terms are %+q instead of %+q", text, got, terms)
		}
	})
}
