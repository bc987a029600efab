// Command chancery is every role of Chancery as a subcommand: server, witness,
// keyholder, guard, device, reviewer, approver and auditor.
package main

import (
	"os"

	"chancery/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
