// Package deptest holds a program to the list of what it is made of. Somebody has
// to read all of that before they vouch for the program, so nothing may join it
// unnoticed.
package deptest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Program fails a test of package main unless exactly these modules, and exactly
// these packages of Chancery's own, make up the program built without cgo. Both
// lists are sorted.
func Program(t *testing.T, modules, packages []string) {
	t.Helper()
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

// list returns what a template makes of every package that the program in the
// current folder is built of, sorted, each once.
func list(t *testing.T, template string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-f", template, ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("couldn't list what the program is made of: %v", err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return slices.Compact(lines)
}
