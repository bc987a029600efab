package client

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"chancery/client/state"
	"chancery/codec"
)

// storedIn is what Groups and Pairs read, each in a bucket of its own.
type storedIn struct {
	store  *state.Store
	bucket string
}

func (s storedIn) Value(name string) ([]byte, error) {
	b, _, err := s.store.Get(s.bucket, name)
	return b, err
}

func (s storedIn) Group(conversation codec.ID) (map[string][]byte, error) {
	return s.store.Group(s.bucket, string(conversation[:]))
}

// place is where a value lies in the device's state.
type place struct{ bucket, group, key string }

// reload forgets what was not written.
func (d *Device) reload() error {
	d.conversations, d.changed, d.staged = map[codec.ID]*conversation{}, map[string]bool{}, map[place][]byte{}
	d.progress, d.list, d.waiting = progress{}, nil, nil
	d.groups.Revert()
	if d.pairs != nil {
		d.pairs.Revert()
	}
	return errors.Join(d.read(bucketDevice, &d.progress), d.read(bucketList, &d.list), d.read(bucketWaiting, &d.waiting))
}

func (d *Device) get(bucket, key string) ([]byte, bool, error) {
	if v, ok := d.staged[place{bucket: bucket, key: key}]; ok {
		return v, v != nil, nil
	}
	return d.store.Get(bucket, key)
}

// read reads a bucket's one value, if there is one.
func (d *Device) read(bucket string, v any) error { return d.readOf(bucket, "", v) }

func (d *Device) readOf(bucket, key string, v any) error {
	b, ok, err := d.get(bucket, key)
	if err != nil || !ok {
		return err
	}
	if err := codec.Decode(b, v); err != nil {
		return fmt.Errorf("couldn't read the device's %s: %w", bucket, err)
	}
	return nil
}

func (d *Device) put(bucket, key string, data []byte) {
	d.staged[place{bucket: bucket, key: key}] = data
}

// save writes all that has changed, in one durable step, or nothing: then the
// device is where it was before.
func (d *Device) save() error {
	err := d.write()
	if err != nil {
		return errors.Join(err, d.reload())
	}
	return nil
}

func (d *Device) write() error {
	if err := d.step("save"); err != nil {
		return err
	}
	if err := d.stage(bucketMLS, d.groups.Changes); err != nil {
		return err
	}
	if d.pairs != nil {
		if err := d.stage(bucketRatchet, d.pairs.Changes); err != nil {
			return err
		}
	}
	for id, c := range d.conversations {
		if c.changed {
			d.put(bucketConversation, string(id[:]), codec.Encode(c.conversationState))
			if c.direct != nil {
				d.put(bucketDirect, string(id[:]), codec.Encode(c.direct))
			}
			c.changed = false
		}
	}
	for bucket, v := range map[string]any{bucketSelf: &d.self, bucketDevice: &d.progress, bucketList: d.list, bucketWaiting: d.waiting} {
		if d.changed[bucket] {
			d.put(bucket, "", codec.Encode(v))
		}
	}
	if len(d.staged) == 0 {
		return nil
	}
	values := make([]state.Value, 0, len(d.staged))
	for at, data := range d.staged {
		values = append(values, state.Value{Bucket: at.bucket, Group: at.group, Key: at.key, Data: data})
	}
	slices.SortFunc(values, func(a, b state.Value) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Key, b.Key))
	})
	if err := d.store.Write(values); err != nil {
		return err
	}
	for i := range values {
		if b := values[i].Bucket; b == bucketMLS || b == bucketRatchet || b == bucketHistory {
			clear(values[i].Data) // nobody else has it
		}
	}
	clear(d.staged)
	clear(d.changed)
	return d.step("saved")
}

// stage takes what groups or sessions have to write.
func (d *Device) stage(bucket string, from func() ([]Change, error)) error {
	changes, err := from()
	if err != nil {
		return err
	}
	for _, c := range changes {
		at := place{bucket: bucket, key: c.Name}
		if !c.Conversation.IsZero() {
			at.group = string(c.Conversation[:])
		}
		d.staged[at] = c.Value
	}
	return nil
}

func (d *Device) touch(bucket string) { d.changed[bucket] = true }
