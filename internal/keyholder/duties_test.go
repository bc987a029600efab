package keyholder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/custody"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/quorum"
)

// fleet is an organisation whose keyholders and guards are daemons with keys on
// disk: the test has none of their secrets.
type fleet struct {
	*desk
	*clock
	t     *testing.T
	dirs  []string
	files []*custody.File
	all   []*holder // keyholders, then guards
	n     int       // keyholders
}

var fleetKey = custody.Key([custody.KeySize]byte{5})

// peer reaches a fleet's guard, whichever process that is at the time.
type peer struct {
	f *fleet
	i int
}

func (p peer) Transfer(_ context.Context, request []byte) ([]byte, error) {
	return p.f.all[p.i].hand(request)
}

func newFleet(t *testing.T, keyholders, guards int) *fleet {
	t.Helper()
	f := &fleet{clock: newClock(), t: t, n: keyholders}
	var holders []control.Holder
	for i := range keyholders + guards {
		role, name := custody.Keyholder, fmt.Sprintf("keyholder-%d", i+1)
		if i >= keyholders {
			role, name = custody.Guard, fmt.Sprintf("guard-%d", i-keyholders+1)
		}
		dir := t.TempDir()
		h, err := custody.Create(dir, fleetKey, name, "CH", role)
		if err != nil {
			t.Fatal(err)
		}
		f.dirs, holders = append(f.dirs, dir), append(holders, h)
	}
	org := orgtest.NewWith(t, orgtest.Options{
		Now: f.now, Holders: holders, Keyholders: keyholders, Guards: guards, Threshold: (keyholders + 1) / 2,
	})
	f.desk = &desk{org: org, pending: map[codec.Hash]*wire.Pending{}}
	f.files, f.all = make([]*custody.File, len(holders)), make([]*holder, len(holders))
	for i := range holders {
		f.start(i)
	}
	t.Cleanup(func() {
		for i := range f.all {
			f.stop(i)
		}
	})
	return f
}

func (f *fleet) start(i int) {
	f.t.Helper()
	var err error
	if f.files[i], err = custody.OpenHolder(f.dirs[i], fleetKey); err != nil {
		f.t.Fatal(err)
	}
	peers := map[string]Peer{}
	for g := f.n; g < len(f.dirs); g++ {
		peers[fmt.Sprintf("guard-%d", g-f.n+1)] = peer{f, g}
	}
	if f.all[i], err = open(Config{
		Dir: f.dirs[i], Custody: f.files[i], Organisation: f.org.ID, Server: f.desk, Guards: peers,
		Now: f.now, Log: slog.New(slog.DiscardHandler),
	}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) stop(i int) {
	f.all[i].record.Close()
	f.files[i].Close()
}

func (f *fleet) restart(i int) { f.t.Helper(); f.stop(i); f.start(i) }

// run lets random daemons take rounds, some of which restart, until done.
func (f *fleet) run(done func() bool) {
	f.t.Helper()
	random := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		if done() {
			return
		}
		i := random.IntN(len(f.all))
		if err := f.all[i].round(f.t.Context()); err != nil && f.deaf == nil {
			f.t.Fatalf("daemon %d: %v", i, err)
		}
		if random.IntN(4) == 0 {
			f.restart(i)
		}
	}
	f.t.Fatal("the fleet doesn't get there")
}

// generate makes an epoch: the daemons do all, and the approvers sign.
func (f *fleet) generate() codec.Hash {
	f.t.Helper()
	c := quorum.Ceremony{ID: codec.NewID(), T: int(f.org.Genesis.Threshold)}
	for _, h := range f.org.Genesis.Keyholders {
		c.Peers = append(c.Peers, quorum.Point(h.Encrypt))
	}
	f.org.Add(&control.Ceremony{Ceremony: c}, f.org.Two()...)
	before := len(f.org.State.Epochs())
	f.run(func() bool { return f.complete(control.KindEpoch, f.n) })
	var approvers []orgtest.Signer
	for _, a := range f.org.Approvers {
		approvers = append(approvers, a)
	}
	f.cosign(control.KindEpoch, approvers...)
	epochs := f.org.State.Epochs()
	if len(epochs) != before+1 {
		f.t.Fatalf("%d epochs", len(epochs))
	}
	return epochs[before].Hash
}

// complete reports whether a pending statement of a kind has that many
// signatures.
func (f *fleet) complete(kind control.Kind, signatures int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.pending {
		if s, err := control.ParseStatement(p.Statement); err == nil && s.Kind == kind && len(p.Signatures) >= signatures {
			return true
		}
	}
	return false
}

// cosign adds people's signatures to every pending statement of a kind.
func (f *fleet) cosign(kind control.Kind, people ...orgtest.Signer) {
	f.t.Helper()
	waiting, err := f.Pending(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, p := range waiting {
		s, err := control.ParseStatement(p.Statement)
		if err != nil {
			f.t.Fatal(err)
		}
		if s.Kind != kind {
			continue
		}
		submit := &wire.Submit{Statement: p.Statement}
		for _, person := range people {
			g, err := person.Sign(s)
			if err != nil {
				f.t.Fatal(err)
			}
			submit.Signatures = append(submit.Signatures, g)
		}
		if _, err := f.Submit(f.t.Context(), submit); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Five keyholders and two guards, restarted at random, generate a key, make
// and share four months' keys and open their canaries, driven by the log; then
// a month's key is destroyed, once no hold covers it.
func TestLifeOfKeys(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5, 2)
	f.generate()
	for i := range f.n {
		if shares, _ := f.files[i].Held(); shares != 1 {
			t.Errorf("keyholder %d holds %d shares", i+1, shares)
		}
	}

	ready := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		n := 0
		for _, p := range f.pending {
			if len(p.Signatures) == 2 {
				n++
			}
		}
		return n == 1+monthsAhead
	}
	f.run(ready)
	f.cosign(control.KindMonth, f.org.Two()...)
	months := f.org.State.Months()
	if len(months) != 1+monthsAhead {
		t.Fatalf("%d months on the log", len(months))
	}
	for _, m := range months {
		for g := f.n; g < len(f.all); g++ {
			if !f.files[g].HasMonth(m.MLKEM) {
				t.Errorf("guard %d has signed for a key that it doesn't hold", g-f.n+1)
			}
		}
		canary, _ := f.org.Canary(m.Hash)
		f.org.Add(canary, f.org.Officers[0])
	}
	f.run(func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, m := range f.org.State.Months() {
			if m.Effective == control.Never {
				return false
			}
		}
		return true
	})
	now := control.MonthOf(envelope.DayOf(f.now()))
	f.destroyMonth(months[slices.IndexFunc(months, func(m *control.MonthState) bool { return m.Month.Month == now })].Hash)
}

func (f *fleet) destroyMonth(month codec.Hash) {
	t := f.t
	t.Helper()
	reviewer := f.org.Reviewers[0]
	matter := codec.NewID()
	f.org.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	day := envelope.DayOf(f.now())
	hold := f.org.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{codec.NewID()}, FromDay: day, ToDay: day}, reviewer)
	d := &control.Destruction{Month: month, Reason: "retention is over"}
	statement := &control.Statement{Organisation: f.org.ID, Kind: d.Kind(), Body: codec.Encode(d)}
	if _, err := f.Submit(t.Context(), &wire.Submit{Statement: codec.Encode(statement), Signatures: f.signatures(statement, f.org.Officers[:1])}); err != nil {
		t.Fatal(err)
	}
	guard := f.all[f.n]
	refused := func(why string, signatures int) {
		t.Helper()
		err := guard.round(t.Context())
		if err == nil || !strings.Contains(err.Error(), why) || f.complete(control.KindDestruction, signatures+1) {
			t.Fatalf("want a refusal because of %q, got %v", why, err)
		}
	}
	refused("1 of 2 officers", 1)
	if _, err := f.Submit(t.Context(), &wire.Submit{Statement: codec.Encode(statement), Signatures: f.signatures(statement, f.org.Officers[:2])}); err != nil {
		t.Fatal(err)
	}
	refused("hold", 2)
	if !f.complete(control.KindDestruction, 2) {
		t.Fatal("the officers' signatures are missing")
	}
	f.org.Add(&control.Release{Hold: hold}, f.org.Two()...)
	f.run(func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		m, _ := f.org.State.Month(month)
		return m.Destroyed != control.Never
	})
	m, _ := f.org.State.Month(month)
	f.run(func() bool { return !f.files[f.n].HasMonth(m.MLKEM) && !f.files[f.n+1].HasMonth(m.MLKEM) })
	if _, months := f.files[f.n].Held(); months != monthsAhead {
		t.Errorf("guard 1 holds %d keys", months)
	}
}

func (f *fleet) signatures(s *control.Statement, people []orgtest.Person) []control.Signature {
	f.t.Helper()
	var out []control.Signature
	for _, p := range people {
		g, err := p.Sign(s)
		if err != nil {
			f.t.Fatal(err)
		}
		out = append(out, g)
	}
	return out
}

// A guard that lost its state has the months' keys from the other.
func TestGuardRecovers(t *testing.T) {
	f := newFleet(t, 1, 2)
	f.generate()
	f.run(func() bool { return f.complete(control.KindMonth, 2) })
	f.cosign(control.KindMonth, f.org.Two()...)
	m := f.org.State.Months()[0]
	for i := f.n; i < len(f.all); i++ {
		if err := f.files[i].Destroy(m.MLKEM); err != nil {
			t.Fatal(err)
		}
		if err := f.all[i].round(t.Context()); err != nil || !f.files[i].HasMonth(m.MLKEM) {
			t.Errorf("guard %d: %v", i-f.n+1, err)
		}
	}
}

// A month's statement that isn't right, or whose key can't be had, isn't
// signed.
func TestMonthsNotSigned(t *testing.T) {
	f := newFleet(t, 1, 2)
	epoch := f.generate()
	maker, other := f.all[f.n], f.all[f.n+1]
	for _, h := range []*holder{maker, other} {
		if err := h.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	now := control.MonthOf(envelope.DayOf(f.now()))
	good := control.Month{Epoch: epoch, Region: "eu", Class: "standard", Month: now}
	var err error
	if good.MLKEM, err = f.files[f.n].MakeMonth(codec.Sum("test")); err != nil {
		t.Fatal(err)
	}
	stranger, err := custody.Create(t.TempDir(), fleetKey, "stranger", "CH", custody.Guard)
	if err != nil || stranger.Name == "" {
		t.Fatal(err)
	}
	unheld := orgtest.New(t).State.Months()[0].MLKEM
	for name, c := range map[string]struct {
		change func(*control.Month)
		by     codec.Signer
		want   error
	}{
		"region":           {change: func(m *control.Month) { m.Region = "us" }},
		"class":            {change: func(m *control.Month) { m.Class = "long" }},
		"past":             {change: func(m *control.Month) { m.Month-- }},
		"too far ahead":    {change: func(m *control.Month) { m.Month += monthsAhead + 1 }},
		"epoch":            {change: func(m *control.Month) { m.Epoch = codec.Sum("another") }},
		"no ML-KEM key":    {change: func(m *control.Month) { m.MLKEM = make([]byte, 1184); m.MLKEM[0] = 0xff; m.MLKEM[1] = 0xff }},
		"key nobody holds": {change: func(m *control.Month) { m.MLKEM = unheld }, want: errTransfer},
		"not by the maker": {change: func(*control.Month) {}, by: codec.NewPrivateKey(), want: errUnauthorised},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			c.change(&m)
			statement := &control.Statement{Organisation: f.org.ID, Kind: m.Kind(), Body: codec.Encode(&m)}
			by := c.by
			if by == nil {
				by = f.files[f.n]
			}
			g, err := control.Sign(by, statement)
			if err != nil {
				t.Fatal(err)
			}
			submits := f.submits
			err = other.signPending(t.Context(), &wire.Pending{Statement: codec.Encode(statement), Signatures: []control.Signature{g}})
			if err == nil || f.submits != submits {
				t.Fatal("signed")
			}
			if c.want == errUnauthorised && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Only a guard of the genesis leaf is handed a month's key, and only what it
// asked for, for itself, now.
func TestTransferRefusals(t *testing.T) {
	f := newFleet(t, 1, 2)
	f.generate()
	f.run(func() bool { return f.complete(control.KindMonth, 2) })
	giver, taker := f.all[f.n], f.all[f.n+1]
	for _, h := range []*holder{giver, taker, f.all[0]} {
		if err := h.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	waiting, _ := f.Pending(t.Context())
	recipient, _, err := f.files[f.n+1].Receive()
	if err != nil {
		t.Fatal(err)
	}
	right := transferRequest{Statement: waiting[0].Statement, From: 1, To: 2, Recipient: recipient, Time: f.now().UnixMilli()}
	ask := func(by codec.Signer, change func(*transferRequest)) error {
		r := right
		change(&r)
		signed, err := by.Sign1(labelTransfer, codec.Encode(&r))
		if err != nil {
			t.Fatal(err)
		}
		_, err = giver.hand(signed)
		return err
	}
	if err := ask(taker.Custody, func(*transferRequest) {}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"stranger":          ask(codec.NewPrivateKey(), func(*transferRequest) {}),
		"keyholder":         ask(f.files[0], func(*transferRequest) {}),
		"to itself":         ask(giver.Custody, func(r *transferRequest) { r.To = 1 }),
		"for another guard": ask(taker.Custody, func(r *transferRequest) { r.To = 3 }),
		"from another":      ask(taker.Custody, func(r *transferRequest) { r.From = 2 }),
		"old":               ask(taker.Custody, func(r *transferRequest) { r.Time -= 6 * time.Minute.Milliseconds() }),
		"no key":            ask(taker.Custody, func(r *transferRequest) { r.Recipient = r.Recipient[1:] }),
		"no month":          ask(taker.Custody, func(r *transferRequest) { r.Statement = r.Statement[1:] }),
	} {
		if err == nil {
			t.Errorf("%s: handed over", name)
		}
	}
	if _, err := f.all[0].hand(nil); err == nil {
		t.Error("a keyholder handed over a month's key")
	}
}

// A holder that the genesis leaf has in the other role doesn't start.
func TestWrongRole(t *testing.T) {
	f := newFleet(t, 1, 2)
	h, err := open(Config{
		Dir: t.TempDir(), Custody: memory{PrivateKey: codec.NewPrivateKey(), h: &orgtest.Holder{}, guard: true}, Organisation: f.org.ID,
		Server: f.desk, Now: f.now, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer h.record.Close()
	if err := h.sync(t.Context()); !errors.Is(err, ErrRole) {
		t.Errorf("unknown to the genesis leaf: %v", err)
	}
}

// A canary made around somebody's ML-KEM ciphertext would have a guard publish
// the secret of that message.
func TestCanaryWithCopiedCiphertext(t *testing.T) {
	s := newStage(t, options{})
	month := s.org.AddMonthUnopened(control.MonthOf(envelope.DayOf(s.now())) + 1)
	c, env := s.org.Canary(month)
	victim, _ := s.org.Canary(month)
	stolen, err := envelope.Parse(victim.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	forged := &envelope.Envelope{Enc: append(stolen.MLKEMCiphertext(), env.E()...), Ciphertext: env.Ciphertext}
	core, err := envelope.ParseCore(c.Core)
	if err != nil {
		t.Fatal(err)
	}
	core.Envelope = forged.Hash()
	c.Core, c.Envelope = core.Encode(), forged.Encode()
	h := s.holder(true, 1)
	m, _ := s.org.State.Month(month)
	if answer, err := h.canaryAnswer(&canary{body: *c, public: m.MLKEM}); err == nil || answer != nil {
		t.Error("published another message's secret")
	}
}
