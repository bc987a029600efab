// Package ceremony is what people do with keys: found an organisation, open a
// key generation, sign a new epoch's or month's key after looking at it, and
// release the canary that shows that the key can be opened.
//
// The secrets stay where they are made: keyholders and guards act by
// themselves, driven by the log; people only sign statements.
package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/quorum"
)

// Server is what a ceremony needs of the server: the log's desk.
type Server interface {
	Submit(ctx context.Context, s *wire.Submit) (*wire.Submitted, error)
	Pending(ctx context.Context) ([]wire.Pending, error)
}

// Found makes the genesis entry, signed by every officer named, and returns it
// with the organisation's identity.
func Found(g *control.Genesis, now time.Time, officers []ssh.Signer) ([]byte, codec.Hash, error) {
	statement := &control.Statement{Kind: control.KindGenesis, Body: codec.Encode(g)}
	signatures, err := SignSSH(statement, officers...)
	if err != nil {
		return nil, codec.Hash{}, err
	}
	entry := control.NewLeaf(statement, now.UnixMilli(), signatures).Encode()
	if err := control.NewState(statement.Hash()).Apply(entry, nil); err != nil {
		return nil, codec.Hash{}, fmt.Errorf("the genesis leaf would be refused: %w", err)
	}
	return entry, statement.Hash(), nil
}

// SignSSH signs a statement with several people's keys.
func SignSSH(s *control.Statement, signers ...ssh.Signer) ([]control.Signature, error) {
	var out []control.Signature
	for _, k := range signers {
		g, err := control.SignSSH(k, s)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// Submit makes a statement of a body, signs it with the people's keys and
// offers it to the log. It returns the statement's hash and what became of it.
func Submit(ctx context.Context, server Server, rand io.Reader, organisation codec.Hash, body control.Body, signers ...ssh.Signer) (*wire.Submitted, *wire.Submit, error) {
	statement, opening, err := control.NewStatement(rand, organisation, body)
	if err != nil {
		return nil, nil, err
	}
	signatures, err := SignSSH(statement, signers...)
	if err != nil {
		return nil, nil, err
	}
	submit := &wire.Submit{Statement: codec.Encode(statement), Opening: opening, Signatures: signatures}
	done, err := Offer(ctx, server, submit)
	if err != nil {
		return nil, nil, err
	}
	return done, submit, nil
}

// Offer offers a statement to the log and makes sure that the answer is about
// that statement. That it is logged is still the server's word: the witnessed
// log shows it.
func Offer(ctx context.Context, server Server, submit *wire.Submit) (*wire.Submitted, error) {
	statement, err := control.ParseStatement(submit.Statement)
	if err != nil {
		return nil, err
	}
	done, err := server.Submit(ctx, submit)
	if err != nil {
		return nil, fmt.Errorf("couldn't log the %s: %w", statement.Kind, err)
	}
	if done.Hash != statement.Hash() {
		return nil, fmt.Errorf("couldn't log the %s: the server answers about another statement", statement.Kind)
	}
	return done, nil
}

// ErrMissing means that a statement waits for more signatures.
var ErrMissing = errors.New("more signatures are needed")

// Logged returns ErrMissing, wrapped with what is missing, unless the statement
// is on the log.
func Logged(done *wire.Submitted) error {
	if done.Index < 0 {
		return fmt.Errorf("%w: %s", ErrMissing, done.Missing)
	}
	return nil
}

// Open starts a key generation among the genesis leaf's keyholders.
func Open(ctx context.Context, server Server, rand io.Reader, organisation codec.Hash, g *control.Genesis, officers ...ssh.Signer) (codec.ID, error) {
	c := quorum.Ceremony{ID: codec.NewID(), T: int(g.Threshold)}
	for _, h := range g.Keyholders {
		c.Peers = append(c.Peers, quorum.PeerKey(h.Encrypt))
	}
	done, _, err := Submit(ctx, server, rand, organisation, &control.Ceremony{Ceremony: c}, officers...)
	if err != nil {
		return codec.ID{}, err
	}
	return c.ID, Logged(done)
}

// Signed is a pending statement that CoSign has signed.
type Signed struct {
	Kind    control.Kind
	Hash    codec.Hash
	Summary string // in words, for the person who signed
	Logged  bool
	Index   int64 // of its leaf, or control.Never
	Missing string
}

// MonthName returns a month in words, such as "November 2026".
func MonthName(month uint32) string {
	return time.Date(1970+int(month/12), time.Month(month%12)+1, 1, 0, 0, 0, 0, time.UTC).Format("January 2006")
}

// Canaries seals and logs a canary for each month that has none, so that
// keyholders and guards open it in public. It returns the months.
func Canaries(ctx context.Context, server Server, rand io.Reader, now time.Time, state func(func(*control.State)), officer ssh.Signer) ([]codec.Hash, error) {
	type wanted struct {
		month  codec.Hash
		public *envelope.PublicKey
		policy codec.Hash
	}
	var list []wanted
	var organisation codec.Hash
	var err error
	state(func(s *control.State) {
		organisation = s.Organisation()
		for _, m := range s.Months() {
			if _, canary, _, _ := m.Canary(); canary != nil {
				continue
			}
			w := wanted{month: m.Hash, policy: s.Policy().Hash}
			if w.public, err = m.PublicKey(); err != nil {
				return
			}
			list = append(list, w)
		}
	})
	if err != nil {
		return nil, err
	}
	var out []codec.Hash
	for _, w := range list {
		body, err := NewCanary(rand, now, organisation, w.policy, w.month, w.public)
		if err != nil {
			return out, err
		}
		done, _, err := Submit(ctx, server, rand, organisation, body, officer)
		if err != nil {
			return out, err
		}
		if err := Logged(done); err != nil {
			return out, err
		}
		out = append(out, w.month)
	}
	return out, nil
}

// NewCanary seals an envelope of kind void and no record under a month's key.
func NewCanary(rand io.Reader, now time.Time, organisation, policy, month codec.Hash, public *envelope.PublicKey) (*control.Canary, error) {
	seed, err := envelope.NewSeed(rand)
	if err != nil {
		return nil, err
	}
	defer seed.Erase()
	commitment, err := envelope.Commit(&seed, nil)
	if err != nil {
		return nil, err
	}
	header := &envelope.Header{
		Version: envelope.Version, Suite: envelope.Suite, Organisation: organisation, EscrowKey: month, PolicyLeaf: policy,
		Kind: envelope.KindVoid, Day: envelope.DayOf(now), Commitment: commitment,
	}
	env, secrets, err := envelope.Seal(public, header.Encode(), &seed, nil)
	if err != nil {
		return nil, fmt.Errorf("couldn't seal the canary: %w", err)
	}
	defer secrets.Erase()
	core := &envelope.Core{Header: header.Encode(), Envelope: env.Hash()}
	proof, err := secrets.Prove(core.Hash())
	if err != nil {
		return nil, fmt.Errorf("couldn't prove the canary: %w", err)
	}
	tag := secrets.Tag(core.Hash())
	return &control.Canary{Month: month, Core: core.Encode(), Envelope: env.Encode(), Proof: proof[:], Tag: tag[:]}, nil
}
