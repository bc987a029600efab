package envelope

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"crypto/sha256"
	"testing"
	"time"

	"chancery/codec"
)

// keys is an escrow key whose halves a test holds in plain.
type keys struct {
	t    *ecdh.PrivateKey
	pq   *mlkem.DecapsulationKey768
	priv hpke.PrivateKey
	pub  *PublicKey
}

func newKeys(t testing.TB, name string) *keys {
	t.Helper()
	scalar := sha256.Sum256([]byte(name + " scalar"))
	scalar[0] = 0 // below the order for sure
	curve, err := ecdh.P256().NewPrivateKey(scalar[:])
	if err != nil {
		t.Fatal(err)
	}
	a, b := sha256.Sum256([]byte(name+" d")), sha256.Sum256([]byte(name+" z"))
	pq, err := mlkem.NewDecapsulationKey768(append(a[:], b[:]...))
	if err != nil {
		t.Fatal(err)
	}
	priv, err := hpke.NewHybridPrivateKey(pq, curve)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := NewPublicKey(curve.PublicKey().Bytes(), pq.EncapsulationKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return &keys{curve, pq, priv, pub}
}

func testSeed(name string) *Seed {
	s := Seed(sha256.Sum256([]byte(name)))
	return &s
}

func testRecord(text string) *Record {
	return &Record{
		ID: "m-1", Time: 1790000000123, Sender: "alice", Conversation: codec.ID{7},
		ConversationName: "deal room", Text: text,
	}
}

// testHeader returns an encoded header that commits to the record.
func testHeader(t testing.TB, seed *Seed, record []byte) []byte {
	t.Helper()
	c, err := Commit(seed, record)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{
		Version: Version, Suite: Suite,
		Organisation: codec.Sum("test", []byte("org")), EscrowKey: codec.Sum("test", []byte("escrow")),
		PolicyLeaf: codec.Sum("test", []byte("policy")), Device: codec.Sum("test", []byte("device")),
		Conversation: codec.ID{7}, Kind: KindRecord,
		Day: DayOf(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)), Commitment: c,
	}
	return h.Encode()
}

// sealed is one message as its sender has it.
type sealed struct {
	seed           *Seed
	record, header []byte
	env            *Envelope
	secrets        *Secrets
	core           *Core
	proof          Proof
	tag            [TagSize]byte
}

func seal(t testing.TB, k *keys, seed *Seed, record []byte) *sealed {
	t.Helper()
	s := &sealed{seed: seed, record: record, header: testHeader(t, seed, record)}
	var err error
	if s.env, s.secrets, err = Seal(k.pub, s.header, seed, record); err != nil {
		t.Fatal(err)
	}
	s.core = &Core{Header: s.header, Envelope: s.env.Hash()}
	if s.proof, err = s.secrets.Prove(s.core.Hash()); err != nil {
		t.Fatal(err)
	}
	s.tag = s.secrets.Tag(s.core.Hash())
	return s
}

func TestSealAndOpen(t *testing.T) {
	k := newKeys(t, "escrow")
	s := seal(t, k, testSeed("a"), testRecord("meet me at noon").Encode())
	seed, record, err := Open(k.priv, s.header, s.env)
	if err != nil {
		t.Fatal(err)
	}
	if *seed != *s.seed || string(record) != string(s.record) {
		t.Fatal("opened something else than was sealed")
	}
	if err := Check(k.pub, s.core, seed, record, &s.proof, &s.tag); err != nil {
		t.Fatal(err)
	}
	if err := VerifyProof(s.env.E(), s.core.Hash(), &s.proof); err != nil {
		t.Fatal(err)
	}
	ss, err := k.pq.Decapsulate(s.env.MLKEMCiphertext())
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyTag(ss, s.core.Hash(), &s.tag); err != nil {
		t.Fatal(err)
	}
}
