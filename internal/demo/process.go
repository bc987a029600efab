package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// stopTime is how long a program may take to stop by itself.
const stopTime = 10 * time.Second

// fleet starts this very binary in its roles. A program stops when its standard
// input ends, so that none outlives the demo, however that dies.
type fleet struct {
	binary string
	env    []string
	logs   string // folder of the programs' standard error
}

// program is one running role.
type program struct {
	name     string
	address  string   // where it listens, over restarts too
	listener *os.File // open until the program has it
	args     []string
	fleet    *fleet

	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	log    *os.File
	done   chan struct{}
	mu     sync.Mutex // guards err
	err    error
}

// ErrProgram means that a program of the demo ended when it should not have.
var ErrProgram = errors.New("a program ended too early")

// reserve opens a loopback listener for a role that is launched later, so that
// the others can be told its URL first.
func (f *fleet) reserve(name string) (*program, string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", fmt.Errorf("couldn't listen on loopback: %w", err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, "", fmt.Errorf("couldn't hand over the listener: %w", err)
	}
	return &program{name: name, address: l.Addr().String(), listener: file, fleet: f}, "http://" + l.Addr().String(), nil
}

// launch starts a reserved role.
func (p *program) launch(args ...string) error {
	p.args = append(args, "--listen", "fd:3", "--stop-with-stdin")
	return p.start()
}

// run starts a role that reports on standard output.
func (f *fleet) run(name string, args ...string) (*program, error) {
	p := &program{name: name, args: args, fleet: f}
	return p, p.start()
}

func (p *program) start() error {
	log, err := os.OpenFile(filepath.Join(p.fleet.logs, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("couldn't open the log of %s: %w", p.name, err)
	}
	if err := p.exec(log); err != nil {
		log.Close()
		return fmt.Errorf("couldn't start %s: %w", p.name, err)
	}
	p.log, p.done = log, make(chan struct{})
	if p.address != "" {
		go p.wait()
	}
	return nil
}

func (p *program) exec(log *os.File) (err error) {
	p.cmd = exec.Command(p.fleet.binary, p.args...)
	p.cmd.Env = append(os.Environ(), p.fleet.env...)
	p.cmd.Stderr = log
	if p.address != "" {
		if p.listener == nil { // a restart, at the same address
			if p.listener, err = listenAt(p.address); err != nil {
				return err
			}
		}
		p.cmd.ExtraFiles = []*os.File{p.listener}
	}
	if p.stdin, err = p.cmd.StdinPipe(); err == nil && p.address == "" {
		p.stdout, err = p.cmd.StdoutPipe()
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if p.listener != nil {
		// The program's copy is the only one, so that whoever calls while it is
		// dead is told so rather than kept waiting.
		p.listener.Close()
		p.listener = nil
	}
	return err
}

func listenAt(address string) (*os.File, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

func (p *program) wait() {
	err := p.cmd.Wait()
	p.log.Close()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(p.done)
}

// kill ends the program as a power cut would.
func (p *program) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("couldn't kill %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// stop asks the program to end, and insists after a while.
func (p *program) stop() {
	p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(stopTime):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// check returns ErrProgram, wrapped with the end of its log, where the program
// has ended.
func (p *program) check() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Errorf("%w: %s (%v): %s", ErrProgram, p.name, p.err, p.tail())
}

func (p *program) tail() string {
	data, err := os.ReadFile(filepath.Join(p.fleet.logs, p.name+".log"))
	if err != nil {
		return "no log"
	}
	data = bytes.TrimSpace(data)
	return string(data[max(0, len(data)-600):])
}

// event is what the device host reports, a JSON line each.
type event struct {
	Phase  string        `json:"phase,omitempty"`
	Done   int           `json:"done,omitempty"`
	Total  int           `json:"total,omitempty"`
	Result *deviceResult `json:"result,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// follow reads a program's events until its output ends.
func (p *program) follow(ctx context.Context, each func(event)) error {
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	defer stop()
	scanner := bufio.NewScanner(p.stdout)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	var failed error
	for scanner.Scan() {
		var e event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			failed = fmt.Errorf("%s said something else than an event: %w", p.name, err)
			continue
		}
		if e.Error != "" {
			failed = errors.New(e.Error)
			continue
		}
		each(e)
	}
	p.wait()
	if err := errors.Join(ctx.Err(), failed, scanner.Err()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%w: %s (%v): %s", ErrProgram, p.name, p.err, p.tail())
	}
	return nil
}
