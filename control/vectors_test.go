package control_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"testing/cryptotest"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/published"
)

const vectorFile = "control.json"

// laterFile has the kinds that came after version 1's first vectors, which stay
// as they are.
const laterFile = "control-certificates.json"

type vectors struct {
	Description  string     `json:"description"`
	Organisation codec.Hash `json:"organisation"`
	Leaves       []leaf     `json:"leaves"`
	Refused      []refused  `json:"refused"`
}

type leaf struct {
	Kind        control.Kind  `json:"kind"`
	Hash        codec.Hash    `json:"hash"`
	SigningText string        `json:"signing_text"`
	Entry       published.Hex `json:"entry"`
	Opening     published.Hex `json:"opening,omitempty"`
}

// refused is an entry that a log of the first Size leaves can't take.
type refused struct {
	Name    string        `json:"name"`
	Size    int           `json:"size"`
	Error   string        `json:"error"` // malformed, unauthorised, conflict or signature
	Entry   published.Hex `json:"entry"`
	Opening published.Hex `json:"opening,omitempty"`
}

func class(err error) string {
	switch {
	case errors.Is(err, codec.ErrSignature):
		return "signature"
	case errors.Is(err, control.ErrMalformed):
		return "malformed"
	case errors.Is(err, control.ErrUnauthorised):
		return "unauthorised"
	case errors.Is(err, control.ErrConflict):
		return "conflict"
	}
	return "another error"
}

// makeVectors leads a small organisation, 2 of 3 keyholders, from its genesis
// to a destroyed month. All randomness comes from one seed, as long as Go draws it in one
// order.
func makeVectors(t *testing.T) *vectors {
	cryptotest.SetGlobalRandom(t, 1)
	policy := orgtest.DefaultPolicy()
	policy.Approvals = 2
	w := newWorld(t, orgtest.Options{Keyholders: 3, Threshold: 2, Policy: &policy})
	v := &vectors{
		Description:  "A control log (spec/control.md) in order, and entries that it can't take. `opening` is the CBOR of the opening of a sealed leaf.",
		Organisation: w.ID,
	}
	second := *w.policy(2)
	second.Approvals = 2
	w.Add(&second, w.Two()...)
	alice := w.NewMember()
	tablet := &orgtest.Device{Member: alice.Member, Key: codec.NewPrivateKey()}
	tablet.Hash = w.Add(&control.Device{Member: alice.Member, Key: tablet.Key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID()}, tablet, alice)
	w.Add(&control.Revocation{Device: tablet.Hash, Reason: "lost"}, w.Officers[0])
	auditor := orgtest.NewPerson(t)
	w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: control.RoleAuditor, Person: auditor.Control()}, w.Two()...)
	reviewer, matter := w.Reviewers[0], codec.NewID()
	w.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	day := envelope.DayOf(w.clock)
	hold := w.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{alice.Member}, FromDay: day, ToDay: day, Text: "keep"}, reviewer)
	w.Add(&control.HoldAcknowledgement{Hold: hold, Device: alice.Hash}, alice)
	w.Add(&control.Release{Hold: hold, Reason: "settled"}, w.Two()...)
	w.pass(time.Minute)
	withdrawn := w.Add(w.request(matter, alice.Member), reviewer)
	w.Add(&control.Withdrawal{Request: withdrawn, Reason: "too wide"}, w.Officers[0])
	r := w.Add(w.request(matter, alice.Member), reviewer)
	w.Add(w.approval(r), w.Approvers[0])
	w.Add(w.approval(r), w.Approvers[1])
	key := orgtest.Key{PrivateKey: codec.NewPrivateKey()}
	opener := w.Add(w.opener(r, key.PrivateKey), key, reviewer)
	w.Add(&control.Use{Request: r, Phase: control.PhaseRecord, Opener: opener, Holder: 1, Root: control.UseSet([]codec.Hash{r}), Count: 1}, w.Keyholders[0])
	w.Add(&control.OpeningStatement{Request: r, Opener: opener, Opened: 1, Exported: 1, Production: codec.Sum("test"), Destroyed: true}, key)
	w.Add(&control.Export{Nonce: codec.NewID(), Request: r, Production: codec.Sum("test"), Records: 1}, reviewer)
	w.Add(&control.Destruction{Month: w.Month, Reason: "retention is over", Authority: "records schedule"}, w.officersAndGuards()...)
	v.take(w)
	v.refuse(w)
	return v
}

// take adds the leaves that an organisation has.
func (v *vectors) take(w *world) {
	for _, l := range w.Leaves {
		s, err := control.ParseStatement(l.Statement)
		must(w.t, err)
		out := leaf{Kind: s.Kind, Hash: l.Hash, SigningText: string(s.SigningText()), Entry: l.Entry}
		if l.Opening != nil {
			out.Opening = codec.Encode(l.Opening)
		}
		v.Leaves = append(v.Leaves, out)
	}
}

// refuse adds one entry for each reason that a reader of any implementation has
// to find.
func (v *vectors) refuse(w *world) {
	last := w.Leaves[len(w.Leaves)-1]
	add := func(name string, entry []byte, opening *control.Opening) {
		w.t.Helper()
		r := refused{Name: name, Size: len(w.Leaves), Entry: entry}
		if opening != nil {
			r.Opening = codec.Encode(opening)
		}
		r.Error = class(w.State.Apply(entry, opening))
		v.Refused = append(v.Refused, r)
	}
	third := w.policy(3)
	statement := &control.Statement{Organisation: w.ID, Kind: control.KindPolicy, Body: codec.Encode(third)}
	add("replayed", last.Entry, nil)
	add("one officer", w.entry(statement, w.Officers[0]), nil)
	add("officers and a stranger", w.entry(statement, w.Officers[0], orgtest.NewPerson(w.t)), nil)
	add("trailing byte", append(w.entry(statement, w.Two()...), 0), nil)
	signatures := w.sign(statement, w.Two()...)
	add("one signature twice", control.NewLeaf(statement, w.clock.UnixMilli(), append(signatures, signatures[0])).Encode(), nil)
	add("earlier than the last", control.NewLeaf(statement, w.State.Time()-1, signatures).Encode(), nil)
	other := &control.Statement{Organisation: w.ID, Kind: control.KindRole, Body: statement.Body}
	add("signatures of another kind", control.NewLeaf(other, w.clock.UnixMilli(), signatures).Encode(), nil)
	foreign := &control.Statement{Organisation: codec.Sum("test"), Kind: control.KindPolicy, Body: statement.Body}
	add("another organisation", w.entry(foreign, w.Two()...), nil)
	unknown := &control.Statement{Organisation: w.ID, Kind: "coup", Body: statement.Body}
	add("an unknown kind", w.entry(unknown, w.Two()...), nil)
	matter, opening, err := control.NewStatement(bytes.NewReader(make([]byte, 32)), w.ID, &control.Matter{ID: codec.ID{1}, Reviewer: w.Reviewers[0].Credential()})
	must(w.t, err)
	opening.Salt[0] = 1
	add("another opening", w.entry(matter, w.Reviewers[0]), opening)
}

// makeLater leads an organisation through certificates.
func makeLater(t *testing.T) *vectors {
	cryptotest.SetGlobalRandom(t, 2)
	w := newWorld(t, orgtest.Options{Keyholders: 3, Threshold: 2, GenesisOnly: true})
	v := &vectors{
		Description:  "A control log with certificates (spec/control.md#certificates) in order, and entries that it can't take.",
		Organisation: w.ID,
	}
	ca := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(ca, 720)
	d := w.NewMember()
	w.Certify(ca, d, month)
	w.pass(month * 2 / 3)
	w.Certify(ca, d, month)
	next := orgtest.NewAuthority(t, w.clock)
	w.AddAuthority(next, 24)
	w.Add(&control.Authority{Nonce: codec.NewID(), Certificate: ca.Certificate.Raw, Remove: true}, w.Two()...)
	w.pass(time.Minute)
	v.take(w)
	refuse := func(name string, body control.Body, by ...orgtest.Signer) {
		s, _, err := control.NewStatement(nil, w.ID, body)
		must(t, err)
		entry := w.entry(s, by...)
		v.Refused = append(v.Refused, refused{Name: name, Size: len(w.Leaves), Error: class(w.State.Apply(entry, nil)), Entry: entry})
	}
	issue := func(a *orgtest.Authority, key codec.PublicKey, life time.Duration) *control.Certificate {
		return &control.Certificate{Device: d.Hash, Certificate: a.Issue(w.ID, d.Hash, key, w.clock, life, nil)}
	}
	refuse("of an authority that was removed", issue(ca, d.Key.PublicKey(), 24*time.Hour), d)
	refuse("that lives too long", issue(next, d.Key.PublicKey(), 25*time.Hour), d)
	refuse("for another key", issue(next, codec.NewPrivateKey().PublicKey(), 24*time.Hour), d)
	refuse("logged by an officer", issue(next, d.Key.PublicKey(), 24*time.Hour), w.Officers[0])
	refuse("an authority of one officer", naming(orgtest.NewAuthority(t, w.clock).Certificate.Raw, 720), w.Officers[0])
	refuse("an authority that is no authority", naming(issue(next, d.Key.PublicKey(), 24*time.Hour).Certificate, 720), w.Two()...)
	return v
}

func TestVectors(t *testing.T) {
	kinds := map[control.Kind]bool{}
	for file, made := range map[string]func(*testing.T) *vectors{vectorFile: makeVectors, laterFile: makeLater} {
		t.Run(file, func(t *testing.T) {
			published.Update(t, file, func() []byte {
				made, err := json.MarshalIndent(made(t), "", "  ")
				must(t, err)
				return append(made, '\n')
			})
			var v vectors
			must(t, json.Unmarshal(published.Read(t, file), &v))
			v.check(t, kinds)
		})
	}
	for _, k := range control.Kinds() {
		if !kinds[k] {
			t.Errorf("no leaf of kind %s", k)
		}
	}
}

func (v *vectors) check(t *testing.T, kinds map[control.Kind]bool) {
	if len(v.Leaves) == 0 || len(v.Refused) == 0 {
		t.Fatalf("%d leaves, %d refused", len(v.Leaves), len(v.Refused))
	}
	sealed := false
	full, blind := control.NewState(v.Organisation), control.NewState(v.Organisation)
	for i, l := range v.Leaves {
		parsed, s, err := control.Parse(l.Entry)
		must(t, err)
		if s.Kind != l.Kind || s.Hash() != l.Hash || string(s.SigningText()) != l.SigningText || !bytes.Equal(parsed.Encode(), l.Entry) {
			t.Errorf("leaf %d is another", i)
		}
		must(t, full.Apply(l.Entry, opening(t, l.Opening)))
		must(t, blind.Apply(l.Entry, nil))
		kinds[l.Kind] = true
		sealed = sealed || l.Kind.Sealed()
	}
	if full.Unopened() != 0 || (blind.Unopened() > 0) != sealed {
		t.Errorf("%d and %d leaves unopened", full.Unopened(), blind.Unopened())
	}
	before := control.Fingerprint(full)
	for _, r := range v.Refused {
		err := full.Apply(r.Entry, opening(t, r.Opening))
		if err == nil || class(err) != r.Error || r.Size != len(v.Leaves) {
			t.Errorf("%s: %v, want %s", r.Name, err, r.Error)
		}
		if control.Fingerprint(full) != before {
			t.Fatalf("%s: the state has changed", r.Name)
		}
	}
}

func opening(t testing.TB, raw []byte) *control.Opening {
	t.Helper()
	if len(raw) == 0 {
		return nil
	}
	o := new(control.Opening)
	must(t, codec.Decode(raw, o))
	return o
}
