package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/bench"
	"chancery/internal/home"
)

// benchReport is what a measurement has to say.
type benchReport interface {
	Markdown(w io.Writer) error
	Text(w io.Writer) error
}

func (a *app) benchCommand() *cobra.Command {
	var markdown string
	var budget time.Duration
	c := &cobra.Command{
		Use: "bench", Short: "Measure what it costs, each figure beside a raw limit of this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if budget <= 0 {
				return &usageError{fmt.Errorf("--budget %v: want more than no time", budget)}
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("couldn't find this program: %w", err)
			}
			dir, err := os.MkdirTemp("", "chancery-bench-")
			if err != nil {
				return fmt.Errorf("couldn't make a folder: %w", err)
			}
			defer os.RemoveAll(dir)
			report, err := bench.Run(cmd.Context(), bench.Options{
				Budget: budget, Dir: dir, Binary: self,
				Progress: a.measuring,
			})
			if err != nil {
				return err
			}
			return a.benchReport(report, markdown)
		},
	}
	c.Flags().StringVar(&markdown, "markdown", "", "`FILE` to write docs/performance.md's form to, but for its part about sessions")
	c.Flags().DurationVar(&budget, "budget", time.Second, "time for each side of a row")
	c.AddCommand(a.benchSessionsCommand())
	return c
}

func (a *app) benchSessionsCommand() *cobra.Command {
	var markdown, peers string
	o := bench.SessionOptions{Progress: a.measuring}
	c := &cobra.Command{
		Use: "sessions", Short: "Measure MLS in groups, on request beside other implementations", Args: cobra.NoArgs,
		Long: `Measure MLS in groups of several sizes: creating one, joining, committing,
processing a commit, encrypting and decrypting; with time, memory, and the bytes
that each step has to store.

--peers measures other implementations in turn with ours. They are in bench/peers
of a checkout of Chancery, and need Go and Node 20 or newer with npm.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Runs < 1 {
				return &usageError{fmt.Errorf("--runs %d: want at least one", o.Runs)}
			}
			for _, n := range o.Members {
				if n < 2 {
					return &usageError{fmt.Errorf("--n %d: want groups of at least two", n)}
				}
			}
			if peers != "" {
				var err error
				o.Peers, err = bench.StartPeers(cmd.Context(), peers)
				for _, p := range o.Peers {
					defer p.Close()
				}
				if err != nil {
					fmt.Fprintf(a.err, "not all peers are measured: %v\nhint: run in a checkout of Chancery, with Go and Node 20 or newer with npm (Debian: golang, nodejs, npm), or give its folder bench/peers as --peers=FOLDER\n", err)
				}
			}
			report, err := bench.RunSessions(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.benchReport(report, markdown)
		},
	}
	f := c.Flags()
	f.IntSliceVar(&o.Members, "n", []int{2, 50, 500, 1000}, "sizes of the `GROUPS`, in members")
	f.IntVar(&o.Runs, "runs", 5, "runs, of which the fastest counts")
	f.StringVar(&peers, "peers", "", "measure the peers in this `FOLDER`, too")
	f.Lookup("peers").NoOptDefVal = "bench/peers"
	f.StringVar(&o.Beside, "beside", "", "`WORDS` for the report about what else the machine does")
	f.StringVar(&markdown, "markdown", "", "`FILE` whose part about sessions to write, in the form of docs/performance.md")
	return c
}

// measuring shows what is being measured to who sits before a terminal.
func (a *app) measuring(what string) {
	if a.interactive() {
		fmt.Fprintf(a.err, "measuring %s\n", what)
	}
}

// benchReport writes a report in the form that was asked for: into its part of a
// Markdown file, as JSON, or as text.
func (a *app) benchReport(r benchReport, markdown string) error {
	if markdown == "" && a.json {
		return json.NewEncoder(a.out).Encode(r)
	}
	if markdown == "" {
		return r.Text(a.out)
	}
	before, err := os.ReadFile(markdown)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("couldn't read %s: %w", markdown, err)
	}
	var part bytes.Buffer
	if err := r.Markdown(&part); err != nil {
		return err
	}
	return home.WriteFile(markdown, bench.Update(before, part.Bytes()), 0o644)
}
