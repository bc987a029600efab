package keyholder

import (
	"bytes"
	"encoding/binary"
	"testing"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

func FuzzEntry(f *testing.F) {
	f.Add(codec.Encode(&entry{Time: 1, What: didAnswer, Count: 3, Outcome: "answered"}))
	f.Add(codec.Encode(&entry{What: didRefuse, Outcome: "scope"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := parseEntry(data); err == nil && !bytes.Equal(codec.Encode(e), data) {
			t.Fatal("two encodings of one entry")
		}
	})
}

func FuzzRecord(f *testing.F) {
	e := codec.Encode(&entry{Time: 1, What: didAnswer, Outcome: "answered"})
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(e))), e...)
	f.Add(frame)
	f.Add(append(bytes.Clone(frame), frame[:9]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		end, torn, err := scan(bytes.NewReader(data), func(e *entry) error {
			b := codec.Encode(e)
			again = append(binary.BigEndian.AppendUint32(again, uint32(len(b))), b...)
			return nil
		})
		if err == nil && (!bytes.Equal(again, data[:end]) || torn != (end < int64(len(data)))) {
			t.Fatal("the record reads as something else")
		}
	})
}

func FuzzNotice(f *testing.F) {
	key := codec.NewPrivateKey()
	for _, body := range []control.Body{
		&control.Withdrawal{Reason: "no longer needed"}, &control.Revocation{}, &control.Approval{Decision: control.Refuse},
		&control.Hold{Custodians: []codec.ID{{1}}, Text: "keep"},
	} {
		s, opening, err := control.NewStatement(bytes.NewReader(make([]byte, 64)), codec.Hash{1}, body)
		if err != nil {
			f.Fatal(err)
		}
		g, err := control.Sign(key, s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(codec.Encode(&handed{Time: 1, Submit: wire.Submit{Statement: codec.Encode(s), Opening: opening, Signatures: []control.Signature{g}}}))
	}
	state := control.NewState(codec.Hash{1})
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseHanded(data)
		if err != nil {
			return
		}
		if !bytes.Equal(codec.Encode(n), data) {
			t.Fatal("two encodings of one notice")
		}
		statement, body, err := readNotice(&n.Submit)
		if err != nil {
			return
		}
		if signed, err := verify(state, statement, n.Submit.Signatures); err == nil && mayNotify(state, body, signed) == nil {
			t.Fatal("somebody may notify whom the state doesn't know")
		}
	})
}

func FuzzTransfer(f *testing.F) {
	s := &control.Statement{Kind: control.KindMonth, Body: codec.Encode(&control.Month{Region: "eu", Class: "standard", Month: 677, MLKEM: make([]byte, 1184)})}
	f.Add(codec.Encode(&transferRequest{Statement: codec.Encode(s), From: 1, To: 2, Recipient: make([]byte, 1216), Time: 1}))
	f.Add(codec.Encode(&transferAnswer{Sealed: make([]byte, 1200)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, _, _, err := parseTransfer(data); err == nil && !bytes.Equal(codec.Encode(r), data) {
			t.Fatal("two encodings of one request")
		}
		var a transferAnswer
		if err := codec.Decode(data, &a); err == nil && !bytes.Equal(codec.Encode(&a), data) {
			t.Fatal("two encodings of one answer")
		}
	})
}
