package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/home"
)

// defaultHistory is what a new device is given where the member doesn't say: a
// signature given by mistake gives away no more.
const defaultHistory = "30"

// introduction tells a further device whose it is. There is nothing secret in
// it, and nothing in it lets anybody in.
type introduction struct {
	Organisation codec.Hash `json:"organisation"`
	Server       string     `json:"server"`
	Member       codec.ID   `json:"member"`
	Name         string     `json:"name"`
}

func parseIntroduction(data []byte) (*introduction, error) {
	var i introduction
	if err := json.Unmarshal(data, &i); err != nil {
		return nil, fmt.Errorf("couldn't read the introduction: %w", err)
	}
	if i.Organisation.IsZero() || i.Server == "" || i.Member.IsZero() {
		return nil, errors.New("the introduction names no organisation, server or member")
	}
	return &i, nil
}

// parseHistory reads how much history a device may have.
func parseHistory(text string) (client.History, error) {
	switch text {
	case "all":
		return client.History{All: true}, nil
	case "none":
		return client.History{}, nil
	}
	days, err := strconv.Atoi(text)
	if err != nil || days < 1 || days > 36500 {
		return client.History{}, &usageError{fmt.Errorf("--history %q: want all, none, or a number of days", text)}
	}
	return client.History{Days: days}, nil
}

// linkCommands are those by which a member's device lets in a further one.
func (a *app) linkCommands() []*cobra.Command {
	return []*cobra.Command{a.introduceCommand(), a.linkCommand(), a.signCommand(), a.historyCommand()}
}

func (a *app) introduceCommand() *cobra.Command {
	var f deviceFlags
	var out string
	c := &cobra.Command{
		Use:   "introduce",
		Short: "Write a file that tells a further device of this member where it belongs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, _, err := a.device(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			h, err := home.Load(f.dir)
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(introduction{Organisation: h.Organisation, Server: h.Server, Member: d.Member(), Name: d.Name()}, "", "  ")
			if err != nil {
				return err
			}
			if err := home.WriteFile(out, append(data, '\n'), 0o600); err != nil {
				return err
			}
			return a.print(map[string]any{"file": out}, "%s: take it to the new device, for `chancery device link`", out)
		},
	}
	f.add(c)
	c.Flags().StringVar(&out, "out", "device.introduction", "`FILE` to write")
	return c
}

func (a *app) linkCommand() *cobra.Command {
	var f deviceFlags
	var from, out string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "link",
		Short: "Make a further device of a member, which another one signs for",
		Long: `Make a further device of a member, which another one signs for: write the
request for that, wait, and complete the enrolment. Run it again to go on
waiting.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := os.ReadFile(from)
			if err != nil {
				return fmt.Errorf("couldn't read the introduction: %w", err)
			}
			i, err := parseIntroduction(data)
			if err != nil {
				return hint(err, "`chancery device introduce` on the member's other device writes such files")
			}
			cfg, e, err := a.newDevice(cmd, &f, i)
			if err != nil {
				return err
			}
			request, err := client.Link(*cfg, *e)
			if err != nil {
				return err
			}
			hash, err := client.LinkHash(request)
			if err != nil {
				return err
			}
			if err := home.WriteFile(out, request, 0o600); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "%s: take it to the member's other device, for `chancery device sign`, which has to show device\n  %s\n", out, hash)
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			d, err := client.Enrol(ctx, *cfg, *e)
			if errors.Is(err, context.DeadlineExceeded) {
				return hint(errors.New("no other device has signed yet"), "run the same command again to go on waiting")
			}
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.Sync(cmd.Context()); err != nil { // and ask for history
				return err
			}
			return a.print(map[string]any{"device": d.Hash(), "member": d.Member()}, "device %s of %s is enrolled", d.Hash().Short(), plain(i.Name))
		},
	}
	f.add(c)
	c.Flags().StringVar(&from, "introduction", "device.introduction", "the member's other device's `FILE`")
	c.Flags().StringVar(&out, "request", "device.request", "`FILE` to write for the other device to sign")
	c.Flags().DurationVar(&wait, "wait", 5*time.Minute, "how long to wait for the other device")
	return c
}

// newDevice prepares the folder of a further device.
func (a *app) newDevice(cmd *cobra.Command, f *deviceFlags, i *introduction) (*client.Config, *client.Enrolment, error) {
	if err := unpinned(f.dir, i.Organisation); err != nil {
		return nil, nil, err
	}
	h := &home.Home{Organisation: i.Organisation, Server: i.Server}
	s, err := openHome(cmd.Context(), f.dir, h, nil)
	if err != nil {
		return nil, nil, err
	}
	secret, err := a.secret(cmd.Context(), f.keyFile, true)
	if err != nil {
		return nil, nil, err
	}
	if err := h.Save(f.dir); err != nil {
		return nil, nil, err
	}
	key, err := stateKey(f.dir, secret, true)
	if err != nil {
		return nil, nil, err
	}
	cfg := deviceConfig(s)
	return &cfg, &client.Enrolment{Dir: f.dir, Key: key, Member: i.Member, Name: i.Name}, nil
}

func (a *app) signCommand() *cobra.Command {
	var f deviceFlags
	var much string
	var yes bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "sign REQUEST-FILE",
		Short: "Let in a further device of this member, and say how much history it may have",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			history, err := parseHistory(much)
			if err != nil {
				return err
			}
			request, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("couldn't read the new device's request: %w", err)
			}
			hash, err := client.LinkHash(request)
			if err != nil {
				return hint(err, "`chancery device link` on the new device writes such files")
			}
			if !yes {
				if yes, err = a.confirm(cmd.Context(), fmt.Sprintf("device\n  %s\nwill read and write in this member's name. Does the new device show the same?", hash)); err != nil {
					return err
				}
				if !yes {
					return errors.New("not signed")
				}
			}
			d, _, err := a.device(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			ctx, cancel := deadline(cmd)
			defer cancel()
			if _, err := d.SignFor(ctx, request, history); err != nil {
				return err
			}
			if err := a.share(cmd, d, wait); err != nil {
				return err
			}
			return a.print(map[string]any{"device": hash}, "device %s is signed for", hash.Short())
		},
	}
	f.add(c)
	c.Flags().StringVar(&much, "history", defaultHistory, "`HOW-MUCH` of what was said the new device may have: all, none, or a number of days")
	c.Flags().BoolVar(&yes, "yes", false, "the new device shows the same: don't ask")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for the new device to ask for history and fetch it; what is left goes with later sends and reads")
	return c
}

// share gives granted history, as long as the member wants to wait.
func (a *app) share(cmd *cobra.Command, d *client.Device, wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), wait)
	defer cancel()
	var progress func(int)
	if a.interactive() {
		progress = func(messages int) { fmt.Fprintf(a.err, "\r\x1b[Kgiving history: %d messages", messages) }
		defer fmt.Fprintln(a.err)
	}
	err := d.ShareHistory(ctx, progress)
	if errors.Is(err, context.DeadlineExceeded) && cmd.Context().Err() == nil {
		return nil // the rest goes later
	}
	return err
}

// handOver gives a device that has asked for it history from another one, both of
// them here.
func handOver(ctx context.Context, from, to *client.Device, much client.History) error {
	if much == (client.History{}) {
		return nil
	}
	if err := from.GrantHistory(to.Hash(), much); err != nil {
		return err
	}
	for {
		for _, d := range []*client.Device{from, to} {
			if _, err := d.Sync(ctx); err != nil {
				return err
			}
		}
		if status, err := to.HistoryStatus(); err != nil || status.Complete {
			return err
		}
	}
}

func (a *app) historyCommand() *cobra.Command {
	var f deviceFlags
	var much string
	var ask bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "history [DEVICE]",
		Short: "Give another device of this member history, ask for it, or see how it stands",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			history, err := parseHistory(much)
			if err != nil {
				return err
			}
			if ask && len(args) > 0 {
				return &usageError{errors.New("a device asks all others: --ask takes no DEVICE")}
			}
			d, _, _, err := a.synced(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			switch {
			case ask:
				if err := d.AskHistory(); err != nil {
					return err
				}
				if _, err := d.Sync(cmd.Context()); err != nil {
					return err
				}
			case len(args) == 1:
				known, err := d.Siblings()
				if err != nil {
					return err
				}
				device, err := parseHash(args[0], known)
				if err != nil {
					return hint(err, "`chancery device list` shows the devices")
				}
				if err := d.GrantHistory(device, history); err != nil {
					return err
				}
				if _, err := d.Sync(cmd.Context()); err != nil {
					return err
				}
				if err := a.share(cmd, d, wait); err != nil {
					return err
				}
				return a.print(map[string]any{"device": device}, "device %s may have history", device.Short())
			}
			return a.printHistory(d)
		},
	}
	f.add(c)
	c.Flags().StringVar(&much, "history", defaultHistory, "`HOW-MUCH` of what was said DEVICE may have: all, none, or a number of days")
	c.Flags().BoolVar(&ask, "ask", false, "ask this member's older devices (again)")
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for DEVICE to ask and fetch; what is left goes with later sends and reads")
	return c
}

func (a *app) printHistory(d *client.Device) error {
	status, err := d.HistoryStatus()
	if err != nil {
		return err
	}
	past, err := d.HistoryConversations()
	if err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]any{"status": status, "conversations": past})
	}
	state := "this device has not asked for history"
	switch {
	case status.Complete:
		state = "all the history that another device gave has come"
	case status.Partial:
		state = "a part of the history that another device gives has come"
	case !status.Asked.IsZero():
		state = fmt.Sprintf("history was asked for on %s, and no other device has given any", status.Asked.Format(time.DateOnly))
	}
	fmt.Fprintln(a.out, state)
	for _, p := range past {
		incomplete := ""
		if !p.Complete {
			incomplete = " (incomplete)"
		}
		fmt.Fprintf(a.out, "%s  %q%s\n", p.ID, p.Name, incomplete)
	}
	return nil
}

// printPast shows what other devices of the member say was said before.
func (a *app) printPast(enc *json.Encoder, d *client.Device, conversation codec.ID) error {
	var past []*client.Message
	for m, err := range d.History(conversation) {
		if err != nil {
			return err
		}
		past = append(past, m)
	}
	slices.SortStableFunc(past, func(x, y *client.Message) int { return cmp.Compare(x.Position, y.Position) })
	for _, m := range past {
		if a.json {
			if err := enc.Encode(&client.Entry{Message: m, Text: m.Text}); err != nil {
				return err
			}
			continue
		}
		if m.Text == "" {
			continue
		}
		if _, err := fmt.Fprintf(a.out, "  %s  %s  %s: %s  [history, on the word of device %s]\n",
			m.ID, m.Time.UTC().Format("2006-01-02 15:04"), plain(m.Sender), lines(m.Text, "      "), m.From.Short()); err != nil {
			return err
		}
	}
	return nil
}

// printPasts shows the history of conversations that the device isn't in.
func (a *app) printPasts(enc *json.Encoder, d *client.Device, in []client.Conversation) error {
	past, err := d.HistoryConversations()
	if err != nil {
		return err
	}
	for _, p := range past {
		if slices.ContainsFunc(in, func(c client.Conversation) bool { return c.ID == p.ID }) {
			continue
		}
		if !a.json {
			fmt.Fprintf(a.out, "%s %q (history alone: this device isn't in it)\n", p.ID, p.Name)
		}
		if err := a.printPast(enc, d, p.ID); err != nil {
			return err
		}
	}
	return nil
}
