package bench

import (
	"testing"

	"chancery/internal/testenv"
)

// TestSessions proves that the measurement runs; it asserts no time.
func TestSessions(t *testing.T) {
	r, err := RunSessions(t.Context(), SessionOptions{Members: []int{2, 5}, Runs: 2})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, r, 2, 0)
}

// TestPeers measures all peers beside ours.
func TestPeers(t *testing.T) {
	peers, err := StartPeers(t.Context(), "../../bench/peers")
	for _, p := range peers {
		defer p.Close()
	}
	if err != nil {
		testenv.Missing(t, "%v", err)
	}
	r, err := RunSessions(t.Context(), SessionOptions{Members: []int{2, 50}, Runs: 1, Peers: peers})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, r, 2, len(peerPrograms))
}

func complete(t *testing.T, r *Sessions, sizes, peers int) {
	t.Helper()
	if len(r.Rows) != sizes*len(sessionSteps) || len(r.Held) != sizes || len(r.Peers) != peers {
		t.Fatalf("%d rows, %d sizes, %d peers", len(r.Rows), len(r.Held), len(r.Peers))
	}
	for _, row := range r.Rows {
		if row.Seconds <= 0 || row.Allocated == 0 || row.Written == 0 || len(row.Peers) != peers || (row.Ratio > 0) != (peers > 0) {
			t.Errorf("incomplete: %+v", row)
		}
		for _, p := range row.Peers {
			if p.Seconds <= 0 {
				t.Errorf("incomplete: %+v", row)
			}
		}
	}
}

func TestPeersThatAreMissing(t *testing.T) {
	if peers, err := StartPeers(t.Context(), t.TempDir()); err == nil || len(peers) > 0 {
		t.Fatalf("%d peers out of an empty folder", len(peers))
	}
}

// TestUpdate: either part of docs/performance.md is written without touching the
// other.
func TestUpdate(t *testing.T) {
	const figures, sessions = "# Performance\n\n| a |\n", "## Sessions\n\n| b |\n"
	for _, c := range []struct{ before, part, want string }{
		{"", figures, figures},
		{"", sessions, sessions},
		{figures, sessions, figures + "\n" + sessions},
		{sessions, figures, figures + "\n" + sessions},
		{figures + "\n" + sessions, "# New\n", "# New\n\n" + sessions},
		{figures + "\n" + sessions, "## Sessions\nnew\n", figures + "\n## Sessions\nnew\n"},
	} {
		if got := string(Update([]byte(c.before), []byte(c.part))); got != c.want {
			t.Errorf("%q with %q: got %q, want %q", c.before, c.part, got, c.want)
		}
	}
}
