package ratchet

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"
)

// world is two devices, what is under way between them, and what must hold.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	ends   [2]*actor
	sent   int
	used   map[string]bool   // AES keys with their nonces, of headers and messages
	keys   map[secret]bool   // message keys
	reused int               // message keys that a restored state used again
	texts  map[string]string // what each message says, by its bytes
}

// actor is a device; queue is what is under way to it.
type actor struct {
	*end
	read  map[string]bool
	queue []flying
	saved []snapshot
}

type flying struct {
	data      []byte
	copied    bool
	overtaken int
}

// snapshot is all that a device stores.
type snapshot struct {
	pair, pre []byte
	read      map[string]bool
}

// runs is how many schedules are tried, by fixed seeds.
func runs() uint64 {
	if os.Getenv("CHANCERY_CAMPAIGN") != "" {
		return 5000
	}
	return 30
}

func newWorld(t *testing.T, seed uint64) *world {
	cryptotest.SetGlobalRandom(t, seed) // for ML-KEM's coins
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)),
		used: map[string]bool{}, keys: map[secret]bool{}, texts: map[string]string{},
	}
	a, b := newEnds(t, 2)
	for i, e := range []*end{a, b} {
		w.ends[i] = &actor{end: e, read: map[string]bool{}}
	}
	return w
}

func (a *actor) snapshot() snapshot {
	return snapshot{a.pair.Marshal(), a.pre.Marshal(), maps.Clone(a.read)}
}

func (a *actor) goBack(t *testing.T, s snapshot) {
	a.restore(t, s.pair, s.pre)
	a.read = maps.Clone(s.read)
}

// send puts a message on its way and holds that no AES key and nonce is used
// twice.
func (w *world) send(i int) {
	a := w.ends[i]
	if a.pair.current == nil {
		a.begin(w.t)
	}
	before := a.pair.current.state.Ratchet.Send
	w.sent++
	text := numbered(w.sent)
	data := a.send(w.t, text)
	m, err := parseMessage(data)
	if err != nil {
		w.t.Fatal(err)
	}
	header := before.Header
	key := before.step()
	if w.keys[key] {
		w.reused++
	}
	w.keys[key] = true
	for _, k := range []string{"header" + string(header[:]), "message" + string(key[:])} {
		k += string(m.Salt[:])
		if w.used[k] {
			w.t.Fatal("an AES key and nonce is used twice")
		}
		w.used[k] = true
	}
	w.texts[string(data)] = text
	w.ends[1-i].queue = append(w.ends[1-i].queue, flying{data: data})
}

// deliver gives a device one of what is under way to it, near the front, and
// reports whether it was read where it was new.
func (w *world) deliver(i int) bool {
	a := w.ends[i]
	if len(a.queue) == 0 {
		return true
	}
	n := w.rng.IntN(min(3, len(a.queue)))
	if a.queue[0].overtaken == MaxRetired {
		n = 0
	}
	f := a.queue[n]
	a.queue = slices.Delete(a.queue, n, n+1)
	for j := range n {
		a.queue[j].overtaken++
	}
	before := a.snapshot()
	opened, err := a.receive(f.data)
	known := a.read[string(f.data)]
	if err != nil {
		if !bytes.Equal(a.pair.Marshal(), before.pair) || !bytes.Equal(a.pre.Marshal(), before.pre) {
			w.t.Fatalf("refused with %v, and the state changed", err)
		}
		if !errors.Is(err, ErrOpen) && !errors.Is(err, ErrReplay) && !errors.Is(err, ErrPreKey) {
			w.t.Fatalf("refused with %v", err)
		}
		return known || f.copied
	}
	if known {
		w.t.Fatal("read twice")
	}
	a.read[string(f.data)] = true
	if string(opened.Plaintext) != w.texts[string(f.data)] {
		w.t.Fatal("read otherwise than sent")
	}
	return true
}

// networkStep does something that networks and people do.
func (w *world) networkStep() bool {
	i := w.rng.IntN(2)
	a := w.ends[i]
	switch n := w.rng.IntN(100); {
	case n < 40:
		w.send(i)
	case n < 85:
		return w.deliver(i)
	case n < 90 && len(a.queue) > 0: // lost
		a.queue = slices.Delete(a.queue, 0, 1)
	case n < 95 && len(a.queue) > 0: // twice
		f := a.queue[w.rng.IntN(len(a.queue))]
		f.copied = true
		a.queue = append(a.queue, f)
	case n < 97 && (a.pair.current == nil || a.pair.current.Heard()):
		a.begin(w.t)
	case n < 99:
		a.restart(w.t)
	}
	return true
}

// TestModelNetwork: whatever the network does within the bounds, with sessions
// begun on either side at any time, each message delivered is read, once.
func TestModelNetwork(t *testing.T) {
	for seed := range runs() {
		w := newWorld(t, seed)
		for step := range 300 {
			if !w.networkStep() {
				t.Fatalf("seed %d, step %d: a message that came was not read", seed, step)
			}
		}
		if w.reused > 0 {
			t.Fatalf("seed %d: a message key was used twice", seed)
		}
		w.heal(seed)
		w.agree(seed)
	}
}

// TestModelRestore adds devices that lose their sessions or come back with an
// older state. Messages may then be lost; no AES key and nonce is used twice, no
// message is read twice by one line of states, and the two find back together.
func TestModelRestore(t *testing.T) {
	reused := 0
	for seed := range runs() {
		w := newWorld(t, 1<<32+seed)
		for range 300 {
			i := w.rng.IntN(2)
			a := w.ends[i]
			switch n := w.rng.IntN(100); {
			case n < 4:
				a.saved = append(a.saved, a.snapshot())
			case n < 6 && len(a.saved) > 0:
				a.goBack(t, a.saved[w.rng.IntN(len(a.saved))])
			case n < 7:
				a.forget()
			case n < 8:
				a.clock = a.clock.Add(time.Duration(w.rng.IntN(3)) * time.Hour)
				w.ends[1-i].clock = a.clock
			case !w.networkStep():
				a.begin(t)
			}
		}
		w.heal(seed)
		// Each may still send on what the other has retired, for as long as that
		// is read.
		for _, a := range w.ends {
			a.clock = noon.Add(10 * 24 * time.Hour).Add(RetiredLife)
		}
		w.heal(seed)
		w.agree(seed)
		reused += w.reused
	}
	if reused == 0 {
		t.Error("no restored state used a key again: the test shows nothing")
	}
}

// agree holds that both send on one session.
func (w *world) agree(seed uint64) {
	w.t.Helper()
	if a, b := w.ends[0].pair, w.ends[1].pair; a.Session() != b.Session() {
		w.t.Fatalf("seed %d: the two send on different sessions", seed)
	}
}

// heal stops all mischief, and holds that both soon read each other.
func (w *world) heal(seed uint64) {
	round := func() (ok bool) {
		ok = true
		for _, a := range w.ends {
			a.clock = a.clock.Add(time.Minute) // a restored device's times come after its lost ones
		}
		for i := range w.ends {
			w.send(i)
			for a := w.ends[1-i]; len(a.queue) > 0; {
				if !w.deliver(1 - i) {
					ok = false
					a.begin(w.t)
				}
			}
		}
		return ok
	}
	good := 0
	for range 12 {
		if good++; !round() {
			good = 0
		}
	}
	if good < 4 {
		w.t.Fatalf("seed %d: the two don't find back together: %d good rounds", seed, good)
	}
}
