package ratchet

import (
	"crypto/mlkem"
	"encoding/binary"
	"fmt"

	"chancery/codec"
)

// headerSize is the length of a header's plaintext: public key, PN, N.
const headerSize = keySize + 4 + 4

// header is what a message says of its place in the ratchet.
type header struct {
	public point
	pn     uint32 // length of the sender's chain before
	n      uint32 // number in this chain
}

func (h *header) encode() []byte {
	out := make([]byte, 0, headerSize)
	out = append(out, h.public[:]...)
	out = binary.BigEndian.AppendUint32(out, h.pn)
	return binary.BigEndian.AppendUint32(out, h.n)
}

func parseHeader(b []byte) header {
	return header{
		public: point(b[:keySize]),
		pn:     binary.BigEndian.Uint32(b[keySize:]),
		n:      binary.BigEndian.Uint32(b[keySize+4:]),
	}
}

// message is a message as it travels.
type message struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Hello      []byte // empty but in initial messages
	Salt       [saltSize]byte
	Header     [headerSize + tagSize]byte
	Ciphertext []byte
}

func parseMessage(data []byte) (*message, error) {
	if len(data) > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes: %w", len(data), codec.ErrSize)
	}
	var m message
	if err := codec.Decode(data, &m); err != nil {
		return nil, fmt.Errorf("couldn't read a message: %w", err)
	}
	if m.Version != version || len(m.Ciphertext) < tagSize || len(m.Ciphertext) > MaxPlaintext+tagSize {
		return nil, fmt.Errorf("message of version %d, %d bytes: %w", m.Version, len(m.Ciphertext), codec.ErrEncoding)
	}
	return &m, nil
}

// session returns the hash that names the session of the hello, zeros without.
func (m *message) session() codec.Hash {
	if len(m.Hello) == 0 {
		return codec.Hash{}
	}
	return sessionOf(m.Hello)
}

func sessionOf(hello []byte) codec.Hash { return codec.Sum("ratchet/hello", hello) }

// aad is what the message's key is bound to (spec/ratchet.md#messages). All
// parts but the last have one length.
func (m *message) aad(parties codec.Hash, pin Pin, ad []byte) []byte {
	bound := codec.Sum("ratchet/ad", parties[:], pin.Policy[:], pin.Escrow[:])
	session := m.session()
	out := make([]byte, 0, 2*codec.HashSize+saltSize+len(m.Header)+len(ad))
	out = append(out, bound[:]...)
	out = append(out, session[:]...)
	out = append(out, m.Salt[:]...)
	out = append(out, m.Header[:]...)
	return append(out, ad...)
}

// hello is what an initiator sends until it is answered (spec/ratchet.md#pqxdh).
type hello struct {
	_          struct{} `cbor:",toarray"`
	Identity   []byte
	Ephemeral  point
	Time       int64  // milliseconds since 1970, UTC
	Seen       int64  // Time of the newest hello of the other's that was accepted
	Signed     uint32 // ids of prekeys
	OneTime    uint32 // 0 where there was none
	KEM        uint32
	Ciphertext [mlkem.CiphertextSize1024]byte
}

func parseHello(data []byte) (*hello, *identity, error) {
	var h hello
	if err := codec.Decode(data, &h); err != nil {
		return nil, nil, fmt.Errorf("couldn't read an initial message: %w", err)
	}
	i, err := parseIdentity(h.Identity)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't read an initial message: %w", err)
	}
	return &h, i, nil
}

// Info is what a message says in clear. None of it is proved until the message
// has been opened.
type Info struct {
	Initial bool       // whether it can begin a session
	Device  codec.Hash // of an initial message: the initiator's leaf
	Session codec.Hash // of an initial message: what names the session
}

// Peek reads what a message says in clear: for finding the device that an
// initial message is said to come from. It returns codec.ErrSize or
// codec.ErrEncoding, wrapped.
func Peek(data []byte) (Info, error) {
	m, err := parseMessage(data)
	if err != nil {
		return Info{}, err
	}
	if len(m.Hello) == 0 {
		return Info{}, nil
	}
	_, i, err := parseHello(m.Hello)
	if err != nil {
		return Info{}, err
	}
	return Info{Initial: true, Device: i.Leaf, Session: m.session()}, nil
}
