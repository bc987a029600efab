package evidence_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/evidence"
	"chancery/internal/orgtest"
	"chancery/internal/published"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/mls/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is an organisation whose server signs what it should not.
type world struct {
	*orgtest.Org
	t     testing.TB
	clock time.Time
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, clock: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	w.Org = orgtest.NewWith(t, orgtest.Options{Keyholders: 3, Threshold: 2, GenesisOnly: true, Now: func() time.Time { return w.clock }})
	return w
}

func (w *world) genesis() []byte { return w.Leaves[0].Entry }

// history is a control log of any entries, signed by all.
func (w *world) history(entries [][]byte) ([]byte, ledger.Tree) {
	w.t.Helper()
	tree, err := ledger.NewTree(entries)
	must(w.t, err)
	root, err := ledger.Root(tree, int64(len(entries)))
	must(w.t, err)
	return w.Control.Witnessed(ledger.Checkpoint{
		Origin: ledger.Origin(w.ID, ledger.ControlLog), Size: int64(len(entries)), Root: root,
	}, w.Witnesses), tree
}

// another returns the log's entries with the last one changed, and more of them.
func (w *world) another(more int) [][]byte {
	entries := slices.Clone(w.Entries())
	s := &control.Statement{Organisation: w.ID, Kind: control.KindRevocation, Body: codec.Encode(&control.Revocation{Reason: "another"})}
	g, err := w.Officers[0].Sign(s)
	must(w.t, err)
	entries[len(entries)-1] = control.NewLeaf(s, w.clock.UnixMilli(), []control.Signature{g}).Encode()
	for range more {
		entries = append(entries, entries[1])
	}
	return entries
}

func (w *world) fork(more int) *evidence.Fork {
	held, _ := w.history(w.Entries())
	offered, tree := w.history(w.another(more))
	f := &ledger.Fork{Held: held, Offered: offered}
	if more > 0 {
		var err error
		n := int64(len(w.Entries()))
		f.Prefix, err = ledger.Root(tree, n)
		must(w.t, err)
		f.Proof, err = ledger.ProveConsistency(tree, n, n+int64(more))
		must(w.t, err)
	}
	return &evidence.Fork{Log: ledger.ControlLog, Fork: f.Encode()}
}

func (w *world) included(entries [][]byte, index int64) evidence.Included {
	note, tree := w.history(entries)
	proof, err := ledger.ProveInclusion(tree, int64(len(entries)), index)
	must(w.t, err)
	return evidence.Included{Checkpoint: note, Entry: entries[index], Proof: proof}
}

// receipt signs one under a control log of a size.
func (w *world) receipt(size int64, root codec.Hash, at time.Time) evidence.Promise {
	raw, err := manifest.SignReceipt(w.Keys.Receipt, &manifest.Receipt{Index: 7, Object: codec.Sum("test"), Opening: manifest.Opening{
		Body: manifest.ReceiptBody{Kind: manifest.LeafMessage, Conversation: codec.ID{1}, ControlSize: size, ControlRoot: root, Time: at.UnixMilli()},
	}})
	must(w.t, err)
	return evidence.Promise{Kind: evidence.PromiseReceipt, Signed: raw}
}

func (w *world) otherLog(grown bool, root codec.Hash) *evidence.OtherLog {
	size := int64(len(w.Entries()))
	x := &evidence.OtherLog{Promise: w.receipt(size, root, w.clock)}
	if !grown {
		x.Checkpoint, _ = w.history(w.Entries())
		return x
	}
	var tree ledger.Tree
	longer := append(w.Entries(), w.Entries()[1])
	x.Checkpoint, tree = w.history(longer)
	prefix, err := ledger.Root(tree, size)
	must(w.t, err)
	x.Prefix = codec.Hash(prefix)
	x.Proof, err = ledger.ProveConsistency(tree, size, size+1)
	must(w.t, err)
	return x
}

// swapped is the server's word on a KeyPackage for one device that is made with
// a key.
func (w *world) swapped(d *orgtest.Device, key *codec.PrivateKey) *evidence.KeyPackage {
	kp := w.KeyPackage(d)
	kp.Signer = key
	raw := kp.Publish(w.Org)
	state, _ := w.State.Device(d.Hash)
	size := w.Control.Size()
	claim, err := manifest.SignClaim(w.Keys.Receipt, &manifest.Claim{
		Device: d.Hash, ControlSize: size, ControlRoot: w.Control.Root(size), Package: manifest.PackageHash(raw), Time: w.clock.UnixMilli(),
	})
	must(w.t, err)
	proof, err := ledger.ProveInclusion(w.Control, size, state.Since)
	must(w.t, err)
	return &evidence.KeyPackage{Claim: claim, Package: raw, Entry: w.Leaves[state.Since].Entry, Proof: proof}
}

// withheld logs a revocation and a while later signs something as if there were
// none.
func (w *world) withheld(d *orgtest.Device, lag time.Duration) *evidence.OldLog {
	size := w.Control.Size()
	root := w.Control.Root(size)
	w.Add(&control.Revocation{Device: d.Hash, Reason: "stolen"}, w.Officers[0])
	return &evidence.OldLog{Promise: w.receipt(size, root, w.clock.Add(lag)), Leaf: w.included(w.Entries(), size)}
}

type vector struct {
	Name         string        `json:"name"`
	Organisation codec.Hash    `json:"organisation"`
	Evidence     published.Hex `json:"evidence"`
	Kind         evidence.Kind `json:"kind,omitempty"`
	Convicted    []string      `json:"convicted,omitempty"`
	Error        string        `json:"error,omitempty"` // malformed, organisation or unproven
}

func class(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, evidence.ErrMalformed):
		return "malformed"
	case errors.Is(err, evidence.ErrOrganisation):
		return "organisation"
	case errors.Is(err, evidence.ErrUnproven):
		return "unproven"
	}
	return "another error"
}

// makeVectors plays every fault, and for each what would accuse an honest server.
func makeVectors(t testing.TB) (out []vector) {
	w := newWorld(t)
	alice, bob := w.NewMember(), w.NewMember()
	add := func(name string, body evidence.Body) {
		t.Helper()
		out = append(out, judged(name, w.ID, evidence.New(w.genesis(), body).Encode()))
	}
	add("two roots at one size", w.fork(0))
	add("a larger log that doesn't begin with the smaller", w.fork(2))
	add("two leaves at one index", &evidence.Leaves{Log: ledger.ControlLog,
		First: w.included(w.Entries(), w.Control.Size()-1), Second: w.included(w.another(1), w.Control.Size()-1)})
	add("a receipt that names another root", w.otherLog(false, codec.Sum("test")))
	add("a receipt that names another root of a log that has grown", w.otherLog(true, codec.Sum("test")))
	add("a revocation withheld", w.withheld(bob, 6*time.Minute))
	size := w.Control.Size()
	early := w.receipt(size, w.Control.Root(size), w.clock.Add(-6*time.Minute))
	add("a receipt under a log that wasn't there yet", &evidence.OldLog{Promise: early, Leaf: w.included(w.Entries(), size-1)})
	add("a device of the server's own", w.ghost())
	refused := w.another(0)
	note, _ := w.history(refused)
	add("a leaf that the rules refuse", &evidence.Leaf{Checkpoint: note, Entries: refused})
	add("a KeyPackage of another key", w.swapped(alice, codec.NewPrivateKey()))

	// Nobody is convicted by these.
	same, _ := w.history(w.Entries())
	add("one checkpoint twice", &evidence.Fork{Log: ledger.ControlLog, Fork: (&ledger.Fork{Held: same, Offered: same}).Encode()})
	add("a fork of a log that there isn't", &evidence.Fork{Log: "other", Fork: w.fork(0).Fork})
	add("a fork of the other log", &evidence.Fork{Log: ledger.MessagesLog, Fork: w.fork(0).Fork})
	add("one leaf twice", &evidence.Leaves{Log: ledger.ControlLog, First: w.included(w.Entries(), 1), Second: w.included(w.Entries(), 1)})
	add("leaves at two indexes", &evidence.Leaves{Log: ledger.ControlLog, First: w.included(w.Entries(), 1), Second: w.included(w.Entries(), 2)})
	add("an honest receipt", w.otherLog(true, w.Control.Root(w.Control.Size())))
	add("a revocation of four minutes ago", w.withheld(alice, 4*time.Minute))
	add("an honest log", &evidence.Leaf{Checkpoint: same, Entries: w.Entries()})
	add("a log of a later version", w.later())
	add("an honest log with another's opening", w.misopened())
	carol := w.NewMember()
	add("the device's own KeyPackage", w.swapped(carol, carol.Key))
	add("a KeyPackage that isn't the one signed for", func() evidence.Body {
		x := w.swapped(carol, codec.NewPrivateKey())
		x.Package = w.swapped(carol, codec.NewPrivateKey()).Package
		return x
	}())
	add("a KeyPackage shown beside another device's leaf", func() evidence.Body {
		x := w.swapped(carol, carol.Key)
		y := w.swapped(w.NewMember(), codec.NewPrivateKey())
		x.Entry, x.Proof = y.Entry, y.Proof
		return x
	}())
	forged := w.withheld(carol, 6*time.Minute)
	forged.Promise.Signed = bytes.Clone(forged.Promise.Signed)
	forged.Promise.Signed[len(forged.Promise.Signed)-1] ^= 1
	add("a forged receipt", forged)
	whole := evidence.New(w.genesis(), w.fork(0)).Encode()
	out = append(out,
		judged("another organisation", codec.Sum("test"), whole),
		judged("a byte more", w.ID, append(bytes.Clone(whole), 0)),
		judged("a kind that isn't known", w.ID, codec.Encode(&evidence.Evidence{Version: 1, Kind: "witchcraft", Genesis: w.genesis()})),
		judged("a later version", w.ID, codec.Encode(&evidence.Evidence{Version: 2, Kind: evidence.KindFork, Genesis: w.genesis()})))
	return out
}

func judged(name string, id codec.Hash, raw []byte) vector {
	v := vector{Name: name, Organisation: id, Evidence: raw}
	verdict, err := evidence.Verify(id, raw, tree.KeyPackageSigner)
	if v.Error = class(err); err == nil {
		v.Kind, v.Convicted = verdict.Kind, verdict.Convicted
	}
	return v
}

// ghost is a log with a device that the server let in by itself.
func (w *world) ghost() *evidence.Leaf {
	key, own := codec.NewPrivateKey(), codec.NewPrivateKey()
	d := w.NewMember()
	s := &control.Statement{Organisation: w.ID, Kind: control.KindDevice, Body: codec.Encode(&control.Device{
		Member: d.Member, Key: key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
	})}
	var signatures []control.Signature
	for _, k := range []*codec.PrivateKey{key, own} {
		g, err := control.Sign(k, s)
		must(w.t, err)
		signatures = append(signatures, g)
	}
	entries := append(w.Entries(), control.NewLeaf(s, w.clock.UnixMilli(), signatures).Encode())
	note, _ := w.history(entries)
	return &evidence.Leaf{Checkpoint: note, Entries: entries}
}

func (w *world) later() *evidence.Leaf {
	s := &control.Statement{Organisation: w.ID, Kind: "coronation"}
	g, err := w.Officers[0].Sign(s)
	must(w.t, err)
	entries := append(w.Entries(), control.NewLeaf(s, w.clock.UnixMilli(), []control.Signature{g}).Encode())
	note, _ := w.history(entries)
	return &evidence.Leaf{Checkpoint: note, Entries: entries}
}

// misopened accuses an honest server by an opening that was never a leaf's.
func (w *world) misopened() *evidence.Leaf {
	index := w.Control.Size()
	w.Add(&control.Matter{ID: codec.NewID(), Reviewer: w.Reviewers[0].Credential()}, w.Reviewers[0])
	note, _ := w.history(w.Entries())
	return &evidence.Leaf{Checkpoint: note, Entries: w.Entries(), Openings: []evidence.Opening{{Index: index}}}
}

func TestVectors(t *testing.T) {
	published.Update(t, "evidence.json", func() []byte {
		cryptotest.SetGlobalRandom(t, 1)
		made, err := json.MarshalIndent(makeVectors(t), "", "  ")
		must(t, err)
		return append(made, '\n')
	})
	var stored []vector
	must(t, json.Unmarshal(published.Read(t, "evidence.json"), &stored))
	proved := map[evidence.Kind]bool{}
	for _, v := range stored {
		got := judged(v.Name, v.Organisation, v.Evidence)
		if got.Kind != v.Kind || got.Error != v.Error || !slices.Equal(got.Convicted, v.Convicted) {
			t.Errorf("%s: got %s %q %s, want %s %q %s", v.Name, got.Kind, got.Convicted, got.Error, v.Kind, v.Convicted, v.Error)
		}
		proved[v.Kind] = true
	}
	for _, k := range evidence.Kinds() {
		if !proved[k] {
			t.Errorf("nobody is convicted by %s", k)
		}
	}
}

// TestEveryFault: what convicts does so anew, and what accuses the honest fails.
func TestEveryFault(t *testing.T) {
	convicting := true
	for _, v := range makeVectors(t) {
		if v.Name == "one checkpoint twice" {
			convicting = false
		}
		if convicting != (v.Error == "") {
			t.Errorf("%s: %q convicted, %s", v.Name, v.Convicted, v.Error)
		}
	}
}

// TestWitnessOnBoth: a fork convicts the witnesses that cosigned both sides, and
// no other.
func TestWitnessOnBoth(t *testing.T) {
	w := newWorld(t)
	w.NewMember()
	held, _ := w.history(w.Entries())
	all := w.Witnesses
	w.Witnesses = all[:1]
	offered, _ := w.history(w.another(0))
	w.Witnesses = all
	f := &evidence.Fork{Log: ledger.ControlLog, Fork: (&ledger.Fork{Held: held, Offered: offered}).Encode()}
	v, err := evidence.Verify(w.ID, evidence.New(w.genesis(), f).Encode(), tree.KeyPackageSigner)
	must(t, err)
	if want := []string{"the control log's key", "witness " + all[0].Name}; !slices.Equal(v.Convicted, want) || !strings.Contains(v.String(), "two histories") {
		t.Errorf("got %s", v)
	}
}

// TestPieces: nothing of a file can be changed so that it convicts another, or
// of something else.
func TestPieces(t *testing.T) {
	w := newWorld(t)
	d := w.NewMember()
	for name, body := range map[string]evidence.Body{
		"fork": w.fork(1), "other log": w.otherLog(true, codec.Sum("test")), "swapped": w.swapped(d, codec.NewPrivateKey()),
		"withheld": w.withheld(d, 10*time.Minute),
	} {
		raw := evidence.New(w.genesis(), body).Encode()
		want, err := evidence.Verify(w.ID, raw, tree.KeyPackageSigner)
		must(t, err)
		for i := range raw {
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			got, err := evidence.Verify(w.ID, changed, tree.KeyPackageSigner)
			if err != nil {
				continue
			}
			// A cosignature that is spoilt leaves its witness out.
			others := slices.DeleteFunc(got.Convicted, func(who string) bool { return slices.Contains(want.Convicted, who) })
			if got.Text != want.Text || len(others) > 0 {
				t.Fatalf("%s: byte %d changed: %s", name, i, got)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	var stored []vector
	must(f, json.Unmarshal(published.Read(f, "evidence.json"), &stored))
	if len(stored) == 0 {
		f.Fatal("no seeds")
	}
	for _, v := range stored {
		f.Add([]byte(v.Evidence))
	}
	id := stored[0].Organisation
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, body, err := evidence.Parse(raw)
		if err == nil && (!bytes.Equal(e.Encode(), raw) || !bytes.Equal(codec.Encode(body), e.Body)) {
			t.Fatal("a second encoding was accepted")
		}
		if v, err := evidence.Verify(id, raw, tree.KeyPackageSigner); err == nil && (len(v.Convicted) == 0 || v.Text == "") {
			t.Fatalf("a verdict without words: %+v", v)
		}
	})
}
