package ledger

import (
	"bytes"
	"testing"
	"time"
)

// Every parser accepts one encoding of each value: what it accepts, the writer
// writes again.

func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte("example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"))
	f.Add(Checkpoint{Origin: "o", Root: EmptyRoot()}.Marshal())
	f.Add([]byte("o\n00\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseCheckpoint(data); err == nil && !bytes.Equal(c.Marshal(), data) {
			t.Fatalf("%q is read as %q", data, c.Marshal())
		}
	})
}

func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	m := newMemory(f, 5, "a")
	f.Add(w.sign(f, m, 5, w.witnesses...))
	f.Add(w.sign(f, m, 5, w.witnesses[1:]...))
	f.Add(w.sign(f, m, 5))
	f.Add([]byte(knownNote))
	root, _ := Root(m, 5)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := w.policy.Verify(data)
		if err != nil {
			return
		}
		if c.Size != 5 || c.Root != root || len(c.Cosignatures) < 2 {
			t.Fatal("accepted what was never signed")
		}
		if !bytes.HasPrefix(data, append(c.Marshal(), '\n')) {
			t.Fatal("accepted another text")
		}
		if out, err := AddSignatures(data, nil); err != nil || !bytes.Equal(out, data) {
			t.Fatalf("accepted lines that can't be read again: %v", err)
		}
	})
}

func FuzzInclusionProof(f *testing.F) {
	m := newMemory(f, 70, "a")
	for _, i := range []int64{0, 5, 69} {
		p, err := ProveInclusion(m, 70, i)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.Encode())
	}
	root, _ := Root(m, 70)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseInclusionProof(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Encode(), data) {
			t.Fatal("a second encoding was accepted")
		}
		if p.Check(Checkpoint{Size: 70, Root: root}, []byte("never logged")) == nil {
			t.Fatal("an entry that was never logged is included")
		}
	})
}

func FuzzTextProof(f *testing.F) {
	w := newWorld(f)
	m := newMemory(f, 9, "a")
	p, err := ProveInclusion(m, 9, 3)
	if err != nil {
		f.Fatal(err)
	}
	signed := w.sign(f, m, 9, w.witnesses...)
	f.Add(TextProof{Extra: []byte("x"), Index: 3, Hashes: p.Hashes, Note: signed}.Marshal())
	f.Add(TextProof{Index: 0, Note: signed}.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := ParseTextProof(data); err == nil && !bytes.Equal(p.Marshal(), data) {
			t.Fatalf("%q is read as %q", data, p.Marshal())
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/63/x001/234.p/5", "tile/entries/x001/x234/067", "tile/entries/000.p/255"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tile, err := ParsePath(path)
		if err != nil {
			return
		}
		if Path(tile) != path {
			t.Fatalf("%q is read as %q", path, Path(tile))
		}
		Covers(MaxSize, tile)
		Covers(0, tile)
	})
}

func FuzzBundle(f *testing.F) {
	for _, entries := range [][][]byte{{{}}, {[]byte("a"), {}, []byte("bc")}, flavoured(0, 256, "a")} {
		data, err := EncodeBundle(entries)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, len(entries))
	}
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		entries, err := ParseBundle(data, width)
		if err != nil {
			return
		}
		if again, err := EncodeBundle(entries); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("a second encoding was accepted (%v)", err)
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add(knownLog)
	f.Add(knownWitness)
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseLogKey(s); err == nil && k.String() != s {
			t.Fatalf("%q is read as %q", s, k)
		}
		if k, err := ParseWitnessKey(s); err == nil && k.String() != s {
			t.Fatalf("%q is read as %q", s, k)
		}
	})
}

func FuzzRestoreFollower(f *testing.F) {
	w := newWorld(f)
	m := newMemory(f, 7, "a")
	fo, err := NewFollower(w.policy)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fo.Encode())
	if _, err := fo.Advance(w.sign(f, m, 7, w.witnesses...), m.entries); err != nil {
		f.Fatal(err)
	}
	f.Add(fo.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := RestoreFollower(w.policy, data)
		if err != nil {
			return
		}
		if !bytes.Equal(g.Encode(), data) {
			t.Fatal("a second encoding was accepted")
		}
		if h := g.Held(); h != nil {
			h.Fresh(w.now, time.Hour)
		}
	})
}

func FuzzFork(f *testing.F) {
	w := newWorld(f)
	a, b := newMemory(f, 7, "a"), newMemory(f, 9, "b")
	held, err := w.policy.Verify(w.sign(f, a, 7, w.witnesses...))
	if err != nil {
		f.Fatal(err)
	}
	offered, err := w.policy.Verify(w.sign(f, b, 9, w.witnesses...))
	if err != nil {
		f.Fatal(err)
	}
	fork, err := ProveFork(held, offered, b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fork.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		fork, err := ParseFork(data)
		if err != nil {
			return
		}
		if !bytes.Equal(fork.Encode(), data) {
			t.Fatal("a second encoding was accepted")
		}
		fork.Check(w.policy) // total, whatever it says
	})
}
