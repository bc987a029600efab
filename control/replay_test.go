package control_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
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

func signers(people ...orgtest.Person) []orgtest.Signer {
	var out []orgtest.Signer
	for _, p := range people {
		out = append(out, p)
	}
	return out
}

// genesis returns an organisation's genesis body, to be changed, and an entry of
// it that all officers named sign.
func (w *world) genesis(change func(*control.Genesis), by ...orgtest.Signer) (codec.Hash, []byte) {
	g := *w.Genesis
	g.Officers, g.Approvers, g.Reviewers = slices.Clone(g.Officers), slices.Clone(g.Approvers), slices.Clone(g.Reviewers)
	g.Keyholders, g.Guards, g.Witnesses = slices.Clone(g.Keyholders), slices.Clone(g.Guards), slices.Clone(g.Witnesses)
	change(&g)
	s, _, err := control.NewStatement(nil, codec.Hash{}, &g)
	must(w.t, err)
	return s.Hash(), w.entry(s, by...)
}

func TestGenesis(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	all := signers(w.Officers...)
	id, entry := w.genesis(func(*control.Genesis) {}, all...)
	if id != w.ID {
		t.Fatal("the copy is another organisation")
	}
	must(t, control.NewState(id).Apply(entry, nil))

	fresh := func(what string, id codec.Hash, entry []byte, want error) {
		t.Helper()
		s := control.NewState(id)
		before := control.Fingerprint(s)
		if err := s.Apply(entry, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if control.Fingerprint(s) != before || s.Genesis() != nil || s.Policy() != nil {
			t.Errorf("%s: the state has changed", what)
		}
	}
	fresh("another organisation than the pinned", codec.Sum("test"), entry, control.ErrUnauthorised)
	_, short := w.genesis(func(*control.Genesis) {}, all[:2]...)
	fresh("an officer who has not signed", id, short, control.ErrUnauthorised)
	renamed, entry := w.genesis(func(g *control.Genesis) { g.Name = "Evil plc" }, all...)
	fresh("a genesis of another name", id, entry, control.ErrUnauthorised)
	must(t, control.NewState(renamed).Apply(entry, nil))
	s := &control.Statement{Organisation: id, Kind: control.KindGenesis, Body: codec.Encode(w.Genesis)}
	fresh("a genesis that names an organisation", s.Hash(), w.entry(s, all...), control.ErrUnauthorised)
	s = &control.Statement{Kind: control.KindPolicy, Body: codec.Encode(w.policy(1))}
	fresh("a policy first", s.Hash(), w.entry(s, all...), control.ErrUnauthorised)

	other := orgtest.NewPerson(t)
	for what, change := range map[string]func(*control.Genesis){
		"no name":                    func(g *control.Genesis) { g.Name = "" },
		"no control key":             func(g *control.Genesis) { g.ControlKey = codec.PublicKey{} },
		"a receipt key of anybody":   func(g *control.Genesis) { g.ReceiptKey = codec.PublicKey{1} },
		"one key for both logs":      func(g *control.Genesis) { g.MessagesKey = g.ControlKey },
		"no threshold":               func(g *control.Genesis) { g.Threshold = 0 },
		"a threshold of 4 of 5":      func(g *control.Genesis) { g.Threshold = 4 },
		"one guard":                  func(g *control.Genesis) { g.Guards = g.Guards[:1] },
		"a guard who is keyholder":   func(g *control.Genesis) { g.Guards[0].Sign = g.Keyholders[0].Sign },
		"a guard named as another":   func(g *control.Genesis) { g.Guards[0].Name = g.Keyholders[0].Name },
		"a share sealed to another":  func(g *control.Genesis) { g.Keyholders[1].Encrypt = g.Keyholders[0].Encrypt },
		"a guard that is the server": func(g *control.Genesis) { g.Guards[0].Sign = g.ReceiptKey },
		"a guard that is anybody":    func(g *control.Genesis) { g.Guards[0].Sign = codec.PublicKey{} },
		"a point that is none":       func(g *control.Genesis) { g.Guards[0].Encrypt = make([]byte, 65) },
		"one witness":                func(g *control.Genesis) { g.Witnesses, g.WitnessQuorum = g.Witnesses[:1], 1 },
		"one witness of two":         func(g *control.Genesis) { g.WitnessQuorum = 1 },
		"one witness twice":          func(g *control.Genesis) { g.Witnesses[1] = g.Witnesses[0] },
		"a witness without a key":    func(g *control.Genesis) { g.Witnesses[1].Key = "witness" },
		"an officer alone":           func(g *control.Genesis) { g.OfficerQuorum = 1 },
		"one officer with two keys":  func(g *control.Genesis) { g.Officers = g.Officers[:2]; g.Officers[1].Member = g.Officers[0].Member },
		"one approver with many": func(g *control.Genesis) {
			for i := range g.Approvers {
				g.Approvers[i].Member = other.Member
			}
		},
		"too few approvers":         func(g *control.Genesis) { g.Approvers = g.Approvers[:2] },
		"a credential of two":       func(g *control.Genesis) { g.Reviewers[0] = g.Officers[0]; g.Reviewers[0].Member = other.Member },
		"a credential of nobody":    func(g *control.Genesis) { g.Reviewers[0].Member = codec.ID{} },
		"a credential that is none": func(g *control.Genesis) { g.Reviewers[0].Credential = []byte("me") },
		"a policy of no approvals":  func(g *control.Genesis) { g.Policy.Approvals = 0 },
	} {
		id, entry := w.genesis(change, all...)
		fresh(what, id, entry, control.ErrMalformed)
	}
}

func TestWeakKeys(t *testing.T) {
	for _, key := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	} {
		raw, _ := hex.DecodeString(key)
		if !control.Weak(codec.PublicKey(raw)) {
			t.Errorf("%s passes", key)
		}
	}
	if control.Weak(codec.NewPrivateKey().PublicKey()) {
		t.Error("a good key is called weak")
	}
	// What it is about: under the point of order 1, R = sB is a signature by
	// anybody over anything; with s = 0, R is that point itself.
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	identity := codec.PublicKey{1}
	s, _, err := control.NewStatement(nil, w.ID, &control.Revocation{})
	must(t, err)
	h := s.Hash()
	forged := append(identity[:], make([]byte, 32)...)
	if err := codec.Verify(identity, "control", h[:], forged); err != nil {
		t.Fatalf("Ed25519 refuses such keys by itself, so that this shows nothing: %v", err)
	}
	w.unchanged("a signature that anybody made", control.NewLeaf(s, w.clock.UnixMilli(), []control.Signature{
		{Algorithm: control.Ed25519, Key: codec.Hash(identity), Bytes: forged},
	}).Encode(), nil, control.ErrMalformed)
}

func TestParse(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true})
	entry := w.Leaves[0].Entry
	for i := range entry {
		bad := bytes.Clone(entry)
		bad[i] ^= 1
		l, s, err := control.Parse(bad)
		if err != nil {
			continue
		}
		// The time alone is the server's and not signed.
		if s.Hash() != w.ID || !bytes.Equal(l.Encode(), bad) {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
	for what, bad := range map[string][]byte{
		"nothing":       nil,
		"a byte more":   append(bytes.Clone(entry), 0),
		"a byte less":   entry[:len(entry)-1],
		"too much":      make([]byte, 65536),
		"another array": codec.Encode([]int{1}),
	} {
		if _, _, err := control.Parse(bad); !errors.Is(err, control.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := control.ParseStatement(make([]byte, 65536)); !errors.Is(err, control.ErrMalformed) {
		t.Error(err)
	}
	s := &control.Statement{Organisation: w.ID, Kind: "coup", Body: []byte{0x80}}
	w.unchanged("an unknown kind", w.entry(s, w.Officers[0]), nil, control.ErrMalformed)
}

// lived returns an organisation in which every kind of sealed leaf was logged.
func lived(t testing.TB) *world {
	w := newWorld(t, orgtest.Options{})
	w.Add(w.policy(2), w.Two()...)
	alice, bob := w.devices()
	w.matter(alice, bob)
	return w
}

// TestReplay replays one log with all openings, with none, and with each kind's
// withheld: all of them take every leaf, and each replay of one is the same.
func TestReplay(t *testing.T) {
	w := lived(t)
	replay := func(keep func(control.Kind) bool) (*control.State, int) {
		s, sealed := control.NewState(w.ID), 0
		for _, l := range w.Leaves {
			opening := l.Opening
			statement, err := control.ParseStatement(l.Statement)
			must(t, err)
			if statement.Kind.Sealed() && !keep(statement.Kind) {
				opening = nil
				sealed++
			}
			must(t, s.Apply(l.Entry, opening))
		}
		return s, sealed
	}
	all := func(control.Kind) bool { return true }
	none := func(control.Kind) bool { return false }
	full, _ := replay(all)
	if control.Fingerprint(full) != control.Fingerprint(w.State) || full.Unopened() != 0 {
		t.Error("a replay with all openings gives another state")
	}
	for range 5 {
		again, _ := replay(all)
		if control.Fingerprint(again) != control.Fingerprint(full) {
			t.Fatal("two replays differ")
		}
	}
	blind, sealed := replay(none)
	if blind.Unopened() != sealed || sealed == 0 {
		t.Errorf("%d leaves counted as unopened of %d", blind.Unopened(), sealed)
	}
	if len(blind.Requests())+len(blind.Holds()) != 0 {
		t.Error("a reader without openings knows requests or holds")
	}
	for _, k := range []control.Kind{control.KindMatter, control.KindHold, control.KindNotice, control.KindRelease, control.KindRequest} {
		replay(func(kind control.Kind) bool { return kind != k })
		replay(func(kind control.Kind) bool { return kind == k })
	}

	// What a reader without openings can judge it judges all the same.
	r := full.Requests()[0].Hash
	day := &control.Approval{Nonce: codec.NewID(), Request: r, Decision: control.Approve, Role: control.RoleApprover, Policy: full.Policy().Hash}
	try := func(what string, s *control.State, want error, body control.Body, by ...orgtest.Signer) {
		t.Helper()
		statement, _, err := control.NewStatement(rand.Reader, w.ID, body)
		must(t, err)
		before := control.Fingerprint(s)
		err = s.Apply(w.entry(statement, by...), nil)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if err != nil && control.Fingerprint(s) != before {
			t.Errorf("%s: the state has changed", what)
		}
	}
	stranger := orgtest.NewPerson(t)
	key := orgtest.Key{PrivateKey: codec.NewPrivateKey()}
	try("a stranger's approval", blind, control.ErrUnauthorised, day, stranger)
	try("a stranger's withdrawal", blind, control.ErrUnauthorised, &control.Withdrawal{Request: r}, stranger)
	try("a stranger's export", blind, control.ErrUnauthorised, &control.Export{Request: r}, stranger)
	try("an opener that does not sign", blind, control.ErrUnauthorised, w.opener(r, key.PrivateKey), w.Reviewers[0])
	try("another keyholder's use", blind, control.ErrUnauthorised, &control.Use{Request: r, Phase: control.PhaseIndex, Holder: 1}, w.Keyholders[1])
	// Only a sealed leaf of the right kind may stand where a request is expected.
	for what, h := range map[string]codec.Hash{"no leaf": codec.Sum("none"), "a month": w.Month, "a hold": holdOf(t, w)} {
		bad := *day
		bad.Request = h
		try("an approval of "+what, blind, control.ErrConflict, &bad, w.Approvers[3])
	}
	try("an approval of a request unseen", blind, nil, day, w.Approvers[3])
	// With the openings, it is judged: the request asked for has lost its requester.
	third := w.opener(r, key.PrivateKey)
	try("an opener unseen", blind, nil, third, key, w.Reviewers[0])
	try("the same opener, seen", full, control.ErrUnauthorised, third, key, w.Reviewers[0])
}

func holdOf(t testing.TB, w *world) codec.Hash {
	t.Helper()
	for _, l := range w.Leaves {
		s, err := control.ParseStatement(l.Statement)
		must(t, err)
		if s.Kind == control.KindHold {
			return l.Hash
		}
	}
	t.Fatal("no hold")
	return codec.Hash{}
}

// An approver whose role is taken approves no longer; what one refused stays.
func TestApproverRemoved(t *testing.T) {
	w := newWorld(t, orgtest.Options{})
	reviewer := w.Reviewers[0]
	matter := codec.NewID()
	w.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	r := w.Add(w.request(matter, codec.NewID()), reviewer)
	w.Add(w.approval(r), w.Approvers[0])
	refusal := w.approval(r)
	refusal.Decision = control.Refuse
	w.Add(refusal, w.Approvers[1])
	w.pass(time.Minute)
	for _, p := range w.Approvers[:2] {
		w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: control.RoleApprover, Person: p.Control(), Remove: true}, w.Two()...)
	}
	state, _ := w.State.Request(r)
	for _, a := range state.Approvals {
		if a.Lapsed != w.clock.UnixMilli() || a.Counts != 0 {
			t.Errorf("approval of the genesis leaf's approver: counts from %d, lapsed at %d", a.Counts, a.Lapsed)
		}
	}
	w.refuses("an approver whose role was taken", control.ErrUnauthorised, w.approval(r), w.Approvers[0])
	late := orgtest.NewPerson(t)
	w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: control.RoleApprover, Person: late.Control()}, w.Two()...)
	granted := w.clock.UnixMilli()
	w.pass(time.Minute)
	w.Add(w.approval(r), late)
	if a := state.Approvals[2]; a.Counts != granted+72*3_600_000 || a.Lapsed != 0 {
		t.Errorf("a new approver's approval counts from %d", a.Counts)
	}
}

// However many keyholders lie about a canary, replay ends.
func TestCanaryTries(t *testing.T) {
	w := newWorld(t, orgtest.Options{GenesisOnly: true, Keyholders: 15, Threshold: 8})
	w.GenerateKey()
	month := w.AddMonthUnopened(control.MonthOf(envelope.DayOf(w.clock)))
	canary, env := w.Canary(month)
	leaf := w.Add(canary, w.Officers[0])
	e, err := quorum.ParsePoint(env.E())
	must(t, err)
	begin := time.Now()
	for i, h := range w.Keyholders {
		answer := env.E() // a lie
		if i >= 7 {
			p, err := h.Share.Partial(e)
			must(t, err)
			answer = p[:]
		}
		w.Add(&control.CanaryAnswer{Canary: leaf, Holder: uint8(i + 1), Answer: answer}, h)
	}
	for i, g := range w.Guards {
		secret, err := g.MLKEM[month].Decapsulate(env.MLKEMCiphertext())
		must(t, err)
		w.Add(&control.CanaryAnswer{Canary: leaf, Guard: true, Holder: uint8(i + 1), Answer: secret}, g)
	}
	t.Logf("%d answers, 7 of them lies, in %v", len(w.Keyholders), time.Since(begin))
	if m, _ := w.State.Month(month); m.Effective != control.Never {
		t.Error("opened after more tries than everybody makes")
	}
}
