//go:build unix

package dirlock

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Acquire takes an existing directory for this process, until the file it
// returns is closed or the process ends, however it does. It returns ErrInUse,
// wrapped.
func Acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	}
	return f, nil
}
