package demo

import (
	"context"
	"io"
	"path/filepath"
	"testing"

	"chancery/internal/home"
	"chancery/internal/opener"
	"chancery/internal/opening"
	"chancery/request"
)

// scene plays the demo up to and including a phase, with real processes, and
// leaves it standing for a test to attack. The programs stop with the test.
func scene(t *testing.T, until string) *stage {
	t.Helper()
	s, err := newStage(Options{Dir: filepath.Join(t.TempDir(), "scene"), Binary: binary, Term: "invoice", Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	for _, phase := range s.phases() {
		if err := phase.play(t.Context()); err != nil {
			t.Fatalf("%s: %v; %v", phase.name, err, s.check())
		}
		if phase.name == until {
			return s
		}
	}
	t.Fatalf("there is no phase %q", until)
	return nil
}

// program returns a running program of the scene by its name.
func (s *stage) program(t *testing.T, name string) *program {
	t.Helper()
	for _, p := range s.programs {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no program %q", name)
	return nil
}

// restart starts a killed program again, at the same address.
func (p *program) restart(t *testing.T) {
	t.Helper()
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

// tryOpen runs an opener for the scene's request as the reviewer would.
func (s *stage) tryOpen(ctx context.Context, change func(*opening.Config)) (*opener.Result, error) {
	_, details, err := home.ReadRequest(s.requestFile())
	if err != nil {
		return nil, err
	}
	return s.tryOpenWith(ctx, details, change)
}

func (s *stage) tryOpenWith(ctx context.Context, details *request.Details, change func(*opening.Config)) (*opener.Result, error) {
	cfg := opening.Config{
		Command: []string{binary, "opener"}, Server: s.home.Server, Request: s.summary.Request, Details: details,
		Key: s.reviewer, Replica: s.replica,
	}
	if change != nil {
		change(&cfg)
	}
	if err := s.replica.Sync(ctx, s.server); err != nil {
		return nil, err
	}
	return opening.Run(ctx, cfg)
}
