package group_test

import (
	"bytes"

	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/client"
	"chancery/client/group"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/manifest"
)

// world is the devices of an organisation, as far as MLS sees them.
type world struct {
	t       testing.TB
	keys    map[codec.Hash]codec.PublicKey
	revoked map[codec.Hash]bool
	now     func() time.Time
	joins   map[codec.Hash]bool // may join by themselves
	log     []codec.Hash        // policy leaves, the newest last
	readers []*device           // see pinned
}

// leaves are credentials that judge nothing but leaves.
type leaves func(codec.Hash, codec.PublicKey, bool) error

func (f leaves) Leaf(d codec.Hash, key codec.PublicKey, fresh bool) error { return f(d, key, fresh) }
func (leaves) Join(codec.Hash, manifest.Roster) error                     { return nil }
func (leaves) Newest() (handshake.Archive, error)                         { return handshake.Archive{}, nil }
func (leaves) Pinned(before *handshake.Archive, _ handshake.Archive) error {
	if before != nil {
		return handshake.ErrArchive
	}
	return nil
}

// Join implements client.Credentials.
func (w *world) Join(d codec.Hash, _ manifest.Roster) error {
	if !w.joins[d] {
		return handshake.ErrJoin
	}
	return nil
}

// Newest implements client.Credentials.
func (w *world) Newest() (handshake.Archive, error) {
	return handshake.Archive{Policy: w.log[len(w.log)-1]}, nil
}

// Pinned implements client.Credentials.
func (w *world) Pinned(before *handshake.Archive, after handshake.Archive) error {
	place := func(a handshake.Archive) int { return slices.Index(w.log, a.Policy) }
	if place(after) < 0 || before != nil && (place(*before) < 0 || place(after) <= place(*before)) {
		return handshake.ErrArchive
	}
	return nil
}

// device is a device's groups over a map for a disk.
type device struct {
	client.Groups
	w    *world
	hash codec.Hash
	key  *codec.PrivateKey
	disk disk
}

// disk is what a device has written.
type disk map[place][]byte

type place struct {
	conversation codec.ID
	name         string
}

func (d disk) Value(name string) ([]byte, error) { return bytes.Clone(d[place{name: name}]), nil }

func (d disk) Group(id codec.ID) (map[string][]byte, error) {
	values := map[string][]byte{}
	for at, v := range d {
		if at.conversation == id {
			values[at.name] = bytes.Clone(v)
		}
	}
	return values, nil
}

func newWorld(t testing.TB) *world {
	return &world{t: t, keys: map[codec.Hash]codec.PublicKey{}, revoked: map[codec.Hash]bool{}, now: time.Now, joins: map[codec.Hash]bool{}, log: []codec.Hash{codec.Sum("policy 1")}}
}

// Leaf implements client.Credentials.
func (w *world) Leaf(d codec.Hash, key codec.PublicKey, fresh bool) error {
	if k, ok := w.keys[d]; !ok || k != key || fresh && w.revoked[d] {
		return client.ErrCredential
	}
	return nil
}

func (w *world) device(name string) *device {
	d := &device{w: w, hash: codec.Sum("test", []byte(name)), key: codec.NewPrivateKey(), disk: disk{}}
	w.keys[d.hash] = d.key.PublicKey()
	d.open()
	return d
}

func (d *device) open() {
	g, err := group.New(d.w.now)(d.hash, d.key.Seed(), d.disk)
	if err != nil {
		d.w.t.Fatal(err)
	}
	d.Groups = g
}

// save writes what has changed and returns how many bytes that is.
func (d *device) save() (written int) {
	d.w.t.Helper()
	changes, err := d.Changes()
	if err != nil {
		d.w.t.Fatal(err)
	}
	for _, c := range changes {
		at := place{c.Conversation, c.Name}
		written += len(c.Name) + len(c.Value)
		if c.Value == nil {
			delete(d.disk, at)
		} else {
			d.disk[at] = c.Value
		}
	}
	return written
}

// restart writes and reads everything again.
func (d *device) restart() { d.save(); d.open() }

func (d *device) pkg() []byte {
	d.w.t.Helper()
	kps, err := d.KeyPackages(1, 100)
	if err != nil {
		d.w.t.Fatal(err)
	}
	return kps[0]
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// found makes a group of the first device and adds the others in one commit.
func (w *world) found(id codec.ID, ds ...*device) {
	w.t.Helper()
	must[*client.Step](w.t)(ds[0].Create(id, w))
	var kps [][]byte
	for _, d := range ds[1:] {
		kps = append(kps, d.pkg())
	}
	step := must[*client.Step](w.t)(ds[0].Add(id, kps, w))
	if err := ds[0].Merge(id); err != nil {
		w.t.Fatal(err)
	}
	for _, d := range ds[1:] {
		e := must[*client.Epoch](w.t)(d.Join(step.Welcome, w))
		if diff := cmp.Diff(&step.Epoch, e); diff != "" {
			w.t.Fatal(diff)
		}
	}
}

func (d *device) send(id codec.ID, text string) []byte {
	d.w.t.Helper()
	return must[[]byte](d.w.t)(d.Encrypt(id, []byte(text), []byte("ad")))
}

func (d *device) want(id codec.ID, from *device, ct []byte, text string) {
	d.w.t.Helper()
	p := must[*client.Plaintext](d.w.t)(d.Decrypt(id, ct))
	if string(p.Data) != text || string(p.AD) != "ad" || p.Sender != from.hash {
		d.w.t.Fatalf("got %q with %q from %s", p.Data, p.AD, p.Sender.Short())
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	id := codec.NewID()
	w.found(id, a, b)
	b.want(id, a, a.send(id, "one"), "one")
	late := a.send(id, "late") // of epoch 1, received in epoch 2

	for _, d := range []*device{a, b} {
		d.restart()
	}
	step := must[*client.Step](t)(b.Add(id, [][]byte{c.pkg()}, w))
	b.restart() // between staging and the server's answer
	if err := b.Merge(id); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&step.Epoch, must[*client.Epoch](t)(a.Process(id, step.Commit, w))); diff != "" {
		t.Fatal(diff)
	}
	must[*client.Epoch](t)(c.Join(step.Welcome, w))
	b.want(id, a, late, "late")
	for i, d := range []*device{a, b, c} {
		text := fmt.Sprint("from ", i)
		ct := d.send(id, text)
		for _, o := range []*device{a, b, c} {
			if o == d {
				o.refuses(id, ct, client.ErrReplay)
				continue
			}
			o.restart()
			o.want(id, d, ct, text)
		}
	}

	step = must[*client.Step](t)(a.Remove(id, []codec.Hash{c.hash}, w))
	if err := a.Merge(id); err != nil {
		t.Fatal(err)
	}
	must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	if _, err := c.Process(id, step.Commit, w); !errors.Is(err, client.ErrRemoved) {
		t.Errorf("removed device: got %v", err)
	}
	if err := c.Forget(id); !errors.Is(err, client.ErrNoGroup) {
		t.Errorf("removed device: got %v", err)
	}
	c.restart()
	if len(c.disk) != 1 { // the empty list of KeyPackages
		t.Errorf("%d values left after forgetting the only group", len(c.disk))
	}
	ct := b.send(id, "without c")
	a.want(id, b, ct, "without c")
	c.refuses(id, ct, client.ErrNoGroup)
}

// refuses verifies that a device doesn't read a message.
func (d *device) refuses(id codec.ID, ct []byte, want error) {
	d.w.t.Helper()
	if _, err := d.Decrypt(id, ct); !errors.Is(err, want) {
		d.w.t.Errorf("%x reads a message: got %v, want %v", d.hash[:4], err, want)
	}
}

func TestReplayIsRefused(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	w.found(id, a, b)
	one, two := a.send(id, "one"), a.send(id, "two")
	a.send(id, "never sent")
	four := a.send(id, "four")
	b.want(id, a, one, "one")
	for _, restart := range []bool{false, true} {
		if restart {
			b.restart()
		}
		b.refuses(id, one, client.ErrReplay)
	}
	b.want(id, a, two, "two")
	b.want(id, a, four, "four")
	b.refuses(id, two, client.ErrReplay)
}

func TestNoKeyIsUsedTwice(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	w.found(id, a, b)
	for i := range 5 {
		text := fmt.Sprint(i)
		ct := a.send(id, text)
		a.restart() // a reused generation would be refused as a replay
		b.want(id, a, ct, text)
	}
}

// TestFailuresLeaveNoTrace: what can't be read changes nothing.
func TestFailuresLeaveNoTrace(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	id, other := codec.NewID(), codec.NewID()
	w.found(id, a, b)
	w.found(other, a, b)
	b.want(id, a, a.send(id, "first"), "first")
	good := a.send(id, "good")
	step := must[*client.Step](t)(a.Add(id, [][]byte{c.pkg()}, w))
	b.restart()
	before := maps.Clone(b.disk)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := b.Decrypt(id, bad); err == nil {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
	if _, err := b.Decrypt(other, good); err == nil {
		t.Error("decrypted in another group")
	}
	for i := 0; i < len(step.Commit); i += 7 {
		bad := bytes.Clone(step.Commit)
		bad[i] ^= 1
		if _, err := b.Process(id, bad, w); err == nil {
			t.Fatalf("commit with byte %d flipped accepted", i)
		}
	}
	for i := 0; i < len(step.Welcome); i += 13 {
		bad := bytes.Clone(step.Welcome)
		bad[i] ^= 1
		if _, err := c.Join(bad, w); err == nil {
			t.Fatalf("Welcome with byte %d flipped accepted", i)
		}
	}
	b.save()
	if diff := cmp.Diff(before, b.disk); diff != "" {
		t.Error("state changed")
	}
	b.want(id, a, good, "good")
	must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	must[*client.Epoch](t)(c.Join(step.Welcome, w))
}

// TestBadCommitAfterGood: a commit that fails half-way is undone without the
// good ones that came before it in the same batch.
func TestBadCommitAfterGood(t *testing.T) {
	w := newWorld(t)
	a, b, c, d := w.device("a"), w.device("b"), w.device("c"), w.device("d")
	id := codec.NewID()
	w.found(id, a, b)
	first := must[*client.Step](t)(a.Add(id, [][]byte{c.pkg()}, w))
	a.Merge(id)
	second := must[*client.Step](t)(a.Add(id, [][]byte{d.pkg()}, w))
	a.Merge(id)
	b.restart()
	must[*client.Epoch](t)(b.Process(id, first.Commit, w))
	refuse := leaves(func(codec.Hash, codec.PublicKey, bool) error { return client.ErrCredential })
	late := 0
	half := leaves(func(dev codec.Hash, key codec.PublicKey, fresh bool) error { // only the leaves after the step are bad
		if !fresh {
			late++
			return client.ErrCredential
		}
		return nil
	})
	for name, check := range map[string]client.Credentials{"before": refuse, "after": half} {
		if _, err := b.Process(id, second.Commit, check); !errors.Is(err, client.ErrCredential) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if late == 0 {
		t.Fatal("no leaf was checked after the step")
	}
	must[*client.Epoch](t)(b.Process(id, second.Commit, w))
	b.restart()
	a.want(id, b, b.send(id, "still here"), "still here")
}

func TestLostRace(t *testing.T) {
	w := newWorld(t)
	a, b, c, d := w.device("a"), w.device("b"), w.device("c"), w.device("d")
	id := codec.NewID()
	w.found(id, a, b)
	lost := must[*client.Step](t)(a.Add(id, [][]byte{c.pkg()}, w))
	won := must[*client.Step](t)(b.Add(id, [][]byte{d.pkg()}, w))
	a.restart()
	b.Merge(id)
	must[*client.Epoch](t)(a.Process(id, won.Commit, w))
	if err := a.Merge(id); err == nil {
		t.Error("merged a commit that lost")
	}
	if _, err := b.Process(id, lost.Commit, w); !errors.Is(err, client.ErrEpoch) {
		t.Errorf("got %v, want ErrEpoch", err)
	}
	again := must[*client.Step](t)(a.Add(id, [][]byte{c.pkg()}, w))
	a.Merge(id)
	must[*client.Epoch](t)(b.Process(id, again.Commit, w))
	must[*client.Epoch](t)(c.Join(again.Welcome, w))
	b.want(id, a, a.send(id, "x"), "x")
}

// TestForgedCredential: a member can't bring in a device that the control log
// doesn't know, one with another key, one that is revoked, or itself twice.
func TestForgedCredential(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	all := leaves(func(codec.Hash, codec.PublicKey, bool) error { return nil })
	id := codec.NewID()
	w.found(id, a, b)

	stranger := &device{w: w, hash: codec.Sum("test", []byte("stranger")), key: codec.NewPrivateKey(), disk: disk{}}
	stranger.open()
	thief := &device{w: w, hash: c.hash, key: codec.NewPrivateKey(), disk: disk{}}
	thief.open()
	twin := &device{w: w, hash: b.hash, key: b.key, disk: disk{}}
	twin.open()
	w.revoked[c.hash] = true
	for name, kp := range map[string][]byte{
		"unknown device": stranger.pkg(), "another key": thief.pkg(), "revoked": c.pkg(),
	} {
		if _, err := a.Add(id, [][]byte{kp}, w); !errors.Is(err, client.ErrCredential) {
			t.Errorf("%s: added: %v", name, err)
		}
		step := must[*client.Step](t)(a.Add(id, [][]byte{kp}, all))
		a.Discard(id)
		if _, err := b.Process(id, step.Commit, w); !errors.Is(err, client.ErrCredential) {
			t.Errorf("%s: processed: %v", name, err)
		}
	}
	if _, err := a.Add(id, [][]byte{twin.pkg()}, w); err == nil {
		t.Error("a device got a second leaf")
	}
	// A revoked member's commit is refused, its presence is not.
	w.revoked[c.hash] = false
	step := must[*client.Step](t)(b.Add(id, [][]byte{c.pkg()}, w))
	w.revoked[b.hash] = true
	if _, err := a.Process(id, step.Commit, w); !errors.Is(err, client.ErrCredential) {
		t.Errorf("revoked committer: %v", err)
	}
	b.Discard(id)
	step = must[*client.Step](t)(a.Remove(id, []codec.Hash{b.hash}, w))
	a.Merge(id)
	if got := len(must[*client.Epoch](t)(a.Epoch(id)).Roster); got != 1 {
		t.Errorf("%d members after the removal", got)
	}
	if _, err := b.Process(id, step.Commit, w); !errors.Is(err, client.ErrRemoved) {
		t.Errorf("got %v", err)
	}
}

// TestForgedRemoval: whoever isn't in the group can't make a device leave it.
func TestForgedRemoval(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	w.found(id, a, b)
	step := must[*client.Step](t)(a.Remove(id, []codec.Hash{b.hash}, w))
	bad := bytes.Clone(step.Commit)
	bad[len(bad)-1] ^= 1 // the membership tag
	if _, err := b.Process(id, bad, w); err == nil || errors.Is(err, client.ErrRemoved) {
		t.Errorf("got %v", err)
	}
}

func TestOldEpochsAreErased(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	w.found(id, a, b)
	old := a.send(id, "old")
	for i := range 6 {
		x := w.device(fmt.Sprint("x", i))
		step := must[*client.Step](t)(a.Add(id, [][]byte{x.pkg()}, w))
		a.Merge(id)
		must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	}
	b.restart()
	b.refuses(id, old, client.ErrEpoch)
	if b.restart(); len(b.disk) > 100 {
		t.Errorf("%d values on disk", len(b.disk))
	}
}

func TestNoteToSelf(t *testing.T) {
	w := newWorld(t)
	a := w.device("a")
	id := codec.NewID()
	must[*client.Step](t)(a.Create(id, w))
	a.restart()
	a.send(id, "note")
	a.restart()
	a.send(id, "note")
}

func FuzzHostile(f *testing.F) {
	w := newWorld(f)
	a, b, c := w.device("a"), w.device("b"), w.device("c")
	id := codec.ID{1}
	w.found(id, a, b)
	step, err := a.Add(id, [][]byte{c.pkg()}, w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.send(id, "hello"))
	f.Add(step.Commit)
	f.Add(step.Welcome)
	f.Add(c.pkg())
	b.save()
	f.Fuzz(func(t *testing.T, data []byte) {
		refuse := leaves(func(codec.Hash, codec.PublicKey, bool) error { return client.ErrCredential })
		b.open()
		b.Decrypt(id, data)
		b.Process(id, data, refuse)
		b.Join(data, refuse)
		b.Add(id, [][]byte{data}, refuse)
	})
}

func BenchmarkGroup(b *testing.B) {
	for _, n := range []int{2, 64, 400} {
		w := newWorld(b)
		ds := make([]*device, n)
		for i := range ds {
			ds[i] = w.device(fmt.Sprint(i))
		}
		id := codec.NewID()
		b.Run(fmt.Sprintf("found-%d", n), func(b *testing.B) {
			for b.Loop() {
				id = codec.NewID()
				must[*client.Step](b)(ds[0].Create(id, w))
				var kps [][]byte
				for _, d := range ds[1:] {
					kps = append(kps, d.pkg())
				}
				step := must[*client.Step](b)(ds[0].Add(id, kps, w))
				ds[0].Merge(id)
				b.ReportMetric(float64(len(step.Welcome)), "welcome-B")
				b.ReportMetric(float64(len(step.Commit)), "commit-B")
				w := step.Welcome
				b.StopTimer()
				for _, d := range ds[1:2] {
					must[*client.Epoch](b)(d.Join(w, d.w))
				}
				b.StartTimer()
			}
		})
		kps := make([][]byte, 0, n)
		id = codec.NewID()
		must[*client.Step](b)(ds[0].Create(id, w))
		for _, d := range ds[1:] {
			kps = append(kps, d.pkg())
		}
		step := must[*client.Step](b)(ds[0].Add(id, kps, w))
		ds[0].Merge(id)
		ds[0].save()
		ds[1].save()
		b.Run(fmt.Sprintf("join-%d", n), func(b *testing.B) {
			for b.Loop() {
				ds[1].open()
				must[*client.Epoch](b)(ds[1].Join(step.Welcome, w))
			}
		})
		ds[1].open()
		must[*client.Epoch](b)(ds[1].Join(step.Welcome, w))
		ds[1].save()
		x := w.device("x" + fmt.Sprint(n))
		next := must[*client.Step](b)(ds[0].Add(id, [][]byte{x.pkg()}, w))
		b.Run(fmt.Sprintf("commit-%d", n), func(b *testing.B) {
			for b.Loop() {
				ds[1].open()
				must[*client.Epoch](b)(ds[1].Process(id, next.Commit, w))
				must[[]client.Change](b)(ds[1].Changes())
			}
		})
		b.Run(fmt.Sprintf("stage-%d", n), func(b *testing.B) {
			for b.Loop() {
				must[*client.Step](b)(ds[0].Add(id, [][]byte{x.pkg()}, w))
				ds[0].Discard(id)
			}
		})
		b.Run(fmt.Sprintf("message-%d", n), func(b *testing.B) {
			for b.Loop() {
				ct := ds[0].send(id, "hello")
				must[*client.Plaintext](b)(ds[1].Decrypt(id, ct))
			}
		})
		size := 0
		for _, v := range ds[1].disk {
			size += len(v)
		}
		b.Logf("%d members: %d bytes on disk", n, size)
	}
}

// Private halves that no Welcome ever asks for are forgotten, oldest first.
func TestUnusedKeyPackagesAreBounded(t *testing.T) {
	w := newWorld(t)
	a, b := w.device("a"), w.device("b")
	id := codec.NewID()
	first := b.pkg()
	kept := must[[][]byte](t)(b.KeyPackages(3, 3))
	b.restart()
	must[*client.Step](t)(a.Create(id, w))
	step := must[*client.Step](t)(a.Add(id, [][]byte{first}, w))
	if _, err := b.Join(step.Welcome, w); err == nil {
		t.Error("joined by a KeyPackage that was forgotten")
	}
	a.Discard(id)
	step = must[*client.Step](t)(a.Add(id, kept[:1], w))
	must[*client.Epoch](t)(b.Join(step.Welcome, w))
}
