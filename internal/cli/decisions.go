package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/codec"
	"chancery/control"
	"chancery/request"
)

// requestText shows a request as approvers and keyholders will judge it.
func requestText(r *control.RequestState, d *request.Details, byID map[codec.ID]string) string {
	var who []string
	for _, c := range r.Custodians {
		// The name is the server's word; what is signed is the id.
		who = append(who, strings.TrimSpace(byID[c]+" "+c.String()))
	}
	if len(who) > 12 {
		who = append(who[:12], fmt.Sprintf("and %d more", len(who)-12))
	}
	kind := "open every message in scope"
	if r.Search {
		kind = "search for " + strings.Join(d.Terms, " or ")
	}
	var b strings.Builder
	for _, row := range [][2]string{
		{"request", r.Hash.String()},
		{"matter", r.Matter.String()},
		{"title", d.Title},
		{"asks to", kind},
		{"purpose", d.Purpose},
		{"legal basis", d.LegalBasis},
		{"custodians", strings.Join(who, ", ")},
		{"conversations", map[bool]string{true: "all of theirs", false: fmt.Sprint(len(r.Conversations))}[len(r.Conversations) == 0]},
		{"days", dateOf(r.FromDay) + " to " + dateOf(r.ToDay)},
		{"at most", count(int(r.MaxCount), "record")},
		{"opener", "evidence " + r.Evidence},
		{"expires", time.UnixMilli(r.Expiry).UTC().Format(time.RFC3339)},
		{"approved by", fmt.Sprintf("%d so far", len(r.Approvals))},
	} {
		if row[1] != "" {
			fmt.Fprintf(&b, "  %-14s %s\n", row[0], plain(row[1]))
		}
	}
	return b.String()
}

func (a *app) decideCommand(use, short string, decision control.Decision) *cobra.Command {
	var key, reason string
	var yes bool
	c := &cobra.Command{
		Use: use + " REQUEST-FILE", Short: short, Args: cobra.ExactArgs(1),
		Long: short + `.

The request is shown from the log that the witnesses cosigned, not from the
server's word; the file must hold exactly the details that its leaf names.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, details, err := readRequestFile(args[0])
			if err != nil {
				return err
			}
			s, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			r, err := d.Show(ctx, file.Request, details)
			if err != nil {
				return err
			}
			byID, err := names(cmd, s.server)
			if err != nil {
				return err
			}
			if !a.json {
				fmt.Fprint(a.out, requestText(&r, details, byID))
			}
			if !yes {
				ok, err := a.confirm(cmd.Context(), use+" this request?")
				if err != nil {
					return err
				}
				if !ok {
					return errors.New("nothing was signed")
				}
			}
			leaf, err := d.Decide(ctx, file.Request, decision, reason)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"leaf": leaf, "decision": decision}, "signed and logged: %s", decision)
		},
	}
	keyFlag(c, &key)
	c.Flags().StringVar(&reason, "reason", "", "`TEXT`, on the log for everybody")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking, once you have read it")
	return c
}

func (a *app) approveCommand() *cobra.Command {
	return a.decideCommand("approve", "Approve a request", control.Approve)
}

func (a *app) refuseCommand() *cobra.Command {
	return a.decideCommand("refuse", "Refuse a request: it can't be opened any more", control.Refuse)
}

func (a *app) withdrawCommand() *cobra.Command {
	var key, reason string
	c := &cobra.Command{
		Use: "withdraw REQUEST", Short: "Withdraw a request, for all holders at once", Args: cobra.ExactArgs(1),
		Long: `Withdraw a request, named by its file or by the beginning of its id. It goes to
every keyholder and guard directly as well, and can't be undone.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			h, err := s.request(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			leaf, err := d.Withdraw(ctx, h, reason)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"leaf": leaf}, "request %s is withdrawn", h.Short())
		},
	}
	keyFlag(c, &key)
	c.Flags().StringVar(&reason, "reason", "", "`TEXT`, on the log for everybody")
	return c
}
