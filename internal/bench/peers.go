package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// peerPrograms are the arguments of the program in bench/peers.
var peerPrograms = []string{"mls-go", "ts-mls"}

// Peer is another implementation of MLS, in a process of its own.
type Peer struct {
	name   string // with its version
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Reader
	said   *bytes.Buffer // on stderr
}

// StartPeers builds the module in dir, which is bench/peers of a checkout, and
// starts it for each peer. That needs Go and, for ts-mls, Node with npm; what is
// missing is fetched from their registries. It returns the peers that run, and
// why others don't. The caller closes them.
func StartPeers(ctx context.Context, dir string) ([]*Peer, error) {
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return nil, fmt.Errorf("couldn't find the peers: %w", err)
	}
	work, err := os.MkdirTemp("", "chancery-peers-")
	if err != nil {
		return nil, fmt.Errorf("couldn't make a folder: %w", err)
	}
	defer os.RemoveAll(work) // a program that runs needs its file no more
	program := filepath.Join(work, "peers")
	build := exec.CommandContext(ctx, "go", "build", "-C", dir, "-o", program, ".")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("couldn't build the peers: %w: %s", err, bytes.TrimSpace(out))
	}
	var peers []*Peer
	var failed error
	for _, name := range peerPrograms {
		p, err := startPeer(ctx, program, name)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("couldn't start %s: %w", name, err))
			continue
		}
		peers = append(peers, p)
	}
	return peers, failed
}

func startPeer(ctx context.Context, program, name string) (*Peer, error) {
	p := &Peer{cmd: exec.CommandContext(ctx, program, name), said: new(bytes.Buffer)}
	p.cmd.Stderr = p.said
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.output = bufio.NewReader(output)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var hello struct{ Name string }
	if err := p.call("name", 0, &hello); err != nil {
		p.Close()
		if p.said.Len() > 0 {
			err = errors.New(string(bytes.TrimSpace(p.said.Bytes())))
		}
		return nil, err
	}
	p.name = hello.Name
	return p, nil
}

// Close ends the program.
func (p *Peer) Close() error {
	return errors.Join(p.input.Close(), p.cmd.Wait())
}

func (p *Peer) do(op string, n int) (sample, error) {
	var s sample
	if err := p.call(op, n, &s); err != nil {
		return sample{}, fmt.Errorf("%s: %w", p.name, err)
	}
	return s, nil
}

// call has the program do something; the answer is read into v.
func (p *Peer) call(op string, n int, v any) error {
	line, err := json.Marshal(struct {
		Op string `json:"op"`
		N  int    `json:"n"`
	}{op, n})
	if err != nil {
		return err
	}
	if _, err := p.input.Write(append(line, '\n')); err != nil {
		return err
	}
	if line, err = p.output.ReadBytes('\n'); err != nil {
		return err
	}
	var refused struct{ Error string }
	if err := json.Unmarshal(line, &refused); err != nil {
		return err
	}
	if refused.Error != "" {
		return errors.New(refused.Error)
	}
	return json.Unmarshal(line, v)
}
