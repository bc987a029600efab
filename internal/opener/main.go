package opener

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/httpsig"
	"chancery/internal/wire"
	"chancery/request"
)

// Types of the lines that an opener and whoever started it say to each other,
// each one JSON object (spec/opening.md#the-opener).
const (
	LineStart     = "start"     // to the opener, first: Start
	LineSign      = "sign"      // from it: Sign, to be answered by a signature
	LineSignature = "signature" // to it: Signature
	LineProgress  = "progress"  // from it: Progress, any number
	LineResult    = "result"    // from it, last: Result
	LineError     = "error"     // from it, last: Failure
)

// Start tells an opener what to open. Bytes are in base64, as encoding/json has
// them.
type Start struct {
	Type         string     `json:"type"`
	Organisation codec.Hash `json:"organisation"`
	Server       string     `json:"server"` // URL
	Request      codec.Hash `json:"request"`
	Details      []byte     `json:"details"`              // encoded request.Details
	Openings     [][]byte   `json:"openings"`             // encoded wire.Openings of the matter's and the request's leaves
	Keyholders   []Endpoint `json:"keyholders"`           // empty: those that the server names
	Guards       []Endpoint `json:"guards"`               // likewise
	Production   string     `json:"production,omitempty"` // a file for the sealed production, besides the server
}

// Endpoint is where a holder is reached.
type Endpoint struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Sign asks for the requester's SSH signature on the opener's statement.
type Sign struct {
	Type      string     `json:"type"`
	Statement []byte     `json:"statement"` // encoded control.Statement
	Hash      codec.Hash `json:"hash"`
	Text      string     `json:"text"` // what ssh-keygen -Y sign -n control@chancery signs
}

// Signature answers a Sign.
type Signature struct {
	Type      string `json:"type"`
	Signature []byte `json:"signature"` // encoded control.Signature
}

// Progress says how far the opener is.
type Progress struct {
	Type  string `json:"type"`
	Step  string `json:"step"`
	Done  int    `json:"done"`
	Total int    `json:"total"` // 0 where it isn't known
}

// Outcome is the last line of an opening that went well.
type Outcome struct {
	Type string `json:"type"`
	Result
}

// Failure is the last line of one that didn't.
type Failure struct {
	Type  string `json:"type"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// maxLine bounds a line in bytes.
const maxLine = 4 << 20

// Main is the opener as a program: it reads a Start from stdin and talks in lines
// of JSON until it says LineResult and returns 0, or LineError and returns 1. It
// takes no arguments, so that nothing of a request shows in a list of processes,
// and ends when stdin does, so that no opener outlives who asked for it.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		fmt.Fprintln(stderr, "chancery-opener: takes no arguments: it reads what to open from standard input, a line of JSON")
		fmt.Fprintln(stderr, "hint: run `chancery open`, which starts it and talks to it")
		return 2
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dialogue{in: bufio.NewScanner(stdin), out: json.NewEncoder(stdout)}
	d.in.Buffer(nil, maxLine)
	result, err := d.run(ctx, cancel)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && cause != nil {
			err = cause
		}
		d.say(&Failure{Type: LineError, Error: err.Error(), Hint: hint(err)})
		return 1
	}
	d.say(&Outcome{Type: LineResult, Result: *result})
	return 0
}

type dialogue struct {
	in *bufio.Scanner

	mu  sync.Mutex // guards out
	out *json.Encoder
}

// say writes a line. Where nobody reads any more, stdin ends as well.
func (d *dialogue) say(line any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.out.Encode(line)
}

var errEnd = errors.New("standard input has ended: whoever asked for the opening is gone")

func (d *dialogue) hear(kind string, into any) error {
	if !d.in.Scan() {
		return errors.Join(errEnd, d.in.Err())
	}
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(d.in.Bytes(), &head); err != nil || head.Type != kind {
		return fmt.Errorf("expected a line of JSON of type %q", kind)
	}
	if err := json.Unmarshal(d.in.Bytes(), into); err != nil {
		return fmt.Errorf("couldn't read the line of type %q: %w", kind, err)
	}
	return nil
}

func (d *dialogue) run(ctx context.Context, cancel context.CancelCauseFunc) (*Result, error) {
	var start Start
	if err := d.hear(LineStart, &start); err != nil {
		return nil, err
	}
	cfg, err := start.config()
	if err != nil {
		return nil, err
	}
	cfg.Progress = func(step string, done, total int) {
		d.say(&Progress{Type: LineProgress, Step: step, Done: done, Total: total})
	}
	cfg.Requester = func(ctx context.Context, s *control.Statement) (control.Signature, error) {
		d.say(&Sign{Type: LineSign, Statement: codec.Encode(s), Hash: s.Hash(), Text: string(s.SigningText())})
		var answer Signature
		if err := d.hear(LineSignature, &answer); err != nil {
			return control.Signature{}, err
		}
		var out control.Signature
		if err := codec.Decode(answer.Signature, &out); err != nil {
			return control.Signature{}, fmt.Errorf("couldn't read the requester's signature: %w", err)
		}
		go func() {
			for d.in.Scan() { // nothing more is expected, but its end
			}
			cancel(errEnd)
		}()
		return out, nil
	}
	return Run(ctx, *cfg)
}

func (s *Start) config() (*Config, error) {
	details, err := request.ParseDetails(s.Details)
	if err != nil {
		return nil, err
	}
	cfg := &Config{Organisation: s.Organisation, Request: s.Request, Details: details}
	for _, raw := range s.Openings {
		var o wire.Opening
		if err := codec.Decode(raw, &o); err != nil {
			return nil, fmt.Errorf("couldn't read an opening: %w", err)
		}
		cfg.Openings = append(cfg.Openings, o)
	}
	cfg.Connect = s.connect
	if s.Production != "" {
		cfg.Keep = func(production []byte) error { return keep(s.Production, production) }
	}
	return cfg, nil
}

// connect reaches server and holders as the opener's key. The server may lie
// about where holders are: they sign their answers with the keys of the genesis
// leaf, and seal them to the opener.
func (s *Start) connect(key codec.Signer) (*Peers, error) {
	hc := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	auth := httpsig.Ed25519(key)
	server := remote.New(s.Server, hc, auth)
	keyholders, guards := s.Keyholders, s.Guards
	if len(keyholders) == 0 || len(guards) == 0 {
		org, err := server.Organisation(context.Background())
		if err != nil {
			return nil, fmt.Errorf("couldn't ask the server where the holders are: %w", err)
		}
		if len(keyholders) == 0 {
			keyholders = endpoints(org.Keyholders)
		}
		if len(guards) == 0 {
			guards = endpoints(org.Guards)
		}
	}
	reach := func(list []Endpoint) map[string]Holder {
		out := make(map[string]Holder, len(list))
		for _, e := range list {
			out[e.Name] = holder{remote.NewHolder(e.URL, hc, auth)}
		}
		return out
	}
	return &Peers{Server: server, Keyholders: reach(keyholders), Guards: reach(guards)}, nil
}

func endpoints(list []wire.Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range list {
		out = append(out, Endpoint{Name: e.Name, URL: e.URL})
	}
	return out
}

var (
	_ Server = (*remote.Client)(nil)
	_ Holder = holder{}
)

type holder struct{ *remote.Holder }

func (h holder) Query(ctx context.Context, query []byte) ([]byte, error) {
	answer, err := h.Holder.Query(ctx, query)
	var refused *remote.Refused
	if errors.As(err, &refused) {
		return nil, &Refused{Raw: refused.Refusal}
	}
	return answer, err
}

// keep writes the sealed production whole or not at all.
func keep(path string, production []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".production-*")
	if err != nil {
		return fmt.Errorf("couldn't write the production: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(production); err != nil {
		return fmt.Errorf("couldn't write the production: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("couldn't write the production: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("couldn't write the production: %w", err)
	}
	return nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, request.ErrApprovals):
		return "have more approvers decide: `chancery approve`"
	case errors.Is(err, request.ErrExpired), errors.Is(err, request.ErrWithdrawn), errors.Is(err, request.ErrRefused):
		return "make a new request: `chancery request`"
	case errors.Is(err, ErrCount):
		return "make a request of fewer days, custodians or terms, or of a greater count"
	case errors.Is(err, ErrQuorum), errors.Is(err, ErrGuard):
		return "make sure that enough keyholders and a guard run and have caught up with the log"
	case errors.Is(err, ErrWithheld):
		return "keep the server's data: what it left out or changed is evidence"
	}
	return ""
}
