package ledger

import (
	"crypto/sha256"
	"testing"
)

// BenchmarkAppend appends 32-byte leaves in batches of 256. Beside it
// BenchmarkSHA256 does the least that any such log must: two hashes a leaf, of
// 33 and of 65 bytes.
func BenchmarkAppend(b *testing.B) {
	batch := make([][]byte, TileWidth)
	for i := range batch {
		batch[i] = make([]byte, sha256.Size)
		batch[i][0] = byte(i)
	}
	var e Edge
	var err error
	stored := e.hashes
	for range b.N/TileWidth + 1 {
		stored = stored[:0]
		for _, entry := range batch {
			if stored, err = e.Append(stored, entry); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
}

func BenchmarkSHA256(b *testing.B) {
	leaf, node := make([]byte, 1+sha256.Size), make([]byte, 1+2*sha256.Size)
	for i := range b.N {
		leaf[1] = byte(i)
		h := sha256.Sum256(leaf)
		copy(node[1:], h[:])
		h = sha256.Sum256(node)
		node[40] = h[0]
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
}

func BenchmarkVerifyCheckpoint(b *testing.B) {
	w := newWorld(b)
	signed := w.sign(b, newMemory(b, 5, "a"), 5, w.witnesses[:2]...)
	for b.Loop() {
		if _, err := w.policy.Verify(signed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProveInclusion(b *testing.B) {
	m := newMemory(b, 100_000, "a")
	i := int64(0)
	for b.Loop() {
		if _, err := ProveInclusion(m, 100_000, i%100_000); err != nil {
			b.Fatal(err)
		}
		i += 7919
	}
}
