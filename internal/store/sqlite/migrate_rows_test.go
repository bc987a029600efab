package sqlite

import (
	"database/sql"
	"path/filepath"
	"testing"

	"chancery/codec"
	"chancery/internal/store"
)

// TestMigratedConversation: SQLite refuses some changes of a table only where it
// has rows.
func TestMigratedConversation(t *testing.T) {
	dir, conversation := t.TempDir(), codec.NewID()
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
	if _, err := db.Exec(`INSERT INTO migrations VALUES (2, 0); INSERT INTO conversations (id, epoch, removal, commitment, positions, leaf, last) VALUES (?, 1, 0, zeroblob(32), 1, zeroblob(32), 0)`,
		conversation[:]); err != nil {
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
	found := 0
	if err := s.Conversations(t.Context(), func(c *store.Conversation) error {
		if found++; c.ID != conversation || c.Epoch != 1 || len(c.Members) > 0 {
			t.Errorf("got %+v", c)
		}
		return nil
	}); err != nil || found != 1 {
		t.Fatalf("%d conversations, %v", found, err)
	}
}
