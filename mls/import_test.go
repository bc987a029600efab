package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// foreign returns a member's state as another implementation might have kept it:
// the message keys of the present epoch from its encryption secret on.
func foreign(m *member, encryption []byte) *Foreign {
	x := &m.now.secrets
	f := &Foreign{
		Own: m.own, Tree: m.public.Tree(), Interim: m.public.InterimTranscriptHash(), Keys: make(map[tree.NodeIndex][]byte),
		Exporter: slices.Clone(x.exporter), External: slices.Clone(x.external), Confirmation: slices.Clone(x.confirmation),
		Membership: slices.Clone(x.membership), Resumption: slices.Clone(x.resumption), Authentication: slices.Clone(x.authenticate),
		Init: slices.Clone(x.init),
		Present: ForeignEpoch{
			Context: *m.public.Context(), Size: m.public.Tree().Size(),
			SenderData: slices.Clone(x.senderData), Encryption: slices.Clone(encryption),
		},
	}
	for n, k := range m.keys {
		f.Keys[n] = slices.Clone(k.ExposeBytes())
	}
	for id, r := range m.now.keys.ratchets {
		if !id.handshake && r.next > 0 {
			f.Present.Ratchets = append(f.Present.Ratchets, ForeignRatchet{id.leaf, r.next, slices.Clone(r.secret)})
		}
	}
	return f
}

func TestImport(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 5)
	m[1].commits(CommitOptions{Path: true}, m...)
	root := m[0].public.Tree().Size().Root()
	encryption := slices.Clone(m[0].now.keys.nodes[root])
	if len(encryption) == 0 {
		t.Fatal("the secret tree's root is gone before any message")
	}
	read := must(m[1].Encrypt([]byte("read"), nil))(t)
	must(m[0].Process(read))(t)
	must(m[0].Encrypt([]byte("sent"), nil))(t)

	d := make(disk)
	m[0].Group = must(Import(m[0].config, foreign(m[0], encryption)))(t)
	d.crash(m[0])
	if _, err := m[0].Process(read); !errors.Is(err, ErrKeyGone) {
		t.Errorf("a message read before: got %v", err)
	}
	for _, x := range []*member{m[1], m[2], m[3], m[4]} {
		m[0].same(x)
	}
	if bytes.Contains(d.dump(), encryption) {
		t.Error("the encryption secret is still there")
	}
	message := must(m[0].Encrypt([]byte("next"), nil))(t)
	if r := must(m[2].Process(message))(t); string(r.Application) != "next" {
		t.Errorf("read %q", r.Application)
	}
	talk(t, m...)
	m[0].commits(CommitOptions{Path: true}, m...)
	m[3].commits(CommitOptions{Path: true}, m...)
	talk(t, m...)
}

func TestImportRefuses(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	other := group(t, cipher.X25519AES128SHA256Ed25519, 2)
	encryption := make([]byte, 32)
	for name, change := range map[string]func(f *Foreign){
		"another's tree":     func(f *Foreign) { f.Tree = other[0].public.Tree() },
		"no leaf key":        func(f *Foreign) { delete(f.Keys, f.Own.Node()) },
		"another's leaf key": func(f *Foreign) { f.Keys[f.Own.Node()] = other[0].keys[0].ExposeBytes() },
		"a blank leaf":       func(f *Foreign) { f.Own = 3 },
		"a leaf beyond":      func(f *Foreign) { f.Own = 1 << 31 },
		"another size":       func(f *Foreign) { f.Present.Size = 8 },
		"a ratchet beyond":   func(f *Foreign) { f.Present.Ratchets = []ForeignRatchet{{Leaf: 4}} },
		"epochs out of order": func(f *Foreign) {
			f.Past = []ForeignEpoch{{Context: tree.GroupContext{Epoch: 7}, Size: 4}}
		},
		"too many epochs": func(f *Foreign) { f.Past = make([]ForeignEpoch, PastEpochs+1) },
	} {
		f := foreign(m[1], encryption)
		change(f)
		if _, err := Import(m[1].config, f); !errors.Is(err, ErrState) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestMembers(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	if m[1].Inviter() != 0 || m[1].Pending() != nil {
		t.Errorf("invited by %d, pending %v", m[1].Inviter(), m[1].Pending())
	}
	names := func(epoch uint64) (out string) {
		for _, leaf := range must(m[0].Members(epoch))(t) {
			out += string(leaf.Credential.Identity)
		}
		return out
	}
	must(m[0].Commit(CommitOptions{Proposals: []tree.Proposal{&tree.Remove{Removed: 1}}}))(t)
	if p := m[0].Pending(); p == nil || p.Tree.Count() != 2 || p.Context.Epoch != 2 {
		t.Errorf("pending: %+v", p)
	}
	must(m[0].Confirm())(t)
	m[0].adds([]*member{newMember(t, m[0].suite, "d")})
	for epoch, want := range map[uint64]string{1: "abc", 2: "ac", 3: "adc"} {
		if got := names(epoch); got != want {
			t.Errorf("epoch %d: %q, want %q", epoch, got, want)
		}
	}
	if _, err := m[0].Members(9); !errors.Is(err, tree.ErrEpoch) {
		t.Errorf("got %v", err)
	}
}
