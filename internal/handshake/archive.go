package handshake

import (
	"errors"
	"fmt"

	"chancery/codec"
	"chancery/mls/tree"
)

// ExtensionArchive is the type of the GroupContext extension that pins a
// conversation's archive, of the range for private use (RFC 9420 §17.3).
const ExtensionArchive tree.ExtensionType = 0xF0A1

// archiveSize is the length of the extension's data in bytes.
const archiveSize = 3 * codec.HashSize

// ErrArchive means that a group pins no archive where it must, or one that it
// may not.
var ErrArchive = errors.New("not the archive that the group must pin")

// Archive is what a conversation pins: whose archive its messages are sealed
// for, under which policy, and by which epoch of the escrow key.
type Archive struct {
	Organisation codec.Hash
	Policy       codec.Hash // control leaf
	Epoch        codec.Hash // control leaf of the escrow epoch; zero before the first
}

// Extensions returns the extensions of the GroupContext that pins a: those two,
// in that order, and no others.
func (a Archive) Extensions() tree.Extensions {
	data := make([]byte, 0, archiveSize)
	data = append(append(append(data, a.Organisation[:]...), a.Policy[:]...), a.Epoch[:]...)
	required := tree.RequiredCapabilities{Extensions: []tree.ExtensionType{ExtensionArchive}}
	return tree.Extensions{required.Extension(), {Type: ExtensionArchive, Data: data}}
}

// ArchiveOf returns what the extensions of a GroupContext pin, nil where there
// are none, as in groups of earlier versions. It returns ErrArchive for any
// other extensions.
func ArchiveOf(x tree.Extensions) (*Archive, error) {
	if len(x) == 0 {
		return nil, nil
	}
	data, ok := x.Find(ExtensionArchive)
	if !ok || len(data) != archiveSize {
		return nil, fmt.Errorf("extensions of another kind: %w", ErrArchive)
	}
	a := &Archive{
		Organisation: codec.Hash(data[:codec.HashSize]),
		Policy:       codec.Hash(data[codec.HashSize : 2*codec.HashSize]),
		Epoch:        codec.Hash(data[2*codec.HashSize:]),
	}
	if !a.Extensions().Equal(x) {
		return nil, fmt.Errorf("extensions in another form: %w", ErrArchive)
	}
	return a, nil
}

// Capable reports whether a leaf's owner knows ExtensionArchive. Devices of
// earlier versions don't.
func Capable(leaf *tree.LeafNode) bool {
	for _, t := range leaf.Capabilities.Extensions {
		if t == ExtensionArchive {
			return true
		}
	}
	return false
}
