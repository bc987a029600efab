package demo

import (
	"context"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/request"
	"chancery/sshsig"
)

// TestKillApprovals kills the server while people submit: what was acknowledged
// is there afterwards, and offering it again changes nothing.
func TestKillApprovals(t *testing.T) {
	ctx, s, k := underFire(t, "keys")
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
	details, err := request.NewDetails(rand.Reader, "A matter", "a test", "none", []string{"word"})
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
	statement, opening, err := control.NewStatement(rand.Reader, d.s.home.Organisation, body)
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
