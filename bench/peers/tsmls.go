package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// node has the driver of ts-mls and what npm needs to fetch it.
//
//go:embed tsmls.mjs package.json package-lock.json
var node embed.FS

// nodeMajor is the oldest Node that will do.
const nodeMajor = 20

// runTSMLS runs the driver in Node, which takes the place of this program.
func runTSMLS(ctx context.Context) error {
	program, err := findNode(ctx)
	if err != nil {
		return err
	}
	dir, err := install(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "--expose-gc", filepath.Join(dir, "tsmls.mjs"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func findNode(ctx context.Context) (string, error) {
	program, err := exec.LookPath("node")
	if err != nil {
		return "", fmt.Errorf("node is not installed: want %d or newer, with npm", nodeMajor)
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("couldn't ask node for its version: %w", err)
	}
	var major int
	if _, err := fmt.Sscanf(string(version), "v%d.", &major); err != nil || major < nodeMajor {
		return "", fmt.Errorf("node %d or newer is needed, not %s", nodeMajor, version)
	}
	return program, nil
}

// install returns a folder in the user's cache with the driver and the packages
// that package-lock.json names. It is there either whole or not at all.
func install(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "chancery-bench")
	sum := sha256.New()
	for _, name := range []string{"tsmls.mjs", "package.json", "package-lock.json"} {
		data, err := node.ReadFile(name)
		if err != nil {
			return "", err
		}
		sum.Write(data)
	}
	home := filepath.Join(cache, "ts-mls-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, "npm-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := os.CopyFS(work, node); err != nil {
		return "", err
	}
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = work
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci failed: %w: %s", err, out)
	}
	// Another run may have been faster: its folder is as good.
	if err := os.Rename(work, home); err != nil {
		if _, gone := os.Stat(home); gone != nil {
			return "", errors.Join(err, gone)
		}
	}
	return home, nil
}
