// Package tree is the public half of MLS (RFC 9420): what a party knows who
// sees every handshake of a group and holds none of its secrets.
//
// It has the wire types, the ratchet tree with its hashes, and Group, which
// judges each proposal and commit by the rules of RFC 9420 §12 and moves from
// epoch to epoch. A Delivery Service uses Group as it is; package mls lets the
// same code judge, and adds the secrets.
//
// A Group can't check what takes a secret: the membership tag of a
// PublicMessage (§6.2), the confirmation tag of a commit (§6.1), whether path
// secrets decrypt to the keys beside them (§7.5) and whether a PSK is known.
// Its methods say what they take on trust.
//
// Values that were read alias the bytes they were read from, which mustn't
// change afterwards. Nodes don't change once they are in a Tree: a change
// replaces them. Nothing here may be used by two goroutines at once unless it
// says so.
//
// The package promises nothing about identities: what a credential means, and
// who may propose what, is asked of the application through Rules.
package tree
