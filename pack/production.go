package pack

import (
	"crypto/hpke"
	"fmt"

	"chancery/codec"
)

const (
	infoProduction  = "chancery/production/v1"
	labelProduction = "production"
)

type production struct {
	_      struct{} `cbor:",toarray"`
	Export []byte   // JSON lines
	Body   []byte   // encoded Body
}

// SealProduction seals an export and a pack's body to the recipient's public key
// (MLKEM768-X25519, 1,216 bytes) with HKDF-SHA256 and AES-256-GCM, in HPKE's
// base mode: enc (1,120 bytes) ‖ ciphertext.
func SealProduction(recipient []byte, export, body []byte) ([]byte, error) {
	key, err := hpke.MLKEM768X25519().NewPublicKey(recipient)
	if err != nil {
		return nil, fmt.Errorf("the recipient's key: %w", err)
	}
	plain := codec.Encode(&production{Export: export, Body: body})
	defer clear(plain)
	sealed, err := hpke.Seal(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(infoProduction), plain)
	if err != nil {
		return nil, fmt.Errorf("couldn't seal the production: %w", err)
	}
	return sealed, nil
}

// OpenProduction opens what SealProduction sealed: the export's JSON lines and
// the pack's encoded body, to be assembled with its tail. It checks that the
// lines are the ones that the body names, and nothing else: package verify does.
// It returns ErrMalformed, codec.ErrSize, or an error where the key is another.
func OpenProduction(key hpke.PrivateKey, sealed []byte) (export, body []byte, err error) {
	if len(sealed) > MaxSize {
		return nil, nil, fmt.Errorf("production of %d bytes: %w", len(sealed), codec.ErrSize)
	}
	plain, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(infoProduction), sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't open the production with this key: %w", err)
	}
	var p production
	if err := codec.Decode(plain, &p); err != nil {
		return nil, nil, fmt.Errorf("%w: production: %w", ErrMalformed, err)
	}
	b, err := ParseBody(p.Body)
	if err != nil {
		return nil, nil, err
	}
	if b.Export != ExportHash(p.Export) {
		return nil, nil, fmt.Errorf("%w: the export is not the one that the pack names", ErrMalformed)
	}
	return p.Export, p.Body, nil
}

// ProductionHash returns H("production", sealed), which the opening statement
// names.
func ProductionHash(sealed []byte) codec.Hash { return codec.Sum(labelProduction, sealed) }
