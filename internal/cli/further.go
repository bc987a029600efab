package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
)

// furtherCommand enrols a member's next device, which another of the member's
// devices lets in.
func (a *app) furtherCommand() *cobra.Command {
	var f, from deviceFlags
	var much string
	c := &cobra.Command{
		Use:   "further",
		Short: "Enrol a further device of a member, let in by one that the member has",
		Long: `Enrol a further device of a member, let in by one that the member has, whose folder
--from names. It joins the member's groups by itself. What was said there before
it shows on the other device's word, as far as --history gives it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			history, err := parseHistory(much)
			if err != nil {
				return err
			}
			h, sponsorKey, err := a.unlock(cmd, &from)
			if err != nil {
				return err
			}
			if err := unpinned(f.dir, h.Organisation); err != nil {
				return err
			}
			s, err := openHome(cmd.Context(), f.dir, h, nil)
			if err != nil {
				return err
			}
			sponsor, err := openDevice(s, from.dir, sponsorKey)
			if err != nil {
				return err
			}
			defer sponsor.Close()
			secret, err := a.secret(cmd.Context(), f.keyFile, true)
			if err != nil {
				return err
			}
			if err := h.Save(f.dir); err != nil {
				return err
			}
			key, err := stateKey(f.dir, secret, true)
			if err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			d, err := client.Enrol(ctx, deviceConfig(s), client.Enrolment{
				Dir: f.dir, Key: key, Member: sponsor.Member(), Name: sponsor.Name(), Invitation: sponsor.Signer(),
			})
			if err != nil {
				return err
			}
			defer d.Close()
			sum, err := d.Sync(ctx)
			if err != nil {
				return hint(err, "the device is enrolled, and joins with its next command")
			}
			if err := handOver(ctx, sponsor, d, history); err != nil {
				return hint(err, "the device is enrolled: `chancery device history` on the other one gives it history")
			}
			return a.print(map[string]any{"device": d.Hash(), "member": d.Member(), "joined": sum.Joined},
				"device %s of %s is enrolled, and has joined %d groups", d.Hash().Short(), plain(d.Name()), len(sum.Joined))
		},
	}
	f.add(c)
	c.Flags().StringVar(&from.dir, "from", "", "`FOLDER` of a device that the member has (required)")
	c.Flags().StringVar(&from.keyFile, "from-key-file", "", "`FILE` with the key that seals that device's state (default: a passphrase from CHANCERY_PASSPHRASE or the terminal)")
	c.Flags().StringVar(&much, "history", defaultHistory, "`HOW-MUCH` of what was said the new device may have: all, none, or a number of days")
	must(c.MarkFlagRequired("from"))
	return c
}

// admitCommand lets a device into the conversations of its member that came by
// an invitation.
func (a *app) admitCommand() *cobra.Command {
	var f deviceFlags
	c := &cobra.Command{
		Use:   "admit DEVICE",
		Short: "Bring another device of the same member into its conversations",
		Long: `Bring another device of the same member into its conversations. One that came by
an invitation isn't in them: whoever made the invitation could otherwise listen
in. Compare the device's hash with the one that its owner sees.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, key, err := a.unlock(cmd, &f)
			if err != nil {
				return err
			}
			s, err := openHome(cmd.Context(), f.dir, h, nil)
			if err != nil {
				return err
			}
			d, err := openDevice(s, f.dir, key)
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.Sync(cmd.Context()); err != nil {
				return err
			}
			var known []codec.Hash
			s.replica.Read(func(st *control.State) { known = st.Devices(d.Member()) })
			device, err := parseHash(args[0], known)
			if err != nil {
				return hint(err, "`chancery device problems` on the other device names it")
			}
			if err := d.Admit(cmd.Context(), device); err != nil {
				return err
			}
			return a.print(map[string]any{"device": device}, "device %s is in the conversations of this one", device.Short())
		},
	}
	f.add(c)
	return c
}

// rejoinCommand joins a halted conversation anew.
func (a *app) rejoinCommand() *cobra.Command {
	var f deviceFlags
	c := &cobra.Command{
		Use:   "rejoin CONVERSATION",
		Short: "Join a conversation anew that can't go on for this device",
		Long: `Join a conversation anew that can't go on for this device. Where nobody has signed
what they mustn't, a device does so by itself; otherwise "chancery conversation
list" says what it was halted for, and it takes this command. What was said in
between stays unread.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := codec.ParseID(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("the conversation's id: %w", err)}
			}
			d, _, _, err := a.synced(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			if err := d.Rejoin(cmd.Context(), id); err != nil && !errors.Is(err, client.ErrGoesOn) {
				return err
			}
			return a.print(map[string]any{"conversation": id}, "this device is in conversation %s", id)
		},
	}
	f.add(c)
	return c
}
