package keyholder

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
	"chancery/request"
)

// Three keyholders and a guard are asked, and what they answer opens the
// envelopes.
func TestAnswersOpen(t *testing.T) {
	t.Parallel()
	s := newStage(t, options{})
	asked := s.messages[:3]
	var answers [3][]quorum.Answer
	for i := 1; i <= 3; i++ {
		h := s.holder(false, i)
		raw := s.query(false, asked, func(q *request.Query) { q.Holder, q.Proofs = uint8(i), true })
		answer, refusal := h.judge(t.Context(), raw)
		if refusal != nil {
			t.Fatal(refusal)
		}
		_, parts := s.parts(h, answer)
		epoch := s.org.State.Epochs()[0]
		for k, p := range parts.Parts {
			a := quorum.Answer{Holder: i, Point: quorum.Point(p)}
			E := quorum.Point(asked[k].Envelope.E())
			err := epoch.Key.VerifyAnswer(E, a, request.ProofContext(s.request, asked[k].Core), quorum.DLEQ(parts.Proofs[k]))
			if err != nil {
				t.Errorf("keyholder %d, envelope %d: %v", i, k, err)
			}
			answers[k] = append(answers[k], a)
		}
	}
	guard := s.holder(true, 1)
	answer, refusal := guard.judge(t.Context(), s.query(true, asked, nil))
	if refusal != nil {
		t.Fatal(refusal)
	}
	_, secrets := s.parts(guard, answer)
	for k, m := range asked {
		month, _ := s.org.State.Month(m.Manifest.Header.EscrowKey)
		public, err := month.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		epoch := s.org.State.Epochs()[0]
		seed, record, err := control.OpenWith(&epoch.Key, public, m.Manifest.Core.Header, m.Envelope, answers[k], secrets.Parts[k])
		if err != nil || *seed != m.Seed || !bytes.Equal(record, m.Record) {
			t.Errorf("envelope %d doesn't open: %v", k, err)
		}
	}
	if s.uses() != 4 {
		t.Errorf("%d uses for four answers", s.uses())
	}
}

// attack is a query that must be refused.
type attack struct {
	code    request.Code
	options options
	guard   bool
	floor   Floor
	prepare func(s *stage, h *holder) // after the holder was opened
	query   func(s *stage) []byte     // nil means a right one about the first message
	core    func(s *stage) codec.Hash // the envelope that the refusal must name
	logged  bool                      // a use may be on the log
	reason  string                    // what the refusal's words must hold
}

func first(s *stage) []*orgtest.Message { return s.messages[:1] }

func TestRefusals(t *testing.T) {
	other := func(s *stage, r *control.Request) { r.Custodians = []codec.ID{codec.NewID()} }
	for name, a := range map[string]attack{
		"garbage": {code: request.CodeMalformed, query: func(s *stage) []byte { return []byte("query") }},
		"asked as a guard": {code: request.CodeMalformed, query: func(s *stage) []byte {
			return s.query(true, first(s), nil)
		}},
		"asked as another keyholder": {code: request.CodeMalformed, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Holder = 2 })
		}},
		"too few approvals":      {code: request.CodeApprovals, options: options{approvals: 2}},
		"own floor of approvals": {code: request.CodeApprovals, floor: Floor{Approvals: 4}},
		"own floor of veto time": {code: request.CodeApprovals, floor: Floor{VetoSeconds: 60}},
		"own floor of count":     {code: request.CodeLimit, floor: Floor{MaxCount: 99}},
		"own floor of days":      {code: request.CodeLimit, floor: Floor{MaxRequestDays: 2}},
		"own floor of evidence":  {code: request.CodeOpener, floor: Floor{Evidence: true}},
		"own floor of age": {code: request.CodeExpired, floor: Floor{RequestHours: 1}, prepare: func(s *stage, _ *holder) {
			s.advance(2 * time.Hour)
		}},
		"an approver refused": {code: request.CodeApprovals, prepare: func(s *stage, _ *holder) {
			s.approve(s.org.Approvers[4], control.Refuse)
		}},
		"a veto handed over": {code: request.CodeApprovals, prepare: func(s *stage, h *holder) {
			s.hand(h, &control.Approval{Request: s.request, Decision: control.Refuse, Role: control.RoleApprover, Policy: s.body.Policy}, s.org.Approvers[4])
		}},
		"expired": {code: request.CodeExpired, prepare: func(s *stage, _ *holder) { s.advance(49 * time.Hour) }},
		"withdrawn": {code: request.CodeWithdrawn, prepare: func(s *stage, _ *holder) {
			s.org.Add(&control.Withdrawal{Request: s.request}, s.org.Reviewers[0])
		}},
		"a withdrawal handed over": {code: request.CodeWithdrawn, prepare: func(s *stage, h *holder) {
			s.hand(h, &control.Withdrawal{Request: s.request}, s.org.Officers[0])
		}},
		"altered request": {code: request.CodeUnknown, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Request[0] ^= 1 })
		}},
		"signed by another opener": {code: request.CodeOpener, query: func(s *stage) []byte {
			another, _, _ := s.newOpener()
			return s.query(false, first(s), func(q *request.Query) { q.Opener = another })
		}},
		"opener key swapped": {code: request.CodeOpener, query: func(s *stage) []byte {
			s.key = codec.NewPrivateKey()
			return s.query(false, first(s), nil)
		}},
		"opener unknown to the log": {code: request.CodeOpener, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Opener = codec.Sum("another") })
		}},
		"opener has spoken its last word": {code: request.CodeOpener, prepare: func(s *stage, _ *holder) {
			s.org.Add(&control.OpeningStatement{Request: s.request, Opener: s.opener, Destroyed: true}, orgtest.Key{PrivateKey: s.key})
		}},
		"custodian out of scope": {code: request.CodeScope, options: options{request: other}, core: func(s *stage) codec.Hash {
			return s.messages[0].Core
		}},
		"day out of scope": {code: request.CodeScope, options: options{request: func(s *stage, r *control.Request) {
			r.ToDay = r.FromDay
		}}},
		"conversation out of scope": {code: request.CodeScope, options: options{request: func(s *stage, r *control.Request) {
			r.Conversations = []codec.ID{codec.NewID()}
		}}},
		"another conversation of strangers": {code: request.CodeScope, query: func(s *stage) []byte {
			c, d := s.org.NewMember(), s.org.NewMember()
			m := s.org.Send(s.org.Conversation(c, d), c, "none of your business")
			return s.query(false, []*orgtest.Message{m}, nil)
		}},
		"index envelope as a record": {code: request.CodeScope, query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.org.IndexOf(s.conversation, s.alice)}, nil)
		}},
		"record as an index envelope": {code: request.CodeScope, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Phase = control.PhaseIndex })
		}},
		"search that was not requested": {code: request.CodeScope, options: options{request: func(s *stage, r *control.Request) {
			r.Search = false
		}}, query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.org.IndexOf(s.conversation, s.alice)}, func(q *request.Query) { q.Phase = control.PhaseIndex })
		}},
		"unknown phase": {code: request.CodeMalformed, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Phase = 3 })
		}},
		"stale control checkpoint": {code: request.CodeStale, prepare: func(s *stage, _ *holder) {
			s.frozen = s.org.Control.Checkpoint()
			s.advance(6 * time.Minute)
		}},
		"unwitnessed control checkpoint": {code: request.CodeStale, prepare: func(s *stage, _ *holder) {
			s.frozen = s.org.Control.Witnessed(s.org.Control.State(), s.org.Witnesses[:1])
		}},
		"stale messages checkpoint": {code: request.CodeStale, query: func(s *stage) []byte {
			raw := s.query(false, first(s), nil)
			s.advance(6 * time.Minute)
			return raw
		}},
		"unwitnessed messages checkpoint": {code: request.CodeStale, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) {
				q.Checkpoint = s.org.Messages.Witnessed(s.org.Messages.State(), s.org.Witnesses[:1])
			})
		}},
		"control checkpoint in place of the messages log's": {code: request.CodeStale, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Checkpoint = s.org.Control.Checkpoint() })
		}},
		"hidden opening": {code: request.CodeUnopened, prepare: func(s *stage, h *holder) {
			if err := h.sync(s.t.Context()); err != nil {
				s.t.Fatal(err)
			}
			s.addHold()
			s.hidden = true
		}},
		"E of another envelope": {code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Items[0].Encapsulation = s.messages[1].Envelope.E() })
		}, core: func(s *stage) codec.Hash { return s.messages[0].Core }},
		"manifest of one's own around a copied E": {code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.copied(s.messages[0].Envelope.E(), s.messages[0].Manifest.Proof)}, nil)
		}},
		"manifest of one's own around a shifted E": {code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.copied(s.shifted(), s.messages[0].Manifest.Proof)}, nil)
		}},
		"encapsulation cut short": {code: request.CodeMalformed, query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Items[0].Encapsulation = q.Items[0].Encapsulation[:64] })
		}},
		"no roster": {code: request.CodeEnvelope, reason: "no roster", query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Rosters = nil })
		}},
		"roster with a custodian smuggled in": {code: request.CodeEnvelope, reason: "roster is another", options: options{request: other}, query: func(s *stage) []byte {
			custodian := s.org.Device(s.body.Custodians[0])
			return s.query(false, first(s), func(q *request.Query) {
				q.Rosters[0].Devices = manifest.NewRoster(append(q.Rosters[0].Devices, custodian.Hash))
			})
		}},
		"leaf not in the log": {code: request.CodeEnvelope, reason: ledger.ErrProof.Error(), query: func(s *stage) []byte {
			return s.query(false, first(s), func(q *request.Query) { q.Items[0].Proof.Index++ })
		}},
		"receipt of another control log": {code: request.CodeEnvelope, reason: "another control log", query: func(s *stage) []byte {
			m := s.org.Seal(s.conversation, s.alice, envelope.KindRecord, s.messages[0].Record, nil)
			body := s.messages[0].Opening.Body
			body.ControlRoot[0] ^= 1
			opening, err := manifest.NewOpening(rand.Reader, body)
			if err != nil {
				s.t.Fatal(err)
			}
			leaf := opening.Leaf(m.Manifest.Hash())
			m.Opening, m.Leaf = *opening, s.org.Messages.Append(leaf[:])
			return s.query(false, []*orgtest.Message{m}, nil)
		}},
		"device revoked before the receipt": {code: request.CodeEnvelope, reason: "device not valid", query: func(s *stage) []byte {
			s.org.Add(&control.Revocation{Device: s.alice.Hash}, s.org.Officers[0])
			return s.query(false, []*orgtest.Message{s.org.Send(s.conversation, s.alice, "still here")}, nil)
		}},
		"a revocation handed over": {code: request.CodeEnvelope, reason: "handed over", prepare: func(s *stage, h *holder) {
			s.hand(h, &control.Revocation{Device: s.alice.Hash}, s.org.Officers[0])
		}, query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.org.Send(s.conversation, s.alice, "still here")}, nil)
		}},
		"count over the request's": {code: request.CodeLimit, options: options{request: func(s *stage, r *control.Request) {
			r.MaxCount = 2
		}}, query: func(s *stage) []byte { return s.query(false, s.messages[:3], nil) }},
		"index keys over the policy's": {code: request.CodeLimit, floor: Floor{MaxIndexKeys: 1}, query: func(s *stage) []byte {
			return s.query(false, s.messages[:2], func(q *request.Query) { q.Phase = control.PhaseIndex })
		}},
		"one envelope twice": {code: request.CodeLimit, query: func(s *stage) []byte {
			return s.query(false, []*orgtest.Message{s.messages[0], s.messages[0]}, nil)
		}},
		"ninth use": {code: request.CodeLimit, logged: true, prepare: func(s *stage, h *holder) {
			for n := 1; n <= 8; n++ {
				if _, r := h.judge(s.t.Context(), s.query(false, s.messages[:n], nil)); r != nil {
					s.t.Fatal(r)
				}
			}
		}, query: func(s *stage) []byte { return s.query(false, s.messages[:9], nil) }},
		"set that leaves out the last": {code: request.CodeLimit, logged: true, prepare: func(s *stage, h *holder) {
			if _, r := h.judge(s.t.Context(), s.query(false, s.messages[:2], nil)); r != nil {
				s.t.Fatal(r)
			}
		}, query: func(s *stage) []byte { return s.query(false, s.messages[1:5], nil) }},
		"smaller set of a second opener": {code: request.CodeLimit, logged: true, prepare: func(s *stage, h *holder) {
			if _, r := h.judge(s.t.Context(), s.query(false, s.messages[:3], nil)); r != nil {
				s.t.Fatal(r)
			}
			s.opener, s.key, s.decrypt = s.newOpener()
		}, query: func(s *stage) []byte { return s.query(false, s.messages[:2], nil) }},
		"one bad envelope among good ones": {code: request.CodeEnvelope, reason: envelope.ErrProof.Error(), query: func(s *stage) []byte {
			return s.query(false, s.messages[:5], func(q *request.Query) { q.Items[3].Encapsulation = s.messages[7].Envelope.E() })
		}, core: func(s *stage) codec.Hash { return s.messages[3].Core }},
		"month destroyed": {code: request.CodeDestroyed, guard: true, prepare: func(s *stage, _ *holder) {
			s.org.Add(&control.Destruction{Month: s.org.Month}, append(s.org.Two(), s.org.Guards[0], s.org.Guards[1])...)
		}},
		"use that can't be logged": {code: request.CodeIncomplete, prepare: func(s *stage, _ *holder) {
			s.deaf = errors.New("no")
		}},
		"use that isn't witnessed": {code: request.CodeIncomplete, logged: true, prepare: func(s *stage, _ *holder) {
			s.frozen = s.org.Control.Checkpoint()
		}},
		"withdrawn while the use was logged": {code: request.CodeWithdrawn, logged: true, prepare: func(s *stage, _ *holder) {
			s.onSubmit = func(x *control.Statement) {
				if x.Kind == control.KindUse {
					s.org.Add(&control.Withdrawal{Request: s.request}, s.org.Reviewers[0])
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, a.options)
			s.attack(&a)
		})
	}
}

func (s *stage) attack(a *attack) {
	h := s.holder(a.guard, 1)
	h.Floor = a.floor
	if a.prepare != nil {
		a.prepare(s, h)
	}
	before := s.uses()
	raw := []byte(nil)
	if a.query != nil {
		raw = a.query(s)
	} else {
		raw = s.query(a.guard, first(s), nil)
	}
	answer, refusal := h.judge(s.t.Context(), raw)
	if refusal == nil || answer != nil {
		s.t.Fatal("answered")
	}
	if refusal.Code != a.code {
		s.t.Fatalf("got %v, want code %s", refusal, a.code)
	}
	if !strings.Contains(refusal.Reason, a.reason) {
		s.t.Errorf("refused because of %q, want %q", refusal.Reason, a.reason)
	}
	if a.core != nil && refusal.Core != a.core(s) {
		s.t.Errorf("names envelope %s", refusal.Core.Short())
	}
	if !a.logged && s.uses() != before {
		s.t.Error("logged a use for a refusal")
	}
	signed, err := h.refuse(refusal)
	if err != nil {
		s.t.Fatal(err)
	}
	if got, err := request.OpenRefusal(h.Custody.PublicKey(), signed); err != nil || got.Code != a.code {
		s.t.Errorf("refusal reads as %v, %v", got, err)
	}
}

// mistagged is a message of bob's, receipted and in scope, whose envelope has
// this ML-KEM ciphertext and this tag.
func (s *stage) mistagged(ciphertext []byte, tag [envelope.TagSize]byte) *orgtest.Message {
	s.t.Helper()
	m := s.org.Seal(s.conversation, s.bob, envelope.KindRecord, s.messages[0].Record, nil)
	m.Envelope = &envelope.Envelope{Enc: append(bytes.Clone(ciphertext), m.Envelope.E()...), Ciphertext: m.Envelope.Ciphertext}
	m.Body.Envelope = m.Envelope.Hash()
	m.Reprove(s.t)
	m.Tag = tag
	m.Sign(s.t, s.bob.Key, m.Manifest.Transport)
	s.org.Accept(m)
	return m
}

// A secret that the tag doesn't verify under stays with the guard, whoever made
// it so, and the rest of the batch is answered as ever.
func TestWithheld(t *testing.T) {
	t.Parallel()
	s := newStage(t, options{})
	victim := s.messages[0]
	own := s.org.Seal(s.conversation, s.bob, envelope.KindRecord, victim.Record, nil).Envelope.MLKEMCiphertext()
	asked := []*orgtest.Message{
		s.messages[1],
		s.mistagged(victim.Envelope.MLKEMCiphertext(), victim.Manifest.Tag), // copied, with its tag
		s.mistagged(own, [envelope.TagSize]byte{1}),
		s.mistagged(make([]byte, len(own)), victim.Manifest.Tag), // implicit rejection
		s.messages[2],
		s.messages[3],
	}
	raw := s.query(true, asked, func(q *request.Query) { // the opener's doing
		q.Items[5].Encapsulation = append(victim.Envelope.MLKEMCiphertext(), s.messages[3].Envelope.E()...)
	})
	q, err := request.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	guard := s.holder(true, 1)
	answer, refusal := guard.judge(t.Context(), raw)
	if refusal != nil {
		t.Fatal(refusal)
	}
	_, parts := s.parts(guard, answer)
	if len(parts.Parts) != len(asked) || len(parts.Proofs) != len(asked) {
		t.Fatalf("%d parts and %d proofs for %d items", len(parts.Parts), len(parts.Proofs), len(asked))
	}
	for i, m := range asked {
		withheld := parts.Withholds(i, m.Manifest.Hash(), q.Items[i].Encapsulation)
		if good := i == 0 || i == 4; good == withheld || (good && (!bytes.Equal(parts.Parts[i], m.Secret) || len(parts.Proofs[i]) != 0)) {
			t.Errorf("item %d: part %x, proof %x", i, parts.Parts[i], parts.Proofs[i])
		}
	}
	if parts.Withholds(5, asked[5].Manifest.Hash(), asked[5].Envelope.Enc) {
		t.Error("what an opener made up is withheld as if it were archived")
	}
	// A keyholder's answer tells nothing about a tag.
	k := s.holder(false, 1)
	answer, refusal = k.judge(t.Context(), s.query(false, asked, nil))
	if refusal != nil {
		t.Fatal(refusal)
	}
	if _, p := s.parts(k, answer); len(p.Proofs) != 0 || slices.ContainsFunc(p.Parts, func(b []byte) bool { return len(b) != quorum.PointSize }) {
		t.Error("a keyholder withholds something")
	}
	// What isn't the sender's tag alone still refuses everything.
	bad := s.query(true, asked, func(q *request.Query) { q.Items[0].Encapsulation = s.messages[7].Envelope.Enc })
	if _, r := guard.judge(t.Context(), bad); r == nil || r.Code != request.CodeEnvelope {
		t.Errorf("a wrong proof among wrong tags: %v", r)
	}
	guard.record.Close()
	var said []string
	f, err := os.Open(filepath.Join(s.dirs[s.org.Guards[0].Name], recordFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := scan(f, func(e *entry) error { said = append(said, e.Outcome); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"answered, 4 withheld", string(request.CodeEnvelope)}; !slices.Equal(said, want) {
		t.Errorf("recorded %q, want %q", said, want)
	}
}

// hand hands a statement over.
func (s *stage) hand(h *holder, body control.Body, by orgtest.Signer) {
	s.t.Helper()
	if err := h.sync(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if err := h.handOver(s.submitOf(body, by)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) submitOf(body control.Body, by orgtest.Signer) *wire.Submit {
	s.t.Helper()
	statement, opening, err := control.NewStatement(rand.Reader, s.org.ID, body)
	if err != nil {
		s.t.Fatal(err)
	}
	signature, err := by.Sign(statement)
	if err != nil {
		s.t.Fatal(err)
	}
	return &wire.Submit{Statement: codec.Encode(statement), Opening: opening, Signatures: []control.Signature{signature}}
}

func (s *stage) addHold() codec.Hash {
	return s.org.Add(s.hold(), s.org.Reviewers[0])
}

func (s *stage) hold() *control.Hold {
	day := envelope.DayOf(s.now())
	return &control.Hold{ID: codec.NewID(), Matter: s.body.Matter, Custodians: s.body.Custodians, FromDay: day, ToDay: day}
}

// copied is a message of bob's, receipted and in scope, whose envelope has a
// copied ephemeral key: bob doesn't know its logarithm, and borrows a proof.
func (s *stage) copied(e []byte, proof envelope.Proof) *orgtest.Message {
	s.t.Helper()
	m := s.org.Seal(s.conversation, s.bob, envelope.KindRecord, s.messages[0].Record, nil)
	enc := append(m.Envelope.MLKEMCiphertext(), e...)
	forged := &envelope.Envelope{Enc: enc, Ciphertext: m.Envelope.Ciphertext}
	core := &envelope.Core{Header: m.Manifest.Core.Header, Envelope: forged.Hash()}
	signed, err := manifest.Sign(s.bob.Key, core, proof, m.Manifest.Tag, m.Manifest.Transport)
	if err != nil {
		s.t.Fatal(err)
	}
	m.Manifest, m.Envelope, m.Core = signed, forged, core.Hash()
	s.org.Accept(m)
	return m
}

// shifted returns E + G of the first message.
func (s *stage) shifted() []byte {
	s.t.Helper()
	// 2·((E + G)/2) by interpolation: f(1) = E, f(2) = G gives f(0) = 2E - G,
	// which is as good a shift.
	key := &quorum.PublicKey{T: 2, Key: quorum.Generator(), Shares: make([]quorum.Point, 3)}
	p, err := quorum.Combine(key, []quorum.Answer{
		{Holder: 1, Point: quorum.Point(s.messages[0].Envelope.E())}, {Holder: 2, Point: quorum.Generator()},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p[:]
}

// A messages log that shows this holder another history is refused, in this
// run and after a restart; so is a control log that went back.
func TestForksAndRollbacks(t *testing.T) {
	t.Parallel()
	s := newStage(t, options{})
	h := s.holder(false, 1)
	if _, r := h.judge(t.Context(), s.query(false, first(s), nil)); r != nil {
		t.Fatal(r)
	}
	older := s.org.Messages.State()
	fork := older
	fork.Root = tlog.Hash(codec.Sum("another history"))
	forked := func(c ledger.Checkpoint) []byte {
		return s.query(false, s.messages[:2], func(q *request.Query) { q.Checkpoint = s.org.Messages.Witnessed(c, s.org.Witnesses) })
	}
	if _, r := h.judge(t.Context(), forked(fork)); r == nil || r.Code != request.CodeStale {
		t.Errorf("another root at the same size: %v", r)
	}
	fork.Size += 5
	if _, r := h.judge(t.Context(), forked(fork)); r == nil || r.Code != request.CodeStale {
		t.Errorf("another root at a larger size: %v", r)
	}
	h.record.Close()
	h = s.holder(false, 1)
	if _, r := h.judge(t.Context(), forked(fork)); r == nil || r.Code != request.CodeStale {
		t.Errorf("another root after a restart: %v", r)
	}
	// Another opener's checkpoint may be a little older, where it is of the
	// same history.
	raw := s.query(false, first(s), nil)
	s.org.Send(s.conversation, s.alice, "later")
	if _, r := h.judge(t.Context(), s.query(false, s.messages[:2], nil)); r != nil {
		t.Fatal(r)
	}
	if _, r := h.judge(t.Context(), raw); r != nil {
		t.Errorf("an older checkpoint of the same history: %v", r)
	}
	h.record.Close()

	// The control log goes back to before the uses, and a fresh process sees it.
	s.frozen = s.org.Control.Witnessed(ledger.Checkpoint{
		Origin: older.Origin, Size: 3, Root: tlog.Hash(s.org.Control.Root(3)),
	}, s.org.Witnesses)
	c := s.org.Control.State()
	c.Size, c.Root = c.Size-2, tlog.Hash(s.org.Control.Root(c.Size-2))
	s.frozen = s.org.Control.Witnessed(c, s.org.Witnesses)
	h = s.holder(false, 1)
	if _, r := h.judge(t.Context(), s.query(false, s.messages[:2], nil)); r == nil || r.Code != request.CodeStale {
		t.Errorf("a control log rolled back: %v", r)
	}
}

// Whatever step the process dies at, asking again gives the same answer under
// the one use.
func TestCrashes(t *testing.T) {
	died := errors.New("the process dies here")
	for _, step := range []string{stepSigned, stepSubmitted, stepWitnessed, stepRecorded} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, options{})
			raw := s.query(false, s.messages[:2], nil)
			h := s.holder(false, 1)
			h.testOnlyFailure = func(at string) error {
				if at == step {
					return died
				}
				return nil
			}
			if _, r := h.judge(t.Context(), raw); r == nil {
				t.Fatal("answered")
			}
			h.record.Close()
			var parts []*request.Parts
			for range 2 {
				h = s.holder(false, 1)
				answer, r := h.judge(t.Context(), raw)
				if r != nil {
					t.Fatal(r)
				}
				_, p := s.parts(h, answer)
				parts = append(parts, p)
				h.record.Close()
			}
			if s.uses() != 1 {
				t.Errorf("%d uses on the log", s.uses())
			}
			for i := range parts[0].Parts {
				if !bytes.Equal(parts[0].Parts[i], parts[1].Parts[i]) {
					t.Error("two answers to one query differ")
				}
			}
		})
	}
}

// A use that reached the log though the holder gave up waiting is found again.
func TestUseIsFoundAgain(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(false, 1)
	s.frozen = s.org.Control.Checkpoint()
	raw := s.query(false, first(s), nil)
	if _, r := h.judge(t.Context(), raw); r == nil || r.Code != request.CodeIncomplete {
		t.Fatalf("got %v", r)
	}
	s.frozen = nil
	submits := s.submits
	if _, r := h.judge(t.Context(), raw); r != nil {
		t.Fatal(r)
	}
	if s.submits != submits || s.uses() != 1 {
		t.Errorf("submitted again: %d uses on the log", s.uses())
	}
}

// Queries under one request take turns, so that two sets can't both be the
// next.
func TestQueriesTakeTurns(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(false, 1)
	raws := [][]byte{s.query(false, s.messages[:2], nil), s.query(false, s.messages[2:4], nil)}
	codes := make(chan request.Code, len(raws))
	for _, raw := range raws {
		go func() {
			_, r := h.judge(context.Background(), raw)
			if r == nil {
				codes <- ""
				return
			}
			codes <- r.Code
		}()
	}
	got := []string{string(<-codes), string(<-codes)}
	if joined := strings.Join(got, ""); joined != string(request.CodeLimit) {
		t.Errorf("got %q: want one answer and one refusal", got)
	}
	if len(h.busy) != 0 {
		t.Error("a turn is never given back")
	}
}
