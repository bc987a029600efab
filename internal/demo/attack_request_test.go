package demo

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/matters"
	"chancery/internal/opening"
	"chancery/internal/wire"
	"chancery/request"
)

// stopped demands that the reviewer's opener process gives up on a request with
// these words.
func (s *stage) stopped(t *testing.T, h codec.Hash, words ...string) {
	t.Helper()
	_, err := s.tryOpen(attackContext(t), func(c *opening.Config) { c.Request = h })
	if err == nil {
		t.Fatal("opened")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the opener says %q, want %q", err, w)
		}
	}
}

// TestRefusedRequests: what makes a request one that nobody answers, each by
// its name. The holders are asked behind the opener's back too, by an insider
// who has the requester's signature and every envelope.
func TestRefusedRequests(t *testing.T) {
	s := scene(t, "approve")
	everything := s.insider(t, s.summary.Request).download()
	all := everything.records
	expiry := time.Now().Add(20 * time.Second)
	short := s.ask(t, approvals, func(d *matters.Draft) { d.Expiry = expiry })
	late := s.insider(t, short)

	t.Run("fewer than k approvers", func(t *testing.T) {
		h := s.ask(t, approvals-1, nil)
		s.stopped(t, h, "the request can't be opened", "2 of 3 approvals: too few approvals")
		i := s.insider(t, h)
		i.refusedByAll(want{code: request.CodeApprovals, reason: "2 of 3 approvals"}, all, everything, nil)
	})
	t.Run("one approver twice", func(t *testing.T) {
		h := s.ask(t, approvals-1, nil)
		if _, err := s.desk(s.approver[0]).Decide(attackContext(t), h, control.Approve, "again"); err == nil || !strings.Contains(err.Error(), "the approver has decided") {
			t.Errorf("got %v", err)
		}
		s.stopped(t, h, "2 of 3 approvals")
		s.untouched(t, h)
	})
	t.Run("approval by the requester", func(t *testing.T) {
		reviewer := s.genesis().Reviewers[0]
		s.logged(t, &control.RoleChange{Nonce: codec.NewID(), Role: control.RoleApprover, Person: reviewer}, bySSH(s.officer[0]), bySSH(s.officer[1]))
		h := s.ask(t, approvals-1, nil)
		_, err := s.desk(s.reviewer).Decide(attackContext(t), h, control.Approve, "I agree with myself")
		if err == nil || !strings.Contains(err.Error(), "the requester never approves") {
			t.Errorf("got %v", err)
		}
		s.stopped(t, h, "2 of 3 approvals")
		s.insider(t, h).refusedByAll(want{code: request.CodeApprovals, reason: "2 of 3 approvals"}, all, everything, nil)
	})
	t.Run("an approver's veto", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		if _, err := s.desk(s.approver[4]).Decide(attackContext(t), h, control.Refuse, "no"); err != nil {
			t.Fatal(err)
		}
		s.stopped(t, h, "an approver refused the request")
		s.insider(t, h).refusedByAll(want{code: request.CodeApprovals, reason: "an approver refused"}, all, everything, nil)
	})
	t.Run("withdrawn", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := s.insider(t, h)
		if _, err := s.desk(s.reviewer).Withdraw(attackContext(t), h, "a mistake"); err != nil {
			t.Fatal(err)
		}
		i.refusedByAll(want{code: request.CodeWithdrawn, reason: "withdrawn"}, all, everything, nil)
		s.stopped(t, h, "withdrawn")
	})
	t.Run("altered details", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		other, err := request.NewDetails(bytes.NewReader(make([]byte, 32)), "Demo matter", "another purpose", "", []string{"salary"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.tryOpenWith(attackContext(t), other, func(c *opening.Config) { c.Request = h })
		if err == nil || !strings.Contains(err.Error(), "the details are not those that its leaf names") {
			t.Errorf("the opener says %v", err)
		}
		if _, err := s.desk(s.approver[4]).Show(attackContext(t), h, other); !errors.Is(err, matters.ErrDetails) {
			t.Errorf("an approver is shown other details: %v", err)
		}
		s.untouched(t, h)
	})
	t.Run("altered request", func(t *testing.T) {
		i := s.insider(t, s.ask(t, approvals, nil))
		i.refusedByAll(want{code: request.CodeUnknown, reason: "no such request on the witnessed log"}, all, everything, func(q *request.Query) {
			q.Request[0] ^= 1
		})
	})
	t.Run("replayed request", func(t *testing.T) { s.replays(t) })
	t.Run("outside the scope", func(t *testing.T) { s.outOfScope(t, everything) })
	t.Run("another's query", func(t *testing.T) { s.othersQuery(t, everything) })
	t.Run("opener key swapped", func(t *testing.T) { s.openerSwapped(t, everything) })
	t.Run("expired", func(t *testing.T) {
		time.Sleep(time.Until(expiry.Add(100 * time.Millisecond)))
		late.t = t
		late.refusedByAll(want{code: request.CodeExpired, reason: "the request has expired"}, all, everything, nil)
		s.stopped(t, short, "expired")
		if _, err := s.desk(s.approver[3]).Decide(attackContext(t), short, control.Approve, ""); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("approved after its expiry: %v", err)
		}
	})
	if uses := s.uses(t, s.summary.Request); uses != 0 {
		t.Errorf("%d uses of a request that nobody attacked", uses)
	}
}

// replays: a statement that was logged once is no second one, nor are its
// signatures good for another.
func (s *stage) replays(t *testing.T) {
	ctx := attackContext(t)
	body := &control.Request{}
	s.replica.Read(func(st *control.State) {
		r, _ := st.Request(s.summary.Request)
		*body = r.Request
	})
	body.ID, body.Expiry = codec.NewID(), time.Now().Add(time.Hour).UnixMilli()
	var submitted *wire.Submit
	sign := bySSH(s.reviewer)
	statement, opening, err := control.NewStatement(zeros{}, s.home.Organisation, body)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := sign(statement)
	if err != nil {
		t.Fatal(err)
	}
	submitted = &wire.Submit{Statement: codec.Encode(statement), Opening: opening, Signatures: []control.Signature{signature}}
	first, err := s.server.Submit(ctx, submitted)
	if err != nil {
		t.Fatal(err)
	}
	if err := matters.Await(ctx, s.replica, s.server, first.Index); err != nil {
		t.Fatal(err)
	}
	if _, err := s.desk(s.reviewer).Withdraw(ctx, first.Hash, "over"); err != nil {
		t.Fatal(err)
	}
	size := s.replica.Size()
	again, err := s.server.Submit(ctx, submitted)
	if err == nil && (again.Index != first.Index || again.Hash != first.Hash) {
		t.Errorf("the same request is logged a second time, as leaf %d", again.Index)
	}
	if err := s.replica.Sync(ctx, s.server); err != nil || s.replica.Size() != size {
		t.Errorf("%d leaves after a replay, %d before; %v", s.replica.Size(), size, err)
	}
	s.replica.Read(func(st *control.State) {
		if r, ok := st.Request(first.Hash); !ok || r.Withdrawn == control.Never {
			t.Error("a replay revived a withdrawn request")
		}
	})

	// The old signature under a request that differs in one place.
	body.MaxCount--
	altered, opening, err := control.NewStatement(zeros{}, s.home.Organisation, body)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.server.Submit(ctx, &wire.Submit{Statement: codec.Encode(altered), Opening: opening, Signatures: submitted.Signatures})
	if err == nil || !strings.Contains(err.Error(), codec.ErrSignature.Error()) {
		t.Errorf("an old signature on another request: %v", err)
	}
	// And an approval of one request under another.
	h := s.ask(t, approvals-1, nil)
	var old control.Approval
	s.replica.Read(func(st *control.State) {
		r, _ := st.Request(s.summary.Request)
		old = r.Approvals[2].Approval
	})
	signed, _, err := control.NewStatement(zeros{}, s.home.Organisation, &old)
	if err != nil {
		t.Fatal(err)
	}
	if signature, err = control.SignSSH(s.approver[2], signed); err != nil {
		t.Fatal(err)
	}
	old.Request = h
	_, err = s.submit(ctx, &old, func(*control.Statement) (control.Signature, error) { return signature, nil })
	if err == nil || !strings.Contains(err.Error(), codec.ErrSignature.Error()) {
		t.Errorf("an approval of another request: %v", err)
	}
	s.stopped(t, h, "2 of 3 approvals")
}

// zeros is what a salt is drawn from where the same statement is wanted twice.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// outOfScope asks under approved requests, with envelopes of others beside
// those in scope: one of them, and the whole query is refused.
func (s *stage) outOfScope(t *testing.T, everything *haul) {
	all := everything.records
	one := all[0].Header.Conversation
	var inside, outside []piece
	for _, p := range all {
		if p.Header.Conversation == one {
			inside = append(inside, p)
		} else {
			outside = append(outside, p)
		}
	}
	if len(inside) == 0 || len(outside) == 0 {
		t.Fatal("one conversation: the test would show nothing")
	}
	mixed := append(append([]piece(nil), inside...), outside[0])
	today := envelope.DayOf(time.Now())
	tests := []struct {
		name   string
		change func(*matters.Draft)
		pieces []piece
		alter  func(*request.Query)
		want
	}{
		{
			"conversation", func(d *matters.Draft) { d.Conversations = []codec.ID{one} }, mixed, nil,
			want{reason: "its conversation is not among those requested", core: outside[0].CoreHash()},
		},
		{
			"custodian", func(d *matters.Draft) { d.Custodians = []codec.ID{codec.NewID()} }, all, nil,
			want{reason: "no custodian was in the conversation", core: all[0].CoreHash()},
		},
		{
			"day", func(d *matters.Draft) { d.FromDay, d.ToDay = today-20, today-10 }, all, nil,
			want{reason: "its day is not among those requested", core: all[0].CoreHash()},
		},
		{"index envelope as a record", nil, everything.indexes, nil, want{reason: "kind index"}},
		{
			"record as an index envelope", nil, all, func(q *request.Query) { q.Phase = control.PhaseIndex },
			want{reason: "a search opens index envelopes first"},
		},
		{
			"search that was not requested", func(d *matters.Draft) { d.Search = false }, everything.indexes,
			func(q *request.Query) { q.Phase = control.PhaseIndex }, want{reason: "the request allows no search"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i := s.insider(t, s.ask(t, approvals, test.change))
			test.want.code = request.CodeScope
			i.refusedByAll(test.want, test.pieces, everything, test.alter)
		})
	}
	t.Run("count", func(t *testing.T) {
		i := s.insider(t, s.ask(t, approvals, func(d *matters.Draft) { d.MaxCount = 2 }))
		i.refusedByAll(want{code: request.CodeLimit, reason: "the greatest count is 2"}, all[:3], everything, nil)
	})
	t.Run("and what is inside is answered", func(t *testing.T) {
		i := s.insider(t, s.ask(t, approvals, func(d *matters.Draft) { d.Conversations = []codec.ID{one} }))
		h := s.holders()[0]
		i.answered(h, i.query(h.guard, h.index, inside, everything, nil))
		if uses := s.uses(t, i.request); uses != 1 {
			t.Errorf("%d uses for one answer", uses)
		}
	})
}

// othersQuery: a query is its opener's own. Whoever heard it gets what the
// opener got, which opens for that opener alone, and nothing more is used.
func (s *stage) othersQuery(t *testing.T, everything *haul) {
	h := s.ask(t, approvals, nil)
	honest, thief := s.insider(t, h), s.insider(t, h)
	all := everything.records
	thief.refusedByAll(want{code: request.CodeOpener, reason: "not signed by the opener that the log names"}, all, everything, func(q *request.Query) {
		q.Opener = honest.leaf
	})
	stranger := &insider{s: s, t: t, request: h, leaf: codec.Sum("opener"), key: codec.NewPrivateKey(), decrypt: thief.decrypt}
	stranger.refusedByAll(want{code: request.CodeOpener, reason: "no such opener"}, all, everything, nil)

	k := s.holders()[0]
	raw := honest.query(false, k.index, all, everything, nil)
	honest.answered(k, raw)
	replayed := honest.answered(k, raw) // to whoever posts the same bytes
	if _, _, err := request.OpenAnswer(k.Sign, thief.decrypt, h, replayed); err == nil {
		t.Error("another opener opened the answer")
	}
	if uses := s.uses(t, h); uses != 1 {
		t.Errorf("%d uses for one query heard twice", uses)
	}
	other := s.holders()[1]
	honest.refused(other, raw, want{code: request.CodeMalformed, reason: "the query is for keyholder 1"})
}

// openerSwapped: a server that puts a key of its own in the place of the
// opener's, which it alone could read the answers with.
func (s *stage) openerSwapped(t *testing.T, everything *haul) {
	m := newMaliciousServer(t, s)
	t.Run("on its way to the log", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		swapped := m.swapOpeners(t)
		_, err := s.tryOpen(attackContext(t), func(c *opening.Config) { c.Request, c.Server = h, m.URL })
		if err == nil || !strings.Contains(err.Error(), "couldn't log the opener") || !strings.Contains(err.Error(), codec.ErrSignature.Error()) {
			t.Errorf("the opener says %v", err)
		}
		if *swapped == 0 {
			t.Error("the server swapped nothing")
		}
		s.replica.Read(func(st *control.State) {
			if r, _ := st.Request(h); len(r.Openers) != 0 {
				t.Error("an opener is on the log")
			}
		})
		s.untouched(t, h)
	})
	t.Run("an opener that the requester never saw", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := &insider{s: s, t: t, request: h, key: codec.NewPrivateKey()}
		body := &control.Opener{Request: h, Sign: i.key.PublicKey(), Encrypt: s.insider(t, h).decrypt.PublicKey().Bytes(), Evidence: control.EvidenceNone}
		done, err := s.submit(attackContext(t), body, byKey(i.key))
		if err == nil && done.Index >= 0 || err == nil && !strings.Contains(done.Missing, "needs the requester's signature") {
			t.Errorf("got %+v, %v", done, err)
		}
		if done, err = s.submit(attackContext(t), body, byKey(i.key), bySSH(s.officer[0])); err == nil && done.Index >= 0 {
			t.Error("an officer's signature did in the requester's place")
		}
		i.leaf = codec.Sum("never logged")
		i.refusedByAll(want{code: request.CodeOpener, reason: "no such opener"}, everything.records, everything, nil)
	})
	t.Run("after the log has the right one", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := s.insider(t, h)
		i.key = codec.NewPrivateKey()
		i.refusedByAll(want{code: request.CodeOpener, reason: "not signed by the opener that the log names"}, everything.records, everything, nil)
	})
}
