package control

import (
	"crypto/hpke"
	"crypto/mlkem"
	"errors"
	"fmt"
	"math"
	"time"

	"chancery/codec"
	"chancery/envelope"
	"chancery/quorum"
)

const (
	milliDay   = 86_400_000
	dayBefore  = 72 * time.Hour   // a message may be sealed this long before it is received
	dayAfter   = 10 * time.Minute // and by a clock this far ahead
	retireTime = 72 * time.Hour   // an old escrow key or policy is accepted this long after its successor took effect
	logDelay   = int64(ReceiptLag / time.Millisecond)
)

// ReceiptLag is by how much the control size of a receipt may lag.
const ReceiptLag = 5 * time.Minute

// ErrHeader means that a header names what it may not.
var ErrHeader = errors.New("header refused")

// MonthOf returns the month, counted from January 1970, of a day counted from
// the first of it.
func MonthOf(day uint32) uint32 {
	t := time.Unix(int64(day)*86400, 0).UTC()
	return uint32((t.Year()-1970)*12 + int(t.Month()) - 1)
}

// Escrow returns the escrow key that a device seals to on a day: the newest
// month's, not later than the day's, of the newest epoch, whose canary has been
// opened. Without a key for the new month the old one goes on.
func (s *State) Escrow(region, class string, day uint32) (*MonthState, error) {
	var best *MonthState
	for _, m := range s.months {
		if m.Region != region || m.Class != class || m.Effective == Never || m.Destroyed != Never || m.Month.Month > MonthOf(day) {
			continue
		}
		if best == nil || s.newer(m, best) {
			best = m
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no escrow key in effect for region %s, class %s", region, class)
	}
	return best, nil
}

func (s *State) newer(a, b *MonthState) bool {
	ea, _ := s.Epoch(a.Epoch)
	eb, _ := s.Epoch(b.Epoch)
	if ea.Number != eb.Number {
		return ea.Number > eb.Number
	}
	return a.Month.Month > b.Month.Month
}

// CheckHeader decides what all four parties decide alike: whether, in a log of
// that size and at that time in milliseconds, a device could send under this
// header. It returns ErrHeader with the reason, and the device and escrow key.
// Size and time are the receipt's, and have to fit (CheckReceived).
func (s *State) CheckHeader(h *envelope.Header, size, now int64) (*DeviceState, *MonthState, error) {
	refuse := func(format string, args ...any) (*DeviceState, *MonthState, error) {
		return nil, nil, fmt.Errorf("%w: "+format, append([]any{ErrHeader}, args...)...)
	}
	if size > s.size {
		return refuse("judged at control size %d, replayed to %d", size, s.size)
	}
	if h.Organisation != s.organisation {
		return refuse("another organisation")
	}
	device, err := s.CheckDevice(h.Device, size, now)
	if err != nil {
		return refuse("%w", err)
	}
	policy, ok := s.PolicyByHash(h.PolicyLeaf)
	if !ok || policy.Since >= size {
		return refuse("no such policy")
	}
	if s.replaced(policy, size, now) {
		return refuse("policy %d was replaced more than 72 hours ago", policy.Version)
	}
	month, ok := s.months[h.EscrowKey]
	if !ok || month.Effective == Never || month.Effective >= size {
		return refuse("no such escrow key in effect")
	}
	if month.Destroyed != Never && month.Destroyed < size {
		return refuse("the escrow key is destroyed: nobody could open it")
	}
	if month.Region != policy.Region || month.Class != policy.Class {
		return refuse("escrow key of another region or class than the policy's")
	}
	if sealed := int64(h.Day) * milliDay; sealed+milliDay <= now-dayBefore.Milliseconds() || sealed > now+dayAfter.Milliseconds() {
		return refuse("day %d is not within 72 hours before and 10 minutes after its receipt", h.Day)
	}
	if month.Month.Month > MonthOf(h.Day) {
		return refuse("escrow key of a later month than the day's")
	}
	if s.retired(month, h.Day, size, now) {
		return refuse("escrow key of an earlier month, and its successor took effect more than 72 hours ago")
	}
	if err := s.CheckReceived(size, now); err != nil {
		return refuse("%w", err)
	}
	return device, month, nil
}

// replaced reports whether a policy's successor has been there for longer than
// the grace: a device could otherwise choose, by an old policy, the region and
// class under which its messages are kept.
func (s *State) replaced(policy *PolicyState, size, now int64) bool {
	for i := range s.policies {
		if p := &s.policies[i]; p.Version == policy.Version+1 {
			return p.Since < size && now > p.Time+retireTime.Milliseconds()
		}
	}
	return false
}

// retired reports whether a successor for the day has been in effect for longer
// than the grace that a device offline at the change of keys gets. A successor
// that was destroyed is none: the old key goes on.
func (s *State) retired(month *MonthState, day uint32, size, now int64) bool {
	for _, m := range s.months {
		if m.Destroyed != Never && m.Destroyed < size {
			continue
		}
		if m.Region != month.Region || m.Class != month.Class || m.Effective == Never || m.Effective >= size || m.Month.Month > MonthOf(day) {
			continue
		}
		starts := max(m.EffectiveTime, monthStart(m.Month.Month))
		if s.newer(m, month) && now > starts+retireTime.Milliseconds() {
			return true
		}
	}
	return false
}

func firstDay(m *MonthState) uint32 { return envelope.DayOf(time.UnixMilli(monthStart(m.Month.Month))) }

// lastDay returns the last day of which a message can have been sealed to a
// month's key, without end where it has no successor in effect.
func (s *State) lastDay(month *MonthState) uint32 {
	last := uint32(math.MaxUint32)
	for _, m := range s.months {
		if m.Region != month.Region || m.Class != month.Class || m.Effective == Never || m.Destroyed != Never || !s.newer(m, month) {
			continue
		}
		starts := max(m.EffectiveTime, monthStart(m.Month.Month))
		last = min(last, envelope.DayOf(time.UnixMilli(starts).Add(retireTime+dayAfter)))
	}
	return last
}

func monthStart(month uint32) int64 {
	return time.Date(1970+int(month/12), time.Month(month%12)+1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
}

// OpenWith opens an envelope with exactly t keyholders' answers and a guard's
// shared secret. It returns the seed and the record, which the caller erases.
func OpenWith(key *quorum.PublicKey, public *envelope.PublicKey, header []byte, env *envelope.Envelope, answers []quorum.Answer, secret []byte) (*envelope.Seed, []byte, error) {
	point, err := quorum.ParsePoint(env.E())
	if err != nil {
		return nil, nil, fmt.Errorf("ephemeral key: %w", err)
	}
	exchanger, err := quorum.NewKey(key, point, answers)
	if err != nil {
		return nil, nil, err
	}
	encapsulator, err := mlkem.NewEncapsulationKey768(public.MLKEM())
	if err != nil {
		return nil, nil, fmt.Errorf("ML-KEM key: %w", err)
	}
	decapsulator, err := quorum.NewGuard(encapsulator, env.MLKEMCiphertext(), secret)
	if err != nil {
		return nil, nil, err
	}
	private, err := hpke.NewHybridPrivateKey(decapsulator, exchanger)
	if err != nil {
		return nil, nil, fmt.Errorf("couldn't make the escrow key from its parts: %w", err)
	}
	return envelope.Open(private, header, env)
}

// UseSet returns the root of a use: H("use-set", H(core)s in the order asked).
// A later set that contains this one begins with it.
func UseSet(cores []codec.Hash) codec.Hash {
	parts := make([][]byte, len(cores))
	for i := range cores {
		parts[i] = cores[i][:]
	}
	return codec.Sum("use-set", parts...)
}

// Stricter returns the policy that is as strict as either in every respect.
func Stricter(a, b Policy) Policy {
	out := b
	out.Approvals = max(a.Approvals, b.Approvals)
	out.OpenerEvidenceNone = a.OpenerEvidenceNone && b.OpenerEvidenceNone
	out.DeviceEvidenceNone = a.DeviceEvidenceNone && b.DeviceEvidenceNone
	out.RetentionDays = max(a.RetentionDays, b.RetentionDays)
	out.VetoSeconds = max(a.VetoSeconds, b.VetoSeconds)
	out.MaxRequestDays = min(a.MaxRequestDays, b.MaxRequestDays)
	out.MaxCount = min(a.MaxCount, b.MaxCount)
	out.MaxIndexKeys = min(a.MaxIndexKeys, b.MaxIndexKeys)
	out.RequestHours = min(a.RequestHours, b.RequestHours)
	return out
}

// PolicyFor returns what a keyholder applies to a request: the strictest of
// the policy at the request, every policy of the 72 hours before now, and the
// newest, so that loosening takes effect only after that time.
func (s *State) PolicyFor(r *RequestState, now int64) (Policy, error) {
	at, ok := s.PolicyByHash(r.Policy)
	if !ok {
		return Policy{}, fmt.Errorf("the request's policy is not on the log")
	}
	out := Stricter(at.Policy, s.Policy().Policy)
	for i, p := range s.policies {
		replaced := i+1 < len(s.policies) && s.policies[i+1].Time <= now-retireTime.Milliseconds()
		if !replaced {
			out = Stricter(out, p.Policy)
		}
	}
	return out, nil
}
