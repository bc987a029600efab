package cli

import (
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/home"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/request"
)

func readRequestFile(path string) (*home.Request, *request.Details, error) {
	f, d, err := home.ReadRequest(path)
	if err != nil {
		return nil, nil, hint(err, "the requester has the file: `chancery search` and `chancery request` write it")
	}
	return f, d, nil
}

// openingFlags are what search and request take.
type openingFlags struct {
	scope                scopeFlags
	key, title, purpose  string
	basis, out           string
	terms, conversations []string
	count                uint64
	hours                int
	search               bool
}

// draft is what the flags ask for, but for what the directory and chance add.
func (f *openingFlags) draft() (*matters.Draft, error) {
	if f.search && len(f.terms) == 0 {
		return nil, &usageError{errors.New("--term is needed: what to search for (repeat for alternatives)")}
	}
	for _, t := range f.terms {
		if len(blindindex.Tokenize(t)) == 0 {
			return nil, &usageError{fmt.Errorf("--term %q has no word to search for", t)}
		}
	}
	if f.count == 0 || f.hours < 1 {
		return nil, &usageError{errors.New("--count and --hours are at least 1")}
	}
	in, err := f.scope.parse()
	if err != nil {
		return nil, err
	}
	d := &matters.Draft{
		Matter: in.matter, FromDay: in.from, ToDay: in.to,
		MaxCount: f.count, Search: f.search, Expiry: time.Now().Add(time.Duration(f.hours) * time.Hour),
	}
	for _, id := range f.conversations {
		conversation, err := codec.ParseID(id)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--conversation: %w", err)}
		}
		d.Conversations = append(d.Conversations, conversation)
	}
	return d, nil
}

// openingCommand makes `search` and `request`, which differ in whether index
// envelopes are opened first.
func (a *app) openingCommand(use, short, long string, search bool) *cobra.Command {
	in := openingFlags{search: search}
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.requestOpening(cmd, &in) },
	}
	keyFlag(c, &in.key)
	in.scope.add(c)
	f := c.Flags()
	f.StringArrayVar(&in.conversations, "conversation", nil, "`ID` of a conversation, to narrow the scope (repeat)")
	if search {
		f.StringArrayVar(&in.terms, "term", nil, "`WORD` to search for (repeat for alternatives; required)")
	}
	f.StringVar(&in.title, "title", "", "`TEXT` that approvers read")
	f.StringVar(&in.purpose, "purpose", "", "`TEXT` that approvers read, and auditors in the evidence")
	f.StringVar(&in.basis, "legal-basis", "", "`TEXT` that approvers read, and auditors in the evidence")
	f.Uint64Var(&in.count, "count", 1000, "greatest `NUMBER` of records to open")
	f.IntVar(&in.hours, "hours", 72, "`HOURS` until the request expires")
	f.StringVar(&in.out, "out", "", "`FILE` to write the request to (default: in the home folder)")
	return c
}

func (a *app) requestOpening(cmd *cobra.Command, f *openingFlags) error {
	draft, err := f.draft()
	if err != nil {
		return err
	}
	s, d, err := a.desk(cmd, f.key)
	if err != nil {
		return err
	}
	if draft.Custodians, err = resolve(cmd, s.server, f.scope.custodians); err != nil {
		return err
	}
	if draft.Details, err = request.NewDetails(rand.Reader, f.title, f.purpose, f.basis, f.terms); err != nil {
		return err
	}
	recipient, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return fmt.Errorf("couldn't make the recipient's key: %w", err)
	}
	draft.Recipient = recipient.PublicKey().Bytes()
	secret, err := recipient.Bytes()
	if err != nil {
		return fmt.Errorf("couldn't keep the recipient's key: %w", err)
	}
	defer clear(secret)
	var keyFile string
	requestFile, kept := f.out, false
	draft.Keep = func(h codec.Hash) error {
		if requestFile == "" {
			requestFile = filepath.Join(a.home, "requests", h.String()+".request")
		}
		if err := (&home.Request{Request: h, Matter: draft.Matter, Details: draft.Details.Encode()}).Save(requestFile); err != nil {
			return err
		}
		keyFile = recipientPath(a.home, h)
		if err := home.WriteFile(keyFile, secret, 0o600); err != nil {
			return errors.Join(err, os.Remove(requestFile))
		}
		kept = true
		return nil
	}
	ctx, cancel := deadline(cmd)
	defer cancel()
	h, err := d.Request(ctx, draft)
	switch {
	case err == nil:
	case refused(err) && kept:
		// Nothing on the log, so nothing to approve or to open.
		return errors.Join(err, os.Remove(requestFile), os.Remove(keyFile))
	case kept:
		return hint(err, "the request may be on the log all the same, and its file is %s: look with `chancery matter list`", requestFile)
	default:
		return err
	}
	return a.print(map[string]any{"request": h, "file": requestFile},
		"request %s is on the log\nhand this file to the approvers, who run `chancery approve` on it:\n  %s", h.Short(), requestFile)
}

// refused reports whether the server said no, so that nothing was logged.
func refused(err error) bool {
	var p *wire.Problem
	return errors.As(err, &p) && p.Status < 500
}

func recipientPath(dir string, h codec.Hash) string {
	return filepath.Join(dir, "recipients", h.String()+".key")
}

func (a *app) searchCommand() *cobra.Command {
	return a.openingCommand("search", "Request a search: index envelopes first, then the hits",
		`Request a search. Approvers read custodians, days, terms and purpose in clear;
keyholders check ids, days and counts; the server sees neither term nor hit.`, true)
}

func (a *app) requestCommand() *cobra.Command {
	return a.openingCommand("request", "Request the opening of everything in a scope",
		`Request the opening of every message of the custodians between two days, or of
the conversations named.`, false)
}

// request finds a request by the beginning of its hash, or by its file.
func (s *session) request(text string) (codec.Hash, error) {
	f, _, err := readRequestFile(text)
	if err == nil {
		return f.Request, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return codec.Hash{}, err // it is a file, and no request's
	}
	var known []codec.Hash
	s.replica.Read(func(st *control.State) {
		for _, r := range st.Requests() {
			known = append(known, r.Hash)
		}
	})
	h, err := parseHash(text, known)
	if err != nil {
		return h, hint(err, "name the request's file, or the id that `chancery matter list` shows")
	}
	return h, nil
}
