package api_test

import (
	"slices"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/manifest"
)

// TestRefusals changes one thing of a good message at a time: each is refused
// by its own name, signed, and nothing of it is stored.
func TestRefusals(t *testing.T) {
	s := newStage(t)
	alice, bob, carol := s.NewMember(), s.NewMember(), s.NewMember()
	sides, elsewhere := s.found(alice, bob), s.found(alice, carol)
	side := sides[0]
	in, _, index := side.send("one", nil)
	_, _, otherIndex := elsewhere[0].send("elsewhere", nil)
	earlier, err := manifest.Parse(in.Message.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	before := s.size()

	reseal := func(change func(h *envelope.Header)) func(d *draft) {
		return func(d *draft) { change(d.header); side.seal(d, "changed", index) }
	}
	month, _ := s.State.Month(s.Month)
	unopened := s.AddMonthUnopened(month.Month.Month - 1)
	tests := []struct {
		name   string
		reason string
		change func(d *draft)
	}{
		{"another organisation", "header", reseal(func(h *envelope.Header) { h.Organisation = codec.Sum("x") })},
		{"unknown policy", "header", reseal(func(h *envelope.Header) { h.PolicyLeaf = codec.Sum("x") })},
		{"escrow key whose canary nobody opened", "header", reseal(func(h *envelope.Header) { h.EscrowKey = unopened })},
		{"a day long past", "header", reseal(func(h *envelope.Header) { h.Day -= 5 })},
		{"a day to come", "header", reseal(func(h *envelope.Header) { h.Day += 2 })},
		{"kind index with the parts of a record", "kind", reseal(func(h *envelope.Header) { h.Kind = envelope.KindIndex })},
		{"kind void", "kind", reseal(func(h *envelope.Header) { h.Kind = envelope.KindVoid })},
		{"no such conversation", "conversation", func(d *draft) {
			d.header.Conversation = codec.NewID()
			side.seal(d, "x", index)
			d.encrypt(d.header.Conversation[:], side.epoch, manifest.AuthenticatedData(d.Core))
		}},
		{"an epoch to come", "epoch", func(d *draft) {
			d.transport.Epoch = side.epoch + 1
			d.encrypt(side.conversation[:], side.epoch+1, manifest.AuthenticatedData(d.Core))
		}},
		{"another conversation's roster", "roster", func(d *draft) { d.transport.Roster = elsewhere[0].statement }},
		{"a roster that nobody stated", "roster", func(d *draft) { d.transport.Roster = codec.Sum("x") }},
		{"a number ahead", "seq", reseal(func(h *envelope.Header) { h.Seq++ })},
		{"a number that is taken", "seq", reseal(func(h *envelope.Header) { h.Seq = 0; h.Prev = codec.Hash{} })},
		{"another core before", "chain", reseal(func(h *envelope.Header) { h.Prev = codec.Sum("x") })},
		{"a proof of another core", "proof", func(d *draft) { d.Proof = earlier.Proof }},
		{"an envelope copied from another message", "proof", func(d *draft) {
			d.Envelope, _ = envelope.Parse(in.Message.Envelope)
		}},
		{"another ciphertext in the envelope", "envelope", func(d *draft) {
			changed := *d.Envelope
			changed.Ciphertext = append([]byte(nil), changed.Ciphertext...)
			changed.Ciphertext[0] ^= 1
			d.Envelope = &changed
		}},
		{"another ciphertext than stated", "transport", func(d *draft) { d.ciphertext[len(d.ciphertext)-1] ^= 1 }},
		{"no ciphertext", "transport", func(d *draft) { d.ciphertext = nil }},
		{"none stated", "kind", func(d *draft) { d.transport.Ciphertexts = nil }},
		{"two stated", "transport", func(d *draft) { d.transport.Ciphertexts = append(d.transport.Ciphertexts, codec.Hash{}) }},
		{"authenticated data of another core", "binding", func(d *draft) {
			d.encrypt(side.conversation[:], side.epoch, manifest.AuthenticatedData(earlier.CoreHash()))
		}},
		{"ciphertext of another group", "binding", func(d *draft) {
			d.encrypt(elsewhere[0].conversation[:], side.epoch, manifest.AuthenticatedData(d.Core))
		}},
		{"ciphertext of another epoch", "binding", func(d *draft) {
			d.encrypt(side.conversation[:], side.epoch+1, manifest.AuthenticatedData(d.Core))
		}},
		{"no MLS message", "binding", func(d *draft) {
			d.ciphertext = []byte("plain")
			d.transport.Ciphertexts = []codec.Hash{manifest.CiphertextHash(d.ciphertext)}
		}},
		{"no index", "kind", func(d *draft) { d.transport.Index = codec.Hash{} }},
		{"an index that nobody sent", "index", func(d *draft) { d.transport.Index = codec.Sum("x") }},
		{"a record as index", "index", func(d *draft) { d.transport.Index = earlier.CoreHash() }},
		{"another conversation's index", "index", func(d *draft) { d.transport.Index = otherIndex.Core }},
		{"an index of another day", "index", func(d *draft) {
			d.header.Day--
			if control.MonthOf(d.header.Day) != month.Month.Month {
				d.header.Day += 2 // the first of a month: a day ahead is refused as such
			}
			side.seal(d, "x", index)
		}},
		{"tags out of form", "tags", func(d *draft) { d.Tags = d.Tags[1:] }},
		{"tags of no full bucket", "tags", func(d *draft) { d.Tags = d.Tags[5:] }},
		{"other tags than stated", "tags", func(d *draft) { d.Tags = append([]byte(nil), d.Tags...); d.Tags[0] ^= 1 }},
		{"an attachment that isn't stored", "attachment", func(d *draft) {
			d.Body.Attachments = []codec.Hash{codec.Sum("file")}
			d.Reprove(t)
			d.encrypt(side.conversation[:], side.epoch, manifest.AuthenticatedData(d.Core))
		}},
		{"an envelope out of its one form", "size", func(d *draft) {
			changed := *d.Envelope
			changed.Ciphertext = changed.Ciphertext[1:]
			d.Envelope = &changed
		}},
	}
	for _, test := range tests {
		d := side.draft("a message that is refused", index)
		test.change(d)
		want := test.reason
		if test.name == "an index of another day" && d.header.Day > envelope.DayOf(s.Now()) {
			want = "header"
		}
		_, err := s.as(alice).Send(t.Context(), side.submission(d))
		s.refused(test.name, err, want, d.Core)
	}

	d := side.draft("signed by another device", index)
	d.Sign(t, bob.Key, d.transport)
	_, err = s.as(alice).Send(t.Context(), &wire.Submission{Message: item(d.Message), Ciphertext: d.ciphertext})
	s.refused("another device's signature", err, "signature", d.Core)
	// Carol isn't in the conversation.
	outsider := &talk{s: s, device: carol, conversation: side.conversation, epoch: side.epoch, statement: side.statement}
	d = outsider.draft("x", index)
	_, err = s.as(carol).Send(t.Context(), outsider.submission(d))
	s.refused("a device from outside", err, "roster", d.Core)
	// An index envelope that the message doesn't name.
	d = side.draft("x", index)
	sub := side.submission(d)
	stray := s.SealCore(side.header(envelope.KindIndex), nil)
	stray.Sign(t, alice.Key, side.transport())
	first := item(stray)
	sub.Index = &first
	_, err = s.as(alice).Send(t.Context(), sub)
	s.refused("an index envelope that the message doesn't name", err, "index", d.Core)

	if after := s.size(); after != before {
		t.Fatalf("%d leaves before the refusals, %d after", before, after)
	}
	side.send("and the conversation goes on", index)
}

func (s *stage) size() int64 {
	s.t.Helper()
	status, err := s.anyone.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return status.MessagesSize
}

// A revoked device sends nothing more, from the moment that the revocation is
// logged.
func TestRevokedDevice(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	_, _, index := side.send("one", nil)
	s.Add(&control.Revocation{Device: alice.Hash, Reason: "lost"}, s.Officers[0])
	d := side.draft("after", index)
	if _, err := s.as(alice).Send(t.Context(), side.submission(d)); err == nil {
		t.Fatal("a revoked device was heard")
	}
}

// Whoever speaks to a roster that still has a revoked device is told to remove
// it first; after that the same message goes, also after a restart.
func TestRevokedInTheRoster(t *testing.T) {
	s := newStage(t)
	alice, bob, carol := s.NewMember(), s.NewMember(), s.NewMember()
	side := s.found(alice, bob, carol)[0]
	_, _, index := side.send("one", nil)
	s.Add(&control.Revocation{Device: carol.Hash, Reason: "lost"}, s.Officers[0])
	for range 2 {
		d := side.draft("after", index)
		_, err := s.as(alice).Send(t.Context(), side.submission(d))
		s.refused("a message for a revoked device", err, "epoch", d.Core)
		s.stop()
		s.start("127.0.0.1:0")
	}
	in := s.removes(side, carol.Hash)
	s.commits(side, in)
	side.at(in)
	side.send("after", nil)
}

func TestVoids(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	_, _, index := side.send("one", nil)

	refusedDraft := side.draft("refused", index)
	refusedDraft.ciphertext[len(refusedDraft.ciphertext)-1] ^= 1
	_, err := s.as(alice).Send(t.Context(), side.submission(refusedDraft))
	r := s.refused("a message", err, "transport", refusedDraft.Core)
	void := func(seq uint64, core codec.Hash, refusal []byte) error {
		raw, err := manifest.SignVoid(alice.Key, &manifest.Void{
			Organisation: s.ID, Device: alice.Hash, Conversation: side.conversation, Seq: seq, Core: core, Refusal: refusal,
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.as(alice).Void(t.Context(), raw)
		return err
	}
	other := codec.Sum("another core")
	s.refused("a void of what was never refused", void(side.seq, other, r.Refusal), "proof", other)
	forged, err := manifest.SignRefusal(alice.Key, &manifest.Refusal{Core: other, Reason: "none"})
	if err != nil {
		t.Fatal(err)
	}
	s.refused("a void with a refusal of its own making", void(side.seq, other, forged), "proof", other)
	s.refused("a void of another number", void(side.seq+1, refusedDraft.Core, r.Refusal), "seq", refusedDraft.Core)
	for range 2 { // the second is a retry
		if err := void(side.seq, refusedDraft.Core, r.Refusal); err != nil {
			t.Fatal(err)
		}
	}
	// What was voided stays so, and the chain goes on from it.
	_, err = s.as(alice).Send(t.Context(), side.submission(side.draft("x", index)))
	if err == nil {
		t.Fatal("a voided number was taken")
	}
	good := refusedDraft
	good.ciphertext[len(good.ciphertext)-1] ^= 1
	_, err = s.as(alice).Send(t.Context(), side.submission(good))
	s.refused("the refused core after its void", err, "seq", good.Core)
	side.seq, side.prev = side.seq+1, refusedDraft.Core
	side.send("after the void", index)
	items, err := s.as(bob).Queue(t.Context(), 0, 0)
	if err != nil || !slices.ContainsFunc(items, func(d wire.Delivery) bool { return d.Kind == wire.DeliveryVoid }) {
		t.Fatalf("bob isn't told of the void: %d items, %v", len(items), err)
	}
	if items, _ = bodies(items, nil); len(items) != 3 {
		t.Fatalf("%d items", len(items))
	}
}

func TestCommits(t *testing.T) {
	s := newStage(t)
	alice, bob, carol := s.NewMember(), s.NewMember(), s.NewMember()
	sides := s.found(alice, bob)
	side, other := sides[0], sides[1]
	_, _, index := side.send("before", nil)
	s.knows(carol)

	// What a submission says of itself. What the group says of it: TestJudging.
	change := func(f func(c *manifest.Commit, in *wire.CommitSubmission)) *wire.CommitSubmission {
		in := s.adds(side, carol)
		c, err := manifest.ParseCommit(in.Statement)
		if err != nil {
			t.Fatal(err)
		}
		f(c, in)
		s.sign(alice, c, in)
		return in
	}
	again := func() *wire.CommitSubmission {
		_, in := s.founds(bob)
		c, err := manifest.ParseCommit(in.Statement)
		if err != nil {
			t.Fatal(err)
		}
		c.Conversation = side.conversation
		s.sign(bob, c, in)
		return in
	}
	tests := []struct {
		name, reason string
		by           *orgtest.Device
		in           *wire.CommitSubmission
	}{
		{"another organisation", "header", alice, change(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Organisation = codec.Sum("x") })},
		{"another conversation", "conversation", alice, change(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Conversation = codec.NewID() })},
		{"an epoch too far", "epoch", alice, change(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Epoch++ })},
		{"another epoch before", "epoch", alice, change(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Previous = codec.Sum("x") })},
		{"another roster", "roster", alice, change(func(c *manifest.Commit, _ *wire.CommitSubmission) { c.Roster = codec.Sum("x") })},
		{"no commit", "commit", alice, change(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = nil })},
		{"another commit", "commit", alice, change(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Commit = []byte("other") })},
		{"a Welcome for nobody", "commit", alice, change(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Added = nil })},
		{"a Welcome for another", "commit", alice, change(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Added = []codec.Hash{bob.Hash} })},
		{"no Welcome", "commit", alice, change(func(_ *manifest.Commit, in *wire.CommitSubmission) { in.Welcome = nil })},
		{"a device that isn't enrolled", "roster", alice, change(func(c *manifest.Commit, in *wire.CommitSubmission) {
			in.Added = []codec.Hash{codec.Sum("nobody")}
			in.Roster = manifest.NewRoster([]codec.Hash{alice.Hash, bob.Hash, in.Added[0]})
			c.Roster = in.Roster.Root()
		})},
		{"a conversation that exists", "conversation", bob, again()},
	}
	for _, test := range tests {
		_, err := s.as(test.by).Commit(t.Context(), test.in)
		s.refused(test.name, err, test.reason, manifest.CommitHash(test.in.Statement))
	}

	// Two commits for one epoch: the first wins, the loser is told to catch up.
	winner, loser := s.adds(side, carol), s.adds(other, carol)
	raw, err := s.as(alice).Commit(t.Context(), winner)
	if err != nil {
		t.Fatal(err)
	}
	retry, err := s.as(alice).Commit(t.Context(), winner)
	if err != nil || string(retry[0]) != string(raw[0]) {
		t.Fatalf("a retry got another receipt, or %v", err)
	}
	_, err = s.as(bob).Commit(t.Context(), loser)
	s.refused("the loser", err, "epoch", manifest.CommitHash(loser.Statement))

	// Carol gets the Welcome and nothing from before; Bob gets the commit.
	items, err := s.as(carol).Queue(t.Context(), 0, 0)
	if err != nil || len(items) != 1 || items[0].Kind != wire.DeliveryWelcome || string(items[0].Body) != string(winner.Welcome) {
		t.Fatalf("carol: %+v, %v", items, err)
	}
	items, err = bodies(s.as(bob).Queue(t.Context(), 0, 0))
	if err != nil || len(items) != 3 || items[2].Kind != wire.DeliveryCommit || string(items[2].Body) != string(winner.Commit) {
		t.Fatalf("bob: %d items, %v", len(items), err)
	}
	// A message of the epoch before still comes through to those who can read it,
	// as long as nobody was removed.
	d := side.draft("on its way when Carol joined", index)
	if _, err := s.as(alice).Send(t.Context(), side.submission(d)); err != nil {
		t.Fatal(err)
	}
	side.seq, side.prev = side.seq+1, d.Core
	if items, err = s.as(carol).Queue(t.Context(), items[0].Cursor, 0); err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if it.Kind == wire.DeliveryMessage && len(it.Body) > 0 {
			t.Fatal("carol got a message of an epoch before her first")
		}
	}
	// After a removal it does not, and the index key that the removed one has is
	// of no more use.
	s.enters(side, winner, other)
	removal := s.removes(side, bob.Hash)
	s.commits(side, removal)
	d = side.draft("an epoch too late", index)
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("a message for a removed device", err, "epoch", d.Core)
	side.at(removal)
	d = side.draft("an index too old", index)
	_, err = s.as(alice).Send(t.Context(), side.submission(d))
	s.refused("an index key that a removed device has", err, "index", d.Core)
	other.at(removal)
	d = other.draft("from a removed device", index)
	_, err = s.as(bob).Send(t.Context(), other.submission(d))
	s.refused("a removed device", err, "roster", d.Core)
	side.send("without Bob", nil)
	// Bob learns that he was removed, and nothing after.
	items, err = s.as(bob).Queue(t.Context(), 0, 0)
	if err != nil || len(items) == 0 || items[len(items)-1].Kind != wire.DeliveryCommit || string(items[len(items)-1].Manifest) != string(removal.Statement) {
		t.Fatalf("bob: %d items, %v", len(items), err)
	}
}

// Who waits is woken by what comes, and not before.
func TestWakeUp(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	side := s.found(alice, bob)[0]
	items, err := s.as(bob).Queue(t.Context(), 0, 0)
	if err != nil || len(items) != 1 {
		t.Fatal(len(items), err)
	}
	started := time.Now()
	woken := make(chan time.Duration, 1)
	go func() {
		got, err := bodies(s.as(bob).Queue(t.Context(), items[0].Cursor, 30*time.Second))
		if err != nil || len(got) != 1 || got[0].Kind != wire.DeliveryMessage {
			t.Errorf("got %d items, %v", len(got), err)
		}
		woken <- time.Since(started)
	}()
	time.Sleep(200 * time.Millisecond)
	side.send("wake up", nil)
	if after := <-woken; after < 200*time.Millisecond || after > 10*time.Second {
		t.Fatalf("woken after %s", after)
	}
	if got, err := bodies(s.as(alice).Queue(t.Context(), 0, time.Second)); err != nil || len(got) != 2 {
		t.Fatalf("got %d items, %v", len(got), err)
	}
}
