package demo

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// byHand returns the blocks of commands of docs/by-hand.md.
func byHand(t *testing.T) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "by-hand.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, b[1])
	}
	if len(blocks) != 9 {
		t.Fatalf("%d blocks of commands, want 9", len(blocks))
	}
	return blocks
}

// TestByHand runs the commands of docs/by-hand.md as they stand.
func TestByHand(t *testing.T) {
	shell := testenv.Program(t, "bash", "Debian package bash")
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + strings.Join(byHand(t), "")
	cmd := exec.CommandContext(t.Context(), shell, "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if lines := strings.Fields(string(out)); lines[len(lines)-1] != "2" {
		t.Errorf("the export has %s messages about invoices, want 2\n%s", lines[len(lines)-1], out)
	}
}

// TestSendWithoutServer says something while nothing runs: it goes once the
// server is back, with the next thing that the device does.
func TestSendWithoutServer(t *testing.T) {
	shell := testenv.Program(t, "bash", "Debian package bash")
	blocks := byHand(t)
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + strings.Join(blocks[:5], "") + `
kill $(jobs -p); wait || true
chancery send --device devices/Maria --key-file keys/device-Maria $TALK "Written on the train." > queued
` + blocks[2] + `
chancery read --device devices/Maria --key-file keys/device-Maria
chancery read --device devices/Jonas --key-file keys/device-Jonas --conversation $TALK > received
`
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), shell, "-c", script)
	cmd.Dir, cmd.WaitDelay = dir, 10*time.Second
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for file, want := range map[string]string{"queued": "goes with the next send or read", "received": "Written on the train."} {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s lacks %q: %v\n%s", file, want, err, data)
		}
	}
}

// TestReadme runs the README's first command as it stands, as a newcomer would.
func TestReadme(t *testing.T) {
	shell := testenv.Program(t, "bash", "Debian package bash")
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```\n(.*?)\n```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 2 || blocks[1][1] != "./test" {
		t.Fatalf("the README has %d commands, want the demo and ./test", len(blocks))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, "-c", blocks[0][1])
	cmd.Dir = testenv.Root()
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasSuffix(string(out), "\nverified\n") {
		t.Errorf("the demo doesn't end with verified:\n%s", out)
	}
}
