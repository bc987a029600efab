package client

import (
	"errors"

	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/manifest"
)

// Errors of Groups, which a device tells apart.
var (
	// ErrReplay means that a ciphertext's key was used before, and so deleted.
	ErrReplay = errors.New("ciphertext was received before")
	// ErrRemoved means that a commit removes this device from the group.
	ErrRemoved = errors.New("this device is removed from the group")
	// ErrNoGroup means that the device is not, or no longer, in the group.
	ErrNoGroup = errors.New("not in this group")
	// ErrEpoch means that a commit or ciphertext is of an epoch that the group is
	// not in, or whose keys are gone.
	ErrEpoch = errors.New("another epoch than the group's")
	// ErrShutOut means that a commit or Welcome can't be followed with the secrets
	// that this device has, though all that is public of it is right.
	ErrShutOut = errors.New("this device can't follow with the secrets that it has")
	// ErrCredential means that a leaf of the group is not a device of the control
	// log, or not with that device's key.
	ErrCredential = handshake.ErrCredential
)

// Credentials decide by the control log who may be in a group, and what it pins.
// An error keeps the group as it was.
type Credentials = handshake.Credentials

// Groups is the MLS state of one device (RFC 9420), behind operations: no key
// leaves it. A group's id is its conversation's 16 bytes, a leaf's basic
// credential the 32 bytes of the device's control leaf, its signature key the
// device's.
//
// No method changes what is on disk: Changes hands over what has to be written
// before the result of a method is acted on. A method that returns an error has
// changed nothing, unless it says otherwise. An implementation need not be safe
// for concurrent use.
type Groups interface {
	// KeyPackages makes n single-use KeyPackages (RFC 9420 §10), and forgets the
	// oldest of those that no Welcome has used, beyond keep.
	KeyPackages(n, keep int) ([][]byte, error)
	// LastResort makes a KeyPackage that may be used more than once (extension
	// last_resort), where it is time for another one: held says what the server
	// has. It returns nil where it isn't. The private half is kept until its
	// lifetime ends.
	LastResort(held LastResort) ([]byte, error)
	// Create makes a group of one, at epoch 0, which pins the newest archive. The
	// step has no commit.
	Create(conversation codec.ID, check Credentials) (*Step, error)
	// Add stages the commit that adds the devices of KeyPackages, in the place of
	// one staged before. The group lives in its old epoch until Merge. A commit
	// brings what the group pins up to date.
	Add(conversation codec.ID, keyPackages [][]byte, check Credentials) (*Step, error)
	// Remove stages the commit that removes devices, as Add does.
	Remove(conversation codec.ID, devices []codec.Hash, check Credentials) (*Step, error)
	// Renew stages the commit that gives this device new keys and does nothing
	// else, as Add does: whoever had copied the old ones is shut out with it.
	Renew(conversation codec.ID, check Credentials) (*Step, error)
	// Merge enters the epoch of the staged commit.
	Merge(conversation codec.ID) error
	// Discard forgets the staged commit.
	Discard(conversation codec.ID)
	// Join enters a group by its Welcome, which must carry the ratchet tree.
	Join(welcome []byte, check Credentials) (*Epoch, error)
	// Process enters the epoch of another member's commit. It returns ErrEpoch,
	// ErrCredential, or ErrRemoved where the commit, authentic, removes this
	// device: then the group is erased.
	Process(conversation codec.ID, commit []byte, check Credentials) (*Epoch, error)
	// Rejoin makes the external commit that brings this device into a group, in the
	// place of its own leaf where it has one (RFC 9420 §12.4.3.2), from the GroupInfo
	// and tree of an epoch. What is held of the group is erased; it is in the new
	// epoch at once, and to be forgotten unless the server takes the commit.
	Rejoin(at *Epoch, groupInfo, ratchetTree []byte, check Credentials) (*Step, error)
	// Forget erases a group.
	Forget(conversation codec.ID) error
	// Encrypt returns an MLSMessage of the current epoch, with ad in clear. The
	// key is spent even if the message is never sent.
	Encrypt(conversation codec.ID, plaintext, ad []byte) ([]byte, error)
	// Decrypt opens an MLSMessage of the current epoch or one of the last before
	// it. It returns ErrReplay and ErrEpoch among others.
	Decrypt(conversation codec.ID, ciphertext []byte) (*Plaintext, error)
	// Epoch returns the epoch that the group is in.
	Epoch(conversation codec.ID) (*Epoch, error)
	// Changes returns what has changed since it was last called, for one durable
	// write. Names are unique to the device and values secret.
	Changes() ([]Change, error)
	// Revert forgets all that was not written, after a write that failed.
	Revert()
}

// NewGroups makes the MLS state of a device from its signing key's 32-byte seed
// and what is stored.
type NewGroups func(device codec.Hash, seed []byte, stored Stored) (Groups, error)

// Stored reads what Changes has handed over and was written.
type Stored interface {
	// Value returns the value of a name that belongs to no conversation, nil
	// where there is none.
	Value(name string) ([]byte, error)
	// Group returns the values of all names of a conversation.
	Group(conversation codec.ID) (map[string][]byte, error)
}

// Change is one name's new value, nil where the name is gone. Names of a
// conversation are unique to it, those of none to the device.
type Change struct {
	Conversation codec.ID // zero where the name belongs to none
	Name         string
	Value        []byte
}

// Epoch is what the members of a group agree on in one epoch.
type Epoch struct {
	Conversation codec.ID
	Number       uint64
	Transcript   []byte // confirmed transcript hash, 32 bytes; empty at epoch 0
	Roster       manifest.Roster
	Shared       bool // of Join: by a KeyPackage of last resort, whose keys other groups may have
}

// LastResort is what the server has of a device's KeyPackage of last resort.
type LastResort uint8

const (
	LastResortMissing LastResort = wire.LastResortNone
	LastResortUnused  LastResort = wire.LastResortUnused
	LastResortUsed    LastResort = wire.LastResortUsed
)

// Step is a staged commit: the epoch it leads to, the MLS commit for the members,
// the Welcome for those it adds, empty where it adds none, and for the server the
// GroupInfo of the epoch, with the ratchet tree unless the server has it.
type Step struct {
	Epoch
	Commit, Welcome, GroupInfo []byte
}

// Plaintext is an opened ciphertext.
type Plaintext struct {
	Data   []byte
	AD     []byte
	Sender codec.Hash // the device whose leaf signed it
	Epoch  uint64
	Roster manifest.Roster // of that epoch; not to be changed
	Policy codec.Hash      // leaf that the group pinned then; zero where it pinned none
}
