// Package chancery holds the rules that the whole tree keeps.
package chancery

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type goPackage struct {
	ImportPath string
	Name       string
	Doc        string
	Dir        string
	Imports    []string
	Deps       []string
}

// layers lists the tree from the ground up: a package imports its own layer and
// those above it in this list, never one below.
var layers = [][]string{
	{"codec", "quorum", "mls/syntax"},
	{"mls/cipher"},
	{"mls/tree"},
	{"mls", "sshsig", "envelope", "blindindex", "ledger", "manifest", "control", "request", "pack", "report", "ratchet", "evidence", "client/history", "internal/wire", "internal/handshake"},
	{
		"client", "client/remote", "client/group", "client/direct", "verify", "internal/httpsig", "internal/tlogtiles", "internal/replica",
		"internal/dirlock", "internal/custody", "internal/home", "client/state",
		"internal/ceremony", "internal/matters", "internal/opening", "internal/store", "internal/issuer", "internal/delivery", "internal/directory", "internal/keyholder",
		"internal/opener", "internal/witness",
	},
	{"internal/store/sqlite", "internal/store/storetest", "internal/api", "internal/opener/openertest", "internal/orgtest", "internal/testenv", "internal/wycheproof", "internal/deptest", "internal/published", "mls/interop"},
	{"internal/cli", "internal/demo", "internal/bench"},
	{"cmd/chancery", "cmd/chancery-opener", "cmd/chancery-verify", "internal/campaign"},
}

// forbidden says which packages must not reach which, and why.
var forbidden = []struct {
	from   []string
	reach  []string // however indirectly
	direct []string // by an import of their own
	reason string
}{
	{
		from:   []string{"internal/api", "internal/delivery", "internal/directory", "internal/store", "internal/store/sqlite"},
		reach:  []string{"chancery/client", "chancery/internal/opener", "chancery/client/group", "chancery/mls", "chancery/ratchet"},
		reason: "no path in the server can open a message",
	},
	{
		from:   []string{"internal/delivery", "internal/directory", "internal/store"},
		reach:  []string{"database/sql", "modernc.org/sqlite", "chancery/internal/store/sqlite"},
		reason: "engines work with the store's contract: which database keeps it is wired above them",
	},
	{
		from:   []string{"internal/opener", "cmd/chancery-opener"},
		reach:  []string{"chancery/verify", "chancery/client", "chancery/ratchet", "chancery/internal/store", "github.com/spf13/cobra"},
		reason: "the measured program stays small and is checked by others, not by itself",
	},
	{
		from:   []string{"verify", "cmd/chancery-verify"},
		reach:  []string{"net/http", "chancery/client", "chancery/internal/opener", "modernc.org/sqlite", "github.com/spf13/cobra"},
		reason: "the auditor works offline and trusts nobody",
	},
	{
		from:   []string{"codec", "quorum", "sshsig", "envelope", "blindindex", "ledger", "manifest", "control", "request", "pack", "report", "ratchet", "evidence", "client/history", "internal/wire", "internal/handshake", "mls", "mls/tree", "mls/cipher", "mls/syntax"},
		direct: []string{"net", "net/http", "database/sql", "log", "os"},
		reason: "protocols are pure: no network, disk or log",
	},
}

func TestImportsRunOneWay(t *testing.T) {
	layer := map[string]int{}
	for i, names := range layers {
		for _, n := range names {
			layer[n] = i
		}
	}
	for _, p := range list(t) {
		from, ok := layer[p.ImportPath]
		if !ok {
			t.Errorf("%s is on no layer: add it to layers with thought", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			name, ours := strings.CutPrefix(imp, "chancery/")
			if ours && layer[name] > from {
				t.Errorf("%s imports %s: imports run cmd → cli → adapters → engines → protocols → ground", p.ImportPath, name)
			}
		}
	}
}

func TestForbiddenPaths(t *testing.T) {
	packages := list(t)
	for _, rule := range forbidden {
		for _, p := range packages {
			if !slices.Contains(rule.from, p.ImportPath) {
				continue
			}
			for _, d := range p.Imports {
				if slices.Contains(rule.direct, d) {
					t.Errorf("%s imports %s: %s", p.ImportPath, d, rule.reason)
				}
			}
			for _, d := range p.Deps {
				for _, r := range rule.reach {
					if d == r || (strings.Contains(r, ".") && strings.HasPrefix(d, r+"/")) {
						t.Errorf("%s reaches %s: %s", p.ImportPath, d, rule.reason)
					}
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestNoInit keeps wiring visible: main constructs.
func TestNoInit(t *testing.T) {
	for _, p := range list(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(data), "\nfunc init()") {
				t.Errorf("%s has an init function", f)
			}
		}
	}
}

func list(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Dir,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath == "chancery" {
			continue // this file
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, "chancery/")
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}
