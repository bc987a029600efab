package mls

import (
	"io"
	"math/rand/v2"

	"crypto/sha256"
)

// random returns bytes that look random and depend on the name alone.
func random(name string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(name))) }
