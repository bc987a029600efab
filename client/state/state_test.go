package state

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]Value{
		{"messages", "a", []byte("attack at dawn")}, {"messages", "b", []byte{}}, {"mls", "a", []byte("other")},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]Value{{"mls", "a", nil}, {"mls", "absent", nil}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Create(path, key); !errors.Is(err, ErrExist) {
		t.Errorf("got %v, want ErrExist", err)
	}
	if _, err := Open(path, NewKey()); !errors.Is(err, ErrKey) {
		t.Errorf("got %v, want ErrKey", err)
	}
	if _, err := Open(path+"x", key); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
	if s, err = Open(path, key); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, want := range []struct {
		bucket, key, data string
		ok                bool
	}{{"messages", "a", "attack at dawn", true}, {"messages", "b", "", true}, {"mls", "a", "", false}} {
		got, ok, err := s.Get(want.bucket, want.key)
		if err != nil || ok != want.ok || string(got) != want.data {
			t.Errorf("%s %s: got %q, %v, %v", want.bucket, want.key, got, ok, err)
		}
	}
	if _, err := Open(path, key); err == nil {
		t.Error("two processes may open one device")
	}
}

func TestAtRest(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.db")
	key := NewKey()
	s, err := Create(path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]Value{{"messages", "a-conversation", []byte("attack at dawn")}, {"messages", "other", []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"attack at dawn", "a-conversation", "messages"} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s has %q in clear", filepath.Base(f), secret)
			}
		}
	}
	// One value put under another's name is noticed, and so is a flipped bit.
	for attack, query := range map[string]string{
		"swapped": `UPDATE kv SET v = (SELECT v FROM kv o WHERE o.k != kv.k ORDER BY length(o.v) DESC LIMIT 1)`,
		"flipped": `UPDATE kv SET v = substr(v, 1, length(v) - 1) || x'00'`,
	} {
		copied := filepath.Join(dir, attack+".db")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", copied)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if _, err := Open(copied, key); err == nil {
			t.Errorf("%s: opened", attack)
		}
	}
}

func TestNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(`PRAGMA user_version = 2`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(path, key); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v, want ErrVersion", err)
	}
}

// A process that is killed while it makes the file leaves nothing in the way of
// the next.
func TestCreateGoesOn(t *testing.T) {
	key, value := NewKey(), Value{"self", "", []byte("a key")}
	for name, made := range map[string]string{
		"file":    "",
		"table":   `CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID`,
		"version": `CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID; PRAGMA user_version = 1`,
	} {
		path := filepath.Join(t.TempDir(), "device.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(made); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if _, err := Open(path, key); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed after the %s: got %v, want that nothing is there", name, err)
		}
		s, err := Create(path, key, value)
		if err != nil {
			t.Errorf("killed after the %s: %v", name, err)
			continue
		}
		s.Close()
		if _, err := Create(path, key, Value{"self", "", []byte("another")}); !errors.Is(err, ErrExist) {
			t.Errorf("got %v, want ErrExist", err)
		}
		if s, err = Open(path, key); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Get("self", ""); err != nil || string(got) != "a key" {
			t.Errorf("got %q, %v", got, err)
		}
		s.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key)
	if err != nil {
		b.Fatal(err)
	}
	s.Close()
	for b.Loop() {
		s, err := Open(path, key)
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	s, err := Create(filepath.Join(b.TempDir(), "device.db"), NewKey())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	i := 0
	for b.Loop() {
		i++
		if err := s.Write([]Value{{"m", fmt.Sprint(i), make([]byte, 3000)}, {"c", "x", make([]byte, 1000)}, {"g", "x", make([]byte, 300)}}); err != nil {
			b.Fatal(err)
		}
	}
}
