// Command chancery-opener opens exactly the envelopes of one approved request,
// in a process of its own (package internal/opener). `chancery open` starts it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"chancery/internal/opener"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := opener.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
