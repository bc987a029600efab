package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

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

// signer reads a person's SSH private key.
func (a *app) signer(ctx context.Context, path string) (ssh.Signer, error) {
	if path == "" {
		return nil, &usageError{errors.New("--key is needed: your SSH private key")}
	}
	key, err := home.LoadKey(path, func() ([]byte, error) { return a.passphrase(ctx, "passphrase of "+path+": ", false) })
	if err != nil && strings.HasSuffix(path, ".pub") {
		return nil, hint(err, "that is the public half: name the file without .pub")
	}
	return key, err
}

func (a *app) signers(ctx context.Context, paths []string) ([]ssh.Signer, error) {
	var out []ssh.Signer
	seen := map[string]string{} // paths by key
	for _, p := range paths {
		k, err := a.signer(ctx, p)
		if err != nil {
			return nil, err
		}
		public := string(k.PublicKey().Marshal())
		if other, ok := seen[public]; ok {
			return nil, &usageError{fmt.Errorf("--key %s and --key %s are one key: each person signs once", other, p)}
		}
		seen[public] = p
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil, &usageError{errors.New("--key is needed: your SSH private key (repeat for several people)")}
	}
	return out, nil
}

func keyFlag(c *cobra.Command, key *string) {
	c.Flags().StringVar(key, "key", "", "`FILE` of your SSH private key (required)")
}

func keysFlag(c *cobra.Command, keys *[]string) {
	c.Flags().StringArrayVar(keys, "key", nil, "`FILE` of an officer's SSH private key (repeat: a quorum signs; required)")
}

// asPerson connects in the name of a person.
func (a *app) asPerson(cmd *cobra.Command, path string) (*session, ssh.Signer, error) {
	key, err := a.signer(cmd.Context(), path)
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
	var threshold, quorum, witnessQuorum uint8
	policy := defaultPolicy()
	c := &cobra.Command{
		Use:   "init",
		Short: "Found an organisation: its genesis leaf, whose hash is its identity",
		Long: `Found an organisation from what its parts printed at their own init: the server's
keys, keyholders, guards and witnesses, and the SSH public keys of its people.
Every officer named signs. What is printed as the organisation is its identity:
give it to members and auditors by a way that the server doesn't control.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkURL(url); err != nil {
				return err
			}
			if _, err := home.Load(a.home); err == nil {
				return hint(fmt.Errorf("%s is the home of an organisation already", a.home), "name another folder with --home")
			} else if !errors.Is(err, home.ErrNone) {
				return err
			}
			if !api.Made(serverDir) {
				return hint(fmt.Errorf("%s is no server's folder", serverDir), "make it with `chancery server init --dir %s`", serverDir)
			}
			g := &control.Genesis{Name: name, Threshold: threshold, OfficerQuorum: quorum, WitnessQuorum: witnessQuorum, Policy: policy}
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
			if g.WitnessQuorum == 0 {
				g.WitnessQuorum = uint8(min(len(g.Witnesses), math.MaxUint8))
			}
			signers, err := a.signers(cmd.Context(), signing)
			if err != nil {
				return err
			}
			keys, err := api.Init(serverDir)
			if err != nil {
				return err
			}
			g.ControlKey, g.MessagesKey, g.ReceiptKey = keys.ControlKey, keys.MessagesKey, keys.ReceiptKey
			entry, organisation, err := ceremony.Found(g, time.Now(), signers)
			if err != nil {
				return err
			}
			// Once it is founded its identity has to be kept.
			if err := os.MkdirAll(a.home, 0o700); err != nil {
				return fmt.Errorf("couldn't make the home folder: %w", err)
			}
			if err := api.Found(serverDir, entry); err != nil {
				os.Remove(a.home) // where it is empty
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
	f.StringVar(&name, "name", "", "the organisation's `NAME` (required)")
	f.StringVar(&serverDir, "server-dir", "server", "the server's `FOLDER`, from chancery server init")
	f.StringVar(&url, "server", "http://127.0.0.1:8440", "`URL` that the server will be reached at")
	f.StringArrayVar(&officers, "officer", nil, "`FILE` of an officer's SSH public key (repeat, at least two)")
	f.StringArrayVar(&approvers, "approver", nil, "`FILE` of an approver's SSH public key (repeat)")
	f.StringArrayVar(&reviewers, "reviewer", nil, "`FILE` of a reviewer's SSH public key (repeat)")
	f.StringArrayVar(&keyholders, "keyholder", nil, "`FILE` with what chancery keyholder init printed (repeat)")
	f.StringArrayVar(&guards, "guard", nil, "`FILE` with what chancery guard init printed (repeat, at least two)")
	f.StringArrayVar(&witnesses, "witness", nil, "`FILE` with what chancery witness init printed (repeat, at least two)")
	f.StringArrayVar(&signing, "key", nil, "`FILE` of each officer's SSH private key, to sign (repeat)")
	f.Uint8Var(&threshold, "threshold", 3, "t, the `NUMBER` of keyholders that open together")
	f.Uint8Var(&quorum, "officer-quorum", 2, "`NUMBER` of officers who sign together")
	f.Uint8Var(&witnessQuorum, "witness-quorum", 0, "`NUMBER` of witnesses that must have seen a log before anybody believes it (default: all)")
	policyFlags(c, &policy)
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
			if err := errors.Join(checkURL(server), unpinned(a.home, organisation)); err != nil {
				return err
			}
			h := &home.Home{Organisation: organisation, Server: server}
			// Only a server that shows this organisation's log is worth keeping.
			s, err := openHome(cmd.Context(), a.home, h, nil)
			if errors.Is(err, control.ErrUnauthorised) {
				return hint(err, "the server at %s is another organisation's, or the id is: ask whoever gave it to you", server)
			}
			if err != nil {
				return err
			}
			if err := h.Save(a.home); err != nil {
				return err
			}
			return a.print(h, "pinned organisation %s, control log at %d leaves", organisation.Short(), s.replica.Size())
		},
	}
	c.Flags().StringVar(&server, "server", "http://127.0.0.1:8440", "`URL` of the organisation's server")
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

// names reads the directory.
func names(cmd *cobra.Command, server *remote.Client) (map[codec.ID]string, error) {
	list, err := server.Members(cmd.Context())
	if err != nil {
		return nil, err
	}
	byID := map[codec.ID]string{}
	for _, m := range list {
		byID[m.ID] = m.Name
	}
	return byID, nil
}

// resolve finds members by id or name in the directory. A name that several have
// is nobody's: a hold on the wrong one of them would be found out too late.
func resolve(cmd *cobra.Command, server *remote.Client, who []string) ([]codec.ID, error) {
	list, err := server.Members(cmd.Context())
	if err != nil {
		return nil, err
	}
	byName := map[string][]codec.ID{}
	for _, m := range list {
		byName[m.Name] = append(byName[m.Name], m.ID)
	}
	var out []codec.ID
	for _, w := range who {
		if id, err := codec.ParseID(w); err == nil {
			out = append(out, id)
			continue
		}
		switch ids := byName[w]; len(ids) {
		case 0:
			return nil, hint(fmt.Errorf("nobody is called %q", w), "`chancery member list` shows who is there")
		case 1:
			out = append(out, ids[0])
		default:
			return nil, hint(fmt.Errorf("%d members are called %q", len(ids), w), "name one by the id that `chancery member list` shows")
		}
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
			if days < 1 {
				return &usageError{fmt.Errorf("--days %d: want at least 1", days)}
			}
			for _, name := range args {
				if strings.TrimSpace(name) == "" {
					return &usageError{fmt.Errorf("%q is no name", name)}
				}
			}
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			// The directory would keep the names of members that nobody invited.
			var quorum uint8
			s.replica.Read(func(st *control.State) { quorum = st.Genesis().OfficerQuorum })
			if len(officers) < int(quorum) {
				return hint(fmt.Errorf("invitations need %s, and not %d", count(int(quorum), "officer"), len(officers)), "repeat --key: they sign together")
			}
			// The invitations can't be made a second time.
			if err := os.MkdirAll(out, 0o700); err != nil {
				return fmt.Errorf("couldn't make the folder of the invitations: %w", err)
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
	add.Flags().IntVar(&days, "days", 14, "`DAYS` until the invitation expires")
	add.Flags().StringVar(&out, "out", ".", "`FOLDER` for the invitation files")

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
				fmt.Fprintf(a.out, "%s  %-30s %s\n", r.ID, plain(r.Name), count(len(r.Devices), "device"))
			}
			return nil
		},
	}
	keyFlag(list, &key)
	c.AddCommand(add, list)
	return c
}
