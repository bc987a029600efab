package verify

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"unicode"

	"chancery/codec"
	"chancery/evidence"
	"chancery/mls/tree"
)

const evidenceUsage = `usage: chancery-verify evidence --organisation ID [--json] FILE

Judges a file of evidence (spec/evidence.md) offline: what a device kept when it
caught the server. Exit code 0 only if it convicts somebody, 1 if it proves nothing
or can't be read, 2 where it can't tell what to check against.

ID is the organisation's identity, 64 hexadecimal characters, from somewhere other
than the file.
`

// Evidence is `chancery-verify evidence`. It returns the exit code: 0 if the
// file convicts somebody, 1 if it doesn't, 2 for wrong usage.
func Evidence(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("chancery-verify evidence", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	org := flags.String("organisation", "", "")
	flags.StringVar(org, "org", "", "")
	asJSON := flags.Bool("json", false, "")
	files, err := parse(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, evidenceUsage)
		return 0
	}
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("want one file, got %d", len(files))
	}
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: %v\n\n%s", err, evidenceUsage)
		return 2
	}
	id, err := codec.ParseHash(*org)
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: --organisation %q is no identity: want 64 lower-case hexadecimal characters\n", *org)
		return 2
	}
	data, err := read(files[0])
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: couldn't read the evidence: %v\n", err)
		return 1
	}
	verdict, err := evidence.Verify(id, data, tree.KeyPackageSigner)
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: nobody is convicted: %s\n", printable(err.Error()))
		return 1
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(verdict); err != nil {
			fmt.Fprintf(stderr, "chancery-verify: %v\n", err)
			return 1
		}
		return 0
	}
	fmt.Fprintf(stdout, "%s: %s\n", verdict.Kind, printable(verdict.String()))
	return 0
}

// printable makes one line of a text that may repeat what the accused has
// written.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
