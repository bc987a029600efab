package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/internal/home"
)

func (a *app) problemsCommand() *cobra.Command {
	var f deviceFlags
	var out string
	c := &cobra.Command{
		Use:   "problems",
		Short: "List received messages that failed a check, which read doesn't show",
		Long: `List received messages that failed a check, which read doesn't show. With --out
the reports of those that were archived otherwise than they were sent are written
as files, which chancery report verify judges. A report contains the message.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, server, sum, err := a.synced(cmd, &f)
			if err != nil {
				// What was kept earlier is shown even where nothing else can be.
				kept, keptErr := client.EvidenceIn(f.dir)
				a.printEvidence(kept)
				return errors.Join(err, keptErr)
			}
			defer d.Close()
			byID, err := names(cmd, server)
			if err != nil {
				return err
			}
			all, err := d.Conversations()
			if err != nil {
				return err
			}
			kept, err := d.Evidence()
			if err != nil {
				return err
			}
			type row struct {
				*client.Problem
				Evidence *client.EvidenceFile `json:",omitempty"` // in the place of a problem: what convicts the server
				Name     string               // of the member whose device sent it
				File     string               `json:",omitempty"`
			}
			rows := []row{}
			for i := range kept {
				rows = append(rows, row{Evidence: &kept[i]})
			}
			for _, x := range all {
				for p, err := range d.Problems(x.ID) {
					if err != nil {
						return err
					}
					r := row{Problem: p, Name: byID[p.Member]}
					if out != "" && p.Report != nil {
						r.File = filepath.Join(out, p.Core.Short()+".report")
						if err := home.WriteFile(r.File, p.Report, 0o600); err != nil {
							return err
						}
					}
					rows = append(rows, r)
				}
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(rows)
			}
			a.printEvidence(kept)
			for _, r := range rows[len(kept):] {
				fmt.Fprintf(a.out, "conversation %s, position %d, from %s (device %s): %s\n", r.Conversation, r.Position, plain(r.Name), r.Device.Short(), plain(r.Reason))
				if r.File != "" {
					fmt.Fprintf(a.out, "  report in %s\n", r.File)
				}
			}
			for _, w := range sum.Warnings {
				fmt.Fprintln(a.out, plain(w))
			}
			if len(rows) == 0 {
				fmt.Fprintln(a.out, "every message received passed its checks")
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().StringVar(&out, "out", "", "`FOLDER` to write reports to")
	return c
}

func (a *app) printEvidence(kept []client.EvidenceFile) {
	if a.json {
		return
	}
	for _, e := range kept {
		halts := ""
		if e.Halts {
			halts = "; this device sends nothing while it is there"
		}
		fmt.Fprintf(a.out, "THE SERVER WAS CAUGHT (%s): evidence in %s, which `chancery-verify evidence` judges%s\n", e.Kind, e.Path, halts)
	}
}
