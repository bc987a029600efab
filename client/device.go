package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/state"
	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	fileName = "device.db"
	// defaultStock is how many KeyPackages a device keeps at the server.
	defaultStock = 20
	ackInterval  = time.Minute
	// overdue is when a receipted leaf that no witnessed checkpoint covers
	// convicts the server.
	overdue = 24 * time.Hour
	// enrolPoll is how soon a device looks whether its leaf is witnessed, less and
	// less often.
	enrolPoll = 100 * time.Millisecond
	maxPoll   = 2 * time.Second
)

var (
	// ErrEnrolled means that there is a device in the directory already.
	ErrEnrolled = errors.New("a device is enrolled here")
	// ErrNotEnrolled means that a device's enrolment was not completed.
	ErrNotEnrolled = errors.New("the device's enrolment was not completed")
	// ErrNoConversation means that the device is in no conversation of that id.
	ErrNoConversation = errors.New("no such conversation")
	// ErrLeft means that the member left the conversation or was removed.
	ErrLeft = errors.New("this member has left the conversation")
	// ErrBroken means that a conversation can't go on, because of a step of its
	// group that is not what its author signed, or that can't be followed.
	ErrBroken = errors.New("the conversation can't go on")
	// ErrGoesOn means that a conversation doesn't have to be joined anew.
	ErrGoesOn = errors.New("the conversation goes on")
	// ErrConflict means that others changed the group faster than this device,
	// several times over.
	ErrConflict = errors.New("others changed the conversation at the same time")
	// ErrServer means that the server answered with what it has not signed or
	// may not sign.
	ErrServer = errors.New("the server's answer is not one that it may give")
	// ErrClosed means that the device was closed.
	ErrClosed = errors.New("device is closed")

	errPending = errors.New("the control log is not witnessed as far as the receipt says")
	errStale   = errors.New("encrypted in an epoch that is over")
)

// Server is what a device asks of the server. Package client/remote has it over
// HTTP. Its methods return remote.ErrUnavailable, wrapped, where the server can't
// be reached; Send, Commit and Void may be called again with the same, and return
// a *remote.Refused for a signed no. It is safe for concurrent use.
type Server interface {
	replica.Source
	// Hashes reads the tree of a log as it was at a checkpoint, and believes no
	// hash that isn't under its root.
	Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader
	// Submit offers a control statement, which may be offered again.
	Submit(ctx context.Context, s *wire.Submit) (*wire.Submitted, error)
	// PreKeys returns what the server has of the device's prekeys.
	PreKeys(ctx context.Context) (*wire.PreKeyStock, error)
	// UploadPreKeys publishes the device's prekeys. It may be repeated.
	UploadPreKeys(ctx context.Context, p *wire.PreKeys) error
	// ClaimBundles takes a bundle of prekeys of each device, in order, and an
	// empty one where a device has none.
	ClaimBundles(ctx context.Context, devices []codec.Hash) ([][]byte, error)
	// KeyPackages returns what there is of the device's KeyPackages.
	KeyPackages(ctx context.Context) (*wire.Stock, error)
	// UploadKeyPackages adds to the device's KeyPackages. One of last resort takes
	// the place of the one before.
	UploadKeyPackages(ctx context.Context, packages [][]byte) error
	// ClaimKeyPackages takes a KeyPackage of each device, in order, and an empty
	// one where a device has none.
	ClaimKeyPackages(ctx context.Context, devices []codec.Hash) ([]wire.Claimed, error)
	// Certificate returns a certificate in DER for this device's key, of the
	// organisation's own authority: a *wire.Problem of status 404 where it has none.
	Certificate(ctx context.Context) ([]byte, error)
	// Send sends a message and returns the signed receipts, of its index envelope
	// first where it brings one.
	Send(ctx context.Context, s *wire.Submission) ([][]byte, error)
	// Commit sends a step of a group and returns its signed receipt.
	Commit(ctx context.Context, s *wire.CommitSubmission) ([][]byte, error)
	// Void sends a signed void and returns its signed receipt.
	Void(ctx context.Context, void []byte) ([][]byte, error)
	// Queue returns what the device's queue holds after a cursor, and lets go of
	// what it holds up to there. Where there is nothing it waits for something, as
	// long as wait, and a minute at most.
	Queue(ctx context.Context, after uint64, wait time.Duration) ([]wire.Delivery, error)
	// Elsewhere returns the conversations that other devices of the member are in
	// and this one isn't.
	Elsewhere(ctx context.Context) ([]codec.ID, error)
	// Group returns where a conversation's group stands.
	Group(ctx context.Context, conversation codec.ID) (*wire.Group, error)
	// Acknowledge sends a signed acknowledgement.
	Acknowledge(ctx context.Context, ack []byte) error
	// PutLetter leaves a letter for another device of the member. It returns a
	// *wire.Problem of status 403 or 429 where that isn't one, or has too many.
	PutLetter(ctx context.Context, l *wire.Letter) error
	// Letters returns the device's letters after a cursor, and lets go of those up
	// to it.
	Letters(ctx context.Context, after uint64) ([]wire.Letter, error)
}

// Config is what a device needs of the world around it.
type Config struct {
	// Replica is the control log, which devices of one process share.
	Replica *replica.Replica
	// Connect returns the server for requests signed by the device.
	Connect func(device codec.Signer) Server
	// Groups makes the device's MLS state.
	Groups NewGroups
	// Pairs makes the device's one-to-one sessions. Nil is a device as it was
	// before there were any: it takes part in no direct conversation, and makes a
	// group of two where others make one.
	Pairs NewPairs
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Stock is how many KeyPackages the device keeps at the server, one for each
	// conversation that others may add it to before its next Sync, and how many
	// one-time prekeys; 0 means 20.
	Stock int
	// Keyring is what devices of one process share besides; nil makes one.
	Keyring *Keyring
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Stock == 0 {
		c.Stock = defaultStock
	}
	if c.Keyring == nil {
		c.Keyring = &Keyring{}
	}
	return c
}

// Buckets of the device's state.
const (
	bucketSelf         = "self"
	bucketDevice       = "device"
	bucketList         = "conversations"
	bucketConversation = "conversation"
	bucketMessage      = "message"
	bucketOutbox       = "outbox"
	bucketFollowed     = "followed"  // conversations whose leaves all come
	bucketAnnounced    = "announced" // index envelopes whose seeds haven't come
	bucketRejoin       = "rejoin"    // conversations that the device is to join by itself
	bucketWaiting      = "waiting"   // leaves that no witnessed checkpoint covers yet
	bucketMLS          = "mls"
	bucketRatchet      = "ratchet" // sessions with other devices, prekeys
	bucketDirect       = "direct"  // what direct conversations have besides
	bucketRenewal      = "renewal" // when keys are due, by conversation
)

// self is who the device is. It is written at enrolment.
type self struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Member       codec.ID
	Name         string
	Seed         []byte
	Device       codec.Hash
	Submit       []byte // the enrolment, to be offered again after a crash
	Enrolled     bool
}

// progress is what moves with every step.
type progress struct {
	_        struct{} `cbor:",toarray"`
	Cursor   uint64   // of the queue
	Head     uint64   // first entry of the outbox
	Tail     uint64   // one past its last
	LastAck  int64    // milliseconds since 1970 UTC
	Size     int64    // of the newest witnessed checkpoint of the messages log
	Root     codec.Hash
	Revoked  int // revocations that groups were searched for
	Counters Counters
	Notices  [][]byte
}

// Counters is what a device has seen in its life.
type Counters struct {
	_             struct{} `cbor:",toarray"`
	Sent          uint64   // accepted by the server
	Refused       uint64   // by the server, and voided
	Delivered     uint64   // received, checked and shown
	Archived      uint64   // sent or delivered, and under a witnessed checkpoint
	Mismatches    uint64   // archived otherwise than sent: quarantined, reported
	Undecryptable uint64
	Unverified    uint64 // of a version that this program doesn't know
	Index         uint64 // delivered, though the tags couldn't be verified
	Faulty        uint64 // not what a device may send or the server may deliver
}

// Device is an enrolled device. It is safe for concurrent use; operations wait
// for one another, those of the network included.
type Device struct {
	cfg    Config
	dir    string
	store  *state.Store
	server Server
	groups Groups
	pairs  Pairs // nil where the device has none
	key    *codec.PrivateKey

	mu            sync.Mutex // guards what follows
	self          self
	progress      progress
	list          []codec.ID
	conversations map[codec.ID]*conversation
	waiting       []waiting
	logRead       time.Time       // when it last read the control log
	counted       time.Time       // and asked for its prekeys
	stated        int64           // size of the control log that direct conversations follow
	asked         time.Time       // when it last asked for a certificate
	certified     time.Time       // when it last logged one
	changed       map[string]bool // buckets of one value each that have to be written
	staged        map[place][]byte
	discovered    time.Time  // when this device last asked for its member's conversations
	greet         []codec.ID // conversations whose names have to be told
	closed        bool

	testOnlyArchive func(record []byte) []byte // what a lying sender archives instead
	testOnlyTag     func(kind envelope.Kind, tag *[envelope.TagSize]byte)
	testOnlyStep    func(step string) error // fails or stops the device between two steps

	testOnlyUncertified bool // it speaks without a certificate
}

// Open opens the device in a directory. It returns ErrNotEnrolled, or
// state.Open's errors.
func Open(cfg Config, dir string, key *[state.KeySize]byte) (*Device, error) {
	d, err := load(cfg.withDefaults(), dir, key)
	if err != nil {
		return nil, err
	}
	if !d.self.Enrolled {
		d.store.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrNotEnrolled)
	}
	return d, nil
}

func load(cfg Config, dir string, key *[state.KeySize]byte) (*Device, error) {
	store, err := state.Open(filepath.Join(dir, fileName), key)
	if err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, dir: dir, store: store}
	if err := d.read(bucketSelf, &d.self); err != nil {
		store.Close()
		return nil, err
	}
	if d.self.Device.IsZero() {
		store.Close()
		return nil, fmt.Errorf("%s: %w: it is no device's", dir, state.ErrCorrupt)
	}
	if d.self.Organisation != cfg.Replica.Organisation() {
		store.Close()
		return nil, fmt.Errorf("%s: a device of organisation %s, not %s", dir, d.self.Organisation.Short(), cfg.Replica.Organisation().Short())
	}
	return d, d.start()
}

// start makes the parts of a device from what it is.
func (d *Device) start() (err error) {
	if d.key, err = codec.PrivateKeyFromSeed(d.self.Seed); err != nil {
		return err
	}
	d.server = d.cfg.Connect(d.key)
	d.groups, err = d.cfg.Groups(d.self.Device, d.self.Seed, storedIn{d.store, bucketMLS})
	if err != nil {
		return err
	}
	if d.cfg.Pairs != nil {
		if d.pairs, err = d.cfg.Pairs(d.self.Device, d.key, storedIn{d.store, bucketRatchet}); err != nil {
			return err
		}
	}
	return d.reload()
}

func (d *Device) step(name string) error {
	if d.testOnlyStep == nil {
		return nil
	}
	return d.testOnlyStep(name)
}

func (d *Device) counters() *Counters {
	d.touch(bucketDevice)
	return &d.progress.Counters
}

// Close writes what is left to write and closes the device. Its key is erased.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	err := d.save()
	d.closed = true
	d.key.Erase()
	clear(d.self.Seed)
	return errors.Join(err, d.store.Close())
}

// begin locks the device for an operation.
func (d *Device) begin() (end func(), err error) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil, ErrClosed
	}
	return d.mu.Unlock, nil
}

// Hash returns the hash of the device's control leaf.
func (d *Device) Hash() codec.Hash { return d.self.Device }

// Organisation returns the identity that the device is pinned to.
func (d *Device) Organisation() codec.Hash { return d.self.Organisation }

// Member returns the device's member.
func (d *Device) Member() codec.ID { return d.self.Member }

// Name returns the member's name as records carry it.
func (d *Device) Name() string { return d.self.Name }

// Signer returns a signer with the device's key, for control statements and
// requests, usable until Close.
func (d *Device) Signer() codec.Signer { return d.key }

// Counters returns what the device has seen in its life.
func (d *Device) Counters() Counters {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.progress.Counters
}

func number(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
