package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/api"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/issuer"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/internal/witness"
	"chancery/ledger"
)

// person makes a person's key in the people folder.
func (s *stage) person(name string) (ssh.Signer, control.Person, error) {
	key, err := home.NewKey(s.path("people", name), name)
	if err != nil {
		return nil, control.Person{}, err
	}
	return key, control.Person{Member: codec.NewID(), Credential: key.PublicKey().Marshal()}, nil
}

func (s *stage) group(role string, n int) ([]ssh.Signer, []control.Person, error) {
	var keys []ssh.Signer
	var people []control.Person
	for i := range n {
		name := fmt.Sprintf("%s-%d", role, i+1)
		if n == 1 {
			name = role
		}
		key, person, err := s.person(name)
		if err != nil {
			return nil, nil, err
		}
		keys, people = append(keys, key), append(people, person)
	}
	return keys, people, nil
}

// role is a daemon before its launch.
type role struct {
	*program
	url string
	dir string
}

func (s *stage) reserve(kind string, n int) ([]role, error) {
	var out []role
	for i := range n {
		name := kind
		if n > 1 {
			name = fmt.Sprintf("%s-%d", kind, i+1)
		}
		p, url, err := s.fleet.reserve(name)
		if err != nil {
			return nil, err
		}
		out = append(out, role{p, url, s.path(name)})
	}
	return out, nil
}

func (s *stage) launch(r role, args ...string) error {
	if err := r.launch(args...); err != nil {
		return err
	}
	s.programs = append(s.programs, r.program)
	return nil
}

// found makes every party's keys, the genesis leaf, and starts the daemons.
func (s *stage) found(ctx context.Context) error {
	s.step("founding an organisation: %d officers, %d approvers, a reviewer; %d keyholders in three jurisdictions (any %d open), %d guards, %d witnesses",
		officers, approvers, len(keyholders), threshold, guards, witnesses)
	policy := control.Policy{
		Version: 1, Region: "eu", Class: "standard", RetentionDays: 3650, Approvals: approvals,
		DeviceEvidenceNone: true, OpenerEvidenceNone: true,
		MaxRequestDays: 3660, MaxCount: 20_000, MaxIndexKeys: 20_000, RequestHours: 7 * 24,
	}
	g := &control.Genesis{Name: "Chancery demo", OfficerQuorum: officers, Threshold: threshold, WitnessQuorum: witnesses, Policy: policy}
	rand.Read(g.Nonce[:]) // never fails
	var err error
	if s.officer, g.Officers, err = s.group("officer", officers); err != nil {
		return err
	}
	if s.approver, g.Approvers, err = s.group("approver", approvers); err != nil {
		return err
	}
	reviewers, people, err := s.group("reviewer", 1)
	if err != nil {
		return err
	}
	s.reviewer, g.Reviewers = reviewers[0], people

	var servers, holders, locks, observers []role
	for _, r := range []struct {
		kind string
		n    int
		into *[]role
	}{{"server", 1, &servers}, {"keyholder", len(keyholders), &holders}, {"guard", guards, &locks}, {"witness", witnesses, &observers}} {
		if *r.into, err = s.reserve(r.kind, r.n); err != nil {
			return err
		}
	}
	s.home = &home.Home{Server: servers[0].url}
	if err := s.initHolders(g, holders, locks); err != nil {
		return err
	}
	if err := s.initWitnesses(g, observers); err != nil {
		return err
	}
	s.summary.ServerDir = servers[0].dir
	keys, err := api.Init(servers[0].dir)
	if err != nil {
		return err
	}
	g.ControlKey, g.MessagesKey, g.ReceiptKey = keys.ControlKey, keys.MessagesKey, keys.ReceiptKey
	entry, organisation, err := ceremony.Found(g, time.Now(), s.officer)
	if err != nil {
		return err
	}
	if err := api.Found(servers[0].dir, entry); err != nil {
		return err
	}
	s.summary.Organisation, s.home.Organisation = organisation, organisation
	if err := s.home.Save(s.Dir); err != nil {
		return err
	}
	s.detail("organisation %s", organisation)
	return s.start(g, servers[0], holders, locks, observers)
}

func (s *stage) initHolders(g *control.Genesis, holders, locks []role) error {
	for i, r := range holders {
		secret, err := s.keyFile(r.name)
		if err != nil {
			return err
		}
		h, err := custody.Create(r.dir, secret, r.name, keyholders[i], custody.Keyholder)
		if err != nil {
			return err
		}
		g.Keyholders = append(g.Keyholders, h)
		s.home.Keyholders = append(s.home.Keyholders, wire.Endpoint{Name: r.name, URL: r.url})
		s.summary.KeyholderDirs = append(s.summary.KeyholderDirs, r.dir)
	}
	for _, r := range locks {
		secret, err := s.keyFile(r.name)
		if err != nil {
			return err
		}
		h, err := custody.Create(r.dir, secret, r.name, "DE", custody.Guard)
		if err != nil {
			return err
		}
		g.Guards = append(g.Guards, h)
		s.home.Guards = append(s.home.Guards, wire.Endpoint{Name: r.name, URL: r.url})
		s.summary.GuardDirs = append(s.summary.GuardDirs, r.dir)
	}
	return nil
}

// keyFile makes the key that seals a daemon's secrets, outside its folder.
func (s *stage) keyFile(name string) (custody.Secret, error) {
	if err := os.MkdirAll(s.path("keys"), 0o700); err != nil {
		return custody.Secret{}, err
	}
	return custody.CreateKeyFile(s.path("keys", name))
}

func (s *stage) initWitnesses(g *control.Genesis, observers []role) error {
	for i, r := range observers {
		key, err := witness.LoadOrCreateKey(r.dir, rand.Reader)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("witness.example/%d", i+1)
		public := ledger.WitnessKey{Name: name, Key: codec.PublicKey(key.Public().(ed25519.PublicKey))}
		g.Witnesses = append(g.Witnesses, control.Witness{Name: name, Key: public.String()})
		s.summary.WitnessDirs = append(s.summary.WitnessDirs, r.dir)
		s.witness = append(s.witness, r.url)
	}
	return nil
}

func (s *stage) start(g *control.Genesis, server role, holders, locks, observers []role) error {
	logs := []string{
		ledger.LogKey{Origin: ledger.Origin(s.home.Organisation, ledger.ControlLog), Key: g.ControlKey}.String(),
		ledger.LogKey{Origin: ledger.Origin(s.home.Organisation, ledger.MessagesLog), Key: g.MessagesKey}.String(),
	}
	for i, r := range observers {
		data, err := json.Marshal(map[string]any{"name": g.Witnesses[i].Name, "logs": logs})
		if err != nil {
			return err
		}
		if err := home.WriteFile(filepath.Join(r.dir, "witness.json"), data, 0o644); err != nil {
			return err
		}
		if err := s.launch(r, "witness", "run", "--dir", r.dir); err != nil {
			return err
		}
	}
	args := []string{"server", "run", "--dir", server.dir, "--ca-key-file", s.path("keys", authorityKey)}
	for _, url := range s.witness {
		args = append(args, "--witness", url)
	}
	for _, e := range s.home.Keyholders {
		args = append(args, "--keyholder", e.Name+"="+e.URL)
	}
	for _, e := range s.home.Guards {
		args = append(args, "--guard", e.Name+"="+e.URL)
	}
	if err := s.launch(server, args...); err != nil {
		return err
	}
	for _, r := range holders {
		if err := s.launch(r, s.holderArgs("keyholder", r)...); err != nil {
			return err
		}
	}
	for i, r := range locks {
		args := s.holderArgs("guard", r)
		for j, e := range s.home.Guards {
			if i != j {
				args = append(args, "--peer", e.Name+"="+e.URL)
			}
		}
		if err := s.launch(r, args...); err != nil {
			return err
		}
	}
	s.server = remote.New(s.home.Server, nil, httpsig.SSH(s.officer[0]))
	s.replica = replica.New(s.home.Organisation)
	s.summary.Server = s.home.Server
	return nil
}

func (s *stage) holderArgs(kind string, r role) []string {
	return []string{kind, "run", "--dir", r.dir, "--key-file", s.path("keys", r.name), "--server", s.home.Server,
		"--organisation", s.home.Organisation.String()}
}

// keys has the keyholders make the escrow key and the guards the months', and
// shows that they can be opened before anybody relies on them.
func (s *stage) keys(ctx context.Context) error {
	if err := s.until(ctx, "the witnesses have seen the genesis leaf", func(*control.State) bool { return true }); err != nil {
		return err
	}
	var g *control.Genesis
	s.replica.Read(func(st *control.State) { g = st.Genesis() })
	if err := s.authority(ctx); err != nil {
		return err
	}
	s.step("the keyholders make the escrow key among themselves: nobody, at no time, holds it whole")
	if _, err := ceremony.Open(ctx, s.server, rand.Reader, s.home.Organisation, g, s.officer...); err != nil {
		return err
	}
	if err := s.coSign(ctx, s.approver[:approvals], "the escrow epoch is signed", func(st *control.State) bool { return len(st.Epochs()) > 0 }); err != nil {
		return err
	}
	s.step("the guards make the months' ML-KEM keys, the other lock; a canary is opened in public under each before it counts")
	month := control.MonthOf(envelope.DayOf(time.Now()))
	have := func(st *control.State) bool {
		n := 0
		for _, m := range st.Months() {
			if m.Month.Month >= month && m.Month.Month <= month+3 {
				n++
			}
		}
		return n == 4
	}
	if err := s.coSign(ctx, s.officer, "four months have their keys", have); err != nil {
		return err
	}
	if _, err := ceremony.Canaries(ctx, s.server, rand.Reader, time.Now(), s.replica.Read, s.officer[0]); err != nil {
		return err
	}
	return s.until(ctx, "the canaries are open", func(st *control.State) bool {
		for _, m := range st.Months() {
			if m.Effective == control.Never {
				return false
			}
		}
		return true
	})
}

const authorityKey = "ca"

// authority makes the organisation's certificate authority in the server's
// folder, and has the officers name it on the log.
func (s *stage) authority(ctx context.Context) error {
	s.step("the officers name a certificate authority: devices get certificates for %d days and renew them by themselves", control.DefaultCertificateHours/24)
	secret, err := s.keyFile(authorityKey)
	if err != nil {
		return err
	}
	defer secret.Erase()
	der, err := issuer.Create(s.summary.ServerDir, secret, s.home.Organisation, time.Now())
	if err != nil {
		return err
	}
	done, _, err := ceremony.Submit(ctx, s.server, rand.Reader, s.home.Organisation,
		&control.Authority{Nonce: codec.NewID(), Certificate: der, Hours: control.DefaultCertificateHours}, s.officer...)
	if err != nil {
		return err
	}
	return ceremony.Logged(done)
}

// coSign lets people sign what the daemons propose until done.
func (s *stage) coSign(ctx context.Context, people []ssh.Signer, what string, done func(*control.State) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	for {
		if err := s.replica.Sync(ctx, s.server); err != nil {
			return err
		}
		ok := false
		s.replica.Read(func(st *control.State) { ok = done(st) })
		if ok {
			return nil
		}
		for _, key := range people {
			server := s.server.As(httpsig.SSH(key))
			if _, err := ceremony.CoSign(ctx, server, s.replica.Read, key, nil); err != nil {
				return err
			}
		}
		if err := s.check(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
