package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/evidence"
	"chancery/internal/handshake"
	"chancery/manifest"
)

const (
	// FlagLeave marks the record by which a member asks to be removed.
	FlagLeave = "leave"

	attempts      = 8    // at a commit that others outrun
	keptEpochs    = 8    // whose statements are remembered
	maxMissing    = 1024 // positions left out that a conversation goes on without
	indexKeptDays = 4    // an index key is of use as long as messages of its day may come
)

// conversationState is a conversation as the device keeps it.
type conversationState struct {
	_          struct{} `cbor:",toarray"`
	ID         codec.ID
	Name       string
	Statements []statement // of the last epochs, ascending
	Seq        uint64      // of the device's next envelope here
	Prev       codec.Hash  // H(core) of its last
	Indexes    []indexKey  // verified, in the order of their verification
	Next       uint64      // one past the greatest position known
	Checked    uint64      // one past the last position received; 0 for none
	Leaf       codec.Hash  // at that position
	Read       uint64      // positions below were read
	Acked      uint64      // Checked of the last acknowledgement
	AckedRead  uint64
	Exceptions []uint64 // positions not accepted
	Pending    []byte   // a CommitSubmission on its way
	Leaving    []codec.ID
	Left       bool
	Broken     string
}

type statement struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint64
	Hash  codec.Hash
}

// indexKey is an index envelope that the device drew or has re-sealed.
type indexKey struct {
	_      struct{} `cbor:",toarray"`
	Core   codec.Hash
	Header []byte
	Seed   envelope.Seed
	Day    uint32
	Epoch  uint64 // in which it was drawn, or first seen
}

type conversation struct {
	conversationState
	direct   *directState // nil of a group
	changed  bool
	followed bool // every leaf since it was made or joined has come: see follow
	renewal  renewal
	rejoin   *rejoin // where the device is to join by itself
	clean    int     // revocations none of which is of a device in the present epoch: see revokedIn
}

// epoch returns the statement of an epoch that is remembered.
func (c *conversation) epoch(n uint64) (codec.Hash, bool) {
	for _, s := range c.Statements {
		if s.Epoch == n {
			return s.Hash, true
		}
	}
	return codec.Hash{}, false
}

func (c *conversation) current() (statement, bool) {
	if len(c.Statements) == 0 {
		return statement{}, false
	}
	return c.Statements[len(c.Statements)-1], true
}

// enter records a step of the group.
func (c *conversation) enter(epoch uint64, hash codec.Hash) {
	c.clean = 0
	c.Statements = append(c.Statements, statement{Epoch: epoch, Hash: hash})
	if n := len(c.Statements) - keptEpochs; n > 0 {
		c.Statements = slices.Delete(c.Statements, 0, n)
	}
	c.changed = true
}

// index returns the earliest index key of a day and epoch. A key of an earlier
// epoch won't do: who was removed since has it, and a matter of a custodian who
// joined since can't open it.
func (c *conversation) index(day uint32, epoch uint64) (*indexKey, bool) {
	for i := range c.Indexes {
		if k := &c.Indexes[i]; k.Day == day && k.Epoch == epoch {
			return k, true
		}
	}
	return nil, false
}

// addIndex remembers an index key and erases those of days and epochs that are
// over.
func (c *conversation) addIndex(k indexKey, today uint32) {
	c.Indexes = slices.DeleteFunc(c.Indexes, func(old indexKey) bool {
		return old.Day+indexKeptDays < today || old.Epoch+keptEpochs < k.Epoch
	})
	c.Indexes = append(c.Indexes, k)
	c.changed = true
}

func (d *Device) conversation(id codec.ID) (*conversation, error) {
	if c, ok := d.conversations[id]; ok {
		return c, nil
	}
	raw, ok, err := d.get(bucketConversation, string(id[:]))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, ErrNoConversation)
	}
	c := &conversation{}
	if err := codec.Decode(raw, &c.conversationState); err != nil {
		return nil, fmt.Errorf("couldn't read conversation %s: %w", id, err)
	}
	if _, c.followed, err = d.get(bucketFollowed, string(id[:])); err != nil {
		return nil, err
	}
	if c.direct, err = d.readDirect(id); err != nil {
		return nil, err
	}
	if err := d.readOf(bucketRenewal, string(id[:]), &c.renewal); err != nil {
		return nil, err
	}
	if c.Broken != "" {
		var r rejoin
		if _, ok, err := d.get(bucketRejoin, string(id[:])); err != nil {
			return nil, err
		} else if ok {
			if err := d.readOf(bucketRejoin, string(id[:]), &r); err != nil {
				return nil, err
			}
			c.rejoin = &r
		}
	}
	d.conversations[id] = c
	return c, nil
}

// live returns a conversation that the device can speak in.
func (d *Device) live(id codec.ID) (*conversation, error) {
	c, err := d.conversation(id)
	switch {
	case err != nil:
		return nil, err
	case c.Left:
		return nil, fmt.Errorf("%s: %w", id, ErrLeft)
	case c.Broken != "":
		return nil, fmt.Errorf("%s: %w: %s", id, ErrBroken, c.Broken)
	}
	return c, nil
}

func (d *Device) add(c *conversation) {
	c.changed = true
	d.trail(c)
	d.conversations[c.ID] = c
	if !slices.Contains(d.list, c.ID) {
		d.list = append(d.list, c.ID)
		d.touch(bucketList)
	}
}

// Conversation is a conversation as its members see it.
type Conversation struct {
	ID      codec.ID
	Name    string // of its newest profile; empty where it has none
	Members []codec.ID
	Devices int
	Direct  bool // one-to-one, on sessions between devices; else a group
	Epoch   uint64
	Next    uint64 // one past the greatest position known
	Read    uint64 // positions below were read
	Left    bool
	Broken  string // why it can't go on, or empty
}

// Conversations returns the device's conversations in the order it joined them.
func (d *Device) Conversations() ([]Conversation, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	out := make([]Conversation, 0, len(d.list))
	for _, id := range d.list {
		c, err := d.describe(id)
		if err != nil {
			return nil, err
		}
		out = append(out, *c)
	}
	return out, nil
}

// Conversation returns one conversation. It returns ErrNoConversation.
func (d *Device) Conversation(id codec.ID) (*Conversation, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	return d.describe(id)
}

func (d *Device) describe(id codec.ID) (*Conversation, error) {
	c, err := d.conversation(id)
	if err != nil {
		return nil, err
	}
	out := &Conversation{ID: id, Name: c.Name, Direct: c.direct != nil, Next: c.Next, Read: c.Read, Left: c.Left, Broken: c.Broken}
	e, err := d.epoch(c)
	if errors.Is(err, ErrNoGroup) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out.Epoch, out.Devices = e.Number, len(e.Roster)
	out.Members = d.members(e.Roster)
	if c.direct != nil {
		out.Members = slices.Clone(c.direct.Members) // also one who has no device now
	}
	return out, nil
}

// members returns the members of a roster's devices, sorted, each once.
func (d *Device) members(roster manifest.Roster) []codec.ID {
	var ids []codec.ID
	d.cfg.Replica.Read(func(s *control.State) {
		for _, h := range roster {
			if dev, ok := s.Device(h); ok {
				ids = append(ids, dev.Member)
			}
		}
	})
	slices.SortFunc(ids, func(a, b codec.ID) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// devices returns the live devices of members, but for this one. A member who
// has none may have enrolled since the control log was read.
func (d *Device) devices(ctx context.Context, members []codec.ID) ([]codec.Hash, error) {
	out, err := d.known(members)
	if err == nil {
		return out, nil
	}
	if readErr := d.refresh(ctx); readErr != nil {
		return nil, errors.Join(err, readErr)
	}
	return d.known(members)
}

func (d *Device) known(members []codec.ID) (out []codec.Hash, err error) {
	d.cfg.Replica.Read(func(s *control.State) {
		for _, m := range members {
			found := m == d.self.Member
			for _, h := range s.Devices(m) {
				if _, err := s.CheckDevice(h, s.Size(), d.cfg.Now().UnixMilli()); err != nil {
					continue
				}
				found = true
				if h != d.self.Device {
					out = append(out, h)
				}
			}
			if !found {
				err = fmt.Errorf("member %s has no device that may be added now", m)
				return
			}
		}
	})
	return manifest.NewRoster(out), err
}

// credentials judges the leaves of a group at a size of the control log.
func (d *Device) credentials(size, time int64) Credentials {
	return handshake.Log{Read: d.cfg.Replica.Read, Size: size, Time: time}
}

// Rename gives a conversation another name.
func (d *Device) Rename(ctx context.Context, id codec.ID, name string) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	c, err := d.live(id)
	if err != nil {
		return err
	}
	if len(name) > 1024 {
		return fmt.Errorf("conversation's name of %d bytes: %w", len(name), codec.ErrSize)
	}
	c.Name, c.changed = name, true
	_, err = d.send(ctx, c, Draft{Action: envelope.ActionProfile})
	return err
}

// openReceipt verifies a receipt and that it is the one of an object.
func (d *Device) openReceipt(raw []byte, kind manifest.LeafKind, object codec.Hash, conversation codec.ID) (*manifest.Receipt, error) {
	var key codec.PublicKey
	d.cfg.Replica.Read(func(s *control.State) {
		if g := s.Genesis(); g != nil {
			key = g.ReceiptKey
		}
	})
	r, err := manifest.OpenReceipt(key, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	body := &r.Opening.Body
	if r.Object != object || body.Kind != kind || body.Conversation != conversation {
		return nil, fmt.Errorf("%w: a receipt of something else", ErrServer)
	}
	if err := d.promised(evidence.PromiseReceipt, raw, body.ControlSize, body.ControlRoot, body.Time); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return r, nil
}

func (c *conversation) halt(reason string) { c.Broken, c.changed = reason, true }
