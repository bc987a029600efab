package tree

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
)

// wire is a type with one encoding.
type wire interface {
	syntax.Encoder
	syntax.Decoder
}

// parsers reads each of the types that arrive from elsewhere, by name.
func parsers(t testing.TB) map[string]func([]byte) ([]byte, error) {
	suite := testSuite(t, cipher.X25519AES128SHA256Ed25519)
	all := map[string]func([]byte) ([]byte, error){
		"message": func(data []byte) ([]byte, error) {
			m, err := ParseMessage(data)
			if err != nil {
				return nil, err
			}
			return MarshalMessage(m), nil
		},
		"ratchet tree": func(data []byte) ([]byte, error) {
			tree, err := ParseTree(suite, data)
			if err != nil {
				return nil, err
			}
			return tree.Marshal(), nil
		},
		"proposal": func(data []byte) ([]byte, error) {
			r := syntax.NewReader(data)
			p := DecodeProposal(r)
			if err := r.Finish(); err != nil {
				return nil, err
			}
			var b syntax.Builder
			EncodeProposal(&b, p)
			return b.Bytes(), nil
		},
	}
	for name, v := range map[string]func() wire{
		"add":                      func() wire { return new(Add) },
		"update":                   func() wire { return new(Update) },
		"remove":                   func() wire { return new(Remove) },
		"psk":                      func() wire { return new(PreSharedKey) },
		"reinit":                   func() wire { return new(ReInit) },
		"external init":            func() wire { return new(ExternalInit) },
		"group context extensions": func() wire { return new(GroupContextExtensions) },
		"commit":                   func() wire { return new(Commit) },
		"authenticated content":    func() wire { return new(AuthenticatedContent) },
		"required capabilities":    func() wire { return new(RequiredCapabilities) },
		"external senders":         func() wire { return new(ExternalSenders) },
		"group context":            func() wire { return new(GroupContext) },
	} {
		all[name] = func(data []byte) ([]byte, error) {
			w := v()
			if err := syntax.Unmarshal(data, w); err != nil {
				return nil, err
			}
			return syntax.Marshal(w), nil
		}
	}
	return all
}

func testSuite(t testing.TB, id cipher.ID) *cipher.Suite {
	t.Helper()
	s, err := cipher.ByID(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOneEncoding: what the forms leave no room for is refused.
func TestOneEncoding(t *testing.T) {
	parse := parsers(t)
	for _, c := range []struct{ name, kind, data string }{
		{"version 2", "message", "00020003000100" + "00"},
		{"wire format 0", "message", "00010000"},
		{"wire format 6", "message", "00010006"},
		{"a length that isn't minimal", "message", "00010003000140" + "00" + "00"},
		{"bytes left over", "message", "00010003000100" + "00" + "00"},
		{"proposal type 8", "proposal", "0008"},
		{"GREASE as a proposal type", "proposal", "0a0a00"},
		{"PSK type 3", "psk", "030000"},
		{"PSK usage 0", "psk", "0200" + "00" + "0000000000000000" + "00"},
		{"PSK usage 4", "psk", "0204" + "00" + "0000000000000000" + "00"},
		{"two extensions of a type", "group context extensions", "06" + "0aaa00" + "0aaa00"},
		{"a proposal or reference of type 0", "commit", "0100" + "00"},
		{"a presence octet of 2", "commit", "00" + "02"},
		{"an odd number of bytes of codes", "required capabilities", "03" + "000100" + "00" + "00"},
		{"an unknown credential", "external senders", "04" + "00" + "0003" + "00"},
		{"unmerged leaves out of order", "ratchet tree", "11" + "00" + "01" + "02" + "00" + "00" + "08" + "00000001" + "00000000" + "00"},
		{"a leaf twice unmerged", "ratchet tree", "10" + "00" + "01" + "02" + "00" + "00" + "08" + "00000001" + "00000001"},
		{"a key package of version 2", "message", "000100050002" + "0001" + "00" + "00" + "00" + "0001" + "00" + "0000000000" + "02" + "00" + "00" + "00" + "00"},
		{"a group context of version 2", "group context", "0002" + "0001" + "00" + "0000000000000000" + "00" + "00" + "00"},
		{"a private message of no content type", "message", "00010002" + "00" + "0000000000000000" + "00" + "00" + "00" + "00"},
		{"an empty ratchet tree", "ratchet tree", "00"},
		{"a blank last node", "ratchet tree", "0100"},
		{"a parent in a leaf's place", "ratchet tree", "05" + "01" + "02" + "00" + "00" + "00"},
		{"content type 0", "authenticated content", "0001" + "00" + "0000000000000000" + "03" + "00" + "00"},
		{"sender type 5", "authenticated content", "0001" + "00" + "0000000000000000" + "05" + "00" + "01" + "00" + "00"},
		{"wire format of a Welcome around content", "authenticated content", "0003" + "00" + "0000000000000000" + "03" + "00" + "01" + "00" + "00"},
	} {
		data, err := hex.DecodeString(c.data)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse[c.kind](data); !errors.Is(err, syntax.ErrSyntax) {
			t.Errorf("%s: got %v, want ErrSyntax", c.name, err)
		}
	}
	for name, data := range map[string]string{
		"unknown extensions": "07" + "0a0a0141" + "feed00",
		"no extensions":      "00",
	} {
		in, err := hex.DecodeString(data)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := parse["group context extensions"](in); err != nil || !slices.Equal(in, out) {
			t.Errorf("%s: %v, %x", name, err, out)
		}
	}
}

func TestLifetime(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	l := Lifetime{NotBefore: 100, NotAfter: 200}
	for _, c := range []struct {
		now  int64
		want bool
	}{{99, false}, {100, true}, {200, true}, {201, false}, {-1, false}} {
		if got := l.Covers(at(c.now)); got != c.want {
			t.Errorf("covers %d: %v", c.now, got)
		}
	}
	forever := Lifetime{NotAfter: 1<<64 - 1}
	if !forever.Covers(at(1<<40)) || forever.Covers(at(-1)) || forever.AtMost(1<<62) {
		t.Error("a lifetime without end")
	}
	if !l.AtMost(100*time.Second) || l.AtMost(99*time.Second) || l.AtMost(-time.Hour) || (Lifetime{NotBefore: 2, NotAfter: 1}).AtMost(time.Hour) {
		t.Error("the length of a lifetime")
	}
}

func TestKnownExtensions(t *testing.T) {
	pub := Extensions{ExternalPubExtension([]byte("key"))}
	if key, ok, err := pub.ExternalPub(); err != nil || !ok || string(key) != "key" {
		t.Errorf("%q, %v, %v", key, ok, err)
	}
	if _, ok, err := (Extensions{}).ExternalPub(); err != nil || ok {
		t.Errorf("%v, %v", ok, err)
	}
	if _, _, err := (Extensions{{Type: ExtensionExternalPub, Data: []byte{1}}}).ExternalPub(); !errors.Is(err, syntax.ErrSyntax) {
		t.Errorf("got %v, want ErrSyntax", err)
	}
	if pub.Equal(nil) || !pub.Equal(pub) {
		t.Error("equal extensions")
	}
}
