package remote

import (
	"context"
	"fmt"

	"chancery/codec"
	"chancery/internal/wire"
)

// PreKeys returns what the server has of the device's prekeys.
func (c *Client) PreKeys(ctx context.Context) (*wire.PreKeyStock, error) {
	return get[wire.PreKeyStock](ctx, c, wire.PathPreKeys, nil)
}

// UploadPreKeys publishes the device's prekeys. The same upload may be repeated.
func (c *Client) UploadPreKeys(ctx context.Context, p *wire.PreKeys) error {
	return c.send(ctx, wire.PathPreKeys, codec.Encode(p))
}

// ClaimBundles takes a bundle of prekeys of each device, in order; an empty one
// where a device has none.
func (c *Client) ClaimBundles(ctx context.Context, devices []codec.Hash) ([][]byte, error) {
	out, err := post[[][]byte](ctx, c, wire.PathBundles, codec.Encode(&wire.Claim{Devices: devices}))
	if err != nil {
		return nil, err
	}
	if len(*out) != len(devices) {
		return nil, fmt.Errorf("%d bundles for %d devices: %w", len(*out), len(devices), ErrAnswer)
	}
	return *out, nil
}
