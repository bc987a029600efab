package testenv

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// nodeMajor is the oldest Node that will do.
const nodeMajor = 20

// NodeModules returns the path of Node, and of a folder with the packages that
// the package-lock.json in dir names. They are fetched once with npm ci, and
// kept in the user's cache: none is part of the repository.
func NodeModules(t testing.TB, dir string) (node, modules string) {
	t.Helper()
	node = Program(t, "node", "Debian: nodejs")
	version, err := exec.CommandContext(t.Context(), node, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < nodeMajor {
		Missing(t, "node %d or newer is needed, not %s", nodeMajor, version)
	}
	npm := Program(t, "npm", "Debian: npm")
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	home := filepath.Join(cache, "chancery-test", "node-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(home); err != nil {
		npmInstall(t, npm, dir, home)
	}
	return node, filepath.Join(home, "node_modules")
}

// npmInstall installs what dir's package-lock.json names at home, which is
// there either whole or not at all.
func npmInstall(t testing.TB, npm, dir, home string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(filepath.Dir(home), "npm-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		Missing(t, "npm ci failed: %v: %s", err, out)
	}
	// Another test may have been faster: its folder is as good.
	if err := os.Rename(work, home); err != nil {
		if _, gone := os.Stat(home); gone != nil {
			t.Fatal(err)
		}
	}
}
