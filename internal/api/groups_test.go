package api_test

import (
	"time"

	"chancery/client"
	"chancery/client/group"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/manifest"
)

// unstored is a device's file that was never written: groups of these tests live
// in memory.
type unstored struct{}

func (unstored) Value(string) ([]byte, error)              { return nil, nil }
func (unstored) Group(codec.ID) (map[string][]byte, error) { return map[string][]byte{}, nil }

// groups returns a device's MLS groups.
func (s *stage) groups(device codec.Hash) client.Groups {
	s.t.Helper()
	if s.members[device] == nil {
		d := s.devices[device]
		if d == nil {
			s.t.Fatalf("nobody knows device %s", device.Short())
		}
		g, err := group.New(time.Now)(d.Hash, d.Key.Seed(), unstored{})
		if err != nil {
			s.t.Fatal(err)
		}
		s.members[device] = g
	}
	return s.members[device]
}

// knows makes devices' keys known to the tests' groups.
func (s *stage) knows(devices ...*orgtest.Device) {
	for _, d := range devices {
		s.devices[d.Hash] = d
	}
}

func (s *stage) credentials() handshake.Credentials {
	return handshake.Log{Read: func(f func(*control.State)) { f(s.State) }}
}

// statement states a step, whoever signs it.
func (s *stage) statement(t *talk, step *client.Step) *manifest.Commit {
	c := &manifest.Commit{
		Organisation: s.ID, Conversation: t.conversation, Epoch: step.Number, Device: t.device.Hash,
		Transcript: step.Transcript, Roster: step.Roster.Root(), Previous: t.statement,
	}
	if step.Number > 0 {
		c.Message = manifest.CiphertextHash(step.Commit)
	}
	return c
}

// submit makes the submission of a step.
func (s *stage) submit(t *talk, step *client.Step, added []codec.Hash) *wire.CommitSubmission {
	s.t.Helper()
	in := &wire.CommitSubmission{Roster: step.Roster, Commit: step.Commit, Welcome: step.Welcome, Added: added, GroupInfo: step.GroupInfo}
	s.sign(t.device, s.statement(t, step), in)
	return in
}

func (s *stage) sign(by *orgtest.Device, c *manifest.Commit, in *wire.CommitSubmission) {
	s.t.Helper()
	var err error
	if in.Statement, err = manifest.SignCommit(by.Key, c); err != nil {
		s.t.Fatal(err)
	}
}

// adds stages a commit that adds devices, in the place of one staged before.
func (s *stage) adds(t *talk, added ...*orgtest.Device) *wire.CommitSubmission {
	s.t.Helper()
	s.knows(added...)
	var packages [][]byte
	var hashes []codec.Hash
	for _, d := range added {
		kps, err := s.groups(d.Hash).KeyPackages(1, 100)
		if err != nil {
			s.t.Fatal(err)
		}
		packages, hashes = append(packages, kps...), append(hashes, d.Hash)
	}
	step, err := s.groups(t.device.Hash).Add(t.conversation, packages, s.credentials())
	if err != nil {
		s.t.Fatal(err)
	}
	return s.submit(t, step, hashes)
}

func (s *stage) removes(t *talk, removed ...codec.Hash) *wire.CommitSubmission {
	s.t.Helper()
	step, err := s.groups(t.device.Hash).Remove(t.conversation, removed, s.credentials())
	if err != nil {
		s.t.Fatal(err)
	}
	return s.submit(t, step, nil)
}

// enters has everybody follow a commit that the server took.
func (s *stage) enters(t *talk, in *wire.CommitSubmission, others ...*talk) {
	s.t.Helper()
	if len(in.Commit) > 0 {
		if err := s.groups(t.device.Hash).Merge(t.conversation); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, o := range append([]*talk{t}, others...) {
		if o != t {
			if _, err := s.groups(o.device.Hash).Process(t.conversation, in.Commit, s.credentials()); err != nil {
				s.t.Fatal(err)
			}
		}
		o.at(in)
	}
	for _, d := range in.Added {
		if _, err := s.groups(d).Join(in.Welcome, s.credentials()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// at puts a side into the epoch of a commit.
func (t *talk) at(in *wire.CommitSubmission) {
	c, err := manifest.ParseCommit(in.Statement)
	if err != nil {
		t.s.t.Fatal(err)
	}
	t.epoch, t.statement, t.roster = c.Epoch, manifest.CommitHash(in.Statement), in.Roster
}

// founds makes a conversation of one device and returns its side.
func (s *stage) founds(device *orgtest.Device) (*talk, *wire.CommitSubmission) {
	s.t.Helper()
	s.knows(device)
	t := &talk{s: s, device: device, conversation: codec.NewID()}
	step, err := s.groups(device.Hash).Create(t.conversation, s.credentials())
	if err != nil {
		s.t.Fatal(err)
	}
	return t, s.submit(t, step, nil)
}

// found makes a conversation of devices, at epoch 1, and returns their sides.
func (s *stage) found(devices ...*orgtest.Device) []*talk {
	s.t.Helper()
	t, in := s.founds(devices[0])
	s.commits(t, in)
	t.at(in)
	added := s.adds(t, devices[1:]...)
	s.commits(t, added)
	s.enters(t, added)
	sides := []*talk{t}
	for _, d := range devices[1:] {
		side := &talk{s: s, device: d, conversation: t.conversation}
		side.at(added)
		sides = append(sides, side)
	}
	return sides
}

func (s *stage) commits(t *talk, in *wire.CommitSubmission) {
	s.t.Helper()
	if _, err := s.as(t.device).Commit(s.t.Context(), in); err != nil {
		s.t.Fatal(err)
	}
}
