package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"chancery/codec"
)

// scopeFlags are what holds and requests both name.
type scopeFlags struct {
	matter     string
	custodians []string
	from, to   string
}

func (f *scopeFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.matter, "matter", "", "the matter's `ID` (required)")
	c.Flags().StringArrayVar(&f.custodians, "custodian", nil, "`NAME` or id of a member whose messages are meant (repeat; required)")
	c.Flags().StringVar(&f.from, "from", "", "first `DAY` in UTC, such as 2026-11-01 (required)")
	c.Flags().StringVar(&f.to, "to", "", "last `DAY` (required)")
	for _, name := range []string{"matter", "custodian", "from", "to"} {
		must(c.MarkFlagRequired(name))
	}
}

// scope is what scopeFlags say, but for the custodians, whom the directory
// knows.
type scope struct {
	matter   codec.ID
	from, to uint32
}

func (f *scopeFlags) parse() (s scope, err error) {
	if s.matter, err = codec.ParseID(f.matter); err != nil {
		return s, &usageError{fmt.Errorf("--matter: %w", err)}
	}
	if s.from, err = day(f.from); err != nil {
		return s, err
	}
	if s.to, err = day(f.to); err != nil {
		return s, err
	}
	if s.to < s.from {
		return s, &usageError{fmt.Errorf("--to %s is before --from %s", f.to, f.from)}
	}
	return s, nil
}

func (a *app) holdCommand() *cobra.Command {
	c := &cobra.Command{Use: "hold", Short: "Legal holds: nothing they cover is deleted"}
	var key, text string
	var scope scopeFlags
	place := &cobra.Command{
		Use:   "place",
		Short: "Place a hold and give its custodians notice",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := scope.parse()
			if err != nil {
				return err
			}
			s, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			custodians, err := resolve(cmd, s.server, scope.custodians)
			if err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			h, err := d.PlaceHold(ctx, in.matter, custodians, in.from, in.to, text)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"hold": h}, "hold %s stands; notice goes to %s", h.Short(), count(len(custodians), "custodian"))
		},
	}
	keyFlag(place, &key)
	scope.add(place)
	place.Flags().StringVar(&text, "text", "You are asked to keep all messages of this period.", "`TEXT` that the custodians are shown")
	var f deviceFlags
	acknowledge := &cobra.Command{
		Use:   "acknowledge HOLD",
		Short: "Say, from a custodian's device, that a hold's notice was read",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := codec.ParseHash(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("the hold's id: %w", err)}
			}
			d, _, err := a.device(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			if err := d.AcknowledgeHold(cmd.Context(), h); err != nil {
				return err
			}
			return a.print(map[string]any{"hold": h}, "acknowledged")
		},
	}
	f.add(acknowledge)
	c.AddCommand(place, acknowledge, a.releaseCommand())
	return c
}
