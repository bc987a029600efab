package demo

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	crand "crypto/rand"

	"chancery/client"
	"chancery/client/remote"
	"chancery/internal/ceremony"
	"chancery/internal/wire"
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

// underFire plays a scene until a step, and returns with it what will kill its
// programs, and a context that ends after killTime.
func underFire(t *testing.T, until string) (context.Context, *stage, *killer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), killTime())
	t.Cleanup(cancel)
	return ctx, scene(t, until), newKiller(t)
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
