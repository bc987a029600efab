package ledger

import (
	"chancery/internal/testenv"
	"encoding/json"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// vector has the fields of all four kinds of github.com/transparency-dev/merkle
// test data.
type vector struct {
	LeafIdx  uint64   `json:"leafIdx"`
	TreeSize uint64   `json:"treeSize"`
	Start    uint64   `json:"start"`
	End      uint64   `json:"end"`
	Size     uint64   `json:"size"`
	Size1    uint64   `json:"size1"`
	Size2    uint64   `json:"size2"`
	Root     []byte   `json:"root"`
	Root1    []byte   `json:"root1"`
	Root2    []byte   `json:"root2"`
	LeafHash []byte   `json:"leafHash"`
	Proof    [][]byte `json:"proof"`
	Desc     string   `json:"desc"`
	WantErr  bool     `json:"wantErr"`
}

// hashOf stands in for "hashes" of other lengths, which our types can't hold
// and which some consistency vectors that must pass contain ("don't care"): it
// keeps equal what was equal and different what was different.
func hashOf(b []byte) tlog.Hash {
	if len(b) == tlog.HashSize {
		return tlog.Hash(b)
	}
	return tlog.RecordHash(b)
}

func hashesOf(proof [][]byte) []tlog.Hash {
	var out []tlog.Hash
	for _, p := range proof {
		out = append(out, hashOf(p))
	}
	return out
}

// sizeOf keeps what doesn't fit int64 out of range.
func sizeOf(n uint64) int64 {
	if n > MaxSize {
		return MaxSize + 1
	}
	return int64(n)
}

// subtree says whether [start, end) is a subtree as
// draft-ietf-plants-merkle-tree-certs-03 §4.1 defines it. The product has no
// subtrees: these vectors come with the set, and exercise the same checks with
// the subtree taken for a tree.
func subtree(start, end uint64) bool {
	if start >= end {
		return false
	}
	width := uint64(1)
	if n := end - start; n > 1 {
		shift := bits.Len64(n - 1)
		if shift > 63 {
			return start == 0
		}
		width = 1 << shift
	}
	return start%width == 0
}

func (v vector) check(kind string) error {
	proof := hashesOf(v.Proof)
	if strings.HasSuffix(kind, "inclusion") && (len(v.Root) != tlog.HashSize || len(v.LeafHash) != tlog.HashSize) {
		return ErrMalformed // as every parser that returns a hash says
	}
	switch kind {
	case "inclusion":
		return checkLeaf(proof, sizeOf(v.TreeSize), hashOf(v.Root), sizeOf(v.LeafIdx), hashOf(v.LeafHash))
	case "subtreeinclusion":
		if !subtree(v.Start, v.End) || v.LeafIdx < v.Start {
			return ErrSize
		}
		return checkLeaf(proof, sizeOf(v.End-v.Start), hashOf(v.Root), sizeOf(v.LeafIdx-v.Start), hashOf(v.LeafHash))
	case "consistency":
		return CheckConsistency(proof, sizeOf(v.Size1), hashOf(v.Root1), sizeOf(v.Size2), hashOf(v.Root2))
	default:
		if v.Start == v.End && v.End <= v.Size && len(proof) == 0 && hashOf(v.Root1) == EmptyRoot() {
			return nil // the empty subtree is consistent with every tree
		}
		if !subtree(v.Start, v.End) || v.Start != 0 { // no vector has another that must pass
			return ErrSize
		}
		return CheckConsistency(proof, sizeOf(v.End), hashOf(v.Root1), sizeOf(v.Size), hashOf(v.Root2))
	}
}

func TestVectorsRFC6962(t *testing.T) {
	root := testenv.Data(t, "vectors", "tlog", "merkle-rfc6962")
	for kind, want := range map[string]int{"inclusion": 98, "consistency": 98, "subtreeinclusion": 204, "subtreeconsistency": 118} {
		passed, total := 0, 0
		err := filepath.WalkDir(filepath.Join(root, kind), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var v vector
			if err := json.Unmarshal(data, &v); err != nil {
				return err
			}
			total++
			if err := v.check(kind); (err != nil) != v.WantErr {
				t.Errorf("%s (%s): error %v, want one: %v", path, v.Desc, err, v.WantErr)
			} else {
				passed++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("vectors merkle-rfc6962/%s %d/%d", kind, passed, total)
		if total < want {
			t.Errorf("%s: %d vectors, want %d", kind, total, want)
		}
	}
}

// fenced returns the fenced blocks of a Markdown file.
func fenced(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(testenv.Data(t, "vectors", "tlog", name))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, b := range strings.Split(string(data), "```\n") {
		if i%2 == 1 {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

func TestVectorsC2SP(t *testing.T) {
	// signed-note.md's example key verifies its example note.
	k, err := ParseLogKey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
	if err != nil {
		t.Fatal(err)
	}
	notes := fenced(t, "signed-note.md")
	signed := notes[len(notes)-1]
	if _, err := note.Open([]byte(signed), note.VerifierList(k.Verifier())); err != nil {
		t.Error(err)
	}
	t.Log("vectors signed-note.md 1/1")
	// The checkpoints of the other two have no published keys: form alone.
	for _, name := range []string{"tlog-checkpoint.md", "tlog-cosignature.md"} {
		c, err := PeekUnverifiedCheckpoint([]byte(fenced(t, name)[0]))
		if err != nil || c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		t.Logf("vectors %s 1/1", name)
	}
}

// A note that github.com/transparency-dev/formats v0.1.1 cosigned, with the
// seeds 07…07 and 09…09.
const (
	knownNote = "log.example/a\n1\nbjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=\n\n" +
		"— log.example/a wfnPlohZ97FO1/AAzpkGH0Yb0NjiU8gwvHxv4XyktZ9NmYVIG0EtJQ2TapdjlODY9CGssfFabCGUnmOMCGgZgoBh5QI=\n" +
		"— witness.example/w1 qkoJ0QAAAABrAx0ZzDy+bE3QtwM7H5OIrbDMrk4Eji0o6UvHLbazVBzCFrrr7mhQo6RcKsUIV1OEBZDhchb/42LROd/WMtgJbBbgDA==\n"
	knownLog     = "log.example/a+c1f9cf96+Af0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY"
	knownWitness = "witness.example/w1+aa4a09d1+BOpKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"
)

func TestKnownAnswer(t *testing.T) {
	log, err := ParseLogKey(knownLog)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseWitnessKey(knownWitness)
	if err != nil {
		t.Fatal(err)
	}
	p := Policy{Log: log, Witnesses: []WitnessKey{w}, Quorum: 1}
	c, err := p.Verify([]byte(knownNote))
	if err != nil {
		t.Fatal(err)
	}
	if c.Size != 1 || c.Root != tlog.RecordHash(nil) || c.Newest().Unix() != 0x6b031d19 {
		t.Errorf("got %+v", c)
	}
	// And we write the same bytes.
	ls, _ := NewLogSigner("log.example/a", seeded(9))
	ws, _ := NewWitnessSigner("witness.example/w1", seeded(7), at(c.Newest()))
	signed, err := Sign(c.Checkpoint, ls, ws)
	if err != nil || string(signed) != knownNote {
		t.Errorf("got %q, %v", signed, err)
	}
}
