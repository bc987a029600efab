// Package directory is the control log's writer: it collects a statement's
// signatures, applies the organisation's rules and logs what they allow. It
// also keeps members' names, the only place that does, and devices' KeyPackages
// and prekeys.
//
// Nobody has to trust it: every reader of the log applies the same rules, so
// that a leaf which should not be there convicts the server. It can refuse or
// delay a statement; what it has logged it can't take back.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	// Bounds of the pending desk.
	maxPending    = 1024                // statements
	maxPerKey     = 64                  // statements that one key brought
	pendingAge    = 14 * 24 * time.Hour // after which a statement is forgotten
	maxStatement  = 60 << 10            // so that the leaf fits 65,535 bytes
	maxSignatures = 64

	maxName = 256
)

var (
	// ErrSize means that something is larger than its bound.
	ErrSize = errors.New("too large")
	// ErrFull means that the desk of pending statements, or a stock, is full.
	ErrFull = errors.New("full")
	// ErrUnknownKey means that a signature is by a key without a place in the
	// organisation.
	ErrUnknownKey = errors.New("signed by a key that the organisation doesn't know")
	// ErrOpening means that a sealed statement came without its opening, or with
	// another's.
	ErrOpening = errors.New("a sealed statement needs its opening")
	// ErrNotFounded means that the organisation has no genesis leaf yet.
	ErrNotFounded = errors.New("the organisation is not founded yet")
	// ErrFounded means that the organisation has its genesis leaf.
	ErrFounded = errors.New("the organisation is founded")
)

// Config says what a directory works with.
type Config struct {
	Store store.Store
	Now   func() time.Time
	Log   *slog.Logger
	// Logged is told after each leaf that was logged, in order, with the devices
	// that have a new notice in their queue. It must not call back.
	Logged func(kind control.Kind, notified []codec.Hash)
}

// Directory is safe for concurrent use.
type Directory struct {
	Config

	mu       sync.RWMutex // guards what follows; held while the disk takes a leaf
	state    *control.State
	genesis  []byte
	pending  map[codec.Hash]*pending
	openings map[int64]*control.Opening

	claims claims
}

// pending is a statement that waits for signatures.
type pending struct {
	wire.Pending
	by codec.Hash // the key that brought it
}

// Found writes the genesis entry into an empty store. It returns control's
// errors where the entry isn't one, and ErrFounded.
func Found(ctx context.Context, s store.Store, entry []byte) (codec.Hash, error) {
	if s.Size(ledger.ControlLog) != 0 {
		return codec.Hash{}, ErrFounded
	}
	_, statement, err := control.Parse(entry)
	if err != nil {
		return codec.Hash{}, err
	}
	organisation := statement.Hash()
	if err := control.NewState(organisation).Apply(entry, nil); err != nil {
		return codec.Hash{}, err
	}
	return organisation, s.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Append(ledger.ControlLog, entry)
		return err
	})
}

// Open replays the log from the store, which must have its genesis leaf.
func Open(ctx context.Context, cfg Config) (*Directory, error) {
	if cfg.Logged == nil {
		cfg.Logged = func(control.Kind, []codec.Hash) {}
	}
	d := &Directory{Config: cfg}
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// load reads everything from disk again.
func (d *Directory) load(ctx context.Context) error {
	size := d.Store.Size(ledger.ControlLog)
	if size == 0 {
		return ErrNotFounded
	}
	entries, err := d.Store.Entries(ctx, ledger.ControlLog, 0, size)
	if err != nil {
		return err
	}
	openings := map[int64]*control.Opening{}
	err = d.Store.Openings(ctx, 0, func(index int64, raw []byte) error {
		o := new(control.Opening)
		openings[index] = o
		return codec.Decode(raw, o)
	})
	if err != nil {
		return fmt.Errorf("couldn't read the openings: %w", err)
	}
	_, genesis, err := control.Parse(entries[0])
	if err != nil {
		return err
	}
	state := control.NewState(genesis.Hash())
	for i, e := range entries {
		if err := state.Apply(e, openings[int64(i)]); err != nil {
			return fmt.Errorf("couldn't replay the control log: %w", err)
		}
	}
	waiting := map[codec.Hash]*pending{}
	err = d.Store.Pending(ctx, func(hash codec.Hash, body []byte, since int64) error {
		p := new(pending)
		waiting[hash] = p
		if err := codec.Decode(body, &p.Pending); err != nil {
			return err
		}
		p.by = p.Signatures[0].Key
		return nil
	})
	if err != nil {
		return fmt.Errorf("couldn't read the pending statements: %w", err)
	}
	d.state, d.genesis, d.openings, d.pending = state, entries[0], openings, waiting
	return nil
}

// Read calls f with the state, and the root of the log at its size, under the
// read lock. f must keep nothing of the state beyond copies, and must not call
// Submit.
func (d *Directory) Read(f func(s *control.State, root codec.Hash)) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	// Leaves are appended under the write lock alone, so that size and root
	// belong to the state.
	_, root := d.Store.Head(ledger.ControlLog)
	f(d.state, root)
}

// Genesis returns entry 0 of the log. The caller must not change it.
func (d *Directory) Genesis() []byte { return d.genesis }

// Submit takes a statement with signatures, adds them to those that came
// before, and logs it where the rules allow. The same statement may be offered
// again: once logged, its index is the answer.
//
// It returns codec.ErrSignature, control.ErrMalformed, control.ErrConflict,
// ErrUnknownKey, ErrOpening, ErrSize or ErrFull, wrapped. Where a kind takes
// signatures of several, missing ones are no error: the answer says what is
// missing. Where it takes one, the error is control.ErrUnauthorised.
func (d *Directory) Submit(ctx context.Context, in *wire.Submit) (*wire.Submitted, error) {
	s, err := d.check(in)
	if err != nil {
		return nil, err
	}
	hash := s.Hash()
	d.mu.Lock()
	defer d.mu.Unlock()
	if index, ok := d.state.Index(hash); ok {
		return &wire.Submitted{Hash: hash, Index: index}, nil
	}
	signatures, opening := in.Signatures, in.Opening
	merged := signatures
	if waiting := d.pending[hash]; waiting != nil {
		merged = merge(waiting.Signatures, signatures)
		if opening == nil {
			opening = waiting.Opening
		}
	}
	if err := checkOpening(s, opening); err != nil {
		return nil, err
	}
	if len(merged) > maxSignatures {
		return nil, fmt.Errorf("%d signatures on one statement: %w", len(merged), ErrSize)
	}
	index, err := d.log(ctx, s, opening, merged)
	if errors.Is(err, control.ErrUnauthorised) && len(merged) > len(signatures) {
		// Some kinds want one signature alone, and another's mustn't keep the one
		// who may sign from it.
		if i, alone := d.log(ctx, s, opening, signatures); alone == nil {
			index, err = i, nil
		}
	}
	switch {
	case errors.Is(err, control.ErrUnauthorised) && gathers(s.Kind):
		if err := d.keep(ctx, hash, s, opening, merged); err != nil {
			return nil, err
		}
		return &wire.Submitted{Hash: hash, Index: control.Never, Missing: err.Error()}, nil
	case err != nil:
		return nil, err
	}
	return &wire.Submitted{Hash: hash, Index: index}, nil
}

// gathers reports whether a kind's statements take signatures of several, who
// may come one after another.
func gathers(k control.Kind) bool {
	switch k {
	case control.KindPolicy, control.KindRole, control.KindCeremony, control.KindEpoch, control.KindMonth, control.KindInvitation,
		control.KindDevice, control.KindRelease, control.KindOpener, control.KindDestruction, control.KindAuthority:
		return true
	}
	return false
}

// check decides what takes time, before the lock: form, sizes, whose signatures
// they are, which is cheap, and then each by itself.
func (d *Directory) check(in *wire.Submit) (*control.Statement, error) {
	if len(in.Statement) > maxStatement || (in.Opening != nil && len(in.Opening.Body) > control.MaxBody) || len(in.Signatures) > maxSignatures {
		return nil, fmt.Errorf("statement: %w", ErrSize)
	}
	s, err := control.ParseStatement(in.Statement)
	if err != nil {
		return nil, err
	}
	if len(in.Signatures) == 0 {
		return nil, fmt.Errorf("%w: no signature", control.ErrMalformed)
	}
	if err := d.admissible(s, in.Signatures); err != nil {
		return nil, err
	}
	for _, g := range in.Signatures {
		// A leaf with this signature alone says whether it verifies.
		if _, _, err := control.Parse(control.NewLeaf(s, d.Now().UnixMilli(), []control.Signature{g}).Encode()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func checkOpening(s *control.Statement, o *control.Opening) error {
	if !s.Kind.Sealed() {
		if o != nil {
			return fmt.Errorf("%w, and a %s statement isn't sealed", ErrOpening, s.Kind)
		}
		return nil
	}
	if o == nil {
		return ErrOpening
	}
	if seal := o.Seal(); string(seal[:]) != string(s.Body) {
		return fmt.Errorf("%w: this is another's", ErrOpening)
	}
	return nil
}

// admissible returns ErrUnknownKey unless each signature is by a key with a
// place in the organisation, or by one that the statement itself introduces:
// strangers could otherwise fill the desk, or a leaf.
func (d *Directory) admissible(s *control.Statement, signatures []control.Signature) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if _, logged := d.state.Index(s.Hash()); logged {
		// Offered again it is only answered; an invitation that signed it is used.
		return nil
	}
	own := introduces(s)
	for _, g := range signatures {
		if g.Key != own && !d.knows(g) {
			return fmt.Errorf("%s: %w", g.Key.Short(), ErrUnknownKey)
		}
	}
	return nil
}

// introduces returns the key that a device's or an opener's statement brings.
func introduces(s *control.Statement) codec.Hash {
	switch s.Kind {
	case control.KindDevice:
		var b control.Device
		if codec.Decode(s.Body, &b) == nil {
			return codec.Hash(b.Key)
		}
	case control.KindOpener:
		var b control.Opener
		if codec.Decode(s.Body, &b) == nil {
			return codec.Hash(b.Sign)
		}
	}
	return codec.Hash{}
}

func (d *Directory) knows(g control.Signature) bool {
	if g.Algorithm == control.SSH {
		_, ok := d.state.Credential(g.Key)
		return ok
	}
	key := codec.PublicKey(g.Key)
	if _, ok := d.state.DeviceByKey(key); ok {
		return true
	}
	return d.state.Invited(key) || Holder(d.state, key) != nil || Opener(d.state, key)
}

// Holder returns the keyholder or guard whose signing key this is, or nil.
func Holder(s *control.State, key codec.PublicKey) *control.Holder {
	g := s.Genesis()
	for _, list := range [][]control.Holder{g.Keyholders, g.Guards} {
		for i := range list {
			if list[i].Sign == key {
				return &list[i]
			}
		}
	}
	return nil
}

// Opener reports whether the key is that of some request's opener.
func Opener(s *control.State, key codec.PublicKey) bool {
	for _, r := range s.Requests() {
		for _, o := range r.Openers {
			if o.Sign == key {
				return true
			}
		}
	}
	return false
}

func merge(a, b []control.Signature) []control.Signature {
	out := slices.Clone(a)
	for _, g := range b {
		if !slices.ContainsFunc(out, func(x control.Signature) bool { return x.Key == g.Key }) {
			out = append(out, g)
		}
	}
	return out
}

// log applies a statement and makes it durable. Readers see neither before
// both: the caller holds the lock.
func (d *Directory) log(ctx context.Context, s *control.Statement, opening *control.Opening, signatures []control.Signature) (int64, error) {
	index := d.state.Size()
	leaf := control.NewLeaf(s, max(d.Now().UnixMilli(), d.state.Time()), signatures)
	entry := leaf.Encode()
	if err := d.state.Apply(entry, opening); err != nil {
		return 0, err
	}
	hash := s.Hash()
	var notified []codec.Hash
	err := d.Store.Update(ctx, func(tx store.Tx) error {
		at, err := tx.Append(ledger.ControlLog, entry)
		if err != nil {
			return err
		}
		if at != index {
			return fmt.Errorf("leaf %d of the control log where %d was next", at, index)
		}
		if opening != nil {
			if err := tx.PutOpening(index, codec.Encode(opening)); err != nil {
				return err
			}
		}
		if _, ok := d.pending[hash]; ok {
			if err := tx.DropPending(hash); err != nil {
				return err
			}
		}
		notified, err = d.notify(tx, s, index, opening)
		return err
	})
	if err != nil {
		// The disk has the leaf or not; memory follows it.
		if loadErr := d.load(context.WithoutCancel(ctx)); loadErr != nil {
			return 0, errors.Join(err, loadErr)
		}
		if at, ok := d.state.Index(hash); ok {
			return at, nil
		}
		return 0, err
	}
	if opening != nil {
		d.openings[index] = opening
	}
	delete(d.pending, hash)
	d.Logged(s.Kind, notified)
	return index, nil
}

// notify queues the notice of a hold for its custodians' devices, and the holds
// that stand for a custodian's new device.
func (d *Directory) notify(tx store.Tx, s *control.Statement, index int64, opening *control.Opening) ([]codec.Hash, error) {
	var notified []codec.Hash
	add := func(device codec.Hash, index int64, opening *control.Opening) error {
		notified = append(notified, device)
		return tx.AddNotice(device, codec.Encode(&wire.Opening{Index: index, Opening: *opening}))
	}
	switch s.Kind {
	case control.KindHold:
		hold, ok := d.state.Hold(s.Hash())
		if !ok {
			return nil, nil
		}
		for _, member := range hold.Custodians {
			for _, device := range d.state.Devices(member) {
				if state, ok := d.state.Device(device); ok && state.Revoked == control.Never {
					if err := add(device, index, opening); err != nil {
						return nil, err
					}
				}
			}
		}
	case control.KindDevice:
		device, ok := d.state.Device(s.Hash())
		if !ok {
			return nil, nil
		}
		for _, hold := range d.state.Holds() {
			if slices.Contains(hold.Custodians, device.Member) {
				if err := add(device.Hash, hold.Since, d.openings[hold.Since]); err != nil {
					return nil, err
				}
			}
		}
	}
	return notified, nil
}

// keep puts a statement on the pending desk. The caller holds the lock.
func (d *Directory) keep(ctx context.Context, hash codec.Hash, s *control.Statement, opening *control.Opening, signatures []control.Signature) error {
	now := d.Now()
	p := &pending{by: signatures[0].Key}
	p.Pending = wire.Pending{Statement: codec.Encode(s), Opening: opening, Signatures: signatures, Since: now.UnixMilli()}
	if old := d.pending[hash]; old != nil {
		p.Since = old.Since
		if len(old.Signatures) == len(signatures) {
			return nil
		}
	}
	var stale []codec.Hash
	brought := 0
	for h, other := range d.pending {
		switch {
		case now.Sub(time.UnixMilli(other.Since)) > pendingAge:
			stale = append(stale, h)
		case other.by == p.by && h != hash:
			brought++
		}
	}
	if len(d.pending)-len(stale) >= maxPending || brought >= maxPerKey {
		return fmt.Errorf("the desk of pending statements is %w", ErrFull)
	}
	err := d.Store.Update(ctx, func(tx store.Tx) error {
		for _, h := range stale {
			if err := tx.DropPending(h); err != nil {
				return err
			}
		}
		return tx.PutPending(hash, codec.Encode(&p.Pending), p.Since)
	})
	if err != nil {
		return err
	}
	for _, h := range stale {
		delete(d.pending, h)
	}
	d.pending[hash] = p
	return nil
}

// Pending returns the statements that wait for signatures, oldest first.
func (d *Directory) Pending() []wire.Pending {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := []wire.Pending{}
	for _, p := range d.pending {
		out = append(out, p.Pending)
	}
	slices.SortFunc(out, func(a, b wire.Pending) int {
		if a.Since != b.Since {
			return int(a.Since - b.Since)
		}
		return slices.Compare(a.Statement, b.Statement)
	})
	return out
}

// Openings returns the openings of sealed leaves from an index on: all of them,
// or for a member's device those of holds that name the member.
func (d *Directory) Openings(from int64, member *codec.ID) []wire.Opening {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := []wire.Opening{}
	for index, o := range d.openings {
		if index >= from && (member == nil || d.names(index, *member)) {
			out = append(out, wire.Opening{Index: index, Opening: *o})
		}
	}
	slices.SortFunc(out, func(a, b wire.Opening) int { return int(a.Index - b.Index) })
	return out
}

// names reports whether the leaf is a hold with the member among its
// custodians.
func (d *Directory) names(index int64, member codec.ID) bool {
	// No other sealed body has this form, and the log took the leaf.
	var hold control.Hold
	return codec.Decode(d.openings[index].Body, &hold) == nil && slices.Contains(hold.Custodians, member)
}

// AddMember names a member; an empty name erases it. It returns ErrSize.
func (d *Directory) AddMember(ctx context.Context, m wire.Member) error {
	if len(m.Name) > maxName {
		return fmt.Errorf("name of %d bytes, at most %d: %w", len(m.Name), maxName, ErrSize)
	}
	if m.ID.IsZero() {
		return fmt.Errorf("%w: a member has an id", control.ErrMalformed)
	}
	return d.Store.Update(ctx, func(tx store.Tx) error { return tx.PutMember(m.ID, m.Name) })
}

// Members returns all names.
func (d *Directory) Members(ctx context.Context) ([]wire.Member, error) {
	out := []wire.Member{}
	err := d.Store.Members(ctx, func(id codec.ID, name string) error {
		out = append(out, wire.Member{ID: id, Name: name})
		return nil
	})
	return out, err
}
