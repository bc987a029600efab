package ledger

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/codec"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func seeded(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

// memory is a log in memory.
type memory struct {
	entries [][]byte
	hashes  []tlog.Hash
}

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(m.hashes)) {
			return nil, fmt.Errorf("no stored hash %d", x)
		}
		out[i] = m.hashes[x]
	}
	return out, nil
}

func (m *memory) add(t testing.TB, entries ...[]byte) {
	t.Helper()
	stored, err := Append(m, int64(len(m.entries)), entries)
	if err != nil {
		t.Fatal(err)
	}
	m.entries = append(m.entries, entries...)
	m.hashes = append(m.hashes, stored...)
}

func newMemory(t testing.TB, n int, flavour string) *memory {
	m := &memory{}
	m.add(t, flavoured(0, n, flavour)...)
	return m
}

func flavoured(from, to int, flavour string) [][]byte {
	var entries [][]byte
	for i := from; i < to; i++ {
		entries = append(entries, fmt.Appendf(nil, "%s %d", flavour, i))
	}
	return entries
}

// world is a log's signer and three witnesses, of which two make a quorum.
type world struct {
	origin    string
	log       note.Signer
	witnesses []note.Signer
	policy    *Policy
	now       time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{origin: Origin(codec.Sum("test"), ControlLog), now: time.Unix(1_800_000_000, 0).UTC()}
	public := func(b byte) codec.PublicKey { return codec.PublicKey(seeded(b).Public().(ed25519.PublicKey)) }
	var err error
	if w.log, err = NewLogSigner(w.origin, seeded(1)); err != nil {
		t.Fatal(err)
	}
	w.policy = &Policy{Log: LogKey{Origin: w.origin, Key: public(1)}, Quorum: 2}
	for i := byte(0); i < 3; i++ {
		name := fmt.Sprintf("witness.example/%d", i)
		s, err := NewWitnessSigner(name, seeded(10+i), func() time.Time { return w.now })
		if err != nil {
			t.Fatal(err)
		}
		w.witnesses = append(w.witnesses, s)
		w.policy.Witnesses = append(w.policy.Witnesses, WitnessKey{Name: name, Key: public(10 + i)})
	}
	return w
}

func (w *world) sign(t testing.TB, m *memory, size int64, witnesses ...note.Signer) []byte {
	t.Helper()
	root, err := Root(m, size)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(Checkpoint{Origin: w.origin, Size: size, Root: root}, append([]note.Signer{w.log}, witnesses...)...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestOrigin(t *testing.T) {
	org := codec.Sum("org")
	for _, log := range []Log{ControlLog, MessagesLog} {
		s := Origin(org, log)
		gotOrg, gotLog, err := ParseOrigin(s)
		if err != nil || gotOrg != org || gotLog != log || !validName(s) {
			t.Errorf("%s: %v %v %v", s, gotOrg, gotLog, err)
		}
	}
	for _, s := range []string{"", "chancery.invalid/", Origin(org, "other"), Origin(org, ControlLog) + "/", strings.ToUpper(Origin(org, ControlLog))} {
		if _, _, err := ParseOrigin(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Append must store what x/mod/sumdb/tlog stores, in whatever batches.
func TestAppendAgainstTlog(t *testing.T) {
	const n = 600
	want := &memory{}
	for i := range int64(n) {
		hashes, err := tlog.StoredHashes(i, fmt.Appendf(nil, "a %d", i), want)
		if err != nil {
			t.Fatal(err)
		}
		want.hashes = append(want.hashes, hashes...)
	}
	for _, batch := range []int{1, 2, 3, 7, 256, n} {
		got := &memory{}
		for _, entries := range slices.Collect(slices.Chunk(flavoured(0, n, "a"), batch)) {
			got.add(t, entries...)
		}
		if !slices.Equal(got.hashes, want.hashes) {
			t.Fatalf("batches of %d store other hashes", batch)
		}
	}
	for size := range int64(n + 1) {
		wantRoot, err := tlog.TreeHash(size, want)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := Root(want, size); err != nil || root != wantRoot {
			t.Fatalf("root at %d: %v, %v", size, root, err)
		}
	}
}

func TestAppendBounds(t *testing.T) {
	m := &memory{}
	m.add(t, make([]byte, MaxEntry), nil)
	if _, err := Append(m, 2, [][]byte{make([]byte, MaxEntry+1)}); !errors.Is(err, ErrSize) {
		t.Errorf("long entry: %v", err)
	}
	for _, size := range []int64{-1, MaxSize + 1, 1<<62 + 1, 1<<63 - 1} {
		if _, err := Append(m, size, nil); !errors.Is(err, ErrSize) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := Append(m, 7, nil); err == nil {
		t.Error("a log that isn't there was extended")
	}
	short := tlog.HashReaderFunc(func([]int64) ([]tlog.Hash, error) { return nil, nil })
	if _, err := Append(short, 7, nil); err == nil {
		t.Error("a reader that returns too few hashes was believed")
	}
}

func TestInclusion(t *testing.T) {
	const n = 70
	m := newMemory(t, n, "a")
	for size := int64(1); size <= n; size++ {
		root, _ := Root(m, size)
		c := Checkpoint{Origin: "o", Size: size, Root: root}
		for i := range size {
			p, err := ProveInclusion(m, size, i)
			if err != nil {
				t.Fatal(err)
			}
			q, err := ParseInclusionProof(p.Encode())
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", i, size, err)
			}
			if err := q.Check(c, m.entries[i]); err != nil {
				t.Fatal(err)
			}
			if err := q.Check(c, []byte("another")); !errors.Is(err, ErrProof) {
				t.Fatalf("another entry: %v", err)
			}
		}
	}
	p, _ := ProveInclusion(m, n, 5)
	c := Checkpoint{Size: n}
	c.Root, _ = Root(m, n)
	data := p.Encode()
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if q, err := ParseInclusionProof(bad); err == nil && q.Check(c, m.entries[5]) == nil {
				t.Fatalf("bit %d of byte %d flipped and accepted", bit, i)
			}
		}
	}
	if _, err := ProveInclusion(m, n, n); !errors.Is(err, ErrSize) {
		t.Errorf("leaf behind the end: %v", err)
	}
}

func TestConsistency(t *testing.T) {
	const n = 70
	m := newMemory(t, n, "a")
	for size := int64(1); size <= n; size++ {
		root, _ := Root(m, size)
		for old := int64(1); old <= size; old++ {
			oldRoot, _ := Root(m, old)
			p, err := ProveConsistency(m, old, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckConsistency(p, old, oldRoot, size, root); err != nil {
				t.Fatal(err)
			}
			if err := CheckConsistency(p, old, tlog.Hash{1}, size, root); !errors.Is(err, ErrProof) {
				t.Fatalf("another old root: %v", err)
			}
			for i := range p {
				bad := slices.Clone(p)
				bad[i][i%32] ^= 1
				if err := CheckConsistency(bad, old, oldRoot, size, root); !errors.Is(err, ErrProof) {
					t.Fatalf("flipped bit in hash %d: %v", i, err)
				}
			}
		}
	}
}

// Sizes above 2⁶² send x/mod/sumdb/tlog into an endless loop: they must be
// refused before they reach it.
func TestHugeSizesEnd(t *testing.T) {
	done := make(chan bool)
	go func() {
		defer close(done)
		for _, size := range []int64{MaxSize + 1, 1<<62 + 1, 1<<63 - 1} {
			if err := CheckInclusion(nil, size, tlog.Hash{}, 1, nil); !errors.Is(err, ErrSize) {
				t.Errorf("inclusion at %d: %v", size, err)
			}
			if err := CheckConsistency(nil, 1, tlog.Hash{}, size, tlog.Hash{}); !errors.Is(err, ErrSize) {
				t.Errorf("consistency at %d: %v", size, err)
			}
			if _, err := ParseCheckpoint(fmt.Appendf(nil, "o\n%d\n%s\n", size, tlog.Hash{})); !errors.Is(err, ErrSize) {
				t.Errorf("checkpoint at %d: %v", size, err)
			}
		}
		// The greatest size allowed ends, too.
		CheckConsistency(make([]tlog.Hash, 49), 1, tlog.Hash{}, MaxSize, tlog.Hash{})
		CheckInclusion(make([]tlog.Hash, 48), MaxSize, tlog.Hash{}, 1, nil)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("still computing")
	}
}

func TestTextProof(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 11, "a")
	signed := w.sign(t, m, 11, w.witnesses...)
	p, _ := ProveInclusion(m, 11, 4)
	for _, extra := range [][]byte{nil, []byte("salt")} {
		text := TextProof{Extra: extra, Index: 4, Hashes: p.Hashes, Note: signed}.Marshal()
		q, err := ParseTextProof(text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(q.Marshal(), text) || !bytes.Equal(q.Extra, extra) {
			t.Error("read back otherwise")
		}
		if _, err := q.Check(w.policy, m.entries[4]); err != nil {
			t.Error(err)
		}
		if _, err := q.Check(w.policy, m.entries[5]); !errors.Is(err, ErrProof) {
			t.Errorf("another entry: %v", err)
		}
		q.Index++
		if _, err := q.Check(w.policy, m.entries[4]); !errors.Is(err, ErrProof) {
			t.Errorf("another index: %v", err)
		}
		q.Note = w.sign(t, m, 11, w.witnesses[0])
		if _, err := q.Check(w.policy, m.entries[4]); !errors.Is(err, ErrUnwitnessed) {
			t.Errorf("unwitnessed: %v", err)
		}
	}
}

func TestPaths(t *testing.T) {
	for path, tile := range map[string]tlog.Tile{
		"tile/0/000":                     {H: 8, L: 0, N: 0, W: 256},
		"tile/63/001.p/255":              {H: 8, L: 63, N: 1, W: 255},
		"tile/0/x001/x234/067":           {H: 8, L: 0, N: 1234067, W: 256},
		"tile/entries/x001/234.p/5":      {H: 8, L: EntryLevel, N: 1234, W: 5},
		"tile/1/x281/x474/x976/x710/656": {H: 8, L: 1, N: MaxSize, W: 256},
	} {
		if got, err := ParsePath(path); err != nil || got != tile {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
		if got := Path(tile); got != path {
			t.Errorf("%+v: %s, want %s", tile, got, path)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/64/000",
		"tile/-1/000", "tile/+1/000", "tile/data/000", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/05", "tile/0/000.p/",
		"tile/0/001/234", "tile/0/x001/x234", "tile/0/x000/001", "tile/0/x001/234/", "/tile/0/000", "tile/0/000/", "tile/0/../000",
		"tile/8/0/000", "tile/0/x281/x474/x976/x710/657", "tile/0/x999/x999/x999/x999/x999/x999/x999/999", "tile/entries/000.p/1.p/1",
	} {
		if got, err := ParsePath(path); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %+v, %v", path, got, err)
		}
	}
}

// The example of C2SP tlog-tiles: 70,000 leaves are 273 full tiles, one of 112
// hashes, one full of level 1 and one of 17, one of level 2 of width 1.
func TestTileShapes(t *testing.T) {
	const size = 70_000
	level := Tiles(0, 0, size, size)
	if len(level) != 274 || level[272].W != 256 || level[273].W != 112 {
		t.Errorf("level 0: %d tiles, last %+v", len(level), level[len(level)-1])
	}
	level = Tiles(1, 0, size, size)
	if len(level) != 2 || level[0].W != 256 || level[1].W != 17 {
		t.Errorf("level 1: %+v", level)
	}
	if level = Tiles(2, 0, size, size); len(level) != 1 || level[0].W != 1 {
		t.Errorf("level 2: %+v", level)
	}
	if level = Tiles(3, 0, size, size); len(level) != 0 {
		t.Errorf("level 3: %+v", level)
	}
	for path, want := range map[string]bool{
		"tile/0/272": true, "tile/0/273": false, "tile/0/273.p/112": true, "tile/0/273.p/113": false, "tile/0/274.p/1": false,
		"tile/1/001.p/17": true, "tile/1/001.p/18": false, "tile/2/000.p/1": true, "tile/3/000.p/1": false, "tile/63/000.p/1": false,
		"tile/entries/273.p/112": true, "tile/entries/273": false,
	} {
		tile, err := ParsePath(path)
		if err != nil {
			t.Fatal(err)
		}
		if Covers(size, tile) != want {
			t.Errorf("%s covered: %v", path, !want)
		}
	}
}

func TestTileData(t *testing.T) {
	m := newMemory(t, 600, "a")
	data, err := TileData(m, tlog.Tile{H: 8, L: 0, N: 1, W: 256})
	if err != nil || len(data) != 8192 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if h := tlog.RecordHash(m.entries[256]); !bytes.Equal(data[:32], h[:]) {
		t.Error("tile does not begin with its first leaf")
	}
	data, err = TileData(m, tlog.Tile{H: 8, L: 1, N: 0, W: 2})
	root, _ := Root(m, 256)
	if err != nil || !bytes.Equal(data[:32], root[:]) {
		t.Errorf("level 1: %v", err)
	}
	if _, err := TileData(m, tlog.Tile{H: 8, L: 9, N: 0, W: 2}); !errors.Is(err, ErrSize) {
		t.Errorf("level 9: %v", err)
	}
}

func TestBundle(t *testing.T) {
	entries := [][]byte{{}, []byte("a"), bytes.Repeat([]byte("b"), MaxEntry)}
	data, err := EncodeBundle(entries)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseBundle(data, 3)
	if err != nil || !slices.EqualFunc(got, entries, bytes.Equal) {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct {
		data  []byte
		width int
	}{
		"one fewer":  {data, 2},
		"one more":   {data, 4},
		"cut":        {data[:len(data)-1], 3},
		"half size":  {data[:1], 1},
		"trailing":   {append(bytes.Clone(data), 0), 3},
		"no width":   {nil, 0},
		"much width": {data, 257},
	} {
		if _, err := ParseBundle(bad.data, bad.width); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, bad := range map[string][][]byte{"none": nil, "257": make([][]byte, 257), "long": {make([]byte, MaxEntry+1)}} {
		if _, err := EncodeBundle(bad); !errors.Is(err, ErrSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
