// Package cli is the command line: it reads flags, builds the parts and calls
// them. Every error says what was wrong and, where there is one, the next step.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/client/remote"
	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/directory"
	"chancery/internal/dirlock"
	"chancery/internal/home"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/request"
)

// app is what every command shares: where it reads and writes, and the flags
// that all have.
type app struct {
	in      io.Reader
	out     io.Writer
	err     io.Writer
	home    string
	json    bool
	verbose bool
	piped   bool
}

// exitError carries an exit code that isn't 1.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// hinted is an error with the next step to take.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Main runs the command line and returns its exit code: 0 for success, 2 for
// a command that was typed wrong, 1 for everything else that failed.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends a command that doesn't notice the first.
	context.AfterFunc(ctx, stop)
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		fmt.Fprintln(errOut, "chancery: interrupted")
		return 1
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	fmt.Fprintf(errOut, "chancery: %s\n", lines(err.Error(), "  "))
	for _, h := range hints(err) {
		fmt.Fprintf(errOut, "hint: %s\n", plain(h))
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

// usageError is a command that was typed wrong.
type usageError struct{ error }

func (u *usageError) Unwrap() error { return u.error }

// hints finds the next steps for an error, from what it is made of.
func hints(err error) []string {
	var out []string
	var h *hinted
	if errors.As(err, &h) {
		out = append(out, h.hint)
	}
	var problem *wire.Problem
	if errors.As(err, &problem) && problem.Hint != "" {
		out = append(out, problem.Hint)
	}
	var usage *usageError
	switch {
	case len(out) > 0:
	case errors.As(err, &usage):
		out = append(out, "add --help for what the command takes")
	case errors.Is(err, syscall.EADDRINUSE):
		out = append(out, "another program listens there: stop it, or name another address with --listen")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, remote.ErrUnavailable):
		out = append(out, "nothing answers there: is the server or holder running, and the URL right?")
	case errors.Is(err, custody.ErrSecret), errors.Is(err, state.ErrKey):
		out = append(out, "the file is whole and its secret another: look for the right --key-file or CHANCERY_PASSPHRASE")
	case errors.Is(err, custody.ErrKeyFile):
		out = append(out, "a key file has exactly 32 bytes and mode 0600; `init` and `device enrol` make it")
	case errors.Is(err, dirlock.ErrInUse):
		out = append(out, "it runs already: one folder serves one process")
	case errors.Is(err, client.ErrNoConversation):
		out = append(out, "`chancery conversation list` shows this device's conversations")
	case errors.Is(err, directory.ErrNotFounded):
		out = append(out, "officers found it with `chancery init`")
	case errors.Is(err, directory.ErrFounded):
		out = append(out, "a server's folder is one organisation's: use another --server-dir")
	case errors.Is(err, home.ErrNone):
		out = append(out, "name the home folder with --home, or make one with `chancery join`")
	case errors.Is(err, client.ErrHalted):
		out = append(out, "`chancery-verify evidence` judges the file; docs/runbooks/fork.md says what to do before it is moved away")
	case errors.Is(err, client.ErrUncertified):
		out = append(out, "`chancery device request` and `chancery device certify` get one from an outside authority; `chancery ca show` names them")
	case errors.Is(err, ledger.ErrUnwitnessed), errors.Is(err, ledger.ErrStale):
		out = append(out, "are the witnesses running? `chancery status` shows what they have seen")
	case errors.Is(err, replica.ErrForgotten):
		out = append(out, "the server shows another history than before: keep both, and call your auditor")
	case errors.Is(err, control.ErrUnauthorised):
		out = append(out, "this key may not sign it: `chancery people list` shows who may sign what")
	case errors.Is(err, request.ErrApprovals):
		out = append(out, "ask more approvers to run `chancery approve`")
	}
	return out
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "chancery",
		Short: "End-to-end encrypted messaging for organisations that must keep records",
		Long: `Chancery keeps messages readable on the members' devices and, until an approved
opening, nowhere else. Every message leaves a sealed copy in an encrypted
archive; a sealed copy opens only when enough people approve and enough
keyholders take part, and every opening is on a log that anyone can check.

  chancery demo        plays the whole path on this machine`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVar(&a.home, "home", defaultHome(), "`FOLDER` with chancery.json and keys")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON, for scripts")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log more to standard error")
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start:"},
		&cobra.Group{ID: "members", Title: "Members and devices:"},
		&cobra.Group{ID: "matters", Title: "Matters:"},
		&cobra.Group{ID: "keys", Title: "Keys and people:"},
		&cobra.Group{ID: "daemons", Title: "Daemons:"},
		&cobra.Group{ID: "audit", Title: "Audit:"},
	)
	group := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	group("start", a.demoCommand(), a.initCommand(), a.joinCommand(), a.statusCommand())
	group("members", a.memberCommand(), a.deviceCommand(), a.conversationCommand(), a.sendCommand(), a.readCommand(), a.safetyNumberCommand())
	group("matters", a.matterCommand(), a.holdCommand(), a.searchCommand(), a.requestCommand(), a.approveCommand(), a.refuseCommand(),
		a.withdrawCommand(), a.openCommand(), a.exportCommand())
	group("keys", a.keyCommand(), a.caCommand(), a.peopleCommand(), a.policyCommand())
	group("daemons", a.serverCommand(), a.witnessCommand(), a.holderCommand(true), a.holderCommand(false))
	group("audit", a.verifyCommand(), a.reportCommand(), a.logCommand(), a.benchCommand())
	root.AddCommand(a.devicesCommand(), a.openerCommand())
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	wrapArgs(root)
	return root
}

// wrapArgs makes errors about arguments and missing flags usage errors, and has
// commands that only group others refuse a name that none of them has.
func wrapArgs(c *cobra.Command) {
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args, c.RunE = cobra.ArbitraryArgs, groupOnly
		return
	}
	check := c.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if check(c, args) != nil {
			_, arguments, _ := strings.Cut(c.Use, " ")
			return &usageError{fmt.Errorf("want `%s`, and not %s", strings.TrimSpace(c.CommandPath()+" "+arguments), count(len(args), "argument"))}
		}
		if err := c.ValidateRequiredFlags(); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

// groupOnly is what a command does that others hang under: it shows them.
func groupOnly(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	err := &usageError{fmt.Errorf("%s has no command %q", c.CommandPath(), args[0])}
	c.SuggestionsMinimumDistance = 2 // letters mistyped, cobra's own default for what it finds itself
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return hint(err, "did you mean `%s %s`?", c.CommandPath(), near[0])
	}
	return err
}

// helpCommand is cobra's own, but that to ask about what there is not is an
// error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Help about any command",
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil {
				return &usageError{err}
			}
			if len(rest) > 0 {
				return groupOnly(found, rest)
			}
			return found.Help()
		},
	}
}

func defaultHome() string {
	if dir := os.Getenv("CHANCERY_HOME"); dir != "" {
		return dir
	}
	if dir, err := os.UserHomeDir(); err == nil {
		return dir + "/.chancery"
	}
	return ".chancery"
}

func (a *app) log() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// print writes v as JSON with --json, and otherwise the words.
func (a *app) print(v any, format string, args ...any) error {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}

// listen opens what --listen names: an address, or fd:N for a socket that the
// caller opened, as service managers do.
func listen(spec string) (net.Listener, error) {
	number, inherited := strings.CutPrefix(spec, "fd:")
	if !inherited {
		l, err := net.Listen("tcp", spec)
		if err != nil {
			return nil, fmt.Errorf("couldn't listen on %s: %w", spec, err)
		}
		return l, nil
	}
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 {
		return nil, &usageError{fmt.Errorf("--listen %s: want fd: and a number from 3", spec)}
	}
	f := os.NewFile(uintptr(fd), spec)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("couldn't listen on %s: %w", spec, err)
	}
	return l, nil
}

// serving says where a daemon listens and returns a context that ends when it
// should stop.
func (a *app) serving(ctx context.Context, role string, l net.Listener) (context.Context, context.CancelFunc, error) {
	if err := a.print(map[string]string{"role": role, "listening": l.Addr().String()}, "%s listening on %s", role, l.Addr()); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	if a.piped {
		go func() {
			io.Copy(io.Discard, a.in) // returns when whoever started this daemon is gone
			cancel()
		}()
	}
	return ctx, cancel, nil
}

// pipedFlag lets a daemon end with its standard input, for callers that must
// leave none behind.
func (a *app) pipedFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.piped, "stop-with-stdin", false, "stop when standard input ends")
}

// endpoints reads NAME=URL flags.
func endpoints(flags []string) ([]wire.Endpoint, error) {
	var out []wire.Endpoint
	for _, f := range flags {
		name, address, ok := strings.Cut(f, "=")
		if !ok || name == "" {
			return nil, &usageError{fmt.Errorf("%q: want NAME=URL", f)}
		}
		if err := checkURL(address); err != nil {
			return nil, err
		}
		out = append(out, wire.Endpoint{Name: name, URL: address})
	}
	return out, nil
}

// checkURL refuses what no request could be sent to.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return &usageError{fmt.Errorf("%q is no URL like http://127.0.0.1:8440", text)}
	}
	return nil
}

// session is a person's or operator's connection to their organisation.
type session struct {
	home    *home.Home
	server  *remote.Client
	replica *replica.Replica
}

func memoryPath(dir string) string { return dir + "/checkpoint" }

// open connects to the organisation of the home folder and replays its log.
func (a *app) open(ctx context.Context, auth remote.Auth) (*session, error) {
	h, err := home.Load(a.home)
	if err != nil {
		return nil, err
	}
	return openHome(ctx, a.home, h, auth)
}

// openHome replays the log of the organisation that a folder is, or is about to
// be, pinned to.
func openHome(ctx context.Context, dir string, h *home.Home, auth remote.Auth) (*session, error) {
	s, err := offline(dir, h, auth)
	if err != nil {
		return nil, err
	}
	if err := s.replica.Sync(ctx, s.server); err != nil {
		return nil, keepEvidence(dir, h.Organisation, err)
	}
	return s, home.WriteFile(memoryPath(dir), s.replica.Memory(), 0o644)
}

// keepEvidence writes what convicts the server into a folder, if an error comes
// with that.
func keepEvidence(dir string, organisation codec.Hash, err error) error {
	var c *replica.Conviction
	if !errors.As(err, &c) {
		return err
	}
	path, keepErr := client.KeepEvidence(dir, c)
	if keepErr != nil {
		return errors.Join(err, keepErr)
	}
	return hint(err, "%s proves it to anybody: `chancery-verify evidence --organisation %s %s`, and docs/runbooks/fork.md", path, organisation, path)
}

// offline is the session of a folder before the log is read.
func offline(dir string, h *home.Home, auth remote.Auth) (*session, error) {
	s := &session{home: h, server: remote.New(h.Server, nil, auth), replica: replica.New(h.Organisation)}
	memory, err := os.ReadFile(memoryPath(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("couldn't read the remembered checkpoint: %w", err)
	}
	s.replica.Remember(memory)
	return s, nil
}

// unpinned refuses a folder that is another organisation's: whom one trusts is
// changed on purpose or not at all.
func unpinned(dir string, organisation codec.Hash) error {
	h, err := home.Load(dir)
	switch {
	case errors.Is(err, home.ErrNone):
		return nil
	case err != nil:
		return err
	case h.Organisation != organisation:
		return hint(fmt.Errorf("%s is pinned to organisation %s", dir, h.Organisation.Short()), "use another folder for another organisation")
	}
	return nil
}

// parseHash finds a full hash among candidates by its beginning, so that people
// may type as little as is unambiguous.
func parseHash(text string, candidates []codec.Hash) (codec.Hash, error) {
	var found []codec.Hash
	for _, c := range candidates {
		if len(text) >= 6 && strings.HasPrefix(c.String(), text) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return codec.Hash{}, &usageError{fmt.Errorf("%q is the beginning of no known id (six characters at least)", text)}
	}
	return codec.Hash{}, &usageError{fmt.Errorf("%q is the beginning of %d ids: type more of it", text, len(found))}
}

// stateTime is how long a command waits for the witnesses.
const stateTime = time.Minute
