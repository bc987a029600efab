package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

var (
	origin   = ledger.Origin(codec.Sum("witnessed"), ledger.ControlLog)
	testTime = time.Unix(1_800_000_000, 0)
)

// history is a log in memory that signs whatever it's told to.
type history struct {
	hashes []tlog.Hash
	log    note.Signer
}

func newHistory(t testing.TB, n int, flavour string, forkAt int) *history {
	t.Helper()
	h := &history{}
	var err error
	if h.log, err = ledger.NewLogSigner(origin, seeded(1)); err != nil {
		t.Fatal(err)
	}
	var entries [][]byte
	for i := range n {
		if i < forkAt {
			entries = append(entries, fmt.Appendf(nil, "common %d", i))
		} else {
			entries = append(entries, fmt.Appendf(nil, "%s %d", flavour, i))
		}
	}
	if h.hashes, err = ledger.Append(h, 0, entries); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *history) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, x := range indexes {
		out = append(out, h.hashes[x])
	}
	return out, nil
}

func (h *history) at(t testing.TB, size int64) ledger.Checkpoint {
	t.Helper()
	root, err := ledger.Root(h, size)
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Checkpoint{Origin: origin, Size: size, Root: root}
}

func (h *history) sign(t testing.TB, size int64) []byte {
	t.Helper()
	signed, err := ledger.Sign(h.at(t, size), h.log)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (h *history) prove(t testing.TB, old, size int64) []tlog.Hash {
	t.Helper()
	if old == 0 || old == size {
		return nil
	}
	proof, err := ledger.ProveConsistency(h, old, size)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func config(dir string) Config {
	return Config{
		Dir:  dir,
		Name: "witness.example/w",
		Key:  seeded(2),
		Logs: []ledger.LogKey{{Origin: origin, Key: public(1)}},
		Now:  func() time.Time { return testTime },
	}
}

var policy = &ledger.Policy{
	Log:       ledger.LogKey{Origin: origin, Key: public(1)},
	Witnesses: []ledger.WitnessKey{{Name: "witness.example/w", Key: public(2)}},
	Quorum:    1,
}

// start opens a witness on dir and serves it until stop.
func start(t testing.TB, dir string) (w *witness, url string, stop func()) {
	t.Helper()
	w, err := open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w)
	stop = sync.OnceFunc(func() { srv.Close(); w.close() })
	t.Cleanup(stop)
	return w, srv.URL, stop
}

// submit asks for a cosignature and verifies what comes.
func submit(t testing.TB, url string, h *history, old, size int64) (int64, error) {
	t.Helper()
	signed := h.sign(t, size)
	lines, held, err := Submit(t.Context(), http.DefaultClient, url, old, h.prove(t, old, size), signed)
	if err != nil {
		return held, err
	}
	both, err := ledger.AddSignatures(signed, lines)
	if err != nil {
		t.Fatal(err)
	}
	c, err := policy.Verify(both)
	if err != nil {
		t.Fatalf("the witness's answer doesn't verify: %v", err)
	}
	if c.Size != size || !c.Newest().Equal(testTime) {
		t.Fatalf("cosigned %+v", c)
	}
	return 0, nil
}

func TestCosign(t *testing.T) {
	dir := t.TempDir()
	h := newHistory(t, 40, "a", 0)
	_, url, stop := start(t, dir)
	old := int64(0)
	for _, size := range []int64{0, 1, 1, 8, 13, 40} {
		if _, err := submit(t, url, h, old, size); err != nil {
			t.Fatalf("%d to %d: %v", old, size, err)
		}
		old = size
	}
	// What it cosigned last is there for monitors, and after a restart too.
	for range 2 {
		resp, err := http.Get(url + "/" + originHash(origin) + "/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(resp.Body)
		resp.Body.Close()
		if c, err := policy.Verify(b.Bytes()); err != nil || c.Checkpoint != h.at(t, 40) {
			t.Errorf("monitors read %v, %v", c, err)
		}
		stop()
		_, url, stop = start(t, dir)
	}
	if held, err := submit(t, url, h, 13, 40); !errors.Is(err, ErrConflict) || held != 40 {
		t.Errorf("after a restart: %d, %v", held, err)
	}
}

func TestStatus(t *testing.T) {
	w, url, _ := start(t, t.TempDir())
	var seen []error
	w.onError = func(err error) { seen = append(seen, err) }
	h := newHistory(t, 20, "a", 0)
	fork := newHistory(t, 20, "b", 5)
	if _, err := submit(t, url, h, 0, 10); err != nil {
		t.Fatal(err)
	}
	stranger, _ := ledger.NewLogSigner("elsewhere.example", seeded(1))
	unknown, _ := ledger.Sign(ledger.Checkpoint{Origin: "elsewhere.example", Size: 1}, stranger)
	thief, _ := ledger.NewLogSigner(origin, seeded(9))
	stolen, _ := ledger.Sign(h.at(t, 20), thief)
	empty, _ := ledger.Sign(ledger.Checkpoint{Origin: origin, Root: tlog.Hash{1}}, h.log)
	good := h.sign(t, 20)
	proof := h.prove(t, 10, 20)
	flipped := append([]tlog.Hash(nil), proof...)
	flipped[0][0] ^= 1
	broken := bytes.Replace(good, []byte("\n20\n"), []byte("\n19\n"), 1)

	for name, c := range map[string]struct {
		body []byte
		want int
	}{
		"nothing":                   {nil, 400},
		"no old size":               {good, 400},
		"old with a leading zero":   {append([]byte("old 010\n\n"), good...), 400},
		"negative old":              {append([]byte("old -1\n\n"), good...), 400},
		"huge old":                  {append([]byte("old 9223372036854775807\n\n"), good...), 400},
		"old above the checkpoint":  {encodeRequest(21, nil, good), 400},
		"proof line of 31 bytes":    {append([]byte("old 10\nAAAA\n\n"), good...), 400},
		"64 proof lines":            {encodeRequest(10, make([]tlog.Hash, 64), good), 400},
		"checkpoint cut":            {encodeRequest(10, proof, good[:len(good)-1]), 400},
		"extension line":            {encodeRequest(10, proof, bytes.Replace(good, []byte("\n\n"), []byte("\nmore\n\n"), 1)), 400},
		"body too long":             {append(encodeRequest(10, proof, good), make([]byte, maxBody)...), 400},
		"unknown log":               {encodeRequest(0, nil, unknown), 404},
		"another key":               {encodeRequest(10, proof, stolen), 403},
		"signature over other text": {encodeRequest(10, proof, broken), 403},
		"stale old size":            {encodeRequest(5, h.prove(t, 5, 20), good), 409},
		"old size zero":             {encodeRequest(0, nil, good), 409},
		"rollback":                  {encodeRequest(5, nil, h.sign(t, 5)), 409},
		"rollback from the held":    {encodeRequest(10, nil, h.sign(t, 5)), 400},
		"no proof":                  {encodeRequest(10, nil, good), 422},
		"flipped proof":             {encodeRequest(10, flipped, good), 422},
		"proof too long":            {encodeRequest(10, append(proof, tlog.Hash{}), good), 422},
		"fork":                      {encodeRequest(10, fork.prove(t, 10, 20), fork.sign(t, 20)), 422},
		"fork at the same size":     {encodeRequest(10, nil, fork.sign(t, 10)), 422},
		"proof between equal sizes": {encodeRequest(10, proof, h.sign(t, 10)), 422},
		"empty log with a root":     {encodeRequest(0, nil, empty), 422},
	} {
		resp, err := http.Post(url+"/add-checkpoint", "text/plain", bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		b.ReadFrom(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s, want %d (%s)", name, resp.Status, c.want, b.String())
		}
		if c.want == 409 && (b.String() != "10\n" || resp.Header.Get("Content-Type") != "text/x.tlog.size") {
			t.Errorf("%s: %q, %v", name, b.String(), resp.Header)
		}
		if strings.Contains(b.String(), "— ") {
			t.Errorf("%s: a cosignature came with the refusal", name)
		}
	}
	// The fork at one size is evidence by itself.
	convicted := false
	for _, err := range seen {
		var u *Unproven
		if errors.As(err, &u) && (&ledger.Fork{Held: u.Held, Offered: u.Offered}).CheckLog(policy.Log) == nil {
			convicted = true
		}
	}
	if !convicted {
		t.Error("no evidence of the fork at one size was kept")
	}
	// After all of them the witness still holds 10 leaves of the one history.
	if _, err := submit(t, url, h, 10, 20); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/", "/add-checkpoint/", "/checkpoint", "/" + originHash("elsewhere") + "/checkpoint"} {
		if resp, err := http.Get(url + path); err != nil || resp.StatusCode != 404 {
			t.Errorf("%s: %v %v", path, resp.Status, err)
		}
	}
	if resp, err := http.Get(url + "/add-checkpoint"); err != nil || resp.StatusCode != 405 {
		t.Errorf("GET: %v %v", resp.Status, err)
	}
}

// Of many different histories offered at once only one is cosigned.
func TestRace(t *testing.T) {
	_, url, _ := start(t, t.TempDir())
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		h := newHistory(t, 9, fmt.Sprint(i), 0)
		signed := h.sign(t, 9)
		wg.Go(func() {
			_, _, err := Submit(context.Background(), http.DefaultClient, url, 0, nil, signed)
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrConflict):
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d histories were cosigned", won.Load())
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	_, url, stop := start(t, dir)
	if _, err := submit(t, url, newHistory(t, 5, "a", 0), 0, 5); err != nil {
		t.Fatal(err)
	}
	// The directory is this process's alone.
	if w, err := open(config(dir)); err == nil {
		w.close()
		t.Error("two witnesses on one directory")
	}
	w, _, _ := start(t, t.TempDir())
	w.close()
	if _, err := w.add(encodeRequest(0, nil, newHistory(t, 5, "a", 0).sign(t, 5))); err == nil {
		t.Error("cosigned after the directory was let go")
	}
	stop()
	path := filepath.Join(dir, stateIn, originHash(origin))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := open(config(dir)); err == nil {
			w.close()
			t.Fatalf("started from a state with byte %d flipped", i)
		}
	}
	for _, bad := range [][]byte{nil, good[:len(good)/2]} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := open(config(dir)); err == nil {
			w.close()
			t.Fatalf("started from a state of %d bytes", len(bad))
		}
	}
	// The same log twice in the configuration.
	cfg := config(t.TempDir())
	cfg.Logs = append(cfg.Logs, cfg.Logs[0])
	if w, err := open(cfg); err == nil {
		w.close()
		t.Error("one log twice")
	}
}

// A disk that fails must cost the cosignature.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	w, url, _ := start(t, dir)
	var seen error
	w.onError = func(err error) { seen = err }
	if err := os.RemoveAll(filepath.Join(dir, stateIn)); err != nil {
		t.Fatal(err)
	}
	h := newHistory(t, 5, "a", 0)
	if _, err := submit(t, url, h, 0, 5); !errors.Is(err, ErrUnavailable) || seen == nil {
		t.Errorf("got %v, told %v", err, seen)
	}
	if err := os.Mkdir(filepath.Join(dir, stateIn), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := submit(t, url, h, 0, 5); err != nil {
		t.Errorf("once the disk is back: %v", err)
	}
}

func TestKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w")
	key, err := LoadOrCreateKey(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(dir, nil) // draws nothing
	if err != nil || !key.Equal(again) {
		t.Fatalf("another key: %v", err)
	}
	path := filepath.Join(dir, keyFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(dir, rand.Reader); err == nil {
		t.Error("a key that others may read was used")
	}
	for _, bad := range []string{"", "x", "-----BEGIN CHANCERY WITNESS KEY-----\nAAAA\n-----END CHANCERY WITNESS KEY-----\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateKey(dir, rand.Reader); err == nil {
			t.Errorf("damaged key %q was used or replaced", bad)
		}
	}
}

func TestRun(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t.TempDir())
	cfg.Listener = l
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	if _, err := submit(t, "http://"+l.Addr().String(), newHistory(t, 3, "a", 0), 0, 3); err != nil {
		t.Error(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("doesn't end")
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("still listening")
	}
	// The directory is free again.
	w, err := open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.close()
}

// Submit believes no answer that isn't one.
func TestSubmitAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"conflict without type": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(409); fmt.Fprintln(w, 5) }, ErrUnavailable},
		"conflict without size": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", sizeType)
			w.WriteHeader(409)
			fmt.Fprintln(w, "many")
		}, ErrUnavailable},
		"refusal with control characters": {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "\x1b[2Jno", http.StatusForbidden) }, ErrRefused},
		"failure":                         {func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) }, ErrUnavailable},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, ErrUnavailable},
	} {
		srv := httptest.NewServer(c.handler)
		_, held, err := Submit(t.Context(), http.DefaultClient, srv.URL+"/", 0, nil, []byte("x"))
		if !errors.Is(err, c.want) || held != 0 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %d, %q", name, held, err)
		}
		srv.Close()
		if _, _, err := Submit(t.Context(), http.DefaultClient, srv.URL, 0, nil, nil); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s, gone: %v", name, err)
		}
	}
}

func TestVectorsWitness(t *testing.T) {
	data, err := os.ReadFile(testenv.Data(t, "vectors", "tlog", "tlog-witness.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "Example request body:\n\n")
	var body strings.Builder
	for line := range strings.Lines(rest) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "    ") {
			break
		}
		body.WriteString(strings.TrimPrefix(line, "    "))
	}
	text := strings.TrimSuffix(body.String(), "\n")
	req, err := parseRequest([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if req.old != 20852014 || len(req.proof) != 4 || req.checkpoint.Size != 20852163 {
		t.Errorf("read %+v", req)
	}
	if string(encodeRequest(req.old, req.proof, req.signed)) != text {
		t.Error("written otherwise than the specification's example")
	}
	t.Log("vectors tlog-witness.md 1/1")
}

func FuzzRequest(f *testing.F) {
	h := newHistory(f, 20, "a", 0)
	f.Add(encodeRequest(0, nil, h.sign(f, 20)))
	f.Add(encodeRequest(10, h.prove(f, 10, 20), h.sign(f, 20)))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseRequest(body)
		if err == nil && !bytes.Equal(encodeRequest(req.old, req.proof, req.signed), body) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func BenchmarkCosign(b *testing.B) {
	w, _, _ := start(b, b.TempDir())
	h := newHistory(b, 5, "a", 0)
	body := encodeRequest(0, nil, h.sign(b, 5))
	if _, err := w.add(body); err != nil {
		b.Fatal(err)
	}
	body = encodeRequest(5, nil, h.sign(b, 5))
	for b.Loop() {
		if _, err := w.add(body); err != nil {
			b.Fatal(err)
		}
	}
}
