package custody

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts data at path so durably that after a crash there is the old
// file or the new, whole: a temporary file in the same directory, synced,
// renamed, and the directory synced.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := writeTemporary(path, data, mode)
	if err != nil {
		return fmt.Errorf("couldn't write %s: %w", path, err)
	}
	if err := os.Rename(f, path); err != nil {
		os.Remove(f)
		return fmt.Errorf("couldn't write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// CreateFile is WriteFile for a path where no file may be: it returns
// fs.ErrExist, wrapped, and leaves the one that is there.
func CreateFile(path string, data []byte, mode fs.FileMode) error {
	f, err := writeTemporary(path, data, mode)
	if err != nil {
		return fmt.Errorf("couldn't create %s: %w", path, err)
	}
	defer os.Remove(f)
	// A rename would replace; a link doesn't.
	if err := os.Link(f, path); err != nil {
		return fmt.Errorf("couldn't create %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func writeTemporary(path string, data []byte, mode fs.FileMode) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".write-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("couldn't sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("couldn't sync %s: %w", dir, err)
	}
	return nil
}

// private reports whether a file is its owner's alone, where the system keeps
// such modes.
func private(info fs.FileInfo) bool {
	return os.PathSeparator != '/' || info.Mode().Perm()&0o077 == 0
}
