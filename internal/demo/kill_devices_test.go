package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
)

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
	ctx, s, k := underFire(t, "keys")
	for n := range rounds(3, 30) {
		names := []string{"Ada", "Ben", "Cleo", "Dora", "Eli", "Fay"}
		invites := s.invite(ctx, t, names...)
		o := DeviceOptions{Dir: s.path("devices", strconv.Itoa(n))}
		rand.Read(o.Key[:]) // never fails
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
	ctx, s, k := underFire(t, "keys")
	invites := s.invite(ctx, t, "Ada", "Ben", "Cleo")
	away, here := DeviceOptions{Dir: s.path("devices", "away")}, DeviceOptions{Dir: s.path("devices", "here")}
	rand.Read(away.Key[:]) // never fails
	rand.Read(here.Key[:])
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
