//go:build !linux

package bench

import "runtime"

// cpu names the processor as far as Go knows it.
func cpu() string { return runtime.GOARCH }
