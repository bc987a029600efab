package direct

import (
	"crypto/rand"
	"fmt"

	"chancery/codec"
	"chancery/internal/wire"
	"chancery/ratchet"
)

// load returns the device's prekeys, made where there are none yet.
func (s *Pairs) load() (*stock, error) {
	if s.stock != nil {
		return s.stock, nil
	}
	raw, err := s.stored.Value(nameStock)
	if err != nil {
		return nil, fmt.Errorf("couldn't load the prekeys: %w", err)
	}
	if raw == nil {
		keys, err := ratchet.NewPreKeys(s.self, s.signer, rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("couldn't make the prekeys: %w", err)
		}
		s.stock = &stock{keys: keys, changed: true}
		return s.stock, nil
	}
	defer clear(raw)
	var st stockState
	if err := codec.Decode(raw, &st); err != nil {
		return nil, fmt.Errorf("couldn't read the prekeys: %w", err)
	}
	defer clear(st.Keys)
	keys, err := ratchet.UnmarshalPreKeys(st.Keys)
	if err != nil {
		return nil, err
	}
	if keys.Device() != s.self {
		return nil, fmt.Errorf("the prekeys are another device's: %w", ratchet.ErrDevice)
	}
	s.stock = &stock{keys: keys, number: st.Number, upload: st.Upload}
	return s.stock, nil
}

func (s *stock) encode() []byte {
	st := stockState{Number: s.number, Upload: s.upload, Keys: s.keys.Marshal()}
	defer clear(st.Keys)
	return codec.Encode(st)
}

func (s *Pairs) preKeys() (*ratchet.PreKeys, error) {
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	return st.keys, nil
}

// Restock implements client.Pairs.
func (s *Pairs) Restock(left *wire.PreKeyStock, want int) (*wire.PreKeys, error) {
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	if len(st.upload) > 0 {
		var up wire.PreKeys
		if err := codec.Decode(st.upload, &up); err != nil {
			return nil, fmt.Errorf("couldn't read the prekeys on their way: %w", err)
		}
		return &up, nil
	}
	now := s.now()
	st.keys.Expire(now)
	up := &wire.PreKeys{Number: st.number + 1, Expires: now.Add(ratchet.PreKeyLife).UnixMilli(), Identity: st.keys.Identity()}
	if n := want - min(int(left.OneTime), int(left.KEM)); n >= (want+1)/2 {
		if up.OneTime, up.KEM, err = st.keys.Generate(s.signer, now, rand.Reader, min(n, maxUpload)); err != nil {
			return nil, fmt.Errorf("couldn't make prekeys: %w", err)
		}
	}
	if st.keys.NeedsRotation(now) {
		if up.Signed, up.Last, err = st.keys.Rotate(s.signer, now, rand.Reader); err != nil {
			return nil, fmt.Errorf("couldn't rotate the prekeys: %w", err)
		}
	}
	if len(up.OneTime) == 0 && len(up.Signed) == 0 {
		return nil, nil
	}
	st.number, st.upload, st.changed = up.Number, codec.Encode(up), true
	return up, nil
}

// Confirmed implements client.Pairs.
func (s *Pairs) Confirmed() error {
	st, err := s.load()
	if err != nil {
		return err
	}
	st.upload, st.changed = nil, true
	return nil
}
