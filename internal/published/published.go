// Package published holds tests to the vectors in spec/vectors, which other
// implementations rely on. A test binary that imports it has the flag -update,
// which writes them anew; a change of them is a change of the format, and needs
// its reason in the commit.
package published

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"chancery/internal/testenv"
)

var update = flag.Bool("update", false, "write the package's published vectors anew; say in the commit why")

// Hex is bytes as vectors show them, in lower-case hexadecimal.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// Read returns the bytes of a file of vectors.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(path(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Same fails the test unless the file of vectors is v in JSON to the last byte,
// and returns the file. With -update it is written first.
func Same(t testing.TB, name string, v any, indent string) []byte {
	t.Helper()
	want, err := json.MarshalIndent(v, "", indent)
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	Update(t, name, func() []byte { return want })
	got := Read(t, name)
	if !bytes.Equal(got, want) {
		t.Fatalf("spec/vectors/%s is not what this package makes: the format has changed", name)
	}
	return got
}

// Update writes a file of vectors with -update, and does nothing without. It is
// for those that come out otherwise each time that they are made.
func Update(t testing.TB, name string, made func() []byte) {
	t.Helper()
	if !*update {
		return
	}
	if err := os.WriteFile(path(name), made(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func path(name string) string { return filepath.Join(testenv.Root(), "spec", "vectors", name) }
