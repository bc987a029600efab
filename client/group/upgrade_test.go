package group_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
)

// earlier is what devices of commit f2aaf352cace had stored: a group of five in
// its fourth epoch, from which one was removed, with messages read and unread,
// and a commit of c on its way that adds f.
type earlier struct {
	Groups  map[string]codec.ID
	Alone   codec.ID // a's note to self
	Devices []struct {
		Name string
		Hash codec.Hash
		Seed []byte
		Disk map[string][]byte
	}
	Messages []struct {
		From, Text, Group string
		Data              []byte
		Read              []string // by whom, before the upgrade
	}
	Package []byte // of f; c's commit adds it
	Staged  struct {
		Commit, Welcome []byte
	}
}

func readEarlier(t *testing.T) (*world, *earlier, map[string]*device) {
	t.Helper()
	raw, err := os.ReadFile("testdata/upgrade.json")
	if err != nil {
		t.Fatal(err)
	}
	x := &earlier{}
	if err := json.Unmarshal(raw, x); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.now = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
	all := map[string]*device{}
	for _, d := range x.Devices {
		y := &device{w: w, hash: d.Hash, key: must[*codec.PrivateKey](t)(codec.PrivateKeyFromSeed(d.Seed)), disk: disk{}}
		for name, v := range d.Disk {
			y.disk[place{name: name}] = v
		}
		w.keys[y.hash] = y.key.PublicKey()
		y.open()
		all[d.Name] = y
	}
	return w, x, all
}

// TestUpgrade: groups of the version before go on. Whatever was read before is
// never read again, and the rest once.
func TestUpgrade(t *testing.T) {
	w, x, all := readEarlier(t)
	id := x.Groups["id"]
	for _, crash := range []bool{true, false} { // before the upgraded group is written, and after
		for _, m := range x.Messages {
			for name, d := range all {
				if _, err := d.Epoch(x.Groups[m.Group]); name == m.From || errors.Is(err, client.ErrNoGroup) {
					continue
				}
				member := name != "e" || strings.HasPrefix(m.Text, "now") || m.Text == "skipped"
				p, err := d.Decrypt(x.Groups[m.Group], m.Data)
				switch {
				case name == "d" && m.Group == "id": // removed; it hasn't heard yet
				case !member:
					if !errors.Is(err, client.ErrEpoch) {
						t.Errorf("%s wasn't a member for %q: got %v", name, m.Text, err)
					}
				// A later message of the same sender passed over them.
				case name == "e" && strings.HasPrefix(m.Text, "now ") && m.From == "a", slices.Contains(m.Read, name):
					if !errors.Is(err, client.ErrReplay) {
						t.Errorf("%s reads %q again: %v", name, m.Text, err)
					}
				case err != nil || string(p.Data) != m.Text || p.Sender != all[m.From].hash:
					t.Errorf("%s can't read %q: %v", name, m.Text, err)
				}
			}
		}
		for _, d := range all {
			if crash {
				d.open()
			} else {
				d.restart()
			}
		}
	}
	all["a"].send(x.Alone, "another note")
	all["a"].restart()
	for name, d := range all {
		for at := range d.disk {
			for _, part := range []string{"group/", "tree/", "epoch/", "ratchets/"} {
				if strings.HasPrefix(at.name, part) {
					t.Errorf("%s still has %s", name, at.name)
				}
			}
		}
	}
	a, b, c, e, f := all["a"], all["b"], all["c"], all["e"], all["f"]
	talk(t, id, a, b, c, e)
	talk(t, x.Groups["pair"], a, b)

	// The library's KeyPackage, a path over its tree, everybody follows; c's
	// commit has lost.
	step := must[*client.Step](t)(e.Add(id, [][]byte{x.Package}, w))
	if err := e.Merge(id); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*device{a, b, c} {
		must[*client.Epoch](t)(d.Process(id, step.Commit, w))
		d.restart()
	}
	if err := c.Merge(id); err == nil {
		t.Error("a commit that lost was merged")
	}
	must[*client.Epoch](t)(f.Join(step.Welcome, w))
	talk(t, id, a, b, c, e, f)
	// Someone who was removed before the upgrade learns nothing.
	if _, err := all["d"].Process(id, step.Commit, w); !errors.Is(err, client.ErrEpoch) {
		t.Errorf("got %v", err)
	}
	step = must[*client.Step](t)(a.Remove(id, []codec.Hash{f.hash}, w))
	if err := a.Merge(id); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*device{b, c, e} {
		must[*client.Epoch](t)(d.Process(id, step.Commit, w))
	}
	talk(t, id, a, b, c, e)
}

// TestUpgradeStaged: a commit that was on its way during the upgrade counts if
// the server took it.
func TestUpgradeStaged(t *testing.T) {
	w, x, all := readEarlier(t)
	id := x.Groups["id"]
	a, b, c, e, f := all["a"], all["b"], all["c"], all["e"], all["f"]
	late := b.send(id, "late")
	late2 := b.send(id, "late too")
	must[*client.Epoch](t)(c.Epoch(id))
	c.restart() // the group is kept as now, the commit as before
	c.want(id, b, late, "late")
	if err := c.Merge(id); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if _, err := c.Decrypt(id, late); !errors.Is(err, client.ErrReplay) {
		t.Errorf("got %v, want ErrReplay", err)
	}
	for _, d := range []*device{a, b, e} {
		must[*client.Epoch](t)(d.Process(id, x.Staged.Commit, w))
	}
	must[*client.Epoch](t)(f.Join(x.Staged.Welcome, w))
	c.want(id, b, late2, "late too")
	talk(t, id, a, b, c, e, f)
	for at := range c.disk {
		if strings.Contains(at.name, "pending") || strings.Contains(at.name, "tree/") {
			t.Errorf("c still has %s", at.name)
		}
	}
	step := must[*client.Step](t)(c.Remove(id, []codec.Hash{f.hash}, w))
	if err := c.Merge(id); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*device{a, b, e} {
		must[*client.Epoch](t)(d.Process(id, step.Commit, w))
		d.restart()
	}
	c.restart()
	talk(t, id, a, b, c, e)
}

// talk sends a message of each to all others.
func talk(t *testing.T, id codec.ID, everyone ...*device) {
	t.Helper()
	for _, from := range everyone {
		ct := from.send(id, "from somebody")
		for _, to := range everyone {
			if to != from {
				to.want(id, from, ct, "from somebody")
			}
		}
	}
}
