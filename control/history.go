package control

import (
	"fmt"

	"chancery/codec"
)

// DeviceEvent is a leaf about a device, and who answers for it.
type DeviceEvent struct {
	Index      int64
	Time       int64 // milliseconds since 1970 UTC
	Kind       Kind  // KindDevice, KindCertificate or KindRevocation
	Device     codec.Hash
	Sibling    codec.Hash   // the member's device that signed for it; zero where none did
	Officers   []codec.Hash // credentials that signed for it: the invitation's, or the revocation's
	Invitation int64        // leaf that invited the device, or Never
	Reason     string       // of a revocation
	Authority  codec.Hash   // the leaf of who issued a certificate
	NotAfter   int64        // of a certificate, milliseconds since 1970 UTC
}

// invitedBy is where an invitation stands.
type invitedBy struct {
	index    int64
	officers []codec.Hash
}

// DeviceHistory returns every leaf about a member's devices, in order. entries
// are those that the state was made of. It returns ErrMalformed, wrapped, for
// others.
func (s *State) DeviceHistory(entries [][]byte, member codec.ID) ([]DeviceEvent, error) {
	var out []DeviceEvent
	invitations := map[codec.PublicKey]invitedBy{}
	for i, raw := range entries {
		// They were verified when they were applied.
		var leaf Leaf
		if err := codec.Decode(raw, &leaf); err != nil {
			return nil, fmt.Errorf("leaf %d: %w: %w", i, ErrMalformed, err)
		}
		statement, err := ParseStatement(leaf.Statement)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w", i, err)
		}
		event, err := s.deviceEvent(&leaf, statement, int64(i), invitations)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w: %w", i, ErrMalformed, err)
		}
		if event == nil {
			continue
		}
		if d, ok := s.devices[event.Device]; ok && d.Member == member {
			event.Index, event.Time, event.Kind = int64(i), leaf.Time, statement.Kind
			out = append(out, *event)
		}
	}
	return out, nil
}

// deviceEvent reads one leaf, and remembers invitations.
func (s *State) deviceEvent(leaf *Leaf, statement *Statement, index int64, invitations map[codec.PublicKey]invitedBy) (*DeviceEvent, error) {
	officers, devices := s.signers(leaf)
	switch statement.Kind {
	case KindInvitation:
		var b Invitations
		if err := codec.Decode(statement.Body, &b); err != nil {
			return nil, err
		}
		for _, inv := range b.Invitations {
			invitations[inv.Key] = invitedBy{index, officers}
		}
	case KindDevice:
		event := &DeviceEvent{Device: statement.Hash(), Invitation: Never}
		for _, g := range leaf.Signatures {
			if by, ok := invitations[codec.PublicKey(g.Key)]; ok {
				event.Invitation, event.Officers = by.index, by.officers
			}
		}
		if d, ok := s.devices[event.Device]; ok {
			event.Sibling = d.Sponsor
		}
		return event, nil
	case KindRevocation:
		var b Revocation
		if err := codec.Decode(statement.Body, &b); err != nil {
			return nil, err
		}
		event := &DeviceEvent{Device: b.Device, Reason: b.Reason, Officers: officers, Invitation: Never}
		if len(devices) > 0 {
			event.Sibling = devices[0]
		}
		return event, nil
	case KindCertificate:
		var b Certificate
		if err := codec.Decode(statement.Body, &b); err != nil {
			return nil, err
		}
		event := &DeviceEvent{Device: b.Device, Sibling: b.Device, Invitation: Never}
		if d, ok := s.devices[b.Device]; ok {
			for _, c := range d.certificates {
				if c.Since == index {
					event.Authority, event.NotAfter = c.Authority, c.NotAfter
				}
			}
		}
		return event, nil
	}
	return nil, nil
}

// signers returns the people's credentials and the devices that signed a leaf.
func (s *State) signers(leaf *Leaf) (officers, devices []codec.Hash) {
	for _, g := range leaf.Signatures {
		if g.Algorithm == SSH {
			officers = append(officers, g.Key)
		} else if h, ok := s.keys[codec.PublicKey(g.Key)]; ok {
			devices = append(devices, h)
		}
	}
	return officers, devices
}
