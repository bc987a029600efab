package envelope

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"filippo.io/nistec"

	"chancery/codec"
)

// oracle answers whatever it is asked, as keyholders and a guard would who did
// not check proofs and tags. It stands for answers given to a bad opener.
func (k *keys) oracle(t *testing.T, env *Envelope) answers {
	t.Helper()
	e, err := ecdh.P256().NewPublicKey(env.E())
	if err != nil {
		t.Fatal(err)
	}
	x, err := k.t.ECDH(e)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := k.pq.Decapsulate(env.MLKEMCiphertext())
	if err != nil {
		t.Fatal(err)
	}
	return answers{pub: k, x: x, ss: ss}
}

// answers are an opener's: a KeyExchanger and a Decapsulator that know one
// result.
type answers struct {
	pub   *keys
	x, ss []byte
}

var (
	_ ecdh.KeyExchanger   = answers{}
	_ crypto.Decapsulator = pqAnswers{}
)

func (a answers) PublicKey() *ecdh.PublicKey           { return a.pub.t.PublicKey() }
func (a answers) Curve() ecdh.Curve                    { return ecdh.P256() }
func (a answers) ECDH(*ecdh.PublicKey) ([]byte, error) { return a.x, nil }
func (a answers) key(t testing.TB) hpke.PrivateKey     { return hybrid(t, pqAnswers(a), a) }
func hybrid(t testing.TB, pq crypto.Decapsulator, c ecdh.KeyExchanger) hpke.PrivateKey {
	t.Helper()
	k, err := hpke.NewHybridPrivateKey(pq, c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type pqAnswers answers

func (a pqAnswers) Encapsulator() crypto.Encapsulator  { return a.pub.pq.Encapsulator() }
func (a pqAnswers) Decapsulate([]byte) ([]byte, error) { return a.ss, nil }

// TestCopiedEncapsulation: a device puts a victim's encapsulation into an
// envelope of its own. Answers to that envelope open the victim's, and that is
// why nobody answers without a proof and a tag of this very core.
func TestCopiedEncapsulation(t *testing.T) {
	k := newKeys(t, "escrow")
	victim := seal(t, k, testSeed("victim"), testRecord("the price is 12 million").Encode())
	mine := seal(t, k, testSeed("attacker"), testRecord("hello").Encode())
	copied := &Envelope{Enc: victim.env.Enc, Ciphertext: mine.env.Ciphertext}
	core := &Core{Header: mine.header, Envelope: copied.Hash()}

	if _, record, err := Open(k.oracle(t, copied).key(t), victim.header, victim.env); err != nil || !bytes.Equal(record, victim.record) {
		t.Fatalf("the attack that the proof answers doesn't work here: %v", err)
	}

	// What the attacker can show: the victim's proof and tag, its own, and its
	// own made over the copied core.
	own, err := mine.secrets.Prove(core.Hash())
	if err != nil {
		t.Fatal(err)
	}
	for name, proof := range map[string]Proof{"victim's": victim.proof, "own": mine.proof, "own, new core": own} {
		if err := VerifyProof(copied.E(), core.Hash(), &proof); !errors.Is(err, ErrProof) {
			t.Errorf("%s proof: got %v, want ErrProof", name, err)
		}
	}
	ss := k.oracle(t, copied).ss
	for name, tag := range map[string][TagSize]byte{"victim's": victim.tag, "own": mine.tag, "own, new core": mine.secrets.Tag(core.Hash())} {
		if err := VerifyTag(ss, core.Hash(), &tag); !errors.Is(err, ErrTag) {
			t.Errorf("%s tag: got %v, want ErrTag", name, err)
		}
	}
}

// TestCopiedMLKEMCiphertext: the same with the other half alone, beside an
// ephemeral point that the attacker does know.
func TestCopiedMLKEMCiphertext(t *testing.T) {
	k := newKeys(t, "escrow")
	victim := seal(t, k, testSeed("victim"), testRecord("secret").Encode())
	mine := seal(t, k, testSeed("attacker"), testRecord("hello").Encode())
	mixed := &Envelope{Enc: append(victim.env.MLKEMCiphertext(), mine.env.E()...), Ciphertext: mine.env.Ciphertext}
	core := (&Core{Header: mine.header, Envelope: mixed.Hash()}).Hash()
	proof, err := mine.secrets.Prove(core)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyProof(mixed.E(), core, &proof); err != nil {
		t.Fatal(err)
	}
	tag := mine.secrets.Tag(core)
	if err := VerifyTag(k.oracle(t, mixed).ss, core, &tag); !errors.Is(err, ErrTag) {
		t.Fatalf("got %v, want ErrTag: the guard would have answered", err)
	}
}

// TestShiftedEncapsulation: E + dG for a d that the attacker knows gives, with
// answers, the victim's point by one subtraction. No proof follows from the
// victim's.
func TestShiftedEncapsulation(t *testing.T) {
	k := newKeys(t, "escrow")
	victim := seal(t, k, testSeed("victim"), testRecord("secret").Encode())
	mine := seal(t, k, testSeed("attacker"), testRecord("hello").Encode())
	d := testSeed("shift")[:]
	d[0] = 0
	dG, err := nistec.NewP256Point().ScalarBaseMult(d)
	if err != nil {
		t.Fatal(err)
	}
	E, err := nistec.NewP256Point().SetBytes(victim.env.E())
	if err != nil {
		t.Fatal(err)
	}
	shifted := nistec.NewP256Point().Add(E, dG).Bytes()

	// The attack: y·(E + dG) - d·Y = y·E.
	answer := scalarMult(t, shifted, k.t.Bytes())
	dY := scalarMult(t, k.pub.Point(), d)
	x, err := nistec.NewP256Point().Add(answer, dY.Negate(dY)).BytesX()
	if err != nil {
		t.Fatal(err)
	}
	bad := k.oracle(t, victim.env)
	bad.x = x
	if _, _, err := Open(bad.key(t), victim.header, victim.env); err != nil {
		t.Fatalf("the attack that the proof answers doesn't work here: %v", err)
	}

	env := &Envelope{Enc: append(victim.env.MLKEMCiphertext(), shifted...), Ciphertext: mine.env.Ciphertext}
	cores := map[string]codec.Hash{
		"victim's core": victim.core.Hash(),
		"own core":      (&Core{Header: mine.header, Envelope: env.Hash()}).Hash(),
	}
	for name, core := range cores {
		for _, c := range []*big.Int{
			challengeInt(victim.env.E(), &victim.proof, victim.core.Hash()),
			challengeInt(shifted, &victim.proof, core),
		} {
			// z + c·d would do if the challenge didn't cover E.
			z := new(big.Int).SetBytes(victim.proof[32:])
			z.Add(z, c.Mul(c, new(big.Int).SetBytes(d))).Mod(z, order())
			forged := victim.proof
			z.FillBytes(forged[32:])
			if err := VerifyProof(shifted, core, &forged); !errors.Is(err, ErrProof) {
				t.Errorf("%s: got %v, want ErrProof", name, err)
			}
		}
		if err := VerifyProof(shifted, core, &victim.proof); !errors.Is(err, ErrProof) {
			t.Errorf("%s, victim's proof: got %v, want ErrProof", name, err)
		}
	}
}

// TestOneSeedTwoHeaders: a retry under a new policy, or another record with the
// same seed, shares neither key nor ephemeral with the first.
func TestOneSeedTwoHeaders(t *testing.T) {
	k, seed := newKeys(t, "escrow"), testSeed("once")
	record := testRecord("first").Encode()
	a := seal(t, k, seed, record)
	b := seal(t, k, seed, testRecord("other").Encode())

	h, err := ParseHeader(a.header)
	if err != nil {
		t.Fatal(err)
	}
	h.PolicyLeaf = codec.Sum("test", []byte("new policy"))
	env, retry, err := Seal(k.pub, h.Encode(), seed, record)
	if err != nil {
		t.Fatal(err)
	}
	all := []*Envelope{a.env, b.env, env}
	scalars := [][]byte{a.secrets.Scalar(), b.secrets.Scalar(), retry.Scalar()}
	for i := range all {
		for j := range i {
			if bytes.Equal(scalars[i], scalars[j]) || bytes.Equal(all[i].MLKEMCiphertext(), all[j].MLKEMCiphertext()) {
				t.Fatal("two headers met the same randomness")
			}
			// One AES-GCM key and nonce would show here: seeds are equal, so
			// would be the first 32 bytes of ciphertext.
			if bytes.Equal(all[i].Ciphertext[:SeedSize], all[j].Ciphertext[:SeedSize]) {
				t.Fatal("two headers met the same key and nonce")
			}
		}
	}
	if _, _, err := Seal(k.pub, a.header, seed, b.record); !errors.Is(err, ErrCommitment) {
		t.Errorf("a record under another's header: got %v, want ErrCommitment", err)
	}
}

// TestProofNonce: two cores of one envelope have proofs of different nonces, and
// the computation that reveals e from one nonce under two challenges fails.
func TestProofNonce(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	other := &Core{Header: s.header, Envelope: s.env.Hash(), Attachments: []codec.Hash{codec.Sum("test")}}
	p, err := s.secrets.Prove(other.Hash())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(p[:32], s.proof[:32]) {
		t.Fatal("one nonce for two cores")
	}
	n := order()
	z := new(big.Int).Sub(new(big.Int).SetBytes(s.proof[32:]), new(big.Int).SetBytes(p[32:]))
	c := new(big.Int).Sub(challengeInt(s.env.E(), &s.proof, s.core.Hash()), challengeInt(s.env.E(), &p, other.Hash()))
	e := z.Mul(z, c.ModInverse(c, n))
	if e.Mod(e, n).Cmp(new(big.Int).SetBytes(s.secrets.Scalar())) == 0 {
		t.Fatal("two proofs reveal the ephemeral key")
	}
	// The same core gives the same proof: a retry discloses nothing new.
	if again, err := s.secrets.Prove(s.core.Hash()); err != nil || again != s.proof {
		t.Fatalf("proof is not deterministic: %v", err)
	}
}

// TestFieldSalts: in a partial production the keys of the fields shown don't help
// to guess a field that is hidden.
func TestFieldSalts(t *testing.T) {
	seed := testSeed("salts")
	r := testRecord("+44 20 7946 0123")
	fields, err := Fields(r.Encode())
	if err != nil {
		t.Fatal(err)
	}
	leaves := make([]codec.Hash, len(fields))
	for i, f := range fields {
		leaves[i] = FieldLeaf(i, FieldKey(seed, i), f)
	}
	if c, err := Commit(seed, r.Encode()); err != nil || c != CommitmentOf(leaves) {
		t.Fatalf("leaves don't make the commitment: %v", err)
	}
	const hidden = 5 // the text
	guess := func(key [32]byte) bool {
		for i := range 1000 {
			if FieldLeaf(hidden, key, codec.Encode(fmt.Sprintf("+44 20 7946 %04d", i))) == leaves[hidden] {
				return true
			}
		}
		return false
	}
	if !guess(FieldKey(seed, hidden)) {
		t.Fatal("the dictionary doesn't hold the answer")
	}
	for i := range fields {
		if i != hidden && guess(FieldKey(seed, i)) {
			t.Fatalf("key of field %d opens field %d", i, hidden)
		}
	}
	// A field moved to another place, or dropped, is another commitment.
	moved := append([]codec.Hash{}, leaves...)
	moved[0], moved[1] = moved[1], moved[0]
	if CommitmentOf(moved) == CommitmentOf(leaves) || CommitmentOf(leaves[:12]) == CommitmentOf(leaves) {
		t.Fatal("the commitment doesn't hold places or count")
	}
}

// TestHeaderSwapped: a whole envelope copied under another manifest doesn't open
// there, even though that manifest's device made a proof for what it could.
func TestHeaderSwapped(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	for name, change := range map[string]func(*Header){
		"organisation": func(h *Header) { h.Organisation[0] ^= 1 },
		"escrow key":   func(h *Header) { h.EscrowKey[0] ^= 1 },
		"policy":       func(h *Header) { h.PolicyLeaf[0] ^= 1 },
		"device":       func(h *Header) { h.Device[0] ^= 1 },
		"conversation": func(h *Header) { h.Conversation[0] ^= 1 },
		"seq":          func(h *Header) { h.Seq++ },
		"prev":         func(h *Header) { h.Prev[0] ^= 1 },
		"kind":         func(h *Header) { h.Kind = KindCapture },
		"day":          func(h *Header) { h.Day++ },
		"commitment":   func(h *Header) { h.Commitment[0] ^= 1 },
	} {
		h, err := ParseHeader(s.header)
		if err != nil {
			t.Fatal(err)
		}
		change(h)
		if _, _, err := Open(k.priv, h.Encode(), s.env); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %v, want ErrOpen", name, err)
		}
	}
	if _, _, err := Open(newKeys(t, "other").priv, s.header, s.env); !errors.Is(err, ErrOpen) {
		t.Errorf("other key: got %v, want ErrOpen", err)
	}
}

// TestProofMalleability: one proof for each nonce. No bit of it can change, and
// no number in it has a second form.
func TestProofMalleability(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	core, E := s.core.Hash(), s.env.E()
	refuse := func(name string, E []byte, core codec.Hash, p Proof) {
		t.Helper()
		if err := VerifyProof(E, core, &p); !errors.Is(err, ErrProof) {
			t.Errorf("%s: VerifyProof returned %v, want ErrProof", name, err)
		}
		if !bytes.Equal(E, s.env.E()) {
			return
		}
		if err := s.secrets.CheckProof(core, &p); !errors.Is(err, ErrProof) {
			t.Errorf("%s: CheckProof returned %v, want ErrProof", name, err)
		}
	}
	if err := s.secrets.CheckProof(core, &s.proof); err != nil {
		t.Fatal(err)
	}
	for i := range 8 * ProofSize {
		p := s.proof
		p[i/8] ^= 1 << (i % 8)
		refuse(fmt.Sprintf("bit %d", i), E, core, p)
	}
	for i := range 8 * codec.HashSize {
		h := core
		h[i/8] ^= 1 << (i % 8)
		refuse(fmt.Sprintf("core's bit %d", i), E, h, s.proof)
	}
	// z has to be below n, or small ones would have a second form.
	p := s.proof
	order().FillBytes(p[32:])
	refuse("z = n", E, core, p)
	refuse("zeros", E, core, Proof{})
	p = s.proof
	copy(p[:32], bytes.Repeat([]byte{0xff}, 32))
	refuse("x above the field", E, core, p)
	// -R with k negated is the form that isn't used: its z fails.
	p = s.proof
	z := new(big.Int).SetBytes(p[32:])
	z.Sub(order(), z).FillBytes(p[32:])
	refuse("z negated", E, core, p)

	refuse("E truncated", E[:64], core, s.proof)
	refuse("E empty", nil, core, s.proof)
	refuse("E at infinity", []byte{0}, core, s.proof)
	off := bytes.Clone(E)
	off[64] ^= 1
	refuse("E off the curve", off, core, s.proof)
	point, err := nistec.NewP256Point().SetBytes(E)
	if err != nil {
		t.Fatal(err)
	}
	refuse("E compressed", point.BytesCompressed(), core, s.proof)
	refuse("E negated", point.Negate(point).Bytes(), core, s.proof)
}

// TestTag: no other core, secret or tag passes.
func TestTag(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	ss, core := s.secrets.SharedSecret(), s.core.Hash()
	if err := VerifyTag(ss, core, &s.tag); err != nil {
		t.Fatal(err)
	}
	for i := range 8 * 32 {
		tag, c, secret := s.tag, core, bytes.Clone(ss)
		tag[i/8] ^= 1 << (i % 8)
		c[i/8] ^= 1 << (i % 8)
		secret[i/8] ^= 1 << (i % 8)
		for name, err := range map[string]error{
			"tag": VerifyTag(ss, core, &tag), "core": VerifyTag(ss, c, &s.tag), "secret": VerifyTag(secret, core, &s.tag),
		} {
			if !errors.Is(err, ErrTag) {
				t.Fatalf("bit %d of %s: got %v, want ErrTag", i, name, err)
			}
		}
	}
	for _, secret := range [][]byte{nil, ss[:31], append(bytes.Clone(ss), 0)} {
		if err := VerifyTag(secret, core, &s.tag); !errors.Is(err, ErrTag) {
			t.Errorf("secret of %d bytes: got %v, want ErrTag", len(secret), err)
		}
	}
}

// sealPlain seals any plaintext, as a sender may who follows no rule.
func sealPlain(t testing.TB, pub *PublicKey, header []byte, seed *Seed, plain []byte) (*Envelope, *Secrets) {
	t.Helper()
	prk := seed.extract()
	enc, shared, secrets, err := encapsulate(pub, prk, deriveCoins(prk, codec.Sum("header", header)))
	if err != nil {
		t.Fatal(err)
	}
	aead, nonce, err := keySchedule(shared)
	if err != nil {
		t.Fatal(err)
	}
	return &Envelope{Enc: enc, Ciphertext: aead.Seal(nil, nonce, plain, header)}, secrets
}

func plaintext(seed *Seed, size uint32, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint32(bytes.Clone(seed[:]), size), rest...)
}

// TestPaddingIsCanonical: one record has one plaintext, so that a sender can't
// archive an envelope that opens and yet is none that anybody can make again.
func TestPaddingIsCanonical(t *testing.T) {
	k, seed := newKeys(t, "escrow"), testSeed("pad")
	record := testRecord(strings.Repeat("x", 70)).Encode()
	header := testHeader(t, seed, record)
	size := uint32(len(record))
	right := pad(seed, record)
	zeros := func(n int) []byte { return append(bytes.Clone(record), make([]byte, n)...) }
	full := len(right) - SeedSize - lengthSize
	if full <= len(record) {
		t.Fatal("this record takes no padding")
	}
	next := padme(full+lengthSize+1) - lengthSize
	dirty := zeros(full - len(record))
	dirty[full-1] = 1
	for name, c := range map[string]struct {
		plain []byte
		want  error
	}{
		"right":              {right, nil},
		"next bucket":        {plaintext(seed, size, zeros(next-len(record))), ErrPadding},
		"last byte not zero": {plaintext(seed, size, dirty), ErrPadding},
		"length beyond":      {plaintext(seed, uint32(full+1), zeros(full-len(record))), ErrPadding},
		"length huge":        {plaintext(seed, 1<<32-1, zeros(full-len(record))), ErrPadding},
		"length of none":     {plaintext(seed, 0, make([]byte, full)), ErrPadding},
		"no padding":         {plaintext(seed, size, record), codec.ErrEncoding},
		"one byte more":      {plaintext(seed, size, zeros(full-len(record)+1)), codec.ErrEncoding},
		"no length":          {seed[:], codec.ErrEncoding},
		"nothing":            {nil, codec.ErrEncoding},
	} {
		env, _ := sealPlain(t, k.pub, header, seed, c.plain)
		if _, _, err := Open(k.priv, header, env); !errors.Is(err, c.want) {
			t.Errorf("%s: Open returned %v, want %v", name, err, c.want)
		}
		if _, err := Parse(env.Encode()); (err == nil) != (c.want == nil || c.want == ErrPadding) {
			t.Errorf("%s: Parse returned %v", name, err)
		}
		core := &Core{Header: header, Envelope: env.Hash()}
		if err := Check(k.pub, core, seed, record, &Proof{}, &[TagSize]byte{}); c.want != nil && !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: Check returned %v, want ErrMismatch", name, err)
		}
	}
}

// TestBitFlips: no bit of an encoded envelope can change unnoticed.
func TestBitFlips(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("flip"), testRecord("x").Encode())
	data := s.env.Encode()
	bits := 8
	if testing.Short() {
		bits = 1
	}
	for i := range data {
		for bit := range bits {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << ((i + bit) % 8)
			env, err := Parse(bad)
			if err != nil {
				continue
			}
			if env.Hash() == s.core.Envelope {
				t.Fatalf("bit %d of byte %d: same hash", bit, i)
			}
			if _, _, err := Open(k.priv, s.header, env); !errors.Is(err, ErrOpen) {
				t.Fatalf("bit %d of byte %d: got %v, want ErrOpen", bit, i, err)
			}
		}
	}
	for i := range data {
		if _, err := Parse(data[:i]); !errors.Is(err, codec.ErrEncoding) {
			t.Fatalf("truncated to %d bytes: got %v", i, err)
		}
	}
	if _, err := Parse(append(bytes.Clone(data), 0)); !errors.Is(err, codec.ErrEncoding) {
		t.Fatalf("one byte more: got %v", err)
	}
	if _, err := Parse(make([]byte, MaxCiphertextSize+2*EncSize)); !errors.Is(err, codec.ErrSize) {
		t.Fatalf("too large: got %v", err)
	}
}

// TestCheckAccuses: what convicts a sender is told from what anybody may have
// invented.
func TestCheckAccuses(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("what I sent").Encode())
	other := seal(t, k, testSeed("b"), testRecord("what I archived").Encode())

	// The sender archives another envelope under the header of what it sent.
	lie := &Core{Header: s.header, Envelope: other.env.Hash()}
	lieProof, err := other.secrets.Prove(lie.Hash())
	if err != nil {
		t.Fatal(err)
	}
	lieTag := other.secrets.Tag(lie.Hash())
	// The sender makes what is right, and proof or tag of another core.
	for name, c := range map[string]struct {
		core   *Core
		seed   *Seed
		record []byte
		proof  Proof
		tag    [TagSize]byte
		want   error
	}{
		"right":               {s.core, s.seed, s.record, s.proof, s.tag, nil},
		"archived another":    {lie, s.seed, s.record, lieProof, lieTag, ErrMismatch},
		"wrong proof":         {s.core, s.seed, s.record, other.proof, s.tag, ErrProof},
		"wrong tag":           {s.core, s.seed, s.record, s.proof, other.tag, ErrTag},
		"reporter's record":   {s.core, s.seed, other.record, s.proof, s.tag, ErrCommitment},
		"reporter's seed":     {s.core, other.seed, s.record, s.proof, s.tag, ErrCommitment},
		"reporter's nonsense": {s.core, s.seed, []byte{0xff}, s.proof, s.tag, codec.ErrEncoding},
	} {
		if err := Check(k.pub, c.core, c.seed, c.record, &c.proof, &c.tag); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// TestInventedIndexSeed: an index envelope has no record, and its commitment still
// opens to its own seed alone, so that an invented seed accuses nobody.
func TestInventedIndexSeed(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("index"), nil)
	if err := Check(k.pub, s.core, s.seed, nil, &s.proof, &s.tag); err != nil {
		t.Fatal(err)
	}
	if err := Check(k.pub, s.core, testSeed("invented"), nil, &s.proof, &s.tag); !errors.Is(err, ErrCommitment) {
		t.Errorf("invented seed: got %v, want ErrCommitment", err)
	}
	if err := Check(k.pub, s.core, s.seed, []byte{0x80}, &s.proof, &s.tag); !errors.Is(err, codec.ErrEncoding) {
		t.Errorf("invented record: got %v, want ErrEncoding", err)
	}
}

// TestSameRecordOtherBytes: the archive holds the bytes sent. Another encoding of
// the same text is not refused as a fraud: its commitment just doesn't open.
func TestSameRecordOtherBytes(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("x").Encode())
	longer := bytes.Replace(s.record, []byte{0x8d}, []byte{0x98, 0x0d}, 1)
	if err := Check(k.pub, s.core, s.seed, longer, &s.proof, &s.tag); !errors.Is(err, codec.ErrEncoding) {
		t.Fatalf("got %v, want ErrEncoding", err)
	}
}

func scalarMult(t *testing.T, point, scalar []byte) *nistec.P256Point {
	t.Helper()
	p, err := nistec.NewP256Point().SetBytes(point)
	if err != nil {
		t.Fatal(err)
	}
	p, err = nistec.NewP256Point().ScalarMult(p, scalar)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// order is n, and challengeInt c, by math/big instead of what they test.
func order() *big.Int {
	n, _ := new(big.Int).SetString("115792089210356248762697446949407573529996955224135760342422259061068512044369", 10)
	return n
}

func challengeInt(E []byte, p *Proof, core codec.Hash) *big.Int {
	r, err := nistec.NewP256Point().SetBytes(append([]byte{2}, p[:32]...))
	if err != nil {
		return new(big.Int)
	}
	h := sha256.New()
	h.Write([]byte("chancery/pok/v1\x00"))
	h.Write(E)
	h.Write(r.Bytes())
	h.Write(core[:])
	c := new(big.Int).SetBytes(h.Sum(nil))
	return c.Mod(c, order())
}
