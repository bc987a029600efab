package quorum

import (
	"bytes"
	"cmp"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chancery/codec"

	"filippo.io/nistec"
)

// The rounds of a ceremony, in order (spec/quorum.md#rounds).
const (
	RoundCommit  = 1 // a hash of the opening
	RoundOpen    = 2 // Feldman commitments and a proof of possession
	RoundDeal    = 3 // a sealed share for each keyholder
	RoundVerdict = 4 // the dealers whose share was wrong
	RoundJustify = 5 // accused dealers disclose the disputed shares
	RoundConfirm = 6 // the transcript's hash and the key
)

// MaxBody is the greatest length in bytes of a Message's body.
const MaxBody = 4096

const (
	labelCeremony   = "quorum/ceremony"
	labelCommit     = "quorum/commit"
	labelOpen       = "quorum/open"
	labelDeal       = "quorum/deal"
	labelTranscript = "quorum/transcript"
)

// PeerKey is a keyholder's encryption public key for HPKE with
// DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM: 65 bytes.
type PeerKey = Point

// Ceremony is one distributed key generation: its random id, never used
// before, the threshold, and the keyholders' encryption keys in the order of
// their indices. In CBOR it is the array [id, t, [peers]].
type Ceremony struct {
	_     struct{} `cbor:",toarray"`
	ID    codec.ID
	T     int
	Peers []PeerKey
}

// Validate returns ErrThreshold, ErrPoint, or an error where the id is zero or
// two keyholders have one key, which would be one keyholder.
func (c *Ceremony) Validate() error {
	if err := checkThreshold(c.T, len(c.Peers)); err != nil {
		return err
	}
	if c.ID.IsZero() {
		return errors.New("ceremony without an id")
	}
	for i, p := range c.Peers {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("encryption key %d: %w", i+1, err)
		}
		if j := slices.Index(c.Peers, p); j != i {
			return fmt.Errorf("keyholders %d and %d have the same encryption key", j+1, i+1)
		}
	}
	return nil
}

func (c *Ceremony) hash() codec.Hash { return codec.Sum(labelCeremony, codec.Encode(c)) }

// Message is what one keyholder says in one round, posted on a board that all
// see in the same order. The caller authenticates it: From is who signed it.
// In CBOR it is the array [ceremony, from, round, body].
type Message struct {
	_        struct{} `cbor:",toarray"`
	Ceremony codec.ID
	From     int
	Round    int
	Body     []byte
}

// ParseMessage reads what Encode writes. It returns codec.ErrEncoding or, where
// the body is longer than MaxBody, codec.ErrSize. Whether a ceremony allows the
// message is for Verify and Step to say.
func ParseMessage(b []byte) (*Message, error) {
	if len(b) > MaxBody+64 {
		return nil, fmt.Errorf("message of %d bytes: %w", len(b), codec.ErrSize)
	}
	var m Message
	if err := codec.Decode(b, &m); err != nil {
		return nil, fmt.Errorf("couldn't decode a ceremony's message: %w", err)
	}
	if len(m.Body) > MaxBody {
		return nil, fmt.Errorf("body of %d bytes: %w", len(m.Body), codec.ErrSize)
	}
	if m.From < 1 || m.From > MaxHolders || m.Round < RoundCommit || m.Round > RoundConfirm {
		return nil, fmt.Errorf("message from %d in round %d: %w", m.From, m.Round, codec.ErrEncoding)
	}
	return &m, nil
}

// Encode returns the message's canonical encoding.
func (m *Message) Encode() []byte { return codec.Encode(m) }

// Misbehaviour names a keyholder that broke the protocol, and the round whose
// rule it broke. As an error it ends the ceremony; in Status and Result it
// tells why a dealer was left out.
type Misbehaviour struct {
	Index  int
	Round  int
	Reason string
}

// Error implements error.
func (m *Misbehaviour) Error() string {
	return fmt.Sprintf("keyholder %d in round %d: %s", m.Index, m.Round, m.Reason)
}

// Status is where a ceremony stands.
type Status struct {
	Round    int            // the current round; 0 once it is complete
	Waiting  []int          // who has yet to speak in it
	Excluded []Misbehaviour // dealers left out of the key, in the order of the board
}

// Inspect replays a board and says where the ceremony stands, so that people
// can see whom it waits for. Its errors are Verify's but for ErrIncomplete.
func Inspect(c Ceremony, board []Message) (Status, error) {
	s, err := replay(&c, board)
	if err != nil {
		return Status{}, err
	}
	return s.status(), nil
}

// ErrIncomplete means that a ceremony has not been confirmed by all.
var ErrIncomplete = errors.New("ceremony is not complete")

// Verify replays a whole ceremony as any outsider can and returns its key and
// the hash of its transcript, which all n keyholders confirmed. The messages'
// authors must have been authenticated. What follows the last confirmation is
// ignored, so that nobody can undo a key afterwards.
//
// It returns a *Misbehaviour where a keyholder broke a rule that ends the
// ceremony, ErrIncomplete where somebody has yet to speak, and Ceremony's own
// errors. Time and memory are bounded by the board's size.
func Verify(c Ceremony, board []Message) (*PublicKey, codec.Hash, error) {
	s, err := replay(&c, board)
	if err != nil {
		return nil, codec.Hash{}, err
	}
	if s.round != done {
		return nil, codec.Hash{}, fmt.Errorf("%w: waiting for %v in round %d", ErrIncomplete, s.waiting(), s.round)
	}
	return s.key, s.transcript, nil
}

// The bodies. An opening is [[commitments], proof]; a deal an array of n sealed
// shares; a verdict an ascending array of dealers; a justification an array of
// scalars, one for each accuser in ascending order; a commitment a hash.
type (
	opening struct {
		_           struct{} `cbor:",toarray"`
		Commitments []Point
		Proof       [ProofSize]byte
	}
	sealed       [PointSize + ScalarSize + 16]byte
	confirmation struct {
		_          struct{} `cbor:",toarray"`
		Transcript codec.Hash
		Key        PublicKey
	}
)

const done = 0

type (
	slot struct{ round, from int }
	edge struct{ dealer, to int }
)

// state is a board replayed. Everybody who replays one board gets one state:
// nothing in it depends on who looks.
type state struct {
	*Ceremony
	id       codec.Hash // of the ceremony
	round    int
	said     map[slot]Message
	excluded []Misbehaviour

	commits     map[int]codec.Hash
	commitments map[int][]*nistec.P256Point // of each dealer in good standing, from round 2
	deals       map[int][]sealed
	accusers    map[int][]int             // ascending, for each accused dealer
	disclosed   map[edge][ScalarSize]byte // shares justified in public

	transcript codec.Hash // from round 6
	key        *PublicKey
}

func replay(c *Ceremony, board []Message) (*state, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &state{
		Ceremony:    c,
		id:          c.hash(),
		round:       RoundCommit,
		said:        make(map[slot]Message),
		commits:     make(map[int]codec.Hash),
		commitments: make(map[int][]*nistec.P256Point),
		deals:       make(map[int][]sealed),
		accusers:    make(map[int][]int),
		disclosed:   make(map[edge][ScalarSize]byte),
	}
	for i := range board {
		if err := s.add(board[i]); err != nil {
			return nil, err
		}
		if s.round == done {
			break
		}
	}
	return s, nil
}

// add takes the board's next message. Rounds are strict: a message that comes
// before its round is refused, so that whoever verifies the board sees that
// every commitment was there before the first opening.
func (s *state) add(m Message) error {
	fault := func(reason string) error { return &Misbehaviour{m.From, m.Round, reason} }
	if m.From < 1 || m.From > len(s.Peers) || m.Round < RoundCommit || m.Round > RoundConfirm {
		return fault("no such keyholder or round")
	}
	if m.Ceremony != s.ID {
		return fault("names another ceremony")
	}
	at := slot{m.Round, m.From}
	if before, ok := s.said[at]; ok {
		if !bytes.Equal(before.Body, m.Body) {
			return fault("said two different things")
		}
		return nil // a restart may repeat itself
	}
	if m.Round != s.round || !slices.Contains(s.expected(), m.From) {
		return fault(fmt.Sprintf("spoke out of turn, in round %d", s.round))
	}
	if len(m.Body) > MaxBody {
		return fault("body too large")
	}
	s.said[at] = m
	if err := s.take(m); err != nil {
		return err
	}
	return s.advance()
}

func (s *state) take(m Message) error {
	switch m.Round {
	case RoundCommit:
		s.takeCommit(m.From, m.Body)
	case RoundOpen:
		s.takeOpening(m.From, m.Body)
	case RoundDeal:
		s.takeDeal(m.From, m.Body)
	case RoundVerdict:
		return s.takeVerdict(m.From, m.Body)
	case RoundJustify:
		s.takeJustification(m.From, m.Body)
	case RoundConfirm:
		return s.takeConfirmation(m.From, m.Body)
	}
	return nil
}

// expected returns who speaks in the current round, ascending.
func (s *state) expected() []int {
	switch s.round {
	case RoundOpen:
		return slices.Sorted(maps.Keys(s.commits))
	case RoundDeal:
		return slices.Sorted(maps.Keys(s.commitments))
	case RoundJustify:
		return slices.Sorted(maps.Keys(s.accusers))
	}
	all := make([]int, len(s.Peers))
	for i := range all {
		all[i] = i + 1
	}
	return all
}

func (s *state) waiting() []int {
	return slices.DeleteFunc(s.expected(), func(i int) bool {
		_, ok := s.said[slot{s.round, i}]
		return ok
	})
}

func (s *state) status() Status {
	if s.round == done {
		return Status{Excluded: s.excluded}
	}
	return Status{Round: s.round, Waiting: s.waiting(), Excluded: s.excluded}
}

// advance moves to the next round for as long as nobody is left to speak.
func (s *state) advance() error {
	for s.round != done && len(s.waiting()) == 0 {
		switch s.round {
		case RoundVerdict:
			s.weigh()
		case RoundConfirm:
			s.round = done
			return nil
		}
		s.round++
		if s.round == RoundConfirm {
			if err := s.conclude(); err != nil {
				return err
			}
		}
	}
	return nil
}

// exclude leaves a dealer's polynomial out of the key. It stays a keyholder:
// others' polynomials give it its share, and its confirmation is needed.
func (s *state) exclude(dealer, round int, reason string) {
	s.excluded = append(s.excluded, Misbehaviour{dealer, round, reason})
	delete(s.commits, dealer)
	delete(s.commitments, dealer)
	delete(s.deals, dealer)
	delete(s.accusers, dealer)
}

func (s *state) takeCommit(from int, body []byte) {
	var h codec.Hash
	if err := codec.Decode(body, &h); err != nil {
		s.exclude(from, RoundCommit, "malformed commitment")
		return
	}
	s.commits[from] = h
}

// commitment is what round 1 says of round 2's body.
func commitment(ceremony codec.Hash, from int, body []byte) codec.Hash {
	return codec.Sum(labelCommit, ceremony[:], []byte{byte(from)}, body)
}

// possession is the context of a dealer's proof: the proof covers the whole
// opening and is nobody else's.
func possession(ceremony codec.Hash, from int, commitments []Point) []byte {
	h := codec.Sum(labelOpen, ceremony[:], []byte{byte(from)}, codec.Encode(commitments))
	return h[:]
}

func (s *state) takeOpening(from int, body []byte) {
	want := s.commits[from]
	if commitment(s.id, from, body) != want {
		s.exclude(from, RoundOpen, "opening is not what was committed to")
		return
	}
	var o opening
	if err := codec.Decode(body, &o); err != nil || len(o.Commitments) != s.T {
		s.exclude(from, RoundOpen, "malformed opening")
		return
	}
	points := make([]*nistec.P256Point, s.T)
	for k := range points {
		p, err := o.Commitments[k].point()
		if err != nil {
			s.exclude(from, RoundOpen, fmt.Sprintf("commitment %d is no point", k))
			return
		}
		points[k] = p
	}
	if err := verifyPossession(o.Commitments[0], possession(s.id, from, o.Commitments), o.Proof); err != nil {
		s.exclude(from, RoundOpen, "proof of possession does not verify")
		return
	}
	s.commitments[from] = points
}

func (s *state) takeDeal(from int, body []byte) {
	var deal []sealed
	if err := codec.Decode(body, &deal); err != nil || len(deal) != len(s.Peers) {
		s.exclude(from, RoundDeal, "malformed deal")
		return
	}
	s.deals[from] = deal
}

// takeVerdict ends the ceremony at a malformed verdict: there is no reading of
// one that is fair to those accused.
func (s *state) takeVerdict(from int, body []byte) error {
	var accused []int
	if err := codec.Decode(body, &accused); err != nil {
		return &Misbehaviour{from, RoundVerdict, "malformed verdict"}
	}
	for i, dealer := range accused {
		if i > 0 && accused[i-1] >= dealer {
			return &Misbehaviour{from, RoundVerdict, "accusations not in ascending order"}
		}
		if _, ok := s.deals[dealer]; !ok || dealer == from {
			return &Misbehaviour{from, RoundVerdict, fmt.Sprintf("accuses %d, who dealt it nothing", dealer)}
		}
		at, _ := slices.BinarySearch(s.accusers[dealer], from)
		s.accusers[dealer] = slices.Insert(s.accusers[dealer], at, from)
	}
	return nil
}

// weigh excludes dealers that t or more accuse: one of the accusers is honest
// then, and to disclose t shares would disclose the dealer's polynomial.
func (s *state) weigh() {
	for _, dealer := range slices.Sorted(maps.Keys(s.accusers)) {
		if n := len(s.accusers[dealer]); n >= s.T {
			s.exclude(dealer, RoundVerdict, fmt.Sprintf("accused by %d keyholders", n))
		}
	}
}

func (s *state) takeJustification(from int, body []byte) {
	var scalars [][ScalarSize]byte
	accusers := s.accusers[from]
	if err := codec.Decode(body, &scalars); err != nil || len(scalars) != len(accusers) {
		s.exclude(from, RoundJustify, "malformed justification")
		return
	}
	for i, accuser := range accusers {
		if !s.fits(from, accuser, scalars[i][:]) {
			s.exclude(from, RoundJustify, fmt.Sprintf("disclosed a wrong share for %d", accuser))
			return
		}
	}
	for i, accuser := range accusers {
		s.disclosed[edge{from, accuser}] = scalars[i]
	}
}

// fits reports whether scalar is dealer's share for keyholder to.
func (s *state) fits(dealer, to int, scalar []byte) bool {
	got, err := ScalarBaseMult(scalar)
	if err != nil {
		return false
	}
	want, err := encode(evaluateAt(s.commitments[dealer], to))
	return err == nil && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// conclude adds up the polynomials of the dealers in good standing. Fewer than
// t of them could all be one adversary's.
func (s *state) conclude() error {
	if len(s.commitments) < s.T {
		return fmt.Errorf("couldn't form a key: %d dealers left, want at least %d", len(s.commitments), s.T)
	}
	total := make([]*nistec.P256Point, s.T)
	for k := range total {
		total[k] = nistec.NewP256Point()
		for _, c := range s.commitments {
			total[k].Add(total[k], c[k])
		}
	}
	key, err := encode(total[0])
	if err != nil {
		return fmt.Errorf("couldn't form a key: %w", err)
	}
	shares := make([]Point, len(s.Peers))
	for i := range shares {
		if shares[i], err = encode(evaluateAt(total, i+1)); err != nil {
			return fmt.Errorf("couldn't form verification key %d: %w", i+1, err)
		}
	}
	s.key = &PublicKey{T: s.T, Key: key, Shares: shares}
	if err := s.key.Validate(); err != nil {
		return fmt.Errorf("couldn't form a key: %w", err)
	}
	messages := slices.SortedFunc(maps.Values(s.said), func(a, b Message) int {
		return cmp.Or(cmp.Compare(a.Round, b.Round), cmp.Compare(a.From, b.From))
	})
	s.transcript = codec.Sum(labelTranscript, s.id[:], codec.Encode(messages))
	return nil
}

func (s *state) confirmation() []byte {
	return codec.Encode(confirmation{Transcript: s.transcript, Key: *s.key})
}

func (s *state) takeConfirmation(from int, body []byte) error {
	if !bytes.Equal(body, s.confirmation()) {
		return &Misbehaviour{from, RoundConfirm, "confirms another transcript or key"}
	}
	return nil
}
