package cli

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/api"
	"chancery/internal/ceremony"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/sshsig"
)

// passphrase reads a secret from the environment or the terminal.
func (a *app) passphrase(prompt string) ([]byte, error) {
	if p := os.Getenv("CHANCERY_PASSPHRASE"); p != "" {
		return []byte(p), nil
	}
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, hint(errors.New("a passphrase is needed and there is no terminal to ask on"),
			"set CHANCERY_PASSPHRASE, or use a key file")
	}
	fmt.Fprint(a.err, prompt)
	p, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the passphrase: %w", err)
	}
	return p, nil
}

// confirm asks a yes-or-no question on the terminal.
func (a *app) confirm(question string) (bool, error) {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, hint(errors.New("this needs a yes and there is no terminal to ask on"), "add --yes once you have read it")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	var answer string
	fmt.Fscanln(a.in, &answer)
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), nil
}

// signer reads a person's SSH private key.
func (a *app) signer(path string) (ssh.Signer, error) {
	if path == "" {
		return nil, &usageError{errors.New("--key is needed: your SSH private key")}
	}
	return home.LoadKey(path, func() ([]byte, error) { return a.passphrase("passphrase of " + path + ": ") })
}

func (a *app) signers(paths []string) ([]ssh.Signer, error) {
	var out []ssh.Signer
	for _, p := range paths {
		k, err := a.signer(p)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, &usageError{errors.New("--key is needed: your SSH private key (repeat for several people)")}
	}
	return out, nil
}

func keyFlag(c *cobra.Command, key *string) {
	c.Flags().StringVar(key, "key", "", "your SSH private key")
}

func keysFlag(c *cobra.Command, keys *[]string) {
	c.Flags().StringArrayVar(keys, "key", nil, "SSH private key of an officer (repeat: a quorum signs)")
}

// asPerson connects in the name of a person.
func (a *app) asPerson(cmd *cobra.Command, path string) (*session, ssh.Signer, error) {
	key, err := a.signer(path)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.open(cmd.Context(), httpsig.SSH(key))
	return s, key, err
}

// readPeople reads SSH public key files as persons of fresh member ids. One
// file named for two roles is one person.
func readPeople(files []string, known map[string]codec.ID) ([]control.Person, error) {
	var out []control.Person
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("couldn't read a public key: %w", err)
		}
		credential, err := sshsig.ParseAuthorizedKey(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		member, ok := known[string(credential)]
		if !ok {
			member = codec.NewID()
			known[string(credential)] = member
		}
		out = append(out, control.Person{Member: member, Credential: credential})
	}
	return out, nil
}

func readJSONFiles[T any](files []string) ([]T, error) {
	var out []T
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("couldn't read what `init` of the daemon printed: %w", err)
		}
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, fmt.Errorf("couldn't read %s: %w", f, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// defaultPolicy is an organisation's first policy, unless flags say otherwise.
func defaultPolicy() control.Policy {
	return control.Policy{
		Version: 1, Region: "eu", Class: "standard", RetentionDays: 3650, Approvals: 3,
		DeviceEvidenceNone: true, OpenerEvidenceNone: true,
		MaxRequestDays: 3660, MaxCount: 10_000, MaxIndexKeys: 10_000, RequestHours: 7 * 24,
	}
}

func (a *app) initCommand() *cobra.Command {
	var name, serverDir, url string
	var officers, approvers, reviewers, keyholders, guards, witnesses, signing []string
	var threshold, quorum uint8
	policy := defaultPolicy()
	c := &cobra.Command{
		Use:   "init",
		Short: "Found an organisation: its genesis leaf, whose hash is its identity",
		Long: `Found an organisation from what its parts printed at their own init: the server's
keys, keyholders, guards and witnesses, and the SSH public keys of its people.
Every officer named signs. What is printed as the organisation is its identity:
give it to members and auditors by a way that the server doesn't control.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			g := &control.Genesis{Name: name, Threshold: threshold, OfficerQuorum: quorum, Policy: policy}
			rand.Read(g.Nonce[:]) // never fails
			known := map[string]codec.ID{}
			var err error
			for _, role := range []struct {
				files []string
				into  *[]control.Person
			}{{officers, &g.Officers}, {approvers, &g.Approvers}, {reviewers, &g.Reviewers}} {
				if *role.into, err = readPeople(role.files, known); err != nil {
					return err
				}
			}
			if g.Keyholders, err = readJSONFiles[control.Holder](keyholders); err != nil {
				return err
			}
			if g.Guards, err = readJSONFiles[control.Holder](guards); err != nil {
				return err
			}
			if g.Witnesses, err = readJSONFiles[control.Witness](witnesses); err != nil {
				return err
			}
			g.WitnessQuorum = uint8(len(g.Witnesses))
			keys, err := api.Init(serverDir)
			if err != nil {
				return err
			}
			g.ControlKey, g.MessagesKey, g.ReceiptKey = keys.ControlKey, keys.MessagesKey, keys.ReceiptKey
			signers, err := a.signers(signing)
			if err != nil {
				return err
			}
			entry, organisation, err := ceremony.Found(g, time.Now(), signers)
			if err != nil {
				return err
			}
			if err := api.Found(serverDir, entry); err != nil {
				return err
			}
			if err := (&home.Home{Organisation: organisation, Server: url}).Save(a.home); err != nil {
				return err
			}
			logs := []string{
				ledger.LogKey{Origin: ledger.Origin(organisation, ledger.ControlLog), Key: g.ControlKey}.String(),
				ledger.LogKey{Origin: ledger.Origin(organisation, ledger.MessagesLog), Key: g.MessagesKey}.String(),
			}
			return a.print(map[string]any{"organisation": organisation, "logs": logs},
				"organisation %s\n\neach witness now runs:\n  chancery witness add-log %s", organisation, strings.Join(logs, " "))
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "the organisation's name (required)")
	f.StringVar(&serverDir, "server-dir", "server", "the server's folder, from `chancery server init`")
	f.StringVar(&url, "server", "http://127.0.0.1:8440", "URL that the server will be reached at")
	f.StringArrayVar(&officers, "officer", nil, "SSH public key file of an officer (repeat, at least two)")
	f.StringArrayVar(&approvers, "approver", nil, "SSH public key file of an approver (repeat)")
	f.StringArrayVar(&reviewers, "reviewer", nil, "SSH public key file of a reviewer (repeat)")
	f.StringArrayVar(&keyholders, "keyholder", nil, "file with what `chancery keyholder init` printed (repeat)")
	f.StringArrayVar(&guards, "guard", nil, "file with what `chancery guard init` printed (repeat, at least two)")
	f.StringArrayVar(&witnesses, "witness", nil, "file with what `chancery witness init` printed (repeat, at least two)")
	f.StringArrayVar(&signing, "key", nil, "SSH private key of each officer, to sign (repeat)")
	f.Uint8Var(&threshold, "threshold", 3, "t: keyholders that open together")
	f.Uint8Var(&quorum, "officer-quorum", 2, "officers who sign together")
	f.Uint8Var(&policy.Approvals, "approvals", policy.Approvals, "k: approvers that a request needs")
	f.StringVar(&policy.Region, "region", policy.Region, "where envelopes are sealed to")
	f.StringVar(&policy.Class, "class", policy.Class, "retention class")
	f.Uint32Var(&policy.RetentionDays, "retention-days", policy.RetentionDays, "days that messages are kept")
	f.Uint32Var(&policy.VetoSeconds, "veto-seconds", 0, "time between the last approval and the first answer")
	f.Uint64Var(&policy.MaxCount, "max-count", policy.MaxCount, "most envelopes that one request may open")
	f.Uint64Var(&policy.MaxIndexKeys, "max-index-keys", policy.MaxIndexKeys, "most index envelopes that one request may open")
	f.BoolVar(&policy.DeviceEvidenceNone, "allow-devices-without-evidence", true, "devices may enrol without platform evidence")
	f.BoolVar(&policy.OpenerEvidenceNone, "allow-openers-without-evidence", true, "openers may be answered without evidence")
	must(c.MarkFlagRequired("name"))
	return c
}

func (a *app) joinCommand() *cobra.Command {
	var server string
	c := &cobra.Command{
		Use:   "join ORGANISATION",
		Short: "Pin an organisation's identity in the home folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			organisation, err := codec.ParseHash(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("the organisation's id: %w", err)}
			}
			h := &home.Home{Organisation: organisation, Server: server}
			if err := h.Save(a.home); err != nil {
				return err
			}
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			return a.print(h, "pinned organisation %s, control log at %d leaves", organisation.Short(), s.replica.Size())
		},
	}
	c.Flags().StringVar(&server, "server", "http://127.0.0.1:8440", "URL of the organisation's server")
	return c
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the organisation's server, logs and keys stand",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			server, err := s.server.Status(cmd.Context())
			if err != nil {
				return err
			}
			type month struct {
				Leaf   codec.Hash `json:"leaf"`
				Month  string     `json:"month"`
				Region string     `json:"region"`
				Class  string     `json:"class"`
				State  string     `json:"state"`
			}
			out := struct {
				Server *wire.Status `json:"server"`
				Epochs int          `json:"epochs"`
				Months []month      `json:"months"`
			}{Server: server}
			s.replica.Read(func(st *control.State) {
				out.Epochs = len(st.Epochs())
				for _, m := range st.Months() {
					state := "waits for its canary"
					switch {
					case m.Destroyed != control.Never:
						state = "destroyed"
					case m.Effective != control.Never:
						state = "in effect"
					}
					out.Months = append(out.Months, month{m.Hash, ceremony.MonthName(m.Month.Month), m.Region, m.Class, state})
				}
			})
			text := fmt.Sprintf("organisation  %s\ncontrol log   %d leaves, %d witnessed\nmessages log  %d leaves, %d witnessed\nescrow epochs %d",
				server.Organisation, server.ControlSize, server.Witnessed, server.MessagesSize, server.WitnessedLog, out.Epochs)
			for _, m := range out.Months {
				text += fmt.Sprintf("\nescrow key    %s %s %s/%s: %s", m.Leaf.Short(), m.Month, m.Region, m.Class, m.State)
			}
			return a.print(out, "%s", text)
		},
	}
}

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key generation, months' keys and people's SSH keys"}
	var path, comment string
	create := &cobra.Command{
		Use:   "new PATH",
		Short: "Make an SSH key for a person, as ssh-keygen does",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			signer, err := home.NewKey(args[0], comment)
			if err != nil {
				return err
			}
			id := sshsig.Credential(signer.PublicKey().Marshal()).ID()
			return a.print(map[string]any{"path": args[0], "credential": id}, "%s and %s.pub, credential %s", args[0], args[0], id.Short())
		},
	}
	create.Flags().StringVar(&comment, "comment", "", "comment in the public key")

	var keys []string
	generate := &cobra.Command{
		Use:   "generate",
		Short: "Open a distributed key generation among the keyholders",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			officers, err := a.signers(keys)
			if err != nil {
				return err
			}
			s, err := a.open(cmd.Context(), httpsig.SSH(officers[0]))
			if err != nil {
				return err
			}
			var g *control.Genesis
			s.replica.Read(func(st *control.State) { g = st.Genesis() })
			id, err := ceremony.Open(cmd.Context(), s.server, rand.Reader, s.home.Organisation, g, officers...)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"ceremony": id}, "ceremony %s is open; when the keyholders are through, approvers and officers run `chancery key sign`", id)
		},
	}
	keysFlag(generate, &keys)

	var yes bool
	sign := &cobra.Command{
		Use:   "sign",
		Short: "Look at the epochs, months and destructions that wait for signatures, and sign",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, key, err := a.asPerson(cmd, path)
			if err != nil {
				return err
			}
			var asked error
			confirm := func(summary string) bool {
				if yes {
					return true
				}
				ok, err := a.confirm("sign " + summary + "?")
				asked = errors.Join(asked, err)
				return ok && err == nil
			}
			signed, err := ceremony.CoSign(cmd.Context(), s.server, s.replica.Read, key, confirm)
			if err := errors.Join(err, asked); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(signed)
			}
			for _, x := range signed {
				state := "logged"
				if !x.Logged {
					state = "waits: " + x.Missing
				}
				fmt.Fprintf(a.out, "signed %s (%s)\n", x.Summary, state)
			}
			if len(signed) == 0 {
				fmt.Fprintln(a.out, "nothing waits for your signature")
			}
			return nil
		},
	}
	keyFlag(sign, &path)
	sign.Flags().BoolVar(&yes, "yes", false, "sign all without asking")

	var officer string
	canary := &cobra.Command{
		Use:   "canary",
		Short: "Release a canary under each month's key that has none, so that it can take effect",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, key, err := a.asPerson(cmd, officer)
			if err != nil {
				return err
			}
			months, err := ceremony.Canaries(cmd.Context(), s.server, rand.Reader, time.Now(), s.replica.Read, key)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"months": months}, "%d canaries released; keyholders and guards open them by themselves", len(months))
		},
	}
	keyFlag(canary, &officer)
	c.AddCommand(create, generate, sign, canary)
	return c
}

func (a *app) peopleCommand() *cobra.Command {
	c := &cobra.Command{Use: "people", Short: "Officers, approvers, reviewers and auditors"}
	var keys []string
	var remove bool
	change := &cobra.Command{
		Use:   "role ROLE PUBLIC-KEY-FILE",
		Short: "Give a person a role, or take it with --remove",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			officers, err := a.signers(keys)
			if err != nil {
				return err
			}
			s, err := a.open(cmd.Context(), httpsig.SSH(officers[0]))
			if err != nil {
				return err
			}
			people, err := readPeople(args[1:], map[string]codec.ID{})
			if err != nil {
				return err
			}
			body := &control.RoleChange{Nonce: codec.NewID(), Role: control.Role(args[0]), Person: people[0], Remove: remove}
			s.replica.Read(func(st *control.State) {
				if known, ok := st.Credential(sshsig.Credential(body.Person.Credential).ID()); ok {
					body.Person.Member = known.Member
				}
			})
			done, _, err := ceremony.Submit(cmd.Context(), s.server, rand.Reader, s.home.Organisation, body, officers...)
			if err != nil {
				return err
			}
			return a.print(done, "%s: leaf %d %s", args[0], done.Index, done.Missing)
		},
	}
	keysFlag(change, &keys)
	change.Flags().BoolVar(&remove, "remove", false, "take the role")
	c.AddCommand(change)
	return c
}

// names reads the directory in both directions.
func names(cmd *cobra.Command, server *remote.Client) (byName map[string]codec.ID, byID map[codec.ID]string, err error) {
	list, err := server.Members(cmd.Context())
	if err != nil {
		return nil, nil, err
	}
	byName, byID = map[string]codec.ID{}, map[codec.ID]string{}
	for _, m := range list {
		byName[m.Name], byID[m.ID] = m.ID, m.Name
	}
	return byName, byID, nil
}

// resolve finds members by name or id.
func resolve(byName map[string]codec.ID, list []string) ([]codec.ID, error) {
	var out []codec.ID
	for _, n := range list {
		id, ok := byName[n]
		if !ok {
			var err error
			if id, err = codec.ParseID(n); err != nil {
				return nil, hint(fmt.Errorf("nobody is called %q", n), "`chancery member list` shows who is there")
			}
		}
		out = append(out, id)
	}
	return out, nil
}

func (a *app) memberCommand() *cobra.Command {
	c := &cobra.Command{Use: "member", Short: "Invite members and list them"}
	var keys []string
	var days int
	var out string
	add := &cobra.Command{
		Use:   "add NAME...",
		Short: "Invite members: each gets a file that enrols one device",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			officers, err := a.signers(keys)
			if err != nil {
				return err
			}
			s, err := a.open(cmd.Context(), httpsig.SSH(officers[0]))
			if err != nil {
				return err
			}
			expiry := time.Now().Add(time.Duration(days) * 24 * time.Hour)
			invites, err := ceremony.InviteMembers(cmd.Context(), s.server, s.server, rand.Reader, s.home.Organisation, s.home.Server, args, expiry, officers, nil)
			if err != nil {
				return err
			}
			var files []string
			for _, i := range invites {
				data, err := json.MarshalIndent(i, "", "  ")
				if err != nil {
					return err
				}
				file := filepath.Join(out, i.Member.String()+".invite")
				if err := home.WriteFile(file, append(data, '\n'), 0o600); err != nil {
					return err
				}
				files = append(files, file)
			}
			return a.print(files, "give each member their file, not through the server:\n  %s", strings.Join(files, "\n  "))
		},
	}
	keysFlag(add, &keys)
	add.Flags().IntVar(&days, "days", 14, "days until the invitation expires")
	add.Flags().StringVar(&out, "out", ".", "folder for the invitation files")

	var key string
	list := &cobra.Command{
		Use:   "list",
		Short: "List members, with their devices",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := a.asPerson(cmd, key)
			if err != nil {
				return err
			}
			members, err := s.server.Members(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(members, func(x, y wire.Member) int { return strings.Compare(x.Name, y.Name) })
			type row struct {
				ID      codec.ID     `json:"id"`
				Name    string       `json:"name"`
				Devices []codec.Hash `json:"devices"`
			}
			var rows []row
			s.replica.Read(func(st *control.State) {
				for _, m := range members {
					rows = append(rows, row{m.ID, m.Name, st.Devices(m.ID)})
				}
			})
			if a.json {
				return json.NewEncoder(a.out).Encode(rows)
			}
			for _, r := range rows {
				fmt.Fprintf(a.out, "%s  %-30s %d devices\n", r.ID, r.Name, len(r.Devices))
			}
			return nil
		},
	}
	keyFlag(list, &key)
	c.AddCommand(add, list)
	return c
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return bytes.TrimRight(data, "\n"), nil
}
