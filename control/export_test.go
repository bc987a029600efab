package control

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"chancery/codec"
)

// Fingerprint tells any two states apart, whatever the order of their maps.
func Fingerprint(s *State) codec.Hash {
	var b bytes.Buffer
	dump(&b, reflect.ValueOf(s))
	return codec.Sum("test", b.Bytes())
}

func dump(b *bytes.Buffer, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil;")
			return
		}
		dump(b, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fmt.Fprintf(b, "%s:", v.Type().Field(i).Name)
			dump(b, v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		fmt.Fprintf(b, "[%d]", v.Len())
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				b.WriteByte(byte(v.Index(i).Uint()))
			}
			return
		}
		for i := range v.Len() {
			dump(b, v.Index(i))
		}
	case reflect.Map:
		var entries []string
		for it := v.MapRange(); it.Next(); {
			var e bytes.Buffer
			dump(&e, it.Key())
			dump(&e, it.Value())
			entries = append(entries, e.String())
		}
		slices.SortFunc(entries, cmp.Compare)
		fmt.Fprintf(b, "{%d}", len(entries))
		for _, e := range entries {
			fmt.Fprintf(b, "%d:%s", len(e), e)
		}
	default:
		fmt.Fprintf(b, "%v;", v)
	}
}

// Kinds lists every kind of leaf.
func Kinds() []Kind {
	return []Kind{
		KindGenesis, KindPolicy, KindRole, KindCeremony, KindDKG, KindEpoch, KindMonth, KindCanary, KindAnswer,
		KindInvitation, KindDevice, KindRevocation, KindMatter, KindHold, KindNotice, KindRelease, KindRequest,
		KindApproval, KindWithdrawal, KindOpener, KindUse, KindOpening, KindExport, KindDestruction, KindAuthority, KindCertificate,
	}
}

// NewBody returns an empty body of a kind.
func NewBody(k Kind) Body { return newBody(k) }

// Weak is weak.
func Weak(key codec.PublicKey) bool { return weak(key) }

// MaxTries is maxTries.
const MaxTries = maxTries

// ApplyBody applies a body as if those named had signed its leaf.
func ApplyBody(s *State, kind Kind, data []byte, signed map[codec.Hash]Algorithm) error {
	body := newBody(kind)
	if body == nil {
		return ErrMalformed
	}
	if err := codec.Decode(data, body); err != nil {
		return err
	}
	e := &entry{
		Leaf: &Leaf{Version: leafVersion, Time: s.time}, statement: &Statement{Organisation: s.organisation, Kind: kind, Body: data},
		hash: codec.Sum("test", data), index: s.size, signed: signed,
	}
	return body.apply(s, e)
}
