// Package matters is the work of reviewers and approvers: matters, holds,
// requests, decisions and withdrawals, each a signed leaf of the control log.
//
// It runs on the person's machine. What binds holders is handed to them
// directly too, so that a server can delay a hold or withdrawal, never hide it.
package matters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/ceremony"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/request"
	"chancery/sshsig"
)

// Holder is a keyholder or guard to which a statement is handed over.
type Holder interface {
	Notice(ctx context.Context, s *wire.Submit) error
}

// Server is what the desk needs of the server.
type Server interface {
	ceremony.Server
	replica.Source
}

// Desk is a person's desk: their key, a replica they judge by, and the holders
// they hand things to. It is safe for concurrent use where its parts are.
type Desk struct {
	Server  Server
	Replica *replica.Replica
	Key     ssh.Signer
	Holders map[string]Holder // by name
	Now     func() time.Time
	Rand    io.Reader
}

// handOverTime is how long holders may take to accept what is handed to them.
const handOverTime = 15 * time.Second

// ErrNotHandedOver means that a statement is logged but could not be handed to
// every holder; it still binds them once they have replayed it.
var ErrNotHandedOver = errors.New("couldn't hand it to every holder")

// credential returns the fingerprint of the person's key.
func (d *Desk) credential() codec.Hash { return sshsig.Credential(d.Key.PublicKey().Marshal()).ID() }

// prepare signs a statement.
func (d *Desk) prepare(body control.Body) (codec.Hash, *wire.Submit, error) {
	statement, opening, err := control.NewStatement(d.Rand, d.Replica.Organisation(), body)
	if err != nil {
		return codec.Hash{}, nil, err
	}
	signatures, err := ceremony.SignSSH(statement, d.Key)
	if err != nil {
		return codec.Hash{}, nil, err
	}
	return statement.Hash(), &wire.Submit{Statement: codec.Encode(statement), Opening: opening, Signatures: signatures}, nil
}

// log logs a statement. keep is called with its hash before anybody else knows
// it, and may be nil.
func (d *Desk) log(ctx context.Context, body control.Body, keep func(codec.Hash) error) (codec.Hash, error) {
	h, submit, err := d.prepare(body)
	if err != nil {
		return codec.Hash{}, err
	}
	if keep != nil {
		if err := keep(h); err != nil {
			return codec.Hash{}, err
		}
	}
	done, err := ceremony.Offer(ctx, d.Server, submit)
	if err != nil {
		return codec.Hash{}, err
	}
	if err := ceremony.Logged(done); err != nil {
		return h, err
	}
	return h, d.await(ctx, done)
}

// ErrHidden means that the server said that it logged a statement, and the
// witnessed log lacks it.
var ErrHidden = errors.New("the server says that it logged the statement, and the witnessed log has something else in its place")

// await waits until the witnesses have seen the leaf, so that whoever looks at
// the log after this command sees what it did.
func (d *Desk) await(ctx context.Context, done *wire.Submitted) error {
	if err := Await(ctx, d.Replica, d.Server, done.Index); err != nil {
		return err
	}
	err := ErrHidden
	d.Replica.Read(func(s *control.State) {
		if i, ok := s.Index(done.Hash); ok && i == done.Index {
			err = nil
		}
	})
	return err
}

// Await syncs the replica until it holds the leaf of that index, or ctx ends.
func Await(ctx context.Context, r *replica.Replica, src replica.Source, index int64) error {
	for {
		err := r.Sync(ctx, src)
		if err == nil && r.Size() > index {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("the leaf is logged but not witnessed yet: %w", err)
			}
			return fmt.Errorf("the leaf is logged but not witnessed yet: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// handOver gives a statement to every holder at the same time.
func (d *Desk) handOver(ctx context.Context, submit *wire.Submit) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	errs := make([]error, 0, len(d.Holders))
	var mu sync.Mutex // guards errs
	var group sync.WaitGroup
	for name, h := range d.Holders {
		group.Go(func() {
			if err := h.Notice(ctx, submit); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	group.Wait()
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return fmt.Errorf("%w: %w", ErrNotHandedOver, errors.Join(errs...))
	}
	return nil
}

// bind signs a statement that binds holders, hands it to them and then logs it:
// a server that refuses or hides the leaf keeps it from nobody.
func (d *Desk) bind(ctx context.Context, body control.Body) (codec.Hash, error) {
	h, submit, err := d.prepare(body)
	if err != nil {
		return codec.Hash{}, err
	}
	handed := d.handOver(ctx, submit)
	done, err := ceremony.Offer(ctx, d.Server, submit)
	if err != nil {
		return h, errors.Join(err, handed)
	}
	if err := ceremony.Logged(done); err != nil {
		return h, errors.Join(err, handed)
	}
	if err := d.await(ctx, done); err != nil {
		return h, errors.Join(err, handed)
	}
	if handed != nil {
		// Some may have lacked what the statement refers to, and have it by now.
		handed = d.handOver(ctx, submit)
	}
	return h, handed
}

// OpenMatter opens a case under a fresh id.
func (d *Desk) OpenMatter(ctx context.Context, id codec.ID, details *request.Details) error {
	_, err := d.log(ctx, &control.Matter{ID: id, Details: details.Hash(), Reviewer: d.credential()}, nil)
	return err
}

// PlaceHold orders that nothing of the custodians between two days is deleted,
// and tells them so.
func (d *Desk) PlaceHold(ctx context.Context, matter codec.ID, custodians []codec.ID, from, to uint32, text string) (codec.Hash, error) {
	return d.bind(ctx, &control.Hold{ID: codec.NewID(), Matter: matter, Custodians: custodians, FromDay: from, ToDay: to, Text: text})
}

// Draft is what a reviewer decides about a request.
type Draft struct {
	Matter        codec.ID
	Custodians    []codec.ID
	Conversations []codec.ID // empty: all of the custodians'
	FromDay       uint32
	ToDay         uint32
	MaxCount      uint64
	Search        bool
	Recipient     []byte // HPKE public key of who gets the production
	Expiry        time.Time
	Details       *request.Details

	// Keep, where it isn't nil, is called with the request's hash before it is
	// offered to the log: without the details and the recipient's private key,
	// a request on the log is of no use to anybody. Its error ends the request.
	Keep func(request codec.Hash) error
}

// Request demands an opening. The details travel to approvers and opener apart
// from the server, which sees their salted hash.
func (d *Desk) Request(ctx context.Context, draft *Draft) (codec.Hash, error) {
	if err := d.Replica.Sync(ctx, d.Server); err != nil {
		return codec.Hash{}, err
	}
	body := &control.Request{
		ID: codec.NewID(), Matter: draft.Matter, Requester: d.credential(),
		Custodians: draft.Custodians, Conversations: draft.Conversations, FromDay: draft.FromDay, ToDay: draft.ToDay,
		MaxCount: draft.MaxCount, Search: draft.Search, Details: draft.Details.Hash(), Recipient: draft.Recipient,
		Evidence: control.EvidenceNone, Expiry: draft.Expiry.UnixMilli(),
	}
	d.Replica.Read(func(s *control.State) { body.Policy = s.Policy().Hash })
	return d.log(ctx, body, draft.Keep)
}

// ErrDetails means that details are not those that the request's leaf names.
var ErrDetails = errors.New("these are not the details that the request names")

// Show returns a request as the witnessed log has it, once the details shown
// beside it are its own.
func (d *Desk) Show(ctx context.Context, h codec.Hash, details *request.Details) (control.RequestState, error) {
	if err := d.Replica.Sync(ctx, d.Server); err != nil {
		return control.RequestState{}, err
	}
	var out control.RequestState
	err := fmt.Errorf("request %s is not on the witnessed log", h.Short())
	d.Replica.Read(func(s *control.State) {
		if r, ok := s.Request(h); ok {
			out, err = *r, nil
			out.Approvals = slices.Clone(r.Approvals)
		}
	})
	if err == nil && details != nil && details.Hash() != out.Details {
		return control.RequestState{}, ErrDetails
	}
	return out, err
}

// Decide signs an approver's decision on a request.
func (d *Desk) Decide(ctx context.Context, h codec.Hash, decision control.Decision, reason string) (codec.Hash, error) {
	r, err := d.Show(ctx, h, nil)
	if err != nil {
		return codec.Hash{}, err
	}
	body := &control.Approval{Nonce: codec.NewID(), Request: h, Decision: decision, Role: control.RoleApprover, Policy: r.Policy, Reason: reason}
	if decision == control.Refuse {
		return d.bind(ctx, body) // a refusal is a veto
	}
	return d.log(ctx, body, nil)
}

// Withdraw ends a request, for holders at once.
func (d *Desk) Withdraw(ctx context.Context, h codec.Hash, reason string) (codec.Hash, error) {
	return d.bind(ctx, &control.Withdrawal{Request: h, Reason: reason})
}

// Export records that a production left the system.
func (d *Desk) Export(ctx context.Context, h, production codec.Hash, records uint64) (codec.Hash, error) {
	return d.log(ctx, &control.Export{Nonce: codec.NewID(), Request: h, Production: production, Records: records}, nil)
}

// Revoke ends a device, for holders at once: what it sends afterwards opens
// nowhere.
func (d *Desk) Revoke(ctx context.Context, device codec.Hash, reason string) (codec.Hash, error) {
	return d.bind(ctx, &control.Revocation{Device: device, Reason: reason})
}
