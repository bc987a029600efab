package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is a log's tree in memory, for proofs out of entries that are at hand. It
// is safe for concurrent use while nobody changes it.
type Tree []tlog.Hash

var _ tlog.HashReader = Tree(nil)

// NewTree returns the tree over entries, from the first: two hashes an entry. It
// returns ErrSize where an entry is longer than a log takes.
func NewTree(entries [][]byte) (Tree, error) {
	edge, tree := &Edge{}, make(Tree, 0, 2*len(entries))
	for _, e := range entries {
		var err error
		if tree, err = edge.Append(tree, e); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// ReadHashes implements tlog.HashReader. It returns ErrSize beyond the tree.
func (t Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t)) {
			return nil, fmt.Errorf("stored hash %d of %d: %w", x, len(t), ErrSize)
		}
		out[i] = t[x]
	}
	return out, nil
}
