package ledger

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// MaxNote is the greatest length in bytes of a signed checkpoint: room for 16
// post-quantum signatures of others, as signed-note asks, and no more.
const MaxNote = 128 << 10

const (
	maxOrigin = 255
	// maxSignatures bounds the lines of one note; x/mod/sumdb/note stops at
	// 100 as well.
	maxSignatures = 100
)

// Checkpoint states the root of a log at a size (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

// Marshal returns the note text: origin, decimal size, base64 root, each on a
// line of its own.
func (c Checkpoint) Marshal() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// ParseCheckpoint reads the note text that Marshal writes and nothing else:
// extension lines, which tlog-checkpoint advises against and no monitor can
// audit, are refused. It returns ErrMalformed, wrapped.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d lines: %w", len(lines)-1, ErrMalformed)
	}
	if !validName(lines[0]) {
		return Checkpoint{}, fmt.Errorf("checkpoint origin: %w", ErrMalformed)
	}
	size, err := ParseSize(lines[1])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint size: %w", err)
	}
	root, err := ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint root: %w", err)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root}, nil
}

// Sign returns the checkpoint as a note signed by each signer in turn, the
// log's first. A log signs no checkpoint that is inconsistent with one it
// signed before: callers hold that rule, nothing here can.
func Sign(c Checkpoint, signers ...note.Signer) ([]byte, error) {
	text := c.Marshal()
	if _, err := ParseCheckpoint(text); err != nil {
		return nil, fmt.Errorf("couldn't sign: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signers...)
	if err != nil {
		return nil, fmt.Errorf("couldn't sign checkpoint: %w", err)
	}
	return signed, nil
}

// AddSignatures returns signed with further signature lines at its end, such
// as a witness answers with. Lines that signed has already are left out. It
// checks their form and verifies none: Policy.Verify does. It returns
// ErrMalformed, wrapped.
func AddSignatures(signed, lines []byte) ([]byte, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	more, err := splitLines(lines)
	if err != nil {
		return nil, err
	}
	out := bytes.Clone(signed)
	for _, line := range more {
		if !bytes.Contains(out[len(text):], append([]byte("\n"), line...)) {
			out = append(out, line...)
		}
	}
	if _, _, err := splitNote(out); err != nil {
		return nil, err
	}
	return out, nil
}

// PeekUnverifiedCheckpoint reads the checkpoint of a signed note without
// checking any signature: for finding out whose it is. Nothing read from it
// may be acted on before Policy.Verify. It returns ErrMalformed, wrapped.
func PeekUnverifiedCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	return ParseCheckpoint(text)
}

// splitNote returns a signed note's text and its signature lines, each with
// its newline (C2SP signed-note, "Format").
func splitNote(signed []byte) (text []byte, lines [][]byte, err error) {
	if len(signed) > MaxNote {
		return nil, nil, fmt.Errorf("signed note of %d bytes: %w", len(signed), ErrMalformed)
	}
	i := bytes.LastIndex(signed, []byte("\n\n"))
	if i < 0 {
		return nil, nil, fmt.Errorf("signed note without signatures: %w", ErrMalformed)
	}
	lines, err = splitLines(signed[i+2:])
	if err != nil {
		return nil, nil, err
	}
	if len(lines) == 0 {
		return nil, nil, fmt.Errorf("signed note without signatures: %w", ErrMalformed)
	}
	return signed[: i+1 : i+1], lines, nil
}

func splitLines(b []byte) ([][]byte, error) {
	if len(b) > MaxNote || !utf8.Valid(b) {
		return nil, fmt.Errorf("signature lines: %w", ErrMalformed)
	}
	var lines [][]byte
	for line := range bytes.Lines(b) {
		body, ok := strings.CutPrefix(string(line), "— ")
		body, ended := strings.CutSuffix(body, "\n")
		name, sig, _ := strings.Cut(body, " ")
		raw, err := decode64(sig)
		if !ok || !ended || !validName(name) || err != nil || len(raw) < 5 || len(lines) == maxSignatures {
			return nil, fmt.Errorf("signature line: %w", ErrMalformed)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// ParseSize reads a decimal number of leaves in its one form, without leading
// zeroes. It returns ErrMalformed, or ErrSize above MaxSize, wrapped.
func ParseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) || n > MaxSize {
		return 0, fmt.Errorf("size %.24q: %w", s, ErrSize)
	}
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("size %.24q: %w", s, ErrMalformed)
	}
	return n, nil
}

// ParseHash reads the 44 base64 characters of a hash in their one form. It
// returns ErrMalformed, wrapped.
func ParseHash(s string) (tlog.Hash, error) {
	raw, err := decode64(s)
	if err != nil || len(raw) != tlog.HashSize {
		return tlog.Hash{}, fmt.Errorf("hash %.48q: %w", s, ErrMalformed)
	}
	return tlog.Hash(raw), nil
}

// decode64 accepts one spelling of each byte string: the decoder's own strict
// mode still skips line breaks.
func decode64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, ErrMalformed
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, ErrMalformed
	}
	return raw, nil
}

// validName says whether s may name a key or a log: non-empty UTF-8 without
// spaces, control characters or plus (C2SP signed-note, "Format").
func validName(s string) bool {
	return s != "" && len(s) <= maxOrigin && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || r < 0x20 || r == '+'
	})
}
