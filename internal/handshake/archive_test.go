package handshake

import (
	"errors"
	"testing"

	"chancery/codec"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// FuzzArchive: the extensions of a group that pins an archive have one form.
func FuzzArchive(f *testing.F) {
	good := Archive{codec.Sum("o"), codec.Sum("p"), codec.Sum("e")}
	f.Add(marshal(good.Extensions()))
	f.Add(marshal(nil))
	f.Add(marshal(good.Extensions()[:1]))
	f.Fuzz(func(t *testing.T, data []byte) {
		var x tree.Extensions
		if syntax.Unmarshal(data, &x) != nil {
			return
		}
		a, err := ArchiveOf(x)
		if err != nil || a == nil {
			if a != nil {
				t.Error("an archive beside an error")
			}
			return
		}
		if !a.Extensions().Equal(x) {
			t.Errorf("%x is written as %x", data, marshal(a.Extensions()))
		}
	})
}

func marshal(x tree.Extensions) []byte { return syntax.Marshal(x) }

func TestArchiveOf(t *testing.T) {
	good := Archive{codec.Sum("o"), codec.Sum("p"), codec.Sum("e")}
	if a, err := ArchiveOf(good.Extensions()); err != nil || *a != good {
		t.Errorf("got %v, %v", a, err)
	}
	if a, err := ArchiveOf(nil); err != nil || a != nil {
		t.Errorf("of no extensions: %v, %v", a, err)
	}
	x := good.Extensions()
	for name, bad := range map[string]tree.Extensions{
		"without the requirement": x[1:],
		"without the archive":     x[:1],
		"the other way round":     {x[1], x[0]},
		"one more":                append(x[:2:2], tree.Extension{Type: 0xf0a2}),
		"cut short":               {x[0], {Type: ExtensionArchive, Data: x[1].Data[1:]}},
	} {
		if _, err := ArchiveOf(bad); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
