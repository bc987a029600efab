package group_test

import (
	"errors"
	"testing"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/mls"
	"chancery/mls/tree"
)

// pinned returns the policy that a group pins, as one device shows another.
func (d *device) pinned(id codec.ID) codec.Hash {
	d.w.t.Helper()
	ct := d.send(id, "what is pinned")
	for _, reader := range d.w.readers {
		if reader.hash != d.hash {
			return must[*client.Plaintext](d.w.t)(reader.Decrypt(id, ct)).Policy
		}
	}
	d.w.t.Fatal("nobody reads")
	return codec.Hash{}
}

// TestArchiveIsBroughtUpToDate: whatever a commit is for, it brings the newest
// archive, and none leads back.
func TestArchiveIsBroughtUpToDate(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	w.readers = []*device{a, b}
	id := codec.NewID()
	w.found(id, a, b)
	first := w.log[0]
	if got := a.pinned(id); got != first {
		t.Fatalf("founded under %s, want %s", got.Short(), first.Short())
	}
	second := codec.Sum("policy 2")
	w.log = append(w.log, second)
	step := must[*client.Step](t)(b.Renew(id, w))
	b.Merge(id)
	must[*client.Epoch](t)(a.Process(id, step.Commit, w))
	if got := a.pinned(id); got != second {
		t.Fatalf("after a commit %s, want %s", got.Short(), second.Short())
	}
	// A message of the epoch before is of what was pinned then: see client.

	// Who hasn't read the log as far leads nowhere.
	behind := newWorld(t)
	behind.keys, behind.log = w.keys, w.log[:1]
	step = must[*client.Step](t)(a.Add(id, [][]byte{c.pkg()}, behind))
	a.Merge(id)
	must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	must[*client.Epoch](t)(c.Join(step.Welcome, w))
	if got := b.pinned(id); got != second {
		t.Fatalf("led back to %s", got.Short())
	}
	b.restart()
	if got := b.pinned(id); got != second {
		t.Fatalf("after a restart %s", got.Short())
	}
	// And who wants to lead back is refused.
	liar := &liar{world: w, pin: first}
	step = must[*client.Step](t)(a.Renew(id, liar))
	if _, err := b.Process(id, step.Commit, w); !errors.Is(err, handshake.ErrArchive) {
		t.Errorf("led back: %v", err)
	}
	liar.pin = codec.Sum("policy of nobody")
	step = must[*client.Step](t)(a.Renew(id, liar))
	if _, err := b.Process(id, step.Commit, w); !errors.Is(err, handshake.ErrArchive) {
		t.Errorf("a policy that isn't logged: %v", err)
	}
}

// liar are credentials of a member who pins what it likes.
type liar struct {
	*world
	pin codec.Hash
}

func (l *liar) Newest() (handshake.Archive, error) { return handshake.Archive{Policy: l.pin}, nil }

func (l *liar) Pinned(*handshake.Archive, handshake.Archive) error { return nil }

// TestEarlierVersions: a group in which somebody doesn't know the archive has
// none, and has it from the commit on after which all know it.
func TestEarlierVersions(t *testing.T) {
	w := newWorld(t)
	earlier, b, c := newInsider(w, "of an earlier version"), w.device("b"), w.device("c")
	w.readers = []*device{b, c}
	id := codec.NewID()
	earlier.create(id[:])
	earlier.invites(b, c)
	if got := b.pinned(id); !got.IsZero() {
		t.Fatalf("pins %s, which one of its members doesn't know", got.Short())
	}
	step := must[*client.Step](t)(b.Renew(id, w))
	info := must[tree.Message](t)(tree.ParseMessage(step.GroupInfo)).(*tree.GroupInfo)
	if _, ok := info.Extensions.Find(tree.ExtensionRatchetTree); !ok {
		t.Error("a GroupInfo without the tree, which no server can have")
	}
	b.Merge(id)
	must[*client.Epoch](t)(c.Process(id, step.Commit, w))
	step = must[*client.Step](t)(c.Remove(id, []codec.Hash{earlier.device.hash}, w))
	c.Merge(id)
	must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	if got := b.pinned(id); got != w.log[0] {
		t.Fatalf("pins %s, want %s", got.Short(), w.log[0].Short())
	}
	step = must[*client.Step](t)(b.Renew(id, w))
	info = must[tree.Message](t)(tree.ParseMessage(step.GroupInfo)).(*tree.GroupInfo)
	if _, ok := info.Extensions.Find(tree.ExtensionRatchetTree); ok {
		t.Error("a GroupInfo with the tree, which the server has")
	}
	if _, err := b.Add(id, [][]byte{earlier.keyPackage(0).Message()}, w); err == nil {
		t.Error("added a device that doesn't know what the group pins")
	}
}

// TestNoArchive: a group whose members all know the archive and which pins none,
// or one of its own making, isn't entered, nor led to.
func TestNoArchive(t *testing.T) {
	for name, archive := range map[string]*handshake.Archive{"none": nil, "one that isn't logged": {Policy: codec.Sum("x")}} {
		w := newWorld(t)
		i, b := newInsider(w, "insider"), w.device("b")
		i.knows = []tree.ExtensionType{handshake.ExtensionArchive}
		id := codec.NewID()
		var x tree.Extensions
		if archive != nil {
			x = archive.Extensions()
		}
		i.create(id[:], x...)
		welcome := must[*mls.Committed](t)(i.Commit(mls.CommitOptions{Proposals: adds(t, b.pkg())})).Welcome
		if _, err := b.Join(welcome, w); !errors.Is(err, handshake.ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The last who didn't know it goes, and the commit brings none.
	w := newWorld(t)
	earlier, i, b := newInsider(w, "of an earlier version"), newInsider(w, "insider"), w.device("b")
	i.knows = []tree.ExtensionType{handshake.ExtensionArchive}
	id := codec.NewID()
	earlier.create(id[:])
	own := i.keyPackage(0)
	c := must[*mls.Committed](t)(earlier.Commit(mls.CommitOptions{Proposals: adds(t, b.pkg(), own.Message())}))
	must[*client.Epoch](t)(b.Join(c.Welcome, w))
	i.Group = must[*mls.Group](t)(mls.Join(i.config, own, c.Welcome, nil, nil))
	commit := i.commits(mls.CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: 0}}})
	if _, err := b.Process(id, commit, w); !errors.Is(err, handshake.ErrArchive) {
		t.Errorf("a commit that leads to no archive: %v", err)
	}
}
