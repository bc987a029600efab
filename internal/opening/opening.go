// Package opening is the requester's side of an opening: it starts the opener
// in a process of its own, signs for its key, and afterwards turns the sealed
// production into an export and an evidence pack.
//
// The requester's key never reaches the opener, and the opener's never leaves
// its process.
package opening

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/opener"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/pack"
	"chancery/request"
)

// maxLine bounds a line that the opener says, in bytes.
const maxLine = 4 << 20

// Config says which opener to start and for what.
type Config struct {
	Command   []string // the program and its arguments
	Server    string   // URL
	Request   codec.Hash
	Details   *request.Details
	Key       ssh.Signer // the requester's
	Replica   *replica.Replica
	Endpoints struct{ Keyholders, Guards []wire.Endpoint } // empty: those that the server names
	// Check is asked before the requester signs for the opener; nil signs.
	Check    func(s *control.Opener) error
	Progress func(step string, done, total int) // may be nil
}

// Failed is what the opener said went wrong, and what to do.
type Failed struct{ Reason, Hint string }

// Error implements error.
func (f *Failed) Error() string { return f.Reason }

// Run starts an opener and sees it through. It returns a *Failed where the
// opener says why it could not open.
func Run(ctx context.Context, c Config) (*opener.Result, error) {
	start, err := c.start()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &limited{w: &stderr, left: 4096}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("couldn't start the opener: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("couldn't start the opener: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("couldn't start the opener: %w", err)
	}
	d := &dialogue{Config: c, in: json.NewEncoder(in), out: bufio.NewScanner(out)}
	d.out.Buffer(nil, maxLine)
	result, err := d.talk(start)
	if err != nil {
		cancel() // whatever it still does, nobody would hear of it
	}
	in.Close()
	if wait := cmd.Wait(); err == nil && wait != nil {
		err = fmt.Errorf("the opener ended badly: %w: %s", wait, strings.TrimSpace(stderr.String()))
	}
	return result, err
}

func (c *Config) start() (*opener.Start, error) {
	s := &opener.Start{
		Type: opener.LineStart, Organisation: c.Replica.Organisation(), Server: c.Server, Request: c.Request,
		Details: c.Details.Encode(),
	}
	for _, e := range c.Endpoints.Keyholders {
		s.Keyholders = append(s.Keyholders, opener.Endpoint{Name: e.Name, URL: e.URL})
	}
	for _, e := range c.Endpoints.Guards {
		s.Guards = append(s.Guards, opener.Endpoint{Name: e.Name, URL: e.URL})
	}
	// The opener needs what opens the leaves of this matter and request, and
	// should learn of no other.
	var want []int64
	c.Replica.Read(func(st *control.State) {
		if r, ok := st.Request(c.Request); ok {
			want = append(want, r.Since)
			if i, ok := st.MatterIndex(r.Matter); ok {
				want = append(want, i)
			}
		}
	})
	if len(want) < 2 {
		return nil, fmt.Errorf("request %s is not on the witnessed log", c.Request.Short())
	}
	_, openings := c.Replica.Entries()
	for _, i := range want {
		o, ok := openings[i]
		if !ok {
			return nil, fmt.Errorf("the opening of control leaf %d is not at hand", i)
		}
		s.Openings = append(s.Openings, codec.Encode(&wire.Opening{Index: i, Opening: *o}))
	}
	return s, nil
}

type dialogue struct {
	Config
	in  *json.Encoder
	out *bufio.Scanner
}

func (d *dialogue) talk(start *opener.Start) (*opener.Result, error) {
	if err := d.in.Encode(start); err != nil {
		return nil, fmt.Errorf("couldn't tell the opener what to open: %w", err)
	}
	for d.out.Scan() {
		var head struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(d.out.Bytes(), &head); err != nil {
			return nil, fmt.Errorf("the opener said something that is no line of JSON: %w", err)
		}
		switch head.Type {
		case opener.LineProgress:
			var p opener.Progress
			if err := json.Unmarshal(d.out.Bytes(), &p); err == nil && d.Progress != nil {
				d.Progress(p.Step, p.Done, p.Total)
			}
		case opener.LineSign:
			if err := d.sign(d.out.Bytes()); err != nil {
				return nil, err
			}
		case opener.LineResult:
			var o opener.Outcome
			if err := json.Unmarshal(d.out.Bytes(), &o); err != nil {
				return nil, fmt.Errorf("couldn't read the opener's result: %w", err)
			}
			return &o.Result, nil
		case opener.LineError:
			var f opener.Failure
			if err := json.Unmarshal(d.out.Bytes(), &f); err != nil {
				return nil, fmt.Errorf("couldn't read the opener's error: %w", err)
			}
			return nil, &Failed{Reason: f.Error, Hint: f.Hint}
		}
	}
	return nil, errors.Join(errors.New("the opener ended without a result"), d.out.Err())
}

// sign vouches for the opener's key, once it is sure that it signs an opener of
// its own request and nothing else.
func (d *dialogue) sign(line []byte) error {
	var ask opener.Sign
	if err := json.Unmarshal(line, &ask); err != nil {
		return fmt.Errorf("couldn't read what the opener asks to sign: %w", err)
	}
	statement, err := control.ParseStatement(ask.Statement)
	if err != nil {
		return err
	}
	var body control.Opener
	if statement.Organisation != d.Replica.Organisation() || statement.Kind != control.KindOpener {
		return errors.New("the opener asked for a signature on something else than its own key")
	}
	if err := codec.Decode(statement.Body, &body); err != nil {
		return fmt.Errorf("the opener's statement: %w", err)
	}
	if body.Request != d.Request {
		return errors.New("the opener asked for a signature for another request")
	}
	if d.Check != nil {
		if err := d.Check(&body); err != nil {
			return err
		}
	}
	signature, err := control.SignSSH(d.Key, statement)
	if err != nil {
		return err
	}
	return d.in.Encode(&opener.Signature{Type: opener.LineSignature, Signature: codec.Encode(&signature)})
}

// limited keeps the first bytes of what a program says.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Productions is where sealed productions are kept.
type Productions interface {
	Production(ctx context.Context, request codec.Hash) ([]byte, error)
}

// Unseal opens a request's production with the recipient's key and returns the
// export's JSON lines, the evidence pack and the production's hash. The replica
// must have replayed the opener's last statement.
func Unseal(ctx context.Context, from Productions, r *replica.Replica, h codec.Hash, key hpke.PrivateKey) (export, evidence []byte, production codec.Hash, err error) {
	sealed, err := from.Production(ctx, h)
	if err != nil {
		return nil, nil, production, fmt.Errorf("couldn't fetch the production: %w", err)
	}
	production = pack.ProductionHash(sealed)
	if err := named(r, h, production); err != nil {
		return nil, nil, production, err
	}
	export, body, err := pack.OpenProduction(key, sealed)
	if err != nil {
		return nil, nil, production, err
	}
	b, err := pack.ParseBody(body)
	if err != nil {
		return nil, nil, production, err
	}
	entries, _ := r.Entries()
	checkpoint := r.Checkpoint()
	if len(entries) < len(b.Control) || checkpoint == nil || checkpoint.Size != int64(len(entries)) {
		return nil, nil, production, errors.New("the log is replayed to less than the pack")
	}
	trimmed, err := r.Trim(checkpoint.Note)
	if err != nil {
		return nil, nil, production, err
	}
	evidence, err = pack.Assemble(body, &pack.Tail{Control: entries[len(b.Control):], Checkpoint: trimmed})
	return export, evidence, production, err
}

// named makes sure that the production is the one that the opener's last
// statement names: the server keeps it, and could keep another.
func named(r *replica.Replica, h, production codec.Hash) error {
	err := fmt.Errorf("request %s has not been opened, as far as the witnessed log goes", h.Short())
	r.Read(func(st *control.State) {
		request, ok := st.Request(h)
		if !ok || request.Opening == nil {
			return
		}
		err = nil
		if request.Opening.Production != production {
			err = errors.New("the production is another than the opener's last statement names")
		}
	})
	return err
}
