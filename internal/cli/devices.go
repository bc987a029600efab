package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/client/direct"
	"chancery/client/group"
	"chancery/client/remote"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/wire"
)

const labelDeviceKey = "device-key"

// deviceFlags say which device acts.
type deviceFlags struct {
	dir     string
	keyFile string
}

func (f *deviceFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "device", "device", "`FOLDER` of the device")
	c.Flags().StringVar(&f.keyFile, "key-file", "", "`FILE` with the 32-byte key that seals the device's state; made if missing at enrolment (default: a passphrase from CHANCERY_PASSPHRASE or the terminal)")
}

// stateKey returns the key that seals a device's state, itself sealed under the
// key file or passphrase.
func stateKey(dir string, secret custody.Secret, create bool) (*[state.KeySize]byte, error) {
	path := filepath.Join(dir, "key.sealed")
	if _, err := os.Stat(path); create && errors.Is(err, fs.ErrNotExist) {
		key := codec.NewPrivateKey().Seed() // 32 random bytes
		defer clear(key)
		if err := custody.SealFile(path, secret, labelDeviceKey, key); err != nil {
			return nil, err
		}
	}
	key, err := custody.OpenFile(path, secret, labelDeviceKey)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(key) != state.KeySize {
		return nil, fmt.Errorf("%s holds no device key", path)
	}
	out := [state.KeySize]byte(key)
	return &out, nil
}

// deviceConfig connects a device to the organisation of a session.
func deviceConfig(s *session) client.Config {
	return client.Config{
		Replica: s.replica, Groups: group.New(time.Now), Pairs: direct.New(time.Now),
		Connect: func(key codec.Signer) client.Server { return s.server.As(httpsig.Ed25519(key)) },
	}
}

// synced opens a device, sends what waits and receives what waits for it. The
// caller closes it.
func (a *app) synced(cmd *cobra.Command, f *deviceFlags) (*client.Device, *remote.Client, *client.Summary, error) {
	d, server, err := a.device(cmd, f)
	if err != nil {
		return nil, nil, nil, err
	}
	sum, err := d.Sync(cmd.Context())
	if err != nil {
		return nil, nil, nil, errors.Join(err, d.Close())
	}
	a.warn(sum)
	return d, server, sum, nil
}

// warn says on standard error what the member should look at.
func (a *app) warn(sum *client.Summary) {
	for _, w := range sum.Warnings {
		fmt.Fprintf(a.err, "warning: %s\n", plain(w))
	}
}

// device opens a device under the newest control log. The caller closes it.
func (a *app) device(cmd *cobra.Command, f *deviceFlags) (*client.Device, *remote.Client, error) {
	h, key, err := a.unlock(cmd, f)
	if err != nil {
		return nil, nil, err
	}
	s, err := openHome(cmd.Context(), f.dir, h, nil)
	if err != nil {
		return nil, nil, err
	}
	d, err := openDevice(s, f.dir, key)
	if err != nil {
		return nil, nil, err
	}
	return d, s.server.As(httpsig.Ed25519(d.Signer())), nil
}

func openDevice(s *session, dir string, key *[state.KeySize]byte) (*client.Device, error) {
	return client.Open(deviceConfig(s), dir, key)
}

// unlock finds whose a device's folder is and what its state is sealed under. It
// needs nobody else, and so comes first.
func (a *app) unlock(cmd *cobra.Command, f *deviceFlags) (*home.Home, *[state.KeySize]byte, error) {
	h, err := home.Load(f.dir)
	if err != nil {
		return nil, nil, hint(err, "name the device's folder with --device, or enrol one: `chancery device enrol --invite FILE`")
	}
	secret, err := a.secret(cmd.Context(), f.keyFile, false)
	if err != nil {
		return nil, nil, err
	}
	key, err := stateKey(f.dir, secret, false)
	if err != nil {
		return nil, nil, err
	}
	return h, key, nil
}

// sender opens a device that is to say something, after what waits on either
// side. Where the server can't be reached it opens it all the same: what is said
// then waits in the outbox.
func (a *app) sender(cmd *cobra.Command, f *deviceFlags) (*client.Device, error) {
	h, key, err := a.unlock(cmd, f)
	if err != nil {
		return nil, err
	}
	s, err := openHome(cmd.Context(), f.dir, h, nil)
	if errors.Is(err, remote.ErrUnavailable) {
		s, err = offline(f.dir, h, nil)
	}
	if err != nil {
		return nil, err
	}
	d, err := client.Open(deviceConfig(s), f.dir, key)
	if err != nil {
		return nil, err
	}
	sum, err := d.Sync(cmd.Context())
	if err != nil && !errors.Is(err, remote.ErrUnavailable) {
		return nil, errors.Join(err, d.Close())
	}
	a.warn(sum)
	return d, nil
}

func (a *app) deviceCommand() *cobra.Command {
	c := &cobra.Command{Use: "device", Short: "Enrol devices, list them, revoke them"}
	var f deviceFlags
	var invite string
	enrol := &cobra.Command{
		Use:   "enrol",
		Short: "Enrol a device under an invitation",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := os.ReadFile(invite)
			if err != nil {
				return fmt.Errorf("couldn't read the invitation: %w", err)
			}
			i, err := ceremony.ParseInvite(data)
			if err != nil {
				return hint(err, "an officer's `chancery member add` writes such files")
			}
			invitation, err := i.Key()
			if err != nil {
				return err
			}
			if err := unpinned(f.dir, i.Organisation); err != nil {
				return err
			}
			if time.Now().After(i.Expiry) {
				return hint(fmt.Errorf("the invitation has expired, on %s", i.Expiry.UTC().Format(time.DateOnly)), "ask the officers for another: `chancery member add`")
			}
			entries, err := os.ReadDir(f.dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("couldn't look into the device's folder: %w", err)
			}
			h := &home.Home{Organisation: i.Organisation, Server: i.Server}
			s, err := openHome(cmd.Context(), f.dir, h, nil)
			if err != nil {
				return err
			}
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
			cfg := deviceConfig(s)
			ctx, cancel := deadline(cmd)
			defer cancel()
			d, err := client.Enrol(ctx, cfg, client.Enrolment{Dir: f.dir, Key: key, Member: i.Member, Name: i.Name, Invitation: invitation})
			var refused *wire.Problem
			if errors.As(err, &refused) && refused.Status < 500 && len(entries) == 0 {
				// Nothing enrolled, and what was made for it would stand in the way of
				// another invitation.
				err = errors.Join(hint(err, "was the invitation used already? Officers make another: `chancery member add`"), os.RemoveAll(f.dir))
			}
			if err != nil {
				return err
			}
			defer d.Close()
			return a.print(map[string]any{"device": d.Hash(), "member": d.Member()}, "device %s of %s is enrolled", d.Hash().Short(), plain(i.Name))
		},
	}
	f.add(enrol)
	enrol.Flags().StringVar(&invite, "invite", "", "the invitation's `FILE` (required)")
	must(enrol.MarkFlagRequired("invite"))

	var key, reason string
	revoke := &cobra.Command{
		Use:   "revoke DEVICE",
		Short: "Revoke a lost device",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			var known []codec.Hash
			s.replica.Read(func(st *control.State) {
				for _, m := range st.Members() {
					known = append(known, st.Devices(m)...)
				}
			})
			device, err := parseHash(args[0], known)
			if err != nil {
				return hint(err, "`chancery device list` shows the devices")
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			leaf, err := d.Revoke(ctx, device, reason)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"leaf": leaf}, "device %s is revoked", device.Short())
		},
	}
	keyFlag(revoke, &key)
	revoke.Flags().StringVar(&reason, "reason", "lost", "`TEXT`, on the log for everybody")
	c.AddCommand(a.linkCommands()...)
	c.AddCommand(enrol, a.furtherCommand(), a.admitCommand(), a.deviceListCommand(), a.deviceAuditCommand(), revoke, a.deviceRequestCommand(), a.deviceCertifyCommand(), a.problemsCommand())
	return c
}

// unread counts what others said that was not read yet.
func unread(d *client.Device, x *client.Conversation) (n int, err error) {
	for m, err := range d.Messages(x.ID, x.Read) {
		if err != nil {
			return 0, err
		}
		if !m.Own && !m.Report && m.Action != envelope.ActionProfile {
			n++
		}
	}
	return n, nil
}

func (a *app) conversationCommand() *cobra.Command {
	c := &cobra.Command{Use: "conversation", Short: "Open conversations and see who is in them"}
	var f deviceFlags
	var name string
	var with []string
	create := &cobra.Command{
		Use:   "new",
		Short: "Open a conversation: a group, one-to-one with one other member for good, or a note to self",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, server, err := a.device(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			members, err := resolve(cmd, server, with)
			if err != nil {
				return err
			}
			id, err := d.Create(cmd.Context(), name, members)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"conversation": id}, "%s", id)
		},
	}
	f.add(create)
	create.Flags().StringVar(&name, "name", "", "its `NAME`, which the server never learns")
	create.Flags().StringArrayVar(&with, "member", nil, "`NAME` or id of another member (repeat)")

	var lf deviceFlags
	list := &cobra.Command{
		Use:   "list",
		Short: "List the device's conversations",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, server, _, err := a.synced(cmd, &lf)
			if err != nil {
				return err
			}
			defer d.Close()
			all, err := d.Conversations()
			if err != nil {
				return err
			}
			byID, err := names(cmd, server)
			if err != nil {
				return err
			}
			type row struct {
				client.Conversation
				Unread int
				Names  []string
			}
			rows := []row{}
			for i := range all {
				r := row{Conversation: all[i]}
				if r.Unread, err = unread(d, &all[i]); err != nil {
					return err
				}
				for _, m := range all[i].Members {
					r.Names = append(r.Names, byID[m])
				}
				rows = append(rows, r)
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(rows)
			}
			for _, r := range rows {
				state := ""
				if r.Direct {
					state = " (one-to-one)"
				}
				switch {
				case r.Left:
					state += " (left)"
				case r.Broken != "":
					state += " (can't go on: " + r.Broken + ")"
				}
				fmt.Fprintf(a.out, "%s  %3d unread  %q  %s%s\n", r.ID, r.Unread, r.Name, plain(strings.Join(r.Names, ", ")), plain(state))
			}
			if len(rows) == 0 {
				fmt.Fprintln(a.out, "this device is in no conversation")
			}
			return nil
		},
	}
	lf.add(list)

	change := func(use, done, short string, act func(cmd *cobra.Command, d *client.Device, id codec.ID, members []codec.ID) error) *cobra.Command {
		var f deviceFlags
		c := &cobra.Command{
			Use: use + " CONVERSATION MEMBER...", Short: short, Args: cobra.MinimumNArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				id, err := codec.ParseID(args[0])
				if err != nil {
					return &usageError{fmt.Errorf("the conversation's id: %w", err)}
				}
				d, server, _, err := a.synced(cmd, &f)
				if err != nil {
					return err
				}
				defer d.Close()
				members, err := resolve(cmd, server, args[1:])
				if err != nil {
					return err
				}
				if err := act(cmd, d, id, members); err != nil {
					return err
				}
				return a.print(map[string]any{"conversation": id}, "%s: %s", done, strings.Join(args[1:], ", "))
			},
		}
		f.add(c)
		return c
	}
	c.AddCommand(create, list, a.rejoinCommand(),
		change("add", "added", "Add members to a conversation", func(cmd *cobra.Command, d *client.Device, id codec.ID, m []codec.ID) error {
			return d.Add(cmd.Context(), id, m)
		}),
		change("remove", "removed", "Remove members from a conversation", func(cmd *cobra.Command, d *client.Device, id codec.ID, m []codec.ID) error {
			return d.Remove(cmd.Context(), id, m)
		}))
	return c
}

func (a *app) sendCommand() *cobra.Command {
	var f deviceFlags
	var reply, edit, remove, react string
	c := &cobra.Command{
		Use:   "send CONVERSATION [TEXT]",
		Short: "Say something in a conversation; the text is read from standard input where it is -",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := codec.ParseID(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("the conversation's id: %w", err)}
			}
			draft := client.Draft{}
			actions := 0
			for action, target := range map[uint8]string{
				envelope.ActionReply: reply, envelope.ActionEdit: edit, envelope.ActionDelete: remove, envelope.ActionReaction: react,
			} {
				if target != "" {
					draft.Action, draft.Target = action, target
					actions++
				}
			}
			if actions > 1 {
				return &usageError{errors.New("a message is one of a reply, an edit, a deletion and a reaction")}
			}
			if len(args) == 2 {
				draft.Text = args[1]
			}
			if draft.Text == "-" {
				data, err := readAll(a.in, envelope.MaxTextSize)
				if err != nil {
					return fmt.Errorf("couldn't read the text: %w", err)
				}
				draft.Text = string(data)
			}
			if draft.Text == "" && remove == "" {
				return &usageError{errors.New("there is no text")}
			}
			d, err := a.sender(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			sent, err := d.Send(cmd.Context(), id, draft)
			if err != nil {
				return err
			}
			if sent.Queued {
				return a.print(sent, "the server can't be reached: message %s goes with the next send or read", sent.ID)
			}
			return a.print(sent, "sent %s, archived as envelope %s, leaf %d", sent.ID, sent.Core.Short(), sent.Leaf)
		},
	}
	f.add(c)
	c.Flags().StringVar(&reply, "reply", "", "`ID` of the message that this replies to")
	c.Flags().StringVar(&edit, "edit", "", "`ID` of the message that this replaces")
	c.Flags().StringVar(&remove, "delete", "", "`ID` of the message to delete")
	c.Flags().StringVar(&react, "react", "", "`ID` of the message that this is a reaction to")
	return c
}

func (a *app) readCommand() *cobra.Command {
	var f deviceFlags
	var conversation string
	c := &cobra.Command{
		Use:   "read",
		Short: "Receive, check and show messages, with how far each is archived",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var only codec.ID
			if conversation != "" {
				var err error
				if only, err = codec.ParseID(conversation); err != nil {
					return &usageError{fmt.Errorf("--conversation: %w", err)}
				}
			}
			d, _, sum, err := a.synced(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			for _, n := range sum.Notices {
				fmt.Fprintf(a.err, "legal hold %s: %s\nhint: say that you have read it: `chancery hold acknowledge %s`\n", n.Hold.Short(), lines(n.Text, "  "), n.Hold)
			}
			all, err := d.Conversations()
			if err != nil {
				return err
			}
			if conversation != "" {
				all = slices.DeleteFunc(all, func(x client.Conversation) bool { return x.ID != only })
				if len(all) == 0 {
					return fmt.Errorf("%s: %w", only, client.ErrNoConversation)
				}
			}
			enc := json.NewEncoder(a.out)
			for _, x := range all {
				if !a.json {
					fmt.Fprintf(a.out, "%s %q\n", x.ID, x.Name)
				}
				if err := a.printPast(enc, d, x.ID); err != nil {
					return err
				}
				timeline, err := d.Timeline(x.ID)
				if err != nil {
					return err
				}
				for _, e := range timeline {
					if err := a.printEntry(enc, e); err != nil {
						return err
					}
				}
				if x.Next > 0 {
					if err := d.MarkRead(x.ID, x.Next-1); err != nil {
						return err
					}
				}
			}
			if conversation == "" {
				if err := a.printPasts(enc, d, all); err != nil {
					return err
				}
			}
			if len(all) == 0 && !a.json {
				fmt.Fprintln(a.out, "this device is in no conversation")
			}
			if err := d.Acknowledge(cmd.Context()); err != nil {
				return err
			}
			if n := d.Counters(); n.Mismatches > 0 {
				return hint(fmt.Errorf("%d messages were archived otherwise than they were sent: they are not shown, and reported", n.Mismatches),
					"`chancery device problems` lists them; docs/runbooks says what a mismatch report means")
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().StringVar(&conversation, "conversation", "", "`ID` of one conversation (default: all)")
	return c
}

// printEntry shows a message as its member last had it.
func (a *app) printEntry(enc *json.Encoder, e *client.Entry) error {
	if a.json {
		return enc.Encode(e)
	}
	text := lines(e.Text, "      ")
	switch {
	case e.Deleted:
		text = "(deleted)"
	case e.Edited:
		text += " (edited)"
	}
	for reaction, who := range e.Reactions {
		text += fmt.Sprintf(" [%s ×%d]", plain(reaction), len(who))
	}
	state := "not archived yet"
	if e.Archived {
		state = "archived"
	}
	_, err := fmt.Fprintf(a.out, "  %s  %s  %s: %s  [%s]\n", e.ID, e.Time.UTC().Format("2006-01-02 15:04"), plain(e.Sender), text, state)
	return err
}
