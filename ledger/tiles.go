package ledger

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// TileHeight is the height of tiles, in levels (C2SP tlog-tiles).
	TileHeight = 8
	// TileWidth is the number of hashes in a full tile and of entries in a
	// full bundle.
	TileWidth = 1 << TileHeight
	// EntryLevel is the level at which tlog.Tile stands for an entry bundle.
	EntryLevel = -1
	// MaxBundle is the greatest length of an entry bundle in bytes.
	MaxBundle = TileWidth * (2 + MaxEntry)

	maxTileLevel = 63
)

// Path returns a tile's or an entry bundle's address below the log's prefix,
// such as "tile/0/x001/234" or "tile/entries/000.p/5" (C2SP tlog-tiles,
// "Merkle Tree" and "Log entries").
func Path(t tlog.Tile) string {
	var b strings.Builder
	b.WriteString("tile/")
	if t.L == EntryLevel {
		b.WriteString("entries/")
	} else {
		fmt.Fprintf(&b, "%d/", t.L)
	}
	digits := strconv.FormatInt(t.N, 10)
	for len(digits)%3 != 0 {
		digits = "0" + digits
	}
	for ; len(digits) > 3; digits = digits[3:] {
		b.WriteString("x" + digits[:3] + "/")
	}
	b.WriteString(digits)
	if t.W != TileWidth {
		fmt.Fprintf(&b, ".p/%d", t.W)
	}
	return b.String()
}

// ParsePath reads what Path writes. It returns ErrMalformed, wrapped.
func ParsePath(path string) (tlog.Tile, error) {
	bad := fmt.Errorf("tile path %.80q: %w", path, ErrMalformed)
	if len(path) > 80 {
		return tlog.Tile{}, bad
	}
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, found := strings.Cut(rest, "/")
	if !ok || !found {
		return tlog.Tile{}, bad
	}
	t := tlog.Tile{H: TileHeight, L: EntryLevel, W: TileWidth}
	var err error
	if level != "entries" {
		if t.L, err = strconv.Atoi(level); err != nil || t.L < 0 || t.L > maxTileLevel {
			return tlog.Tile{}, bad
		}
	}
	if index, width, partial := strings.Cut(rest, ".p/"); partial {
		rest = index
		if t.W, err = strconv.Atoi(width); err != nil || t.W < 1 || t.W >= TileWidth {
			return tlog.Tile{}, bad
		}
	}
	// Leniently here, then strictly: only what Path writes again is accepted.
	digits := strings.ReplaceAll(strings.ReplaceAll(rest, "x", ""), "/", "")
	if t.N, err = strconv.ParseInt(digits, 10, 64); err != nil || t.N < 0 || t.N > MaxSize || Path(t) != path {
		return tlog.Tile{}, bad
	}
	return t, nil
}

// Covers says whether a log of size leaves has all of t: only then may a tile
// be served or fetched.
func Covers(size int64, t tlog.Tile) bool {
	level := max(t.L, 0)
	shift := level * TileHeight
	if shift > 62 || t.N < 0 || t.N > MaxSize || t.W < 1 || t.W > TileWidth {
		return false
	}
	return t.N*TileWidth+int64(t.W) <= size>>shift
}

// Tiles returns the tiles of one level, EntryLevel for bundles, that hold the
// level's elements from start up to end in a log of size leaves: full ones
// where the log has them full.
func Tiles(level int, start, end, size int64) []tlog.Tile {
	elements := size >> (max(level, 0) * TileHeight)
	var tiles []tlog.Tile
	for n := start / TileWidth; n*TileWidth < min(end, elements); n++ {
		width := min(elements-n*TileWidth, TileWidth)
		tiles = append(tiles, tlog.Tile{H: TileHeight, L: level, N: n, W: int(width)})
	}
	return tiles
}

// TileData returns a tile's bytes, 32 for each hash.
func TileData(r tlog.HashReader, t tlog.Tile) ([]byte, error) {
	if t.H != TileHeight || t.L < 0 || !Covers(MaxSize, t) {
		return nil, fmt.Errorf("tile %+v: %w", t, ErrSize)
	}
	data, err := tlog.ReadTileData(t, r)
	if err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", Path(t), err)
	}
	return data, nil
}

// EncodeBundle returns entries as an entry bundle: for each a big-endian
// 16-bit length and the entry. It returns ErrSize, wrapped, unless there are 1
// to 256 entries of at most MaxEntry bytes.
func EncodeBundle(entries [][]byte) ([]byte, error) {
	if len(entries) < 1 || len(entries) > TileWidth {
		return nil, fmt.Errorf("bundle of %d entries: %w", len(entries), ErrSize)
	}
	var b []byte
	for _, e := range entries {
		if len(e) > math.MaxUint16 {
			return nil, fmt.Errorf("entry of %d bytes: %w", len(e), ErrSize)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	return b, nil
}

// ParseBundle reads a bundle of exactly width entries. They share data's
// memory. It returns ErrMalformed, wrapped.
func ParseBundle(data []byte, width int) ([][]byte, error) {
	if width < 1 || width > TileWidth {
		return nil, fmt.Errorf("bundle of %d entries: %w", width, ErrSize)
	}
	entries := make([][]byte, 0, width)
	for len(data) > 0 {
		if len(data) < 2 || len(entries) == width {
			return nil, fmt.Errorf("bundle of %d entries: %w", width, ErrMalformed)
		}
		n := 2 + int(binary.BigEndian.Uint16(data))
		if len(data) < n {
			return nil, fmt.Errorf("bundle of %d entries: %w", width, ErrMalformed)
		}
		entries = append(entries, data[2:n:n])
		data = data[n:]
	}
	if len(entries) != width {
		return nil, fmt.Errorf("bundle of %d entries instead of %d: %w", len(entries), width, ErrMalformed)
	}
	return entries, nil
}
