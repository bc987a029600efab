package api

import (
	"errors"
	"testing"

	"chancery/internal/directory"
	"chancery/internal/orgtest"
)

func TestFound(t *testing.T) {
	dir := t.TempDir()
	keys, err := Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := orgtest.NewWith(t, orgtest.Options{GenesisOnly: true})
	if err := Found(dir, other.Leaves[0].Entry); err == nil {
		t.Fatal("founded with another server's keys")
	}
	if err := Found(dir, []byte("no leaf")); err == nil {
		t.Fatal("founded with nothing")
	}
	own := orgtest.NewWith(t, orgtest.Options{
		GenesisOnly: true, ControlKey: keys.ControlKey, MessagesKey: keys.MessagesKey, ReceiptKey: keys.ReceiptKey,
	})
	if err := Found(dir, own.Leaves[0].Entry); err != nil {
		t.Fatal(err)
	}
	if err := Found(dir, own.Leaves[0].Entry); !errors.Is(err, directory.ErrFounded) {
		t.Fatalf("founded twice: %v", err)
	}
}
