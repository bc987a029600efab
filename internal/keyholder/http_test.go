package keyholder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/request"
)

// start runs the daemon of a holder on a loopback address.
func (s *stage) start(guard bool) (url string, stop func() error) {
	s.t.Helper()
	x := s.org.Keyholders[0]
	if guard {
		x = s.org.Guards[0]
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Dir: s.t.TempDir(), Custody: memory{PrivateKey: x.Key, h: x, guard: guard}, Organisation: s.org.ID,
			Server: s.desk, Now: s.now, Log: slog.New(slog.DiscardHandler), Listener: l, PollInterval: 10 * time.Millisecond,
		})
	}()
	return "http://" + l.Addr().String(), func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("the daemon doesn't stop")
		}
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	s := newStage(t, options{})
	asked, early := s.query(false, s.messages[:2], nil), s.query(false, s.messages[1:2], nil)
	withdrawal := s.submitOf(&control.Withdrawal{Request: s.request}, s.org.Reviewers[0])
	hold := s.submitOf(&control.Release{}, s.org.Officers[0])
	url, stop := s.start(false)
	holder := remote.NewHolder(url, nil, nil)

	answer, err := holder.Query(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	if _, parts, err := request.OpenAnswer(s.org.Keyholders[0].Holder.Sign, s.decrypt, s.request, answer); err != nil || len(parts.Parts) != 2 {
		t.Fatalf("answer: %v", err)
	}
	_, err = holder.Query(t.Context(), early)
	var refused *remote.Refused
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if r, err := request.OpenRefusal(s.org.Keyholders[0].Holder.Sign, refused.Refusal); err != nil || r.Code != request.CodeLimit {
		t.Errorf("refusal: %v, %v", r, err)
	}
	if err := holder.Notice(t.Context(), hold); err == nil {
		t.Error("a release was handed over")
	}
	if err := holder.Notice(t.Context(), withdrawal); err != nil {
		t.Fatal(err)
	}
	if _, err = holder.Query(t.Context(), asked); !errors.As(err, &refused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if r, err := request.OpenRefusal(s.org.Keyholders[0].Holder.Sign, refused.Refusal); err != nil || r.Code != request.CodeWithdrawn {
		t.Errorf("refusal: %v, %v", r, err)
	}
	status, err := holder.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.Name != "keyholder-1" || status.Role != "keyholder" || status.Index != 1 || status.Answered != 1 || status.Refused != 2 || status.Problem != "" {
		t.Errorf("status is %+v", status)
	}
	badRequests(t, url)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Nothing that anybody can send makes an internal error.
func badRequests(t *testing.T, url string) {
	t.Helper()
	for _, path := range []string{wire.PathQuery, wire.PathNotice, wire.PathTransfer} {
		for name, body := range map[string][]byte{
			"empty": {}, "text": []byte("hello"), "nil": {0xf6}, "array": {0x80}, "deep": bytes.Repeat([]byte{0x81}, 100),
			"sign1": {0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0, 0x40, 0x40}, "zeros": make([]byte, 4096),
		} {
			resp, err := http.Post(url+path, wire.MediaType, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode < 400 || resp.StatusCode >= 500 || bytes.Contains(text, []byte("goroutine")) {
				t.Errorf("%s %s: %s %q", path, name, resp.Status, text)
			}
		}
		resp, err := http.Post(url+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%s as text: %s", path, resp.Status)
		}
	}
	resp, err := http.Post(url+wire.PathNotice, wire.MediaType, bytes.NewReader(make([]byte, maxNotice+1)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("long notice: %s", resp.Status)
	}
	if resp, err = http.Get(url + "/"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("unknown path: %v, %v", resp, err)
	}
	resp.Body.Close()
}

// A daemon that the organisation doesn't know says so and ends.
func TestRunStranger(t *testing.T) {
	s := newStage(t, options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := codec.NewPrivateKey()
	err = Run(t.Context(), Config{
		Dir: t.TempDir(), Custody: memory{PrivateKey: key, h: &orgtest.Holder{}}, Organisation: s.org.ID,
		Server: s.desk, Now: s.now, Log: slog.New(slog.DiscardHandler), Listener: l,
	})
	if !errors.Is(err, ErrRole) {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}
