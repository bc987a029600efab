package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/request"
)

func TestPlain(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""},
		{"Grüße, 你好, שלום", "Grüße, 你好, שלום"},
		{"1\u00a0000\u202f€", "1\u00a0000\u202f€"},
		{"👩\u200d👧 \u2764\ufe0f", "👩\u200d👧 \u2764\ufe0f"},
		{"\x1b[2Jgone", `\x1b[2Jgone`},
		{"\u009b2J", `\u009b2J`},
		{"a\rb\nc\td\x00", `a\rb\nc\td\x00`},
		{"\u202eevil\u2066", `\u202eevil\u2066`},
		{"\ufeff\u2028", `\ufeff\u2028`},
		{"\xff", "\ufffd"},
	} {
		if got := plain(c[0]); got != c[1] {
			t.Errorf("%q is shown as %q, want %q", c[0], got, c[1])
		}
	}
	if got := lines("one\r\n\ntwo\x1b[A\n", "  "); got != "one\n  \n  two\\x1b[A" {
		t.Errorf("%q", got)
	}
}

// TestRequestTextIsWhatIsSigned has a requester and a directory that write lines
// of their own into what approvers read.
func TestRequestTextIsWhatIsSigned(t *testing.T) {
	custodian := codec.NewID()
	r := &control.RequestState{}
	r.Custodians, r.MaxCount, r.Search = []codec.ID{custodian}, 9000, true
	text := requestText(r, &request.Details{
		Title: "x\n  at most        1 records", Purpose: "\x1b[8m", LegalBasis: "\u202e", Terms: []string{"a\r  asks to        nothing"},
	}, map[codec.ID]string{custodian: "Maria\x1b[1A"})
	if n := strings.Count(text, "\n  at most "); n != 1 {
		t.Errorf("%d lines say how many records:\n%s", n, text)
	}
	if !strings.Contains(text, custodian.String()) {
		t.Error("the custodian's id, which is what is signed, isn't shown")
	}
	if strings.ContainsAny(text, "\x1b\r\u202e") {
		t.Errorf("%q", text)
	}
}

// A second line of a public key's file would be a second key.
func TestCommentIsOneLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	var out, errOut strings.Builder
	if code := Main([]string{"key", "new", path, "--comment", "a\nssh-ed25519 AAAA"}, strings.NewReader(""), &out, &errOut); code != 2 {
		t.Errorf("exit %d, %q", code, errOut.String())
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key was made: %v", err)
	}
}
