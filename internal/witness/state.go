package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"chancery/internal/dirlock"
)

const (
	keyFile = "witness.key"
	keyType = "CHANCERY WITNESS KEY"
	stateIn = "logs"
)

// LoadOrCreateKey reads the witness's Ed25519 key from the directory, or draws
// one from random and writes it with mode 0600 where there is none. It refuses
// a key file that others may read.
func LoadOrCreateKey(dir string, random io.Reader) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, keyFile)
	key, err := readKey(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't create witness directory: %w", err)
	}
	// Of two processes that find no key only one may make it.
	held, err := dirlock.Acquire(dir)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if key, err := readKey(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := removeLeftovers(dir); err != nil {
		return nil, fmt.Errorf("couldn't remove leftovers: %w", err)
	}
	seed := make([]byte, ed25519.SeedSize)
	defer clear(seed)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("couldn't draw a witness key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: seed})
	defer clear(text)
	if err := writeDurably(path, text, nil); err != nil {
		return nil, fmt.Errorf("couldn't write the witness key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("witness key %s may be read by others (mode %04o), want 0600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != keyType || len(rest) != 0 || len(block.Bytes) != ed25519.SeedSize {
		return nil, fmt.Errorf("witness key %s is damaged", path)
	}
	defer clear(block.Bytes)
	return ed25519.NewKeyFromSeed(block.Bytes), nil
}

// originHash names a log in paths and URLs (C2SP tlog-witness, "Monitor
// Retrieval Mechanism").
func originHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// writeDurably replaces the file at path, so that after a crash at any step
// there is the old content or the new, and after it returns the new. reached,
// where not nil, is told of each step.
func writeDurably(path string, data []byte, reached func(step string)) error {
	if reached == nil {
		reached = func(string) {}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails, as it should, after the rename
	reached("created")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	reached("written")
	// Before the rename: otherwise the name could survive a crash that the
	// bytes don't.
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	reached("synced")
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	reached("renamed")
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	reached("directory synced")
	return nil
}

// removeLeftovers deletes the temporary files of a process that was killed.
func removeLeftovers(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
