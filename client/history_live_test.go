package client_test

import (
	"testing"

	"chancery/client"
	"chancery/client/state"
	"chancery/codec"
)

// TestLiveLink lets a second device in over the real server while it waits, and
// gives it the past.
func TestLiveLink(t *testing.T) {
	l := newLive(t)
	a, b := l.person("Alice"), l.person("Bob")
	id, err := a.Create(t.Context(), "talk", []codec.ID{b.Member()})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if _, err := a.Send(t.Context(), id, client.Draft{Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	e := client.Enrolment{Dir: t.TempDir(), Key: state.NewKey(), Member: a.Member(), Name: "Alice"}
	request, err := client.Link(l.cfg, e)
	if err != nil {
		t.Fatal(err)
	}
	type enrolled struct {
		*client.Device
		err error
	}
	done := make(chan enrolled, 1)
	go func() {
		d, err := client.Enrol(t.Context(), l.cfg, e)
		done <- enrolled{d, err}
	}()
	if _, err := a.SignFor(t.Context(), request, client.History{All: true}); err != nil {
		t.Fatal(err)
	}
	n := <-done
	if n.err != nil {
		t.Fatal(n.err)
	}
	defer n.Close()
	until(t, n.Device, "a request", func() bool { s, err := n.HistoryStatus(); return err == nil && !s.Asked.IsZero() })
	if err := a.ShareHistory(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	until(t, n.Device, "history", func() bool { s, err := n.HistoryStatus(); return err == nil && s.Complete })
	var texts []string
	for m, err := range n.History(id) {
		if err != nil {
			t.Fatal(err)
		}
		if m.From != a.Hash() {
			t.Errorf("on the word of %s", m.From.Short())
		}
		if m.Text != "" {
			texts = append(texts, m.Text)
		}
	}
	if len(texts) != 2 || texts[0] != "one" || texts[1] != "two" {
		t.Errorf("history shows %q", texts)
	}
}
