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
	"chancery/internal/wire"
	"chancery/manifest"
)

// ErrDirect means that a direct conversation was to have other members.
var ErrDirect = errors.New("a one-to-one conversation keeps its two members")

var errManyDevices = fmt.Errorf("the two members have more than %d devices", manifest.MaxDirect)

const (
	// behindPoll is how often a device looks whether a change of devices that the
	// server knows of is witnessed, and behindTries how many times.
	behindPoll  = 100 * time.Millisecond
	behindTries = 50
)

// directState is what a direct conversation has besides: no group, but two
// members, whose live devices are its roster.
type directState struct {
	_       struct{}       `cbor:",toarray"`
	Members []codec.ID     // both, ascending
	Rosters []directRoster // of the last epochs, ascending
	Pins    []devicePin    // newest of each device that sent something
}

type directRoster struct {
	_      struct{} `cbor:",toarray"`
	Epoch  uint64
	Roster manifest.Roster
}

// roster returns the devices of an epoch, nil where it isn't remembered.
func (s *directState) roster(epoch uint64) manifest.Roster {
	for _, r := range s.Rosters {
		if r.Epoch == epoch {
			return r.Roster
		}
	}
	return nil
}

func (s *directState) enter(epoch uint64, roster manifest.Roster) {
	s.Rosters = append(s.Rosters, directRoster{Epoch: epoch, Roster: roster})
	s.Rosters = s.Rosters[max(0, len(s.Rosters)-keptEpochs):]
}

// readDirect returns what a direct conversation has besides, nil of a group.
func (d *Device) readDirect(id codec.ID) (*directState, error) {
	raw, ok, err := d.get(bucketDirect, string(id[:]))
	if err != nil || !ok {
		return nil, err
	}
	s := &directState{}
	if err := codec.Decode(raw, s); err != nil {
		return nil, fmt.Errorf("couldn't read conversation %s: %w", id, err)
	}
	return s, nil
}

// epoch returns the epoch that a conversation is in. It returns ErrNoGroup where
// the device isn't in it.
func (d *Device) epoch(c *conversation) (*Epoch, error) {
	if c.direct == nil {
		return d.groups.Epoch(c.ID)
	}
	last, ok := c.current()
	roster := c.direct.roster(last.Epoch)
	if !ok || !roster.Contains(d.self.Device) {
		return nil, fmt.Errorf("%s: %w", c.ID, ErrNoGroup)
	}
	return &Epoch{Conversation: c.ID, Number: last.Epoch, Roster: roster}, nil
}

// others returns the distinct members but for this one.
func (d *Device) others(members []codec.ID) []codec.ID {
	out := slices.DeleteFunc(slices.Clone(members), func(m codec.ID) bool { return m == d.self.Member })
	slices.SortFunc(out, func(a, b codec.ID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

// createDirect makes a direct conversation with another member.
func (d *Device) createDirect(ctx context.Context, name string, other codec.ID) (codec.ID, error) {
	if _, err := d.devices(ctx, []codec.ID{other}); err != nil {
		return codec.ID{}, err
	}
	id := codec.NewID()
	c := &conversation{
		conversationState: conversationState{ID: id, Name: name},
		direct:            &directState{Members: manifest.NewDirect([]codec.ID{d.self.Member, other}, nil, nil).Members},
	}
	// Who can't be written to is noticed before there is a conversation.
	if err := d.sessions(ctx, d.dueNow(c)); err != nil {
		return codec.ID{}, err
	}
	d.add(c)
	if err := d.restate(ctx, id); err != nil || name == "" {
		return id, err
	}
	c, err := d.live(id)
	if err != nil {
		return id, err
	}
	_, err = d.send(ctx, c, Draft{Action: envelope.ActionProfile})
	return id, err
}

// due returns what the roster of a direct conversation has to be after another,
// under a control log of a size and at a time in milliseconds.
func (d *Device) due(c *conversation, before manifest.Roster, size, now int64) (roster manifest.Roster) {
	d.cfg.Replica.Read(func(s *control.State) { roster = manifest.NewRoster(s.MustReach(c.direct.Members, before, size, now)) })
	return roster
}

// dueNow returns what the roster has to be as far as the device knows.
func (d *Device) dueNow(c *conversation) manifest.Roster {
	last, _ := c.current()
	return d.due(c, c.direct.roster(last.Epoch), d.cfg.Replica.Size(), d.cfg.Now().UnixMilli())
}

// restate brings a conversation's statement to the devices that its members have
// by the control log. It returns errPending where the server knows of a change
// that isn't witnessed yet.
func (d *Device) restate(ctx context.Context, id codec.ID) error {
	for range attempts {
		c, err := d.conversation(id)
		if err != nil {
			return err
		}
		if c.Broken != "" {
			return fmt.Errorf("%s: %w: %s", id, ErrBroken, c.Broken)
		}
		if err = d.settle(ctx, c); err == nil {
			var done bool
			if done, err = d.stateNext(ctx, c); done {
				return err
			}
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
		if _, stated := c.current(); !stated {
			c.Left = false // it was forgotten, and is to be tried again
		}
		// Another's statement came first, or the members' devices are others.
		size := d.cfg.Replica.Size()
		taken, err := d.receive(ctx, &Summary{})
		if err == nil && taken == 0 {
			err = d.newer(ctx, size)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", id, ErrConflict)
}

// stateNext makes the conversation's next statement, if one is needed.
func (d *Device) stateNext(ctx context.Context, c *conversation) (done bool, err error) {
	roster := d.dueNow(c)
	last, stated := c.current()
	before := c.direct.roster(last.Epoch)
	if stated && slices.Equal(before, roster) {
		return true, nil
	}
	switch {
	case !roster.Contains(d.self.Device):
		return false, fmt.Errorf("this device was revoked: %w", ErrNoGroup)
	case len(roster) > manifest.MaxDirect:
		return false, errManyDevices
	}
	next := uint64(0)
	if stated {
		next = last.Epoch + 1
	}
	direct := manifest.NewDirect(c.direct.Members, roster, before)
	raw, err := manifest.SignCommit(d.key, &manifest.Commit{
		Organisation: d.self.Organisation, Conversation: c.ID, Epoch: next, Device: d.self.Device,
		Roster: roster.Root(), Previous: last.Hash, Message: direct.Hash(),
	})
	if err != nil {
		return false, fmt.Errorf("couldn't sign the commit statement: %w", err)
	}
	c.Pending = codec.Encode(&wire.CommitSubmission{Statement: raw, Roster: roster, Commit: direct.Encode()})
	c.changed = true
	if err := d.save(); err != nil {
		return false, err
	}
	if err := d.commit(ctx, c); err != nil {
		return false, err
	}
	if stated && len(direct.Added) > 0 && c.Name != "" {
		// Newcomers can't read what was said before them, the name included.
		return true, d.enqueueRecord(c, &envelope.Record{Action: envelope.ActionProfile})
	}
	return true, nil
}

// enqueueRecord puts a record of the device's own making into the outbox.
func (d *Device) enqueueRecord(c *conversation, r *envelope.Record) error {
	r.ID, r.Time, r.Sender = codec.NewID().String(), d.cfg.Now().UnixMilli(), d.self.Name
	r.Conversation, r.ConversationName = c.ID, c.Name
	if err := r.Check(); err != nil {
		return err
	}
	d.enqueue(&entry{Conversation: c.ID, Kind: envelope.KindRecord, ID: r.ID, Record: r.Encode()})
	return nil
}

// newer waits until the control log is witnessed beyond a size. It returns
// errPending where that takes long.
func (d *Device) newer(ctx context.Context, size int64) error {
	for range behindTries {
		if err := d.refresh(ctx); err != nil {
			return err
		}
		if d.cfg.Replica.Size() > size {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(behindPoll):
		}
	}
	return errPending
}

// restated brings a conversation out of an epoch that the server refuses. Where
// the other member can't be written to any more, a message that is sealed goes
// out all the same: it has a number.
func (d *Device) restated(ctx context.Context, id codec.ID, epoch uint64) error {
	for range attempts {
		size := d.cfg.Replica.Size()
		if err := d.prepare(ctx, id); err != nil && !errors.Is(err, ErrNoSession) {
			return err
		}
		c, err := d.conversation(id)
		if err != nil {
			return err
		}
		if last, ok := c.current(); !ok || last.Epoch != epoch {
			return nil
		}
		if err := d.newer(ctx, size); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", id, ErrConflict)
}

// tendDirect states anew what direct conversations are of since devices were
// added and revoked.
func (d *Device) tendDirect(ctx context.Context) error {
	size := d.cfg.Replica.Size()
	if d.pairs == nil || d.stated == size {
		return nil
	}
	for _, id := range slices.Clone(d.list) {
		c, err := d.live(id)
		if errors.Is(err, ErrLeft) || errors.Is(err, ErrBroken) || err == nil && c.direct == nil {
			continue
		}
		if err == nil {
			err = d.restate(ctx, c.ID)
		}
		var refused *remote.Refused
		if errors.Is(err, errPending) || errors.Is(err, ErrConflict) || errors.As(err, &refused) || errors.Is(err, ErrBroken) || hopeless(err) {
			continue // the next message that is sent tries again
		}
		if err != nil {
			return err
		}
	}
	d.stated = size
	return d.save()
}

// changesKind says what is wrong with a statement that makes a group of a direct
// conversation, or the other way round.
func (d *Device) changesKind(body *manifest.Commit) string {
	c, err := d.conversation(body.Conversation)
	switch {
	case body.Direct() && d.pairs == nil:
		return "of a direct conversation, which this device has no sessions for"
	case err != nil || body.Direct() == (c.direct != nil):
		return ""
	}
	c.halt("the server took a statement that changes the conversation's kind")
	return "it changes the conversation's kind"
}

// enterDirect takes a statement of a direct conversation: the first that comes
// brings the conversation. It returns an error only where the step should be
// tried again.
func (d *Device) enterDirect(r *manifest.Receipt, it *wire.Delivery, body *manifest.Commit, sum *Summary) error {
	c, err := d.conversation(body.Conversation)
	if errors.Is(err, ErrNoConversation) {
		return d.joinDirect(r, it, body, sum)
	}
	if err != nil {
		return err
	}
	d.follow(c, r, sum)
	last, stated := c.current()
	next := uint64(0)
	if stated {
		next = last.Epoch + 1
	}
	switch {
	case c.Broken != "" || body.Epoch < next:
		return nil // delivered again, or its own
	case body.Epoch > next || body.Previous != last.Hash:
		c.halt("the server left out a statement of the conversation")
		return nil
	}
	direct := manifest.NewDirect(c.direct.Members, it.Roster, c.direct.roster(last.Epoch))
	if err := d.checkDirect(c, direct, r, it, body); err != nil {
		c.halt(fmt.Sprintf("statement by device %s: %v", body.Device.Short(), err))
		return nil
	}
	c.Pending = nil // it was this one, or has lost
	c.enter(body.Epoch, manifest.CommitHash(it.Manifest))
	c.direct.enter(body.Epoch, it.Roster)
	return nil
}

// joinDirect takes the first statement of a conversation that comes.
func (d *Device) joinDirect(r *manifest.Receipt, it *wire.Delivery, body *manifest.Commit, sum *Summary) error {
	c := &conversation{conversationState: conversationState{ID: body.Conversation}}
	direct, err := manifest.ParseDirect(it.Body)
	if err == nil {
		c.direct = &directState{Members: direct.Members}
		err = d.checkDirect(c, direct, r, it, body)
	}
	if err == nil && !slices.Contains(c.direct.Members, d.self.Member) {
		err = errors.New("of two other members")
	}
	// Else the server could show a late one, and hide what came to this device
	// before: its acknowledgements would speak of that as well.
	if err == nil && !direct.Added.Contains(d.self.Device) {
		err = errors.New("it doesn't bring this device, so that an earlier one was left out")
	}
	if err != nil {
		d.fault(sum, fmt.Sprintf("statement of %s by device %s: %v", body.Conversation, body.Device.Short(), err))
		return nil
	}
	d.add(c)
	c.enter(body.Epoch, manifest.CommitHash(it.Manifest))
	c.direct.enter(body.Epoch, it.Roster)
	// What came before is not for this device.
	p := r.Opening.Body.Position
	c.Next, c.Checked, c.Leaf = p+1, p+1, r.Leaf()
	sum.Joined = append(sum.Joined, c.ID)
	return nil
}

// checkDirect checks that a statement says of members and devices what it should,
// is by a device of one of them, and has all devices that they had in its roster.
func (d *Device) checkDirect(c *conversation, direct *manifest.Direct, r *manifest.Receipt, it *wire.Delivery, body *manifest.Commit) error {
	stayed := slices.DeleteFunc(slices.Clone(it.Roster), direct.Added.Contains)
	switch {
	case body.Message != direct.Hash():
		return errors.New("it names other members, or other devices as new")
	case it.Roster.Root() != body.Roster:
		return errors.New("the roster is another than its author's")
	case !slices.Equal(it.Roster, d.due(c, stayed, r.Opening.Body.ControlSize, r.Opening.Body.Time)):
		return errors.New("its roster is not all devices that the two members had")
	case !it.Roster.Contains(body.Device):
		return errors.New("its author is not in it")
	case !it.Roster.Contains(d.self.Device):
		return errors.New("this device is not in it")
	}
	return nil
}
