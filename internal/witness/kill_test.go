//go:build unix

package witness

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMain is the witness that TestKill kills, where the environment says so:
// it takes 40 leaves after 10 and ends itself at the step named.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CHANCERY_TEST_WITNESS"); dir != "" {
		die(dir, os.Getenv("CHANCERY_TEST_STEP"))
	}
	os.Exit(m.Run())
}

func die(dir, step string) {
	w, err := open(config(dir))
	if err != nil {
		panic(err)
	}
	w.reached = func(s string) {
		if s == step {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal comes
		}
	}
	body, err := os.ReadFile(filepath.Join(dir, "request"))
	if err != nil {
		panic(err)
	}
	rec := httptest.NewRecorder()
	w.answer(rec, body)
	if rec.Code != http.StatusOK {
		panic(rec.Body.String())
	}
	os.Exit(0)
}

// Killed anywhere between the request and the answer, the witness comes back
// to a state from which it goes on with the one history and cosigns no other.
func TestKill(t *testing.T) {
	h := newHistory(t, 60, "a", 0)
	fork := newHistory(t, 60, "b", 20)
	for _, c := range []struct {
		step string
		held int64 // after the restart
	}{
		{"cosigned", 10}, {"created", 10}, {"written", 10}, {"synced", 10}, // nothing left the witness
		{"renamed", 40}, {"directory synced", 40}, {"kept", 40}, // nor here, but it remembers
		{"", 40}, // not killed
	} {
		dir := t.TempDir()
		_, url, stop := start(t, dir)
		if _, err := submit(t, url, h, 0, 10); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := os.WriteFile(filepath.Join(dir, "request"), encodeRequest(10, h.prove(t, 10, 40), h.sign(t, 40)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CHANCERY_TEST_WITNESS="+dir, "CHANCERY_TEST_STEP="+c.step)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if killed != (c.step != "") {
			t.Fatalf("at %q: %v %s", c.step, err, out)
		}

		_, url, _ = start(t, dir)
		if left, _ := filepath.Glob(filepath.Join(dir, stateIn, ".tmp-*")); len(left) != 0 {
			t.Errorf("killed at %q: left %v", c.step, left)
		}
		held, err := submit(t, url, h, 0, 40)
		if !errors.Is(err, ErrConflict) || held != c.held {
			t.Errorf("killed at %q: holds %d (%v), want %d", c.step, held, err, c.held)
		}
		// The fork continues the 10 leaves as well as the log does, but not 40.
		if held == 40 {
			if _, err := submit(t, url, fork, 40, 60); !errors.Is(err, ErrRefused) {
				t.Errorf("killed at %q: fork: %v", c.step, err)
			}
			if _, err := submit(t, url, fork, 40, 40); !errors.Is(err, ErrRefused) {
				t.Errorf("killed at %q: fork at the same size: %v", c.step, err)
			}
		}
		// The client that got no answer asks again and goes on.
		for _, size := range []int64{40, 60} {
			if _, err := submit(t, url, h, held, size); err != nil {
				t.Errorf("killed at %q: %d to %d: %v", c.step, held, size, err)
			}
			held = size
		}
		if _, err := submit(t, url, fork, 60, 60); !errors.Is(err, ErrRefused) {
			t.Errorf("killed at %q: fork: %v", c.step, err)
		}
	}
}
