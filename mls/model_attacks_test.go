package mls

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// spend verifies that an encrypted message which is sent uses a key for the
// first time, and notes what for.
func (w *world) spend(d *device, message []byte, what string) {
	w.t.Helper()
	key, nonce := w.keyOf(d.Group, message)
	if key == "" {
		return
	}
	if w.spent[key] != "" {
		w.t.Fatalf("%s uses a key again: %s", d.name, key)
	}
	w.spent[key], w.nonces[nonce] = what, true
}

// keyOf names the key that an encrypted message uses, and the key with its nonce;
// nothing for one in the clear.
func (w *world) keyOf(g *Group, message []byte) (key, nonce string) {
	w.t.Helper()
	m, ok := must(tree.ParseMessage(message))(w.t).(*tree.PrivateMessage)
	if !ok {
		return "", ""
	}
	k, n := g.now.senderDataKeys(m.Ciphertext)
	data := must(g.suite.Open(k, n, senderDataAAD(m), m.EncryptedSenderData))(w.t)
	all := fmt.Sprintf("group %s, epoch %d, application %t, leaf and generation ", m.GroupID, m.Epoch, m.ContentType == tree.ContentApplication)
	return all + fmt.Sprintf("%x", data[:len(data)-reuseGuardSize]), all + fmt.Sprintf("%x", data)
}

// haunts has a member that was removed try to read a message that was sent since,
// as its state has it and with each key it had.
func (w *world) haunts(ghost *device, m *text) {
	w.t.Helper()
	if m.epoch <= ghost.Epoch() {
		return // it may still come late
	}
	private := must(tree.ParseMessage(m.message))(w.t).(*tree.PrivateMessage)
	_, err := ghost.Process(m.message)
	epochs := []*epoch{ghost.now}
	for _, past := range ghost.past {
		epochs = append(epochs, &past.epoch)
	}
	for _, e := range epochs {
		if _, _, opened := e.unprotectPrivate(private, anyone); opened == nil {
			err = nil
		}
	}
	if err == nil {
		w.t.Fatalf("%s, removed after epoch %d, reads epoch %d", ghost.name, ghost.Epoch(), m.epoch)
	}
	w.events["refused"]++
}

func anyone(tree.LeafIndex) error { return nil }

// lockedOut verifies that a member can't follow the commit that removes it: no
// key it has opens a path secret, and what it knows without one leads elsewhere.
func (w *world) lockedOut(ghost *device, message []byte) {
	w.t.Helper()
	var a *tree.AuthenticatedContent
	switch m := must(tree.ParseMessage(bytes.Clone(message)))(w.t).(type) {
	case *tree.PublicMessage:
		a = m.AuthenticatedContent()
	case *tree.PrivateMessage:
		content, key, err := ghost.now.unprotectPrivate(m, anyone)
		if err != nil {
			w.t.Fatal(err)
		}
		key.drop()
		a = content
	}
	staged := must(ghost.public.Stage(a))(w.t)
	path := a.Content.Commit.Path
	if path == nil {
		w.t.Fatalf("%s is removed by a commit without a path", ghost.name)
	}
	held := slices.Collect(maps.Values(ghost.keys))
	for _, p := range ghost.proposals {
		if p.key != nil {
			held = append(held, p.key)
		}
	}
	context := syntax.Marshal(&staged.Provisional)
	for _, node := range path.Nodes {
		for _, secret := range node.Secrets {
			for _, k := range held {
				if _, err := k.DecryptWithLabel(labelPath, context, secret.KEMOutput, secret.Ciphertext); err == nil {
					w.t.Fatalf("%s opens a path secret of the commit that removes it", ghost.name)
				}
			}
		}
	}
	psks, err := ghost.config.findPSKs(staged.PSKs, ghost.ID(), ghost.Group.psks)
	if err != nil {
		w.t.Fatal(err)
	}
	n := must(schedule(w.suite, staged, ghost.now.secrets.init, nil, psks))(w.t)
	if w.suite.VerifyMAC(n.secrets.confirmation, staged.Context.ConfirmedTranscriptHash, a.Auth.ConfirmationTag) {
		w.t.Fatalf("%s derives the epoch it isn't in", ghost.name)
	}
	w.events["refused"]++
}

// setBack sets a device back to a copy of its disk. What it sends before it knows
// is no commit that the server takes, and no message for who has read the one
// that used its key; and it never meets a nonce again. Then it comes back by an
// external commit.
func (w *world) setBack(d *device) {
	w.t.Helper()
	if d == nil {
		return
	}
	member := *d.member
	old := &device{member: &member, disk: maps.Clone(d.backup)}
	old.restart()
	if w.server != nil && old.pending == nil && old.Epoch() < w.now() {
		w.refuses(must(old.Commit(CommitOptions{Path: true}))(w.t).Message)
	}
	message := must(old.Encrypt([]byte("again"), nil))(w.t)
	key, nonce := w.keyOf(old.Group, message)
	if w.nonces[nonce] {
		w.t.Fatalf("%s uses a key and nonce again: %s", d.name, nonce)
	}
	for _, other := range w.devices {
		if !inside(other) || !other.read[w.spent[key]] {
			continue
		}
		_, err := other.stored().Process(message)
		if errors.Is(err, tree.ErrEpoch) {
			err = ErrKeyGone
		}
		w.refused(err, ErrKeyGone)
	}
	w.events["set back"]++
	w.loseState(d)
}

// succeed has members go on in another group: all of them where theirs ends by a
// ReInit, some of them in a branch. It reports whether they did.
func (w *world) succeed() bool {
	w.t.Helper()
	var members []*device
	for _, d := range w.devices {
		if inside(d) {
			members = append(members, d)
		}
	}
	by := members[0]
	if len(members) < 3 || by.pending != nil {
		return false
	}
	id := fmt.Appendf(nil, "after %s", by.ID())
	extensions := tree.Extensions{w.officers().Extension()}
	reinit := w.chance(50) && by.Public().Tree().Count() == len(members) // nobody is in it who lost the state
	if reinit {
		w.end(members, &tree.ReInit{GroupID: id, Version: tree.MLS10, CipherSuite: w.suite.ID(), Extensions: extensions})
	} else {
		members = members[:2+w.random.IntN(len(members)-1)]
	}
	var packages []*tree.KeyPackage
	formers := make(map[*device]*Group)
	for _, d := range members[1:] {
		packages = append(packages, &d.invitation().KeyPackage)
		formers[d] = d.Group
	}
	var next *Group
	var first *Committed
	var err error
	if reinit {
		next, first, err = by.Reinitialise(by.keyPackage(), packages)
		w.events["reinit"]++
	} else {
		next, first, err = by.Branch(id, by.keyPackage(), extensions, packages)
		w.events["branch"]++
	}
	if err != nil {
		w.t.Fatalf("%s begins another group: %v", by.name, err)
	}
	for _, d := range w.devices {
		d.Group, d.backup = nil, nil
	}
	by.Group = next
	w.begin(by)
	w.submit(by, first, formers)
	return true
}

// end has the first of the members end the group. Then it takes nothing more.
func (w *world) end(members []*device, r *tree.ReInit) {
	w.t.Helper()
	by := members[0]
	c := must(by.Commit(CommitOptions{Encrypt: w.server == nil, Alone: true, Proposals: []tree.Proposal{r}}))(w.t)
	by.save()
	w.submit(by, c, nil)
	for _, d := range members {
		w.catchUp(d)
		_, err := d.Commit(CommitOptions{Path: true})
		w.refused(err, tree.ErrEnded)
		_, err = d.ProposeUpdate(nil, false, nil)
		w.refused(err, tree.ErrEnded)
		_, err = d.Encrypt([]byte("more"), nil)
		w.refused(err, tree.ErrEnded)
	}
}
