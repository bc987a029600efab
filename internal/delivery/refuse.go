package delivery

import (
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/manifest"
)

// Reason is why something was refused: one machine word.
type Reason string

// The reasons of a refusal, in the order of the checks
// (spec/delivery.md#checks).
const (
	ReasonSize       Reason = "size"         // longer than its bound
	ReasonDevice     Reason = "device"       // not valid now
	ReasonSignature  Reason = "signature"    // the device's doesn't verify
	ReasonHeader     Reason = "header"       // organisation, policy, escrow key or day
	ReasonKind       Reason = "kind"         // of envelope, or parts that don't fit the kind
	ReasonUnknown    Reason = "conversation" // no such conversation, or it is there already
	ReasonEpoch      Reason = "epoch"        // the conversation has moved on: catch up and try the same core again
	ReasonRoster     Reason = "roster"       // the device is not in it, or it is not the one stated
	ReasonSequence   Reason = "seq"          // another number is next, or this one is taken
	ReasonChain      Reason = "chain"        // another core came before
	ReasonProof      Reason = "proof"        // of knowledge of the ephemeral key
	ReasonEnvelope   Reason = "envelope"     // not the one that the core names
	ReasonTransport  Reason = "transport"    // ciphertext is not the one stated
	ReasonBinding    Reason = "binding"      // ciphertext is not bound to the core, group or epoch
	ReasonIndex      Reason = "index"        // no such index envelope, or none for this conversation, day and epoch
	ReasonTags       Reason = "tags"         // form, number or hash
	ReasonAttachment Reason = "attachment"   // not stored
	ReasonCommit     Reason = "commit"       // an MLS step that contradicts its statement
	ReasonGroup      Reason = "group"        // an MLS step that the group doesn't take, or that leads elsewhere than stated
	ReasonWelcome    Reason = "welcome"      // a Welcome for other KeyPackages than those added
	ReasonInfo       Reason = "groupinfo"    // no GroupInfo of the new epoch by the committer
	ReasonArchive    Reason = "archive"      // the group pins no archive, or one that it may not
	ReasonJoin       Reason = "join"         // an external commit by a device that may not join by itself
)

// ErrMalformed means that bytes are nothing that could be refused by name: there
// is no core to sign a refusal of.
var ErrMalformed = errors.New("malformed")

// ErrForbidden means that the caller may not do this for that device.
var ErrForbidden = errors.New("not yours")

// ErrDamaged means that what the store gives back is not what was put there.
var ErrDamaged = errors.New("what was archived has been damaged")

// Refused is the server's signed no.
type Refused struct {
	Core    codec.Hash // what is refused: H(core), or a commit statement's hash
	Reason  Reason
	Detail  string
	Refusal []byte // manifest.OpenRefusal reads it
}

func (e *Refused) Error() string { return string(e.Reason) + ": " + e.Detail }

// refuse is a refusal on its way to being signed.
func refuse(core codec.Hash, reason Reason, format string, args ...any) *Refused {
	return &Refused{Core: core, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

const maxReason = 512

// sign makes an error that is a refusal evidence.
func (s *Server) sign(err error) error {
	var r *Refused
	if !errors.As(err, &r) {
		return err
	}
	text := r.Error()
	raw, signErr := manifest.SignRefusal(s.Receipt, &manifest.Refusal{
		Core: r.Core, Reason: text[:min(len(text), maxReason)], Time: s.Now().UnixMilli(),
	})
	if signErr != nil {
		return fmt.Errorf("couldn't sign a refusal: %w", signErr)
	}
	r.Refusal = raw
	return r
}
