package api

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/custody"
	"chancery/internal/issuer"
	"chancery/internal/wire"
)

// authority is the organisation's own certificate authority, opened when a
// device first asks: officers may make it while the server runs.
type authority struct {
	mu     sync.Mutex // guards opened
	opened *issuer.Authority
}

func (a *authority) open(dir, keyFile string) (*issuer.Authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened != nil {
		return a.opened, nil
	}
	if _, err := issuer.Certificate(dir); err != nil {
		return nil, err
	}
	secret, err := custody.KeyFile(keyFile)
	if err != nil {
		return nil, err
	}
	defer secret.Erase()
	a.opened, err = issuer.Open(dir, secret)
	return a.opened, err
}

func (a *authority) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened != nil {
		a.opened.Erase()
		a.opened = nil
	}
}

// certificate issues one to the device that asks, for the key that the log has
// for it. It counts once the device has logged it.
func (s *server) certificate(c *call) (any, error) {
	a, err := s.authority.open(s.Dir, s.AuthorityKeyFile)
	if errors.Is(err, issuer.ErrNone) {
		return nil, noAuthority(err.Error())
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, custody.ErrKeyFile) || errors.Is(err, custody.ErrSecret) {
		s.Log.Error("couldn't open the certificate authority", "error", err)
		return nil, noAuthority("its key can't be opened")
	}
	if err != nil {
		return nil, err
	}
	var organisation codec.Hash
	var key codec.PublicKey
	var hours uint32
	s.directory.Read(func(state *control.State, _ codec.Hash) {
		organisation = state.Organisation()
		if d, ok := state.Device(c.who.device); ok {
			key = d.Key
		}
		for _, x := range state.Authorities() {
			if x.Removed == control.Never && bytes.Equal(x.Certificate, a.DER()) {
				hours = x.Hours
			}
		}
	})
	if hours == 0 {
		return nil, noAuthority("the log doesn't name it, or not any more")
	}
	der, err := a.Issue(organisation, c.who.device, key, s.Now(), time.Duration(hours)*time.Hour)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", c.who.device.Short(), err)
	}
	return rawBytes(der), nil
}

func noAuthority(detail string) *wire.Problem {
	return &wire.Problem{
		Type: "about:blank", Title: "no certificate authority here", Status: http.StatusNotFound, Detail: detail,
		Hint: "`chancery device request` asks another authority of the organisation, if it has one; officers make one with `chancery ca create`",
	}
}
