package client

import (
	"context"
	"errors"

	"chancery/codec"
)

// Summary says what a Sync did.
type Summary struct {
	Delivered     int        // messages received and checked
	Sent          int        // messages of the outbox that the server took
	Archived      int        // sent or received, now under a witnessed checkpoint
	Mismatches    int        // archived otherwise than sent: quarantined
	Undecryptable int        // never shown
	Unverified    int        // of versions that this program doesn't know: not shown
	Unindexed     int        // delivered, but their tags couldn't be verified
	Faulty        int        // what no device may send or the server may not deliver
	Overdue       int        // receipted over a day ago, and in no witnessed checkpoint: the server has broken its promise
	Pending       bool       // more waits until the control log is witnessed that far
	Waiting       int        // messages left in the outbox, since the server can't be reached
	Joined        []codec.ID // conversations
	Refused       []*Refusal
	// Of the history of this member's devices: messages that came from another
	// one, messages that this one gave, and whether more is to be given once the
	// other one has fetched it.
	HistoryReceived, HistorySent int
	HistoryWaiting               bool
	Notices                      []*Notice
	Warnings                     []string // in words, of what the member should look at
	Problems                     []string // in words, for whoever looks into faults
}

func (d *Device) fault(sum *Summary, problem string) {
	sum.Faulty++
	sum.Problems = append(sum.Problems, problem)
	d.counters().Faulty++
}

// Sync sends what waits in the outbox and receives, checks and keeps what waits
// in the queue, acknowledges it (at most once a minute), and checks that what
// was sent and received is in the log. Where the server can't be reached it
// returns remote.ErrUnavailable, wrapped, beside what was done until then.
func (d *Device) Sync(ctx context.Context) (*Summary, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	sum := &Summary{}
	err = d.sync(ctx, sum)
	sum.Waiting = int(d.progress.Tail - d.progress.Head)
	// What is done is done, whatever came after it.
	if saveErr := d.save(); saveErr != nil {
		err = errors.Join(err, saveErr)
	}
	return sum, err
}

func (d *Device) sync(ctx context.Context, sum *Summary) error {
	// In a quiet conversation no receipt tells of a revocation.
	if err := d.refresh(ctx); err != nil {
		return err
	}
	if err := d.settleAll(ctx); err != nil {
		return err
	}
	if _, err := d.receive(ctx, sum); err != nil {
		return err
	}
	if err := d.recertify(ctx, sum); err != nil {
		return err
	}
	if err := d.upkeep(ctx, func() error { return d.comeBack(ctx, sum) }); err != nil {
		return err
	}
	// Before anything is sent that a revoked device could read.
	if err := d.upkeep(ctx, func() error { return d.tend(ctx, sum.Joined) }); err != nil {
		return err
	}
	if err := d.upkeep(ctx, func() error { return d.tendDirect(ctx) }); err != nil {
		return err
	}
	for {
		err := d.flush(ctx, func(uint64, *Sent) { sum.Sent++ }, true)
		var refusal *Refusal
		if errors.As(err, &refusal) {
			sum.Refused = append(sum.Refused, refusal)
			continue
		}
		if errors.Is(err, errPending) {
			sum.Pending = true
			break
		}
		if silenced(err) {
			sum.Warnings = append(sum.Warnings, err.Error())
			break
		}
		if err != nil {
			return err
		}
		break
	}
	if err := d.strangers(sum); err != nil {
		return err
	}
	if err := d.tellNames(ctx); err != nil {
		return err
	}
	if err := d.restock(ctx); err != nil {
		return err
	}
	if err := d.restockPreKeys(ctx); err != nil {
		return err
	}
	if err := d.upkeep(ctx, func() error { return d.renew(ctx, sum) }); err != nil {
		return err
	}
	if err := d.exchangeHistory(ctx, sum); err != nil {
		return err
	}
	if err := d.include(ctx, sum); err != nil {
		return err
	}
	if now := d.cfg.Now().UnixMilli(); now-d.progress.LastAck >= ackInterval.Milliseconds() {
		return d.acknowledge(ctx)
	}
	return nil
}

// upkeep commits what no member has asked for. A device that may not act leaves
// it to others, or to later.
func (d *Device) upkeep(ctx context.Context, commit func() error) error {
	err := d.mayAct(ctx)
	if silenced(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return commit()
}

// settleAll finishes commits that were on their way when the device stopped.
func (d *Device) settleAll(ctx context.Context) error {
	if err := d.trusts(ctx); err != nil {
		if silenced(err) {
			return nil
		}
		return err
	}
	for _, id := range d.list {
		c, err := d.conversation(id)
		if err != nil {
			return err
		}
		if err := d.settle(ctx, c); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return nil
}
