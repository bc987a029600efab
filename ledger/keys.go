package ledger

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"chancery/codec"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of C2SP signed-note.
const (
	algEd25519     = 0x01
	algCosignature = 0x04
)

const (
	timestampSize   = 8
	cosignatureSize = timestampSize + ed25519.SignatureSize
	// maxTime is the last second of the year 9999. Later timestamps are
	// refused: time.Time wraps round far above, and a witness that writes
	// one has no clock.
	maxTime = 253402300799
)

// LogKey is a log's verifying key: Ed25519, 32 bytes, under the log's origin.
// A key signs one log and nothing else. In CBOR it is an array of two.
type LogKey struct {
	_      struct{} `cbor:",toarray"`
	Origin string
	Key    codec.PublicKey
}

// WitnessKey is a witness's verifying key for cosignature/v1: Ed25519, 32
// bytes. The signed bytes do not contain the witness's name, so that one key
// must never stand under two names. In CBOR it is an array of two.
type WitnessKey struct {
	_    struct{} `cbor:",toarray"`
	Name string
	Key  codec.PublicKey
}

// String returns the key as a C2SP vkey: name, key id and key joined by "+".
func (k LogKey) String() string { return vkey(k.Origin, algEd25519, k.Key) }

// String returns the key as a C2SP vkey: name, key id and key joined by "+".
func (k WitnessKey) String() string { return vkey(k.Name, algCosignature, k.Key) }

// ParseLogKey reads the vkey that String writes. It returns ErrMalformed,
// wrapped.
func ParseLogKey(s string) (LogKey, error) {
	name, key, err := parseVkey(s, algEd25519)
	return LogKey{Origin: name, Key: key}, err
}

// ParseWitnessKey reads the vkey that String writes. It returns ErrMalformed,
// wrapped.
func ParseWitnessKey(s string) (WitnessKey, error) {
	name, key, err := parseVkey(s, algCosignature)
	return WitnessKey{Name: name, Key: key}, err
}

// Verifier returns the key as x/mod/sumdb/note wants it.
func (k LogKey) Verifier() note.Verifier {
	return verifier{name: k.Origin, alg: algEd25519, key: k.Key}
}

// Verifier returns the key as x/mod/sumdb/note wants it.
func (k WitnessKey) Verifier() note.Verifier {
	return verifier{name: k.Name, alg: algCosignature, key: k.Key}
}

type verifier struct {
	name string
	alg  byte
	key  codec.PublicKey
}

func (v verifier) Name() string    { return v.name }
func (v verifier) KeyHash() uint32 { return keyHash(v.name, v.alg, v.key) }

func (v verifier) Verify(msg, sig []byte) bool {
	if v.alg == algEd25519 {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(v.key[:], msg, sig)
	}
	if len(sig) != cosignatureSize {
		return false
	}
	t := binary.BigEndian.Uint64(sig)
	return t > 0 && t <= maxTime && ed25519.Verify(v.key[:], cosignedMessage(t, msg), sig[timestampSize:])
}

// signer signs notes with an Ed25519 key; now is nil for a log's own
// signature, which carries no time.
type signer struct {
	verifier
	private crypto.Signer
	now     func() time.Time
}

// NewLogSigner returns the signer of a log's checkpoints. key is Ed25519, in
// memory or behind a device. The signer is safe for concurrent use where key
// is.
func NewLogSigner(origin string, key crypto.Signer) (note.Signer, error) {
	return newSigner(origin, algEd25519, key, nil)
}

// NewWitnessSigner returns a signer of cosignature/v1 (C2SP tlog-cosignature)
// whose times come from now. key is Ed25519, in memory or behind a device. The
// signer is safe for concurrent use where key and now are.
func NewWitnessSigner(name string, key crypto.Signer, now func() time.Time) (note.Signer, error) {
	return newSigner(name, algCosignature, key, now)
}

func newSigner(name string, alg byte, key crypto.Signer, now func() time.Time) (note.Signer, error) {
	if !validName(name) {
		return nil, fmt.Errorf("key name %.120q: %w", name, ErrMalformed)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("key of %.120q is no Ed25519 key: %w", name, ErrMalformed)
	}
	return &signer{verifier{name, alg, codec.PublicKey(public)}, key, now}, nil
}

func (s *signer) Sign(msg []byte) ([]byte, error) {
	if s.alg == algEd25519 {
		return s.private.Sign(nil, msg, crypto.Hash(0)) // Ed25519 draws no randomness
	}
	now := s.now().Unix()
	if now <= 0 || now > maxTime {
		return nil, fmt.Errorf("couldn't cosign: clock at %d: %w", now, ErrSize)
	}
	sig, err := s.private.Sign(nil, cosignedMessage(uint64(now), msg), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("couldn't cosign: %w", err)
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(now)), sig...), nil
}

// cosignedMessage is what a witness signs (C2SP tlog-cosignature, "Ed25519
// signed message").
func cosignedMessage(t uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", t), text...)
}

func keyHash(name string, alg byte, key codec.PublicKey) uint32 {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{'\n', alg})
	h.Write(key[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

func vkey(name string, alg byte, key codec.PublicKey) string {
	raw := append([]byte{alg}, key[:]...)
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, alg, key), base64.StdEncoding.EncodeToString(raw))
}

func parseVkey(s string, alg byte) (string, codec.PublicKey, error) {
	bad := fmt.Errorf("verifier key %.200q: %w", s, ErrMalformed)
	name, rest, _ := strings.Cut(s, "+")
	_, b64, _ := strings.Cut(rest, "+")
	raw, err := decode64(b64)
	if err != nil || len(raw) != 1+codec.HashSize || raw[0] != alg || !validName(name) {
		return "", codec.PublicKey{}, bad
	}
	key := codec.PublicKey(raw[1:])
	if vkey(name, alg, key) != s {
		return "", codec.PublicKey{}, bad
	}
	return name, key, nil
}
