package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/store"
	"chancery/internal/witness"
	"chancery/ledger"
)

const (
	publishInterval = 200 * time.Millisecond // between checkpoints of one log
	refreshInterval = 60 * time.Second       // after which cosignatures are asked for again
	retryInterval   = time.Second            // after too few witnesses answered
	witnessTimeout  = 10 * time.Second
	graceTime       = 250 * time.Millisecond // for the rest, once a quorum has answered
)

// Publisher signs checkpoints of one log and keeps each that a quorum of the
// witnesses has cosigned: only those are served.
//
// It signs what is durable, and one history alone: sizes come from the store,
// whose leaves are never changed.
type Publisher struct {
	Store     store.Store
	Log       ledger.Log
	Signer    note.Signer
	Policy    *ledger.Policy
	Witnesses []string // submission prefixes, in no order
	HTTP      *http.Client
	Logger    *slog.Logger
	// Published, where not nil, is told of each checkpoint kept.
	Published func(size int64)

	changed chan struct{}
	once    sync.Once
	held    []int64 // what each witness holds, as far as is known
}

// Notify tells the publisher that the log has grown.
func (p *Publisher) Notify() {
	p.init()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *Publisher) init() {
	p.once.Do(func() {
		p.changed = make(chan struct{}, 1)
		p.held = make([]int64, len(p.Witnesses))
	})
}

// Run publishes until ctx ends: soon after the log has grown, again every
// minute so that the newest checkpoint stays fresh, and every second while too
// few witnesses answer.
func (p *Publisher) Run(ctx context.Context) {
	p.init()
	reported := false
	for {
		started := time.Now()
		err := p.publish(ctx)
		wait := refreshInterval
		if err != nil && ctx.Err() == nil {
			wait = retryInterval
			if !reported { // once for each time that they are away
				p.Logger.Warn("couldn't get a checkpoint witnessed", "log", p.Log, "error", err)
			}
		}
		reported = err != nil
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-p.changed:
			timer.Stop()
			if !sleep(ctx, publishInterval-time.Since(started)) {
				return
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// publish signs the newest checkpoint, has it cosigned and keeps it.
func (p *Publisher) publish(ctx context.Context) error {
	size, root := p.Store.Head(p.Log)
	signed, err := ledger.Sign(ledger.Checkpoint{Origin: p.Policy.Log.Origin, Size: size, Root: tlog.Hash(root)}, p.Signer)
	if err != nil {
		return err
	}
	witnessed, err := p.gather(ctx, size, signed)
	if err != nil {
		return err
	}
	if _, covered := p.Store.Checkpoint(p.Log); covered > size {
		return fmt.Errorf("the %s log has %d leaves, and %d were witnessed: the store was rolled back", p.Log, size, covered)
	}
	err = p.Store.Update(ctx, func(tx store.Tx) error { return tx.SetCheckpoint(p.Log, size, witnessed) })
	if err != nil {
		return err
	}
	if p.Published != nil {
		p.Published(size)
	}
	return nil
}

type cosigned struct {
	witness int
	lines   []byte
	err     error
}

// gather asks all witnesses at once and returns the note as soon as a quorum
// has cosigned and the others have had a moment.
func (p *Publisher) gather(ctx context.Context, size int64, signed []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	answers := make(chan cosigned, len(p.Witnesses))
	for i := range p.Witnesses {
		held := p.held[i]
		go func() {
			lines, err := p.ask(ctx, i, held, size, signed)
			answers <- cosigned{i, lines, err}
		}()
	}
	out := signed
	var errs []error
	var grace <-chan time.Time
	for range p.Witnesses {
		select {
		case a := <-answers:
			if a.err != nil {
				errs = append(errs, a.err)
				continue
			}
			p.held[a.witness] = size
			more, err := ledger.AddSignatures(out, a.lines)
			if err != nil {
				errs = append(errs, fmt.Errorf("witness %s: %w", p.Witnesses[a.witness], err))
				continue
			}
			// A line that doesn't verify must not spoil the note for all.
			if _, err := p.Policy.Verify(more); err != nil && !errors.Is(err, ledger.ErrUnwitnessed) {
				errs = append(errs, fmt.Errorf("witness %s: %w", p.Witnesses[a.witness], err))
				continue
			} else if err == nil && grace == nil {
				grace = time.After(graceTime)
			}
			out = more
		case <-grace:
			return out, nil
		}
	}
	if _, err := p.Policy.Verify(out); err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	return out, nil
}

// ask has one witness cosign, with the proof from what it holds.
func (p *Publisher) ask(ctx context.Context, i int, held, size int64, signed []byte) ([]byte, error) {
	for range 3 {
		if held > size {
			return nil, fmt.Errorf("witness %s holds %d leaves of the %s log, which has %d: the store was rolled back", p.Witnesses[i], held, p.Log, size)
		}
		var proof []tlog.Hash
		if held > 0 && held < size {
			var err error
			if proof, err = ledger.ProveConsistency(p.Store.Hashes(ctx, p.Log), held, size); err != nil {
				return nil, err
			}
		}
		lines, now, err := witness.Submit(ctx, p.HTTP, p.Witnesses[i], held, proof, signed)
		if !errors.Is(err, witness.ErrConflict) {
			return lines, err
		}
		held = now
	}
	return nil, fmt.Errorf("witness %s: %w", p.Witnesses[i], witness.ErrConflict)
}
