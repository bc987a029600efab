// Package demo plays Chancery's whole path on one machine, with real processes
// and real cryptography: it founds an organisation, lets its members talk,
// places a hold, has a search approved, opens exactly what it finds and lets an
// auditor verify it. Nothing in it is a stand-in: the programs it starts are
// this binary in its roles, and the people's steps are those of the command
// line, with their keys in the demo's folder.
package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/blindindex"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/api"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/internal/witness"
	"chancery/ledger"
	"chancery/request"
	"chancery/verify"
)

// Numbers of the demo's organisation.
const (
	officers  = 2
	approvers = 5
	approvals = 3
	guards    = 2
	witnesses = 2
	threshold = 3

	stepTime = 2 * time.Minute // within which the daemons do their part of a step
)

// keyholders is where the five keyholders stand: three jurisdictions.
var keyholders = [...]string{"DE", "DE", "NL", "NL", "CH"}

// Options say what the demo plays.
type Options struct {
	Dir        string   // folder for everything; made where missing, empty at the start
	Corpus     string   // JSON lines file; empty for the conversation that ships with the program
	Limit      int      // most messages to send, 0 for all
	Term       string   // word to search for
	Custodians []string // names; empty for everybody
	Keep       bool     // leave the programs running until ctx ends
	Binary     string   // the program to start in its roles
	Out        io.Writer
	Played     func(*Summary) error // told the result, before Keep waits; may be nil
}

// Summary is what the demo reports, and what `--json` writes.
type Summary struct {
	Organisation      codec.Hash         `json:"organisation"`
	Dir               string             `json:"dir"`
	ServerDir         string             `json:"server_dir"`
	WitnessDirs       []string           `json:"witness_dirs"`
	KeyholderDirs     []string           `json:"keyholder_dirs"`
	GuardDirs         []string           `json:"guard_dirs"`
	DeviceDir         string             `json:"device_dir"`
	Server            string             `json:"server"`
	Members           int                `json:"members"`
	MessagesSent      int                `json:"messages_sent"`
	MessagesDelivered int                `json:"messages_delivered"`
	Envelopes         int64              `json:"envelopes"`
	Mismatches        int                `json:"mismatches"`
	LedgerSize        int64              `json:"ledger_size"`
	ControlSize       int64              `json:"control_size"`
	Keyholders        int                `json:"keyholders"`
	Threshold         int                `json:"threshold"`
	Guards            int                `json:"guards"`
	Witnesses         int                `json:"witnesses"`
	Approvals         int                `json:"approvals"`
	SearchHits        int                `json:"search_hits"`
	Opened            int                `json:"opened"`
	Exported          int                `json:"exported"`
	Verified          bool               `json:"verified"`
	Request           codec.Hash         `json:"request"`
	EvidencePack      string             `json:"evidence_pack"`
	ExportFile        string             `json:"export_file"`
	Seconds           map[string]float64 `json:"seconds"`
}

// ErrNotVerified means that the evidence pack did not verify.
var ErrNotVerified = errors.New("the evidence pack does not verify")

// stage is the demo under way.
type stage struct {
	Options
	*narrator
	summary  *Summary
	fleet    *fleet
	programs []*program
	witness  []string // URLs
	home     *home.Home
	officer  []ssh.Signer
	approver []ssh.Signer
	reviewer ssh.Signer
	server   *remote.Client // as the first officer
	replica  *replica.Replica
	members  map[string]codec.ID
}

// Run plays the demo. The programs it started are stopped when it returns.
func Run(ctx context.Context, o Options) (*Summary, error) {
	s, err := newStage(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for _, phase := range s.phases() {
		start := time.Now()
		if err := phase.play(ctx); err != nil {
			return s.summary, errors.Join(fmt.Errorf("%s: %w", phase.name, err), s.check())
		}
		s.summary.Seconds[phase.name] = time.Since(start).Seconds()
	}
	if o.Played != nil {
		if err := o.Played(s.summary); err != nil {
			return s.summary, err
		}
	}
	if o.Keep {
		s.step("left running: server %s, home folder %s; press Ctrl-C to stop", s.home.Server, s.Dir)
		<-ctx.Done()
	}
	return s.summary, nil
}

// phase is a part of the demo, timed by its name.
type phase struct {
	name string
	play func(context.Context) error
}

func (s *stage) phases() []phase {
	return []phase{
		{"found", s.found}, {"keys", s.keys}, {"talk", s.talk}, {"hold", s.hold},
		{"approve", s.approve}, {"open", s.open}, {"export", s.export}, {"verify", s.verify},
	}
}

// corpus reads what is to be played.
func (o *Options) corpus() ([]line, error) {
	data := shipped
	if o.Corpus != "" {
		var err error
		if data, err = os.ReadFile(o.Corpus); err != nil {
			return nil, fmt.Errorf("couldn't read the corpus: %w", err)
		}
	}
	return readCorpus(bytes.NewReader(data), o.Limit)
}

// Check refuses options that could not be played to the end, before anything is
// made for them.
func (o *Options) Check() error {
	if o.Limit < 0 {
		return fmt.Errorf("a limit of %d messages: want 0, for all, or more", o.Limit)
	}
	if len(blindindex.Tokenize(o.Term)) == 0 {
		return fmt.Errorf("the term %q has no word to search for", o.Term)
	}
	lines, err := o.corpus()
	if err != nil {
		return err
	}
	people := members(lines)
	for _, name := range o.Custodians {
		if !slices.Contains(people, name) {
			return fmt.Errorf("nobody in the corpus is called %q", name)
		}
	}
	if entries, err := os.ReadDir(o.Dir); len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) && o.Dir != "" {
		return errors.Join(fmt.Errorf("%s is not an empty folder: the demo founds an organisation in one of its own", o.Dir), err)
	}
	return nil
}

func newStage(o Options) (*stage, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the demo's folder: %w", err)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil, errors.Join(fmt.Errorf("%s is not empty: the demo founds an organisation in a folder of its own", dir), err)
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil {
		return nil, err
	}
	return &stage{
		Options: o, narrator: newNarrator(o.Out),
		summary: &Summary{
			Dir: dir, Seconds: map[string]float64{}, Keyholders: len(keyholders), Threshold: threshold, Guards: guards, Witnesses: witnesses,
		},
		fleet: &fleet{binary: o.Binary, logs: filepath.Join(dir, "logs")},
	}, nil
}

func (s *stage) path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}

func (s *stage) stop() {
	for i := len(s.programs) - 1; i >= 0; i-- {
		s.programs[i].stop()
	}
}

func (s *stage) check() error {
	var errs []error
	for _, p := range s.programs {
		errs = append(errs, p.check())
	}
	return errors.Join(errs...)
}

// until replays the log until done says so.
func (s *stage) until(ctx context.Context, what string, done func(*control.State) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	for {
		err := s.replica.Sync(ctx, s.server)
		if err == nil {
			ok := false
			s.replica.Read(func(st *control.State) { ok = done(st) })
			if ok {
				return nil
			}
		}
		if err := s.check(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited in vain until %s", what), err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

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
	args := []string{"server", "run", "--dir", server.dir}
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

// talk enrols every member's device and sends the conversation.
func (s *stage) talk(ctx context.Context) error {
	corpus := s.Corpus
	if corpus == "" {
		corpus = s.path("conversation.jsonl")
		if err := os.WriteFile(corpus, shipped, 0o600); err != nil {
			return fmt.Errorf("couldn't write the conversation: %w", err)
		}
	}
	lines, err := s.corpus()
	if err != nil {
		return err
	}
	people := members(lines)
	s.summary.Members = len(people)
	s.step("%d members are invited, each enrols a device of their own", len(people))
	invites, err := ceremony.InviteMembers(ctx, s.server, s.server, rand.Reader, s.home.Organisation, s.home.Server, people,
		time.Now().Add(24*time.Hour), s.officer, func(done int) { s.progress("invited", done, len(people)) })
	if err != nil {
		return err
	}
	s.members = map[string]codec.ID{}
	for _, i := range invites {
		s.members[i.Name] = i.Member
	}
	data, err := json.Marshal(invites)
	if err != nil {
		return err
	}
	if err := home.WriteFile(s.path("people", "invitations.json"), data, 0o600); err != nil {
		return err
	}
	if _, err := custody.CreateKeyFile(s.path("keys", "devices")); err != nil {
		return err
	}
	s.summary.DeviceDir = s.path("devices")
	host, err := s.fleet.run("devices", "demo-devices", "--dir", s.path("devices"), "--home", s.Dir,
		"--key-file", s.path("keys", "devices"), "--corpus", corpus, "--limit", fmt.Sprint(s.Limit),
		"--invitations", s.path("people", "invitations.json"))
	if err != nil {
		return err
	}
	s.step("%d messages are sent end-to-end encrypted; each leaves a sealed envelope in the archive, and every recipient checks that it matches", len(lines))
	var result *deviceResult
	if err := host.follow(ctx, func(e event) {
		if e.Result != nil {
			result = e.Result
			return
		}
		s.progress(e.Phase, e.Done, e.Total)
	}); err != nil {
		return err
	}
	if result == nil {
		return fmt.Errorf("%w: the devices ended without a result", ErrProgram)
	}
	s.summary.MessagesSent, s.summary.MessagesDelivered, s.summary.Mismatches = result.Sent, result.Delivered, result.Mismatches
	status, err := s.server.Status(ctx)
	if err != nil {
		return err
	}
	s.summary.Envelopes, s.summary.LedgerSize, s.summary.ControlSize = status.Envelopes, status.MessagesSize, status.ControlSize
	s.detail("%d sent, %d delivered and checked, %d mismatches; %d envelopes, ledger at %d leaves",
		result.Sent, result.Delivered, result.Mismatches, status.Envelopes, status.MessagesSize)
	return nil
}

func (s *stage) desk(key ssh.Signer) *matters.Desk {
	d := &matters.Desk{
		Server: s.server.As(httpsig.SSH(key)), Replica: s.replica, Key: key, Holders: map[string]matters.Holder{}, Now: time.Now, Rand: rand.Reader,
	}
	for _, e := range append(append([]wire.Endpoint(nil), s.home.Keyholders...), s.home.Guards...) {
		d.Holders[e.Name] = remote.NewHolder(e.URL, nil, httpsig.SSH(key))
	}
	return d
}

func (s *stage) custodians() ([]codec.ID, string, error) {
	var ids []codec.ID
	if len(s.Custodians) == 0 {
		for _, id := range s.members {
			ids = append(ids, id)
		}
		return ids, "every member", nil
	}
	words := ""
	for _, name := range s.Custodians {
		id, ok := s.members[name]
		if !ok {
			return nil, "", fmt.Errorf("nobody in the corpus is called %q", name)
		}
		ids = append(ids, id)
		words += name + " "
	}
	return ids, words[:len(words)-1], nil
}

// hold opens a matter, places a hold and requests a search.
func (s *stage) hold(ctx context.Context) error {
	ids, who, err := s.custodians()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	desk := s.desk(s.reviewer)
	details, err := request.NewDetails(rand.Reader, "Demo matter", "show the whole path", "demonstration", []string{s.Term})
	if err != nil {
		return err
	}
	s.step("the reviewer opens a matter and places a hold on the messages of %s", who)
	matter := codec.NewID()
	if err := desk.OpenMatter(ctx, matter, details); err != nil {
		return err
	}
	today := envelope.DayOf(time.Now())
	if _, err := desk.PlaceHold(ctx, matter, ids, today-1, today+1, "Please keep everything: this is a demonstration."); err != nil {
		return err
	}
	s.step("and requests a search for %q: approvers read it in clear, keyholders see ids, dates and counts, the server no term", s.Term)
	recipient, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return fmt.Errorf("couldn't make the recipient's key: %w", err)
	}
	secret, err := recipient.Bytes()
	if err != nil {
		return err
	}
	_, err = desk.Request(ctx, &matters.Draft{
		Matter: matter, Custodians: ids, FromDay: today - 1, ToDay: today + 1, MaxCount: 20_000, Search: true,
		Recipient: recipient.PublicKey().Bytes(), Expiry: time.Now().Add(24 * time.Hour), Details: details,
		Keep: func(h codec.Hash) error {
			s.summary.Request = h
			if err := home.WriteFile(s.path("recipients", h.String()+".key"), secret, 0o600); err != nil {
				return err
			}
			return (&home.Request{Request: h, Matter: matter, Details: details.Encode()}).Save(s.requestFile())
		},
	})
	return err
}

func (s *stage) requestFile() string {
	return s.path("requests", s.summary.Request.String()+".request")
}

// approve has three of the five approvers sign.
func (s *stage) approve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	s.step("%d of %d approvers read the request on the witnessed log and sign it with their SSH keys", approvals, approvers)
	for _, key := range s.approver[:approvals] {
		if _, err := s.desk(key).Decide(ctx, s.summary.Request, control.Approve, ""); err != nil {
			return err
		}
		s.summary.Approvals++
	}
	return nil
}

// verify lets an auditor check the pack, offline.
func (s *stage) verify(context.Context) error {
	s.step("an auditor who trusts nobody checks the evidence pack offline, from the organisation's identity alone")
	data, err := os.ReadFile(s.summary.EvidencePack)
	if err != nil {
		return fmt.Errorf("couldn't read the evidence pack: %w", err)
	}
	report := verify.Pack(s.home.Organisation, data)
	passed := 0
	for _, c := range report.Checks {
		if c.OK {
			passed++
		} else {
			s.detail("FAILED %s: %s", c.Name, c.Detail)
		}
	}
	s.detail("%d of %d checks hold", passed, len(report.Checks))
	if !report.OK {
		return ErrNotVerified
	}
	s.summary.Verified = true
	return nil
}
