package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	crand "crypto/rand"

	"golang.org/x/crypto/ssh"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/request"
	"chancery/sshsig"
)

// These tests kill real processes with SIGKILL at random moments and start them
// again on the same folders. What a process does between two particular steps
// is killed step by step where the steps are: a witness's checkpoint in
// internal/witness (TestKill), the store's transaction in internal/store
// (TestOnlyFault), a device's send and commit in client (TestOnlyStep), a
// keyholder's use and answer in internal/keyholder (testOnlyFailure).

// killTime is how long one of these tests may take.
func killTime() time.Duration {
	if campaign() {
		return 30 * time.Minute
	}
	return 3 * time.Minute
}

func campaign() bool { return os.Getenv("CHANCERY_CAMPAIGN") != "" }

// rounds is how often a loop runs by default and in the campaign.
func rounds(few, many int) int {
	switch {
	case campaign():
		return many
	case testing.Short():
		return few/4 + 1
	}
	return few
}

// killer kills programs. Its choices follow from the seed; what they meet is up
// to the machine.
type killer struct {
	*rand.Rand // of the test's own goroutine
	t          *testing.T
	seed       uint64
	kills      map[string]int
}

func newKiller(t *testing.T) *killer {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CHANCERY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	k := &killer{t: t, seed: seed, kills: map[string]int{}}
	k.Rand = k.stream("killer")
	t.Logf("seed %d: CHANCERY_SEED repeats these choices", seed)
	t.Cleanup(func() { t.Logf("killed %v", k.kills) })
	return k
}

// stream returns random choices of a goroutine's own.
func (k *killer) stream(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(k.seed, h.Sum64()))
}

// pause waits a random time, the short ones likelier.
func (k *killer) pause(most time.Duration) {
	x := k.Float64()
	time.Sleep(time.Duration(x * x * float64(most)))
}

// strike kills a program, leaves it dead for a moment and starts it again.
func (k *killer) strike(p *program, most time.Duration) error {
	if err := p.check(); err != nil {
		return err // it died by itself
	}
	k.kills[p.name]++
	if err := p.kill(); err != nil {
		return err
	}
	k.pause(most)
	// Somebody's outgoing connection may have the port for a moment.
	var err error
	for range 50 {
		if err = p.start(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// up returns when a program answers.
func up(ctx context.Context, p *program) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/", http.NoBody)
	if err != nil {
		return err
	}
	for range 3 {
		var answer *http.Response
		if answer, err = http.DefaultClient.Do(r); err == nil {
			return answer.Body.Close()
		}
		time.Sleep(200 * time.Millisecond)
	}
	return errors.Join(fmt.Errorf("%s doesn't come up: %w", p.name, err), p.check())
}

// temporary reports whether a killed program explains an error.
func temporary(err error) bool {
	var problem *wire.Problem
	return errors.Is(err, remote.ErrUnavailable) || errors.Is(err, client.ErrConflict) ||
		errors.As(err, &problem) && problem.Status >= http.StatusInternalServerError
}

// invite invites members of these names.
func (s *stage) invite(ctx context.Context, t *testing.T, names ...string) []ceremony.Invite {
	t.Helper()
	invites, err := ceremony.InviteMembers(ctx, s.server, s.server, crand.Reader, s.home.Organisation, s.home.Server, names,
		time.Now().Add(time.Hour), s.officer, nil)
	if err != nil {
		t.Fatal(err)
	}
	return invites
}

// enrolled is a host in this process of the devices of those invited.
func enrolled(ctx context.Context, t *testing.T, o DeviceOptions, invites []ceremony.Invite) *host {
	t.Helper()
	h, err := newHost(ctx, o, invites)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	if err := h.enrolAll(ctx, func(int) {}); err != nil {
		t.Fatal(err)
	}
	return h
}

// journal is what senders were told of their messages.
type journal struct {
	mu   sync.Mutex // guards said
	said map[string]*utterance
}

// utterance is a message that a device was asked to send.
type utterance struct {
	conversation codec.ID
	promised     bool // by the device: receipted, or safe in the outbox
	receipt      *client.Sent
}

func newJournal() *journal { return &journal{said: map[string]*utterance{}} }

func textOf(id string) string { return "these are the words of " + id }

func (j *journal) try(id string, conversation codec.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.said[id] = &utterance{conversation: conversation}
}

func (j *journal) told(id string, sent *client.Sent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.said[id].promised = true
	if !sent.Queued {
		j.said[id].receipt = sent
	}
}

func (j *journal) receipted() map[string]*client.Sent {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := map[string]*client.Sent{}
	for id, u := range j.said {
		if u.receipt != nil {
			out[id] = u.receipt
		}
	}
	return out
}

// say has a device send one message and notes what it is told.
func (j *journal) say(ctx context.Context, h *host, name, id string, conversation codec.ID) error {
	queued := false
	err := h.use(name, func(d *client.Device) error {
		j.try(id, conversation)
		sent, err := d.Send(ctx, conversation, client.Draft{ID: id, Text: textOf(id)})
		if err == nil {
			j.told(id, sent)
			queued = sent.Queued
		}
		return err
	})
	if queued {
		time.Sleep(50 * time.Millisecond) // the server is dead: enough waits for it
	}
	return err
}

// spoken is a message as a device has it.
type spoken struct {
	id       string
	text     string
	core     codec.Hash
	position uint64
	leaf     int64
}

func transcript(t *testing.T, h *host, name string, conversation codec.ID) []spoken {
	t.Helper()
	var out []spoken
	err := h.use(name, func(d *client.Device) error {
		for m, err := range d.Messages(conversation, 0) {
			if err != nil {
				return err
			}
			out = append(out, spoken{m.ID, m.Text, m.Core, m.Position, m.Leaf})
			if !m.Archived {
				t.Errorf("%s has %s, which no witnessed checkpoint covers", name, m.ID)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return out
}

// settled brings all devices to rest: outboxes empty, queues read, everything
// under a witnessed checkpoint.
func settled(ctx context.Context, t *testing.T, h *host) {
	t.Helper()
	for range 3 { // what one sends when it comes back another has to receive
		for _, name := range h.names {
			for try := 1; ; try++ {
				_, err := h.rest(ctx, name)
				if err == nil {
					break
				}
				if try == 20 || ctx.Err() != nil || !temporary(err) {
					t.Fatalf("%s doesn't come to rest: %v", name, err)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
	for _, name := range h.names {
		err := h.use(name, func(d *client.Device) error {
			n := d.Counters()
			if n.Refused+n.Mismatches+n.Undecryptable+n.Unverified+n.Index+n.Faulty > 0 {
				t.Errorf("%s: %+v", name, n)
			}
			talks, err := d.Conversations()
			for _, c := range talks {
				if c.Broken != "" {
					t.Errorf("%s: conversation %s is broken: %s", name, c.ID, c.Broken)
				}
				for p, err := range d.Problems(c.ID) {
					t.Errorf("%s: %+v, %v", name, p, err)
				}
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// checkDelivered checks that all members of a conversation have the same
// messages in the same places: each that was promised, each once.
func (j *journal) checkDelivered(t *testing.T, conversation codec.ID, members map[string]*host) {
	t.Helper()
	var first []spoken
	for i, name := range slices.Sorted(maps.Keys(members)) {
		got := transcript(t, members[name], name, conversation)
		if i == 0 {
			first = got
		} else if !slices.Equal(got, first) {
			t.Errorf("%s has %d messages of %s, and others %d, or in other places", name, len(got), conversation, len(first))
		}
	}
	j.checkOnce(t, conversation, first)
}

// checkOnce checks that what was promised was heard, as it was receipted, and
// that nothing was heard twice.
func (j *journal) checkOnce(t *testing.T, conversation codec.ID, heard []spoken) {
	t.Helper()
	count := map[string]int{}
	for _, m := range heard {
		u := j.said[m.id]
		if u == nil {
			continue // a profile
		}
		count[m.id]++
		if u.conversation != conversation || m.text != textOf(m.id) {
			t.Errorf("%s says %q in %s", m.id, m.text, conversation)
		}
		if r := u.receipt; r != nil && (r.Core != m.core || r.Position != m.position || r.Leaf != m.leaf) {
			t.Errorf("%s was receipted as %+v and delivered as %+v", m.id, *r, m)
		}
	}
	for id, u := range j.said {
		if u.conversation != conversation {
			continue
		}
		if n := count[id]; n > 1 || n == 0 && u.promised {
			t.Errorf("%s (receipt %v) was delivered %d times", id, u.receipt, n)
		}
	}
}

// TestKillWhileSending kills server and witnesses under the load of devices that
// send, and change groups, without a pause.
func TestKillWhileSending(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	defer cancel()
	s := scene(t, "keys")
	k := newKiller(t)
	names := []string{"Ada", "Ben", "Cleo", "Dora"}
	o := DeviceOptions{Dir: s.path("devices")}
	crand.Read(o.Key[:]) // never fails
	h := enrolled(ctx, t, o, s.invite(ctx, t, names...))
	var fixed []codec.ID
	for _, with := range [][]string{{"Ben", "Cleo", "Dora"}, {"Ben"}, {"Cleo"}} {
		id, err := h.create(ctx, "Ada", "", with)
		if err != nil {
			t.Fatal(err)
		}
		fixed = append(fixed, id)
	}
	for _, name := range names {
		if err := h.sync(ctx, name); err != nil {
			t.Fatal(err)
		}
	}

	j, seen := newJournal(), newSightings(s)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for _, name := range names {
		rng := k.stream(name)
		var own []codec.ID
		for i, id := range fixed {
			if name == "Ada" || i == 0 || name == "Ben" && i == 1 || name == "Cleo" && i == 2 {
				own = append(own, id)
			}
		}
		load.Go(func() {
			for n := 0; !closed(stop); n++ {
				err := j.say(ctx, h, name, fmt.Sprintf("%s-%d", name, n), own[rng.IntN(len(own))])
				if err == nil && n%4 == 3 {
					err = h.sync(ctx, name)
				}
				if err != nil && !temporary(err) {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	load.Go(func() { changeGroups(ctx, t, h, k.stream("groups"), j, stop) })
	load.Go(func() { seen.watch(ctx, t, stop) })

	victims := []*program{s.program(t, "server"), s.program(t, "server"), s.program(t, "server"), s.program(t, "witness-1"), s.program(t, "witness-2")}
	for range rounds(36, 300) {
		victim := victims[k.IntN(len(victims))]
		err := k.strike(victim, 100*time.Millisecond)
		if err == nil && k.IntN(4) > 0 { // else it may be killed while it starts
			err = up(ctx, victim)
			k.pause(800 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	load.Wait()
	for _, p := range victims {
		if err := up(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	settled(ctx, t, h)
	j.checkDelivered(t, fixed[0], map[string]*host{"Ada": h, "Ben": h, "Cleo": h, "Dora": h})
	j.checkDelivered(t, fixed[1], map[string]*host{"Ada": h, "Ben": h})
	j.checkDelivered(t, fixed[2], map[string]*host{"Ada": h, "Cleo": h})
	j.checkGroups(t, h)
	receipted := j.receipted()
	t.Logf("%d messages tried, %d receipted at once", len(j.said), len(receipted))
	if len(receipted) < 20 {
		t.Errorf("%d messages receipted: the test shows little", len(receipted))
	}
	checkInclusion(ctx, t, s, receipted)
	checkBooks(ctx, t, s, receipted, seen)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// changeGroups founds groups, talks in them, and adds and removes members.
func changeGroups(ctx context.Context, t *testing.T, h *host, rng *rand.Rand, j *journal, stop <-chan struct{}) {
	for n := 0; !closed(stop); n++ {
		order := rng.Perm(len(h.names))
		who := func(i int) string { return h.names[order[i]] }
		var id codec.ID
		for _, step := range []func() error{
			func() (err error) {
				id, err = h.create(ctx, who(0), fmt.Sprint("group ", n), []string{who(1)})
				return err
			},
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-first", n), id) },
			func() error { return h.add(ctx, who(0), id, who(2)) },
			func() error { return h.sync(ctx, who(1)) },
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-second", n), id) },
			func() error {
				return h.use(who(0), func(d *client.Device) error { return d.Remove(ctx, id, []codec.ID{h.members[who(1)]}) })
			},
			func() error { return j.say(ctx, h, who(0), fmt.Sprintf("group-%d-third", n), id) },
		} {
			err := step()
			if err != nil && !temporary(err) {
				t.Errorf("changing group %d: %v", n, err)
				return
			}
			if id.IsZero() || closed(stop) {
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// checkGroups checks that members of a conversation agree on its epoch, members
// and messages: who came late or went early has what was said in between.
func (j *journal) checkGroups(t *testing.T, h *host) {
	t.Helper()
	type view struct {
		name, members string
		epoch         uint64
		left          bool
		heard         []spoken
	}
	views := map[codec.ID][]view{}
	for _, name := range h.names {
		var talks []client.Conversation
		err := h.use(name, func(d *client.Device) (err error) {
			talks, err = d.Conversations()
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, c := range talks {
			slices.SortFunc(c.Members, func(a, b codec.ID) int { return bytes.Compare(a[:], b[:]) })
			views[c.ID] = append(views[c.ID], view{name, fmt.Sprint(c.Members), c.Epoch, c.Left, transcript(t, h, name, c.ID)})
		}
	}
	compared := 0
	for id, all := range views {
		whole := slices.MaxFunc(all, func(a, b view) int { return len(a.heard) - len(b.heard) })
		for _, v := range all {
			compared++
			if !v.left && !whole.left && (v.epoch != whole.epoch || v.members != whole.members) {
				t.Errorf("%s is at epoch %d of %s with %s, %s at %d with %s", v.name, v.epoch, id, v.members, whole.name, whole.epoch, whole.members)
			}
			if len(v.heard) == 0 {
				continue
			}
			from := slices.Index(whole.heard, v.heard[0])
			if from < 0 || !slices.Equal(v.heard, whole.heard[from:min(from+len(v.heard), len(whole.heard))]) || !v.left && from+len(v.heard) != len(whole.heard) {
				t.Errorf("%s has %d messages of %s that are no part of the %d that %s has", v.name, len(v.heard), id, len(whole.heard), whole.name)
			}
		}
		j.checkOnce(t, id, whole.heard)
	}
	t.Logf("%d conversations, %d members' views", len(views), compared)
}

// hostOrders tell a device host, in a process of its own, what to do.
type hostOrders struct {
	Dir          string            `json:"dir"`
	Key          []byte            `json:"key"`
	Invites      []ceremony.Invite `json:"invites"`
	Others       []codec.ID        `json:"others"`
	Conversation codec.ID          `json:"conversation"` // zero: enrol and end
}

// hostEnv names the file of orders. The process of this test binary that has it
// is a device host and runs no tests (TestMain).
const hostEnv = "CHANCERY_TEST_HOST"

// runHost is the device host that TestKillDevices kills: its devices send until
// standard input ends, and it writes what they are told.
func runHost(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var orders hostOrders
	if err := json.Unmarshal(data, &orders); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := DeviceOptions{Dir: orders.Dir, Key: [custody.KeySize]byte(orders.Key)}
	h, err := newHost(ctx, o, orders.Invites)
	if err != nil {
		return err
	}
	defer h.Close()
	if orders.Conversation.IsZero() {
		fmt.Println("enrolling")
		return h.enrolRest(ctx)
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	run := codec.NewID().String()[:8]
	return each(ctx, h.names, func(ctx context.Context, name string) error {
		for n := 0; !closed(stop); n++ {
			id := fmt.Sprintf("%s-%s-%d", name, run, n)
			err := h.use(name, func(d *client.Device) error {
				fmt.Printf("try %s\n", id)
				sent, err := d.Send(ctx, orders.Conversation, client.Draft{ID: id, Text: textOf(id)})
				if err != nil {
					return err
				}
				if !sent.Queued {
					fmt.Printf("sent %s %s %d %d\n", id, sent.Core, sent.Position, sent.Leaf)
				}
				switch n % 5 {
				case 1, 3:
					_, err = d.Sync(ctx)
				case 2:
					if _, err = d.Create(ctx, "made by "+name, orders.Others); temporary(err) {
						err = nil
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// enrolRest enrols whoever isn't yet.
func (h *host) enrolRest(ctx context.Context) error {
	return each(ctx, h.names, func(ctx context.Context, name string) error {
		invitation, err := h.invites[name].Key()
		if err != nil {
			return err
		}
		if err := h.Enrol(ctx, h.members[name], label, name, invitation); !errors.Is(err, client.ErrEnrolled) {
			return err
		}
		return nil
	})
}

// TestKillEnrolment kills the process that enrols devices until it gets to its
// end: each member has one device, which works.
func TestKillEnrolment(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	defer cancel()
	s := scene(t, "keys")
	k := newKiller(t)
	for n := range rounds(3, 30) {
		names := []string{"Ada", "Ben", "Cleo", "Dora", "Eli", "Fay"}
		invites := s.invite(ctx, t, names...)
		o := DeviceOptions{Dir: s.path("devices", strconv.Itoa(n))}
		crand.Read(o.Key[:]) // never fails
		orders := writeOrders(t, s, &hostOrders{Dir: o.Dir, Key: o.Key[:], Invites: invites})
		for range 12 {
			k.kills["device host"]++
			if err := newJournal().runAndKill(ctx, orders, codec.ID{}, k, 150*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		h, err := newHost(ctx, o, invites)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Close() })
		if err := h.enrolRest(ctx); err != nil {
			t.Fatal(err)
		}
		id, err := h.create(ctx, "Ada", "", names[1:])
		if err != nil {
			t.Fatal(err)
		}
		j := newJournal()
		if err := j.say(ctx, h, "Ada", fmt.Sprint("first words ", n), id); err != nil {
			t.Fatal(err)
		}
		settled(ctx, t, h)
		all := map[string]*host{}
		if err := s.replica.Sync(ctx, s.server); err != nil {
			t.Fatal(err)
		}
		s.replica.Read(func(st *control.State) {
			for name, member := range h.members {
				all[name] = h
				if devices := st.Devices(member); len(devices) != 1 {
					t.Errorf("%s has devices %v", name, devices)
				}
			}
		})
		j.checkDelivered(t, id, all)
	}
}

func writeOrders(t *testing.T, s *stage, o *hostOrders) string {
	t.Helper()
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	path := s.path("orders.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKillDevices kills the process that hosts sending devices, and lets it go
// on from the same folder.
func TestKillDevices(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	defer cancel()
	s := scene(t, "keys")
	k := newKiller(t)
	invites := s.invite(ctx, t, "Ada", "Ben", "Cleo")
	away, here := DeviceOptions{Dir: s.path("devices", "away")}, DeviceOptions{Dir: s.path("devices", "here")}
	crand.Read(away.Key[:]) // never fails
	crand.Read(here.Key[:])
	cleo := enrolled(ctx, t, here, invites[2:])
	h, err := newHost(ctx, away, invites[:2])
	if err != nil {
		t.Fatal(err)
	}
	if err := h.enrolAll(ctx, func(int) {}); err != nil {
		t.Fatal(err)
	}
	var id codec.ID
	if err := cleo.sync(ctx, "Cleo"); err != nil { // the others' devices are new
		t.Fatal(err)
	}
	if err := cleo.use("Cleo", func(d *client.Device) (err error) {
		id, err = d.Create(ctx, "", []codec.ID{invites[0].Member, invites[1].Member})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range h.names {
		if err := h.sync(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}

	orders := writeOrders(t, s, &hostOrders{
		Dir: away.Dir, Key: away.Key[:], Invites: invites[:2], Others: []codec.ID{invites[2].Member}, Conversation: id,
	})
	j := newJournal()
	for n := range rounds(36, 300) {
		k.kills["device host"]++
		if err := j.runAndKill(ctx, orders, id, k, 350*time.Millisecond); err != nil {
			t.Fatalf("run %d: %v", n+1, err)
		}
		if err := cleo.sync(ctx, "Cleo"); err != nil { // and stock KeyPackages
			t.Fatal(err)
		}
		if n%3 == 0 {
			if err := j.say(ctx, cleo, "Cleo", fmt.Sprintf("Cleo-%d", n), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if h, err = newHost(ctx, away, invites[:2]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	settled(ctx, t, h)
	settled(ctx, t, cleo)
	settled(ctx, t, h)
	j.checkDelivered(t, id, map[string]*host{"Ada": h, "Ben": h, "Cleo": cleo})
	receipted := j.receipted()
	t.Logf("%d messages tried, %d receipted before a kill", len(j.said), len(receipted))
	if len(receipted) < 20 {
		t.Errorf("%d messages receipted: the test shows little", len(receipted))
	}
	checkBooks(ctx, t, s, receipted, newSightings(s))
}

// runAndKill starts the device host, kills it within most of its first word, and
// notes what it said until then.
func (j *journal) runAndKill(ctx context.Context, orders string, conversation codec.ID, k *killer, most time.Duration) error {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), hostEnv+"="+orders)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	var failed error
	for started := false; lines.Scan(); {
		if !started {
			// From the first message on: before it nothing is at stake.
			started = true
			time.AfterFunc(time.Duration(k.Float64()*float64(most)), func() { cmd.Process.Kill() })
		}
		failed = errors.Join(failed, j.hear(lines.Text(), conversation))
	}
	cmd.Wait() // it was killed
	if problems.Len() > 0 {
		failed = errors.Join(failed, errors.New(problems.String()))
	}
	return errors.Join(failed, lines.Err())
}

// hear notes a line of the device host.
func (j *journal) hear(line string, conversation codec.ID) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "enrolling":
		return nil
	case "try":
		j.try(rest, conversation)
		return nil
	case "sent":
		var id, core string
		sent := &client.Sent{}
		if _, err := fmt.Sscanf(rest, "%s %s %d %d", &id, &core, &sent.Position, &sent.Leaf); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		var err error
		if sent.Core, err = codec.ParseHash(core); err != nil {
			return err
		}
		sent.ID = id
		j.told(id, sent)
		return nil
	}
	return fmt.Errorf("the device host says %q", line)
}

// TestKillHolders kills a keyholder, guard, witness, the server or the opener
// while requests are opened, and tries again with a new opener until it opens.
func TestKillHolders(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	defer cancel()
	s := scene(t, "approve")
	k := newKiller(t)
	lines, err := readCorpus(bytes.NewReader(shipped), 0)
	if err != nil {
		t.Fatal(err)
	}
	want := oracle(lines, "invoice")
	for n := range rounds(4, 40) {
		if n > 0 {
			if err := errors.Join(s.hold(ctx), s.approve(ctx)); err != nil {
				t.Fatalf("round %d: %v", n+1, err)
			}
		}
		attempts := 0
		for range 5 { // fewer than the uses that a holder allows a request
			attempts++
			if s.openAndKill(ctx, t, k) {
				break
			}
		}
		result, err := s.tryOpen(ctx, nil)
		if err != nil {
			t.Fatalf("round %d, after %d attempts with a kill: %v", n+1, attempts, err)
		}
		if err := matters.Await(ctx, s.replica, s.server, result.Index); err != nil {
			t.Fatal(err)
		}
		checkUses(t, s)
		if err := errors.Join(s.export(ctx), s.verify(ctx)); err != nil {
			t.Fatalf("round %d: %v", n+1, err)
		}
		checkExport(t, s.summary.ExportFile, want)
	}
	if err := s.replica.Sync(ctx, s.server); err != nil {
		t.Fatal(err)
	}
	checkRecords(ctx, t, s)
}

// mostKills is how many programs die in one attempt to open.
const mostKills = 6

// openAndKill tries to open the scene's request and kills programs at some
// moments of it. It reports whether the request was opened.
func (s *stage) openAndKill(ctx context.Context, t *testing.T, k *killer) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	opening, kill := context.WithCancel(ctx)
	defer kill()
	done := make(chan error, 1)
	go func() {
		_, err := s.tryOpen(opening, nil)
		done <- err
	}()
	var err error
	for kills, over := 0, false; !over; kills++ {
		select {
		case err = <-done:
			over = true
			continue
		case <-time.After(time.Duration(k.Float64() * float64(600*time.Millisecond))):
		}
		switch n := k.IntN(len(s.programs) + 2); {
		case kills == mostKills:
			err, over = <-done, true
		case n >= len(s.programs):
			k.kills["opener"]++
			kill() // exec.CommandContext kills with SIGKILL
			err, over = <-done, true
		default:
			if err := k.strike(s.programs[n], 300*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range s.programs {
		if err := up(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Logf("not opened: %.200v", err)
	}
	return err == nil
}

// checkUses checks what the log says about the scene's request: no opener has
// the last word without the uses of a quorum and a guard before it, in each
// phase that it opened anything in; none is there twice; and what a holder was
// asked for only grew.
func checkUses(t *testing.T, s *stage) {
	t.Helper()
	s.replica.Read(func(st *control.State) {
		r, ok := st.Request(s.summary.Request)
		if !ok {
			t.Errorf("request %s is gone", s.summary.Request.Short())
			return
		}
		type place struct {
			opener codec.Hash
			phase  control.Phase
			guard  bool
			holder uint8
		}
		once, counts := map[place]bool{}, map[place]uint64{}
		for _, u := range r.Uses {
			p := place{u.Opener, u.Phase, u.Guard, u.Holder}
			if once[p] {
				t.Errorf("two uses by holder %d (guard %v) for one opener in phase %d", u.Holder, u.Guard, u.Phase)
			}
			once[p] = true
			p.opener = codec.Hash{}
			if u.Count < counts[p] {
				t.Errorf("holder %d (guard %v) was asked for %d, then for %d", u.Holder, u.Guard, counts[p], u.Count)
			}
			counts[p] = u.Count
		}
		last := map[codec.Hash]int64{} // openers' last words
		entries, _ := s.replica.Entries()
		for i, raw := range entries {
			_, statement, err := control.Parse(raw)
			if err != nil {
				t.Error(err)
				return
			}
			var body control.OpeningStatement
			if statement.Kind == control.KindOpening && codec.Decode(statement.Body, &body) == nil {
				last[body.Opener] = int64(i)
			}
		}
		done := 0
		for h, o := range r.Openers {
			if !o.Done {
				continue
			}
			done++
			for _, phase := range []control.Phase{control.PhaseIndex, control.PhaseRecord} {
				shares, locks := 0, 0
				for _, u := range r.Uses {
					if u.Opener != h || u.Phase != phase || u.Since < o.Since || u.Since > last[h] {
						continue
					}
					if u.Guard {
						locks++
					} else {
						shares++
					}
				}
				if shares < threshold || locks == 0 {
					t.Errorf("phase %d was opened with the uses of %d keyholders and %d guards on the log", phase, shares, locks)
				}
			}
		}
		if done == 0 {
			t.Error("no opener has the last word")
		}
	})
}

// checkRecords kills every holder a last time, and reads its record when it has
// come back, which it doesn't with a damaged one: every answer in it rests on a
// use leaf of just what was answered.
func checkRecords(ctx context.Context, t *testing.T, s *stage) {
	t.Helper()
	uses := map[codec.Hash][]control.UseState{}
	s.replica.Read(func(st *control.State) {
		for _, r := range st.Requests() {
			uses[r.Hash] = slices.Clone(r.Uses)
		}
	})
	for _, dir := range slices.Concat(s.summary.KeyholderDirs, s.summary.GuardDirs) {
		p := s.program(t, filepath.Base(dir))
		if err := p.kill(); err != nil {
			t.Error(err)
			continue
		}
		p.restart(t)
		if err := up(ctx, p); err != nil {
			t.Error(err)
		}
		answers := 0
		for _, e := range holderRecord(t, dir) {
			if e.What != "answer" {
				continue
			}
			answers++
			if !slices.ContainsFunc(uses[e.Request], func(u control.UseState) bool {
				return u.Hash == e.Use && u.Root == e.Root && u.Count == e.Count
			}) {
				t.Errorf("%s answered for %d envelopes under use %s, which is not on the log or is of others", p.name, e.Count, e.Use.Short())
			}
		}
		if answers == 0 && slices.Contains(s.summary.KeyholderDirs, dir) { // a guard may not have been asked
			t.Errorf("%s has no answer in its record", p.name)
		}
	}
}

// TestKillApprovals kills the server while people submit: what was acknowledged
// is there afterwards, and offering it again changes nothing.
func TestKillApprovals(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	defer cancel()
	s := scene(t, "keys")
	k := newKiller(t)
	recipient, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	desk := &petitions{s: s, recipient: recipient.PublicKey().Bytes()}
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() { // a matter, its hold, a request, its approvals
		for n := 0; !closed(stop); n++ {
			if err := desk.matter(ctx, n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	load.Go(func() { // what one officer signs waits for the other
		for !closed(stop) {
			if err := desk.invitation(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	})
	server := s.program(t, "server")
	for range rounds(30, 200) {
		err := k.strike(server, 60*time.Millisecond)
		if err == nil && k.IntN(4) > 0 {
			err = up(ctx, server)
			k.pause(500 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	load.Wait()
	if err := up(ctx, server); err != nil {
		t.Fatal(err)
	}
	desk.check(ctx, t)
}

// petition is a statement and what the server said of it.
type petition struct {
	submit *wire.Submit
	hash   codec.Hash
	index  int64
}

// petitions are submitted again and again until the server acknowledges them.
type petitions struct {
	s         *stage
	recipient []byte // HPKE public key

	mu    sync.Mutex // guards what follows
	done  []petition
	again int // submissions without an answer
}

func (d *petitions) matter(ctx context.Context, n int) error {
	var policy codec.Hash
	d.s.replica.Read(func(st *control.State) { policy = st.Policy().Hash })
	reviewer := sshsig.Credential(d.s.reviewer.PublicKey().Marshal()).ID()
	details, err := request.NewDetails(crand.Reader, "A matter", "a test", "none", []string{"word"})
	if err != nil {
		return err
	}
	id, custodians, today := codec.NewID(), []codec.ID{codec.NewID()}, envelope.DayOf(time.Now())
	var last codec.Hash
	for _, body := range []control.Body{
		&control.Matter{ID: id, Details: details.Hash(), Reviewer: reviewer},
		&control.Hold{ID: codec.NewID(), Matter: id, Custodians: custodians, FromDay: today, ToDay: today, Text: fmt.Sprint("hold ", n)},
		&control.Request{
			ID: codec.NewID(), Matter: id, Requester: reviewer, Policy: policy, Custodians: custodians, FromDay: today, ToDay: today, MaxCount: 1,
			Details: details.Hash(), Recipient: d.recipient, Evidence: control.EvidenceNone, Expiry: time.Now().Add(time.Hour).UnixMilli(),
		},
	} {
		if last, err = d.log(ctx, body, d.s.reviewer); err != nil {
			return err
		}
	}
	for _, key := range d.s.approver[:approvals] {
		approval := &control.Approval{Nonce: codec.NewID(), Request: last, Decision: control.Approve, Role: control.RoleApprover, Policy: policy}
		if _, err := d.log(ctx, approval, key); err != nil {
			return err
		}
	}
	return nil
}

// invitation is signed by one officer after the other.
func (d *petitions) invitation(ctx context.Context) error {
	key := codec.NewPrivateKey()
	defer key.Erase()
	_, err := d.log(ctx, &control.Invitations{Invitations: []control.Invitation{{
		Member: codec.NewID(), Key: key.PublicKey(), Expiry: time.Now().Add(time.Hour).UnixMilli(),
	}}}, d.s.officer...)
	return err
}

// log offers a statement with one signature after the other, each until it is
// acknowledged.
func (d *petitions) log(ctx context.Context, body control.Body, signers ...ssh.Signer) (codec.Hash, error) {
	statement, opening, err := control.NewStatement(crand.Reader, d.s.home.Organisation, body)
	if err != nil {
		return codec.Hash{}, err
	}
	time.Sleep(20 * time.Millisecond) // a restarted server replays the whole log
	p := petition{hash: statement.Hash(), index: -1}
	for i, key := range signers {
		signature, err := control.SignSSH(key, statement)
		if err != nil {
			return p.hash, err
		}
		p.submit = &wire.Submit{Statement: codec.Encode(statement), Opening: opening, Signatures: []control.Signature{signature}}
		done, err := d.offer(ctx, d.s.server.As(httpsig.SSH(key)), p.submit)
		if err != nil {
			return p.hash, fmt.Errorf("%s: %w", statement.Kind, err)
		}
		if missing := done.Index < 0; missing != (i < len(signers)-1) {
			return p.hash, fmt.Errorf("%s, after %d of %d signatures: index %d, missing %q: a signature that was acknowledged is lost",
				statement.Kind, i+1, len(signers), done.Index, done.Missing)
		}
		p.index = done.Index
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, p)
	return p.hash, nil
}

func (d *petitions) offer(ctx context.Context, server *remote.Client, submit *wire.Submit) (*wire.Submitted, error) {
	for {
		done, err := server.Submit(ctx, submit)
		if err == nil || !temporary(err) || ctx.Err() != nil {
			return done, err
		}
		d.mu.Lock()
		d.again++
		d.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}

// check checks that every statement is on the log once, where it was said to be.
func (d *petitions) check(ctx context.Context, t *testing.T) {
	t.Helper()
	s := d.s
	t.Logf("%d statements acknowledged, %d submissions without an answer", len(d.done), d.again)
	if len(d.done) < 20 || d.again == 0 {
		t.Error("the test shows little")
	}
	for _, p := range d.done {
		again, err := s.server.Submit(ctx, p.submit)
		if err != nil || again.Index != p.index || again.Hash != p.hash {
			t.Errorf("offered again: %+v, %v, want leaf %d", again, err, p.index)
		}
	}
	status, err := s.server.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := matters.Await(ctx, s.replica, s.server, status.ControlSize-1); err != nil {
		t.Fatal(err)
	}
	entries, _ := s.replica.Entries()
	at := map[codec.Hash][]int64{}
	for i, raw := range entries {
		_, statement, err := control.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		at[statement.Hash()] = append(at[statement.Hash()], int64(i))
	}
	for h, indexes := range at {
		if len(indexes) != 1 {
			t.Errorf("statement %s is at %v", h.Short(), indexes)
		}
	}
	for _, p := range d.done {
		if !slices.Equal(at[p.hash], []int64{p.index}) {
			t.Errorf("statement %s was acknowledged at %d and is at %v", p.hash.Short(), p.index, at[p.hash])
		}
	}
	checkBooks(ctx, t, s, nil, newSightings(s))
}
