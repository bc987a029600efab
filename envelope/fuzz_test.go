package envelope

import (
	"bytes"
	"testing"

	"chancery/codec"
)

func FuzzParseHeader(f *testing.F) {
	f.Add(fullHeader().Encode())
	f.Add(testHeader(f, testSeed("f"), nil))
	f.Add(codec.Encode([]any{2, "later"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := ParseHeader(data); err == nil && !bytes.Equal(h.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(fullRecord().Encode())
	f.Add(testRecord("x").Encode())
	f.Add((&Record{}).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		if fields, err := Fields(data); err != nil || len(fields) != 13 {
			t.Fatalf("a record of %d fields: %v", len(fields), err)
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add(fullRecord().Encode())
	f.Add([]byte{})
	f.Add([]byte{0x83, 0xf4, 0xa1, 0x00, 0x81, 0x00, 0x3b, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		fields, err := Fields(data)
		if err != nil || len(data) == 0 {
			return
		}
		head := codec.Encode(make([]struct{}, 0))
		switch n := len(fields); {
		case n < 24:
			head[0] = 0x80 | byte(n)
		default:
			head = []byte{0x98, byte(n)}
		}
		if !bytes.Equal(append(head, bytes.Join(fields, nil)...), data) {
			t.Fatal("fields don't make the record")
		}
	})
}

func FuzzParse(f *testing.F) {
	k := newKeys(f, "fuzz")
	f.Add(seal(f, k, testSeed("a"), nil).env.Encode())
	f.Add(seal(f, k, testSeed("b"), fullRecord().Encode()).env.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
		if len(e.E()) != pointSize || len(e.MLKEMCiphertext()) != mlkemCiphertextSize {
			t.Fatal("halves of another size")
		}
		_ = VerifyProof(e.E(), codec.Hash{}, &Proof{}) // total, whatever E is
	})
}

func FuzzParseCore(f *testing.F) {
	f.Add((&Core{Header: fullHeader().Encode(), Envelope: fullHash(), Attachments: []codec.Hash{fullHash()}}).Encode())
	f.Add((&Core{Header: testHeader(f, testSeed("f"), nil)}).Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseCore(data); err == nil && !bytes.Equal(c.Encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
	})
}

func FuzzUnpad(f *testing.F) {
	f.Add(pad(testSeed("a"), nil))
	f.Add(pad(testSeed("b"), fullRecord().Encode()))
	f.Add(make([]byte, SeedSize+lengthSize+1))
	f.Fuzz(func(t *testing.T, data []byte) {
		seed, record, err := unpad(data)
		if err == nil && !bytes.Equal(pad(seed, record), data) {
			t.Fatal("accepted a plaintext that is not canonical")
		}
	})
}

func FuzzVerifyProof(f *testing.F) {
	s := seal(f, newKeys(f, "fuzz"), testSeed("a"), nil)
	f.Add(s.env.E(), s.proof[:])
	f.Add([]byte{0}, make([]byte, ProofSize))
	f.Fuzz(func(t *testing.T, E, proof []byte) {
		if len(proof) != ProofSize {
			return
		}
		if VerifyProof(E, s.core.Hash(), (*Proof)(proof)) == nil && (!bytes.Equal(E, s.env.E()) || !bytes.Equal(proof, s.proof[:])) {
			t.Fatal("accepted a proof that was never made")
		}
	})
}
