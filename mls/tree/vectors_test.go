package tree

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// sharedVectors holds the official test vectors (github.com/mlswg/mls-implementations).
const sharedVectors = "../../../shared/data/vectors/mls"

// readVectors reads a file of official test vectors, and skips the test where
// they are not at hand.
func readVectors(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(sharedVectors, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no official vectors at %s", sharedVectors)
	} else if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// hexBytes is binary data as the vectors write it.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	b, err := hex.DecodeString(s)
	*h = b
	return err
}

func (h hexBytes) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }
