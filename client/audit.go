package client

import (
	"context"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/control"
)

const bucketAudit = "audit"

// audited is how far the member has looked at what the log says of the own
// devices.
type audited struct {
	_    struct{} `cbor:",toarray"`
	Size int64    // leaves of the control log
}

// AuditEvent is a leaf about one of the member's devices.
type AuditEvent struct {
	control.DeviceEvent
	New  bool // since the last audit
	Mine bool // this device signed it, or is whom it enrolled
}

// AuditDevice is one of the member's devices as the log has it now.
type AuditDevice struct {
	Device    codec.Hash
	This      bool
	Live      bool
	Enrolled  time.Time
	Certified time.Time // until when; zero without a certificate
}

// Audit is what the control log says of a member's devices.
type Audit struct {
	Member  codec.ID
	Size    int64 // leaves of the control log that were read
	Before  int64 // leaves that the last audit had read
	Devices []AuditDevice
	Events  []AuditEvent // since the first, in order
}

// Audit reads the control log anew and returns every leaf about the member's
// devices. What it returns counts as looked at: the next audit's New begins
// after it, and Sync warns no more of what is in it.
func (d *Device) Audit(ctx context.Context) (*Audit, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if err := d.refresh(ctx); err != nil {
		return nil, err
	}
	before, err := d.audited()
	if err != nil {
		return nil, err
	}
	a := &Audit{Member: d.self.Member, Before: before}
	entries, _ := d.cfg.Replica.Entries()
	var history []control.DeviceEvent
	d.cfg.Replica.Read(func(s *control.State) {
		a.Size = min(s.Size(), int64(len(entries)))
		history, err = s.DeviceHistory(entries[:a.Size], d.self.Member)
		for _, h := range s.Devices(d.self.Member) {
			if dev, ok := s.Device(h); ok {
				a.Devices = append(a.Devices, d.describeDevice(s, dev))
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't read the history of this member's devices: %w", err)
	}
	for _, e := range history {
		mine := e.Sibling == d.self.Device || e.Kind == control.KindDevice && e.Device == d.self.Device
		a.Events = append(a.Events, AuditEvent{DeviceEvent: e, New: e.Index >= before, Mine: mine})
	}
	d.put(bucketAudit, "", codec.Encode(audited{Size: a.Size}))
	return a, d.save()
}

func (d *Device) describeDevice(s *control.State, dev *control.DeviceState) AuditDevice {
	out := AuditDevice{
		Device: dev.Hash, This: dev.Hash == d.self.Device, Live: dev.ValidAt(s.Size()), Enrolled: time.UnixMilli(dev.Time).UTC(),
	}
	if c := dev.Certificates(); len(c) > 0 {
		out.Certified = time.UnixMilli(c[len(c)-1].NotAfter).UTC()
	}
	return out
}

// audited returns up to where the member has looked: at first up to this
// device's own enrolment.
func (d *Device) audited() (int64, error) {
	var last audited
	if err := d.read(bucketAudit, &last); err != nil {
		return 0, err
	}
	if last.Size > 0 {
		return last.Size, nil
	}
	since := int64(0)
	d.cfg.Replica.Read(func(s *control.State) {
		if own, ok := s.Device(d.self.Device); ok {
			since = own.Since + 1
		}
	})
	return since, nil
}

// strangers warns of devices of this member that this device didn't let in and
// the member hasn't looked at. Two officers can enrol one in anybody's name, and
// a stolen device can let in another: whose devices they would be is who notices.
func (d *Device) strangers(sum *Summary) error {
	seen, err := d.audited()
	if err != nil {
		return err
	}
	d.cfg.Replica.Read(func(s *control.State) {
		for _, h := range s.Devices(d.self.Member) {
			dev, ok := s.Device(h)
			if !ok || dev.Since < seen || h == d.self.Device || dev.Sponsor == d.self.Device {
				continue
			}
			by := "an invitation of officers"
			if !dev.Sponsor.IsZero() {
				by = "device " + dev.Sponsor.Short()
			}
			sum.Warnings = append(sum.Warnings, fmt.Sprintf("device %s was enrolled in this member's name on %s, by %s and not by this device: an audit shows it",
				h.Short(), time.UnixMilli(dev.Time).UTC().Format(time.DateTime), by))
		}
	})
	return nil
}
