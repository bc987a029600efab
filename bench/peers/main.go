// Command peers measures other implementations of MLS, for chancery bench
// sessions --peers:
//
//	peers mls-go | ts-mls
//
// It reads requests on stdin, one JSON object a line, does what each says, and
// answers on stdout with what it took. docs/performance.md says what the steps
// are. It is a module of its own: nothing of Chancery is built from it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
)

// request names a step. N is the number of members for setup and of messages for
// encrypt.
type request struct {
	Op string `json:"op"`
	N  int    `json:"n"`
}

// answer is what a step took: once for each message, for encrypt and decrypt.
type answer struct {
	Name      string  `json:"name,omitempty"`
	Seconds   float64 `json:"seconds,omitempty"`
	Allocated uint64  `json:"allocated,omitempty"` // bytes, where that can be told
	Resident  uint64  `json:"resident,omitempty"`  // bytes that one member's group holds
	Error     string  `json:"error,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 {
		switch args[0] {
		case "mls-go":
			return serve(os.Stdin, os.Stdout)
		case "ts-mls":
			return runTSMLS(ctx)
		}
	}
	return fmt.Errorf("want peers mls-go or peers ts-mls")
}

// serve answers requests until there are no more.
func serve(in io.Reader, out io.Writer) error {
	var g mlsGo
	lines := bufio.NewScanner(in)
	enc := json.NewEncoder(out)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("couldn't read a request: %w", err)
		}
		a, err := g.do(r)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}
