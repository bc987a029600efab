//go:build !unix

package witness

import (
	"errors"
	"fmt"
	"os"
)

// lock refuses: without a lock that ends with its process, two witnesses on
// one directory could roll back what the other has cosigned.
func lock(dir string) (*os.File, error) {
	return nil, fmt.Errorf("couldn't lock witness directory %s: %w", dir, errors.ErrUnsupported)
}
