package cli

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/home"
	"chancery/internal/matters"
	"chancery/internal/opener"
	"chancery/internal/opening"
	"chancery/internal/wire"
	"chancery/verify"
)

func (a *app) openCommand() *cobra.Command {
	var key, program string
	c := &cobra.Command{
		Use: "open REQUEST-FILE", Short: "Open an approved request: start an opener and vouch for its key", Args: cobra.ExactArgs(1),
		Long: `Open an approved request. An opener starts in a process of its own, with keys
of its own; you sign for them, since this organisation's openers have no
evidence yet. Keyholders and guards decide by themselves whether they answer it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, details, err := readRequestFile(args[0])
			if err != nil {
				return err
			}
			s, signer, err := a.asPerson(cmd, key)
			if err != nil {
				return err
			}
			command := []string{program}
			if program == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("couldn't find this program: %w", err)
				}
				command = []string{self, "opener"}
			}
			cfg := opening.Config{
				Command: command, Server: s.home.Server, Request: file.Request, Details: details, Key: signer, Replica: s.replica,
				Progress: a.progress(),
			}
			cfg.Endpoints.Keyholders, cfg.Endpoints.Guards = s.home.Keyholders, s.home.Guards
			result, err := opening.Run(cmd.Context(), cfg)
			var failed *opening.Failed
			if errors.As(err, &failed) && failed.Hint != "" {
				return hint(err, "%s", failed.Hint)
			}
			if err != nil {
				return err
			}
			if err := matters.Await(cmd.Context(), s.replica, s.server, result.Index); err != nil {
				return err
			}
			text := fmt.Sprintf("%d index keys opened, %d of %d records in scope hit, %d opened, %d exported\nnext: chancery export %s",
				result.IndexKeys, result.Hits, result.InScope, result.Opened, result.Exported, args[0])
			for _, name := range result.Faults {
				text += fmt.Sprintf("\nWRONG ANSWER by %s: the proof is in the pack", name)
			}
			for _, b := range result.Broken {
				text += fmt.Sprintf("\nNOT OPENED: envelope %s of device %s, member %s: %s", b.Core, b.Device, b.Member, b.Reason)
			}
			if result.Unsearchable > 0 {
				text += fmt.Sprintf("\nNOT SEARCHED: %d records in scope have no index that could be opened", result.Unsearchable)
			}
			return a.print(result, "%s", text)
		},
	}
	keyFlag(c, &key)
	c.Flags().StringVar(&program, "opener", "", "the opener's `PROGRAM` (default: this one)")
	return c
}

// interactive reports whether standard error is a terminal, where progress is
// shown.
func (a *app) interactive() bool {
	f, ok := a.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress draws a line of progress where there is a terminal.
func (a *app) progress() func(step string, done, total int) {
	if !a.interactive() {
		return nil
	}
	return func(step string, done, total int) {
		end := ""
		if done == total {
			end = "\n"
		}
		fmt.Fprintf(a.err, "\r\x1b[K%s %d of %d%s", step, done, total, end)
	}
}

func (a *app) exportCommand() *cobra.Command {
	var key, out, recipient string
	c := &cobra.Command{
		Use: "export REQUEST-FILE", Short: "Open the production: an export and its evidence pack", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, _, err := readRequestFile(args[0])
			if err != nil {
				return err
			}
			s, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			if recipient == "" {
				recipient = recipientPath(a.home, file.Request)
			}
			secret, err := os.ReadFile(recipient)
			if err != nil {
				return hint(fmt.Errorf("couldn't read the recipient's key: %w", err), "it was made with the request, in the requester's home folder")
			}
			defer clear(secret)
			private, err := hpke.MLKEM768X25519().NewPrivateKey(secret)
			if err != nil {
				return fmt.Errorf("the recipient's key: %w", err)
			}
			lines, evidence, production, err := opening.Unseal(cmd.Context(), s.server, s.replica, file.Request, private)
			var problem *wire.Problem
			if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return hint(err, "`chancery open %s` makes it, once enough approvers have approved", args[0])
			}
			if err != nil {
				return err
			}
			exportFile, packFile := filepath.Join(out, "export.jsonl"), filepath.Join(out, "evidence.pack")
			if err := home.WriteFile(exportFile, lines, 0o600); err != nil {
				return err
			}
			if err := home.WriteFile(packFile, evidence, 0o600); err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			n := bytes.Count(lines, []byte("\n"))
			leaf, err := d.Export(ctx, file.Request, production, uint64(n))
			if err != nil {
				return err
			}
			return a.print(map[string]any{"export_file": exportFile, "evidence_pack": packFile, "records": n, "leaf": leaf},
				"%d messages in %s\nevidence in %s; anyone can check it:\n  chancery verify --org %s %s", n, exportFile, packFile, s.home.Organisation, packFile)
		},
	}
	keyFlag(c, &key)
	c.Flags().StringVar(&out, "out", ".", "`FOLDER` for export.jsonl and evidence.pack")
	c.Flags().StringVar(&recipient, "recipient-key", "", "`FILE` of the recipient's key (default: the one made with the request)")
	return c
}

// openerCommand is the opener in this binary; chancery-opener is the same in
// one of its own.
func (a *app) openerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "opener", Short: "Open one approved request, told what to do on standard input", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := opener.Main(cmd.Context(), args, a.in, a.out, a.err); code != 0 {
				return &exitError{code}
			}
			return nil
		},
	}
}

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify --org ID PACK", Short: "Check an evidence pack offline, from the organisation's identity alone",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := verify.Main(args, a.out, a.err); code != 0 {
				return &exitError{code}
			}
			return nil
		},
	}
}

func (a *app) logCommand() *cobra.Command {
	var from int64
	c := &cobra.Command{
		Use: "log", Short: "Print the organisation's control log, replayed and checked", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from < 0 {
				return &usageError{fmt.Errorf("--from %d: the first leaf is 0", from)}
			}
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			entries, _ := s.replica.Entries()
			if from > int64(len(entries)) {
				return fmt.Errorf("--from %d: the log has %d leaves", from, len(entries))
			}
			enc := json.NewEncoder(a.out)
			for i := from; i < int64(len(entries)); i++ {
				if err := a.printLeaf(a.out, enc, i, entries[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().Int64Var(&from, "from", 0, "`INDEX` of the first leaf to print")
	return c
}

func (a *app) printLeaf(out io.Writer, enc *json.Encoder, index int64, entry []byte) error {
	leaf, statement, err := control.Parse(entry)
	if err != nil {
		return err
	}
	row := struct {
		Index   int64        `json:"index"`
		Time    string       `json:"time"`
		Kind    control.Kind `json:"kind"`
		Hash    codec.Hash   `json:"hash"`
		Sealed  bool         `json:"sealed"`
		Signers []codec.Hash `json:"signers"`
	}{Index: index, Time: milli(leaf.Time), Kind: statement.Kind, Hash: statement.Hash(), Sealed: statement.Kind.Sealed()}
	var signers []string
	for _, g := range leaf.Signatures {
		row.Signers = append(row.Signers, g.Key)
		signers = append(signers, g.Key.Short())
	}
	if a.json {
		return enc.Encode(row)
	}
	_, err = fmt.Fprintf(out, "%6d  %s  %-22s %s  signed by %s\n", index, row.Time, row.Kind, row.Hash.Short(), strings.Join(signers, ", "))
	return err
}
