package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/opening"
	"chancery/internal/replica"
	"chancery/internal/testenv"
	"chancery/internal/tlogtiles"
	"chancery/internal/wire"
	"chancery/ledger"
)

// fresh is a reader that has read nothing yet, of the server as it is seen
// through whoever stands between.
func (a *attack) fresh(change func(path string, body []byte) []byte) error {
	return a.readAs(replica.New(a.home.Organisation), change)
}

func (a *attack) readAs(r *replica.Replica, change func(path string, body []byte) []byte) error {
	ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
	defer cancel()
	return r.Sync(ctx, remote.New(between(a.T, a.home.Server, change), nil, nil))
}

// bundled changes the entries of the control log's bundle on its way.
func bundled(change func(entries [][]byte) [][]byte) func(a *attack) string {
	return func(a *attack) string { return a.said(a.fresh(a.rebundle(ledger.ControlLog, change))) }
}

// copied changes the entries of the messages log's bundle on its way to whoever
// copies the log.
func copied(change func(entries [][]byte) [][]byte) func(a *attack) string {
	return func(a *attack) string {
		ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
		defer cancel()
		entries, _ := a.replica.Entries()
		_, policy, err := replica.Policies(a.home.Organisation, entries[0])
		if err != nil {
			a.Fatal(err)
		}
		c := &tlogtiles.Client{URL: between(a.T, a.home.Server, a.rebundle(ledger.MessagesLog, change)) + wire.PathLogs + string(ledger.MessagesLog), Policy: policy}
		at, err := c.Checkpoint(ctx)
		if err != nil {
			a.Fatal(err)
		}
		_, err = c.Entries(ctx, at.Checkpoint, 0, at.Size)
		return a.said(err)
	}
}

func (a *attack) rebundle(log ledger.Log, change func(entries [][]byte) [][]byte) func(path string, body []byte) []byte {
	return func(path string, body []byte) []byte {
		if !strings.HasPrefix(path, wire.PathLogs+string(log)+"/tile/entries/") {
			return body
		}
		width := 256
		if _, w, ok := strings.Cut(path, ".p/"); ok {
			fmt.Sscan(w, &width)
		}
		entries, err := ledger.ParseBundle(body, width)
		if err != nil || width == 1 { // the genesis leaf, which is pinned
			return body
		}
		out, err := ledger.EncodeBundle(change(slices.Clone(entries)))
		if err != nil {
			a.Error(err)
		}
		return out
	}
}

// noted changes the control log's checkpoint on its way.
func noted(change func(a *attack, note []byte) []byte) func(a *attack) string {
	return func(a *attack) string {
		return a.said(a.fresh(func(path string, body []byte) []byte {
			if path != wire.PathLogs+"control/checkpoint" {
				return body
			}
			return change(a, body)
		}))
	}
}

// tiled changes tiles of the messages log on their way, and has a reader look
// for a leaf.
func tiled(change func(tile []byte) []byte) func(a *attack) string {
	return func(a *attack) string {
		ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
		defer cancel()
		c := remote.New(between(a.T, a.home.Server, func(path string, body []byte) []byte {
			if strings.HasPrefix(path, wire.PathLogs+"messages/tile/0/") {
				return change(bytes.Clone(body))
			}
			return body
		}), nil, nil)
		signed, err := c.Checkpoint(ctx, ledger.MessagesLog)
		if err != nil {
			a.Fatal(err)
		}
		at, err := a.replica.Messages(signed)
		if err != nil {
			a.Fatal(err)
		}
		_, err = ledger.ProveInclusion(c.Hashes(ctx, ledger.MessagesLog, at.Checkpoint), at.Size, a.records[1])
		return a.said(err)
	}
}

// approvals are the places of the approvals among the control log's entries.
func approvalsIn(entries [][]byte) (at []int) {
	for i, e := range entries {
		if _, s, err := control.Parse(e); err == nil && s.Kind == control.KindApproval {
			at = append(at, i)
		}
	}
	return at
}

// logTamperings are what the server, or the network, can do to the logs on
// their way to a reader: a device, a holder, an opener, an auditor, the command
// line read alike.
func logTamperings() []tampering {
	const who = "every reader"
	swap := func(e [][]byte, i, j int) [][]byte { e[i], e[j] = e[j], e[i]; return e }
	const forked = "entries do not continue the log to this checkpoint"
	return []tampering{
		{"control log, entry bundle", "byte flipped", who, forked, bundled(func(e [][]byte) [][]byte { e[len(e)/2] = flipped(e[len(e)/2]); return e })},
		{
			"control log, entry bundle", "entry removed", who, "entries instead of",
			bundled(func(e [][]byte) [][]byte { return slices.Delete(e, len(e)/2, len(e)/2+1) }),
		},
		{"control log, entry bundle", "entries swapped", who, forked, bundled(func(e [][]byte) [][]byte { return swap(e, 1, 2) })},
		{"control log, entry bundle", "entry moved to the end", who, forked, bundled(func(e [][]byte) [][]byte {
			return append(slices.Delete(slices.Clone(e), 3, 4), e[3])
		})},
		{"control log, entry bundle", "entry twice, in the next one's place", who, forked, bundled(func(e [][]byte) [][]byte { e[3] = e[2]; return e })},
		{"approval leaf", "byte flipped", who, forked, bundled(func(e [][]byte) [][]byte {
			i := approvalsIn(e)[0]
			e[i] = flipped(e[i])
			return e
		})},
		{"approval leaf", "one approval twice, in another's place", who, forked, bundled(func(e [][]byte) [][]byte {
			at := approvalsIn(e)
			e[at[1]] = e[at[0]]
			return e
		})},
		{"approval leaf", "removed", who, "entries instead of", bundled(func(e [][]byte) [][]byte {
			i := approvalsIn(e)[0]
			return slices.Delete(e, i, i+1)
		})},
		{"approval leaf", "two swapped", who, forked, bundled(func(e [][]byte) [][]byte {
			at := approvalsIn(e)
			return swap(e, at[0], at[1])
		})},
		{"control log, checkpoint", "byte of the root flipped", who, "checkpoint not signed by its log", noted(func(_ *attack, n []byte) []byte { return flippedRoot(n) })},
		{"control log, checkpoint", "the log's signature removed", who, "checkpoint not signed by its log", noted(func(_ *attack, n []byte) []byte {
			return withoutLine(n, func(i int) bool { return i == 0 })
		})},
		{"control log, checkpoint", "a witness's line removed", who, "not witnessed", noted(func(_ *attack, n []byte) []byte {
			return withoutLine(n, func(i int) bool { return i == 1 })
		})},
		{"control log, checkpoint", "a witness's line twice, in the other's place", who, "not witnessed", noted(func(_ *attack, n []byte) []byte {
			head, lines := noteLines(n)
			lines[2] = lines[1]
			return []byte(head + strings.Join(lines, ""))
		})},
		{"control log, checkpoint", "the messages log's in its place", who, "checkpoint of another log", noted(func(a *attack, _ []byte) []byte {
			b, err := a.server.Checkpoint(a.ctx, ledger.MessagesLog)
			if err != nil {
				a.Error(err)
			}
			return b
		})},
		{"control log, checkpoint", "an older one in its place", "whoever saw the newer", "rolls the log back", func(a *attack) string {
			old := a.replica.Checkpoint().Note
			// What the server logs next makes it older.
			a.opener(func(c *opening.Config) { c.Check = func(*control.Opener) error { return errors.New("not signed") } })
			r := replica.New(a.home.Organisation)
			if err := r.Sync(a.ctx, a.server); err != nil {
				a.Fatal(err)
			}
			return a.said(a.readAs(r, func(path string, body []byte) []byte {
				if path == wire.PathLogs+"control/checkpoint" {
					return old
				}
				return body
			}))
		}},
		{"messages log, entry bundle", "byte flipped", "whoever copies the log", tlogtiles.ErrForged.Error(), copied(func(e [][]byte) [][]byte { e[2] = flipped(e[2]); return e })},
		{"messages log, entry bundle", "entries swapped", "whoever copies the log", tlogtiles.ErrForged.Error(), copied(func(e [][]byte) [][]byte { return swap(e, 1, 2) })},
		{"messages log, entry bundle", "entry twice, in the next one's place", "whoever copies the log", tlogtiles.ErrForged.Error(), copied(func(e [][]byte) [][]byte { e[3] = e[2]; return e })},
		{"messages log, tile", "byte flipped", who, "couldn't read the messages log", tiled(func(b []byte) []byte { return flipped(b) })},
		{"messages log, tile", "hash removed", who, "couldn't read the messages log: tile/0/", tiled(func(b []byte) []byte { return b[tlog.HashSize:] })},
		{"messages log, tile", "hashes swapped", who, "couldn't read the messages log", tiled(func(b []byte) []byte {
			return slices.Concat(b[32:64], b[:32], b[64:])
		})},
		{"messages log, tile", "hash twice, in the next one's place", who, "couldn't read the messages log", tiled(func(b []byte) []byte {
			return slices.Concat(b[:32], b[:32], b[64:])
		})},
	}
}

// flippedRoot changes the root in a note, which stays one in form.
func flippedRoot(note []byte) []byte {
	lines := bytes.SplitN(note, []byte("\n"), 3)
	out := bytes.Clone(note)
	at := len(lines[0]) + 1 + len(lines[1]) + 1
	if out[at] != 'A' {
		out[at] = 'A'
	} else {
		out[at] = 'B'
	}
	return out
}

// noteLines splits a signed note into its text and its signature lines.
func noteLines(note []byte) (head string, lines []string) {
	text, signatures, _ := strings.Cut(string(note), "\n\n")
	return text + "\n\n", strings.SplitAfter(strings.TrimSuffix(signatures, "\n")+"\n", "\n")[:strings.Count(signatures, "\n")]
}

func withoutLine(note []byte, drop func(i int) bool) []byte {
	head, lines := noteLines(note)
	for i, l := range lines {
		if !drop(i) {
			head += l
		}
	}
	return []byte(head)
}

// TestFsckBothLogs has another implementation read both logs of a live server
// whole: Tessera's cmd/fsck.
func TestFsckBothLogs(t *testing.T) {
	s := scene(t, "talk")
	var g *control.Genesis
	s.replica.Read(func(st *control.State) { g = st.Genesis() })
	for log, key := range map[ledger.Log]codec.PublicKey{ledger.ControlLog: g.ControlKey, ledger.MessagesLog: g.MessagesKey} {
		key := ledger.LogKey{Origin: ledger.Origin(s.home.Organisation, log), Key: key}
		if ok, said := testenv.Fsck(t, s.home.Server+wire.PathLogs+string(log)+"/", key.String()); !ok {
			t.Errorf("the %s log: %s", log, said)
		}
		// And it does look: one bit in an entry bundle, and in a tile.
		for _, kind := range []string{"tile/entries/", "tile/0/"} {
			url := between(t, s.home.Server, func(path string, body []byte) []byte {
				if strings.HasPrefix(path, wire.PathLogs+string(log)+"/"+kind) {
					return flipped(body)
				}
				return body
			})
			if ok, said := testenv.Fsck(t, url+wire.PathLogs+string(log)+"/", key.String()); ok {
				t.Errorf("the %s log: a bit flipped in %s passed: %s", log, kind, said)
			}
		}
	}
}
