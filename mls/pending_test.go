package mls

import (
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// TestPendingComesBack: a commit of each kind is pending over a restart, and taken
// or dropped after it.
func TestPendingComesBack(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 4)
	for _, x := range m {
		for _, y := range m {
			y.psks["known"] = []byte("secret")
		}
		x.same(m[0])
	}
	psk := &tree.PreSharedKey{PSK: tree.PreSharedKeyID{Type: tree.PSKExternal, ID: []byte("known"), Nonce: make([]byte, 32)}}
	d := make(disk)
	for name, o := range map[string]func() CommitOptions{
		"path":       func() CommitOptions { return CommitOptions{Path: true} },
		"no path":    func() CommitOptions { return CommitOptions{Proposals: []tree.Proposal{psk}} },
		"encrypted":  func() CommitOptions { return CommitOptions{Path: true, Encrypt: true, AuthenticatedData: []byte("ad")} },
		"extensions": func() CommitOptions { return CommitOptions{Proposals: []tree.Proposal{&tree.GroupContextExtensions{}}} },
		"reference": func() CommitOptions {
			update := must(m[1].ProposeUpdate(nil, false, nil))(t)
			for _, x := range []*member{m[0], m[2], m[3]} {
				must(x.Process(update))(t)
			}
			return CommitOptions{}
		},
	} {
		options := o()
		must(m[0].Commit(options))(t)
		d.crash(m[0])
		if err := m[0].Discard(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d.crash(m[0])
		if m[0].Pending() != nil {
			t.Fatalf("%s: discarded and pending", name)
		}
		c := must(m[0].Commit(options))(t)
		d.crash(m[0])
		r := must(m[0].Process(c.Message))(t)
		if r.Commit == nil || string(r.AuthenticatedData) != string(options.AuthenticatedData) || r.Epoch+1 != m[0].Epoch() {
			t.Fatalf("%s: got %+v", name, r)
		}
		for _, x := range m[1:] {
			must(x.Process(c.Message))(t)
			x.same(m[0])
		}
		talk(t, m...)
	}
}

// TestFormerPendingCommit: a commit that an earlier version stored, whole, is
// taken; what is stored of it takes the present form.
func TestFormerPendingCommit(t *testing.T) {
	m := group(t, cipher.X25519AES128SHA256Ed25519, 3)
	c := must(m[0].Commit(CommitOptions{Path: true}))(t)
	d := make(disk)
	d.save(m[0].Group)
	present := recordKey{kind: recordCommit}.bytes()
	former := recordKey{kind: recordFormerCommit}.bytes()
	p := m[0].pending
	a := must(tree.ParseMessage(c.Message))(t).(*tree.PublicMessage).AuthenticatedContent()
	var b syntax.Builder
	b.Opaque(p.digest)
	a.Encode(&b)
	p.next.secrets.Encode(&b)
	b.Vector(func(b *syntax.Builder) {
		for _, n := range sortedKeys(p.next.keys) {
			b.Uint32(uint32(n))
			b.Opaque(p.next.keys[n].ExposeBytes())
		}
	})
	delete(d, string(present))
	d[string(former)] = b.Bytes()

	m[0].Group = must(Restore(m[0].config, d.records()))(t)
	d.save(m[0].Group)
	if d[string(former)] != nil || d[string(present)] == nil {
		t.Error("stored as before")
	}
	d.crash(m[0])
	for _, x := range m {
		must(x.Process(c.Message))(t)
		x.same(m[0])
	}
	talk(t, m...)
	if d.crash(m[0]); d[string(present)] != nil {
		t.Error("taken and stored")
	}
}
