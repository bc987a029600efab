package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/evidence"
	"chancery/internal/custody"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/mls/tree"
)

var (
	// ErrHalted means that the server was caught with a control log of which there
	// are two, or that its own rules refuse: the device sends nothing more.
	ErrHalted = errors.New("the server was caught showing a false control log: this device sends nothing under it")
	// ErrStale means that no quorum of witnesses has vouched for the control log
	// of late, so that what it doesn't show may be kept from this device.
	ErrStale = errors.New("the control log was not witnessed of late: nothing is sent under it")
)

const (
	// staleAfter is how old the witnesses' word on the control log may be when
	// something is sent. Holders insist on five minutes, since they open; who
	// sends must not fall silent while a witness restarts, and is kept from a
	// revocation for no longer than this (docs/decisions/0037).
	staleAfter = time.Hour

	// refreshAgain is how soon a device reads the control log again because a
	// receipt is newer than the witnesses' word on it.
	refreshAgain = 10 * time.Second

	evidenceFolder = "evidence"
	evidenceSuffix = ".evidence"
)

// halting lists the kinds of evidence after which a device stops sending. The
// others convict the server too, of one answer that the device refused.
func halting() []evidence.Kind {
	return []evidence.Kind{evidence.KindFork, evidence.KindLeaves, evidence.KindOtherLog, evidence.KindLeaf}
}

// KeepEvidence writes what convicts the server into a device's or person's
// folder, durably, and returns the file's path. The same evidence is written
// once.
func KeepEvidence(dir string, c *replica.Conviction) (string, error) {
	folder := filepath.Join(dir, evidenceFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("couldn't make the folder of evidence: %w", err)
	}
	path := filepath.Join(folder, string(c.Kind)+"-"+codec.Sum("evidence", c.Evidence).Short()+evidenceSuffix)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, custody.WriteFile(path, c.Evidence, 0o600)
}

// EvidenceFile is a file that convicts the server (package evidence).
type EvidenceFile struct {
	Kind  evidence.Kind
	Path  string
	Halts bool // the device sends nothing more while the file is there
}

// Evidence lists what this device, or a command in its folder, has kept against
// the server.
func (d *Device) Evidence() ([]EvidenceFile, error) { return EvidenceIn(d.dir) }

// EvidenceIn lists what lies in a device's or person's folder.
func EvidenceIn(dir string) ([]EvidenceFile, error) {
	entries, err := os.ReadDir(filepath.Join(dir, evidenceFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't look for evidence: %w", err)
	}
	var out []EvidenceFile
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), evidenceSuffix)
		i := strings.LastIndexByte(name, '-')
		if !ok || i < 0 {
			continue
		}
		f := EvidenceFile{Kind: evidence.Kind(name[:i]), Path: filepath.Join(dir, evidenceFolder, e.Name())}
		for _, k := range halting() {
			f.Halts = f.Halts || f.Kind == k
		}
		out = append(out, f)
	}
	return out, nil
}

// caught keeps the evidence that comes with an error, if any does, and returns
// the error.
func (d *Device) caught(err error) error {
	var c *replica.Conviction
	if !errors.As(err, &c) {
		return err
	}
	path, keepErr := KeepEvidence(d.dir, c)
	if keepErr != nil {
		return errors.Join(err, keepErr)
	}
	return fmt.Errorf("%w (evidence in %s)", err, path)
}

// readLog brings the control log to its newest witnessed checkpoint.
func (d *Device) readLog(ctx context.Context) error {
	if err := d.cfg.Replica.Sync(ctx, d.server); err != nil {
		return fmt.Errorf("couldn't read the control log: %w", d.caught(err))
	}
	d.logRead = d.cfg.Now()
	return nil
}

// promised judges what the server signed with its receipt key.
func (d *Device) promised(kind evidence.PromiseKind, signed []byte, size int64, root codec.Hash, time int64) error {
	return d.caught(d.cfg.Replica.Promised(evidence.Promise{Kind: kind, Signed: signed}, size, root, time))
}

// trusts returns ErrHalted or ErrStale where nothing may be sent under the
// control log that this device has.
func (d *Device) trusts(ctx context.Context) error {
	files, err := d.Evidence()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Halts {
			return fmt.Errorf("%w: %s", ErrHalted, f.Path)
		}
	}
	if d.fresh() == nil {
		return nil
	}
	if err := d.refresh(ctx); err != nil {
		return err
	}
	if err := d.fresh(); err != nil {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	return nil
}

func (d *Device) fresh() error {
	c := d.cfg.Replica.Checkpoint()
	if c == nil {
		return errors.New("it hasn't been read")
	}
	return c.Fresh(d.cfg.Now(), staleAfter)
}

// claimed returns the KeyPackage that the server signed for, if it is the
// device's that was asked for.
func (d *Device) claimed(device codec.Hash, in *wire.Claimed) ([]byte, error) {
	var server codec.PublicKey
	d.cfg.Replica.Read(func(s *control.State) { server = s.Genesis().ReceiptKey })
	c, err := manifest.OpenClaim(server, in.Claim)
	if err != nil {
		return nil, fmt.Errorf("%w: the server doesn't stand by the KeyPackage of device %s: %w", ErrServer, device.Short(), err)
	}
	if c.Device != device || c.Package != manifest.PackageHash(in.Package) {
		return nil, fmt.Errorf("%w: it signed for another KeyPackage than that of device %s", ErrServer, device.Short())
	}
	if err := d.promised(evidence.PromiseClaim, in.Claim, c.ControlSize, c.ControlRoot, c.Time); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	if err := d.caught(d.cfg.Replica.Claimed(in.Claim, c, in.Package, tree.KeyPackageSigner)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	return in.Package, nil
}

// upTo makes sure that the control log at hand is one by which a receipt of that
// time, in milliseconds since 1970 UTC, can be judged: what was logged more than
// five minutes before it, a revocation perhaps, has to be there. Where witnesses
// are slow an hour will do, and beyond that the receipt waits (errPending).
func (d *Device) upTo(ctx context.Context, received int64) error {
	behind := func() time.Duration {
		return time.UnixMilli(received).Sub(d.cfg.Replica.Checkpoint().Time())
	}
	if behind() > control.ReceiptLag && d.cfg.Now().Sub(d.logRead) >= refreshAgain {
		if err := d.refresh(ctx); err != nil {
			return err
		}
	}
	if behind() > staleAfter {
		return errPending
	}
	return nil
}
