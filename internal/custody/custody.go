// Package custody keeps secrets at rest: any small file sealed under a
// passphrase or a key file, and, as a File, all that a keyholder or guard must
// not lose or show.
//
// A sealed file is the CBOR array [header, ciphertext], the header [version,
// derivation, log2(N), salt, nonce, check]. The key is scrypt of the passphrase
// (RFC 7914, N = 2^16, r = 8, p = 1), or the key file's 32 bytes, expanded with
// HKDF-SHA256 over a fresh 32-byte nonce and the file's label; the cipher is
// AES-256-GCM with header and label as associated data. The check, 32 bytes of
// the same expansion, tells a wrong secret from a changed file and commits to
// the key.
//
// It promises that a file that was changed, cut or renamed to another label
// doesn't open, and that a file is either the old one or the new one after a
// crash. It doesn't promise that an older copy put back is noticed, nor that
// bytes overwritten on a disk or in memory that the system has copied are gone.
package custody

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/crypto/scrypt"

	"chancery/codec"
)

var (
	// ErrSecret means that a file was sealed under another passphrase or key.
	ErrSecret = errors.New("wrong passphrase or key file")
	// ErrSealed means that a file is not a sealed file, or was changed, or is
	// sealed for another purpose.
	ErrSealed = errors.New("sealed file is damaged or of another kind")
	// ErrKeyFile means that a key file doesn't hold 32 bytes, or that others
	// than its owner may read it.
	ErrKeyFile = errors.New("unusable key file")
)

const (
	// KeySize is the length in bytes of a key file.
	KeySize = 32
	// MaxFile is the greatest length in bytes of a sealed file that OpenFile
	// reads.
	MaxFile = 64 << 20

	version      = 1
	fromKey      = 1 // derivations
	fromPhrase   = 2
	logN         = 16
	maxLogN      = 20 // bounds the work that a file can ask for
	saltSize     = 16
	nonceSize    = 32
	checkSize    = 32
	overheadSize = 16
)

// Secret is what files are sealed under: a passphrase or a key. It remembers
// the costly part of a passphrase's derivation, so that many files under one
// passphrase cost it once. Copies share that memory. It is safe for concurrent
// use until Erase; the zero value opens and seals nothing.
type Secret struct{ *secret }

type secret struct {
	phrase bool

	mu      sync.Mutex // guards what follows
	raw     []byte
	salt    []byte // of files sealed by this process, passphrases only
	derived map[derivation][]byte
}

type derivation struct {
	logN uint8
	salt [saltSize]byte
}

// Passphrase returns the secret of a passphrase, of which it keeps a copy.
func Passphrase(phrase []byte) Secret {
	s := &secret{phrase: true, raw: slices.Clone(phrase), salt: make([]byte, saltSize), derived: map[derivation][]byte{}}
	rand.Read(s.salt) // never fails
	return Secret{s}
}

// Key returns the secret of 32 random bytes, of which it keeps a copy.
func Key(key [KeySize]byte) Secret { return Secret{&secret{raw: slices.Clone(key[:])}} }

// KeyFile reads a key file: 32 bytes that nobody but the owner may read. It
// returns ErrKeyFile, or fs.ErrNotExist, wrapped; CreateKeyFile makes one.
func KeyFile(path string) (Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Secret{}, fmt.Errorf("couldn't read the key file: %w", err)
	}
	if !private(info) {
		return Secret{}, fmt.Errorf("%w: %s may be read by others than its owner (mode %v)", ErrKeyFile, path, info.Mode().Perm())
	}
	if info.Size() != KeySize {
		return Secret{}, fmt.Errorf("%w: %s has %d bytes, want %d", ErrKeyFile, path, info.Size(), KeySize)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Secret{}, fmt.Errorf("couldn't read the key file: %w", err)
	}
	defer clear(b)
	if len(b) != KeySize {
		return Secret{}, fmt.Errorf("%w: %s has %d bytes, want %d", ErrKeyFile, path, len(b), KeySize)
	}
	return Key([KeySize]byte(b)), nil
}

// CreateKeyFile makes a key file of 32 random bytes with mode 0600 and returns
// its secret. It returns fs.ErrExist, wrapped, where the file is there.
func CreateKeyFile(path string) (Secret, error) {
	var key [KeySize]byte
	defer clear(key[:])
	rand.Read(key[:]) // never fails
	if err := CreateFile(path, key[:], 0o600); err != nil {
		return Secret{}, fmt.Errorf("couldn't make the key file: %w", err)
	}
	return Key(key), nil
}

// Erase overwrites the secret; it opens and seals nothing afterwards.
func (s Secret) Erase() {
	if s.secret == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.raw)
	s.raw = nil
	for _, d := range s.derived {
		clear(d)
	}
	s.derived = nil
}

// Format prints no secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "custody.Secret(redacted)") }

type header struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Derivation uint8
	LogN       uint8
	Salt       []byte
	Nonce      []byte
	Check      []byte
}

type sealed struct {
	_          struct{} `cbor:",toarray"`
	Header     []byte
	Ciphertext []byte
}

func (h *header) validate() error {
	ok := h.Version == version && len(h.Nonce) == nonceSize && len(h.Check) == checkSize
	switch h.Derivation {
	case fromKey:
		ok = ok && h.LogN == 0 && len(h.Salt) == 0
	case fromPhrase:
		ok = ok && h.LogN >= 1 && h.LogN <= maxLogN && len(h.Salt) == saltSize
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("%w: unknown version or parameters", ErrSealed)
	}
	return nil
}

// parse reads the form of a sealed file; the secret is not needed.
func parse(data []byte) (*header, *sealed, error) {
	var f sealed
	if err := codec.Decode(data, &f); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	var h header
	if err := codec.Decode(f.Header, &h); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	if err := h.validate(); err != nil {
		return nil, nil, err
	}
	if len(f.Ciphertext) < overheadSize {
		return nil, nil, fmt.Errorf("%w: cut short", ErrSealed)
	}
	return &h, &f, nil
}

// Seal returns plaintext sealed under a secret for one purpose, which label
// names: a file sealed under one label doesn't open under another.
func Seal(s Secret, label string, plaintext []byte) ([]byte, error) {
	if s.secret == nil {
		return nil, fmt.Errorf("no secret to seal %s under: %w", label, ErrSecret)
	}
	h := header{Version: version, Derivation: fromKey, Nonce: make([]byte, nonceSize)}
	rand.Read(h.Nonce) // never fails
	if s.phrase {
		h.Derivation, h.LogN, h.Salt = fromPhrase, logN, s.salt
	}
	aead, check, err := s.expand(&h, label)
	if err != nil {
		return nil, err
	}
	h.Check = check
	encoded := codec.Encode(&h)
	// The key is of this nonce alone, so GCM's own may be zero.
	ciphertext := aead.Seal(nil, make([]byte, aead.NonceSize()), plaintext, associated(encoded, label))
	return codec.Encode(&sealed{Header: encoded, Ciphertext: ciphertext}), nil
}

// Open opens what Seal returned for the same label. It returns ErrSecret or
// ErrSealed, wrapped. The caller erases the result.
func Open(s Secret, label string, data []byte) ([]byte, error) {
	h, f, err := parse(data)
	if err != nil {
		return nil, err
	}
	if s.secret == nil || s.phrase != (h.Derivation == fromPhrase) {
		return nil, ErrSecret
	}
	aead, check, err := s.expand(h, label)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(check, h.Check) != 1 {
		return nil, ErrSecret
	}
	plaintext, err := aead.Open(nil, make([]byte, aead.NonceSize()), f.Ciphertext, associated(f.Header, label))
	if err != nil {
		return nil, ErrSealed
	}
	return plaintext, nil
}

func associated(header []byte, label string) []byte {
	return codec.Encode([]any{"chancery/custody/v1", header, label})
}

// expand returns the cipher of one file and the check of its key.
func (s *secret) expand(h *header, label string) (cipher.AEAD, []byte, error) {
	master, err := s.master(h)
	if err != nil {
		return nil, nil, err
	}
	defer clear(master)
	// The check depends on the nonce and not on the label, so that a wrong
	// label is told from a wrong secret.
	check, err := hkdf.Key(sha256.New, master, h.Nonce, "chancery/custody/v1 check", checkSize)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't derive a check: %w", err)
	}
	key, err := hkdf.Key(sha256.New, master, h.Nonce, "chancery/custody/v1 key "+label, KeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't derive a key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make AES-256: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make GCM: %w", err)
	}
	return aead, check, nil
}

// master returns a copy of the 32 bytes that the secret gives under a header's
// parameters.
func (s *secret) master(h *header) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raw == nil {
		return nil, fmt.Errorf("secret has been erased: %w", ErrSecret)
	}
	if !s.phrase {
		return slices.Clone(s.raw), nil
	}
	at := derivation{logN: h.LogN, salt: [saltSize]byte(h.Salt)}
	if d, ok := s.derived[at]; ok {
		return slices.Clone(d), nil
	}
	d, err := scrypt.Key(s.raw, h.Salt, 1<<h.LogN, 8, 1, KeySize)
	if err != nil {
		return nil, fmt.Errorf("couldn't derive a key from the passphrase: %w", err)
	}
	s.derived[at] = d
	return slices.Clone(d), nil
}

// SealFile seals plaintext under a secret and label and puts it at path, mode
// 0600, so durably that after a crash there is the old file or the new.
func SealFile(path string, s Secret, label string, plaintext []byte) error {
	data, err := Seal(s, label, plaintext)
	if err != nil {
		return fmt.Errorf("couldn't seal %s: %w", path, err)
	}
	return WriteFile(path, data, 0o600)
}

// OpenFile opens a file that SealFile wrote under the same label. It returns
// ErrSecret, ErrSealed or the system's error, wrapped. The caller erases the
// result.
func OpenFile(path string, s Secret, label string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the sealed file: %w", err)
	}
	if info.Size() > MaxFile || info.Mode()&fs.ModeType != 0 {
		return nil, fmt.Errorf("%s: %w", path, ErrSealed)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't open the sealed file: %w", err)
	}
	plaintext, err := Open(s, label, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return plaintext, nil
}
