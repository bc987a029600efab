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
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/replica"
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
