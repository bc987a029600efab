package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Whoever vouches for the measured program has to read what it is made of, so
// that this list is short and nothing joins it unnoticed. There is no cgo in it,
// no SDK, server or keyholder, and no auditor: nobody audits their own work.
func TestDependencies(t *testing.T) {
	modules := []string{
		"chancery",
		"filippo.io/bigmod",
		"filippo.io/nistec",
		"github.com/cloudflare/circl",
		"github.com/fxamacker/cbor/v2",
		"github.com/veraison/go-cose",
		"github.com/x448/float16",
		"golang.org/x/crypto",
		"golang.org/x/mod",
		"golang.org/x/sync",
		"golang.org/x/sys",
		"golang.org/x/text",
	}
	packages := []string{
		"chancery/blindindex", "chancery/client/remote", "chancery/cmd/chancery-opener", "chancery/codec", "chancery/control",
		"chancery/envelope", "chancery/internal/httpsig", "chancery/internal/opener", "chancery/internal/replica",
		"chancery/internal/wire", "chancery/ledger", "chancery/manifest", "chancery/pack", "chancery/quorum",
		"chancery/request", "chancery/sshsig",
	}
	if got := list(t, `{{if not .Standard}}{{.Module.Path}}{{end}}`); !slices.Equal(got, modules) {
		t.Errorf("modules:\n%q\nwant\n%q", got, modules)
	}
	if got := list(t, `{{if not .Standard}}{{if eq .Module.Path "chancery"}}{{.ImportPath}}{{end}}{{end}}`); !slices.Equal(got, packages) {
		t.Errorf("packages:\n%q\nwant\n%q", got, packages)
	}
	if got := list(t, `{{if .CgoFiles}}{{.ImportPath}}{{end}}`); len(got) > 0 {
		t.Errorf("cgo in %q", got)
	}
}

// list returns what a template makes of every package that the program is built
// of without cgo, sorted, each once.
func list(t *testing.T, template string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-f", template, ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no go command to ask: %v", err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return slices.Compact(lines)
}
