package replica_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
)

// source serves an organisation's logs and lies where a test tells it to.
type source struct {
	orgtest.Source
	checkpoint func() []byte
	entries    func(from, to int64) [][]byte
	openings   func() []wire.Opening
}

func (s *source) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	if s.checkpoint != nil {
		return s.checkpoint(), nil
	}
	return s.Source.Checkpoint(ctx, log)
}

func (s *source) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	if s.entries != nil {
		return s.entries(from, to), nil
	}
	return s.Source.Entries(ctx, log, from, to)
}

func (s *source) Openings(ctx context.Context, from int64) ([]wire.Opening, error) {
	if s.openings != nil {
		return s.openings(), nil
	}
	return s.Source.Openings(ctx, from)
}

func matter(o *orgtest.Org) codec.ID {
	id := codec.NewID()
	o.Add(&control.Matter{ID: id, Details: codec.Sum("test"), Reviewer: o.Reviewers[0].Credential()}, o.Reviewers[0])
	return id
}

func sync(t *testing.T, r *replica.Replica, s *source) {
	t.Helper()
	if err := r.Sync(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func TestSync(t *testing.T) {
	o := orgtest.New(t)
	s := &source{Source: orgtest.Source{Org: o}}
	r := replica.New(o.ID)
	sync(t, r, s)
	device := o.NewMember()
	id := matter(o)
	sync(t, r, s)
	sync(t, r, s) // nothing new
	size := o.Log(ledger.ControlLog).Size()
	if r.Size() != size || r.Checkpoint().Size != size {
		t.Fatalf("at %d, want %d", r.Size(), size)
	}
	for n := int64(1); n <= size; n++ {
		if root, ok := r.Root(n); !ok || root != o.Log(ledger.ControlLog).Root(n) {
			t.Fatalf("another root at %d", n)
		}
	}
	r.Read(func(st *control.State) {
		if _, ok := st.Device(device.Hash); !ok {
			t.Error("the device is missing")
		}
		if _, ok := st.Matter(id); !ok || st.Unopened() != 0 {
			t.Error("the matter is missing")
		}
	})
	for _, n := range []int64{-1, 0, size + 1} {
		if _, ok := r.Root(n); ok {
			t.Errorf("a root at size %d", n)
		}
	}
}

// TestLateOpening: a sealed leaf whose opening comes later is judged again, with
// all that came after it.
func TestLateOpening(t *testing.T) {
	o := orgtest.New(t)
	s := &source{Source: orgtest.Source{Org: o}}
	r := replica.New(o.ID)
	id := matter(o)
	hold := o.Add(&control.Hold{ID: codec.NewID(), Matter: id, Custodians: []codec.ID{codec.NewID()}, ToDay: 1}, o.Reviewers[0])
	s.openings = func() []wire.Opening { return nil }
	sync(t, r, s)
	r.Read(func(st *control.State) {
		if st.Unopened() != 2 {
			t.Errorf("%d leaves unopened, want 2", st.Unopened())
		}
	})
	s.openings = nil
	o.NewMember()
	sync(t, r, s)
	r.Read(func(st *control.State) {
		if _, ok := st.Hold(hold); !ok || st.Unopened() != 0 {
			t.Errorf("%d leaves unopened, hold known: %v", st.Unopened(), ok)
		}
	})
}

func TestRefuses(t *testing.T) {
	other := orgtest.New(t)
	for name, c := range map[string]struct {
		attack func(t *testing.T, o *orgtest.Org, s *source)
		want   error
	}{
		"another organisation's genesis": {func(t *testing.T, _ *orgtest.Org, s *source) {
			*s = source{Source: orgtest.Source{Org: other}}
		}, control.ErrUnauthorised},
		"one witness": {func(t *testing.T, o *orgtest.Org, s *source) {
			l := o.Log(ledger.ControlLog)
			s.checkpoint = func() []byte { return l.Witnessed(l.State(), o.Witnesses[:1]) }
		}, ledger.ErrUnwitnessed},
		"the other log's checkpoint": {func(t *testing.T, o *orgtest.Org, s *source) {
			s.checkpoint = func() []byte { return o.Log(ledger.MessagesLog).Checkpoint() }
		}, ledger.ErrOrigin},
		"an entry changed": {func(t *testing.T, o *orgtest.Org, s *source) {
			s.entries = func(from, to int64) [][]byte {
				out := append([][]byte(nil), o.Log(ledger.ControlLog).Entries(from, to)...)
				if len(out) > 1 {
					out[1] = append([]byte{}, out[1]...)
					out[1][len(out[1])-1] ^= 1
				}
				return out
			}
		}, ledger.ErrEntries},
		"an entry left out": {func(t *testing.T, o *orgtest.Org, s *source) {
			s.entries = func(from, to int64) [][]byte {
				if to-from < 2 {
					return o.Log(ledger.ControlLog).Entries(from, to)
				}
				return o.Log(ledger.ControlLog).Entries(from, to-1)
			}
		}, ledger.ErrEntries},
	} {
		t.Run(name, func(t *testing.T) {
			o := orgtest.New(t)
			s := &source{Source: orgtest.Source{Org: o}}
			c.attack(t, o, s)
			r := replica.New(o.ID)
			if err := r.Sync(t.Context(), s); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if r.Size() != 0 {
				t.Errorf("at %d after a refusal", r.Size())
			}
		})
	}
}

// TestRollback: what a replica has seen it wants to see again, after a restart
// too.
func TestRollback(t *testing.T) {
	o := orgtest.New(t)
	l := o.Log(ledger.ControlLog)
	s := &source{Source: orgtest.Source{Org: o}}
	old := l.State()
	r := replica.New(o.ID)
	o.NewMember()
	sync(t, r, s)
	s.checkpoint = func() []byte { return l.Witnessed(old, o.Witnesses) }
	if err := r.Sync(t.Context(), s); !errors.Is(err, ledger.ErrRollback) {
		t.Errorf("rolled back: got %v", err)
	}
	again := replica.New(o.ID)
	again.Remember(r.Memory())
	if err := again.Sync(t.Context(), s); !errors.Is(err, replica.ErrForgotten) {
		t.Errorf("rolled back over a restart: got %v", err)
	}
	s.checkpoint = nil
	o.NewMember()
	sync(t, again, s)
	garbled := replica.New(o.ID)
	garbled.Remember([]byte("not a checkpoint"))
	if err := garbled.Sync(t.Context(), s); !errors.Is(err, ledger.ErrMalformed) {
		t.Errorf("garbled memory: got %v", err)
	}
}

// TestUnlawfulLeaf: a leaf that server and witnesses let through and the rules
// refuse moves nothing.
func TestUnlawfulLeaf(t *testing.T) {
	o := orgtest.New(t)
	s := &source{Source: orgtest.Source{Org: o}}
	r := replica.New(o.ID)
	sync(t, r, s)
	before := r.Size()
	// A device that nobody invited.
	key := codec.NewPrivateKey()
	statement, _, err := control.NewStatement(rand.Reader, o.ID, &control.Device{
		Member: codec.NewID(), Key: key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := control.Sign(key, statement)
	if err != nil {
		t.Fatal(err)
	}
	device := o.NewMember() // lawful, and before it
	o.Log(ledger.ControlLog).Append(control.NewLeaf(statement, o.Now().UnixMilli(), []control.Signature{signature}).Encode())
	for range 2 {
		if err := r.Sync(t.Context(), s); !errors.Is(err, control.ErrUnauthorised) {
			t.Errorf("got %v, want it unauthorised", err)
		}
		r.Read(func(st *control.State) {
			if _, ok := st.Device(device.Hash); ok || st.Size() != before || r.Checkpoint().Size != before {
				t.Errorf("the state moved on to %d", st.Size())
			}
		})
	}
}

// TestBackdated: a leaf that claims to be older than the log without it.
func TestBackdated(t *testing.T) {
	start := time.Now()
	clock := start
	o := orgtest.NewWith(t, orgtest.Options{Now: func() time.Time { return clock }})
	s := &source{Source: orgtest.Source{Org: o}}
	r := replica.New(o.ID)
	clock = start.Add(time.Hour)
	sync(t, r, s) // the witnesses have seen this log an hour later
	clock = start.Add(10 * time.Minute)
	o.NewMember()
	clock = start.Add(time.Hour)
	if err := r.Sync(t.Context(), s); !errors.Is(err, replica.ErrBackdated) {
		t.Errorf("got %v, want %v", err, replica.ErrBackdated)
	}
}
