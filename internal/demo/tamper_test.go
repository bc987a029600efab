package demo

import (
	"bytes"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver of the server's store

	"chancery/codec"
	"chancery/internal/opening"
	"chancery/internal/testenv"
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
