package verify_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/opener"
	"chancery/internal/opener/openertest"
	"chancery/internal/orgtest"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/pack"
	"chancery/request"
	"chancery/verify"
)

// scene is an opened request whose opener has not spoken its last word: the test
// speaks it, for whatever body it likes, as an opener that plays false would.
type scene struct {
	*openertest.World
	body []byte
	key  *codec.PrivateKey // the opener's
}

func newScene(t *testing.T, opts openertest.Options, prepare func(w *openertest.World)) *scene {
	t.Helper()
	s := &scene{World: openertest.New(t, opts)}
	other := s.Org.Reviewers[1]
	s.Org.Add(&control.Matter{ID: codec.NewID(), Details: codec.Sum("other"), Reviewer: other.Credential()}, other)
	if prepare != nil {
		prepare(s.World)
	}
	s.Server.NoEnd = true
	cfg := s.Config()
	connect := cfg.Connect
	cfg.Connect = func(key codec.Signer) (*opener.Peers, error) {
		var err error
		s.key, err = codec.PrivateKeyFromSeed(key.(*codec.PrivateKey).Seed())
		if err != nil {
			return nil, err
		}
		return connect(key)
	}
	if _, err := opener.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "no last word") {
		t.Fatal(err)
	}
	var err error
	if _, s.body, err = pack.OpenProduction(s.Recipient, s.Server.Stored); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) parse() *pack.Body {
	s.T.Helper()
	b, err := pack.ParseBody(s.body)
	if err != nil {
		s.T.Fatal(err)
	}
	return b
}

// witnessed signs a checkpoint of any control entries by the log and witnesses,
// who may all play false.
func (s *scene) witnessed(entries [][]byte, witnesses []orgtest.Witness) []byte {
	s.T.Helper()
	edge := &ledger.Edge{}
	for _, e := range entries {
		if _, err := edge.Append(nil, e); err != nil {
			s.T.Fatal(err)
		}
	}
	return s.Org.Control.Witnessed(ledger.Checkpoint{
		Origin: ledger.Origin(s.Org.ID, ledger.ControlLog), Size: edge.Size(), Root: edge.Root(),
	}, witnesses)
}

// lastWord returns the opener's statement about a body as a log entry.
func (s *scene) lastWord(body []byte, edit func(o *control.OpeningStatement)) []byte {
	s.T.Helper()
	b, err := pack.ParseBody(body)
	if err != nil {
		// A body that can't be read has a hash all the same.
		b = s.parse()
	}
	o := &control.OpeningStatement{
		Request: b.Request, Opener: b.Opener, Opened: 8, Exported: 4, Pack: pack.BodyHash(body),
		Production: codec.Sum("production"), Destroyed: true,
	}
	if edit != nil {
		edit(o)
	}
	statement, _, err := control.NewStatement(rand.Reader, s.Org.ID, o)
	if err != nil {
		s.T.Fatal(err)
	}
	sig, err := control.Sign(s.key, statement)
	if err != nil {
		s.T.Fatal(err)
	}
	return control.NewLeaf(statement, s.Org.Now().UnixMilli(), []control.Signature{sig}).Encode()
}

// seal makes a pack without asking whether it is one.
func seal(body []byte, tail *pack.Tail) []byte {
	out := append([]byte(pack.Magic), codec.Encode(struct {
		_    struct{} `cbor:",toarray"`
		Body []byte
		Tail pack.Tail
	}{Body: body, Tail: *tail})...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// finish makes the pack of a body with a false opener's word for it.
func (s *scene) finish(b *pack.Body, edit func(o *control.OpeningStatement)) []byte {
	s.T.Helper()
	body := b.Encode()
	last := s.lastWord(body, edit)
	all := append(slices.Clone(b.Control), last)
	return seal(body, &pack.Tail{Control: [][]byte{last}, Checkpoint: s.witnessed(all, s.Org.Witnesses)})
}

func failed(r *verify.Report) []string {
	var out []string
	for _, c := range r.Checks {
		if !c.OK && !strings.HasPrefix(c.Detail, "not reached") {
			out = append(out, c.Name)
		}
	}
	return out
}

func TestHonest(t *testing.T) {
	s := newScene(t, openertest.Options{}, nil)
	data := s.finish(s.parse(), nil)
	r := verify.Pack(s.Org.ID, data)
	if !r.OK || len(r.Checks) != len(verify.Checks()) {
		t.Fatalf("failed: %q", failed(r))
	}
}

// opened returns the position of the first opened record among a body's items.
func opened(b *pack.Body, n int) int {
	for i, it := range b.Items {
		if it.Opened != nil && len(it.Opened.Record) > 0 {
			if n == 0 {
				return i
			}
			n--
		}
	}
	return -1
}

func coreOf(t *testing.T, it *pack.Item) codec.Hash {
	t.Helper()
	m, err := manifest.Parse(it.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return m.CoreHash()
}

// Everything that a false opener could write into a pack, with the log's word
// for it, is noticed by the check that is there for it.
func TestFalseOpener(t *testing.T) {
	var apart *orgtest.Message
	s := newScene(t, openertest.Options{Messages: func(w *openertest.World) {
		apart = w.Send(w.Apart, w.Other, "apart", "a secret budget")
		ack, err := manifest.SignAck(w.Custodian.Key, &manifest.Ack{
			Organisation: w.Org.ID, Device: w.Custodian.Hash, Conversation: w.Pair, Position: 2, Leaf: leafAt(w, 2),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Server.Acks = append(w.Server.Acks, ack)
	}}, nil)
	remove := func(list []codec.Hash, h codec.Hash) []codec.Hash {
		return slices.DeleteFunc(slices.Clone(list), func(x codec.Hash) bool { return x == h })
	}
	e := func(it *pack.Item) []byte {
		for _, l := range s.Sent {
			if bytes.Equal(l.Manifest.Bytes(), it.Manifest) {
				return l.Envelope.E()
			}
		}
		t.Fatal("no such message")
		return nil
	}
	for name, c := range map[string]struct {
		edit func(b *pack.Body)
		word func(o *control.OpeningStatement)
		want string
	}{
		"nothing":             {want: ""},
		"record removed":      {edit: func(b *pack.Body) { i := opened(b, 1); b.Items = slices.Delete(b.Items, i, i+1) }, want: "completeness"},
		"last record removed": {edit: func(b *pack.Body) { b.Items = b.Items[:len(b.Items)-1] }, want: "completeness"},
		"unopened record removed": {edit: func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(it pack.Item) bool { return it.Opened == nil })
			b.Items = slices.Delete(b.Items, i, i+1)
		}, want: "completeness"},
		"void removed":                    {edit: func(b *pack.Body) { b.Voids = nil }, want: "completeness"},
		"statement of membership removed": {edit: func(b *pack.Body) { b.Rosters = b.Rosters[1:] }, want: "envelopes"},
		"records reordered":               {edit: func(b *pack.Body) { b.Items[1], b.Items[2] = b.Items[2], b.Items[1] }, want: "format"},
		"record duplicated":               {edit: func(b *pack.Body) { b.Items = slices.Insert(b.Items, 1, b.Items[1]) }, want: "format"},
		"records swapped": {edit: func(b *pack.Body) {
			i, j := opened(b, 0), opened(b, 1)
			b.Items[i].Opened, b.Items[j].Opened = b.Items[j].Opened, b.Items[i].Opened
		}, want: "envelopes"},
		"seed changed":     {edit: func(b *pack.Body) { b.Items[opened(b, 0)].Opened.Seed[0] ^= 1 }, want: "envelopes"},
		"record changed":   {edit: func(b *pack.Body) { r := b.Items[opened(b, 0)].Opened.Record; r[len(r)/2] ^= 1 }, want: "envelopes"},
		"tags changed":     {edit: func(b *pack.Body) { b.Items[opened(b, 0)].Tags[4] ^= 1 }, want: "envelopes"},
		"proof changed":    {edit: func(b *pack.Body) { b.Items[0].Proof.Hashes[0][3] ^= 1 }, want: "envelopes"},
		"salt changed":     {edit: func(b *pack.Body) { b.Items[0].Proof.Opening.Salt[3] ^= 1 }, want: "envelopes"},
		"manifest changed": {edit: func(b *pack.Body) { m := b.Items[0].Manifest; m[len(m)-1] ^= 1 }, want: "envelopes"},
		"point changed": {edit: func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(it pack.Item) bool { return it.Opened == nil })
			b.Items[i].E = s.Sent[0].Envelope.E()
		}, want: "envelopes"},
		"hit hidden": {edit: func(b *pack.Body) {
			it := &b.Items[opened(b, 0)]
			b.RecordSet = remove(b.RecordSet, coreOf(t, it))
			it.E, it.Opened = e(it), nil
		}, want: "search"},
		"index key hidden": {edit: func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(it pack.Item) bool { return it.Opened != nil && len(it.Opened.Record) == 0 })
			b.IndexSet = remove(b.IndexSet, coreOf(t, &b.Items[i]))
			b.Items[i].E, b.Items[i].Opened = e(&b.Items[i]), nil
		}, want: "search"},
		"more opened than matches": {edit: func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(it pack.Item) bool { return it.Opened == nil })
			for _, m := range s.Sent {
				if bytes.Equal(m.Manifest.Bytes(), b.Items[i].Manifest) {
					b.Items[i].E, b.Items[i].Opened = nil, &pack.Opened{Seed: m.Seed, Record: m.Record}
					b.RecordSet = append(b.RecordSet, m.Core)
				}
			}
		}, want: "search"},
		"asked for and not shown": {edit: func(b *pack.Body) {
			it := &b.Items[opened(b, 0)]
			it.E, it.Opened = e(it), nil
		}, want: "opened"},
		"opened and not asked for": {edit: func(b *pack.Body) { b.RecordSet = b.RecordSet[1:] }, want: "scope"},
		"outside the scope": {edit: func(b *pack.Body) {
			item, core := s.Item(apart)
			item.Proof = s.Org.Proof(apart.Leaf, apart.Opening, s.messagesSize(b))
			b.Items = append(b.Items, item)
			b.Rosters = append(b.Rosters, s.Org.Roster(s.Apart).Proof(s.Org, s.messagesSize(b)))
			b.RecordSet = append(b.RecordSet, core)
			sortBody(b)
		}, want: "scope"},
		"conversation outside": {edit: func(b *pack.Body) {
			b.Rosters = append(b.Rosters, s.Org.Roster(s.Apart).Proof(s.Org, s.messagesSize(b)))
			sortBody(b)
		}, want: "nothing-else"},
		"set reordered":   {edit: func(b *pack.Body) { slices.Reverse(b.RecordSet) }, want: "uses"},
		"export altered":  {edit: func(b *pack.Body) { b.Export[0] ^= 1 }, want: "export"},
		"details altered": {edit: func(b *pack.Body) { b.Details[len(b.Details)-1] ^= 1 }, want: "request"},
		"opening removed": {edit: func(b *pack.Body) { b.Openings = b.Openings[:1] }, want: "request"},
		"other matter opened": {edit: func(b *pack.Body) {
			for i, l := range s.Org.Leaves {
				if l.Opening != nil && !slices.ContainsFunc(b.Openings, func(o pack.Opening) bool { return o.Index == int64(i) }) {
					b.Openings = append(b.Openings, pack.Opening{Index: int64(i), Opening: *l.Opening})
				}
			}
			slices.SortFunc(b.Openings, func(x, y pack.Opening) int { return int(x.Index - y.Index) })
		}, want: "nothing-else"},
		"other request": {edit: func(b *pack.Body) { b.Request[0] ^= 1 }, want: "control-replay"},
		"other opener":  {edit: func(b *pack.Body) { b.Opener[0] ^= 1 }, want: "control-replay"},
		"ack changed":   {edit: func(b *pack.Body) { b.Acks[0][len(b.Acks[0])-1] ^= 1 }, want: "acknowledgements"},
		"heads changed": {edit: func(b *pack.Body) { h := b.Heads.Heads; h[len(h)-1] ^= 1 }, want: "order"},
		"faults invented": {edit: func(b *pack.Body) {
			b.Faults = []pack.Fault{{Holder: 2, Phase: control.PhaseRecord, Answer: []byte{1}}}
		}, word: func(o *control.OpeningStatement) { o.Faults = []string{"keyholder-2"} }, want: "faults"},
		"fault not shown":       {word: func(o *control.OpeningStatement) { o.Faults = []string{"keyholder-2"} }, want: "statement"},
		"other counts":          {word: func(o *control.OpeningStatement) { o.Exported++ }, want: "statement"},
		"other pack":            {word: func(o *control.OpeningStatement) { o.Pack[0] ^= 1 }, want: "statement"},
		"fewer control entries": {edit: func(b *pack.Body) { b.Control = b.Control[:len(b.Control)-1] }, want: "control-witnessed"},
	} {
		b := s.parse()
		if c.edit != nil {
			c.edit(b)
		}
		r := verify.Pack(s.Org.ID, s.finish(b, c.word))
		got := failed(r)
		if c.want == "" {
			if !r.OK {
				t.Errorf("%s: failed %q", name, got)
			}
			continue
		}
		if r.OK || !slices.Contains(got, c.want) {
			t.Errorf("%s: failed %q, want %q", name, got, c.want)
			for _, c := range r.Checks {
				if !c.OK {
					t.Logf("  %s: %s", c.Name, c.Detail)
				}
			}
		}
	}
}

func leafAt(w *openertest.World, position uint64) codec.Hash {
	for _, m := range w.Sent {
		if b := m.Opening.Body; b.Conversation == w.Pair && b.Position == position {
			return m.Opening.Leaf(m.Manifest.Hash())
		}
	}
	return codec.Hash{}
}

func (s *scene) messagesSize(b *pack.Body) int64 {
	c, err := ledger.PeekUnverifiedCheckpoint(b.MessagesCheckpoint)
	if err != nil {
		s.T.Fatal(err)
	}
	return c.Size
}

func sortBody(b *pack.Body) {
	slices.SortFunc(b.Items, func(x, y pack.Item) int { return int(x.Proof.Index - y.Proof.Index) })
	slices.SortFunc(b.Rosters, func(x, y request.Roster) int { return int(x.Proof.Index - y.Proof.Index) })
}

// A log and all witnesses that play false, too, can't leave out an approval or
// a use, nor forge a signature.
func TestFalseLog(t *testing.T) {
	s := newScene(t, openertest.Options{}, nil)
	kind := func(entry []byte, k control.Kind) bool {
		_, st, err := control.Parse(entry)
		if err != nil {
			t.Fatal(err)
		}
		return st.Kind == k
	}
	for name, c := range map[string]struct {
		edit func(entries [][]byte) [][]byte
		want string
	}{
		"approval removed": {func(entries [][]byte) [][]byte {
			i := slices.IndexFunc(entries, func(e []byte) bool { return kind(e, control.KindApproval) })
			return slices.Delete(entries, i, i+1)
		}, "approvals"},
		"uses removed": {func(entries [][]byte) [][]byte {
			n := 0
			return slices.DeleteFunc(entries, func(e []byte) bool {
				use := kind(e, control.KindUse)
				if use {
					n++
				}
				return use && n > 2
			})
		}, "uses"},
		"approvals after the uses": {func(entries [][]byte) [][]byte {
			i := slices.IndexFunc(entries, func(e []byte) bool { return kind(e, control.KindApproval) })
			var moved control.Leaf
			if err := codec.Decode(entries[i], &moved); err != nil {
				t.Fatal(err)
			}
			moved.Time = s.Org.State.Time() // nobody signs the time
			return append(slices.Delete(entries, i, i+1), moved.Encode())
		}, "approvals"},
		"signature forged": {func(entries [][]byte) [][]byte {
			i := slices.IndexFunc(entries, func(e []byte) bool { return kind(e, control.KindApproval) })
			forged := bytes.Clone(entries[i])
			forged[len(forged)-1] ^= 1
			entries[i] = forged
			return entries
		}, "control-replay"},
		"another genesis": {func(entries [][]byte) [][]byte { return entries[1:] }, "organisation"},
	} {
		b := s.parse()
		b.Control = c.edit(slices.Clone(b.Control))
		b.ControlCheckpoint = s.witnessed(b.Control, s.Org.Witnesses)
		for i := range b.Openings { // their places move with what is gone before them
			for j, e := range b.Control {
				_, st, err := control.Parse(e)
				if err == nil && len(st.Body) == 32 && codec.Hash(st.Body) == b.Openings[i].Opening.Seal() {
					b.Openings[i].Index = int64(j)
				}
			}
		}
		r := verify.Pack(s.Org.ID, s.finish(b, nil))
		if got := failed(r); r.OK || !slices.Contains(got, c.want) {
			t.Errorf("%s: failed %q, want %q", name, got, c.want)
		}
	}
}

func TestCheckpoints(t *testing.T) {
	s := newScene(t, openertest.Options{}, nil)
	one := s.Org.Witnesses[:1]
	messages := func(b *pack.Body, witnesses []orgtest.Witness) []byte {
		c, err := ledger.PeekUnverifiedCheckpoint(b.MessagesCheckpoint)
		if err != nil {
			t.Fatal(err)
		}
		return s.Org.Messages.Witnessed(c, witnesses)
	}
	stranger := append(slices.Clone(s.Org.Witnesses), orgtest.NewWitness(t, "witness.example/stranger"))
	for name, c := range map[string]struct {
		edit func(b *pack.Body)
		want string
	}{
		"one witness, control":   {func(b *pack.Body) { b.ControlCheckpoint = s.witnessed(b.Control, one) }, "control-witnessed"},
		"one witness, messages":  {func(b *pack.Body) { b.MessagesCheckpoint = messages(b, one) }, "messages-witnessed"},
		"a stranger's line":      {func(b *pack.Body) { b.ControlCheckpoint = s.witnessed(b.Control, stranger) }, "control-witnessed"},
		"a stranger's, messages": {func(b *pack.Body) { b.MessagesCheckpoint = messages(b, stranger) }, "messages-witnessed"},
		"another root": {func(b *pack.Body) {
			c, _ := ledger.PeekUnverifiedCheckpoint(b.MessagesCheckpoint)
			c.Root = tlog.Hash(codec.Sum("other"))
			b.MessagesCheckpoint = s.Org.Messages.Witnessed(c, s.Org.Witnesses)
		}, "memberships"},
	} {
		b := s.parse()
		c.edit(b)
		r := verify.Pack(s.Org.ID, s.finish(b, nil))
		if got := failed(r); r.OK || !slices.Contains(got, c.want) {
			t.Errorf("%s: failed %q, want %q", name, got, c.want)
		}
	}
	b := s.parse()
	last := s.lastWord(s.body, nil)
	all := append(slices.Clone(b.Control), last)
	data := seal(s.body, &pack.Tail{Control: [][]byte{last}, Checkpoint: s.witnessed(all, one)})
	if got := failed(verify.Pack(s.Org.ID, data)); !slices.Contains(got, "control-witnessed") {
		t.Errorf("tail with one witness: failed %q", got)
	}
	data = seal(s.body, &pack.Tail{Checkpoint: s.witnessed(b.Control, s.Org.Witnesses)})
	if got := failed(verify.Pack(s.Org.ID, data)); !slices.Contains(got, "statement") {
		t.Errorf("no last word: failed %q", got)
	}
}

// No byte of a pack can be changed: not by accident, and not by someone who puts
// the checksum right.
func TestFlip(t *testing.T) {
	w := openertest.New(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) {
		w.SendMistagged(w.Pair, w.Other, "hidden")
		w.SendBroken(w.Group, w.Other)
	}})
	w.Keyholders["keyholder-2"].Lie = func(_ control.Phase, _ int, p []byte) []byte { return p[1:] }
	_, _, data := w.Open()
	if !verify.Pack(w.Org.ID, data).OK {
		t.Fatal("the pack doesn't verify")
	}
	stride := 1
	if testing.Short() || len(data) > 1<<17 {
		stride = 5
	}
	for i := 0; i < len(data); i += stride {
		bad := data // flipped in place and back: a copy each would take longer than the check
		bad[i] ^= 0x10
		if _, err := pack.Parse(bad); err == nil {
			t.Fatalf("byte %d flipped and read", i)
		}
		bad[i] ^= 0x10
	}
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	end := len(data) - sha256.Size
	for range 150 {
		i, bit := rng.IntN(end), byte(1)<<rng.IntN(8)
		bad := bytes.Clone(data)
		bad[i] ^= bit
		sum := sha256.Sum256(bad[:end])
		copy(bad[end:], sum[:])
		if verify.Pack(w.Org.ID, bad).OK {
			t.Fatalf("byte %d of %d changed by %#x and verified", i, len(data), bit)
		}
	}
	if r := verify.Pack(codec.Sum("other"), data); r.OK || !slices.Contains(failed(r), "organisation") {
		t.Errorf("of another organisation: %q", failed(r))
	}
	for _, n := range []int{0, 1, 16, 17, 48, len(data) - 1} {
		if verify.Pack(w.Org.ID, data[:n]).OK {
			t.Errorf("cut to %d bytes and verified", n)
		}
	}
	if verify.Pack(w.Org.ID, append(bytes.Clone(data), 0)).OK {
		t.Error("a byte added and verified")
	}
}

func TestProgram(t *testing.T) {
	w := openertest.New(t, openertest.Options{})
	_, export, data := w.Open()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, exported := write("pack", data), write("export.jsonl", export)
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	damaged, other := write("damaged", bad), write("other.jsonl", append(bytes.Clone(export), '\n'))
	org := w.Org.ID.String()
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"good":           {[]string{"--org", org, good}, 0, "verified: 22 checks hold", ""},
		"with export":    {[]string{"--org", org, "--export", exported, good}, 0, "export-file", ""},
		"json":           {[]string{"--org", org, "--json", good}, 0, `"ok": true`, ""},
		"flags last":     {[]string{good, "--org", org}, 0, "verified: 22 checks hold", ""},
		"two packs":      {[]string{good, "--org", org, good}, 2, "", "want one pack, got 2"},
		"no org":         {[]string{good}, 2, "completeness", "no organisation given"},
		"bad org":        {[]string{"--org", "XYZ", good}, 2, "", "is no identity"},
		"another org":    {[]string{"--org", strings.Repeat("0", 64), good}, 1, "NOT VERIFIED", ""},
		"damaged":        {[]string{"--org", org, damaged}, 1, "checksum", ""},
		"another export": {[]string{"--org", org, "--export", other, good}, 1, "was changed", ""},
		"no file":        {[]string{"--org", org, filepath.Join(dir, "none")}, 1, "", "couldn't read the pack"},
		"a directory":    {[]string{"--org", org, dir}, 1, "", "couldn't read the pack"},
		"no pack":        {[]string{"--org", org}, 2, "", "want one pack"},
		"unknown flag":   {[]string{"--frobnicate"}, 2, "", "frobnicate"},
		"help":           {[]string{"--help"}, 0, "usage", ""},
	} {
		var stdout, stderr bytes.Buffer
		code := verify.Main(c.args, &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: code %d, want %d\n%s%s", name, code, c.code, stdout.String(), stderr.String())
		}
		if name == "json" {
			var r verify.Report
			if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || !r.OK || r.Exported != 4 {
				t.Errorf("json: %v %+v", err, r)
			}
		}
	}
}
