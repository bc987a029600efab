package interop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// What follows is where peers depart from RFC 9420, or choose what it leaves
// open. Each test fails when a peer no longer does: then the groups above can do
// without the detour.

// refusedBy ends the test unless err is a peer's refusal, for that reason.
func refusedBy(t *testing.T, err error, reason string) {
	t.Helper()
	if !errors.Is(err, errPeer) || !strings.Contains(err.Error(), reason) {
		t.Fatalf("got %v, want a refusal: %s", err, reason)
	}
}

// violates ends the test unless err is a breach of that section.
func violates(t *testing.T, err error, section string) {
	t.Helper()
	var v *tree.Violation
	if !errors.As(err, &v) || v.Section != section {
		t.Fatalf("got %v, want a violation of §%s", err, section)
	}
}

// asIs returns a client of ts-mls without what the driver puts right.
func (r *room) asIs(p *program) *theirs {
	r.t.Helper()
	m := &theirs{program: p, id: "as is " + r.t.Name()}
	if _, err := m.do(request{Op: "new", Suite: r.suite.ID(), Identity: []byte(m.id), AsIs: true}); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// TestTSMLSCompressesKeys: ts-mls writes ECDSA public keys as compressed points,
// where RFC 9420 §5.1.1 asks for uncompressed ones. It reads either.
func TestTSMLSCompressesKeys(t *testing.T) {
	p := start(t, tsMLS)
	for _, id := range []cipher.ID{2, 5, 7} {
		t.Run(fmt.Sprintf("suite %d", id), func(t *testing.T) {
			r := newRoom(t, id)
			kp := must(tree.ParseMessage(must(r.asIs(p).keyPackage())(t)))(t).(*tree.KeyPackage)
			if key := kp.Leaf.SignatureKey; key[0] != 2 && key[0] != 3 {
				t.Fatalf("the key begins with %d", key[0])
			}
			if err := tree.CheckKeyPackage(r.suite, rules{}, kp); !errors.Is(err, cipher.ErrKey) {
				t.Fatalf("their key package: %v", err)
			}
		})
	}
}

// TestTSMLSExternalPub: ts-mls writes and reads the key of external_pub without
// the length that it has as an HPKEPublicKey (RFC 9420 §12.4.3.2).
func TestTSMLSExternalPub(t *testing.T) {
	r := newRoom(t, 1)
	p := start(t, tsMLS)
	a, b, c := r.client(nil), r.asIs(p), r.client(nil)
	r.create(a)
	r.add(a, change{}, b)

	info, ratchetTree, err := b.groupInfo(true)
	r.ok(err)
	if _, err := c.joinExternally(externalJoin{info: info, tree: ratchetTree}); !errors.Is(err, syntax.ErrSyntax) {
		t.Fatalf("their GroupInfo: %v", err)
	}

	info, _, err = a.groupInfo(false)
	r.ok(err)
	_, err = r.asIs(p).joinExternally(externalJoin{info: info})
	refusedBy(t, err, "Invalid public key")
}

// faultReplaced: a client of ts-mls that is removed takes the newcomer whose Add
// in the same commit fills its leaf (RFC 9420 §12.3) for itself, and looks for
// a path secret instead of leaving.
func faultReplaced(r *room, who member, commit []byte) {
	r.t.Helper()
	r.members = slices.DeleteFunc(r.members, func(m member) bool { return m == who })
	_, err := who.process(commit)
	refusedBy(r.t, err, "No overlap")
}

// TestTSMLSExternalSenders: ts-mls reads external_senders as one ExternalSender
// where RFC 9420 §12.1.8.1 has a list, and refuses the commit that sets it.
func TestTSMLSExternalSenders(t *testing.T) {
	r := newRoom(t, 1)
	a, b := r.client(nil).(*ours), r.client(start(t, tsMLS))
	r.create(a)
	r.add(a, change{}, b)
	senders := tree.ExternalSenders{{SignatureKey: a.id.Signer.Public(), Credential: a.id.Credential}}
	done := must(a.Group.Commit(mls.CommitOptions{Proposals: []tree.Proposal{
		&tree.GroupContextExtensions{Extensions: tree.Extensions{senders.Extension()}},
	}}))(t)
	_, err := b.process(done.Message)
	refusedBy(t, err, "Could not decode external_senders")
}

// TestTSMLSUnmerged: ts-mls refuses to join a tree in which a node's unmerged
// leaves aren't those of every node above. RFC 9420 §12.4.3.1 asks it only of
// the nodes between that node and the leaf; core-crypto joins.
func TestTSMLSUnmerged(t *testing.T) {
	r := newRoom(t, 1)
	var all []member
	for range 8 {
		all = append(all, r.client(nil))
	}
	r.create(all[0])
	r.add(all[0], change{}, all[1:7]...)
	r.commit(all[4], change{})
	r.add(all[0], change{}, all[7])    // unmerged in 4's nodes, up to the root
	r.remove(all[0], all[1], change{}) // renews the root

	newcomer := r.client(start(t, tsMLS))
	done := must(all[0].commit(change{add: [][]byte{must(newcomer.keyPackage())(t)}}))(t)
	r.deliver(all[0], done.message)
	refusedBy(t, newcomer.join(done.welcome, nil), "must list leaf node in its unmerged_leaves")
	r.add(all[0], change{}, r.client(start(t, coreCrypto)))
}

// TestCoreCryptoInTheClear: core-crypto takes no encrypted handshakes, which RFC
// 9420 §6 leaves to applications.
func TestCoreCryptoInTheClear(t *testing.T) {
	r := newRoom(t, 1)
	a, b := r.client(nil), r.client(start(t, coreCrypto))
	r.create(a)
	r.add(a, change{}, b)
	_, err := b.process(must(a.propose(change{update: true, encrypt: true}))(t))
	refusedBy(t, err, "wire format policy")
	_, err = b.process(must(a.commit(change{encrypt: true}))(t).message)
	refusedBy(t, err, "wire format policy")
}

// TestCoreCryptoRequiresX509: groups of core-crypto require that members know
// X.509 credentials (RFC 9420 §11.1). Who doesn't is refused by either side.
func TestCoreCryptoRequiresX509(t *testing.T) {
	r := newRoom(t, 1)
	p := start(t, coreCrypto)
	a, b, c := r.client(p), r.client(nil), r.client(nil).(*ours)
	c.id.Capabilities.Credentials = []tree.CredentialType{tree.CredentialBasic}
	r.create(a)
	r.add(a, change{}, b)

	without := [][]byte{must(c.keyPackage())(t)}
	if _, err := a.commit(change{add: without}); !errors.Is(err, errPeer) {
		t.Fatalf("they add it: %v", err)
	}
	_, err := b.commit(change{add: without})
	violates(t, err, "7.3")
}

// TestCoreCryptoOrder: core-crypto doesn't read a message that four later ones of
// its sender have overtaken; we read it after up to mls.MaxLateKeys. RFC 9420
// §15.3 leaves the bound to applications.
func TestCoreCryptoOrder(t *testing.T) {
	r := newRoom(t, 1)
	a, b := r.client(nil), r.client(start(t, coreCrypto))
	r.create(a)
	r.add(a, change{}, b)
	for _, way := range []struct {
		from, to member
		late     bool
	}{{a, b, false}, {b, a, true}} {
		var messages [][]byte
		for i := range 5 {
			messages = append(messages, must(way.from.encrypt([]byte{byte(i)}))(t))
		}
		r.reads(way.to, messages[4], []byte{4})
		if read := !r.refused(way.to, messages[0]); read != way.late {
			t.Fatalf("a late message read: %v", read)
		}
	}
}
