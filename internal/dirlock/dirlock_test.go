package dirlock

import (
	"errors"
	"testing"
)

func TestAcquire(t *testing.T) {
	dir := t.TempDir()
	f, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("a second time: %v, want %v", err, ErrInUse)
	}
	f.Close()
	again, err := Acquire(dir)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again.Close()
}
