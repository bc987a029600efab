package api

import (
	"fmt"

	"chancery/codec"
	"chancery/internal/wire"
	"chancery/manifest"
)

func (s *server) preKeysLeft(c *call) (any, error) {
	return s.directory.PreKeys(c.Context(), c.who.device)
}

func (s *server) stockPreKeys(c *call) (any, error) {
	in, err := decode[wire.PreKeys](c)
	if err != nil {
		return nil, err
	}
	return nil, s.directory.StockPreKeys(c.Context(), c.who.device, in)
}

func (s *server) claimBundles(c *call) (any, error) {
	in, err := decode[wire.Claim](c)
	if err != nil {
		return nil, err
	}
	if len(in.Devices) == 0 || len(in.Devices) > manifest.MaxDirect {
		return nil, fmt.Errorf("prekeys of %d devices, want 1 to %d: %w", len(in.Devices), manifest.MaxDirect, codec.ErrSize)
	}
	return s.directory.ClaimBundles(c.Context(), c.who.device, in.Devices)
}
