package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/store"
	"chancery/internal/wire"
)

const (
	lettersKept  = 14 * 24 * time.Hour
	lettersPage  = 16       // of one answer
	lettersBytes = 4 << 20  // and about so many bytes
	maxLetters   = 1024     // that wait for one device
	maxLettersOf = 64 << 20 // bytes that wait for one device
)

// ErrFull means that as much waits for a device as may.
var ErrFull = errors.New("full")

// PutLetter leaves a letter of one device for another one of the same member. It
// returns ErrForbidden for any other device, ErrMalformed or ErrFull.
func (s *Server) PutLetter(ctx context.Context, from codec.Hash, l *wire.Letter) error {
	if len(l.Body) == 0 || len(l.Body) > wire.MaxLetter {
		return fmt.Errorf("%w: a letter of %d bytes, want 1 to %d", ErrMalformed, len(l.Body), wire.MaxLetter)
	}
	siblings := false
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		a, okA := state.Device(from)
		b, okB := state.Device(l.Device)
		siblings = okA && okB && from != l.Device && a.Member == b.Member && b.ValidAt(state.Size())
	})
	if !siblings {
		return fmt.Errorf("%w: letters are for other devices of the same member", ErrForbidden)
	}
	n, size, err := s.Store.LettersHeld(ctx, l.Device)
	if err != nil {
		return err
	}
	if n >= maxLetters || size+len(l.Body) > maxLettersOf {
		return fmt.Errorf("what waits for device %s is %w", l.Device.Short(), ErrFull)
	}
	return s.Store.Update(ctx, func(tx store.Tx) error {
		return tx.PutLetter(&store.Letter{From: from, To: l.Device, Body: l.Body}, s.Now())
	})
}

// Letters returns a device's letters after a cursor, and forgets those up to it.
func (s *Server) Letters(ctx context.Context, device codec.Hash, after uint64) ([]wire.Letter, error) {
	if n, _, err := s.Store.LettersHeld(ctx, device); err != nil || n == 0 {
		return []wire.Letter{}, err
	}
	if after > 0 {
		if err := s.Store.Update(ctx, func(tx store.Tx) error { return tx.DropLetters(device, after) }); err != nil {
			return nil, err
		}
	}
	letters, err := s.Store.Letters(ctx, device, after, lettersPage, lettersBytes)
	if err != nil {
		return nil, err
	}
	out := make([]wire.Letter, len(letters))
	for i, l := range letters {
		out[i] = wire.Letter{Cursor: l.Cursor, Device: l.From, Body: l.Body}
	}
	return out, nil
}

// DropOldLetters forgets what nobody has fetched in two weeks.
func (s *Server) DropOldLetters(ctx context.Context) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return tx.DropOldLetters(s.Now().Add(-lettersKept)) })
}
