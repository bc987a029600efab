// Package control is the organisation, replayed: the kinds of leaf in the
// control log, who may sign each (spec/control.md), and the state that follows
// from a log read from its first leaf.
//
// Everyone who relies on the organisation replays all of it: an inclusion proof
// shows that a leaf is present, never that its signer had the authority or that
// a revocation is absent. The package is pure: entries come from a caller that
// has authenticated them against a witnessed checkpoint.
package control

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/sshsig"
)

// Kind names a kind of control leaf.
type Kind string

// The kinds of leaf. Which signatures each needs is the table in
// spec/control.md#kinds, implemented by the apply method of its body.
const (
	KindGenesis     Kind = "genesis"
	KindPolicy      Kind = "policy"
	KindRole        Kind = "role"
	KindCeremony    Kind = "ceremony"
	KindDKG         Kind = "dkg"
	KindEpoch       Kind = "epoch"
	KindMonth       Kind = "month"
	KindCanary      Kind = "canary"
	KindAnswer      Kind = "canary-answer"
	KindInvitation  Kind = "invitation"
	KindDevice      Kind = "device"
	KindRevocation  Kind = "revocation"
	KindMatter      Kind = "matter"
	KindHold        Kind = "hold"
	KindNotice      Kind = "hold-acknowledgement"
	KindRelease     Kind = "release"
	KindRequest     Kind = "request"
	KindApproval    Kind = "approval"
	KindWithdrawal  Kind = "withdrawal"
	KindOpener      Kind = "opener"
	KindUse         Kind = "use"
	KindOpening     Kind = "opening"
	KindExport      Kind = "export"
	KindDestruction Kind = "destruction"
	KindAuthority   Kind = "authority"
	KindCertificate Kind = "certificate"
)

// Sealed reports whether leaves of the kind carry a salted hash in the log, and
// their body apart from it, for those who need it.
func (k Kind) Sealed() bool {
	switch k {
	case KindMatter, KindHold, KindNotice, KindRelease, KindRequest:
		return true
	}
	return false
}

// MaxBody is the greatest length in bytes of a sealed statement's body: a hold
// or a request over some 60,000 custodians.
const MaxBody = 1 << 20

const (
	leafVersion   = 1
	maxEntry      = 65535 // C2SP tlog-tiles bundles carry a 16-bit length
	maxSignatures = 64
	maxTime       = 253_402_300_799_999 // the last millisecond of the year 9999: times can be added to and written out
	// Namespace is the SSH signature namespace of control statements:
	// `ssh-keygen -Y sign -n control@chancery`.
	Namespace = "control@chancery"
	label     = "control"
)

// Algorithms of a Signature.
const (
	Ed25519 Algorithm = 1 // key is the public key itself
	SSH     Algorithm = 2 // key is the credential's fingerprint
)

// Algorithm says how a Signature was made.
type Algorithm uint8

var (
	// ErrMalformed means that an entry is not a control leaf.
	ErrMalformed = errors.New("malformed control leaf")
	// ErrUnauthorised means that a leaf lacks the signatures its kind needs.
	ErrUnauthorised = errors.New("not signed by those who may")
	// ErrConflict means that a leaf contradicts the state it would change:
	// already there, unknown subject, out of order.
	ErrConflict = errors.New("contradicts the log")
	// ErrKind means that a leaf is of a kind that this version doesn't know. It
	// comes with ErrMalformed, and proves nothing against whoever logged it: a
	// later version may know the kind.
	ErrKind = errors.New("unknown kind of control leaf")
)

// Statement is what the signers of a leaf sign.
type Statement struct {
	_            struct{}   `cbor:",toarray"`
	Organisation codec.Hash // zero for the genesis statement alone
	Kind         Kind
	Body         []byte // the body's encoding, or its 32-byte seal where the kind is sealed
}

// Hash names the statement, and the leaf, everywhere: H("statement", encoding).
// It covers neither signatures nor time, so that signers agree on it before the
// log has taken it, and the log takes it once.
func (s *Statement) Hash() codec.Hash { return codec.Sum("statement", codec.Encode(s)) }

// SigningText is the file that a person signs with ssh-keygen: the kind and the
// hash in text, so that a hardware key's owner can compare them.
func (s *Statement) SigningText() []byte {
	return fmt.Appendf(nil, "chancery control statement v1\n%s\n%s\n", s.Kind, s.Hash())
}

// Signature is one signature on a statement.
type Signature struct {
	_         struct{} `cbor:",toarray"`
	Algorithm Algorithm
	Key       codec.Hash
	Bytes     []byte
}

// Sign signs a statement with a key of a program or device.
func Sign(key codec.Signer, s *Statement) (Signature, error) {
	h := s.Hash()
	sig, err := key.Sign(label, h[:])
	if err != nil {
		return Signature{}, err
	}
	return Signature{Algorithm: Ed25519, Key: codec.Hash(key.PublicKey()), Bytes: sig}, nil
}

// SignSSH signs a statement with a person's SSH key.
func SignSSH(key ssh.Signer, s *Statement) (Signature, error) {
	sig, err := sshsig.Sign(key, Namespace, s.SigningText())
	if err != nil {
		return Signature{}, err
	}
	return Signature{Algorithm: SSH, Key: sshsig.Credential(key.PublicKey().Marshal()).ID(), Bytes: sig}, nil
}

func (g *Signature) verify(s *Statement) error {
	switch g.Algorithm {
	case Ed25519:
		if len(g.Bytes) != ed25519.SignatureSize || weak(codec.PublicKey(g.Key)) {
			return ErrMalformed
		}
		h := s.Hash()
		return codec.Verify(codec.PublicKey(g.Key), label, h[:], g.Bytes)
	case SSH:
		credential, err := sshsig.Verify(g.Bytes, Namespace, s.SigningText())
		if err != nil {
			return err
		}
		if credential.ID() != g.Key {
			return codec.ErrSignature
		}
		return nil
	}
	return fmt.Errorf("signature algorithm %d: %w", g.Algorithm, ErrMalformed)
}

// weak reports whether a key is an encoding of a point of small order, under
// which anybody can make signatures: whoever enrolled one could say later that
// anybody may have signed.
func weak(key codec.PublicKey) bool {
	key[31] &= 0x7f // the sign of x
	for _, y := range [...]string{
		"0000000000000000000000000000000000000000000000000000000000000000", // order 4
		"0100000000000000000000000000000000000000000000000000000000000000", // order 1
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, not reduced
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, not reduced
	} {
		if key.String() == y {
			return true
		}
	}
	return false
}

// Leaf is one entry of the control log.
type Leaf struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Time       int64 // milliseconds since 1970 UTC, the server's; never decreases along the log
	Statement  []byte
	Signatures []Signature
}

// NewLeaf makes the entry of a statement at a time.
func NewLeaf(s *Statement, time int64, signatures []Signature) *Leaf {
	return &Leaf{Version: leafVersion, Time: time, Statement: codec.Encode(s), Signatures: signatures}
}

// Encode returns the log entry, at most 65,535 bytes if Parse is to take it.
func (l *Leaf) Encode() []byte { return codec.Encode(l) }

// Parse reads a log entry and its statement, and checks that every signature
// on it verifies, each by another key. It returns ErrMalformed or
// codec.ErrSignature, wrapped. Whether the signers have the authority is for State.Apply.
func Parse(entry []byte) (*Leaf, *Statement, error) {
	if len(entry) > maxEntry {
		return nil, nil, fmt.Errorf("%w: entry of %d bytes", ErrMalformed, len(entry))
	}
	var l Leaf
	if err := codec.Decode(entry, &l); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if l.Version != leafVersion || l.Time < 0 || l.Time > maxTime || len(l.Signatures) == 0 || len(l.Signatures) > maxSignatures {
		return nil, nil, fmt.Errorf("%w: version %d with %d signatures", ErrMalformed, l.Version, len(l.Signatures))
	}
	s, err := ParseStatement(l.Statement)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[codec.Hash]bool, len(l.Signatures))
	for i := range l.Signatures {
		if seen[l.Signatures[i].Key] {
			return nil, nil, fmt.Errorf("%w: two signatures by one key", ErrMalformed)
		}
		seen[l.Signatures[i].Key] = true
		if err := l.Signatures[i].verify(s); err != nil {
			return nil, nil, fmt.Errorf("signature %d of a %s leaf: %w", i+1, s.Kind, err)
		}
	}
	return &l, s, nil
}

// ParseStatement reads an encoded statement of at most 65,535 bytes. It returns
// ErrMalformed.
func ParseStatement(data []byte) (*Statement, error) {
	if len(data) > maxEntry {
		return nil, fmt.Errorf("%w: statement of %d bytes", ErrMalformed, len(data))
	}
	var s Statement
	if err := codec.Decode(data, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return &s, nil
}

// Opening opens a sealed leaf. Keyholders, guards and approvers get every one;
// the public sees the seal.
type Opening struct {
	_    struct{} `cbor:",toarray"`
	Salt [32]byte
	Body []byte // at most MaxBody
}

// Seal returns the 32 bytes that stand for the opening in the log:
// H("sealed", salt ‖ body).
func (o *Opening) Seal() codec.Hash { return codec.Sum("sealed", o.Salt[:], o.Body) }

// NewStatement makes the statement of a body and, where the kind is sealed, the opening
// that belongs to it, salted from rand.
func NewStatement(rand io.Reader, organisation codec.Hash, body Body) (*Statement, *Opening, error) {
	s := &Statement{Organisation: organisation, Kind: body.Kind(), Body: codec.Encode(body)}
	if !s.Kind.Sealed() {
		return s, nil, nil
	}
	o := &Opening{Body: s.Body}
	if _, err := io.ReadFull(rand, o.Salt[:]); err != nil {
		return nil, nil, fmt.Errorf("couldn't draw a salt: %w", err)
	}
	seal := o.Seal()
	s.Body = seal[:]
	return s, o, nil
}
