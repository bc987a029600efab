package interop

import (
	"testing"

	"chancery/mls"
	"chancery/mls/tree"
)

// TestReInit ends groups with ts-mls and goes on in their successors, with
// either as the one who ends and creates (RFC 9420 §11.2).
func TestReInit(t *testing.T) {
	p := start(t, tsMLS)
	t.Run("by us", func(t *testing.T) {
		r, a, b, c := trio(t, p)
		done := must(a.Group.Commit(mls.CommitOptions{Proposals: []tree.Proposal{&tree.ReInit{
			GroupID: []byte("successor"), Version: tree.MLS10, CipherSuite: r.suite.ID(),
		}}}))(t)
		must(a.Confirm())(t)
		r.deliver(a, done.Message)
		next, first, err := a.Reinitialise(must(a.newKeyPackage())(t), parsed(t, b, c))
		r.ok(err)
		r.succeed(a, next, first, true, b, c)
	})
	t.Run("by them", func(t *testing.T) {
		r, a, b, c := trio(t, p)
		ended := must(c.do(request{Op: "reinit", Group: []byte("successor")}))(t)
		r.deliver(c, ended.Commit)
		r.follow(c, request{Op: "follow", Group: []byte("successor"), ReInit: true}, a, b)
	})
}

// TestBranch is TestReInit for groups that go on beside their branch (§11.3).
func TestBranch(t *testing.T) {
	p := start(t, tsMLS)
	t.Run("by us", func(t *testing.T) {
		r, a, b, c := trio(t, p)
		next, first, err := a.Branch([]byte("branch"), must(a.newKeyPackage())(t), nil, parsed(t, b, c))
		r.ok(err)
		r.succeed(a, next, first, false, b, c)
	})
	t.Run("by them", func(t *testing.T) {
		r, a, b, c := trio(t, p)
		r.follow(c, request{Op: "branch", Group: []byte("branch")}, a, b)
	})
}

// trio returns a group of two of ours and one of theirs.
func trio(t *testing.T, p *program) (r *room, a, b *ours, c *theirs) {
	t.Helper()
	r = newRoom(t, 1)
	a, b, c = r.client(nil).(*ours), r.client(nil).(*ours), r.client(p).(*theirs)
	r.create(a)
	r.add(a, change{}, b, c)
	return r, a, b, c
}

// parsed returns new key packages of the members.
func parsed(t *testing.T, members ...member) []*tree.KeyPackage {
	t.Helper()
	var list []*tree.KeyPackage
	for _, m := range members {
		list = append(list, must(tree.ParseMessage(must(m.keyPackage())(t)))(t).(*tree.KeyPackage))
	}
	return list
}

// succeed moves all to the group that one of ours created.
func (r *room) succeed(by *ours, next *mls.Group, first *mls.Committed, reinit bool, b *ours, c *theirs) {
	r.t.Helper()
	must(next.Confirm())(r.t)
	by.Group = next
	r.ok(b.joinAfter(first.Welcome, nil))
	must(c.do(request{Op: "joinAfter", Message: first.Welcome, ReInit: reinit}))(r.t)
	r.same()
	r.talk()
}

// follow has one of theirs create the group that others of ours move to.
func (r *room) follow(by *theirs, create request, others ...*ours) {
	r.t.Helper()
	for _, m := range others {
		create.Packages = append(create.Packages, must(m.keyPackage())(r.t))
	}
	first := must(by.do(create))(r.t)
	for _, m := range others {
		r.ok(m.joinAfter(first.Welcome, first.Tree))
	}
	r.same()
	r.talk()
}

// joinAfter joins the group that continues the one which m is in.
func (m *ours) joinAfter(welcome, ratchetTree []byte) error {
	next, err := mls.Join(m.config, m.own, welcome, ratchetTree, m.Group)
	if err == nil {
		m.Group = next
	}
	return err
}
