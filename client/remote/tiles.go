package remote

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	parallel = 8
	maxTiles = 2048 // kept, 8 KiB each
)

// tiles reads one log and keeps the full tiles that were checked against a
// checkpoint, so that proving many leaves fetches each tile once.
type tiles struct {
	log ledger.Log

	mu   sync.Mutex
	kept map[tlog.Tile][]byte
}

func newTiles(log ledger.Log) *tiles {
	return &tiles{log: log, kept: map[tlog.Tile][]byte{}}
}

func logPath(log ledger.Log, resource string) string {
	return wire.PathLogs + string(log) + "/" + resource
}

// Checkpoint returns a log's newest witnessed checkpoint, which the caller
// verifies.
func (c *Client) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	return c.open(ctx, logPath(log, "checkpoint"), ledger.MaxNote)
}

// Entries returns a log's entries from from up to to, at most 1,048,576, which the
// caller checks against a checkpoint.
func (c *Client) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	if from < 0 || to < from || to > ledger.MaxSize || to-from > maxRange {
		return nil, fmt.Errorf("entries %d to %d: %w", from, to, ledger.ErrSize)
	}
	if from == to {
		return nil, nil
	}
	wanted := ledger.Tiles(ledger.EntryLevel, from, to, to)
	bundles := make([][][]byte, len(wanted))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, t := range wanted {
		g.Go(func() error {
			data, err := c.open(gctx, logPath(log, ledger.Path(t)), ledger.MaxBundle)
			if err != nil {
				return fmt.Errorf("couldn't fetch %s of the %s log: %w", ledger.Path(t), log, err)
			}
			if bundles[i], err = ledger.ParseBundle(data, t.W); err != nil {
				return fmt.Errorf("%s of the %s log: %w: %w", ledger.Path(t), log, ErrAnswer, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var entries [][]byte
	for _, b := range bundles {
		entries = append(entries, b...)
	}
	first := wanted[0].N * ledger.TileWidth
	return entries[from-first : to-first], nil
}

// Hashes returns a reader of a log's stored hashes under a checkpoint, which
// the caller has verified. Every hash that it returns was checked to be in that
// tree: ledger.ProveInclusion and ledger.ProveConsistency take it.
func (c *Client) Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		limit := tlog.StoredHashIndex(0, at.Size)
		for _, i := range indexes {
			if i < 0 || i >= limit {
				return nil, fmt.Errorf("stored hash %d of a log of %d leaves: %w", i, at.Size, ledger.ErrSize)
			}
		}
		r := &reader{ctx: ctx, client: c, tiles: c.logs[log]}
		hashes, err := tlog.TileHashReader(tlog.Tree{N: at.Size, Hash: at.Root}, r).ReadHashes(indexes)
		if err != nil {
			return nil, fmt.Errorf("couldn't read the %s log: %w", log, err)
		}
		return hashes, nil
	})
}

// reader fetches tiles for tlog.TileHashReader, which checks them.
type reader struct {
	ctx    context.Context
	client *Client
	tiles  *tiles
}

var _ tlog.TileReader = (*reader)(nil)

func (r *reader) Height() int { return ledger.TileHeight }

// SaveTiles is called with tiles that were checked.
func (r *reader) SaveTiles(checked []tlog.Tile, data [][]byte) {
	r.tiles.mu.Lock()
	defer r.tiles.mu.Unlock()
	for i, t := range checked {
		if t.W != ledger.TileWidth {
			continue // it will grow
		}
		if len(r.tiles.kept) >= maxTiles {
			clear(r.tiles.kept)
		}
		r.tiles.kept[t] = data[i]
	}
}

func (r *reader) keptTile(t tlog.Tile) []byte {
	r.tiles.mu.Lock()
	defer r.tiles.mu.Unlock()
	return r.tiles.kept[t]
}

func (r *reader) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(wanted))
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(parallel)
	for i, t := range wanted {
		if data[i] = r.keptTile(t); data[i] != nil {
			continue
		}
		g.Go(func() error {
			want := t.W * tlog.HashSize
			b, err := r.client.open(ctx, logPath(r.tiles.log, ledger.Path(t)), want)
			if err == nil && len(b) != want {
				err = fmt.Errorf("%s of %d bytes: %w", ledger.Path(t), len(b), ErrAnswer)
			}
			data[i] = b
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return data, nil
}
