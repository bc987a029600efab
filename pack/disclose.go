package pack

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/mlkem"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/request"
)

const (
	sharedSize = 32
	keySize    = mlkem.EncapsulationKeySize768 + 32
	encSize    = mlkem.CiphertextSize768 + 32
)

// Disclose returns what opens one sealed answer and nothing else: the shared
// secrets, 32 bytes each, of its ML-KEM-768 and X25519 encapsulations. A wrong
// answer is shown to outsiders by them, while the opener's keys stay secret and
// are destroyed.
func Disclose(pq crypto.Decapsulator, t ecdh.KeyExchanger, answer []byte) ([2 * sharedSize]byte, error) {
	var out [2 * sharedSize]byte
	a, err := parseAnswer(answer)
	if err != nil {
		return out, err
	}
	remote, err := ecdh.X25519().NewPublicKey(a.Sealed[mlkem.CiphertextSize768:encSize])
	if err != nil {
		return out, fmt.Errorf("couldn't read the answer's encapsulation: %w", err)
	}
	ss, err := pq.Decapsulate(a.Sealed[:mlkem.CiphertextSize768])
	if err != nil {
		return out, fmt.Errorf("couldn't decapsulate the answer: %w", err)
	}
	dh, err := t.ECDH(remote)
	if err != nil {
		return out, fmt.Errorf("couldn't open the answer: %w", err)
	}
	copy(out[:sharedSize], ss)
	copy(out[sharedSize:], dh)
	clear(ss)
	clear(dh)
	return out, nil
}

func parseAnswer(answer []byte) (*request.Answer, error) {
	payload, err := codec.PeekUnverifiedPayload(answer)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the answer: %w", err)
	}
	var a request.Answer
	if err := codec.Decode(payload, &a); err != nil {
		return nil, fmt.Errorf("couldn't read the answer: %w", err)
	}
	if len(a.Sealed) < encSize {
		return nil, fmt.Errorf("%w: answer of %d sealed bytes", ErrMalformed, len(a.Sealed))
	}
	return &a, nil
}

// OpenDisclosed verifies a holder's signature on an answer and opens it with the
// secrets that Disclose returned. That it opens shows that they are the right
// ones: the holder fixed the ciphertext, and to find other secrets under which
// it is authentic is to forge AES-256-GCM.
func OpenDisclosed(holder codec.PublicKey, opener *control.Opener, answer []byte, secrets *[2 * sharedSize]byte) (*request.Answer, *request.Parts, error) {
	a, err := parseAnswer(answer)
	if err != nil {
		return nil, nil, err
	}
	if len(opener.Encrypt) != keySize {
		return nil, nil, fmt.Errorf("%w: opener's key of %d bytes", ErrMalformed, len(opener.Encrypt))
	}
	ek, err := mlkem.NewEncapsulationKey768(opener.Encrypt[:mlkem.EncapsulationKeySize768])
	if err != nil {
		return nil, nil, fmt.Errorf("the opener's ML-KEM key: %w", err)
	}
	public, err := ecdh.X25519().NewPublicKey(opener.Encrypt[mlkem.EncapsulationKeySize768:])
	if err != nil {
		return nil, nil, fmt.Errorf("the opener's X25519 key: %w", err)
	}
	d := &disclosed{ek: ek, public: public, enc: a.Sealed[:encSize], secrets: secrets}
	key, err := hpke.NewHybridPrivateKey(d, (*exchange)(d))
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make a key of what was disclosed: %w", err)
	}
	return request.OpenAnswer(holder, key, opener.Request, answer)
}

// disclosed stands for the opener's private keys, for one encapsulation.
type disclosed struct {
	ek      *mlkem.EncapsulationKey768
	public  *ecdh.PublicKey
	enc     []byte
	secrets *[2 * sharedSize]byte
}

var (
	_ crypto.Decapsulator = (*disclosed)(nil)
	_ ecdh.KeyExchanger   = (*exchange)(nil)
)

func (d *disclosed) Encapsulator() crypto.Encapsulator { return d.ek }

func (d *disclosed) Decapsulate(ciphertext []byte) ([]byte, error) {
	if !bytes.Equal(ciphertext, d.enc[:mlkem.CiphertextSize768]) {
		return nil, fmt.Errorf("%w: disclosed for another answer", ErrMalformed)
	}
	return bytes.Clone(d.secrets[:sharedSize]), nil
}

type exchange disclosed

func (d *exchange) PublicKey() *ecdh.PublicKey { return d.public }
func (d *exchange) Curve() ecdh.Curve          { return ecdh.X25519() }

func (d *exchange) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	if !bytes.Equal(remote.Bytes(), d.enc[mlkem.CiphertextSize768:]) {
		return nil, fmt.Errorf("%w: disclosed for another answer", ErrMalformed)
	}
	return bytes.Clone(d.secrets[sharedSize:]), nil
}
