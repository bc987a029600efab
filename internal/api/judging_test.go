package api_test

import (
	"bytes"
	"testing"
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

// anything are the credentials of a member who keeps to RFC 9420 and to nothing
// else, and pins what it likes, or nothing new.
type anything struct {
	pin   handshake.Archive
	still bool
}

func (anything) Leaf(codec.Hash, codec.PublicKey, bool) error { return nil }

func (anything) Join(codec.Hash, manifest.Roster) error { return nil }

func (a anything) Newest() (handshake.Archive, error) { return a.pin, nil }

func (a anything) Pinned(*handshake.Archive, handshake.Archive) error {
	if a.still {
		return handshake.ErrArchive
	}
	return nil
}

func pins(a handshake.Archive, change func(a *handshake.Archive)) anything {
	change(&a)
	return anything{pin: a}
}

// archive returns what a commit made now should pin.
func (s *stage) archive() handshake.Archive {
	s.t.Helper()
	a, err := s.credentials().Newest()
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// pkg makes a KeyPackage of a device, as its groups would.
func (s *stage) pkg(hash codec.Hash, key *codec.PrivateKey) []byte {
	s.t.Helper()
	g, err := group.New(time.Now)(hash, key.Seed(), unstored{})
	if err != nil {
		s.t.Fatal(err)
	}
	kps, err := g.KeyPackages(1, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	return kps[0]
}

// attempt is a commit that the server has to refuse.
type attempt struct {
	name   string
	reason string
	by     *talk
	in     *wire.CommitSubmission
}

func (s *stage) attempts(all []attempt) {
	s.t.Helper()
	before := s.size()
	for _, a := range all {
		_, err := s.as(a.by.device).Commit(s.t.Context(), a.in)
		s.refused(a.name, err, a.reason, manifest.CommitHash(a.in.Statement))
	}
	if got := s.size(); got != before {
		s.t.Errorf("%d leaves, %d before", got, before)
	}
}

// TestJudging: the server refuses each commit that a member would have to
// refuse, by a reason of its own. Each differs in one thing from a good one.
func TestJudging(t *testing.T) {
	s := newStage(t)
	alice, bob, carol, revoked := s.NewMember(), s.NewMember(), s.NewMember(), s.NewMember()
	s.knows(carol, revoked)
	sides, elsewhere := s.found(alice, bob), s.found(alice, carol)
	side, other := sides[0], sides[1]
	earlier := s.removes(side)
	s.commits(side, earlier)
	s.enters(side, earlier, other)
	s.Add(&control.Revocation{Device: revoked.Hash}, s.Officers[0])

	with := func(f func(c *manifest.Commit, in *wire.CommitSubmission)) *wire.CommitSubmission {
		in := s.adds(side, carol)
		c, err := manifest.ParseCommit(in.Statement)
		if err != nil {
			t.Fatal(err)
		}
		f(c, in)
		c.Message, c.Roster = manifest.CiphertextHash(in.Commit), in.Roster.Root()
		s.sign(alice, c, in)
		return in
	}
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[(len(b)+at)%len(b)] ^= 1; return b }
	bobs := s.adds(other, carol)
	stranger := &orgtest.Device{Hash: codec.Sum("nobody"), Key: codec.NewPrivateKey()}
	step := func(check handshake.Credentials, added codec.Hash, packages ...[]byte) *wire.CommitSubmission {
		got, err := s.groups(alice.Hash).Add(side.conversation, packages, check)
		if err != nil {
			t.Fatal(err)
		}
		var list []codec.Hash
		if len(packages) > 0 {
			list = append(list, added)
		}
		return s.submit(side, got, list)
	}
	now := s.archive()
	any := anything{pin: now, still: true}
	s.attempts([]attempt{
		{"no MLS message", "group", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = []byte("commit") })},
		{"a Welcome as commit", "group", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = in.Welcome })},
		{"a bad signature", "group", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = flip(in.Commit, -80) })},
		{"another group's commit", "group", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = s.removes(elsewhere[0]).Commit })},
		{"a commit of the epoch before", "group", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = earlier.Commit })},
		{"another member's commit", "group", side, with(func(c *manifest.Commit, in *wire.CommitSubmission) {
			theirs, err := manifest.ParseCommit(bobs.Statement)
			if err != nil {
				t.Fatal(err)
			}
			in.Commit, in.Welcome, in.GroupInfo, c.Transcript = bobs.Commit, bobs.Welcome, bobs.GroupInfo, theirs.Transcript
		})},
		{"another transcript", "group", side, with(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Transcript = flip(c.Transcript, 0) })},
		{"a roster without the device added", "roster", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) {
			in.Roster, in.Added, in.Welcome = side.roster, nil, nil
		})},
		{"a roster without a member who stays", "roster", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) {
			in.Roster = manifest.NewRoster([]codec.Hash{alice.Hash, carol.Hash})
		})},
		{"a Welcome of another commit", "welcome", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Welcome = bobs.Welcome })},
		{"a commit as Welcome", "welcome", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Welcome = in.Commit })},
		{"no GroupInfo", "groupinfo", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = nil })},
		{"the GroupInfo of the epoch before", "groupinfo", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = earlier.GroupInfo })},
		{"another commit's GroupInfo", "groupinfo", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = bobs.GroupInfo })},
		{"a GroupInfo with a bad signature", "groupinfo", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = flip(in.GroupInfo, -1) })},
		{"a Welcome as GroupInfo", "groupinfo", side, with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = in.Welcome })},
		{"a device that isn't enrolled", "roster", side, step(any, stranger.Hash, s.pkg(stranger.Hash, stranger.Key))},
		{"a device under another key", "roster", side, step(any, carol.Hash, s.pkg(carol.Hash, codec.NewPrivateKey()))},
		{"a revoked device", "roster", side, step(any, revoked.Hash, s.pkg(revoked.Hash, revoked.Key))},
		{"another organisation's archive", "archive", side, step(pins(now, func(a *handshake.Archive) { a.Organisation = codec.Sum("x") }), codec.Hash{})},
		{"a policy that isn't logged", "archive", side, step(pins(now, func(a *handshake.Archive) { a.Policy = codec.Sum("x") }), codec.Hash{})},
		{"an escrow epoch that isn't logged", "archive", side, step(pins(now, func(a *handshake.Archive) { a.Epoch = a.Policy }), codec.Hash{})},
		{"the archive that is pinned already", "archive", side, step(anything{pin: now}, codec.Hash{})},
	})

	// A server that starts again goes on where it was.
	s.stop()
	s.start("127.0.0.1:0")
	bad := with(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = bobs.GroupInfo })
	_, err := s.as(alice).Commit(t.Context(), bad)
	s.refused("after a restart", err, "groupinfo", manifest.CommitHash(bad.Statement))
	good := s.adds(side, carol)
	s.commits(side, good)
	s.enters(side, good, other)
}

// TestFounding: a conversation begins with its founder alone, and pins the
// organisation's archive.
func TestFounding(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	s.knows(bob)
	now := s.archive()
	founds := func(check handshake.Credentials, f func(side *talk, c *manifest.Commit, in *wire.CommitSubmission)) attempt {
		s.knows(alice)
		side := &talk{s: s, device: alice, conversation: codec.NewID()}
		step, err := s.groups(alice.Hash).Create(side.conversation, check)
		if err != nil {
			t.Fatal(err)
		}
		in := s.submit(side, step, nil)
		c, err := manifest.ParseCommit(in.Statement)
		if err != nil {
			t.Fatal(err)
		}
		if f != nil {
			f(side, c, in)
		}
		c.Roster = in.Roster.Root()
		s.sign(alice, c, in)
		return attempt{by: side, in: in}
	}
	named := func(a attempt, name, reason string) attempt { a.name, a.reason = name, reason; return a }
	s.attempts([]attempt{
		named(founds(anything{pin: now}, func(_ *talk, _ *manifest.Commit, in *wire.CommitSubmission) { in.GroupInfo = nil }), "without its group", "groupinfo"),
		named(founds(anything{pin: now}, func(_ *talk, c *manifest.Commit, _ *wire.CommitSubmission) { c.Conversation = codec.NewID() }), "another conversation's group", "group"),
		named(founds(anything{pin: now}, func(_ *talk, _ *manifest.Commit, in *wire.CommitSubmission) {
			in.Roster = manifest.NewRoster([]codec.Hash{alice.Hash, bob.Hash})
		}), "with somebody who isn't in the group", "roster"),
		named(founds(pins(now, func(a *handshake.Archive) { a.Organisation = codec.Hash{} }), nil), "for another organisation's archive", "archive"),
		named(founds(pins(now, func(a *handshake.Archive) { a.Policy = codec.Sum("x") }), nil), "under a policy that isn't logged", "archive"),
	})
	// A group of two that nobody saw begin.
	side, in := s.founds(alice)
	if _, err := s.groups(alice.Hash).Add(side.conversation, [][]byte{s.pkg(bob.Hash, bob.Key)}, s.credentials()); err != nil {
		t.Fatal(err)
	}
	if err := s.groups(alice.Hash).Merge(side.conversation); err != nil {
		t.Fatal(err)
	}
	e, err := s.groups(alice.Hash).Epoch(side.conversation)
	if err != nil {
		t.Fatal(err)
	}
	in.Roster = e.Roster
	s.sign(alice, s.statement(side, &client.Step{Epoch: client.Epoch{Roster: e.Roster}}), in)
	s.attempts([]attempt{{"a group that has begun elsewhere", "roster", side, in}})
}

// TestPinnedArchive: a newer policy on the log comes with the next commit, no
// commit goes back, and no message names an older one.
func TestPinnedArchive(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	sides := s.found(alice, bob)
	side, other := sides[0], sides[1]
	old := s.archive()
	_, _, index := side.send("under the first policy", nil)
	d := side.draft("sealed under the first policy", index)
	policy := s.State.Policy().Policy
	policy.Version++
	s.Add(&policy, s.Two()...)
	// The policy alone forbids nothing for three days: what is pinned does.
	late := side.submission(d)
	if _, err := s.as(alice).Send(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	side.seq, side.prev = side.seq+1, d.Core
	in := s.removes(side)
	s.commits(side, in)
	s.enters(side, in, other)

	back, err := s.groups(bob.Hash).Remove(side.conversation, nil, anything{pin: old})
	if err != nil {
		t.Fatal(err)
	}
	s.attempts([]attempt{{"an archive that was pinned before", "archive", other, s.submit(other, back, nil)}})

	d = side.draft("x", index)
	d.header.PolicyLeaf = old.Policy
	side.seal(d, "under the policy of before", index)
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("a policy older than the one pinned", err, "header", d.Core)
	side.send("under the policy that is pinned", nil)
}

// present returns the epoch that a side is in.
func (s *stage) present(t *talk) (*client.Epoch, *wire.Group) {
	s.t.Helper()
	e, err := s.groups(t.device.Hash).Epoch(t.conversation)
	if err != nil {
		s.t.Fatal(err)
	}
	g, err := s.as(t.device).Group(s.t.Context(), t.conversation)
	if err != nil {
		s.t.Fatal(err)
	}
	return e, g
}

// joins makes a device's external commit, from what a side of the conversation
// knows.
func (s *stage) joins(from *talk, device *orgtest.Device) (*talk, *wire.CommitSubmission) {
	s.t.Helper()
	s.knows(device)
	e, g := s.present(from)
	step, err := s.groups(device.Hash).Rejoin(e, g.GroupInfo, g.Tree, anything{pin: s.archive()})
	if err != nil {
		s.t.Fatal(err)
	}
	side := &talk{s: s, device: device, conversation: from.conversation, statement: from.statement}
	return side, s.submit(side, step, nil)
}

// TestExternalCommits: by an external commit come back whoever is in a
// conversation, and other devices of its members that these have let in. Nobody
// else joins, whoever tells them all there is to know.
func TestExternalCommits(t *testing.T) {
	s := newStage(t)
	alice, bob, carol, revoked := s.NewMember(), s.NewMember(), s.NewMember(), s.NewMember()
	sides := s.found(alice, bob, carol, revoked)
	side := sides[0]
	removal := s.removes(side, carol.Hash)
	s.commits(side, removal)
	s.enters(side, removal, sides[1])
	stranger, invited := s.NewMember(), s.Device(alice.Member)
	carols := s.Enrol(carol.Member, carol.Key)
	phone := s.Enrol(alice.Member, alice.Key)
	lost := s.Enrol(alice.Member, alice.Key)
	s.Add(&control.Revocation{Device: revoked.Hash}, s.Officers[0])
	s.Add(&control.Revocation{Device: lost.Hash}, s.Officers[0])

	attempted := func(name, reason string, device *orgtest.Device) attempt {
		by, in := s.joins(side, device)
		return attempt{name, reason, by, in}
	}
	s.attempts([]attempt{
		attempted("a stranger", "join", stranger),
		attempted("a device of a member's that came by an invitation", "join", invited),
		attempted("a device that was removed", "join", carol),
		attempted("a device let in by one that was removed", "join", carols),
	})
	for _, device := range []*orgtest.Device{revoked, lost} {
		_, in := s.joins(side, device)
		if _, err := s.as(device).Commit(t.Context(), in); err == nil {
			t.Error("a revoked device joins")
		}
	}
	// One that the member's other device let in joins, and is asked for nothing.
	ids, err := s.as(phone).Elsewhere(t.Context())
	if err != nil || len(ids) != 1 || ids[0] != side.conversation {
		t.Fatalf("the phone finds %v, %v", ids, err)
	}
	if _, err := s.as(stranger).Group(t.Context(), side.conversation); err == nil {
		t.Error("a stranger is told where the group stands")
	}
	third, in := s.joins(side, phone)
	late, lateIn := s.joins(side, phone)
	s.commits(third, in)
	third.at(in)
	for _, o := range sides[:2] {
		if _, err := s.groups(o.device.Hash).Process(side.conversation, in.Commit, s.credentials()); err != nil {
			t.Fatal(err)
		}
		o.at(in)
	}
	s.attempts([]attempt{{"the same device once more, of the epoch before", "epoch", late, lateIn}})
	// Whoever is in it takes its own place again, after a restart of the server too.
	s.stop()
	s.start("127.0.0.1:0")
	back, in := s.joins(side, bob)
	before := len(in.Roster)
	s.commits(back, in)
	if _, err := s.groups(alice.Hash).Process(side.conversation, in.Commit, s.credentials()); err != nil {
		t.Fatal(err)
	}
	side.at(in)
	if len(side.roster) != before || !side.roster.Contains(bob.Hash) {
		t.Errorf("%d devices, %d before", len(side.roster), before)
	}
	if ids, err := s.as(phone).Elsewhere(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("the phone finds %v, %v", ids, err)
	}
}
