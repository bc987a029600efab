// Package sqlite keeps the server's state (store.Store) in one SQLite file, in
// write-ahead mode with synchronous FULL: an Update returns when the disk has
// it. The directory that has the file is locked for one process.
//
// The file is neither encrypted nor signed: its mode keeps other users out, and
// what matters in it is committed to by witnessed checkpoints.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"chancery/codec"
	"chancery/internal/dirlock"
	"chancery/internal/store"
	"chancery/ledger"
)

const (
	fileName = "server.db"
	readers  = 8

	writerCache = 128 << 10 // KiB
	readerCache = 16 << 10
)

// Options are for tests alone.
type Options struct {
	// TestOnlyFault, where not nil, is called before each step of an Update,
	// named as the method of store.Tx, before its commit ("commit") and after it
	// ("committed"). An error makes the step fail; after "committed" the data is
	// on disk and the caller is told otherwise, as when power fails in between.
	TestOnlyFault func(step string) error
}

var _ store.Store = (*Store)(nil)

// Store is safe for concurrent use.
type Store struct {
	lock  *os.File
	read  *sql.DB
	write *sql.DB
	conn  *sql.Conn // the writer's only connection
	fault func(step string) error

	readStatements  statements
	writeStatements statements

	writing sync.Mutex // held for a whole Update

	mu    sync.RWMutex // guards heads, which change at the end of an Update
	heads map[ledger.Log]*head
}

type head struct {
	edge    *ledger.Edge
	signed  []byte // newest witnessed checkpoint, or nil
	covered int64  // its size
}

// Open opens or creates the database in a directory, for this process alone.
// It returns store.ErrNewer, wrapped, for a later version's.
func Open(dir string, opts Options) (*Store, error) {
	lock, err := dirlock.Acquire(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{lock: lock, fault: opts.TestOnlyFault}
	if s.fault == nil {
		s.fault = func(string) error { return nil }
	}
	if err := s.open(filepath.Join(dir, fileName)); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(path string) error {
	// SQLite makes its files as it likes; the first is made here so that all
	// take after its mode.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("couldn't open the database: %w", err)
	}
	f.Close()
	ctx := context.Background()
	if s.write, err = sql.Open("sqlite", dsn(path, writerCache, false)); err != nil {
		return fmt.Errorf("couldn't open the database: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if s.conn, err = s.write.Conn(ctx); err != nil {
		return fmt.Errorf("couldn't open the database: %w", err)
	}
	if err := migrate(ctx, s.conn); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn(path, readerCache, true)); err != nil {
		return fmt.Errorf("couldn't open the database: %w", err)
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	s.readStatements.prepare = s.read.PrepareContext
	s.writeStatements.prepare = s.conn.PrepareContext
	return s.load(ctx)
}

func dsn(path string, cache int, readOnly bool) string {
	q := url.Values{"_pragma": {
		"busy_timeout(10000)",
		"journal_mode(WAL)",
		"synchronous(FULL)",
		fmt.Sprintf("cache_size(-%d)", cache),
		"wal_autocheckpoint(16000)",
		"mmap_size(1073741824)",
		"temp_store(MEMORY)",
	}}
	if readOnly {
		q["_pragma"] = append(q["_pragma"], "query_only(1)")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// Close ends the store. No Update may be running.
func (s *Store) Close() error {
	var errs []error
	s.readStatements.close()
	s.writeStatements.close()
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// load reads the logs' edges and checkpoints from disk.
func (s *Store) load(ctx context.Context) error {
	heads := map[ledger.Log]*head{}
	for _, log := range []ledger.Log{ledger.ControlLog, ledger.MessagesLog} {
		var size int64
		row := s.conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(idx)+1, 0) FROM entries WHERE log = ?`, number(log))
		if err := row.Scan(&size); err != nil {
			return fmt.Errorf("couldn't read the size of the %s log: %w", log, err)
		}
		edge, err := ledger.ReadEdge(s.Hashes(ctx, log), size)
		if err != nil {
			return err
		}
		h := &head{edge: edge}
		row = s.conn.QueryRowContext(ctx, `SELECT size, note FROM checkpoints WHERE log = ?`, number(log))
		if err := row.Scan(&h.covered, &h.signed); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("couldn't read the checkpoint of the %s log: %w", log, err)
		}
		heads[log] = h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heads = heads
	return nil
}

// Size implements [store.Logs].
func (s *Store) Size(log ledger.Log) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.heads[log].edge.Size()
}

// Head implements [store.Logs].
func (s *Store) Head(log ledger.Log) (int64, codec.Hash) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.heads[log].edge
	return e.Size(), codec.Hash(e.Root())
}

// Checkpoint implements [store.Logs].
func (s *Store) Checkpoint(log ledger.Log) ([]byte, int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h := s.heads[log]
	return h.signed, h.covered
}

// Hashes implements [store.Logs].
func (s *Store) Hashes(ctx context.Context, log ledger.Log) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return s.ReadHashes(ctx, log, indexes)
	})
}

// ReadHashes implements [store.Logs].
func (s *Store) ReadHashes(ctx context.Context, log ledger.Log, indexes []int64) ([]tlog.Hash, error) {
	if len(indexes) > 1 {
		// A tile's leaves lie in a row with their parents between them: reading
		// all is one query for what would be hundreds.
		if lo, hi := slices.Min(indexes), slices.Max(indexes); hi-lo < 4*int64(len(indexes)) {
			return s.hashRange(ctx, log, indexes, lo, hi)
		}
	}
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if err := s.one(ctx, []any{treeHash{&out[i]}}, `SELECT hash FROM hashes WHERE log = ? AND idx = ?`, number(log), index); err != nil {
			return nil, fmt.Errorf("couldn't read hash %d of the %s log: %w", index, log, err)
		}
	}
	return out, nil
}

func (s *Store) hashRange(ctx context.Context, log ledger.Log, indexes []int64, lo, hi int64) ([]tlog.Hash, error) {
	row := make([]tlog.Hash, 0, hi-lo+1)
	err := s.each(ctx, func(r *sql.Rows) error {
		row = append(row, tlog.Hash{})
		return r.Scan(treeHash{&row[len(row)-1]})
	}, `SELECT hash FROM hashes WHERE log = ? AND idx >= ? AND idx <= ? ORDER BY idx`, number(log), lo, hi)
	if err != nil {
		return nil, err
	}
	if int64(len(row)) != hi-lo+1 {
		return nil, fmt.Errorf("%d hashes of the %s log from %d to %d", len(row), log, lo, hi)
	}
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = row[index-lo]
	}
	return out, nil
}

// Entries implements [store.Logs].
func (s *Store) Entries(ctx context.Context, log ledger.Log, start, end int64) ([][]byte, error) {
	var out [][]byte
	err := s.each(ctx, func(r *sql.Rows) error {
		var b []byte
		out = append(out, b)
		return r.Scan(&out[len(out)-1])
	}, `SELECT entry FROM entries WHERE log = ? AND idx >= ? AND idx < ? ORDER BY idx`, number(log), start, end)
	if err != nil {
		return nil, err
	}
	if int64(len(out)) != end-start {
		return nil, fmt.Errorf("%d entries of the %s log from %d to %d", len(out), log, start, end)
	}
	return out, nil
}

// number is a log's name in the tables.
func number(log ledger.Log) int {
	if log == ledger.ControlLog {
		return 1
	}
	return 2
}

// Update implements [store.Store].
func (s *Store) Update(ctx context.Context, f func(tx store.Tx) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	// A caller that goes away must not leave a transaction open.
	ctx = context.WithoutCancel(ctx)
	if _, err := s.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("couldn't begin: %w", err)
	}
	tx := &transaction{s: s, ctx: ctx, edges: map[ledger.Log]*ledger.Edge{}, signed: map[ledger.Log]*head{}}
	err := f(tx)
	if err == nil {
		err = s.fault("commit")
	}
	if err == nil {
		if _, err = s.conn.ExecContext(ctx, "COMMIT"); err == nil {
			err = s.fault("committed")
		}
	}
	if err != nil {
		// Fails harmlessly where the transaction has ended already.
		_, _ = s.conn.ExecContext(ctx, "ROLLBACK")
		if loadErr := s.load(ctx); loadErr != nil {
			return errors.Join(err, loadErr)
		}
		return fmt.Errorf("couldn't write: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for log, edge := range tx.edges {
		s.heads[log].edge = edge
	}
	for log, h := range tx.signed {
		s.heads[log].signed, s.heads[log].covered = h.signed, h.covered
	}
	return nil
}

// statements keeps prepared statements.
type statements struct {
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)
	mu      sync.Mutex
	kept    map[string]*sql.Stmt
}

func (p *statements) get(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stmt, ok := p.kept[query]; ok {
		return stmt, nil
	}
	stmt, err := p.prepare(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil, fmt.Errorf("couldn't prepare: %w", err)
	}
	if p.kept == nil {
		p.kept = map[string]*sql.Stmt{}
	}
	p.kept[query] = stmt
	return stmt, nil
}

func (p *statements) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, stmt := range p.kept {
		stmt.Close()
	}
	p.kept = nil
}

// each calls scan for every row of a query.
func (s *Store) each(ctx context.Context, scan func(r *sql.Rows) error, query string, args ...any) error {
	stmt, err := s.readStatements.get(ctx, query)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return fmt.Errorf("couldn't read: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("couldn't read: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("couldn't read: %w", err)
	}
	return nil
}

// one scans the only row of a query, or returns store.ErrNotFound.
func (s *Store) one(ctx context.Context, dest []any, query string, args ...any) error {
	stmt, err := s.readStatements.get(ctx, query)
	if err != nil {
		return err
	}
	err = stmt.QueryRowContext(ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("couldn't read: %w", err)
	}
	return nil
}

// now stamps what nobody checks.
func now() int64 { return time.Now().UnixMilli() }
