// Package tlogtiles serves and reads a ledger over HTTP as C2SP tlog-tiles
// says (spec/ledger.md#http): the checkpoint, hash tiles and entry bundles.
//
// The handler decides nothing about who may read: control's entries are the
// organisation's own, so its caller puts authentication in front. The client
// believes nothing that a witnessed checkpoint doesn't commit to.
package tlogtiles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"chancery/ledger"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// A checkpoint changes, everything else never does.
	cacheCheckpoint = "no-cache"
	cacheForever    = "max-age=31536000, immutable"
)

// ErrNoCheckpoint means that a log has published no checkpoint yet.
var ErrNoCheckpoint = errors.New("no checkpoint yet")

// Source is a log as the handler reads it. Its methods are called from several
// goroutines at once.
type Source interface {
	// Checkpoint returns the newest published signed checkpoint, or
	// ErrNoCheckpoint, wrapped.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Size returns the number of leaves that the newest published checkpoint
	// covers: nothing beyond is served.
	Size(ctx context.Context) (int64, error)
	// ReadHashes returns the stored hashes at indexes (tlog.StoredHashIndex).
	ReadHashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error)
	// Entries returns the entries from start up to end, all of them.
	Entries(ctx context.Context, start, end int64) ([][]byte, error)
}

// Handler serves src below "/": checkpoint, tile/L/N and tile/entries/N.
// onError, which may be nil, is told of each error that the answer only calls
// an internal one.
func Handler(src Source, onError func(error)) http.Handler {
	if onError == nil {
		onError = func(error) {}
	}
	return &handler{src: src, onError: onError}
}

type handler struct {
	src     Source
	onError func(error)
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	body, header, err := h.resource(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
	switch {
	case errors.Is(err, errNotFound):
		w.Header().Set("Cache-Control", "no-store") // it may exist later
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		h.onError(err)
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	for k, v := range header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodGet {
		w.Write(body) // an error here is the client's having gone
	}
}

var errNotFound = errors.New("not found")

func (h *handler) resource(ctx context.Context, path string) ([]byte, http.Header, error) {
	if path == "checkpoint" {
		signed, err := h.src.Checkpoint(ctx)
		if errors.Is(err, ErrNoCheckpoint) {
			return nil, nil, fmt.Errorf("%w: %w", errNotFound, ErrNoCheckpoint)
		}
		return signed, http.Header{
			"Content-Type":  {"text/plain; charset=utf-8"},
			"Cache-Control": {cacheCheckpoint},
		}, err
	}
	t, err := ledger.ParsePath(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNotFound, err)
	}
	size, err := h.src.Size(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !ledger.Covers(size, t) {
		return nil, nil, fmt.Errorf("%w: the log of %d leaves has no such tile", errNotFound, size)
	}
	header := http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Cache-Control": {cacheForever},
	}
	if t.L == ledger.EntryLevel {
		start := t.N * ledger.TileWidth
		entries, err := h.src.Entries(ctx, start, start+int64(t.W))
		if err != nil {
			return nil, nil, err
		}
		if len(entries) != t.W {
			return nil, nil, fmt.Errorf("%d entries for %s", len(entries), path)
		}
		body, err := ledger.EncodeBundle(entries)
		return body, header, err
	}
	body, err := ledger.TileData(tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return h.src.ReadHashes(ctx, indexes)
	}), t)
	return body, header, err
}
