package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"chancery/internal/custody"
	"chancery/internal/demo"
	"chancery/internal/home"
)

func (a *app) demoCommand() *cobra.Command {
	o := demo.Options{}
	var summaryFile string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Play the whole path on this machine: send, seal, hold, approve, open, verify",
		Long: `Play the whole path on this machine, with real processes and real cryptography:
a server, two witnesses, five keyholders in three jurisdictions of which any
three open, two guards, an opener and the members' devices.

The corpus is JSON lines with id, channel, sender, ts and text. A line with
recipients belongs to the conversation of its sender, recipients, cc and bcc;
any other to its channel's group, which a member joins at the first message.
The search is for one word in the text, as a whole, in upper or lower case.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("couldn't find this program: %w", err)
			}
			if o.Corpus == "" && o.Term == "" {
				o.Term = "invoice"
			}
			if o.Term == "" {
				return &usageError{errors.New("--term is needed with --corpus: the word to search for")}
			}
			if o.Limit < 0 {
				return &usageError{fmt.Errorf("--limit %d: want 0, for all messages, or more", o.Limit)}
			}
			if err := o.Check(); err != nil {
				return hint(err, "nothing was started; `chancery demo --help` says what a corpus is")
			}
			if o.Dir == "" {
				if o.Dir, err = os.MkdirTemp("", "chancery-demo-"); err != nil {
					return fmt.Errorf("couldn't make a folder: %w", err)
				}
			}
			o.Out = a.out
			if a.json {
				o.Out = a.err
			}
			o.Played = func(s *demo.Summary) error { return a.printSummary(s, summaryFile) }
			_, err = demo.Run(cmd.Context(), o)
			if entries, _ := os.ReadDir(filepath.Join(o.Dir, "logs")); err != nil && len(entries) > 0 {
				return hint(err, "the programs' logs are in %s", filepath.Join(o.Dir, "logs"))
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "`FOLDER` for everything, empty at the start (default: a new one)")
	f.StringVar(&o.Corpus, "corpus", "", "`FILE` of JSON lines to play (default: a conversation that ships with the program)")
	f.IntVar(&o.Limit, "limit", 0, "greatest `NUMBER` of messages to send, 0 for all")
	f.StringVar(&o.Term, "term", "", "`WORD` to search for (default: invoice, in the conversation that ships)")
	f.StringArrayVar(&o.Custodians, "custodian", nil, "`NAME` of a member whose messages are searched (repeat; default: everybody)")
	f.BoolVar(&o.Keep, "keep", false, "leave it running at the end, until Ctrl-C")
	// With a value --json names the summary's file; as everywhere else without
	// one it prints it.
	f.StringVar(&summaryFile, "json", "", "`FILE` for a summary in JSON, or - for standard output")
	c.PreRun = func(*cobra.Command, []string) {
		if summaryFile == "-" {
			a.json, summaryFile = true, ""
		}
	}
	return c
}

// printSummary says what the demo came to, in a file as well where one is named.
func (a *app) printSummary(s *demo.Summary, file string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if file != "" {
		if err := home.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	if a.json {
		_, err := a.out.Write(data)
		return err
	}
	_, err = fmt.Fprintf(a.out, "\nexport    %s\nevidence  %s\ncheck it  chancery verify --org %s %s\n\nverified\n",
		s.ExportFile, s.EvidencePack, s.Organisation, s.EvidencePack)
	return err
}

func (a *app) devicesCommand() *cobra.Command {
	var o demo.DeviceOptions
	c := &cobra.Command{
		Use: "demo-devices", Short: "Host the demo's devices", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := os.ReadFile(o.KeyFile)
			if err != nil {
				return fmt.Errorf("couldn't read the devices' key: %w", err)
			}
			defer clear(key)
			if len(key) != len(o.Key) {
				return fmt.Errorf("%s has %d bytes, want %d", o.KeyFile, len(key), len(o.Key))
			}
			o.Key, o.Out, o.Log = [custody.KeySize]byte(key), a.out, a.log()
			return demo.RunDevices(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "folder of the devices' states")
	f.StringVar(&o.KeyFile, "key-file", "", "key that seals the states")
	f.StringVar(&o.Corpus, "corpus", "", "JSON lines to play")
	f.IntVar(&o.Limit, "limit", 0, "greatest number of messages to send")
	f.StringVar(&o.Invitations, "invitations", "", "file with the members' invitations")
	return c
}
