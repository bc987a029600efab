package demo

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/remote"
	"chancery/internal/replica"
)

// halt stops the server and keeps its folder to copy.
func (a *attack) halt() {
	a.Helper()
	if err := a.db.Close(); err != nil {
		a.Fatal(err)
	}
	a.program(a.T, "server").stop()
}

// restarted copies the stopped server's folder, changes the copy, starts a
// server on it, with the witnesses that know the log, and lets look look at it.
// Where look is nil the server itself must refuse to start, and say why.
func restarted(look looker, change func(a *attack) []statement) func(a *attack) string {
	return func(a *attack) string { return a.restart(a.witness, look, change) }
}

// alone is restarted without witnesses, so that no new checkpoint covers what
// was changed.
func alone(look looker, change func(a *attack) []statement) func(a *attack) string {
	return func(a *attack) string { return a.restart(nil, look, change) }
}

type looker func(a *attack, url string, log func() string) string

func (a *attack) restart(witnesses []string, look looker, change func(a *attack) []statement) string {
	a.Helper()
	a.copies++
	name := fmt.Sprintf("server-copy-%d", a.copies)
	dir := a.path(name)
	if err := os.CopyFS(dir, os.DirFS(a.summary.ServerDir)); err != nil {
		a.Fatal(err)
	}
	// A copy, as any program that holds keys, insists on its files' modes.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		a.Fatal(err)
	}
	a.db = openDatabase(a.T, dir)
	a.change(change(a)...)
	if err := a.db.Close(); err != nil {
		a.Fatal(err)
	}
	p, url, err := a.fleet.reserve(name)
	if err != nil {
		a.Fatal(err)
	}
	args := []string{"server", "run", "--dir", dir}
	for _, w := range witnesses {
		args = append(args, "--witness", w)
	}
	if err := p.launch(args...); err != nil {
		a.Fatal(err)
	}
	defer p.stop()
	log := func() string { return string(a.read(filepath.Join(a.fleet.logs, name+".log"))) }
	if look != nil {
		return look(a, url, log)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		a.Error("the server started")
	}
	return log()
}

// complains waits until a server has said something.
func complains(words string) looker {
	return func(_ *attack, _ string, log func() string) string {
		for range 100 {
			if strings.Contains(log(), words) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return log()
	}
}

// follower is a reader who starts afresh at a server.
func follower(a *attack, url string, _ func() string) string {
	var err error
	for range 50 {
		err = replica.New(a.home.Organisation).Sync(a.ctx, remote.New(url, nil, nil))
		if !errors.Is(err, remote.ErrUnavailable) {
			break
		}
		time.Sleep(100 * time.Millisecond) // it is starting
	}
	return a.said(err)
}

// storeTamperings are changes to the control log in a stopped server's store,
// and to the edges of both logs: the server notices when it starts, or the
// witnesses do when it asks them.
func storeTamperings() []tampering {
	const server = "the server, which doesn't start"
	approval := func(a *attack, n int) int64 {
		entries, _ := a.replica.Entries()
		return int64(approvalsIn(entries)[n])
	}
	entry := func(a *attack, i int64) []byte {
		return a.blob(`SELECT entry FROM entries WHERE log = 1 AND idx = ?`, i)
	}
	set := func(i int64, e []byte) statement {
		return sq(`UPDATE entries SET entry = ? WHERE log = 1 AND idx = ?`, e, i)
	}
	return []tampering{
		{"server store: control entry", "byte flipped", server, "couldn't replay the control log", restarted(nil, func(a *attack) []statement {
			return []statement{set(5, flipped(entry(a, 5)))}
		})},
		{"server store: control entry", "removed", server, "entries of the control log", restarted(nil, func(*attack) []statement {
			return []statement{sq(`DELETE FROM entries WHERE log = 1 AND idx = 5`)}
		})},
		{"server store: control entry", "the first swapped with the second", server, "not the genesis leaf of organisation", restarted(nil, func(a *attack) []statement {
			return []statement{set(0, entry(a, 1)), set(1, entry(a, 0))}
		})},
		{"server store: control entry", "an earlier one in its place too", server, "couldn't replay the control log", restarted(nil, func(a *attack) []statement {
			return []statement{set(5, entry(a, 4))}
		})},
		{"server store: approval", "byte flipped", server, "couldn't replay the control log", restarted(nil, func(a *attack) []statement {
			i := approval(a, 0)
			return []statement{set(i, flipped(entry(a, i)))}
		})},
		{"server store: approval", "removed", server, "entries of the control log", restarted(nil, func(a *attack) []statement {
			return []statement{sq(`DELETE FROM entries WHERE log = 1 AND idx = ?`, approval(a, 0))}
		})},
		{"server store: approval", "one twice, in another's place", server, "couldn't replay the control log", restarted(nil, func(a *attack) []statement {
			return []statement{set(approval(a, 1), entry(a, approval(a, 0)))}
		})},
		{"server store: approval", "two swapped", server, "couldn't replay the control log", restarted(nil, func(a *attack) []statement {
			i, j := approval(a, 0), approval(a, 1)
			return []statement{set(i, entry(a, j)), set(j, entry(a, i))}
		})},
		{"server store: opening of a sealed leaf", "byte flipped", server, "the opening is of another leaf", restarted(nil, func(a *attack) []statement {
			return []statement{sq(`UPDATE openings SET opening = ? WHERE idx = (SELECT MAX(idx) FROM openings)`,
				flipped(a.blob(`SELECT opening FROM openings WHERE idx = (SELECT MAX(idx) FROM openings)`)))}
		})},
		{"server store: control log", "its newest leaves removed", "the server, and the witnesses, who hold more", "the store was rolled back",
			restarted(complains("the store was rolled back"), func(a *attack) []statement {
				return []statement{sq(`DELETE FROM entries WHERE log = 1 AND idx >= (SELECT MAX(idx) FROM entries WHERE log = 1)`)}
			})},
		{"server store: messages log", "its newest leaves removed", "the server, and the witnesses, who hold more", "the store was rolled back",
			restarted(complains("the store was rolled back"), func(a *attack) []statement {
				return []statement{sq(`DELETE FROM entries WHERE log = 2 AND idx >= (SELECT MAX(idx) FROM entries WHERE log = 2)`)}
			})},
		{"server store: messages log", "hash at the edge flipped", "the witnesses", "couldn't get a checkpoint witnessed",
			restarted(complains("couldn't get a checkpoint witnessed"), func(a *attack) []statement {
				return []statement{sq(`UPDATE hashes SET hash = ? WHERE log = 2 AND idx = ?`, flipped(a.edge(2)), a.edgeIndex(2))}
			})},
		{"keyholder's record of answers", "byte flipped", "the keyholder, which doesn't start", "the holder's record has been cut or changed", damagedFile("keyholder-5", "record.log", flipped)},
		{"keyholder's record of answers", "entry removed", "the keyholder, which doesn't start", "the holder's record has been cut or changed", damagedFile("keyholder-5", "record.log", func(b []byte) []byte { return b[:len(b)/2] })},
		{"keyholder's sealed secrets", "byte flipped", "the keyholder, which doesn't start", "sealed file is damaged or of another kind", damagedFile("keyholder-5", "holder.sealed", flipped)},
		{"guard's sealed secrets", "byte flipped", "the guard, which doesn't start", "sealed file is damaged or of another kind", damagedFile("guard-2", "holder.sealed", flipped)},
		{"witness's memory", "byte flipped", "the witness, which doesn't start", "is damaged or of another key", (*attack).damagedWitness},
		{"server store: checkpoint", "byte flipped", "every reader, until the next is witnessed", "checkpoint not signed by its log", alone(follower, func(a *attack) []statement {
			return []statement{sq(`UPDATE checkpoints SET note = ? WHERE log = 1`, flippedRoot(a.blob(`SELECT note FROM checkpoints WHERE log = 1`)))}
		})},
		{"server store: checkpoint", "the other log's in its place", "every reader, until the next is witnessed", "checkpoint of another log", alone(follower, func(a *attack) []statement {
			return []statement{sq(`UPDATE checkpoints SET note = ? WHERE log = 1`, a.blob(`SELECT note FROM checkpoints WHERE log = 2`))}
		})},
		{"server store: checkpoint", "removed", "every reader, until the next is witnessed", "couldn't fetch the genesis leaf", alone(follower, func(*attack) []statement {
			return []statement{sq(`DELETE FROM checkpoints WHERE log = 1`)}
		})},
	}
}

// damagedFile stops a program, changes one of its files, and has it start again.
func damagedFile(name, file string, change func(b []byte) []byte) func(a *attack) string {
	return func(a *attack) string {
		a.Helper()
		p := a.program(a.T, name)
		p.stop()
		path := a.path(name, file)
		good := a.read(path)
		defer func() {
			if err := os.WriteFile(path, good, 0o600); err != nil {
				a.Error(err)
			}
		}()
		if err := os.WriteFile(path, change(good), 0o600); err != nil {
			a.Fatal(err)
		}
		log := a.fleet.logs + "/" + name + ".log"
		before := len(a.read(log))
		if err := p.start(); err != nil {
			a.Fatal(err)
		}
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			a.Errorf("%s started", name)
		}
		return string(a.read(log)[before:])
	}
}

func (a *attack) damagedWitness() string {
	files, err := filepath.Glob(a.path("witness-1", "logs", "*"))
	if err != nil || len(files) == 0 {
		a.Fatalf("what the witness remembers: %v, %v", files, err)
	}
	return damagedFile("witness-1", filepath.Join("logs", filepath.Base(files[0])), flippedRoot)(a)
}

// edgeIndex is where the last stored hash of a log is that its root rests on.
func (a *attack) edgeIndex(log int) int64 {
	var size int64
	a.one(&size, `SELECT COUNT(*) FROM entries WHERE log = ?`, log)
	level := bits.Len64(uint64(size)) - 1 // of the greatest complete subtree
	return tlog.StoredHashIndex(level, 0)
}

func (a *attack) edge(log int) []byte {
	return a.blob(`SELECT hash FROM hashes WHERE log = ? AND idx = ?`, log, a.edgeIndex(log))
}
