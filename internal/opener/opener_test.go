package opener_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/opener"
	"chancery/internal/opener/openertest"
	"chancery/internal/orgtest"
	"chancery/manifest"
	"chancery/pack"
	"chancery/quorum"
	"chancery/request"
	"chancery/verify"
)

func texts(t *testing.T, export []byte) []string {
	t.Helper()
	var out []string
	for line := range bytes.Lines(export) {
		var l pack.Line
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Text)
	}
	slices.Sort(out)
	return out
}

func verified(t *testing.T, w *openertest.World, data []byte) *verify.Report {
	t.Helper()
	r := verify.Pack(w.Org.ID, data)
	if !r.OK {
		var b strings.Builder
		r.Write(&b)
		t.Fatal(b.String())
	}
	return r
}

// The export is what a plain search finds, and the pack verifies.
func TestOpen(t *testing.T) {
	w := openertest.New(t, openertest.Options{})
	result, export, data := w.Open()
	want := []string{"I joined. BUDGET!", "The Budget is late.", "What budget? I <heard> & read nothing, 日本語.", "budgets are not a budget"}
	if got := texts(t, export); !slices.Equal(got, want) {
		t.Errorf("exported %q, want %q", got, want)
	}
	if !bytes.Contains(export, []byte(`"ts":"2001-05-14T23:39:00.12Z"`)) || !bytes.Contains(export, []byte("<heard> & read")) {
		t.Errorf("export: %s", export)
	}
	if result.Exported != 4 || result.Opened != 5 || result.IndexKeys != 3 || result.InScope != 7 || len(result.Faults) != 0 {
		t.Errorf("result: %+v", result)
	}
	report := verified(t, w, data)
	if report.Opened != 8 || report.Exported != 4 {
		t.Errorf("report: %+v", report)
	}
	if bytes.Contains(w.Server.Stored, []byte("late")) {
		t.Error("the production is not sealed")
	}
	for _, l := range w.Org.Entries() {
		if bytes.Contains(l, []byte("budget")) || bytes.Contains(l, []byte("Budget")) {
			t.Error("the log names a term")
		}
	}
}

func TestOpenWithoutSearch(t *testing.T) {
	w := openertest.New(t, openertest.Options{Terms: []string{}})
	result, export, data := w.Open()
	if n := len(texts(t, export)); n != 6 || result.IndexKeys != 0 {
		t.Errorf("%d exported, %d index keys", n, result.IndexKeys)
	}
	verified(t, w, data)
}

// A term of two words needs both; a term that matches nothing opens nothing.
func TestTerms(t *testing.T) {
	w := openertest.New(t, openertest.Options{Terms: []string{"late BUDGET", "zebra"}})
	_, export, data := w.Open()
	if got := texts(t, export); !slices.Equal(got, []string{"The Budget is late."}) {
		t.Errorf("exported %q", got)
	}
	verified(t, w, data)
	w = openertest.New(t, openertest.Options{Terms: []string{"zebra"}})
	result, export, data := w.Open()
	if len(export) != 0 || result.Hits != 0 {
		t.Errorf("exported %q", export)
	}
	verified(t, w, data)
}

func flip(part []byte) []byte {
	out := bytes.Clone(part)
	out[len(out)-1] ^= 1
	return out
}

// anotherPoint is on the curve, as a careful liar's answer is.
func anotherPoint(part []byte) []byte {
	k := make([]byte, quorum.ScalarSize)
	rand.Read(k)
	p, err := quorum.ScalarBaseMult(k)
	if err != nil {
		return part
	}
	return p[:]
}

// A keyholder that lies is named, with a proof, and nothing is lost; one in one
// phase, one in the other, on the curve and off it and of another length.
func TestLyingKeyholder(t *testing.T) {
	for name, lie := range map[string]func([]byte) []byte{
		"another point": anotherPoint, "no point": flip, "too short": func(p []byte) []byte { return p[1:] },
	} {
		w := openertest.New(t, openertest.Options{})
		w.Keyholders["keyholder-1"].Lie = func(_ control.Phase, _ int, p []byte) []byte { return lie(p) }
		w.Keyholders["keyholder-4"].Lie = func(phase control.Phase, i int, p []byte) []byte {
			if phase == control.PhaseRecord && i == 2 {
				return lie(p)
			}
			return p
		}
		result, export, data := w.Open()
		if want := []string{"keyholder-1", "keyholder-4"}; !slices.Equal(result.Faults, want) {
			t.Errorf("%s: named %q, want %q", name, result.Faults, want)
		}
		if len(texts(t, export)) != 4 {
			t.Errorf("%s: exported %q", name, export)
		}
		if r := verified(t, w, data); !slices.Equal(r.Faults, result.Faults) {
			t.Errorf("%s: proven %q", name, r.Faults)
		}
	}
}

func TestLyingGuard(t *testing.T) {
	w := openertest.New(t, openertest.Options{})
	w.Guards["guard-1"].Lie = func(phase control.Phase, i int, p []byte) []byte {
		if i == 1 {
			return flip(p)
		}
		return p
	}
	result, _, data := w.Open()
	if !slices.Equal(result.Faults, []string{"guard-1"}) {
		t.Errorf("named %q", result.Faults)
	}
	verified(t, w, data)
}

// withholds returns a lie of a guard: it gives no secret for an item of a phase.
func withholds(phase control.Phase, i int) func(control.Phase, int, []byte) []byte {
	return func(p control.Phase, n int, part []byte) []byte {
		if p == phase && n == i {
			return nil
		}
		return part
	}
}

// A guard that says of a good envelope, or of one that is broken otherwise, that
// its tag is wrong is named, by what another guard gives for it.
func TestWithholdingGuard(t *testing.T) {
	broken := openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) { w.SendBroken(w.Pair, w.Other) }}
	for name, c := range map[string]struct {
		opts     openertest.Options
		phase    control.Phase
		item     int
		exported int
	}{
		"an index envelope": {openertest.Options{}, control.PhaseIndex, 1, 4},
		"a record":          {openertest.Options{}, control.PhaseRecord, 2, 4},
		"a broken record":   {broken, control.PhaseRecord, 7, 6},
	} {
		w := openertest.New(t, c.opts)
		w.Guards["guard-1"].Lie = withholds(c.phase, c.item)
		result, export, data := w.Open()
		if !slices.Equal(result.Faults, []string{"guard-1"}) || len(texts(t, export)) != c.exported {
			t.Errorf("%s: named %q, exported %s", name, result.Faults, export)
		}
		r := verified(t, w, data)
		if !slices.Equal(r.Faults, result.Faults) || len(r.NotOpened) != len(result.Broken) {
			t.Errorf("%s: proven %q, %d not opened", name, r.Faults, len(r.NotOpened))
		}
	}
}

// An envelope under a wrong tag keeps nobody from the others: it is set aside on
// the word of all guards, and its sender named. What keyholders say of it
// doesn't matter.
func TestSetAside(t *testing.T) {
	var bad []*orgtest.Message
	send := func(w *openertest.World) {
		bad = []*orgtest.Message{
			w.SendMistagged(w.Pair, w.Other, "budget, hidden"), w.SendBroken(w.Pair, w.Other), w.SendMistagged(w.Group, w.Other, "budget too"),
		}
		w.Send(w.Pair, w.Custodian, "pair", "the last budget")
	}
	w := openertest.New(t, openertest.Options{Terms: []string{}, Messages: send})
	w.Keyholders["keyholder-1"].Lie = func(_ control.Phase, i int, p []byte) []byte {
		if i == 7 {
			return p[1:]
		}
		return p
	}
	result, export, data := w.Open()
	if got := texts(t, export); len(got) != 7 || !slices.Contains(got, "the last budget") || len(result.Faults) != 0 || result.Opened != 8 {
		t.Errorf("exported %q, faults %q, %d opened", got, result.Faults, result.Opened)
	}
	report := verified(t, w, data)
	if len(result.Broken) != 3 || len(report.NotOpened) != 3 {
		t.Fatalf("broken: %+v, not opened: %+v", result.Broken, report.NotOpened)
	}
	for _, m := range bad {
		i := slices.IndexFunc(result.Broken, func(b opener.Broken) bool { return b.Core == m.Core })
		j := slices.IndexFunc(report.NotOpened, func(u verify.Unopened) bool { return u.Envelope == m.Core })
		if i < 0 || j < 0 {
			t.Errorf("envelope %s is not named", m.Core.Short())
			continue
		}
		b, u := result.Broken[i], report.NotOpened[j]
		if b.Member != w.Other.Member || b.Device != w.Other.Hash || u.Member != b.Member || u.Device != b.Device {
			t.Errorf("envelope %s: %+v, %+v", m.Core.Short(), b, u)
		}
		if tag := strings.Contains(u.Reason, "tag is wrong"); tag != (m != bad[1]) || tag != strings.Contains(b.Reason, "tag is wrong") {
			t.Errorf("envelope %s: %q, %q", m.Core.Short(), b.Reason, u.Reason)
		}
	}
	if p, err := pack.Parse(data); err != nil || len(p.Body.SetAside) != 1 || len(p.Body.SetAside[0].Answers) != 2 {
		t.Errorf("set aside: %v", err)
	}
}

// Records under an index envelope that was set aside can't be searched, and are
// counted; so it is where nothing at all can be opened.
func TestIndexSetAside(t *testing.T) {
	var bad, last *orgtest.Message
	w := openertest.New(t, openertest.Options{Messages: func(w *openertest.World) {
		id := w.Conversation(w.Other, w.Custodian)
		index := w.Mistag(w.Org.Seal(id, w.Other, envelope.KindIndex, nil, nil), w.Other)
		w.Accept(index)
		for range 2 {
			record := &envelope.Record{ID: codec.NewID().String(), Conversation: id, Text: "a hidden budget"}
			last = w.Org.Seal(id, w.Other, envelope.KindRecord, record.Encode(), index)
			w.Accept(last)
		}
		bad = index
		w.SendMistagged(w.Pair, w.Other, "another budget")
	}})
	ack, err := manifest.SignAck(w.Custodian.Key, &manifest.Ack{
		Organisation: w.Org.ID, Device: w.Custodian.Hash, Conversation: bad.Manifest.Header.Conversation, Position: bad.Opening.Body.Position + 2,
		Leaf: last.Opening.Leaf(last.Manifest.Hash()), Time: w.Org.Now().UnixMilli(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Server.Acks = append(w.Server.Acks, ack)
	result, export, data := w.Open()
	for _, b := range result.Broken {
		if len(b.Acknowledged) != 0 {
			t.Errorf("an acknowledgement of records vouches for %+v", b)
		}
	}
	if result.Unsearchable != 2 || len(result.Broken) != 2 || result.IndexKeys != 3 || len(texts(t, export)) != 4 {
		t.Errorf("result: %+v", result)
	}
	if r := verified(t, w, data); r.Unsearchable != 2 || len(r.NotOpened) != 2 {
		t.Errorf("the auditor counts %d, and %+v", r.Unsearchable, r.NotOpened)
	}

	w = openertest.New(t, openertest.Options{Terms: []string{"zebra"}, Messages: func(w *openertest.World) { w.SendMistagged(w.Pair, w.Other, "zebra") }})
	result, export, data = w.Open()
	if result.Opened != 0 || len(result.Broken) != 1 || len(export) != 0 {
		t.Errorf("result: %+v", result)
	}
	verified(t, w, data)
}

// Where one guard hasn't said it, nothing is set aside, and the guard is named.
func TestNotUnanimous(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *openertest.World)
		text  string
	}{
		"down":    {func(w *openertest.World) { w.Guards["guard-2"].Down = errors.New("connection refused") }, "guard-2: connection refused"},
		"unknown": {func(w *openertest.World) { delete(w.Guards, "guard-1") }, "guard-1: nobody knows where to reach it"},
		"refuses": {func(w *openertest.World) {
			w.Guards["guard-1"].Refuse = &request.Refusal{Code: request.CodeLimit, Reason: "no more uses"}
		}, "guard-1: refused (limit): no more uses"},
		"gives something": {func(w *openertest.World) {
			w.Guards["guard-2"].Lie = func(control.Phase, int, []byte) []byte { return make([]byte, 32) }
		}, "guard-2: its answer is wrong by the sender's tag"},
		"speaks of something else": {func(w *openertest.World) {
			w.Guards["guard-2"].Asked = func(_ control.Phase, _ int, enc []byte) []byte { return flip(enc) }
		}, "guard-2: its answer is not one to this query"},
		"withholds without a word": {func(w *openertest.World) {
			w.Guards["guard-1"].Silent = true
		}, "guard-1: its answer is not one to this query"},
	} {
		w := openertest.New(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) { w.SendMistagged(w.Pair, w.Other, "hidden") }})
		c.spoil(w)
		_, err := opener.Run(t.Context(), w.Config())
		if !errors.Is(err, opener.ErrGuard) || !strings.Contains(err.Error(), c.text) || w.Server.Stored != nil {
			t.Errorf("%s: got %v, want %q", name, err, c.text)
		}
	}
}

// Nobody is enough: too few keyholders, no guard, approvals, count.
func TestRefused(t *testing.T) {
	refusal := &request.Refusal{Code: request.CodeScope, Reason: "not in scope"}
	for name, c := range map[string]struct {
		opts  openertest.Options
		spoil func(w *openertest.World, cfg *opener.Config)
		want  error
		text  string
	}{
		"two keyholders": {spoil: func(w *openertest.World, _ *opener.Config) {
			w.Keyholders["keyholder-1"].Refuse = refusal
			w.Keyholders["keyholder-2"].Down = errors.New("connection refused")
			delete(w.Keyholders, "keyholder-5")
		}, want: opener.ErrQuorum, text: "keyholder-1: refused (scope): not in scope"},
		"no guard": {spoil: func(w *openertest.World, _ *opener.Config) {
			w.Guards["guard-1"].Down = errors.New("connection refused")
			w.Guards["guard-2"].Refuse = refusal
		}, want: opener.ErrGuard, text: "guard-2"},
		"both guards lie": {spoil: func(w *openertest.World, _ *opener.Config) {
			for _, g := range w.Guards {
				g.Lie = func(_ control.Phase, _ int, p []byte) []byte { return flip(p) }
			}
		}, want: opener.ErrGuard},
		"answers without uses": {spoil: func(w *openertest.World, _ *opener.Config) {
			for _, k := range w.Keyholders {
				k.Unlogged = true
			}
		}, want: opener.ErrQuorum, text: "without a witnessed use"},
		"two approvals": {opts: openertest.Options{Approve: 2}, want: request.ErrApprovals},
		"withdrawn": {spoil: func(w *openertest.World, _ *opener.Config) {
			cfgReq := w.Config().Requester
			_ = cfgReq
			w.Org.Add(&control.Withdrawal{Request: w.Request}, w.Org.Officers[0])
		}, text: "withdrawn"},
		"other details": {spoil: func(w *openertest.World, cfg *opener.Config) {
			d := *w.Details
			d.Terms = []string{"lunch"}
			cfg.Details = &d
		}, want: opener.ErrRequest},
		"another's signature": {spoil: func(w *openertest.World, cfg *opener.Config) {
			real := cfg.Requester
			_ = real
			cfg.Openings = cfg.Openings[:0]
		}, want: opener.ErrRequest},
		"count":             {opts: openertest.Options{MaxCount: 4}, want: opener.ErrCount},
		"hidden item":       {spoil: func(w *openertest.World, _ *opener.Config) { w.Server.Hide = w.Org.Messages.Size() - 1 }, want: opener.ErrWithheld},
		"hidden early item": {spoil: func(w *openertest.World, _ *opener.Config) { w.Server.Hide = 5 }, want: opener.ErrWithheld},
		"no words":          {opts: openertest.Options{Terms: []string{"--"}}, want: opener.ErrRequest},
	} {
		w := openertest.New(t, c.opts)
		cfg := w.Config()
		if c.spoil != nil {
			c.spoil(w, &cfg)
			cfg.Connect = w.Config().Connect
		}
		_, err := opener.Run(t.Context(), cfg)
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %v, want %v with %q", name, err, c.want, c.text)
		}
		if w.Server.Stored != nil {
			t.Errorf("%s: something was produced", name)
		}
		for _, u := range uses(w) {
			if name == "count" && u.Phase == control.PhaseRecord {
				t.Errorf("%s: records were asked for", name)
			}
		}
	}
}

// Days without a message, and messages whose index is out of scope: nobody is
// asked for anything, and the pack says so.
func TestNothingToOpen(t *testing.T) {
	w := openertest.New(t, openertest.Options{Days: [2]uint32{100, 101}})
	result, export, data := w.Open()
	if result.InScope != 0 || len(export) != 0 || len(uses(w)) != 0 {
		t.Errorf("result: %+v", result)
	}
	verified(t, w, data)

	// An index key that was drawn before the custodian came is not the request's
	// to open: what a sender indexed with it is counted, and not found.
	w = openertest.New(t, openertest.Options{Messages: func(w *openertest.World) {
		late := w.Conversation(w.Other, w.Outsider)
		old := w.Index(late, w.Other)
		w.Commit(late, w.Other, w.Other, w.Outsider, w.Custodian)
		m := w.Org.Seal(late, w.Other, envelope.KindRecord, (&envelope.Record{ID: "1", Conversation: late, Text: "budget"}).Encode(), old)
		w.Accept(m)
	}})
	result, export, data = w.Open()
	if result.Unsearchable != 1 || len(texts(t, export)) != 4 {
		t.Errorf("%d unsearchable, exported %q", result.Unsearchable, export)
	}
	if r := verified(t, w, data); r.Unsearchable != 1 {
		t.Errorf("the auditor counts %d", r.Unsearchable)
	}
}

func uses(w *openertest.World) []control.UseState {
	r, _ := w.Org.State.Request(w.Request)
	return r.Uses
}

// An envelope that right answers don't open convicts its sender, and what was
// acknowledged names who signed for it.
func TestBrokenEnvelope(t *testing.T) {
	w := openertest.New(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) { w.SendBroken(w.Pair, w.Other) }})
	result, export, data := w.Open()
	if len(result.Broken) != 1 || result.Broken[0].Member != w.Other.Member || !slices.Equal(result.Broken[0].Acknowledged, []codec.Hash{w.Custodian.Hash}) {
		t.Errorf("broken: %+v", result.Broken)
	}
	if len(texts(t, export)) != 6 || len(result.Faults) != 0 {
		t.Errorf("exported %s, faults %q", export, result.Faults)
	}
	verified(t, w, data)
}

// Where too many lie for a subset to be found, keyholders that prove their
// answers tell.
func TestLiarsThatDontProve(t *testing.T) {
	w := openertest.New(t, openertest.Options{})
	for _, name := range []string{"keyholder-1", "keyholder-2", "keyholder-3"} {
		w.Keyholders[name].Lie = func(phase control.Phase, _ int, p []byte) []byte { return anotherPoint(p) }
		w.Keyholders[name].LieOnce = true
	}
	result, export, data := w.Open()
	if len(result.Faults) != 3 || len(texts(t, export)) != 4 {
		t.Errorf("named %q", result.Faults)
	}
	verified(t, w, data)
}

// A request for days that are over shows each conversation from the last leaf
// before to the first one after, and opens those days alone.
func TestPastDays(t *testing.T) {
	clock := time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)
	first := envelope.DayOf(clock)
	w := openertest.New(t, openertest.Options{
		Clock: &clock, Days: [2]uint32{first + 2, first + 3},
		Messages: func(w *openertest.World) {
			for day := range 9 {
				clock = clock.Add(24 * time.Hour)
				w.Send(w.Pair, w.Other, "pair", fmt.Sprintf("budget of day %d", day+1))
				w.Send(w.Pair, w.Other, "pair", "nothing")
			}
		},
	})
	result, export, data := w.Open()
	if got := texts(t, export); !slices.Equal(got, []string{"budget of day 2", "budget of day 3"}) {
		t.Errorf("exported %q", got)
	}
	verified(t, w, data)
	p, err := pack.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	neighbours := 0
	for i := range p.Body.Items {
		if p.Body.Items[i].Neighbour() {
			neighbours++
		}
	}
	// Of the pair: the last of day 1, and days 4 to 6 with the first of day 7; of
	// the group: its last.
	if len(p.Body.Items) > 25 || neighbours == 0 || result.Items != len(p.Body.Items) {
		t.Errorf("%d items, %d neighbours, result %d", len(p.Body.Items), neighbours, result.Items)
	}
}
