package directory

import (
	"fmt"
	"sync"
	"time"

	"chancery/codec"
	"chancery/manifest"
)

const (
	// claimBurst is how many KeyPackages and bundles of prekeys a device may claim
	// at once: those of the largest conversation.
	claimBurst = manifest.MaxRoster
	// claimRate is how many a second come back to it.
	claimRate = 1
	// maxClaimers is how many devices' claims are remembered before those that
	// have their whole burst again are forgotten.
	maxClaimers = 4096
)

// Busy refuses a claim for now: whoever claims KeyPackages or prekeys without end
// leaves others' devices with those of last resort.
type Busy struct {
	After time.Duration // until the same claim will do
}

// Error implements error.
func (b *Busy) Error() string {
	return fmt.Sprintf("this device has claimed too many KeyPackages: try again in %d s", b.Seconds())
}

// Seconds returns After in whole seconds, rounded up.
func (b *Busy) Seconds() int { return int((b.After + time.Second - 1) / time.Second) }

// claims bounds what each device claims: a token bucket for each. The zero value
// is ready, and safe for concurrent use. Claims of before a restart are
// forgotten.
type claims struct {
	mu      sync.Mutex // guards devices
	devices map[codec.Hash]claimed
}

// claimed is how much of its burst a device has used at a time.
type claimed struct {
	used float64
	at   time.Time
}

func (c claimed) now(now time.Time) float64 {
	return max(0, c.used-max(0, now.Sub(c.at).Seconds())*claimRate)
}

// take counts n claims and returns 0, or counts none and returns how long it
// takes until they will do.
func (c *claims) take(device codec.Hash, n int, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := c.devices[device].now(now) + float64(n)
	if over := used - claimBurst; over > 0 {
		return time.Duration(over / claimRate * float64(time.Second))
	}
	if c.devices == nil {
		c.devices = map[codec.Hash]claimed{}
	}
	if len(c.devices) >= maxClaimers {
		for d, old := range c.devices {
			if old.now(now) == 0 {
				delete(c.devices, d)
			}
		}
	}
	c.devices[device] = claimed{used: used, at: now}
	return 0
}
