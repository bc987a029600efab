package store

import (
	"time"

	"chancery/codec"
	"chancery/manifest"
)

// KeyPackage is a device's KeyPackage, ready to be given out.
type KeyPackage struct {
	Device     codec.Hash
	Package    []byte // MLSMessage
	Keys       [][]byte
	NotAfter   time.Time // to the second
	LastResort bool
}

// Stock is what there is of a device's KeyPackages.
type Stock struct {
	Left       int  // single-use ones
	LastResort bool // there is one of last resort,
	Used       bool // which was given out
	Keys       int  // public keys that no other KeyPackage may repeat
}

// Conversation is where a conversation stands.
type Conversation struct {
	ID        codec.ID
	Epoch     uint64     // newest
	Removal   uint64     // newest epoch that removed a device, 0 for none
	Commit    codec.Hash // newest commit statement
	Positions uint64     // leaves so far: the position of the next
	Leaf      codec.Hash // newest leaf
	Last      int64      // its index in the messages log
	Members   []codec.ID // of a direct conversation, its two; none of a group
	Followed  bool       // its group is kept and judged
	Policy    codec.Hash // leaf that the group pins, zero where it pins none
	Pinned    uint64     // first epoch that pins it
}

// Group is the public state of a conversation's group in its newest epoch.
type Group struct {
	State []byte            // all but the tree's nodes
	Info  []byte            // GroupInfo, empty where nobody may join by it
	Nodes map[uint32][]byte // those of the tree that aren't blank
}

// Epoch is an epoch of a conversation.
type Epoch struct {
	Hash         codec.Hash // of the commit statement
	Conversation codec.ID
	Epoch        uint64
	Leaf         int64 // index of the statement's leaf
	Roster       manifest.Roster
}

// Membership is a device's time in a conversation.
type Membership struct {
	Device       codec.Hash
	Conversation codec.ID
	Since        int64  // leaf index of the commit that added it
	Epoch        uint64 // of that commit
	Until        int64  // leaf index of the commit that removed it, or -1
}

// Leaf is what a leaf of the messages log stands for.
type Leaf struct {
	Index        int64
	Kind         manifest.LeafKind
	Conversation codec.ID
	Position     uint64
	Epoch        uint64 // of the conversation, that its members are to be in
	Device       codec.Hash
	Chained      bool       // has a place in the device's chain: messages and voids
	Seq          uint64     // where Chained
	Core         codec.Hash // where Chained
	EnvelopeKind uint8
	Day          uint32
	Object       []byte // manifest, commit statement, void or heads
	Receipt      []byte // signed
	Envelope     []byte
	Tags         []byte
}

// Copy is the ciphertext for one device.
type Copy struct {
	Device codec.Hash
	Body   []byte
}

// PreKeys is an upload of a device's prekeys. Signed and Last are empty where
// those before stay.
type PreKeys struct {
	Number   uint64
	Expires  int64 // milliseconds since 1970, UTC
	Identity []byte
	Signed   []byte
	Last     []byte   // last-resort
	OneTime  [][]byte // X25519
	KEM      [][]byte // ML-KEM
}

// PreKeyStock is what there is of a device's prekeys: one-time ones by number.
type PreKeyStock struct {
	Number       uint64 // of the newest upload, 0 for none
	OneTime, KEM int
}

// Bundle is a device's prekeys for one session. OneTime is empty where there is
// none, KEM then the last-resort one.
type Bundle struct {
	Identity, Signed, OneTime, KEM []byte
}

// Chain is a device's place in a conversation.
type Chain struct {
	Device       codec.Hash
	Conversation codec.ID
	Next         uint64     // sequence number
	Prev         codec.Hash // core
}

// Queued is a leaf as a queue delivers it: Leaf's Seq, Core, Day, EnvelopeKind
// and Envelope are not set.
type Queued struct {
	Leaf
	// Body is the device's copy, where each has its own.
	// Body and Welcome are empty where there is none, where every device has them,
	// and for the device whose leaf it is; Body and Tags also for one that joined
	// in a later epoch.
	Body    []byte
	Welcome []byte
}

// Letter is what one device left for another.
type Letter struct {
	Cursor   uint64 // set by the store
	From, To codec.Hash
	Body     []byte
}

// Notice is a queued notice.
type Notice struct {
	Cursor uint64
	Body   []byte
}
