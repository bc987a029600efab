package control

import (
	"fmt"

	"chancery/codec"
)

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
