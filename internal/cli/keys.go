package cli

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/ceremony"
	"chancery/internal/home"
	"chancery/internal/matters"
	"chancery/sshsig"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Key generation, months' keys and people's SSH keys"}
	var path, comment string
	create := &cobra.Command{
		Use:   "new PATH",
		Short: "Make an SSH key for a person, as ssh-keygen does",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if strings.ContainsFunc(comment, unicode.IsControl) {
				return &usageError{errors.New("--comment: want one line of text")}
			}
			signer, err := home.NewKey(args[0], comment)
			if err != nil {
				return err
			}
			id := sshsig.Credential(signer.PublicKey().Marshal()).ID()
			return a.print(map[string]any{"path": args[0], "credential": id}, "%s and %s.pub, credential %s", args[0], args[0], id.Short())
		},
	}
	create.Flags().StringVar(&comment, "comment", "", "`TEXT` in the public key")

	var keys []string
	generate := &cobra.Command{
		Use:   "generate",
		Short: "Open a distributed key generation among the keyholders",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, officers, err := a.asOfficers(cmd, keys)
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
		Short: "Look at what waits for signatures of your role, and sign: keys, rules, roles, releases, destructions",
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
				ok, err := a.confirm(cmd.Context(), "sign "+summary+"?")
				asked = errors.Join(asked, err)
				return ok && err == nil
			}
			signed, err := ceremony.CoSign(cmd.Context(), s.server, s.replica.Read, key, confirm)
			if err := errors.Join(err, asked); err != nil {
				return err
			}
			ctx, cancel := deadline(cmd)
			defer cancel()
			for _, x := range signed {
				if err := matters.Await(ctx, s.replica, s.server, x.Index); err != nil {
					return err
				}
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(signed)
			}
			for _, x := range signed {
				state := "logged"
				if !x.Logged {
					state = "waits: " + x.Missing
				}
				fmt.Fprintf(a.out, "signed %s (%s)\n", plain(x.Summary), plain(state))
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
			if len(months) == 0 {
				return a.print(map[string]any{"months": []codec.Hash{}}, "every month's key has its canary")
			}
			return a.print(map[string]any{"months": months}, "%d canaries released; keyholders and guards open them by themselves", len(months))
		},
	}
	keyFlag(canary, &officer)
	c.AddCommand(create, generate, sign, canary, a.destroyCommand())
	return c
}
