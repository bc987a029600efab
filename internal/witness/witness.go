// Package witness cosigns checkpoints over HTTP as C2SP tlog-witness says
// (spec/ledger.md#witnesses): it holds, for each log that it's configured
// with, the largest checkpoint that it has cosigned, and cosigns only what
// extends it. A log that shows two people different histories needs its
// witnesses to help.
//
// In its directory lie witness.key (mode 0600), lock, and logs/<SHA-256 of the
// origin>: the last cosigned checkpoint, written durably before the
// cosignature leaves. The directory is trusted: whoever restores an old copy
// of it can make the witness cosign a second history from there on, and
// whoever deletes a file, from the start. The key therefore moves to another
// machine only together with the files.
//
// It sees origins, sizes and roots, never an entry.
package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/internal/dirlock"
	"chancery/ledger"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// maxBody is the greatest length of an add-checkpoint request in bytes:
	// the old size, 63 proof lines and a checkpoint.
	maxBody = 64*64 + ledger.MaxNote

	sizeType = "text/x.tlog.size"
	noteType = "text/plain; charset=utf-8"

	readTimeout     = 10 * time.Second
	writeTimeout    = 20 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeader       = 16 << 10
)

// Config says what a witness is.
type Config struct {
	// Listener takes the requests. Run closes it.
	Listener net.Listener
	// Dir is the witness's directory, created where missing.
	Dir string
	// Name is the witness's key name, such as "witness.example/w1".
	Name string
	// Key signs. No other witness may have it: cosignature/v1 does not sign
	// the name.
	Key ed25519.PrivateKey
	// Logs are the logs to cosign, each origin once.
	Logs []ledger.LogKey
	// Now is the clock that cosignatures are stamped with.
	Now func() time.Time
	// OnError, where not nil, is told of errors that the client only learns of
	// as internal, and by an *Unproven of checkpoints that don't follow from
	// the last. It may be called from several goroutines at once, and the log
	// in question waits for it.
	OnError func(error)
}

// Unproven is what OnError is told when a log's signed checkpoint came without
// proof that it follows from the one cosigned last. Where the sizes are equal
// the two notes convict the log (ledger.Fork.CheckLog); otherwise the proof may
// just have been wrong.
type Unproven struct {
	Held    []byte
	Offered []byte
}

func (e *Unproven) Error() string {
	return "a signed checkpoint came without proof that it extends the one cosigned before"
}

// Run serves until ctx ends, then lets running requests finish for up to five
// seconds. It returns nil after an orderly end, and refuses to start where the
// directory is in use or a file in it is damaged: a witness that forgot would
// cosign a second history.
func Run(ctx context.Context, cfg Config) error {
	defer cfg.Listener.Close()
	w, err := open(cfg)
	if err != nil {
		return err
	}
	defer w.close()
	srv := &http.Server{
		Handler:        w,
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(cfg.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("couldn't serve: %w", err)
	case <-ctx.Done():
	}
	// ctx has ended, so the requests get a time of their own.
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		srv.Close()
	}
	<-served
	return nil
}

type witness struct {
	name    string
	key     ledger.WitnessKey
	signer  note.Signer
	dir     string // the states'
	lock    *os.File
	onError func(error)
	logs    map[string]*state // by origin; the map doesn't change
	reached func(step string) // testOnly: told of each step of a request
}

// state is what the witness holds of one log.
type state struct {
	key  ledger.LogKey
	path string

	mu     sync.Mutex // held from comparing to writing, so that nothing comes between
	size   int64
	root   tlog.Hash
	signed []byte // nil before the first cosignature
	closed bool   // the directory may be another process's
}

func open(cfg Config) (*witness, error) {
	signer, err := ledger.NewWitnessSigner(cfg.Name, cfg.Key, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("couldn't use the witness key: %w", err)
	}
	w := &witness{
		name:    cfg.Name,
		signer:  signer,
		dir:     filepath.Join(cfg.Dir, stateIn),
		onError: cfg.OnError,
		logs:    make(map[string]*state),
		reached: func(string) {},
	}
	copy(w.key.Key[:], cfg.Key.Public().(ed25519.PublicKey))
	w.key.Name = cfg.Name
	if w.onError == nil {
		w.onError = func(error) {}
	}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't create witness directory: %w", err)
	}
	if w.lock, err = dirlock.Acquire(cfg.Dir); err != nil {
		return nil, err
	}
	if err := w.load(cfg.Logs); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *witness) load(logs []ledger.LogKey) error {
	if err := removeLeftovers(w.dir); err != nil {
		return fmt.Errorf("couldn't remove leftovers: %w", err)
	}
	for _, key := range logs {
		if w.logs[key.Origin] != nil {
			return fmt.Errorf("log %.120q is configured twice", key.Origin)
		}
		s := &state{key: key, path: filepath.Join(w.dir, originHash(key.Origin)), root: ledger.EmptyRoot()}
		signed, err := os.ReadFile(s.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("couldn't read what was cosigned of %.120q: %w", key.Origin, err)
		default:
			// Both signatures are checked, so that a damaged file is noticed
			// and not continued from.
			policy := ledger.Policy{Log: key, Witnesses: []ledger.WitnessKey{w.key}, Quorum: 1}
			c, err := policy.Verify(signed)
			if err != nil {
				return fmt.Errorf("what was cosigned of %.120q is damaged or of another key (%s): %w", key.Origin, s.path, err)
			}
			s.size, s.root, s.signed = c.Size, c.Root, signed
		}
		w.logs[key.Origin] = s
	}
	return nil
}

// close waits for requests that are being answered, turns later ones away and
// only then lets another process have the directory: what it would load must
// not change under it.
func (w *witness) close() {
	for _, s := range w.logs {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	w.lock.Close()
}

// ServeHTTP answers POST /add-checkpoint and GET /<origin hash>/checkpoint.
func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/add-checkpoint" {
		if r.Method != http.MethodPost {
			rw.Header().Set("Allow", http.MethodPost)
			http.Error(rw, "only POST", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxBody))
		if err != nil {
			http.Error(rw, fmt.Sprintf("couldn't read a request of at most %d bytes", maxBody), http.StatusBadRequest)
			return
		}
		w.answer(rw, body)
		return
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if rest != "checkpoint" {
		http.Error(rw, "not found", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		rw.Header().Set("Allow", "GET, HEAD")
		http.Error(rw, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	w.monitor(rw, id)
}

// monitor serves what was cosigned last, so that others can compare.
func (w *witness) monitor(rw http.ResponseWriter, id string) {
	for origin, s := range w.logs {
		if originHash(origin) != id {
			continue
		}
		s.mu.Lock()
		signed := s.signed
		s.mu.Unlock()
		if signed == nil {
			break
		}
		rw.Header().Set("Content-Type", noteType)
		rw.Header().Set("Cache-Control", "no-cache")
		rw.Write(signed) // an error here is the client's having gone
		return
	}
	http.Error(rw, "no checkpoint of that log was cosigned", http.StatusNotFound)
}

// refusal is an answer other than 200.
type refusal struct {
	status int
	text   string
	size   int64 // of a 409
}

func (e *refusal) Error() string { return e.text }

func (w *witness) answer(rw http.ResponseWriter, body []byte) {
	lines, err := w.add(body)
	var no *refusal
	switch {
	case errors.As(err, &no) && no.status == http.StatusConflict:
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(no.status)
		fmt.Fprintf(rw, "%d\n", no.size)
	case errors.As(err, &no):
		http.Error(rw, no.text, no.status)
	case err != nil:
		w.onError(err)
		http.Error(rw, "internal error", http.StatusInternalServerError)
	default:
		rw.Header().Set("Content-Type", noteType)
		rw.Write(lines) // lost if the client has gone: it asks again
	}
}

// add checks one request, in the order of C2SP tlog-witness, and returns the
// cosignature line.
func (w *witness) add(body []byte) ([]byte, error) {
	req, err := parseRequest(body)
	if err != nil {
		return nil, &refusal{status: http.StatusBadRequest, text: err.Error()}
	}
	s := w.logs[req.checkpoint.Origin]
	if s == nil {
		return nil, &refusal{status: http.StatusNotFound, text: "unknown log"}
	}
	c, err := ledger.OpenUnwitnessed(s.key, req.signed)
	switch {
	case errors.Is(err, ledger.ErrLogSignature):
		return nil, &refusal{status: http.StatusForbidden, text: err.Error()}
	case err != nil && req.checkpoint.Size == 0 && req.checkpoint.Root != ledger.EmptyRoot():
		return nil, &refusal{status: http.StatusUnprocessableEntity, text: "an empty log has the empty root"}
	case err != nil:
		return nil, &refusal{status: http.StatusBadRequest, text: err.Error()}
	}
	if req.old > c.Size {
		return nil, &refusal{status: http.StatusBadRequest, text: "old size above the checkpoint's"}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("couldn't cosign: the witness has ended")
	}
	if req.old != s.size {
		return nil, &refusal{status: http.StatusConflict, text: "old size is not the last cosigned", size: s.size}
	}
	if err := s.extends(c, req.proof); err != nil {
		if s.signed != nil {
			w.onError(&Unproven{Held: s.signed, Offered: req.signed})
		}
		return nil, &refusal{status: http.StatusUnprocessableEntity, text: err.Error()}
	}
	// Signing again, and not just appending, drops whatever lines of others
	// the request carried.
	lines, kept, err := w.cosign(s.key, req.signed, c)
	if err != nil {
		return nil, err
	}
	w.reached("cosigned")
	// Before the cosignature leaves: after a crash the witness must know what
	// it said.
	if err := writeDurably(s.path, kept, w.reached); err != nil {
		return nil, fmt.Errorf("couldn't keep a checkpoint of %s: %w", c.Origin, err)
	}
	s.size, s.root, s.signed = c.Size, c.Root, kept
	w.reached("kept")
	return lines, nil
}

// extends says whether c follows from what was cosigned last.
func (s *state) extends(c ledger.Checkpoint, proof []tlog.Hash) error {
	switch {
	case s.size == 0 || s.size == c.Size:
		if len(proof) != 0 {
			return errors.New("a proof where none is due")
		}
		if s.size == c.Size && s.root != c.Root {
			return errors.New("another root at the size last cosigned")
		}
		return nil
	default:
		return ledger.CheckConsistency(proof, s.size, s.root, c.Size, c.Root)
	}
}

// cosign returns the cosignature line, and the note with the log's signature
// and that line alone.
func (w *witness) cosign(log ledger.LogKey, signed []byte, c ledger.Checkpoint) (line, kept []byte, err error) {
	n, err := note.Open(signed, note.VerifierList(log.Verifier()))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't open a note that verified: %w", err)
	}
	n.UnverifiedSigs = nil
	own, err := ledger.Sign(c, w.signer)
	if err != nil {
		return nil, nil, err
	}
	line = own[len(c.Marshal())+1:]
	alone, err := note.Sign(n)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't write a note: %w", err)
	}
	if kept, err = ledger.AddSignatures(alone, line); err != nil {
		return nil, nil, err
	}
	return line, kept, nil
}

type request struct {
	old        int64
	proof      []tlog.Hash
	signed     []byte
	checkpoint ledger.Checkpoint // as it reads, not verified
}

// parseRequest reads an add-checkpoint body (C2SP tlog-witness,
// "add-checkpoint").
func parseRequest(body []byte) (request, error) {
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok || len(body) > maxBody {
		return request{}, fmt.Errorf("want an old size, proof lines, an empty line and a checkpoint: %w", ledger.ErrMalformed)
	}
	lines := strings.Split(string(head), "\n")
	decimal, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return request{}, fmt.Errorf("want an old size first: %w", ledger.ErrMalformed)
	}
	old, err := ledger.ParseSize(decimal)
	if err != nil {
		return request{}, fmt.Errorf("old size: %w", err)
	}
	proof, err := ledger.ParseHashes(lines[1:])
	if err != nil {
		return request{}, fmt.Errorf("consistency proof: %w", err)
	}
	c, err := ledger.PeekUnverifiedCheckpoint(signed)
	if err != nil {
		return request{}, err
	}
	return request{old: old, proof: proof, signed: signed, checkpoint: c}, nil
}

// encodeRequest writes what parseRequest reads.
func encodeRequest(old int64, proof []tlog.Hash, signed []byte) []byte {
	b := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", h)
	}
	b = append(b, '\n')
	return append(b, signed...)
}

var (
	// ErrConflict means that the witness's last size is another than the
	// request's old size: the size that Submit returns is the one to prove
	// from.
	ErrConflict = errors.New("witness holds another size")
	// ErrRefused means that the witness refused for good: it doesn't know the
	// log, or what it was sent doesn't verify or follow. The same request will
	// be refused again.
	ErrRefused = errors.New("witness refused")
	// ErrUnavailable means that the witness couldn't be reached or failed.
	ErrUnavailable = errors.New("witness unavailable")
)

// maxAnswer bounds a witness's answer in bytes: lines of a few keys.
const maxAnswer = 32 << 10

// Submit asks the witness at url, its submission prefix, to cosign a signed
// checkpoint with a consistency proof from old leaves. It returns the
// witness's signature lines, which ledger.AddSignatures appends and
// ledger.Policy verifies; nothing here does. With ErrConflict it returns the
// size that the witness holds, otherwise that is zero. Other errors are
// ErrRefused and ErrUnavailable, all wrapped.
func Submit(ctx context.Context, client *http.Client, url string, old int64, proof []tlog.Hash, signed []byte) (lines []byte, held int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+"/add-checkpoint",
		bytes.NewReader(encodeRequest(old, proof, signed)))
	if err != nil {
		return nil, 0, fmt.Errorf("couldn't ask witness %s: %w", url, err)
	}
	req.Header.Set("Content-Type", noteType)
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("couldn't ask witness: %w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(body) > maxAnswer {
		return nil, 0, fmt.Errorf("couldn't read the answer of witness %s: %w", url, ErrUnavailable)
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return body, 0, nil
	case resp.StatusCode == http.StatusConflict:
		kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		decimal, ok := strings.CutSuffix(string(body), "\n")
		held, err := ledger.ParseSize(decimal)
		if kind != sizeType || !ok || err != nil {
			return nil, 0, fmt.Errorf("witness %s answered a conflict without its size: %w", url, ErrUnavailable)
		}
		return nil, held, fmt.Errorf("witness %s holds %d leaves, not %d: %w", url, held, old, ErrConflict)
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return nil, 0, fmt.Errorf("witness %s: %s: %.200s: %w", url, strconv.Itoa(resp.StatusCode), firstLine(body), ErrRefused)
	default:
		return nil, 0, fmt.Errorf("witness %s: %s: %w", url, resp.Status, ErrUnavailable)
	}
}

// firstLine keeps a stranger's text from filling a log or steering a terminal.
func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b), "\n")
	return strconv.QuoteToASCII(line)
}
