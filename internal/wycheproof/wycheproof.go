// Package wycheproof holds our code against the vectors of Wycheproof
// (github.com/C2SP/wycheproof): inputs that have broken implementations before.
// They are a Go module, fetched once through the module proxy at a fixed version
// and hash. Only tests import this package. Each package runs the files of the
// primitives that it reaches, through its own functions.
package wycheproof

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/internal/testenv"
)

const (
	module = "github.com/c2sp/wycheproof@v0.0.0-20260105152342-fca0d3ba9f12"
	sum    = "h1:C34LW7dhWgjAaAOdNB8z2UCyJsXDjC6UTILljHuqOlI="
)

// Bytes is binary data as the vectors write it, in hexadecimal.
type Bytes []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

// Case is what every case has. A file's own type embeds it.
type Case struct {
	ID      int `json:"tcId"`
	Comment string
	Flags   []string
	Result  string // valid, invalid, or acceptable: either will do
}

// Has reports whether the case has a flag: what it is about.
func (c *Case) Has(flag string) bool { return slices.Contains(c.Flags, flag) }

// Invalid reports whether the case must be refused.
func (c *Case) Invalid() bool { return c.Result == "invalid" }

// Judge returns an error where the case should have been taken and was refused
// with err, or the other way round.
func (c *Case) Judge(err error) error {
	switch {
	case c.Result == "valid" && err != nil:
		return fmt.Errorf("refused: %w", err)
	case c.Result == "invalid" && err == nil:
		return errors.New("taken")
	}
	return nil
}

// Exchange is a case of a Diffie-Hellman exchange.
type Exchange struct {
	Case
	Public, Private, Shared Bytes
}

// Scalar returns the private key in size bytes: for curves but X25519 it is
// written as an integer.
func (e *Exchange) Scalar(size int) []byte {
	private := bytes.TrimLeft(e.Private, "\x00")
	return append(make([]byte, max(0, size-len(private))), private...)
}

// Stricter is returned for a case that was refused as our own rules have it, though
// it may be valid or acceptable to Wycheproof: the rule. It counts as passed.
type Stricter string

// Error returns the reason.
func (s Stricter) Error() string { return string(s) }

// Run runs each case of a file, named without its ending, and prints how many
// passed, and of those the ones where our code is stricter. G is a group of cases
// and C a case, read from JSON.
func Run[G, C any](t *testing.T, file string, check func(g *G, c *C) error) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(fetch(t), "testvectors_v1", file+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Count  int               `json:"numberOfTests"`
		Groups []json.RawMessage `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	r := report{stricter: make(map[string]int)}
	for _, raw := range all.Groups {
		var g G
		var cases struct{ Tests []json.RawMessage }
		if err := errors.Join(json.Unmarshal(raw, &g), json.Unmarshal(raw, &cases)); err != nil {
			t.Fatal(err)
		}
		for _, data := range cases.Tests {
			var name Case
			var c C
			if err := errors.Join(json.Unmarshal(data, &name), json.Unmarshal(data, &c)); err != nil {
				t.Fatal(err)
			}
			if err := r.count(&name, check(&g, &c)); err != nil {
				t.Errorf("%s, case %d (%s, %s %v): %v", file, name.ID, name.Result, name.Comment, name.Flags, err)
			}
		}
	}
	if r.total == 0 || r.total != all.Count {
		t.Fatalf("%s has %d cases and says %d", file, r.total, all.Count)
	}
	fmt.Printf("wycheproof %s %d/%d%s\n", file, r.passed, r.total, r.notes())
}

type report struct {
	total, passed int
	stricter      map[string]int
}

// count returns err where the case failed.
func (r *report) count(c *Case, err error) error {
	r.total++
	var reason Stricter
	if errors.As(err, &reason) {
		if !c.Invalid() {
			r.stricter[string(reason)]++
		}
	} else if err != nil {
		return err
	}
	r.passed++
	return nil
}

func (r *report) notes() string {
	var b strings.Builder
	for _, reason := range slices.Sorted(maps.Keys(r.stricter)) {
		fmt.Fprintf(&b, "; %d refused by a rule of ours: %s", r.stricter[reason], reason)
	}
	return b.String()
}

// fetch returns the folder of the module, from the module cache or the proxy.
func fetch(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // outside of our module, whose go.sum has no place for it
	cmd.Env = append(cmd.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &m) != nil || err != nil {
		testenv.Missing(t, "couldn't fetch the vectors of Wycheproof (%s): %v %s", module, err, m.Error)
	}
	if m.Sum != sum {
		t.Fatalf("%s has hash %s, want %s", module, m.Sum, sum)
	}
	return m.Dir
}
