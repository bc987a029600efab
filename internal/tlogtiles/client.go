package tlogtiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"chancery/ledger"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"
)

const (
	// MaxRange is the greatest number of entries that one call returns, which
	// bounds its memory.
	MaxRange = 1 << 16

	// maxFollow bounds the memory of one Follow in bytes, entryOverhead being
	// what a slice of slices costs for each.
	maxFollow     = 1 << 30
	entryOverhead = 24

	requestTimeout = 30 * time.Second
	parallel       = 8
)

var (
	// ErrUnavailable means that the server did not give what the log must
	// have: refused, too slow, too long or cut off. Another try may succeed.
	ErrUnavailable = errors.New("ledger unavailable")
	// ErrForged means that the server gave something that the checkpoint does
	// not commit to.
	ErrForged = errors.New("served entries or tiles are not the log's")
)

// Client reads one log from a server that it doesn't trust. It is safe for
// concurrent use.
type Client struct {
	// URL is the log's prefix, without a final slash.
	URL string
	// HTTP sends the requests; nil means http.DefaultClient. Each request has
	// a deadline of 30 seconds besides.
	HTTP *http.Client
	// Policy says which checkpoints to believe.
	Policy *ledger.Policy
}

// Checkpoint fetches the newest checkpoint and verifies it under the policy.
// That it extends what the caller held before is for a Follower or
// Policy.Extend to say. It returns ErrUnavailable or Policy.Verify's errors,
// wrapped.
func (c *Client) Checkpoint(ctx context.Context) (*ledger.Cosigned, error) {
	signed, err := c.get(ctx, "checkpoint", ledger.MaxNote)
	if err != nil {
		return nil, err
	}
	return c.Policy.Verify(signed)
}

// Entries returns the entries from start up to end, at most MaxRange, all of
// them checked to be in the log under at. It returns ErrUnavailable,
// ErrForged or ledger.ErrSize, wrapped.
func (c *Client) Entries(ctx context.Context, at ledger.Checkpoint, start, end int64) ([][]byte, error) {
	entries, err := c.unverified(ctx, at, start, end)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	indexes := make([]int64, len(entries))
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, start+int64(i))
	}
	hashes, err := c.Hashes(ctx, at).ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if tlog.RecordHash(e) != hashes[i] {
			return nil, fmt.Errorf("entry %d: %w", start+int64(i), ErrForged)
		}
	}
	return entries, nil
}

// Follow brings f to the server's newest checkpoint and returns it with the
// entries, now authentic, that f advanced over: the first has the index that
// f.Size() was before. Where it returns an error f is where it was.
//
// It returns ErrUnavailable, ErrForged, Follower.Advance's errors, a
// *ledger.Fork where what the server shows contradicts what f holds, or
// ledger.ErrSize where more than 1 GiB is to be read.
func (c *Client) Follow(ctx context.Context, f *ledger.Follower) (*ledger.Cosigned, [][]byte, error) {
	signed, err := c.get(ctx, "checkpoint", ledger.MaxNote)
	if err != nil {
		return nil, nil, err
	}
	offered, err := f.Policy().Verify(signed)
	if err != nil {
		return nil, nil, err
	}
	// Only the whole is checked against the root, so it's gathered first.
	var entries [][]byte
	total := 0
	for from := f.Size(); from < offered.Size; from += MaxRange {
		part, err := c.unverified(ctx, offered.Checkpoint, from, min(from+MaxRange, offered.Size))
		if err != nil {
			return nil, nil, err
		}
		for _, e := range part {
			total += len(e) + entryOverhead
		}
		if total > maxFollow {
			return nil, nil, fmt.Errorf("%s: over %d bytes to follow: %w", offered.Origin, maxFollow, ledger.ErrSize)
		}
		entries = append(entries, part...)
	}
	next, err := f.Advance(signed, entries)
	if errors.Is(err, ledger.ErrEntries) {
		return nil, nil, c.blame(ctx, f.Held(), offered, err)
	}
	if err != nil {
		return nil, nil, err
	}
	return next, entries, nil
}

// blame says why entries do not lead from held to offered: the log forked, or
// the server made the entries up.
func (c *Client) blame(ctx context.Context, held, offered *ledger.Cosigned, err error) error {
	if held == nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	fork, proveErr := ledger.ProveFork(held, offered, c.Hashes(ctx, offered.Checkpoint))
	if proveErr != nil {
		return errors.Join(err, proveErr)
	}
	if fork != nil {
		return fork
	}
	return fmt.Errorf("%w: %w", ErrForged, err)
}

// Hashes returns a reader of the log's stored hashes under at. Every hash that
// it returns has been checked to be in that tree. The reader returns
// ErrUnavailable or ErrForged, wrapped.
func (c *Client) Hashes(ctx context.Context, at ledger.Checkpoint) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		limit := tlog.StoredHashIndex(0, at.Size)
		for _, i := range indexes {
			if i < 0 || i >= limit {
				return nil, fmt.Errorf("stored hash %d of a log of %d leaves: %w", i, at.Size, ledger.ErrSize)
			}
		}
		r := &reader{ctx: ctx, client: c}
		hashes, err := tlog.TileHashReader(tlog.Tree{N: at.Size, Hash: at.Root}, r).ReadHashes(indexes)
		if err != nil && r.failed == nil {
			return nil, fmt.Errorf("%w: %v", ErrForged, err)
		}
		return hashes, err
	})
}

// unverified fetches the bundles that hold the range and cuts it out.
func (c *Client) unverified(ctx context.Context, at ledger.Checkpoint, start, end int64) ([][]byte, error) {
	if start < 0 || end < start || end > at.Size || end-start > MaxRange {
		return nil, fmt.Errorf("entries %d to %d of %d: %w", start, end, at.Size, ledger.ErrSize)
	}
	if start == end {
		return nil, nil
	}
	tiles := ledger.Tiles(ledger.EntryLevel, start, end, at.Size)
	bundles := make([][][]byte, len(tiles))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, t := range tiles {
		g.Go(func() error {
			data, err := c.get(ctx, ledger.Path(t), ledger.MaxBundle)
			if err != nil {
				return err
			}
			if bundles[i], err = ledger.ParseBundle(data, t.W); err != nil {
				return fmt.Errorf("%s: %w: %w", ledger.Path(t), ErrForged, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	entries := make([][]byte, 0, len(tiles)*ledger.TileWidth)
	for _, b := range bundles {
		entries = append(entries, b...)
	}
	first := tiles[0].N * ledger.TileWidth
	return entries[start-first : end-first], nil
}

// reader fetches tiles for tlog.TileHashReader, which checks them.
type reader struct {
	ctx    context.Context
	client *Client
	failed error // set where a tile couldn't be had, as against a wrong one
}

var _ tlog.TileReader = (*reader)(nil)

func (r *reader) Height() int { return ledger.TileHeight }

func (r *reader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r *reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(parallel)
	for i, t := range tiles {
		g.Go(func() error {
			want := t.W * tlog.HashSize
			b, err := r.client.get(ctx, ledger.Path(t), want)
			if err == nil && len(b) != want {
				err = fmt.Errorf("%s of %d bytes: %w", ledger.Path(t), len(b), ErrUnavailable)
			}
			data[i] = b
			return err
		})
	}
	if r.failed = g.Wait(); r.failed != nil {
		return nil, r.failed
	}
	return data, nil
}

// get fetches one resource of at most limit bytes.
func (c *Client) get(ctx context.Context, path string, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.URL, "/")+"/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("couldn't ask for %s: %w", path, err)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("couldn't fetch %s: %w: %w", path, ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("couldn't fetch %s: %w: %s", path, ErrUnavailable, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("couldn't fetch %s: %w: %w", path, ErrUnavailable, err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("couldn't fetch %s: %w: more than %d bytes", path, ErrUnavailable, limit)
	}
	return body, nil
}
