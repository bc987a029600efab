package directory_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/directory"
	"chancery/internal/orgtest"
	"chancery/internal/store/sqlite"
	"chancery/internal/wire"
	"chancery/ledger"
)

type desk struct {
	*directory.Directory
	org   *orgtest.Org
	store *sqlite.Store
	fault func(step string) error // consulted while not nil
}

func newDesk(t *testing.T, dir string, o *orgtest.Org) *desk {
	t.Helper()
	d := &desk{org: o}
	var err error
	d.store, err = sqlite.Open(dir, sqlite.Options{TestOnlyFault: func(step string) error {
		if d.fault != nil {
			return d.fault(step)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.store.Close() })
	if d.store.Size(ledger.ControlLog) == 0 {
		if _, err := directory.Found(t.Context(), d.store, o.Leaves[0].Entry); err != nil {
			t.Fatal(err)
		}
	}
	d.Directory, err = directory.Open(t.Context(), directory.Config{Store: d.store, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func submit(l *orgtest.Leaf) *wire.Submit {
	return &wire.Submit{Statement: l.Statement, Opening: l.Opening, Signatures: l.Signatures}
}

// replayTo brings the desk to all leaves of its organisation.
func (d *desk) replayTo(t *testing.T) {
	t.Helper()
	for i := d.store.Size(ledger.ControlLog); i < int64(len(d.org.Leaves)); i++ {
		out, err := d.Submit(t.Context(), submit(&d.org.Leaves[i]))
		if err != nil || out.Index != i {
			t.Fatalf("leaf %d: %+v, %v", i, out, err)
		}
	}
}

func size(d *desk) (n int64) {
	d.Read(func(s *control.State, _ codec.Hash) { n = s.Size() })
	return n
}

func TestWholeOrganisation(t *testing.T) {
	dir, o := t.TempDir(), orgtest.New(t)
	d := newDesk(t, dir, o)
	d.replayTo(t)
	// Idempotent: what is logged stays where it is.
	for i := range o.Leaves {
		out, err := d.Submit(t.Context(), submit(&o.Leaves[i]))
		if err != nil || out.Index != int64(i) {
			t.Fatalf("again: leaf %d: %+v, %v", i, out, err)
		}
	}
	d.store.Close()
	if again := newDesk(t, dir, o); size(again) != int64(len(o.Leaves)) {
		t.Fatalf("%d leaves after a restart, want %d", size(again), len(o.Leaves))
	}
}

func TestSignaturesComeOneByOne(t *testing.T) {
	dir, o := t.TempDir(), orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	d := newDesk(t, dir, o)
	policy := orgtest.DefaultPolicy()
	policy.Version = 2
	s := &control.Statement{Organisation: o.ID, Kind: control.KindPolicy, Body: codec.Encode(&policy)}
	offer := func(p orgtest.Person) (*wire.Submitted, error) {
		sig, err := p.Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		return d.Submit(t.Context(), &wire.Submit{Statement: codec.Encode(s), Signatures: []control.Signature{sig}})
	}
	if out, err := offer(o.Officers[0]); err != nil || out.Index != -1 || out.Missing == "" {
		t.Fatalf("one officer of two: %+v, %v", out, err)
	}
	// Neither a stranger nor an approver brings it any further.
	if _, err := offer(orgtest.NewPerson(t)); !errors.Is(err, directory.ErrUnknownKey) {
		t.Fatalf("stranger: %v", err)
	}
	if out, err := offer(o.Approvers[0]); err != nil || out.Index != -1 {
		t.Fatalf("approver: %+v, %v", out, err)
	}
	if p := d.Pending(); len(p) != 1 || len(p[0].Signatures) != 2 {
		t.Fatalf("pending: %+v", p)
	}
	d.store.Close()
	d = newDesk(t, dir, o)
	if p := d.Pending(); len(p) != 1 || len(p[0].Signatures) != 2 {
		t.Fatalf("pending after a restart: %+v", p)
	}
	if out, err := offer(o.Officers[1]); err != nil || out.Index != 1 {
		t.Fatalf("two officers: %+v, %v", out, err)
	}
	if p := d.Pending(); len(p) != 0 {
		t.Fatalf("pending: %+v", p)
	}
}

func TestRefusals(t *testing.T) {
	o := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	d := newDesk(t, t.TempDir(), o)
	policy := orgtest.DefaultPolicy()
	policy.Version = 2
	good := &control.Statement{Organisation: o.ID, Kind: control.KindPolicy, Body: codec.Encode(&policy)}
	sign := func(s *control.Statement, by ...orgtest.Signer) *wire.Submit {
		in := &wire.Submit{Statement: codec.Encode(s)}
		for _, b := range by {
			sig, err := b.Sign(s)
			if err != nil {
				t.Fatal(err)
			}
			in.Signatures = append(in.Signatures, sig)
		}
		return in
	}
	two := o.Two()
	usurper := *o.Genesis
	usurper.Name = "Usurper plc"
	forged := sign(good, two...)
	forged.Signatures[1].Bytes[len(forged.Signatures[1].Bytes)-1] ^= 1
	opened := sign(good, two...)
	opened.Opening = &control.Opening{}
	sealed := &control.Statement{Organisation: o.ID, Kind: control.KindMatter, Body: make([]byte, 32)}
	unopened := sign(sealed, o.Reviewers[0])
	another := sign(sealed, o.Reviewers[0])
	another.Opening = &control.Opening{}
	tests := []struct {
		name string
		in   *wire.Submit
		want error
	}{
		{"no signature", sign(good), control.ErrMalformed},
		{"forged signature", forged, codec.ErrSignature},
		{"not a statement", &wire.Submit{Statement: []byte{1}, Signatures: forged.Signatures}, control.ErrMalformed},
		{"too long", &wire.Submit{Statement: make([]byte, 1<<20)}, directory.ErrSize},
		{"stranger", sign(good, orgtest.NewPerson(t)), directory.ErrUnknownKey},
		{"stranger's device key", sign(good, orgtest.Key{PrivateKey: codec.NewPrivateKey()}), directory.ErrUnknownKey},
		{"opening of what isn't sealed", opened, directory.ErrOpening},
		{"sealed without opening", unopened, directory.ErrOpening},
		{"another's opening", another, directory.ErrOpening},
		{"another organisation", sign(&control.Statement{Organisation: codec.Sum("x"), Kind: control.KindPolicy, Body: good.Body}, two...), control.ErrConflict},
		{"unknown kind", sign(&control.Statement{Organisation: o.ID, Kind: "coup", Body: good.Body}, two...), control.ErrMalformed},
		{"another's body", sign(&control.Statement{Organisation: o.ID, Kind: control.KindRole, Body: good.Body}, two...), control.ErrMalformed},
		{"second genesis", sign(&control.Statement{Kind: control.KindGenesis, Body: codec.Encode(&usurper)}, two...), control.ErrConflict},
		{"wrong role for a kind of one signer", sign(&control.Statement{Organisation: o.ID, Kind: control.KindApproval, Body: codec.Encode(&control.Approval{})}, o.Officers[0]), control.ErrUnauthorised},
	}
	for _, test := range tests {
		if out, err := d.Submit(t.Context(), test.in); !errors.Is(err, test.want) {
			t.Errorf("%s: got %+v, %v, want %v", test.name, out, err, test.want)
		}
	}
	if size(d) != 1 || len(d.Pending()) != 0 {
		t.Fatalf("%d leaves, %d pending after refusals", size(d), len(d.Pending()))
	}
}

// TestFaults breaks each step of logging a leaf: memory and disk stay equal,
// and the statement can be offered again.
func TestFaults(t *testing.T) {
	broken := errors.New("injected")
	for _, step := range []string{"Append", "PutOpening", "AddNotice", "commit", "committed"} {
		t.Run(step, func(t *testing.T) {
			o := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
			d := newDesk(t, t.TempDir(), o)
			device := o.NewMember()
			matter := codec.NewID()
			o.Add(&control.Matter{ID: matter, Reviewer: o.Reviewers[0].Credential()}, o.Reviewers[0])
			d.replayTo(t)
			o.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{device.Member}, ToDay: 1}, o.Reviewers[0])
			hold := submit(&o.Leaves[len(o.Leaves)-1])
			d.fault = func(at string) error {
				if at == step {
					return broken
				}
				return nil
			}
			out, err := d.Submit(t.Context(), hold)
			d.fault = nil
			if step == "committed" {
				// On disk, so the answer may say so.
				if err != nil || out.Index != int64(len(o.Leaves))-1 {
					t.Fatalf("got %+v, %v", out, err)
				}
			} else if !errors.Is(err, broken) {
				t.Fatalf("got %+v, %v", out, err)
			}
			if n := d.store.Size(ledger.ControlLog); n != size(d) {
				t.Fatalf("%d leaves on disk, %d in memory", n, size(d))
			}
			out, err = d.Submit(t.Context(), hold)
			if err != nil || out.Index != int64(len(o.Leaves))-1 {
				t.Fatalf("again: %+v, %v", out, err)
			}
			notices, err := d.store.Notices(t.Context(), device.Hash, 0)
			if err != nil || len(notices) != 1 {
				t.Fatalf("%d notices, %v", len(notices), err)
			}
		})
	}
}

// A hold is shown to its custodians' devices, those enrolled later included,
// and to no other device.
func TestOpeningsOfHolds(t *testing.T) {
	o := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	d := newDesk(t, t.TempDir(), o)
	custodian, other := o.NewMember(), o.NewMember()
	matter := codec.NewID()
	o.Add(&control.Matter{ID: matter, Reviewer: o.Reviewers[0].Credential()}, o.Reviewers[0])
	o.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{custodian.Member}, ToDay: 1}, o.Reviewers[0])
	later := o.Device(custodian.Member)
	d.replayTo(t)
	if got := d.Openings(0, nil); len(got) != 2 {
		t.Fatalf("%d openings in all", len(got))
	}
	if got := d.Openings(0, &custodian.Member); len(got) != 1 {
		t.Fatalf("%d openings for the custodian", len(got))
	}
	if got := d.Openings(0, &other.Member); len(got) != 0 {
		t.Fatalf("%d openings for somebody else", len(got))
	}
	for device, want := range map[codec.Hash]int{custodian.Hash: 1, later.Hash: 1, other.Hash: 0} {
		if got, err := d.store.Notices(t.Context(), device, 0); err != nil || len(got) != want {
			t.Errorf("%d notices, %v, want %d", len(got), err, want)
		}
	}
}

// The desk is bounded, for one key and in all.
func TestDeskIsBounded(t *testing.T) {
	o := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	d := newDesk(t, t.TempDir(), o)
	for i := 0; ; i++ {
		s := &control.Statement{Organisation: o.ID, Kind: control.KindRole, Body: codec.Encode(&control.RoleChange{
			Nonce: codec.NewID(), Role: control.RoleAuditor, Person: o.Reviewers[0].Control(),
		})}
		sig, err := o.Reviewers[0].Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Submit(t.Context(), &wire.Submit{Statement: codec.Encode(s), Signatures: []control.Signature{sig}})
		if errors.Is(err, directory.ErrFull) && i == 64 {
			return
		}
		if err != nil || i > 64 {
			t.Fatalf("statement %d: %v", i, err)
		}
	}
}
