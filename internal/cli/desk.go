package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"chancery/envelope"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
)

// desk connects a person, with the holders to hand things to.
func (a *app) desk(cmd *cobra.Command, path string) (*session, *matters.Desk, error) {
	s, key, err := a.asPerson(cmd, path)
	if err != nil {
		return nil, nil, err
	}
	d := &matters.Desk{
		Server: s.server, Replica: s.replica, Key: key, Holders: map[string]matters.Holder{}, Now: time.Now, Rand: rand.Reader,
	}
	endpoints := slices.Concat(s.home.Keyholders, s.home.Guards)
	if len(endpoints) == 0 {
		// A home that names no holders asks the server where they are. What is
		// handed over is signed; a server that lies here is found out by a
		// holder's status.
		o, err := s.server.Organisation(cmd.Context())
		if err != nil {
			return nil, nil, err
		}
		endpoints = slices.Concat(o.Keyholders, o.Guards)
	}
	for name, h := range a.holders(endpoints, httpsig.SSH(key)) {
		d.Holders[name] = h
	}
	return s, d, nil
}

// deadline bounds a command that waits for the witnesses.
func deadline(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), stateTime)
}

// day reads a date as UTC days since 1970.
func day(text string) (uint32, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil || t.Unix() < 0 {
		return 0, &usageError{fmt.Errorf("%q is no date like 2026-11-22", text)}
	}
	return envelope.DayOf(t), nil
}
