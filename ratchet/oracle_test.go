package ratchet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"chancery/codec"
)

// paper is the ratchet as Signal's paper writes it down, with nothing of this
// package but the encoding: no bounds, no erasure, keys of skipped messages kept
// for ever. It shows that the package computes what spec/ratchet.md says.
type paper struct {
	parties, session []byte
	dhs              *ecdh.PrivateKey
	dhr              []byte
	rk, cks, ckr     []byte
	hks, hkr         []byte
	nhks, nhkr       []byte
	ns, nr, pn       uint32
	skipped          map[paperKey][]byte
}

type paperKey struct {
	hk string
	n  uint32
}

func paperMAC(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

func paperExpand(prk []byte, info string, size int) []byte {
	var out, block []byte
	for i := byte(1); len(out) < size; i++ {
		block = paperMAC(prk, block, []byte(info), []byte{i})
		out = append(out, block...)
	}
	return out[:size]
}

func paperHash(label string, parts ...[]byte) []byte {
	h := sha256.New()
	h.Write([]byte("chancery/" + label + "/v1\x00"))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func paperDH(private *ecdh.PrivateKey, public []byte) []byte {
	p, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		panic(err)
	}
	out, err := private.ECDH(p)
	if err != nil {
		panic(err)
	}
	return out
}

func paperKeyOf(private []byte) *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		panic(err)
	}
	return k
}

func paperAEAD(key []byte, info string, salt []byte) (cipher.AEAD, []byte) {
	okm := paperExpand(key, info+string(salt), 44)
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead, okm[32:]
}

func (p *paper) kdfRK() (ck, nhk []byte) {
	okm := paperExpand(paperMAC(p.rk, paperDH(p.dhs, p.dhr)), "chancery/ratchet/v1 root", 96)
	p.rk = okm[:32]
	return okm[32:64], okm[64:]
}

// paperInitial are the secrets of PQXDH, from the responder's private keys.
type paperInitial struct {
	parties, session, transcript []byte
	dh                           [][]byte
	shared                       []byte
	sk, hk, nhk                  []byte
}

// paperAccept derives them for a hello. oneTime is nil where there was none.
func paperAccept(t testing.TB, from, to Device, helloBytes []byte, ik, spk, oneTime, kemSeed []byte) *paperInitial {
	t.Helper()
	h, i, err := parseHello(helloBytes)
	if err != nil {
		t.Fatal(err)
	}
	mine, signed := paperKeyOf(ik), paperKeyOf(spk)
	kem, err := mlkem.NewDecapsulationKey1024(kemSeed)
	if err != nil {
		t.Fatal(err)
	}
	out := &paperInitial{
		parties: paperHash("ratchet/parties", from.Leaf[:], from.Key[:], i.Key[:], to.Leaf[:], to.Key[:], mine.PublicKey().Bytes()),
		session: paperHash("ratchet/hello", helloBytes),
		dh:      [][]byte{paperDH(signed, i.Key[:]), paperDH(mine, h.Ephemeral[:]), paperDH(signed, h.Ephemeral[:])},
	}
	opk := make([]byte, 32)
	if oneTime != nil {
		k := paperKeyOf(oneTime)
		opk = k.PublicKey().Bytes()
		out.dh = append(out.dh, paperDH(k, h.Ephemeral[:]))
	}
	if out.shared, err = kem.Decapsulate(h.Ciphertext[:]); err != nil {
		t.Fatal(err)
	}
	out.transcript = paperHash("ratchet/transcript", out.parties, out.session, signed.PublicKey().Bytes(), opk, kem.EncapsulationKey().Bytes())
	ikm := slices.Repeat([]byte{0xff}, 32)
	for _, s := range append(slices.Clone(out.dh), out.shared) {
		ikm = append(ikm, s...)
	}
	okm := paperExpand(paperMAC(make([]byte, 32), ikm), "chancery/ratchet/v1 pqxdh"+string(out.transcript), 96)
	out.sk, out.hk, out.nhk = okm[:32], okm[32:64], okm[64:]
	return out
}

// responder is RatchetInitBobHE.
func (i *paperInitial) responder(spk []byte) *paper {
	return &paper{
		parties: i.parties, session: i.session, dhs: paperKeyOf(spk), rk: i.sk, nhkr: i.hk, nhks: i.nhk,
		skipped: map[paperKey][]byte{},
	}
}

func (p *paper) encrypt(pin Pin, ad, plaintext, salt []byte) []byte {
	mk := paperMAC(p.cks, []byte{1})
	p.cks = paperMAC(p.cks, []byte{2})
	plain := slices.Clone(p.dhs.PublicKey().Bytes())
	plain = binary.BigEndian.AppendUint32(plain, p.pn)
	plain = binary.BigEndian.AppendUint32(plain, p.ns)
	p.ns++
	aead, nonce := paperAEAD(p.hks, "chancery/ratchet/v1 header", salt)
	header := aead.Seal(nil, nonce, plain, p.parties)
	aead, nonce = paperAEAD(mk, "chancery/ratchet/v1 message", salt)
	body := aead.Seal(nil, nonce, plaintext, p.aad(pin, nil, salt, header, ad))
	return codec.Encode([]any{1, []byte{}, salt, header, body})
}

func (p *paper) aad(pin Pin, hello, salt, header, ad []byte) []byte {
	named := make([]byte, 32)
	if len(hello) > 0 {
		named = p.session
	}
	return slices.Concat(paperHash("ratchet/ad", p.parties, pin.Policy[:], pin.Escrow[:]), named, salt, header, ad)
}

var errPaper = errors.New("doesn't open")

func paperOpen(key []byte, info string, salt, ciphertext, aad []byte) []byte {
	if key == nil {
		return nil
	}
	aead, nonce := paperAEAD(key, info, salt)
	out, err := aead.Open([]byte{}, nonce, ciphertext, aad)
	if err != nil {
		return nil
	}
	return out
}

// decrypt is RatchetDecryptHE. fresh is the key pair to turn to.
func (p *paper) decrypt(pin Pin, ad, data, fresh []byte) (header, key, plaintext []byte, err error) {
	var m struct {
		_                              struct{} `cbor:",toarray"`
		Version                        int
		Hello, Salt, Header, Encrypted []byte
	}
	if err := codec.Decode(data, &m); err != nil {
		return nil, nil, nil, err
	}
	aad := p.aad(pin, m.Hello, m.Salt, m.Header, ad)
	finish := func(header, mk []byte) ([]byte, []byte, []byte, error) {
		out := paperOpen(mk, "chancery/ratchet/v1 message", m.Salt, m.Encrypted, aad)
		if out == nil {
			return nil, nil, nil, errPaper
		}
		return header, mk, out, nil
	}
	for k, mk := range p.skipped {
		h := paperOpen([]byte(k.hk), "chancery/ratchet/v1 header", m.Salt, m.Header, p.parties)
		if h != nil && binary.BigEndian.Uint32(h[36:]) == k.n {
			delete(p.skipped, k)
			return finish(h, mk)
		}
	}
	h := paperOpen(p.hkr, "chancery/ratchet/v1 header", m.Salt, m.Header, p.parties)
	if h == nil {
		if h = paperOpen(p.nhkr, "chancery/ratchet/v1 header", m.Salt, m.Header, p.parties); h == nil {
			return nil, nil, nil, errPaper
		}
		p.skip(binary.BigEndian.Uint32(h[32:]))
		p.pn, p.ns, p.nr = p.ns, 0, 0
		p.hks, p.hkr, p.dhr = p.nhks, p.nhkr, h[:32]
		p.ckr, p.nhkr = p.kdfRK()
		p.dhs = paperKeyOf(fresh)
		p.cks, p.nhks = p.kdfRK()
	}
	p.skip(binary.BigEndian.Uint32(h[36:]))
	mk := paperMAC(p.ckr, []byte{1})
	p.ckr = paperMAC(p.ckr, []byte{2})
	p.nr++
	return finish(h, mk)
}

func (p *paper) skip(until uint32) {
	for p.ckr != nil && p.nr < until {
		p.skipped[paperKey{string(p.hkr), p.nr}] = paperMAC(p.ckr, []byte{1})
		p.ckr = paperMAC(p.ckr, []byte{2})
		p.nr++
	}
}

// paperResponder answers an initiator with the paper's own state.
func paperResponder(t testing.TB, alice, bob *node, data []byte) *paper {
	t.Helper()
	m, err := parseMessage(data)
	if err != nil {
		t.Fatal(err)
	}
	s := &bob.pre.state
	spk := s.Signed[0].Key
	return paperAccept(t, alice.device, bob.device, m.Hello, s.Agreement[:], spk, s.OneTime[0].Key, s.KEM[0].Key).responder(spk)
}

// TestPaper talks with the paper's ratchet at the other end, in random order.
func TestPaper(t *testing.T) {
	for seed := range uint64(20) {
		alice, bob := newNode(t, "alice", 0), newNode(t, "bob", 1)
		a := begin(t, alice, bob)
		first := encrypt(t, a, "first")
		b := paperResponder(t, alice, bob, first)
		rng := rand.New(rand.NewPCG(seed, 1))
		bytesOf := func(n int) []byte {
			out := make([]byte, n)
			for i := range out {
				out[i] = byte(rng.Uint32())
			}
			return out
		}
		if _, _, out, err := b.decrypt(testPin, []byte("ad"), first, bytesOf(32)); err != nil || string(out) != "first" {
			t.Fatalf("the paper doesn't read the package's initial message: %v", err)
		}
		var toA, toB [][]byte
		take := func(q *[][]byte) []byte {
			i := rng.IntN(min(3, len(*q))) // near enough for the package's bounds
			data := (*q)[i]
			*q = slices.Delete(*q, i, i+1)
			return data
		}
		for i := range 200 {
			text := numbered(i)
			switch n := rng.IntN(4); {
			case n == 0:
				toB = append(toB, encrypt(t, a, text))
			case n == 1:
				toA = append(toA, b.encrypt(testPin, []byte("ad"), []byte(text), bytesOf(16)))
			case n == 2 && len(toA) > 0:
				if _, err := decrypt(a, take(&toA)); err != nil {
					t.Fatalf("seed %d, step %d: the package doesn't read the paper: %v", seed, i, err)
				}
			case n == 3 && len(toB) > 0:
				if _, _, _, err := b.decrypt(testPin, []byte("ad"), take(&toB), bytesOf(32)); err != nil {
					t.Fatalf("seed %d, step %d: the paper doesn't read the package: %v", seed, i, err)
				}
			}
		}
	}
}
