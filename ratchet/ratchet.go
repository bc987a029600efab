// Package ratchet agrees on a first secret with a device that is away (PQXDH)
// and gives each one-to-one message a key of its own, gone once it is read (the
// Double Ratchet with header encryption): spec/ratchet.md.
//
// PreKeys is what a device holds and publishes, a Bundle what the server hands
// to whoever wants to write to it. A Session is one agreement and what follows
// from it; a Pair is all sessions between two devices, and knows which to send
// on. Most callers need PreKeys and Pair alone.
//
// The package is pure: clock and randomness are parameters, but for the coins of
// ML-KEM's encapsulation, which the standard library draws itself. It pads
// nothing. It doesn't know which devices are valid: whoever calls it looks up
// leaf and key in the control log. Encodings of PreKeys, Session and Pair hold
// private keys; the caller encrypts and stores them, before it sends what they
// gave and in one step with what it read. Its ratchet is not post-quantum
// (spec/ratchet.md#what-an-attacker-gets).
//
// No type is safe for concurrent use.
package ratchet

import (
	"errors"
	"fmt"
	"io"
	"time"

	"chancery/codec"
)

// Bounds of spec/ratchet.md. Sizes are in bytes.
const (
	// MaxPlaintext is the longest plaintext.
	MaxPlaintext = 4 << 20
	// MaxMessage is the longest message that is read.
	MaxMessage = MaxPlaintext + 4096
	// MaxBundle is the longest bundle that is read.
	MaxBundle = 4096
	// MaxSession is the longest encoding of a Session that is read.
	MaxSession = 160 << 10
	// MaxPair is the longest encoding of a Pair that is read.
	MaxPair = (2+MaxRetired)*MaxSession + 4096
	// MaxPreKeys is the longest encoding of PreKeys that is read.
	MaxPreKeys = 512 << 10

	// MaxSkip is how many messages of one chain one message may skip, and how
	// many skipped keys of a chain are held.
	MaxSkip = 1000
	// MaxSkipped is how many skipped keys a session holds.
	MaxSkipped = 2000
	// MaxChains is of how many chains a session holds skipped keys.
	MaxChains = 5
	// MaxLater is how many messages a session reads until it gives up a skipped
	// one.
	MaxLater = 1000
	// SkippedLife is how long a skipped key is held.
	SkippedLife = 7 * 24 * time.Hour

	// PreKeyLife is how long sessions may begin with a prekey.
	PreKeyLife = 90 * 24 * time.Hour
	// PreKeyGrace is how long a private half is held after its prekey expired or
	// was replaced.
	PreKeyGrace = 30 * 24 * time.Hour
	// RotateAfter is the age at which signed and last-resort prekeys should be
	// replaced.
	RotateAfter = 7 * 24 * time.Hour
	// MaxRotated is how many private halves of signed prekeys, and of
	// last-resort ones, are held.
	MaxRotated = 8
	// MaxOneTime is how many private halves of each one-time kind are held.
	MaxOneTime = 200
	// MaxLastResort is how many sessions without a one-time key are accepted
	// under one last-resort prekey.
	MaxLastResort = 1024

	// MaxAhead is how far a peer's clock may be ahead when it begins a session.
	MaxAhead = 10 * time.Minute
	// MaxRetired is how many retired sessions a pair reads.
	MaxRetired = 4
	// RetiredLife is how long a pair reads a retired session.
	RetiredLife = 7 * 24 * time.Hour
)

// version is the first element of every structure.
const version = 1

var (
	// ErrOpen means that a message opens under none of the keys held: forged,
	// damaged, with other associated data, or of a session that isn't held.
	ErrOpen = errors.New("message doesn't open")
	// ErrReplay means that a message's key was used already, or given up.
	ErrReplay = errors.New("message was read already or came too late")
	// ErrTooFar means that a message skips more than MaxSkip others.
	ErrTooFar = errors.New("message skips too many others")
	// ErrPreKey means that an initial message names a prekey whose private half
	// isn't there: never made, used, or erased.
	ErrPreKey = errors.New("no such prekey")
	// ErrExpired means that a bundle's prekey is out of date.
	ErrExpired = errors.New("prekey has expired")
	// ErrDevice means that a structure is about another device than expected.
	ErrDevice = errors.New("another device's")
	// ErrPoint means that an X25519 key is of small order.
	ErrPoint = errors.New("weak agreement key")
	// ErrClock means that an initial message was made too far in the future.
	ErrClock = errors.New("initial message from the future")
	// ErrFull means that a last-resort prekey has begun MaxLastResort sessions:
	// rotate.
	ErrFull = errors.New("last-resort prekey is used up")
	// ErrExhausted means that a chain or a count of prekeys has come to its end.
	ErrExhausted = errors.New("no numbers left")
	// ErrNoSession means that a pair has no session to send on: begin one.
	ErrNoSession = errors.New("no session")
)

// Device is a device as the control log knows it.
type Device struct {
	_    struct{} `cbor:",toarray"`
	Leaf codec.Hash
	Key  codec.PublicKey
}

// Pin is what a message's core says of the archive, part of what its key is
// bound to. Whether it may be so is for the caller.
type Pin struct {
	Policy codec.Hash // control leaf of the policy
	Escrow codec.Hash // control leaf of the escrow key
}

// unmarshal reads a state of at most limit bytes, which check holds to what the
// package itself would write. It returns codec.ErrSize or codec.ErrEncoding,
// wrapped.
func unmarshal(name string, data []byte, limit int, state interface{ check() error }) error {
	if len(data) > limit {
		return fmt.Errorf("couldn't read %s of %d bytes: %w", name, len(data), codec.ErrSize)
	}
	err := codec.Decode(data, state)
	if err == nil {
		err = state.check()
	}
	if err != nil {
		return fmt.Errorf("couldn't read %s: %w", name, err)
	}
	return nil
}

// draw fills b with randomness.
func draw(random io.Reader, b []byte) error {
	if _, err := io.ReadFull(random, b); err != nil {
		return fmt.Errorf("couldn't draw randomness: %w", err)
	}
	return nil
}
