package control

import (
	"fmt"

	"chancery/codec"
	"chancery/ledger"
	"chancery/quorum"
	"chancery/sshsig"
)

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

// maxTries bounds the quorums that are tried on one canary. Of 16 keyholders in
// 32 there are 6·10⁸: a few that lie would stop everybody's replay. It is part
// of the format, since all who replay have to agree; three liars among any
// number of keyholders fit.
const maxTries = 1024
