package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/store"
)

// KeyPackages that version 2 stocked are let go: with none of them can a group be
// entered that pins its archive. A device that has none left stocks others.
// Conversations stay, and their groups aren't followed.
func TestMigrated(t *testing.T) {
	dir, device := t.TempDir(), codec.Sum("device")
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, fileName), writerCache, false))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range append([]string{`CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL)`}, migrations()[:2]...) {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec(`INSERT INTO migrations VALUES (2, 0); INSERT INTO keypackages (device, package) VALUES (?, ?), (?, ?)`,
		device[:], []byte("a"), device[:], []byte("b")); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`INSERT INTO conversations (id, epoch, removal, commitment, positions, leaf, last) VALUES (?, 3, 2, ?, 5, ?, 9)`,
		make([]byte, 16), make([]byte, 32), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.KeyPackages(t.Context(), device, time.Now()); err != nil || *got != (store.Stock{}) {
		t.Fatalf("%+v, %v", got, err)
	}
	var pkg []byte
	if err := s.Update(t.Context(), func(tx store.Tx) (err error) { pkg, err = tx.TakeKeyPackage(device); return err }); err != nil || pkg != nil {
		t.Fatalf("%q, %v", pkg, err)
	}
	err = s.Conversations(t.Context(), func(c *store.Conversation) error {
		if c.Epoch != 3 || c.Followed || !c.Policy.IsZero() {
			t.Errorf("%+v", c)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
