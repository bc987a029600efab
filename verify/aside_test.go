package verify_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/opener/openertest"
	"chancery/internal/orgtest"
	"chancery/pack"
	"chancery/request"
	"chancery/verify"
)

// liar is an opener that plays false: it has keys of the test's own, so that it
// may show guards what it likes and disclose what they answer.
type liar struct {
	*scene
	pq     *mlkem.DecapsulationKey768
	x      *ecdh.PrivateKey
	opener control.Opener
	leaf   codec.Hash
	set    []*orgtest.Message
	bad    int // the position of the envelope under a wrong tag
	broken int // and of one that is broken otherwise
}

// newLiar has an honest opening behind it, of records one of which is set aside
// and one broken, and its own uses of the same set on the log.
func newLiar(t *testing.T) *liar {
	t.Helper()
	var bad, broken *orgtest.Message
	l := &liar{scene: newScene(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) {
		bad = w.SendMistagged(w.Pair, w.Other, "hidden")
		broken = w.SendBroken(w.Pair, w.Other)
	}}, nil)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	l.pq, err = mlkem.GenerateKey768()
	must(err)
	l.x, err = ecdh.X25519().GenerateKey(rand.Reader)
	must(err)
	key, err := hpke.NewHybridPrivateKey(l.pq, l.x)
	must(err)
	l.key = codec.NewPrivateKey()
	l.opener = control.Opener{
		Request: l.Request, Sign: l.key.PublicKey(), Encrypt: key.PublicKey().Bytes(), Evidence: control.EvidenceNone,
	}
	l.leaf = l.Org.Add(&l.opener, orgtest.Key{PrivateKey: l.key}, l.Org.Reviewers[0])
	for _, c := range l.parse().RecordSet {
		i := slices.IndexFunc(l.Sent, func(m *orgtest.Message) bool { return m.Core == c })
		l.set = append(l.set, l.Sent[i])
	}
	l.bad, l.broken = slices.Index(l.set, bad), slices.Index(l.set, broken)
	for i, h := range l.Org.Keyholders {
		l.Org.Add(l.use(false, i+1, control.PhaseRecord, l.cores()), h)
	}
	for i, h := range l.Org.Guards {
		l.Org.Add(l.use(true, i+1, control.PhaseRecord, l.cores()), h)
		l.Org.Add(l.use(true, i+1, control.PhaseIndex, l.cores()), h)
		l.Org.Add(l.use(true, i+1, control.PhaseRecord, l.cores()[1:]), h)
	}
	return l
}

func (l *liar) cores() []codec.Hash {
	var out []codec.Hash
	for _, m := range l.set {
		out = append(out, m.Core)
	}
	return out
}

func (l *liar) use(guard bool, holder int, phase control.Phase, cores []codec.Hash) *control.Use {
	return &control.Use{
		Request: l.Request, Phase: phase, Opener: l.leaf, Guard: guard, Holder: uint8(holder),
		Root: control.UseSet(cores), Count: uint64(len(cores)),
	}
}

// leafOf names a use that is on the log.
func (l *liar) leafOf(u *control.Use) codec.Hash {
	l.T.Helper()
	s, _, err := control.NewStatement(rand.Reader, l.Org.ID, u)
	if err != nil {
		l.T.Fatal(err)
	}
	return s.Hash()
}

// parts is what an honest guard answers that is shown these encapsulations.
func (l *liar) parts(guard int, shown func(i int) []byte) *request.Parts {
	l.T.Helper()
	p := &request.Parts{}
	for i, m := range l.set {
		enc := m.Envelope.Enc
		if shown != nil {
			enc = shown(i)
		}
		secret, err := l.Org.Guards[guard-1].MLKEM[m.Manifest.Header.EscrowKey].Decapsulate(enc[:mlkem.CiphertextSize768])
		if err != nil {
			l.T.Fatal(err)
		}
		var word []byte
		if envelope.VerifyTag(secret, m.Core, &m.Manifest.Tag) != nil {
			secret, word = nil, request.Withheld(m.Manifest.Hash(), enc)
		}
		p.Parts, p.Proofs = append(p.Parts, secret), append(p.Proofs, word)
	}
	return p
}

// word is a guard's answer, under its use of the set, with what opens it.
func (l *liar) word(guard int, p *request.Parts) pack.Disclosed {
	l.T.Helper()
	return l.say(l.Org.Guards[guard-1].Key, &l.opener, l.leafOf(l.use(true, guard, control.PhaseRecord, l.cores())), guard, p)
}

func (l *liar) say(key codec.Signer, opener *control.Opener, use codec.Hash, guard int, p *request.Parts) pack.Disclosed {
	l.T.Helper()
	raw, err := request.SealAnswer(key, opener, use, true, uint8(guard), p)
	if err != nil {
		l.T.Fatal(err)
	}
	secrets, err := pack.Disclose(l.pq, l.x, raw)
	if err != nil {
		l.T.Fatal(err)
	}
	return pack.Disclosed{Answer: raw, Secrets: secrets}
}

// words are the guards' answers, the second of which was changed.
func (l *liar) words(change func(p *request.Parts)) []pack.Disclosed {
	second := l.parts(2, nil)
	if change != nil {
		change(second)
	}
	return []pack.Disclosed{l.word(1, l.parts(1, nil)), l.word(2, second)}
}

// draft is the honest opening's body as the liar's own.
func (l *liar) draft() *pack.Body {
	b := l.parse()
	b.Opener, b.Control = l.leaf, l.Org.Entries()
	b.ControlCheckpoint = l.witnessed(b.Control, l.Org.Witnesses)
	b.SetAside[0].Answers = l.words(nil)
	return b
}

// hide makes a body look as if a good envelope had been set aside as well.
func (l *liar) hide(b *pack.Body, position int, env *envelope.Envelope) {
	l.T.Helper()
	i := slices.IndexFunc(b.Items, func(it pack.Item) bool { return bytes.Equal(it.Manifest, l.set[position].Manifest.Bytes()) })
	b.Items[i].Opened, b.Items[i].E = nil, env.E()
	aside := &b.SetAside[0].Envelopes
	*aside = append(*aside, pack.Refuted{Position: uint64(position), Envelope: env.Encode()})
	slices.SortFunc(*aside, func(x, y pack.Refuted) int { return int(x.Position) - int(y.Position) })
}

// An envelope is set aside on the word of every guard about what was archived,
// and on nothing less; nor does such a word convict a guard of what an opener
// made up.
func TestFalseSetAside(t *testing.T) {
	l := newLiar(t)
	honest, err := pack.ParseBody(l.body)
	if err != nil {
		t.Fatal(err)
	}
	const victim = 1
	other := bytes.Clone(l.set[0].Envelope.Enc[:mlkem.CiphertextSize768])
	swapped := func(i int) []byte {
		enc := l.set[i].Envelope.Enc
		if i == victim {
			enc = append(bytes.Clone(other), enc[mlkem.CiphertextSize768:]...)
		}
		return enc
	}
	fault := func(position int, p *request.Parts) []pack.Fault {
		w := l.word(1, p)
		return []pack.Fault{{Guard: true, Holder: 1, Phase: control.PhaseRecord, Position: uint64(position), Answer: w.Answer, Secrets: w.Secrets}}
	}
	for name, c := range map[string]struct {
		edit   func(b *pack.Body)
		opened int      // 0 means all that an honest opener opened
		faults []string // of the opener's last word
		want   string   // the check that fails, and its detail
		detail string
	}{
		"nothing":   {},
		"not shown": {edit: func(b *pack.Body) { b.SetAside = nil }, want: "opened"},
		"one guard missing": {edit: func(b *pack.Body) { b.SetAside[0].Answers = l.words(nil)[:1] },
			want: "faults", detail: "on the word of 1 guards"},
		"one guard twice": {edit: func(b *pack.Body) { a := b.SetAside[0].Answers; a[1] = a[0] }, want: "faults", detail: "guard 2"},
		"guards swapped":  {edit: func(b *pack.Body) { slices.Reverse(b.SetAside[0].Answers) }, want: "faults", detail: "guard 1"},
		"a third word": {edit: func(b *pack.Body) { a := &b.SetAside[0].Answers; *a = append(*a, (*a)[0]) },
			want: "faults", detail: "on the word of 3 guards"},
		"a part that isn't empty": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = l.words(func(p *request.Parts) { p.Parts[l.bad] = make([]byte, 32) })
		}, want: "faults", detail: "guard 2 doesn't say"},
		"an empty part alone": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = l.words(func(p *request.Parts) { p.Proofs[l.bad] = nil })
		}, want: "faults", detail: "guard 2 doesn't say"},
		"no words at all": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = l.words(func(p *request.Parts) { p.Proofs = nil })
		}, want: "faults", detail: "guard 2 doesn't say"},
		"a part too few": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = l.words(func(p *request.Parts) { p.Parts = p.Parts[1:] })
		}, want: "faults", detail: "one part for each"},
		"about another manifest": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = l.words(func(p *request.Parts) {
				p.Proofs[l.bad] = request.Withheld(l.set[0].Manifest.Hash(), l.set[l.bad].Envelope.Enc)
			})
		}, want: "faults", detail: "guard 2 doesn't say"},
		"another envelope's word": {edit: func(b *pack.Body) { l.hide(b, victim, l.set[victim].Envelope) }, opened: 6,
			want: "faults", detail: "guard 1 doesn't say"},
		"an envelope that was opened": {edit: func(b *pack.Body) { b.SetAside[0].Envelopes[0].Position = victim }, want: "opened"},
		"an envelope that is broken": {edit: func(b *pack.Body) {
			e := &b.SetAside[0].Envelopes
			*e = append(*e, pack.Refuted{Position: uint64(l.broken), Envelope: l.set[l.broken].Envelope.Encode()})
		}, want: "opened"},
		"an envelope that nobody asked for": {edit: func(b *pack.Body) {
			e := &b.SetAside[0].Envelopes
			*e = append(*e, pack.Refuted{Position: 1 << 40, Envelope: l.set[0].Envelope.Encode()})
		}, want: "faults", detail: "nobody asked for it"},
		"another envelope's bytes": {edit: func(b *pack.Body) { b.SetAside[0].Envelopes[0].Envelope = l.set[0].Envelope.Encode() },
			want: "faults", detail: "not the archived envelope"},
		"another phase": {edit: func(b *pack.Body) { b.SetAside[0].Phase = control.PhaseIndex }, want: "opened"},
		"a good envelope whose guards were shown another's ciphertext": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = []pack.Disclosed{l.word(1, l.parts(1, swapped)), l.word(2, l.parts(2, swapped))}
			l.hide(b, victim, l.set[victim].Envelope)
		}, opened: 6, want: "faults", detail: "guard 1 doesn't say"},
		"and the envelope made to fit": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers = []pack.Disclosed{l.word(1, l.parts(1, swapped)), l.word(2, l.parts(2, swapped))}
			l.hide(b, victim, &envelope.Envelope{Enc: swapped(victim), Ciphertext: l.set[victim].Envelope.Ciphertext})
		}, opened: 6, want: "faults", detail: "not the archived envelope"},
		"answers to another opener": {edit: func(b *pack.Body) { b.SetAside[0].Answers = honest.SetAside[0].Answers },
			want: "faults", detail: "the word of guard 1"},
		"an answer to another request": {edit: func(b *pack.Body) {
			o := l.opener
			o.Request[0] ^= 1
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[1].Key, &o, l.leafOf(l.use(true, 2, control.PhaseRecord, l.cores())), 2, l.parts(2, nil))
		}, want: "faults", detail: "the word of guard 2"},
		"an answer in another phase": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[1].Key, &l.opener, l.leafOf(l.use(true, 2, control.PhaseIndex, l.cores())), 2, l.parts(2, nil))
		}, want: "faults", detail: "another set"},
		"an answer about another set": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[1].Key, &l.opener, l.leafOf(l.use(true, 2, control.PhaseRecord, l.cores()[1:])), 2, l.parts(2, nil))
		}, want: "faults", detail: "another set"},
		"another guard's use": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[1].Key, &l.opener, l.leafOf(l.use(true, 1, control.PhaseRecord, l.cores())), 2, l.parts(2, nil))
		}, want: "faults", detail: "another set"},
		"a use that isn't on the log": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[1].Key, &l.opener, codec.Sum("use"), 2, l.parts(2, nil))
		}, want: "faults", detail: "something else"},
		"an answer that the other guard signed": {edit: func(b *pack.Body) {
			b.SetAside[0].Answers[1] = l.say(l.Org.Guards[0].Key, &l.opener, l.leafOf(l.use(true, 2, control.PhaseRecord, l.cores())), 2, l.parts(2, nil))
		}, want: "faults", detail: codec.ErrSignature.Error()},
		"other secrets": {edit: func(b *pack.Body) { b.SetAside[0].Answers[1].Secrets[40] ^= 1 }, want: "faults", detail: "guard 2"},

		"a guard convicted of withholding": {edit: func(b *pack.Body) {
			p := l.parts(1, nil)
			p.Parts[victim], p.Proofs[victim] = nil, request.Withheld(l.set[victim].Manifest.Hash(), l.set[victim].Envelope.Enc)
			b.Faults = fault(victim, p)
		}, faults: []string{"guard-1"}},
		"a guard convicted of withholding what is broken": {edit: func(b *pack.Body) {
			p := l.parts(1, nil)
			p.Parts[l.broken], p.Proofs[l.broken] = nil, request.Withheld(l.set[l.broken].Manifest.Hash(), l.set[l.broken].Envelope.Enc)
			b.Faults = fault(l.broken, p)
		}, faults: []string{"guard-1"}},
		"a guard accused of withholding what it wasn't asked": {edit: func(b *pack.Body) { b.Faults = fault(victim, l.parts(1, swapped)) },
			faults: []string{"guard-1"}, want: "faults", detail: "something else"},
		"a guard accused of withholding, rightly": {edit: func(b *pack.Body) { b.Faults = fault(l.bad, l.parts(1, nil)) },
			faults: []string{"guard-1"}, want: "faults", detail: "no envelope whose secret is shown"},
		"a guard accused of a right answer": {edit: func(b *pack.Body) { b.Faults = fault(victim, l.parts(1, nil)) },
			faults: []string{"guard-1"}, want: "faults", detail: "the right one"},
	} {
		b := l.draft()
		if c.edit != nil {
			c.edit(b)
		}
		r := verify.Pack(l.Org.ID, l.finish(b, func(o *control.OpeningStatement) {
			o.Opened, o.Exported, o.Faults = 7, 6, c.faults
			if c.opened != 0 {
				o.Opened = uint64(c.opened)
			}
		}))
		got := failed(r)
		if c.want == "" {
			if !r.OK || len(r.NotOpened) != 2 {
				t.Errorf("%s: failed %q, %d not opened", name, got, len(r.NotOpened))
			}
			continue
		}
		i := slices.IndexFunc(r.Checks, func(x verify.Check) bool { return x.Name == c.want })
		if r.OK || !slices.Contains(got, c.want) || !strings.Contains(r.Checks[i].Detail, c.detail) {
			t.Errorf("%s: failed %q, want %q: %s", name, got, c.want, r.Checks[i].Detail)
		}
	}
}

// The program says in plain words what wasn't opened, and whose it is.
func TestNotOpened(t *testing.T) {
	w := openertest.New(t, openertest.Options{Terms: []string{}, Messages: func(w *openertest.World) { w.SendMistagged(w.Pair, w.Other, "hidden") }})
	_, _, data := w.Open()
	path := filepath.Join(t.TempDir(), "pack")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := verify.Main([]string{"--org", w.Org.ID.String(), path}, &stdout, &stderr)
	want := "not opened: every guard says that the sender's tag is wrong: envelope " + w.Sent[len(w.Sent)-1].Core.String() +
		", device " + w.Other.Hash.String() + ", member " + w.Other.Member.String() + "\n"
	if code != 0 || !strings.Contains(stdout.String(), want) || !strings.Contains(stdout.String(), "1 not opened") {
		t.Errorf("code %d\n%s%s", code, stdout.String(), stderr.String())
	}
}

// A pack that was written before envelopes could be set aside is what it was.
func TestEarlierPack(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	id, err := codec.ParseHash(strings.TrimSpace(string(read("earlier.org"))))
	if err != nil {
		t.Fatal(err)
	}
	data := read("earlier.pack")
	if r := verify.Pack(id, data); !r.OK || r.Opened != 7 || !slices.Equal(r.Faults, []string{"keyholder-2"}) || len(r.NotOpened) != 1 {
		t.Errorf("failed %q: %+v", failed(r), r)
	}
	p, err := pack.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := pack.Assemble(p.Body.Encode(), p.Tail); err != nil || !bytes.Equal(again, data) {
		t.Errorf("another encoding: %v", err)
	}
}
