package interop

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"chancery/mls/cipher"
)

// room is a group as all its members see it. Whatever one of them sends, all
// others are given; after each commit all must have the same secrets.
type room struct {
	t       *testing.T
	suite   *cipher.Suite
	members []member
	clients int
}

func newRoom(t *testing.T, id cipher.ID) *room {
	t.Helper()
	return &room{t: t, suite: must(cipher.ByID(id))(t)}
}

// client returns a new client: ours where p is nil. Its identity has the form
// that core-crypto demands.
func (r *room) client(p *program) member {
	r.t.Helper()
	r.clients++
	id := fmt.Sprintf("%08x-0000-4000-8000-000000000000:%x@example.org", r.clients, r.clients)
	if p == nil {
		return newOurs(r.t, r.suite, id)
	}
	return newTheirs(r.t, p, r.suite, id)
}

// must returns a function that returns the value, or ends the test.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (r *room) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// create has a client found the group.
func (r *room) create(by member) {
	r.t.Helper()
	r.ok(by.create(r.t.Name()))
	r.members = []member{by}
}

// add has a member add newcomers, who join by the Welcome.
func (r *room) add(by member, c change, newcomers ...member) {
	r.t.Helper()
	for _, n := range newcomers {
		c.add = append(c.add, must(n.keyPackage())(r.t))
	}
	r.welcome(by, must(by.commit(c))(r.t), c.omitTree, newcomers...)
}

// welcome delivers a commit and the Welcome that goes with it.
func (r *room) welcome(by member, done committed, omitTree bool, newcomers ...member) {
	r.t.Helper()
	r.deliver(by, done.message)
	for _, n := range newcomers {
		var ratchetTree []byte
		if omitTree {
			ratchetTree = done.tree
		}
		r.ok(n.join(done.welcome, ratchetTree))
		r.members = append(r.members, n)
	}
	r.same()
}

// commit has a member commit.
func (r *room) commit(by member, c change) {
	r.t.Helper()
	r.deliver(by, must(by.commit(c))(r.t).message)
	r.same()
}

// remove has a member remove another.
func (r *room) remove(by, who member, c change) {
	r.t.Helper()
	c.remove = r.target(who)
	done := must(by.commit(c))(r.t)
	r.leave(who, done.message)
	r.deliver(by, done.message)
	r.same()
	if !r.refused(who, must(by.encrypt([]byte("secret")))(r.t)) {
		r.t.Fatal("a removed member reads on")
	}
}

// leave gives a member the commit that removes it.
func (r *room) leave(who member, commit []byte) {
	r.t.Helper()
	r.members = slices.DeleteFunc(r.members, func(m member) bool { return m == who })
	if got := must(who.process(commit))(r.t); !got.removed {
		r.t.Fatalf("%s didn't notice its removal", who.identity())
	}
}

func (r *room) refused(m member, message []byte) bool {
	_, err := m.process(message)
	return err != nil
}

// propose has a member propose, for a later commit.
func (r *room) propose(by member, c change) {
	r.t.Helper()
	r.deliver(by, must(by.propose(c))(r.t))
}

// deliver gives a message to all but its sender.
func (r *room) deliver(from member, message []byte) {
	r.t.Helper()
	if len(message) == 0 {
		r.t.Fatal("there is no message")
	}
	for _, m := range r.members {
		if m == from {
			continue
		}
		if _, err := m.process(message); err != nil {
			r.t.Fatalf("%s of %s: %v", m.identity(), from.identity(), err)
		}
	}
}

// joinExternally has a client join by an external commit, with a member's
// GroupInfo.
func (r *room) joinExternally(who, with member, omitTree bool) {
	r.t.Helper()
	r.rejoin(who, with, omitTree, false)
}

// rejoin is joinExternally; with resync, the client replaces its own leaf.
func (r *room) rejoin(who, with member, omitTree, resync bool) {
	r.t.Helper()
	var j externalJoin
	var err error
	j.info, j.tree, err = with.groupInfo(omitTree)
	r.ok(err)
	if !omitTree {
		j.tree = nil
	}
	if resync {
		leaf := r.target(who).leaf
		j.former = &leaf
		r.members = slices.DeleteFunc(r.members, func(m member) bool { return m == who })
	}
	commit := must(who.joinExternally(j))(r.t)
	r.deliver(who, commit)
	r.members = append(r.members, who)
	r.same()
}

// target tells where a member is, as one of ours sees it.
func (r *room) target(who member) *target {
	r.t.Helper()
	for _, m := range r.members {
		if m, ok := m.(*ours); ok {
			if leaf, ok := m.at(who.identity()); ok {
				return &target{identity: who.identity(), leaf: leaf}
			}
		}
	}
	r.t.Fatalf("nobody of ours sees %s", who.identity())
	return nil
}

// same verifies that all members agree.
func (r *room) same() {
	r.t.Helper()
	first := must(r.members[0].epoch())(r.t)
	for _, m := range r.members[1:] {
		if err := first.same(must(m.epoch())(r.t)); err != nil {
			r.t.Fatalf("%s and %s: %v", r.members[0].identity(), m.identity(), err)
		}
	}
}

// talk has each member send a message, which all others read.
func (r *room) talk() {
	r.t.Helper()
	for _, from := range r.members {
		text := []byte("from " + from.identity())
		message := must(from.encrypt(text))(r.t)
		for _, to := range r.members {
			if to != from {
				r.reads(to, message, text)
			}
		}
	}
}

// overtake has a member's messages read in another order than they were sent,
// one of them in the next epoch, and none of them twice.
func (r *room) overtake(from, to member) {
	r.t.Helper()
	messages := make([][]byte, 3)
	for i := range messages {
		messages[i] = must(from.encrypt([]byte{byte(i)}))(r.t)
	}
	r.reads(to, messages[1], []byte{1})
	r.reads(to, messages[0], []byte{0})
	r.commit(from, change{})
	r.reads(to, messages[2], []byte{2})
	for _, m := range messages {
		if !r.refused(to, m) {
			r.t.Fatalf("%s reads a message twice", to.identity())
		}
	}
}

func (r *room) reads(to member, message, want []byte) {
	r.t.Helper()
	got, err := to.process(message)
	if err != nil {
		r.t.Fatalf("%s: %v", to.identity(), err)
	}
	if !bytes.Equal(got.data, want) {
		r.t.Fatalf("%s read %q for %q", to.identity(), got.data, want)
	}
}
