//go:build !unix

package sqlite

import (
	"errors"
	"fmt"
	"os"
)

// lock refuses: without a lock that ends with its process, two servers on
// one directory could give one index of a log to two leaves.
func lock(dir string) (*os.File, error) {
	return nil, fmt.Errorf("couldn't lock server directory %s: %w", dir, errors.ErrUnsupported)
}
