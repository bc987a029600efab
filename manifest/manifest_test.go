package manifest

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/envelope"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func key(t testing.TB, n byte) *codec.PrivateKey {
	t.Helper()
	k, err := codec.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, codec.PrivateKeySize))
	must(t, err)
	return k
}

func hash(s string) codec.Hash { return codec.Sum("test", []byte(s)) }

func id(s string) codec.ID { h := hash(s); return codec.ID(h[:16]) }

// sample is one of everything, the same each time.
type sample struct {
	device, server *codec.PrivateKey

	manifest                            *Manifest
	commit, receipt, refusal, void, ack []byte
}

func newSample(t testing.TB) *sample {
	t.Helper()
	s := &sample{device: key(t, 1), server: key(t, 2)}
	header := envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: hash("organisation"), EscrowKey: hash("key"), PolicyLeaf: hash("policy"),
		Device: hash("device"), Conversation: id("conversation"), Seq: 3, Prev: hash("previous"), Kind: envelope.KindRecord, Day: 20_407, Commitment: hash("commitment"),
	}
	core := &envelope.Core{Header: header.Encode(), Envelope: hash("envelope"), Attachments: []codec.Hash{hash("attachment")}}
	proof := envelope.Proof(bytes.Repeat([]byte{7}, envelope.ProofSize))
	var err error
	s.manifest, err = Sign(s.device, core, proof, [32]byte{8}, &Transport{
		Epoch: 2, Roster: hash("commit"), Ciphertexts: []codec.Hash{CiphertextHash([]byte("ciphertext"))}, Index: hash("index"), Tokenizer: 1, Tags: hash("tags"),
	})
	must(t, err)
	s.commit, err = SignCommit(s.device, &Commit{
		Organisation: hash("organisation"), Conversation: id("conversation"), Epoch: 2, Device: hash("device"),
		Transcript: bytes.Repeat([]byte{9}, 32), Roster: NewRoster([]codec.Hash{hash("device"), hash("other")}).Root(), Previous: hash("epoch 1"), Message: CiphertextHash([]byte("commit")),
	})
	must(t, err)
	s.receipt, err = SignReceipt(s.server, &Receipt{Index: 41, Object: s.manifest.Hash(), Opening: Opening{
		Salt: [32]byte{10}, Body: ReceiptBody{
			Kind: LeafMessage, Conversation: id("conversation"), ControlSize: 20, ControlRoot: hash("root"), Time: 1_763_208_000_000, Position: 5, Previous: hash("leaf"),
		},
	}})
	must(t, err)
	s.refusal, err = SignRefusal(s.server, &Refusal{Core: s.manifest.CoreHash(), Reason: "policy: the escrow key is retired", Time: 1_763_208_000_000})
	must(t, err)
	s.void, err = SignVoid(s.device, &Void{
		Organisation: hash("organisation"), Device: hash("device"), Conversation: id("conversation"), Seq: 3, Core: s.manifest.CoreHash(), Refusal: s.refusal,
	})
	must(t, err)
	s.ack, err = SignAck(s.device, &Ack{
		Organisation: hash("organisation"), Device: hash("device"), Conversation: id("conversation"), Position: 5, Leaf: hash("leaf 5"), Read: 6, Exceptions: []uint64{1, 4}, Time: 1_763_208_000_000,
	})
	must(t, err)
	return s
}

// format is a signed structure: open verifies and reads it, read reads it alone,
// and both return its body.
type format struct {
	name  string
	label string
	key   *codec.PrivateKey
	raw   []byte
	open  func(codec.PublicKey, []byte) (any, error)
	read  func([]byte) (any, error) // nil where it is read after verification alone
}

func (s *sample) formats() []format {
	return []format{
		{
			"manifest", labelManifest, s.device, s.manifest.Bytes(),
			func(k codec.PublicKey, raw []byte) (any, error) {
				m, err := Parse(raw)
				if err != nil {
					return nil, err
				}
				return body(m), m.Verify(k)
			},
			func(raw []byte) (any, error) {
				m, err := Parse(raw)
				if err != nil {
					return nil, err
				}
				return body(m), nil
			},
		},
		{
			"commit", labelCommit, s.device, s.commit,
			func(k codec.PublicKey, raw []byte) (any, error) {
				if err := VerifyCommit(k, raw); err != nil {
					return nil, err
				}
				return ParseCommit(raw)
			},
			func(raw []byte) (any, error) { return ParseCommit(raw) },
		},
		{"receipt", labelReceipt, s.server, s.receipt, func(k codec.PublicKey, raw []byte) (any, error) { return OpenReceipt(k, raw) }, nil},
		{"refusal", labelRefusal, s.server, s.refusal, func(k codec.PublicKey, raw []byte) (any, error) { return OpenRefusal(k, raw) }, nil},
		{
			"void", labelVoid, s.device, s.void,
			func(k codec.PublicKey, raw []byte) (any, error) { return OpenVoid(k, raw) },
			func(raw []byte) (any, error) { return ParseVoid(raw) },
		},
		{
			"acknowledgement", labelAck, s.device, s.ack,
			func(k codec.PublicKey, raw []byte) (any, error) {
				if err := VerifyAck(k, raw); err != nil {
					return nil, err
				}
				return ParseAck(raw)
			},
			func(raw []byte) (any, error) { return ParseAck(raw) },
		},
	}
}

func body(m *Manifest) manifestBody {
	return manifestBody{Core: m.Core.Encode(), Proof: m.Proof, Tag: m.Tag, Transport: codec.Encode(m.Transport)}
}

// TestFormats signs, reads, flips and relabels one of everything.
func TestFormats(t *testing.T) {
	s := newSample(t)
	for _, f := range s.formats() {
		got, err := f.open(f.key.PublicKey(), f.raw)
		must(t, err)
		payload, err := codec.PeekUnverifiedPayload(f.raw)
		must(t, err)
		if !bytes.Equal(codec.Encode(got), payload) {
			t.Errorf("%s: another comes back", f.name)
		}
		if _, err := f.open(key(t, 3).PublicKey(), f.raw); !errors.Is(err, codec.ErrSignature) {
			t.Errorf("%s under another key: %v", f.name, err)
		}
		for i := range f.raw {
			for bit := range 8 {
				bad := bytes.Clone(f.raw)
				bad[i] ^= 1 << bit
				if _, err := f.open(f.key.PublicKey(), bad); err == nil {
					t.Fatalf("%s: bit %d of byte %d flipped and accepted", f.name, bit, i)
				}
			}
		}
		for _, bad := range [][]byte{nil, f.raw[1:], f.raw[:len(f.raw)-1], append(bytes.Clone(f.raw), 0), make([]byte, 1<<20)} {
			if _, err := f.open(f.key.PublicKey(), bad); err == nil {
				t.Errorf("%s of %d bytes accepted", f.name, len(bad))
			}
			if f.read != nil {
				if _, err := f.read(bad); err == nil {
					t.Errorf("%s of %d bytes read", f.name, len(bad))
				}
			}
		}
		for _, other := range s.formats() {
			if other.label == f.label {
				continue
			}
			// The same key, the same bytes, another label.
			raw, err := f.key.Sign1(other.label, payload)
			must(t, err)
			if _, err := f.open(f.key.PublicKey(), raw); err == nil {
				t.Errorf("a %s signed as a %s is accepted", f.name, other.name)
			}
			if _, err := f.open(other.key.PublicKey(), other.raw); err == nil {
				t.Errorf("a %s is accepted as a %s", other.name, f.name)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	s := newSample(t)
	sign := func(label string, body any) []byte {
		raw, err := s.device.Sign1(label, codec.Encode(body))
		must(t, err)
		return raw
	}
	transport := *s.manifest.Transport
	transport.Capsule = hash("capsule")
	capsule := body(s.manifest)
	capsule.Transport = codec.Encode(transport)
	if _, err := Parse(sign(labelManifest, capsule)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a capsule: %v", err)
	}
	wide := body(s.manifest)
	wide.Core = append([]byte{0x83, 0x59, 0}, wide.Core[2:]...) // a longer head of the header
	if _, err := Parse(sign(labelManifest, wide)); err == nil {
		t.Error("a core in another encoding")
	}

	commit, err := ParseCommit(s.commit)
	must(t, err)
	for what, change := range map[string]func(*Commit){
		"a first epoch with one before": func(c *Commit) { c.Epoch = 0 },
		"nothing before":                func(c *Commit) { c.Previous = codec.Hash{} },
		"no message":                    func(c *Commit) { c.Message = codec.Hash{} },
		"no transcript, no message":     func(c *Commit) { c.Transcript, c.Message = nil, codec.Hash{} },
		"direct, with nothing before":   func(c *Commit) { c.Transcript, c.Previous = nil, codec.Hash{} },
		"a long transcript":             func(c *Commit) { c.Transcript = make([]byte, 65) },
	} {
		bad := *commit
		change(&bad)
		if _, err := ParseCommit(sign(labelCommit, bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	first := Commit{Organisation: commit.Organisation, Conversation: commit.Conversation, Device: commit.Device, Roster: commit.Roster}
	if _, err := ParseCommit(sign(labelCommit, first)); err != nil {
		t.Errorf("the first epoch: %v", err)
	}

	receipt, err := OpenReceipt(s.server.PublicKey(), s.receipt)
	must(t, err)
	for what, change := range map[string]func(*Receipt){
		"a negative index": func(r *Receipt) { r.Index = -1 },
		"no control log":   func(r *Receipt) { r.Opening.Body.ControlSize = 0 },
		"a negative time":  func(r *Receipt) { r.Opening.Body.Time = -1 },
		"no kind":          func(r *Receipt) { r.Opening.Body.Kind = 0 },
		"a fifth kind":     func(r *Receipt) { r.Opening.Body.Kind = 5 },
	} {
		bad := *receipt
		change(&bad)
		raw, err := SignReceipt(s.server, &bad)
		must(t, err)
		if _, err := OpenReceipt(s.server.PublicKey(), raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}

	ack, err := ParseAck(s.ack)
	must(t, err)
	for what, exceptions := range map[string][]uint64{"backwards": {4, 1}, "twice": {1, 1}, "beyond the position": {6}} {
		bad := *ack
		bad.Exceptions = exceptions
		if _, err := ParseAck(sign(labelAck, bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("exceptions %s: %v", what, err)
		}
	}

	long, err := s.server.Sign1(labelRefusal, codec.Encode(Refusal{Reason: strings.Repeat("x", 513)}))
	must(t, err)
	if _, err := OpenRefusal(s.server.PublicKey(), long); !errors.Is(err, codec.ErrSize) {
		t.Error(err)
	}
	cut, err := SignRefusal(s.server, &Refusal{Reason: "x" + strings.Repeat("é", 512)})
	must(t, err)
	if r, err := OpenRefusal(s.server.PublicKey(), cut); err != nil || len(r.Reason) != 511 {
		t.Errorf("a reason cut within a letter: %v", err)
	}
}

func TestRoster(t *testing.T) {
	a, b, c := hash("a"), hash("b"), hash("c")
	r := NewRoster([]codec.Hash{c, a, b, a})
	must(t, r.Validate())
	if len(r) != 3 || !r.Contains(a) || !r.Contains(b) || !r.Contains(c) || r.Contains(hash("d")) {
		t.Errorf("%v", r)
	}
	if r.Root() != NewRoster([]codec.Hash{a, b, c}).Root() || r.Root() == r[:2].Root() {
		t.Error("the root is not that of the set")
	}
	swapped := slices.Clone(r)
	swapped[0], swapped[1] = r[1], r[0]
	for what, bad := range map[string]Roster{"empty": nil, "not in order": swapped, "twice": {a, a}, "too long": make(Roster, MaxRoster+1)} {
		if err := bad.Validate(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Each part of a leaf changes it, and none can stand for another.
func TestLeaf(t *testing.T) {
	base := Opening{Salt: [32]byte{1}, Body: ReceiptBody{Kind: LeafMessage, Conversation: id("c"), ControlSize: 1, ControlRoot: hash("r"), Time: 1, Position: 1, Previous: hash("p")}}
	leaves := map[codec.Hash]string{base.Leaf(hash("object")): "base"}
	add := func(what string, l codec.Hash) {
		if before, ok := leaves[l]; ok {
			t.Errorf("%s and %s have one leaf", what, before)
		}
		leaves[l] = what
	}
	add("object", base.Leaf(hash("another")))
	for what, change := range map[string]func(*Opening){
		"salt":         func(o *Opening) { o.Salt[0]++ },
		"kind":         func(o *Opening) { o.Body.Kind = LeafVoid },
		"conversation": func(o *Opening) { o.Body.Conversation = id("d") },
		"size":         func(o *Opening) { o.Body.ControlSize++ },
		"root":         func(o *Opening) { o.Body.ControlRoot = hash("s") },
		"time":         func(o *Opening) { o.Body.Time++ },
		"position":     func(o *Opening) { o.Body.Position++ },
		"previous":     func(o *Opening) { o.Body.Previous = hash("q") },
	} {
		o := base
		change(&o)
		add(what, o.Leaf(hash("object")))
	}
	if _, err := NewOpening(strings.NewReader("short"), ReceiptBody{}); err == nil {
		t.Error("a salt from nothing")
	}
	for k := range LeafKind(6) {
		if k.String() == "" {
			t.Error("a kind without a name")
		}
	}
	if bytes.Equal(AuthenticatedData(hash("a")), AuthenticatedData(hash("b"))) {
		t.Error("two cores have one associated data")
	}
}

func fuzz(f *testing.F, name string) {
	s := newSample(f)
	i := slices.IndexFunc(s.formats(), func(x format) bool { return x.name == name })
	format := s.formats()[i]
	payload, err := codec.PeekUnverifiedPayload(format.raw)
	must(f, err)
	f.Add(payload, []byte(nil))
	f.Add([]byte(nil), format.raw)
	f.Fuzz(func(t *testing.T, payload, raw []byte) {
		if _, err := format.open(format.key.PublicKey(), raw); err == nil && !bytes.Equal(raw, format.raw) {
			t.Fatal("accepted what was never signed")
		}
		if format.read != nil {
			if got, err := format.read(raw); err == nil {
				if p, err := codec.PeekUnverifiedPayload(raw); err != nil || !bytes.Equal(codec.Encode(got), p) {
					t.Fatal("a second encoding was accepted")
				}
			}
		}
		signed, err := format.key.Sign1(format.label, payload)
		if err != nil {
			return
		}
		if got, err := format.open(format.key.PublicKey(), signed); err == nil && !bytes.Equal(codec.Encode(got), payload) {
			t.Fatal("a second encoding of a body was accepted")
		}
	})
}

func FuzzManifest(f *testing.F) { fuzz(f, "manifest") }
func FuzzCommit(f *testing.F)   { fuzz(f, "commit") }
func FuzzReceipt(f *testing.F)  { fuzz(f, "receipt") }
func FuzzRefusal(f *testing.F)  { fuzz(f, "refusal") }
func FuzzVoid(f *testing.F)     { fuzz(f, "void") }
func FuzzAck(f *testing.F)      { fuzz(f, "acknowledgement") }
