package interop

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"testing"

	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// spoilt yields what an attacker on the way could make of a message: each bit of
// its head turned (protocol version, wire format, suite, group and epoch are
// there, which a downgrade would change), one bit of each later byte, the end
// cut off, or something put behind it.
func spoilt(message []byte) iter.Seq2[string, []byte] {
	const head = 48
	return func(yield func(string, []byte) bool) {
		for i := range message {
			bits := []int{i % 8}
			if i < head {
				bits = []int{0, 1, 2, 3, 4, 5, 6, 7}
			}
			for _, bit := range bits {
				b := bytes.Clone(message)
				b[i] ^= 1 << bit
				if !yield(fmt.Sprintf("bit %d of byte %d turned", bit, i), b) {
					return
				}
			}
			if i%7 == 0 && !yield(fmt.Sprintf("cut at byte %d", i), bytes.Clone(message[:i])) {
				return
			}
		}
		yield("longer by a byte", append(bytes.Clone(message), 0))
	}
}

// refuses verifies that whatever is spoilt is refused, without harm: read then
// takes the message as it was sent.
func refuses(t *testing.T, what string, message []byte, read func([]byte) error) {
	t.Helper()
	tried := 0
	for how, b := range spoilt(message) {
		tried++
		if err := read(b); err == nil {
			t.Fatalf("%s of %d bytes, %s: accepted", what, len(message), how)
		}
	}
	if tried <= len(message) {
		t.Fatalf("%s: only %d tries", what, tried)
	}
	if err := read(message); err != nil {
		t.Fatalf("%s as it was sent: %v", what, err)
	}
}

// TestSpoilt has us read everything that peers write, spoilt on the way.
func TestSpoilt(t *testing.T) {
	for _, name := range []string{tsMLS, coreCrypto} {
		for _, id := range []cipher.ID{1, 2} {
			t.Run(fmt.Sprintf("%s suite %d", name, id), func(t *testing.T) {
				t.Parallel()
				spoil(newRoom(t, id), start(t, name))
			})
		}
	}
}

func spoil(r *room, p *program) {
	r.t.Helper()
	a, b, c, d := r.client(p), r.client(nil), r.client(p), r.client(nil)
	r.create(a)

	added := must(c.keyPackage())(r.t)
	refuses(r.t, "key package", added, r.checkKeyPackage)

	done := must(a.commit(change{add: [][]byte{must(b.keyPackage())(r.t)}}))(r.t)
	refuses(r.t, "Welcome", done.welcome, func(m []byte) error { return b.join(m, nil) })
	r.members = append(r.members, b)
	r.same()

	read := func(m []byte) error {
		_, err := b.process(m)
		return err
	}
	refuses(r.t, "message", must(a.encrypt([]byte("text")))(r.t), read)
	refuses(r.t, "commit with a path", must(a.commit(change{}))(r.t).message, read)
	done = must(a.commit(change{add: [][]byte{added}}))(r.t)
	refuses(r.t, "commit with an Add", done.message, read)
	r.ok(c.join(done.welcome, nil))
	if p.name == tsMLS {
		done := must(c.commit(change{encrypt: true}))(r.t)
		refuses(r.t, "encrypted commit", done.message, read)
		must(a.process(done.message))(r.t)
		r.spoilTree(a, c, b)
		proposal := must(a.propose(change{remove: r.target(c)}))(r.t)
		refuses(r.t, "proposal", proposal, read)
		must(c.process(proposal))(r.t)
		done = must(a.commit(change{pending: true}))(r.t)
		refuses(r.t, "commit of a proposal", done.message, read)
	}
	r.same()

	// An external commit has no membership tag.
	info, _, err := b.groupInfo(false)
	r.ok(err)
	joining := must(r.client(p).joinExternally(externalJoin{info: info}))(r.t)
	refuses(r.t, "external commit", joining, read)

	info, _, err = a.groupInfo(false)
	r.ok(err)
	refuses(r.t, "GroupInfo", info, func(m []byte) error {
		_, err := d.joinExternally(externalJoin{info: m})
		return err
	})
}

// spoilTree has a client of ours join with a tree that comes apart from the
// Welcome, and not without it.
func (r *room) spoilTree(by member, others ...member) {
	r.t.Helper()
	e := r.client(nil)
	done := must(by.commit(change{add: [][]byte{must(e.keyPackage())(r.t)}, omitTree: true}))(r.t)
	if err := e.join(done.welcome, nil); !errors.Is(err, mls.ErrNoTree) {
		r.t.Fatalf("a Welcome without a tree: %v", err)
	}
	refuses(r.t, "tree", done.tree, func(m []byte) error { return e.join(done.welcome, m) })
	for _, m := range others {
		must(m.process(done.message))(r.t)
	}
}

func (r *room) checkKeyPackage(message []byte) error {
	m, err := tree.ParseMessage(message)
	if err != nil {
		return err
	}
	p, ok := m.(*tree.KeyPackage)
	if !ok {
		return fmt.Errorf("a %T", m)
	}
	return tree.CheckKeyPackage(r.suite, rules{}, p)
}
