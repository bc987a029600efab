package cli

import (
	"context"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/home"
	"chancery/internal/httpsig"
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

// desk connects a person, with the holders to hand things to.
func (a *app) desk(cmd *cobra.Command, path string) (*session, *matters.Desk, error) {
	s, key, err := a.asPerson(cmd, path)
	if err != nil {
		return nil, nil, err
	}
	d := &matters.Desk{
		Server: s.server, Replica: s.replica, Key: key, Holders: map[string]matters.Holder{}, Now: time.Now, Rand: rand.Reader,
	}
	endpoints := slices.Concat(s.home.Keyholders, s.home.Guards)
	if len(endpoints) == 0 {
		// A home that names no holders asks the server where they are. What is
		// handed over is signed; a server that lies here is found out by a
		// holder's status.
		o, err := s.server.Organisation(cmd.Context())
		if err != nil {
			return nil, nil, err
		}
		endpoints = slices.Concat(o.Keyholders, o.Guards)
	}
	for name, h := range a.holders(endpoints, httpsig.SSH(key)) {
		d.Holders[name] = h
	}
	return s, d, nil
}

// deadline bounds a command that waits for the witnesses.
func deadline(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), stateTime)
}

// day reads a date as UTC days since 1970.
func day(text string) (uint32, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Unix() < 0 {
		return 0, &usageError{fmt.Errorf("%q is no date like 2026-11-22", text)}
	}
	return envelope.DayOf(t), nil
}

func (a *app) matterCommand() *cobra.Command {
	c := &cobra.Command{Use: "matter", Short: "Open a matter and see how matters stand"}
	var key, title, purpose, basis string
	open := &cobra.Command{
		Use:   "open",
		Short: "Open a matter",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, d, err := a.desk(cmd, key)
			if err != nil {
				return err
			}
			details, err := request.NewDetails(rand.Reader, title, purpose, basis, nil)
			if err != nil {
				return err
			}
			// The log has but a hash of the details: they are on disk before it.
			id := codec.NewID()
			data, err := json.MarshalIndent(details, "", "  ")
			if err != nil {
				return err
			}
			file := a.matterPath(id)
			if err := home.WriteFile(file, append(data, '\n'), 0o600); err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			err = d.OpenMatter(ctx, id, details)
			if refused(err) {
				return errors.Join(err, os.Remove(file))
			}
			if err != nil {
				return err
			}
			return a.print(map[string]any{"matter": id}, "matter %s is open", id)
		},
	}
	keyFlag(open, &key)
	open.Flags().StringVar(&title, "title", "", "`TEXT`, kept on this machine and in what you hand over (required)")
	open.Flags().StringVar(&purpose, "purpose", "", "`TEXT`, kept like the title")
	open.Flags().StringVar(&basis, "legal-basis", "", "`TEXT`, kept like the title")
	must(open.MarkFlagRequired("title"))

	var listKey string
	list := &cobra.Command{
		Use:   "list",
		Short: "List matters, with their holds and requests",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := a.asPerson(cmd, listKey)
			if err != nil {
				return err
			}
			return a.printMatters(s)
		},
	}
	keyFlag(list, &listKey)

	var showKey string
	show := &cobra.Command{
		Use:   "show MATTER",
		Short: "Show one matter: its details, if they are kept here, its holds and requests",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := codec.ParseID(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("the matter's id: %w", err)}
			}
			s, _, err := a.asPerson(cmd, showKey)
			if err != nil {
				return err
			}
			var m control.MatterState
			s.replica.Read(func(st *control.State) {
				if x, ok := st.Matter(id); ok {
					m = *x
				}
			})
			if m.ID.IsZero() {
				return hint(fmt.Errorf("the log has no matter %s", id), "`chancery matter list` shows all matters")
			}
			v, err := a.view(&m)
			if err != nil {
				return err
			}
			return a.printMatter(s, v)
		},
	}
	keyFlag(show, &showKey)
	c.AddCommand(open, list, show)
	return c
}

// matterPath is where the details of a matter lie that was opened from here.
func (a *app) matterPath(id codec.ID) string {
	return filepath.Join(a.home, "matters", id.String()+".json")
}

// matterView is what is known here of one matter.
type matterView struct {
	Matter     codec.ID `json:"matter"`
	Title      string   `json:"title,omitempty"`
	Purpose    string   `json:"purpose,omitempty"`
	LegalBasis string   `json:"legal_basis,omitempty"`
}

// view reads what a matter is about, which only the folder of whoever opened it
// knows, once it is what the log's leaf stands for.
func (a *app) view(m *control.MatterState) (*matterView, error) {
	v := &matterView{Matter: m.ID}
	data, err := os.ReadFile(a.matterPath(m.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the matter's details: %w", err)
	}
	var d request.Details
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("couldn't read the matter's details: %w", err)
	}
	if d.Hash() != m.Details {
		return nil, errors.New("the details kept here are not those that the matter was opened with")
	}
	v.Title, v.Purpose, v.LegalBasis = d.Title, d.Purpose, d.LegalBasis
	return v, nil
}

func (v *matterView) write(w io.Writer) {
	title := v.Title
	if title == "" {
		title = "in the home folder of whoever opened it"
	}
	fmt.Fprintf(w, "matter   %s\ntitle    %s\n", v.Matter, plain(title))
	for _, row := range [][2]string{{"purpose", v.Purpose}, {"basis", v.LegalBasis}} {
		if row[1] != "" {
			fmt.Fprintf(w, "%-8s %s\n", row[0], plain(row[1]))
		}
	}
}

// holdRow and requestRow are what people see of a hold and of a request.
type holdRow struct {
	Hold         codec.Hash `json:"hold"`
	Matter       codec.ID   `json:"matter"`
	From         string     `json:"from"`
	To           string     `json:"to"`
	Custodians   int        `json:"custodians"`
	Acknowledged int        `json:"acknowledged"`
}

type requestRow struct {
	Request    codec.Hash `json:"request"`
	Matter     codec.ID   `json:"matter"`
	From       string     `json:"from"`
	To         string     `json:"to"`
	Custodians int        `json:"custodians"`
	MaxCount   uint64     `json:"max_count"`
	Search     bool       `json:"search"`
	Expiry     time.Time  `json:"expiry"`
	Approvals  int        `json:"approvals"`
	Uses       int        `json:"uses"`
	State      string     `json:"state"`
}

// standing is how a request stands, in words.
func standing(st *control.State, r *control.RequestState, now int64) string {
	if r.Opening != nil {
		return "opened: " + count(int(r.Opening.Exported), "record")
	}
	policy, err := st.PolicyFor(r, now)
	if err == nil {
		err = request.Ready(r, &policy, now)
	}
	if err != nil {
		return err.Error()
	}
	return "ready to open"
}

// holdsAndRequests returns what there is of one matter.
func holdsAndRequests(st *control.State, matter codec.ID, now time.Time) (holds []holdRow, requests []requestRow) {
	for _, h := range st.Holds() {
		if h.Matter == matter {
			holds = append(holds, holdRow{h.Hash, h.Matter, dateOf(h.FromDay), dateOf(h.ToDay), len(h.Custodians), len(h.Acknowledged)})
		}
	}
	for _, r := range st.Requests() {
		if r.Matter == matter {
			requests = append(requests, requestRow{
				r.Hash, r.Matter, dateOf(r.FromDay), dateOf(r.ToDay), len(r.Custodians), r.MaxCount, r.Search,
				time.UnixMilli(r.Expiry).UTC(), len(r.Approvals), len(r.Uses), standing(st, r, now.UnixMilli()),
			})
		}
	}
	return holds, requests
}

// writeRows shows a matter's holds and requests.
func writeRows(w io.Writer, holds []holdRow, requests []requestRow) {
	for _, h := range holds {
		fmt.Fprintf(w, "hold     %s  %s to %s, %s, acknowledged by %s\n",
			h.Hold.Short(), h.From, h.To, count(h.Custodians, "custodian"), count(h.Acknowledged, "device"))
	}
	for _, r := range requests {
		fmt.Fprintf(w, "request  %s  %s to %s, %s, at most %s, %s: %s\n",
			r.Request.Short(), r.From, r.To, count(r.Custodians, "custodian"), count(int(r.MaxCount), "record"), count(r.Approvals, "approval"), r.State)
	}
	if len(holds)+len(requests) == 0 {
		fmt.Fprintln(w, "no hold stands, and nothing is requested")
	}
}

// printMatter shows one matter, its holds and requests.
func (a *app) printMatter(s *session, v *matterView) error {
	out := struct {
		*matterView
		Holds    []holdRow    `json:"holds"`
		Requests []requestRow `json:"requests"`
	}{matterView: v}
	s.replica.Read(func(st *control.State) { out.Holds, out.Requests = holdsAndRequests(st, v.Matter, time.Now()) })
	if a.json {
		return json.NewEncoder(a.out).Encode(out)
	}
	v.write(a.out)
	writeRows(a.out, out.Holds, out.Requests)
	return nil
}

// printMatters shows all matters, with their holds and requests.
func (a *app) printMatters(s *session) error {
	out := struct {
		Matters  []*matterView `json:"matters"`
		Holds    []holdRow     `json:"holds"`
		Requests []requestRow  `json:"requests"`
	}{[]*matterView{}, []holdRow{}, []requestRow{}}
	var text strings.Builder
	var err error
	s.replica.Read(func(st *control.State) {
		for _, m := range st.Matters() {
			var v *matterView
			if v, err = a.view(m); err != nil {
				return
			}
			holds, requests := holdsAndRequests(st, m.ID, time.Now())
			out.Matters, out.Holds, out.Requests = append(out.Matters, v), append(out.Holds, holds...), append(out.Requests, requests...)
			v.write(&text)
			writeRows(&text, holds, requests)
		}
	})
	if err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(out)
	}
	if text.Len() == 0 {
		text.WriteString("no matter is open\n")
	}
	_, err = io.WriteString(a.out, text.String())
	return err
}

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
