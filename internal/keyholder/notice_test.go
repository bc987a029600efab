package keyholder

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/request"
)

// Only whoever may sign the leaf may hand it over, and only what makes things
// stricter.
func TestNoticesRefused(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(false, 1)
	if err := h.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger := orgtest.NewPerson(t)
	approval := func(d control.Decision) *control.Approval {
		return &control.Approval{Nonce: codec.NewID(), Request: s.request, Decision: d, Role: control.RoleApprover, Policy: s.body.Policy}
	}
	broken := s.submitOf(&control.Withdrawal{Request: s.request}, s.org.Officers[0])
	broken.Signatures[0].Bytes[len(broken.Signatures[0].Bytes)/2] ^= 1
	unsealed := s.submitOf(s.hold(), s.org.Reviewers[0])
	unsealed.Opening.Salt[0] ^= 1
	elsewhere := s.submitOf(&control.Withdrawal{Request: s.request}, s.org.Officers[0])
	elsewhere.Statement = codec.Encode(&control.Statement{Organisation: codec.Sum("another"), Kind: control.KindWithdrawal, Body: codec.Encode(&control.Withdrawal{})})
	for name, c := range map[string]struct {
		submit *wire.Submit
		want   error
	}{
		"approval":                      {s.submitOf(approval(control.Approve), s.org.Approvers[4]), errNotice},
		"release":                       {s.submitOf(&control.Release{Hold: s.addHold()}, s.org.Officers[0]), errNotice},
		"policy":                        {s.submitOf(&control.Policy{Version: 2}, s.org.Officers[0]), errNotice},
		"veto by a stranger":            {s.submitOf(approval(control.Refuse), stranger), errUnauthorised},
		"veto by the requester":         {s.submitOf(approval(control.Refuse), s.org.Reviewers[0]), errUnauthorised},
		"hold by a stranger":            {s.submitOf(s.hold(), stranger), errUnauthorised},
		"hold by an officer":            {s.submitOf(s.hold(), s.org.Officers[0]), errUnauthorised},
		"withdrawal by another":         {s.submitOf(&control.Withdrawal{Request: s.request}, s.org.Reviewers[1]), errUnauthorised},
		"revocation by another member":  {s.submitOf(&control.Revocation{Device: s.alice.Hash}, s.bob), errUnauthorised},
		"revocation of nobody's device": {s.submitOf(&control.Revocation{Device: codec.Sum("no device")}, s.bob), errUnauthorised},
		"signature broken":              {broken, nil},
		"opening of another hold":       {unsealed, control.ErrMalformed},
		"another organisation's":        {elsewhere, control.ErrConflict},
		"unsigned":                      {&wire.Submit{Statement: broken.Statement}, control.ErrMalformed},
		"no statement":                  {&wire.Submit{Statement: []byte{0x80}}, control.ErrMalformed},
	} {
		err := h.handOver(c.submit)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if len(h.notices.known) != 0 {
		t.Error("a refused notice binds")
	}
}

// What was handed over binds after a restart too, and a damaged notice keeps
// the holder from starting: it may have been a hold.
func TestNoticesLast(t *testing.T) {
	t.Parallel()
	s := newStage(t, options{})
	h := s.holder(false, 1)
	s.hand(h, &control.Withdrawal{Request: s.request}, s.org.Reviewers[0])
	s.hand(h, &control.Withdrawal{Request: s.request}, s.org.Reviewers[0]) // again: no harm
	s.hand(h, &control.Revocation{Device: s.alice.Hash}, s.alice)
	s.hand(h, s.hold(), s.org.Reviewers[0])
	h.record.Close()
	h = s.holder(false, 1)
	if _, r := h.judge(t.Context(), s.query(false, first(s), nil)); r == nil || r.Code != request.CodeWithdrawn {
		t.Fatalf("got %v", r)
	}
	if !h.notices.isRevoked(s.alice.Hash, s.now().UnixMilli()) || h.notices.isRevoked(s.alice.Hash, s.now().UnixMilli()-1) {
		t.Error("the revocation doesn't bind from when it was handed over")
	}
	if n := len(h.notices.standing(s.org.State)); n != 1 {
		t.Errorf("%d holds stand", n)
	}
	h.record.Close()
	dir := filepath.Join(h.Dir, noticesDir)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d notices, %v", len(files), err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		data := read(t, path)
		for name, bad := range map[string][]byte{"cut": data[:len(data)-1], "flipped": slices.Concat(data[:20], []byte{data[20] ^ 1}, data[21:])} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openNotices(dir); !errors.Is(err, ErrNotices) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A hold that was handed over ends with its release on the log, and not before.
func TestHandedHoldEndsWithItsRelease(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(true, 1)
	reviewer := s.org.Reviewers[0]
	hold := s.addHold()
	leaf := s.org.Leaves[len(s.org.Leaves)-1]
	if err := h.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	submit := &wire.Submit{Statement: leaf.Statement, Opening: leaf.Opening, Signatures: leaf.Signatures}
	if err := h.handOver(submit); err != nil {
		t.Fatal(err)
	}
	s.hand(h, s.hold(), reviewer) // another that is never logged
	if n := len(h.notices.standing(s.org.State)); n != 1 {
		t.Errorf("%d holds stand beside the log", n)
	}
	s.org.Add(&control.Release{Hold: hold}, s.org.Two()...)
	if n := len(h.notices.standing(s.org.State)); n != 1 || len(s.org.State.Holds()) != 0 {
		t.Errorf("%d holds stand beside the log, %d in it", n, len(s.org.State.Holds()))
	}
}

// An old key goes on where there is no new one, and for 72 hours where there
// is: a hold on those days covers it too.
func TestWhatAMonthCovers(t *testing.T) {
	s := newStage(t, options{})
	now := control.MonthOf(envelope.DayOf(s.now()))
	firstDay := envelope.DayOf(monthStart(now))
	first := s.org.Month
	month := func() *control.MonthState { m, _ := s.org.State.Month(first); return m }
	covered := func(from, to uint32) bool {
		return covers(s.org.State, month(), &control.Hold{FromDay: from, ToDay: to})
	}
	if covered(0, firstDay-1) || !covered(0, firstDay) || !covered(firstDay+10_000, firstDay+10_001) {
		t.Error("without a successor a key is good from its month's first on")
	}
	s.org.AddMonth(now + 1)
	next := envelope.DayOf(monthStart(now + 1))
	if !covered(next+3, next+9) || covered(next+4, next+9) || !covered(next-1, next-1) {
		t.Error("with a successor a key is good for 72 hours into the next month")
	}
}
