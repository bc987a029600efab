package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/handshake"
	"chancery/manifest"
)

// FlagRestart marks a record without text by which a device begins new sessions:
// something that it was sent didn't open.
const FlagRestart = "restart"

// countInterval is how often a device asks how many of its prekeys are left.
const countInterval = time.Minute

// prepare makes a direct conversation ready for a message: its statement says
// who is in it now, and there is a session with each device that has prekeys. It
// returns ErrNoSession where the other member can't be written to.
func (d *Device) prepare(ctx context.Context, id codec.ID) error {
	if d.pairs == nil {
		return ErrNoSession
	}
	if err := d.restate(ctx, id); err != nil {
		return err
	}
	c, err := d.conversation(id)
	if err != nil {
		return err
	}
	last, _ := c.current()
	return d.sessions(ctx, c.direct.roster(last.Epoch))
}

// hopeless reports whether another try won't make a message of a direct
// conversation go out.
func hopeless(err error) bool {
	return errors.Is(err, ErrNoSession) || errors.Is(err, ErrNoGroup) || errors.Is(err, errManyDevices)
}

// sessions begins the sessions that are missing with the devices of a roster. A
// device that has published no prekeys, or none that are good, gets nothing until
// it does; it returns ErrNoSession where that is all that the other member has.
func (d *Device) sessions(ctx context.Context, roster manifest.Roster) error {
	var wanted []Peer
	reached := map[codec.Hash]bool{}
	for _, p := range d.peers(roster) {
		ready, renew, err := d.pairs.Ready(p)
		if err != nil {
			return err
		}
		reached[p.Device] = ready
		if renew {
			wanted = append(wanted, p)
		}
	}
	if err := d.beginSessions(ctx, wanted, reached); err != nil {
		return err
	}
	for device, ok := range reached {
		if ok && d.memberOf(device) != d.self.Member {
			return nil
		}
	}
	return fmt.Errorf("%w: no device of the other member has good prekeys at the server, until one next connects", ErrNoSession)
}

// beginSessions begins a session with each of the peers whose prekeys the server
// has. What isn't that device's in every part, or no good, begins none: it may be
// the server's making or the device's own, and must not hold up what goes to
// others.
func (d *Device) beginSessions(ctx context.Context, peers []Peer, reached map[codec.Hash]bool) error {
	if len(peers) == 0 {
		return nil
	}
	devices := make([]codec.Hash, len(peers))
	for i := range peers {
		devices[i] = peers[i].Device
	}
	bundles, err := d.server.ClaimBundles(ctx, devices)
	if err != nil {
		return fmt.Errorf("couldn't claim prekeys: %w", err)
	}
	if len(bundles) != len(peers) {
		return fmt.Errorf("%d bundles for %d devices: %w", len(bundles), len(peers), ErrServer)
	}
	for i, p := range peers {
		if len(bundles[i]) > 0 && d.pairs.Begin(p, bundles[i]) == nil {
			reached[p.Device] = true
		}
	}
	return nil
}

// peers returns the devices of a roster but for this one, in its order.
func (d *Device) peers(roster manifest.Roster) []Peer {
	var peers []Peer
	d.cfg.Replica.Read(func(s *control.State) {
		for _, h := range roster.Without(d.self.Device) {
			if dev, ok := s.Device(h); ok {
				peers = append(peers, Peer{Device: h, Key: dev.Key})
			}
		}
	})
	return peers
}

// encryptFor makes the end-to-end ciphertext of a message and the hashes that its
// manifest names: of a group one, of a direct conversation one for each other
// device in the roster, empty for one without a session.
func (d *Device) encryptFor(c *conversation, epoch *Epoch, core *envelope.Core, plain []byte) (ciphertext []byte, hashes []codec.Hash, err error) {
	ad := manifest.AuthenticatedData(core.Hash())
	if c.direct == nil {
		if ciphertext, err = d.groups.Encrypt(c.ID, plain, ad); err != nil {
			return nil, nil, err
		}
		return ciphertext, []codec.Hash{manifest.CiphertextHash(ciphertext)}, nil
	}
	if d.pairs == nil {
		return nil, nil, ErrNoSession
	}
	header, err := envelope.ParseHeader(core.Header)
	if err != nil {
		return nil, nil, err
	}
	peers := d.peers(epoch.Roster)
	copies := make([][]byte, len(peers))
	for i, p := range peers {
		copies[i], err = d.pairs.Encrypt(p, pinOf(header), ad, plain)
		if errors.Is(err, ErrNoSession) {
			copies[i] = []byte{}
		} else if err != nil {
			return nil, nil, err
		}
	}
	return manifest.EncodeCopies(copies), manifest.CopyHashes(copies), nil
}

func pinOf(h *envelope.Header) Pin { return Pin{Policy: h.PolicyLeaf, Escrow: h.EscrowKey} }

// checkCiphertext checks that the ciphertext is the one that the manifest names
// for this device and, in a direct conversation, that the message was for all
// devices that the members had then.
func (d *Device) checkCiphertext(c *conversation, m *manifest.Manifest, body *manifest.ReceiptBody, ciphertext []byte) error {
	names := m.Transport.Ciphertexts
	if c.direct == nil {
		if len(names) != 1 || names[0] != manifest.CiphertextHash(ciphertext) {
			return errors.New("the ciphertext is another than the manifest names")
		}
		return nil
	}
	roster := c.direct.roster(m.Transport.Epoch)
	to := roster.Without(m.Header.Device)
	place := slices.Index(to, d.self.Device)
	switch {
	case !roster.Contains(m.Header.Device):
		return fmt.Errorf("the device is not in the roster of epoch %d", m.Transport.Epoch)
	case !slices.Equal(roster, d.due(c, roster, body.ControlSize, body.Time)):
		return fmt.Errorf("the roster of epoch %d was out of date", m.Transport.Epoch)
	case len(names) != len(to) || place < 0 || names[place] != manifest.CiphertextHash(ciphertext):
		return errors.New("the ciphertext is another than the manifest names for this device")
	}
	return d.checkPin(c, m.Header)
}

// decrypt opens the ciphertext of a message, whose manifest is the sender's.
func (d *Device) decrypt(c *conversation, m *manifest.Manifest, key codec.PublicKey, ciphertext []byte) (*Plaintext, error) {
	if c.direct == nil {
		return d.groups.Decrypt(c.ID, ciphertext)
	}
	if len(ciphertext) == 0 || d.pairs == nil {
		return nil, errors.New("the sender had no session with this device")
	}
	ad := manifest.AuthenticatedData(m.CoreHash())
	data, err := d.pairs.Decrypt(Peer{Device: m.Header.Device, Key: key}, pinOf(m.Header), ad, ciphertext)
	if errors.Is(err, ErrLost) && !c.Left {
		// Said at once, so that the other side doesn't go on in vain.
		err = errors.Join(err, d.enqueueRecord(c, &envelope.Record{Flags: []string{FlagRestart}}))
	}
	if err != nil {
		return nil, err
	}
	// The sessions of a pair of devices authenticate both.
	return &Plaintext{
		Data: data, AD: ad, Sender: m.Header.Device, Epoch: m.Transport.Epoch, Roster: c.direct.roster(m.Transport.Epoch),
	}, nil
}

// devicePin is the newest pin of a device's messages in a direct conversation.
type devicePin struct {
	_      struct{} `cbor:",toarray"`
	Device codec.Hash
	Policy codec.Hash
	Escrow codec.Hash
	Day    uint32
}

// checkPin accepts a change of policy or escrow key only to a later control leaf
// than the last of the same device: each device's messages are in one order, and
// its control log only grows. An escrow key may be an earlier one where the day
// is, or where the policy's region or class is another.
func (d *Device) checkPin(c *conversation, h *envelope.Header) error {
	now := devicePin{Device: h.Device, Policy: h.PolicyLeaf, Escrow: h.EscrowKey, Day: h.Day}
	i := slices.IndexFunc(c.direct.Pins, func(p devicePin) bool { return p.Device == h.Device })
	if i < 0 {
		c.direct.Pins, c.changed = append(c.direct.Pins, now), true
		return nil
	}
	last := c.direct.Pins[i]
	var err error
	d.cfg.Replica.Read(func(s *control.State) { err = laterPin(s, &last, &now) })
	if err != nil {
		return err
	}
	if last != now {
		c.direct.Pins[i], c.changed = now, true
	}
	return nil
}

func laterPin(s *control.State, last, now *devicePin) error {
	if !handshake.Later(s, last.Policy, now.Policy) {
		return errors.New("under an earlier policy than the device's last message")
	}
	was, okWas := s.Month(last.Escrow)
	is, okIs := s.Month(now.Escrow)
	switch {
	case !okWas || !okIs:
		return errors.New("under an escrow key that the control log doesn't have")
	case was.Destroyed != control.Never || was.Region != is.Region || was.Class != is.Class || now.Day < last.Day:
		return nil
	}
	older, _ := s.Index(now.Escrow)
	newer, _ := s.Index(last.Escrow)
	if older < newer {
		return errors.New("under an earlier escrow key than the device's last message")
	}
	return nil
}

// restockPreKeys publishes prekeys where the server has few left or old ones.
// One that was handed out may never come back in a message, so that only the
// server can count them.
func (d *Device) restockPreKeys(ctx context.Context) error {
	if d.pairs == nil || d.cfg.Now().Sub(d.counted) < countInterval {
		return nil
	}
	left, err := d.server.PreKeys(ctx)
	if err != nil {
		return fmt.Errorf("couldn't count prekeys: %w", err)
	}
	up, err := d.pairs.Restock(left, d.cfg.Stock)
	if err != nil {
		return err
	}
	// Their private halves first, and the upload itself: should its answer be lost
	// the same is offered again, and taken once.
	if err := d.save(); err != nil {
		return err
	}
	if up != nil {
		if err := d.server.UploadPreKeys(ctx, up); err != nil {
			return fmt.Errorf("couldn't publish prekeys: %w", err)
		}
		if err := d.pairs.Confirmed(); err != nil {
			return err
		}
	}
	d.counted = d.cfg.Now()
	return nil
}
