package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/client"
	"chancery/codec"
	"chancery/control"
	"chancery/evidence"
	"chancery/internal/orgtest"
	"chancery/internal/replica"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/mls/tree"
)

// byzantine is a server that shows one device another control log than the
// others: log is what it shows.
type byzantine struct {
	conn
	log *[][]byte
}

func (b byzantine) tree() (ledger.Tree, ledger.Checkpoint) {
	tree, err := ledger.NewTree(*b.log)
	if err != nil {
		b.t.Fatal(err)
	}
	c := ledger.Checkpoint{Origin: ledger.Origin(b.org.ID, ledger.ControlLog), Size: int64(len(*b.log))}
	if c.Root, err = ledger.Root(tree, c.Size); err != nil {
		b.t.Fatal(err)
	}
	return tree, c
}

func (b byzantine) Checkpoint(ctx context.Context, log ledger.Log) ([]byte, error) {
	if log != ledger.ControlLog || *b.log == nil {
		return b.conn.Checkpoint(ctx, log)
	}
	if b.silent && b.word != nil {
		return b.word, nil
	}
	_, c := b.tree()
	b.word = b.org.Control.Witnessed(c, b.org.Witnesses) // every witness is in it
	return b.word, nil
}

func (b byzantine) Entries(ctx context.Context, log ledger.Log, from, to int64) ([][]byte, error) {
	if log != ledger.ControlLog || *b.log == nil {
		return b.conn.Entries(ctx, log, from, to)
	}
	return slices.Clone((*b.log)[from:to]), nil
}

func (b byzantine) Hashes(ctx context.Context, log ledger.Log, at ledger.Checkpoint) tlog.HashReader {
	if log != ledger.ControlLog || *b.log == nil {
		return b.conn.Hashes(ctx, log, at)
	}
	tree, _ := b.tree()
	return tree
}

// deceived is a person whose device sees what the server shows it alone: with a
// replica of its own.
func (p *party) deceived(name string) (*person, *[][]byte) {
	shown := new([][]byte)
	own := *p
	own.cfg.Replica = replica.New(p.org.ID)
	own.cfg.Connect = func(k codec.Signer) client.Server { return byzantine{conn{p.fakeServer, k.PublicKey()}, shown} }
	return own.person(name), shown
}

// signed is an entry of a statement, whoever may sign it.
func (p *party) signed(body control.Body, by ...codec.Signer) []byte {
	p.Helper()
	s, _, err := control.NewStatement(nil, p.org.ID, body)
	if err != nil {
		p.Fatal(err)
	}
	var signatures []control.Signature
	for _, k := range by {
		g, err := control.Sign(k, s)
		if err != nil {
			p.Fatal(err)
		}
		signatures = append(signatures, g)
	}
	return control.NewLeaf(s, p.org.Now().UnixMilli(), signatures).Encode()
}

// convicted returns what chancery-verify says of the one file of a kind that a
// device has.
func (x *person) convicted(kind evidence.Kind) *evidence.Verdict {
	x.p.Helper()
	files, err := x.Evidence()
	if err != nil {
		x.p.Fatal(err)
	}
	if len(files) != 1 || files[0].Kind != kind || filepath.Dir(filepath.Dir(files[0].Path)) != x.dir {
		x.p.Fatalf("%s has %+v, want a %s", x.Name(), files, kind)
	}
	raw, err := os.ReadFile(files[0].Path)
	if err != nil {
		x.p.Fatal(err)
	}
	v, err := evidence.Verify(x.p.org.ID, raw, tree.KeyPackageSigner)
	if err != nil {
		x.p.Fatal(err)
	}
	return v
}

// halted fails the test unless the device sends nothing, commits nothing and
// says why, also after a restart and under the good log again.
func (x *person) halted(id codec.ID, to ...codec.ID) {
	x.p.Helper()
	for range 2 {
		sends := x.p.sends
		if _, err := x.Create(x.p.Context(), "", to); !errors.Is(err, client.ErrHalted) {
			x.p.Errorf("%s makes a conversation: %v", x.Name(), err)
		}
		if id.IsZero() {
			return // it is in none
		}
		if _, err := x.Send(x.p.Context(), id, client.Draft{Text: "secret"}); !errors.Is(err, client.ErrHalted) {
			x.p.Errorf("%s says something: %v", x.Name(), err)
		}
		if err := x.Add(x.p.Context(), id, to); !errors.Is(err, client.ErrHalted) {
			x.p.Errorf("%s adds somebody: %v", x.Name(), err)
		}
		if x.p.sends != sends {
			x.p.Errorf("%s has sent something", x.Name())
		}
		x.restart()
	}
}

// TestGhostDevice is a server that lets itself in, in each way that it could try:
// the device which sees it sends nothing to it, and what it keeps convicts the
// server wherever the server signed something.
func TestGhostDevice(t *testing.T) {
	type scene struct {
		*party
		a, b  *person
		c     *person   // for groups: one-to-one has no KeyPackages
		shown *[][]byte // what Alice is shown, if not the log
		id    codec.ID
	}
	ghost := codec.NewPrivateKey()
	for name, play := range map[string]func(t *testing.T, s *scene){
		"adds a device": func(t *testing.T, s *scene) {
			// Alice is shown a device of Bob's that the server let in.
			*s.shown = append(s.org.Entries(), s.signed(&control.Device{
				Member: s.b.member, Key: ghost.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
			}, ghost, codec.NewPrivateKey()))
			s.advance(2 * time.Minute)
			if _, err := s.a.Sync(t.Context()); !errors.Is(err, control.ErrUnauthorised) {
				t.Errorf("Alice's device reads on: %v", err)
			}
			s.a.convicted(evidence.KindLeaf)
			*s.shown = nil
			s.a.halted(s.id, s.b.member)
		},
		"swaps a leaf": func(t *testing.T, s *scene) {
			// The log that Alice read had Bob's device; the one she is shown now has the
			// ghost in its place.
			log := s.org.Entries()
			bob, _ := s.org.State.Device(s.b.Hash())
			log[bob.Since] = s.signed(&control.Device{
				Member: s.b.member, Key: ghost.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
			}, ghost, codec.NewPrivateKey())
			*s.shown = append(log, s.signed(&control.Revocation{Device: s.b.Hash(), Reason: "x"}, s.b.Signer()))
			s.advance(2 * time.Minute)
			var fork *ledger.Fork
			if _, err := s.a.Sync(t.Context()); !errors.As(err, &fork) {
				t.Errorf("Alice's device reads on: %v", err)
			}
			if v := s.a.convicted(evidence.KindFork); len(v.Convicted) != 3 { // the log's key and both witnesses
				t.Errorf("got %s", v)
			}
			*s.shown = nil
			s.a.halted(s.id, s.b.member)
		},
		"serves two directories": func(t *testing.T, s *scene) {
			// Dave is shown a log of as many leaves as the others, with other ones at
			// its end. What he is receipted speaks of theirs.
			c, shown := s.deceived("Dave")
			*shown = append(s.org.Entries(), s.signed(&control.Revocation{Device: s.a.Hash(), Reason: "not true"}, s.a.Signer()))
			s.org.Add(&control.Revocation{Device: s.org.NewMember().Hash, Reason: "lost"}, s.org.Officers[0])
			*shown = append(*shown, s.signed(&control.Device{
				Member: s.b.member, Key: ghost.PublicKey(), Evidence: control.EvidenceNone, Nonce: codec.NewID(),
			}, ghost, s.b.Signer()), s.signed(&control.Revocation{Device: s.b.Hash(), Reason: "not true"}, s.b.Signer()))
			s.advance(2 * time.Minute)
			c.sync()
			s.b.create("", c)
			if v := c.convicted(evidence.KindOtherLog); len(v.Convicted) != 2 {
				t.Errorf("got %s", v)
			}
			c.halted(codec.ID{}, s.b.member)
		},
		"withholds a revocation": func(t *testing.T, s *scene) {
			// The receipt of the thief's message is under a log that ends before the
			// revocation of Bob's device, ten minutes ago.
			s.advance(10 * time.Minute)
			s.b.say(s.id, "from a thief")
			s.advance(-10 * time.Minute)
			s.org.Add(&control.Revocation{Device: s.b.Hash(), Reason: "stolen"}, s.org.Officers[0])
			s.advance(10 * time.Minute)
			sum := s.a.sync()
			if sum.Faulty == 0 {
				t.Errorf("got %+v", sum)
			}
			s.a.want(s.id, "hello")
			files, err := s.a.Evidence()
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for _, f := range files {
				raw, err := os.ReadFile(f.Path)
				if err != nil {
					t.Fatal(err)
				}
				if v, err := evidence.Verify(s.org.ID, raw, tree.KeyPackageSigner); err != nil || v.Kind != evidence.KindOldLog || f.Halts {
					t.Errorf("got %v, %v", v, err)
				}
			}
		},
		"swaps a KeyPackage": func(t *testing.T, s *scene) {
			s.swap = func(d codec.Hash, c *wire.Claimed) {
				kp := s.org.KeyPackage(&orgtest.Device{Hash: d, Key: ghost})
				c.Package = kp.Publish(s.org)
			}
			if _, err := s.a.Create(t.Context(), "", []codec.ID{s.b.member, s.c.member}); !errors.Is(err, replica.ErrSwapped) {
				t.Errorf("Alice's device adds the ghost: %v", err)
			}
			s.a.convicted(evidence.KindKeyPackage)
		},
		"swaps a KeyPackage and signs nothing": func(t *testing.T, s *scene) {
			s.mute = true
			if _, err := s.a.Create(t.Context(), "", []codec.ID{s.b.member, s.c.member}); !errors.Is(err, client.ErrServer) {
				t.Errorf("Alice's device takes what nobody signed for: %v", err)
			}
			if files, err := s.a.Evidence(); err != nil || len(files) > 0 {
				t.Errorf("evidence of nothing signed: %+v, %v", files, err)
			}
		},
		"signs for another device's KeyPackage": func(t *testing.T, s *scene) {
			s.misname = s.a.Hash()
			if _, err := s.a.Create(t.Context(), "", []codec.ID{s.b.member, s.c.member}); !errors.Is(err, client.ErrServer) {
				t.Errorf("Alice's device takes it: %v", err)
			}
		},
		"hides a device, by silence": func(t *testing.T, s *scene) {
			// Alice's device is shown no newer log; nothing is signed that shows it.
			s.org.Add(&control.Revocation{Device: s.b.Hash(), Reason: "stolen"}, s.org.Officers[0])
			*s.shown = s.org.Entries()[:s.org.Control.Size()-1]
			s.silent = true
			s.advance(2 * time.Minute)
			s.a.sync()
			s.a.say(s.id, "within the hour")
			s.advance(time.Hour + time.Minute)
			if _, err := s.a.Send(t.Context(), s.id, client.Draft{Text: "secret"}); !errors.Is(err, client.ErrStale) {
				t.Errorf("Alice's device sends under an old log: %v", err)
			}
			if sum := s.a.sync(); len(sum.Warnings) == 0 {
				t.Error("and doesn't say why it is silent")
			}
		},
		"rolls the log back": func(t *testing.T, s *scene) {
			*s.shown = s.org.Entries()[:s.org.Control.Size()-2]
			s.advance(2 * time.Minute)
			if _, err := s.a.Sync(t.Context()); !errors.Is(err, ledger.ErrRollback) {
				t.Errorf("Alice's device follows: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParty(t)
			s := &scene{party: p}
			s.b, s.c = p.person("Bob"), p.person("Carol")
			s.a, s.shown = p.deceived("Alice")
			s.id = s.a.create("", s.b)
			s.a.say(s.id, "hello")
			s.b.sync()
			play(t, s)
		})
	}
}

// TestEvidenceOnce: the same evidence is kept once, and where there is no disk to
// keep it the device says so.
func TestEvidenceOnce(t *testing.T) {
	dir := t.TempDir()
	c := &replica.Conviction{Kind: evidence.KindFork, Evidence: []byte("x"), Err: errors.New("caught")}
	first, err := client.KeepEvidence(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := client.KeepEvidence(dir, c); err != nil || second != first {
		t.Errorf("got %s, %v", second, err)
	}
	files, err := client.EvidenceIn(dir)
	if err != nil || len(files) != 1 || !files[0].Halts || files[0].Path != first {
		t.Errorf("got %+v, %v", files, err)
	}
	if _, err := client.KeepEvidence(first, c); err == nil {
		t.Error("kept in a file")
	}
}
