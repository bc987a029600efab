package control

import (
	"crypto/hpke"
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
	if err := s.knownMatter(h.Matter); err != nil {
		return err
	}
	if len(h.Custodians) == 0 || h.FromDay > h.ToDay || len(h.Text) > 4096 {
		return malformed("a hold names custodians and days in order")
	}
	s.holds[e.hash] = &HoldState{Hold: *h, Hash: e.hash, Since: e.index, Released: Never, Acknowledged: map[codec.Hash]int64{}}
	return nil
}

func (a *HoldAcknowledgement) apply(s *State, e *entry) error {
	device, ok := s.devices[a.Device]
	if !ok || !e.by(device.Key) || !device.ValidAt(e.index) {
		return fmt.Errorf("%w: want a live device of a custodian", ErrUnauthorised)
	}
	hold, ok := s.holds[a.Hold]
	if !ok {
		return s.withheld(a.Hold, KindHold)
	}
	if !slices.Contains(hold.Custodians, device.Member) {
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
	if !ok {
		return s.withheld(r.Hold, KindHold)
	}
	if hold.Released != Never {
		return conflict("the hold is released")
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
	if err := s.knownMatter(r.Matter); err != nil {
		return err
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
	case len(r.Recipient) > 0 && !hpkeKey(r.Recipient):
		return malformed("the recipient's key")
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

// hpkeKey reports whether bytes are a public key of answers and productions,
// MLKEM768-X25519, 1,216 bytes.
func hpkeKey(b []byte) bool {
	_, err := hpke.MLKEM768X25519().NewPublicKey(b)
	return err == nil
}

func (a *Approval) apply(s *State, e *entry) error {
	id, person, err := s.one(e, RoleApprover)
	if err != nil {
		return err
	}
	// A reader without the request's opening can't judge the rest, and need not.
	request, ok := s.requests[a.Request]
	if !ok {
		return s.withheld(a.Request, KindRequest)
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
	// Officers who make approvers of their own give everybody three days to see
	// it, as with any other loosening.
	counts := int64(0)
	if person.approver > 0 {
		counts = person.approver + retireTime.Milliseconds()
	}
	request.Approvals = append(request.Approvals, ApprovalState{
		Approval: *a, Hash: e.hash, Since: e.index, Time: e.Time, Credential: id, Member: person.Member,
		Counts: counts,
	})
	return nil
}

// withheld lets a reader without openings pass over what refers to a sealed leaf of
// the kind, and refuses it to a reader who has the opening of that leaf or who
// sees that there is none.
func (s *State) withheld(h codec.Hash, kind Kind) error {
	if i, ok := s.seen[h]; ok && s.unopened[i] == kind {
		return nil
	}
	return conflict("no such %s", kind)
}

// knownMatter does the same for a matter, which others name by its id: a
// custodian's device is given the hold that names it, and not the matter.
func (s *State) knownMatter(id codec.ID) error {
	if _, ok := s.matters[id]; ok {
		return nil
	}
	for _, kind := range s.unopened {
		if kind == KindMatter {
			return nil
		}
	}
	return conflict("no such matter")
}

func (w *Withdrawal) apply(s *State, e *entry) error {
	request, ok := s.requests[w.Request]
	if !ok {
		// Whoever is no person of the organisation is not the requester either.
		for id := range e.signed {
			if _, known := s.credentials[id]; known && e.byCredential(id) {
				return s.withheld(w.Request, KindRequest)
			}
		}
		return fmt.Errorf("%w: want the requester, an approver or an officer", ErrUnauthorised)
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
	if !e.by(o.Sign) {
		return fmt.Errorf("%w: the opener must sign its own leaf", ErrUnauthorised)
	}
	if !hpkeKey(o.Encrypt) {
		return malformed("the opener's key")
	}
	request, ok := s.requests[o.Request]
	if !ok {
		return s.withheld(o.Request, KindRequest)
	}
	if o.Evidence != request.Evidence {
		return conflict("the opener has not the evidence that the request names")
	}
	// Without evidence nothing but the requester's word ties the key to a worker.
	if o.Evidence == EvidenceNone && !e.byCredential(request.Requester) {
		return fmt.Errorf("%w: an opener without evidence needs the requester's signature", ErrUnauthorised)
	}
	if !s.credentials[request.Requester].Roles[RoleReviewer] {
		return fmt.Errorf("%w: the requester is no reviewer any more", ErrUnauthorised)
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
	if u.Phase != PhaseIndex && u.Phase != PhaseRecord {
		return malformed("phase %d", u.Phase)
	}
	request, ok := s.requests[u.Request]
	if !ok {
		return s.withheld(u.Request, KindRequest)
	}
	if _, ok := request.Openers[u.Opener]; !ok {
		return conflict("no such opener")
	}
	request.Uses = append(request.Uses, UseState{Use: *u, Hash: e.hash, Since: e.index})
	return nil
}

func (o *OpeningStatement) apply(s *State, e *entry) error {
	if !o.Destroyed {
		return malformed("an opener's last word says that its keys are gone")
	}
	request, ok := s.requests[o.Request]
	if !ok {
		return s.withheld(o.Request, KindRequest)
	}
	opener, ok := request.Openers[o.Opener]
	if !ok || opener.Done {
		return conflict("no such opener, or it has spoken its last word")
	}
	if !e.by(opener.Sign) {
		return fmt.Errorf("%w: the opener must sign its own statement", ErrUnauthorised)
	}
	opener.Done = true
	opener.production, opener.exported = o.Production, o.Exported
	request.Opening = o
	return nil
}

func (x *Export) apply(s *State, e *entry) error {
	if _, _, err := s.one(e, RoleReviewer); err != nil {
		return err
	}
	request, ok := s.requests[x.Request]
	if !ok {
		return s.withheld(x.Request, KindRequest)
	}
	// A request may have had several openers; each production stands.
	for _, o := range request.Openers {
		if o.Done && o.production == x.Production && x.Records <= o.exported {
			s.exports = append(s.exports, *x)
			return nil
		}
	}
	return conflict("no such production, or not of so many records")
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
	// Guards ask the same before they sign; a hold may have come since.
	for _, h := range s.holds {
		if h.Released == Never && h.FromDay <= s.lastDay(month) && h.ToDay >= firstDay(month) {
			return conflict("a hold covers days of the month's key")
		}
	}
	month.Destroyed = e.index
	return nil
}
