// Package wire is what Chancery's programs say to each other over HTTP: paths,
// and CBOR bodies (codec.Encode, codec.Decode). Nothing here is trusted for
// having come from the server: what matters in a body is signed or is checked
// against a witnessed log by whoever receives it.
package wire

import (
	"strings"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/manifest"
)

// Paths of the server. The logs are served as C2SP tlog-tiles under PathLogs +
// "control/" and PathLogs + "messages/".
const (
	PathLogs          = "/log/"
	PathOrganisation  = "/v1/organisation"      // GET: Organisation
	PathControl       = "/v1/control"           // POST Submit: Submitted
	PathPending       = "/v1/control/pending"   // GET: []Pending
	PathOpenings      = "/v1/control/openings"  // GET ?from=index: []Opening
	PathMembers       = "/v1/members"           // GET: []Member; POST Member
	PathKeyPackages   = "/v1/keypackages"       // GET: Stock of the asking device; POST KeyPackages
	PathClaim         = "/v1/keypackages/claim" // POST Claim: []Claimed
	PathPreKeys       = "/v1/prekeys"           // GET: PreKeyStock of the asking device; POST PreKeys
	PathBundles       = "/v1/prekeys/claim"     // POST Claim: [][]byte
	PathCertificate   = "/v1/certificate"       // POST: bytes of an X.509 certificate for the asking device
	PathMessages      = "/v1/messages"          // POST Submission: Receipted
	PathCommits       = "/v1/commits"           // POST CommitSubmission: Receipted
	PathVoids         = "/v1/voids"             // POST bytes of a void: Receipted
	PathQueue         = "/v1/queue"             // GET ?after=cursor&wait=seconds: []Delivery
	PathAcks          = "/v1/acknowledgements"  // POST bytes of an acknowledgement
	PathConversations = "/v1/conversations"     // GET: []Conversation of the asking device
	PathGroups        = "/v1/groups"            // GET: []codec.ID that others of the device's member are in and it isn't; GET + /conversation: Group
	PathHistory       = "/v1/history"           // GET ?after=cursor: []Letter; POST Letter
	PathArchive       = "/v1/archive"           // GET ?request=hash&after=cursor: ArchivePage
	PathHeads         = "/v1/heads"             // POST: Heads; a leaf of the heads of all conversations
	PathProductions   = "/v1/productions/"      // PUT and GET + request hash: sealed production
	PathStatus        = "/v1/status"            // GET: Status (JSON)
)

// Paths of a keyholder or guard.
const (
	PathQuery    = "/v1/query"    // POST signed query: signed answer or refusal
	PathNotice   = "/v1/notice"   // POST Submit: a hold, veto, withdrawal or revocation handed over
	PathTransfer = "/v1/transfer" // POST between guards: a month's key, sealed
	PathHolder   = "/v1/status"   // GET: HolderStatus (JSON)
)

// MediaType of CBOR bodies.
const MediaType = "application/cbor"

// Kinds of Reply, told by the HTTP status: 200 carries the body named above,
// 409 a signed refusal in Refused, every other error a JSON Problem.

// Problem is an error as RFC 9457 has it, in JSON.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"` // what to do next
}

// Error implements error.
func (p *Problem) Error() string {
	switch {
	case p.Detail == "":
		return p.Title
	case strings.Contains(p.Detail, p.Title):
		return p.Detail // most details are the whole chain of an error
	}
	return p.Title + ": " + p.Detail
}

// Endpoint is where a holder is reached. Nothing rests on it: answers are
// signed by the key in the genesis leaf and sealed to the opener.
type Endpoint struct {
	_    struct{} `cbor:",toarray"`
	Name string
	URL  string
}

// Organisation introduces the organisation; the caller compares the genesis
// entry with the identity it has pinned.
type Organisation struct {
	_          struct{} `cbor:",toarray"`
	Genesis    []byte   // entry 0 of the control log
	Keyholders []Endpoint
	Guards     []Endpoint
}

// Submit offers a statement with signatures. The server keeps it until the
// signatures that its kind needs are together, then logs it.
type Submit struct {
	_          struct{} `cbor:",toarray"`
	Statement  []byte
	Opening    *control.Opening // where the kind is sealed
	Signatures []control.Signature
}

// Submitted says what became of a statement.
type Submitted struct {
	_       struct{} `cbor:",toarray"`
	Hash    codec.Hash
	Index   int64  // leaf index, or -1 while signatures are missing
	Missing string // why it is not logged yet, in words
}

// Pending is a statement that waits for signatures.
type Pending struct {
	_          struct{} `cbor:",toarray"`
	Statement  []byte
	Opening    *control.Opening // where the kind is sealed: nobody signs what they can't read
	Signatures []control.Signature
	Since      int64 // milliseconds since 1970, UTC
}

// Opening is the opening of a sealed control leaf.
type Opening struct {
	_       struct{} `cbor:",toarray"`
	Index   int64
	Opening control.Opening
}

// Member is a person in the server's directory, the one place that knows names.
type Member struct {
	_    struct{} `cbor:",toarray"`
	ID   codec.ID
	Name string // at most 256 bytes
}

// KeyPackageLifetime is the longest that a KeyPackage's lifetime may be: 83 days
// and an hour of skew (spec/client.md#groups).
const KeyPackageLifetime = 83*24*time.Hour + time.Hour

// KeyPackages stocks a device's MLS KeyPackages. One with the extension
// last_resort takes the place of the one before it.
type KeyPackages struct {
	_        struct{} `cbor:",toarray"`
	Packages [][]byte // at most 100, of at most 16 KiB
}

// Stock says what the server has of a device's KeyPackages.
type Stock struct {
	_          struct{} `cbor:",toarray"`
	Left       uint16   // single-use ones that nobody has claimed, and that haven't expired
	LastResort uint8    // LastResortNone and so on
}

// What has become of a device's KeyPackage of last resort.
const (
	LastResortNone   = 0 // there is none, or it has expired
	LastResortUnused = 1
	LastResortUsed   = 2 // it was given out, once or more
)

// Claim asks for one KeyPackage, or one bundle, of each device, in order. One of last resort,
// given where a device's stock is used up, has the extension that says so.
type Claim struct {
	_       struct{} `cbor:",toarray"`
	Devices []codec.Hash
}

// Claimed is a KeyPackage with the server's word on it.
type Claimed struct {
	_       struct{} `cbor:",toarray"`
	Package []byte   // MLSMessage; empty where the device has none
	Claim   []byte   // signed manifest.Claim; empty where Package is
}

// Submission is a message and all that belongs to it: one durable step. An
// index envelope that the message introduces comes in the same request, first.
type Submission struct {
	_          struct{} `cbor:",toarray"`
	Index      *Item    // a new index envelope, or nil
	Message    Item
	Ciphertext []byte // MLS PrivateMessage; of a direct conversation manifest.EncodeCopies
}

// Item is a manifest with its envelope and tags.
type Item struct {
	_        struct{} `cbor:",toarray"`
	Manifest []byte
	Envelope []byte
	Tags     []byte
}

// CommitSubmission is a step of a conversation: one for each epoch.
type CommitSubmission struct {
	_         struct{}        `cbor:",toarray"`
	Statement []byte          // signed commit statement
	Roster    manifest.Roster // of the new epoch
	Commit    []byte          // MLS commit, empty at epoch 0; of a direct conversation manifest.Direct
	Welcome   []byte          // MLS Welcome, or empty
	Added     []codec.Hash    // devices that the Welcome is for
	GroupInfo []byte          // MLS GroupInfo of the new epoch; empty from a device of an earlier version
}

// earlierCommit is a CommitSubmission of versions whose server judged no groups.
type earlierCommit struct {
	_         struct{} `cbor:",toarray"`
	Statement []byte
	Roster    manifest.Roster
	Commit    []byte
	Welcome   []byte
	Added     []codec.Hash
}

// ParseCommit reads a CommitSubmission, also one that an earlier version wrote.
// It returns codec.ErrEncoding, wrapped.
func ParseCommit(b []byte) (*CommitSubmission, error) {
	out := &CommitSubmission{}
	err := codec.Decode(b, out)
	if err == nil {
		return out, nil
	}
	var e earlierCommit
	if codec.Decode(b, &e) != nil {
		return nil, err
	}
	return &CommitSubmission{Statement: e.Statement, Roster: e.Roster, Commit: e.Commit, Welcome: e.Welcome, Added: e.Added}, nil
}

// Receipted answers a submission: the signed receipts, in order.
type Receipted struct {
	_        struct{} `cbor:",toarray"`
	Receipts [][]byte
}

// Refused answers with status 409: the signed refusal of a core. Expected is
// the device's next sequence number in the conversation as the server has it.
type Refused struct {
	_       struct{} `cbor:",toarray"`
	Refusal []byte
	Reason  string
}

// Kinds of Delivery.
const (
	DeliveryMessage = 1 // Manifest, Receipt; Body (ciphertext) and Tags where it is for the device
	DeliveryCommit  = 2 // Manifest (commit statement), Receipt, Roster; Body (MLS commit, or manifest.Direct) unless the device's own
	DeliveryWelcome = 3 // Manifest (commit statement), Receipt, Body (MLS Welcome), Roster
	DeliveryNotice  = 4 // Body: an Opening of a hold that names the device's member
	DeliveryVoid    = 5 // Manifest (void), Receipt: a position without a message
)

// Delivery is one item of a device's queue, in order.
type Delivery struct {
	_        struct{} `cbor:",toarray"`
	Cursor   uint64   // of the queue: ask for what comes after it, and so acknowledge it
	Kind     uint8
	Manifest []byte
	Receipt  []byte
	Body     []byte
	Tags     []byte
	Roster   manifest.Roster
}

// Conversation is a conversation of a device, for a device that lost its place.
type Conversation struct {
	_        struct{} `cbor:",toarray"`
	ID       codec.ID
	Epoch    uint64
	Position uint64
	NextSeq  uint64     // the device's next sequence number
	Prev     codec.Hash // the device's previous core
}

// Group is where a conversation's group stands, for a device that may join it by
// an external commit. The statement says what the rest has to be.
type Group struct {
	_         struct{} `cbor:",toarray"`
	Statement []byte   // newest commit statement
	Receipt   []byte   // its receipt
	Roster    manifest.Roster
	GroupInfo []byte // MLSMessage
	Tree      []byte // ratchet tree
}

// Letter is what one device of a member leaves for another at the server, which
// can't read it: a request for history, or a chunk of it (package
// client/history).
type Letter struct {
	_      struct{}   `cbor:",toarray"`
	Cursor uint64     // of the receiving device's letters; zero on the way to the server
	Device codec.Hash // on the way to the server whom it is for, from there whom it is from
	Body   []byte     // at most MaxLetter
}

// MaxLetter is the greatest length in bytes of a letter's body.
const MaxLetter = 1 << 20

// ArchivePage is a part of what a request's scope may touch: to the opener that
// the request's log leaf names, everything of the conversations and days.
type ArchivePage struct {
	_       struct{} `cbor:",toarray"`
	Rosters []ArchiveRoster
	Items   []ArchiveItem
	Next    uint64 // cursor of the next page, or 0 at the end
}

// ArchiveRoster is a commit statement as the archive has it.
type ArchiveRoster struct {
	_       struct{} `cbor:",toarray"`
	Commit  []byte
	Receipt []byte
	Devices manifest.Roster
}

// ArchiveItem is an archived envelope with all that belongs to it.
type ArchiveItem struct {
	_        struct{} `cbor:",toarray"`
	Manifest []byte
	Receipt  []byte
	Envelope []byte
	Tags     []byte
	Acks     [][]byte // newest acknowledgement of each device that covers it; on the newest item of a conversation alone
}

// Heads is the heads of all conversations and the receipt of their leaf.
type Heads struct {
	_       struct{} `cbor:",toarray"`
	Heads   []byte   // encoded manifest.Heads
	Receipt []byte
}

// Status is what the server says of itself, in JSON, to whoever asks.
type Status struct {
	Organisation codec.Hash `json:"organisation"`
	ControlSize  int64      `json:"control_size"`
	MessagesSize int64      `json:"messages_size"`
	Witnessed    int64      `json:"control_witnessed"` // size of the newest witnessed control checkpoint
	WitnessedLog int64      `json:"messages_witnessed"`
	Messages     int64      `json:"messages"`
	Envelopes    int64      `json:"envelopes"`
	Pending      int        `json:"pending"`
}

// HolderStatus is what a keyholder or guard says of itself, in JSON.
type HolderStatus struct {
	Name        string `json:"name"`
	Role        string `json:"role"` // keyholder or guard
	Index       int    `json:"index"`
	ControlSize int64  `json:"control_size"`
	Epochs      int    `json:"epochs"` // shares held
	Months      int    `json:"months"` // ML-KEM keys held
	Answered    uint64 `json:"answered"`
	Refused     uint64 `json:"refused"`
	Problem     string `json:"problem,omitempty"`
}
