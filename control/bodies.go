package control

import (
	"chancery/codec"
	"chancery/ledger"
	"chancery/quorum"
)

// Body is the body of a statement: one of the structures below.
type Body interface {
	// Kind returns the body's kind of leaf.
	Kind() Kind
	// apply checks the leaf against the state, signers included, and only then
	// changes the state. An error leaves the state as it was.
	apply(s *State, l *entry) error
}

// Person is a member's SSH credential in a role.
type Person struct {
	_          struct{} `cbor:",toarray"`
	Member     codec.ID
	Credential []byte // SSH public key, wire form
}

// Holder is a keyholder or guard: a daemon with a signing key, and the key that
// shares and answers to it are sealed to.
type Holder struct {
	_            struct{} `cbor:",toarray"`
	Name         string   // at most 64 bytes
	Jurisdiction string   // ISO 3166-1 code
	Sign         codec.PublicKey
	Encrypt      []byte // P-256 point, 65 bytes
}

// Witness is a party whose cosignature everyone insists on.
type Witness struct {
	_    struct{} `cbor:",toarray"`
	Name string
	Key  string // verifier key, C2SP signed-note form
}

// Genesis is the first leaf: its hash is the organisation.
type Genesis struct {
	_             struct{} `cbor:",toarray"`
	Name          string
	Nonce         [32]byte
	ControlKey    codec.PublicKey // signs checkpoints of the control log
	MessagesKey   codec.PublicKey // signs checkpoints of the messages log
	ReceiptKey    codec.PublicKey
	Officers      []Person
	OfficerQuorum uint8
	Approvers     []Person
	Reviewers     []Person
	Keyholders    []Holder
	Threshold     uint8 // t of the keyholders
	Guards        []Holder
	Witnesses     []Witness
	WitnessQuorum uint8
	Policy        Policy
}

// Logs returns who must sign checkpoints of the control and messages logs of
// the organisation that this genesis leaf founds. It returns ErrMalformed.
func (g *Genesis) Logs(organisation codec.Hash) (controlLog, messagesLog *ledger.Policy, err error) {
	var witnesses []ledger.WitnessKey
	for _, w := range g.Witnesses {
		key, err := ledger.ParseWitnessKey(w.Key)
		if err != nil {
			return nil, nil, malformed("witness %.64q: %v", w.Name, err)
		}
		witnesses = append(witnesses, key)
	}
	policy := func(log ledger.Log, key codec.PublicKey) *ledger.Policy {
		return &ledger.Policy{
			Log:       ledger.LogKey{Origin: ledger.Origin(organisation, log), Key: key},
			Witnesses: witnesses, Quorum: int(g.WitnessQuorum),
		}
	}
	return policy(ledger.ControlLog, g.ControlKey), policy(ledger.MessagesLog, g.MessagesKey), nil
}

// Policy is a version of the organisation's rules. Every decision cites one.
type Policy struct {
	_                  struct{} `cbor:",toarray"`
	Version            uint64
	Region             string // where envelopes are sealed to, e.g. "eu"
	Class              string // retention class, e.g. "standard"
	RetentionDays      uint32
	Approvals          uint8  // k: different approvers that a request needs
	DeviceEvidenceNone bool   // devices without platform evidence may be enrolled
	OpenerEvidenceNone bool   // openers without evidence may be answered
	VetoSeconds        uint32 // time between the last approval and the first answer
	MaxRequestDays     uint32 // longest span of a request
	MaxCount           uint64 // most envelopes that one request may open
	MaxIndexKeys       uint64 // most index envelopes that one request may open
	RequestHours       uint32 // longest life of a request
}

// Roles of a person.
const (
	RoleOfficer  Role = "officer"
	RoleApprover Role = "approver"
	RoleReviewer Role = "reviewer"
	RoleAuditor  Role = "auditor"
)

// Role is what a person may sign.
type Role string

// RoleChange gives a person a role, or takes it.
type RoleChange struct {
	_      struct{} `cbor:",toarray"`
	Nonce  codec.ID
	Role   Role
	Person Person
	Remove bool
}

// Ceremony opens a distributed key generation among the genesis keyholders.
type Ceremony struct {
	_        struct{} `cbor:",toarray"`
	Ceremony quorum.Ceremony
}

// DKG is one message of a ceremony, on the log as broadcast channel.
type DKG struct {
	_       struct{} `cbor:",toarray"`
	Message quorum.Message
}

// Epoch is an escrow key's P-256 half, made by a ceremony.
type Epoch struct {
	_          struct{} `cbor:",toarray"`
	Number     uint64   // from 1, without gaps
	Ceremony   codec.ID
	Key        quorum.PublicKey
	Transcript codec.Hash // of the ceremony
}

// Month is an escrow key: an epoch's point and the ML-KEM key of a region,
// class and month. Its hash is what a header calls escrow_key.
type Month struct {
	_      struct{} `cbor:",toarray"`
	Epoch  codec.Hash
	Region string
	Class  string
	Month  uint32 // (year - 1970)·12 + month - 1
	MLKEM  []byte // ML-KEM-768 encapsulation key, 1,184 bytes
}

// Canary is an envelope of kind void under a month's key, for every keyholder
// and guard to open in public before anybody relies on the key.
type Canary struct {
	_        struct{} `cbor:",toarray"`
	Month    codec.Hash
	Core     []byte
	Envelope []byte
	Proof    []byte
	Tag      []byte
}

// CanaryAnswer is a keyholder's point, or a guard's shared secret, for a canary.
type CanaryAnswer struct {
	_      struct{} `cbor:",toarray"`
	Canary codec.Hash
	Guard  bool
	Holder uint8  // index from 1, among keyholders or guards
	Answer []byte // 65 bytes of a keyholder, 32 of a guard
}

// Invitations lets members enrol devices.
type Invitations struct {
	_           struct{} `cbor:",toarray"`
	Invitations []Invitation
}

// Invitation is a key whose secret reaches the member outside the server.
type Invitation struct {
	_      struct{} `cbor:",toarray"`
	Member codec.ID
	Key    codec.PublicKey
	Expiry int64 // milliseconds since 1970, UTC
}

// EvidenceNone is the evidence of a device or opener that has none.
const EvidenceNone = "none"

// Device enrols a device.
type Device struct {
	_        struct{} `cbor:",toarray"`
	Member   codec.ID
	Key      codec.PublicKey // signs manifests, statements and MLS leaves
	Evidence string
	Nonce    codec.ID
}

// Revocation ends a device.
type Revocation struct {
	_      struct{} `cbor:",toarray"`
	Device codec.Hash
	Reason string
}

// Matter opens a case.
type Matter struct {
	_        struct{} `cbor:",toarray"`
	ID       codec.ID
	Details  codec.Hash // H("details", encoding) of its title and so on, kept by people
	Reviewer codec.Hash // credential that opened it
}

// Hold is an order not to delete: it beats every retention rule.
type Hold struct {
	_          struct{} `cbor:",toarray"`
	ID         codec.ID
	Matter     codec.ID
	Custodians []codec.ID
	FromDay    uint32
	ToDay      uint32
	Text       string // what the custodians are told
}

// HoldAcknowledgement is a custodian's word that the notice was read.
type HoldAcknowledgement struct {
	_      struct{} `cbor:",toarray"`
	Hold   codec.Hash
	Device codec.Hash
}

// Release ends a hold.
type Release struct {
	_      struct{} `cbor:",toarray"`
	Hold   codec.Hash
	Reason string
}

// Request is a demand to open: what approvers approve and keyholders check.
type Request struct {
	_             struct{} `cbor:",toarray"`
	ID            codec.ID
	Matter        codec.ID
	Requester     codec.Hash // reviewer's credential
	Policy        codec.Hash // policy leaf at the time
	Custodians    []codec.ID
	Conversations []codec.ID // empty: all of the custodians'
	FromDay       uint32     // UTC days since 1970, inclusive
	ToDay         uint32     // inclusive
	MaxCount      uint64     // most records to open
	Search        bool       // index envelopes first, then the hits
	Details       codec.Hash // salted hash of terms, purpose and legal basis, see request.Details
	Recipient     []byte     // HPKE public key of the production's recipient, MLKEM768-X25519, 1,216 bytes
	Evidence      string     // opener measurement, or EvidenceNone
	Expiry        int64      // milliseconds since 1970, UTC
}

// Decisions of an Approval.
const (
	Approve Decision = "approve"
	Refuse  Decision = "refuse"
)

// Decision is an approver's answer.
type Decision string

// Approval is an approver's decision on a request.
type Approval struct {
	_        struct{} `cbor:",toarray"`
	Nonce    codec.ID // two approvers who say the same make two statements
	Request  codec.Hash
	Decision Decision
	Role     Role
	Policy   codec.Hash
	Reason   string
}

// Withdrawal ends a request.
type Withdrawal struct {
	_       struct{} `cbor:",toarray"`
	Request codec.Hash
	Reason  string
}

// Opener is the worker that answers to a request are sealed to.
type Opener struct {
	_        struct{} `cbor:",toarray"`
	Request  codec.Hash
	Sign     codec.PublicKey
	Encrypt  []byte // HPKE public key, MLKEM768-X25519, 1,216 bytes
	Evidence string
}

// Phases of an opening.
const (
	PhaseIndex  Phase = 1
	PhaseRecord Phase = 2
)

// Phase says which kind of envelope a use is for.
type Phase uint8

// Use is a holder's record, written ahead of its answer.
type Use struct {
	_       struct{} `cbor:",toarray"`
	Request codec.Hash
	Phase   Phase
	Opener  codec.Hash
	Guard   bool
	Holder  uint8      // index from 1, among keyholders or guards
	Root    codec.Hash // H("use-set", H(core)s in the order asked)
	Count   uint64
}

// OpeningStatement is an opener's last word: what it made, and that its keys
// are gone.
type OpeningStatement struct {
	_          struct{} `cbor:",toarray"`
	Request    codec.Hash
	Opener     codec.Hash
	Opened     uint64
	Exported   uint64
	Pack       codec.Hash // of the evidence pack's body
	Production codec.Hash // of the sealed production
	Faults     []string   // holders that answered otherwise, by name
	Destroyed  bool
}

// Export records that a production left the system.
type Export struct {
	_          struct{} `cbor:",toarray"`
	Nonce      codec.ID
	Request    codec.Hash
	Production codec.Hash
	Records    uint64
}

// Destruction ends a month's ML-KEM key.
type Destruction struct {
	_         struct{} `cbor:",toarray"`
	Month     codec.Hash
	Reason    string
	Authority string
}

// Kind implements Body, as do the methods below.
func (*Genesis) Kind() Kind             { return KindGenesis }
func (*Policy) Kind() Kind              { return KindPolicy }
func (*RoleChange) Kind() Kind          { return KindRole }
func (*Ceremony) Kind() Kind            { return KindCeremony }
func (*DKG) Kind() Kind                 { return KindDKG }
func (*Epoch) Kind() Kind               { return KindEpoch }
func (*Month) Kind() Kind               { return KindMonth }
func (*Canary) Kind() Kind              { return KindCanary }
func (*CanaryAnswer) Kind() Kind        { return KindAnswer }
func (*Invitations) Kind() Kind         { return KindInvitation }
func (*Device) Kind() Kind              { return KindDevice }
func (*Revocation) Kind() Kind          { return KindRevocation }
func (*Matter) Kind() Kind              { return KindMatter }
func (*Hold) Kind() Kind                { return KindHold }
func (*HoldAcknowledgement) Kind() Kind { return KindNotice }
func (*Release) Kind() Kind             { return KindRelease }
func (*Request) Kind() Kind             { return KindRequest }
func (*Approval) Kind() Kind            { return KindApproval }
func (*Withdrawal) Kind() Kind          { return KindWithdrawal }
func (*Opener) Kind() Kind              { return KindOpener }
func (*Use) Kind() Kind                 { return KindUse }
func (*OpeningStatement) Kind() Kind    { return KindOpening }
func (*Export) Kind() Kind              { return KindExport }
func (*Destruction) Kind() Kind         { return KindDestruction }

func newBody(k Kind) Body {
	switch k {
	case KindGenesis:
		return new(Genesis)
	case KindPolicy:
		return new(Policy)
	case KindRole:
		return new(RoleChange)
	case KindCeremony:
		return new(Ceremony)
	case KindDKG:
		return new(DKG)
	case KindEpoch:
		return new(Epoch)
	case KindMonth:
		return new(Month)
	case KindCanary:
		return new(Canary)
	case KindAnswer:
		return new(CanaryAnswer)
	case KindInvitation:
		return new(Invitations)
	case KindDevice:
		return new(Device)
	case KindRevocation:
		return new(Revocation)
	case KindMatter:
		return new(Matter)
	case KindHold:
		return new(Hold)
	case KindNotice:
		return new(HoldAcknowledgement)
	case KindRelease:
		return new(Release)
	case KindRequest:
		return new(Request)
	case KindApproval:
		return new(Approval)
	case KindWithdrawal:
		return new(Withdrawal)
	case KindOpener:
		return new(Opener)
	case KindUse:
		return new(Use)
	case KindOpening:
		return new(OpeningStatement)
	case KindExport:
		return new(Export)
	case KindDestruction:
		return new(Destruction)
	case KindAuthority:
		return new(Authority)
	case KindCertificate:
		return new(Certificate)
	}
	return nil
}
