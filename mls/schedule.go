package mls

import (
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// secrets are what an epoch's secret splits into (RFC 9420 §8, table 4), each
// of the suite's hash size. A secret that is no longer needed is nil.
type secrets struct {
	senderData   []byte
	encryption   []byte // becomes the root of the secret tree, and is erased
	exporter     []byte
	external     []byte
	confirmation []byte
	membership   []byte
	resumption   []byte
	authenticate []byte
	init         []byte
}

// joinerSecret is RFC 9420 §8, figure 22, up to what a Welcome carries. context
// is the GroupContext of the new epoch, encoded.
func joinerSecret(s *cipher.Suite, initSecret, commitSecret, context []byte) []byte {
	mixed := s.Extract(initSecret, commitSecret)
	defer clear(mixed)
	return s.ExpandWithLabel(mixed, "joiner", context, s.HashSize())
}

// memberSecret mixes the PSKs into the joiner secret.
func memberSecret(s *cipher.Suite, joiner, psk []byte) []byte { return s.Extract(joiner, psk) }

// welcomeSecret is what encrypts a Welcome's GroupInfo.
func welcomeSecret(s *cipher.Suite, member []byte) []byte { return s.DeriveSecret(member, "welcome") }

// epochSecret is the root of all secrets of the epoch with that GroupContext.
func epochSecret(s *cipher.Suite, member, context []byte) []byte {
	return s.ExpandWithLabel(member, "epoch", context, s.HashSize())
}

func newSecrets(s *cipher.Suite, epochSecret []byte) *secrets {
	return &secrets{
		senderData:   s.DeriveSecret(epochSecret, "sender data"),
		encryption:   s.DeriveSecret(epochSecret, "encryption"),
		exporter:     s.DeriveSecret(epochSecret, "exporter"),
		external:     s.DeriveSecret(epochSecret, "external"),
		confirmation: s.DeriveSecret(epochSecret, "confirm"),
		membership:   s.DeriveSecret(epochSecret, "membership"),
		resumption:   s.DeriveSecret(epochSecret, "resumption"),
		authenticate: s.DeriveSecret(epochSecret, "authentication"),
		init:         s.DeriveSecret(epochSecret, "init"),
	}
}

// each calls f with each secret.
func (x *secrets) each(f func(secret *[]byte)) {
	for _, p := range []*[]byte{
		&x.senderData, &x.encryption, &x.exporter, &x.external, &x.confirmation,
		&x.membership, &x.resumption, &x.authenticate, &x.init,
	} {
		f(p)
	}
}

// erase overwrites all secrets.
func (x *secrets) erase() { x.each(erase) }

// retire erases what a past epoch doesn't need to read late messages.
func (x *secrets) retire() {
	x.each(func(p *[]byte) {
		if p != &x.senderData {
			erase(p)
		}
	})
}

func (x *secrets) Encode(b *syntax.Builder) { x.each(func(p *[]byte) { b.Opaque(*p) }) }
func (x *secrets) Decode(r *syntax.Reader)  { x.each(func(p *[]byte) { *p = r.Opaque() }) }

func erase(p *[]byte) {
	clear(*p)
	*p = nil
}

// externalKey is the key pair to which those who join by an external commit
// encapsulate (RFC 9420 §8.3).
func (x *secrets) externalKey(s *cipher.Suite) (*cipher.PrivateKey, error) {
	return s.DeriveKeyPair(x.external)
}

// confirmationTag is RFC 9420 §6.1.
func (x *secrets) confirmationTag(s *cipher.Suite, confirmedTranscriptHash []byte) []byte {
	return s.MAC(x.confirmation, confirmedTranscriptHash)
}

// ErrTooLong means that more bytes were asked for than can be derived, or given
// than can be sent.
var ErrTooLong = errors.New("too many bytes")

// export is MLS-Exporter (RFC 9420 §8.5).
func (x *secrets) export(s *cipher.Suite, label string, context []byte, length int) ([]byte, error) {
	if length < 0 || length > s.MaxExpand() {
		return nil, ErrTooLong
	}
	secret := s.DeriveSecret(x.exporter, label)
	defer clear(secret)
	return s.ExpandWithLabel(secret, "exported", s.Hash(context), length), nil
}

// psk is a pre-shared key and its name.
type psk struct {
	id     tree.PreSharedKeyID
	secret []byte
}

// maxPSKs is how many PSKs one epoch can take: PSKLabel counts them in 16 bits.
const maxPSKs = 1<<16 - 1

// pskSecret is RFC 9420 §8.4: zeros where there are no PSKs.
func pskSecret(s *cipher.Suite, psks []psk) ([]byte, error) {
	if len(psks) > maxPSKs {
		return nil, fmt.Errorf("%d PSKs in one epoch", len(psks))
	}
	secret := make([]byte, s.HashSize())
	for i, p := range psks {
		var label syntax.Builder
		p.id.Encode(&label)
		label.Uint16(uint16(i))
		label.Uint16(uint16(len(psks)))

		extracted := s.Extract(nil, p.secret)
		input := s.ExpandWithLabel(extracted, "derived psk", label.Bytes(), s.HashSize())
		next := s.Extract(input, secret)
		clear(extracted)
		clear(input)
		clear(secret)
		secret = next
	}
	return secret, nil
}

// welcomeKeys returns key and nonce of a Welcome's GroupInfo (RFC 9420
// §12.4.3.1).
func welcomeKeys(s *cipher.Suite, welcome []byte) (key, nonce []byte) {
	return s.ExpandWithLabel(welcome, "key", nil, s.KeySize()), s.ExpandWithLabel(welcome, "nonce", nil, s.NonceSize())
}
