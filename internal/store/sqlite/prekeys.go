package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"chancery/codec"
	"chancery/internal/store"
)

// Kinds of one-time prekeys in the tables.
const (
	kindX25519 = 1
	kindMLKEM  = 2
)

// PreKeys implements [store.Directory].
func (s *Store) PreKeys(ctx context.Context, device codec.Hash, at int64) (*store.PreKeyStock, error) {
	p := &store.PreKeyStock{}
	var number int64
	err := s.one(ctx, []any{&number}, `SELECT number FROM prekeys WHERE device = ?`, device[:])
	if errors.Is(err, store.ErrNotFound) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	p.Number = uint64(number)
	err = s.one(ctx, []any{&p.OneTime, &p.KEM}, `SELECT COALESCE(SUM(kind = 1), 0), COALESCE(SUM(kind = 2), 0)
		FROM onetime WHERE device = ? AND expires > ?`, device[:], at)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (tx *transaction) PutPreKeys(device codec.Hash, p *store.PreKeys) error {
	if err := tx.s.fault("PutPreKeys"); err != nil {
		return err
	}
	number, err := tx.preKeysNumber(device)
	if err != nil || p.Number <= number {
		return err
	}
	if len(p.Signed) > 0 {
		err = tx.quiet(`INSERT OR REPLACE INTO prekeys (device, number, expires, identity, signed, last) VALUES (?, ?, ?, ?, ?, ?)`,
			device[:], int64(p.Number), p.Expires, p.Identity, p.Signed, p.Last)
	} else {
		err = tx.quiet(`UPDATE prekeys SET number = ? WHERE device = ?`, int64(p.Number), device[:])
	}
	if err != nil {
		return err
	}
	for kind, prekeys := range map[int][][]byte{kindX25519: p.OneTime, kindMLKEM: p.KEM} {
		for _, k := range prekeys {
			if err := tx.quiet(`INSERT INTO onetime (device, kind, expires, prekey) VALUES (?, ?, ?, ?)`, device[:], kind, p.Expires, k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (tx *transaction) preKeysNumber(device codec.Hash) (uint64, error) {
	stmt, err := tx.s.writeStatements.get(tx.ctx, `SELECT number FROM prekeys WHERE device = ?`)
	if err != nil {
		return 0, err
	}
	var number int64
	err = stmt.QueryRowContext(tx.ctx, device[:]).Scan(&number)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return uint64(number), err
}

func (tx *transaction) TakeBundle(device codec.Hash, at int64) (*store.Bundle, error) {
	if err := tx.s.fault("TakeBundle"); err != nil {
		return nil, err
	}
	stmt, err := tx.s.writeStatements.get(tx.ctx, `SELECT identity, signed, last FROM prekeys WHERE device = ? AND expires > ?`)
	if err != nil {
		return nil, err
	}
	b := &store.Bundle{}
	var last []byte
	err = stmt.QueryRowContext(tx.ctx, device[:], at).Scan(&b.Identity, &b.Signed, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := tx.quiet(`DELETE FROM onetime WHERE device = ? AND expires <= ?`, device[:], at); err != nil {
		return nil, err
	}
	if b.OneTime, err = tx.takeOneTime(device, kindX25519); err != nil {
		return nil, err
	}
	if b.KEM, err = tx.takeOneTime(device, kindMLKEM); err != nil {
		return nil, err
	}
	if b.KEM == nil {
		b.KEM = last
	}
	return b, nil
}

func (tx *transaction) takeOneTime(device codec.Hash, kind int) ([]byte, error) {
	stmt, err := tx.s.writeStatements.get(tx.ctx, `DELETE FROM onetime WHERE id =
		(SELECT id FROM onetime WHERE device = ? AND kind = ? ORDER BY id LIMIT 1) RETURNING prekey`)
	if err != nil {
		return nil, err
	}
	var prekey []byte
	err = stmt.QueryRowContext(tx.ctx, device[:], kind).Scan(&prekey)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return prekey, err
}
