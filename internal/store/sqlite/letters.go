package sqlite

import (
	"context"
	"database/sql"
	"time"

	"chancery/codec"
	"chancery/internal/store"
)

// Letters implements [store.Letters].
func (s *Store) Letters(ctx context.Context, device codec.Hash, after uint64, limit, size int) ([]store.Letter, error) {
	var out []store.Letter
	total := 0
	err := s.each(ctx, func(r *sql.Rows) error {
		if total >= size {
			return nil
		}
		l := store.Letter{To: device}
		var cursor int64
		if err := r.Scan(&cursor, hash{&l.From}, &l.Body); err != nil {
			return err
		}
		l.Cursor = uint64(cursor)
		total += len(l.Body)
		out = append(out, l)
		return nil
	}, `SELECT cursor, sender, body FROM letters WHERE receiver = ? AND cursor > ? ORDER BY cursor LIMIT ?`, device[:], int64(after), limit)
	return out, err
}

// LettersHeld implements [store.Letters].
func (s *Store) LettersHeld(ctx context.Context, device codec.Hash) (n, size int, err error) {
	err = s.one(ctx, []any{&n, &size}, `SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM letters WHERE receiver = ?`, device[:])
	return n, size, err
}

func (tx *transaction) PutLetter(l *store.Letter, now time.Time) error {
	return tx.exec("PutLetter", `INSERT INTO letters (receiver, sender, since, body) VALUES (?, ?, ?, ?)`, l.To[:], l.From[:], now.Unix(), bytesOf(l.Body))
}

func (tx *transaction) DropLetters(device codec.Hash, upTo uint64) error {
	return tx.exec("DropLetters", `DELETE FROM letters WHERE receiver = ? AND cursor <= ?`, device[:], int64(upTo))
}

func (tx *transaction) DropOldLetters(before time.Time) error {
	return tx.exec("DropOldLetters", `DELETE FROM letters WHERE since < ?`, before.Unix())
}
