package client_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/client/state"
	"chancery/codec"
	"chancery/internal/wire"
	"chancery/manifest"
)

// second enrols another device of a member, let in by one that it has.
func (x *person) second(name string) *person {
	x.p.Helper()
	y := &person{p: x.p, member: x.member, dir: x.p.TB.(interface{ TempDir() string }).TempDir(), key: state.NewKey()}
	d, err := client.Enrol(x.p.Context(), x.p.cfg, client.Enrolment{
		Dir: y.dir, Key: y.key, Member: x.member, Name: name, Invitation: x.Signer(),
	})
	if err != nil {
		x.p.Fatal(err)
	}
	y.Device = d
	x.p.Cleanup(func() { y.Close() })
	return y
}

// out reports why a device isn't in a conversation, or nothing.
func (x *person) out(id codec.ID) string {
	x.p.Helper()
	c, err := x.Conversation(id)
	if err != nil {
		return err.Error()
	}
	return c.Broken
}

// TestSecondDevice: a device that another of its member let in joins the
// member's conversations by itself, and learns what they are called.
func TestSecondDevice(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	team, other := a.group("team", b), b.create("Bob's alone")
	a.say(team, "before")
	phone := a.second("Alice")
	if sum := phone.sync(); !slices.Equal(sum.Joined, []codec.ID{team}) {
		t.Fatalf("%+v", sum)
	}
	b.sync()
	b.say(team, "welcome, phone")
	a.sync()
	phone.sync()
	phone.want(team, "welcome, phone")
	if c, err := phone.Conversation(team); err != nil || c.Name != "team" || c.Devices != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	if got := phone.out(other); !strings.Contains(got, client.ErrNoConversation.Error()) {
		t.Errorf("Bob's own: %s", got)
	}
	phone.say(team, "from the phone")
	b.sync()
	b.want(team, "before", "welcome, phone", "from the phone")
	phone.restart()
	if sum := phone.sync(); len(sum.Joined)+len(sum.Problems) > 0 {
		t.Errorf("again: %+v", sum)
	}
	for _, x := range []*person{a, b, phone} {
		if n := x.Counters(); n.Faulty+n.Undecryptable+n.Mismatches+n.Unverified > 0 {
			t.Errorf("%s: %+v", x.Name(), n)
		}
	}
}

// TestInvitedDevice: a device that came by an invitation says so, and is in no
// conversation of its member until another of the member's devices admits it.
func TestInvitedDevice(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	team := a.group("team", b)
	phone := p.deviceOf(a.member, "Alice")
	sum := phone.sync()
	if len(sum.Joined) != 0 || len(sum.Warnings) != 1 || !strings.Contains(sum.Warnings[0], "device admit") {
		t.Fatalf("%+v", sum)
	}
	if err := b.Admit(t.Context(), phone.Hash()); err == nil {
		t.Error("another member's device admits it")
	}
	if err := a.Admit(t.Context(), phone.Hash()); err != nil {
		t.Fatal(err)
	}
	if sum := phone.sync(); !slices.Equal(sum.Joined, []codec.ID{team}) {
		t.Fatalf("%+v", sum)
	}
	if c, err := phone.Conversation(team); err != nil || c.Name != "team" {
		t.Errorf("%+v, %v", c, err)
	}
}

// shutOut has the server hand a device another commit in the place of the next by
// one of these, signed and receipted, that it can't follow.
func (p *party) shutOut(victim *person, id codec.ID, by ...*person) {
	p.tamper = func(to codec.Hash, d *wire.Delivery) {
		if d.Kind != wire.DeliveryCommit || to != victim.Hash() || len(d.Body) == 0 {
			return
		}
		body, err := manifest.ParseCommit(d.Manifest)
		if err != nil {
			p.Error(err)
			return
		}
		author := slices.IndexFunc(by, func(x *person) bool { return x.Hash() == body.Device })
		if author < 0 {
			return
		}
		d.Body = slices.Clone(d.Body)
		d.Body[len(d.Body)-1] ^= 1 // in the membership tag, which no server can check
		body.Message = manifest.CiphertextHash(d.Body)
		if d.Manifest, err = manifest.SignCommit(by[author].Signer(), body); err != nil {
			p.Error(err)
		}
		d.Receipt = p.receive(manifest.LeafCommit, id, manifest.CommitHash(d.Manifest))
		p.tamper = nil
	}
}

// TestShutOut: a device that can't follow a commit comes back by itself. What it
// can't read in between it excepts, and accuses nobody of it.
func TestShutOut(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.create("", b, c)
	p.shutOut(b, id, a)
	if err := a.Remove(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	a.say(id, "while Bob is out")
	sum := b.sync()
	if !slices.Equal(sum.Joined, []codec.ID{id}) || b.out(id) != "" || sum.Faulty == 0 {
		t.Fatalf("%+v, %s", sum, b.out(id))
	}
	if sum.Undecryptable+sum.Mismatches+sum.Unverified > 0 {
		t.Errorf("%+v", sum)
	}
	b.say(id, "back")
	a.sync()
	a.want(id, "while Bob is out", "back")
	a.say(id, "good")
	b.sync()
	b.want(id, "back", "good")
	b.restart()
	b.say(id, "still here")
	a.sync()
	a.want(id, "while Bob is out", "back", "good", "still here")
}

// TestComingBackCrashes: wherever a device stops while it comes back, it is in
// the group afterwards, once.
func TestComingBackCrashes(t *testing.T) {
	for _, at := range []string{"commit", "committed", "save", "saved", "answer"} {
		p := newParty(t)
		a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
		id := a.create("", b, c)
		p.shutOut(b, id, a)
		if err := a.Remove(t.Context(), id, []codec.ID{c.member}); err != nil {
			t.Fatal(err)
		}
		crash := errors.New("crash")
		if at == "answer" {
			p.lost = func(what string) bool { return what == "commit" }
		} else {
			armed := false
			b.TestOnlyStep(func(step string) error {
				armed = armed || step == "received"
				if armed && step == at {
					return crash
				}
				return nil
			})
		}
		if _, err := b.Sync(t.Context()); err == nil {
			t.Errorf("%s: nothing failed", at)
		}
		p.lost = nil
		b.TestOnlyStep(nil)
		b.restart()
		b.sync()
		if got := b.out(id); got != "" {
			t.Errorf("%s: %s", at, got)
			continue
		}
		b.say(id, "back")
		a.sync()
		a.want(id, "back")
	}
}

// TestLeftOut: the server leaves out a step of the group.
func TestLeftOut(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.group("", b)
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	for i := range p.queue {
		if p.queue[i].Kind == wire.DeliveryCommit && p.queue[i].to[b.Hash()] {
			p.queue[i].to = map[codec.Hash]bool{}
		}
	}
	p.mu.Unlock()
	if err := a.Remove(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	sum := b.sync()
	if sum.Faulty == 0 || !slices.Equal(sum.Joined, []codec.ID{id}) {
		t.Errorf("%+v", sum)
	}
	b.say(id, "back")
	a.sync()
	a.want(id, "back")
}

// TestAccusedStaysHalted: a conversation that was halted for what somebody
// signed isn't joined anew, unless the member says so.
func TestAccusedStaysHalted(t *testing.T) {
	p := newParty(t)
	a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
	id := a.group("", b)
	p.tamper = func(to codec.Hash, d *wire.Delivery) {
		if d.Kind == wire.DeliveryCommit && to == b.Hash() && len(d.Body) > 0 {
			d.Body = slices.Clone(d.Body)
			d.Body[0] ^= 1
		}
	}
	if err := a.Add(t.Context(), id, []codec.ID{c.member}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if sum := b.sync(); len(sum.Joined) > 0 || b.out(id) == "" {
			t.Fatalf("%+v", sum)
		}
	}
	p.tamper = nil
	if err := b.Rejoin(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.say(id, "back, knowing why")
	a.sync()
	a.want(id, "back, knowing why")
}

// TestFalseGroup: what the server says of a group has to be what the newest
// statement says. The device tries again, less and less often, and then no more.
func TestFalseGroup(t *testing.T) {
	for name, change := range map[string]func(first, g *wire.Group){
		"another tree":            func(first, g *wire.Group) { g.Tree = first.Tree },
		"another GroupInfo":       func(first, g *wire.Group) { g.GroupInfo = first.GroupInfo },
		"another roster":          func(first, g *wire.Group) { g.Roster = first.Roster },
		"an epoch of before":      func(first, g *wire.Group) { *g = *first },
		"another's receipt":       func(first, g *wire.Group) { g.Receipt = first.Receipt },
		"a statement of no epoch": func(_, g *wire.Group) { g.Statement = g.Statement[1:] },
		"nothing":                 func(_, g *wire.Group) { *g = wire.Group{} },
	} {
		p := newParty(t)
		a, b, c := p.person("Alice"), p.person("Bob"), p.person("Carol")
		id := a.create("", b, c)
		first, err := conn{p.fakeServer, a.Signer().PublicKey()}.Group(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		p.shutOut(b, id, a)
		if err := a.Remove(t.Context(), id, []codec.ID{c.member}); err != nil {
			t.Fatal(err)
		}
		asked := 0
		p.groups = func(g *wire.Group) { asked++; change(first, g) }
		for range 30 {
			sum := b.sync()
			if len(sum.Joined) > 0 {
				t.Fatalf("%s: joined", name)
			}
			p.advance(12 * time.Hour)
		}
		most := 10
		if name == "an epoch of before" { // in which this device still is: only the commit shows that it is over
			most = 30
		}
		if asked == 0 || asked > most {
			t.Errorf("%s: asked %d times", name, asked)
		}
		p.groups = nil
		if err := b.Rejoin(t.Context(), id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
