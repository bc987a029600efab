package client

import (
	"context"
	"fmt"
	"slices"
)

const (
	maxUpload = 100 // KeyPackages in one request
	// keptStocks is how many stocks of unused KeyPackages a device keeps the
	// private halves of: a server or member that claims without end fills no disk.
	keptStocks = 10
)

// restock tops up the device's KeyPackages at the server, and replaces the one
// of last resort where it is time to. How many are left only the server knows:
// one that was claimed may never come back in a Welcome.
func (d *Device) restock(ctx context.Context) error {
	held, err := d.server.KeyPackages(ctx)
	if err != nil {
		return fmt.Errorf("couldn't count KeyPackages: %w", err)
	}
	var packages [][]byte
	if left := int(held.Left); left <= d.cfg.Stock/2 {
		if packages, err = d.groups.KeyPackages(d.cfg.Stock-left, keptStocks*d.cfg.Stock); err != nil {
			return err
		}
	}
	last, err := d.groups.LastResort(LastResort(held.LastResort))
	if err != nil {
		return err
	}
	if last != nil {
		packages = append(packages, last)
	}
	if len(packages) == 0 {
		return nil
	}
	// Their private halves first: a KeyPackage that the device can't open would
	// lose it a conversation.
	if err := d.save(); err != nil {
		return err
	}
	for part := range slices.Chunk(packages, maxUpload) {
		if err := d.server.UploadKeyPackages(ctx, part); err != nil {
			return fmt.Errorf("couldn't stock KeyPackages: %w", err)
		}
	}
	return nil
}
