package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/ceremony"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/report"
	"chancery/sshsig"
)

// asOfficers connects in the name of several officers, the first of whom asks.
func (a *app) asOfficers(cmd *cobra.Command, keys []string) (*session, []ssh.Signer, error) {
	officers, err := a.signers(cmd.Context(), keys)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.open(cmd.Context(), httpsig.SSH(officers[0]))
	return s, officers, err
}

// submit offers what officers sign to the log and waits until the witnesses
// have seen it. Where signatures are missing it says who gives them: next,
// which is `chancery key sign` by other officers unless it is named.
func (a *app) submit(cmd *cobra.Command, s *session, body control.Body, officers []ssh.Signer, next, format string, args ...any) error {
	ctx, cancel := deadline(cmd)
	defer cancel()
	done, _, err := ceremony.Submit(ctx, s.server, rand.Reader, s.home.Organisation, body, officers...)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(format, args...)
	if done.Index < 0 {
		if next == "" {
			next = "it holds once other officers have signed: they run `chancery key sign`"
		}
		return a.print(done, "signed, and not on the log yet: %s\n%s", text, next)
	}
	if err := matters.Await(ctx, s.replica, s.server, done.Index); err != nil {
		return err
	}
	return a.print(done, "%s (leaf %d)", text, done.Index)
}

func (a *app) peopleCommand() *cobra.Command {
	c := &cobra.Command{Use: "people", Short: "Officers, approvers, reviewers and auditors"}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the people's SSH keys and what each may sign",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return a.printPeople(s)
		},
	}

	var keys []string
	var remove bool
	change := &cobra.Command{
		Use:   "role ROLE PUBLIC-KEY-FILE",
		Short: "Give a person the role of officer, approver, reviewer or auditor, or take it with --remove",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			role := control.Role(args[0])
			if !slices.Contains([]control.Role{control.RoleOfficer, control.RoleApprover, control.RoleReviewer, control.RoleAuditor}, role) {
				return &usageError{fmt.Errorf("%q is no role: want officer, approver, reviewer or auditor", args[0])}
			}
			people, err := readPeople(args[1:], map[string]codec.ID{})
			if err != nil {
				return err
			}
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			body := &control.RoleChange{Nonce: codec.NewID(), Role: role, Person: people[0], Remove: remove}
			s.replica.Read(func(st *control.State) {
				if known, ok := st.Credential(sshsig.Credential(body.Person.Credential).ID()); ok {
					body.Person.Member = known.Member
				}
			})
			verb := "is now"
			if remove {
				verb = "is no longer"
			}
			return a.submit(cmd, s, body, officers, "", "%s %s %s", ceremony.Fingerprint(body.Person.Credential), verb, role)
		},
	}
	keysFlag(change, &keys)
	change.Flags().BoolVar(&remove, "remove", false, "take the role")
	c.AddCommand(list, change)
	return c
}

func (a *app) printPeople(s *session) error {
	type row struct {
		Key        string         `json:"key"` // as ssh-keygen -l shows it
		Credential codec.Hash     `json:"credential"`
		Member     codec.ID       `json:"member"`
		Roles      []control.Role `json:"roles"`
	}
	rows := []row{}
	s.replica.Read(func(st *control.State) {
		for _, c := range st.Credentials() {
			rows = append(rows, row{
				ceremony.Fingerprint(c.Person.Credential), sshsig.Credential(c.Person.Credential).ID(), c.Member, slices.Sorted(maps.Keys(c.Roles)),
			})
		}
	})
	if a.json {
		return json.NewEncoder(a.out).Encode(rows)
	}
	for _, r := range rows {
		var roles []string
		for _, x := range r.Roles {
			roles = append(roles, string(x))
		}
		if len(roles) == 0 {
			roles = []string{"no role any more"}
		}
		fmt.Fprintf(a.out, "%s  %-20s credential %s, member %s\n", r.Key, strings.Join(roles, ", "), r.Credential.Short(), r.Member)
	}
	return nil
}

// policyFlags declares a flag for each rule of a policy, with p's values as the
// defaults, and returns what copies a rule from one policy to another by the
// name of its flag.
func policyFlags(c *cobra.Command, p *control.Policy) map[string]func(to, from *control.Policy) {
	f := c.Flags()
	f.Uint8Var(&p.Approvals, "approvals", p.Approvals, "k, the `NUMBER` of approvers that a request needs")
	f.StringVar(&p.Region, "region", p.Region, "`NAME` of where envelopes are sealed to")
	f.StringVar(&p.Class, "class", p.Class, "`NAME` of the retention class")
	f.Uint32Var(&p.RetentionDays, "retention-days", p.RetentionDays, "`DAYS` that messages are kept")
	f.Uint32Var(&p.VetoSeconds, "veto-seconds", p.VetoSeconds, "`SECONDS` between the last approval and the first answer")
	f.Uint32Var(&p.MaxRequestDays, "max-request-days", p.MaxRequestDays, "greatest number of `DAYS` that one request may span")
	f.Uint32Var(&p.RequestHours, "request-hours", p.RequestHours, "greatest number of `HOURS` until a request expires")
	f.Uint64Var(&p.MaxCount, "max-count", p.MaxCount, "greatest `NUMBER` of records that one request may open")
	f.Uint64Var(&p.MaxIndexKeys, "max-index-keys", p.MaxIndexKeys, "greatest `NUMBER` of index envelopes that one request may open")
	f.BoolVar(&p.DeviceEvidenceNone, "allow-devices-without-evidence", p.DeviceEvidenceNone, "devices may enrol without platform evidence")
	f.BoolVar(&p.OpenerEvidenceNone, "allow-openers-without-evidence", p.OpenerEvidenceNone, "openers may be answered without evidence")
	type policy = control.Policy
	return map[string]func(to, from *policy){
		"approvals":                      func(to, from *policy) { to.Approvals = from.Approvals },
		"region":                         func(to, from *policy) { to.Region = from.Region },
		"class":                          func(to, from *policy) { to.Class = from.Class },
		"retention-days":                 func(to, from *policy) { to.RetentionDays = from.RetentionDays },
		"veto-seconds":                   func(to, from *policy) { to.VetoSeconds = from.VetoSeconds },
		"max-request-days":               func(to, from *policy) { to.MaxRequestDays = from.MaxRequestDays },
		"request-hours":                  func(to, from *policy) { to.RequestHours = from.RequestHours },
		"max-count":                      func(to, from *policy) { to.MaxCount = from.MaxCount },
		"max-index-keys":                 func(to, from *policy) { to.MaxIndexKeys = from.MaxIndexKeys },
		"allow-devices-without-evidence": func(to, from *policy) { to.DeviceEvidenceNone = from.DeviceEvidenceNone },
		"allow-openers-without-evidence": func(to, from *policy) { to.OpenerEvidenceNone = from.OpenerEvidenceNone },
	}
}

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "The organisation's rules: show them, change them"}
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the rules in force, from the witnessed log",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			var p control.PolicyState
			var g *control.Genesis
			s.replica.Read(func(st *control.State) { p, g = *st.Policy(), st.Genesis() })
			return a.print(policyJSON(&p, g), "%s", policyText(&p, g))
		},
	}

	var keys []string
	var flags control.Policy
	var rules map[string]func(to, from *control.Policy)
	set := &cobra.Command{
		Use:   "set",
		Short: "Change rules: those whose flags are given, as the next version",
		Long: `Change rules: those whose flags are given, as the next version. A quorum of
officers signs. What makes opening easier takes effect after three days; what
makes it harder, at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			var now control.Policy
			s.replica.Read(func(st *control.State) { now = st.Policy().Policy })
			next := now
			for name, rule := range rules {
				if cmd.Flags().Changed(name) {
					rule(&next, &flags)
				}
			}
			changes := ceremony.Changes(&now, &next)
			if len(changes) == 0 {
				return &usageError{errors.New("nothing changes: name what should, such as --approvals 4")}
			}
			next.Version++
			return a.submit(cmd, s, &next, officers, "", "policy version %d: %s", next.Version, strings.Join(changes, ", "))
		},
	}
	keysFlag(set, &keys)
	rules = policyFlags(set, &flags)
	c.AddCommand(show, set)
	return c
}

func policyJSON(p *control.PolicyState, g *control.Genesis) any {
	return map[string]any{
		"version": p.Version, "leaf": p.Hash, "since": time.UnixMilli(p.Time).UTC(),
		"region": p.Region, "class": p.Class, "retention_days": p.RetentionDays, "approvals": p.Approvals, "veto_seconds": p.VetoSeconds,
		"max_request_days": p.MaxRequestDays, "request_hours": p.RequestHours, "max_count": p.MaxCount, "max_index_keys": p.MaxIndexKeys,
		"devices_without_evidence": p.DeviceEvidenceNone, "openers_without_evidence": p.OpenerEvidenceNone,
		"officer_quorum": g.OfficerQuorum, "threshold": g.Threshold, "keyholders": len(g.Keyholders), "guards": len(g.Guards),
		"witness_quorum": g.WitnessQuorum, "witnesses": len(g.Witnesses),
	}
}

func policyText(p *control.PolicyState, g *control.Genesis) string {
	may := map[bool]string{true: "allowed", false: "refused"}
	var b strings.Builder
	for _, row := range [][2]string{
		{"policy", fmt.Sprintf("version %d, leaf %s, since %s", p.Version, p.Hash.Short(), milli(p.Time))},
		{"sealed to", p.Region + "/" + p.Class},
		{"kept", fmt.Sprintf("%d days", p.RetentionDays)},
		{"a request needs", fmt.Sprintf("%d approvers, and %d seconds for a veto", p.Approvals, p.VetoSeconds)},
		{"a request opens", fmt.Sprintf("at most %d records and %d index keys, of at most %d days", p.MaxCount, p.MaxIndexKeys, p.MaxRequestDays)},
		{"a request lives", fmt.Sprintf("at most %d hours", p.RequestHours)},
		{"without evidence", fmt.Sprintf("devices %s, openers %s", may[p.DeviceEvidenceNone], may[p.OpenerEvidenceNone])},
		{"from founding", fmt.Sprintf("%d of %d keyholders open, with one of %d guards; %d officers act; %d of %d witnesses",
			g.Threshold, len(g.Keyholders), len(g.Guards), g.OfficerQuorum, g.WitnessQuorum, len(g.Witnesses))},
	} {
		fmt.Fprintf(&b, "%-17s %s\n", row[0], row[1])
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (a *app) releaseCommand() *cobra.Command {
	var keys []string
	var reason string
	c := &cobra.Command{
		Use:   "release HOLD",
		Short: "Release a hold: a quorum of officers signs",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			var known []codec.Hash
			s.replica.Read(func(st *control.State) {
				for _, h := range st.Holds() {
					known = append(known, h.Hash)
				}
			})
			h, err := parseHash(args[0], known)
			if err != nil {
				return hint(err, "`chancery matter list` shows the holds that stand")
			}
			return a.submit(cmd, s, &control.Release{Hold: h, Reason: reason}, officers, "", "hold %s is released", h.Short())
		},
	}
	keysFlag(c, &keys)
	c.Flags().StringVar(&reason, "reason", "", "`TEXT`, on the log for the organisation's people (required)")
	must(c.MarkFlagRequired("reason"))
	return c
}

func (a *app) destroyCommand() *cobra.Command {
	var keys []string
	var reason, authority string
	var yes bool
	c := &cobra.Command{
		Use:   "destroy MONTH",
		Short: "Destroy a month's key: what is sealed under it opens for nobody any more",
		Long: `Destroy a month's ML-KEM key, such as 2026-11 or the beginning of its leaf's id
from chancery status. A quorum of officers signs, then every guard by itself, but
none while a hold covers a day of the key. It can't be undone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			m, err := s.month(args[0])
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s, region %s, class %s", ceremony.MonthName(m.Month.Month), m.Region, m.Class)
			if !yes {
				ok, err := a.confirm(cmd.Context(), "destroy the key of "+name+" for ever?")
				if err != nil {
					return err
				}
				if !ok {
					return errors.New("nothing was signed")
				}
			}
			return a.submit(cmd, s, &control.Destruction{Month: m.Hash, Reason: reason, Authority: authority}, officers,
				"it holds once a quorum of officers has signed, who run `chancery key sign`, and the guards, by themselves, once no hold covers it;\n`chancery status` then shows it destroyed",
				"destruction of the key of %s", name)
		},
	}
	keysFlag(c, &keys)
	c.Flags().StringVar(&reason, "reason", "", "`TEXT`, on the log for everybody (required)")
	c.Flags().StringVar(&authority, "authority", "", "`TEXT`: by what or whose authority, on the log for everybody (required)")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	must(c.MarkFlagRequired("reason"))
	must(c.MarkFlagRequired("authority"))
	return c
}

// month finds a month's key by its date or by the beginning of its leaf's hash.
func (s *session) month(text string) (out control.MonthState, err error) {
	var found []control.MonthState
	s.replica.Read(func(st *control.State) {
		for _, m := range st.Months() {
			date := time.Date(1970, time.Month(m.Month.Month)+1, 1, 0, 0, 0, 0, time.UTC).Format("2006-01")
			if text == date || len(text) >= 6 && strings.HasPrefix(m.Hash.String(), text) {
				found = append(found, *m)
			}
		}
	})
	switch {
	case len(found) == 0:
		return out, hint(&usageError{fmt.Errorf("there is no key of %q", text)}, "`chancery status` lists the months' keys")
	case len(found) > 1:
		return out, hint(&usageError{fmt.Errorf("%d keys are of %q", len(found), text)}, "name one by its id, from `chancery status`")
	}
	return found[0], nil
}

func (a *app) reportCommand() *cobra.Command {
	c := &cobra.Command{Use: "report", Short: "Mismatch reports: proofs that a message was archived otherwise than it was sent"}
	check := &cobra.Command{
		Use:   "verify FILE",
		Short: "Judge a report by the control log, without trust in whoever reports",
		Long: `Judge a report by the control log, without trust in whoever reports. It exits 0
where the report convicts a device, and 1 where it proves nothing or the message
was archived as it was sent. chancery device problems --out writes reports.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("couldn't read the report: %w", err)
			}
			defer f.Close()
			raw, err := io.ReadAll(io.LimitReader(f, report.MaxSize+1))
			if err != nil {
				return fmt.Errorf("couldn't read the report: %w", err)
			}
			if _, err := report.Parse(raw); err != nil {
				return hint(err, "`chancery device problems --out FOLDER` writes reports")
			}
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			var v *report.Verdict
			s.replica.Read(func(st *control.State) { v, err = report.Verify(st, s.replica.Root, raw) })
			if err != nil {
				return err
			}
			text := fmt.Sprintf("CONVICTED: device %s of member %s %s\nmessage %s, position %d of conversation %s, leaf %d, received %s",
				v.Device.Short(), v.Member, v.Fault, v.Core.Short(), v.Position, v.Conversation, v.Leaf, milli(v.Time))
			if v.Server {
				text += "\nCONVICTED: the server, which took what it must refuse"
			}
			return a.print(struct {
				*report.Verdict
				Words string
			}{v, v.Fault.String()}, "%s", text)
		},
	}
	c.AddCommand(check)
	return c
}

// deviceListCommand shows who has which devices, as the log has it.
func (a *app) deviceListCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the organisation's devices, those that were revoked included",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := a.asPerson(cmd, key)
			if err != nil {
				return err
			}
			byID, err := names(cmd, s.server)
			if err != nil {
				return err
			}
			type row struct {
				Device  codec.Hash `json:"device"`
				Member  codec.ID   `json:"member"`
				Name    string     `json:"name"`
				Since   time.Time  `json:"since"`
				Revoked bool       `json:"revoked"`
			}
			rows := []row{}
			s.replica.Read(func(st *control.State) {
				for _, m := range st.Members() {
					for _, h := range st.Devices(m) {
						if d, ok := st.Device(h); ok {
							rows = append(rows, row{h, m, byID[m], time.UnixMilli(d.Time).UTC(), d.Revoked != control.Never})
						}
					}
				}
			})
			slices.SortFunc(rows, func(x, y row) int {
				if n := strings.Compare(x.Name, y.Name); n != 0 {
					return n
				}
				return x.Since.Compare(y.Since)
			})
			if a.json {
				return json.NewEncoder(a.out).Encode(rows)
			}
			for _, r := range rows {
				state := ""
				if r.Revoked {
					state = ", revoked"
				}
				fmt.Fprintf(a.out, "%s  %-30s enrolled %s%s\n", r.Device.Short(), plain(r.Name), r.Since.Format("2006-01-02 15:04"), state)
			}
			return nil
		},
	}
	keyFlag(c, &key)
	return c
}
