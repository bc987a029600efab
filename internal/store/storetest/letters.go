package storetest

import (
	"testing"
	"time"

	"chancery/codec"
	"chancery/internal/store"
)

func testLetters(t *testing.T, open Open) {
	s, a, b, now := start(t, open, t.TempDir(), nil), codec.Sum("a"), codec.Sum("b"), time.Now()
	put := func(to codec.Hash, body string, at time.Time) {
		t.Helper()
		update(t, s, func(tx store.Tx) error { return tx.PutLetter(&store.Letter{From: a, To: to, Body: []byte(body)}, at) })
	}
	read := func(after uint64, limit, size int) (got string, last uint64) {
		t.Helper()
		letters, err := s.Letters(t.Context(), b, after, limit, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			if l.From != a || l.Cursor <= last {
				t.Fatalf("%+v after cursor %d", l, last)
			}
			got, last = got+string(l.Body), l.Cursor
		}
		return got, last
	}
	put(b, "1", now.Add(-time.Hour))
	put(a, "x", now)
	put(b, "2", now)
	put(b, "3", now)
	if got, _ := read(0, 10, 100); got != "123" {
		t.Fatalf("got %q", got)
	}
	if got, last := read(0, 2, 100); got != "12" {
		t.Fatalf("got %q", got)
	} else if got, _ := read(last, 2, 100); got != "3" {
		t.Fatalf("then %q", got)
	}
	if got, _ := read(0, 10, 1); got != "1" {
		t.Fatalf("got %q", got)
	}
	if n, size, err := s.LettersHeld(t.Context(), b); err != nil || n != 3 || size != 3 {
		t.Fatal(n, size, err)
	}
	update(t, s, func(tx store.Tx) error { return tx.DropOldLetters(now.Add(-time.Minute)) })
	got, last := read(0, 10, 100)
	if got != "23" {
		t.Fatalf("got %q", got)
	}
	update(t, s, func(tx store.Tx) error { return tx.DropLetters(b, last) })
	put(b, "4", now)
	if got, again := read(0, 10, 100); got != "4" || again <= last {
		t.Fatalf("%q under cursor %d, the last one was %d", got, again, last)
	}
	if n, _, err := s.LettersHeld(t.Context(), a); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}
