// Package state is one device's memory on disk: named values in one SQLite
// file, every value sealed with AES-256-GCM under the device's key and bound to
// its name, every name an HMAC, so that the file says nothing but how many
// values there are, how long each is, and which of them belong to one group.
//
// Values of a group, such as the parts of one conversation's MLS state, lie side
// by side and are read together; each can be written by itself.
//
// A Write is one transaction, durable when it returns (synchronous FULL). The
// file is opened by one process at a time. It doesn't promise that an older copy
// of the file put back is noticed: a restored backup is a new device.
package state

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// KeySize is the length in bytes of the key that a file is sealed under.
const KeySize = 32

// version is that of the table and of how values are sealed. Version 1 had no
// groups, and is otherwise the same.
const version = 2

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

// Value is one name's new value; nil erases it. Buckets aren't empty. A value
// with a group is read by Group alone, one without by Get.
type Value struct {
	Bucket string
	Group  string
	Key    string
	Data   []byte
}

// Store is an open file. It is safe for concurrent use; writes wait for one
// another.
type Store struct {
	db    *sql.DB
	aead  cipher.AEAD
	names []byte

	get, group, put, del *sql.Stmt
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
		_, err := db.Exec(`CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID; PRAGMA user_version = 2`)
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
		if v < 1 || v > version {
			return fmt.Errorf("version %d, this program knows %d: %w", v, version, ErrVersion)
		}
		// The lock is taken with the first write and never given back: two
		// processes on one device would use an MLS key twice. A program of an
		// earlier version wouldn't find the groups.
		_, err := db.Exec(`BEGIN EXCLUSIVE; PRAGMA user_version = 2; COMMIT`)
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
		`SELECT v FROM kv WHERE k = ?`:                                                     &s.get,
		`SELECT k, v FROM kv WHERE k > ? AND k <= ?`:                                       &s.group,
		`INSERT INTO kv (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v`: &s.put,
		`DELETE FROM kv WHERE k = ?`:                                                       &s.del,
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

// groupName is what a group's values are bound to. No name of a value without a
// group begins with a zero byte.
func groupName(bucket, group string) []byte {
	n := append(append([]byte{0}, bucket...), 0)
	return append(binary.BigEndian.AppendUint32(n, uint32(len(group))), group...)
}

// rowSize is the length in bytes of what a value without a group is found by.
// Those of a group are found by twice as much: the group's, then their own.
const rowSize = 16

func (s *Store) lookup(n []byte) []byte {
	mac := hmac.New(sha256.New, s.names)
	mac.Write(n)
	return mac.Sum(nil)[:rowSize]
}

// row returns what a value of a group is found by.
func (s *Store) row(group []byte, key string) []byte {
	return append(s.lookup(group), s.lookup(append(slices.Clone(group), key...))...)
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

// Group returns the values of a group by their keys; none for a group that was
// never written. It returns ErrCorrupt, wrapped. It doesn't notice that a value
// is missing.
func (s *Store) Group(bucket, group string) (map[string][]byte, error) {
	n := groupName(bucket, group)
	first := s.lookup(n)
	rows, err := s.group.Query(first, append(slices.Clone(first), bytes.Repeat([]byte{0xff}, rowSize)...))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the device state: %w", err)
	}
	defer rows.Close()
	values := make(map[string][]byte)
	for rows.Next() {
		var k, sealed []byte
		if err := rows.Scan(&k, &sealed); err != nil {
			return nil, fmt.Errorf("couldn't read the device state: %w", err)
		}
		plain, err := s.aead.Open(nil, nil, sealed, n)
		if err != nil {
			return nil, fmt.Errorf("a value of %s: %w", bucket, ErrCorrupt)
		}
		size, read := binary.Uvarint(plain)
		if read <= 0 || size > uint64(len(plain)-read) {
			return nil, fmt.Errorf("a value of %s: %w", bucket, ErrCorrupt)
		}
		key, data := string(plain[read:][:size]), plain[read:][size:]
		if !bytes.Equal(k, s.row(n, key)) {
			return nil, fmt.Errorf("a value of %s in another's place: %w", bucket, ErrCorrupt)
		}
		values[key] = data
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("couldn't read the device state: %w", err)
	}
	return values, nil
}

// seal returns what a value is found by and what is stored there; nil where it
// is to be erased.
func (s *Store) seal(v *Value) (row, sealed []byte) {
	if v.Group == "" {
		n := name(v.Bucket, v.Key)
		if v.Data != nil {
			sealed = s.aead.Seal(nil, nil, v.Data, n)
		}
		return s.lookup(n), sealed
	}
	n := groupName(v.Bucket, v.Group)
	if v.Data != nil {
		plain := append(append(binary.AppendUvarint(nil, uint64(len(v.Key))), v.Key...), v.Data...)
		sealed = s.aead.Seal(nil, nil, plain, n)
		clear(plain)
	}
	return s.row(n, v.Key), sealed
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
	for i := range values {
		row, sealed := s.seal(&values[i])
		if sealed == nil {
			_, err = del.Exec(row)
		} else {
			_, err = put.Exec(row, sealed)
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
