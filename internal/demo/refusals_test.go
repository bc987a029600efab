package demo

import (
	"strings"
	"testing"

	"chancery/control"
)

// TestFewerThanThreshold stops all keyholders but two, and then both guards:
// nothing opens, and the error says who is missing. Once enough are back, it
// opens.
func TestFewerThanThreshold(t *testing.T) {
	s := scene(t, "approve")
	without := func(t *testing.T, words string, names ...string) {
		t.Helper()
		for _, name := range names {
			if err := s.program(t, name).kill(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.tryOpen(attackContext(t), nil)
		for _, name := range names {
			if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "; "+name+": ") {
				t.Fatalf("got %v, want %q, by name", err, words)
			}
		}
		// Those that were there answered for index envelopes, as the log shows.
		// There is no opener's last word, and nobody was asked for a record.
		s.uses(t, s.summary.Request)
		s.replica.Read(func(st *control.State) {
			r, _ := st.Request(s.summary.Request)
			for _, u := range r.Uses {
				if u.Phase != control.PhaseIndex {
					t.Errorf("a use of phase %d", u.Phase)
				}
			}
		})
	}
	t.Run("fewer than t keyholders", func(t *testing.T) {
		without(t, "too few keyholders answered", "keyholder-1", "keyholder-3", "keyholder-5")
	})
	s.program(t, "keyholder-3").restart(t)
	t.Run("no guard", func(t *testing.T) { without(t, "no guard answered", "guard-1", "guard-2") })
	s.program(t, "guard-2").restart(t)
	t.Run("three keyholders and one guard", func(t *testing.T) {
		result, err := s.tryOpen(attackContext(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		if result.Exported == 0 || len(result.Faults) != 0 {
			t.Errorf("result %+v", result)
		}
	})
}
