package sqlite

import (
	"errors"
	"testing"

	"chancery/internal/store"
	"chancery/internal/store/storetest"
)

func open(dir string, fault func(step string) error) (storetest.Store, error) {
	s, err := Open(dir, Options{TestOnlyFault: fault})
	if err != nil {
		return nil, err // no Store that is a nil *Store
	}
	return s, nil
}

func TestStore(t *testing.T) { storetest.Run(t, open) }

func BenchmarkAppend(b *testing.B) { storetest.Benchmark(b, open) }

func TestNewerDatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.conn.ExecContext(t.Context(), `INSERT INTO migrations VALUES (99, 0)`); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, store.ErrNewer) {
		t.Fatalf("got %v", err)
	}
}
