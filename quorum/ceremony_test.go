package quorum

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"chancery/codec"

	"pgregory.net/rapid"
)

func ceremony(t rapid.TB, threshold, n int) (Ceremony, []*ecdh.PrivateKey) {
	t.Helper()
	c := Ceremony{ID: codec.ID{15: 7}, T: threshold}
	var keys []*ecdh.PrivateKey
	for i := range n {
		k, err := ecdh.P256().NewPrivateKey(scalarBytes(number(fmt.Sprint("encryption key ", i+1))))
		fatal(t, err)
		keys = append(keys, k)
		c.Peers = append(c.Peers, PeerKey(k.PublicKey().Bytes()))
	}
	return c, keys
}

func seedOf(i int) [SeedSize]byte { return codec.Sum("quorum/test", fmt.Append(nil, "seed ", i)) }

func participants(t rapid.TB, c Ceremony, keys []*ecdh.PrivateKey) []*Participant {
	t.Helper()
	var ps []*Participant
	for i, k := range keys {
		p, err := NewParticipant(c, i+1, seedOf(i+1), k)
		fatal(t, err)
		ps = append(ps, p)
	}
	return ps
}

// run lets all participants speak until none has anything to say. tamper may
// replace what one posts. Participants refuse a board on which they said what
// their seed does not (ErrSeed); puppets go on regardless, as the dishonest do.
func run(ps []*Participant, tamper func(Message) []Message, puppets ...int) (board []Message, results []*Result, err error) {
	for progress := true; progress; {
		progress = false
		results = nil
		for _, p := range ps {
			m, r, err := step(p, board, slices.Contains(puppets, p.index))
			if err != nil {
				return board, nil, err
			}
			if r != nil {
				results = append(results, r)
			}
			if m == nil {
				continue
			}
			posted := []Message{*m}
			if tamper != nil {
				posted = tamper(*m)
			}
			board = append(board, posted...)
			progress = progress || len(posted) > 0
		}
	}
	return board, results, nil
}

func step(p *Participant, board []Message, puppet bool) (*Message, *Result, error) {
	if !puppet {
		return p.Step(board)
	}
	s, err := replay(&p.ceremony, board)
	if err != nil {
		return nil, nil, err
	}
	if s.round == done {
		r, err := p.result(s)
		return nil, r, err
	}
	if !slices.Contains(s.waiting(), p.index) {
		return nil, nil, nil
	}
	d, err := p.dealer(s)
	if err != nil {
		return nil, nil, err
	}
	body, err := p.speak(s, d, s.round)
	return &Message{Ceremony: s.ID, From: p.index, Round: s.round, Body: body}, nil, err
}

// works checks that the shares, and any quorum of them, are the key's.
func works(t rapid.TB, c Ceremony, board []Message, results []*Result) {
	t.Helper()
	if len(results) != len(c.Peers) {
		t.Fatalf("%d results of %d", len(results), len(c.Peers))
	}
	key, transcript, err := Verify(c, board)
	fatal(t, err)
	fatal(t, key.Validate())
	e := number("e")
	E, err := ScalarBaseMult(scalarBytes(e))
	fatal(t, err)
	want, err := scalarMult(key.Key, scalarBytes(e))
	fatal(t, err)
	var answers []Answer
	for i, r := range results {
		if r.Transcript != transcript || !bytes.Equal(codec.Encode(r.Key), codec.Encode(key)) {
			t.Fatalf("keyholder %d has another key or transcript", i+1)
		}
		if r.Share.Index() != i+1 || r.Share.Public() != key.Shares[i] {
			t.Fatalf("keyholder %d has another share", i+1)
		}
		p, err := r.Share.Partial(E)
		fatal(t, err)
		answers = append(answers, Answer{Holder: i + 1, Point: p})
	}
	for subset := range Subsets(answers, c.T) {
		if got, err := Combine(key, subset); err != nil || got != want {
			t.Fatalf("a quorum does not open: %v", err)
		}
	}
}

func TestCeremony(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		threshold, n := sizes(t, 7)
		c, keys := ceremony(t, threshold, n)
		ps := participants(t, c, keys)
		board, results, err := run(ps, nil)
		fatal(t, err)
		works(t, c, board, results)
		if len(results[0].Excluded) != 0 {
			t.Fatalf("excluded %v", results[0].Excluded)
		}
		// No participant's results give away the private key: with fewer than
		// t shares nothing in the package combines, and with one share the key
		// is not the share's own, unless one opens.
		if threshold > 1 && slices.Contains(results[0].Key.Shares, results[0].Key.Key) {
			t.Fatal("a share is the private key")
		}
	})
}

func TestCeremonyRefuses(t *testing.T) {
	c, keys := ceremony(t, 3, 5)
	change := func(edit func(*Ceremony)) Ceremony {
		d := c
		d.Peers = slices.Clone(c.Peers)
		edit(&d)
		return d
	}
	for name, bad := range map[string]Ceremony{
		"empty":           {},
		"t 0":             change(func(c *Ceremony) { c.T = 0 }),
		"n < 2t-1":        change(func(c *Ceremony) { c.Peers = c.Peers[:4] }),
		"n too large":     change(func(c *Ceremony) { c.Peers = make([]PeerKey, MaxHolders+1) }),
		"no id":           change(func(c *Ceremony) { c.ID = codec.ID{} }),
		"one peer is two": change(func(c *Ceremony) { c.Peers[4] = c.Peers[0] }),
		"peer no point":   change(func(c *Ceremony) { c.Peers[4] = PeerKey{4} }),
	} {
		if _, err := NewParticipant(bad, 1, seedOf(1), keys[0]); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, _, err := Verify(bad, nil); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	for _, i := range []int{-1, 0, 6} {
		if _, err := NewParticipant(c, i, seedOf(1), keys[0]); err == nil {
			t.Errorf("index %d accepted", i)
		}
	}
	if _, err := NewParticipant(c, 2, seedOf(2), keys[0]); err == nil {
		t.Error("another's key accepted")
	}
	x, err := ecdh.X25519().NewPrivateKey(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewParticipant(c, 1, seedOf(1), x); err == nil {
		t.Error("X25519 key accepted")
	}
}

// A participant killed at any moment says the same again, and nothing else.
func TestRestartNeverEquivocates(t *testing.T) {
	c, keys := ceremony(t, 2, 4)
	board, _, err := run(participants(t, c, keys), badShare(t, c, 2, 3), 2)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(board) + 1 {
		prefix := board[:cut]
		for i, k := range keys {
			var said []*Message
			for range 2 {
				p, err := NewParticipant(c, i+1, seedOf(i+1), k)
				if err != nil {
					t.Fatal(err)
				}
				m, r, err := step(p, prefix, i+1 == 2)
				if err != nil {
					t.Fatalf("keyholder %d after %d messages: %v", i+1, cut, err)
				}
				if cut < len(board) && r != nil {
					t.Fatalf("keyholder %d ends after %d messages", i+1, cut)
				}
				said = append(said, m)
			}
			a, b := said[0], said[1]
			if (a == nil) != (b == nil) || a != nil && !bytes.Equal(a.Encode(), b.Encode()) {
				t.Fatalf("keyholder %d says two things after %d messages", i+1, cut)
			}
			if a == nil {
				continue
			}
			// What it would say at this point is what it did say in the end,
			// unless somebody else wrote in its name here.
			at := slices.IndexFunc(board, func(m Message) bool { return m.From == a.From && m.Round == a.Round })
			if at < cut || !bytes.Equal(board[at].Body, a.Body) && a.From != 2 {
				t.Fatalf("keyholder %d says another thing than before in round %d", i+1, a.Round)
			}
		}
	}
	// A message posted twice by a restart changes nothing.
	twice := append(slices.Clone(board[:3]), board[1:]...)
	if _, _, err := Verify(c, twice); err != nil {
		t.Errorf("repeated message: %v", err)
	}
	// With another seed it goes no further.
	p, err := NewParticipant(c, 1, seedOf(9), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Step(board[:4]); !errors.Is(err, ErrSeed) {
		t.Errorf("lost seed: got %v, want ErrSeed", err)
	}
	// Nor where somebody else spoke in its name.
	honest, _, err := run(participants(t, c, keys), nil)
	if err != nil {
		t.Fatal(err)
	}
	for round, last := range map[int]int{RoundCommit: 1, RoundOpen: 8, RoundDeal: 12} {
		board := slices.Clone(honest[:last])
		at := 4 * (round - 1)
		board[at].Body = flip(board[at].Body)
		if _, _, err := participants(t, c, keys)[0].Step(board); !errors.Is(err, ErrSeed) {
			t.Errorf("forged message in round %d: got %v, want ErrSeed", round, err)
		}
	}
	p.Erase()
	if _, _, err := p.Step(nil); !errors.Is(err, ErrErased) {
		t.Errorf("erased: got %v", err)
	}
}

// edit replaces one keyholder's body in one round.
func edit(from, round int, f func([]byte) []byte) func(Message) []Message {
	return func(m Message) []Message {
		if m.From == from && m.Round == round {
			m.Body = f(m.Body)
		}
		return []Message{m}
	}
}

func chain(fs ...func(Message) []Message) func(Message) []Message {
	return func(m Message) []Message {
		out := []Message{m}
		for _, f := range fs {
			var next []Message
			for _, m := range out {
				next = append(next, f(m)...)
			}
			out = next
		}
		return out
	}
}

// badShare makes a dealer deal nonsense to one keyholder.
func badShare(t testing.TB, c Ceremony, dealer, victim int) func(Message) []Message {
	return edit(dealer, RoundDeal, func(b []byte) []byte {
		var deal []sealed
		if err := codec.Decode(b, &deal); err != nil {
			t.Error(err)
		}
		eph, err := parseScalar(scalarBytes(number("ephemeral")))
		if err != nil {
			t.Error(err)
		}
		deal[victim-1], err = seal(c.Peers[victim-1], eph, dealInfo(c.hash(), dealer, victim), scalarBytes(number("nonsense")))
		if err != nil {
			t.Error(err)
		}
		return codec.Encode(deal)
	})
}

func accuse(from int, dealers ...int) func(Message) []Message {
	return edit(from, RoundVerdict, func([]byte) []byte { return codec.Encode(dealers) })
}

func says(v any) func([]byte) []byte { return func([]byte) []byte { return codec.Encode(v) } }

func flip(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b }

// dishonest opens a polynomial of its own choosing, committed to properly.
func dishonest(c Ceremony, from int, change func(*opening)) func(Message) []Message {
	var o []byte
	return func(m Message) []Message {
		if m.From != from {
			return []Message{m}
		}
		switch m.Round {
		case RoundCommit:
			d, err := (&Participant{ceremony: c, index: from, seed: sliceOf(seedOf(from))}).dealer(&state{Ceremony: &c, id: c.hash()})
			if err != nil {
				panic(err)
			}
			var op opening
			if err := codec.Decode(d.open, &op); err != nil {
				panic(err)
			}
			change(&op)
			o = codec.Encode(op)
			m.Body = codec.Encode(commitment(c.hash(), from, o))
		case RoundOpen:
			m.Body = o
		}
		return []Message{m}
	}
}

func sliceOf(s [SeedSize]byte) []byte { return s[:] }

func TestDealerIsExcluded(t *testing.T) {
	c, keys := ceremony(t, 3, 5)
	generator := Generator()
	for name, attack := range map[string]struct {
		tamper func(Message) []Message
		round  int
		reason string
	}{
		"malformed commitment": {edit(2, RoundCommit, func([]byte) []byte { return []byte{0x40} }), RoundCommit, "malformed"},
		"opens something else": {edit(2, RoundCommit, flip), RoundOpen, "not what was committed"},
		"bad proof":            {dishonest(c, 2, func(o *opening) { o.Proof[40] ^= 1 }), RoundOpen, "possession"},
		// The rogue key: a commitment whose secret nobody knows, chosen to
		// cancel or replace what others bring.
		"rogue key":         {dishonest(c, 2, func(o *opening) { o.Commitments[0] = generator }), RoundOpen, "possession"},
		"others' proof":     {dishonest(c, 2, borrow(t, c, 4)), RoundOpen, "possession"},
		"other polynomial":  {dishonest(c, 2, func(o *opening) { o.Commitments[2] = generator }), RoundOpen, "possession"},
		"no point":          {dishonest(c, 2, func(o *opening) { o.Commitments[1] = Point{} }), RoundOpen, "no point"},
		"degree too low":    {dishonest(c, 2, func(o *opening) { o.Commitments = o.Commitments[:2] }), RoundOpen, "malformed"},
		"degree too high":   {dishonest(c, 2, func(o *opening) { o.Commitments = append(o.Commitments, generator) }), RoundOpen, "malformed"},
		"malformed deal":    {edit(2, RoundDeal, func(b []byte) []byte { return b[:len(b)-1] }), RoundDeal, "malformed"},
		"deal for fewer":    {edit(2, RoundDeal, says([]sealed{{}})), RoundDeal, "malformed"},
		"bad shares to t":   {chain(badShare(t, c, 2, 1), badShare(t, c, 2, 3), badShare(t, c, 2, 4)), RoundVerdict, "accused by 3"},
		"won't justify":     {chain(badShare(t, c, 2, 3), edit(2, RoundJustify, says([][32]byte{}))), RoundJustify, "malformed"},
		"justifies wrongly": {chain(badShare(t, c, 2, 3), edit(2, RoundJustify, says([][32]byte{{31: 7}}))), RoundJustify, "wrong share for 3"},
		"justifies zero":    {chain(badShare(t, c, 2, 3), edit(2, RoundJustify, says([][32]byte{{}}))), RoundJustify, "wrong share for 3"},
	} {
		t.Run(name, func(t *testing.T) {
			board, results, err := run(participants(t, c, keys), attack.tamper, 2)
			if err != nil {
				t.Fatal(err)
			}
			works(t, c, board, results)
			ex := results[0].Excluded
			if len(ex) != 1 || ex[0].Index != 2 || ex[0].Round != attack.round || !strings.Contains(ex[0].Reason, attack.reason) {
				t.Fatalf("excluded %v, want 2 in round %d for %q", ex, attack.round, attack.reason)
			}
			// Its contribution is in nobody's share: the key is the sum of the
			// other dealers' alone.
			if want := sumOfSecrets(t, c, 1, 3, 4, 5); results[0].Key.Key != want {
				t.Fatal("key is not the sum of the honest dealers' secrets")
			}
		})
	}
}

// borrow opens another dealer's polynomial and proof as one's own.
func borrow(t testing.TB, c Ceremony, from int) func(*opening) {
	return func(o *opening) {
		d, err := (&Participant{index: from, seed: sliceOf(seedOf(from))}).dealer(&state{Ceremony: &c, id: c.hash()})
		if err != nil {
			t.Fatal(err)
		}
		if err := codec.Decode(d.open, o); err != nil {
			t.Fatal(err)
		}
	}
}

func sumOfSecrets(t testing.TB, c Ceremony, dealers ...int) Point {
	total := new(big.Int)
	for _, i := range dealers {
		d, err := (&Participant{index: i, seed: sliceOf(seedOf(i))}).dealer(&state{Ceremony: &c, id: c.hash()})
		if err != nil {
			t.Fatal(err)
		}
		total.Add(total, new(big.Int).SetBytes(d.coefficients[0].Bytes(order())))
	}
	return baseMult(t, total)
}

// A dealer that dealt badly but discloses the right share stays in, and the
// accuser takes the disclosed one; one that was accused falsely stays in too.
func TestJustification(t *testing.T) {
	c, keys := ceremony(t, 3, 5)
	all := sumOfSecrets(t, c, 1, 2, 3, 4, 5)
	for name, tamper := range map[string]func(Message) []Message{
		"bad share":            badShare(t, c, 2, 3),
		"bad shares to t-1":    chain(badShare(t, c, 2, 3), badShare(t, c, 2, 5)),
		"false accusation":     accuse(4, 2),
		"t-1 false accusers":   chain(accuse(4, 1, 2, 3), accuse(5, 1, 2, 3)),
		"accusers each other":  chain(accuse(4, 5), accuse(5, 4)),
		"garbled ciphertext":   edit(2, RoundDeal, flip),
		"liar and bad share":   chain(badShare(t, c, 2, 3), accuse(1, 2)),
		"two dealers deal bad": chain(badShare(t, c, 2, 3), badShare(t, c, 1, 3)),
	} {
		t.Run(name, func(t *testing.T) {
			board, results, err := run(participants(t, c, keys), tamper, 1, 2)
			if err != nil {
				t.Fatal(err)
			}
			works(t, c, board, results)
			if len(results[0].Excluded) != 0 || results[0].Key.Key != all {
				t.Fatalf("excluded %v", results[0].Excluded)
			}
		})
	}
}

func TestCeremonyEnds(t *testing.T) {
	c, keys := ceremony(t, 3, 5)
	other := codec.ID{1}
	also := func(from, round int, more func(Message) Message) func(Message) []Message {
		return func(m Message) []Message {
			if m.From == from && m.Round == round {
				return []Message{m, more(m)}
			}
			return []Message{m}
		}
	}
	in := func(round int, body []byte) func(Message) Message {
		return func(m Message) Message { m.Round, m.Body = round, body; return m }
	}
	for name, attack := range map[string]struct {
		tamper func(Message) []Message
		round  int
		reason string
	}{
		"equivocates in 1":  {also(2, RoundCommit, in(1, codec.Encode(codec.Sum("x")))), 1, "two different"},
		"equivocates in 3":  {also(2, RoundDeal, in(3, []byte{0x80})), 3, "two different"},
		"equivocates in 4":  {also(2, RoundVerdict, in(4, codec.Encode([]int{1}))), 4, "two different"},
		"equivocates late":  {also(2, RoundVerdict, in(1, codec.Encode(codec.Sum("x")))), 1, "two different"},
		"opens early":       {also(2, RoundCommit, in(2, []byte{0x80})), 2, "out of turn"},
		"confirms early":    {also(2, RoundDeal, in(6, []byte{0x80})), 6, "out of turn"},
		"justifies unasked": {also(2, RoundVerdict, in(5, []byte{0x80})), 5, "out of turn"},
		"other ceremony":    {also(2, RoundOpen, func(m Message) Message { m.Ceremony = other; return m }), 2, "another ceremony"},
		"round 0":           {also(2, RoundOpen, in(0, nil)), 0, "no such"},
		"round 7":           {also(2, RoundOpen, in(7, nil)), 7, "no such"},
		"large body":        {edit(2, RoundOpen, func([]byte) []byte { return make([]byte, MaxBody+1) }), 2, "too large"},
		"verdict junk":      {edit(2, RoundVerdict, func([]byte) []byte { return []byte{0xff} }), 4, "malformed"},
		"verdict unsorted":  {accuse(2, 3, 1), 4, "ascending"},
		"verdict twice":     {accuse(2, 3, 3), 4, "ascending"},
		"accuses itself":    {accuse(2, 2), 4, "dealt it nothing"},
		"accuses nobody":    {accuse(2, 6), 4, "dealt it nothing"},
		"accuses -1":        {accuse(2, -1), 4, "dealt it nothing"},
		"other key":         {edit(2, RoundConfirm, flip), 6, "another transcript or key"},
		"confirms nothing":  {edit(2, RoundConfirm, func([]byte) []byte { return nil }), 6, "another transcript or key"},
	} {
		t.Run(name, func(t *testing.T) {
			board, _, err := run(participants(t, c, keys), attack.tamper, 2)
			var m *Misbehaviour
			if !errors.As(err, &m) || m.Index != 2 || m.Round != attack.round || !strings.Contains(m.Reason, attack.reason) {
				t.Fatalf("got %v, want keyholder 2 in round %d: %s", err, attack.round, attack.reason)
			}
			if _, _, err := Verify(c, board); !errors.As(err, &m) {
				t.Errorf("verified: %v", err)
			}
		})
	}
	board, _, err := run(participants(t, c, keys), nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger := board[0]
	stranger.From = 6
	if _, _, err := Verify(c, []Message{stranger}); err == nil {
		t.Error("a sixth keyholder spoke")
	}
	// Nobody can undo a key: what follows the last confirmation is not read.
	late := board[1]
	late.Body = codec.Encode(codec.Sum("x"))
	if _, _, err := Verify(c, append(slices.Clone(board), late, stranger)); err != nil {
		t.Errorf("a key was undone: %v", err)
	}
	// And nobody can take one message out.
	for i := range board {
		if _, _, err := Verify(c, slices.Delete(slices.Clone(board), i, i+1)); err == nil {
			t.Errorf("verified without message %d", i)
		}
	}
}

// A keyholder that falls silent stops the ceremony, by name, and no key comes.
func TestSilence(t *testing.T) {
	c, keys := ceremony(t, 2, 3)
	for round := RoundCommit; round <= RoundConfirm; round++ {
		tamper := func(m Message) []Message {
			if m.From == 3 && m.Round >= round {
				return nil
			}
			return []Message{m}
		}
		tamper = chain(tamper, badShare(t, c, 3, 1)) // so that round 5 comes
		board, results, err := run(participants(t, c, keys), tamper, 3)
		if err != nil || len(results) != 0 {
			t.Fatalf("round %d: %d results, %v", round, len(results), err)
		}
		s, err := Inspect(c, board)
		if err != nil || s.Round != round || !slices.Equal(s.Waiting, []int{3}) {
			t.Errorf("silent in round %d: got %+v, %v", round, s, err)
		}
		if _, _, err := Verify(c, board); !errors.Is(err, ErrIncomplete) {
			t.Errorf("silent in round %d: got %v, want ErrIncomplete", round, err)
		}
	}
}

// With more than n-t dealers gone, those left could all be one adversary's.
func TestTooFewDealers(t *testing.T) {
	c, keys := ceremony(t, 3, 5)
	gone := chain(edit(1, RoundDeal, says(0)), edit(2, RoundDeal, says(0)), edit(3, RoundDeal, says(0)))
	if _, _, err := run(participants(t, c, keys), gone, 1, 2, 3); err == nil || !strings.Contains(err.Error(), "2 dealers left") {
		t.Errorf("got %v", err)
	}
}

// A decryption key that is out of reach accuses nobody.
func TestKeyOutOfReach(t *testing.T) {
	c, keys := ceremony(t, 2, 3)
	board, _, err := run(participants(t, c, keys), nil)
	if err != nil {
		t.Fatal(err)
	}
	key := &flaky{KeyExchanger: keys[0], err: errors.New("token removed")}
	p, err := NewParticipant(c, 1, seedOf(1), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Step(board[:9]); !errors.Is(err, key.err) {
		t.Errorf("got %v, want the key's own error", err)
	}
	key.err = nil
	if m, _, err := p.Step(board[:9]); err != nil || m == nil || !bytes.Equal(m.Body, board[9].Body) {
		t.Errorf("got %v, %v", m, err)
	}
}

type flaky struct {
	ecdh.KeyExchanger
	err error
}

func (f *flaky) ECDH(p *ecdh.PublicKey) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.KeyExchanger.ECDH(p)
}

// A share sealed to one keyholder opens as no other's, from no other dealer and
// in no other ceremony.
func TestSealedShareIsBound(t *testing.T) {
	c, keys := ceremony(t, 2, 3)
	eph, err := parseScalar(scalarBytes(number("ephemeral")))
	if err != nil {
		t.Fatal(err)
	}
	id, share := c.hash(), scalarBytes(number("share"))
	b, err := seal(c.Peers[1], eph, dealInfo(id, 1, 2), share)
	if err != nil {
		t.Fatal(err)
	}
	if got := unseal(keys[1], b, dealInfo(id, 1, 2)); !bytes.Equal(got, share) {
		t.Fatal("crypto/hpke does not open what seal sealed")
	}
	d := c
	d.T = 1
	for name, got := range map[string][]byte{
		"key":      unseal(keys[0], b, dealInfo(id, 1, 2)),
		"dealer":   unseal(keys[1], b, dealInfo(id, 3, 2)),
		"to":       unseal(keys[1], b, dealInfo(id, 1, 3)),
		"ceremony": unseal(keys[1], b, dealInfo(d.hash(), 1, 2)),
	} {
		if got != nil {
			t.Errorf("opened under another %s", name)
		}
	}
	// Derivation, too: one seed in two ceremonies gives two polynomials.
	if sumOfSecrets(t, c, 1) == sumOfSecrets(t, d, 1) || sumOfSecrets(t, c, 1) == sumOfSecrets(t, c, 2) {
		t.Error("one polynomial twice")
	}
}

func FuzzMessage(f *testing.F) {
	c, keys := ceremony(f, 2, 3)
	board, _, err := run(participants(f, c, keys), accuse(1, 2))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range board {
		f.Add(m.Encode())
	}
	f.Add(codec.Encode(Message{From: 1, Round: 7}))
	f.Add(codec.Encode(Message{From: 1, Round: 1, Body: make([]byte, MaxBody+1)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err == nil && !bytes.Equal(m.Encode(), b) {
			t.Fatal("not canonical")
		}
	})
}

func FuzzStep(f *testing.F) {
	c, keys := ceremony(f, 2, 3)
	for _, tamper := range []func(Message) []Message{
		nil, accuse(1, 2), badShare(f, c, 2, 3),
		chain(badShare(f, c, 2, 3), edit(2, RoundJustify, flip)),
		edit(3, RoundDeal, says(0)),
	} {
		board, _, err := run(participants(f, c, keys), tamper, 2, 3)
		if err != nil {
			f.Fatal(err)
		}
		for _, cut := range []int{0, 1, 3, 5, 6, 9, 12, len(board) - 1, len(board)} {
			f.Add(codec.Encode(board[:min(cut, len(board))]))
		}
	}
	// What broke once: somebody else dealt in this keyholder's name.
	board, _, err := run(participants(f, c, keys), nil)
	if err != nil {
		f.Fatal(err)
	}
	board[6].Body = board[7].Body
	f.Add(codec.Encode(board[:9]))
	p := participants(f, c, keys)[0]
	f.Fuzz(func(t *testing.T, b []byte) {
		var board []Message
		if codec.Decode(b, &board) != nil {
			return
		}
		m, r, err := p.Step(board)
		if err != nil && (m != nil || r != nil) || m != nil && r != nil {
			t.Fatal("said more than one thing")
		}
		if m != nil {
			if parsed, err := ParseMessage(m.Encode()); err != nil || parsed.From != 1 {
				t.Fatalf("says what can't be read: %v", err)
			}
			if _, err := replay(&c, append(slices.Clone(board), *m)); err != nil {
				t.Fatalf("says what breaks the board: %v", err)
			}
		}
		key, _, err := Verify(c, board)
		if err == nil && key.Validate() != nil {
			t.Fatal("verified a bad key")
		}
		if r != nil && (err != nil || r.Share.Public() != key.Shares[0]) {
			t.Fatal("result of a board that does not verify")
		}
	})
}
