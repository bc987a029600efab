package control

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	"chancery/codec"
	"chancery/quorum"
)

// Never is the index of what has not happened.
const Never = int64(-1)

// DeviceState is a device as the log has it.
type DeviceState struct {
	Device
	Hash    codec.Hash
	Since   int64      // leaf index
	Revoked int64      // leaf index, or Never
	Time    int64      // milliseconds since 1970 UTC, of enrolment
	Sponsor codec.Hash // the member's device that let it in; zero where an invitation did

	certificates []CertificateState
}

// ValidAt reports whether the device was enrolled and not revoked in a log of
// that size.
func (d *DeviceState) ValidAt(size int64) bool {
	return d.Since < size && (d.Revoked == Never || d.Revoked >= size)
}

// EpochState is an escrow epoch as the log has it.
type EpochState struct {
	Epoch
	Hash  codec.Hash
	Since int64
}

// MonthState is an escrow key as the log has it.
type MonthState struct {
	Month
	Hash          codec.Hash
	Point         quorum.Point
	Since         int64
	Effective     int64 // leaf that completed its canary, or Never
	EffectiveTime int64 // milliseconds since 1970 UTC
	Destroyed     int64 // leaf index, or Never

	canary  *canaryState
	answers []quorum.Answer
	secrets map[uint8][]byte // guard index → shared secret of the canary, the same of all
}

// PolicyState is a version of the policy as the log has it.
type PolicyState struct {
	Policy
	Hash  codec.Hash
	Since int64
	Time  int64
}

// Credential is a person's SSH credential as the log has it.
type Credential struct {
	Person
	Roles map[Role]bool

	approver int64 // when it was made an approver, milliseconds since 1970 UTC; 0 in the genesis leaf
}

// MatterState is a matter whose opening is known.
type MatterState struct {
	Matter
	Hash  codec.Hash
	Since int64
}

// HoldState is a hold whose opening is known.
type HoldState struct {
	Hold
	Hash         codec.Hash
	Since        int64
	Released     int64 // leaf index, or Never
	Acknowledged map[codec.Hash]int64
}

// ApprovalState is one approver's decision.
type ApprovalState struct {
	Approval
	Hash       codec.Hash
	Since      int64
	Time       int64 // milliseconds since 1970 UTC
	Credential codec.Hash
	Member     codec.ID
	Counts     int64 // milliseconds since 1970 UTC from which it counts: 72 hours after its signer became an approver; 0 in the genesis leaf
	Lapsed     int64 // milliseconds since 1970 UTC at which its signer ceased to be one, or 0
}

// RequestState is a request and all that the log says about it.
type RequestState struct {
	Request
	Hash      codec.Hash
	Since     int64
	Time      int64
	Member    codec.ID // the requester
	Approvals []ApprovalState
	Withdrawn int64 // leaf index, or Never
	Openers   map[codec.Hash]*OpenerState
	Uses      []UseState
	Opening   *OpeningStatement
}

// OpenerState is an opener as the log has it.
type OpenerState struct {
	Opener
	Hash  codec.Hash
	Since int64
	Done  bool // it has signed its opening statement

	production codec.Hash // of that statement
	exported   uint64
}

// UseState is one use as the log has it.
type UseState struct {
	Use
	Hash  codec.Hash
	Since int64
}

// State is the organisation after a prefix of its control log. It is not safe
// for concurrent use; readers of a shared state hold a lock of its owner's.
type State struct {
	organisation codec.Hash
	size         int64
	time         int64
	genesis      *Genesis
	seen         map[codec.Hash]int64
	times        []int64 // of each leaf

	policies    []PolicyState
	credentials map[codec.Hash]*Credential
	ceremonies  map[codec.ID]*ceremonyState
	epochs      []EpochState
	months      map[codec.Hash]*MonthState
	canaries    map[codec.Hash]codec.Hash // canary leaf → month leaf
	invitations map[codec.PublicKey]Invitation
	devices     map[codec.Hash]*DeviceState
	revoked     []codec.Hash // devices, in the order of their revocations
	keys        map[codec.PublicKey]codec.Hash
	members     map[codec.ID][]codec.Hash
	matters     map[codec.ID]*MatterState
	holds       map[codec.Hash]*HoldState
	requests    map[codec.Hash]*RequestState
	unopened    map[int64]Kind
	exports     []Export

	authorities      []AuthorityState
	authorityChanges []authorityChange
}

// NewState returns the empty state of the organisation of that identity: the first
// leaf it takes is the genesis leaf of that hash.
func NewState(organisation codec.Hash) *State {
	return &State{
		organisation: organisation,
		seen:         map[codec.Hash]int64{},
		credentials:  map[codec.Hash]*Credential{},
		ceremonies:   map[codec.ID]*ceremonyState{},
		months:       map[codec.Hash]*MonthState{},
		canaries:     map[codec.Hash]codec.Hash{},
		invitations:  map[codec.PublicKey]Invitation{},
		devices:      map[codec.Hash]*DeviceState{},
		keys:         map[codec.PublicKey]codec.Hash{},
		members:      map[codec.ID][]codec.Hash{},
		matters:      map[codec.ID]*MatterState{},
		holds:        map[codec.Hash]*HoldState{},
		requests:     map[codec.Hash]*RequestState{},
		unopened:     map[int64]Kind{},
	}
}

// entry is a leaf on its way into the state.
type entry struct {
	*Leaf
	statement *Statement
	hash      codec.Hash
	index     int64
	signed    map[codec.Hash]Algorithm
}

func (e *entry) by(key codec.PublicKey) bool { return e.signed[codec.Hash(key)] == Ed25519 }

func (e *entry) byCredential(id codec.Hash) bool { return e.signed[id] == SSH }

// Apply takes the next leaf. The entry must have been authenticated against a
// checkpoint; opening is nil where it is not needed or not at hand. On error
// the state is as before and the error names the leaf: ErrMalformed,
// ErrUnauthorised, ErrConflict or codec.ErrSignature, wrapped.
func (s *State) Apply(raw []byte, opening *Opening) error {
	leaf, statement, err := Parse(raw)
	if err != nil {
		return fmt.Errorf("control leaf %d: %w", s.size, err)
	}
	e := &entry{Leaf: leaf, statement: statement, hash: statement.Hash(), index: s.size, signed: map[codec.Hash]Algorithm{}}
	for _, g := range leaf.Signatures {
		e.signed[g.Key] = g.Algorithm
	}
	if err := s.admit(e, opening); err != nil {
		return fmt.Errorf("control leaf %d (%s): %w", s.size, statement.Kind, err)
	}
	s.seen[e.hash] = e.index
	s.times = append(s.times, leaf.Time)
	s.size++
	s.time = leaf.Time
	return nil
}

func (s *State) admit(e *entry, opening *Opening) error {
	if err := s.checkPlace(e); err != nil {
		return err
	}
	body := newBody(e.statement.Kind)
	if body == nil {
		return fmt.Errorf("%w: %w: %.64q", ErrMalformed, ErrKind, e.statement.Kind)
	}
	encoded := e.statement.Body
	if e.statement.Kind.Sealed() {
		if len(encoded) != codec.HashSize {
			return fmt.Errorf("%w: a sealed body has %d bytes", ErrMalformed, codec.HashSize)
		}
		if opening == nil {
			s.unopened[e.index] = e.statement.Kind
			return nil
		}
		// The log bounds its entries and not what they stand for.
		if len(opening.Body) > MaxBody {
			return fmt.Errorf("%w: body of %d bytes", ErrMalformed, len(opening.Body))
		}
		if opening.Seal() != codec.Hash(encoded) {
			return fmt.Errorf("%w: the opening is of another leaf", ErrConflict)
		}
		encoded = opening.Body
	}
	if err := codec.Decode(encoded, body); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return body.apply(s, e)
}

func (s *State) checkPlace(e *entry) error {
	if e.index == 0 {
		if e.statement.Kind != KindGenesis || !e.statement.Organisation.IsZero() || e.hash != s.organisation {
			return fmt.Errorf("%w: not the genesis leaf of organisation %s", ErrUnauthorised, s.organisation.Short())
		}
		return nil
	}
	if e.statement.Organisation != s.organisation {
		return fmt.Errorf("%w: a leaf of another organisation", ErrConflict)
	}
	if e.statement.Kind == KindGenesis {
		return fmt.Errorf("%w: a second genesis", ErrConflict)
	}
	if _, ok := s.seen[e.hash]; ok {
		return fmt.Errorf("%w: the same statement is already leaf %d", ErrConflict, s.seen[e.hash])
	}
	if e.Time < s.time {
		return fmt.Errorf("%w: time goes backwards", ErrConflict)
	}
	return nil
}

// Organisation returns the pinned identity.
func (s *State) Organisation() codec.Hash { return s.organisation }

// Size returns the number of leaves taken.
func (s *State) Size() int64 { return s.size }

// Time returns the newest leaf's time in milliseconds since 1970, UTC.
func (s *State) Time() int64 { return s.time }

// Genesis returns the first leaf's body, or nil before it.
func (s *State) Genesis() *Genesis { return s.genesis }

// Index returns the leaf index of a statement.
func (s *State) Index(h codec.Hash) (int64, bool) { i, ok := s.seen[h]; return i, ok }

// TimeAt returns a leaf's time in milliseconds since 1970 UTC.
func (s *State) TimeAt(index int64) (int64, bool) {
	if index < 0 || index >= s.size {
		return 0, false
	}
	return s.times[index], true
}

// CheckReceived decides whether a server can honestly have received something
// at a time, in milliseconds since 1970 UTC, with a control log of that size:
// the leaf before is not of a later time and the leaf after not of one more
// than five minutes earlier. A server could otherwise go on accepting a device
// under a log that ends before the device's revocation. It returns ErrConflict.
func (s *State) CheckReceived(size, time int64) error {
	if size < 1 || size > s.size {
		return conflict("received at control size %d, replayed to %d", size, s.size)
	}
	if last := s.times[size-1]; last > time+logDelay {
		return conflict("received before the control log had %d leaves", size)
	}
	if size < s.size && time > s.times[size]+logDelay {
		return conflict("received when the control log was longer than %d leaves for over five minutes", size)
	}
	return nil
}

// Unopened returns how many sealed leaves lacked their opening. A keyholder or
// guard answers nothing while there is one: it may be a hold or more.
func (s *State) Unopened() int { return len(s.unopened) }

// Device returns a device by its leaf.
func (s *State) Device(h codec.Hash) (*DeviceState, bool) { d, ok := s.devices[h]; return d, ok }

// DeviceByKey returns a device by its signing key.
func (s *State) DeviceByKey(key codec.PublicKey) (*DeviceState, bool) {
	h, ok := s.keys[key]
	if !ok {
		return nil, false
	}
	return s.devices[h], true
}

// Invited reports whether key is that of an invitation not yet used.
func (s *State) Invited(key codec.PublicKey) bool { _, ok := s.invitations[key]; return ok }

// Devices returns the leaves of a member's devices, oldest first.
func (s *State) Devices(member codec.ID) []codec.Hash { return slices.Clone(s.members[member]) }

// MustReach returns, in no order, the devices that a direct conversation of
// members has to reach in a log of a size and at a time in milliseconds: all that
// may be added to conversations then, and of those before, all that are not
// revoked.
func (s *State) MustReach(members []codec.ID, before []codec.Hash, size, now int64) []codec.Hash {
	var out []codec.Hash
	for _, m := range members {
		for _, h := range s.members[m] {
			stays := slices.Contains(before, h) && s.devices[h].ValidAt(size)
			if _, err := s.CheckDevice(h, size, now); err == nil || stays {
				out = append(out, h)
			}
		}
	}
	return out
}

// Members returns the ids of all members with a device, in no order.
func (s *State) Members() []codec.ID { return slices.Collect(maps.Keys(s.members)) }

// Revoked returns the devices that were revoked, in the order of the log. The
// caller must not change it.
func (s *State) Revoked() []codec.Hash { return s.revoked }

// Credential returns a person's credential by its fingerprint.
func (s *State) Credential(id codec.Hash) (*Credential, bool) {
	c, ok := s.credentials[id]
	return c, ok
}

// Credentials returns the people's SSH credentials, those that have lost their
// last role included, in the order of member and key.
func (s *State) Credentials() []*Credential {
	return slices.SortedFunc(maps.Values(s.credentials), func(a, b *Credential) int {
		return cmp.Or(bytes.Compare(a.Member[:], b.Member[:]), bytes.Compare(a.Person.Credential, b.Person.Credential))
	})
}

// Epoch returns an escrow epoch by its leaf.
func (s *State) Epoch(h codec.Hash) (*EpochState, bool) {
	for i := range s.epochs {
		if s.epochs[i].Hash == h {
			return &s.epochs[i], true
		}
	}
	return nil, false
}

// Epochs returns all escrow epochs, oldest first.
func (s *State) Epochs() []EpochState { return slices.Clone(s.epochs) }

// Month returns an escrow key by its leaf.
func (s *State) Month(h codec.Hash) (*MonthState, bool) { m, ok := s.months[h]; return m, ok }

// Months returns all escrow keys in the order of their leaves.
func (s *State) Months() []*MonthState {
	return slices.SortedFunc(maps.Values(s.months), func(a, b *MonthState) int { return int(a.Since - b.Since) })
}

// Policies returns every version of the policy, oldest first.
func (s *State) Policies() []PolicyState { return slices.Clone(s.policies) }

// Policy returns the newest policy.
func (s *State) Policy() *PolicyState {
	if len(s.policies) == 0 {
		return nil
	}
	return &s.policies[len(s.policies)-1]
}

// PolicyByHash returns a version of the policy by its leaf.
func (s *State) PolicyByHash(h codec.Hash) (*PolicyState, bool) {
	for i := range s.policies {
		if s.policies[i].Hash == h {
			return &s.policies[i], true
		}
	}
	return nil, false
}

// Request returns a request by its leaf.
func (s *State) Request(h codec.Hash) (*RequestState, bool) { r, ok := s.requests[h]; return r, ok }

// Requests returns all requests in the order of their leaves.
func (s *State) Requests() []*RequestState {
	return slices.SortedFunc(maps.Values(s.requests), func(a, b *RequestState) int { return int(a.Since - b.Since) })
}

// Matters returns all matters whose opening is known, in the order of their
// leaves.
func (s *State) Matters() []*MatterState {
	return slices.SortedFunc(maps.Values(s.matters), func(a, b *MatterState) int { return int(a.Since - b.Since) })
}

// Matter returns a matter by its id.
func (s *State) Matter(id codec.ID) (*MatterState, bool) { m, ok := s.matters[id]; return m, ok }

// MatterIndex returns the leaf index of a matter.
func (s *State) MatterIndex(id codec.ID) (int64, bool) {
	m, ok := s.matters[id]
	if !ok {
		return Never, false
	}
	return m.Since, true
}

// Holds returns the holds that stand, in the order of their leaves.
func (s *State) Holds() []*HoldState {
	var out []*HoldState
	for _, h := range s.holds {
		if h.Released == Never {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *HoldState) int { return int(a.Since - b.Since) })
	return out
}

// Hold returns a hold by its leaf.
func (s *State) Hold(h codec.Hash) (*HoldState, bool) { x, ok := s.holds[h]; return x, ok }

// Exports returns every export.
func (s *State) Exports() []Export { return slices.Clone(s.exports) }

// Ceremony returns a key generation's parameters and its messages so far.
func (s *State) Ceremony(id codec.ID) (quorum.Ceremony, []quorum.Message, bool) {
	c, ok := s.ceremonies[id]
	if !ok {
		return quorum.Ceremony{}, nil, false
	}
	return c.ceremony, slices.Clone(c.board), true
}

// Ceremonies returns the ids of all key generations in the order of their leaves.
func (s *State) Ceremonies() []codec.ID {
	ids := slices.Collect(maps.Keys(s.ceremonies))
	slices.SortFunc(ids, func(a, b codec.ID) int { return int(s.ceremonies[a].since - s.ceremonies[b].since) })
	return ids
}

// Canary returns the canary of a month's key, its leaf, and who has answered it.
func (m *MonthState) Canary() (leaf codec.Hash, canary *Canary, keyholders, guards map[uint8]bool) {
	if m.canary == nil {
		return codec.Hash{}, nil, nil, nil
	}
	keyholders, guards = map[uint8]bool{}, map[uint8]bool{}
	for _, a := range m.answers {
		keyholders[uint8(a.Holder)] = true
	}
	for g := range m.secrets {
		guards[g] = true
	}
	return m.canary.leaf, m.canary.body, keyholders, guards
}
