package keyholder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/codec"
	"chancery/control"
)

const (
	labelTransfer = "guard-transfer"
	labelHanded   = "guard-transfer-answer"
	// maxTransfer is the greatest length in bytes of a request or an answer.
	maxTransfer = 8 << 10
	// transferAge is how far the clocks of two guards may be apart.
	transferAge = 5 * time.Minute
)

var errTransfer = errors.New("no such transfer")

// transferRequest asks another guard for the key of a month: signed by the
// guard that asks (spec/opening.md#transfer).
type transferRequest struct {
	_         struct{} `cbor:",toarray"`
	Statement []byte   // the month's, encoded
	From      uint8    // who has the key
	To        uint8    // who asks
	Recipient []byte   // its one-time key, MLKEM768-X25519, 1,216 bytes
	Time      int64    // milliseconds since 1970, UTC
}

// transferAnswer carries the seed, sealed to that key, signed by who has it.
type transferAnswer struct {
	_       struct{}   `cbor:",toarray"`
	Request codec.Hash // of the signed request
	Sealed  []byte     // HPKE enc (1,120 bytes) ‖ ciphertext of the 64-byte seed
}

func parseTransfer(payload []byte) (*transferRequest, *control.Statement, *control.Month, error) {
	var r transferRequest
	if err := codec.Decode(payload, &r); err != nil {
		return nil, nil, nil, fmt.Errorf("transfer: %w", err)
	}
	statement, err := control.ParseStatement(r.Statement)
	if err != nil {
		return nil, nil, nil, err
	}
	var month control.Month
	if statement.Kind != control.KindMonth {
		return nil, nil, nil, fmt.Errorf("%w: of a %s", errTransfer, statement.Kind)
	}
	if err := codec.Decode(statement.Body, &month); err != nil {
		return nil, nil, nil, fmt.Errorf("month: %w", err)
	}
	return &r, statement, &month, nil
}

// transferInfo binds a seed to the month's statement and to both guards.
func transferInfo(statement *control.Statement, from, to uint8) []byte {
	return codec.Encode([]any{"chancery/guard-transfer/v1", statement.Organisation, statement.Hash(), from, to})
}

func transferHash(signed []byte) codec.Hash { return codec.Sum("guard-transfer-request", signed) }

// fetch makes sure that a month's key is here: held already, or asked of the
// other guards in turn. It is stored when fetch returns nil.
func (h *holder) fetch(ctx context.Context, statement *control.Statement, month *control.Month) error {
	if h.Custody.HasMonth(month.MLKEM) {
		return nil
	}
	var guards []control.Holder
	h.replica.Read(func(s *control.State) { guards = s.Genesis().Guards })
	errs := []error{fmt.Errorf("month %d: no other guard has handed over its key", month.Month)}
	for i := range guards {
		if i+1 == h.index() {
			continue
		}
		peer, ok := h.Guards[guards[i].Name]
		if !ok {
			continue
		}
		err := h.ask(ctx, peer, &guards[i], uint8(i+1), statement, month)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", guards[i].Name, err))
	}
	return errors.Join(errs...)
}

func (h *holder) ask(ctx context.Context, peer Peer, from *control.Holder, index uint8, statement *control.Statement, month *control.Month) error {
	recipient, take, err := h.Custody.Receive()
	if err != nil {
		return err
	}
	to := uint8(h.index())
	signed, err := h.Custody.Sign1(labelTransfer, codec.Encode(&transferRequest{
		Statement: codec.Encode(statement), From: index, To: to, Recipient: recipient, Time: h.Now().UnixMilli(),
	}))
	if err != nil {
		return err
	}
	answer, err := peer.Transfer(ctx, signed)
	if err != nil {
		return err
	}
	if len(answer) > maxTransfer {
		return fmt.Errorf("answer of %d bytes: %w", len(answer), codec.ErrSize)
	}
	payload, err := codec.Open1(from.Sign, labelHanded, answer)
	if err != nil {
		return err
	}
	var a transferAnswer
	if err := codec.Decode(payload, &a); err != nil {
		return err
	}
	if a.Request != transferHash(signed) {
		return fmt.Errorf("%w: the answer is to another request", errTransfer)
	}
	return take(month.MLKEM, transferInfo(statement, index, to), a.Sealed)
}

// hand answers another guard's request for a month's key. The genesis leaf says
// who is a guard, and nothing else makes one.
func (h *holder) hand(signed []byte) ([]byte, error) {
	if !h.Custody.Guard() {
		return nil, fmt.Errorf("%w: this is no guard", errTransfer)
	}
	payload, err := codec.PeekUnverifiedPayload(signed)
	if err != nil {
		return nil, err
	}
	r, statement, month, err := parseTransfer(payload)
	if err != nil {
		return nil, err
	}
	var guards []control.Holder
	h.replica.Read(func(s *control.State) {
		if g := s.Genesis(); g != nil {
			guards = g.Guards
		}
	})
	if r.To < 1 || int(r.To) > len(guards) || int(r.From) != h.index() || int(r.To) == h.index() {
		return nil, fmt.Errorf("%w: from guard %d to guard %d", errTransfer, r.From, r.To)
	}
	if _, err := codec.Open1(guards[r.To-1].Sign, labelTransfer, signed); err != nil {
		return nil, err
	}
	if age := h.Now().Sub(time.UnixMilli(r.Time)).Abs(); age > transferAge {
		return nil, fmt.Errorf("%w: asked %s ago", errTransfer, age.Round(time.Second))
	}
	if statement.Organisation != h.Organisation {
		return nil, fmt.Errorf("%w: of another organisation", errTransfer)
	}
	sealed, err := h.Custody.Hand(month.MLKEM, r.Recipient, transferInfo(statement, r.From, r.To))
	if err != nil {
		return nil, err
	}
	// What left is on record before it leaves.
	if err := h.record.append(&entry{
		Time: h.Now().UnixMilli(), What: didHand, Request: statement.Hash(), Count: uint64(r.To), Outcome: "handed",
	}); err != nil {
		return nil, err
	}
	return h.Custody.Sign1(labelHanded, codec.Encode(&transferAnswer{Request: transferHash(signed), Sealed: sealed}))
}
