package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/codec"
)

// TestDamage: no truncation and no flipped bit of a message is accepted, and none
// changes the session; neither of an initial message.
func TestDamage(t *testing.T) {
	a, b := newSessions(t)
	talk(t, a, b)
	data := encrypt(t, a, "x")
	before := b.Marshal()
	eachDamage(data, 1, func(bad []byte, what string) {
		if _, err := decrypt(b, bad); err == nil || !bytes.Equal(b.Marshal(), before) {
			t.Fatalf("%s: %v", what, err)
		}
	})
	mustRead(t, b, data, "x")
}

func TestDamagedInitialMessage(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	data := encrypt(t, begin(t, alice, bob), "x")
	before := bob.pre.Marshal()
	eachDamage(data, 7, func(bad []byte, what string) {
		if _, err := bob.accept(alice, bad, noon); err == nil || !bytes.Equal(bob.pre.Marshal(), before) {
			t.Fatalf("%s: %v", what, err)
		}
	})
	if _, err := bob.accept(alice, data, noon); err != nil {
		t.Error(err)
	}
}

// TestDamagedBundle: no flipped bit survives Verify, and so none begins a session.
func TestDamagedBundle(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	data := bob.bundle(t).Encode()
	eachDamage(data, 3, func(bad []byte, what string) {
		b, err := ParseBundle(bad)
		if err != nil {
			return
		}
		if s, err := Initiate(alice.pre, bob.device, b, noon, alice.random); err == nil || s != nil {
			t.Fatalf("%s: accepted", what)
		}
	})
}

// eachDamage calls f with each stride-th truncation and flip of each bit.
func eachDamage(data []byte, stride int, f func(bad []byte, what string)) {
	for i := 0; i < len(data); i += stride {
		f(data[:i:i], fmt.Sprint("cut at ", i))
		bad := bytes.Clone(data)
		for bit := range 8 {
			bad[i] ^= 1 << bit
			f(bad, fmt.Sprint("bit ", bit, " of byte ", i))
			bad[i] ^= 1 << bit
		}
	}
	f(append(bytes.Clone(data), 0), "a byte more")
}

func TestForgedMessages(t *testing.T) {
	a, b := newSessions(t)
	_, stranger := newSessions(t)
	stranger.state.Parties = a.state.Parties
	one, two := encrypt(t, a, "one"), encrypt(t, a, "two")
	first, err := parseMessage(one)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"header of another message": edit(t, two, func(m *message) { m.Header = first.Header }),
		"header and salt":           edit(t, two, func(m *message) { m.Header, m.Salt = first.Header, first.Salt }),
		"salt":                      edit(t, two, func(m *message) { m.Salt = first.Salt }),
		"body of another message":   edit(t, two, func(m *message) { m.Ciphertext = first.Ciphertext }),
		"hello taken off":           edit(t, two, func(m *message) { m.Hello = nil }),
		"hello of another session":  edit(t, two, func(m *message) { m.Hello = begin(t, newNode(t, "x", 0), newNode(t, "y", 0)).state.Hello }),
		"hello that isn't one":      edit(t, two, func(m *message) { m.Hello = []byte{1} }),
		"of another session":        encrypt(t, stranger, "x"),
		"reflected":                 encrypt(t, b, "b's own"),
		"no tag":                    edit(t, two, func(m *message) { m.Ciphertext = m.Ciphertext[:tagSize] }),
	} {
		mustRefuse(t, b, data, ErrOpen, name)
	}
	// Under a's header key, but not its message keys: what somebody can make who
	// was lent the header key alone.
	for _, h := range []header{{n: 2}, {n: 50}, {n: 0}} {
		m := *first
		h.public = a.state.Ratchet.Public
		reseal(t, a, &m, h)
		want := ErrOpen
		if h.n == 0 {
			want = ErrReplay
		}
		mustRefuse(t, b, codec.Encode(m), want, fmt.Sprint("header forged to ", h.n))
	}
	mustRead(t, b, two, "two")
	mustRead(t, b, one, "one")
	mustRefuse(t, b, one, ErrReplay, "replayed")
	mustRefuse(t, b, two, ErrReplay, "replayed")
}

// lowOrder are the points whose multiples by an X25519 scalar are zero, with
// those encodings of them that are not reduced (RFC 7748 §6.1, §7).
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000080",
}

// TestLowOrderPoints, wherever a peer that does sign can put one.
func TestLowOrderPoints(t *testing.T) {
	for _, text := range lowOrder {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		weak := point(raw)
		alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
		body := preKeyBody{Version: version, Leaf: bob.device.Leaf, ID: 1, Expires: noon.Add(time.Hour).UnixMilli(), Public: raw}
		statement := func(k kind) []byte {
			body.Kind = k
			data, err := sign(bob.signer, labelPreKey, body)
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		ik, err := sign(bob.signer, labelIdentity, identityBody{Version: version, Leaf: bob.device.Leaf, Key: weak})
		if err != nil {
			t.Fatal(err)
		}
		good := bob.bundle(t).wire
		for name, w := range map[string]bundleWire{
			"agreement key":   {Version: version, Identity: ik, Signed: good.Signed, KEM: good.KEM},
			"signed prekey":   {Version: version, Identity: good.Identity, Signed: statement(kindSigned), KEM: good.KEM},
			"one-time prekey": {Version: version, Identity: good.Identity, Signed: good.Signed, OneTime: statement(kindOneTime), KEM: good.KEM},
		} {
			b, err := newBundle(w)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := Initiate(alice.pre, bob.device, b, noon, alice.random); s != nil || !errors.Is(err, ErrPoint) {
				t.Errorf("%s %s: %v", name, text, err)
			}
		}
		data := editHello(t, encrypt(t, begin(t, alice, bob), "x"), func(h *hello) { h.Ephemeral = weak })
		bob.mustNotAccept(t, alice, data, noon, ErrPoint, "ephemeral key "+text)

		data = editHello(t, encrypt(t, begin(t, alice, bob), "x"), func(h *hello) {
			h.Identity, err = sign(alice.signer, labelIdentity, identityBody{Version: version, Leaf: alice.device.Leaf, Key: weak})
			if err != nil {
				t.Fatal(err)
			}
		})
		bob.mustNotAccept(t, alice, data, noon, ErrPoint, "initiator's agreement key "+text)

		a, b := newSessions(t)
		mustRead(t, a, encrypt(t, b, "turn"), "turn")
		m, err := parseMessage(encrypt(t, a, "x"))
		if err != nil {
			t.Fatal(err)
		}
		reseal(t, a, m, header{public: weak, pn: 1})
		mustRefuse(t, b, codec.Encode(m), ErrPoint, "ratchet key "+text)
	}
}

// editHello changes an initial message's hello.
func editHello(t testing.TB, data []byte, change func(*hello)) []byte {
	t.Helper()
	return edit(t, data, func(m *message) {
		h, _, err := parseHello(m.Hello)
		if err != nil {
			t.Fatal(err)
		}
		change(h)
		m.Hello = codec.Encode(h)
	})
}

func TestForgedInitialMessages(t *testing.T) {
	alice, bob, mallory := newNode(t, "alice", 0), newNode(t, "bob", 3), newNode(t, "mallory", 0)
	data := encrypt(t, begin(t, alice, bob), "x")
	other := encrypt(t, begin(t, alice, bob), "y")
	var theirs *hello
	editHello(t, other, func(h *hello) { theirs = h })
	for name, c := range map[string]struct {
		change func(*hello)
		want   error
	}{
		"KEM ciphertext of another": {func(h *hello) { h.Ciphertext = theirs.Ciphertext }, ErrOpen},
		"KEM ciphertext and prekey": {func(h *hello) { h.Ciphertext, h.KEM = theirs.Ciphertext, theirs.KEM }, ErrOpen},
		"KEM prekey":                {func(h *hello) { h.KEM = theirs.KEM }, ErrOpen},
		"last resort instead":       {func(h *hello) { h.KEM = 2 }, ErrOpen},
		"ephemeral key of another":  {func(h *hello) { h.Ephemeral = theirs.Ephemeral }, ErrOpen},
		"one-time key of another":   {func(h *hello) { h.OneTime = theirs.OneTime }, ErrOpen},
		"one-time key left out":     {func(h *hello) { h.OneTime = 0 }, ErrOpen},
		"time":                      {func(h *hello) { h.Time++ }, ErrOpen},
		"unknown signed prekey":     {func(h *hello) { h.Signed = 99 }, ErrPreKey},
		"unknown one-time prekey":   {func(h *hello) { h.OneTime = 99 }, ErrPreKey},
		"unknown KEM prekey":        {func(h *hello) { h.KEM = 99 }, ErrPreKey},
		"KEM prekey for X25519":     {func(h *hello) { h.OneTime = h.KEM }, ErrPreKey},
		"X25519 prekey for KEM":     {func(h *hello) { h.KEM = h.OneTime }, ErrPreKey},
		"one-time as signed prekey": {func(h *hello) { h.Signed = h.OneTime }, ErrPreKey},
		"agreement key of another":  {func(h *hello) { h.Identity = mallory.pre.Identity() }, ErrDevice},
		"agreement key, re-signed": {func(h *hello) {
			i, _ := parseIdentity(h.Identity)
			h.Identity, _ = sign(mallory.signer, labelIdentity, i.identityBody)
		}, codec.ErrSignature},
	} {
		bob.mustNotAccept(t, alice, editHello(t, data, c.change), noon, c.want, name)
	}
	bob.mustNotAccept(t, bob, data, noon, ErrDevice, "from itself")
	bob.mustNotAccept(t, alice, edit(t, data, func(m *message) { m.Hello = nil }), noon, codec.ErrEncoding, "without a hello")
	if _, err := bob.accept(alice, data, noon); err != nil {
		t.Error(err)
	}
}

// TestOnlySignersBegin: without the private agreement key that a device signed
// for, nobody begins a session in its name.
func TestOnlySignersBegin(t *testing.T) {
	alice, bob, mallory := newNode(t, "alice", 0), newNode(t, "bob", 4), newNode(t, "mallory", 0)
	// Mallory says to be Alice, with keys of her own.
	posing := mallory.pre.state
	posing.Self = alice.device
	impostor := &node{device: alice.device, pre: &PreKeys{posing}, random: mallory.random}
	bob.mustNotAccept(t, alice, encrypt(t, begin(t, impostor, bob), "x"), noon, ErrDevice, "own agreement key")
	own := mallory.pre.Agreement()
	impostor.pre.state.Identity, _ = sign(mallory.signer, labelIdentity, identityBody{Version: version, Leaf: alice.device.Leaf, Key: own})
	bob.mustNotAccept(t, alice, encrypt(t, begin(t, impostor, bob), "x"), noon, codec.ErrSignature, "own agreement key, own signature")
	// With Alice's signed agreement key, which every bundle and hello shows.
	impostor.pre.state.Identity = alice.pre.Identity()
	bob.mustNotAccept(t, alice, encrypt(t, begin(t, impostor, bob), "x"), noon, ErrOpen, "Alice's agreement key without its private half")
}

// Agreement returns the public agreement key.
func (p *PreKeys) Agreement() point {
	i, err := parseIdentity(p.state.Identity)
	if err != nil {
		panic(err)
	}
	return i.Key
}

// TestIdentityMisbinding: both sides hold to the same two devices, or nothing
// opens. The unknown key share is of Mallory enrolling Alice's agreement key, or
// signing key, as that of a device of her own.
func TestIdentityMisbinding(t *testing.T) {
	for _, c := range []struct {
		name  string
		posed func(alice, mallory *node) Device // who Bob believes to talk to
	}{
		{"another leaf of the same keys", func(alice, mallory *node) Device {
			return Device{Leaf: mallory.device.Leaf, Key: alice.device.Key}
		}},
		{"another signing key that signed for the same agreement key", func(_, mallory *node) Device {
			return mallory.device
		}},
	} {
		alice, bob, mallory := newNode(t, "alice", 0), newNode(t, "bob", 1), newNode(t, "mallory", 0)
		a := begin(t, alice, bob)
		posed := &node{device: c.posed(alice, mallory)}
		ik := alice.pre.Agreement()
		signer := mallory.signer
		if posed.device.Key == alice.device.Key {
			signer = alice.signer
		}
		misbound, err := sign(signer, labelIdentity, identityBody{Version: version, Leaf: posed.device.Leaf, Key: ik})
		if err != nil {
			t.Fatal(err)
		}
		// With the hello as sent, Bob sees that it is Alice's; with another
		// identity in it, the keys differ.
		data := encrypt(t, a, "x")
		bob.mustNotAccept(t, posed, data, noon, ErrDevice, c.name)
		bob.mustNotAccept(t, posed, editHello(t, data, func(h *hello) { h.Identity = misbound }), noon, ErrOpen, c.name)
	}
	// Towards Bob: Mallory signs for Bob's agreement key and passes on his
	// prekeys' bytes as hers. Alice's message to Mallory isn't one to Bob.
	alice, bob, mallory := newNode(t, "alice", 0), newNode(t, "bob", 1), newNode(t, "mallory", 0)
	ik := bob.pre.Agreement()
	w := bob.bundle(t).wire
	w.Identity, _ = sign(mallory.signer, labelIdentity, identityBody{Version: version, Leaf: mallory.device.Leaf, Key: ik})
	for _, field := range []*[]byte{&w.Signed, &w.OneTime, &w.KEM} {
		k, err := parsePreKey(*field, (func() kind {
			var s signed
			var body preKeyBody
			if codec.Decode(*field, &s) != nil || codec.Decode(s.Body, &body) != nil {
				t.Fatal("not a prekey")
			}
			return body.Kind
		})(), 0)
		if err != nil {
			t.Fatal(err)
		}
		k.Leaf = mallory.device.Leaf
		*field, _ = sign(mallory.signer, labelPreKey, k.preKeyBody)
	}
	b, err := newBundle(w)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Initiate(alice.pre, mallory.device, b, noon, alice.random)
	if err != nil {
		t.Fatal(err)
	}
	bob.mustNotAccept(t, alice, encrypt(t, s, "for Mallory"), noon, ErrOpen, "meant for another device")
}

func TestBundleOfAnother(t *testing.T) {
	alice, bob, mallory := newNode(t, "alice", 0), newNode(t, "bob", 1), newNode(t, "mallory", 1)
	good, bad := bob.bundle(t).wire, mallory.bundle(t).wire
	swap := func(change func(*bundleWire)) bundleWire {
		w := good
		change(&w)
		return w
	}
	resigned := func(data []byte, one, other kind, change func(*preKeyBody)) []byte {
		k, err := parsePreKey(data, one, other)
		if err != nil {
			t.Fatal(err)
		}
		change(&k.preKeyBody)
		out, err := sign(mallory.signer, labelPreKey, k.preKeyBody)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	toBob := func(k *preKeyBody) { k.Leaf = bob.device.Leaf }
	for name, c := range map[string]struct {
		wire bundleWire
		want error
	}{
		"whole":                 {bad, ErrDevice},
		"agreement key":         {swap(func(w *bundleWire) { w.Identity = bad.Identity }), ErrDevice},
		"signed prekey":         {swap(func(w *bundleWire) { w.Signed = bad.Signed }), ErrDevice},
		"one-time prekey":       {swap(func(w *bundleWire) { w.OneTime = bad.OneTime }), ErrDevice},
		"KEM prekey":            {swap(func(w *bundleWire) { w.KEM = bad.KEM }), ErrDevice},
		"signed prekey, forged": {swap(func(w *bundleWire) { w.Signed = resigned(bad.Signed, kindSigned, kindSigned, toBob) }), codec.ErrSignature},
		"one-time, forged":      {swap(func(w *bundleWire) { w.OneTime = resigned(bad.OneTime, kindOneTime, kindOneTime, toBob) }), codec.ErrSignature},
		"KEM prekey, forged":    {swap(func(w *bundleWire) { w.KEM = resigned(bad.KEM, kindKEM, kindLastResort, toBob) }), codec.ErrSignature},
		"life made longer": {swap(func(w *bundleWire) {
			w.Signed = resigned(good.Signed, kindSigned, kindSigned, func(k *preKeyBody) { k.Expires++ })
		}), codec.ErrSignature},
	} {
		b, err := newBundle(c.wire)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := b.Verify(bob.device, noon); !errors.Is(err, c.want) {
			t.Errorf("%s: verify: %v, want %v", name, err, c.want)
		}
		if s, err := Initiate(alice.pre, bob.device, b, noon, alice.random); s != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: initiate: %v, want %v", name, err, c.want)
		}
	}
	// Signed by Bob, and of no use in its place.
	for name, w := range map[string]bundleWire{
		"one-time as signed prekey":     swap(func(w *bundleWire) { w.Signed = w.OneTime }),
		"signed prekey as one-time":     swap(func(w *bundleWire) { w.OneTime = w.Signed }),
		"X25519 as KEM prekey":          swap(func(w *bundleWire) { w.KEM = w.OneTime }),
		"KEM as one-time X25519 prekey": swap(func(w *bundleWire) { w.OneTime = w.KEM }),
		"prekey as agreement key":       swap(func(w *bundleWire) { w.Identity = w.Signed }),
		"no KEM prekey":                 swap(func(w *bundleWire) { w.KEM = nil }),
		"another version":               swap(func(w *bundleWire) { w.Version = 2 }),
	} {
		if _, err := ParseBundle(codec.Encode(w)); !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("%s: %v, want ErrEncoding", name, err)
		}
	}
	if _, err := ParseBundle(make([]byte, MaxBundle+1)); !errors.Is(err, codec.ErrSize) {
		t.Errorf("long bundle: %v", err)
	}
	if _, err := Initiate(bob.pre, bob.device, bob.bundle(t), noon, bob.random); !errors.Is(err, ErrDevice) {
		t.Errorf("with itself: %v", err)
	}
}

// TestKEMKeyIsChecked: an encapsulation key whose coefficients aren't reduced is
// refused even where the device signed it (FIPS 203 §7.2).
func TestKEMKeyIsChecked(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	w := bob.bundle(t).wire
	w.KEM, _ = sign(bob.signer, labelPreKey, preKeyBody{
		Version: version, Leaf: bob.device.Leaf, Kind: kindKEM, ID: 9, Expires: noon.Add(time.Hour).UnixMilli(),
		Public: bytes.Repeat([]byte{0xff}, mlkem.EncapsulationKeySize1024),
	})
	b, err := newBundle(w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Initiate(alice.pre, bob.device, b, noon, alice.random); !errors.Is(err, codec.ErrEncoding) {
		t.Errorf("got %v, want ErrEncoding", err)
	}
}

// TestForwardSecrecy: who takes the whole state after a message was read can't
// read it, neither at its sender's nor at its reader's: not by the package, and
// not by stepping whatever keys are in the state.
func TestForwardSecrecy(t *testing.T) {
	a, b := newSessions(t)
	talk(t, a, b)
	var read [][]byte
	skippedOver := encrypt(t, a, "still to come")
	for i := range 3 {
		read = append(read, encrypt(t, a, numbered(i)))
		mustRead(t, b, read[i], numbered(i))
	}
	for _, dumped := range []*Session{clone(t, a), clone(t, b)} {
		for i, data := range read {
			if breaks(t, dumped, data) {
				t.Errorf("message %d opens with a dumped state", i)
			}
		}
	}
	if !breaks(t, clone(t, b), skippedOver) {
		t.Error("the attack finds no key that is there")
	}
	late := clone(t, b)
	mustRead(t, late, skippedOver, "still to come")
	if breaks(t, late, skippedOver) {
		t.Error("a skipped key is left after its use")
	}
}

// breaks reports whether a dumped state opens a message: all keys in it, and all
// that follow from them, are tried as message keys and as chain keys.
func breaks(t *testing.T, dumped *Session, data []byte) bool {
	t.Helper()
	m, err := parseMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	aad := m.aad(dumped.state.Parties, testPin, []byte("ad"))
	var keys []secret
	state := dumped.Marshal()
	for i := range len(state) - keySize + 1 { // every 32 bytes of the state, to miss none
		keys = append(keys, secret(state[i:i+keySize]))
	}
	for _, k := range keys {
		c := chain{Key: k}
		for range 10 {
			current := c.Key
			if _, err := open(&current, infoMessage, m.Salt[:], m.Ciphertext, aad); err == nil {
				return true
			}
			c.step()
		}
		c = chain{Key: k}
		for range 10 {
			key := c.step()
			if _, err := open(&key, infoMessage, m.Salt[:], m.Ciphertext, aad); err == nil {
				return true
			}
		}
	}
	return false
}

// TestBreakInRecovery: a stolen state reads what comes on its chains, and nothing
// once both sides have turned the ratchet.
func TestBreakInRecovery(t *testing.T) {
	a, b := newSessions(t)
	talk(t, a, b)
	stolen := clone(t, b)
	data := encrypt(t, a, "a turned before b could")
	if !breaks(t, read(t, stolen, data), encrypt(t, a, "and another of that chain")) {
		t.Error("the attack finds nothing in what the stolen state gives")
	}
	mustRead(t, b, data, "a turned before b could") // b turns, with randomness of its own
	data = encrypt(t, b, "b has turned")
	if _, err := decrypt(clone(t, stolen), data); err == nil || breaks(t, read(t, stolen, data), data) {
		t.Error("b's stolen state reads what b sends after its turn")
	}
	mustRead(t, a, data, "b has turned")
	data = encrypt(t, a, "a has turned")
	if _, err := decrypt(read(t, stolen, data), data); err == nil || breaks(t, read(t, stolen, data), data) {
		t.Error("a stolen state reads after both have turned")
	}
	mustRead(t, b, data, "a has turned")
}

// read returns what becomes of a stolen state that is shown a message: its
// holder draws other randomness than the device did.
func read(t *testing.T, stolen *Session, data []byte) *Session {
	t.Helper()
	s := clone(t, stolen)
	if _, err := s.Decrypt(testPin, []byte("ad"), data, noon, source("another's")); err != nil {
		return clone(t, stolen)
	}
	return s
}

// TestPreKeysForwardSecrecy: who takes everything of both devices after the first
// message was read can't read it.
func TestPreKeysForwardSecrecy(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	a := begin(t, alice, bob)
	data := encrypt(t, a, "x")
	accepted, err := bob.accept(alice, data, noon)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := UnmarshalPreKeys(bob.pre.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Accept(stolen, alice.device, testPin, []byte("ad"), data, noon, bob.random); !errors.Is(err, ErrPreKey) {
		t.Errorf("got %v, want ErrPreKey", err)
	}
	for _, s := range []*Session{a, accepted.Session} {
		if breaks(t, clone(t, s), data) {
			t.Error("opens with a dumped state")
		}
	}
	// The signed prekey's private half, which the responder's ratchet began with,
	// is not in the session.
	if bytes.Contains(accepted.Session.Marshal(), bob.pre.state.Signed[0].Key) {
		t.Error("the signed prekey is in the session")
	}
}

// TestNoSecretInText: neither printing nor failing shows a key.
func TestNoSecretInText(t *testing.T) {
	alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
	pair := NewPair(bob.device)
	if err := pair.Begin(alice.pre, bob.bundle(t), noon, alice.random); err != nil {
		t.Fatal(err)
	}
	s := pair.current
	var text strings.Builder
	for _, v := range []any{alice.pre, s, pair, s.state.Ratchet.Root} {
		fmt.Fprintf(&text, "%v %+v %#v %s\n", v, v, v, v)
	}
	if _, err := UnmarshalSession(append(s.Marshal(), 0)); err != nil {
		text.WriteString(err.Error())
	}
	if _, err := UnmarshalPreKeys(alice.pre.Marshal()[1:]); err != nil {
		text.WriteString(err.Error())
	}
	for _, k := range []secret{alice.pre.state.Agreement, s.state.Ratchet.Root, s.state.Ratchet.Self, s.state.Ratchet.Send.Key} {
		bytesOf := strings.Trim(fmt.Sprint(k[:8]), "[]")
		hexOf := strings.Trim(fmt.Sprintf("%#v", k[:8]), "[]byte{}")
		for _, form := range []string{hex.EncodeToString(k[:8]), string(k[:8]), bytesOf, hexOf} {
			if strings.Contains(text.String(), form) {
				t.Errorf("a key is shown: %s", text.String())
			}
		}
	}
}
