package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/ceremony"
	"chancery/internal/httpsig"
)

func (a *app) deviceAuditCommand() *cobra.Command {
	var f deviceFlags
	c := &cobra.Command{
		Use:   "audit",
		Short: "Show your devices, and every leaf of the log about them",
		Long: `Show your devices, and every leaf of the log about them: who let each in, its
certificates, its revocation; and what is new since the last audit. A device that
nobody of you enrolled is to be revoked: chancery device revoke, by an officer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			audit, err := d.Audit(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(audit)
			}
			a.printAudit(s, audit)
			return nil
		},
	}
	f.add(c)
	return c
}

func (a *app) printAudit(s *session, audit *client.Audit) {
	for _, d := range audit.Devices {
		state := "live"
		if !d.Live {
			state = "revoked"
		}
		if d.This {
			state += ", this one"
		}
		if !d.Certified.IsZero() {
			state += ", certified until " + d.Certified.Format(time.DateOnly)
		}
		fmt.Fprintf(a.out, "device %s  enrolled %s  %s\n", d.Device.Short(), d.Enrolled.Format(time.DateTime), state)
	}
	fmt.Fprintln(a.out)
	fresh := 0
	for _, e := range audit.Events {
		mark := "   "
		if e.New {
			mark = "NEW"
			fresh++
		}
		fmt.Fprintf(a.out, "%s leaf %d  %s  %s\n", mark, e.Index, time.UnixMilli(e.Time).UTC().Format(time.DateTime), a.describeEvent(s, &e))
	}
	fmt.Fprintf(a.out, "\n%s of %s are new since the last audit, of %d leaves of the log\n", count(fresh, "leaf"), count(len(audit.Events), "leaf"), audit.Size)
}

func (a *app) describeEvent(s *session, e *client.AuditEvent) string {
	device := "device " + e.Device.Short()
	switch e.Kind {
	case control.KindDevice:
		if e.Sibling.IsZero() {
			return fmt.Sprintf("%s enrolled under the invitation of leaf %d, of officers %s", device, e.Invitation, people(s, e.Officers))
		}
		return fmt.Sprintf("%s enrolled, let in by %s", device, whose(e))
	case control.KindCertificate:
		return fmt.Sprintf("%s certified until %s, by authority %s", device, time.UnixMilli(e.NotAfter).UTC().Format(time.DateOnly), e.Authority.Short())
	}
	by := "officer " + people(s, e.Officers)
	if len(e.Officers) == 0 {
		by = whose(e)
	}
	return fmt.Sprintf("%s revoked by %s: %s", device, by, plain(e.Reason))
}

func whose(e *client.AuditEvent) string {
	if e.Mine {
		return "this device"
	}
	return "your device " + e.Sibling.Short()
}

// people returns the fingerprints of credentials.
func people(s *session, credentials []codec.Hash) string {
	var out []string
	s.replica.Read(func(st *control.State) {
		for _, h := range credentials {
			if c, ok := st.Credential(h); ok {
				out = append(out, ceremony.Fingerprint(c.Person.Credential))
			} else {
				out = append(out, h.Short())
			}
		}
	})
	return strings.Join(out, ", ")
}

func (a *app) safetyNumberCommand() *cobra.Command {
	var f deviceFlags
	var with string
	c := &cobra.Command{
		Use:   "safety-number",
		Short: "Show the number that you and another member compare, in person or by telephone",
		Long: `Show the number that you and another member compare, in person or by telephone. It
is the same for both while the log shows both the same organisation and the same
devices of each. It changes when a device of either is enrolled or revoked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			members, err := resolve(cmd, s.server.As(httpsig.Ed25519(d.Signer())), []string{with})
			if err != nil {
				return err
			}
			var number string
			devices := map[codec.ID]int{}
			s.replica.Read(func(st *control.State) {
				number, err = st.SafetyNumber(d.Member(), members[0])
				for _, m := range []codec.ID{d.Member(), members[0]} {
					for _, x := range st.Devices(m) {
						if dev, ok := st.Device(x); ok && dev.ValidAt(st.Size()) {
							devices[m]++
						}
					}
				}
			})
			if err != nil {
				return err
			}
			groups := strings.Fields(number)
			return a.print(map[string]any{"member": members[0], "safety_number": number, "own_devices": devices[d.Member()], "their_devices": devices[members[0]]},
				"%s\n%s\n%s\n\n%s of yours, %s of theirs", strings.Join(groups[:4], " "), strings.Join(groups[4:8], " "), strings.Join(groups[8:], " "),
				count(devices[d.Member()], "device"), count(devices[members[0]], "device"))
		},
	}
	f.add(c)
	c.Flags().StringVar(&with, "with", "", "`MEMBER`: name or id of the other (required)")
	must(c.MarkFlagRequired("with"))
	return c
}
