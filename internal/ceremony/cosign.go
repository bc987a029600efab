package ceremony

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
	"chancery/quorum"
	"chancery/sshsig"
)

// CoSign adds a person's signature to the pending statements that want one of
// their role and lack it, each checked against the replayed state first.
// confirm is asked before each signature and may be nil.
func CoSign(ctx context.Context, server Server, state func(func(*control.State)), signer ssh.Signer, confirm func(summary string) bool) ([]Signed, error) {
	pending, err := server.Pending(ctx)
	if err != nil {
		return nil, fmt.Errorf("couldn't read what waits for signatures: %w", err)
	}
	own := sshsig.Credential(signer.PublicKey().Marshal()).ID()
	var out []Signed
	for _, p := range pending {
		statement, err := control.ParseStatement(p.Statement)
		if err != nil {
			return out, err
		}
		var summary string
		state(func(s *control.State) {
			if wanted(s, statement.Kind, &p, own) {
				summary, err = describe(s, statement, p.Opening)
			}
		})
		if err != nil {
			return out, fmt.Errorf("pending %s %s: %w", statement.Kind, statement.Hash().Short(), err)
		}
		if summary == "" || (confirm != nil && !confirm(summary)) {
			continue
		}
		signature, err := control.SignSSH(signer, statement)
		if err != nil {
			return out, err
		}
		done, err := server.Submit(ctx, &wire.Submit{Statement: p.Statement, Opening: p.Opening, Signatures: []control.Signature{signature}})
		if err != nil {
			return out, fmt.Errorf("couldn't sign the %s: %w", statement.Kind, err)
		}
		out = append(out, Signed{Kind: statement.Kind, Hash: done.Hash, Summary: summary, Logged: done.Index >= 0, Index: done.Index, Missing: done.Missing})
	}
	return out, nil
}

// wanted reports whether a pending statement lacks the signature of a person
// whose role lets them give it.
func wanted(s *control.State, kind control.Kind, p *wire.Pending, own codec.Hash) bool {
	role := control.RoleOfficer
	if kind == control.KindEpoch {
		role = control.RoleApprover
	}
	if c, ok := s.Credential(own); !ok || !c.Roles[role] {
		return false
	}
	for _, g := range p.Signatures {
		if g.Algorithm == control.SSH && g.Key == own {
			return false
		}
	}
	return true
}

// describe checks a pending statement against the log and says what it means.
// It returns no words for kinds that people don't co-sign.
func describe(s *control.State, statement *control.Statement, opening *control.Opening) (string, error) {
	if statement.Organisation != s.Organisation() {
		return "", errors.New("it is of another organisation")
	}
	body := statement.Body
	if statement.Kind.Sealed() {
		if opening == nil || len(body) != codec.HashSize || opening.Seal() != codec.Hash(body) {
			return "", errors.New("its text is not what it seals")
		}
		body = opening.Body
	}
	switch statement.Kind {
	case control.KindEpoch:
		return describeEpoch(s, body)
	case control.KindMonth:
		var m control.Month
		if err := codec.Decode(body, &m); err != nil {
			return "", err
		}
		if _, ok := s.Epoch(m.Epoch); !ok {
			return "", errors.New("its epoch is not on the log")
		}
		return fmt.Sprintf("escrow key of %s, region %s, class %s", MonthName(m.Month), m.Region, m.Class), nil
	case control.KindDestruction:
		var d control.Destruction
		if err := codec.Decode(body, &d); err != nil {
			return "", err
		}
		m, ok := s.Month(d.Month)
		if !ok {
			return "", errors.New("its month is not on the log")
		}
		return fmt.Sprintf("DESTRUCTION of the key of %s, region %s, class %s, for ever: %q, by the authority of %q",
			MonthName(m.Month.Month), m.Region, m.Class, d.Reason, d.Authority), nil
	case control.KindPolicy:
		var p control.Policy
		if err := codec.Decode(body, &p); err != nil {
			return "", err
		}
		return fmt.Sprintf("policy version %d: %s", p.Version, strings.Join(Changes(&s.Policy().Policy, &p), ", ")), nil
	case control.KindRole:
		var r control.RoleChange
		if err := codec.Decode(body, &r); err != nil {
			return "", err
		}
		verb := "gives"
		if r.Remove {
			verb = "takes"
		}
		return fmt.Sprintf("a change of roles, which %s the role of %s: SSH key %s", verb, r.Role, Fingerprint(r.Person.Credential)), nil
	case control.KindAuthority:
		return describeAuthority(body)
	case control.KindRelease:
		var r control.Release
		if err := codec.Decode(body, &r); err != nil {
			return "", err
		}
		h, ok := s.Hold(r.Hold)
		if !ok {
			return "", errors.New("its hold is not on the log")
		}
		return fmt.Sprintf("release of hold %s on %d custodians: %q", h.Hash.Short(), len(h.Custodians), r.Reason), nil
	}
	return "", nil
}

func describeAuthority(body []byte) (string, error) {
	var a control.Authority
	if err := codec.Decode(body, &a); err != nil {
		return "", err
	}
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("certificate authority %q, SHA-256 %x", c.Subject.String(), sha256.Sum256(a.Certificate))
	if a.Remove {
		return "the end of " + name, nil
	}
	return fmt.Sprintf("%s: its certificates for devices live at most %d hours", name, a.Hours), nil
}

func describeEpoch(s *control.State, body []byte) (string, error) {
	var e control.Epoch
	if err := codec.Decode(body, &e); err != nil {
		return "", err
	}
	c, board, ok := s.Ceremony(e.Ceremony)
	if !ok {
		return "", errors.New("its ceremony is not on the log")
	}
	key, transcript, err := quorum.Verify(c, board)
	if err != nil {
		return "", err
	}
	if transcript != e.Transcript || key.Key != e.Key.Key {
		return "", errors.New("its key is not the ceremony's")
	}
	return fmt.Sprintf("escrow epoch %d: %d of %d keyholders open", e.Number, e.Key.T, e.Key.N()), nil
}

// Fingerprint returns an SSH credential as `ssh-keygen -l` shows it.
func Fingerprint(credential []byte) string {
	key, err := ssh.ParsePublicKey(credential)
	if err != nil {
		return "unreadable"
	}
	return ssh.FingerprintSHA256(key)
}

// Changes says in words how one policy differs from another.
func Changes(from, to *control.Policy) []string {
	var out []string
	for _, c := range []struct {
		what     string
		from, to any
	}{
		{"region", from.Region, to.Region},
		{"class", from.Class, to.Class},
		{"days that messages are kept", from.RetentionDays, to.RetentionDays},
		{"approvals that a request needs", from.Approvals, to.Approvals},
		{"devices without evidence", allowed(from.DeviceEvidenceNone), allowed(to.DeviceEvidenceNone)},
		{"openers without evidence", allowed(from.OpenerEvidenceNone), allowed(to.OpenerEvidenceNone)},
		{"seconds for a veto", from.VetoSeconds, to.VetoSeconds},
		{"days that a request may span", from.MaxRequestDays, to.MaxRequestDays},
		{"records that a request may open", from.MaxCount, to.MaxCount},
		{"index keys that a request may open", from.MaxIndexKeys, to.MaxIndexKeys},
		{"hours that a request may live", from.RequestHours, to.RequestHours},
	} {
		if c.from != c.to {
			out = append(out, fmt.Sprintf("%s %v instead of %v", c.what, c.to, c.from))
		}
	}
	return out
}

func allowed(yes bool) string {
	if yes {
		return "allowed"
	}
	return "refused"
}
