package demo

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	windowSize = 8  // bytes that a needle is found by
	needleSize = 32 // bytes of a needle that are compared: databases split what is longer
)

type window [windowSize]byte

// needles finds secrets in files however they are spelled: raw, base64 at any
// alignment, hexadecimal in either case.
type needles struct {
	spellings map[window][]spelling
}

type spelling struct {
	bytes  []byte
	secret string
}

func newNeedles(secrets []string) *needles {
	n := &needles{spellings: map[window][]spelling{}}
	for _, s := range secrets {
		cut := []byte(s)[:min(len(s), needleSize)]
		n.add(s, cut)
		n.add(s, []byte(hex.EncodeToString(cut)))
		n.add(s, []byte(strings.ToUpper(hex.EncodeToString(cut))))
		for shift := range 3 {
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := enc.EncodeToString(append(make([]byte, shift), cut...))
				// The characters that neighbours have a part in don't count.
				first, last := (shift*8+5)/6, (shift+len(cut))*8/6
				n.add(s, []byte(text)[first:last])
			}
		}
	}
	return n
}

func (n *needles) add(secret string, b []byte) {
	if len(b) >= windowSize {
		w := window(b[:windowSize])
		n.spellings[w] = append(n.spellings[w], spelling{b, secret})
	}
}

// in returns the secrets found in data.
func (n *needles) in(data []byte) []string {
	var found []string
	for i := 0; i+windowSize <= len(data); i++ {
		for _, s := range n.spellings[window(data[i:i+windowSize])] {
			if bytes.HasPrefix(data[i:], s.bytes) {
				found = append(found, s.secret)
			}
		}
	}
	return found
}

// grep fails the test for each secret found in any file below dirs.
func (n *needles) grep(t *testing.T, dirs ...string) {
	t.Helper()
	files, size := 0, 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files, size = files+1, size+len(data)
			for i, s := range n.in(data) {
				if i == 3 {
					break
				}
				t.Errorf("%s holds %.60q in clear", path, s)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Fatalf("no file below %v", dirs)
	}
	t.Logf("%d needles looked for in %d files, %d bytes", len(n.spellings), files, size)
}

// TestNeedles makes sure that the search finds what it looks for.
func TestNeedles(t *testing.T) {
	secret := "an invoice that nobody may read"
	n := newNeedles([]string{secret})
	for name, data := range map[string][]byte{
		"raw":    []byte("xx" + secret + "yy"),
		"hex":    []byte(hex.EncodeToString([]byte("x" + secret))),
		"HEX":    []byte(strings.ToUpper(hex.EncodeToString([]byte(secret)))),
		"base64": []byte(base64.StdEncoding.EncodeToString([]byte(secret + "z"))),
		"shift1": []byte(base64.StdEncoding.EncodeToString([]byte("a" + secret))),
		"shift2": []byte(base64.URLEncoding.EncodeToString([]byte("ab" + secret + "cd"))),
	} {
		if len(n.in(data)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	if got := n.in([]byte("an invoice that anybody may read")); got != nil {
		t.Errorf("found %q in something else", got)
	}
}
