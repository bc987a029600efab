package delivery

import (
	"slices"

	"chancery/codec"
	"chancery/envelope"
	"chancery/internal/store"
	"chancery/internal/wire"
	"chancery/manifest"
)

// MaxCopies is the greatest length in bytes of all ciphertexts of one message of
// a direct conversation.
const MaxCopies = 6 << 20

// A direct conversation has two members for good. Nobody else's word is needed
// for who is in it: its roster is all live devices of both, by the control log,
// and the server, which replays that log, judges it whole.

// direct reports whether a conversation is one. A conversation never changes
// its kind, so that it may be asked before the writer decides.
func (s *Server) direct(id codec.ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.conversations[id]
	return c != nil && c.direct()
}

func (c *conversation) direct() bool { return len(c.Members) > 0 }

// due returns the roster that a direct conversation has to have now.
func (b *batch) due(c *conversation) manifest.Roster {
	return manifest.NewRoster(b.state.MustReach(c.Members, c.roster, b.state.Size(), b.now))
}

// checkDirect checks a statement of a direct conversation as far as that needs
// no place in it.
func checkDirect(c *commit, in *wire.CommitSubmission) (*commit, error) {
	d, err := manifest.ParseDirect(in.Commit)
	switch {
	case err != nil:
		return nil, refuse(c.hash, ReasonCommit, "%v", err)
	case d.Hash() != c.Message:
		return nil, refuse(c.hash, ReasonCommit, "the members are others than stated")
	case len(in.Welcome) > 0 || len(in.Added) > 0 || len(in.GroupInfo) > 0:
		return nil, refuse(c.hash, ReasonCommit, "a direct conversation has no group to be welcomed to")
	case len(in.Roster) > manifest.MaxDirect:
		return nil, refuse(c.hash, ReasonRoster, "%d devices, at most %d", len(in.Roster), manifest.MaxDirect)
	}
	c.members, c.added = d.Members, d.Added
	return c, nil
}

// judgeDirect checks that a conversation keeps its kind, and of a direct one the
// members and the roster: it is all live devices of the members that the
// conversation was founded with.
func (b *batch) judgeDirect(in *commit, c *conversation) error {
	if in.Epoch == 0 {
		c.Members = in.members
	}
	switch {
	case !slices.Equal(c.Members, in.members):
		return refuse(in.hash, ReasonCommit, "a conversation keeps its kind, and a direct one its members")
	case c.direct() && !slices.Equal(in.roster, b.due(c)):
		return refuse(in.hash, ReasonRoster, "not all live devices of the two members and no others")
	case c.direct() && !slices.Equal(manifest.Roster(in.added), difference(in.roster, c.roster)):
		return refuse(in.hash, ReasonCommit, "other devices are new than stated")
	}
	return nil
}

// checkDirectRoster checks the epoch of a message of a direct conversation: the
// newest, whose roster must be what it would be if stated now. So nothing is
// ever sent to a device that was revoked, nor past one that was added.
func (b *batch) checkDirectRoster(it *item, c *conversation) error {
	t := it.Transport
	switch {
	case t.Epoch != c.Epoch:
		return refuse(it.core, ReasonEpoch, "the conversation is at epoch %d", c.Epoch)
	case t.Roster != c.Commit:
		return refuse(it.core, ReasonRoster, "not the roster of epoch %d of the conversation", t.Epoch)
	case !slices.Equal(c.roster, b.due(c)):
		return refuse(it.core, ReasonRoster, "the members' devices are others now: state them first")
	case !c.roster.Contains(it.Header.Device):
		return refuse(it.core, ReasonRoster, "the device is not in the conversation")
	}
	return nil
}

// checkCopies checks the ciphertexts of a message of a direct conversation
// and tags against the transport.
func (it *item) checkCopies(encoded []byte) ([][]byte, error) {
	if len(encoded) == 0 {
		if it.Header.Kind == envelope.KindRecord {
			return nil, refuse(it.core, ReasonKind, "kind %s needs ciphertexts", it.Header.Kind)
		}
		if n := len(it.Transport.Ciphertexts); n > 0 {
			return nil, refuse(it.core, ReasonTransport, "%d ciphertexts stated and none sent", n)
		}
		return nil, it.checkTags()
	}
	if len(encoded) > MaxCopies {
		return nil, refuse(it.core, ReasonSize, "ciphertexts of %d bytes, at most %d", len(encoded), MaxCopies)
	}
	copies, err := manifest.ParseCopies(encoded)
	if err != nil {
		return nil, refuse(it.core, ReasonTransport, "%v", err)
	}
	if !slices.Equal(manifest.CopyHashes(copies), it.Transport.Ciphertexts) {
		return nil, refuse(it.core, ReasonTransport, "the ciphertexts are others than stated")
	}
	return copies, it.checkTags()
}

// copies gives each ciphertext to the device that it is for: one for each other
// device of the roster, in its order. Which device can read its own, the server
// can't tell: an empty one is as good as any.
func (c *conversation) copies(it *item, bodies [][]byte) ([]store.Copy, error) {
	if bodies == nil {
		return nil, nil
	}
	to := c.roster.Without(it.Header.Device)
	if len(bodies) != len(to) {
		return nil, refuse(it.core, ReasonTransport, "%d ciphertexts for %d devices", len(bodies), len(to))
	}
	out := make([]store.Copy, len(to))
	for i, device := range to {
		out[i] = store.Copy{Device: device, Body: bodies[i]}
	}
	return out, nil
}
