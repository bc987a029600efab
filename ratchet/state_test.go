package ratchet

import (
	"errors"
	"slices"
	"testing"

	"chancery/codec"
)

// TestStatesThatNobodyWrote are canonical, and none of them is what the package
// would store.
func TestStatesThatNobodyWrote(t *testing.T) {
	alice, bob := newNode(t, "alice", 2), newNode(t, "bob", 2)
	fresh := begin(t, alice, bob)
	a, b := newSessions(t)
	encrypt(t, a, "lost")
	mustRead(t, a, encrypt(t, b, "turn"), "turn")
	encrypt(t, a, "lost")
	mustRead(t, b, encrypt(t, a, "x"), "x") // keys of two chains are skipped
	other := codec.Sum("test", []byte("other"))
	for name, c := range map[string]struct {
		of     *Session
		change func(*sessionState)
	}{
		"version":                  {b, func(s *sessionState) { s.Version = 2 }},
		"theirs and unheard":       {b, func(s *sessionState) { s.Heard = false }},
		"heard with a hello":       {a, func(s *sessionState) { s.Hello = []byte{1} }},
		"unanswered, no hello":     {fresh, func(s *sessionState) { s.Hello = nil }},
		"another hello's":          {fresh, func(s *sessionState) { s.ID = other }},
		"unheard with a chain":     {fresh, func(s *sessionState) { s.Ratchet.Receive.N = 1 }},
		"unheard with a count":     {fresh, func(s *sessionState) { s.Read = 1 }},
		"unheard with skipped":     {fresh, func(s *sessionState) { s.Skipped = clone(t, b).state.Skipped }},
		"heard with no count":      {b, func(s *sessionState) { s.Read = 0 }},
		"empty skipped chain":      {b, func(s *sessionState) { s.Skipped[0].Keys = nil }},
		"skipped chain twice":      {b, func(s *sessionState) { s.Skipped[1].Header = s.Skipped[0].Header }},
		"too many chains":          {b, func(s *sessionState) { s.Skipped = slices.Repeat(s.Skipped, MaxChains) }},
		"too many keys of a chain": {b, func(s *sessionState) { s.Skipped[0].Keys = slices.Repeat(s.Skipped[0].Keys, MaxSkip+1) }},
		"keys out of order":        {b, func(s *sessionState) { s.Skipped[0].Keys = slices.Repeat(s.Skipped[0].Keys, 2) }},
		"key of a later count":     {b, func(s *sessionState) { s.Skipped[0].Keys[0].Read = s.Read + 1 }},
		"key still to be derived":  {b, func(s *sessionState) { s.Skipped[1].Keys[0].N = s.Ratchet.Receive.N }},
	} {
		s := clone(t, c.of)
		c.change(&s.state)
		if _, err := UnmarshalSession(s.Marshal()); !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("session, %s: got %v, want ErrEncoding", name, err)
		}
	}
	for name, change := range map[string]func(*preKeysState){
		"version":            func(s *preKeysState) { s.Version = 2 },
		"another's identity": func(s *preKeysState) { s.Identity = bob.pre.Identity() },
		"no identity":        func(s *preKeysState) { s.Identity = nil },
		"no next id":         func(s *preKeysState) { s.Next = 0 },
		"id to come":         func(s *preKeysState) { s.Signed[0].ID = s.Next },
		"ids out of order":   func(s *preKeysState) { slices.Reverse(s.KEM) },
		"short key":          func(s *preKeysState) { s.OneTime[0].Key = s.OneTime[0].Key[1:] },
		"too many":           func(s *preKeysState) { s.LastResort = slices.Repeat(s.LastResort, MaxRotated+1) },
		"seen by a one-time": func(s *preKeysState) { s.KEM[0].Seen = []codec.Hash{other} },
	} {
		p, err := UnmarshalPreKeys(alice.pre.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		change(&p.state)
		if _, err := UnmarshalPreKeys(p.Marshal()); !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("prekeys, %s: got %v, want ErrEncoding", name, err)
		}
	}
	theirs, ours := agingState{Session: b.Marshal()}, agingState{Session: fresh.Marshal()}
	for name, s := range map[string]pairState{
		"version":                 {Version: 2},
		"damaged session":         {Version: 1, Current: []byte{1}},
		"damaged retired session": {Version: 1, Retired: []agingState{{Session: []byte{1}}}},
		"damaged rival":           {Version: 1, Current: b.Marshal(), Rival: []agingState{{Session: []byte{1}}}},
		"two rivals":              {Version: 1, Current: b.Marshal(), Rival: []agingState{ours, ours}},
		"rival of nothing":        {Version: 1, Rival: []agingState{ours}},
		"rival of theirs":         {Version: 1, Current: fresh.Marshal(), Rival: []agingState{theirs}},
		"rival that isn't lower":  {Version: 1, Current: fresh.Marshal(), Rival: []agingState{ours}},
		"too many retired":        {Version: 1, Retired: slices.Repeat([]agingState{theirs}, MaxRetired+1)},
	} {
		if _, err := UnmarshalPair(codec.Encode(s)); !errors.Is(err, codec.ErrEncoding) {
			t.Errorf("pair, %s: got %v, want ErrEncoding", name, err)
		}
	}
}

func TestStatesAreBounded(t *testing.T) {
	_, session := UnmarshalSession(make([]byte, MaxSession+1))
	_, pair := UnmarshalPair(make([]byte, MaxPair+1))
	_, prekeys := UnmarshalPreKeys(make([]byte, MaxPreKeys+1))
	for _, err := range []error{session, pair, prekeys} {
		if !errors.Is(err, codec.ErrSize) {
			t.Errorf("got %v, want ErrSize", err)
		}
	}
}
