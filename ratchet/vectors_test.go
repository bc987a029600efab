package ratchet

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"testing"
	"time"

	"chancery/codec"
)

var update = flag.Bool("update", false, "write spec/vectors/ratchet.json anew; say in the commit why")

const vectorFile = "../spec/vectors/ratchet.json"

// hexBytes are bytes in lower-case hexadecimal.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

type vectorSet struct {
	Description string          `json:"description"`
	Policy      hexBytes        `json:"policy"`
	Escrow      hexBytes        `json:"escrow_key"`
	Initiator   vectorDevice    `json:"initiator"`
	Responder   vectorDevice    `json:"responder"`
	Sessions    []vectorSession `json:"sessions"`
	Invalid     []vectorInvalid `json:"invalid"`
}

type vectorDevice struct {
	Leaf        hexBytes       `json:"leaf"`
	SigningSeed hexBytes       `json:"signing_seed"`
	SigningKey  hexBytes       `json:"signing_key"`
	Agreement   hexBytes       `json:"agreement_private"`
	Identity    hexBytes       `json:"identity"`
	PreKeys     []vectorPreKey `json:"prekeys"`
	State       hexBytes       `json:"state"` // PreKeys.Marshal
}

type vectorPreKey struct {
	Kind      kind     `json:"kind"`
	ID        uint32   `json:"id"`
	Private   hexBytes `json:"private"`
	Statement hexBytes `json:"statement"`
}

type vectorSession struct {
	Name       string       `json:"name"`
	Time       int64        `json:"time"`
	Bundle     hexBytes     `json:"bundle"`
	Random     hexBytes     `json:"random"` // ephemeral key, ML-KEM's coins, first ratchet key
	Hello      hexBytes     `json:"hello"`
	DH         []hexBytes   `json:"dh"`
	Shared     hexBytes     `json:"kem_secret"`
	Parties    hexBytes     `json:"parties"`
	Session    hexBytes     `json:"session"`
	Transcript hexBytes     `json:"transcript"`
	Root       hexBytes     `json:"sk"`
	HeaderKey  hexBytes     `json:"hk_a"`
	NextHeader hexBytes     `json:"nhk_b"`
	Steps      []vectorStep `json:"steps"`
	States     [2]hexBytes  `json:"states"` // both sessions at the end, marshalled
}

// vectorStep is one side sending or reading a message.
type vectorStep struct {
	By         string   `json:"by"` // initiator or responder
	Do         string   `json:"do"` // send or read
	Random     hexBytes `json:"random"`
	AD         hexBytes `json:"ad"`
	Plaintext  hexBytes `json:"plaintext"`
	Message    hexBytes `json:"message"`
	Header     hexBytes `json:"header,omitempty"`      // of what the responder reads: its plaintext
	MessageKey hexBytes `json:"message_key,omitempty"` // likewise
}

// vectorInvalid has one fault. A bundle is verified for the responder's device,
// an initial message accepted by the responder as in State, another message read
// in the session of State.
type vectorInvalid struct {
	Name   string   `json:"name"`
	What   string   `json:"what"` // bundle, initial or message
	Expect string   `json:"expect"`
	State  hexBytes `json:"state,omitempty"`
	Bytes  hexBytes `json:"bytes"`
}

func classes() map[string]error {
	return map[string]error{
		"encoding": codec.ErrEncoding, "signature": codec.ErrSignature, "device": ErrDevice, "expired": ErrExpired,
		"prekey": ErrPreKey, "open": ErrOpen, "replay": ErrReplay, "too far": ErrTooFar, "clock": ErrClock, "point": ErrPoint,
	}
}

// tee keeps what was drawn.
type tee struct {
	from io.Reader
	out  bytes.Buffer
}

func (r *tee) Read(p []byte) (int, error) { return io.TeeReader(r.from, &r.out).Read(p) }

func (r *tee) take() hexBytes {
	out := bytes.Clone(r.out.Bytes())
	r.out.Reset()
	return out
}

func makeDevice(t *testing.T, n *node, statements ...[]byte) vectorDevice {
	d := vectorDevice{
		Leaf: n.device.Leaf[:], SigningSeed: n.signer.Seed(), SigningKey: n.device.Key[:],
		Agreement: n.pre.state.Agreement[:], Identity: n.pre.Identity(), State: n.pre.Marshal(),
	}
	private := map[uint32][]byte{}
	for _, list := range n.pre.state.lists() {
		for _, h := range *list {
			private[h.ID] = h.Key
		}
	}
	for _, s := range statements {
		var k signed
		var body preKeyBody
		if codec.Decode(s, &k) != nil || codec.Decode(k.Body, &body) != nil {
			t.Fatal("not a prekey")
		}
		d.PreKeys = append(d.PreKeys, vectorPreKey{body.Kind, body.ID, private[body.ID], s})
	}
	return d
}

func makeVectors(t *testing.T) *vectorSet {
	alice, bob := newNode(t, "initiator", 0), newNode(t, "responder", 2)
	set := &vectorSet{
		Description: "Sessions by spec/ratchet.md. Randomness is drawn in the order given. Invalid ones have one fault each and the class of the first check that finds it.",
		Policy:      testPin.Policy[:], Escrow: testPin.Escrow[:],
		Initiator: makeDevice(t, alice, alice.signed, alice.lastResort),
		Responder: makeDevice(t, bob, bob.signed, bob.lastResort, bob.oneTime[0], bob.kem[0], bob.oneTime[1], bob.kem[1]),
	}
	bundles := map[string]*Bundle{"all prekeys": bob.bundle(t), "last resort": nil, "no one-time X25519": nil}
	oneTime, kem := bob.oneTime, bob.kem
	bob.oneTime = nil
	bundles["no one-time X25519"] = bob.bundle(t)
	bob.kem = nil
	bundles["last resort"] = bob.bundle(t)
	bob.oneTime, bob.kem = oneTime, kem
	for _, name := range []string{"all prekeys", "no one-time X25519", "last resort"} {
		set.Sessions = append(set.Sessions, makeSession(t, name, alice, bob, bundles[name]))
	}
	var err error
	if bob.pre, err = UnmarshalPreKeys(set.Responder.State); err != nil {
		t.Fatal(err)
	}
	set.Invalid = makeInvalid(t, alice, bob)
	return set
}

// script has messages lost, late, and over turns of the ratchet.
var script = []struct {
	by, do string
	n      int // which message of the other side is read
}{
	{"initiator", "send", 0},
	{"initiator", "send", 0},
	{"responder", "read", 1},
	{"responder", "send", 0},
	{"initiator", "send", 0},
	{"initiator", "read", 0},
	{"initiator", "send", 0},
	{"initiator", "send", 0},
	{"responder", "read", 4},
	{"responder", "read", 0},
	{"responder", "read", 2},
	{"responder", "send", 0},
	{"responder", "send", 0},
	{"initiator", "read", 2},
	{"initiator", "send", 0},
	{"responder", "read", 5},
}

func makeSession(t *testing.T, name string, alice, bob *node, bundle *Bundle) vectorSession {
	random := &tee{from: source("session " + name)}
	a, err := initiate(alice.pre, bob.device, bundle, noon, stamp{at: noon.UnixMilli()}, random, coins(random))
	if err != nil {
		t.Fatal(err)
	}
	v := vectorSession{Name: name, Time: noon.UnixMilli(), Bundle: bundle.Encode(), Random: random.take(), Hello: a.state.Hello}
	fillAgreement(t, &v, alice.device, bob)
	play(t, &v, a, alice, bob, random)
	return v
}

// play goes through the script with the package and fills in the steps.
func play(t *testing.T, v *vectorSession, a *Session, alice, bob *node, random *tee) {
	sent := map[string][]vectorStep{}
	var b *Session
	for i, s := range script {
		step := vectorStep{By: s.by, Do: s.do}
		own, other := a, "responder"
		if s.by == "responder" {
			own, other = b, "initiator"
		}
		var err error
		switch {
		case s.do == "send":
			step.Plaintext, step.AD = []byte(numbered(i)), []byte(numbered(100+i))
			step.Message, err = own.Encrypt(testPin, step.AD, step.Plaintext, random)
			sent[s.by] = append(sent[s.by], step)
		case own == nil:
			from := sent[other][s.n]
			step.AD, step.Message = from.AD, from.Message
			var accepted *Accepted
			if accepted, err = Accept(bob.pre, alice.device, testPin, step.AD, step.Message, noon, random); err == nil {
				b, step.Plaintext = accepted.Session, accepted.Plaintext
			}
		default:
			from := sent[other][s.n]
			step.AD, step.Message = from.AD, from.Message
			step.Plaintext, err = own.Decrypt(testPin, step.AD, step.Message, noon, random)
		}
		if err != nil {
			t.Fatalf("%s, step %d: %v", v.Name, i, err)
		}
		step.Random = random.take()
		v.Steps = append(v.Steps, step)
	}
	v.States = [2]hexBytes{a.Marshal(), b.Marshal()}
	readByPaper(t, v, bob, alice.device)
}

func fillAgreement(t *testing.T, v *vectorSession, from Device, bob *node) {
	i := paperSession(t, v, from, bob)
	v.DH = nil
	for _, s := range i.dh {
		v.DH = append(v.DH, s)
	}
	v.Shared, v.Parties, v.Session, v.Transcript = i.shared, i.parties, i.session, i.transcript
	v.Root, v.HeaderKey, v.NextHeader = i.sk, i.hk, i.nhk
}

// vectorPrivate are the responder's private halves, whatever was used since.
func vectorPrivate(t *testing.T, n *node) map[uint32][]byte {
	fresh := newNode(t, "responder", 2)
	if fresh.device != n.device {
		t.Fatal("another device")
	}
	private := map[uint32][]byte{}
	for _, list := range fresh.pre.state.lists() {
		for _, h := range *list {
			private[h.ID] = h.Key
		}
	}
	return private
}

func paperSession(t *testing.T, v *vectorSession, from Device, bob *node) *paperInitial {
	h, _, err := parseHello(v.Hello)
	if err != nil {
		t.Fatal(err)
	}
	private := vectorPrivate(t, bob)
	return paperAccept(t, from, bob.device, v.Hello, bob.pre.state.Agreement[:], private[h.Signed], private[h.OneTime], private[h.KEM])
}

// readByPaper has the paper's ratchet be the responder: it reads what the package
// sent and sends what the package sent, byte for byte.
func readByPaper(t *testing.T, v *vectorSession, bob *node, from Device) {
	h, _, err := parseHello(v.Hello)
	if err != nil {
		t.Fatal(err)
	}
	b := paperSession(t, v, from, bob).responder(vectorPrivate(t, bob)[h.Signed])
	for i := range v.Steps {
		s := &v.Steps[i]
		if s.By != "responder" {
			continue
		}
		if s.Do == "send" {
			if got := b.encrypt(testPin, s.AD, s.Plaintext, s.Random); !bytes.Equal(got, s.Message) {
				t.Fatalf("%s, step %d: the paper sends other bytes", v.Name, i)
			}
			continue
		}
		header, key, plaintext, err := b.decrypt(testPin, s.AD, s.Message, s.Random)
		if err != nil || !bytes.Equal(plaintext, s.Plaintext) {
			t.Fatalf("%s, step %d: the paper reads %q, %v", v.Name, i, plaintext, err)
		}
		s.Header, s.MessageKey = header, key
	}
}

func makeInvalid(t *testing.T, alice, bob *node) []vectorInvalid {
	state := bob.pre.Marshal()
	var out []vectorInvalid
	add := func(name, what, expect string, state, data []byte) {
		out = append(out, vectorInvalid{name, what, expect, state, data})
	}
	good := bob.bundle(t)
	other := newNode(t, "another device", 1).bundle(t).wire
	change := func(f func(*bundleWire)) []byte {
		w := good.wire
		f(&w)
		return codec.Encode(w)
	}
	flip := func(data []byte, i int) []byte {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		return bad
	}
	add("bundle of another device", "bundle", "device", nil, codec.Encode(other))
	add("signed prekey of another device", "bundle", "device", nil, change(func(w *bundleWire) { w.Signed = other.Signed }))
	add("signature of the agreement key", "bundle", "signature", nil, change(func(w *bundleWire) { w.Identity = flip(w.Identity, len(w.Identity)-1) }))
	add("signature of the signed prekey", "bundle", "signature", nil, change(func(w *bundleWire) { w.Signed = flip(w.Signed, len(w.Signed)-1) }))
	add("signature of the one-time prekey", "bundle", "signature", nil, change(func(w *bundleWire) { w.OneTime = flip(w.OneTime, len(w.OneTime)-1) }))
	add("signature of the ML-KEM prekey", "bundle", "signature", nil, change(func(w *bundleWire) { w.KEM = flip(w.KEM, len(w.KEM)-1) }))
	add("one-time prekey as signed prekey", "bundle", "encoding", nil, change(func(w *bundleWire) { w.Signed = w.OneTime }))
	add("version 2", "bundle", "encoding", nil, change(func(w *bundleWire) { w.Version = 2 }))
	add("a byte more", "bundle", "encoding", nil, append(good.Encode(), 0))

	random := source("invalid")
	a, err := initiate(alice.pre, bob.device, good, noon, stamp{at: noon.UnixMilli()}, random, coins(random))
	if err != nil {
		t.Fatal(err)
	}
	send := func(text string) []byte {
		data, err := a.Encrypt(testPin, nil, []byte(text), random)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	initial := send("initial")
	add("time changed", "initial", "open", state, editHello(t, initial, func(h *hello) { h.Time-- }))
	add("from the future", "initial", "clock", state, editHello(t, initial, func(h *hello) { h.Time = noon.Add(MaxAhead).UnixMilli() + 1 }))
	add("ML-KEM ciphertext", "initial", "open", state, editHello(t, initial, func(h *hello) { h.Ciphertext[0] ^= 1 }))
	add("ephemeral key of small order", "initial", "point", state, editHello(t, initial, func(h *hello) { h.Ephemeral = point{} }))
	add("unknown prekey", "initial", "prekey", state, editHello(t, initial, func(h *hello) { h.OneTime = 1000 }))
	add("agreement key of another device", "initial", "device", state, editHello(t, initial, func(h *hello) { h.Identity = other.Identity }))
	add("no hello", "initial", "encoding", state, edit(t, initial, func(m *message) { m.Hello = nil }))
	accepted, err := Accept(bob.pre, alice.device, testPin, nil, initial, noon, random)
	if err != nil {
		t.Fatal(err)
	}
	add("one-time keys used before", "initial", "prekey", bob.pre.Marshal(), initial)
	last, err := initiate(alice.pre, bob.device, &Bundle{bundleWire{}, good.identity, good.signed, nil, lastOf(t, bob)}, noon, stamp{at: noon.UnixMilli()}, random, coins(random))
	if err != nil {
		t.Fatal(err)
	}
	data, err := last.Encrypt(testPin, nil, nil, random)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(bob.pre, alice.device, testPin, nil, data, noon, random); err != nil {
		t.Fatal(err)
	}
	add("last resort used before", "initial", "replay", bob.pre.Marshal(), data)

	held := accepted.Session.Marshal()
	one, two := send("one"), send("two")
	m, err := parseMessage(one)
	if err != nil {
		t.Fatal(err)
	}
	add("read before", "message", "replay", held, initial)
	add("header of another message", "message", "open", held, edit(t, two, func(n *message) { n.Header = m.Header }))
	add("salt", "message", "open", held, edit(t, one, func(n *message) { n.Salt[0] ^= 1 }))
	add("hello left out", "message", "open", held, edit(t, one, func(n *message) { n.Hello = nil }))
	add("tag", "message", "open", held, edit(t, one, func(n *message) { n.Ciphertext[len(n.Ciphertext)-1] ^= 1 }))
	add("truncated", "message", "encoding", held, one[:len(one)-1])
	add("number 2^32-1", "message", "too far", held, jump(t, a, 0, 1<<32-1))
	return out
}

func lastOf(t *testing.T, n *node) *preKey {
	k, err := parsePreKey(n.lastResort, kindLastResort, kindLastResort)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestVectors holds the published file against the generator, and the package
// against the file.
func TestVectors(t *testing.T) {
	made, err := json.MarshalIndent(makeVectors(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	made = append(made, '\n')
	if *update {
		if err := os.WriteFile(vectorFile, made, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, data) {
		t.Error("the generator makes another file")
	}
	var set vectorSet
	if err := json.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Sessions) != 3 || len(set.Invalid) < 20 {
		t.Fatalf("%d sessions, %d invalid", len(set.Sessions), len(set.Invalid))
	}
	pin := Pin{codec.Hash(set.Policy), codec.Hash(set.Escrow)}
	for _, v := range set.Sessions {
		t.Run(v.Name, func(t *testing.T) { replay(t, &set, &v, pin) })
	}
	for _, v := range set.Invalid {
		t.Run(v.Name, func(t *testing.T) {
			if err := try(t, &set, &v, pin); !errors.Is(err, classes()[v.Expect]) || err == nil {
				t.Errorf("got %v, want %s", err, v.Expect)
			}
		})
	}
}

func (d *vectorDevice) device() Device {
	return Device{Leaf: codec.Hash(d.Leaf), Key: codec.PublicKey(d.SigningKey)}
}

// replay makes a session of a vector anew from its randomness.
func replay(t *testing.T, set *vectorSet, v *vectorSession, pin Pin) {
	pre := [2]*PreKeys{}
	for i, d := range []*vectorDevice{&set.Initiator, &set.Responder} {
		var err error
		if pre[i], err = UnmarshalPreKeys(d.State); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ed25519.NewKeyFromSeed(d.SigningSeed)[32:], d.SigningKey) || pre[i].Device() != d.device() {
			t.Error("a device that isn't its keys'")
		}
	}
	bundle, err := ParseBundle(v.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(v.Time)
	random := bytes.NewReader(v.Random)
	a, err := initiate(pre[0], set.Responder.device(), bundle, now, stamp{at: v.Time}, random, coins(random))
	if err != nil || !bytes.Equal(a.state.Hello, v.Hello) || a.state.ID != codec.Hash(v.Session) || a.state.Parties != codec.Hash(v.Parties) {
		t.Fatalf("another session: %v", err)
	}
	sessions := map[string]*Session{"initiator": a}
	for i, s := range v.Steps {
		random := bytes.NewReader(s.Random)
		own := sessions[s.By]
		got, want := []byte(nil), s.Plaintext
		switch {
		case s.Do == "send":
			want = s.Message
			got, err = own.Encrypt(pin, s.AD, s.Plaintext, random)
		case own == nil:
			var accepted *Accepted
			if accepted, err = Accept(pre[1], set.Initiator.device(), pin, s.AD, s.Message, now, random); err == nil {
				sessions[s.By], got = accepted.Session, accepted.Plaintext
			}
		default:
			got, err = own.Decrypt(pin, s.AD, s.Message, now, random)
		}
		if err != nil || !bytes.Equal(got, want) || random.Len() != 0 {
			t.Fatalf("step %d: got %x, %v", i, got, err)
		}
	}
	for i, by := range []string{"initiator", "responder"} {
		if !bytes.Equal(sessions[by].Marshal(), v.States[i]) {
			t.Errorf("%s: another state", by)
		}
	}
}

// try does what an invalid vector is for.
func try(t *testing.T, set *vectorSet, v *vectorInvalid, pin Pin) error {
	switch v.What {
	case "bundle":
		b, err := ParseBundle(v.Bytes)
		if err != nil {
			return err
		}
		return b.Verify(set.Responder.device(), noon)
	case "initial":
		pre, err := UnmarshalPreKeys(v.State)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Accept(pre, set.Initiator.device(), pin, nil, v.Bytes, noon, source(""))
		return err
	default:
		s, err := UnmarshalSession(v.State)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Decrypt(pin, nil, v.Bytes, noon, source(""))
		return err
	}
}
