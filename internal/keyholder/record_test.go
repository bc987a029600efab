package keyholder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"chancery/codec"
	"chancery/control"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	dir, key := t.TempDir(), codec.NewPrivateKey()
	write := func(n int) (record, signed []byte) {
		t.Helper()
		r, err := openRecord(dir, key)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			if err := r.append(&entry{What: didAnswer, Outcome: "answered"}); err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
		if err := r.append(&entry{}); err == nil {
			t.Fatal("wrote to a closed record")
		}
		return read(t, filepath.Join(dir, recordFile)), read(t, filepath.Join(dir, headFile))
	}
	three, headOfThree := write(3)
	four, headOfFour := write(1)
	last := len(four) - len(three)

	try := func(record, signed []byte) error { return tryRecord(t, key, record, signed) }
	if err := try(four, headOfFour); err != nil {
		t.Fatal(err)
	}
	// Crashes: an entry half written, or written and not yet counted.
	for _, cut := range []int{1, 3, 4, 5, last / 2, last - 1} {
		if err := try(four[:len(three)+cut], headOfThree); err != nil {
			t.Errorf("entry cut to %d of %d bytes by a crash: %v", cut, last, err)
		}
	}
	if err := try(four, headOfThree); err != nil {
		t.Errorf("crash before the head was written: %v", err)
	}
	if err := try(four[:last], nil); err != nil {
		t.Errorf("crash at the first entry: %v", err)
	}
	// Tampering, of which a cut anywhere and a flip anywhere.
	refused := map[string]error{
		"head missing":    try(four, nil),
		"record missing":  try(nil, headOfFour),
		"entry twice":     try(append(bytes.Clone(four), four[3*last:]...), headOfFour),
		"entry removed":   try(append(bytes.Clone(four[:last]), four[2*last:]...), headOfFour),
		"length of 2 GiB": try(binary.BigEndian.AppendUint32(bytes.Clone(four), 1<<31), headOfFour),
	}
	for i := 0; i < len(four); i += 7 {
		bad := bytes.Clone(four)
		bad[i] ^= 1
		if err := try(four[:i], headOfFour); !errors.Is(err, ErrRecord) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
		if err := try(bad, headOfFour); !errors.Is(err, ErrRecord) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	for i := range headOfFour {
		bad := bytes.Clone(headOfFour)
		bad[i] ^= 1
		if err := try(four, bad); !errors.Is(err, ErrRecord) {
			t.Errorf("byte %d of the head flipped: %v", i, err)
		}
	}
	for name, err := range refused {
		if !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tryRecord opens a record with a head. One that opens can be written to and
// opened again.
func tryRecord(t *testing.T, key *codec.PrivateKey, data, signed []byte) error {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, recordFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if signed != nil {
		if err := os.WriteFile(filepath.Join(dir, headFile), signed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := openRecord(dir, key)
	if err != nil {
		return err
	}
	if err := r.append(&entry{What: didRefuse}); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if r, err = openRecord(dir, key); err != nil {
		t.Fatal(err)
	}
	return r.Close()
}

// Nothing is answered that can't be recorded.
func TestNoRecordNoAnswer(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(false, 1)
	h.record.file.Close()
	if answer, r := h.judge(t.Context(), s.query(false, first(s), nil)); r == nil || answer != nil {
		t.Fatal("answered without a record")
	}
}

func TestRecordTellsWhatHappened(t *testing.T) {
	s := newStage(t, options{})
	h := s.holder(false, 1)
	if _, r := h.judge(t.Context(), s.query(false, s.messages[:2], nil)); r != nil {
		t.Fatal(r)
	}
	if _, r := h.judge(t.Context(), s.query(false, s.messages[3:4], nil)); r == nil {
		t.Fatal("answered")
	}
	s.key = codec.NewPrivateKey() // a stranger's queries leave no trace
	if _, r := h.judge(t.Context(), s.query(false, s.messages[:2], nil)); r == nil {
		t.Fatal("answered")
	}
	var got []entry
	data := read(t, filepath.Join(h.Dir, recordFile))
	if _, _, err := scan(bytes.NewReader(data), func(e *entry) error { got = append(got, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].What != didAnswer || got[1].What != didRefuse || got[1].Outcome != "limit" {
		t.Fatalf("record is %+v", got)
	}
	r, _ := s.org.State.Request(s.request)
	use := r.Uses[0]
	if got[0].Use != use.Hash || got[0].Root != use.Root || got[0].Count != 2 || got[0].Request != s.request {
		t.Errorf("record and log disagree: %+v, %+v", got[0], use)
	}
	if got[0].Root != control.UseSet([]codec.Hash{s.messages[0].Core, s.messages[1].Core}) {
		t.Error("root of another set")
	}
}
