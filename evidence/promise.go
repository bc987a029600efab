package evidence

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/ledger"
	"chancery/manifest"
)

// What a Promise is.
const (
	PromiseReceipt PromiseKind = 1 // manifest.Receipt
	PromiseClaim   PromiseKind = 2 // manifest.Claim
)

// PromiseKind says what the receipt key signed.
type PromiseKind uint8

// Promise is something that the receipt key signed under a control log.
type Promise struct {
	_      struct{} `cbor:",toarray"`
	Kind   PromiseKind
	Signed []byte // COSE_Sign1
}

// promised is the place and time that a promise names.
type promised struct {
	what string
	size int64
	root codec.Hash
	time int64
}

func (p *Promise) open(o *organisation) (*promised, error) {
	switch p.Kind {
	case PromiseReceipt:
		r, err := manifest.OpenReceipt(o.genesis.ReceiptKey, p.Signed)
		if err != nil {
			return nil, err
		}
		b := &r.Opening.Body
		return &promised{fmt.Sprintf("the receipt of leaf %d", r.Index), b.ControlSize, b.ControlRoot, b.Time}, nil
	case PromiseClaim:
		c, err := manifest.OpenClaim(o.genesis.ReceiptKey, p.Signed)
		if err != nil {
			return nil, err
		}
		return &promised{"a KeyPackage of device " + c.Device.Short(), c.ControlSize, c.ControlRoot, c.Time}, nil
	}
	return nil, fmt.Errorf("promise of unknown kind %d", p.Kind)
}

// OtherLog is a promise about a control log that the log's own checkpoint, at
// least as large, contradicts.
type OtherLog struct {
	_          struct{} `cbor:",toarray"`
	Promise    Promise
	Checkpoint []byte      // signed note
	Prefix     codec.Hash  // root of the checkpoint's log at the promise's size; zeros where the sizes are equal
	Proof      []tlog.Hash // that Prefix is; empty where the sizes are equal
}

// Kind implements Body.
func (*OtherLog) Kind() Kind { return KindOtherLog }

func (x *OtherLog) judge(o *organisation) (*Verdict, error) {
	p, err := x.Promise.open(o)
	if err != nil {
		return nil, err
	}
	c, err := ledger.OpenUnwitnessed(o.control.Log, x.Checkpoint)
	if err != nil {
		return nil, err
	}
	prefix := x.Prefix
	if p.size == c.Size {
		if !prefix.IsZero() || len(x.Proof) > 0 {
			return nil, errors.New("a prefix of a log that is no longer")
		}
		prefix = codec.Hash(c.Root)
	} else if err := ledger.CheckConsistency(x.Proof, p.size, tlog.Hash(prefix), c.Size, c.Root); err != nil {
		return nil, err
	}
	if prefix == p.root {
		return nil, errors.New("both speak of one control log")
	}
	return &Verdict{
		Convicted: []string{receiptKey, controlKey},
		Text:      fmt.Sprintf("signed two control logs: %s names one of %d leaves, with which that of the checkpoint of %d doesn't begin", p.what, p.size, c.Size),
	}, nil
}

// OldLog is a promise under a control log that can't have been the newest at
// its time: Leaf is the leaf after that log's last, and more than five minutes
// older, or that log's last, and more than five minutes newer.
type OldLog struct {
	_       struct{} `cbor:",toarray"`
	Promise Promise
	Leaf    Included
}

// Kind implements Body.
func (*OldLog) Kind() Kind { return KindOldLog }

func (x *OldLog) judge(o *organisation) (*Verdict, error) {
	p, err := x.Promise.open(o)
	if err != nil {
		return nil, err
	}
	if _, err := x.Leaf.check(o.control.Log); err != nil {
		return nil, err
	}
	leaf, s, err := control.Parse(x.Leaf.Entry)
	if err != nil {
		return nil, err
	}
	lag, most := p.time-leaf.Time, control.ReceiptLag.Milliseconds()
	switch x.Leaf.Proof.Index {
	case p.size:
		if lag <= most {
			return nil, errors.New("the log had not grown more than five minutes before")
		}
		return &Verdict{Convicted: []string{receiptKey}, Text: fmt.Sprintf("gave %s under a control log of %d leaves, %s after the leaf that came next: %s",
			p.what, p.size, inWords(lag), describe(s))}, nil
	case p.size - 1:
		if -lag <= most {
			return nil, errors.New("the log was there, but for five minutes")
		}
		return &Verdict{Convicted: []string{receiptKey}, Text: fmt.Sprintf("gave %s under a control log of %d leaves, %s before it had so many",
			p.what, p.size, inWords(-lag))}, nil
	}
	return nil, fmt.Errorf("leaf %d is not the one after %d leaves, nor the last of them", x.Leaf.Proof.Index, p.size)
}

// inWords writes a number of milliseconds, of which a year says enough.
func inWords(milliseconds int64) string {
	d := min(milliseconds, 366*24*time.Hour.Milliseconds())
	return (time.Duration(d) * time.Millisecond).Round(time.Second).String()
}

// describe says what a leaf withheld.
func describe(s *control.Statement) string {
	if s.Kind == control.KindRevocation {
		var r control.Revocation
		if codec.Decode(s.Body, &r) == nil {
			return "the revocation of device " + r.Device.String()
		}
	}
	return fmt.Sprintf("a leaf of kind %.32q", s.Kind)
}

// KeyPackage is a KeyPackage that was handed out for a device and has another
// key.
type KeyPackage struct {
	_       struct{} `cbor:",toarray"`
	Claim   []byte   // signed manifest.Claim
	Package []byte   // MLSMessage
	Entry   []byte   // the device's leaf
	Proof   ledger.InclusionProof
}

// Kind implements Body.
func (*KeyPackage) Kind() Kind { return KindKeyPackage }

func (x *KeyPackage) judge(o *organisation) (*Verdict, error) {
	c, err := manifest.OpenClaim(o.genesis.ReceiptKey, x.Claim)
	if err != nil {
		return nil, err
	}
	if manifest.PackageHash(x.Package) != c.Package {
		return nil, errors.New("the KeyPackage is not the one that was handed out")
	}
	if x.Proof.Size != c.ControlSize {
		return nil, fmt.Errorf("the device's leaf is shown in %d leaves, the claim speaks of %d", x.Proof.Size, c.ControlSize)
	}
	if err := ledger.CheckInclusion(x.Proof.Hashes, c.ControlSize, tlog.Hash(c.ControlRoot), x.Proof.Index, x.Entry); err != nil {
		return nil, err
	}
	_, s, err := control.Parse(x.Entry)
	if err != nil {
		return nil, err
	}
	var device control.Device
	if s.Hash() != c.Device || s.Kind != control.KindDevice || s.Organisation != o.id {
		return nil, errors.New("the leaf is another's than the device's that was asked for")
	}
	if err := codec.Decode(s.Body, &device); err != nil {
		return nil, err
	}
	key, err := o.packageKey.Of(x.Package)
	if err != nil {
		return nil, err
	}
	if key == device.Key {
		return nil, errors.New("the KeyPackage has the device's key")
	}
	return &Verdict{Convicted: []string{receiptKey}, Text: fmt.Sprintf("handed out a KeyPackage for device %s of member %s that has another key: %s",
		c.Device, device.Member, key)}, nil
}

// PackageKey reads the signature key of a KeyPackage, an MLSMessage, as
// tree.KeyPackageSigner does. It is handed in, so that programs which judge no
// KeyPackages, such as the opener, are made without MLS.
type PackageKey func(message []byte) ([]byte, error)

// Of returns the Ed25519 key of a KeyPackage. Whoever has its private half is who
// a group would be joined by. It returns ErrMalformed where there is no such key:
// that convicts nobody, since a later version may have another kind.
func (f PackageKey) Of(message []byte) (codec.PublicKey, error) {
	if f == nil {
		return codec.PublicKey{}, errors.New("this program doesn't read KeyPackages")
	}
	key, err := f(message)
	if err != nil {
		return codec.PublicKey{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(key) != ed25519.PublicKeySize {
		return codec.PublicKey{}, fmt.Errorf("%w: no KeyPackage with an Ed25519 key", ErrMalformed)
	}
	return codec.PublicKey(key), nil
}
