package manifest

import (
	"fmt"
	"io"
	"strings"

	"chancery/codec"
)

// Kinds of leaf in the messages log.
const (
	LeafMessage LeafKind = 1 // a manifest
	LeafCommit  LeafKind = 2 // a commit statement
	LeafHeads   LeafKind = 3 // the heads of all conversations
	LeafVoid    LeafKind = 4 // a refused sequence number, filled
)

// LeafKind says what a leaf of the messages log stands for.
type LeafKind uint8

func (k LeafKind) known() bool { return LeafMessage <= k && k <= LeafVoid }

// String returns the kind in words.
func (k LeafKind) String() string {
	switch k {
	case LeafMessage:
		return "message"
	case LeafCommit:
		return "commit"
	case LeafHeads:
		return "heads"
	case LeafVoid:
		return "void"
	}
	return fmt.Sprintf("unknown leaf kind %d", uint8(k))
}

// ReceiptBody is what the server adds when it takes a message: where the
// control log stood, when, and the message's place in its conversation.
type ReceiptBody struct {
	_            struct{} `cbor:",toarray"`
	Kind         LeafKind
	Conversation codec.ID
	ControlSize  int64      // leaves of the control log that validity is judged at
	ControlRoot  codec.Hash // its root at that size
	Time         int64      // milliseconds since 1970, UTC
	Position     uint64     // place in the conversation, from 0
	Previous     codec.Hash // the conversation's leaf before; zero at position 0
}

// Hash returns H("receipt", encoding).
func (b *ReceiptBody) Hash() codec.Hash { return codec.Sum("receipt", codec.Encode(b)) }

// Opening is what opens a leaf of the messages log: it dies with the message.
type Opening struct {
	_    struct{} `cbor:",toarray"`
	Salt [32]byte
	Body ReceiptBody
}

// NewOpening draws the salt of a leaf.
func NewOpening(rand io.Reader, body ReceiptBody) (*Opening, error) {
	o := &Opening{Body: body}
	if _, err := io.ReadFull(rand, o.Salt[:]); err != nil {
		return nil, fmt.Errorf("couldn't draw a salt: %w", err)
	}
	return o, nil
}

// Leaf returns the 32-byte entry of the messages log for the object, a manifest
// or statement, of that hash: H("leaf", salt ‖ H(object) ‖ H(receipt body)).
// The body names the kind, so that no leaf can stand for two things.
func (o *Opening) Leaf(object codec.Hash) codec.Hash {
	body := o.Body.Hash()
	return codec.Sum("leaf", o.Salt[:], object[:], body[:])
}

// Receipt is the server's signed promise that an object is in the messages log.
type Receipt struct {
	_       struct{}   `cbor:",toarray"`
	Index   int64      // of the leaf in the messages log
	Object  codec.Hash // H(manifest) or H(commit statement)
	Opening Opening
}

// SignReceipt returns the encoded, signed receipt.
func SignReceipt(server codec.Signer, r *Receipt) ([]byte, error) {
	return server.Sign1(labelReceipt, codec.Encode(r))
}

// OpenReceipt verifies a receipt under the organisation's receipt key. It
// returns codec.ErrSignature, codec.ErrEncoding, codec.ErrSize or ErrMalformed,
// wrapped.
func OpenReceipt(server codec.PublicKey, raw []byte) (*Receipt, error) {
	if err := bounded("receipt", raw); err != nil {
		return nil, err
	}
	payload, err := codec.Open1(server, labelReceipt, raw)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	var r Receipt
	if err := codec.Decode(payload, &r); err != nil {
		return nil, fmt.Errorf("couldn't read the receipt: %w", err)
	}
	body := &r.Opening.Body
	if r.Index < 0 || body.ControlSize < 1 || body.Time < 0 || !body.Kind.known() {
		return nil, fmt.Errorf("receipt of no possible place: %w", ErrMalformed)
	}
	return &r, nil
}

func bounded(what string, raw []byte) error {
	if len(raw) > maxStatement {
		return fmt.Errorf("%s of %d bytes: %w", what, len(raw), codec.ErrSize)
	}
	return nil
}

// Leaf returns the entry of the messages log that the receipt promises.
func (r *Receipt) Leaf() codec.Hash { return r.Opening.Leaf(r.Object) }

// Heads lists the newest leaf of every conversation, so that the open end of a
// range can be shown complete.
type Heads struct {
	_     struct{} `cbor:",toarray"`
	Time  int64    // milliseconds since 1970, UTC
	Heads []Head   // ascending by conversation
}

// Head is the newest leaf of one conversation.
type Head struct {
	_            struct{} `cbor:",toarray"`
	Conversation codec.ID
	Position     uint64
	Leaf         codec.Hash
}

// Hash returns H("heads", encoding).
func (h *Heads) Hash() codec.Hash { return codec.Sum("heads", codec.Encode(h)) }

// Refusal is the server's signed no to a core, with its reason.
type Refusal struct {
	_      struct{} `cbor:",toarray"`
	Core   codec.Hash
	Reason string // a machine word, a colon, words for people; at most 512 bytes
	Time   int64  // milliseconds since 1970, UTC
}

// SignRefusal returns the encoded, signed refusal. A reason that is too long is
// cut.
func SignRefusal(server codec.Signer, r *Refusal) ([]byte, error) {
	short := *r
	// An error's text may quote input; what is cut may be half a letter.
	short.Reason = strings.ToValidUTF8(r.Reason[:min(len(r.Reason), maxReason)], "")
	return server.Sign1(labelRefusal, codec.Encode(&short))
}

// OpenRefusal verifies a refusal. It returns codec.ErrSignature,
// codec.ErrEncoding or codec.ErrSize, wrapped.
func OpenRefusal(server codec.PublicKey, raw []byte) (*Refusal, error) {
	if err := bounded("refusal", raw); err != nil {
		return nil, err
	}
	payload, err := codec.Open1(server, labelRefusal, raw)
	if err != nil {
		return nil, fmt.Errorf("refusal: %w", err)
	}
	var r Refusal
	if err := codec.Decode(payload, &r); err != nil {
		return nil, fmt.Errorf("couldn't read the refusal: %w", err)
	}
	if len(r.Reason) > maxReason {
		return nil, fmt.Errorf("refusal with a reason of %d bytes: %w", len(r.Reason), codec.ErrSize)
	}
	return &r, nil
}

// Void fills a refused sequence number: the chain goes on from the refused
// core, so that what was queued behind it stands.
type Void struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Device       codec.Hash
	Conversation codec.ID
	Seq          uint64
	Core         codec.Hash // the refused core
	Refusal      []byte     // the server's signed refusal of it
}

// SignVoid returns the encoded, signed void.
func SignVoid(device codec.Signer, v *Void) ([]byte, error) {
	return device.Sign1(labelVoid, codec.Encode(v))
}

// OpenVoid verifies a void under the device's key. Whether its refusal is one of
// its core is for OpenRefusal to say, with the server's key.
func OpenVoid(device codec.PublicKey, raw []byte) (*Void, error) {
	if _, err := codec.Open1(device, labelVoid, raw); err != nil {
		return nil, fmt.Errorf("void: %w", err)
	}
	return ParseVoid(raw)
}

// ParseVoid reads a void without checking its signature. It returns
// codec.ErrEncoding or codec.ErrSize, wrapped.
func ParseVoid(raw []byte) (*Void, error) {
	if err := bounded("void", raw); err != nil {
		return nil, err
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the void: %w", err)
	}
	var v Void
	if err := codec.Decode(payload, &v); err != nil {
		return nil, fmt.Errorf("couldn't read the void: %w", err)
	}
	return &v, nil
}

// VoidHash names a void.
func VoidHash(raw []byte) codec.Hash { return codec.Sum("void", raw) }

// Ack is a device's cumulative statement that it checked every message of a
// conversation up to a position, but for the exceptions, and how far its
// member has read. One signature stands for many cores.
type Ack struct {
	_            struct{} `cbor:",toarray"`
	Organisation codec.Hash
	Device       codec.Hash
	Conversation codec.ID
	Position     uint64     // last position checked
	Leaf         codec.Hash // the leaf at that position
	Read         uint64     // positions below this were read by the member
	Exceptions   []uint64   // positions not accepted, ascending
	Time         int64      // milliseconds since 1970, UTC
}

// SignAck returns the encoded, signed acknowledgement.
func SignAck(device codec.Signer, a *Ack) ([]byte, error) {
	return device.Sign1(labelAck, codec.Encode(a))
}

// ParseAck reads an acknowledgement without checking its signature. It returns
// codec.ErrEncoding, codec.ErrSize or ErrMalformed, wrapped.
func ParseAck(raw []byte) (*Ack, error) {
	if err := bounded("acknowledgement", raw); err != nil {
		return nil, err
	}
	payload, err := codec.PeekUnverifiedPayload(raw)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the acknowledgement: %w", err)
	}
	var a Ack
	if err := codec.Decode(payload, &a); err != nil {
		return nil, fmt.Errorf("couldn't read the acknowledgement: %w", err)
	}
	for i, p := range a.Exceptions {
		if p > a.Position || i > 0 && a.Exceptions[i-1] >= p {
			return nil, fmt.Errorf("exceptions not ascending up to the position: %w", ErrMalformed)
		}
	}
	return &a, nil
}

// VerifyAck checks the device's signature over an encoded acknowledgement.
func VerifyAck(device codec.PublicKey, raw []byte) error {
	_, err := codec.Open1(device, labelAck, raw)
	return err
}
