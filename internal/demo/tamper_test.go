package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	_ "modernc.org/sqlite" // the driver of the server's store

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/opening"
	"chancery/internal/replica"
	"chancery/internal/testenv"
	"chancery/internal/tlogtiles"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/pack"
	"chancery/verify"
)

var update = flag.Bool("update", false, "write docs/tamper-table.md anew")

// tampering is one row of docs/tamper-table.md: what is changed where, who
// notices, and words of the message.
type tampering struct {
	where, what  string
	who, message string
	// play tampers, lets the one who notices look, and puts everything back. It
	// returns what was said.
	play func(a *attack) string
}

// attack is a played scene under attack.
type attack struct {
	*stage
	*testing.T
	outer *testing.T // lives as long as the scene
	ctx   context.Context
	db    *sql.DB // the running server's own database

	records []int64 // leaves of a conversation's records, in order
	commit  int64   // leaf of the commit statement of their epoch
	copies  int
	kept    []byte // an answer of keyholder-4 to an earlier opener
	guard   *lyingCustody

	host    *host // the members' devices
	talk    codec.ID
	party   []string // who is in that conversation
	reports [][]byte
	changed []int64 // leaves of what was changed on its way, or is a lie
}

// TestTamper plays every row of the tamper table against one scene: real
// programs, and their real files.
func TestTamper(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	a := &attack{stage: scene(t, "approve"), T: t, outer: t, ctx: ctx}
	a.connect()
	for _, part := range []struct {
		name string
		rows []tampering
	}{
		{"archive", archiveTamperings()}, {"log", logTamperings()}, {"answers", answerTamperings()},
		{"results", resultTamperings()}, {"store", storeTamperings()},
	} {
		t.Run(part.name, func(t *testing.T) {
			a.T = t
			switch part.name {
			case "results":
				a.openWithLiars()
			case "store":
				a.halt()
			}
			a.playAll(part.rows)
		})
	}
}

// playAll plays rows of the table, each to its message.
func (a *attack) playAll(rows []tampering) {
	a.Helper()
	for _, r := range rows {
		start := time.Now()
		said := r.play(a)
		if !strings.Contains(said, r.message) || r.message == "" {
			a.Errorf("%s, %s: %s should say %q, said: %q", r.where, r.what, r.who, r.message, said)
		}
		a.Logf("%s, %s (%s): %.200q", r.where, r.what, time.Since(start).Round(10*time.Millisecond), said)
	}
}

// TestTamperTable keeps docs/tamper-table.md as the rows are; -update writes it.
func TestTamperTable(t *testing.T) {
	var out strings.Builder
	out.WriteString(tamperHead)
	for _, r := range tamperings() {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", r.where, r.what, r.who, strings.ReplaceAll(r.message, "|", `\|`))
	}
	path := filepath.Join(testenv.Root(), "docs", "tamper-table.md")
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != out.String() {
		t.Errorf("docs/tamper-table.md is not the table played here (%v): go test ./internal/demo -run TestTamperTable -update", err)
	}
}

const tamperHead = `# Tampering: who notices, and what they say

Each row is played against real programs and their real files by ` + "`demo.TestTamper`" + ` and ` + "`demo.TestLiars`" + `, which write this table (` + "`go test ./internal/demo -run TestTamperTable -update`" + `). The message is part of what the one who notices says, as it is said.

The server's store is changed in its SQLite rows, beside the running server or in a copy of its folder; logs, answers and pages are changed on their way by a proxy. "Every reader" is a device, a keyholder, a guard, an opener and the command line alike, since all read the logs with the same code; an auditor holds the pack's copy to the same checkpoints. Where the server itself says something, it says it of its own disk: a server that lies keeps silent, and its readers notice as they do where the same is changed on its way.

Not every change is noticed, since not every byte matters: the order of rows on a disk and the columns that only say where to look change nothing that is served, or what is served fails as below. What no row can show: a conversation that the server hides whole, from a request that doesn't name it, shows in its members' receipts alone ([threat model](threat-model.md#the-server)). For an evidence pack, [which check fails](threat-model.md#tampering-with-an-evidence-pack) is listed there; every byte of one is flipped by ` + "`verify.TestFlip`" + `.

| where | what is changed | who notices | message |
|---|---|---|---|
`

func tamperings() []tampering {
	return slices.Concat(senderTamperings(), archiveTamperings(), logTamperings(), answerTamperings(), resultTamperings(), storeTamperings())
}

// said returns an error's words, and fails the test where there is none: what
// nobody noticed must not pass.
func (a *attack) said(err error) string {
	a.Helper()
	if err == nil {
		a.Error("nobody noticed")
		return ""
	}
	return err.Error()
}

// connect opens the server's database beside the server, which keeps running:
// whoever owns its disk can do as much.
func (a *attack) connect() {
	a.Helper()
	a.db = openDatabase(a.outer, a.summary.ServerDir)
	rows, err := a.db.Query(`SELECT idx FROM leaves WHERE envelope_kind = 1 AND conversation =
		(SELECT conversation FROM leaves WHERE envelope_kind = 1 GROUP BY conversation ORDER BY COUNT(*) DESC, conversation LIMIT 1) ORDER BY idx`)
	if err != nil {
		a.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var i int64
		if err := rows.Scan(&i); err != nil {
			a.Fatal(err)
		}
		a.records = append(a.records, i)
	}
	if err := rows.Err(); err != nil || len(a.records) < 5 {
		a.Fatalf("%d records in the longest conversation, %v", len(a.records), err)
	}
	a.one(&a.commit, `SELECT MAX(idx) FROM leaves WHERE kind = 2 AND idx < ? AND conversation = (SELECT conversation FROM leaves WHERE idx = ?)`,
		a.records[len(a.records)-1], a.records[0])
}

func openDatabase(t *testing.T, dir string) *sql.DB {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("databases in %s: %v, %v", dir, files, err)
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: files[0], RawQuery: "_pragma=busy_timeout(10000)"}).String())
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // temporary tables are a connection's own
	t.Cleanup(func() { db.Close() })
	return db
}

func (a *attack) one(to any, query string, args ...any) {
	a.Helper()
	if err := a.db.QueryRow(query, args...).Scan(to); err != nil {
		a.Fatalf("%s: %v", query, err)
	}
}

// change runs statements and insists that each changes something: a row that
// isn't there would show nothing.
func (a *attack) change(statements ...statement) {
	a.Helper()
	for _, s := range statements {
		result, err := a.db.Exec(s.query, s.args...)
		if err != nil {
			a.Fatalf("%s: %v", s.query, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			a.Fatalf("%s: changed %d rows, %v", s.query, n, err)
		}
	}
}

type statement struct {
	query string
	args  []any
}

func sq(query string, args ...any) statement { return statement{query, args} }

// tampered changes rows of the table that where selects, calls look, and puts
// the rows back as they were.
func (a *attack) tampered(table, where string, look func() string, change ...statement) string {
	a.Helper()
	if _, err := a.db.Exec(`CREATE TEMP TABLE saved AS SELECT * FROM ` + table + ` WHERE ` + where); err != nil {
		a.Fatal(err)
	}
	a.change(change...)
	said := look()
	if _, err := a.db.Exec(`DELETE FROM ` + table + ` WHERE ` + where); err != nil {
		a.Fatal(err)
	}
	a.change(sq(`INSERT INTO ` + table + ` SELECT * FROM saved`))
	if _, err := a.db.Exec(`DROP TABLE saved`); err != nil {
		a.Fatal(err)
	}
	return said
}

// flipped returns a copy with one bit changed in the middle.
func flipped(blob []byte) []byte {
	out := bytes.Clone(blob)
	out[len(out)/2] ^= 1
	return out
}

func (a *attack) blob(query string, args ...any) (b []byte) {
	a.Helper()
	a.one(&b, query, args...)
	return b
}

// opener runs an opener until it gives up.
func (a *attack) opener(change func(*opening.Config)) string {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
	defer cancel()
	_, err := a.tryOpen(ctx, change)
	return a.said(err)
}

// archiveTamperings are what the owner of the server's disk can do to what it
// archived: the server reads it as it finds it, and the opener judges.
func archiveTamperings() []tampering {
	const who = "the opener"
	opens := func(change func(a *attack, i, j int64) []statement) func(*attack) string {
		return func(a *attack) string {
			i, j := a.records[1], a.records[2]
			return a.tampered("leaves", fmt.Sprintf("idx IN (%d, %d)", i, j), func() string { return a.opener(nil) }, change(a, i, j)...)
		}
	}
	flip := func(column string) func(*attack) string {
		return opens(func(a *attack, i, _ int64) []statement {
			return []statement{sq(`UPDATE leaves SET `+column+` = ? WHERE idx = ?`, flipped(a.blob(`SELECT `+column+` FROM leaves WHERE idx = ?`, i)), i)}
		})
	}
	empty := func(column string) func(*attack) string {
		return opens(func(_ *attack, i, _ int64) []statement {
			return []statement{sq(`UPDATE leaves SET `+column+` = x'' WHERE idx = ?`, i)}
		})
	}
	swap := func(columns ...string) func(*attack) string {
		return opens(func(a *attack, i, j int64) (out []statement) {
			for _, c := range columns {
				x, y := a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, i), a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, j)
				out = append(out, sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, y, i), sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, x, j))
			}
			return out
		})
	}
	double := func(columns ...string) func(*attack) string {
		return opens(func(a *attack, i, j int64) (out []statement) {
			for _, c := range columns {
				out = append(out, sq(`UPDATE leaves SET `+c+` = ? WHERE idx = ?`, a.blob(`SELECT `+c+` FROM leaves WHERE idx = ?`, i), j))
			}
			return out
		})
	}
	return []tampering{
		{"server store: envelope", "byte flipped", who, "is not the one that its manifest names", flip("envelope")},
		{"server store: envelope", "removed", who, "is in scope and came without its bytes", empty("envelope")},
		{"server store: envelope", "swapped with another message's", who, "is not the one that its manifest names", swap("envelope")},
		{"server store: envelope", "another message's in its place too", who, "is not the one that its manifest names", double("envelope")},
		{"server store: manifest", "byte flipped", who, "is for something else", flip("object")},
		{"server store: manifest", "removed", "the server, when it reads it", "the archive is damaged", empty("object")},
		{"server store: manifest", "swapped with another message's", who, "is for something else", swap("object")},
		{"server store: manifest", "another message's in its place too", who, "is for something else", double("object")},
		{"server store: tags", "byte flipped", who, "its tags are not the ones that its manifest names", flip("tags")},
		{"server store: tags", "removed", who, "the server withheld or changed what it archived", empty("tags")},
		{"server store: tags", "swapped with another message's", who, "its tags are not the ones that its manifest names", swap("tags")},
		{"server store: receipt", "byte flipped", "the server, when it reads it", "the archive is damaged", flip("receipt")},
		{"server store: receipt", "swapped with another message's", who, "is for something else", swap("receipt")},
		{"server store: receipt", "another message's in its place too", who, "is for something else", double("receipt")},
		{
			"server store: message", "removed", who, "not shown complete",
			opens(func(_ *attack, i, _ int64) []statement { return []statement{sq(`DELETE FROM leaves WHERE idx = ?`, i)} }),
		},
		{
			"server store: message", "another whole one in its place too", who, "not shown complete",
			double("object", "receipt", "envelope", "tags"),
		},
		{
			"server store: message", "the newest of a conversation removed", who, "it is not the conversation's newest by the leaf of heads",
			func(a *attack) string {
				last := a.records[len(a.records)-1]
				where := fmt.Sprintf("idx >= %d AND conversation = (SELECT conversation FROM leaves WHERE idx = %d)", last, a.records[0])
				return a.tampered("leaves", where, func() string { return a.opener(nil) }, sq(`DELETE FROM leaves WHERE `+where))
			},
		},
		{
			"server store: commit statement", "byte flipped", "the server, when it reads it", "there is no roster of its epoch",
			func(a *attack) string {
				return a.tampered("leaves", fmt.Sprintf("idx = %d", a.commit), func() string { return a.opener(nil) },
					sq(`UPDATE leaves SET object = ? WHERE idx = ?`, flipped(a.blob(`SELECT object FROM leaves WHERE idx = ?`, a.commit)), a.commit))
			},
		},
		{
			"server store: roster", "a device removed", who, "the roster is another",
			func(a *attack) string {
				return a.tampered("epochs", fmt.Sprintf("leaf = %d", a.commit), func() string { return a.opener(nil) },
					sq(`UPDATE epochs SET roster = substr(roster, 33) WHERE leaf = ?`, a.commit))
			},
		},
		{
			"server store: ledger hash", "byte flipped", who, "couldn't prove what was downloaded",
			func(a *attack) string {
				i := tlog.StoredHashIndex(0, a.records[1])
				return a.tampered("hashes", fmt.Sprintf("log = 2 AND idx = %d", i), func() string { return a.opener(nil) },
					sq(`UPDATE hashes SET hash = ? WHERE log = 2 AND idx = ?`, flipped(a.blob(`SELECT hash FROM hashes WHERE log = 2 AND idx = ?`, i)), i))
			},
		},
	}
}

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

// endpoints are where the holders are, those named seen through another.
func (a *attack) endpoints(list []wire.Endpoint, through map[string]func(url string) string) []wire.Endpoint {
	out := slices.Clone(list)
	for i, e := range out {
		if f := through[e.Name]; f != nil {
			out[i].URL = f(e.URL)
		}
	}
	return out
}

// answersThrough runs an opener that reaches three keyholders through others,
// so that two are left: its error names the three, each with its reason.
func (a *attack) answersThrough(change map[string]func(answer []byte) []byte) string {
	through := map[string]func(string) string{}
	for name, f := range change {
		through[name] = func(url string) string { return tamperingHolder(a.T, url, f) }
	}
	return a.opener(func(c *opening.Config) {
		c.Endpoints.Keyholders = a.endpoints(a.home.Keyholders, through)
		c.Endpoints.Guards = a.home.Guards
	})
}

// guardsThrough runs an opener that reaches guards through others.
func (a *attack) guardsThrough(change map[string]func(answer []byte) []byte) string {
	return a.opener(func(c *opening.Config) {
		c.Endpoints.Keyholders = a.home.Keyholders
		c.Endpoints.Guards = a.changedGuards(change)
	})
}

func (a *attack) changedGuards(change map[string]func(answer []byte) []byte) []wire.Endpoint {
	through := map[string]func(string) string{}
	for name, f := range change {
		through[name] = func(url string) string { return tamperingHolder(a.T, url, f) }
	}
	return a.endpoints(a.home.Guards, through)
}

// answerTamperings are changes to keyholders' answers on their way.
func answerTamperings() []tampering {
	const who = "the opener"
	keep := func(a *attack) func([]byte) []byte {
		return func(b []byte) []byte { // once in a run: it is asked for index keys, and no more
			a.kept = b
			return nil
		}
	}
	same := func(b []byte) []byte { return flipped(b) }
	return []tampering{
		{"keyholder's answer, on its way", "byte flipped", who, "keyholder-1: answer: signature does not verify", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{"keyholder-1": same, "keyholder-2": same, "keyholder-4": keep(a)})
		}},
		{"keyholder's answer, on its way", "removed", who, "keyholder-4: answer: ", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{"keyholder-1": same, "keyholder-2": same, "keyholder-4": keep(a)})
		}},
		{"keyholder's answer, on its way", "an earlier one repeated", who, "keyholder-4: couldn't open the answer", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{
				"keyholder-1": same, "keyholder-2": same, "keyholder-4": func([]byte) []byte { return a.kept },
			})
		}},
		{"keyholder's answer, on its way", "another keyholder's in its place", who, "keyholder-4: answer: signature does not verify", func(a *attack) string {
			other := make(chan []byte, 10)
			return a.answersThrough(map[string]func([]byte) []byte{
				"keyholder-1": same, "keyholder-2": same,
				"keyholder-4": func([]byte) []byte { return <-other },
				"keyholder-5": func(b []byte) []byte { other <- b; return b },
			})
		}},
		{"guard's answer, on its way", "byte flipped, of both guards", who, "no guard answered; guard-1: answer: signature does not verify; guard-2: answer: signature does not verify", func(a *attack) string {
			return a.guardsThrough(map[string]func([]byte) []byte{"guard-1": same, "guard-2": same})
		}},
		{"guard's key", "another in its place", who + ", which sets nothing aside on one guard's word", "each of the organisation's guards has to say that its tag is wrong; guard-2: answer: signature does not verify", func(a *attack) string {
			a.guard = a.turn(a.outer, "guard-1")
			a.guard.lies.Store(true)
			defer a.guard.lies.Store(false)
			return a.guardsThrough(map[string]func([]byte) []byte{"guard-2": same})
		}},
	}
}

// openWithLiars opens the request while one keyholder and one guard lie.
func (a *attack) openWithLiars() {
	a.Helper()
	a.turn(a.outer, "keyholder-2").lies.Store(true)
	result, err := a.tryOpen(a.ctx, func(c *opening.Config) {
		c.Endpoints.Keyholders = a.home.Keyholders
		c.Endpoints.Guards = a.changedGuards(map[string]func([]byte) []byte{"guard-1": func([]byte) []byte {
			answer, err := a.forge(a.ctx, a.guard, 1)
			if err != nil {
				a.Error(err)
			}
			return answer
		}})
	})
	if err != nil {
		a.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(result.Faults)); !slices.Equal(got, []string{"guard-1", "keyholder-2"}) {
		a.Fatalf("%v are named for wrong answers, want guard-1 and keyholder-2; refusals %+v", got, result.Refusals)
	}
	if err := a.until(a.ctx, "the opener's last word is witnessed", func(st *control.State) bool {
		r, ok := st.Request(a.summary.Request)
		return ok && r.Opening != nil
	}); err != nil {
		a.Fatal(err)
	}
	if err := a.export(a.ctx); err != nil {
		a.Fatal(err)
	}
	if err := a.verify(a.ctx); err != nil {
		a.Fatal(err)
	}
}

// verifier runs chancery verify.
func (a *attack) verifier(args ...string) string {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, append([]string{"verify", "--org", a.home.Organisation.String()}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) || exit.ExitCode() != 1 {
		a.Errorf("verify %v ended with %v, want exit code 1", args, err)
	}
	return failures(string(out))
}

// failures keeps the lines of a report about checks that failed.
func failures(report string) string {
	var out []string
	failed := false
	for l := range strings.Lines(report) {
		switch {
		case strings.HasPrefix(l, "FAIL"), strings.HasPrefix(l, "NOT VERIFIED"), strings.HasPrefix(l, "chancery-verify"):
			failed = true
		case !strings.HasPrefix(l, " "):
			failed = false
		}
		if failed {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return strings.Join(out, "; ")
}

func (a *attack) file(name string, data []byte) string {
	a.Helper()
	path := filepath.Join(a.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		a.Fatal(err)
	}
	return path
}

func (a *attack) read(path string) []byte {
	a.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		a.Fatal(err)
	}
	return data
}

// exported has an auditor compare a changed export with the pack.
func exported(change func(lines [][]byte) [][]byte) func(a *attack) string {
	return func(a *attack) string {
		lines := bytes.SplitAfter(a.read(a.summary.ExportFile), []byte("\n"))
		lines = lines[:len(lines)-1]
		if len(lines) < 3 {
			a.Fatalf("%d lines exported: the test would show nothing", len(lines))
		}
		path := a.file("export.jsonl", bytes.Join(change(lines), nil))
		return a.verifier("--export", path, a.summary.EvidencePack)
	}
}

// unsealed has the recipient open a production that the server changed.
func unsealed(change func(a *attack, sealed []byte) []byte) func(a *attack) string {
	return func(a *attack) string {
		where := fmt.Sprintf("request = x'%s'", a.summary.Request)
		return a.tampered("productions", where, func() string {
			said := a.said(a.export(a.ctx))
			return said
		}, sq(`UPDATE productions SET sealed = ? WHERE `+where, change(a, a.blob(`SELECT sealed FROM productions WHERE `+where))))
	}
}

// resultTamperings are changes to what an opening leaves behind, and liars
// among those who answered.
func resultTamperings() []tampering {
	const auditor = "the auditor"
	return []tampering{
		{"keyholder's share", "another in its place, its answers signed and logged by the keyholder", "the opener; the auditor by the proof in the pack", `"keyholder-2"`, (*attack).faults},
		{"guard's answer", "invented, signed and logged by the guard", "the opener, which asks the other guard; the auditor by the proof in the pack", `proven against ["guard-1"`, (*attack).faults},
		{"production", "byte flipped", "the recipient", "the production is another than the opener's last statement names", unsealed(func(_ *attack, b []byte) []byte { return flipped(b) })},
		{"production", "cut", "the recipient", "the production is another than the opener's last statement names", unsealed(func(_ *attack, b []byte) []byte { return b[:len(b)-1] })},
		{"production", "removed", "the recipient", "couldn't fetch the production", func(a *attack) string {
			where := fmt.Sprintf("request = x'%s'", a.summary.Request)
			return a.tampered("productions", where, func() string { return a.said(a.export(a.ctx)) }, sq(`DELETE FROM productions WHERE `+where))
		}},
		{"export", "byte flipped", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { l[1] = flipped(l[1]); return l })},
		{"export", "line removed", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) })},
		{"export", "lines swapped", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l })},
		{"export", "line twice", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { return append(l, l[0]) })},
		{"evidence pack", "byte flipped, anywhere", auditor, "NOT VERIFIED", (*attack).flipPack},
		{"evidence pack", "record removed", auditor, "completeness", repacked(func(b *pack.Body) { b.Items = slices.Delete(b.Items, 3, 4) })},
		{"evidence pack", "records reordered", auditor, "format", repacked(func(b *pack.Body) { b.Items[2], b.Items[3] = b.Items[3], b.Items[2] })},
		{"evidence pack", "record twice", auditor, "format", repacked(func(b *pack.Body) { b.Items = slices.Insert(b.Items, 3, b.Items[3]) })},
		{"evidence pack", "records' contents swapped", auditor, "envelopes", repacked(func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(i pack.Item) bool { return i.Opened != nil })
			j := i + 1 + slices.IndexFunc(b.Items[i+1:], func(i pack.Item) bool { return i.Opened != nil })
			b.Items[i].Opened, b.Items[j].Opened = b.Items[j].Opened, b.Items[i].Opened
		})},
		{"evidence pack", "cut", auditor, "NOT VERIFIED", func(a *attack) string {
			data := a.read(a.summary.EvidencePack)
			return a.verifier(a.file("cut.pack", data[:len(data)-100]))
		}},
		{"evidence pack", "another organisation's", auditor, "NOT VERIFIED", func(a *attack) string {
			report := verify.Pack(codec.Hash{1}, a.read(a.summary.EvidencePack))
			var out strings.Builder
			report.Write(&out)
			return failures(out.String())
		}},
	}
}

// repacked has the auditor read a pack with another body, whole by its checksum.
func repacked(change func(b *pack.Body)) func(a *attack) string {
	return func(a *attack) string {
		p, err := pack.Parse(a.read(a.summary.EvidencePack))
		if err != nil {
			a.Fatal(err)
		}
		change(p.Body)
		// Assemble would refuse what it knows to be wrong.
		data := append([]byte(pack.Magic), codec.Encode([]any{p.Body.Encode(), p.Tail})...)
		sum := sha256.Sum256(data)
		data = append(data, sum[:]...)
		return a.verifier(a.file("repacked.pack", data))
	}
}

func (a *attack) faults() string {
	report := verify.Pack(a.home.Organisation, a.read(a.summary.EvidencePack))
	if !report.OK {
		a.Error("a pack with liars named doesn't verify")
	}
	for _, c := range report.Checks {
		if c.Name == "faults" {
			return c.Detail
		}
	}
	return ""
}

// flipPack flips single bits all over the pack, and runs the program on one of
// them: package verify's own tests flip every byte.
func (a *attack) flipPack() string {
	data := a.read(a.summary.EvidencePack)
	flips := 40
	if campaign() {
		flips = 4000
	}
	at := []int{0, len(data) - 1}
	for range flips {
		at = append(at, rand.IntN(len(data)))
	}
	for _, i := range at {
		b := bytes.Clone(data)
		b[i] ^= 1 << rand.IntN(8)
		if verify.Pack(a.home.Organisation, b).OK {
			a.Errorf("the pack verifies with byte %d of %d flipped", i, len(b))
		}
	}
	return a.verifier(a.file("flipped.pack", flipped(data)))
}

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
