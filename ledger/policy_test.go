package ledger

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"chancery/codec"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func TestVerify(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 5, "a")
	signed := w.sign(t, m, 5, w.witnesses...)
	c, err := w.policy.Verify(signed)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := Root(m, 5)
	if c.Size != 5 || c.Root != root || len(c.Cosignatures) != 3 || !bytes.Equal(c.Note, signed) || !c.Time().Equal(w.now) {
		t.Errorf("got %+v", c)
	}
	log, err := OpenUnwitnessed(w.policy.Log, signed)
	if err != nil || log != c.Checkpoint {
		t.Errorf("log alone: %+v, %v", log, err)
	}
}

// Each of these is what somebody who isn't the log and a quorum could try.
func TestVerifyRefuses(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 5, "a")
	good := w.sign(t, m, 5, w.witnesses...)
	text := good[:bytes.Index(good, []byte("\n\n"))+2]
	lines := strings.SplitAfter(string(good[len(text):]), "\n")
	logLine, w0, w1 := lines[0], lines[1], lines[2]
	join := func(parts ...string) []byte { return []byte(string(text) + strings.Join(parts, "")) }

	// Somebody else's keys under the right names.
	thief, _ := NewLogSigner(w.origin, seeded(66))
	imposter, _ := NewWitnessSigner("witness.example/1", seeded(67), at(w.now))
	stranger, _ := NewWitnessSigner("stranger.example", seeded(68), at(w.now))
	// The log pretends to be a witness with its own key.
	self, _ := NewWitnessSigner("witness.example/1", seeded(1), at(w.now))
	// A witness key signs as the plain Ed25519 type, without a time.
	plain, _ := NewLogSigner("witness.example/1", seeded(11))
	other, _ := NewLogSigner(Origin(codec.Sum("other"), ControlLog), seeded(1))
	root, _ := Root(m, 5)
	elsewhere, _ := Sign(Checkpoint{Origin: other.Name(), Size: 5, Root: root}, other, w.witnesses[0], w.witnesses[1])
	messages, _ := NewLogSigner(Origin(codec.Sum("test"), MessagesLog), seeded(1))
	otherLog, _ := Sign(Checkpoint{Origin: messages.Name(), Size: 5, Root: root}, messages, w.witnesses[0], w.witnesses[1])
	bare, _ := Sign(Checkpoint{Origin: w.origin, Size: 0, Root: tlog.Hash{1}}, w.log, w.witnesses[0], w.witnesses[1])

	for name, c := range map[string]struct {
		signed []byte
		want   error
	}{
		"no witness":                            {join(logLine), ErrUnwitnessed},
		"one witness":                           {join(logLine, w0), ErrUnwitnessed},
		"one witness twice":                     {join(logLine, w0, w0), ErrUnwitnessed},
		"one witness at two times":              {append(join(logLine, w0), cosignatureAt(t, w, m, 0, w.now.Add(time.Second))...), ErrUnwitnessed},
		"unknown witness":                       {w.sign(t, m, 5, w.witnesses[0], stranger), ErrUnwitnessed},
		"imposter of a witness":                 {w.sign(t, m, 5, w.witnesses[0], imposter), ErrUnwitnessed},
		"log as witness":                        {w.sign(t, m, 5, w.witnesses[0], self), ErrUnwitnessed},
		"cosignature without time":              {w.sign(t, m, 5, w.witnesses[0], plain), ErrUnwitnessed},
		"witnesses without log":                 {join(w0, w1), ErrLogSignature},
		"stolen log name":                       {join(strings.Replace(string(mustSign(t, w, m, thief)), string(text), "", 1), w0, w1), ErrLogSignature},
		"another organisation":                  {elsewhere, ErrOrigin},
		"another log":                           {otherLog, ErrOrigin},
		"empty log with a root":                 {bare, ErrMalformed},
		"cosignature of another size":           {append(join(logLine, w0), cosignatureOf(t, w, m, 4, 1)...), ErrCosignature},
		"nothing":                               {nil, ErrMalformed},
		"text alone":                            {text, ErrMalformed},
		"too long":                              {append(bytes.Clone(good), bytes.Repeat([]byte(w0), 1000)...), ErrMalformed},
		"extension line":                        {bytes.Replace(good, []byte("\n\n"), []byte("\nextension\n\n"), 1), ErrMalformed},
		"leading zero":                          {bytes.Replace(good, []byte("\n5\n"), []byte("\n05\n"), 1), ErrMalformed},
		"signed size":                           {bytes.Replace(good, []byte("\n5\n"), []byte("\n+5\n"), 1), ErrMalformed},
		"negative size":                         {bytes.Replace(good, []byte("\n5\n"), []byte("\n-5\n"), 1), ErrMalformed},
		"another size":                          {bytes.Replace(good, []byte("\n5\n"), []byte("\n6\n"), 1), ErrLogSignature},
		"signature line cut":                    {good[:len(good)-1], ErrMalformed},
		"signature line with a second spelling": {bytes.Replace(good, []byte("=\n"), []byte("=\r\n"), 1), ErrMalformed},
	} {
		if _, err := w.policy.Verify(c.signed); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	var u *Unwitnessed
	if _, err := w.policy.Verify(join(logLine, w0)); !errors.As(err, &u) || u.Have != 1 || u.Need != 2 || u.Known != 3 {
		t.Errorf("got %+v", u)
	}
	// Lines that nobody knows are ignored.
	if _, err := w.policy.Verify(w.sign(t, m, 5, stranger, w.witnesses[2], w.witnesses[0])); err != nil {
		t.Errorf("with a stranger's line: %v", err)
	}
}

func mustSign(t *testing.T, w *world, m *memory, s note.Signer) []byte {
	t.Helper()
	root, _ := Root(m, 5)
	signed, err := Sign(Checkpoint{Origin: w.origin, Size: 5, Root: root}, s)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func cosignatureOf(t *testing.T, w *world, m *memory, size int64, witness int) []byte {
	t.Helper()
	root, _ := Root(m, size)
	c := Checkpoint{Origin: w.origin, Size: size, Root: root}
	signed, err := Sign(c, w.witnesses[witness])
	if err != nil {
		t.Fatal(err)
	}
	return signed[len(c.Marshal())+1:]
}

func cosignatureAt(t *testing.T, w *world, m *memory, witness int, now time.Time) []byte {
	t.Helper()
	defer func(was time.Time) { w.now = was }(w.now)
	w.now = now
	return cosignatureOf(t, w, m, 5, witness)
}

// With exactly a quorum of lines, no flipped bit anywhere is accepted.
func TestVerifyFlippedBits(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 5, "a")
	good := w.sign(t, m, 5, w.witnesses[:2]...)
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := w.policy.Verify(bad); err == nil {
				t.Fatalf("bit %d of byte %d (%q) flipped and accepted", bit, i, good[i])
			}
		}
	}
}

func TestPolicyCheck(t *testing.T) {
	w := newWorld(t)
	if err := w.policy.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *Policy){
		"no quorum":       func(p *Policy) { p.Quorum = 0 },
		"negative quorum": func(p *Policy) { p.Quorum = -1 },
		"quorum of 4":     func(p *Policy) { p.Quorum = 4 },
		"no origin":       func(p *Policy) { p.Log.Origin = "" },
		"name twice":      func(p *Policy) { p.Witnesses[1].Name = p.Witnesses[0].Name },
		// One cosignature would verify under both names.
		"key twice":      func(p *Policy) { p.Witnesses[1].Key = p.Witnesses[0].Key },
		"log as witness": func(p *Policy) { p.Witnesses[1].Key = p.Log.Key },
		"zero policy":    func(p *Policy) { *p = Policy{} },
	} {
		p := *newWorld(t).policy
		change(&p)
		if err := p.Check(); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Verify(nil); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: verified: %v", name, err)
		}
		if _, err := NewFollower(&p); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: followed: %v", name, err)
		}
	}
}

func TestFresh(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 5, "a")
	stamped := func(times ...time.Duration) *Cosigned {
		root, _ := Root(m, 5)
		c := Checkpoint{Origin: w.origin, Size: 5, Root: root}
		signed, _ := Sign(c, w.log)
		for i, d := range times {
			var err error
			if signed, err = AddSignatures(signed, cosignatureAt(t, w, m, i, w.now.Add(d))); err != nil {
				t.Fatal(err)
			}
		}
		out, err := w.policy.Verify(signed)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const limit = 5 * time.Minute
	for name, c := range map[string]struct {
		c    *Cosigned
		want error
	}{
		"fresh":                    {stamped(0, -time.Minute), nil},
		"one is old, quorum fresh": {stamped(0, -time.Hour, -time.Minute), nil},
		"stale":                    {stamped(-6*time.Minute, -7*time.Minute), ErrStale},
		"one liar is not a quorum": {stamped(0, -time.Hour), ErrStale},
		"from the future":          {stamped(time.Hour, 0), ErrStale},
	} {
		if err := c.c.Fresh(w.now, limit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := stamped(0, -time.Hour, -time.Minute)
	if !c.Newest().Equal(w.now) || !c.Oldest().Equal(w.now.Add(-time.Hour)) || !c.Time().Equal(w.now.Add(-time.Minute)) {
		t.Errorf("got %v", c.Cosignatures)
	}
	if err := new(Cosigned).Fresh(time.Time{}, limit); !errors.Is(err, ErrStale) {
		t.Errorf("zero value is fresh: %v", err)
	}
}

func TestWitnessClock(t *testing.T) {
	for _, now := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 0), time.Unix(maxTime+1, 0)} {
		s, err := NewWitnessSigner("w", seeded(3), at(now))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Sign(Checkpoint{Origin: "o", Root: EmptyRoot()}, s); err == nil {
			t.Errorf("cosigned at %v", now)
		}
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	log, err := ParseLogKey(w.policy.Log.String())
	if err != nil || log != w.policy.Log {
		t.Errorf("%v, %v", log, err)
	}
	k := w.policy.Witnesses[0]
	got, err := ParseWitnessKey(k.String())
	if err != nil || got != k {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "a", "a+b+c", k.String() + "=", strings.ToUpper(k.String()), w.policy.Log.String(), strings.Replace(k.String(), "+", "+0", 1)} {
		if _, err := ParseWitnessKey(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := NewLogSigner("a b", seeded(1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("name with a space: %v", err)
	}
}

func TestAddSignatures(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 5, "a")
	signed := w.sign(t, m, 5)
	line := cosignatureOf(t, w, m, 5, 0)
	once, err := AddSignatures(signed, line)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := AddSignatures(once, line)
	if err != nil || !bytes.Equal(once, twice) {
		t.Errorf("the same line was added twice: %v", err)
	}
	for _, bad := range []string{"x", "— a b\n", "— a AAAAAAAA", "\n", "— a AAAAAAAA\n\nx"} {
		if _, err := AddSignatures(signed, []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestExtend(t *testing.T) {
	w := newWorld(t)
	m := newMemory(t, 9, "a")
	fork := newMemory(t, 5, "a")
	fork.add(t, flavoured(5, 9, "b")...)
	rewritten := newMemory(t, 9, "b")
	verify := func(signed []byte) *Cosigned {
		c, err := w.policy.Verify(signed)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	sign := func(m *memory, size int64) []byte { return w.sign(t, m, size, w.witnesses...) }
	prove := func(m *memory, old, size int64) []tlog.Hash {
		p, err := ProveConsistency(m, old, size)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		held   *Cosigned
		signed []byte
		proof  []tlog.Hash
		want   error
	}{
		"first":                {nil, sign(m, 5), nil, nil},
		"first with proof":     {nil, sign(m, 5), prove(m, 4, 5), ErrProof},
		"grown":                {verify(sign(m, 5)), sign(m, 9), prove(m, 5, 9), nil},
		"same":                 {verify(sign(m, 5)), sign(m, 5), nil, nil},
		"from empty":           {verify(sign(m, 0)), sign(m, 5), nil, nil},
		"rollback":             {verify(sign(m, 9)), sign(m, 5), nil, ErrRollback},
		"rollback with proof":  {verify(sign(m, 9)), sign(m, 5), prove(m, 5, 9), ErrRollback},
		"no proof":             {verify(sign(m, 5)), sign(m, 9), nil, ErrProof},
		"proof of a fork":      {verify(sign(m, 9)), sign(rewritten, 9), nil, nil}, // below
		"rewritten":            {verify(sign(m, 5)), sign(rewritten, 9), prove(rewritten, 5, 9), ErrProof},
		"unwitnessed":          {verify(sign(m, 5)), w.sign(t, m, 9, w.witnesses[0]), prove(m, 5, 9), ErrUnwitnessed},
		"branch after the cut": {verify(sign(m, 5)), sign(fork, 9), prove(fork, 5, 9), nil},
	} {
		_, err := w.policy.Extend(c.held, c.signed, c.proof)
		if name == "proof of a fork" {
			var f *Fork
			if !errors.As(err, &f) || f.Check(w.policy) != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, c.want) || (err != nil) != (c.want != nil) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}
