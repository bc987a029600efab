package client

import (
	"context"
	"errors"
	"fmt"

	"chancery/client/state"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// Link makes a further device of a member, without an invitation, and returns
// what another device of the member signs with SignFor. Enrol then completes the
// enrolment, with the same arguments, as soon as that is done. Link may be
// called again and returns the same. It returns ErrEnrolled.
func Link(cfg Config, e Enrolment) (request []byte, err error) {
	cfg, e.Invitation = cfg.withDefaults(), nil
	d, err := create(cfg, e)
	if errors.Is(err, state.ErrExist) {
		if d, err = load(cfg, e.Dir, e.Key); err == nil && d.self.Enrolled {
			err = fmt.Errorf("%s: %w", e.Dir, ErrEnrolled)
		}
	}
	if d != nil {
		request = d.self.Submit
		err = errors.Join(err, d.store.Close())
	}
	if err != nil {
		return nil, err
	}
	return request, nil
}

// LinkHash returns the hash of the device's leaf that a request of Link is for:
// both devices show it, for the member to compare.
func LinkHash(request []byte) (codec.Hash, error) {
	_, s, _, err := parseLink(request)
	if err != nil {
		return codec.Hash{}, err
	}
	return s.Hash(), nil
}

func parseLink(request []byte) (*wire.Submit, *control.Statement, *control.Device, error) {
	var submit wire.Submit
	if err := codec.Decode(request, &submit); err != nil {
		return nil, nil, nil, fmt.Errorf("couldn't read the new device's request: %w", err)
	}
	s, err := control.ParseStatement(submit.Statement)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("couldn't read the new device's request: %w", err)
	}
	var body control.Device
	if s.Kind != control.KindDevice || codec.Decode(s.Body, &body) != nil {
		return nil, nil, nil, errors.New("not a new device's request")
	}
	if len(submit.Signatures) != 1 || submit.Signatures[0].Key != codec.Hash(body.Key) || submit.Opening != nil {
		return nil, nil, nil, errors.New("the new device hasn't signed its request, or others have too")
	}
	return &submit, s, &body, nil
}

// SignFor lets a further device of this member in: it signs what Link made, and
// has it logged. The new device may have that much history; what it gets goes
// with the next Syncs of both. SignFor may be called again. It returns the new
// device.
func (d *Device) SignFor(ctx context.Context, request []byte, much History) (codec.Hash, error) {
	end, err := d.begin()
	if err != nil {
		return codec.Hash{}, err
	}
	defer end()
	submit, s, body, err := parseLink(request)
	switch {
	case err != nil:
		return codec.Hash{}, err
	case s.Organisation != d.self.Organisation:
		return codec.Hash{}, errors.New("the new device is of another organisation")
	case body.Member != d.self.Member:
		return codec.Hash{}, errors.New("the new device is another member's")
	}
	sig, err := control.Sign(d.key, s)
	if err != nil {
		return codec.Hash{}, fmt.Errorf("couldn't sign for the new device: %w", err)
	}
	submit.Signatures = append(submit.Signatures, sig)
	// What it may have comes first: a device that is let in has its answer.
	if err := d.grant(s.Hash(), much); err != nil {
		return codec.Hash{}, err
	}
	if err := d.step("sign"); err != nil {
		return codec.Hash{}, err
	}
	done, err := d.server.Submit(ctx, submit)
	if err != nil {
		return codec.Hash{}, fmt.Errorf("couldn't sign for the new device: %w", err)
	}
	if done.Index < 0 {
		return codec.Hash{}, fmt.Errorf("the new device's leaf isn't logged: %s", done.Missing)
	}
	return s.Hash(), nil
}
