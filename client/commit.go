package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

// Create makes a conversation with all devices of the members, this member's
// included, and names it unless name is empty. With one other member it is
// direct, and so for good; a note to self is a group with nobody else. Where it
// returns an error beside an id, the conversation exists and, if it is a group,
// Add may complete it.
func (d *Device) Create(ctx context.Context, name string, members []codec.ID) (codec.ID, error) {
	end, err := d.begin()
	if err != nil {
		return codec.ID{}, err
	}
	defer end()
	if err := d.ready(ctx); err != nil {
		return codec.ID{}, err
	}
	if err := d.mayAct(ctx); err != nil {
		return codec.ID{}, err
	}
	if len(name) > 1024 {
		return codec.ID{}, fmt.Errorf("conversation's name of %d bytes: %w", len(name), codec.ErrSize)
	}
	if others := d.others(members); d.pairs != nil && len(others) == 1 {
		return d.createDirect(ctx, name, others[0])
	}
	wanted, err := d.devices(ctx, append(slices.Clone(members), d.self.Member))
	if err != nil {
		return codec.ID{}, err
	}
	id := codec.NewID()
	step, err := d.groups.Create(id, d.credentials(d.cfg.Replica.Size(), d.cfg.Now().UnixMilli()))
	if err != nil {
		return codec.ID{}, err
	}
	c := &conversation{conversationState: conversationState{ID: id, Name: name}}
	d.add(c)
	if err := d.propose(c, step, codec.Hash{}, nil); err != nil {
		return codec.ID{}, err
	}
	if err := d.commit(ctx, c); err != nil {
		return id, err
	}
	if err := d.change(ctx, c, wanted, nil); err != nil {
		return id, err
	}
	if name == "" {
		return id, nil
	}
	_, err = d.send(ctx, c, Draft{Action: envelope.ActionProfile})
	return id, err
}

// Add brings all devices of members into a conversation, Remove takes them out.
// Whoever is there already, or not there, stays so.
func (d *Device) Add(ctx context.Context, id codec.ID, members []codec.ID) error {
	return d.changeMembers(ctx, id, members, nil)
}

// Remove takes all devices of other members out of a conversation.
func (d *Device) Remove(ctx context.Context, id codec.ID, members []codec.ID) error {
	if slices.Contains(members, d.self.Member) {
		return errors.New("a member leaves with Leave")
	}
	return d.changeMembers(ctx, id, nil, members)
}

func (d *Device) changeMembers(ctx context.Context, id codec.ID, add, remove []codec.ID) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	if err := d.ready(ctx); err != nil {
		return err
	}
	if err := d.mayAct(ctx); err != nil {
		return err
	}
	c, err := d.live(id)
	if err != nil {
		return err
	}
	if c.direct != nil {
		return fmt.Errorf("%s: %w", id, ErrDirect)
	}
	devices, err := d.devices(ctx, add)
	if err != nil {
		return err
	}
	before, err := d.groups.Epoch(id)
	if err != nil {
		return err
	}
	devices = slices.DeleteFunc(devices, func(h codec.Hash) bool { return before.Roster.Contains(h) })
	if err := d.change(ctx, c, devices, remove); err != nil || len(devices) == 0 || c.Name == "" {
		return err
	}
	// Newcomers can't read what was said before them, the name included.
	_, err = d.send(ctx, c, Draft{Action: envelope.ActionProfile})
	return err
}

// Leave asks the others to remove this member, as MLS lets nobody remove itself
// (RFC 9420 §12.2), and says nothing more in the conversation. What comes until
// they do is still received. It ends a direct conversation for both.
func (d *Device) Leave(ctx context.Context, id codec.ID) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	c, err := d.live(id)
	if err != nil {
		return err
	}
	if _, err := d.send(ctx, c, Draft{Flags: []string{FlagLeave}}); err != nil {
		return err
	}
	c.Left, c.changed = true, true
	return d.save()
}

// ready makes sure that the control log has been read at all.
func (d *Device) ready(ctx context.Context) error {
	if d.cfg.Replica.Size() > 0 {
		return nil
	}
	return d.refresh(ctx)
}

// refresh reads the control log as far as it is witnessed.
func (d *Device) refresh(ctx context.Context) error {
	return d.readLog(ctx)
}

// change brings a group to contain devices and none of the removed members' nor
// revoked ones, in as many commits as that takes.
func (d *Device) change(ctx context.Context, c *conversation, add []codec.Hash, remove []codec.ID) error {
	packages := map[codec.Hash][]byte{} // claimed, and not spent by a commit that lost
	for range attempts {
		err := d.settle(ctx, c)
		if err == nil {
			var done bool
			done, err = d.advance(ctx, c, add, remove, packages)
			if done {
				return nil
			}
		}
		if errors.Is(err, ErrConflict) {
			_, err = d.receive(ctx, &Summary{})
			if err == nil {
				c, err = d.live(c.ID)
			}
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", c.ID, ErrConflict)
}

// advance makes one commit towards the wanted members.
func (d *Device) advance(ctx context.Context, c *conversation, add []codec.Hash, remove []codec.ID, packages map[codec.Hash][]byte) (done bool, err error) {
	e, err := d.groups.Epoch(c.ID)
	if err != nil {
		return false, err
	}
	var out []codec.Hash
	d.cfg.Replica.Read(func(s *control.State) {
		for _, h := range e.Roster {
			dev, ok := s.Device(h)
			if ok && h != d.self.Device && (slices.Contains(remove, dev.Member) || !dev.ValidAt(s.Size())) {
				out = append(out, h)
			}
		}
	})
	in := slices.DeleteFunc(slices.Clone(add), func(h codec.Hash) bool { return e.Roster.Contains(h) })
	previous, ok := c.current()
	if !ok {
		return false, fmt.Errorf("%s: no epoch of this conversation is known", c.ID)
	}
	var step *Step
	switch {
	case len(out) > 0:
		step, err = d.groups.Remove(c.ID, out, d.credentials(d.cfg.Replica.Size(), d.cfg.Now().UnixMilli()))
	case len(in) > 0:
		var kps [][]byte
		if kps, err = d.claim(ctx, in, packages); err != nil {
			return false, err
		}
		step, err = d.groups.Add(c.ID, kps, d.credentials(d.cfg.Replica.Size(), d.cfg.Now().UnixMilli()))
	default:
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if len(out) > 0 {
		in = nil
	}
	if err := d.propose(c, step, previous.Hash, in); err != nil {
		return false, err
	}
	return false, d.commit(ctx, c)
}

// claim takes a KeyPackage of each device from the server, those at hand first.
func (d *Device) claim(ctx context.Context, devices []codec.Hash, packages map[codec.Hash][]byte) ([][]byte, error) {
	var missing []codec.Hash
	for _, h := range devices {
		if packages[h] == nil {
			missing = append(missing, h)
		}
	}
	if len(missing) > 0 {
		claimed, err := d.server.ClaimKeyPackages(ctx, missing)
		if err != nil {
			return nil, fmt.Errorf("couldn't claim KeyPackages: %w", err)
		}
		if len(claimed) != len(missing) {
			return nil, fmt.Errorf("%d KeyPackages for %d devices: %w", len(claimed), len(missing), ErrServer)
		}
		for i, h := range missing {
			if len(claimed[i].Package) == 0 {
				return nil, fmt.Errorf("device %s has no KeyPackage left at the server, until it next connects", h.Short())
			}
			if packages[h], err = d.claimed(h, &claimed[i]); err != nil {
				return nil, err
			}
		}
	}
	out := make([][]byte, len(devices))
	for i, h := range devices {
		out[i] = packages[h]
	}
	return out, nil
}

// propose signs the statement of a step and keeps both until the server has
// answered: after a crash the same bytes are sent again.
func (d *Device) propose(c *conversation, step *Step, previous codec.Hash, added []codec.Hash) error {
	statement := &manifest.Commit{
		Organisation: d.self.Organisation, Conversation: c.ID, Epoch: step.Number, Device: d.self.Device,
		Transcript: step.Transcript, Roster: step.Roster.Root(), Previous: previous,
	}
	if step.Number > 0 {
		statement.Message = manifest.CiphertextHash(step.Commit)
	}
	raw, err := manifest.SignCommit(d.key, statement)
	if err != nil {
		return fmt.Errorf("couldn't sign the commit statement: %w", err)
	}
	c.Pending = codec.Encode(&wire.CommitSubmission{
		Statement: raw, Roster: step.Roster, Commit: step.Commit, Welcome: step.Welcome, Added: added, GroupInfo: step.GroupInfo,
	})
	c.changed = true
	return d.save()
}

// settle finishes a commit that was on its way when the device last stopped.
func (d *Device) settle(ctx context.Context, c *conversation) error {
	if len(c.Pending) == 0 {
		return nil
	}
	return d.commit(ctx, c)
}

// commit offers the pending commit and enters its epoch once the server has
// receipted it. It returns ErrConflict where another commit came first.
func (d *Device) commit(ctx context.Context, c *conversation) error {
	sub, err := wire.ParseCommit(c.Pending)
	if err != nil {
		return fmt.Errorf("couldn't read the pending commit: %w", err)
	}
	body, err := manifest.ParseCommit(sub.Statement)
	if err != nil {
		return err
	}
	if err := d.step("commit"); err != nil {
		return err
	}
	receipts, err := d.server.Commit(ctx, sub)
	var refused *remote.Refused
	if errors.As(err, &refused) {
		return d.abandon(c, body, refused)
	}
	if err != nil {
		return fmt.Errorf("couldn't commit: %w", err)
	}
	if err := d.step("committed"); err != nil {
		return err
	}
	hash := manifest.CommitHash(sub.Statement)
	if len(receipts) != 1 {
		return fmt.Errorf("%d receipts for a commit: %w", len(receipts), ErrServer)
	}
	r, err := d.openReceipt(receipts[0], manifest.LeafCommit, hash, c.ID)
	if err != nil {
		return err
	}
	if body.Epoch > 0 && c.direct == nil {
		if err := d.merge(c, body, r); err != nil {
			return err
		}
	}
	c.enter(body.Epoch, hash)
	if c.direct != nil {
		c.direct.enter(body.Epoch, sub.Roster)
	} else {
		d.renewed(c)
	}
	c.Next = max(c.Next, r.Opening.Body.Position+1)
	c.Pending = nil
	return d.save()
}

// abandon gives up the pending commit, which the server refuses.
func (d *Device) abandon(c *conversation, body *manifest.Commit, refused *remote.Refused) error {
	if body.Epoch == 0 {
		d.forget(c)
	} else if err := d.withdraw(c, body); err != nil {
		return err
	}
	c.Pending, c.changed = nil, true
	if err := d.save(); err != nil {
		return err
	}
	if word, _, _ := strings.Cut(refused.Reason, ":"); word == "epoch" || c.direct != nil && word == "roster" {
		return fmt.Errorf("commit to epoch %d: %w", body.Epoch, ErrConflict)
	}
	return fmt.Errorf("commit to epoch %d: %w", body.Epoch, refused)
}

// forget erases a conversation's group and marks the conversation as left.
func (d *Device) forget(c *conversation) error {
	c.Left, c.Pending, c.Indexes, c.changed = true, nil, nil, true
	if err := d.groups.Forget(c.ID); err != nil && !errors.Is(err, ErrNoGroup) {
		return err
	}
	return nil
}

// applyCommit takes another member's step of a group that this device is in. It
// returns an error only where the step should be tried again.
func (d *Device) applyCommit(r *manifest.Receipt, it *wire.Delivery, body *manifest.Commit, sum *Summary) error {
	c, err := d.conversation(body.Conversation)
	if errors.Is(err, ErrNoConversation) {
		return nil
	}
	if err != nil {
		return err
	}
	hash := manifest.CommitHash(it.Manifest)
	d.follow(c, r, sum)
	last, _ := c.current()
	switch {
	case c.Broken != "" || c.Left && len(c.Statements) == 0:
		return nil
	case body.Device == d.self.Device:
		return nil // settle takes its own
	case body.Epoch <= last.Epoch:
		return nil // delivered again
	case body.Epoch != last.Epoch+1 || body.Previous != last.Hash:
		d.lose(c, sum, "the server left out a step of the group")
		return nil
	case body.Message != manifest.CiphertextHash(it.Body):
		c.halt("the commit is another than its author's statement names")
		return nil
	}
	before, err := d.groups.Epoch(c.ID)
	if errors.Is(err, ErrNoGroup) {
		return nil
	}
	if err != nil {
		return err
	}
	e, err := d.groups.Process(c.ID, it.Body, d.credentials(r.Opening.Body.ControlSize, r.Opening.Body.Time))
	switch {
	case errors.Is(err, ErrRemoved):
		return d.forget(c)
	case errors.Is(err, ErrShutOut):
		d.fault(sum, fmt.Sprintf("commit of leaf %d, by device %s: %v", r.Index, body.Device.Short(), err))
		d.lose(c, sum, fmt.Sprintf("device %s shut this one out", body.Device.Short()))
		return nil
	case err != nil:
		c.halt(fmt.Sprintf("commit by device %s: %v", body.Device.Short(), err))
		return nil
	case e.Number != body.Epoch || !slices.Equal(e.Transcript, body.Transcript) || e.Roster.Root() != body.Roster:
		c.halt(fmt.Sprintf("device %s signed another roster or transcript than it committed", body.Device.Short()))
		return nil
	}
	c.Pending = nil // ours has lost
	c.enter(body.Epoch, hash)
	d.welcomed(c, before.Roster, body.Device)
	return nil
}

// join enters a group by a Welcome.
func (d *Device) join(r *manifest.Receipt, it *wire.Delivery, body *manifest.Commit, sum *Summary) error {
	if old, err := d.conversation(body.Conversation); err == nil {
		if _, err := d.groups.Epoch(old.ID); err == nil {
			return nil // delivered again
		}
	} else if !errors.Is(err, ErrNoConversation) {
		return err
	}
	e, err := d.groups.Join(it.Body, d.credentials(r.Opening.Body.ControlSize, r.Opening.Body.Time))
	if err != nil {
		d.fault(sum, fmt.Sprintf("Welcome to %s: %v", body.Conversation, err))
		if errors.Is(err, ErrShutOut) {
			return d.invited(r, body.Conversation, sum)
		}
		return nil
	}
	if e.Conversation != body.Conversation || e.Number != body.Epoch || !slices.Equal(e.Transcript, body.Transcript) || e.Roster.Root() != body.Roster {
		d.fault(sum, fmt.Sprintf("Welcome to %s: not the group that its author's statement names", body.Conversation))
		return d.groups.Forget(e.Conversation)
	}
	c := &conversation{conversationState: conversationState{ID: e.Conversation}}
	// Somebody who comes back goes on with the numbers of before.
	if old, err := d.conversation(e.Conversation); err == nil {
		c.conversationState = old.conversationState
		c.Left, c.Broken, c.Statements, c.Indexes = false, "", nil, nil
		if old.rejoin != nil {
			d.planRejoin(c, nil)
		}
	}
	d.add(c)
	if e.Shared {
		d.plan(c, 0, true)
	}
	c.enter(e.Number, manifest.CommitHash(it.Manifest))
	// What came before is not for this device.
	p := r.Opening.Body.Position
	c.Next, c.Checked, c.Leaf = max(c.Next, p+1), p+1, r.Leaf()
	sum.Joined = append(sum.Joined, e.Conversation)
	return nil
}
