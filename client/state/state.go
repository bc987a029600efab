// Package state is one device's memory on disk: named values in one SQLite
// file, every value sealed with AES-256-GCM under the device's key and bound to
// its name, every name an HMAC, so that the file says nothing but how many
// values there are and how long each is.
//
// A Write is one transaction, durable when it returns (synchronous FULL). The
// file is opened by one process at a time. It doesn't promise that an older copy
// of the file put back is noticed: a restored backup is a new device.
package state

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// KeySize is the length in bytes of the key that a file is sealed under.
const KeySize = 32

// version is that of the table and of how values are sealed.
const version = 1

var (
	// ErrKey means that a file is sealed under another key.
	ErrKey = errors.New("device state is sealed under another key")
	// ErrCorrupt means that a value is not what was written under its name.
	ErrCorrupt = errors.New("device state was changed or is damaged")
	// ErrVersion means that a newer program wrote the file.
	ErrVersion = errors.New("device state is of a newer version")
	// ErrExist means that there is a file already.
	ErrExist = errors.New("device state exists")
)

// Value is one name's new value; nil erases it.
type Value struct {
	Bucket string
	Key    string
	Data   []byte
}

// Store is an open file. It is safe for concurrent use; writes wait for one
// another.
type Store struct {
	db    *sql.DB
	aead  cipher.AEAD
	names []byte

	get, put, del *sql.Stmt
}

// Create makes a file at path, in a directory that exists, with its first values
// in it. Killed meanwhile it leaves a file without values, which the next Create
// completes. It returns ErrExist, wrapped, where there is a file with values.
func Create(path string, key *[KeySize]byte, first ...Value) (*Store, error) {
	// SQLite makes files as it likes; this gives it its mode.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("couldn't create the device state: %w", err)
	}
	f.Close()
	s, err := open(path, key, func(db *sql.DB) error {
		if _, err := db.Exec(`BEGIN EXCLUSIVE; COMMIT`); err != nil {
			return err
		}
		switch begun, err := begun(db); {
		case err != nil:
			return err
		case begun:
			return fmt.Errorf("%s: %w", path, ErrExist)
		}
		_, err := db.Exec(`CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID; PRAGMA user_version = 1`)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.Write(append([]Value{{Bucket: "check", Data: []byte{}}}, first...)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// begun reports whether a file holds anything: values, or what a newer program
// made.
func begun(db *sql.DB) (bool, error) {
	var v, tables, values int
	if err := db.QueryRow(`SELECT (SELECT user_version FROM pragma_user_version), (SELECT COUNT(*) FROM sqlite_master)`).Scan(&v, &tables); err != nil {
		return false, err
	}
	if v > version || tables == 0 {
		return v > version, nil
	}
	if err := db.QueryRow(`SELECT COUNT(*) FROM (SELECT 1 FROM kv LIMIT 1)`).Scan(&values); err != nil {
		return false, err
	}
	return values > 0, nil
}

// Open opens the file at path. It returns ErrKey, ErrVersion, or os.ErrNotExist,
// wrapped, also where Create was killed before it had written anything.
func Open(path string, key *[KeySize]byte) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("couldn't open the device state: %w", err)
	}
	s, err := open(path, key, func(db *sql.DB) error {
		switch begun, err := begun(db); {
		case err != nil:
			return err
		case !begun:
			return fmt.Errorf("%s holds nothing: %w", path, os.ErrNotExist)
		}
		var v int
		if err := db.QueryRow(`PRAGMA user_version`).Scan(&v); err != nil {
			return err
		}
		if v != version {
			return fmt.Errorf("version %d, this program knows %d: %w", v, version, ErrVersion)
		}
		// The lock is taken with the first write and never given back: two
		// processes on one device would use an MLS key twice.
		_, err := db.Exec(`BEGIN EXCLUSIVE; COMMIT`)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A wrong key makes other names, so that nothing is found under them.
	if _, ok, err := s.Get("check", ""); err != nil || !ok {
		s.Close()
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrKey), err)
	}
	return s, nil
}

func open(path string, key *[KeySize]byte, prepare func(*sql.DB) error) (_ *Store, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the device state: %w", err)
	}
	// Exclusive locking keeps out a second process, and WAL then needs no shared
	// memory. The cache is small because one process may have hundreds open.
	dsn := (&url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{"_pragma": {
		"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)",
		"cache_size(-512)", "wal_autocheckpoint(256)", "busy_timeout(2000)",
	}}.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the device state: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := prepare(db); err != nil {
		return nil, fmt.Errorf("couldn't open the device state: %w", err)
	}
	for query, stmt := range map[string]**sql.Stmt{
		`SELECT v FROM kv WHERE k = ?`: &s.get,
		`INSERT INTO kv (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v`: &s.put,
		`DELETE FROM kv WHERE k = ?`: &s.del,
	} {
		if *stmt, err = db.Prepare(query); err != nil {
			return nil, fmt.Errorf("couldn't open the device state: %w", err)
		}
	}
	seal, err := derive(key, "values")
	if err != nil {
		return nil, err
	}
	defer clear(seal)
	if s.names, err = derive(key, "names"); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	if s.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, fmt.Errorf("couldn't make a cipher: %w", err)
	}
	return s, nil
}

func derive(key *[KeySize]byte, use string) ([]byte, error) {
	k, err := hkdf.Key(sha256.New, key[:], []byte("chancery/device-state/v1"), use, 32)
	if err != nil {
		return nil, fmt.Errorf("couldn't derive a key: %w", err)
	}
	return k, nil
}

// Close closes the file.
func (s *Store) Close() error {
	clear(s.names)
	return s.db.Close()
}

// name is what a value is bound to, and lookup what it is found by.
func name(bucket, key string) []byte {
	return append(append(append(make([]byte, 0, len(bucket)+1+len(key)), bucket...), 0), key...)
}

func (s *Store) lookup(n []byte) []byte {
	mac := hmac.New(sha256.New, s.names)
	mac.Write(n)
	return mac.Sum(nil)[:16]
}

// Get returns a value and whether there is one. It returns ErrCorrupt, wrapped.
func (s *Store) Get(bucket, key string) ([]byte, bool, error) {
	n := name(bucket, key)
	var sealed []byte
	err := s.get.QueryRow(s.lookup(n)).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("couldn't read the device state: %w", err)
	}
	plain, err := s.aead.Open(nil, nil, sealed, n)
	if err != nil {
		return nil, false, fmt.Errorf("a value of %s: %w", bucket, ErrCorrupt)
	}
	return plain, true, nil
}

// Write puts all values in one transaction, durable when it returns.
func (s *Store) Write(values []Value) error {
	if len(values) == 0 {
		return nil
	}
	tx, err := s.db.Begin()
	if err != nil {
		return fmt.Errorf("couldn't write the device state: %w", err)
	}
	defer tx.Rollback() // after Commit it does nothing
	put, del := tx.Stmt(s.put), tx.Stmt(s.del)
	for _, v := range values {
		n := name(v.Bucket, v.Key)
		if v.Data == nil {
			_, err = del.Exec(s.lookup(n))
		} else {
			_, err = put.Exec(s.lookup(n), s.aead.Seal(nil, nil, v.Data, n))
		}
		if err != nil {
			return fmt.Errorf("couldn't write the device state: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("couldn't write the device state: %w", err)
	}
	return nil
}

// NewKey returns a fresh random key.
func NewKey() *[KeySize]byte {
	var k [KeySize]byte
	rand.Read(k[:]) // never fails
	return &k
}
