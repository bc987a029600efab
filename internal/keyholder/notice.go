package keyholder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/wire"
)

// maxNotice is the greatest length in bytes of a statement handed over: that of
// a control leaf, with its opening.
const maxNotice = control.MaxBody + 128<<10

var (
	// errNotice means that a statement is of no kind that is handed over.
	errNotice = errors.New("holds, refusals, withdrawals and revocations are handed over; everything else binds from the log")
	// errUnauthorised means that whoever signed a notice may not.
	errUnauthorised = errors.New("not signed by those who may")
	errTooMany      = errors.New("too many notices")
)

// handed is a statement as it was handed over, and is stored.
type handed struct {
	_      struct{} `cbor:",toarray"`
	Time   int64    // milliseconds since 1970, UTC
	Submit wire.Submit
}

func parseHanded(data []byte) (*handed, error) {
	if len(data) > maxNotice+64 {
		return nil, fmt.Errorf("notice of %d bytes: %w", len(data), codec.ErrSize)
	}
	var n handed
	if err := codec.Decode(data, &n); err != nil {
		return nil, fmt.Errorf("notice: %w", err)
	}
	return &n, nil
}

// notices are what people handed over: they bind from that moment, logged or
// not. What loosens anything is never taken from here. Safe for concurrent use.
type notices struct {
	dir string

	mu        sync.RWMutex // guards what follows
	known     map[codec.Hash]bool
	withdrawn map[codec.Hash]bool         // requests
	vetoed    map[codec.Hash]bool         // requests
	revoked   map[codec.Hash]int64        // devices → time
	holds     map[codec.Hash]control.Hold // by statement
}

func openNotices(dir string) (*notices, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the directory of notices: %w", err)
	}
	n := &notices{
		dir: dir, known: map[codec.Hash]bool{}, withdrawn: map[codec.Hash]bool{}, vetoed: map[codec.Hash]bool{},
		revoked: map[codec.Hash]int64{}, holds: map[codec.Hash]control.Hold{},
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the notices: %w", err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			continue // was being written when the process ended
		}
		if err := n.load(f.Name()); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotices, f.Name(), err)
		}
	}
	return n, nil
}

func (n *notices) load(name string) error {
	data, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil {
		return err
	}
	stored, err := parseHanded(data)
	if err != nil {
		return err
	}
	statement, body, err := readNotice(&stored.Submit)
	if err != nil {
		return err
	}
	if statement.Hash().String() != name {
		return errors.New("it is another statement's")
	}
	n.bind(statement.Hash(), body, stored.Time)
	return nil
}

// readNotice decodes a statement of a kind that may be handed over.
func readNotice(submit *wire.Submit) (*control.Statement, control.Body, error) {
	s, err := control.ParseStatement(submit.Statement)
	if err != nil {
		return nil, nil, err
	}
	var body control.Body
	switch s.Kind {
	case control.KindHold:
		body = new(control.Hold)
	case control.KindApproval:
		body = new(control.Approval)
	case control.KindWithdrawal:
		body = new(control.Withdrawal)
	case control.KindRevocation:
		body = new(control.Revocation)
	default:
		return nil, nil, fmt.Errorf("%s: %w", s.Kind, errNotice)
	}
	encoded := s.Body
	if s.Kind.Sealed() {
		if submit.Opening == nil || len(s.Body) != codec.HashSize || submit.Opening.Seal() != codec.Hash(s.Body) {
			return nil, nil, fmt.Errorf("%w: a sealed statement comes with its opening", control.ErrMalformed)
		}
		encoded = submit.Opening.Body
	}
	if err := codec.Decode(encoded, body); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", control.ErrMalformed, err)
	}
	if a, ok := body.(*control.Approval); ok && a.Decision != control.Refuse {
		return nil, nil, fmt.Errorf("an approval: %w", errNotice)
	}
	return s, body, nil
}

// bind makes a notice count. The caller holds mu, or has n to itself.
func (n *notices) bind(hash codec.Hash, body control.Body, time int64) {
	n.known[hash] = true
	switch b := body.(type) {
	case *control.Withdrawal:
		n.withdrawn[b.Request] = true
	case *control.Approval:
		n.vetoed[b.Request] = true
	case *control.Hold:
		n.holds[hash] = *b
	case *control.Revocation:
		if at, ok := n.revoked[b.Device]; !ok || time < at {
			n.revoked[b.Device] = time
		}
	}
}

// add stores a notice, and only then lets it bind; one known is left as it is.
func (n *notices) add(hash codec.Hash, body control.Body, submit *wire.Submit, time int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[hash] {
		return nil
	}
	if len(n.known) >= maxNotices {
		return errTooMany
	}
	data := codec.Encode(&handed{Time: time, Submit: *submit})
	if err := custody.WriteFile(filepath.Join(n.dir, hash.String()), data, 0o600); err != nil {
		return err
	}
	n.bind(hash, body, time)
	return nil
}

func (n *notices) isWithdrawn(request codec.Hash) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.withdrawn[request]
}

func (n *notices) isVetoed(request codec.Hash) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.vetoed[request]
}

// isRevoked reports whether a device had been revoked here by a time.
func (n *notices) isRevoked(device codec.Hash, time int64) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	at, ok := n.revoked[device]
	return ok && time >= at
}

// standing returns the holds handed over that the log doesn't have: those that
// it has end with its release.
func (n *notices) standing(s *control.State) []control.Hold {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var out []control.Hold
	for hash, hold := range n.holds {
		if _, logged := s.Hold(hash); !logged {
			out = append(out, hold)
		}
	}
	return out
}

// handOver checks a notice against the state and takes it.
func (h *holder) handOver(submit *wire.Submit) error {
	statement, body, err := readNotice(submit)
	if err != nil {
		return err
	}
	h.replica.Read(func(s *control.State) {
		var signed signers
		if signed, err = verify(s, statement, submit.Signatures); err == nil {
			err = mayNotify(s, body, signed)
		}
	})
	if err != nil {
		return err
	}
	hash, now := statement.Hash(), h.Now().UnixMilli()
	if err := h.notices.add(hash, body, submit, now); err != nil {
		return err
	}
	return h.record.append(&entry{Time: now, What: didNotice, Request: hash, Outcome: string(statement.Kind)})
}

// mayNotify decides who may hand over what: whoever may sign the leaf, as far
// as that can be told without it.
func mayNotify(s *control.State, body control.Body, signed signers) error {
	switch b := body.(type) {
	case *control.Hold:
		if signed.people(s, control.RoleReviewer) == 1 {
			return nil
		}
	case *control.Approval:
		// The requester never approves, and can't veto either: it withdraws.
		if signed.people(s, control.RoleApprover) == 1 {
			return nil
		}
	case *control.Withdrawal:
		if signed.people(s, control.RoleOfficer)+signed.people(s, control.RoleApprover) > 0 {
			return nil
		}
		if r, ok := s.Request(b.Request); ok && signed[r.Requester] == control.SSH {
			return nil
		}
	case *control.Revocation:
		if signed.people(s, control.RoleOfficer) > 0 || signed.sibling(s, b.Device) {
			return nil
		}
	}
	return errUnauthorised
}

// signers are the keys whose signatures on a statement verified.
type signers map[codec.Hash]control.Algorithm

// verify checks every signature on a statement of the state's organisation.
func verify(s *control.State, statement *control.Statement, signatures []control.Signature) (signers, error) {
	if statement.Organisation != s.Organisation() {
		return nil, fmt.Errorf("%w: a statement of another organisation", control.ErrConflict)
	}
	// A leaf is where signatures are checked: this one goes nowhere.
	leaf, _, err := control.Parse(control.NewLeaf(statement, 0, signatures).Encode())
	if err != nil {
		return nil, err
	}
	out := signers{}
	for _, g := range leaf.Signatures {
		out[g.Key] = g.Algorithm
	}
	return out, nil
}

// people counts the members who signed in a role.
func (g signers) people(s *control.State, role control.Role) int {
	members := map[codec.ID]bool{}
	for key, algorithm := range g {
		if c, ok := s.Credential(key); ok && algorithm == control.SSH && c.Roles[role] {
			members[c.Member] = true
		}
	}
	return len(members)
}

// sibling reports whether a live device of the same member signed.
func (g signers) sibling(s *control.State, device codec.Hash) bool {
	d, ok := s.Device(device)
	if !ok {
		return false
	}
	for key, algorithm := range g {
		other, ok := s.DeviceByKey(codec.PublicKey(key))
		if ok && algorithm == control.Ed25519 && other.Member == d.Member && other.ValidAt(s.Size()) {
			return true
		}
	}
	return false
}
