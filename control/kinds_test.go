package control_test

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/quorum"
)

// start is the middle of a month, so that tests say when they change it.
var start = time.Date(2026, 11, 15, 12, 0, 0, 0, time.UTC)

// world is an organisation with a clock of its own.
type world struct {
	*orgtest.Org
	t     testing.TB
	clock time.Time
	took  map[control.Kind]bool
}

func newWorld(t testing.TB, opts orgtest.Options) *world {
	t.Helper()
	w := &world{t: t, clock: start, took: map[control.Kind]bool{}}
	opts.Now = func() time.Time { return w.clock }
	w.Org = orgtest.NewWith(t, opts)
	return w
}

func (w *world) pass(d time.Duration) { w.clock = w.clock.Add(d) }

// apply offers an entry to the state, which must refuse it and stay as it was.
func (w *world) unchanged(what string, entry []byte, opening *control.Opening, want ...error) {
	w.t.Helper()
	before := control.Fingerprint(w.State)
	err := w.State.Apply(entry, opening)
	if err == nil {
		w.t.Fatalf("%s: accepted", what)
	}
	if len(want) == 0 {
		want = []error{control.ErrMalformed, control.ErrUnauthorised, control.ErrConflict, codec.ErrSignature}
	}
	if !slices.ContainsFunc(want, func(e error) bool { return errors.Is(err, e) }) {
		w.t.Errorf("%s: %v, want %v", what, err, want)
	}
	if control.Fingerprint(w.State) != before {
		w.t.Fatalf("%s: refused (%v), and the state has changed", what, err)
	}
}

// refuses offers a body with signatures that are each right.
func (w *world) refuses(what string, want error, body control.Body, by ...orgtest.Signer) {
	w.t.Helper()
	s, opening, err := control.NewStatement(rand.Reader, w.ID, body)
	must(w.t, err)
	w.unchanged(what, w.entry(s, by...), opening, want)
}

func (w *world) entry(s *control.Statement, by ...orgtest.Signer) []byte {
	w.t.Helper()
	return control.NewLeaf(s, w.clock.UnixMilli(), w.sign(s, by...)).Encode()
}

func (w *world) sign(s *control.Statement, by ...orgtest.Signer) []control.Signature {
	w.t.Helper()
	var out []control.Signature
	for _, signer := range by {
		g, err := signer.Sign(s)
		must(w.t, err)
		out = append(out, g)
	}
	return out
}

// accepts attacks a leaf with the fewest signers that suffice in every way that
// is wrong for all kinds, then adds it, then offers it again.
func (w *world) accepts(body control.Body, by ...orgtest.Signer) codec.Hash {
	w.t.Helper()
	kind := string(body.Kind())
	s, opening, err := control.NewStatement(rand.Reader, w.ID, body)
	must(w.t, err)
	for i := range by {
		fewer := slices.Delete(slices.Clone(by), i, i+1)
		w.unchanged(kind+": a signer too few", w.entry(s, fewer...), opening)
		swapped := slices.Clone(by)
		swapped[i] = orgtest.Signer(orgtest.Key{PrivateKey: codec.NewPrivateKey()})
		if _, ok := by[i].(orgtest.Person); ok {
			swapped[i] = orgtest.NewPerson(w.t)
		}
		w.unchanged(kind+": a stranger's signature", w.entry(s, swapped...), opening)

		signatures := w.sign(s, by...)
		signatures[i].Bytes[len(signatures[i].Bytes)-1] ^= 1
		w.unchanged(kind+": a flipped signature", control.NewLeaf(s, w.clock.UnixMilli(), signatures).Encode(), opening)
		signatures = w.sign(s, by...)
		signatures[i].Key[0] ^= 1
		w.unchanged(kind+": a signature under another key", control.NewLeaf(s, w.clock.UnixMilli(), signatures).Encode(), opening)
		signatures[i].Algorithm = 3
		w.unchanged(kind+": an unknown algorithm", control.NewLeaf(s, w.clock.UnixMilli(), signatures).Encode(), opening, control.ErrMalformed)
	}
	signatures := w.sign(s, by...)
	w.unchanged(kind+": a signature twice", control.NewLeaf(s, w.clock.UnixMilli(), append(signatures, signatures[0])).Encode(), opening, control.ErrMalformed)
	w.unchanged(kind+": nobody's", control.NewLeaf(s, w.clock.UnixMilli(), nil).Encode(), opening, control.ErrMalformed)
	w.unchanged(kind+": earlier than the last leaf", control.NewLeaf(s, w.State.Time()-1, signatures).Encode(), opening, control.ErrConflict)
	w.unchanged(kind+": after the year 9999", control.NewLeaf(s, 1<<60, signatures).Encode(), opening, control.ErrMalformed)

	altered := *s
	altered.Body = bytes.Clone(s.Body)
	altered.Body[len(altered.Body)/2] ^= 1
	w.unchanged(kind+": altered after signing", control.NewLeaf(&altered, w.clock.UnixMilli(), signatures).Encode(), opening, codec.ErrSignature)
	for _, k := range control.Kinds() {
		other := control.Statement{Organisation: s.Organisation, Kind: k, Body: s.Body}
		if k != s.Kind {
			w.unchanged(kind+": its signatures under a "+string(k), control.NewLeaf(&other, w.clock.UnixMilli(), signatures).Encode(), opening, codec.ErrSignature)
		}
	}
	foreign := control.Statement{Organisation: codec.Sum("test"), Kind: s.Kind, Body: s.Body}
	w.unchanged(kind+": of another organisation", w.entry(&foreign, by...), opening, control.ErrConflict)
	trailing := control.Statement{Organisation: s.Organisation, Kind: s.Kind, Body: append(bytes.Clone(s.Body), 0)}
	w.unchanged(kind+": with a byte more", w.entry(&trailing, by...), opening, control.ErrMalformed)
	if opening != nil {
		w.unchanged(kind+": with another opening", w.entry(s, by...), &control.Opening{Salt: opening.Salt, Body: altered.Body}, control.ErrConflict)
		salted := *opening
		salted.Salt[0] ^= 1
		w.unchanged(kind+": with another salt", w.entry(s, by...), &salted, control.ErrConflict)
		long := &control.Opening{Body: make([]byte, control.MaxBody+1)}
		seal := long.Seal()
		big := control.Statement{Organisation: w.ID, Kind: s.Kind, Body: seal[:]}
		w.unchanged(kind+": of a body too long", w.entry(&big, by...), long, control.ErrMalformed)
	}
	h := w.Add(body, by...)
	last := w.Leaves[len(w.Leaves)-1]
	w.unchanged(kind+": replayed", last.Entry, last.Opening, control.ErrConflict)
	w.took[body.Kind()] = true
	return h
}

// epoch runs a key generation on the log and returns what all confirm.
func (w *world) epoch() *control.Epoch {
	w.t.Helper()
	c := w.NewCeremony()
	w.refuses("ceremony of another threshold", control.ErrConflict, &control.Ceremony{Ceremony: quorum.Ceremony{ID: c.ID, T: c.T - 1, Peers: c.Peers}}, w.Two()...)
	w.refuses("ceremony of other peers", control.ErrConflict, &control.Ceremony{Ceremony: quorum.Ceremony{ID: c.ID, T: c.T, Peers: c.Peers[1:]}}, w.Two()...)
	swapped := slices.Clone(c.Peers)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	w.refuses("ceremony of swapped peers", control.ErrConflict, &control.Ceremony{Ceremony: quorum.Ceremony{ID: c.ID, T: c.T, Peers: swapped}}, w.Two()...)
	w.refuses("ceremony without an id", control.ErrMalformed, &control.Ceremony{Ceremony: quorum.Ceremony{T: c.T, Peers: c.Peers}}, w.Two()...)
	w.accepts(&control.Ceremony{Ceremony: c}, w.Two()...)

	participants := w.Participants(c)
	var result *quorum.Result
	for done := 0; done < len(participants); {
		done = 0
		for i, p := range participants {
			_, board, _ := w.State.Ceremony(c.ID)
			next, end, err := p.Step(board)
			must(w.t, err)
			switch {
			case end != nil:
				w.Keyholders[i].Share, result = end.Share, end
				done++
			case next != nil && !w.took[control.KindDKG]:
				w.refuses("another keyholder's message", control.ErrUnauthorised, &control.DKG{Message: *next}, w.Keyholders[(i+1)%len(w.Keyholders)])
				for _, from := range []int{-1, 0, 6, 1 << 40} {
					m := *next
					m.From = from
					w.refuses("message from nobody", control.ErrMalformed, &control.DKG{Message: m}, w.Keyholders[i])
				}
				for _, round := range []int{-1, 0, 7} {
					m := *next
					m.Round = round
					w.refuses("message in no round", control.ErrMalformed, &control.DKG{Message: m}, w.Keyholders[i])
				}
				m := *next
				m.Ceremony = codec.NewID()
				w.refuses("message of no ceremony", control.ErrConflict, &control.DKG{Message: m}, w.Keyholders[i])
				w.accepts(&control.DKG{Message: *next}, w.Keyholders[i])
				m = *next
				m.Body = []byte("another")
				w.refuses("two messages in a round", control.ErrConflict, &control.DKG{Message: m}, w.Keyholders[i])
			case next != nil:
				w.Add(&control.DKG{Message: *next}, w.Keyholders[i])
			}
		}
	}
	return &control.Epoch{
		Number: uint64(len(w.State.Epochs())) + 1, Ceremony: c.ID, Key: *result.Key, Transcript: result.Transcript,
	}
}

func (w *world) keyholdersAnd(people ...orgtest.Person) []orgtest.Signer {
	var out []orgtest.Signer
	for _, h := range w.Keyholders {
		out = append(out, h)
	}
	for _, p := range people {
		out = append(out, p)
	}
	return out
}

func (w *world) officersAndGuards() []orgtest.Signer {
	out := w.Two()
	for _, g := range w.Guards {
		out = append(out, g)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hpkeKey(t testing.TB) []byte {
	t.Helper()
	key, err := hpke.MLKEM768X25519().GenerateKey()
	must(t, err)
	return key.PublicKey().Bytes()
}

// TestKinds leads one organisation through a leaf of every kind. Each is
// attacked in every way that is wrong for all kinds (accepts), and in those that
// are wrong for its own.
func TestKinds(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	w.took[control.KindGenesis] = true // TestGenesis
	w.refuses("a second genesis", control.ErrConflict, w.Genesis, w.Officers[0], w.Officers[1], w.Officers[2])
	w.refuses("officers who are reviewers", control.ErrUnauthorised, w.policy(2), w.Reviewers[0], w.Reviewers[1])

	w.refuses("a policy version skipped", control.ErrConflict, w.policy(3), w.Two()...)
	for what, change := range map[string]func(*control.Policy){
		"no approvals": func(p *control.Policy) { p.Approvals = 0 },
		"no region":    func(p *control.Policy) { p.Region = "" },
		"no class":     func(p *control.Policy) { p.Class = "" },
		"long region":  func(p *control.Policy) { p.Region = string(make([]byte, 33)) },
		"no count":     func(p *control.Policy) { p.MaxCount = 0 },
	} {
		p := w.policy(2)
		change(p)
		w.refuses("policy of "+what, control.ErrMalformed, p, w.Two()...)
	}
	w.accepts(w.policy(2), w.Two()...)

	w.roles()
	e := w.epoch()
	w.epochs(e)
	w.months()
	alice, bob := w.devices()
	w.matter(alice, bob)
	w.destruction()
	w.certificates()

	for _, k := range control.Kinds() {
		if !w.took[k] {
			t.Errorf("no leaf of kind %s was tried", k)
		}
	}
	again := control.NewState(w.ID)
	for i, l := range w.Leaves {
		must(t, again.Apply(l.Entry, l.Opening))
		if again.Size() != int64(i)+1 {
			t.Fatalf("size %d after leaf %d", again.Size(), i)
		}
	}
	if control.Fingerprint(again) != control.Fingerprint(w.State) {
		t.Error("the log replayed gives another state")
	}
}

func (w *world) policy(version uint64) *control.Policy {
	p := orgtest.DefaultPolicy()
	p.Version = version
	return &p
}

func (w *world) roles() {
	t := w.t
	person := orgtest.NewPerson(t)
	grant := func(role control.Role, p control.Person, remove bool) *control.RoleChange {
		return &control.RoleChange{Nonce: codec.NewID(), Role: role, Person: p, Remove: remove}
	}
	w.refuses("an unknown role", control.ErrMalformed, grant("emperor", person.Control(), false), w.Two()...)
	w.refuses("a credential that is none", control.ErrMalformed, grant(control.RoleAuditor, control.Person{Member: person.Member, Credential: []byte("ssh")}, false), w.Two()...)
	w.refuses("a credential of nobody", control.ErrMalformed, grant(control.RoleAuditor, control.Person{Credential: person.Control().Credential}, false), w.Two()...)
	w.refuses("another member's credential", control.ErrConflict, grant(control.RoleApprover, control.Person{Member: person.Member, Credential: w.Approvers[0].Control().Credential}, false), w.Two()...)
	w.refuses("a role that it has", control.ErrConflict, grant(control.RoleApprover, w.Approvers[0].Control(), false), w.Two()...)
	w.refuses("a role that it hasn't", control.ErrConflict, grant(control.RoleReviewer, w.Approvers[0].Control(), true), w.Two()...)
	w.refuses("one officer twice, with two keys of his", control.ErrUnauthorised, grant(control.RoleAuditor, person.Control(), false), w.Officers[0], w.secondKey(w.Officers[0], control.RoleOfficer))
	w.accepts(grant(control.RoleAuditor, person.Control(), false), w.Two()...)
	w.refuses("an auditor who signs as an officer", control.ErrUnauthorised, w.policy(3), w.Officers[0], person)
	w.Add(grant(control.RoleOfficer, person.Control(), false), w.Two()...)
	w.Add(grant(control.RoleOfficer, person.Control(), true), w.Officers[0], person)
	w.refuses("an officer whose role was taken", control.ErrUnauthorised, w.policy(3), w.Officers[0], person)
	w.Add(grant(control.RoleOfficer, w.Officers[2].Control(), true), w.Two()...)
	w.refuses("the officers below their quorum", control.ErrConflict, grant(control.RoleOfficer, w.Officers[1].Control(), true), w.Two()...)
}

// secondKey gives a member another credential in a role.
func (w *world) secondKey(p orgtest.Person, role control.Role) orgtest.Person {
	w.t.Helper()
	second := orgtest.NewPerson(w.t)
	second.Member = p.Member
	w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: role, Person: second.Control()}, w.Officers[0], w.Officers[1])
	return second
}

func (w *world) epochs(e *control.Epoch) {
	signers := w.keyholdersAnd(w.Approvers[:3]...)
	for what, change := range map[string]func(*control.Epoch){
		"of another number":     func(e *control.Epoch) { e.Number++ },
		"of no ceremony":        func(e *control.Epoch) { e.Ceremony = codec.NewID() },
		"of another transcript": func(e *control.Epoch) { e.Transcript[0] ^= 1 },
		"of another key":        func(e *control.Epoch) { e.Key.Key = e.Key.Shares[0] },
		"of another threshold":  func(e *control.Epoch) { e.Key.T-- },
		"of swapped shares": func(e *control.Epoch) {
			e.Key.Shares = slices.Clone(e.Key.Shares)
			e.Key.Shares[0], e.Key.Shares[1] = e.Key.Shares[1], e.Key.Shares[0]
		},
	} {
		bad := *e
		change(&bad)
		w.refuses("epoch "+what, control.ErrConflict, &bad, signers...)
	}
	second := w.secondKey(w.Approvers[0], control.RoleApprover)
	w.refuses("an approver with two keys", control.ErrUnauthorised, e, w.keyholdersAnd(w.Approvers[0], w.Approvers[1], second)...)
	w.refuses("reviewers for approvers", control.ErrUnauthorised, e, w.keyholdersAnd(w.Approvers[0], w.Approvers[1], w.Reviewers[0])...)
	open := quorum.Ceremony{ID: codec.NewID(), T: int(w.Genesis.Threshold)}
	for _, h := range w.Keyholders {
		open.Peers = append(open.Peers, quorum.Point(h.Encrypt))
	}
	w.Add(&control.Ceremony{Ceremony: open}, w.Two()...)
	w.refuses("a ceremony that has not ended", control.ErrConflict, &control.Epoch{Number: 1, Ceremony: open.ID, Key: e.Key, Transcript: e.Transcript}, signers...)
	w.Epoch = w.accepts(e, signers...)
	next := *e
	next.Number++
	w.refuses("one ceremony's key as two epochs", control.ErrConflict, &next, signers...)
}

func (w *world) months() {
	t := w.t
	now := control.MonthOf(envelope.DayOf(w.clock))
	h := w.AddMonthUnopened(now + 1)
	m, _ := w.State.Month(h)
	fresh := func() *control.Month {
		copied := m.Month
		copied.Month, copied.MLKEM = now, mlkemKey(t)
		return &copied
	}
	for what, change := range map[string]func(*control.Month){
		"of no epoch":             func(m *control.Month) { m.Epoch = codec.Hash{} },
		"that is there":           func(m *control.Month) { m.Month = now + 1 },
		"with another's key":      func(m *control.Month) { m.MLKEM = w.State.Months()[0].MLKEM },
		"with no region":          func(m *control.Month) { m.Region = "" },
		"with a long class":       func(m *control.Month) { m.Class = string(make([]byte, 33)) },
		"with half a key":         func(m *control.Month) { m.MLKEM = m.MLKEM[:592] },
		"with a key out of range": func(m *control.Month) { m.MLKEM = bytes.Repeat([]byte{0xff}, 1184) },
	} {
		bad := fresh()
		change(bad)
		w.unchangedBody("month "+what, bad, w.officersAndGuards()...)
	}
	w.refuses("keyholders for guards", control.ErrUnauthorised, fresh(), append(w.Two(), w.Keyholders[0], w.Keyholders[1])...)
	key := mlkemPair(t)
	month := fresh()
	month.MLKEM = key.EncapsulationKey().Bytes()
	w.Month = w.accepts(month, w.officersAndGuards()...)
	for _, g := range w.Guards {
		g.MLKEM[w.Month] = key
	}
	w.canaries(h)
}

func (w *world) unchangedBody(what string, body control.Body, by ...orgtest.Signer) {
	w.t.Helper()
	s, opening, err := control.NewStatement(rand.Reader, w.ID, body)
	must(w.t, err)
	w.unchanged(what, w.entry(s, by...), opening)
}

// canaries lets this month's canary be opened, against every wrong answer, and
// the next month's not.
func (w *world) canaries(next codec.Hash) {
	t := w.t
	day := envelope.DayOf(w.clock)
	policy := w.State.Policy()
	if _, err := w.State.Escrow(policy.Region, policy.Class, day); err == nil {
		t.Error("a key is in effect whose canary nobody has opened")
	}
	canary, env := w.Canary(w.Month)
	other, _ := w.Canary(next)
	for what, change := range map[string]func(*control.Canary){
		"of no month":               func(c *control.Canary) { c.Month = codec.Hash{} },
		"of another month":          func(c *control.Canary) { c.Month = next },
		"with another envelope":     func(c *control.Canary) { c.Envelope = other.Envelope },
		"with another core":         func(c *control.Canary) { c.Core = other.Core },
		"with another's proof":      func(c *control.Canary) { c.Proof = other.Proof },
		"with a flipped proof":      func(c *control.Canary) { c.Proof = flip(c.Proof) },
		"with half a proof":         func(c *control.Canary) { c.Proof = c.Proof[:32] },
		"with no tag":               func(c *control.Canary) { c.Tag = nil },
		"that is no envelope":       func(c *control.Canary) { c.Envelope = c.Envelope[1:] },
		"that is somebody's record": func(c *control.Canary) { w.rekind(c, envelope.KindRecord) },
	} {
		bad := *canary
		change(&bad)
		w.unchangedBody("canary "+what, &bad, w.Officers[0])
	}
	// A canary that nobody can open: one officer released it, two replace it.
	lame := *canary
	lame.Tag = flip(lame.Tag)
	wrong := w.Add(&lame, w.Officers[0])
	w.refuses("a guard that can't open the canary", control.ErrConflict, &control.CanaryAnswer{Canary: wrong, Guard: true, Holder: 1, Answer: make([]byte, 32)}, w.Guards[0])
	w.refuses("a canary replaced by one officer", control.ErrUnauthorised, canary, w.Officers[1])
	w.Add(canary, w.Two()...)
	w.took[control.KindCanary] = true
	leaf, _, keyholders, guards := w.month().Canary()
	if len(keyholders)+len(guards) != 0 {
		t.Error("answers to the canary that was replaced still count")
	}
	w.answers(leaf, wrong, env)

	leafNext := w.accepts(other, w.Officers[0])
	w.refuses("an answer to another canary", control.ErrConflict, &control.CanaryAnswer{Canary: codec.Hash{}, Holder: 1, Answer: env.E()}, w.Keyholders[0])
	w.refuses("a point off the curve", control.ErrMalformed, &control.CanaryAnswer{Canary: leafNext, Holder: 1, Answer: make([]byte, 65)}, w.Keyholders[0])
}

func (w *world) month() *control.MonthState {
	m, _ := w.State.Month(w.Month)
	return m
}

// rekind makes a canary of another kind, proofs and all.
func (w *world) rekind(c *control.Canary, kind envelope.Kind) {
	core, err := envelope.ParseCore(c.Core)
	must(w.t, err)
	header, err := envelope.ParseHeader(core.Header)
	must(w.t, err)
	header.Kind = kind
	m := w.SealCore(header, (&envelope.Record{ID: "1", Text: "secret"}).Encode())
	c.Core, c.Envelope, c.Proof, c.Tag = m.Body.Encode(), m.Envelope.Encode(), m.Proof[:], m.Tag[:]
}

func (w *world) answers(leaf, replaced codec.Hash, env *envelope.Envelope) {
	t := w.t
	e, err := quorum.ParsePoint(env.E())
	must(t, err)
	answer := func(i int) *control.CanaryAnswer {
		p, err := w.Keyholders[i].Share.Partial(e)
		must(t, err)
		return &control.CanaryAnswer{Canary: leaf, Holder: uint8(i + 1), Answer: p[:]}
	}
	for _, holder := range []uint8{0, 6, 255} {
		a := answer(0)
		a.Holder = holder
		w.refuses("an answer of nobody", control.ErrMalformed, a, w.Keyholders[0])
		a.Guard, a.Answer = true, make([]byte, 32)
		w.refuses("an answer of no guard", control.ErrMalformed, a, w.Guards[0])
	}
	w.refuses("another keyholder's answer", control.ErrUnauthorised, answer(0), w.Keyholders[1])
	w.refuses("a keyholder as a guard", control.ErrUnauthorised, &control.CanaryAnswer{Canary: leaf, Guard: true, Holder: 1, Answer: make([]byte, 32)}, w.Keyholders[0])
	old := answer(0)
	old.Canary = replaced
	w.refuses("an answer to the canary that was replaced", control.ErrConflict, old, w.Keyholders[0])
	w.accepts(answer(0), w.Keyholders[0])
	again := answer(0)
	again.Answer = env.E()
	w.refuses("a second answer", control.ErrConflict, again, w.Keyholders[0])

	for i, g := range w.Guards {
		secret, err := g.MLKEM[w.Month].Decapsulate(env.MLKEMCiphertext())
		must(t, err)
		w.refuses("a guard's wrong answer", control.ErrConflict, &control.CanaryAnswer{Canary: leaf, Guard: true, Holder: uint8(i + 1), Answer: flip(secret)}, g)
		w.refuses("a guard's long answer", control.ErrConflict, &control.CanaryAnswer{Canary: leaf, Guard: true, Holder: uint8(i + 1), Answer: append(secret, 0)}, g)
		w.Add(&control.CanaryAnswer{Canary: leaf, Guard: true, Holder: uint8(i + 1), Answer: secret}, g)
	}
	// Two right answers and a lie open nothing; a third right one does.
	w.Add(answer(1), w.Keyholders[1])
	lie := answer(2)
	lie.Answer = env.E()
	w.Add(lie, w.Keyholders[2])
	if w.month().Effective != control.Never {
		t.Error("a canary opened with two right answers of three")
	}
	w.Add(answer(4), w.Keyholders[4])
	if w.month().Effective != w.State.Size()-1 || w.month().EffectiveTime != w.clock.UnixMilli() {
		t.Error("the canary did not open with three right answers of four")
	}
	w.refuses("a canary for a key in effect", control.ErrConflict, mustCanary(w), w.Two()...)
}

func mustCanary(w *world) *control.Canary { c, _ := w.Canary(w.Month); return c }

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}
