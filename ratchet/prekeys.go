package ratchet

import (
	"crypto/mlkem"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"chancery/codec"
)

// half is a prekey's private half.
type half struct {
	_     struct{} `cbor:",toarray"`
	ID    uint32
	Until int64        // when it is erased: milliseconds since 1970, UTC
	Key   []byte       // X25519: 32 bytes; ML-KEM-1024: its 64-byte seed
	Seen  []codec.Hash // of a last-resort one: the sessions begun with it alone
}

func (h *half) erase() { clear(h.Key) }

// PreKeys is a device's agreement key and the private halves of its prekeys
// (spec/ratchet.md#prekeys).
type PreKeys struct {
	state preKeysState
}

type preKeysState struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Self       Device
	Agreement  secret
	Identity   []byte // the signed agreement key
	Next       uint32 // the next prekey's id
	Signed     []half // each list in the order of its ids
	LastResort []half
	OneTime    []half
	KEM        []half
}

// NewPreKeys makes a device's agreement key, from 32 bytes of random. There are
// no prekeys yet: call Rotate and Generate. It returns ErrDevice where the signer
// isn't self's.
func NewPreKeys(self Device, signer codec.Signer, random io.Reader) (*PreKeys, error) {
	if signer.PublicKey() != self.Key {
		return nil, fmt.Errorf("signer: %w", ErrDevice)
	}
	p := &PreKeys{preKeysState{Version: version, Self: self, Next: 1}}
	private, err := p.state.Agreement.newPrivate(random)
	if err != nil {
		return nil, err
	}
	body := identityBody{Version: version, Leaf: self.Leaf, Key: publicOf(private)}
	if p.state.Identity, err = sign(signer, labelIdentity, body); err != nil {
		p.Erase()
		return nil, err
	}
	return p, nil
}

// Identity returns the signed agreement key, for publication.
func (p *PreKeys) Identity() []byte { return slices.Clone(p.state.Identity) }

// Device returns whose they are.
func (p *PreKeys) Device() Device { return p.state.Self }

// Rotate makes a signed and a last-resort prekey, from 32 and 64 bytes of random,
// and returns them for publication. Those before can be used for PreKeyGrace
// more. It changes nothing where it fails.
func (p *PreKeys) Rotate(signer codec.Signer, now time.Time, random io.Reader) (signed, lastResort []byte, err error) {
	m := maker{p, signer, now, random, p.state.Next}
	s, signed, err := m.make(kindSigned)
	if err != nil {
		return nil, nil, err
	}
	l, lastResort, err := m.make(kindLastResort)
	if err != nil {
		s.erase()
		return nil, nil, err
	}
	p.state.Next = m.next
	p.state.Signed = rotate(p.state.Signed, s, now)
	p.state.LastResort = rotate(p.state.LastResort, l, now)
	return signed, lastResort, nil
}

// rotate adds a half and shortens the life of those before it.
func rotate(held []half, h half, now time.Time) []half {
	end := now.Add(PreKeyGrace).UnixMilli()
	for i := range held {
		held[i].Until = min(held[i].Until, end)
	}
	return keepNewest(append(held, h), MaxRotated)
}

// keepNewest erases all but the last n.
func keepNewest(held []half, n int) []half {
	over := max(0, len(held)-n)
	for i := range over {
		held[i].erase()
	}
	return slices.Delete(held, 0, over)
}

// NeedsRotation reports whether there is no signed prekey younger than
// RotateAfter, or the last-resort prekey has begun half of what it may.
func (p *PreKeys) NeedsRotation(now time.Time) bool {
	n := len(p.state.Signed)
	if n == 0 || len(p.state.LastResort) == 0 {
		return true
	}
	age := PreKeyLife + PreKeyGrace - RotateAfter
	last := p.state.LastResort[len(p.state.LastResort)-1]
	return now.Add(age).UnixMilli() >= p.state.Signed[n-1].Until || len(last.Seen) >= MaxLastResort/2
}

// Generate makes n one-time prekeys of each kind, at most MaxOneTime, and returns
// them for publication. It takes 32 + 64 bytes of random for each. Where more
// than MaxOneTime of a kind would be held the oldest are erased. It changes
// nothing where it fails.
func (p *PreKeys) Generate(signer codec.Signer, now time.Time, random io.Reader, n int) (oneTime, kem [][]byte, err error) {
	if n < 0 || n > MaxOneTime {
		return nil, nil, fmt.Errorf("%d one-time prekeys: %w", n, codec.ErrSize)
	}
	m := maker{p, signer, now, random, p.state.Next}
	var made [2][]half
	for range n {
		for i, k := range []kind{kindOneTime, kindKEM} {
			h, public, err := m.make(k)
			if err != nil {
				keepNewest(made[0], 0)
				keepNewest(made[1], 0)
				return nil, nil, err
			}
			made[i] = append(made[i], h)
			if k == kindOneTime {
				oneTime = append(oneTime, public)
			} else {
				kem = append(kem, public)
			}
		}
	}
	p.state.Next = m.next
	p.state.OneTime = keepNewest(append(p.state.OneTime, made[0]...), MaxOneTime)
	p.state.KEM = keepNewest(append(p.state.KEM, made[1]...), MaxOneTime)
	return oneTime, kem, nil
}

// maker makes prekeys, with ids from next on.
type maker struct {
	p      *PreKeys
	signer codec.Signer
	now    time.Time
	random io.Reader
	next   uint32
}

// make returns a private half and the signed prekey.
func (m *maker) make(k kind) (half, []byte, error) {
	if m.signer.PublicKey() != m.p.state.Self.Key {
		return half{}, nil, fmt.Errorf("signer: %w", ErrDevice)
	}
	if m.next == math.MaxUint32 {
		return half{}, nil, ErrExhausted
	}
	key, public, err := generate(k, m.random)
	if err != nil {
		return half{}, nil, err
	}
	expires := m.now.Add(PreKeyLife)
	statement, err := sign(m.signer, labelPreKey, preKeyBody{
		Version: version, Leaf: m.p.state.Self.Leaf, Kind: k, ID: m.next, Expires: expires.UnixMilli(), Public: public,
	})
	if err != nil {
		clear(key)
		return half{}, nil, err
	}
	m.next++
	return half{ID: m.next - 1, Until: expires.Add(PreKeyGrace).UnixMilli(), Key: key}, statement, nil
}

// generate draws a key pair of a kind.
func generate(k kind, random io.Reader) (private, public []byte, err error) {
	if k.size() == keySize {
		var s secret
		defer s.erase()
		key, err := s.newPrivate(random)
		if err != nil {
			return nil, nil, err
		}
		p := publicOf(key)
		return slices.Clone(s[:]), p[:], nil
	}
	seed := make([]byte, mlkem.SeedSize)
	if err := draw(random, seed); err != nil {
		return nil, nil, err
	}
	d, err := mlkem.NewDecapsulationKey1024(seed)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make an ML-KEM key: %w", err)
	}
	return seed, d.EncapsulationKey().Bytes(), nil
}

// Expire erases private halves whose time has come. A caller that calls it daily
// keeps the promise of spec/ratchet.md#prekeys.
func (p *PreKeys) Expire(now time.Time) {
	for _, list := range p.state.lists() {
		*list = slices.DeleteFunc(*list, func(h half) bool {
			if now.UnixMilli() < h.Until {
				return false
			}
			h.erase()
			return true
		})
	}
}

func (s *preKeysState) lists() []*[]half {
	return []*[]half{&s.Signed, &s.LastResort, &s.OneTime, &s.KEM}
}

// find returns the half of an id, nil where it isn't held or its time is over.
func find(held []half, id uint32, now time.Time) *half {
	i := slices.IndexFunc(held, func(h half) bool { return h.ID == id && now.UnixMilli() < h.Until })
	if i < 0 {
		return nil
	}
	return &held[i]
}

// remove erases the half of an id, where it is held.
func remove(held []half, id uint32) []half {
	return slices.DeleteFunc(held, func(h half) bool {
		if h.ID == id {
			h.erase()
		}
		return h.ID == id
	})
}

// Erase overwrites all private keys.
func (p *PreKeys) Erase() {
	p.state.Agreement.erase()
	for _, list := range p.state.lists() {
		*list = keepNewest(*list, 0)
	}
}

// String hides the keys from logs and error texts.
func (p *PreKeys) String() string { return "prekeys" }

// GoString hides the keys from logs and error texts.
func (p *PreKeys) GoString() string { return "prekeys" }

// Marshal returns p's canonical encoding, which holds its private keys.
func (p *PreKeys) Marshal() []byte { return codec.Encode(p.state) }

// UnmarshalPreKeys reads what Marshal wrote. It returns codec.ErrSize or
// codec.ErrEncoding, wrapped.
func UnmarshalPreKeys(data []byte) (*PreKeys, error) {
	p := &PreKeys{}
	if err := unmarshal("prekeys", data, MaxPreKeys, &p.state); err != nil {
		return nil, err
	}
	return p, nil
}

// check holds the state to what the package itself would write.
func (s *preKeysState) check() error {
	i, err := parseIdentity(s.Identity)
	if err != nil {
		return err
	}
	if err := i.verify(s.Self); err != nil {
		return fmt.Errorf("%w: %v", codec.ErrEncoding, err)
	}
	if s.Version != version || s.Next == 0 {
		return codec.ErrEncoding
	}
	for j, list := range s.lists() {
		size, bound, seen := keySize, MaxRotated, 0
		if j%2 == 1 {
			size = mlkem.SeedSize
		}
		if j >= 2 {
			bound = MaxOneTime
		}
		if list == &s.LastResort {
			seen = MaxLastResort
		}
		if err := checkHalves(*list, s.Next, size, bound, seen); err != nil {
			return err
		}
	}
	return nil
}

func checkHalves(held []half, next uint32, size, bound, seen int) error {
	if len(held) > bound {
		return codec.ErrEncoding
	}
	last := uint32(0)
	for _, h := range held {
		if h.ID <= last || h.ID >= next || len(h.Key) != size || len(h.Seen) > seen {
			return codec.ErrEncoding
		}
		last = h.ID
	}
	return nil
}
