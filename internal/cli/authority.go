package cli

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/api"
	"chancery/internal/home"
	"chancery/internal/issuer"
	"chancery/internal/matters"
)

// authorityKeyFile returns the key file that seals the certificate authority of
// a server's folder.
func authorityKeyFile(dir, named string) string {
	if named != "" {
		return named
	}
	return filepath.Join(dir, "ca.key")
}

func (a *app) caCommand() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "The organisation's certificate authorities for devices"}
	c.AddCommand(a.caCreateCommand(), a.caImportCommand(), a.caRemoveCommand(), a.caShowCommand())
	return c
}

func (a *app) caCreateCommand() *cobra.Command {
	var dir, keyFile string
	var keys []string
	var days uint32
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a certificate authority in the server's folder, and name it on the log",
		Long: `Make a certificate authority in the server's folder, and name it on the log. From
three days later on a device speaks only with a certificate; devices get and renew
theirs by themselves. Run it where the server's folder is, as the server's user.
Where its key was made and the log doesn't name it yet, it goes on from there.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !api.Made(dir) {
				return hint(fmt.Errorf("%s is no server's folder", dir), "name the server's folder with --server-dir")
			}
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			der, err := issuer.Certificate(dir)
			if errors.Is(err, issuer.ErrNone) {
				der, err = a.makeAuthority(cmd.Context(), dir, authorityKeyFile(dir, keyFile), s.home.Organisation)
			}
			if err != nil {
				return err
			}
			body := &control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: days * 24}
			return a.submit(cmd, s, body, officers, "", "devices get certificates for %d days from the server's own authority", days)
		},
	}
	c.Flags().StringVar(&dir, "server-dir", "server", "`FOLDER` of the server")
	c.Flags().StringVar(&keyFile, "ca-key-file", "", "`FILE` with the 32-byte key that seals the authority's key; made if missing (default: ca.key in the server's folder)")
	daysFlag(c, &days)
	keysFlag(c, &keys)
	return c
}

func (a *app) makeAuthority(ctx context.Context, dir, keyFile string, organisation codec.Hash) ([]byte, error) {
	secret, err := a.secret(ctx, keyFile, true)
	if err != nil {
		return nil, err
	}
	defer secret.Erase()
	return issuer.Create(dir, secret, organisation, time.Now())
}

func daysFlag(c *cobra.Command, days *uint32) {
	c.Flags().Uint32Var(days, "days", control.DefaultCertificateHours/24, "longest life of a certificate in `DAYS`, at most 366")
}

func (a *app) caImportCommand() *cobra.Command {
	var keys []string
	var days uint32
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Name an outside certificate authority on the log, by its certificate in PEM",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			der, err := readCertificate(args[0])
			if err != nil {
				return err
			}
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			body := &control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: days * 24}
			return a.submit(cmd, s, body, officers, "", "certificates of %s count, for %d days each", plain(subject(der)), days)
		},
	}
	daysFlag(c, &days)
	keysFlag(c, &keys)
	return c
}

func readCertificate(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the certificate: %w", err)
	}
	der, err := issuer.DecodePEM(data)
	if err != nil {
		return nil, hint(fmt.Errorf("%s: %w", path, err), "`openssl x509 -in FILE -out FILE.pem` writes PEM")
	}
	return der, nil
}

func subject(der []byte) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "an authority that can't be read"
	}
	return c.Subject.String()
}

func (a *app) caRemoveCommand() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "remove AUTHORITY",
		Short: "Take a certificate authority off the log: what it issued counts for three days more",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, officers, err := a.asOfficers(cmd, keys)
			if err != nil {
				return err
			}
			var known []codec.Hash
			byLeaf := map[codec.Hash]control.AuthorityState{}
			s.replica.Read(func(st *control.State) {
				for _, x := range st.Authorities() {
					if x.Removed == control.Never {
						known, byLeaf[x.Hash] = append(known, x.Hash), x
					}
				}
			})
			leaf, err := parseHash(args[0], known)
			if err != nil {
				return hint(err, "`chancery ca show` shows the authorities")
			}
			body := &control.Authority{Nonce: codec.NewID(), Certificate: byLeaf[leaf].Certificate, Remove: true}
			return a.submit(cmd, s, body, officers, "", "%s issues no certificates any more", plain(subject(body.Certificate)))
		},
	}
	keysFlag(c, &keys)
	return c
}

func (a *app) caShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the certificate authorities that the log names",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd.Context(), nil)
			if err != nil {
				return err
			}
			type row struct {
				Authority codec.Hash `json:"authority"` // its leaf
				Subject   string     `json:"subject"`
				Hours     uint32     `json:"hours"`
				Since     time.Time  `json:"since"`
				Removed   bool       `json:"removed"`
				Devices   int        `json:"devices"` // with a certificate of it that is good now
				PEM       string     `json:"pem"`
			}
			rows := []row{}
			s.replica.Read(func(st *control.State) {
				for _, x := range st.Authorities() {
					rows = append(rows, row{
						x.Hash, subject(x.Certificate), x.Hours, time.UnixMilli(x.Time).UTC(), x.Removed != control.Never,
						certified(st, x.Hash), string(issuer.EncodePEM(x.Certificate)),
					})
				}
			})
			if a.json {
				return json.NewEncoder(a.out).Encode(rows)
			}
			for _, r := range rows {
				state := ""
				if r.Removed {
					state = ", removed"
				}
				fmt.Fprintf(a.out, "%s  %s: %s, %d hours each, since %s%s\n", r.Authority.Short(), plain(r.Subject), count(r.Devices, "device"),
					r.Hours, r.Since.Format(time.DateOnly), state)
			}
			if len(rows) == 0 {
				fmt.Fprintln(a.out, "the organisation has no certificate authority: devices need no certificates")
			}
			return nil
		},
	}
}

// certified counts the live devices with a certificate of an authority that is
// good now.
func certified(s *control.State, authority codec.Hash) (n int) {
	now := time.Now().UnixMilli()
	for _, m := range s.Members() {
		for _, h := range s.Devices(m) {
			d, ok := s.Device(h)
			if !ok || !d.ValidAt(s.Size()) {
				continue
			}
			for _, c := range d.Certificates() {
				if c.Authority == authority && c.NotBefore <= now && now <= c.NotAfter {
					n++
					break
				}
			}
		}
	}
	return n
}

func (a *app) deviceRequestCommand() *cobra.Command {
	var f deviceFlags
	var out string
	c := &cobra.Command{
		Use:   "request",
		Short: "Write a certificate request (PKCS #10) for an outside certificate authority",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, _, err := a.device(cmd, &f)
			if err != nil {
				return err
			}
			defer d.Close()
			der, err := d.CertificateRequest()
			if err != nil {
				return err
			}
			if err := home.WriteFile(out, issuer.EncodeRequest(der), 0o644); err != nil {
				return err
			}
			return a.print(map[string]any{"request": out, "name": control.CertificateURI(d.Organisation(), d.Hash())},
				"%s asks for a certificate of %s: it goes to an authority that `chancery ca show` names", out, control.CertificateURI(d.Organisation(), d.Hash()))
		},
	}
	f.add(c)
	c.Flags().StringVar(&out, "out", "device.csr", "`FILE` to write")
	return c
}

func (a *app) deviceCertifyCommand() *cobra.Command {
	var f deviceFlags
	var file string
	c := &cobra.Command{
		Use:   "certify",
		Short: "Log the certificate that an outside authority issued to this device",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			der, err := readCertificate(file)
			if err != nil {
				return err
			}
			h, key, err := a.unlock(cmd, &f)
			if err != nil {
				return err
			}
			s, err := openHome(cmd.Context(), f.dir, h, nil)
			if err != nil {
				return err
			}
			d, err := openDevice(s, f.dir, key)
			if err != nil {
				return err
			}
			defer d.Close()
			ctx, cancel := deadline(cmd)
			defer cancel()
			index, err := d.Certify(ctx, der)
			if err != nil {
				return err
			}
			if err := matters.Await(ctx, s.replica, s.server, index); err != nil {
				return err
			}
			logged := false
			s.replica.Read(func(st *control.State) {
				if x, ok := st.Device(d.Hash()); ok {
					for _, have := range x.Certificates() {
						logged = logged || bytes.Equal(have.Certificate.Certificate, der)
					}
				}
			})
			if !logged {
				return errors.New("the witnessed log has something else in the certificate's place")
			}
			return a.print(map[string]any{"leaf": index}, "the certificate is logged (leaf %d)", index)
		},
	}
	f.add(c)
	c.Flags().StringVar(&file, "certificate", "", "`FILE` with the certificate in PEM (required)")
	must(c.MarkFlagRequired("certificate"))
	return c
}
