package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/codec"
	"chancery/control"
	"chancery/ledger"
)

// Fork is two checkpoints of one log that contradict each other.
type Fork struct {
	_    struct{} `cbor:",toarray"`
	Log  ledger.Log
	Fork []byte // ledger.Fork, encoded
}

// Kind implements Body.
func (*Fork) Kind() Kind { return KindFork }

func (f *Fork) judge(o *organisation) (*Verdict, error) {
	policy, err := o.log(f.Log)
	if err != nil {
		return nil, err
	}
	fork, err := ledger.ParseFork(f.Fork)
	if err != nil {
		return nil, err
	}
	if err := fork.CheckLog(policy.Log); err != nil {
		return nil, err
	}
	held, err := ledger.OpenUnwitnessed(policy.Log, fork.Held)
	if err != nil {
		return nil, err
	}
	offered, err := ledger.OpenUnwitnessed(policy.Log, fork.Offered)
	if err != nil {
		return nil, err
	}
	return &Verdict{
		Convicted: append([]string{logKey(f.Log)}, witnesses(policy, fork.Held, fork.Offered)...),
		Text: fmt.Sprintf("signed two histories of the %s log: one of %d leaves and one of %d that doesn't begin with it",
			f.Log, held.Size, offered.Size),
	}, nil
}

// Included is an entry under a signed checkpoint.
type Included struct {
	_          struct{} `cbor:",toarray"`
	Checkpoint []byte   // signed note
	Entry      []byte
	Proof      ledger.InclusionProof
}

// check returns the checkpoint, signed by its log whoever cosigned it.
func (x *Included) check(log ledger.LogKey) (ledger.Checkpoint, error) {
	c, err := ledger.OpenUnwitnessed(log, x.Checkpoint)
	if err != nil {
		return ledger.Checkpoint{}, err
	}
	return c, x.Proof.Check(c, x.Entry)
}

// Leaves is two entries at one index of one log.
type Leaves struct {
	_             struct{} `cbor:",toarray"`
	Log           ledger.Log
	First, Second Included
}

// Kind implements Body.
func (*Leaves) Kind() Kind { return KindLeaves }

func (l *Leaves) judge(o *organisation) (*Verdict, error) {
	policy, err := o.log(l.Log)
	if err != nil {
		return nil, err
	}
	for _, x := range []*Included{&l.First, &l.Second} {
		if _, err := x.check(policy.Log); err != nil {
			return nil, err
		}
	}
	if l.First.Proof.Index != l.Second.Proof.Index {
		return nil, errors.New("the leaves are at two indexes")
	}
	if bytes.Equal(l.First.Entry, l.Second.Entry) {
		return nil, errors.New("the leaves are the same")
	}
	return &Verdict{
		Convicted: append([]string{logKey(l.Log)}, witnesses(policy, l.First.Checkpoint, l.Second.Checkpoint)...),
		Text:      fmt.Sprintf("signed two leaves at index %d of the %s log", l.First.Proof.Index, l.Log),
	}, nil
}

// Leaf is a control log with a leaf that its rules refuse.
type Leaf struct {
	_          struct{} `cbor:",toarray"`
	Checkpoint []byte   // signed note
	Entries    [][]byte // all that it covers
	Openings   []Opening
}

// Opening opens one sealed leaf.
type Opening struct {
	_       struct{} `cbor:",toarray"`
	Index   int64
	Opening control.Opening
}

// Kind implements Body.
func (*Leaf) Kind() Kind { return KindLeaf }

func (l *Leaf) judge(o *organisation) (*Verdict, error) {
	c, err := ledger.OpenUnwitnessed(o.control.Log, l.Checkpoint)
	if err != nil {
		return nil, err
	}
	if c.Size != int64(len(l.Entries)) {
		return nil, fmt.Errorf("%d entries under a checkpoint of %d", len(l.Entries), c.Size)
	}
	edge := &ledger.Edge{}
	var stored []tlog.Hash
	for _, e := range l.Entries {
		if stored, err = edge.Append(stored[:0], e); err != nil {
			return nil, err
		}
	}
	if edge.Root() != c.Root {
		return nil, errors.New("the entries are not the checkpoint's")
	}
	openings, err := l.openings()
	if err != nil {
		return nil, err
	}
	state := control.NewState(o.id)
	for i, e := range l.Entries {
		err := state.Apply(e, openings[int64(i)])
		if errors.Is(err, control.ErrKind) {
			return nil, fmt.Errorf("%w: a later version may know it", err)
		}
		if err != nil {
			return &Verdict{
				Convicted: []string{controlKey},
				Text:      fmt.Sprintf("logged what the rules refuse, and signed for it at %d leaves: %v", c.Size, err),
			}, nil
		}
	}
	return nil, errors.New("the rules allow every leaf")
}

// openings returns what opens sealed leaves. A wrong one would have the rules
// refuse what they allow.
func (l *Leaf) openings() (map[int64]*control.Opening, error) {
	out := map[int64]*control.Opening{}
	for i := range l.Openings {
		x := &l.Openings[i]
		if x.Index < 0 || x.Index >= int64(len(l.Entries)) || out[x.Index] != nil {
			return nil, fmt.Errorf("opening of leaf %d of %d", x.Index, len(l.Entries))
		}
		var leaf control.Leaf
		if err := codec.Decode(l.Entries[x.Index], &leaf); err != nil {
			return nil, fmt.Errorf("opening of leaf %d: %w", x.Index, err)
		}
		s, err := control.ParseStatement(leaf.Statement)
		if err != nil {
			return nil, fmt.Errorf("opening of leaf %d: %w", x.Index, err)
		}
		if seal := x.Opening.Seal(); !s.Kind.Sealed() || !bytes.Equal(seal[:], s.Body) {
			return nil, fmt.Errorf("the opening of leaf %d is another's", x.Index)
		}
		out[x.Index] = &x.Opening
	}
	return out, nil
}

// String returns the verdict for people, in one line.
func (v *Verdict) String() string {
	verb := " is convicted: it "
	if len(v.Convicted) > 1 {
		verb = " are convicted: they "
	}
	return strings.Join(v.Convicted, ", ") + verb + v.Text
}
