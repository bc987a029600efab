package group_test

import (
	"errors"
	"testing"
	"time"

	"chancery/client"
	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/mls"
	"chancery/mls/tree"
)

// TestExternalCommitsAreJudged: members take an external commit from whoever may
// join by itself or stands in the group already, and from nobody else, whatever
// the server has let through.
func TestExternalCommitsAreJudged(t *testing.T) {
	w := newWorld(t)
	a, b, i := w.device("a"), w.device("b"), newInsider(w, "insider")
	i.knows = []tree.ExtensionType{handshake.ExtensionArchive}
	id := codec.NewID()
	w.found(id, a, b)
	own := i.keyPackage(time.Hour)
	step := must[*client.Step](t)(a.Add(id, [][]byte{own.Message()}, w))
	a.Merge(id)
	must[*client.Epoch](t)(b.Process(id, step.Commit, w))
	i.Group = must[*mls.Group](t)(mls.Join(i.config, own, step.Welcome, nil, nil))
	info := must[[]byte](t)(i.GroupInfo(false))
	at := must[*client.Epoch](t)(a.Epoch(id))

	joins := func(by *insider, remove *tree.LeafIndex) []byte {
		_, message, err := mls.JoinExternally(by.config, mls.ExternalJoin{GroupInfo: info, Identity: by.identity(by.signer, by.device.hash[:]), Remove: remove})
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	stranger, sibling := newInsider(w, "stranger"), newInsider(w, "let in by b")
	stranger.knows, sibling.knows = i.knows, i.knows
	w.joins[sibling.device.hash] = true
	of := func(l tree.LeafIndex) *tree.LeafIndex { return &l }
	for name, message := range map[string][]byte{
		"a stranger":                           joins(stranger, nil),
		"a stranger in another's place":        joins(stranger, of(1)),
		"who may join, in another's place":     joins(sibling, of(1)),
		"who may join, in this device's place": joins(sibling, of(0)),
	} {
		if _, err := a.Process(id, message, w); err == nil || errors.Is(err, client.ErrRemoved) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	w.revoked[sibling.device.hash] = true
	if _, err := a.Process(id, joins(sibling, nil), w); !errors.Is(err, client.ErrCredential) {
		t.Errorf("a revoked device: %v", err)
	}
	w.revoked[sibling.device.hash] = false

	// Both who may.
	x := w.device("x")
	w.joins[x.hash] = true
	if _, err := x.Rejoin(&client.Epoch{Conversation: id, Number: at.Number + 1, Transcript: at.Transcript, Roster: at.Roster}, info, nil, w); !errors.Is(err, client.ErrEpoch) {
		t.Errorf("another epoch than the statement's: %v", err)
	}
	step = must[*client.Step](t)(x.Rejoin(at, info, nil, w))
	for _, d := range []*device{a, b} {
		if e := must[*client.Epoch](t)(d.Process(id, step.Commit, w)); !e.Roster.Contains(x.hash) || e.Roster.Root() != step.Roster.Root() {
			t.Errorf("%d devices", len(e.Roster))
		}
	}
	x.restart()
	x.want(id, a, a.send(id, "welcome"), "welcome")
	b.want(id, x, x.send(id, "thanks"), "thanks")

	// A device that lost the group, and stands in it.
	must[*mls.Received](t)(i.Group.Process(step.Commit))
	at = must[*client.Epoch](t)(a.Epoch(id))
	step = must[*client.Step](t)(b.Rejoin(at, must[[]byte](t)(i.GroupInfo(false)), nil, w))
	for _, d := range []*device{a, x} {
		if e := must[*client.Epoch](t)(d.Process(id, step.Commit, w)); len(e.Roster) != len(at.Roster) {
			t.Errorf("%d devices, %d before", len(e.Roster), len(at.Roster))
		}
	}
	b.restart()
	b.want(id, a, a.send(id, "back"), "back")
}
