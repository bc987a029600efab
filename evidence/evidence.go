// Package evidence is what a reader keeps of a server that was caught: a file
// that proves what it did to anybody who knows the organisation's identity,
// without trust in whoever shows it (spec/evidence.md). chancery-verify judges
// such files, offline.
//
// A file convicts keys: of a log, of receipts, of witnesses. Who used the key is
// for people to find out. What leaves nothing signed, such as silence, leaves no
// evidence, and no file here pretends otherwise.
//
// The package is pure, and each judgement bounded by the file's length.
package evidence

import (
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/control"
	"chancery/ledger"
)

const (
	// Version is the version of the files that this package makes.
	Version = 1
	// MaxSize is the length of the longest file in bytes: a forbidden leaf comes
	// with the whole control log.
	MaxSize = 256 << 20
)

var (
	// ErrMalformed means that a file is no evidence, or of another version.
	ErrMalformed = errors.New("malformed evidence")
	// ErrOrganisation means that a file is about another organisation.
	ErrOrganisation = errors.New("evidence about another organisation")
	// ErrUnproven means that a file accuses nobody: something in it isn't signed
	// by whom it would convict, or isn't against the rules that this version knows.
	ErrUnproven = errors.New("the evidence proves nothing")
)

// Kind says what a file proves.
type Kind string

// The kinds (spec/evidence.md#kinds).
const (
	KindFork       Kind = "fork"           // two checkpoints of one log contradict each other
	KindLeaves     Kind = "two-leaves"     // one index of one log has two leaves
	KindOtherLog   Kind = "other-log"      // a receipt or claim names a control log that the server's own checkpoint contradicts
	KindOldLog     Kind = "old-log"        // a receipt or claim is under a control log that had grown more than five minutes before
	KindLeaf       Kind = "forbidden-leaf" // the control log has a leaf that its rules refuse
	KindKeyPackage Kind = "swapped-key"    // a KeyPackage was handed out for a device whose key it doesn't have
)

// Evidence is one file: whose organisation it is about and what proves it.
type Evidence struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Kind    Kind
	Genesis []byte // entry 0 of the control log, whose statement's hash is the organisation
	Body    []byte // encoding of the kind's body
}

// Body is one of this package's structures that a file can carry.
type Body interface {
	// Kind returns the kind of the file.
	Kind() Kind
	// judge returns the verdict, or an error that says why there is none.
	judge(o *organisation) (*Verdict, error)
}

// New returns the file of a body. genesis is entry 0 of the control log.
func New(genesis []byte, body Body) *Evidence {
	return &Evidence{Version: Version, Kind: body.Kind(), Genesis: genesis, Body: codec.Encode(body)}
}

// Encode returns the file's bytes, deterministic CBOR.
func (e *Evidence) Encode() []byte { return codec.Encode(e) }

// Parse reads what Encode writes and judges nothing: Verify does. It returns
// ErrMalformed, wrapped.
func Parse(raw []byte) (*Evidence, Body, error) {
	if len(raw) > MaxSize {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	var e Evidence
	if err := codec.Decode(raw, &e); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if e.Version != Version {
		return nil, nil, fmt.Errorf("%w: version %d", ErrMalformed, e.Version)
	}
	body := newBody(e.Kind)
	if body == nil {
		return nil, nil, fmt.Errorf("%w: unknown kind %.64q", ErrMalformed, e.Kind)
	}
	if err := codec.Decode(e.Body, body); err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", ErrMalformed, e.Kind, err)
	}
	return &e, body, nil
}

func newBody(k Kind) Body {
	switch k {
	case KindFork:
		return new(Fork)
	case KindLeaves:
		return new(Leaves)
	case KindOtherLog:
		return new(OtherLog)
	case KindOldLog:
		return new(OldLog)
	case KindLeaf:
		return new(Leaf)
	case KindKeyPackage:
		return new(KeyPackage)
	}
	return nil
}

// Verdict says who is convicted of what.
type Verdict struct {
	Kind      Kind     `json:"kind"`
	Convicted []string `json:"convicted"` // keys, in words: "the control log's key", "witness NAME"
	Text      string   `json:"text"`      // of what, in words
}

// organisation is what a file is judged by.
type organisation struct {
	id       codec.Hash
	genesis  *control.Genesis
	entry    []byte
	control  *ledger.Policy
	messages *ledger.Policy

	packageKey PackageKey
}

// Verify judges a file about the organisation of that identity. Without a
// packageKey it judges no KeyPackages. It returns ErrMalformed, ErrOrganisation or
// ErrUnproven, wrapped.
func Verify(id codec.Hash, raw []byte, packageKey PackageKey) (*Verdict, error) {
	e, body, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	state := control.NewState(id)
	if err := state.Apply(e.Genesis, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrganisation, err)
	}
	o := &organisation{id: id, genesis: state.Genesis(), entry: e.Genesis, packageKey: packageKey}
	if o.control, o.messages, err = o.genesis.Logs(id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrganisation, err)
	}
	v, err := body.judge(o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnproven, err)
	}
	v.Kind = e.Kind
	return v, nil
}

// log returns the policy of one of the two logs.
func (o *organisation) log(name ledger.Log) (*ledger.Policy, error) {
	switch name {
	case ledger.ControlLog:
		return o.control, nil
	case ledger.MessagesLog:
		return o.messages, nil
	}
	return nil, fmt.Errorf("no log is called %.64q", name)
}

const (
	receiptKey = "the server's receipt key"
	controlKey = "the control log's key"
)

func logKey(name ledger.Log) string {
	if name == ledger.ControlLog {
		return controlKey
	}
	return "the messages log's key"
}

// witnesses names those of the organisation that cosigned both notes.
func witnesses(policy *ledger.Policy, a, b []byte) (out []string) {
	any := *policy
	any.Quorum = 1
	first, err := any.Verify(a)
	if err != nil {
		return nil // nobody did, or not so that it could be held against them
	}
	second, err := any.Verify(b)
	if err != nil {
		return nil
	}
	for _, x := range first.Cosignatures {
		for _, y := range second.Cosignatures {
			if x.Witness == y.Witness {
				out = append(out, "witness "+x.Witness)
			}
		}
	}
	return out
}
