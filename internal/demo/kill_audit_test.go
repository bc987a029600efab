package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	endian "encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/blindindex"
	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/replica"
	"chancery/internal/store"
	"chancery/internal/store/sqlite"
	"chancery/ledger"
	"chancery/manifest"
)

// logs are an organisation's two logs.
func logs() []ledger.Log { return []ledger.Log{ledger.ControlLog, ledger.MessagesLog} }

// sightings are the checkpoints that somebody outside was shown: every one of
// them has to be of the log as it is afterwards.
type sightings struct {
	s     *stage
	notes map[ledger.Log]map[string]bool
}

func newSightings(s *stage) *sightings {
	return &sightings{s, map[ledger.Log]map[string]bool{ledger.ControlLog: {}, ledger.MessagesLog: {}}}
}

// watch follows the control log as every client does, and collects checkpoints.
func (v *sightings) watch(ctx context.Context, t *testing.T, stop <-chan struct{}) {
	follower := replica.New(v.s.home.Organisation)
	for !closed(stop) {
		for _, log := range logs() {
			signed, err := v.s.server.Checkpoint(ctx, log)
			if err == nil {
				v.notes[log][string(signed)] = true
			} else if !temporary(err) {
				t.Errorf("checkpoint: %v", err)
			}
		}
		if err := follower.Sync(ctx, v.s.server); err != nil && !temporary(err) {
			t.Errorf("following the log: %v", err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// ask adds what the witnesses say that they cosigned last.
func (v *sightings) ask(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, url := range v.s.witness {
		for _, log := range logs() {
			id := sha256.Sum256([]byte(ledger.Origin(v.s.home.Organisation, log)))
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+hex.EncodeToString(id[:])+"/checkpoint", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("witness: %s, %v", answer.Status, err)
			}
			v.notes[log][string(signed)] = true
		}
	}
}

// checkInclusion fetches the proof of each receipted message as an outsider
// does, under a checkpoint that the witnesses cosigned.
func checkInclusion(ctx context.Context, t *testing.T, s *stage, receipted map[string]*client.Sent) {
	t.Helper()
	if err := s.replica.Sync(ctx, s.server); err != nil {
		t.Fatal(err)
	}
	outsider := remote.New(s.home.Server, nil, nil)
	signed, err := outsider.Checkpoint(ctx, ledger.MessagesLog)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := s.replica.Messages(signed)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := outsider.Entries(ctx, ledger.MessagesLog, 0, checkpoint.Size)
	if err != nil {
		t.Fatal(err)
	}
	hashes := outsider.Hashes(ctx, ledger.MessagesLog, checkpoint.Checkpoint)
	for id, sent := range receipted {
		proof, err := ledger.ProveInclusion(hashes, checkpoint.Size, sent.Leaf)
		if err == nil {
			err = proof.Check(checkpoint.Checkpoint, entries[sent.Leaf])
		}
		if err != nil {
			t.Errorf("%s, leaf %d: %v", id, sent.Leaf, err)
		}
	}
}

// checkBooks ends the server with a last kill and reads its database: both logs
// and all that the leaves of the messages log stand for agree, they continue
// every checkpoint that anybody saw, and every receipted message is there.
func checkBooks(ctx context.Context, t *testing.T, s *stage, receipted map[string]*client.Sent, seen *sightings) {
	t.Helper()
	seen.ask(ctx, t)
	if err := s.program(t, "server").kill(); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(s.summary.ServerDir, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := &books{T: t, Store: db, ctx: ctx, roots: map[ledger.Log][]tlog.Hash{}}
	b.checkLogs(s.home.Organisation, seen)
	b.s = s
	s.replica.Read(func(st *control.State) { b.receipts = st.Genesis().ReceiptKey })
	b.checkLeaves()
	for id, sent := range receipted {
		leaf, err := db.LeafByCore(ctx, sent.Core)
		if err != nil || leaf.Index != sent.Leaf || leaf.Position != sent.Position {
			t.Errorf("%s was receipted as %+v, and the store has %+v, %v", id, *sent, leaf, err)
		}
	}
}

// books are the server's database, checked from the outside.
type books struct {
	*testing.T
	*sqlite.Store
	s        *stage
	ctx      context.Context
	receipts codec.PublicKey
	entries  [][]byte                   // of the messages log
	roots    map[ledger.Log][]tlog.Hash // at every size
}

func (b *books) checkLogs(organisation codec.Hash, seen *sightings) {
	b.Helper()
	genesis, err := b.Entries(b.ctx, ledger.ControlLog, 0, 1)
	if err != nil {
		b.Fatal(err)
	}
	controlLog, messagesLog, err := replica.Policies(organisation, genesis[0])
	if err != nil {
		b.Fatal(err)
	}
	for log, policy := range map[ledger.Log]*ledger.Policy{ledger.ControlLog: controlLog, ledger.MessagesLog: messagesLog} {
		size, root := b.Head(log)
		entries, err := b.Entries(b.ctx, log, 0, size)
		if err != nil || int64(len(entries)) != size {
			b.Fatalf("%s: %d of %d entries, %v", log, len(entries), size, err)
		}
		var edge ledger.Edge
		roots := []tlog.Hash{edge.Root()}
		for _, e := range entries {
			if _, err := edge.Append(nil, e); err != nil {
				b.Fatal(err)
			}
			roots = append(roots, edge.Root())
		}
		if codec.Hash(roots[size]) != root {
			b.Errorf("%s: the entries don't make the root", log)
		}
		if stored, err := ledger.Root(b.Hashes(b.ctx, log), size); err != nil || stored != roots[size] {
			b.Errorf("%s: the stored hashes don't make the root: %v", log, err)
		}
		if signed, _ := b.Checkpoint(log); signed == nil {
			b.Errorf("%s: no checkpoint", log)
		} else if _, err := policy.Verify(signed); err != nil {
			b.Errorf("%s: its checkpoint: %v", log, err)
		} else {
			seen.notes[log][string(signed)] = true
		}
		for note := range seen.notes[log] {
			c, err := ledger.OpenUnwitnessed(policy.Log, []byte(note))
			switch {
			case err != nil:
				b.Errorf("%s: a checkpoint that was shown: %v", log, err)
			case c.Size > size || c.Root != roots[c.Size]:
				b.Errorf("%s: a checkpoint of %d leaves was shown that the log, of %d, doesn't continue", log, c.Size, size)
			}
		}
		b.Logf("%s: %d leaves, %d checkpoints seen", log, size, len(seen.notes[log]))
		b.roots[log] = roots
		if log == ledger.MessagesLog {
			b.entries = entries
		}
	}
}

// chain is a device in a conversation.
type chain struct {
	device       codec.Hash
	conversation codec.ID
}

// checkLeaves checks of every leaf of the messages log what it stands for:
// receipt, object, envelope, tags, its place in the conversation and in the
// device's chain.
func (b *books) checkLeaves() {
	b.Helper()
	type last struct {
		next uint64
		leaf codec.Hash
		core codec.Hash
	}
	places, chains := map[codec.ID]last{}, map[chain]last{}
	kinds := map[manifest.LeafKind]int{}
	for i, entry := range b.entries {
		leaf, err := b.Leaf(b.ctx, int64(i))
		if err != nil {
			b.Errorf("leaf %d stands for nothing: %v", i, err)
			continue
		}
		kinds[leaf.Kind]++
		r, err := manifest.OpenReceipt(b.receipts, leaf.Receipt)
		if err != nil {
			b.Errorf("leaf %d: %v", i, err)
			continue
		}
		body := &r.Opening.Body
		object, prev, err := b.object(leaf)
		place := places[leaf.Conversation]
		switch hash := r.Leaf(); {
		case err != nil:
			b.Errorf("leaf %d: %v", i, err)
		case r.Index != int64(i) || !bytes.Equal(hash[:], entry) || r.Object != object || body.Kind != leaf.Kind:
			b.Errorf("leaf %d isn't the one that its receipt promises", i)
		case body.Conversation != leaf.Conversation || body.Position != leaf.Position || leaf.Position != place.next || body.Previous != place.leaf:
			b.Errorf("leaf %d is at %d after %s, and its conversation at %d after %s", i, body.Position, body.Previous.Short(), place.next, place.leaf.Short())
		case body.ControlSize >= int64(len(b.roots[ledger.ControlLog])) || body.ControlRoot != codec.Hash(b.roots[ledger.ControlLog][body.ControlSize]):
			b.Errorf("leaf %d names another control log", i)
		}
		places[leaf.Conversation] = last{next: leaf.Position + 1, leaf: codec.Hash(entry)}
		if leaf.Chained {
			c := chain{leaf.Device, leaf.Conversation}
			if leaf.Seq != chains[c].next || leaf.Kind == manifest.LeafMessage && prev != chains[c].core {
				b.Errorf("leaf %d is number %d of its device after %s, want %d after %s", i, leaf.Seq, prev.Short(), chains[c].next, chains[c].core.Short())
			}
			chains[c] = last{next: leaf.Seq + 1, core: leaf.Core}
		}
	}
	if l, err := b.Leaf(b.ctx, int64(len(b.entries))); err == nil {
		b.Errorf("leaf %d is not in the log", l.Index)
	}
	_, envelopes, err := b.Counts(b.ctx)
	if err != nil || int(envelopes) != kinds[manifest.LeafMessage] {
		b.Errorf("%d envelopes, and %d leaves of messages, %v", envelopes, kinds[manifest.LeafMessage], err)
	}
	if err := b.Conversations(b.ctx, func(c *store.Conversation) error {
		if p := places[c.ID]; c.Positions != p.next || c.Leaf != p.leaf {
			b.Errorf("conversation %s stands at %d, and its leaves at %d", c.ID, c.Positions, p.next)
		}
		delete(places, c.ID)
		return nil
	}); err != nil || len(places) > 0 {
		b.Errorf("%d conversations are missing, %v", len(places), err)
	}
	for c, l := range chains {
		got, err := b.Chain(b.ctx, c.device, c.conversation)
		if err != nil || got.Next != l.next || got.Prev != l.core {
			b.Errorf("a device's chain stands at %+v, its leaves at %+v, %v", got, l, err)
		}
	}
	b.Logf("leaves: %v", kinds)
}

// object returns the hash of what a leaf stands for and, of a message, the core
// before it.
func (b *books) object(leaf *store.Leaf) (object, prev codec.Hash, err error) {
	switch leaf.Kind {
	case manifest.LeafMessage:
		m, err := manifest.Parse(leaf.Object)
		if err != nil {
			return object, prev, err
		}
		e, err := envelope.Parse(leaf.Envelope)
		if err != nil {
			return object, prev, err
		}
		var tags codec.Hash
		if !m.Transport.Tags.IsZero() {
			parsed, err := blindindex.Parse(leaf.Tags)
			if err != nil {
				return object, prev, err
			}
			tags = blindindex.Hash(parsed)
		}
		if e.Hash() != m.Core.Envelope || tags != m.Transport.Tags || m.CoreHash() != leaf.Core || m.Header.Seq != leaf.Seq || m.Header.Device != leaf.Device {
			return object, prev, errors.New("its envelope, tags or place are not its manifest's")
		}
		return m.Hash(), m.Header.Prev, nil
	case manifest.LeafCommit:
		return manifest.CommitHash(leaf.Object), prev, nil
	case manifest.LeafVoid:
		return manifest.VoidHash(leaf.Object), prev, nil
	case manifest.LeafHeads:
		var h manifest.Heads
		err := codec.Decode(leaf.Object, &h)
		return h.Hash(), prev, err
	}
	return object, prev, errors.New("a leaf of no kind")
}

// recorded is an entry of a holder's record (spec/opening.md#record).
type recorded struct {
	_        struct{} `cbor:",toarray"`
	Previous codec.Hash
	Time     int64
	What     string
	Request  codec.Hash
	Use      codec.Hash
	Root     codec.Hash
	Count    uint64
	Outcome  string
}

func holderRecord(t *testing.T, dir string) []recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "record.log"))
	if err != nil {
		t.Error(err)
		return nil
	}
	var out []recorded
	var previous codec.Hash
	for len(data) >= 4 {
		n := int(endian.BigEndian.Uint32(data))
		data = data[4:]
		if n > len(data) {
			t.Errorf("%s: the record ends within an entry", dir)
			return out
		}
		var e recorded
		if err := codec.Decode(data[:n], &e); err != nil {
			t.Errorf("%s: %v", dir, err)
			return out
		}
		if e.Previous != previous {
			t.Errorf("%s: entry %d doesn't follow the one before", dir, len(out)+1)
		}
		previous = codec.Sum("record", data[:n])
		out, data = append(out, e), data[n:]
	}
	if len(data) > 0 {
		t.Errorf("%s: the record ends within an entry", dir)
	}
	return out
}
