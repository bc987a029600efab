package handshake

import (
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/manifest"
)

// Log is Credentials by the control log.
type Log struct {
	// Read calls f with the replayed log.
	Read func(f func(s *control.State))
	// Size is that of the log by which it is judged; 0 for all of it.
	Size int64
	// Time is when, in milliseconds since 1970 UTC, for certificates: 0 where
	// whoever asks has checked those.
	Time int64
}

var _ Credentials = Log{}

func (l Log) at(s *control.State) int64 {
	if l.Size == 0 {
		return s.Size()
	}
	return l.Size
}

// Leaf implements Credentials.
func (l Log) Leaf(device codec.Hash, key codec.PublicKey, fresh bool) error {
	known, valid := false, false
	l.Read(func(s *control.State) {
		if d, ok := s.Device(device); ok && d.Since < l.at(s) && d.Key == key {
			known, valid = true, d.ValidAt(l.at(s))
			if valid && l.Time != 0 {
				_, err := s.CheckDevice(device, l.at(s), l.Time)
				valid = err == nil
			}
		}
	})
	if !known || fresh && !valid {
		return fmt.Errorf("device %s: %w", device.Short(), ErrCredential)
	}
	return nil
}

// Join implements Credentials: a device joins by itself if another device of its
// member let it into the organisation, and a live one of them is in the group.
func (l Log) Join(device codec.Hash, members manifest.Roster) error {
	joins := false
	l.Read(func(s *control.State) {
		d, ok := s.Device(device)
		if !ok || !d.ValidAt(l.at(s)) || d.Sponsor.IsZero() {
			return
		}
		for _, h := range s.Devices(d.Member) {
			other, ok := s.Device(h)
			joins = joins || ok && h != device && other.ValidAt(l.at(s)) && members.Contains(h)
		}
	})
	if !joins {
		return fmt.Errorf("device %s: %w", device.Short(), ErrJoin)
	}
	return nil
}

// Newest implements Credentials: the newest policy, and the newest escrow epoch
// that a month's key is in effect of, if there is one yet.
func (l Log) Newest() (a Archive, err error) {
	l.Read(func(s *control.State) {
		policy := s.Policy()
		if policy == nil {
			err = fmt.Errorf("no policy is known: %w", ErrArchive)
			return
		}
		a = Archive{Organisation: s.Organisation(), Policy: policy.Hash}
		number := uint64(0)
		for _, m := range s.Months() {
			e, ok := s.Epoch(m.Epoch)
			if ok && m.Effective != control.Never && e.Number >= number {
				a.Epoch, number = e.Hash, e.Number
			}
		}
	})
	if err != nil {
		return Archive{}, err
	}
	return a, nil
}

// Pinned implements Credentials: both leaves are on the log, and where something
// was pinned before neither is of an earlier leaf and one is of a later.
func (l Log) Pinned(before *Archive, after Archive) (err error) {
	l.Read(func(s *control.State) {
		policy, epoch, ok := after.places(s, l.at(s))
		switch {
		case !ok:
			err = fmt.Errorf("leaves that the control log doesn't have: %w", ErrArchive)
		case before != nil:
			oldPolicy, oldEpoch, ok := before.places(s, l.at(s))
			if !ok || policy < oldPolicy || epoch < oldEpoch || policy == oldPolicy && epoch == oldEpoch {
				err = fmt.Errorf("no later leaves than those pinned: %w", ErrArchive)
			}
		}
	})
	return err
}

// places returns the indexes of the leaves that an archive names.
func (a *Archive) places(s *control.State, size int64) (policy, epoch int64, ok bool) {
	p, found := s.PolicyByHash(a.Policy)
	if !found || a.Organisation != s.Organisation() {
		return 0, 0, false
	}
	if p.Since >= size {
		return 0, 0, false
	}
	if a.Epoch.IsZero() {
		return p.Since, control.Never, true
	}
	e, found := s.Epoch(a.Epoch)
	if !found || e.Since >= size {
		return 0, 0, false
	}
	return p.Since, e.Since, true
}

// Later reports whether a policy leaf is one that messages of a group may name
// which pins another: none that came before it.
func Later(s *control.State, pinned, named codec.Hash) bool {
	p, ok := s.PolicyByHash(pinned)
	if !ok {
		return false
	}
	n, ok := s.PolicyByHash(named)
	return ok && n.Since >= p.Since
}
