package request_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/manifest"
	"chancery/request"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReady(t *testing.T) {
	requester := codec.NewID()
	people := []codec.ID{codec.NewID(), codec.NewID(), codec.NewID()}
	const now, hour = int64(1_800_000_000_000), int64(3_600_000)
	approve := func(member codec.ID) control.ApprovalState {
		return control.ApprovalState{Approval: control.Approval{Decision: control.Approve}, Member: member, Time: now - hour}
	}
	for _, c := range []struct {
		what   string
		change func(*control.RequestState, *control.Policy)
		want   error
	}{
		{"two of two", func(*control.RequestState, *control.Policy) {}, nil},
		{"withdrawn", func(r *control.RequestState, _ *control.Policy) { r.Withdrawn = 0 }, request.ErrWithdrawn},
		{"at its expiry", func(r *control.RequestState, _ *control.Policy) { r.Expiry = now }, nil},
		{"after it", func(r *control.RequestState, _ *control.Policy) { r.Expiry = now - 1 }, request.ErrExpired},
		{"a third is wanted", func(_ *control.RequestState, p *control.Policy) { p.Approvals = 3 }, request.ErrApprovals},
		{"nobody has approved", func(r *control.RequestState, _ *control.Policy) { r.Approvals = nil }, request.ErrApprovals},
		{"and policy wants nobody", func(r *control.RequestState, p *control.Policy) { r.Approvals, p.Approvals = nil, 0 }, request.ErrApprovals},
		{"one member twice", func(r *control.RequestState, _ *control.Policy) { r.Approvals[1].Member = people[0] }, request.ErrApprovals},
		{"the requester", func(r *control.RequestState, _ *control.Policy) { r.Approvals[1].Member = requester }, request.ErrApprovals},
		{"a word that is neither", func(r *control.RequestState, _ *control.Policy) { r.Approvals[1].Decision = "perhaps" }, request.ErrApprovals},
		{"a refusal beside", func(r *control.RequestState, _ *control.Policy) {
			no := approve(people[2])
			no.Decision = control.Refuse
			r.Approvals = append(r.Approvals, no)
		}, request.ErrRefused},
		{"a refusal of one who left", func(r *control.RequestState, _ *control.Policy) {
			no := approve(people[2])
			no.Decision, no.Lapsed = control.Refuse, now-1
			r.Approvals = append(r.Approvals, no)
		}, request.ErrRefused},
		{"an approver who left", func(r *control.RequestState, _ *control.Policy) { r.Approvals[0].Lapsed = now }, request.ErrApprovals},
		{"one who leaves later", func(r *control.RequestState, _ *control.Policy) { r.Approvals[0].Lapsed = now + 1 }, nil},
		{"an approver too new", func(r *control.RequestState, _ *control.Policy) { r.Approvals[0].Counts = now + 1 }, request.ErrApprovals},
		{"one just old enough", func(r *control.RequestState, _ *control.Policy) { r.Approvals[0].Counts = now }, nil},
		{"in veto time", func(_ *control.RequestState, p *control.Policy) { p.VetoSeconds = 3601 }, request.ErrVeto},
		{"veto time just over", func(_ *control.RequestState, p *control.Policy) { p.VetoSeconds = 3600 }, nil},
		{"an endless veto", func(_ *control.RequestState, p *control.Policy) { p.VetoSeconds = 1<<32 - 1 }, request.ErrVeto},
	} {
		r := &control.RequestState{
			Request: control.Request{Expiry: now + hour}, Member: requester, Withdrawn: control.Never,
			Approvals: []control.ApprovalState{approve(people[0]), approve(people[1])},
		}
		p := &control.Policy{Approvals: 2}
		c.change(r, p)
		if err := request.Ready(r, p, now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

// scene is an organisation with a conversation of two and one message.
type scene struct {
	*orgtest.Org
	alice, bob   *orgtest.Device
	conversation codec.ID
	message      *orgtest.Message
}

func newScene(t testing.TB) *scene {
	t.Helper()
	clock := time.Date(2026, 11, 15, 12, 0, 0, 0, time.UTC)
	o := orgtest.NewWith(t, orgtest.Options{Now: func() time.Time { return clock }})
	s := &scene{Org: o, alice: o.NewMember(), bob: o.NewMember()}
	s.conversation = o.Conversation(s.alice, s.bob)
	s.message = o.Send(s.conversation, s.alice, "the quarterly figures")
	return s
}

// log is what items are checked against, as it is now.
func (s *scene) log() *request.Log {
	roots := make([]codec.Hash, s.Control.Size()+1)
	for size := range s.Control.Size() {
		roots[size+1] = s.Control.Root(size + 1)
	}
	return &request.Log{
		State: s.State, Messages: s.Messages.State(),
		Root: func(size int64) (codec.Hash, bool) {
			if size < 1 || size >= int64(len(roots)) {
				return codec.Hash{}, false
			}
			return roots[size], true
		},
	}
}

func (s *scene) roster(c codec.ID) *request.Roster {
	r := s.Roster(c).Proof(s.Org, s.Messages.Size())
	return &r
}

func (s *scene) item(m *orgtest.Message) *request.Item {
	i := m.Item(s.Org, false, s.Messages.Size())
	return &i
}

func (s *scene) epochs(t testing.TB, conversations ...codec.ID) map[codec.Hash]*request.Epoch {
	t.Helper()
	out := map[codec.Hash]*request.Epoch{}
	for _, c := range conversations {
		e, h, err := s.log().CheckRoster(s.roster(c))
		must(t, err)
		out[h] = e
	}
	return out
}

func (s *scene) check(t testing.TB, i *request.Item) error {
	t.Helper()
	_, err := s.log().CheckManifest(i.Manifest, &i.Proof, i.Encapsulation, s.epochs(t, s.conversation))
	return err
}

func TestCheckProof(t *testing.T) {
	s := newScene(t)
	log, object := s.log(), s.message.Manifest.Hash()
	good := func() *request.Proof { p := s.item(s.message).Proof; return &p }
	must(t, log.CheckProof(object, manifest.LeafMessage, good()))
	if log.CheckProof(object, manifest.LeafCommit, good()) == nil {
		t.Error("a message's leaf stands for a commit")
	}
	if log.CheckProof(codec.Sum("other"), manifest.LeafMessage, good()) == nil {
		t.Error("another object's leaf")
	}
	for what, change := range map[string]func(*request.Proof){
		"another index":        func(p *request.Proof) { p.Index-- },
		"a negative index":     func(p *request.Proof) { p.Index = -1 },
		"past the end":         func(p *request.Proof) { p.Index = s.Messages.Size() },
		"no hashes":            func(p *request.Proof) { p.Hashes = nil },
		"a hash more":          func(p *request.Proof) { p.Hashes = append(p.Hashes, p.Hashes[0]) },
		"another salt":         func(p *request.Proof) { p.Opening.Salt[0] ^= 1 },
		"another position":     func(p *request.Proof) { p.Opening.Body.Position++ },
		"another control size": func(p *request.Proof) { p.Opening.Body.ControlSize-- },
		"another time":         func(p *request.Proof) { p.Opening.Body.Time++ },
	} {
		p := good()
		change(p)
		if log.CheckProof(object, manifest.LeafMessage, p) == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	smaller := s.log()
	smaller.Messages.Size--
	if smaller.CheckProof(object, manifest.LeafMessage, good()) == nil {
		t.Error("a proof in another checkpoint")
	}
	other := newScene(t)
	if err := other.log().CheckProof(object, manifest.LeafMessage, good()); err == nil {
		t.Error("another organisation's log")
	}
	forked := s.log()
	forked.Root = func(int64) (codec.Hash, bool) { return codec.Sum("fork"), true }
	if err := forked.CheckProof(object, manifest.LeafMessage, good()); err == nil || !strings.Contains(err.Error(), "another control log") {
		t.Errorf("another control root: %v", err)
	}
	short := s.log()
	short.State = control.NewState(s.ID)
	if err := short.CheckProof(object, manifest.LeafMessage, good()); err == nil || !strings.Contains(err.Error(), "replayed to 0") {
		t.Errorf("a log not yet replayed: %v", err)
	}
}

// A server that hides a revocation from its own receipts is found out.
func TestStaleControl(t *testing.T) {
	s := newScene(t)
	clock := s.Now()
	s.SetClock(func() time.Time { return clock })
	before := s.Control.Size()
	s.Add(&control.Revocation{Device: s.alice.Hash}, s.Officers[0])
	m := s.Seal(s.conversation, s.alice, envelope.KindRecord, (&envelope.Record{ID: "1", Text: "after"}).Encode(), nil)
	receive := func(at time.Time) *request.Item {
		opening, err := manifest.NewOpening(rand.Reader, manifest.ReceiptBody{
			Kind: manifest.LeafMessage, Conversation: s.conversation, ControlSize: before, ControlRoot: s.Control.Root(before), Time: at.UnixMilli(), Position: 3,
		})
		must(t, err)
		leaf := opening.Leaf(m.Manifest.Hash())
		index := s.Messages.Append(leaf[:])
		return &request.Item{Manifest: m.Manifest.Bytes(), Encapsulation: m.Envelope.E(), Proof: s.Proof(index, *opening, s.Messages.Size())}
	}
	if err := s.check(t, receive(clock.Add(5*time.Minute))); err != nil {
		t.Errorf("within five minutes: %v", err)
	}
	if err := s.check(t, receive(clock.Add(6*time.Minute))); !errors.Is(err, control.ErrConflict) {
		t.Errorf("after them: %v", err)
	}
	s.Accept(m)
	if err := s.check(t, s.item(m)); !errors.Is(err, control.ErrHeader) {
		t.Errorf("by a device that is revoked: %v", err)
	}
}

func TestCheckRoster(t *testing.T) {
	s := newScene(t)
	carol := s.NewMember()
	other := s.Conversation(carol, s.bob)
	log := s.log()
	e, h, err := log.CheckRoster(s.roster(s.conversation))
	must(t, err)
	if h != s.Roster(s.conversation).Hash || e.Devices.Root() != e.Roster || e.Conversation != s.conversation {
		t.Error("another epoch comes back")
	}
	for what, change := range map[string]func(*request.Roster){
		"a device more":       func(r *request.Roster) { r.Devices = manifest.NewRoster(append(r.Devices, carol.Hash)) },
		"a device less":       func(r *request.Roster) { r.Devices = r.Devices[:1] },
		"no devices":          func(r *request.Roster) { r.Devices = nil },
		"devices backwards":   func(r *request.Roster) { r.Devices = manifest.Roster{r.Devices[1], r.Devices[0]} },
		"a device twice":      func(r *request.Roster) { r.Devices = manifest.Roster{r.Devices[0], r.Devices[0]} },
		"another's devices":   func(r *request.Roster) { r.Devices = s.Roster(other).Devices },
		"another's statement": func(r *request.Roster) { r.Commit = s.Roster(other).Commit },
		"another's place":     func(r *request.Roster) { r.Proof = s.roster(other).Proof },
		"no statement":        func(r *request.Roster) { r.Commit = nil },
	} {
		r := s.roster(s.conversation)
		change(r)
		if _, _, err := log.CheckRoster(r); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	for what, c := range map[string]struct {
		by     *orgtest.Device
		change func(*manifest.Commit)
	}{
		"signed by another":         {s.bob, func(c *manifest.Commit) { c.Device = s.alice.Hash }},
		"by no device":              {s.alice, func(c *manifest.Commit) { c.Device = codec.Sum("none") }},
		"of another organisation":   {s.alice, func(c *manifest.Commit) { c.Organisation = codec.Sum("other") }},
		"of another conversation":   {s.alice, func(c *manifest.Commit) { c.Conversation = other }},
		"that starts in the middle": {s.alice, func(c *manifest.Commit) { c.Epoch = 7 }},
	} {
		body := *s.Roster(s.conversation).Body
		c.change(&body)
		raw, err := manifest.SignCommit(c.by.Key, &body)
		must(t, err)
		_, index, opening := s.Receive(manifest.LeafCommit, s.conversation, manifest.CommitHash(raw))
		r := &request.Roster{Commit: raw, Proof: s.Proof(index, opening, s.Messages.Size()), Devices: s.Roster(s.conversation).Devices}
		if _, _, err := s.log().CheckRoster(r); err == nil {
			t.Errorf("a statement %s: accepted", what)
		}
	}
	s.Add(&control.Revocation{Device: s.bob.Hash}, s.Officers[0])
	s.Commit(s.conversation, s.bob, s.alice, s.bob)
	if _, _, err := s.log().CheckRoster(s.roster(s.conversation)); err == nil {
		t.Error("a statement by a revoked device: accepted")
	}
}

// seal makes and receipts a message whose parts are as the test wants them.
func (s *scene) forge(t testing.TB, by *orgtest.Device, change func(h *envelope.Header), rest func(m *orgtest.Message, tr *manifest.Transport)) *request.Item {
	t.Helper()
	h := s.Header(s.conversation, by, envelope.KindRecord)
	change(h)
	m := s.SealCore(h, (&envelope.Record{ID: "1", Text: "forged"}).Encode())
	tr := &manifest.Transport{Roster: s.Roster(s.conversation).Hash}
	rest(m, tr)
	m.Sign(t, by.Key, tr)
	m.Receipt, m.Leaf, m.Opening = s.Receive(manifest.LeafMessage, s.conversation, m.Manifest.Hash())
	return s.item(m)
}

func TestCheckManifest(t *testing.T) {
	s := newScene(t)
	carol := s.NewMember()
	must(t, s.check(t, s.item(s.message)))
	victim := s.Send(s.conversation, s.bob, "the victim's")
	same := func(*envelope.Header) {}
	asIs := func(*orgtest.Message, *manifest.Transport) {}
	must(t, s.check(t, s.forge(t, s.alice, same, asIs)))

	for what, i := range map[string]*request.Item{
		"a device that was not there": s.forge(t, carol, same, asIs),
		"a header of another device":  s.forge(t, s.alice, func(h *envelope.Header) { h.Device = s.bob.Hash }, asIs),
		"another conversation":        s.forge(t, s.alice, func(h *envelope.Header) { h.Conversation = codec.NewID() }, asIs),
		"an old day":                  s.forge(t, s.alice, func(h *envelope.Header) { h.Day -= 4 }, asIs),
		"another epoch number":        s.forge(t, s.alice, same, func(_ *orgtest.Message, tr *manifest.Transport) { tr.Epoch = 1 }),
		"a roster nobody showed":      s.forge(t, s.alice, same, func(_ *orgtest.Message, tr *manifest.Transport) { tr.Roster = codec.Sum("none") }),
		"another's proof":             s.forge(t, s.alice, same, func(m *orgtest.Message, _ *manifest.Transport) { m.Proof = victim.Proof }),
		"another core than sealed":    s.forge(t, s.alice, same, func(m *orgtest.Message, _ *manifest.Transport) { m.Body.Envelope[0] ^= 1 }),
		"the victim's header":         s.forge(t, s.alice, same, func(m *orgtest.Message, _ *manifest.Transport) { m.Body.Header = victim.Body.Header }),
		"the victim's envelope": s.forge(t, s.alice, same, func(m *orgtest.Message, _ *manifest.Transport) {
			m.Body.Envelope = victim.Body.Envelope
			m.Proof = victim.Proof
		}),
	} {
		if s.check(t, i) == nil {
			t.Errorf("%s: accepted", what)
		}
	}

	// A copied or shifted encapsulation beside an honest manifest.
	item := s.item(s.message)
	item.Encapsulation = victim.Envelope.E()
	if err := s.check(t, item); !errors.Is(err, envelope.ErrProof) {
		t.Errorf("a copied encapsulation: %v", err)
	}
	item.Encapsulation = shift(t, s.message.Envelope.E())
	if err := s.check(t, item); !errors.Is(err, envelope.ErrProof) {
		t.Errorf("E + G: %v", err)
	}
	// And an envelope of one's own around it, for which no proof can be made.
	shifted := s.forge(t, s.alice, same, asIs)
	shifted.Encapsulation = shift(t, victim.Envelope.E())
	if err := s.check(t, shifted); !errors.Is(err, envelope.ErrProof) {
		t.Errorf("an envelope around the victim's key: %v", err)
	}
	for _, e := range [][]byte{nil, make([]byte, 65), item.Encapsulation[:64], append([]byte{0}, item.Encapsulation...)} {
		item.Encapsulation = e
		if s.check(t, item) == nil {
			t.Errorf("an encapsulation of %d bytes: accepted", len(e))
		}
	}
	// Whatever is flipped in the manifest, its leaf is another.
	item = s.item(s.message)
	epochs, log := s.epochs(t, s.conversation), s.log()
	for i := range item.Manifest {
		bad := bytes.Clone(item.Manifest)
		bad[i] ^= 1
		if _, err := log.CheckManifest(bad, &item.Proof, item.Encapsulation, epochs); err == nil {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
}

func TestWithin(t *testing.T) {
	s := newScene(t)
	r := &control.RequestState{Request: control.Request{
		Custodians: []codec.ID{s.bob.Member}, FromDay: s.message.Manifest.Header.Day, ToDay: s.message.Manifest.Header.Day, Search: true,
	}}
	roster := s.Roster(s.conversation).Devices
	index := s.IndexOf(s.conversation, s.alice)
	capture := s.Seal(s.conversation, s.alice, envelope.KindCapture, s.message.Record, nil)
	report := s.Seal(s.conversation, s.alice, envelope.KindReport, nil, nil)
	must(t, request.Within(s.State, r, control.PhaseRecord, s.message.Manifest, roster))
	must(t, request.Within(s.State, r, control.PhaseRecord, capture.Manifest, roster))
	must(t, request.Within(s.State, r, control.PhaseIndex, index.Manifest, roster))
	for _, c := range []struct {
		what   string
		change func(*control.RequestState)
		phase  control.Phase
		m      *orgtest.Message
		roster manifest.Roster
		want   string
	}{
		{"no search", func(r *control.RequestState) { r.Search = false }, control.PhaseIndex, index, roster, "no search"},
		{"a record as an index", nil, control.PhaseIndex, s.message, roster, "index envelopes"},
		{"an index as a record", nil, control.PhaseRecord, index, roster, "kind index"},
		{"a report", nil, control.PhaseRecord, report, roster, "kind report"},
		{"no phase", nil, 0, s.message, roster, "phase"},
		{"a third phase", nil, 3, s.message, roster, "phase"},
		{"a day early", func(r *control.RequestState) { r.FromDay++; r.ToDay++ }, control.PhaseRecord, s.message, roster, "day"},
		{"a day late", func(r *control.RequestState) { r.FromDay--; r.ToDay-- }, control.PhaseRecord, s.message, roster, "day"},
		{"another conversation", func(r *control.RequestState) { r.Conversations = []codec.ID{codec.NewID()} }, control.PhaseRecord, s.message, roster, "conversation"},
		{"another custodian", func(r *control.RequestState) { r.Custodians = []codec.ID{codec.NewID()} }, control.PhaseRecord, s.message, roster, "custodian"},
		{"a roster without him", nil, control.PhaseRecord, s.message, manifest.NewRoster([]codec.Hash{s.alice.Hash}), "custodian"},
		{"a roster of nobody known", nil, control.PhaseRecord, s.message, manifest.NewRoster([]codec.Hash{codec.Sum("x")}), "custodian"},
	} {
		bad := *r
		if c.change != nil {
			c.change(&bad)
		}
		err := request.Within(s.State, &bad, c.phase, c.m.Manifest, c.roster)
		var out *request.OutOfScope
		if !errors.Is(err, request.ErrScope) || !errors.As(err, &out) || out.Core != c.m.Core || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want one about %q", c.what, err, c.want)
		}
	}
	r.Conversations = []codec.ID{s.conversation}
	must(t, request.Within(s.State, r, control.PhaseRecord, s.message.Manifest, roster))
}

func TestDetails(t *testing.T) {
	d, err := request.NewDetails(rand.Reader, "title", "purpose", "basis", []string{"term"})
	must(t, err)
	got, err := request.ParseDetails(d.Encode())
	if err != nil || got.Hash() != d.Hash() {
		t.Fatal(err)
	}
	other, err := request.NewDetails(rand.Reader, "title", "purpose", "basis", []string{"term"})
	must(t, err)
	if other.Hash() == d.Hash() {
		t.Error("the same words have the same hash: it can be guessed")
	}
	long := strings.Repeat("x", 4097)
	for what, err := range map[string]error{
		"title":    second(request.NewDetails(rand.Reader, long[:257], "", "", nil)),
		"purpose":  second(request.NewDetails(rand.Reader, "", long, "", nil)),
		"basis":    second(request.NewDetails(rand.Reader, "", "", long, nil)),
		"term":     second(request.NewDetails(rand.Reader, "", "", "", []string{long[:257]})),
		"no term":  second(request.NewDetails(rand.Reader, "", "", "", []string{""})),
		"terms":    second(request.NewDetails(rand.Reader, "", "", "", make([]string, 65))),
		"encoding": second(request.ParseDetails(append(d.Encode(), 0))),
		"size":     second(request.ParseDetails(make([]byte, 1<<20))),
		"letters":  second(request.NewDetails(rand.Reader, "\xff", "", "", nil)),
	} {
		if !errors.Is(err, codec.ErrSize) && !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("%s: %v", what, err)
		}
	}
	most, err := request.NewDetails(rand.Reader, long[:256], long[:4096], long[:4096], repeat(long[:256], 64))
	must(t, err)
	if _, err := request.ParseDetails(most.Encode()); err != nil {
		t.Errorf("the longest that may be: %v", err)
	}
}

func second(_ *request.Details, err error) error { return err }

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}
