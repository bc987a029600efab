package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/manifest"
)

// trail marks a conversation as one whose leaves come without a gap. One that an
// earlier version kept becomes it with the first leaf that comes: that version
// was not told of every leaf.
func (d *Device) trail(c *conversation) {
	if !c.followed {
		c.followed = true
		d.put(bucketFollowed, string(c.ID[:]), []byte{1})
	}
}

// follow takes a conversation's next leaf, whatever it stands for. The queue has
// all of them and each receipt names the leaf before, so that a message which
// the server withholds is missed by its recipients. Positions that never came
// are exceptions of every acknowledgement to come.
func (d *Device) follow(c *conversation, r *manifest.Receipt, sum *Summary) {
	body := &r.Opening.Body
	p := body.Position
	c.Next, c.changed = max(c.Next, p+1), true
	switch {
	case !c.followed:
		d.trail(c)
	case p+1 == c.Checked && r.Leaf() != c.Leaf:
		d.fault(sum, fmt.Sprintf("two leaves at position %d of %s", p, c.ID))
		c.except(p)
		return
	case p < c.Checked:
		return // delivered again
	case p-c.Checked > maxMissing:
		c.halt(fmt.Sprintf("the server left out positions %d to %d", c.Checked, p-1))
		return
	case p > c.Checked:
		d.fault(sum, fmt.Sprintf("positions %d to %d of %s were withheld", c.Checked, p-1, c.ID))
		for q := c.Checked; q < p; q++ {
			c.except(q)
		}
	case body.Previous != c.Leaf:
		d.fault(sum, fmt.Sprintf("leaf %d of %s doesn't follow the one before it", r.Index, c.ID))
		c.except(p)
	}
	c.Checked, c.Leaf = p+1, r.Leaf()
}

// except notes a position that isn't accepted, once: acknowledgements have them
// in order, whatever is delivered again.
func (c *conversation) except(position uint64) {
	if i, ok := slices.BinarySearch(c.Exceptions, position); !ok {
		c.Exceptions = slices.Insert(c.Exceptions, i, position)
	}
}

// before reports whether an epoch is before those that the device remembers,
// which begin with the one it joined in.
func (c *conversation) before(epoch uint64) bool {
	return len(c.Statements) > 0 && epoch < c.Statements[0].Epoch
}

// vouched checks who signed a manifest that comes without a message: with one of
// its own making the server could fill the place of what it withholds.
func (d *Device) vouched(m *manifest.Manifest, body *manifest.ReceiptBody) error {
	var device *control.DeviceState
	var err error
	d.cfg.Replica.Read(func(s *control.State) { device, _, err = s.CheckHeader(m.Header, body.ControlSize, body.Time) })
	if err != nil {
		return err
	}
	if err := d.cfg.Keyring.verify(m, device.Key); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

// void takes a position that a device filled after a refusal.
func (d *Device) void(ctx context.Context, it *wire.Delivery, sum *Summary) error {
	r, ok, err := d.judge(ctx, it.Receipt, sum)
	if err != nil || !ok {
		return err
	}
	if err := d.checkVoid(it.Manifest, r); err != nil {
		d.fault(sum, fmt.Sprintf("void of leaf %d: %v", r.Index, err))
		return d.except(r, sum)
	}
	c, err := d.conversation(r.Opening.Body.Conversation)
	if errors.Is(err, ErrNoConversation) {
		return nil
	}
	if err != nil {
		return err
	}
	d.follow(c, r, sum)
	return nil
}

func (d *Device) checkVoid(raw []byte, r *manifest.Receipt) error {
	v, err := manifest.ParseVoid(raw)
	if err != nil {
		return err
	}
	body := &r.Opening.Body
	if r.Object != manifest.VoidHash(raw) || body.Kind != manifest.LeafVoid || body.Conversation != v.Conversation {
		return errors.New("the receipt is another's")
	}
	if v.Organisation != d.self.Organisation {
		return errors.New("of another organisation")
	}
	key, ok := d.keyAt(v.Device, body.ControlSize)
	if !ok {
		return fmt.Errorf("device %s was not valid", v.Device.Short())
	}
	if _, err := manifest.OpenVoid(key, raw); err != nil {
		return err
	}
	var server codec.PublicKey
	d.cfg.Replica.Read(func(s *control.State) { server = s.Genesis().ReceiptKey })
	refusal, err := manifest.OpenRefusal(server, v.Refusal)
	if err != nil {
		return err
	}
	if refusal.Core != v.Core {
		return errors.New("its refusal is of another core")
	}
	return nil
}

// except notes the position of a receipt as one that isn't accepted: the next
// acknowledgement must not say that what came there was right.
func (d *Device) except(r *manifest.Receipt, sum *Summary) error {
	c, err := d.conversation(r.Opening.Body.Conversation)
	if errors.Is(err, ErrNoConversation) {
		return nil
	}
	if err != nil {
		return err
	}
	d.follow(c, r, sum)
	c.except(r.Opening.Body.Position)
	return nil
}

// outdated reports whether a message names a policy that came before the one
// which its group pins; a zero leaf pins none.
func (d *Device) outdated(pinned, named codec.Hash) (older bool) {
	if !pinned.IsZero() {
		d.cfg.Replica.Read(func(s *control.State) { older = !handshake.Later(s, pinned, named) })
	}
	return older
}
