package directory

import (
	"context"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/internal/store"
	"chancery/internal/wire"
)

const (
	maxPreKey     = 4 << 10 // bytes
	maxOneTime    = 500     // of each kind in stock, for one device
	preKeyLife    = 91 * 24 * time.Hour
	preKeyReserve = 7 * 24 * time.Hour // what expires sooner doesn't count as stock
)

// StockPreKeys publishes a device's prekeys. An upload that repeats an earlier
// one changes nothing. It returns ErrSize or ErrFull.
func (d *Directory) StockPreKeys(ctx context.Context, device codec.Hash, in *wire.PreKeys) error {
	if err := checkPreKeys(in, d.Now().UnixMilli()); err != nil {
		return err
	}
	have, err := d.Store.PreKeys(ctx, device, d.Now().UnixMilli())
	if err != nil {
		return err
	}
	switch {
	case in.Number <= have.Number:
		return nil
	case have.Number == 0 && len(in.Signed) == 0:
		return fmt.Errorf("one-time prekeys before a signed one: %w", ErrSize)
	case have.OneTime+len(in.OneTime) > maxOneTime || have.KEM+len(in.KEM) > maxOneTime:
		return fmt.Errorf("the stock of %d prekeys is %w", have.OneTime, ErrFull)
	}
	return d.Store.Update(ctx, func(tx store.Tx) error {
		return tx.PutPreKeys(device, &store.PreKeys{
			Number: in.Number, Expires: in.Expires, Identity: in.Identity,
			Signed: in.Signed, Last: in.Last, OneTime: in.OneTime, KEM: in.KEM,
		})
	})
}

// checkPreKeys bounds an upload. What it says is for those who begin a session.
func checkPreKeys(in *wire.PreKeys, now int64) error {
	if in.Number == 0 || in.Number > 1<<62 || in.Expires <= now || in.Expires > now+preKeyLife.Milliseconds() {
		return fmt.Errorf("prekeys numbered %d, until %d: %w", in.Number, in.Expires, ErrSize)
	}
	if len(in.OneTime) > maxUpload || len(in.OneTime) != len(in.KEM) || (len(in.Signed) == 0) != (len(in.Last) == 0) {
		return fmt.Errorf("%d and %d one-time prekeys, want as many of both, at most %d: %w", len(in.OneTime), len(in.KEM), maxUpload, ErrSize)
	}
	if len(in.Identity) == 0 || len(in.Identity) > maxPreKey || len(in.Signed) > maxPreKey || len(in.Last) > maxPreKey {
		return fmt.Errorf("identity of %d bytes, prekeys of %d and %d: %w", len(in.Identity), len(in.Signed), len(in.Last), ErrSize)
	}
	for _, list := range [][][]byte{in.OneTime, in.KEM} {
		for _, p := range list {
			if len(p) == 0 || len(p) > maxPreKey {
				return fmt.Errorf("prekey of %d bytes, want 1 to %d: %w", len(p), maxPreKey, ErrSize)
			}
		}
	}
	return nil
}

// PreKeys returns how many of a device's one-time prekeys nobody has claimed, and
// the number of its newest upload.
func (d *Directory) PreKeys(ctx context.Context, device codec.Hash) (*wire.PreKeyStock, error) {
	have, err := d.Store.PreKeys(ctx, device, d.Now().Add(preKeyReserve).UnixMilli())
	if err != nil {
		return nil, err
	}
	return &wire.PreKeyStock{Number: have.Number, OneTime: uint16(have.OneTime), KEM: uint16(have.KEM)}, nil
}

// ClaimBundles takes a bundle of each device's prekeys, encoded, for a device
// that asks: empty where a device has none. It returns a *Busy.
func (d *Directory) ClaimBundles(ctx context.Context, asking codec.Hash, devices []codec.Hash) ([][]byte, error) {
	now := d.Now()
	if wait := d.claims.take(asking, len(devices), now); wait > 0 {
		return nil, &Busy{After: wait}
	}
	out := make([][]byte, len(devices))
	err := d.Store.Update(ctx, func(tx store.Tx) error {
		for i, device := range devices {
			b, err := tx.TakeBundle(device, now.UnixMilli())
			if err != nil {
				return err
			}
			if b != nil {
				out[i] = codec.Encode(&wire.Bundle{Version: 1, Identity: b.Identity, Signed: b.Signed, OneTime: b.OneTime, KEM: b.KEM})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
