package quorum

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"

	"chancery/codec"
	"chancery/internal/published"
)

const vectorFile = "quorum.json"

type vectors struct {
	Description string            `json:"description"`
	BadPoints   map[string]string `json:"bad_points"`
	Quorums     []quorumVector    `json:"quorums"`
	Ceremonies  []ceremonyVector  `json:"ceremonies"`
}

// quorumVector: every t of the answers combine to X. Proof is keyholder 1's
// with 32 zero bytes for fresh randomness. Fault convicts keyholder 1 of having
// answered Wrong.
type quorumVector struct {
	Key     published.Hex   `json:"key"`
	Shares  []published.Hex `json:"shares"`
	Scalar  published.Hex   `json:"scalar"`
	E       published.Hex   `json:"encapsulation"`
	Answers []published.Hex `json:"answers"`
	X       published.Hex   `json:"x"`
	Context published.Hex   `json:"context"`
	Proof   published.Hex   `json:"proof"`
	Wrong   published.Hex   `json:"wrong"`
	Fault   published.Hex   `json:"fault"`
}

// ceremonyVector: the board is all that was said, in order. Where Error is
// empty it gives Key, Transcript and Shares.
type ceremonyVector struct {
	Name        string          `json:"name"`
	Ceremony    published.Hex   `json:"ceremony"`
	PrivateKeys []published.Hex `json:"private_keys"`
	Seeds       []published.Hex `json:"seeds"`
	Board       []published.Hex `json:"board"`
	Dishonest   int             `json:"dishonest,omitempty"` // whose seed did not make all it said
	Excluded    []string        `json:"excluded,omitempty"`
	Error       string          `json:"error,omitempty"`
	Key         published.Hex   `json:"key,omitempty"`
	Transcript  published.Hex   `json:"transcript,omitempty"`
	Shares      []published.Hex `json:"shares,omitempty"`
}

func makeQuorum(t *testing.T, threshold, n int) quorumVector {
	f := split(t, "vector", threshold, n)
	e := number("vector e")
	E := baseMult(t, e)
	v := quorumVector{
		Key: codec.Encode(f.key), Scalar: scalarBytes(e), E: E[:],
		Context: published.Hex("context"), X: mult(t, f.key.Key, e).x(),
	}
	for _, s := range f.shares {
		v.Shares = append(v.Shares, s.Bytes())
	}
	answers := f.answers(t, E)
	for _, a := range answers {
		v.Answers = append(v.Answers, a.Point[:])
	}
	zero := make([]byte, 32)
	proof, err := prove(f.shares[0].Bytes(), statement{Generator(), f.shares[0].Public(), E, answers[0].Point}, v.Context, zero)
	if err != nil {
		t.Fatal(err)
	}
	v.Proof = bytes.Clone(proof[:])
	wrong, right := Generator(), answers[0].Point
	v.Wrong = wrong[:]
	if proof, err = prove(v.Scalar, statement{Generator(), E, f.shares[0].Public(), right}, v.Context, zero); err != nil {
		t.Fatal(err)
	}
	v.Fault = codec.Encode(Fault{Holder: 1, Answered: wrong, Right: right, Proof: proof})
	return v
}

func (p Point) x() []byte { return p[1 : 1+ScalarSize] }

func makeCeremony(t *testing.T, name string, threshold, n, puppet int, attack func(c Ceremony) func(Message) []Message) ceremonyVector {
	c, keys := ceremony(t, threshold, n)
	v := ceremonyVector{Name: name, Ceremony: codec.Encode(c), Dishonest: puppet}
	for i, k := range keys {
		v.PrivateKeys = append(v.PrivateKeys, k.Bytes())
		v.Seeds = append(v.Seeds, sliceOf(seedOf(i+1)))
	}
	board, results, err := run(participants(t, c, keys), attack(c), puppet)
	for _, m := range board {
		v.Board = append(v.Board, m.Encode())
	}
	if err != nil {
		v.Error = err.Error()
		return v
	}
	v.Key, v.Transcript = codec.Encode(results[0].Key), results[0].Transcript[:]
	for _, r := range results {
		v.Shares = append(v.Shares, r.Share.Bytes())
	}
	for _, m := range results[0].Excluded {
		v.Excluded = append(v.Excluded, m.Error())
	}
	return v
}

func makeVectors(t *testing.T) vectors {
	honest := func(Ceremony) func(Message) []Message { return func(m Message) []Message { return []Message{m} } }
	v := vectors{
		Description: "spec/quorum.md. Byte strings in hexadecimal; key, ceremony, board and fault in deterministic CBOR.",
		BadPoints:   make(map[string]string),
		Quorums:     []quorumVector{makeQuorum(t, 1, 1), makeQuorum(t, 2, 3), makeQuorum(t, 3, 5), makeQuorum(t, 4, 9)},
		Ceremonies: []ceremonyVector{
			makeCeremony(t, "honest", 2, 3, 0, honest),
			makeCeremony(t, "honest, one keyholder", 1, 1, 0, honest),
			makeCeremony(t, "wrong share, justified", 2, 3, 1, func(c Ceremony) func(Message) []Message { return badShare(t, c, 1, 3) }),
			makeCeremony(t, "false accusation", 2, 3, 3, func(c Ceremony) func(Message) []Message { return accuse(3, 1) }),
			makeCeremony(t, "wrong share, not justified", 2, 3, 1, func(c Ceremony) func(Message) []Message {
				return chain(badShare(t, c, 1, 3), edit(1, RoundJustify, says([][32]byte{{31: 7}})))
			}),
			makeCeremony(t, "rogue key", 2, 3, 2, func(c Ceremony) func(Message) []Message {
				return dishonest(c, 2, func(o *opening) { o.Commitments[0] = Generator() })
			}),
			makeCeremony(t, "equivocation", 2, 3, 2, func(c Ceremony) func(Message) []Message {
				return func(m Message) []Message {
					if m.From == 2 && m.Round == RoundOpen {
						again := m
						again.Body = flip(m.Body)
						return []Message{m, again}
					}
					return []Message{m}
				}
			}),
			makeCeremony(t, "confirms another key", 2, 3, 2, func(c Ceremony) func(Message) []Message { return edit(2, RoundConfirm, flip) }),
		},
	}
	for name, b := range badPoints(t) {
		v.BadPoints[name] = hex.EncodeToString(b)
	}
	return v
}

func TestVectors(t *testing.T) {
	file := published.Same(t, vectorFile, makeVectors(t), " ")
	var v vectors
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.BadPoints) == 0 || len(v.Quorums) == 0 || len(v.Ceremonies) == 0 {
		t.Fatal("vectors are missing")
	}
	for name, s := range v.BadPoints {
		if _, err := ParsePoint(must(hex.DecodeString(s))); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, q := range v.Quorums {
		q.check(t)
	}
	for _, c := range v.Ceremonies {
		t.Run(c.Name, c.check)
	}
}

// check uses the file's bytes and the exported interface alone.
func (v quorumVector) check(t *testing.T) {
	var key PublicKey
	if err := codec.Decode(v.Key, &key); err != nil {
		t.Fatal(err)
	}
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	E := must(ParsePoint(v.E))
	if must(ScalarBaseMult(v.Scalar)) != E {
		t.Error("e is not E's")
	}
	var answers []Answer
	for i, b := range v.Shares {
		s := must(NewShare(i+1, b))
		p := must(s.Partial(E))
		if s.Public() != key.Shares[i] || !bytes.Equal(p[:], v.Answers[i]) {
			t.Errorf("share %d differs", i+1)
		}
		answers = append(answers, Answer{Holder: i + 1, Point: p})
	}
	for quorum := range Subsets(answers, key.T) {
		if p := must(Combine(&key, quorum)); !bytes.Equal(p.x(), v.X) {
			t.Error("x differs")
		}
	}
	if err := key.VerifyAnswer(E, answers[0], v.Context, DLEQ(v.Proof)); err != nil {
		t.Error(err)
	}
	var f Fault
	if err := codec.Decode(v.Fault, &f); err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(&key, E, v.Context); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(f.Answered[:], v.Wrong) {
		t.Error("fault is about another answer")
	}
}

func (v ceremonyVector) check(t *testing.T) {
	var c Ceremony
	if err := codec.Decode(v.Ceremony, &c); err != nil {
		t.Fatal(err)
	}
	var board []Message
	for _, b := range v.Board {
		board = append(board, *must(ParseMessage(b)))
	}
	key, transcript, err := Verify(c, board)
	if v.Error != "" {
		if err == nil || err.Error() != v.Error {
			t.Errorf("got %v, want %s", err, v.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(codec.Encode(key), v.Key) || !bytes.Equal(transcript[:], v.Transcript) {
		t.Error("key or transcript differs")
	}
	for i := range c.Peers {
		if i+1 == v.Dishonest {
			continue
		}
		p := must(NewParticipant(c, i+1, [SeedSize]byte(v.Seeds[i]), must(ecdh.P256().NewPrivateKey(v.PrivateKeys[i]))))
		_, r, err := p.Step(board)
		if err != nil || r == nil || !bytes.Equal(r.Share.Bytes(), v.Shares[i]) {
			t.Errorf("share %d differs: %v", i+1, err)
		}
	}
	s, err := Inspect(c, board)
	if err != nil || s.Round != 0 || len(s.Excluded) != len(v.Excluded) {
		t.Fatalf("got %+v, %v", s, err)
	}
	for i, m := range s.Excluded {
		if m.Error() != v.Excluded[i] {
			t.Errorf("excluded %v, want %s", &m, v.Excluded[i])
		}
	}
}
