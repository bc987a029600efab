package wire

import (
	"bytes"
	"testing"

	"chancery/codec"
	"chancery/manifest"
)

// FuzzParseCommit: what an earlier version wrote is read as what it was, what
// this one writes has one encoding, and nothing else is read.
func FuzzParseCommit(f *testing.F) {
	e := earlierCommit{Statement: []byte("s"), Roster: manifest.Roster{codec.Sum("a")}, Commit: []byte("c"), Welcome: []byte("w"), Added: []codec.Hash{codec.Sum("b")}}
	now := CommitSubmission{Statement: e.Statement, Roster: e.Roster, Commit: e.Commit, Welcome: e.Welcome, Added: e.Added, GroupInfo: []byte("g")}
	f.Add(codec.Encode(&e))
	f.Add(codec.Encode(&now))
	f.Add(codec.Encode(&CommitSubmission{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCommit(data)
		if err != nil {
			if c != nil {
				t.Error("a submission beside an error")
			}
			return
		}
		earlier := earlierCommit{Statement: c.Statement, Roster: c.Roster, Commit: c.Commit, Welcome: c.Welcome, Added: c.Added}
		if !bytes.Equal(codec.Encode(c), data) && (len(c.GroupInfo) > 0 || !bytes.Equal(codec.Encode(&earlier), data)) {
			t.Errorf("%x is written as %x", data, codec.Encode(c))
		}
	})
}

func TestEarlierCommit(t *testing.T) {
	e := earlierCommit{Statement: []byte("s"), Roster: manifest.Roster{codec.Sum("a")}, Commit: []byte("c"), Welcome: []byte("w"), Added: []codec.Hash{codec.Sum("b")}}
	c, err := ParseCommit(codec.Encode(&e))
	if err != nil || string(c.Statement) != "s" || string(c.Commit) != "c" || string(c.Welcome) != "w" || len(c.Roster) != 1 || len(c.Added) != 1 || c.GroupInfo != nil {
		t.Errorf("%+v, %v", c, err)
	}
}
