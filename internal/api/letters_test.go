package api_test

import (
	"bytes"
	"errors"
	"net/http"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
)

// Letters go between devices of one member, wait there once, and are bounded.
func TestLetters(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	second := s.Device(alice.Member)
	put := func(by *orgtest.Device, to codec.Hash, body []byte) error {
		return s.as(by).PutLetter(t.Context(), &wire.Letter{Device: to, Body: body})
	}
	refused := func(what string, err error, status int) {
		t.Helper()
		var p *wire.Problem
		if !errors.As(err, &p) || p.Status != status {
			t.Errorf("%s: %v, want status %d", what, err, status)
		}
	}
	refused("to another member", put(alice, bob.Hash, []byte("x")), http.StatusForbidden)
	refused("to itself", put(alice, alice.Hash, []byte("x")), http.StatusForbidden)
	refused("to nobody", put(alice, codec.Sum("x"), []byte("x")), http.StatusForbidden)
	refused("empty", put(alice, second.Hash, nil), http.StatusBadRequest)
	refused("too long", put(alice, second.Hash, make([]byte, wire.MaxLetter+1)), http.StatusBadRequest)
	for _, body := range []string{"one", "two"} {
		if err := put(alice, second.Hash, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(after uint64) []wire.Letter {
		t.Helper()
		got, err := s.as(second).Letters(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := read(0)
	if len(got) != 2 || got[0].Device != alice.Hash || string(got[1].Body) != "two" {
		t.Fatalf("%+v", got)
	}
	if again := read(0); len(again) != 2 {
		t.Errorf("%d letters when asked again without a cursor", len(again))
	}
	if rest := read(got[0].Cursor); len(rest) != 1 {
		t.Errorf("%d letters after the first", len(rest))
	}
	if all := read(0); len(all) != 1 {
		t.Error("what was confirmed is there again")
	}
	if others, err := s.as(bob).Letters(t.Context(), 0); err != nil || len(others) != 0 {
		t.Errorf("another member's device got %d letters, %v", len(others), err)
	}
	full := false
	for range 70 {
		if err := put(alice, second.Hash, bytes.Repeat([]byte("x"), wire.MaxLetter)); err != nil {
			refused("more than waits for a device", err, http.StatusTooManyRequests)
			full = true
			break
		}
	}
	if !full {
		t.Error("more than 64 MiB wait for a device")
	}
	s.Add(&control.Revocation{Device: second.Hash}, s.Officers[0])
	refused("to a revoked device", put(alice, second.Hash, []byte("x")), http.StatusForbidden)
}
