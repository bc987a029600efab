//go:build !unix

package custody

import (
	"fmt"
	"os"
	"path/filepath"
)

// lock only opens the file: here it's for whoever runs the holder to see that
// one process has the directory.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the lock: %w", err)
	}
	return f, nil
}
