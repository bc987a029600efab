package control

import (
	"bytes"
	"fmt"

	"chancery/codec"
	"chancery/envelope"
	"chancery/ledger"
	"chancery/quorum"
	"chancery/sshsig"
)

type ceremonyState struct {
	ceremony quorum.Ceremony
	board    []quorum.Message
	since    int64
}

type canaryState struct {
	leaf codec.Hash
	body *Canary
	core *envelope.Core
	env  *envelope.Envelope
}

// signedBy counts the members, not the keys, that signed in a role.
func (s *State) signedBy(e *entry, role Role) int {
	members := map[codec.ID]bool{}
	for id, algorithm := range e.signed {
		if c, ok := s.credentials[id]; ok && algorithm == SSH && c.Roles[role] {
			members[c.Member] = true
		}
	}
	return len(members)
}

func (s *State) needOfficers(e *entry, n int) error {
	if got := s.signedBy(e, RoleOfficer); got < n {
		return fmt.Errorf("%w: %d of %d officers signed", ErrUnauthorised, got, n)
	}
	return nil
}

func (s *State) officerQuorum(e *entry) error { return s.needOfficers(e, int(s.genesis.OfficerQuorum)) }

// one returns the only credential that signed, if it has the role.
func (s *State) one(e *entry, role Role) (codec.Hash, *Credential, error) {
	if len(e.signed) != 1 {
		return codec.Hash{}, nil, fmt.Errorf("%w: want one signature, of one %s", ErrUnauthorised, role)
	}
	for id, algorithm := range e.signed {
		if c, ok := s.credentials[id]; ok && algorithm == SSH && c.Roles[role] {
			return id, c, nil
		}
	}
	return codec.Hash{}, nil, fmt.Errorf("%w: the signer is no %s", ErrUnauthorised, role)
}

func conflict(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConflict}, args...)...)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func (g *Genesis) apply(s *State, e *entry) error {
	if err := g.validate(); err != nil {
		return err
	}
	for _, p := range g.Officers {
		if !e.byCredential(sshsig.Credential(p.Credential).ID()) {
			return fmt.Errorf("%w: every officer named signs the genesis leaf", ErrUnauthorised)
		}
	}
	s.genesis = g
	for _, p := range g.Officers {
		s.addRole(p, RoleOfficer)
	}
	for _, p := range g.Approvers {
		s.addRole(p, RoleApprover)
	}
	for _, p := range g.Reviewers {
		s.addRole(p, RoleReviewer)
	}
	s.policies = append(s.policies, PolicyState{Policy: g.Policy, Hash: e.hash, Since: e.index, Time: e.Time})
	return nil
}

func (g *Genesis) validate() error {
	n, t := len(g.Keyholders), int(g.Threshold)
	switch {
	case g.Name == "" || len(g.Name) > 128:
		return malformed("an organisation has a name of 1 to 128 bytes")
	case g.ControlKey.IsZero() || g.MessagesKey.IsZero() || g.ReceiptKey.IsZero() || g.ControlKey == g.MessagesKey:
		return malformed("want a receipt key and a key of its own for each log")
	case t < 1 || n > 32 || n < 2*t-1:
		return malformed("%d of %d keyholders: a key generation needs n at least 2t-1, at most 32", t, n)
	case len(g.Guards) < 2 || len(g.Guards) > 16:
		return malformed("%d guards: want 2 to 16", len(g.Guards))
	case len(g.Witnesses) < 2 || g.WitnessQuorum < 2 || int(g.WitnessQuorum) > len(g.Witnesses):
		return malformed("want at least two witnesses, all of the quorum named")
	case g.OfficerQuorum < 2 || int(g.OfficerQuorum) > members(g.Officers):
		return malformed("want at least two officers, all of their quorum named")
	case int(g.Policy.Approvals) > members(g.Approvers):
		return malformed("%d approvals of %d approvers", g.Policy.Approvals, members(g.Approvers))
	}
	if err := g.validateHolders(); err != nil {
		return err
	}
	if err := g.validateWitnesses(); err != nil {
		return err
	}
	if err := g.validatePeople(); err != nil {
		return err
	}
	return g.Policy.validate()
}

// members counts the people in a list of credentials.
func members(people []Person) int {
	ids := map[codec.ID]bool{}
	for _, p := range people {
		ids[p.Member] = true
	}
	return len(ids)
}

// validateHolders keeps one daemon from being two holders, and the server from
// being one.
func (g *Genesis) validateHolders() error {
	keys := map[codec.PublicKey]bool{g.ControlKey: true, g.MessagesKey: true, g.ReceiptKey: true}
	names, points := map[string]bool{}, map[string]bool{}
	if weak(g.ControlKey) || weak(g.MessagesKey) || weak(g.ReceiptKey) {
		return malformed("a key of the server is one under which anybody signs")
	}
	for _, h := range append(append([]Holder(nil), g.Keyholders...), g.Guards...) {
		switch {
		case h.Name == "" || len(h.Name) > 64 || len(h.Jurisdiction) > 64:
			return malformed("a keyholder or guard has a name of 1 to 64 bytes")
		case names[h.Name] || keys[h.Sign] || points[string(h.Encrypt)] || weak(h.Sign):
			return malformed("keyholders and guards have distinct names and keys: one daemon holds one kind of key")
		}
		names[h.Name], keys[h.Sign], points[string(h.Encrypt)] = true, true, true
		if _, err := quorum.ParsePoint(h.Encrypt); err != nil {
			return malformed("encryption key of %s", h.Name)
		}
	}
	return nil
}

// validateWitnesses demands of both logs what their readers will.
func (g *Genesis) validateWitnesses() error {
	var witnesses []ledger.WitnessKey
	for _, w := range g.Witnesses {
		key, err := ledger.ParseWitnessKey(w.Key)
		if err != nil {
			return malformed("witness %.64q: %v", w.Name, err)
		}
		witnesses = append(witnesses, key)
	}
	for _, key := range []codec.PublicKey{g.ControlKey, g.MessagesKey} {
		p := ledger.Policy{
			Log:       ledger.LogKey{Origin: ledger.Origin(codec.Hash{}, ledger.ControlLog), Key: key},
			Witnesses: witnesses, Quorum: int(g.WitnessQuorum),
		}
		if err := p.Check(); err != nil {
			return malformed("%v", err)
		}
	}
	return nil
}

func (g *Genesis) validatePeople() error {
	owner := map[string]codec.ID{}
	for _, people := range [][]Person{g.Officers, g.Approvers, g.Reviewers} {
		for _, p := range people {
			if _, err := sshsig.ParseCredential(p.Credential); err != nil {
				return malformed("credential: %v", err)
			}
			if member, ok := owner[string(p.Credential)]; p.Member.IsZero() || ok && member != p.Member {
				return malformed("a credential belongs to one member")
			}
			owner[string(p.Credential)] = p.Member
		}
	}
	return nil
}

func (p *Policy) validate() error {
	if p.Approvals < 1 || p.Region == "" || p.Class == "" || len(p.Region) > 32 || len(p.Class) > 32 || p.MaxCount == 0 {
		return malformed("a policy names a region, a class, at least one approval and a greatest count")
	}
	return nil
}

func (s *State) addRole(p Person, role Role) {
	id := sshsig.Credential(p.Credential).ID()
	c, ok := s.credentials[id]
	if !ok {
		c = &Credential{Person: p, Roles: map[Role]bool{}}
		s.credentials[id] = c
	}
	c.Roles[role] = true
}

func (p *Policy) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	if err := p.validate(); err != nil {
		return err
	}
	if p.Version != s.Policy().Version+1 {
		return conflict("policy version %d follows %d", p.Version, s.Policy().Version)
	}
	s.policies = append(s.policies, PolicyState{Policy: *p, Hash: e.hash, Since: e.index, Time: e.Time})
	return nil
}

func (r *RoleChange) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	switch r.Role {
	case RoleOfficer, RoleApprover, RoleReviewer, RoleAuditor:
	default:
		return malformed("role %q", r.Role)
	}
	credential, err := sshsig.ParseCredential(r.Person.Credential)
	if err != nil {
		return malformed("credential: %v", err)
	}
	known, ok := s.credentials[credential.ID()]
	if ok && known.Member != r.Person.Member {
		return conflict("the credential is another member's")
	}
	if r.Person.Member.IsZero() {
		return malformed("a credential belongs to a member")
	}
	if !r.Remove {
		if ok && known.Roles[r.Role] {
			return conflict("the credential has the role")
		}
		s.addRole(r.Person, r.Role)
		if r.Role == RoleApprover {
			s.credentials[credential.ID()].approver = e.Time
		}
		return nil
	}
	if !ok || !known.Roles[r.Role] {
		return conflict("the credential has no such role")
	}
	if r.Role == RoleOfficer && s.officersWithout(known) < int(s.genesis.OfficerQuorum) {
		return conflict("too few officers would be left to act")
	}
	delete(known.Roles, r.Role)
	if r.Role == RoleApprover {
		s.lapse(credential.ID(), e.Time)
	}
	return nil
}

// officersWithout counts the officers there would be without a credential.
func (s *State) officersWithout(removed *Credential) int {
	members := map[codec.ID]bool{}
	for _, c := range s.credentials {
		if c != removed && c.Roles[RoleOfficer] {
			members[c.Member] = true
		}
	}
	return len(members)
}

// lapse ends the approvals of a credential that may no longer give them: it is
// taken away because its key is lost or its owner gone. What it refused stays
// refused, or officers could take away whoever says no.
func (s *State) lapse(credential codec.Hash, time int64) {
	for _, r := range s.requests {
		for i := range r.Approvals {
			if a := &r.Approvals[i]; a.Credential == credential && a.Lapsed == 0 {
				a.Lapsed = time
			}
		}
	}
}

func (c *Ceremony) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	if _, ok := s.ceremonies[c.Ceremony.ID]; ok {
		return conflict("the ceremony is already open")
	}
	if c.Ceremony.T != int(s.genesis.Threshold) || len(c.Ceremony.Peers) != len(s.genesis.Keyholders) {
		return conflict("the ceremony is not among the keyholders and threshold of the genesis leaf")
	}
	for i, h := range s.genesis.Keyholders {
		if !bytes.Equal(c.Ceremony.Peers[i][:], h.Encrypt) {
			return conflict("peer %d is not keyholder %s", i+1, h.Name)
		}
	}
	if err := c.Ceremony.Validate(); err != nil {
		return malformed("ceremony: %v", err)
	}
	s.ceremonies[c.Ceremony.ID] = &ceremonyState{ceremony: c.Ceremony, since: e.index}
	return nil
}

func (d *DKG) apply(s *State, e *entry) error {
	c, ok := s.ceremonies[d.Message.Ceremony]
	if !ok {
		return conflict("no such ceremony")
	}
	holder, err := s.keyholder(d.Message.From)
	if err != nil {
		return err
	}
	if !e.by(holder.Sign) {
		return fmt.Errorf("%w: keyholder %s must sign its own message", ErrUnauthorised, holder.Name)
	}
	if _, err := quorum.ParseMessage(d.Message.Encode()); err != nil {
		return malformed("%v", err)
	}
	for _, m := range c.board {
		if m.From == d.Message.From && m.Round == d.Message.Round {
			return conflict("keyholder %s already spoke in round %d", holder.Name, m.Round)
		}
	}
	c.board = append(c.board, d.Message)
	return nil
}

func (s *State) keyholder(index int) (*Holder, error) {
	if index < 1 || index > len(s.genesis.Keyholders) {
		return nil, malformed("keyholder %d of %d", index, len(s.genesis.Keyholders))
	}
	return &s.genesis.Keyholders[index-1], nil
}

func (s *State) guard(index int) (*Holder, error) {
	if index < 1 || index > len(s.genesis.Guards) {
		return nil, malformed("guard %d of %d", index, len(s.genesis.Guards))
	}
	return &s.genesis.Guards[index-1], nil
}

func (p *Epoch) apply(s *State, e *entry) error {
	for _, h := range s.genesis.Keyholders {
		if !e.by(h.Sign) {
			return fmt.Errorf("%w: keyholder %s has not signed the epoch", ErrUnauthorised, h.Name)
		}
	}
	if got, want := s.signedBy(e, RoleApprover), int(s.Policy().Approvals); got < want {
		return fmt.Errorf("%w: %d of %d approvers signed the epoch", ErrUnauthorised, got, want)
	}
	c, ok := s.ceremonies[p.Ceremony]
	if !ok {
		return conflict("no such ceremony")
	}
	for i := range s.epochs {
		if s.epochs[i].Ceremony == p.Ceremony {
			return conflict("the ceremony's key is epoch %d already", s.epochs[i].Number)
		}
	}
	key, transcript, err := quorum.Verify(c.ceremony, c.board)
	if err != nil {
		return fmt.Errorf("%w: the ceremony gives no key: %w", ErrConflict, err)
	}
	if transcript != p.Transcript || !bytes.Equal(codec.Encode(key), codec.Encode(&p.Key)) {
		return conflict("the key is not the ceremony's")
	}
	if p.Number != uint64(len(s.epochs))+1 {
		return conflict("epoch %d follows %d", p.Number, len(s.epochs))
	}
	s.epochs = append(s.epochs, EpochState{Epoch: *p, Hash: e.hash, Since: e.index})
	return nil
}

func (m *Month) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	for _, h := range s.genesis.Guards {
		if !e.by(h.Sign) {
			return fmt.Errorf("%w: guard %s has not signed the month's key", ErrUnauthorised, h.Name)
		}
	}
	epoch, ok := s.Epoch(m.Epoch)
	if !ok {
		return conflict("no such epoch")
	}
	if m.Region == "" || m.Class == "" || len(m.Region) > 32 || len(m.Class) > 32 {
		return malformed("a month's key names a region and a class")
	}
	if _, err := envelope.NewPublicKey(epoch.Key.Key[:], m.MLKEM); err != nil {
		return malformed("ML-KEM key: %v", err)
	}
	for _, old := range s.months {
		// One key for two months could not be destroyed with either.
		if bytes.Equal(old.MLKEM, m.MLKEM) {
			return conflict("the ML-KEM key is another month's")
		}
		if old.Epoch == m.Epoch && old.Region == m.Region && old.Class == m.Class && old.Month.Month == m.Month {
			return conflict("the month has a key already")
		}
	}
	s.months[e.hash] = &MonthState{
		Month: *m, Hash: e.hash, Point: epoch.Key.Key, Since: e.index,
		Effective: Never, Destroyed: Never, secrets: map[uint8][]byte{},
	}
	return nil
}

// PublicKey returns the key that envelopes under this month are sealed to.
func (m *MonthState) PublicKey() (*envelope.PublicKey, error) {
	return envelope.NewPublicKey(m.Point[:], m.MLKEM)
}

func (c *Canary) apply(s *State, e *entry) error {
	if err := s.needOfficers(e, 1); err != nil {
		return err
	}
	month, ok := s.months[c.Month]
	if !ok || month.Effective != Never || month.Destroyed != Never {
		return conflict("no such month, or it needs no canary")
	}
	// One officer's bad canary must not keep a key from taking effect for ever,
	// nor one officer throw away what was answered.
	if month.canary != nil {
		if err := s.officerQuorum(e); err != nil {
			return fmt.Errorf("the month has a canary, to replace it: %w", err)
		}
	}
	state, err := c.check(s.organisation)
	if err != nil {
		return err
	}
	state.leaf = e.hash
	month.canary, month.answers, month.secrets = state, nil, map[uint8][]byte{}
	s.canaries[e.hash] = c.Month
	return nil
}

// check makes sure that whoever made the canary knows its ephemeral key, so
// that answering it in public tells nobody anything new.
func (c *Canary) check(organisation codec.Hash) (*canaryState, error) {
	core, err := envelope.ParseCore(c.Core)
	if err != nil {
		return nil, malformed("canary core: %v", err)
	}
	header, err := envelope.ParseHeader(core.Header)
	if err != nil {
		return nil, malformed("canary header: %v", err)
	}
	env, err := envelope.Parse(c.Envelope)
	if err != nil {
		return nil, malformed("canary envelope: %v", err)
	}
	if header.Organisation != organisation || header.EscrowKey != c.Month || header.Kind != envelope.KindVoid || env.Hash() != core.Envelope {
		return nil, conflict("the canary is of another organisation, key or kind")
	}
	if len(c.Proof) != len(envelope.Proof{}) || len(c.Tag) != codec.HashSize {
		return nil, malformed("canary proofs")
	}
	proof := envelope.Proof(c.Proof)
	if err := envelope.VerifyProof(env.E(), core.Hash(), &proof); err != nil {
		return nil, malformed("canary proof of knowledge: %v", err)
	}
	return &canaryState{body: c, core: core, env: env}, nil
}

func (a *CanaryAnswer) apply(s *State, e *entry) error {
	monthHash, ok := s.canaries[a.Canary]
	if !ok {
		return conflict("no such canary")
	}
	month := s.months[monthHash]
	if month.canary.leaf != a.Canary {
		return conflict("the canary was replaced")
	}
	var holder *Holder
	var err error
	if a.Guard {
		holder, err = s.guard(int(a.Holder))
	} else {
		holder, err = s.keyholder(int(a.Holder))
	}
	if err != nil {
		return err
	}
	if !e.by(holder.Sign) {
		return fmt.Errorf("%w: %s must sign its own answer", ErrUnauthorised, holder.Name)
	}
	if a.Guard {
		err = month.guardAnswer(a)
	} else {
		err = month.keyholderAnswer(a)
	}
	if err != nil {
		return err
	}
	if month.Effective == Never && s.opens(month) {
		month.Effective, month.EffectiveTime = e.index, e.Time
	}
	return nil
}

func (m *MonthState) guardAnswer(a *CanaryAnswer) error {
	if _, ok := m.secrets[a.Holder]; ok || len(a.Answer) != 32 {
		return conflict("the guard has answered, or not with 32 bytes")
	}
	tag := [32]byte(m.canary.body.Tag)
	if err := envelope.VerifyTag(a.Answer, m.canary.core.Hash(), &tag); err != nil {
		return conflict("the guard's answer does not open the canary")
	}
	m.secrets[a.Holder] = bytes.Clone(a.Answer)
	return nil
}

func (m *MonthState) keyholderAnswer(a *CanaryAnswer) error {
	point, err := quorum.ParsePoint(a.Answer)
	if err != nil {
		return malformed("answer: %v", err)
	}
	for _, old := range m.answers {
		if old.Holder == int(a.Holder) {
			return conflict("the keyholder has answered")
		}
	}
	m.answers = append(m.answers, quorum.Answer{Holder: int(a.Holder), Point: point})
	return nil
}

// opens reports whether the canary opens through every guard and some quorum
// of the keyholders that have answered.
func (s *State) opens(m *MonthState) bool {
	epoch, ok := s.Epoch(m.Epoch)
	if !ok || len(m.secrets) < len(s.genesis.Guards) || len(m.answers) < epoch.Key.T {
		return false
	}
	// Every guard's secret met the canary's tag: they are one secret.
	for _, secret := range m.secrets {
		return m.opensThrough(&epoch.Key, secret)
	}
	return false
}

// maxTries bounds the quorums that are tried on one canary. Of 16 keyholders in
// 32 there are 6·10⁸: a few that lie would stop everybody's replay. It is part
// of the format, since all who replay have to agree; three liars among any
// number of keyholders fit.
const maxTries = 1024

func (m *MonthState) opensThrough(key *quorum.PublicKey, secret []byte) bool {
	public, err := m.PublicKey()
	if err != nil {
		return false
	}
	tries := 0
	for subset := range quorum.Subsets(m.answers, key.T) {
		if tries++; tries > maxTries {
			break
		}
		if seed, record, err := OpenWith(key, public, m.canary.core.Header, m.canary.env, subset, secret); err == nil {
			clear(seed[:])
			clear(record)
			return true
		}
	}
	return false
}

func (i *Invitations) apply(s *State, e *entry) error {
	if err := s.officerQuorum(e); err != nil {
		return err
	}
	if len(i.Invitations) == 0 {
		return malformed("no invitations")
	}
	seen := map[codec.PublicKey]bool{}
	for _, inv := range i.Invitations {
		if inv.Member.IsZero() || weak(inv.Key) {
			return malformed("an invitation names a member and a key")
		}
		if _, ok := s.invitations[inv.Key]; ok || seen[inv.Key] {
			return conflict("an invitation key is used twice")
		}
		seen[inv.Key] = true
	}
	for _, inv := range i.Invitations {
		s.invitations[inv.Key] = inv
	}
	return nil
}

func (d *Device) apply(s *State, e *entry) error {
	if d.Member.IsZero() {
		return malformed("a device belongs to a member")
	}
	if d.Evidence != EvidenceNone {
		return malformed("evidence %q is of no known kind", d.Evidence)
	}
	if !s.Policy().DeviceEvidenceNone {
		return fmt.Errorf("%w: policy refuses devices without evidence", ErrUnauthorised)
	}
	if !e.by(d.Key) {
		return fmt.Errorf("%w: the device must sign its own leaf", ErrUnauthorised)
	}
	if _, ok := s.keys[d.Key]; ok {
		return conflict("the device key is enrolled already")
	}
	invitation, sibling, err := s.sponsor(d, e)
	if err != nil {
		return err
	}
	if !invitation.IsZero() {
		delete(s.invitations, invitation) // an invitation enrols one device
	}
	s.devices[e.hash] = &DeviceState{Device: *d, Hash: e.hash, Since: e.index, Revoked: Never, Time: e.Time, Sponsor: sibling}
	s.keys[d.Key] = e.hash
	s.members[d.Member] = append(s.members[d.Member], e.hash)
	return nil
}

// sponsor finds who lets the device in: an invitation, whose key it returns, or
// another live device of the member, whose leaf it returns. There is one, so that whether an
// invitation was used up depends on nobody's order.
func (s *State) sponsor(d *Device, e *entry) (invitation codec.PublicKey, sibling codec.Hash, err error) {
	if len(e.signed) != 2 {
		return codec.PublicKey{}, codec.Hash{}, fmt.Errorf("%w: want two signatures, of the device and of whoever lets it in", ErrUnauthorised)
	}
	for key, algorithm := range e.signed {
		if key == codec.Hash(d.Key) || algorithm != Ed25519 {
			continue
		}
		if inv, ok := s.invitations[codec.PublicKey(key)]; ok {
			if inv.Member != d.Member {
				return codec.PublicKey{}, codec.Hash{}, fmt.Errorf("%w: the invitation is another member's", ErrUnauthorised)
			}
			if e.Time > inv.Expiry {
				return codec.PublicKey{}, codec.Hash{}, fmt.Errorf("%w: the invitation has expired", ErrUnauthorised)
			}
			return inv.Key, codec.Hash{}, nil
		}
		if other, ok := s.DeviceByKey(codec.PublicKey(key)); ok && other.Member == d.Member && other.ValidAt(e.index) {
			return codec.PublicKey{}, other.Hash, nil
		}
	}
	return codec.PublicKey{}, codec.Hash{}, fmt.Errorf("%w: no invitation and no other device of the member", ErrUnauthorised)
}

func (r *Revocation) apply(s *State, e *entry) error {
	device, ok := s.devices[r.Device]
	if !ok || device.Revoked != Never {
		return conflict("no such device, or it is revoked")
	}
	if s.needOfficers(e, 1) != nil && !s.sibling(device, e) {
		return fmt.Errorf("%w: want an officer or a device of the member", ErrUnauthorised)
	}
	device.Revoked = e.index
	s.revoked = append(s.revoked, device.Hash)
	return nil
}

func (s *State) sibling(device *DeviceState, e *entry) bool {
	for key, algorithm := range e.signed {
		other, ok := s.DeviceByKey(codec.PublicKey(key))
		if ok && algorithm == Ed25519 && other.Member == device.Member && other.ValidAt(e.index) {
			return true
		}
	}
	return false
}
