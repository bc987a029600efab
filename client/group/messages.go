package group

import (
	"bytes"
	"errors"
	"fmt"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/mls/tree"
)

// Encrypt implements client.Groups.
func (s *Groups) Encrypt(conversation codec.ID, plaintext, ad []byte) ([]byte, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	message, err := e.Encrypt(plaintext, ad)
	if err != nil {
		return nil, fmt.Errorf("couldn't encrypt: %w", failure(err))
	}
	return message, nil
}

// Decrypt implements client.Groups.
func (s *Groups) Decrypt(conversation codec.ID, ciphertext []byte) (*client.Plaintext, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	parsed, err := tree.ParseMessage(bytes.Clone(ciphertext))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the ciphertext: %w", err)
	}
	m, ok := parsed.(*tree.PrivateMessage)
	if !ok || m.ContentType != tree.ContentApplication || !bytes.Equal(m.GroupID, conversation[:]) {
		return nil, errors.New("ciphertext is not an application message of this group")
	}
	roster, err := e.roster(m.Epoch)
	if err != nil {
		return nil, failure(err)
	}
	policy, err := e.policy(m.Epoch)
	if err != nil {
		return nil, failure(err)
	}
	r, err := e.Group.Process(ciphertext)
	if err != nil {
		return nil, fmt.Errorf("couldn't decrypt: %w", failure(err))
	}
	from, err := handshake.ReadLeaf(r.Leaf)
	if err != nil {
		return nil, err
	}
	return &client.Plaintext{Data: r.Application, AD: r.AuthenticatedData, Sender: from.Device, Epoch: r.Epoch, Roster: roster, Policy: policy}, nil
}
