package demo

import (
	"context"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/request"
)

func (s *stage) desk(key ssh.Signer) *matters.Desk {
	d := &matters.Desk{
		Server: s.server.As(httpsig.SSH(key)), Replica: s.replica, Key: key, Holders: map[string]matters.Holder{}, Now: time.Now, Rand: rand.Reader,
	}
	for _, e := range append(append([]wire.Endpoint(nil), s.home.Keyholders...), s.home.Guards...) {
		d.Holders[e.Name] = remote.NewHolder(e.URL, nil, httpsig.SSH(key))
	}
	return d
}

func (s *stage) custodians() ([]codec.ID, string, error) {
	var ids []codec.ID
	if len(s.Custodians) == 0 {
		for _, id := range s.members {
			ids = append(ids, id)
		}
		return ids, "every member", nil
	}
	words := ""
	for _, name := range s.Custodians {
		id, ok := s.members[name]
		if !ok {
			return nil, "", fmt.Errorf("nobody in the corpus is called %q", name)
		}
		ids = append(ids, id)
		words += name + " "
	}
	return ids, words[:len(words)-1], nil
}

// hold opens a matter, places a hold and requests a search.
func (s *stage) hold(ctx context.Context) error {
	ids, who, err := s.custodians()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	desk := s.desk(s.reviewer)
	details, err := request.NewDetails(rand.Reader, "Demo matter", "show the whole path", "demonstration", []string{s.Term})
	if err != nil {
		return err
	}
	s.step("the reviewer opens a matter and places a hold on the messages of %s", who)
	matter := codec.NewID()
	if err := desk.OpenMatter(ctx, matter, details); err != nil {
		return err
	}
	today := envelope.DayOf(time.Now())
	if _, err := desk.PlaceHold(ctx, matter, ids, today-1, today+1, "Please keep everything: this is a demonstration."); err != nil {
		return err
	}
	s.step("and requests a search for %q: approvers read it in clear, keyholders see ids, dates and counts, the server no term", s.Term)
	recipient, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return fmt.Errorf("couldn't make the recipient's key: %w", err)
	}
	secret, err := recipient.Bytes()
	if err != nil {
		return err
	}
	_, err = desk.Request(ctx, &matters.Draft{
		Matter: matter, Custodians: ids, FromDay: today - 1, ToDay: today + 1, MaxCount: 20_000, Search: true,
		Recipient: recipient.PublicKey().Bytes(), Expiry: time.Now().Add(24 * time.Hour), Details: details,
		Keep: func(h codec.Hash) error {
			s.summary.Request = h
			if err := home.WriteFile(s.path("recipients", h.String()+".key"), secret, 0o600); err != nil {
				return err
			}
			return (&home.Request{Request: h, Matter: matter, Details: details.Encode()}).Save(s.requestFile())
		},
	})
	return err
}

func (s *stage) requestFile() string {
	return s.path("requests", s.summary.Request.String()+".request")
}

// approve has three of the five approvers sign.
func (s *stage) approve(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	s.step("%d of %d approvers read the request on the witnessed log and sign it with their SSH keys", approvals, approvers)
	for _, key := range s.approver[:approvals] {
		if _, err := s.desk(key).Decide(ctx, s.summary.Request, control.Approve, ""); err != nil {
			return err
		}
		s.summary.Approvals++
	}
	return nil
}
