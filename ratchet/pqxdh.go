package ratchet

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"fmt"
	"io"
	"slices"
	"time"

	"chancery/codec"
)

// party is one side of a session.
type party struct {
	device Device
	key    point // its agreement key
}

// partiesOf binds both sides, the initiator first.
func partiesOf(a, b party) codec.Hash {
	return codec.Sum("ratchet/parties", a.device.Leaf[:], a.device.Key[:], a.key[:], b.device.Leaf[:], b.device.Key[:], b.key[:])
}

// agreement is what both sides know when a session begins.
type agreement struct {
	parties codec.Hash
	session codec.Hash
	signed  point
	oneTime point // zeros without
	kem     []byte

	dh1, dh2, dh3, dh4 secret
	withOneTime        bool
	shared             []byte // of the KEM
}

func (a *agreement) erase() {
	erase(&a.dh1, &a.dh2, &a.dh3, &a.dh4)
	clear(a.shared)
}

func (a *agreement) transcript() codec.Hash {
	return codec.Sum("ratchet/transcript", a.parties[:], a.session[:], a.signed[:], a.oneTime[:], a.kem)
}

// keys derives the root key, the initiator's header key and the responder's next
// one. The 32 bytes of ff are X3DH's, which no agreement's result looks like.
func (a *agreement) keys() (root, header, next secret, err error) {
	ikm := make([]byte, 0, 6*keySize)
	ikm = append(ikm, bytes.Repeat([]byte{0xff}, keySize)...)
	ikm = append(ikm, a.dh1[:]...)
	ikm = append(ikm, a.dh2[:]...)
	ikm = append(ikm, a.dh3[:]...)
	if a.withOneTime {
		ikm = append(ikm, a.dh4[:]...)
	}
	ikm = append(ikm, a.shared...)
	defer clear(ikm)
	t := a.transcript()
	return derive3(ikm, make([]byte, keySize), infoAgree+string(t[:]))
}

// encapsulate is ML-KEM's, which takes its coins from the system. Known answers
// replace it.
type encapsulate func(*mlkem.EncapsulationKey1024) (shared, ciphertext []byte)

// Initiate begins a session with remote, by its bundle, from 64 bytes of random
// and the system's for ML-KEM. The session's messages carry what remote needs to
// accept it, until one of remote's was read. It returns the errors of
// Bundle.Verify, codec.ErrEncoding, ErrPoint, and ErrDevice where remote is self.
func Initiate(self *PreKeys, remote Device, bundle *Bundle, now time.Time, random io.Reader) (*Session, error) {
	return initiate(self, remote, bundle, now, stamp{at: now.UnixMilli()}, random, (*mlkem.EncapsulationKey1024).Encapsulate)
}

// stamp orders a session among those of a pair.
type stamp struct{ at, seen int64 }

// initiate gives the session a stamp of its caller's choice.
func initiate(self *PreKeys, remote Device, bundle *Bundle, now time.Time, order stamp, random io.Reader, kem encapsulate) (*Session, error) {
	mine, err := self.side(remote)
	if err != nil {
		return nil, err
	}
	if err := bundle.Verify(remote, now); err != nil {
		return nil, err
	}
	key, err := mlkem.NewEncapsulationKey1024(bundle.kem.Public)
	if err != nil {
		return nil, fmt.Errorf("prekey %d: %w", bundle.kem.ID, codec.ErrEncoding)
	}
	var drawn secret
	defer drawn.erase()
	ephemeral, err := drawn.newPrivate(random)
	if err != nil {
		return nil, err
	}
	h := hello{
		Identity: self.state.Identity, Ephemeral: publicOf(ephemeral), Time: order.at, Seen: order.seen,
		Signed: bundle.signed.ID, KEM: bundle.kem.ID,
	}
	a := agreement{
		parties: partiesOf(mine.party, party{remote, bundle.identity.Key}),
		signed:  point(bundle.signed.Public),
		kem:     bundle.kem.Public,
	}
	defer a.erase()
	if bundle.oneTime != nil {
		h.OneTime = bundle.oneTime.ID
		a.withOneTime, a.oneTime = true, point(bundle.oneTime.Public)
	}
	var ciphertext []byte
	a.shared, ciphertext = kem(key)
	h.Ciphertext = [mlkem.CiphertextSize1024]byte(ciphertext)
	if err := a.agreeAsInitiator(mine.private, ephemeral, bundle.identity.Key); err != nil {
		return nil, err
	}
	encoded := codec.Encode(h)
	a.session = sessionOf(encoded)
	return newInitiator(&a, encoded, random)
}

func (a *agreement) agreeAsInitiator(mine, ephemeral *ecdh.PrivateKey, identity point) error {
	pairs := []struct {
		out     *secret
		private *ecdh.PrivateKey
		public  point
	}{
		{&a.dh1, mine, a.signed}, {&a.dh2, ephemeral, identity}, {&a.dh3, ephemeral, a.signed}, {&a.dh4, ephemeral, a.oneTime},
	}
	if !a.withOneTime {
		pairs = pairs[:3]
	}
	for _, p := range pairs {
		var err error
		if *p.out, err = agree(p.private, p.public); err != nil {
			return err
		}
	}
	return nil
}

// own is the own party of a session.
type own struct {
	party
	private *ecdh.PrivateKey
}

// side returns the own party of a session with remote. A device doesn't talk to
// itself: its messages could be played back to it.
func (p *PreKeys) side(remote Device) (own, error) {
	if remote.Leaf == p.state.Self.Leaf || remote.Key == p.state.Self.Key {
		return own{}, fmt.Errorf("session with itself: %w", ErrDevice)
	}
	private, err := p.state.Agreement.private()
	if err != nil {
		return own{}, err
	}
	return own{party{p.state.Self, publicOf(private)}, private}, nil
}

// Accepted is what Accept gives.
type Accepted struct {
	Session   *Session
	Plaintext []byte
	// Time is when the initiator says that the session began, in milliseconds
	// since 1970, UTC.
	Time int64
	// Seen is the Time of the newest session of this device that the initiator
	// had accepted, 0 for none.
	Seen int64
	// LastResort says that no one-time key was used.
	LastResort bool
}

// Accept begins the session of an initial message of remote, and opens the
// message, with 32 bytes of random. One-time prekeys that it used are erased from
// self, which the caller stores in one step with the session and what it does
// with the plaintext. Where it fails nothing has changed. It returns
// codec.ErrSize or codec.ErrEncoding, ErrDevice or codec.ErrSignature for an
// agreement key that isn't remote's, ErrClock, ErrPreKey, ErrReplay, ErrFull,
// ErrPoint, and what Session.Decrypt returns.
func Accept(self *PreKeys, remote Device, pin Pin, ad, data []byte, now time.Time, random io.Reader) (*Accepted, error) {
	m, err := parseMessage(data)
	if err != nil {
		return nil, err
	}
	return accept(self, remote, pin, ad, m, now, random)
}

func accept(self *PreKeys, remote Device, pin Pin, ad []byte, m *message, now time.Time, random io.Reader) (*Accepted, error) {
	h, theirs, err := parseHello(m.Hello)
	if err != nil {
		return nil, err
	}
	mine, err := self.side(remote)
	if err != nil {
		return nil, err
	}
	if err := theirs.verify(remote); err != nil {
		return nil, err
	}
	if h.Time > now.Add(MaxAhead).UnixMilli() {
		return nil, ErrClock
	}
	used, err := self.used(h, m.session(), now)
	if err != nil {
		return nil, err
	}
	a := agreement{parties: partiesOf(party{remote, theirs.Key}, mine.party), session: m.session()}
	defer a.erase()
	signed := secret(used.signed.Key)
	defer signed.erase()
	if err := a.agreeAsResponder(mine.private, used, theirs.Key, h); err != nil {
		return nil, err
	}
	s, err := newResponder(&a, signed)
	if err != nil {
		return nil, err
	}
	plaintext, err := s.open(m, pin, ad, now, random)
	if err != nil {
		s.Erase()
		return nil, err
	}
	self.consume(h, a.session, used)
	return &Accepted{Session: s, Plaintext: plaintext, Time: h.Time, Seen: h.Seen, LastResort: used.lastResort()}, nil
}

// halves are the private halves that an initial message used.
type halves struct {
	signed  *half
	oneTime *half // nil without
	kem     *half
	last    bool // whether kem is a last-resort one
}

func (u *halves) lastResort() bool { return u.last && u.oneTime == nil }

// used finds the private halves of a hello. It returns ErrPreKey, ErrReplay or
// ErrFull.
func (p *PreKeys) used(h *hello, session codec.Hash, now time.Time) (*halves, error) {
	u := &halves{signed: find(p.state.Signed, h.Signed, now), kem: find(p.state.KEM, h.KEM, now)}
	if u.kem == nil {
		u.kem, u.last = find(p.state.LastResort, h.KEM, now), true
	}
	if h.OneTime != 0 {
		u.oneTime = find(p.state.OneTime, h.OneTime, now)
	}
	if u.signed == nil || u.kem == nil || (h.OneTime != 0 && u.oneTime == nil) {
		return nil, ErrPreKey
	}
	if !u.lastResort() {
		return u, nil
	}
	if slices.Contains(u.kem.Seen, session) {
		return nil, ErrReplay
	}
	if len(u.kem.Seen) >= MaxLastResort {
		return nil, ErrFull
	}
	return u, nil
}

// consume erases what can be used once, and remembers the session where nothing
// was.
func (p *PreKeys) consume(h *hello, session codec.Hash, u *halves) {
	if u.lastResort() {
		u.kem.Seen = append(u.kem.Seen, session)
		return
	}
	p.state.OneTime = remove(p.state.OneTime, h.OneTime)
	p.state.KEM = remove(p.state.KEM, h.KEM)
}

// agreeAsResponder fills in what the initiator had from the bundle, and the
// secrets.
func (a *agreement) agreeAsResponder(mine *ecdh.PrivateKey, u *halves, identity point, h *hello) error {
	signed, err := u.signed.agreement()
	if err != nil {
		return err
	}
	a.signed = publicOf(signed)
	if a.dh1, err = agree(signed, identity); err != nil {
		return err
	}
	if a.dh2, err = agree(mine, h.Ephemeral); err != nil {
		return err
	}
	if a.dh3, err = agree(signed, h.Ephemeral); err != nil {
		return err
	}
	if u.oneTime != nil {
		oneTime, err := u.oneTime.agreement()
		if err != nil {
			return err
		}
		a.withOneTime, a.oneTime = true, publicOf(oneTime)
		if a.dh4, err = agree(oneTime, h.Ephemeral); err != nil {
			return err
		}
	}
	key, err := mlkem.NewDecapsulationKey1024(u.kem.Key)
	if err != nil {
		return fmt.Errorf("couldn't read an ML-KEM key: %w", err)
	}
	a.kem = key.EncapsulationKey().Bytes()
	if a.shared, err = key.Decapsulate(h.Ciphertext[:]); err != nil {
		return fmt.Errorf("couldn't decapsulate: %w", err)
	}
	return nil
}

// agreement returns an X25519 prekey's private half.
func (h *half) agreement() (*ecdh.PrivateKey, error) {
	s := secret(h.Key)
	defer s.erase()
	return s.private()
}
