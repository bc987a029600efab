package demo

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/matters"
)

// TestKillHolders kills a keyholder, guard, witness, the server or the opener
// while requests are opened, and tries again with a new opener until it opens.
func TestKillHolders(t *testing.T) {
	ctx, s, k := underFire(t, "approve")
	lines, err := readCorpus(bytes.NewReader(shipped), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := oracle(lines, "invoice")
	for n := range rounds(4, 40) {
		if n > 0 {
			if err := errors.Join(s.hold(ctx), s.approve(ctx)); err != nil {
				t.Fatalf("round %d: %v", n+1, err)
			}
		}
		attempts := 0
		for range 5 { // fewer than the uses that a holder allows a request
			attempts++
			if s.openAndKill(ctx, t, k) {
				break
			}
		}
		result, err := s.tryOpen(ctx, nil)
		if err != nil {
			t.Fatalf("round %d, after %d attempts with a kill: %v", n+1, attempts, err)
		}
		if err := matters.Await(ctx, s.replica, s.server, result.Index); err != nil {
			t.Fatal(err)
		}
		checkUses(t, s)
		if err := errors.Join(s.export(ctx), s.verify(ctx)); err != nil {
			t.Fatalf("round %d: %v", n+1, err)
		}
		checkExport(t, s.summary.ExportFile, want)
	}
	if err := s.replica.Sync(ctx, s.server); err != nil {
		t.Fatal(err)
	}
	checkRecords(ctx, t, s)
}

// mostKills is how many programs die in one attempt to open.
const mostKills = 6

// openAndKill tries to open the scene's request and kills programs at some
// moments of it. It reports whether the request was opened.
func (s *stage) openAndKill(ctx context.Context, t *testing.T, k *killer) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	opening, kill := context.WithCancel(ctx)
	defer kill()
	done := make(chan error, 1)
	go func() {
		_, err := s.tryOpen(opening, nil)
		done <- err
	}()
	var err error
	for kills, over := 0, false; !over; kills++ {
		select {
		case err = <-done:
			over = true
			continue
		case <-time.After(time.Duration(k.Float64() * float64(600*time.Millisecond))):
		}
		switch n := k.IntN(len(s.programs) + 2); {
		case kills == mostKills:
			err, over = <-done, true
		case n >= len(s.programs):
			k.kills["opener"]++
			kill() // exec.CommandContext kills with SIGKILL
			err, over = <-done, true
		default:
			if err := k.strike(s.programs[n], 300*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range s.programs {
		if err := up(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Logf("not opened: %.200v", err)
	}
	return err == nil
}

// checkUses checks what the log says about the scene's request: no opener has
// the last word without the uses of a quorum and a guard before it, in each
// phase that it opened anything in; none is there twice; and what a holder was
// asked for only grew.
func checkUses(t *testing.T, s *stage) {
	t.Helper()
	s.replica.Read(func(st *control.State) {
		r, ok := st.Request(s.summary.Request)
		if !ok {
			t.Errorf("request %s is gone", s.summary.Request.Short())
			return
		}
		type place struct {
			opener codec.Hash
			phase  control.Phase
			guard  bool
			holder uint8
		}
		once, counts := map[place]bool{}, map[place]uint64{}
		for _, u := range r.Uses {
			p := place{u.Opener, u.Phase, u.Guard, u.Holder}
			if once[p] {
				t.Errorf("two uses by holder %d (guard %v) for one opener in phase %d", u.Holder, u.Guard, u.Phase)
			}
			once[p] = true
			p.opener = codec.Hash{}
			if u.Count < counts[p] {
				t.Errorf("holder %d (guard %v) was asked for %d, then for %d", u.Holder, u.Guard, counts[p], u.Count)
			}
			counts[p] = u.Count
		}
		last := map[codec.Hash]int64{} // openers' last words
		entries, _ := s.replica.Entries()
		for i, raw := range entries {
			_, statement, err := control.Parse(raw)
			if err != nil {
				t.Error(err)
				return
			}
			var body control.OpeningStatement
			if statement.Kind == control.KindOpening && codec.Decode(statement.Body, &body) == nil {
				last[body.Opener] = int64(i)
			}
		}
		done := 0
		for h, o := range r.Openers {
			if !o.Done {
				continue
			}
			done++
			for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
				shares, locks := 0, 0
				for _, u := range r.Uses {
					if u.Opener != h || u.Phase != phase || u.Since < o.Since || u.Since > last[h] {
						continue
					}
					if u.Guard {
						locks++
					} else {
						shares++
					}
				}
				if shares < threshold || locks == 0 {
					t.Errorf("phase %d was opened with the uses of %d keyholders and %d guards on the log", phase, shares, locks)
				}
			}
		}
		if done == 0 {
			t.Error("no opener has the last word")
		}
	})
}

// checkRecords kills every holder a last time, and reads its record when it has
// come back, which it doesn't with a damaged one: every answer in it rests on a
// use leaf of just what was answered.
func checkRecords(ctx context.Context, t *testing.T, s *stage) {
	t.Helper()
	uses := map[codec.Hash][]control.UseState{}
	s.replica.Read(func(st *control.State) {
		for _, r := range st.Requests() {
			uses[r.Hash] = slices.Clone(r.Uses)
		}
	})
	for _, dir := range slices.Concat(s.summary.KeyholderDirs, s.summary.GuardDirs) {
		p := s.program(t, filepath.Base(dir))
		if err := p.kill(); err != nil {
			t.Error(err)
			continue
		}
		p.restart(t)
		if err := up(ctx, p); err != nil {
			t.Error(err)
		}
		answers := 0
		for _, e := range holderRecord(t, dir) {
			if e.What != "answer" {
				continue
			}
			answers++
			if !slices.ContainsFunc(uses[e.Request], func(u control.UseState) bool {
				return u.Hash == e.Use && u.Root == e.Root && u.Count == e.Count
			}) {
				t.Errorf("%s answered for %d envelopes under use %s, which is not on the log or is of others", p.name, e.Count, e.Use.Short())
			}
		}
		if answers == 0 && slices.Contains(s.summary.KeyholderDirs, dir) { // a guard may not have been asked
			t.Errorf("%s has no answer in its record", p.name)
		}
	}
}
