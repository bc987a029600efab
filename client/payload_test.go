package client

import (
	"bytes"
	"errors"
	"testing"

	"chancery/envelope"
)

func TestPayload(t *testing.T) {
	p := &payload{Record: bytes.Repeat([]byte("r"), 700), IndexHeader: []byte("h"), IndexSeed: make([]byte, 32)}
	raw := p.encode()
	got, err := parsePayload(raw)
	if err != nil || !bytes.Equal(got.Record, p.Record) {
		t.Fatalf("got %v, %v", got, err)
	}
	later := bytes.Clone(raw)
	later[0]++
	if _, err := parsePayload(later); !errors.Is(err, envelope.ErrVersion) {
		t.Errorf("later version: got %v", err)
	}
	for name, bad := range map[string][]byte{
		"empty":      nil,
		"cut":        raw[:len(raw)-1],
		"longer":     append(bytes.Clone(raw), 0),
		"padding":    append(bytes.Clone(raw[:len(raw)-1]), 1),
		"half index": (&payload{IndexHeader: []byte("h")}).encode(),
		"short seed": (&payload{IndexHeader: []byte("h"), IndexSeed: []byte("s")}).encode(),
	} {
		if _, err := parsePayload(bad); !errors.Is(err, errPayload) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPayloadHidesLength(t *testing.T) {
	sizes := map[int]bool{}
	for n := range 1000 {
		sizes[len((&payload{Record: make([]byte, n)}).encode())] = true
	}
	if len(sizes) > 60 {
		t.Errorf("%d different lengths of 1,000 records", len(sizes))
	}
}

func FuzzPayload(f *testing.F) {
	f.Add((&payload{Record: []byte("record"), IndexHeader: []byte("h"), IndexSeed: make([]byte, 32)}).encode())
	f.Add((&payload{}).encode())
	f.Add([]byte{2, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := parsePayload(data); err == nil && !bytes.Equal(p.encode(), data) {
			t.Fatal("accepted bytes that are not canonical")
		}
	})
}
