package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/api"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/keyholder"
	"chancery/internal/wire"
	"chancery/internal/witness"
	"chancery/ledger"
)

func (a *app) serverCommand() *cobra.Command {
	c := &cobra.Command{Use: "server", Short: "Deliver, archive and log: the organisation's server"}
	var dir string
	c.PersistentFlags().StringVar(&dir, "dir", "server", "`FOLDER` of the server's database and keys")

	c.AddCommand(&cobra.Command{
		Use:   "init",
		Short: "Make the server's keys and print their public halves, for `chancery init`",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			keys, err := api.Init(dir)
			if err != nil {
				return err
			}
			return json.NewEncoder(a.out).Encode(keys)
		},
	})

	var address, authorityKey string
	var witnesses, keyholders, guards []string
	run := &cobra.Command{
		Use:   "run",
		Short: "Run the server until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := endpoints(keyholders)
			if err != nil {
				return err
			}
			g, err := endpoints(guards)
			if err != nil {
				return err
			}
			for _, w := range witnesses {
				if err := checkURL(w); err != nil {
					return err
				}
			}
			if !api.Made(dir) {
				return hint(fmt.Errorf("%s is no server's folder", dir), "make it with `chancery server init --dir %s`, and found the organisation with `chancery init`", dir)
			}
			l, err := listen(address)
			if err != nil {
				return err
			}
			ctx, cancel, err := a.serving(cmd.Context(), "server", l)
			if err != nil {
				return err
			}
			defer cancel()
			return api.Run(ctx, api.Config{Dir: dir, Listener: l, Witnesses: witnesses, Keyholders: k, Guards: g, AuthorityKeyFile: authorityKeyFile(dir, authorityKey), Now: time.Now, Log: a.log()})
		},
	}
	run.Flags().StringVar(&address, "listen", "127.0.0.1:8440", "`ADDRESS`, or fd:N for an inherited socket")
	run.Flags().StringArrayVar(&witnesses, "witness", nil, "`URL` of a witness (repeat)")
	run.Flags().StringArrayVar(&keyholders, "keyholder", nil, "`NAME=URL` of a keyholder, for openers (repeat)")
	run.Flags().StringArrayVar(&guards, "guard", nil, "`NAME=URL` of a guard, for openers (repeat)")
	run.Flags().StringVar(&authorityKey, "ca-key-file", "", "`FILE` with the 32-byte key that seals the certificate authority's key (default: ca.key in the server's folder)")
	a.pipedFlag(run)
	c.AddCommand(run)
	return c
}

// witnessFile is what a witness's folder says of it.
type witnessFile struct {
	Name string   `json:"name"`
	Logs []string `json:"logs"` // verifier keys of the logs it cosigns
}

func witnessPath(dir string) string { return filepath.Join(dir, "witness.json") }

func readWitness(dir string) (*witnessFile, error) {
	data, err := os.ReadFile(witnessPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint(fmt.Errorf("%s is no witness's folder", dir), "make one with `chancery witness init --dir %s --name NAME`", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the witness's folder: %w", err)
	}
	var w witnessFile
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", witnessPath(dir), err)
	}
	return &w, nil
}

func (w *witnessFile) save(dir string) error {
	data, err := json.MarshalIndent(w, "", "  ")
	if err != nil {
		return err
	}
	return home.WriteFile(witnessPath(dir), append(data, '\n'), 0o644)
}

func (a *app) witnessCommand() *cobra.Command {
	c := &cobra.Command{Use: "witness", Short: "Cosign checkpoints: a witness of the logs"}
	var dir, name string
	c.PersistentFlags().StringVar(&dir, "dir", "witness", "`FOLDER` of the witness's key and memory")

	initialise := &cobra.Command{
		Use:   "init",
		Short: "Make a witness and print its verifier key, for `chancery init`",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := os.Stat(witnessPath(dir)); err == nil {
				return fmt.Errorf("%s is a witness's folder already", dir)
			}
			if name == "" || strings.ContainsAny(name, " +\t\r\n") {
				return &usageError{fmt.Errorf("--name %q: want a name without spaces or +, such as witness.example/one", name)}
			}
			key, err := witness.LoadOrCreateKey(dir, rand.Reader)
			if err != nil {
				return err
			}
			public := ledger.WitnessKey{Name: name, Key: codec.PublicKey(key.Public().(ed25519.PublicKey))}
			if err := (&witnessFile{Name: name}).save(dir); err != nil {
				return err
			}
			return json.NewEncoder(a.out).Encode(control.Witness{Name: name, Key: public.String()})
		},
	}
	initialise.Flags().StringVar(&name, "name", "witness", "the witness's `NAME`, as in witness.example/one")

	add := &cobra.Command{
		Use:   "add-log VKEY...",
		Short: "Let the witness cosign logs; restart it afterwards",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, keys []string) error {
			w, err := readWitness(dir)
			if err != nil {
				return err
			}
			for _, k := range keys {
				if _, err := ledger.ParseLogKey(k); err != nil {
					return hint(&usageError{err}, "`chancery init` prints the logs' keys")
				}
				if !slices.Contains(w.Logs, k) {
					w.Logs = append(w.Logs, k)
				}
			}
			if err := w.save(dir); err != nil {
				return err
			}
			return a.print(w, "%s cosigns %d logs from its next start", w.Name, len(w.Logs))
		},
	}

	var address string
	run := &cobra.Command{
		Use:   "run",
		Short: "Run the witness until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, err := readWitness(dir)
			if err != nil {
				return err
			}
			cfg := witness.Config{Dir: dir, Name: w.Name, Now: time.Now}
			log := a.log()
			cfg.OnError = func(err error) { log.Warn("witness", slog.Any("error", err)) }
			if cfg.Key, err = witness.LoadOrCreateKey(dir, rand.Reader); err != nil {
				return err
			}
			for _, k := range w.Logs {
				key, err := ledger.ParseLogKey(k)
				if err != nil {
					return err
				}
				cfg.Logs = append(cfg.Logs, key)
			}
			if cfg.Listener, err = listen(address); err != nil {
				return err
			}
			ctx, cancel, err := a.serving(cmd.Context(), "witness", cfg.Listener)
			if err != nil {
				return err
			}
			defer cancel()
			return witness.Run(ctx, cfg)
		},
	}
	run.Flags().StringVar(&address, "listen", "127.0.0.1:8450", "`ADDRESS`, or fd:N for an inherited socket")
	a.pipedFlag(run)
	c.AddCommand(initialise, add, run)
	return c
}

func (a *app) holderCommand(keyholders bool) *cobra.Command {
	role, port := custody.Guard, "8470"
	c := &cobra.Command{Use: "guard", Short: "Hold the months' ML-KEM keys: the other lock"}
	if keyholders {
		role, port = custody.Keyholder, "8460"
		c = &cobra.Command{Use: "keyholder", Short: "Hold one share of the escrow key"}
	}
	var dir, keyFile string
	c.PersistentFlags().StringVar(&dir, "dir", c.Use, "`FOLDER` of the holder's sealed secrets and record")
	c.PersistentFlags().StringVar(&keyFile, "key-file", "", "`FILE` with the 32-byte key that seals the secrets; made if missing at init (default: a passphrase from CHANCERY_PASSPHRASE or the terminal)")

	var name, jurisdiction string
	initialise := &cobra.Command{
		Use:   "init",
		Short: "Make the holder's keys and print their public halves, for `chancery init`",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if custody.Made(dir) {
				return hint(fmt.Errorf("%s is a holder's folder already", dir), "its keys can't be made anew: name another folder with --dir")
			}
			if name == "" || len(name) > 64 || len(jurisdiction) != 2 {
				return &usageError{errors.New("want a --name of 1 to 64 bytes and a --jurisdiction of two letters, such as CH")}
			}
			secret, err := a.secret(cmd.Context(), keyFile, true)
			if err != nil {
				return err
			}
			h, err := custody.Create(dir, secret, name, jurisdiction, role)
			if err != nil {
				return err
			}
			return json.NewEncoder(a.out).Encode(h)
		},
	}
	initialise.Flags().StringVar(&name, "name", "", "the holder's `NAME` (required)")
	initialise.Flags().StringVar(&jurisdiction, "jurisdiction", "", "country `CODE` of where it stands (required)")
	must(initialise.MarkFlagRequired("name"))
	must(initialise.MarkFlagRequired("jurisdiction"))

	var address, server, organisation string
	var peers []string
	var floor keyholder.Floor
	run := &cobra.Command{
		Use:   "run",
		Short: "Run the " + c.Use + " until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			org, err := codec.ParseHash(organisation)
			if err != nil {
				return &usageError{fmt.Errorf("--organisation: %w", err)}
			}
			if err := checkURL(server); err != nil {
				return err
			}
			others, err := endpoints(peers)
			if err != nil {
				return err
			}
			secret, err := a.secret(cmd.Context(), keyFile, false)
			if err != nil {
				return err
			}
			if !custody.Made(dir) {
				return hint(fmt.Errorf("%s is no holder's folder", dir), "make it with `chancery %s init --dir %s`", c.Use, dir)
			}
			keys, err := custody.OpenHolder(dir, secret)
			if err != nil {
				return err
			}
			defer keys.Close()
			if keys.Guard() == keyholders {
				return hint(fmt.Errorf("%s holds the keys of the other role", dir), "one daemon is a keyholder or a guard for good")
			}
			l, err := listen(address)
			if err != nil {
				return err
			}
			ctx, cancel, err := a.serving(cmd.Context(), c.Use, l)
			if err != nil {
				return err
			}
			defer cancel()
			auth := httpsig.Ed25519(keys)
			guards := map[string]keyholder.Peer{}
			for name, h := range a.holders(others, auth) {
				guards[name] = h
			}
			return keyholder.Run(ctx, keyholder.Config{
				Dir: dir, Custody: keys, Organisation: org, Server: remote.New(server, nil, auth), Guards: guards,
				Listener: l, Floor: floor, Now: time.Now, Log: a.log(),
			})
		},
	}
	run.Flags().StringVar(&address, "listen", "127.0.0.1:"+port, "`ADDRESS`, or fd:N for an inherited socket")
	run.Flags().StringVar(&server, "server", "", "`URL` of the organisation's server (required)")
	run.Flags().StringVar(&organisation, "organisation", "", "the organisation's `ID`, 64 hexadecimal characters (required)")
	if !keyholders {
		run.Flags().StringArrayVar(&peers, "peer", nil, "`NAME=URL` of another guard (repeat)")
	}
	run.Flags().Uint8Var(&floor.Approvals, "floor-approvals", 0, "least `NUMBER` of approvals that this holder asks for, whatever the log says")
	run.Flags().Uint64Var(&floor.MaxCount, "floor-max-count", 0, "greatest `NUMBER` of records of one request that this holder answers (default: the policy's)")
	run.Flags().Uint64Var(&floor.MaxIndexKeys, "floor-max-index-keys", 0, "greatest `NUMBER` of index envelopes of one request that this holder answers (default: the policy's)")
	run.Flags().Uint32Var(&floor.VetoSeconds, "floor-veto-seconds", 0, "least `SECONDS` between the last approval and this holder's answer")
	run.Flags().Uint32Var(&floor.MaxRequestDays, "floor-max-request-days", 0, "greatest number of `DAYS` of a request that this holder answers (default: the policy's)")
	run.Flags().Uint32Var(&floor.RequestHours, "floor-request-hours", 0, "greatest number of `HOURS` from a request to its expiry (default: the policy's)")
	run.Flags().BoolVar(&floor.Evidence, "floor-evidence", false, "answer no opener without evidence")
	must(run.MarkFlagRequired("server"))
	must(run.MarkFlagRequired("organisation"))
	a.pipedFlag(run)
	c.AddCommand(initialise, run)
	return c
}

// must panics on errors that can only be a fault of this package, such as a
// flag that doesn't exist.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// secret returns what seals files at rest: a key file, or a passphrase.
func (a *app) secret(ctx context.Context, keyFile string, create bool) (custody.Secret, error) {
	if keyFile == "" {
		passphrase, err := a.passphrase(ctx, "passphrase of the sealed files: ", create)
		if err != nil {
			return custody.Secret{}, err
		}
		defer clear(passphrase)
		return custody.Passphrase(passphrase), nil
	}
	if create {
		if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
			return custody.Secret{}, fmt.Errorf("couldn't make the key file's folder: %w", err)
		}
		secret, err := custody.CreateKeyFile(keyFile)
		if !errors.Is(err, fs.ErrExist) {
			return secret, err
		}
	}
	return custody.KeyFile(keyFile)
}

func (a *app) holders(list []wire.Endpoint, auth remote.Auth) map[string]*remote.Holder {
	out := map[string]*remote.Holder{}
	for _, e := range list {
		out[e.Name] = remote.NewHolder(e.URL, nil, auth)
	}
	return out
}
