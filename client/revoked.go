package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/codec"
	"chancery/control"
)

// revocationWait is how long a message waits for the witnesses to sign for a
// revocation that the server has logged.
const revocationWait = 3 * time.Second

// revokedIn returns a revoked device that is in a conversation, as far as the
// control log was read. The device itself is none: the server doesn't hear it.
func (d *Device) revokedIn(c *conversation) (codec.Hash, bool, error) {
	e, err := d.groups.Epoch(c.ID)
	if errors.Is(err, ErrNoGroup) {
		return codec.Hash{}, false, nil
	}
	if err != nil {
		return codec.Hash{}, false, err
	}
	var found codec.Hash
	d.cfg.Replica.Read(func(s *control.State) {
		revoked := s.Revoked()
		for _, h := range revoked[min(c.clean, len(revoked)):] {
			if h != d.self.Device && e.Roster.Contains(h) {
				found = h
				return
			}
		}
		c.clean = len(revoked)
	})
	return found, !found.IsZero(), nil
}

// expel removes revoked devices from a conversation before anything is said
// there. It returns the conversation as it is then.
func (d *Device) expel(ctx context.Context, c *conversation) (*conversation, error) {
	if c.Left || c.Broken != "" {
		return c, nil
	}
	if _, found, err := d.revokedIn(c); err != nil || !found {
		return c, err
	}
	if err := d.change(ctx, c, nil, nil); err != nil {
		return nil, fmt.Errorf("couldn't remove a revoked device: %w", err)
	}
	return d.conversation(c.ID)
}

// awaitRevocation finds out why the server wants another epoch than it has: it
// may have logged a revocation that isn't witnessed yet. It removes the device
// once it is, and returns errPending where that takes too long.
func (d *Device) awaitRevocation(ctx context.Context, c *conversation) (*conversation, error) {
	deadline := time.Now().Add(revocationWait)
	for {
		if err := d.refresh(ctx); err != nil {
			return nil, err
		}
		_, found, err := d.revokedIn(c)
		if err != nil {
			return nil, err
		}
		if found {
			return d.expel(ctx, c)
		}
		if time.Now().After(deadline) {
			return nil, errPending
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(enrolPoll):
		}
	}
}

// tend removes whoever asked to leave, and devices that were revoked: from all
// conversations after a new revocation, and from those just joined.
func (d *Device) tend(ctx context.Context, joined []codec.ID) error {
	revoked := 0
	d.cfg.Replica.Read(func(s *control.State) { revoked = len(s.Revoked()) })
	look := slices.Clone(joined)
	if revoked != d.progress.Revoked {
		look = slices.Clone(d.list)
	}
	for id, c := range d.conversations {
		if len(c.Leaving) > 0 && !slices.Contains(look, id) {
			look = append(look, id)
		}
	}
	done := true
	for _, id := range look {
		switch err := d.tidy(ctx, id); {
		case err == nil, errors.Is(err, ErrLeft), errors.Is(err, ErrBroken):
		case errors.Is(err, ErrConflict):
			done = false // the next sync looks again
		default:
			return err
		}
	}
	if done && revoked != d.progress.Revoked {
		d.progress.Revoked = revoked
		d.touch(bucketDevice)
	}
	return d.save()
}

// tidy removes from one conversation whoever may not stay.
func (d *Device) tidy(ctx context.Context, id codec.ID) error {
	c, err := d.live(id)
	if err != nil {
		return err
	}
	_, found, err := d.revokedIn(c)
	if err != nil {
		return err
	}
	if !found && len(c.Leaving) == 0 {
		return nil
	}
	gone := slices.DeleteFunc(slices.Clone(c.Leaving), func(m codec.ID) bool { return m == d.self.Member })
	if err := d.change(ctx, c, nil, gone); err != nil {
		return err
	}
	if c, err = d.conversation(id); err == nil {
		c.Leaving, c.changed = nil, true
	}
	return err
}
