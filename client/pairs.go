package client

import (
	"errors"

	"chancery/codec"
	"chancery/internal/wire"
)

// Errors of Pairs, which a device tells apart.
var (
	// ErrNoSession means that there is no session with a device to send on.
	ErrNoSession = errors.New("no session with this device")
	// ErrLost means that a message opens under no session with its sender, and
	// that a new session is due: the device lost its side, or its state. What is
	// said next begins it.
	ErrLost = errors.New("the session with this device is lost")
)

// Peer is another device, as the control log knows it.
type Peer struct {
	Device codec.Hash // its control leaf
	Key    codec.PublicKey
}

// Pin is what a message's header says of the archive, which the sessions bind
// each message to.
type Pin struct {
	Policy, Escrow codec.Hash // control leaves
}

// Pairs is the one-to-one sessions of one device with others, and its prekeys
// (spec/ratchet.md), behind operations: no key leaves it. Which devices are
// valid, its caller knows.
//
// No method changes what is on disk: Changes hands over what has to be written
// before the result of a method is acted on. A method that returns an error has
// changed nothing, unless it says otherwise. An implementation need not be safe
// for concurrent use.
type Pairs interface {
	// Restock returns the prekeys to publish, nil where none are needed: an
	// upload that was not Confirmed, or a new one where what the server has left
	// is half of want or less, or too old.
	Restock(left *wire.PreKeyStock, want int) (*wire.PreKeys, error)
	// Confirmed forgets the upload that the server has taken.
	Confirmed() error
	// Ready reports whether there is a session to send on, and whether a new one
	// is to begin before that.
	Ready(peer Peer) (ready, renew bool, err error)
	// Begin begins a session by a device's bundle (spec/ratchet.md#bundle), to
	// send on from now on. A bundle that isn't the peer's in every part, or that is
	// out of date, is refused.
	Begin(peer Peer, bundle []byte) error
	// Encrypt returns a message for the peer, bound to pin and ad. The key is
	// spent even if it is never sent. It returns ErrNoSession.
	Encrypt(peer Peer, pin Pin, ad, plaintext []byte) ([]byte, error)
	// Decrypt opens a message of the peer. It returns ErrReplay, and ErrLost once
	// for each new session that is due; what it then notes is among the Changes.
	Decrypt(peer Peer, pin Pin, ad, message []byte) ([]byte, error)
	// Changes returns what has changed since it was last called, for one durable
	// write. Names are unique to the device and values secret.
	Changes() ([]Change, error)
	// Revert forgets all that was not written, after a write that failed.
	Revert()
}

// NewPairs makes the one-to-one sessions of a device from its signer and what is
// stored.
type NewPairs func(device codec.Hash, signer codec.Signer, stored Stored) (Pairs, error)
