package tlogtiles

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/testenv"
	"chancery/ledger"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func seeded(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(b byte) codec.PublicKey {
	return codec.PublicKey(seeded(b).Public().(ed25519.PublicKey))
}

// memory is a Source in memory that publishes a checkpoint at each change.
type memory struct {
	origin  string
	signers []note.Signer

	mu      sync.Mutex
	entries [][]byte
	hashes  []tlog.Hash
	signed  []byte
}

var _ Source = (*memory)(nil)

var origin = ledger.Origin(codec.Sum("tiles"), ledger.MessagesLog)

func newMemory(t testing.TB) (*memory, *ledger.Policy) {
	t.Helper()
	log, err := ledger.NewLogSigner(origin, seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	w, err := ledger.NewWitnessSigner("witness.example", seeded(2), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &memory{origin: origin, signers: []note.Signer{log, w}}, &ledger.Policy{
		Log:       ledger.LogKey{Origin: origin, Key: public(1)},
		Witnesses: []ledger.WitnessKey{{Name: "witness.example", Key: public(2)}},
		Quorum:    1,
	}
}

func (m *memory) add(t testing.TB, n int, flavour string) {
	t.Helper()
	var entries [][]byte
	for i := range n {
		entries = append(entries, fmt.Appendf(nil, "%s %d", flavour, len(m.entries)+i))
	}
	stored, err := ledger.Append(m.reader(), int64(len(m.entries)), entries)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries, m.hashes = append(m.entries, entries...), append(m.hashes, stored...)
	root, err := ledger.Root(tlog.HashReaderFunc(m.read), int64(len(m.entries)))
	if err != nil {
		t.Fatal(err)
	}
	if m.signed, err = ledger.Sign(ledger.Checkpoint{Origin: m.origin, Size: int64(len(m.entries)), Root: root}, m.signers...); err != nil {
		t.Fatal(err)
	}
}

func (m *memory) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(x []int64) ([]tlog.Hash, error) { return m.ReadHashes(context.Background(), x) })
}

func (m *memory) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(m.hashes)) {
			return nil, fmt.Errorf("no stored hash %d", x)
		}
		out[i] = m.hashes[x]
	}
	return out, nil
}

func (m *memory) ReadHashes(_ context.Context, indexes []int64) ([]tlog.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read(indexes)
}

func (m *memory) Checkpoint(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.signed == nil {
		return nil, ErrNoCheckpoint
	}
	return m.signed, nil
}

func (m *memory) Size(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.entries)), nil
}

func (m *memory) Entries(_ context.Context, start, end int64) ([][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end > int64(len(m.entries)) {
		return nil, errors.New("no such entries")
	}
	return m.entries[start:end], nil
}

// serve starts a server, with what passes through change on its way.
func serve(t testing.TB, src Source, change func(path string, body []byte) []byte) string {
	t.Helper()
	h := Handler(src, func(err error) { t.Errorf("internal error: %v", err) })
	srv := httptest.NewServer(http.StripPrefix("/log", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if change == nil {
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		w.WriteHeader(rec.Code)
		w.Write(change(strings.TrimPrefix(r.URL.Path, "/"), rec.Body.Bytes()))
	})))
	t.Cleanup(srv.Close)
	return srv.URL + "/log"
}

func TestHandler(t *testing.T) {
	m, _ := newMemory(t)
	url := serve(t, m, nil)
	get := func(method, path string) *http.Response {
		req, _ := http.NewRequest(method, url+path, nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	if resp := get("GET", "/checkpoint"); resp.StatusCode != 404 {
		t.Errorf("checkpoint of nothing: %s", resp.Status)
	}
	m.add(t, 600, "a")
	for path, want := range map[string]struct {
		status, length int
		kind, cache    string
	}{
		"/checkpoint":           {200, len(m.signed), "text/plain; charset=utf-8", "no-cache"},
		"/tile/0/000":           {200, 8192, "application/octet-stream", "max-age=31536000, immutable"},
		"/tile/0/002.p/88":      {200, 88 * 32, "application/octet-stream", "max-age=31536000, immutable"},
		"/tile/0/002.p/5":       {200, 5 * 32, "application/octet-stream", "max-age=31536000, immutable"},
		"/tile/1/000.p/2":       {200, 64, "application/octet-stream", "max-age=31536000, immutable"},
		"/tile/entries/000.p/1": {200, 5, "application/octet-stream", "max-age=31536000, immutable"},
		"/tile/0/002":           {status: 404},
		"/tile/0/002.p/89":      {status: 404},
		"/tile/1/000":           {status: 404},
		"/tile/2/000.p/1":       {status: 404},
		"/tile/entries/002":     {status: 404},
		"/tile/entries/2":       {status: 404},
		"/tile/64/000":          {status: 404},
		"/":                     {status: 404},
		"/checkpoint/":          {status: 404},
	} {
		resp := get("GET", path)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != want.status {
			t.Errorf("%s: %s", path, resp.Status)
		}
		if want.status != 200 {
			if c := resp.Header.Get("Cache-Control"); c != "no-store" {
				t.Errorf("%s: a refusal is cached: %q", path, c)
			}
			continue
		}
		if len(body) != want.length || resp.Header.Get("Content-Type") != want.kind || resp.Header.Get("Cache-Control") != want.cache {
			t.Errorf("%s: %d bytes, %v", path, len(body), resp.Header)
		}
	}
	if resp := get("POST", "/checkpoint"); resp.StatusCode != 405 {
		t.Errorf("POST: %s", resp.Status)
	}
	if resp := get("HEAD", "/tile/0/000"); resp.StatusCode != 200 || resp.ContentLength != 8192 {
		t.Errorf("HEAD: %s, %d bytes", resp.Status, resp.ContentLength)
	}
}

func TestClient(t *testing.T) {
	m, policy := newMemory(t)
	c := &Client{URL: serve(t, m, nil), Policy: policy}
	f, err := ledger.NewFollower(policy)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, n := range []int{1, 0, 255, 1, 343, 70} {
		m.add(t, n, "a")
		start := f.Size()
		at, entries, err := c.Follow(ctx, f)
		if err != nil {
			t.Fatal(err)
		}
		if at.Size != int64(len(m.entries)) || !slices.EqualFunc(entries, m.entries[start:], bytes.Equal) {
			t.Fatalf("followed %d entries from %d", len(entries), start)
		}
	}
	at, err := c.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	size := at.Size
	for _, r := range [][2]int64{{0, 0}, {0, 1}, {0, size}, {255, 257}, {256, 512}, {600, size}, {size, size}} {
		entries, err := c.Entries(ctx, at.Checkpoint, r[0], r[1])
		if err != nil || !slices.EqualFunc(entries, m.entries[r[0]:r[1]], bytes.Equal) {
			t.Errorf("%v: %d entries, %v", r, len(entries), err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {2, 1}, {0, size + 1}} {
		if _, err := c.Entries(ctx, at.Checkpoint, r[0], r[1]); !errors.Is(err, ledger.ErrSize) {
			t.Errorf("%v: %v", r, err)
		}
	}
	proof, err := ledger.ProveInclusion(c.Hashes(ctx, at.Checkpoint), size, 300)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.Check(at.Checkpoint, m.entries[300]); err != nil {
		t.Error(err)
	}
	if _, err := c.Hashes(ctx, at.Checkpoint).ReadHashes([]int64{tlog.StoredHashIndex(0, size)}); !errors.Is(err, ledger.ErrSize) {
		t.Errorf("hash behind the end: %v", err)
	}
}

// A server that changes what it serves is believed nowhere.
func TestClientRefusesForgeries(t *testing.T) {
	m, policy := newMemory(t)
	m.add(t, 600, "a")
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b = bytes.Clone(b)
			b[(at+len(b))%len(b)] ^= 1
			return b
		}
	}
	for name, attack := range map[string]struct {
		prefix string
		change func([]byte) []byte
		follow error // what Follow says; nil where it doesn't read that
		read   error // what Entries says
	}{
		"checkpoint text":   {"checkpoint", flip(100), ledger.ErrLogSignature, nil},
		"entry":             {"tile/entries/001", flip(-1), ErrForged, ErrForged},
		"entry length":      {"tile/entries/001", flip(1), ErrForged, ErrForged},
		"bundle cut":        {"tile/entries/001", func(b []byte) []byte { return b[:len(b)-1] }, ErrForged, ErrForged},
		"bundle emptied":    {"tile/entries/001", func(b []byte) []byte { return nil }, ErrForged, ErrForged},
		"leaf tile":         {"tile/0/001", flip(7), nil, ErrForged},
		"leaf tile cut":     {"tile/0/001", func(b []byte) []byte { return b[:100] }, nil, ErrUnavailable},
		"leaf tile grown":   {"tile/0/001", func(b []byte) []byte { return append(bytes.Clone(b), 0) }, nil, ErrUnavailable},
		"upper tile":        {"tile/1/", flip(0), nil, ErrForged},
		"endless":           {"checkpoint", func(b []byte) []byte { return make([]byte, ledger.MaxNote+1) }, ErrUnavailable, nil},
		"entries reordered": {"tile/entries/001", reorder, ErrForged, ErrForged},
	} {
		url := serve(t, m, func(path string, body []byte) []byte {
			if strings.HasPrefix(path, attack.prefix) {
				return attack.change(body)
			}
			return body
		})
		c := &Client{URL: url, Policy: policy}
		f, _ := ledger.NewFollower(policy)
		_, _, err := c.Follow(t.Context(), f)
		if !errors.Is(err, attack.follow) || (err == nil) != (attack.follow == nil) {
			t.Errorf("%s: Follow says %v, want %v", name, err, attack.follow)
		}
		at, err := policy.Verify(m.signed)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Entries(t.Context(), at.Checkpoint, 250, 600)
		if !errors.Is(err, attack.read) || (err == nil) != (attack.read == nil) {
			t.Errorf("%s: Entries says %v, want %v", name, err, attack.read)
		}
	}
}

func reorder(bundle []byte) []byte {
	entries, err := ledger.ParseBundle(bundle, ledger.TileWidth)
	if err != nil {
		return bundle
	}
	entries[0], entries[1] = entries[1], entries[0]
	out, _ := ledger.EncodeBundle(entries)
	return out
}

// A log that forks is convicted by what the client has and is shown.
func TestClientConvictsFork(t *testing.T) {
	honest, policy := newMemory(t)
	honest.add(t, 300, "a")
	forked, _ := newMemory(t)
	forked.add(t, 700, "b")
	f, _ := ledger.NewFollower(policy)
	c := &Client{URL: serve(t, honest, nil), Policy: policy}
	if _, _, err := c.Follow(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	c.URL = serve(t, forked, nil)
	_, _, err := c.Follow(t.Context(), f)
	var fork *ledger.Fork
	if !errors.As(err, &fork) {
		t.Fatalf("got %v, want a fork", err)
	}
	if err := fork.Check(policy); err != nil {
		t.Error(err)
	}
	if f.Size() != 300 {
		t.Errorf("followed the fork to %d", f.Size())
	}
	// And a rollback is refused, though it convicts nobody.
	short, _ := newMemory(t)
	short.add(t, 200, "a")
	c.URL = serve(t, short, nil)
	if _, _, err := c.Follow(t.Context(), f); !errors.Is(err, ledger.ErrRollback) {
		t.Errorf("rollback: %v", err)
	}
}

func TestClientUnavailable(t *testing.T) {
	m, policy := newMemory(t)
	m.add(t, 3, "a")
	url := serve(t, m, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &Client{URL: url, Policy: policy}
	if _, err := c.Checkpoint(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.URL = url + "/elsewhere"
	if _, err := c.Checkpoint(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("elsewhere: %v", err)
	}
}

// TestTesseraFsck has another implementation read the whole log: Tessera's
// cmd/fsck v1.0.4, from $CHANCERY_FSCK or the PATH.
func TestTesseraFsck(t *testing.T) {
	for _, size := range []int{1, 256, 600, 70_000} {
		m, _ := newMemory(t)
		m.add(t, size, "a")
		if ok, out := fsck(t, serve(t, m, nil)); !ok {
			t.Errorf("%d leaves: %s", size, out)
		}
	}
	// It does notice a flipped bit in a bundle, in a tile, in the checkpoint.
	m, _ := newMemory(t)
	m.add(t, 600, "a")
	for _, prefix := range []string{"tile/entries/001", "tile/0/001", "tile/1/", "checkpoint"} {
		url := serve(t, m, func(path string, body []byte) []byte {
			if strings.HasPrefix(path, prefix) {
				body = bytes.Clone(body)
				body[len(body)/2] ^= 1
			}
			return body
		})
		if ok, out := fsck(t, url); ok {
			t.Errorf("fsck didn't notice a flipped bit in %s: %s", prefix, out)
		}
	}
}

// fsck has Tessera's fsck read the log at url.
func fsck(t *testing.T, url string) (ok bool, said string) {
	t.Helper()
	return testenv.Fsck(t, url+"/", ledger.LogKey{Origin: origin, Key: public(1)}.String())
}
