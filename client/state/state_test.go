package state

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"maps"
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
		{Bucket: "messages", Key: "a", Data: []byte("attack at dawn")},
		{Bucket: "messages", Key: "b", Data: []byte{}},
		{Bucket: "mls", Key: "a", Data: []byte("other")},
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]Value{{Bucket: "mls", Key: "a"}, {Bucket: "mls", Key: "absent"}}); err != nil {
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
	if err := s.Write([]Value{
		{Bucket: "messages", Key: "a-conversation", Data: []byte("attack at dawn")},
		{Bucket: "messages", Key: "other", Data: []byte("x")},
		{Bucket: "mls", Group: "a-conversation", Key: "a-part", Data: []byte("attack at dawn")},
	}); err != nil {
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
		for _, secret := range []string{"attack at dawn", "a-conversation", "a-part", "messages"} {
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

// inGroup returns values of one group.
func inGroup(group string, values map[string]string) []Value {
	var out []Value
	for k, v := range values {
		out = append(out, Value{Bucket: "mls", Group: group, Key: k, Data: []byte(v)})
	}
	return out
}

func TestGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key, inGroup("a", map[string]string{"": "zero", "x": "one", "y": "", "\x00z": "three"})...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	if err := s.Write(append(inGroup("ax", map[string]string{"x": "other"}), Value{Bucket: "mls", Key: "ax", Data: []byte("alone")})); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]Value{{Bucket: "mls", Group: "a", Key: "x"}, {Bucket: "mls", Group: "a", Key: "", Data: []byte("again")}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = Open(path, key); err != nil {
		t.Fatal(err)
	}
	for group, want := range map[string]map[string]string{
		"a": {"": "again", "y": "", "\x00z": "three"}, "ax": {"x": "other"}, "b": {},
	} {
		values, err := s.Group("mls", group)
		got := map[string]string{}
		for k, v := range values {
			got[k] = string(v)
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("group %s: got %q, %v", group, got, err)
		}
	}
	if _, ok, err := s.Get("mls", "x"); ok || err != nil {
		t.Errorf("a group's value is found outside of it: %v", err)
	}
}

// A value of a group moved to another place in it, or into another group, is
// noticed.
func TestGroupAtRest(t *testing.T) {
	for attack, query := range map[string]string{
		"swapped within": `UPDATE kv SET v = (SELECT v FROM kv o WHERE o.k != kv.k AND substr(o.k, 1, 16) = substr(kv.k, 1, 16)) WHERE length(k) = 32`,
		"swapped across": `UPDATE kv SET v = (SELECT v FROM kv o WHERE length(o.k) = 32 AND substr(o.k, 1, 16) != substr(kv.k, 1, 16)) WHERE length(k) = 32`,
		"copied":         `INSERT INTO kv (k, v) SELECT CAST(substr(k, 1, 31) || x'00' AS BLOB), v FROM kv WHERE length(k) = 32`,
		"truncated":      `UPDATE kv SET v = substr(v, 1, 28) WHERE length(k) = 32`,
	} {
		s, err := Create(filepath.Join(t.TempDir(), "device.db"), NewKey(), append(
			inGroup("a", map[string]string{"x": "one", "y": "two"}), inGroup("b", map[string]string{"x": "one", "y": "two"})...)...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.db.Exec(query); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Group("mls", "a"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %q, %v", attack, got, err)
		}
		s.Close()
	}
}

// A file of version 1, which knew no groups, opens and goes on; the program that
// wrote it can't open it any more.
func TestEarlierVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key, Value{Bucket: "mls", Key: "a", Data: []byte("one")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(`PRAGMA user_version = 1`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = Open(path, key); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, _, err := s.Get("mls", "a")
	if err != nil || string(got) != "one" {
		t.Errorf("got %q, %v", got, err)
	}
	var v int
	if err := s.db.QueryRow(`PRAGMA user_version`).Scan(&v); err != nil || v != version {
		t.Errorf("version %d after opening, %v", v, err)
	}
}

func TestNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.db")
	key := NewKey()
	s, err := Create(path, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(`PRAGMA user_version = 3`); err != nil {
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
	key, value := NewKey(), Value{Bucket: "self", Data: []byte("a key")}
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
		if _, err := Create(path, key, Value{Bucket: "self", Data: []byte("another")}); !errors.Is(err, ErrExist) {
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
		if err := s.Write([]Value{
			{Bucket: "m", Key: fmt.Sprint(i), Data: make([]byte, 3000)},
			{Bucket: "c", Key: "x", Data: make([]byte, 1000)},
			{Bucket: "g", Group: "x", Key: "y", Data: make([]byte, 300)},
		}); err != nil {
			b.Fatal(err)
		}
	}
}
