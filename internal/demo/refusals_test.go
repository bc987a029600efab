package demo

import (
	"strings"
	"testing"
)

// TestFewerThanThreshold stops all keyholders but two: nothing opens, and the
// error says who is missing.
func TestFewerThanThreshold(t *testing.T) {
	s := scene(t, "approve")
	for _, name := range []string{"keyholder-1", "keyholder-3", "keyholder-5"} {
		if err := s.program(t, name).kill(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.tryOpen(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "too few keyholders answered") || !strings.Contains(err.Error(), "keyholder-3") {
		t.Fatalf("got %v, want too few keyholders, by name", err)
	}
}
