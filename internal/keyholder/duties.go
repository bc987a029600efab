package keyholder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/quorum"
)

// duties does what the log asks of the holder. Each follows from the replayed
// log and the keys held alone, so that a crash anywhere loses nothing and a
// repetition says the same again. One that fails doesn't keep others waiting.
func (h *holder) duties(ctx context.Context) error {
	h.forget()
	errs := []error{h.answerCanaries(ctx)}
	if h.Custody.Guard() {
		errs = append(errs, h.fetchMonths(ctx), h.makeMonths(ctx), h.sign(ctx), h.destroy())
	} else {
		errs = append(errs, h.generate(ctx))
	}
	return errors.Join(errs...)
}

// offer signs a statement of a body and submits it, unless it did a moment ago:
// what was submitted is on the log a little before it is witnessed.
func (h *holder) offer(ctx context.Context, body control.Body) error {
	statement, _, err := control.NewStatement(rand.Reader, h.Organisation, body)
	if err != nil {
		return err
	}
	return h.offerStatement(ctx, statement)
}

func (h *holder) offerStatement(ctx context.Context, statement *control.Statement) error {
	hash := statement.Hash()
	h.mu.Lock()
	at, ok := h.offered[hash]
	h.mu.Unlock()
	if ok && h.Now().Sub(at) < offerAgain {
		return nil
	}
	if _, err := h.submit(ctx, statement); err != nil {
		return err
	}
	h.mu.Lock()
	h.offered[hash] = h.Now()
	h.mu.Unlock()
	return nil
}

func (h *holder) submit(ctx context.Context, statement *control.Statement) (*wire.Submitted, error) {
	signature, err := control.Sign(h.Custody, statement)
	if err != nil {
		return nil, err
	}
	done, err := h.Server.Submit(ctx, &wire.Submit{Statement: codec.Encode(statement), Signatures: []control.Signature{signature}})
	if err != nil {
		return nil, fmt.Errorf("couldn't submit the %s: %w", statement.Kind, err)
	}
	return done, nil
}

// forget drops what was offered long ago: only recent offers matter.
func (h *holder) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for hash, at := range h.offered {
		if h.Now().Sub(at) >= offerAgain {
			delete(h.offered, hash)
		}
	}
}

// generation is a key generation as the log has it.
type generation struct {
	quorum.Ceremony
	board []quorum.Message
}

// generate takes the holder's next step in every key generation that has no
// epoch yet, and signs the epoch of the first that is complete.
func (h *holder) generate(ctx context.Context) error {
	var open []generation
	var number uint64
	h.replica.Read(func(s *control.State) {
		done := map[codec.ID]bool{}
		for _, e := range s.Epochs() {
			done[e.Ceremony] = true
		}
		number = uint64(len(done)) + 1
		for _, id := range s.Ceremonies() {
			if c, board, ok := s.Ceremony(id); ok && !done[id] {
				open = append(open, generation{c, board})
			}
		}
	})
	var errs []error
	proposed := false
	for _, c := range open {
		next, result, err := h.Custody.Step(c.Ceremony, h.index(), c.board)
		switch {
		case err != nil:
			err = fmt.Errorf("key generation %s: %w", c.ID, err)
		case next != nil:
			err = h.offer(ctx, &control.DKG{Message: *next})
		case result != nil && !proposed:
			// The share is stored by now. Every keyholder makes the same statement,
			// so that their signatures meet on it.
			proposed = true
			err = h.offer(ctx, &control.Epoch{Number: number, Ceremony: c.ID, Key: *result.Key, Transcript: result.Transcript})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// canary is an unanswered canary of a month.
type canary struct {
	leaf     codec.Hash
	body     control.Canary
	ceremony codec.ID
	public   []byte
}

// answerCanaries opens in public what was made to be opened in public. That its
// maker knows its ephemeral key the replay has checked; a guard checks the tag,
// since a copied ML-KEM ciphertext would be somebody's message.
func (h *holder) answerCanaries(ctx context.Context) error {
	var open []canary
	h.replica.Read(func(s *control.State) {
		for _, m := range s.Months() {
			leaf, body, keyholders, guards := m.Canary()
			answered := keyholders
			if h.Custody.Guard() {
				answered = guards
			}
			epoch, ok := s.Epoch(m.Epoch)
			if body != nil && ok && !answered[uint8(h.index())] && m.Destroyed == control.Never {
				open = append(open, canary{leaf, *body, epoch.Ceremony, m.MLKEM})
			}
		}
	})
	var errs []error
	for _, c := range open {
		answer, err := h.canaryAnswer(&c)
		if err == nil {
			err = h.offer(ctx, &control.CanaryAnswer{
				Canary: c.leaf, Guard: h.Custody.Guard(), Holder: uint8(h.index()), Answer: answer,
			})
		}
		if err != nil {
			err = fmt.Errorf("canary %s: %w", c.leaf.Short(), err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (h *holder) canaryAnswer(c *canary) ([]byte, error) {
	env, err := envelope.Parse(c.body.Envelope)
	if err != nil {
		return nil, err
	}
	core, err := envelope.ParseCore(c.body.Core)
	if err != nil {
		return nil, err
	}
	if !h.Custody.Guard() {
		point, err := h.Custody.Partial(c.ceremony, quorum.Point(env.E()))
		if err != nil {
			return nil, err
		}
		return point[:], nil
	}
	secret, err := h.Custody.Decapsulate(c.public, env.MLKEMCiphertext())
	if err != nil {
		return nil, err
	}
	tag := [envelope.TagSize]byte(c.body.Tag)
	if err := envelope.VerifyTag(secret, core.Hash(), &tag); err != nil {
		clear(secret)
		return nil, err
	}
	return secret, nil
}
