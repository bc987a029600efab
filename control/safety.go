package control

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chancery/codec"
)

const (
	safetyGroups = 12 // of five digits, each of five bytes of hash
)

// ErrNoDevice means that a member has no device to compare.
var ErrNoDevice = errors.New("member without a live device")

// safetySide is one member's part of a safety number.
type safetySide struct {
	_      struct{} `cbor:",toarray"`
	Member codec.ID
	Keys   []codec.PublicKey // of the live devices, ascending
}

type safetyInput struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Sides        []safetySide // ascending by member
}

// SafetyNumber returns what two members compare over the telephone, the same for
// both: 60 digits in twelve groups of five, over the organisation and the keys of
// their live devices (spec/client.md#safety-numbers). It changes when a device of
// either is enrolled or revoked, and with nothing else. It returns ErrNoDevice.
func (s *State) SafetyNumber(a, b codec.ID) (string, error) {
	if a == b {
		return "", errors.New("a safety number is for two members")
	}
	in := safetyInput{Organisation: s.organisation}
	for _, m := range []codec.ID{a, b} {
		side := safetySide{Member: m}
		for _, h := range s.members[m] {
			if d := s.devices[h]; d.ValidAt(s.size) {
				side.Keys = append(side.Keys, d.Key)
			}
		}
		if len(side.Keys) == 0 {
			return "", fmt.Errorf("%s: %w", m, ErrNoDevice)
		}
		slices.SortFunc(side.Keys, func(x, y codec.PublicKey) int { return bytes.Compare(x[:], y[:]) })
		in.Sides = append(in.Sides, side)
	}
	slices.SortFunc(in.Sides, func(x, y safetySide) int { return bytes.Compare(x.Member[:], y.Member[:]) })
	return in.digits(), nil
}

func (in *safetyInput) digits() string {
	encoded := codec.Encode(in)
	var stream []byte
	for i := byte(0); len(stream) < 5*safetyGroups; i++ {
		block := codec.Sum("safety-number", []byte{i}, encoded)
		stream = append(stream, block[:]...)
	}
	groups := make([]string, safetyGroups)
	for i := range groups {
		n := uint64(0)
		for _, b := range stream[5*i : 5*i+5] {
			n = n<<8 | uint64(b)
		}
		groups[i] = fmt.Sprintf("%05d", n%100_000)
	}
	return strings.Join(groups, " ")
}
