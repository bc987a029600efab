package custody

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/codec"
)

func TestSealedFile(t *testing.T) {
	for name, s := range map[string]Secret{"passphrase": Passphrase([]byte("correct horse")), "key": Key([32]byte{1})} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			for _, want := range []string{"first", "", strings.Repeat("second", 1000)} {
				if err := SealFile(path, s, "test", []byte(want)); err != nil {
					t.Fatal(err)
				}
				got, err := OpenFile(path, s, "test")
				if err != nil || string(got) != want {
					t.Fatalf("got %.20q, %v", got, err)
				}
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("mode %v, %v", info.Mode(), err)
			}
			data, _ := os.ReadFile(path)
			if bytes.Contains(data, []byte("second")) {
				t.Fatal("plaintext in the sealed file")
			}
			for name, other := range map[string]Secret{
				"passphrase": Passphrase([]byte("battery staple")), "key": Key([32]byte{2}), "none": {},
			} {
				if _, err := OpenFile(path, other, "test"); !errors.Is(err, ErrSecret) {
					t.Errorf("other %s: got %v, want ErrSecret", name, err)
				}
			}
			if _, err := OpenFile(path, s, "other"); !errors.Is(err, ErrSealed) {
				t.Errorf("other label: got %v, want ErrSealed", err)
			}
			entries, _ := os.ReadDir(filepath.Dir(path))
			if len(entries) != 1 {
				t.Errorf("%d files left behind", len(entries))
			}
		})
	}
}

// A passphrase opens files that another process sealed under it.
func TestPassphraseAcrossProcesses(t *testing.T) {
	data, err := Seal(Passphrase([]byte("p")), "test", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open(Passphrase([]byte("p")), "test", data); err != nil || string(got) != "x" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestEveryFlipAndCutIsNoticed(t *testing.T) {
	s := Key([32]byte{7})
	data, err := Seal(s, "test", []byte("what a holder must not lose"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := Open(s, "test", bad); !errors.Is(err, ErrSealed) && !errors.Is(err, ErrSecret) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
		if _, err := Open(s, "test", data[:i]); !errors.Is(err, ErrSealed) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := Open(s, "test", append(bytes.Clone(data), 0)); !errors.Is(err, ErrSealed) {
		t.Fatalf("a byte more: %v", err)
	}
}

// A file can't make its reader derive a key at any cost it likes.
func TestCostIsBounded(t *testing.T) {
	h := header{Version: version, Derivation: fromPhrase, LogN: 30, Salt: make([]byte, saltSize), Nonce: make([]byte, nonceSize), Check: make([]byte, checkSize)}
	data := codec.Encode(&sealed{Header: codec.Encode(&h), Ciphertext: make([]byte, overheadSize)})
	if _, err := Open(Passphrase([]byte("p")), "test", data); !errors.Is(err, ErrSealed) {
		t.Fatalf("got %v, want ErrSealed", err)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := KeyFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing: %v", err)
	}
	made, err := CreateKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("there already: %v", err)
	}
	data, err := Seal(made, "test", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	read, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(read, "test", data); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(path); !errors.Is(err, ErrKeyFile) {
		t.Fatalf("readable by a group: %v", err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, make([]byte, 31), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(short); !errors.Is(err, ErrKeyFile) {
		t.Fatalf("short: %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := Passphrase([]byte("hunter2hunter2"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if out := fmt.Sprintf(verb, s); strings.Contains(out, "hunter2") || strings.Contains(out, "68756e") || strings.Contains(out, "104 117") {
			t.Errorf("%s prints %s", verb, out)
		}
	}
	s.Erase()
	if _, err := Seal(s, "test", nil); !errors.Is(err, ErrSecret) {
		t.Errorf("erased: %v", err)
	}
}

// sealedOnce is "seed" sealed under the label "fuzz" and the key 09 00 … 00: a
// file of version 1 opens for good.
const sealedOnce = "82584986010100405820e23f6ac07bee953b95e14935cbcb99fd360b89eada375bc977b99cdb19fdb9fd582018af3611" +
	"33d8a73656514c99790dba0eb7956ddbd861448da1130d30029e042a54f66241997628b129caf2e99cdb69e091366a9b" +
	"45"

func sample(t testing.TB) []byte {
	t.Helper()
	data, err := hex.DecodeString(sealedOnce)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestKnownFile(t *testing.T) {
	if got, err := Open(Key([KeySize]byte{9}), "fuzz", sample(t)); err != nil || string(got) != "seed" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func FuzzOpen(f *testing.F) {
	s, data := Key([KeySize]byte{9}), sample(f)
	f.Add(data)
	f.Add(data[:40])
	f.Fuzz(func(t *testing.T, in []byte) {
		h, c, err := parse(in)
		if err == nil && !bytes.Equal(codec.Encode(&sealed{Header: codec.Encode(h), Ciphertext: c.Ciphertext}), in) {
			t.Fatal("read a form that is not canonical")
		}
		if _, err := Open(s, "fuzz", in); err == nil && !bytes.Equal(in, data) {
			t.Fatal("opened a file that was never sealed")
		}
	})
}
