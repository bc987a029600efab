package control

import (
	"fmt"
	"slices"

	"chancery/codec"
)

// The life of a matter on the log: hold, request, decisions, uses, opening.

func (m *Matter) apply(s *State, e *entry) error {
	id, _, err := s.one(e, RoleReviewer)
	if err != nil {
		return err
	}
	if _, ok := s.matters[m.ID]; ok || m.Reviewer != id {
		return conflict("the matter exists, or names another reviewer")
	}
	s.matters[m.ID] = &MatterState{Matter: *m, Hash: e.hash, Since: e.index}
	return nil
}

func (h *Hold) apply(s *State, e *entry) error {
	if _, _, err := s.one(e, RoleReviewer); err != nil {
		return err
	}
	// A custodian's device is given the hold that names it, and not the matter.
	if _, ok := s.matters[h.Matter]; !ok && len(s.unopened) == 0 {
		return conflict("no such matter")
	}
	if len(h.Custodians) == 0 || h.FromDay > h.ToDay || len(h.Text) > 4096 {
		return malformed("a hold names custodians and days in order")
	}
	s.holds[e.hash] = &HoldState{Hold: *h, Hash: e.hash, Since: e.index, Released: Never, Acknowledged: map[codec.Hash]int64{}}
	return nil
}

func (a *HoldAcknowledgement) apply(s *State, e *entry) error {
	hold, ok := s.holds[a.Hold]
	if !ok {
		return conflict("no such hold")
	}
	device, ok := s.devices[a.Device]
	if !ok || !e.by(device.Key) || !device.ValidAt(e.index) || !slices.Contains(hold.Custodians, device.Member) {
		return fmt.Errorf("%w: want a live device of a custodian", ErrUnauthorised)
	}
	hold.Acknowledged[a.Device] = e.index
	return nil
}

func (r *Release) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	hold, ok := s.holds[r.Hold]
	if !ok || hold.Released != Never {
		return conflict("no such hold, or it is released")
	}
	hold.Released = e.index
	return nil
}

func (r *Request) apply(s *State, e *entry) error {
	id, person, err := s.one(e, RoleReviewer)
	if err != nil {
		return err
	}
	if r.Requester != id {
		return fmt.Errorf("%w: the requester named is not the signer", ErrUnauthorised)
	}
	if _, ok := s.matters[r.Matter]; !ok {
		return conflict("no such matter")
	}
	policy := s.Policy()
	if r.Policy != policy.Hash {
		return conflict("the request cites another policy than the one in force")
	}
	if err := r.validate(&policy.Policy, e.Time); err != nil {
		return err
	}
	s.requests[e.hash] = &RequestState{
		Request: *r, Hash: e.hash, Since: e.index, Time: e.Time, Member: person.Member,
		Withdrawn: Never, Openers: map[codec.Hash]*OpenerState{},
	}
	return nil
}

func (r *Request) validate(p *Policy, now int64) error {
	switch {
	case len(r.Custodians) == 0:
		return malformed("a request names its custodians")
	case r.FromDay > r.ToDay || r.ToDay-r.FromDay >= p.MaxRequestDays:
		return malformed("days in order, and at most %d of them", p.MaxRequestDays)
	case r.MaxCount == 0 || r.MaxCount > p.MaxCount:
		return malformed("a greatest count of 1 to %d", p.MaxCount)
	case r.Expiry <= now || r.Expiry > now+int64(p.RequestHours)*3_600_000:
		return malformed("an expiry within %d hours", p.RequestHours)
	case r.Evidence != EvidenceNone:
		return malformed("opener evidence %q is of no known kind", r.Evidence)
	case !p.OpenerEvidenceNone:
		return fmt.Errorf("%w: policy refuses openers without evidence", ErrUnauthorised)
	}
	return nil
}

func (a *Approval) apply(s *State, e *entry) error {
	id, person, err := s.one(e, RoleApprover)
	if err != nil {
		return err
	}
	// A reader without the request's opening can't judge the rest, and need not.
	request, ok := s.requests[a.Request]
	if !ok {
		return s.unknownRequest(a.Request)
	}
	switch {
	case a.Role != RoleApprover || (a.Decision != Approve && a.Decision != Refuse) || len(a.Reason) > 1024:
		return malformed("an approval is a decision of an approver")
	case a.Policy != request.Policy:
		return conflict("the approval cites another policy than the request")
	case person.Member == request.Member:
		return fmt.Errorf("%w: the requester never approves", ErrUnauthorised)
	case request.Withdrawn != Never:
		return conflict("the request was withdrawn")
	case e.Time > request.Expiry:
		return conflict("the request has expired")
	}
	for _, old := range request.Approvals {
		if old.Member == person.Member {
			return conflict("the approver has decided")
		}
	}
	request.Approvals = append(request.Approvals, ApprovalState{
		Approval: *a, Hash: e.hash, Since: e.index, Time: e.Time, Credential: id, Member: person.Member,
	})
	return nil
}

// unknownRequest lets a reader without openings pass over what refers to a
// sealed request, and refuses it to readers who have them all.
func (s *State) unknownRequest(h codec.Hash) error {
	if _, ok := s.seen[h]; ok && len(s.unopened) > 0 {
		return nil
	}
	return conflict("no such request")
}

func (w *Withdrawal) apply(s *State, e *entry) error {
	request, ok := s.requests[w.Request]
	if !ok {
		return s.unknownRequest(w.Request)
	}
	if request.Withdrawn != Never {
		return conflict("the request was withdrawn")
	}
	if !e.byCredential(request.Requester) && s.signedBy(e, RoleOfficer) == 0 && s.signedBy(e, RoleApprover) == 0 {
		return fmt.Errorf("%w: want the requester, an approver or an officer", ErrUnauthorised)
	}
	request.Withdrawn = e.index
	return nil
}

func (o *Opener) apply(s *State, e *entry) error {
	request, ok := s.requests[o.Request]
	if !ok {
		return s.unknownRequest(o.Request)
	}
	if !e.by(o.Sign) {
		return fmt.Errorf("%w: the opener must sign its own leaf", ErrUnauthorised)
	}
	if o.Evidence != request.Evidence {
		return conflict("the opener has not the evidence that the request names")
	}
	// Without evidence nothing but the requester's word ties the key to a worker.
	if o.Evidence == EvidenceNone && !e.byCredential(request.Requester) {
		return fmt.Errorf("%w: an opener without evidence needs the requester's signature", ErrUnauthorised)
	}
	if request.Withdrawn != Never || e.Time > request.Expiry {
		return conflict("the request was withdrawn or has expired")
	}
	request.Openers[e.hash] = &OpenerState{Opener: *o, Hash: e.hash, Since: e.index}
	return nil
}

func (u *Use) apply(s *State, e *entry) error {
	holder, err := s.keyholder(int(u.Holder))
	if u.Guard {
		holder, err = s.guard(int(u.Holder))
	}
	if err != nil {
		return err
	}
	if !e.by(holder.Sign) {
		return fmt.Errorf("%w: %s must sign its own use", ErrUnauthorised, holder.Name)
	}
	request, ok := s.requests[u.Request]
	if !ok {
		return s.unknownRequest(u.Request)
	}
	if _, ok := request.Openers[u.Opener]; !ok {
		return conflict("no such opener")
	}
	if u.Phase != PhaseIndex && u.Phase != PhaseRecord {
		return malformed("phase %d", u.Phase)
	}
	request.Uses = append(request.Uses, UseState{Use: *u, Hash: e.hash, Since: e.index})
	return nil
}

func (o *OpeningStatement) apply(s *State, e *entry) error {
	request, ok := s.requests[o.Request]
	if !ok {
		return s.unknownRequest(o.Request)
	}
	opener, ok := request.Openers[o.Opener]
	if !ok || opener.Done {
		return conflict("no such opener, or it has spoken its last word")
	}
	if !e.by(opener.Sign) {
		return fmt.Errorf("%w: the opener must sign its own statement", ErrUnauthorised)
	}
	if !o.Destroyed {
		return malformed("an opener's last word says that its keys are gone")
	}
	opener.Done = true
	request.Opening = o
	return nil
}

func (x *Export) apply(s *State, e *entry) error {
	request, ok := s.requests[x.Request]
	if !ok {
		return s.unknownRequest(x.Request)
	}
	if _, _, err := s.one(e, RoleReviewer); err != nil {
		return err
	}
	if request.Opening == nil || request.Opening.Production != x.Production {
		return conflict("no such production")
	}
	s.exports = append(s.exports, *x)
	return nil
}

func (d *Destruction) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	month, ok := s.months[d.Month]
	if !ok || month.Destroyed != Never {
		return conflict("no such month, or its key is destroyed")
	}
	for _, g := range s.genesis.Guards {
		if !e.by(g.Sign) {
			return fmt.Errorf("%w: guard %s has not signed the destruction", ErrUnauthorised, g.Name)
		}
	}
	month.Destroyed = e.index
	return nil
}
