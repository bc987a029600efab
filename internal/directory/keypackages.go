package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

const (
	maxKeyPackages = 500 // in stock, for one device
	maxUpload      = 100
	maxPackage     = 16 << 10
	// maxKeys is how many public keys of one device's KeyPackages are remembered
	// as long as those live: two for each.
	maxKeys = 40000
)

// ErrKeyPackage means that something isn't a KeyPackage which the device may
// publish. The error says why.
var ErrKeyPackage = errors.New("not a KeyPackage that this device may publish")

// StockKeyPackages adds to a device's KeyPackages, all of them or none. The same
// ones may be stocked again: what was given out since stays given out. It
// returns ErrKeyPackage, ErrSize or ErrFull.
func (d *Directory) StockKeyPackages(ctx context.Context, device codec.Hash, packages [][]byte) error {
	if len(packages) == 0 || len(packages) > maxUpload {
		return fmt.Errorf("%d KeyPackages, want 1 to %d: %w", len(packages), maxUpload, ErrSize)
	}
	now := d.Now()
	owner := d.publisher(device, now)
	judged := make([]*store.KeyPackage, len(packages))
	for i, raw := range packages {
		if len(raw) == 0 || len(raw) > maxPackage {
			return fmt.Errorf("KeyPackage of %d bytes, want 1 to %d: %w", len(raw), maxPackage, ErrSize)
		}
		var err error
		if judged[i], err = owner.judge(raw); err != nil {
			return fmt.Errorf("KeyPackage %d: %w: %w", i+1, ErrKeyPackage, err)
		}
	}
	have, err := d.Store.KeyPackages(ctx, device, now)
	if err != nil {
		return err
	}
	if have.Left+len(packages) > maxKeyPackages || have.Keys+2*len(packages) > maxKeys {
		return fmt.Errorf("the stock of %d KeyPackages is %w", have.Left, ErrFull)
	}
	return d.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.DropKeyPackages(device, now); err != nil {
			return err
		}
		for i, p := range judged {
			err := tx.PutKeyPackage(p, now)
			if errors.Is(err, store.ErrRepeated) {
				return fmt.Errorf("KeyPackage %d: %w: it %w", i+1, ErrKeyPackage, err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// KeyPackages returns what nobody has claimed of a device's KeyPackages.
func (d *Directory) KeyPackages(ctx context.Context, device codec.Hash) (*store.Stock, error) {
	return d.Store.KeyPackages(ctx, device, d.Now())
}

// ClaimKeyPackages takes one KeyPackage of each device for a device that asks:
// the oldest of its stock, the one of last resort where the stock is used up,
// and an empty one where it has neither or is no device that is valid now. It
// returns *Busy where the asking device has claimed too many of late.
func (d *Directory) ClaimKeyPackages(ctx context.Context, asking codec.Hash, devices []codec.Hash) ([][]byte, error) {
	now := d.Now()
	if wait := d.claims.take(asking, len(devices), now); wait > 0 {
		return nil, &Busy{After: wait}
	}
	// Read before the Update: whoever logs a leaf locks in the other order.
	owners := make([]*publisher, len(devices))
	for i, device := range devices {
		owners[i] = d.publisher(device, now)
	}
	out := make([][]byte, len(devices))
	err := d.Store.Update(ctx, func(tx store.Tx) (err error) {
		for i, owner := range owners {
			if out[i], err = owner.give(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// publisher judges a device's KeyPackages, as the control log knew the device.
type publisher struct {
	device codec.Hash
	key    codec.PublicKey
	valid  bool
	now    time.Time
}

var _ tree.Rules = (*publisher)(nil)

func (d *Directory) publisher(device codec.Hash, now time.Time) *publisher {
	p := &publisher{device: device, now: now}
	d.Read(func(s *control.State, _ codec.Hash) {
		if state, ok := s.Device(device); ok && state.ValidAt(s.Size()) {
			p.key, p.valid = state.Key, true
		}
	})
	return p
}

// give takes the device's next KeyPackage. Each is judged again: it may have
// expired, or have been stocked by a version that judged nothing. One of a device
// of an earlier version, with which no new group can be entered, is let go: the
// device stocks others when it has its present version.
func (p *publisher) give(tx store.Tx) ([]byte, error) {
	if !p.valid {
		return nil, nil
	}
	for {
		raw, err := tx.TakeKeyPackage(p.device)
		if err != nil {
			return nil, err
		}
		if raw == nil {
			break
		}
		if kp, err := p.read(raw); err == nil && handshake.Capable(&kp.Leaf) {
			return raw, nil
		}
	}
	raw, err := tx.LastResort(p.device)
	if err != nil || raw == nil {
		return nil, err
	}
	if _, err := p.read(raw); err != nil {
		return nil, tx.DropKeyPackages(p.device, p.now)
	}
	return raw, nil
}

// judge reads what a device stocks.
func (p *publisher) judge(raw []byte) (*store.KeyPackage, error) {
	kp, err := p.read(raw)
	if err != nil {
		return nil, err
	}
	return &store.KeyPackage{
		Device: p.device, Package: raw, Keys: [][]byte{kp.InitKey, kp.Leaf.EncryptionKey},
		NotAfter: time.Unix(int64(kp.Leaf.Lifetime.NotAfter), 0), LastResort: kp.LastResort(),
	}, nil
}

// read decides whether bytes are a KeyPackage with which the device may be added
// now (RFC 9420 §10.1, spec/delivery.md#keypackages). The error says why not.
func (p *publisher) read(raw []byte) (*tree.KeyPackage, error) {
	m, err := tree.ParseMessage(bytes.Clone(raw))
	if err != nil {
		return nil, fmt.Errorf("couldn't read it: %w", err)
	}
	kp, ok := m.(*tree.KeyPackage)
	if !ok {
		return nil, errors.New("another kind of MLSMessage")
	}
	suite, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	if err != nil {
		return nil, err
	}
	if err := tree.CheckKeyPackage(suite, p, kp); err != nil {
		return nil, err
	}
	return kp, nil
}

// Leaf implements tree.Rules.
func (p *publisher) Leaf(_ tree.Event, _, leaf *tree.LeafNode) error {
	switch {
	case !p.valid:
		return errors.New("the device is not valid now")
	case leaf.Credential.Type != tree.CredentialBasic || !bytes.Equal(leaf.Credential.Identity, p.device[:]):
		return errors.New("another device's credential")
	case !bytes.Equal(leaf.SignatureKey, p.key[:]):
		return errors.New("another key than the device's")
	}
	return nil
}

// Lifetime implements tree.Rules.
func (p *publisher) Lifetime(_ tree.Event, l tree.Lifetime) error {
	switch {
	case !l.AtMost(wire.KeyPackageLifetime):
		return fmt.Errorf("it lives longer than %d days", wire.KeyPackageLifetime/(24*time.Hour))
	case !l.Covers(p.now):
		return errors.New("it has expired, or isn't valid yet")
	}
	return nil
}

// Client implements tree.Rules.
func (p *publisher) Client(*tree.LeafNode) string { return "" }

// ExternalSender implements tree.Rules.
func (p *publisher) ExternalSender(*tree.ExternalSender) error { return errors.New("no group") }

// Proposal implements tree.Rules.
func (p *publisher) Proposal(*tree.Group, tree.Sender, tree.Proposal) error {
	return errors.New("no group")
}
