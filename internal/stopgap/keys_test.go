package stopgap_test

import (
	"crypto/ed25519"

	"chancery/codec"
)

func ed25519Key(k *codec.PrivateKey) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.Seed()) }

func pub(k *codec.PrivateKey) []byte { p := k.PublicKey(); return p[:] }
