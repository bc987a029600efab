// Command chancery-verify checks an evidence pack offline, from the
// organisation's identity alone (package verify).
package main

import (
	"os"

	"chancery/verify"
)

func main() { os.Exit(verify.Main(os.Args[1:], os.Stdout, os.Stderr)) }
