package api_test

import (
	"fmt"
	"slices"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/manifest"
)

// directStep signs the next statement of a direct conversation.
func (s *stage) directStep(t *talk, roster manifest.Roster, members []codec.ID) *wire.CommitSubmission {
	s.t.Helper()
	direct := manifest.NewDirect(members, roster, t.roster)
	c := &manifest.Commit{
		Organisation: s.ID, Conversation: t.conversation, Device: t.device.Hash, Roster: roster.Root(), Message: direct.Hash(),
	}
	if !t.statement.IsZero() {
		c.Epoch, c.Previous = t.epoch+1, t.statement
	}
	in := &wire.CommitSubmission{Roster: roster, Commit: direct.Encode()}
	s.sign(t.device, c, in)
	return in
}

func (t *talk) state(roster manifest.Roster, members []codec.ID) {
	t.s.t.Helper()
	in := t.s.directStep(t, roster, members)
	if _, err := t.s.as(t.device).Commit(t.s.t.Context(), in); err != nil {
		t.s.t.Fatal(err)
	}
	if !t.statement.IsZero() {
		t.epoch++
	}
	t.statement, t.roster = manifest.CommitHash(in.Statement), roster
}

// copies gives a draft a ciphertext for each device, which name it.
func (d *draft) copies(to manifest.Roster) {
	var bodies [][]byte
	for _, h := range to {
		bodies = append(bodies, fmt.Appendf(nil, "for %s", h))
	}
	d.encode(bodies)
}

func (d *draft) encode(bodies [][]byte) {
	d.ciphertext, d.transport.Ciphertexts = manifest.EncodeCopies(bodies), manifest.CopyHashes(bodies)
}

// TestDirectRefusals: the server judges the statements and copies of direct
// conversations, and gives each device its own.
func TestDirectRefusals(t *testing.T) {
	s := newStage(t)
	alice, bob, carol := s.NewMember(), s.NewMember(), s.NewMember()
	phone := s.Device(alice.Member)
	members := []codec.ID{alice.Member, bob.Member}
	all := manifest.NewRoster([]codec.Hash{alice.Hash, phone.Hash, bob.Hash})
	side := &talk{s: s, device: alice, conversation: codec.NewID()}

	change := func(f func(c *manifest.Commit, in *wire.CommitSubmission)) *wire.CommitSubmission {
		in := s.directStep(side, all, members)
		c, err := manifest.ParseCommit(in.Statement)
		if err != nil {
			t.Fatal(err)
		}
		f(c, in)
		s.sign(alice, c, in)
		return in
	}
	roster := func(devices ...codec.Hash) func(c *manifest.Commit, in *wire.CommitSubmission) {
		return func(c *manifest.Commit, in *wire.CommitSubmission) {
			in.Roster = manifest.NewRoster(devices)
			c.Roster = in.Roster.Root()
		}
	}
	statements := func(when string) {
		t.Helper()
		for _, test := range []struct {
			name, reason string
			change       func(c *manifest.Commit, in *wire.CommitSubmission)
		}{
			{"a device left out", "roster", roster(alice.Hash, bob.Hash)},
			{"a device of another member", "roster", roster(append(slices.Clone(all), carol.Hash)...)},
			{"other members than stated", "commit", func(_ *manifest.Commit, in *wire.CommitSubmission) {
				in.Commit = manifest.NewDirect([]codec.ID{alice.Member, carol.Member}, all, side.roster).Encode()
			}},
			{"other devices new", "commit", func(c *manifest.Commit, in *wire.CommitSubmission) {
				direct := manifest.NewDirect(members, all[:1], nil)
				in.Commit, c.Message = direct.Encode(), direct.Hash()
			}},
			{"no members", "commit", func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = nil }},
			{"a Welcome", "commit", func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Welcome = []byte("welcome") }},
			{"devices added", "commit", func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Added = []codec.Hash{phone.Hash} }},
		} {
			in := change(test.change)
			_, err := s.as(alice).Commit(t.Context(), in)
			s.refused(test.name+when, err, test.reason, manifest.CommitHash(in.Statement))
		}
	}
	statements(" at first")
	side.state(all, members)
	statements(" later")

	others := []codec.ID{alice.Member, carol.Member}
	in := s.directStep(side, manifest.NewRoster([]codec.Hash{alice.Hash, phone.Hash, carol.Hash}), others)
	_, err := s.as(alice).Commit(t.Context(), in)
	s.refused("other members", err, "commit", manifest.CommitHash(in.Statement))
	in = change(func(c *manifest.Commit, in *wire.CommitSubmission) {
		in.Commit, c.Transcript, c.Message = []byte("commit"), make([]byte, 32), manifest.CiphertextHash([]byte("commit"))
	})
	_, err = s.as(alice).Commit(t.Context(), in)
	s.refused("a group of it", err, "commit", manifest.CommitHash(in.Statement))
	group := s.found(alice, bob)[0]
	in = s.directStep(group, all, members)
	_, err = s.as(alice).Commit(t.Context(), in)
	s.refused("a direct one of a group", err, "commit", manifest.CommitHash(in.Statement))

	index := side.index()
	if _, err := s.as(alice).Send(t.Context(), &wire.Submission{Message: item(index)}); err != nil {
		t.Fatal(err)
	}
	to := all.Without(alice.Hash)
	compose := func() *draft {
		d := side.draft("hello", index)
		d.copies(to)
		return d
	}
	before := s.size()
	for _, test := range []struct {
		name, reason string
		change       func(d *draft)
	}{
		{"one ciphertext", "transport", func(d *draft) { d.copies(to[:1]) }},
		{"one too many", "transport", func(d *draft) { d.copies(all) }},
		{"another hash", "transport", func(d *draft) { d.transport.Ciphertexts[0] = codec.Sum("x") }},
		{"hashes swapped", "transport", func(d *draft) { slices.Reverse(d.transport.Ciphertexts) }},
		{"none", "kind", func(d *draft) { d.ciphertext, d.transport.Ciphertexts = nil, nil }},
		{"no list", "transport", func(d *draft) { d.ciphertext = []byte("one") }},
		{"an MLS message", "transport", func(d *draft) { d.encrypt(side.conversation[:], 0, manifest.AuthenticatedData(d.Core)) }},
		{"ciphertexts too long", "size", func(d *draft) { d.encode([][]byte{make([]byte, 3<<20), make([]byte, 3<<20)}) }},
	} {
		d := compose()
		test.change(d)
		_, err := s.as(alice).Send(t.Context(), side.submission(d))
		s.refused(test.name, err, test.reason, d.Core)
	}
	if s.size() != before {
		t.Error("something of what was refused is stored")
	}

	// Nothing for a device that nobody could begin a session with.
	d := compose()
	bodies := [][]byte{[]byte("for Bob"), []byte("for Bob")}
	bodies[slices.Index(to, phone.Hash)] = nil
	d.encode(bodies)
	if _, err := s.as(alice).Send(t.Context(), side.submission(d)); err != nil {
		t.Fatal(err)
	}
	side.seq, side.prev = side.seq+1, d.Core
	s.body("Bob", bob, "for Bob")
	s.body("the phone", phone, "")
	s.body("Alice", alice, "")
	d = compose()
	if _, err := s.as(alice).Send(t.Context(), side.submission(d)); err != nil {
		t.Fatal(err)
	}
	side.seq, side.prev = side.seq+1, d.Core
	s.body("Bob", bob, "for "+bob.Hash.String())
	s.body("the phone", phone, "for "+phone.Hash.String())
	s.body("Alice", alice, "")

	// A device more: what was sealed before is refused until it is stated.
	tablet := s.Device(bob.Member)
	d = compose()
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("past a new device", err, "roster", d.Core)
	side.state(manifest.NewRoster(append(slices.Clone(all), tablet.Hash)), members)
	s.Add(&control.Revocation{Device: phone.Hash, Reason: "lost"}, s.Officers[0])
	d = compose()
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("to a revoked device", err, "roster", d.Core)
	earlier := *side
	s.stop()
	s.start("127.0.0.1:0") // which has read it all again
	side.state(manifest.NewRoster([]codec.Hash{alice.Hash, bob.Hash, tablet.Hash}), members)
	d = compose()
	d.transport.Epoch, d.transport.Roster = earlier.epoch, earlier.statement
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("under an earlier epoch", err, "epoch", d.Core)
	late := &talk{s: s, device: tablet, conversation: side.conversation, epoch: side.epoch, statement: side.statement}
	if _, err := s.as(tablet).Send(t.Context(), &wire.Submission{Message: item(late.index())}); err != nil {
		t.Errorf("the new device: %v", err)
	}
}

// body checks what a device is given of the newest message in its queue.
func (s *stage) body(name string, d *orgtest.Device, want string) {
	s.t.Helper()
	items, err := s.as(d).Queue(s.t.Context(), 0, 0)
	if err != nil || len(items) == 0 {
		s.t.Fatal(len(items), err)
	}
	if got := string(items[len(items)-1].Body); got != want {
		s.t.Errorf("%s is given %q, want %q", name, got, want)
	}
}
