package keyholder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
)

const (
	monthsAhead = 3
	// maker is the guard that makes months' keys; the others have them from it.
	maker = 1
	// graceOfKey is how long after its successor took effect an escrow key may
	// still be sealed to (control.State.CheckHeader), clocks included.
	graceOfKey = 72*time.Hour + 10*time.Minute
)

// slot is what a month's key is made for.
type slot struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Epoch        codec.Hash
	Region       string
	Class        string
	Month        uint32
}

func (s *slot) hash() codec.Hash { return codec.Sum("month-slot", codec.Encode(s)) }

// slotsMissing returns which months' keys should be there and are not: of the newest
// epoch, the newest policy's region and class, this month and three ahead.
func (h *holder) slotsMissing(s *control.State) []slot {
	epochs, policy := s.Epochs(), s.Policy()
	if len(epochs) == 0 || policy == nil {
		return nil
	}
	made := map[codec.Hash]bool{}
	for _, m := range s.Months() {
		k := slot{Organisation: h.Organisation, Epoch: m.Epoch, Region: m.Region, Class: m.Class, Month: m.Month.Month}
		made[k.hash()] = true
	}
	var out []slot
	now := control.MonthOf(envelope.DayOf(h.Now()))
	for month := now; month <= now+monthsAhead; month++ {
		k := slot{Organisation: h.Organisation, Epoch: epochs[len(epochs)-1].Hash, Region: policy.Region, Class: policy.Class, Month: month}
		if !made[k.hash()] {
			out = append(out, k)
		}
	}
	return out
}

// makeMonths makes the keys that are missing and proposes their statements. One
// guard makes them: two would each propose another for the same month.
func (h *holder) makeMonths(ctx context.Context) error {
	if h.index() != maker {
		return nil
	}
	var missing []slot
	h.replica.Read(func(s *control.State) { missing = h.slotsMissing(s) })
	var errs []error
	for _, k := range missing {
		public, err := h.Custody.MakeMonth(k.hash())
		if err == nil {
			err = h.offer(ctx, &control.Month{Epoch: k.Epoch, Region: k.Region, Class: k.Class, Month: k.Month, MLKEM: public})
		}
		if err != nil {
			err = fmt.Errorf("month %d: %w", k.Month, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sign adds the guard's signature to what waits for it: months that another
// guard made, once the key is here too, and destructions that nothing forbids.
func (h *holder) sign(ctx context.Context) error {
	pending, err := h.Server.Pending(ctx)
	if err != nil {
		return fmt.Errorf("couldn't read what waits for signatures: %w", err)
	}
	var errs []error
	for i := range pending {
		if err := h.signPending(ctx, &pending[i]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (h *holder) signPending(ctx context.Context, p *wire.Pending) error {
	statement, err := control.ParseStatement(p.Statement)
	if err != nil {
		return fmt.Errorf("pending statement: %w", err)
	}
	for _, g := range p.Signatures {
		if g.Key == codec.Hash(h.Custody.PublicKey()) {
			return nil
		}
	}
	switch statement.Kind {
	case control.KindMonth:
		err = h.signMonth(ctx, statement, p.Signatures)
	case control.KindDestruction:
		err = h.signDestruction(ctx, statement, p.Signatures)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", statement.Kind, statement.Hash().Short(), err)
	}
	return nil
}

// signMonth checks that the key proposed is one that is missing and that its
// maker proposes it, fetches the key, and then says that it holds it.
func (h *holder) signMonth(ctx context.Context, statement *control.Statement, signatures []control.Signature) error {
	var month control.Month
	if err := codec.Decode(statement.Body, &month); err != nil {
		return err
	}
	var err error
	h.replica.Read(func(s *control.State) {
		var signed signers
		if signed, err = verify(s, statement, signatures); err != nil {
			return
		}
		if signed[codec.Hash(s.Genesis().Guards[maker-1].Sign)] != control.Ed25519 {
			err = fmt.Errorf("%w: want the guard that makes months", errUnauthorised)
			return
		}
		want := slot{Organisation: h.Organisation, Epoch: month.Epoch, Region: month.Region, Class: month.Class, Month: month.Month}
		if !slices.ContainsFunc(h.slotsMissing(s), func(k slot) bool { return k == want }) {
			err = errors.New("no such key is missing")
			return
		}
		epoch, _ := s.Epoch(month.Epoch)
		_, err = envelope.NewPublicKey(epoch.Key.Key[:], month.MLKEM)
	})
	if err != nil {
		return err
	}
	if err := h.fetch(ctx, statement, &month); err != nil {
		return err
	}
	return h.offerStatement(ctx, statement)
}

// signDestruction signs where the officers ask for it and no hold, logged or
// handed over, covers a message that the key may be needed for.
func (h *holder) signDestruction(ctx context.Context, statement *control.Statement, signatures []control.Signature) error {
	var d control.Destruction
	if err := codec.Decode(statement.Body, &d); err != nil {
		return err
	}
	if err := h.replicaFresh(); err != nil {
		return err // a hold may have come since
	}
	var err error
	h.replica.Read(func(s *control.State) { err = h.mayDestroy(s, statement, &d, signatures) })
	if err != nil {
		return err
	}
	return h.offerStatement(ctx, statement)
}

func (h *holder) mayDestroy(s *control.State, statement *control.Statement, d *control.Destruction, signatures []control.Signature) error {
	signed, err := verify(s, statement, signatures)
	if err != nil {
		return err
	}
	if got, want := signed.people(s, control.RoleOfficer), int(s.Genesis().OfficerQuorum); got < want {
		return fmt.Errorf("%w: %d of %d officers", errUnauthorised, got, want)
	}
	month, ok := s.Month(d.Month)
	if !ok || month.Destroyed != control.Never {
		return errors.New("no such month, or its key is destroyed")
	}
	if s.Unopened() > 0 {
		return errors.New("a sealed leaf has no opening, and counts as a hold on everything")
	}
	for _, hold := range s.Holds() {
		if covers(s, month, &hold.Hold) {
			return fmt.Errorf("hold %s covers it", hold.Hash.Short())
		}
	}
	for _, hold := range h.notices.standing(s) {
		if covers(s, month, &hold) {
			return errors.New("a hold that was handed over covers it")
		}
	}
	return nil
}

// covers reports whether a hold covers any day whose messages may be sealed to
// a month's key: from the month's first until its successor has been in effect
// for as long as the old key is accepted; without a successor it goes on.
func covers(s *control.State, month *control.MonthState, hold *control.Hold) bool {
	return hold.FromDay <= lastDay(s, month) && hold.ToDay >= envelope.DayOf(monthStart(month.Month.Month))
}

func lastDay(s *control.State, month *control.MonthState) uint32 {
	last := uint32(math.MaxUint32)
	own, ok := s.Epoch(month.Epoch)
	if !ok {
		return last
	}
	for _, m := range s.Months() {
		epoch, ok := s.Epoch(m.Epoch)
		newer := ok && (epoch.Number > own.Number || epoch.Number == own.Number && m.Month.Month > month.Month.Month)
		if m.Region != month.Region || m.Class != month.Class || m.Effective == control.Never || !newer {
			continue
		}
		starts := time.UnixMilli(m.EffectiveTime)
		if first := monthStart(m.Month.Month); first.After(starts) {
			starts = first
		}
		last = min(last, envelope.DayOf(starts.Add(graceOfKey)))
	}
	return last
}

func monthStart(month uint32) time.Time {
	return time.Date(1970+int(month/12), time.Month(month%12)+1, 1, 0, 0, 0, 0, time.UTC)
}

// destroy erases the keys whose destruction is on the witnessed log.
func (h *holder) destroy() error {
	var gone []control.MonthState
	h.replica.Read(func(s *control.State) {
		for _, m := range s.Months() {
			if m.Destroyed != control.Never && h.Custody.HasMonth(m.MLKEM) {
				gone = append(gone, *m)
			}
		}
	})
	var errs []error
	for _, m := range gone {
		if err := h.Custody.Destroy(m.MLKEM); err != nil {
			errs = append(errs, fmt.Errorf("couldn't destroy month %s: %w", m.Hash.Short(), err))
			continue
		}
		errs = append(errs, h.record.append(&entry{
			Time: h.Now().UnixMilli(), What: didDestroy, Request: m.Hash, Outcome: "destroyed",
		}))
	}
	return errors.Join(errs...)
}

// fetchMonths gets what other guards hold and this one should: the keys of
// months on the log that it lacks, as after its state was lost.
func (h *holder) fetchMonths(ctx context.Context) error {
	var missing []control.Month
	h.replica.Read(func(s *control.State) {
		for _, m := range s.Months() {
			if m.Destroyed == control.Never && !h.Custody.HasMonth(m.MLKEM) {
				month := m.Month
				month.MLKEM = bytes.Clone(m.MLKEM)
				missing = append(missing, month)
			}
		}
	})
	var errs []error
	for i := range missing {
		statement, _, err := control.NewStatement(nil, h.Organisation, &missing[i])
		if err == nil {
			err = h.fetch(ctx, statement, &missing[i])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
