package cipher

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
)

func TestAtOnce(t *testing.T) {
	for _, n := range []int{0, 1, 2, 100} {
		var calls atomic.Int64
		if err := AtOnce(n, func(int) error { calls.Add(1); return nil }); err != nil || calls.Load() != int64(n) {
			t.Errorf("%d: %d calls, %v", n, calls.Load(), err)
		}
	}
	// The lowest error counts, whoever comes first.
	for range 100 {
		err := AtOnce(50, func(i int) error {
			if i%7 == 3 {
				return fmt.Errorf("%d", i)
			}
			return nil
		})
		if err == nil || err.Error() != "3" {
			t.Fatal(err)
		}
	}
	if err := AtOnce(1, func(int) error { return errors.ErrUnsupported }); err != errors.ErrUnsupported {
		t.Error(err)
	}
}
