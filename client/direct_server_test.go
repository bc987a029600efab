package client_test

import (
	"context"
	"fmt"
	"slices"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

// fakePreKeys is what the server has of a device's prekeys.
type fakePreKeys struct {
	number                 uint64
	identity, signed, last []byte
	oneTime, kem           [][]byte
}

func (c conn) PreKeys(context.Context) (*wire.PreKeyStock, error) {
	end, err := c.begin("prekeys")
	if err != nil {
		return nil, err
	}
	defer end()
	p := c.prekeys[c.device(c.key)]
	if p == nil {
		return &wire.PreKeyStock{}, nil
	}
	return &wire.PreKeyStock{Number: p.number, OneTime: uint16(len(p.oneTime)), KEM: uint16(len(p.kem))}, nil
}

func (c conn) UploadPreKeys(_ context.Context, in *wire.PreKeys) error {
	end, err := c.begin("publish")
	if err != nil {
		return err
	}
	defer end()
	device := c.device(c.key)
	p := c.prekeys[device]
	if p == nil {
		p = &fakePreKeys{}
		c.prekeys[device] = p
	}
	if in.Number > p.number {
		p.number, p.identity = in.Number, in.Identity
		if len(in.Signed) > 0 {
			p.signed, p.last = in.Signed, in.Last
		}
		p.oneTime, p.kem = append(p.oneTime, in.OneTime...), append(p.kem, in.KEM...)
	}
	_, err = c.answered("publish")
	return err
}

func (s *fakeServer) ClaimBundles(_ context.Context, devices []codec.Hash) ([][]byte, error) {
	end, err := s.begin("bundles")
	if err != nil {
		return nil, err
	}
	defer end()
	out := make([][]byte, len(devices))
	for i, device := range devices {
		if p := s.prekeys[device]; p != nil {
			b := &wire.Bundle{Version: 1, Identity: p.identity, Signed: p.signed, KEM: p.last, OneTime: []byte{}}
			if len(p.oneTime) > 0 && len(p.kem) > 0 {
				b.OneTime, b.KEM, p.oneTime, p.kem = p.oneTime[0], p.kem[0], p.oneTime[1:], p.kem[1:]
			}
			out[i] = codec.Encode(b)
		}
	}
	if s.bundles != nil {
		s.bundles(devices, out)
	}
	_, err = s.answered("bundles")
	return out, err
}

// live returns the roster that a direct conversation has to have.
func (s *fakeServer) live(c *fakeConversation) manifest.Roster {
	return manifest.NewRoster(s.org.State.MustReach(c.members, c.roster, s.org.State.Size(), s.org.Now().UnixMilli()))
}

// checkDirect is what the server checks of a message's roster and copies.
func (s *fakeServer) checkDirect(c *fakeConversation, m *manifest.Manifest, ciphertext []byte, no func(string, ...any) error) error {
	t := m.Transport
	switch {
	case s.lax:
		return nil
	case t.Epoch != c.epoch:
		return no("epoch: %d, the conversation is at %d", t.Epoch, c.epoch)
	case t.Roster != c.commit || !slices.Equal(c.roster, s.live(c)):
		return no("roster: the members' devices are others now")
	case m.Header.Kind == envelope.KindIndex:
		return nil
	}
	copies, err := manifest.ParseCopies(ciphertext)
	if err != nil || !slices.Equal(manifest.CopyHashes(copies), t.Ciphertexts) || len(copies) != len(c.roster)-1 {
		return no("transport: %d ciphertexts for %d devices, %v", len(copies), len(c.roster)-1, err)
	}
	return nil
}

// deliverCopies gives each device its own ciphertext.
func (s *fakeServer) deliverCopies(from codec.Hash, roster manifest.Roster, d wire.Delivery) {
	copies, err := manifest.ParseCopies(d.Body)
	if err != nil {
		s.t.Error(err)
	}
	for i, h := range roster.Without(from) {
		one := d
		if one.Body = nil; i < len(copies) {
			one.Body = copies[i]
		}
		s.enqueue(map[codec.Hash]bool{h: true}, one)
	}
	d.Body, d.Tags = nil, nil
	s.enqueue(map[codec.Hash]bool{from: true}, d)
}

// directStatement takes a statement of a direct conversation.
func (c conn) directStatement(in *wire.CommitSubmission, body *manifest.Commit, conv *fakeConversation) ([][]byte, error) {
	hash := manifest.CommitHash(in.Statement)
	d, err := manifest.ParseDirect(in.Commit)
	if err != nil || d.Hash() != body.Message {
		return nil, c.no(hash, fmt.Sprintf("commit: %v", err))
	}
	conv.members = d.Members
	if !c.lax && !slices.Equal(in.Roster, c.live(conv)) {
		if body.Epoch == 0 {
			delete(c.conversations, body.Conversation)
		}
		return nil, c.no(hash, "roster: not all devices of the two")
	}
	receipt := c.receive(manifest.LeafCommit, body.Conversation, hash)
	c.receipts[hash] = receipt
	conv.direct, conv.epoch, conv.commit, conv.roster, conv.epochs[body.Epoch] = true, body.Epoch, hash, in.Roster, hash
	c.deliver(body.Device, in.Roster, wire.Delivery{
		Kind: wire.DeliveryCommit, Manifest: in.Statement, Receipt: receipt, Roster: in.Roster, Body: in.Commit,
	})
	return c.answered("commit", receipt)
}
