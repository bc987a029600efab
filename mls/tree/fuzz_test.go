package tree

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chancery/mls/syntax"
)

var writeSeeds = flag.Bool("write-seeds", false, "write testdata/seeds.json anew")

const seedFile = "testdata/seeds.json"

// hexBytes is binary data in the seeds.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// seeds returns small examples of what each parser reads.
func seeds(t testing.TB) map[string][]hexBytes {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(seedFile))
	if err != nil {
		t.Fatal(err)
	}
	var seeds map[string][]hexBytes
	if err := json.Unmarshal(data, &seeds); err != nil {
		t.Fatal(err)
	}
	return seeds
}

// FuzzRoundTrip: what a parser accepts has one encoding, and nothing makes it
// panic.
func FuzzRoundTrip(f *testing.F) {
	parse := parsers(f)
	names := slices.Sorted(maps.Keys(parse))
	for i, name := range names {
		examples := seeds(f)[name]
		if len(examples) == 0 {
			f.Fatalf("no seed for %s", name)
		}
		for _, s := range examples {
			f.Add(byte(i), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		name := names[int(which)%len(names)]
		if out, err := parse[name](data); err == nil && !bytes.Equal(out, data) {
			t.Errorf("%s: %x encodes as %x", name, data, out)
		}
	})
}

// FuzzGroup: a server's group takes any bytes in the place of a handshake, and
// goes on.
func FuzzGroup(f *testing.F) {
	for _, s := range seeds(f)["message"] {
		f.Add([]byte(s))
	}
	g := grown(f, suite1, 4)
	want := g.Tree().Marshal()
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMessage(data)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *PublicMessage:
			// With the name and epoch of the group, to get further in.
			m.Content.GroupID, m.Content.Epoch = g.Context().GroupID, g.Context().Epoch
			if _, err := g.Stage(m.AuthenticatedContent()); err == nil {
				t.Error("a commit was accepted")
			}
			if _, err := g.Propose(m.AuthenticatedContent()); err == nil && m.Content.Sender.Type == SenderMember {
				t.Error("a proposal was accepted")
			}
			// And with the signature taken for good.
			var list []ProposalOrRef
			if m.Content.ContentType == ContentCommit {
				list = m.Content.Commit.Proposals
			}
			p, err := g.Plan(m.Content.Sender, list)
			if err == nil && m.Content.ContentType == ContentCommit && m.Content.Commit.Path != nil {
				_ = p.Merge(m.Content.Commit.Path)
			}
		case *GroupInfo:
			_, _ = JoinGroup(g.rules, m, g.Tree())
		case *KeyPackage:
			_ = CheckKeyPackage(g.suite, g.rules, m)
		}
		if !bytes.Equal(g.Tree().Marshal(), want) {
			t.Error("the group has changed")
		}
	})
}

// FuzzForeignTree: a tree from anywhere is judged without a panic.
func FuzzForeignTree(f *testing.F) {
	for _, s := range seeds(f)["ratchet tree"] {
		f.Add([]byte(s))
	}
	g := newTestGroup(f, suite1)
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := ParseTree(g.suite, data)
		if err != nil {
			return
		}
		c := *g.Context()
		c.TreeHash = tree.Hash()
		_, _ = NewGroup(g.rules, tree, c, nil)
		if tree.checkUnmerged() == nil {
			_ = tree.checkParentHashes()
		}
		for l := range LeafIndex(min(tree.Size(), 64)) {
			_, _ = tree.Clone().setPath(l, nil)
			tree.Clone().remove([]LeafIndex{l})
		}
		if _, err := tree.Clone().add([]*LeafNode{{}, {}}); err != nil {
			t.Error(err)
		}
	})
}

// TestWriteSeeds writes the fuzz tests' seeds anew, from what the tests' groups
// send. The bytes change when the forms do.
func TestWriteSeeds(t *testing.T) {
	if !*writeSeeds {
		t.Skip("writes " + seedFile + ", by hand, after a form has changed: go test ./mls/tree -run TestWriteSeeds -write-seeds")
	}
	g := newTestGroup(t, suite1)
	g.must(g.commit(0, g.add("1"), g.add("2")))
	g.must(g.commit(1))
	g.must(g.finish(draft{from: Member(0), noPath: true, proposals: byValue(g.add("3"))}))
	message := func(ac *AuthenticatedContent) hexBytes {
		return MarshalMessage(&PublicMessage{Content: ac.Content, Auth: ac.Auth, MembershipTag: g.bytes(32)})
	}
	senders := ExternalSenders{{SignatureKey: g.signer(g.suite).Public(), Credential: BasicCredential([]byte("officer"))}}
	required := RequiredCapabilities{Extensions: []ExtensionType{0xff01}, Proposals: []ProposalType{0xff02}, Credentials: []CredentialType{CredentialBasic}}
	extensions := &GroupContextExtensions{Extensions: Extensions{senders.Extension(), required.Extension()}}
	reinit := &ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: 2, Extensions: extensions.Extensions}
	resumption := g.psk("")
	resumption.PSK.Type, resumption.PSK.Usage, resumption.PSK.GroupID, resumption.PSK.Epoch = PSKResumption, UsageApplication, []byte("old"), 7
	add, update, remove, initial := g.add("4"), g.update(2), &Remove{Removed: 2}, &ExternalInit{KEMOutput: g.bytes(32)}
	commit := g.finish(draft{from: Member(1), proposals: append(byValue(add, remove), g.propose(2, g.psk("k")))})

	all := map[string][]hexBytes{
		"message": {
			message(commit), message(g.finish(g.externalCommit("5"))), message(g.message(1, remove)),
			MarshalMessage(g.info(0)), MarshalMessage(&add.KeyPackage),
			MarshalMessage(&Welcome{CipherSuite: 1, Secrets: []EncryptedGroupSecrets{{NewMember: g.bytes(32), Secrets: HPKECiphertext{g.bytes(32), g.bytes(40)}}}, EncryptedGroupInfo: g.bytes(70)}),
			MarshalMessage(&PrivateMessage{GroupID: []byte("group"), ContentType: ContentApplication, EncryptedSenderData: g.bytes(28), Ciphertext: g.bytes(40)}),
		},
		"ratchet tree":          {g.Tree().Marshal()},
		"commit":                {syntax.Marshal(commit.Content.Commit)},
		"authenticated content": {syntax.Marshal(commit)},
		"group context":         {syntax.Marshal(g.Context())},
		"required capabilities": {syntax.Marshal(&required)},
		"external senders":      {syntax.Marshal(senders)},
	}
	for name, p := range map[string]Proposal{
		"add": add, "update": update, "remove": remove, "psk": resumption, "reinit": reinit,
		"external init": initial, "group context extensions": extensions,
	} {
		all[name] = []hexBytes{syntax.Marshal(p)}
		var b syntax.Builder
		EncodeProposal(&b, p)
		all["proposal"] = append(all["proposal"], b.Bytes())
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.FromSlash(seedFile), append(data, '\n'), 0o666); err != nil {
		t.Fatal(err)
	}
}
