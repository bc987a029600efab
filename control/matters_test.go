package control_test

import (
	"crypto/mlkem"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
)

func mlkemPair(t testing.TB) *mlkem.DecapsulationKey768 {
	t.Helper()
	key, err := mlkem.GenerateKey768()
	must(t, err)
	return key
}

func mlkemKey(t testing.TB) []byte { return mlkemPair(t).EncapsulationKey().Bytes() }

// devices enrols two members, one of them with two devices, of which one is
// revoked.
func (w *world) devices() (alice, bob *orgtest.Device) {
	t := w.t
	alice, bob = &orgtest.Device{Member: codec.NewID(), Key: codec.NewPrivateKey()}, &orgtest.Device{Member: codec.NewID(), Key: codec.NewPrivateKey()}
	day := w.clock.Add(24 * time.Hour).UnixMilli()
	first, late := codec.NewPrivateKey(), codec.NewPrivateKey()
	w.refuses("no invitations", control.ErrMalformed, &control.Invitations{}, w.Two()...)
	w.refuses("an invitation of nobody", control.ErrMalformed, &control.Invitations{Invitations: []control.Invitation{{Key: first.PublicKey(), Expiry: day}}}, w.Two()...)
	w.refuses("an invitation without a key", control.ErrMalformed, &control.Invitations{Invitations: []control.Invitation{{Member: alice.Member, Expiry: day}}}, w.Two()...)
	inv := control.Invitation{Member: alice.Member, Key: first.PublicKey(), Expiry: day}
	w.refuses("an invitation key twice", control.ErrConflict, &control.Invitations{Invitations: []control.Invitation{inv, inv}}, w.Two()...)
	w.accepts(&control.Invitations{Invitations: []control.Invitation{inv, {Member: bob.Member, Key: late.PublicKey(), Expiry: w.clock.UnixMilli()}}}, w.Two()...)
	w.refuses("an invitation key again", control.ErrConflict, &control.Invitations{Invitations: []control.Invitation{inv}}, w.Two()...)

	device := func(d *orgtest.Device) *control.Device {
		return &control.Device{Member: d.Member, Key: d.Key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID()}
	}
	vouched := device(alice)
	vouched.Evidence = "tpm"
	w.refuses("evidence of an unknown kind", control.ErrMalformed, vouched, alice, orgtest.Key{PrivateKey: first})
	nobody := device(alice)
	nobody.Member = codec.ID{}
	w.refuses("a device of nobody", control.ErrMalformed, nobody, alice, orgtest.Key{PrivateKey: first})
	w.refuses("another member's invitation", control.ErrUnauthorised, device(bob), bob, orgtest.Key{PrivateKey: first})
	w.refuses("an officer for an invitation", control.ErrUnauthorised, device(alice), alice, w.Officers[0])
	alice.Hash = w.accepts(device(alice), alice, orgtest.Key{PrivateKey: first})
	w.refuses("an invitation used twice", control.ErrUnauthorised, device(bob), bob, orgtest.Key{PrivateKey: first})
	w.refuses("a device enrolled twice", control.ErrConflict, device(alice), alice, orgtest.Key{PrivateKey: first})
	w.pass(time.Second)
	w.refuses("an invitation that has expired", control.ErrUnauthorised, device(bob), bob, orgtest.Key{PrivateKey: late})

	tablet := &orgtest.Device{Member: alice.Member, Key: codec.NewPrivateKey()}
	third := w.Invite(alice.Member)
	w.refuses("two who let a device in", control.ErrUnauthorised, device(tablet), tablet, alice, orgtest.Key{PrivateKey: third})
	tablet.Hash = w.accepts(device(tablet), tablet, alice)
	w.refuses("another member's device for a sibling", control.ErrUnauthorised, device(bob), bob, alice)
	bob = w.Enrol(bob.Member, w.Invite(bob.Member))

	w.refuses("a revocation of no device", control.ErrConflict, &control.Revocation{Device: codec.Hash{}}, w.Officers[0])
	w.refuses("a revocation by another member", control.ErrUnauthorised, &control.Revocation{Device: tablet.Hash}, bob)
	w.refuses("a revocation by an approver", control.ErrUnauthorised, &control.Revocation{Device: tablet.Hash}, w.Approvers[0])
	w.accepts(&control.Revocation{Device: tablet.Hash, Reason: "lost"}, alice)
	w.refuses("a second revocation", control.ErrConflict, &control.Revocation{Device: tablet.Hash, Reason: "stolen"}, w.Officers[0])
	phone := &orgtest.Device{Member: alice.Member, Key: codec.NewPrivateKey()}
	w.refuses("a revoked device lets another in", control.ErrUnauthorised, device(phone), phone, tablet)
	w.refuses("a revoked device revokes", control.ErrUnauthorised, &control.Revocation{Device: alice.Hash}, tablet)
	d, _ := w.State.Device(tablet.Hash)
	if d.ValidAt(d.Since) || !d.ValidAt(d.Since+1) || !d.ValidAt(d.Revoked) || d.ValidAt(d.Revoked+1) {
		t.Errorf("device of leaves %d to %d: valid at the wrong sizes", d.Since, d.Revoked)
	}
	return alice, bob
}

// request returns a request that the policy allows.
func (w *world) request(matter codec.ID, custodian codec.ID) *control.Request {
	day := envelope.DayOf(w.clock)
	return &control.Request{
		ID: codec.NewID(), Matter: matter, Requester: w.Reviewers[0].Credential(), Policy: w.State.Policy().Hash,
		Custodians: []codec.ID{custodian}, FromDay: day - 10, ToDay: day, MaxCount: 100, Search: true,
		Recipient: hpkeKey(w.t), Evidence: control.EvidenceNone, Expiry: w.clock.Add(24 * time.Hour).UnixMilli(),
	}
}

func (w *world) approval(request codec.Hash) *control.Approval {
	r, ok := w.State.Request(request)
	if !ok {
		w.t.Fatal("no such request")
	}
	return &control.Approval{Nonce: codec.NewID(), Request: request, Decision: control.Approve, Role: control.RoleApprover, Policy: r.Policy}
}

func (w *world) matter(alice, bob *orgtest.Device) {
	reviewer := w.Reviewers[0]
	id := codec.NewID()
	w.refuses("a matter by an officer", control.ErrUnauthorised, &control.Matter{ID: id, Reviewer: w.Officers[0].Credential()}, w.Officers[0])
	w.refuses("a matter in another's name", control.ErrConflict, &control.Matter{ID: id, Reviewer: w.Reviewers[1].Credential()}, reviewer)
	w.refuses("a matter by two", control.ErrUnauthorised, &control.Matter{ID: id, Reviewer: reviewer.Credential()}, reviewer, w.Reviewers[1])
	w.accepts(&control.Matter{ID: id, Reviewer: reviewer.Credential()}, reviewer)
	w.refuses("a matter twice", control.ErrConflict, &control.Matter{ID: id, Reviewer: reviewer.Credential()}, reviewer)

	w.holds(id, alice, bob)
	w.requests(id, alice)
}

func (w *world) holds(matter codec.ID, alice, bob *orgtest.Device) {
	reviewer := w.Reviewers[0]
	day := envelope.DayOf(w.clock)
	hold := control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{alice.Member}, FromDay: day, ToDay: day + 1, Text: "keep"}
	for what, change := range map[string]func(*control.Hold){
		"of nobody":         func(h *control.Hold) { h.Custodians = nil },
		"of days backwards": func(h *control.Hold) { h.FromDay = day + 2 },
		"of many words":     func(h *control.Hold) { h.Text = string(make([]byte, 4097)) },
	} {
		bad := hold
		change(&bad)
		w.refuses("hold "+what, control.ErrMalformed, &bad, reviewer)
	}
	stray := hold
	stray.Matter = codec.NewID()
	w.refuses("hold in no matter", control.ErrConflict, &stray, reviewer)
	w.refuses("hold by an officer", control.ErrUnauthorised, &hold, w.Officers[0])
	h := w.accepts(&hold, reviewer)

	w.refuses("another device's acknowledgement", control.ErrUnauthorised, &control.HoldAcknowledgement{Hold: h, Device: alice.Hash}, bob)
	w.refuses("no custodian's acknowledgement", control.ErrUnauthorised, &control.HoldAcknowledgement{Hold: h, Device: bob.Hash}, bob)
	w.refuses("acknowledgement of no hold", control.ErrConflict, &control.HoldAcknowledgement{Hold: alice.Hash, Device: alice.Hash}, alice)
	w.accepts(&control.HoldAcknowledgement{Hold: h, Device: alice.Hash}, alice)

	w.refuses("a month under hold destroyed", control.ErrConflict, &control.Destruction{Month: w.Month}, w.officersAndGuards()...)
	w.refuses("release of no hold", control.ErrConflict, &control.Release{Hold: alice.Hash}, w.Two()...)
	w.refuses("release by the reviewer", control.ErrUnauthorised, &control.Release{Hold: h}, reviewer)
	w.accepts(&control.Release{Hold: h, Reason: "settled"}, w.Two()...)

	everybody := hold
	everybody.ID, everybody.Custodians = codec.NewID(), make([]codec.ID, 10_000)
	for i := range everybody.Custodians {
		everybody.Custodians[i] = codec.NewID()
	}
	h = w.Add(&everybody, reviewer)
	w.accepts(&control.Release{Hold: h, Reason: "too wide"}, w.Two()...)
	w.refuses("a second release", control.ErrConflict, &control.Release{Hold: h}, w.Two()...)
}

func (w *world) requests(matter codec.ID, alice *orgtest.Device) {
	reviewer, policy := w.Reviewers[0], w.State.Policy()
	base := w.request(matter, alice.Member)
	for what, c := range map[string]struct {
		change func(*control.Request)
		want   error
	}{
		"in another's name":   {func(r *control.Request) { r.Requester = w.Reviewers[1].Credential() }, control.ErrUnauthorised},
		"in no matter":        {func(r *control.Request) { r.Matter = codec.NewID() }, control.ErrConflict},
		"under an old policy": {func(r *control.Request) { r.Policy = w.State.Policies()[0].Hash }, control.ErrConflict},
		"about nobody":        {func(r *control.Request) { r.Custodians = nil }, control.ErrMalformed},
		"of days backwards":   {func(r *control.Request) { r.FromDay = r.ToDay + 1 }, control.ErrMalformed},
		"of too many days":    {func(r *control.Request) { r.FromDay, r.ToDay = 0, policy.MaxRequestDays }, control.ErrMalformed},
		"of all days":         {func(r *control.Request) { r.FromDay, r.ToDay = 0, 1<<32-1 }, control.ErrMalformed},
		"for none":            {func(r *control.Request) { r.MaxCount = 0 }, control.ErrMalformed},
		"for too many":        {func(r *control.Request) { r.MaxCount = policy.MaxCount + 1 }, control.ErrMalformed},
		"that has expired":    {func(r *control.Request) { r.Expiry = w.clock.UnixMilli() }, control.ErrMalformed},
		"without an end":      {func(r *control.Request) { r.Expiry = 1<<63 - 1 }, control.ErrMalformed},
		"before time":         {func(r *control.Request) { r.Expiry = -1 << 63 }, control.ErrMalformed},
		"of unknown evidence": {func(r *control.Request) { r.Evidence = "snp" }, control.ErrMalformed},
		"for a bad recipient": {func(r *control.Request) { r.Recipient = r.Recipient[1:] }, control.ErrMalformed},
	} {
		bad := *base
		c.change(&bad)
		w.refuses("request "+what, c.want, &bad, reviewer)
	}
	w.refuses("request by an approver", control.ErrUnauthorised, base, w.Approvers[0])
	r := w.accepts(base, reviewer)
	w.decisions(matter, alice.Member, r)
	w.openings(r)
}

func (w *world) decisions(matter, custodian codec.ID, r codec.Hash) {
	reviewer := w.Reviewers[0]
	both := orgtest.Person{Member: reviewer.Member, Key: reviewer.Key}
	w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: control.RoleApprover, Person: both.Control()}, w.Two()...)
	w.refuses("the requester's approval", control.ErrUnauthorised, w.approval(r), both)
	w.refuses("the requester's approval with another key", control.ErrUnauthorised, w.approval(r), w.secondKey(reviewer, control.RoleApprover))
	w.refuses("an officer's approval", control.ErrUnauthorised, w.approval(r), w.Officers[0])
	w.refuses("two approvals in one", control.ErrUnauthorised, w.approval(r), w.Approvers[0], w.Approvers[1])
	for what, c := range map[string]struct {
		change func(*control.Approval)
		want   error
	}{
		"of no request":        {func(a *control.Approval) { a.Request = codec.Sum("none") }, control.ErrConflict},
		"of another leaf":      {func(a *control.Approval) { a.Request = w.Month }, control.ErrConflict},
		"in another role":      {func(a *control.Approval) { a.Role = control.RoleOfficer }, control.ErrMalformed},
		"that says maybe":      {func(a *control.Approval) { a.Decision = "maybe" }, control.ErrMalformed},
		"under another policy": {func(a *control.Approval) { a.Policy = w.State.Policies()[0].Hash }, control.ErrConflict},
		"of many words":        {func(a *control.Approval) { a.Reason = string(make([]byte, 1025)) }, control.ErrMalformed},
	} {
		bad := *w.approval(r)
		c.change(&bad)
		w.refuses("approval "+what, c.want, &bad, w.Approvers[1])
	}
	w.accepts(w.approval(r), w.Approvers[1])
	w.refuses("an approver's second approval", control.ErrConflict, w.approval(r), w.Approvers[1])
	w.refuses("an approver's second key", control.ErrConflict, w.approval(r), w.secondKey(w.Approvers[1], control.RoleApprover))

	gone := w.Add(w.request(matter, custodian), reviewer)
	w.refuses("a stranger's withdrawal", control.ErrUnauthorised, &control.Withdrawal{Request: gone}, orgtest.NewPerson(w.t))
	w.refuses("another reviewer's withdrawal", control.ErrUnauthorised, &control.Withdrawal{Request: gone}, w.Reviewers[1])
	w.refuses("withdrawal of no request", control.ErrConflict, &control.Withdrawal{Request: w.Month}, reviewer)
	w.accepts(&control.Withdrawal{Request: gone}, reviewer)
	w.refuses("a second withdrawal", control.ErrConflict, &control.Withdrawal{Request: gone, Reason: "again"}, w.Officers[0])
	w.refuses("approval of what was withdrawn", control.ErrConflict, w.approval(gone), w.Approvers[1])
	key := codec.NewPrivateKey()
	w.refuses("opener of what was withdrawn", control.ErrConflict, w.opener(gone, key), orgtest.Key{PrivateKey: key}, reviewer)
	for _, p := range []orgtest.Person{w.Officers[0], w.Approvers[0]} {
		w.Add(&control.Withdrawal{Request: w.Add(w.request(matter, custodian), reviewer)}, p)
	}
}

func (w *world) opener(r codec.Hash, key *codec.PrivateKey) *control.Opener {
	return &control.Opener{Request: r, Sign: key.PublicKey(), Encrypt: hpkeKey(w.t), Evidence: control.EvidenceNone}
}

func (w *world) openings(r codec.Hash) {
	reviewer := w.Reviewers[0]
	key := orgtest.Key{PrivateKey: codec.NewPrivateKey()}
	o := w.opener(r, key.PrivateKey)
	w.refuses("opener without the requester", control.ErrUnauthorised, o, key, w.Reviewers[1])
	bad := *o
	bad.Evidence = "snp"
	w.refuses("opener of other evidence", control.ErrConflict, &bad, key, reviewer)
	bad = *o
	bad.Encrypt = o.Encrypt[:32]
	w.refuses("opener with half a key", control.ErrMalformed, &bad, key, reviewer)
	bad = *o
	bad.Request = w.Month
	w.refuses("opener of no request", control.ErrConflict, &bad, key, reviewer)
	leaf := w.accepts(o, key, reviewer)

	use := control.Use{Request: r, Phase: control.PhaseRecord, Opener: leaf, Holder: 2, Root: control.UseSet([]codec.Hash{r}), Count: 1}
	for what, c := range map[string]struct {
		change func(*control.Use)
		by     orgtest.Signer
		want   error
	}{
		"of nobody":        {func(u *control.Use) { u.Holder = 0 }, w.Keyholders[0], control.ErrMalformed},
		"of no guard":      {func(u *control.Use) { u.Holder, u.Guard = 3, true }, w.Guards[0], control.ErrMalformed},
		"by another":       {func(*control.Use) {}, w.Keyholders[0], control.ErrUnauthorised},
		"by a guard":       {func(*control.Use) {}, w.Guards[1], control.ErrUnauthorised},
		"in no phase":      {func(u *control.Use) { u.Phase = 3 }, w.Keyholders[1], control.ErrMalformed},
		"for no opener":    {func(u *control.Use) { u.Opener = r }, w.Keyholders[1], control.ErrConflict},
		"for another leaf": {func(u *control.Use) { u.Request = leaf }, w.Keyholders[1], control.ErrConflict},
	} {
		bad := use
		c.change(&bad)
		w.refuses("use "+what, c.want, &bad, c.by)
	}
	w.accepts(&use, w.Keyholders[1])
	use.Guard = true
	w.accepts(&use, w.Guards[1])

	word := control.OpeningStatement{Request: r, Opener: leaf, Opened: 3, Exported: 2, Production: codec.Sum("production"), Destroyed: true}
	kept := word
	kept.Destroyed = false
	w.refuses("an opener that keeps its keys", control.ErrMalformed, &kept, key)
	w.refuses("a last word by the requester", control.ErrUnauthorised, &word, reviewer)
	stray := word
	stray.Opener = r
	w.refuses("a last word of no opener", control.ErrConflict, &stray, key)
	w.refuses("an export before the opening", control.ErrConflict, &control.Export{Request: r, Production: word.Production, Records: 2}, reviewer)
	w.accepts(&word, key)
	again := word
	again.Production = codec.Sum("another")
	w.refuses("a second last word", control.ErrConflict, &again, key)

	export := func(production codec.Hash, records uint64) *control.Export {
		return &control.Export{Nonce: codec.NewID(), Request: r, Production: production, Records: records}
	}
	w.refuses("an export by an approver", control.ErrUnauthorised, export(word.Production, 2), w.Approvers[0])
	w.refuses("an export of another production", control.ErrConflict, export(again.Production, 2), reviewer)
	w.refuses("an export of more than was opened", control.ErrConflict, export(word.Production, 3), reviewer)
	w.accepts(export(word.Production, 2), reviewer)

	// Another opener's production does not unmake the first.
	second := orgtest.Key{PrivateKey: codec.NewPrivateKey()}
	again.Opener = w.Add(w.opener(r, second.PrivateKey), second, reviewer)
	w.Add(&again, second)
	w.Add(export(word.Production, 1), reviewer)
	w.Add(export(again.Production, 1), w.Reviewers[1])

	w.Add(&control.RoleChange{Nonce: codec.NewID(), Role: control.RoleReviewer, Person: reviewer.Control(), Remove: true}, w.Two()...)
	third := orgtest.Key{PrivateKey: codec.NewPrivateKey()}
	w.refuses("an opener of a requester whose role was taken", control.ErrUnauthorised, w.opener(r, third.PrivateKey), third, reviewer)
}

func (w *world) destruction() {
	d := &control.Destruction{Month: w.Month, Reason: "retention is over"}
	w.refuses("destruction of no month", control.ErrConflict, &control.Destruction{Month: w.Epoch}, w.officersAndGuards()...)
	w.refuses("destruction with a keyholder for a guard", control.ErrUnauthorised, d, append(w.Two(), w.Guards[0], w.Keyholders[1])...)
	w.accepts(d, w.officersAndGuards()...)
	w.refuses("a second destruction", control.ErrConflict, &control.Destruction{Month: w.Month, Reason: "again"}, w.officersAndGuards()...)
	canary, _ := w.Canary(w.Month)
	w.refuses("a canary for a destroyed key", control.ErrConflict, canary, w.Two()...)
}
