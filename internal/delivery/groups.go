package delivery

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/handshake"
	"chancery/internal/store"
	"chancery/mls/tree"
)

// maxFollowed bounds the groups in memory, in leaves of their trees: about 2 KiB
// each. Others are read from the store when they are asked for.
const maxFollowed = 1 << 14

// followed is the public state of a conversation's group in one epoch. It never
// changes: a commit leads to another.
type followed struct {
	*tree.Group
	statement codec.Hash // commit statement of the epoch
	info      []byte     // GroupInfo; empty where nobody may join by it
}

// groups are the groups used last, safe for concurrent use.
type groups struct {
	mu     sync.Mutex
	byID   map[codec.ID]*list.Element // of order
	order  *list.List                 // of kept, the one used last in front
	leaves int
	most   int
}

type kept struct {
	id    codec.ID
	group *followed
}

func newGroups(most int) *groups {
	return &groups{byID: map[codec.ID]*list.Element{}, order: list.New(), most: most}
}

// get returns a conversation's group of the epoch of that statement, nil where
// it isn't at hand.
func (g *groups) get(id codec.ID, statement codec.Hash) *followed {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.byID[id]
	if e == nil || e.Value.(*kept).group.statement != statement {
		return nil
	}
	g.order.MoveToFront(e)
	return e.Value.(*kept).group
}

// put keeps a group in the place of an earlier epoch's, and lets go of those
// used longest ago.
func (g *groups) put(id codec.ID, f *followed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.byID[id]; e != nil {
		g.drop(e)
	}
	g.byID[id] = g.order.PushFront(&kept{id, f})
	g.leaves += int(f.Tree().Size())
	for g.leaves > g.most && g.order.Len() > 1 {
		g.drop(g.order.Back())
	}
}

func (g *groups) drop(e *list.Element) {
	k := g.order.Remove(e).(*kept)
	delete(g.byID, k.id)
	g.leaves -= int(k.group.Tree().Size())
}

// credentials judge by the control log as it is.
func (s *Server) credentials() handshake.Credentials {
	return handshake.Log{Read: func(f func(*control.State)) {
		s.Directory.Read(func(state *control.State, _ codec.Hash) { f(state) })
	}}
}

func (s *Server) rules() *handshake.Rules { return &handshake.Rules{Check: s.credentials()} }

// errMoved means that a conversation has another epoch by now.
var errMoved = errors.New("the conversation has moved on")

// group returns the group of a conversation that is followed. It returns
// errMoved, or ErrDamaged where what is stored isn't what was put there.
func (s *Server) group(ctx context.Context, c *conversation) (*followed, error) {
	if f := s.groups.get(c.ID, c.Commit); f != nil {
		return f, nil
	}
	stored, err := s.Store.Group(ctx, c.ID)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the group of conversation %s: %w", c.ID, err)
	}
	g, err := restore(s.rules(), stored)
	if err != nil {
		return nil, fmt.Errorf("group of conversation %s: %w: %w", c.ID, ErrDamaged, err)
	}
	if g.Context().Epoch != c.Epoch {
		return nil, errMoved
	}
	f := &followed{Group: g, statement: c.Commit, info: stored.Info}
	s.groups.put(c.ID, f)
	return f, nil
}

func restore(r tree.Rules, stored *store.Group) (*tree.Group, error) {
	nodes := make(map[tree.NodeIndex][]byte, len(stored.Nodes))
	for n, data := range stored.Nodes {
		nodes[tree.NodeIndex(n)] = data
	}
	return tree.RestoreState(r, stored.State, nodes)
}

// write keeps what a commit changed of a group: before is the group that it was
// sent in, or nil.
func (f *followed) write(tx store.Tx, id codec.ID, before *followed) error {
	if err := tx.PutGroup(id, f.MarshalState(), f.info); err != nil {
		return err
	}
	var earlier *tree.Tree
	if before != nil {
		earlier = before.Tree()
	}
	t := f.Tree()
	for _, n := range t.ChangedSince(earlier) {
		if err := tx.PutNode(id, uint32(n), t.MarshalNode(n)); err != nil {
			return err
		}
	}
	return nil
}
