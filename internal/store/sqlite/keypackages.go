package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"chancery/codec"
	"chancery/internal/store"
)

// KeyPackages implements [store.Directory].
func (s *Store) KeyPackages(ctx context.Context, device codec.Hash, now time.Time) (*store.Stock, error) {
	var out store.Stock
	var last int
	err := s.one(ctx, []any{&out.Left, &last}, `SELECT COALESCE(SUM(last_resort = 0), 0), COALESCE(MAX(last_resort), 0)
		FROM keypackages WHERE device = ? AND not_after > ?`, device[:], now.Unix())
	if err != nil {
		return nil, err
	}
	out.LastResort, out.Used = last > 0, last > 1
	if err := s.one(ctx, []any{&out.Keys}, `SELECT COUNT(*) FROM keypackage_keys WHERE device = ?`, device[:]); err != nil {
		return nil, err
	}
	return &out, nil
}

func (tx *transaction) PutKeyPackage(p *store.KeyPackage, now time.Time) error {
	if err := tx.s.fault("PutKeyPackage"); err != nil {
		return err
	}
	hash := sha256.Sum256(p.Package)
	for _, key := range p.Keys {
		var other []byte
		err := tx.query([]any{&other}, `SELECT package FROM keypackage_keys WHERE device = ? AND key = ? AND not_after > ?`,
			p.Device[:], key, now.Unix())
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case string(other) == string(hash[:]):
			return nil // stocked before, and perhaps taken since
		default:
			return store.ErrRepeated
		}
	}
	for _, key := range p.Keys {
		if err := tx.quiet(`INSERT OR REPLACE INTO keypackage_keys (device, key, package, not_after) VALUES (?, ?, ?, ?)`,
			p.Device[:], key, hash[:], p.NotAfter.Unix()); err != nil {
			return err
		}
	}
	last := 0
	if p.LastResort {
		last = 1
		if err := tx.quiet(`DELETE FROM keypackages WHERE device = ? AND last_resort > 0`, p.Device[:]); err != nil {
			return err
		}
	}
	return tx.quiet(`INSERT INTO keypackages (device, package, not_after, last_resort) VALUES (?, ?, ?, ?)`,
		p.Device[:], p.Package, p.NotAfter.Unix(), last)
}

func (tx *transaction) TakeKeyPackage(device codec.Hash) ([]byte, error) {
	return tx.give("TakeKeyPackage", `DELETE FROM keypackages WHERE id =
		(SELECT id FROM keypackages WHERE device = ? AND last_resort = 0 ORDER BY id LIMIT 1) RETURNING package`, device)
}

func (tx *transaction) LastResort(device codec.Hash) ([]byte, error) {
	return tx.give("LastResort", `UPDATE keypackages SET last_resort = 2 WHERE device = ? AND last_resort > 0 RETURNING package`, device)
}

func (tx *transaction) give(step, query string, device codec.Hash) ([]byte, error) {
	if err := tx.s.fault(step); err != nil {
		return nil, err
	}
	var pkg []byte
	err := tx.query([]any{&pkg}, query, device[:])
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return pkg, err
}

func (tx *transaction) DropKeyPackages(device codec.Hash, now time.Time) error {
	if err := tx.exec("DropKeyPackages", `DELETE FROM keypackages WHERE device = ? AND not_after <= ?`, device[:], now.Unix()); err != nil {
		return err
	}
	return tx.quiet(`DELETE FROM keypackage_keys WHERE device = ? AND not_after <= ?`, device[:], now.Unix())
}

// query runs a prepared statement of the writer that gives one row.
func (tx *transaction) query(dest []any, query string, args ...any) error {
	stmt, err := tx.s.writeStatements.get(tx.ctx, query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(tx.ctx, args...).Scan(dest...)
}
