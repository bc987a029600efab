package client

import (
	"container/list"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"chancery/client/state"
	"chancery/codec"
)

// Host runs many devices in one process, each with a state of its own: one
// subdirectory for each, named by its member and a label. Devices are opened
// when they are used and closed when others need their room. It is safe for
// concurrent use; operations on one device wait for one another, and different
// devices work at the same time.
type Host struct {
	cfg  Config
	dir  string
	key  [state.KeySize]byte
	most int

	mu    sync.Mutex // guards what follows; never held while a device works
	open  map[string]*hosted
	idle  *list.List // of *hosted, the longest idle first
	busy  map[string]chan struct{}
	ended bool
}

type hosted struct {
	name   string
	device *Device
	users  int
	place  *list.Element // in idle; nil while in use
}

// NewHost returns a host of the devices in a directory, of which it keeps at
// most most open besides those in use; 0 means 64. The devices' keys are derived
// from key, which the host keeps a copy of until Close.
func NewHost(cfg Config, dir string, key *[state.KeySize]byte, most int) (*Host, error) {
	if most == 0 {
		most = 64
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the devices' directory: %w", err)
	}
	return &Host{
		cfg: cfg.withDefaults(), dir: dir, key: *key, most: most,
		open: map[string]*hosted{}, idle: list.New(), busy: map[string]chan struct{}{},
	}, nil
}

// name returns a device's subdirectory.
func (h *Host) name(member codec.ID, label string) (string, error) {
	if label == "" || len(label) > 32 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", fmt.Errorf("device label %.40q: want 1 to 32 of a to z and 0 to 9", label)
	}
	return member.String() + "-" + label, nil
}

func (h *Host) deviceKey(name string) (*[state.KeySize]byte, error) {
	k, err := hkdf.Key(sha256.New, h.key[:], []byte("chancery/device-host/v1"), name, state.KeySize)
	if err != nil {
		return nil, fmt.Errorf("couldn't derive a device's key: %w", err)
	}
	defer clear(k)
	return (*[state.KeySize]byte)(slices.Clone(k)), nil
}

// Enrol enrols a member's device under a label of its own, such as "phone". It
// goes on where an earlier call stopped. It returns Enrol's errors.
func (h *Host) Enrol(ctx context.Context, member codec.ID, label, memberName string, invitation *codec.PrivateKey) error {
	name, err := h.name(member, label)
	if err != nil {
		return err
	}
	release, err := h.reserve(name)
	if err != nil {
		return err
	}
	defer release()
	key, err := h.deviceKey(name)
	if err != nil {
		return err
	}
	defer clear(key[:])
	dir := filepath.Join(h.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("couldn't make the device's directory: %w", err)
	}
	d, err := Enrol(ctx, h.cfg, Enrolment{Dir: dir, Key: key, Member: member, Name: memberName, Invitation: invitation})
	if err != nil {
		return err
	}
	return d.Close()
}

// reserve makes a device's name this caller's alone, while it isn't open.
func (h *Host) reserve(name string) (release func(), err error) {
	for {
		h.mu.Lock()
		if h.ended {
			h.mu.Unlock()
			return nil, ErrClosed
		}
		if wait, taken := h.busy[name]; taken {
			h.mu.Unlock()
			<-wait
			continue
		}
		done := make(chan struct{})
		h.busy[name] = done
		h.mu.Unlock()
		return func() {
			h.mu.Lock()
			delete(h.busy, name)
			h.mu.Unlock()
			close(done)
		}, nil
	}
}

// With calls f with an open device of a member. f must not keep it.
func (h *Host) With(member codec.ID, label string, f func(*Device) error) error {
	name, err := h.name(member, label)
	if err != nil {
		return err
	}
	e, err := h.use(name)
	if err != nil {
		return err
	}
	return errors.Join(f(e.device), h.release(e))
}

// use opens a device unless it is open.
func (h *Host) use(name string) (*hosted, error) {
	if e := h.pick(name); e != nil {
		return e, nil
	}
	release, err := h.reserve(name)
	if err != nil {
		return nil, err
	}
	defer release()
	if e := h.pick(name); e != nil { // somebody opened it meanwhile
		return e, nil
	}
	key, err := h.deviceKey(name)
	if err != nil {
		return nil, err
	}
	defer clear(key[:])
	d, err := Open(h.cfg, filepath.Join(h.dir, name), key)
	if err != nil {
		return nil, err
	}
	e := &hosted{name: name, device: d, users: 1}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open[name] = e
	return e, nil
}

func (h *Host) pick(name string) *hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.open[name]
	if e == nil {
		return nil
	}
	if e.place != nil {
		h.idle.Remove(e.place)
		e.place = nil
	}
	e.users++
	return e
}

// release gives a device back, and closes those that have been idle longest.
func (h *Host) release(e *hosted) error {
	var last []*hosted
	h.mu.Lock()
	if e.users--; e.users == 0 {
		e.place = h.idle.PushBack(e)
	}
	for h.idle.Len() > h.most || h.ended && h.idle.Len() > 0 {
		old := h.idle.Front().Value.(*hosted)
		if _, taken := h.busy[old.name]; taken {
			break
		}
		h.idle.Remove(old.place)
		delete(h.open, old.name)
		done := make(chan struct{}) // nobody opens it before it is closed
		h.busy[old.name] = done
		last = append(last, old)
	}
	h.mu.Unlock()
	var err error
	for _, old := range last {
		err = errors.Join(err, old.device.Close())
		h.mu.Lock()
		done := h.busy[old.name]
		delete(h.busy, old.name)
		h.mu.Unlock()
		close(done)
	}
	return err
}

// Close closes all devices; those in use when they are given back.
func (h *Host) Close() error {
	h.mu.Lock()
	h.ended = true
	var all []*hosted
	for e := h.idle.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*hosted))
	}
	h.idle.Init()
	for _, e := range all {
		e.place = nil
		delete(h.open, e.name)
	}
	clear(h.key[:])
	h.mu.Unlock()
	var err error
	for _, e := range all {
		err = errors.Join(err, e.device.Close())
	}
	return err
}
