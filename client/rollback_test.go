package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery/client"
	"chancery/codec"
	"chancery/ledger"
)

// TestRolledBackLog: the server shows a messages log that ends before what was
// witnessed, the cosignatures of which are all right.
func TestRolledBackLog(t *testing.T) {
	p := newParty(t)
	a := p.person("Alice")
	id := a.create("")
	a.say(id, "one")
	a.sync()
	a.say(id, "two")
	hidden := &hidingServer{fakeServer: p.fakeServer, size: p.org.Messages.Size() - 2, t: t}
	p.cfg.Connect = func(k codec.Signer) client.Server { return hidingConn{conn{p.fakeServer, k.PublicKey()}, hidden} }
	a.restart()
	if _, err := a.Sync(t.Context()); !errors.Is(err, ledger.ErrProof) {
		t.Errorf("got %v, want ErrProof", err)
	}
}

// TestRestoredCopy: an older copy of a device stops at the first thing it says,
// and nothing it says reaches anybody.
func TestRestoredCopy(t *testing.T) {
	p := newParty(t)
	a, b := p.person("Alice"), p.person("Bob")
	id := a.create("", b)
	a.say(id, "one")
	a.Close()
	backup := readAll(t, a.dir)
	a.reopen()
	a.say(id, "two")
	a.Close()
	for name, data := range backup {
		if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.reopen()
	if _, err := a.Send(t.Context(), id, client.Draft{Text: "three"}); !errors.Is(err, client.ErrServer) {
		t.Errorf("got %v, want ErrServer", err)
	}
	b.sync()
	b.want(id, "one", "two")
}
