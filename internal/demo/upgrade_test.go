package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// landed are earlier states of the project whose data has to open in this one.
func landed() []string { return []string{"f2aaf352cace"} }

// TestUpgrade plays the first half of docs/by-hand.md with an earlier version's
// program and goes on with this one's over the same folders: server, holders,
// devices and people's files.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it builds an earlier version's programs from git and plays docs/by-hand.md with them, in minutes")
	}
	git := testenv.Program(t, "git", "Debian package git")
	shell := testenv.Program(t, "bash", "Debian package bash")
	blocks := byHand(t)
	for _, commit := range landed() {
		t.Run(commit, func(t *testing.T) {
			if err := exec.CommandContext(t.Context(), git, "-C", testenv.Root(), "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
				t.Skipf("commit %s, whose programs wrote the data, isn't in this checkout: git fetch --unshallow brings it", commit)
			}
			earlier := build(t, git, commit)
			script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" +
				"PATH=" + earlier + ":$PATH\n" + strings.Join(blocks[:5], "") + `
chancery send --device devices/Maria --key-file keys/device-Maria $TALK "On its way, without the word."
kill $(jobs -p); wait || true
PATH=` + filepath.Dir(binary) + ":$PATH\nhash -r\n" + blocks[2] + `
chancery read --device devices/Jonas --key-file keys/device-Jonas
chancery send --device devices/Jonas --key-file keys/device-Jonas $TALK "Another invoice."
chancery read --device devices/Maria --key-file keys/device-Maria
for name in Maria Jonas; do chancery device problems --device devices/$name --key-file keys/device-$name; done > problems
` + strings.Join(blocks[6:], "")
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), shell, "-c", script)
			cmd.Dir, cmd.WaitDelay = dir, 10*time.Second
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			export, err := os.ReadFile(filepath.Join(dir, "production", "export.jsonl"))
			if n := strings.Count(string(export), "nvoice"); err != nil || n != 3 {
				t.Errorf("%d messages about invoices in the export, want 3: %v\n%s", n, err, out)
			}
			problems, err := os.ReadFile(filepath.Join(dir, "problems"))
			if err != nil || strings.Contains(string(problems), "withheld") {
				t.Errorf("the devices complain, or %v:\n%s", err, problems)
			}
		})
	}
}

// build makes the program of an earlier commit and returns its folder.
func build(t *testing.T, git, commit string) string {
	t.Helper()
	tree, out := t.TempDir(), t.TempDir()
	archive := exec.CommandContext(t.Context(), git, "-C", testenv.Root(), "archive", commit)
	untar := exec.CommandContext(t.Context(), "tar", "-x", "-C", tree)
	var err error
	if untar.Stdin, err = archive.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := untar.Start(); err != nil {
		t.Fatal(err)
	}
	if err := archive.Run(); err != nil {
		t.Fatalf("couldn't read commit %s: %v", commit, err)
	}
	if err := untar.Wait(); err != nil {
		t.Fatal(err)
	}
	compile := exec.CommandContext(t.Context(), "go", "build", "-o", out, "./cmd/chancery")
	compile.Dir = tree
	if message, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("couldn't build commit %s: %v\n%s", commit, err, message)
	}
	return out
}
