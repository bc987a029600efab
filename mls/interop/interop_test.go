package interop

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"chancery/mls"
	"chancery/mls/cipher"
)

// suites are what both peers and we know.
var suites = []cipher.ID{1, 2, 3, 5, 7}

// TestGroups walks a group of ours and theirs through its life, created by
// either.
func TestGroups(t *testing.T) {
	for _, name := range []string{tsMLS, coreCrypto} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, name)
			for _, id := range suites {
				t.Run(fmt.Sprintf("suite %d created by us", id), func(t *testing.T) { life(newRoom(t, id), p, nil, p) })
				t.Run(fmt.Sprintf("suite %d created by them", id), func(t *testing.T) { life(newRoom(t, id), p, p, nil) })
			}
		})
	}
}

// life is what a group goes through. The creator and the second member are of
// the given programs, nil for ours.
func life(r *room, p, creator, second *program) {
	r.t.Helper()
	a, b := r.client(creator), r.client(second)
	r.create(a)
	r.add(a, change{}, b)
	r.talk()
	r.overtake(a, b)
	r.overtake(b, a)
	c, d := r.client(creator), r.client(second)
	r.add(b, change{}, c, d)
	for _, m := range []member{a, b, c, d} {
		r.commit(m, change{})
	}
	r.talk()
	r.remove(a, b, change{})
	r.remove(d, c, change{})
	r.commit(a, change{})
	r.talk()
	e, f := r.client(nil), r.client(p)
	last := a // of theirs
	if creator == nil {
		last = d
	}
	r.commit(last, change{}) // core-crypto gives a GroupInfo with a commit alone
	r.joinExternally(e, last, false)
	r.commit(e, change{})
	r.joinExternally(f, e, false)
	r.commit(f, change{})
	r.talk()
}

// TestProposals has each side commit what the other proposes.
func TestProposals(t *testing.T) {
	for _, name := range []string{tsMLS, coreCrypto} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, name)
			for _, id := range []cipher.ID{1, 2} {
				t.Run(fmt.Sprintf("suite %d created by us", id), func(t *testing.T) { proposals(newRoom(t, id), p, nil) })
				t.Run(fmt.Sprintf("suite %d created by them", id), func(t *testing.T) { proposals(newRoom(t, id), p, p) })
			}
		})
	}
}

func proposals(r *room, p, creator *program) {
	r.t.Helper()
	first, a, b, c, d := r.client(creator), r.client(nil), r.client(nil), r.client(p), r.client(p)
	r.create(first)
	r.add(first, change{}, a, b, c, d)

	// Theirs commits an Update, an Add and a Remove of ours.
	e := r.client(nil)
	r.propose(a, change{update: true})
	r.propose(b, change{add: [][]byte{must(e.keyPackage())(r.t)}})
	r.propose(a, change{remove: r.target(d)})
	done := must(c.commit(change{pending: true}))(r.t)
	if p.name == tsMLS {
		faultReplaced(r, d, done.message)
	} else {
		r.leave(d, done.message)
	}
	r.welcome(c, done, false, e)
	r.talk()
	r.commit(a, change{})

	if p.name == coreCrypto {
		return // It has no call for proposals.
	}
	f := r.client(p)
	r.propose(c, change{add: [][]byte{must(f.keyPackage())(r.t)}})
	r.propose(c, change{remove: r.target(b), encrypt: true})
	done = must(a.commit(change{pending: true, encrypt: true}))(r.t)
	r.leave(b, done.message)
	r.welcome(a, done, false, f)
	r.talk()
}

// TestTSMLS is what core-crypto has no calls for: commits that are encrypted,
// trees that come by another way than the Welcome, PSKs, and coming back.
func TestTSMLS(t *testing.T) {
	t.Parallel()
	p := start(t, tsMLS)
	for _, id := range []cipher.ID{1, 3, 7} {
		t.Run(fmt.Sprintf("suite %d", id), func(t *testing.T) {
			r := newRoom(t, id)
			a, b, c, d := r.client(nil), r.client(p), r.client(p), r.client(nil)
			r.create(a)
			r.add(a, change{omitTree: true, encrypt: true}, b)
			r.add(b, change{omitTree: true, encrypt: true}, c, d)
			for _, m := range r.members {
				r.commit(m, change{encrypt: true})
			}
			r.talk()

			psk, secret := []byte("psk"), []byte("a secret that members share")
			for _, m := range r.members {
				r.ok(m.learnPSK(psk, secret))
			}
			r.commit(a, change{psk: psk})
			r.commit(b, change{psk: psk, encrypt: true})
			r.propose(c, change{psk: psk})
			r.commit(d, change{pending: true})
			r.propose(d, change{psk: psk, encrypt: true})
			r.commit(c, change{pending: true})
			r.talk()

			r.rejoin(a, b, true, true)
			r.rejoin(b, a, true, true)
			r.remove(a, c, change{encrypt: true})
			r.remove(b, d, change{encrypt: true})
			r.talk()
		})
	}
}

// TestAllTogether has three implementations in one group, in which members
// chosen at random commit, propose, join and leave. Newcomers aren't of ts-mls,
// which can't join every tree (TestTSMLSUnmerged).
func TestAllTogether(t *testing.T) {
	t.Parallel()
	ts, core := start(t, tsMLS), start(t, coreCrypto)
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := newRoom(t, 1)
			first := r.client(nil)
			r.create(first)
			r.add(first, change{}, r.client(ts), r.client(core), r.client(ts), r.client(core), r.client(nil))
			wander(r, core, rand.New(rand.NewPCG(seed, 0)), 40)
		})
	}
}

func wander(r *room, core *program, rng *rand.Rand, steps int) {
	r.t.Helper()
	newcomer := func() member { return r.client([]*program{nil, core}[rng.IntN(2)]) }
	for range steps {
		by := r.members[rng.IntN(len(r.members))]
		switch n := rng.IntN(10); {
		case n < 4:
			r.commit(by, change{})
		case n < 6:
			r.add(by, change{}, newcomer())
		case n < 7:
			r.joinExternally(newcomer(), r.members[0], false)
		case n < 9:
			// The first member stays, who is ours and tells where others are.
			who := r.members[1+rng.IntN(len(r.members)-1)]
			if who != by && len(r.members) > 4 {
				r.remove(by, who, change{})
			}
		default:
			r.propose(r.members[0], change{update: true})
			r.commit(r.members[1+rng.IntN(len(r.members)-1)], change{pending: true})
		}
	}
	r.talk()
}

// TestLostRace has a commit of ours lose against one of theirs.
func TestLostRace(t *testing.T) {
	for _, name := range []string{tsMLS, coreCrypto} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t, 1)
			a, b := r.client(nil).(*ours), r.client(start(t, name))
			r.create(a)
			r.add(a, change{}, b)
			lost := must(a.Group.Commit(mls.CommitOptions{Path: true}))(t)
			r.commit(b, change{})
			if !r.refused(b, lost.Message) {
				t.Fatal("a commit of an earlier epoch is taken")
			}
			r.commit(a, change{})
			r.talk()
		})
	}
}
