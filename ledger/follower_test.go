package ledger

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestFollower(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 100, "a")
	f, err := NewFollower(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, 1, 1, 7, 64, 99, 100} {
		c, err := f.Advance(w.sign(t, m, size, w.witnesses...), m.entries[f.Size():size])
		if err != nil {
			t.Fatalf("to %d: %v", size, err)
		}
		if c.Size != size || f.Size() != size || f.Held() != c {
			t.Fatalf("at %d after advancing to %d", f.Size(), size)
		}
		// A restart anywhere changes nothing.
		again, err := RestoreFollower(w.policy, f.Encode())
		if err != nil {
			t.Fatalf("restored at %d: %v", size, err)
		}
		if !bytes.Equal(again.Encode(), f.Encode()) {
			t.Fatalf("restored at %d to another state", size)
		}
		f = again
	}
}

func TestFollowerRefuses(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 20, "a")
	rewritten := newMemory(t, 20, "b")
	branch := newMemory(t, 10, "a")
	branch.add(t, flavoured(10, 20, "b")...)
	f, _ := NewFollower(w.policy)
	if _, err := f.Advance(w.sign(t, m, 10, w.witnesses...), m.entries[:10]); err != nil {
		t.Fatal(err)
	}
	before := f.Encode()
	swapped := append([][]byte{m.entries[11], m.entries[10]}, m.entries[12:]...)
	for name, c := range map[string]struct {
		signed  []byte
		entries [][]byte
		want    error
	}{
		"rollback":            {w.sign(t, m, 9, w.witnesses...), nil, ErrRollback},
		"rollback to nothing": {w.sign(t, m, 0, w.witnesses...), nil, ErrRollback},
		"unwitnessed":         {w.sign(t, m, 20, w.witnesses[1]), m.entries[10:], ErrUnwitnessed},
		"one entry missing":   {w.sign(t, m, 20, w.witnesses...), m.entries[11:], ErrEntries},
		"one entry more":      {w.sign(t, m, 19, w.witnesses...), m.entries[10:], ErrEntries},
		"no entries":          {w.sign(t, m, 20, w.witnesses...), nil, ErrEntries},
		"entries swapped":     {w.sign(t, m, 20, w.witnesses...), swapped, ErrEntries},
		"other entries":       {w.sign(t, m, 20, w.witnesses...), branch.entries[10:], ErrEntries},
		"rewritten past":      {w.sign(t, rewritten, 20, w.witnesses...), rewritten.entries[10:], ErrEntries},
		"entry too long":      {w.sign(t, m, 11, w.witnesses...), [][]byte{make([]byte, MaxEntry+1)}, ErrSize},
	} {
		if _, err := f.Advance(c.signed, c.entries); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if !bytes.Equal(f.Encode(), before) {
			t.Fatalf("%s: the follower moved", name)
		}
	}
	// Two roots at one size convict by themselves.
	_, err := f.Advance(w.sign(t, rewritten, 10, w.witnesses...), nil)
	var fork *Fork
	if !errors.As(err, &fork) {
		t.Fatalf("fork: %v", err)
	}
	if err := fork.Check(w.policy); err != nil {
		t.Errorf("evidence: %v", err)
	}
	// After all that the true log is still followed.
	if _, err := f.Advance(w.sign(t, m, 20, w.witnesses...), m.entries[10:]); err != nil {
		t.Errorf("true continuation: %v", err)
	}
}

func TestProveFork(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 20, "a")
	rewritten := newMemory(t, 33, "b")
	branch := newMemory(t, 20, "a")
	branch.add(t, flavoured(20, 33, "b")...)
	verify := func(m *memory, size int64) *Cosigned {
		c, err := w.policy.Verify(w.sign(t, m, size, w.witnesses...))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	held := verify(m, 20)
	fork, err := ProveFork(held, verify(rewritten, 33), rewritten)
	if err != nil || fork == nil {
		t.Fatalf("no proof: %v", err)
	}
	parsed, err := ParseFork(fork.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Check(w.policy); err != nil {
		t.Fatal(err)
	}
	// Without the witnesses the log stands convicted alone.
	alone := &Fork{Held: held.Note, Offered: w.sign(t, rewritten, 33), Prefix: fork.Prefix, Proof: fork.Proof}
	if err := alone.CheckLog(w.policy.Log); err != nil {
		t.Error(err)
	}
	if err := alone.Check(w.policy); !errors.Is(err, ErrUnwitnessed) {
		t.Errorf("the witnesses stand convicted, too: %v", err)
	}
	if honest, err := ProveFork(held, verify(branch, 33), branch); err != nil || honest != nil {
		t.Errorf("an honest continuation was accused: %v, %v", honest, err)
	}

	// A false accusation does not hold.
	honest := verify(branch, 33)
	proof, _ := ProveConsistency(branch, 20, 33)
	for name, f := range map[string]*Fork{
		"agreeing checkpoints": {Held: held.Note, Offered: honest.Note, Prefix: held.Root, Proof: proof},
		"made-up prefix":       {Held: held.Note, Offered: honest.Note, Prefix: rewritten.hashes[0], Proof: proof},
		"the same twice":       {Held: held.Note, Offered: held.Note},
		"backwards":            {Held: honest.Note, Offered: held.Note, Prefix: held.Root, Proof: proof},
		"prefix at one size":   {Held: held.Note, Offered: verify(rewritten, 20).Note, Prefix: held.Root},
		"unwitnessed":          {Held: held.Note, Offered: w.sign(t, rewritten, 33, w.witnesses[0]), Prefix: fork.Prefix, Proof: fork.Proof},
	} {
		if f.Check(w.policy) == nil || (name != "unwitnessed" && f.CheckLog(w.policy.Log) == nil) {
			t.Errorf("%s: convicts", name)
		}
	}
	data := fork.Encode()
	for i := 0; i < len(data); i++ {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if f, err := ParseFork(bad); err == nil && f.Check(w.policy) == nil {
			// Only a spare cosignature's line may change: two of three suffice.
			if !bytes.Contains(data[:i], []byte("— ")) {
				t.Fatalf("bit of byte %d flipped and it still convicts", i)
			}
		}
	}
}

func TestFollowerKeepsLaterCosignatures(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 3, "a")
	old := w.sign(t, m, 3, w.witnesses...)
	w.now = w.now.Add(time.Hour)
	fresh := w.sign(t, m, 3, w.witnesses...)
	f, _ := NewFollower(w.policy)
	for _, step := range []struct {
		signed  []byte
		entries [][]byte
	}{{fresh, m.entries}, {old, nil}} {
		c, err := f.Advance(step.signed, step.entries)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Time().Equal(w.now) {
			t.Errorf("held is vouched for at %v", c.Time())
		}
	}
}

func TestRestoreFollowerRefuses(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 7, "a")
	f, _ := NewFollower(w.policy)
	if _, err := f.Advance(w.sign(t, m, 7, w.witnesses[:2]...), m.entries); err != nil {
		t.Fatal(err)
	}
	data := f.Encode()
	end := bytes.Index(data, []byte("— witness"))
	for i := range data[:end] {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if _, err := RestoreFollower(w.policy, bad); err == nil {
				t.Fatalf("bit %d of byte %d flipped and accepted", bit, i)
			}
		}
	}
	other := *w.policy
	other.Log.Key = other.Witnesses[0].Key
	other.Witnesses = other.Witnesses[1:]
	if _, err := RestoreFollower(&other, data); !errors.Is(err, ErrLogSignature) {
		t.Errorf("another log's state: %v", err)
	}
	// A witness that was replaced since does not make the state unreadable.
	replaced := *w.policy
	replaced.Witnesses = replaced.Witnesses[2:]
	replaced.Quorum = 1
	g, err := RestoreFollower(&replaced, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Held().Fresh(w.now, time.Hour); !errors.Is(err, ErrStale) {
		t.Errorf("a checkpoint without the new quorum is fresh: %v", err)
	}
}

func TestSetPolicy(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 3, "a")
	f, _ := NewFollower(w.policy)
	smaller := *w.policy
	smaller.Witnesses, smaller.Quorum = smaller.Witnesses[2:], 1
	if err := f.SetPolicy(&smaller); err != nil {
		t.Fatal(err)
	}
	// The witnesses of before no longer count.
	if _, err := f.Advance(w.sign(t, m, 3, w.witnesses[:2]...), m.entries); !errors.Is(err, ErrUnwitnessed) {
		t.Errorf("replaced witnesses: %v", err)
	}
	for name, change := range map[string]func(p *Policy){
		"origin": func(p *Policy) { p.Log.Origin += "x" },
		"key":    func(p *Policy) { p.Log.Key[0] ^= 1 },
	} {
		other := smaller
		change(&other)
		if err := f.SetPolicy(&other); !errors.Is(err, ErrOrigin) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := f.SetPolicy(&Policy{Log: w.policy.Log}); !errors.Is(err, ErrPolicy) {
		t.Errorf("no quorum: %v", err)
	}
}
