package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// Enrolment is what a new device is made of.
type Enrolment struct {
	Dir        string               // exists; becomes the device's
	Key        *[state.KeySize]byte // seals the device's state
	Member     codec.ID
	Name       string       // the member's, as records carry it; at most 256 bytes
	Invitation codec.Signer // the invitation's secret, or another device's Signer; nil where another device signs by itself: see Link
}

// Enrol makes a device, has it logged under the invitation, waits until a
// witnessed checkpoint of the control log covers its leaf, and stocks KeyPackages
// at the server. After a failure it may be called again with the same arguments
// and goes on where it stopped. It returns ErrEnrolled.
func Enrol(ctx context.Context, cfg Config, e Enrolment) (*Device, error) {
	cfg = cfg.withDefaults()
	d, err := create(cfg, e)
	if errors.Is(err, state.ErrExist) {
		if d, err = load(cfg, e.Dir, e.Key); err == nil && d.self.Enrolled {
			err = fmt.Errorf("%s: %w", e.Dir, ErrEnrolled)
		}
	}
	if err == nil {
		err = d.enrol(ctx)
	}
	if err != nil {
		if d != nil {
			d.store.Close()
		}
		return nil, err
	}
	return d, nil
}

func create(cfg Config, e Enrolment) (*Device, error) {
	if len(e.Name) > 256 {
		return nil, fmt.Errorf("member's name of %d bytes: %w", len(e.Name), codec.ErrSize)
	}
	key := codec.NewPrivateKey()
	organisation := cfg.Replica.Organisation()
	s, _, err := control.NewStatement(rand.Reader, organisation, &control.Device{
		Member: e.Member, Key: key.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
	})
	if err != nil {
		return nil, err
	}
	submit := wire.Submit{Statement: codec.Encode(s)}
	signers := []codec.Signer{key}
	if e.Invitation != nil {
		signers = append(signers, e.Invitation)
	}
	for _, k := range signers {
		sig, err := control.Sign(k, s)
		if err != nil {
			return nil, fmt.Errorf("couldn't sign the device's leaf: %w", err)
		}
		submit.Signatures = append(submit.Signatures, sig)
	}
	d := &Device{cfg: cfg, dir: e.Dir, self: self{
		Organisation: organisation, Member: e.Member, Name: e.Name,
		Seed: key.Seed(), Device: s.Hash(), Submit: codec.Encode(&submit),
	}}
	// The file is there with the key or not at all: nobody has heard of it yet.
	d.store, err = state.Create(filepath.Join(e.Dir, fileName), e.Key, state.Value{Bucket: bucketSelf, Data: codec.Encode(&d.self)})
	if err != nil {
		return nil, err
	}
	return d, d.start()
}

// enrol takes an enrolment to its end.
func (d *Device) enrol(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var submit wire.Submit
	if err := codec.Decode(d.self.Submit, &submit); err != nil {
		return fmt.Errorf("couldn't read the enrolment: %w", err)
	}
	if _, err := d.server.Submit(ctx, &submit); err != nil {
		return fmt.Errorf("couldn't enrol the device: %w", err)
	}
	if err := d.await(ctx, func(s *control.State) bool { _, known := s.Device(d.self.Device); return known }); err != nil {
		return err
	}
	if err := d.recertify(ctx, &Summary{}); err != nil {
		return err
	}
	if !d.certified.IsZero() {
		if err := d.await(ctx, d.hasCertificate); err != nil {
			return err
		}
	}
	if err := d.restock(ctx); err != nil {
		return err
	}
	if err := d.restockPreKeys(ctx); err != nil {
		return err
	}
	d.self.Enrolled, d.self.Submit = true, nil
	d.touch(bucketSelf)
	return d.save()
}

// await waits until a leaf of the device's own is under a witnessed checkpoint.
func (d *Device) await(ctx context.Context, there func(s *control.State) bool) error {
	for poll := enrolPoll; ; poll = min(2*poll, maxPoll) {
		// Another device of the process may have read the log that far.
		known := false
		d.cfg.Replica.Read(func(s *control.State) { known = there(s) })
		if known {
			return nil
		}
		if err := d.readLog(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		d.cfg.Replica.Read(func(s *control.State) { known = there(s) })
		if known {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the device's leaf is not witnessed yet: %w", ctx.Err())
		case <-time.After(poll):
		}
	}
}
