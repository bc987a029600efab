//go:build !unix

package dirlock

import (
	"errors"
	"fmt"
	"os"
)

// Acquire refuses where there is no lock that ends with its process.
func Acquire(dir string) (*os.File, error) {
	return nil, fmt.Errorf("couldn't lock %s: %w", dir, errors.ErrUnsupported)
}
