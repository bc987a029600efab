package client

import (
	"errors"

	"chancery/codec"
	"chancery/envelope"
)

// Hooks of tests.

func (d *Device) TestOnlyArchive(f func(record []byte) []byte) { d.testOnlyArchive = f }

func (d *Device) TestOnlyTag(f func(kind envelope.Kind, tag *[envelope.TagSize]byte)) {
	d.testOnlyTag = f
}

// TestOnlyUncertified makes a device speak without a certificate.
func (d *Device) TestOnlyUncertified() { d.testOnlyUncertified = true }

func (d *Device) TestOnlyStep(f func(step string) error) { d.testOnlyStep = f }

// TestOnlyCrash closes the file and nothing else, as the end of the process
// would.
func (d *Device) TestOnlyCrash() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.store.Close()
}

// TestOnlyUnfollowed makes a conversation as a version kept it that wasn't told
// of every leaf.
func (d *Device) TestOnlyUnfollowed(id codec.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put(bucketFollowed, string(id[:]), nil)
	return d.save()
}

// TestOnlyWithoutPairs runs f as on a device that makes groups of two.
func (d *Device) TestOnlyWithoutPairs(f func()) {
	pairs := d.pairs
	d.pairs = nil
	defer func() { d.pairs = pairs }()
	f()
}

// TestOnlyForgetSessions loses the device's sessions with another, as a damaged
// disk would.
func (d *Device) TestOnlyForgetSessions(peer codec.Hash) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.put(bucketRatchet, "pair/"+string(peer[:]), nil)
	return errors.Join(d.save(), d.reload())
}
