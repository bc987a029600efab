package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"chancery/client/remote"
	"chancery/codec"
)

// A device renews its keys in a conversation a while after its last commit there
// (spec/client.md#renewal). When exactly is drawn, so that a thousand devices
// don't commit at once.
const (
	renewAfter = 7 * 24 * time.Hour // and up to twice as long
	renewSent  = 200                // envelopes of its own, and up to twice as many
	// After a race that another's commit won.
	renewAgain = 24 * time.Hour   // at most, an hour at least
	renewSoon  = 10 * time.Minute // at most, where other groups may have the device's keys
	// renewAtOnce bounds the commits of one Sync.
	renewAtOnce = 20
)

// renewal says when a device next renews its keys in a conversation: at a time,
// or when it has sent so much.
type renewal struct {
	_      struct{} `cbor:",toarray"`
	At     int64    // milliseconds since 1970
	Seq    uint64
	Shared bool // the device's keys may be in other groups too: it joined by a KeyPackage of last resort
}

func (r *renewal) due(now time.Time, seq uint64) bool { return now.UnixMilli() >= r.At || seq >= r.Seq }

// between draws a duration.
func between(least, most time.Duration) time.Duration { return least + rand.N(most-least) }

// plan draws when a conversation's keys are due next.
func (d *Device) plan(c *conversation, after time.Duration, shared bool) {
	c.renewal = renewal{At: d.cfg.Now().Add(after).UnixMilli(), Seq: c.Seq + renewSent + rand.Uint64N(renewSent), Shared: shared}
	d.put(bucketRenewal, string(c.ID[:]), codec.Encode(&c.renewal))
}

// renewed plans the next renewal after a commit of the device's own.
func (d *Device) renewed(c *conversation) { d.plan(c, between(renewAfter, 2*renewAfter), false) }

// renew commits new keys of this device wherever they are due.
func (d *Device) renew(ctx context.Context, sum *Summary) error {
	done := 0
	for _, id := range slices.Clone(d.list) {
		c, err := d.live(id)
		if errors.Is(err, ErrLeft) || errors.Is(err, ErrBroken) || err == nil && c.direct != nil {
			continue // a direct conversation's keys are renewed as it goes
		}
		if err != nil {
			return err
		}
		now := d.cfg.Now()
		if c.renewal.At == 0 {
			// It joined, or an earlier version did: any time from now on.
			d.plan(c, between(0, 2*renewAfter), false)
		}
		if done == renewAtOnce || !c.renewal.due(now, c.Seq) {
			continue
		}
		done++
		if err := d.renewIn(ctx, c); err != nil {
			var refused *remote.Refused
			switch {
			case errors.Is(err, ErrConflict):
			case errors.As(err, &refused):
				sum.Problems = append(sum.Problems, fmt.Sprintf("couldn't renew the keys in %s: %v", c.ID, err))
			default:
				return err
			}
			d.postpone(c)
		}
	}
	return d.save()
}

// postpone gives way to whoever was faster: the device doesn't try again at
// once, and not when the others do who lost the same race.
func (d *Device) postpone(c *conversation) {
	if c.renewal.Shared {
		d.plan(c, between(0, renewSoon), true)
		return
	}
	d.plan(c, between(time.Hour, renewAgain), false)
}

// renewIn commits new keys of this device in one conversation.
func (d *Device) renewIn(ctx context.Context, c *conversation) error {
	e, err := d.groups.Epoch(c.ID)
	if err != nil {
		return err
	}
	previous, ok := c.current()
	if !ok {
		return fmt.Errorf("%s: no epoch of this conversation is known", c.ID)
	}
	if len(e.Roster) == 1 {
		d.renewed(c) // nobody to agree with, and nothing that others send
		return nil
	}
	step, err := d.groups.Renew(c.ID, d.credentials(d.cfg.Replica.Size(), d.cfg.Now().UnixMilli()))
	if err != nil {
		return err
	}
	if err := d.propose(c, step, previous.Hash, nil); err != nil {
		return err
	}
	return d.commit(ctx, c)
}
