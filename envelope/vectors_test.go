package envelope

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"chancery/codec"
	"chancery/internal/published"
)

const vectorFile = "envelope.json"

type vectorSet struct {
	Description string        `json:"description"`
	EscrowKey   vectorKey     `json:"escrow_key"`
	Valid       []validVector `json:"valid"`
	Invalid     []vector      `json:"invalid"`
}

type vectorKey struct {
	Scalar    published.Hex `json:"scalar"`
	Point     published.Hex `json:"point"`
	MLKEMSeed published.Hex `json:"mlkem_seed"`
	MLKEM     published.Hex `json:"mlkem"`
}

// vector is what a verifier gets, and the class of what it must say.
type vector struct {
	Name     string        `json:"name"`
	Expect   string        `json:"expect"`
	Core     published.Hex `json:"core"`
	Envelope published.Hex `json:"envelope"`
	Proof    published.Hex `json:"proof"`
	Tag      published.Hex `json:"tag"`
	Seed     published.Hex `json:"seed"`
	Record   published.Hex `json:"record"`
}

// validVector has the steps between as well.
type validVector struct {
	vector
	Header       published.Hex   `json:"header"`
	FieldKeys    []published.Hex `json:"field_keys"`
	Leaves       []published.Hex `json:"leaves"`
	Commitment   published.Hex   `json:"commitment"`
	HeaderHash   published.Hex   `json:"header_hash"`
	Ephemeral    published.Hex   `json:"e"`
	Coins        published.Hex   `json:"m"`
	MLKEMSecret  published.Hex   `json:"mlkem_secret"`
	Plaintext    published.Hex   `json:"plaintext"`
	EnvelopeHash published.Hex   `json:"envelope_hash"`
	CoreHash     published.Hex   `json:"core_hash"`
}

// classes are the names of errors in vectors.
func classes() map[string]error {
	return map[string]error{
		"": nil, "encoding": codec.ErrEncoding, "version": ErrVersion, "envelope": errNamed, "proof": ErrProof, "tag": ErrTag,
		"open": ErrOpen, "padding": ErrPadding, "commitment": ErrCommitment, "mismatch": ErrMismatch,
	}
}

var errNamed = errors.New("core names another envelope")

// audit goes through a vector in the order of spec/envelope.md#vectors.
func audit(k *keys, v *vector) error {
	core, err := ParseCore(v.Core)
	if err != nil {
		return err
	}
	env, err := Parse(v.Envelope)
	if err != nil {
		return err
	}
	if env.Hash() != core.Envelope {
		return errNamed
	}
	if len(v.Proof) != ProofSize || len(v.Tag) != TagSize {
		return codec.ErrEncoding
	}
	proof, tag, h := Proof(v.Proof), [TagSize]byte(v.Tag), core.Hash()
	if err := VerifyProof(env.E(), h, &proof); err != nil {
		return err
	}
	ss, err := k.pq.Decapsulate(env.MLKEMCiphertext())
	if err != nil {
		return err
	}
	if err := VerifyTag(ss, h, &tag); err != nil {
		return err
	}
	seed, record, err := Open(k.priv, core.Header, env)
	if err != nil {
		return err
	}
	if !bytes.Equal(seed[:], v.Seed) || !bytes.Equal(record, v.Record) {
		return errors.New("opens to another seed or record")
	}
	return Check(k.pub, core, seed, record, &proof, &tag)
}

func makeVectors(t *testing.T) *vectorSet {
	k := newKeys(t, "vectors")
	set := &vectorSet{
		Description: "Envelopes by spec/envelope.md, all under one escrow key. Names are the seeds' source: seed = SHA-256(name). Invalid ones have one fault each and the class of the first check that finds it.",
		EscrowKey:   vectorKey{k.t.Bytes(), k.pub.Point(), k.pq.Bytes(), k.pub.MLKEM()},
	}
	for _, c := range []struct {
		name        string
		record      []byte
		attachments []codec.Hash
	}{
		{"message", testRecord("meet me at noon").Encode(), nil},
		{"reply with attachment", fullRecord().Encode(), []codec.Hash{fullHash()}},
		{"seed alone, as in an index envelope", nil, nil},
		{"padding", testRecord(strings.Repeat("x", 70)).Encode(), nil},
	} {
		s := sealCore(t, k, testSeed(c.name), c.record, c.attachments)
		v := validVector{vector: s.vector(c.name, ""), Header: s.header}
		fields, err := Fields(c.record)
		if err != nil {
			t.Fatal(err)
		}
		if len(fields) == 0 {
			fields = [][]byte{nil} // the one leaf of a record without fields
		}
		for i, f := range fields {
			key := FieldKey(s.seed, i)
			leaf := FieldLeaf(i, key, f)
			v.FieldKeys, v.Leaves = append(v.FieldKeys, key[:]), append(v.Leaves, leaf[:])
		}
		h, err := ParseHeader(s.header)
		if err != nil {
			t.Fatal(err)
		}
		hh, eh, ch := codec.Sum("header", s.header), s.env.Hash(), s.core.Hash()
		v.Commitment, v.HeaderHash, v.EnvelopeHash, v.CoreHash = h.Commitment[:], hh[:], eh[:], ch[:]
		coins := deriveCoins(s.seed.extract(), hh)
		v.Ephemeral, v.Coins, v.MLKEMSecret = coins.e, coins.m, s.secrets.SharedSecret()
		v.Plaintext = pad(s.seed, c.record)
		set.Valid = append(set.Valid, v)
	}
	set.Invalid = invalidVectors(t, k)
	return set
}

// sealCore is seal with attachments.
func sealCore(t *testing.T, k *keys, seed *Seed, record []byte, attachments []codec.Hash) *sealed {
	s := seal(t, k, seed, record)
	s.core.Attachments = attachments
	s.bind(t, s.secrets)
	return s
}

// bind makes proof and tag anew for the core as it is.
func (s *sealed) bind(t *testing.T, secrets *Secrets) {
	t.Helper()
	var err error
	if s.proof, err = secrets.Prove(s.core.Hash()); err != nil {
		t.Fatal(err)
	}
	s.tag = secrets.Tag(s.core.Hash())
}

func (s *sealed) vector(name, expect string) vector {
	return vector{name, expect, s.core.Encode(), s.env.Encode(), bytes.Clone(s.proof[:]), bytes.Clone(s.tag[:]), bytes.Clone(s.seed[:]), s.record}
}

// invalidVectors are each sealed by somebody who knows all the secrets and
// changes one thing, all the rest made to fit.
func invalidVectors(t *testing.T, k *keys) []vector {
	var all []vector
	add := func(name, expect string, change func(*sealed)) *vector {
		s := sealCore(t, k, testSeed(name), testRecord(strings.Repeat("x", 70)).Encode(), nil)
		if change != nil {
			change(s)
		}
		all = append(all, s.vector(name, expect))
		return &all[len(all)-1]
	}
	header := func(s *sealed) *Header {
		h, err := ParseHeader(s.header)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	// plain seals a plaintext of the sender's own making.
	plain := func(s *sealed, p []byte) {
		var secrets *Secrets
		s.env, secrets = sealPlain(t, k.pub, s.header, s.seed, p)
		s.core.Envelope = s.env.Hash()
		s.bind(t, secrets)
	}

	v := add("core: trailing byte", "encoding", nil)
	v.Core = append(v.Core, 0)
	v = add("core: wide array head", "encoding", nil)
	v.Core = append([]byte{0x98, 3}, v.Core[1:]...)
	add("header: version 2", "version", func(s *sealed) { h := header(s); h.Version = 2; s.core.Header = h.Encode(); s.bind(t, s.secrets) })
	add("header: suite 2", "version", func(s *sealed) { h := header(s); h.Suite = 2; s.core.Header = h.Encode(); s.bind(t, s.secrets) })
	add("header: kind 7", "version", func(s *sealed) { h := header(s); h.Kind = 7; s.core.Header = h.Encode(); s.bind(t, s.secrets) })
	v = add("envelope: truncated", "encoding", nil)
	v.Envelope = v.Envelope[:len(v.Envelope)-1]
	add("envelope: length that Padme does not make", "encoding", func(s *sealed) {
		plain(s, append(pad(s.seed, s.record), 0))
	})
	add("envelope: compressed point", "encoding", func(s *sealed) {
		s.env.Enc[mlkemCiphertextSize] = 2 + s.env.Enc[EncSize-1]&1
		s.core.Envelope = s.env.Hash()
		s.bind(t, s.secrets)
	})
	add("envelope: not the one named", "envelope", func(s *sealed) { s.env.Ciphertext[0] ^= 1 })
	add("proof: of another core", "proof", func(s *sealed) {
		s.core.Attachments = []codec.Hash{fullHash()}
		s.tag = s.secrets.Tag(s.core.Hash())
	})
	add("proof: nonce's point of odd y", "proof", func(s *sealed) { negateProof(t, s) })
	add("proof: z is the order", "proof", func(s *sealed) { order().FillBytes(s.proof[32:]) })
	add("proof: E off the curve", "proof", func(s *sealed) {
		s.env.Enc[EncSize-1] ^= 1
		s.core.Envelope = s.env.Hash()
		s.bind(t, s.secrets)
	})
	add("copied encapsulation", "proof", func(s *sealed) {
		victim := seal(t, k, testSeed("victim"), testRecord("secret").Encode())
		s.env.Enc = victim.env.Enc
		s.core.Envelope = s.env.Hash()
		s.bind(t, s.secrets)
	})
	add("copied ML-KEM ciphertext", "tag", func(s *sealed) {
		victim := seal(t, k, testSeed("victim"), testRecord("secret").Encode())
		s.env.Enc = append(victim.env.MLKEMCiphertext(), s.env.E()...)
		s.core.Envelope = s.env.Hash()
		s.bind(t, s.secrets)
	})
	add("tag: of another core", "tag", func(s *sealed) { s.tag = s.secrets.Tag(codec.Hash{}) })
	add("ciphertext: last bit flipped", "open", func(s *sealed) {
		s.env.Ciphertext[len(s.env.Ciphertext)-1] ^= 1
		s.core.Envelope = s.env.Hash()
		s.bind(t, s.secrets)
	})
	add("header: another than sealed under", "open", func(s *sealed) {
		h := header(s)
		h.Seq++
		s.core.Header = h.Encode()
		s.bind(t, s.secrets)
	})
	add("padding: next length", "padding", func(s *sealed) {
		p := pad(s.seed, s.record)
		plain(s, append(p, make([]byte, padme(len(p)-SeedSize+1)-(len(p)-SeedSize))...))
	})
	add("padding: last byte not zero", "padding", func(s *sealed) {
		p := pad(s.seed, s.record)
		p[len(p)-1] = 1
		plain(s, p)
	})
	add("padding: length beyond", "padding", func(s *sealed) {
		p := pad(s.seed, s.record)
		p[SeedSize] = 0x7f
		plain(s, p)
	})
	add("commitment: of another record", "commitment", func(s *sealed) {
		s.record = testRecord(strings.Repeat("y", 70)).Encode()
		plain(s, pad(s.seed, s.record))
	})
	add("commitment: of another seed", "commitment", func(s *sealed) {
		s.seed = testSeed("other")
		plain(s, pad(s.seed, s.record))
	})
	add("record: empty array", "encoding", func(s *sealed) {
		s.record = []byte{0x80}
		plain(s, pad(s.seed, s.record))
	})
	add("record: no array", "encoding", func(s *sealed) {
		s.record = bytes.Repeat([]byte{0x00}, len(s.record))
		plain(s, pad(s.seed, s.record))
	})
	add("randomness of its own", "mismatch", func(s *sealed) {
		prk := testSeed("other").extract()
		enc, shared, secrets, err := encapsulate(k.pub, prk, deriveCoins(prk, codec.Hash{}))
		if err != nil {
			t.Fatal(err)
		}
		aead, nonce, err := keySchedule(shared)
		if err != nil {
			t.Fatal(err)
		}
		s.env = &Envelope{Enc: enc, Ciphertext: aead.Seal(nil, nonce, pad(s.seed, s.record), s.header)}
		s.core.Envelope = s.env.Hash()
		s.bind(t, secrets)
	})
	return all
}

// negateProof makes the proof that a prover makes who forgets to negate k: its R
// has odd y, and the verifier takes the other point of that x.
func negateProof(t *testing.T, s *sealed) {
	t.Helper()
	n := scalars().n
	z, ok := parseScalar(s.proof[32:])
	if !ok {
		t.Fatal("z isn't reduced")
	}
	r, err := liftX(s.proof[:32])
	if err != nil {
		t.Fatal(err)
	}
	e, ok := parseScalar(s.secrets.Scalar())
	if !ok {
		t.Fatal("e isn't reduced")
	}
	odd := r.Negate(r).Bytes()
	r.Negate(r)
	even := r.Bytes()
	core := s.core.Hash()
	// z = k + c·e, so -k + c'·e = c'·e + c·e - z.
	a, _ := parseScalar(s.secrets.Scalar())
	e.Mul(challenge(s.secrets.point[:], even, core), n)
	a.Mul(challenge(s.secrets.point[:], odd, core), n)
	copy(s.proof[32:], a.Add(e, n).Sub(z, n).Bytes(n))
}

func TestVectors(t *testing.T) {
	published.Same(t, vectorFile, makeVectors(t), " ")
}

// publishedVectors reads the published file alone, as another implementation
// does.
func publishedVectors(t *testing.T) (*vectorSet, *keys) {
	t.Helper()
	var set vectorSet
	err := json.Unmarshal(published.Read(t, vectorFile), &set)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Valid) == 0 || len(set.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	k := new(keys)
	if k.t, err = ecdh.P256().NewPrivateKey(set.EscrowKey.Scalar); err != nil {
		t.Fatal(err)
	}
	if k.pq, err = mlkem.NewDecapsulationKey768(set.EscrowKey.MLKEMSeed); err != nil {
		t.Fatal(err)
	}
	if k.priv, err = hpke.NewHybridPrivateKey(k.pq, k.t); err != nil {
		t.Fatal(err)
	}
	if k.pub, err = NewPublicKey(set.EscrowKey.Point, set.EscrowKey.MLKEM); err != nil {
		t.Fatal(err)
	}
	return &set, k
}

func TestPublishedVectors(t *testing.T) {
	set, k := publishedVectors(t)
	for _, v := range set.Valid {
		if err := audit(k, &v.vector); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		if env, _, err := Seal(k.pub, v.Header, (*Seed)(v.Seed), v.Record); err != nil || !bytes.Equal(env.Encode(), v.Envelope) {
			t.Errorf("%s: seals otherwise: %v", v.Name, err)
		}
	}
	seen := map[string]bool{}
	for _, v := range set.Invalid {
		want, ok := classes()[v.Expect]
		if !ok || want == nil {
			t.Fatalf("%s: unknown class %q", v.Name, v.Expect)
		}
		seen[v.Expect] = true
		if err := audit(k, &v); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %s", v.Name, err, v.Expect)
		}
	}
	for name := range classes() {
		if name != "" && !seen[name] {
			t.Errorf("no vector of class %s", name)
		}
	}
}
