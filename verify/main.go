package verify

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"chancery/codec"
	"chancery/pack"
)

const usage = `usage: chancery-verify --org ID [--export FILE] [--json] PACK
       chancery-verify evidence --organisation ID [--json] FILE

Checks an evidence pack offline, or judges a file of evidence against the server. Exit code 0 only if every check holds, 1 if one
does not or a file can't be read, 2 where it can't tell what to check against.

ID is the organisation's identity, 64 hexadecimal characters, from somewhere other
than the pack: a pack could bring an organisation of its own.
`

// Main is the auditor's program. It returns the exit code: 0 if every check
// holds, 1 if one doesn't or a file can't be read, 2 for wrong usage.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "evidence" {
		return Evidence(args[1:], stdout, stderr)
	}
	flags := flag.NewFlagSet("chancery-verify", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	org := flags.String("org", "", "")
	export := flags.String("export", "", "")
	asJSON := flags.Bool("json", false, "")
	packs, err := parse(flags, args)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			return 0
		}
		fmt.Fprintf(stderr, "chancery-verify: %v\n\n%s", err, usage)
		return 2
	}
	if *org == "" {
		fmt.Fprintf(stdout, "%s\nIt checks:\n", usage)
		for i, c := range Checks() {
			fmt.Fprintf(stdout, "%3d. %s: %s\n", i+1, c.Name, c.Plain)
		}
		fmt.Fprintln(stderr, "chancery-verify: no organisation given\nhint: --org ID, its identity as the organisation publishes it")
		return 2
	}
	id, err := codec.ParseHash(*org)
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: --org %q is no identity: want 64 lower-case hexadecimal characters\n", *org)
		return 2
	}
	if len(packs) != 1 {
		fmt.Fprintf(stderr, "chancery-verify: want one pack, got %d\n\n%s", len(packs), usage)
		return 2
	}
	data, err := read(packs[0])
	if err != nil {
		fmt.Fprintf(stderr, "chancery-verify: couldn't read the pack: %v\n", err)
		return 1
	}
	report := Pack(id, data)
	if *export != "" {
		lines, err := read(*export)
		if err != nil {
			fmt.Fprintf(stderr, "chancery-verify: couldn't read the export: %v\n", err)
			return 1
		}
		report.add(exportFile(report, lines))
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			fmt.Fprintf(stderr, "chancery-verify: %v\n", err)
			return 1
		}
	} else {
		report.Write(stdout)
	}
	if !report.OK {
		return 1
	}
	return 0
}

// parse reads flags that stand before, between or after the other arguments,
// which it returns.
func parse(flags *flag.FlagSet, args []string) (others []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return others, nil
		}
		others, args = append(others, flags.Arg(0)), flags.Args()[1:]
	}
}

// exportFile checks that an export is the one that the pack names, whose lines
// the check "export" has made again from what was opened.
func exportFile(r *Report, lines []byte) Check {
	c := Check{Name: "export-file", Plain: "The export's file holds the very lines that the pack shows."}
	if c.OK = pack.ExportHash(lines) == r.Export; !c.OK {
		c.Detail = "it is another export, or was changed"
	}
	return c
}

func (r *Report) add(c Check) {
	r.Checks = append(r.Checks, c)
	r.OK = r.OK && c.OK
}

// Write prints the report for people: a line for each check, and a verdict.
func (r *Report) Write(w io.Writer) {
	failed := 0
	for _, c := range r.Checks {
		mark := "ok  "
		if !c.OK {
			mark = "FAIL"
			failed++
		}
		fmt.Fprintf(w, "%s  %s: %s\n", mark, c.Name, c.Plain)
		if c.Detail != "" {
			fmt.Fprintf(w, "      %s\n", c.Detail)
		}
	}
	for _, u := range r.NotOpened {
		fmt.Fprintf(w, "\nnot opened: %s: envelope %s, device %s, member %s\n", u.Reason, u.Envelope, u.Device, u.Member)
	}
	if failed > 0 {
		fmt.Fprintf(w, "\nNOT VERIFIED: %d of %d checks failed\n", failed, len(r.Checks))
		return
	}
	fmt.Fprintf(w, "\nverified: %d checks hold; %d envelopes opened, %d messages exported", len(r.Checks), r.Opened, r.Exported)
	if n := len(r.NotOpened); n > 0 {
		fmt.Fprintf(w, ", %d not opened", n)
	}
	fmt.Fprintln(w)
}

// read reads a file of at most a pack's size.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, pack.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > pack.MaxSize {
		return nil, fmt.Errorf("%s has more than %d bytes", path, pack.MaxSize)
	}
	return data, nil
}
