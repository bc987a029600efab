package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/manifest"
)

// A device joins by an external commit what it can't follow any more, and what
// the other devices of its member are in (spec/client.md#rejoining).
const (
	rejoinTries  = 10          // after which the member has to ask for another
	rejoinWait   = time.Minute // at most, before the second try; doubled with each
	rejoinRaces  = 3           // lost to others' commits within one try
	rejoinAtOnce = 100         // conversations in one Sync
	askElsewhere = time.Minute // between questions for the member's conversations
)

const notJoined = "this device hasn't joined it yet"

// rejoin is kept of a conversation that the device is to join by itself.
type rejoin struct {
	_     struct{} `cbor:",toarray"`
	New   bool     // the device isn't in it
	Tries uint8
	At    int64 // of the next, milliseconds since 1970
}

func (d *Device) planRejoin(c *conversation, r *rejoin) {
	c.rejoin = r
	var value []byte
	if r != nil {
		value = codec.Encode(r)
	}
	d.put(bucketRejoin, string(c.ID[:]), value)
}

// lose halts a conversation that the device can't follow, though nobody has
// signed what they mustn't: it comes back by itself.
func (d *Device) lose(c *conversation, sum *Summary, reason string) {
	c.halt(reason)
	d.planRejoin(c, &rejoin{})
	sum.Problems = append(sum.Problems, fmt.Sprintf("conversation %s: %s", c.ID, reason))
}

// invited notes a conversation that a Welcome puts the device into which it can't
// open: its leaf is there, and it comes back for it.
func (d *Device) invited(r *manifest.Receipt, id codec.ID, sum *Summary) error {
	c, err := d.conversation(id)
	if errors.Is(err, ErrNoConversation) {
		c, err = &conversation{conversationState: conversationState{ID: id}}, nil
	}
	if err != nil {
		return err
	}
	c.Left, c.Statements, c.Indexes = false, nil, nil
	d.add(c)
	p := r.Opening.Body.Position
	c.Next, c.Checked, c.Leaf = max(c.Next, p+1), p+1, r.Leaf()
	d.lose(c, sum, "this device can't open the Welcome to it")
	return nil
}

// unreadable reports whether messages of an epoch aren't for the device: of one
// before it joined, or in which it waits to join.
func (c *conversation) unreadable(epoch uint64) bool {
	last, ok := c.current()
	return c.before(epoch) || c.rejoin != nil && (!ok || epoch > last.Epoch)
}

// comeBack joins what the device is to join by itself.
func (d *Device) comeBack(ctx context.Context, sum *Summary) error {
	if err := d.discover(ctx, sum); err != nil {
		return err
	}
	done := 0
	for _, id := range slices.Clone(d.list) {
		c, err := d.conversation(id)
		if err != nil {
			return err
		}
		r := c.rejoin
		if r == nil || c.Broken == "" || c.Left || r.Tries >= rejoinTries || d.cfg.Now().UnixMilli() < r.At || done == rejoinAtOnce {
			continue
		}
		done++
		switch err := d.comeInto(ctx, c, sum); {
		case err == nil:
			sum.Joined = append(sum.Joined, id)
		case !inTheWay(err):
			return err
		default:
			sum.Problems = append(sum.Problems, fmt.Sprintf("couldn't join conversation %s: %v", id, err))
			if err := d.postponeRejoin(id); err != nil {
				return err
			}
		}
	}
	return d.save()
}

// inTheWay reports whether a try to join failed for what the server or others
// said, and not for the device or the network.
func inTheWay(err error) bool {
	var refused *remote.Refused
	var problem *wire.Problem
	return errors.As(err, &refused) || errors.As(err, &problem) || errors.Is(err, ErrConflict) || errors.Is(err, ErrServer) || errors.Is(err, handshake.ErrJoin)
}

func (d *Device) postponeRejoin(id codec.ID) error {
	c, err := d.conversation(id)
	if err != nil || c.rejoin == nil {
		return err
	}
	next := *c.rejoin
	most := rejoinWait << next.Tries
	next.Tries++
	next.At = d.cfg.Now().Add(between(most/2, most)).UnixMilli()
	d.planRejoin(c, &next)
	return nil
}

// discover finds the conversations that other devices of the member are in. One
// that another device of the member let into the organisation joins them, one
// that came by an invitation has to be admitted: whoever made the invitation
// could otherwise listen in on all that the member ever joined.
func (d *Device) discover(ctx context.Context, sum *Summary) error {
	if d.cfg.Now().Sub(d.discovered) < askElsewhere {
		return nil
	}
	ids, err := d.server.Elsewhere(ctx)
	if err != nil {
		return fmt.Errorf("couldn't ask for the member's conversations: %w", err)
	}
	d.discovered = d.cfg.Now()
	if len(ids) == 0 {
		return nil
	}
	sponsored := false
	d.cfg.Replica.Read(func(s *control.State) {
		own, ok := s.Device(d.self.Device)
		sponsored = ok && !own.Sponsor.IsZero()
	})
	if !sponsored {
		sum.Warnings = append(sum.Warnings, fmt.Sprintf("this device came by an invitation and isn't in %d conversations of its member: "+
			"`chancery device admit %s` on another device of the member brings it in", len(ids), d.self.Device.Short()))
		return nil
	}
	for _, id := range ids {
		c, err := d.conversation(id)
		switch {
		case errors.Is(err, ErrNoConversation):
			c = &conversation{conversationState: conversationState{ID: id}}
		case err != nil:
			return err
		case !c.Left:
			continue
		}
		c.Left = false
		c.halt(notJoined)
		d.planRejoin(c, &rejoin{New: true})
		d.add(c)
	}
	return nil
}

// Rejoin joins a halted conversation anew at the member's request, whatever it
// was halted for. It returns ErrNoConversation, ErrLeft, ErrDirect, ErrGoesOn, or what is in
// the way.
func (d *Device) Rejoin(ctx context.Context, id codec.ID) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := d.refresh(ctx); err != nil {
		return err
	}
	c, err := d.conversation(id)
	switch {
	case err != nil:
		return err
	case c.Left:
		return fmt.Errorf("%s: %w", id, ErrLeft)
	case c.direct != nil:
		return fmt.Errorf("%s: %w", id, ErrDirect)
	case c.Broken == "":
		return fmt.Errorf("%s: %w", id, ErrGoesOn)
	}
	if err := d.settle(ctx, c); err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	if c.Broken == "" {
		return nil
	}
	if c.rejoin == nil {
		d.planRejoin(c, &rejoin{})
	}
	return d.comeInto(ctx, c, &Summary{})
}

// comeInto joins one conversation by an external commit.
func (d *Device) comeInto(ctx context.Context, c *conversation, sum *Summary) error {
	var err error
	for range rejoinRaces {
		if err = d.commitInto(ctx, c, sum); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return err
}

func (d *Device) commitInto(ctx context.Context, c *conversation, sum *Summary) error {
	if err := d.mayAct(ctx); err != nil {
		return err
	}
	g, err := d.server.Group(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("couldn't ask for the group: %w", err)
	}
	at, previous, err := d.present(ctx, c, g, sum)
	if err != nil {
		return err
	}
	check := d.credentials(d.cfg.Replica.Size(), d.cfg.Now().UnixMilli())
	if !at.Roster.Contains(d.self.Device) {
		if err := check.Join(d.self.Device, at.Roster); err != nil {
			return err
		}
	}
	step, err := d.groups.Rejoin(at, g.GroupInfo, g.Tree, check)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	if err := d.propose(c, step, previous, nil); err != nil {
		return err
	}
	return d.commit(ctx, c)
}

// present returns the epoch that the server says a conversation is in, once its
// statement has been found good, and the statement's hash.
func (d *Device) present(ctx context.Context, c *conversation, g *wire.Group, sum *Summary) (*Epoch, codec.Hash, error) {
	r, ok, err := d.judge(ctx, g.Receipt, sum)
	if err != nil {
		return nil, codec.Hash{}, err
	}
	if !ok {
		return nil, codec.Hash{}, fmt.Errorf("%w: a group without a receipt", ErrServer)
	}
	body, err := d.checkStatement(r, &wire.Delivery{Manifest: g.Statement, Receipt: g.Receipt})
	if err != nil {
		return nil, codec.Hash{}, fmt.Errorf("%w: commit statement of leaf %d: %w", ErrServer, r.Index, err)
	}
	hash := manifest.CommitHash(g.Statement)
	last, known := c.current()
	switch {
	case body.Conversation != c.ID || g.Roster.Validate() != nil || g.Roster.Root() != body.Roster:
		return nil, codec.Hash{}, fmt.Errorf("%w: another group than asked for", ErrServer)
	case known && (body.Epoch < last.Epoch || body.Epoch == last.Epoch && hash != last.Hash):
		return nil, codec.Hash{}, fmt.Errorf("%w: the group in an epoch that is over", ErrServer)
	}
	return &Epoch{Conversation: c.ID, Number: body.Epoch, Transcript: body.Transcript, Roster: g.Roster}, hash, nil
}

// merge enters the epoch of the device's own commit, which the server has taken.
func (d *Device) merge(c *conversation, body *manifest.Commit, r *manifest.Receipt) error {
	e, err := d.groups.Epoch(c.ID)
	if err != nil {
		return err
	}
	if e.Number != body.Epoch {
		return d.groups.Merge(c.ID)
	}
	// By an external commit: the group has been in the epoch since it was made.
	c.Broken, c.Statements, c.Indexes = "", nil, nil
	if c.rejoin != nil && c.rejoin.New {
		// What came before is not for this device.
		p := r.Opening.Body.Position
		c.Checked, c.Leaf = p+1, r.Leaf()
	}
	d.planRejoin(c, nil)
	return nil
}

// withdraw forgets the device's own commit, which the server refuses.
func (d *Device) withdraw(c *conversation, body *manifest.Commit) error {
	if e, err := d.groups.Epoch(c.ID); err == nil && e.Number == body.Epoch {
		return d.groups.Forget(c.ID)
	}
	d.groups.Discard(c.ID)
	return nil
}

// Admit brings another device of this member, which came by an invitation, into
// the conversations that this device is in: the member vouches for it.
func (d *Device) Admit(ctx context.Context, device codec.Hash) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := d.refresh(ctx); err != nil {
		return err
	}
	if err := d.mayAct(ctx); err != nil {
		return err
	}
	known, err := d.known([]codec.ID{d.self.Member})
	if err != nil {
		return err
	}
	if !slices.Contains(known, device) {
		return fmt.Errorf("device %s is no other live device of this member", device.Short())
	}
	for _, id := range slices.Clone(d.list) {
		c, err := d.live(id)
		if errors.Is(err, ErrLeft) || errors.Is(err, ErrBroken) {
			continue
		}
		if err != nil {
			return err
		}
		if c.direct != nil {
			continue // its roster follows from the control log
		}
		e, err := d.groups.Epoch(id)
		if err != nil {
			return err
		}
		if e.Roster.Contains(device) {
			continue
		}
		if err := d.change(ctx, c, []codec.Hash{device}, nil); err != nil {
			return fmt.Errorf("conversation %s: %w", id, err)
		}
		if err := d.tellName(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// welcomed notes that a device of this member has joined by itself: the first of
// the others tells it the conversation's name.
func (d *Device) welcomed(c *conversation, before manifest.Roster, joined codec.Hash) {
	if before.Contains(joined) || c.Name == "" {
		return
	}
	d.cfg.Replica.Read(func(s *control.State) {
		own, ok := s.Device(joined)
		if !ok || own.Member != d.self.Member {
			return
		}
		for _, h := range before {
			if other, ok := s.Device(h); ok && other.Member == d.self.Member {
				if h == d.self.Device {
					d.greet = append(d.greet, c.ID)
				}
				return
			}
		}
	})
}

// tellNames tells the names of the conversations that devices have joined.
func (d *Device) tellNames(ctx context.Context) error {
	ids := d.greet
	d.greet = nil
	for _, id := range ids {
		if err := d.tellName(ctx, id); err != nil && !unreachable(err) && !silenced(err) {
			return err
		}
	}
	return nil
}

func (d *Device) tellName(ctx context.Context, id codec.ID) error {
	c, err := d.live(id)
	if errors.Is(err, ErrLeft) || errors.Is(err, ErrBroken) || err == nil && c.Name == "" {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = d.send(ctx, c, Draft{Action: envelope.ActionProfile})
	return err
}
