package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/home"
	"chancery/request"
)

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
