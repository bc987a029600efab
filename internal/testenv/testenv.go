// Package testenv finds what tests need beyond the Go toolchain: programs and
// data. A test skips by name where something isn't installed; with
// CHANCERY_REQUIRE=1, as in CI, it fails instead.
package testenv

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Missing skips a test for want of something, or fails it where nothing may be
// missing.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CHANCERY_REQUIRE") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Program returns the path of an installed program; from is what provides it.
func Program(t testing.TB, name, from string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%s is not installed (%s)", name, from)
	}
	return path
}

// Fsck has another implementation read a whole log: Tessera's cmd/fsck, over the
// log at url, which ends with a slash, under its verifier key. It returns whether
// that found the log good, and what it said, which must be read: it exits with 0
// over a broken log, and never once it has found a wrong tile.
func Fsck(t testing.TB, url, key string) (ok bool, said string) {
	t.Helper()
	bin := tesseraFsck(t)
	file := filepath.Join(t.TempDir(), "log.pub")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "--storage_url="+url, "--public_key="+file, "--ui=false", "--logtostderr", "-v=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said += lines.Text() + "\n"
		switch l := lines.Text(); {
		case strings.Contains(l, "Successfully fsck'd"):
			return true, said
		case strings.Contains(l, "fsck failed"), strings.Contains(l, ":Invalid"):
			return false, said
		}
	}
	t.Fatalf("fsck said neither yes nor no: %s", said)
	return false, said
}

// tesseraFsck returns the path of Tessera's cmd/fsck, from $CHANCERY_FSCK or the
// PATH, where the file system's checker of the same name is no substitute.
func tesseraFsck(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("CHANCERY_FSCK"); bin != "" {
		return bin
	}
	bin, err := exec.LookPath("fsck")
	if err == nil {
		help, _ := exec.Command(bin, "-h").CombinedOutput() // exits with an error either way
		if bytes.Contains(help, []byte("tlog-tiles")) {
			return bin
		}
	}
	Missing(t, "Tessera's fsck is not installed: GOBIN=DIR go install github.com/transparency-dev/tessera/cmd/fsck@v1.0.4, then CHANCERY_FSCK=DIR/fsck")
	return ""
}

// Root returns the repository's root.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Data returns the path of a file of the shared test data, which is not part of
// the repository: it is other people's, at ../shared/data.
func Data(t testing.TB, elem ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{Root(), "..", "shared", "data"}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "../shared/data/%s is not there: CONTRIBUTING.md says where test data comes from", filepath.Join(elem...))
	}
	return path
}
