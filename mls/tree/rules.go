package tree

// Event says how a leaf comes into a group.
type Event uint8

const (
	// EventAdd: the leaf stands in a key package.
	EventAdd Event = iota + 1
	// EventUpdate: a member's Update replaces its own leaf.
	EventUpdate
	// EventCommit: a committer's path replaces its own leaf.
	EventCommit
	// EventExternalJoin: the leaf is of the path of an external commit. The leaf
	// before it is that of the member which the commit removes, if it does.
	EventExternalJoin
	// EventTree: the leaf stands in a tree that is checked as a whole, by a
	// newcomer or at the group's creation.
	EventTree
)

// Rules are the application's part in judging a group. All members must judge
// alike: a commit that some refuse splits the group. A method says no by
// returning an error, which ends up inside a Violation. Methods mustn't change
// what they are given.
type Rules interface {
	// Leaf validates the credential of each leaf that appears or changes, by
	// whatever path (RFC 9420 §5.3.1): that it stands for an acceptable
	// identity and for the leaf's signature key. old is the leaf that it
	// replaces, whose successor it must be, or nil. That the first certificate
	// of an X.509 credential has the signature key has been checked; nothing
	// else about a credential has.
	Leaf(e Event, old, leaf *LeafNode) error

	// Lifetime judges the lifetime of a leaf from a key package (RFC 9420
	// §7.2): whether it is short enough and, where the application wants so,
	// covers the time at which the leaf was sent. Who adds a member must have
	// it cover the present (§7.3), with CheckKeyPackage and rules that say so.
	// The leaf of a member that never committed keeps its lifetime, and may
	// outlive it under EventTree.
	Lifetime(e Event, l Lifetime) error

	// Client names the client behind a leaf: a group has no two leaves with one
	// name (RFC 9420 §12.2). An empty name is shared with nobody. It can be
	// asked about a leaf that nobody has validated.
	Client(leaf *LeafNode) string

	// ExternalSender validates a credential that the group's extensions now
	// list for the first time (RFC 9420 §5.3.1).
	ExternalSender(s *ExternalSender) error

	// Proposal says whether the sender may propose this, when the proposal
	// arrives or, where a commit carries it, with the commit. All that RFC 9420
	// says of a single proposal has been checked.
	Proposal(g *Group, from Sender, p Proposal) error
}
