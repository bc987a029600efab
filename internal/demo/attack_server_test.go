package demo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/custody"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/keyholder"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/internal/witness"
	"chancery/ledger"
	"chancery/request"
)

// controlCheckpoint is where the control log's newest checkpoint is read.
var controlCheckpoint = wire.PathLogs + string(ledger.ControlLog) + "/checkpoint"

// serve lets the server serve this checkpoint of the control log.
func (m *maliciousServer) serve(checkpoint func(real []byte) []byte) {
	m.tamper(nil, func(r *http.Request, body []byte) []byte {
		if r.URL.Path == controlCheckpoint {
			return checkpoint(body)
		}
		return body
	})
}

// unwitnessed takes all signatures from a checkpoint but so many.
func unwitnessed(t *testing.T, signed []byte, keep int) []byte {
	t.Helper()
	text, lines, ok := bytes.Cut(signed, []byte("\n\n"))
	if !ok {
		t.Fatalf("no signatures in %q", signed)
	}
	signatures := bytes.SplitAfter(bytes.TrimRight(lines, "\n"), []byte("\n"))
	kept := bytes.TrimRight(bytes.Join(signatures[:keep], nil), "\n")
	return slices.Concat(text, []byte("\n\n"), kept, []byte("\n"))
}

// serverKeys are the keys that a server holds in clear, as whoever owns it does.
type serverKeys struct {
	_                          struct{} `cbor:",toarray"`
	Control, Messages, Receipt []byte
}

func (s *stage) serverKeys(t *testing.T) *serverKeys {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.summary.ServerDir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	out := new(serverKeys)
	if err := codec.Decode(data, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// conspire signs a checkpoint with the log's key and those of all witnesses.
func (s *stage) conspire(t *testing.T, c ledger.Checkpoint, seed []byte) []byte {
	t.Helper()
	log, err := ledger.NewLogSigner(c.Origin, ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	signers := []note.Signer{log}
	for n, dir := range s.summary.WitnessDirs {
		key, err := witness.LoadOrCreateKey(dir, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		w, err := ledger.NewWitnessSigner(s.genesis().Witnesses[n].Name, key, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, w)
	}
	signed, err := ledger.Sign(c, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (s *stage) controlCheckpoint(t *testing.T) []byte {
	t.Helper()
	raw, err := s.server.Checkpoint(attackContext(t), ledger.ControlLog)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// serveLog lets the server serve the control log with another entry at its end,
// which every witness has signed.
func (m *maliciousServer) serveLog(t *testing.T, s *stage, entry []byte) {
	t.Helper()
	entries, _ := s.replica.Entries()
	entries = append(entries, entry)
	var edge ledger.Edge
	for _, e := range entries {
		if _, err := edge.Append(nil, e); err != nil {
			t.Fatal(err)
		}
	}
	checkpoint := s.conspire(t, ledger.Checkpoint{
		Origin: ledger.Origin(s.home.Organisation, ledger.ControlLog), Size: edge.Size(), Root: tlog.Hash(edge.Root()),
	}, s.serverKeys(t).Control)
	prefix := wire.PathLogs + string(ledger.ControlLog) + "/"
	m.tamper(func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.URL.Path == controlCheckpoint {
			w.Write(checkpoint) // whoever doesn't get it asks again
			return true
		}
		path, ok := strings.CutPrefix(r.URL.Path, prefix)
		tile, err := ledger.ParsePath(path)
		if !ok || err != nil || tile.L != ledger.EntryLevel {
			return false
		}
		from := tile.N * ledger.TileWidth
		bundle, err := ledger.EncodeBundle(entries[from:min(from+int64(tile.W), int64(len(entries)))])
		if err != nil {
			return false
		}
		w.Write(bundle)
		return true
	}, nil)
}

// TestMaliciousServer puts a server that lies about the control log before one
// keyholder and one guard. They answer under no lie, and under all of it again
// once the lie is over.
func TestMaliciousServer(t *testing.T) {
	s := scene(t, "approve")
	old := s.controlCheckpoint(t)
	h := s.ask(t, approvals, nil)
	i := s.insider(t, h)
	everything := i.download()
	all := everything.records
	m := newMaliciousServer(t, s)
	victims := []string{"keyholder-1", "guard-1"}
	for _, name := range victims {
		s.behind(t, name, m)
	}
	var asked []holder
	for _, x := range s.holders() {
		if slices.Contains(victims, x.Name) {
			asked = append(asked, x)
		}
	}
	refused := func(t *testing.T, w want) {
		t.Helper()
		i.t = t
		for _, x := range asked {
			i.refused(x, i.query(x.guard, x.index, all, everything, nil), w)
		}
		m.tamper(nil, nil)
		s.untouched(t, h)
	}
	// What follows rests on what the holders have seen.
	synced := func(t *testing.T) {
		t.Helper()
		ctx := attackContext(t)
		for _, x := range asked {
			for {
				status, err := remote.NewHolder(x.url, nil, nil).Status(ctx)
				if err == nil && status.ControlSize >= s.replica.Size() {
					break
				}
				select {
				case <-ctx.Done():
					t.Fatalf("%s doesn't follow the log: %+v, %v", x.Name, status, err)
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
	}
	synced(t)

	t.Run("unwitnessed", func(t *testing.T) {
		m.serve(func(real []byte) []byte { return unwitnessed(t, real, 1) })
		refused(t, want{code: request.CodeStale, reason: ledger.ErrUnwitnessed.Error()})
	})
	t.Run("one witness of two", func(t *testing.T) {
		m.serve(func(real []byte) []byte { return unwitnessed(t, real, 2) })
		refused(t, want{code: request.CodeStale, reason: ledger.ErrUnwitnessed.Error()})
	})
	t.Run("rolled back", func(t *testing.T) {
		m.serve(func([]byte) []byte { return old })
		refused(t, want{code: request.CodeStale, reason: ledger.ErrRollback.Error()})
	})
	t.Run("rolled back before a restart", func(t *testing.T) {
		m.serve(func([]byte) []byte { return old })
		for _, name := range victims {
			p := s.program(t, name)
			if err := p.kill(); err != nil {
				t.Fatal(err)
			}
			p.restart(t)
		}
		refused(t, want{code: request.CodeStale, reason: "the log served lacks what was witnessed before"})
		synced(t)
	})
	t.Run("another log's checkpoint", func(t *testing.T) {
		other := s.messages(t, 0)
		m.serve(func([]byte) []byte { return other.Note })
		refused(t, want{code: request.CodeStale})
	})
	t.Run("forked, with every witness in it", func(t *testing.T) {
		c := s.replica.Checkpoint().Checkpoint
		c.Root = tlog.Hash(codec.Sum("another history"))
		forged := s.conspire(t, c, s.serverKeys(t).Control)
		m.serve(func([]byte) []byte { return forged })
		refused(t, want{code: request.CodeStale, reason: "the log has forked"})
	})
	t.Run("altered leaf", func(t *testing.T) {
		var altered atomic.Int64
		m.tamper(nil, func(r *http.Request, body []byte) []byte {
			if strings.Contains(r.URL.Path, "/control/tile/entries/") {
				altered.Add(1)
				body = bytes.Clone(body)
				body[len(body)-1] ^= 1
			}
			return body
		})
		if err := s.desk(s.reviewer).OpenMatter(attackContext(t), codec.NewID(), &request.Details{Title: "another matter"}); err != nil {
			t.Fatal(err)
		}
		refused(t, want{code: request.CodeStale, reason: ledger.ErrEntries.Error()})
		if altered.Load() == 0 {
			t.Error("nothing was altered")
		}
		synced(t)
	})
	t.Run("leaves that nobody may sign", func(t *testing.T) {
		reviewer := s.genesis().Reviewers[0]
		s.logged(t, &control.RoleChange{Nonce: codec.NewID(), Role: control.RoleApprover, Person: reviewer}, bySSH(s.officer[0]), bySSH(s.officer[1]))
		var policy codec.Hash
		s.replica.Read(func(st *control.State) { policy = st.Policy().Hash })
		own := codec.NewPrivateKey()
		weak := s.genesis().Policy
		weak.Version, weak.Approvals = weak.Version+1, 1
		for name, forged := range map[string]struct {
			body   control.Body
			by     func(*control.Statement) (control.Signature, error)
			reason string
		}{
			"the requester's approval": {
				&control.Approval{Nonce: codec.NewID(), Request: h, Decision: control.Approve, Role: control.RoleApprover, Policy: policy},
				bySSH(s.reviewer), "the requester never approves",
			},
			"an approval by the server": {
				&control.Approval{Nonce: codec.NewID(), Request: h, Decision: control.Approve, Role: control.RoleApprover, Policy: policy},
				byKey(own), control.ErrUnauthorised.Error(),
			},
			"an opener of the server's": {
				&control.Opener{Request: h, Sign: own.PublicKey(), Encrypt: i.decrypt.PublicKey().Bytes(), Evidence: control.EvidenceNone},
				byKey(own), "an opener without evidence needs the requester's signature",
			},
			"a policy of one officer's": {&weak, bySSH(s.officer[0]), control.ErrUnauthorised.Error()},
		} {
			t.Run(name, func(t *testing.T) {
				statement, _, err := control.NewStatement(rand.Reader, s.home.Organisation, forged.body)
				if err != nil {
					t.Fatal(err)
				}
				signature, err := forged.by(statement)
				if err != nil {
					t.Fatal(err)
				}
				m.serveLog(t, s, control.NewLeaf(statement, time.Now().UnixMilli(), []control.Signature{signature}).Encode())
				refused(t, want{code: request.CodeStale, reason: forged.reason})
			})
		}
		synced(t)
	})
	t.Run("hidden hold or request", func(t *testing.T) {
		// The leaf is there, its opening isn't: it may be a hold or more.
		from := s.replica.Size()
		m.tamper(nil, func(r *http.Request, body []byte) []byte {
			if r.URL.Path != wire.PathOpenings {
				return body
			}
			var openings []wire.Opening
			if codec.Decode(body, &openings) != nil {
				return body
			}
			return codec.Encode(slices.DeleteFunc(openings, func(o wire.Opening) bool { return o.Index >= from }))
		})
		s.placeHold(t)
		// A guard signs no destruction meanwhile, whatever month it is of.
		last := s.month(t, control.MonthOf(envelope.DayOf(time.Now()))+3)
		s.destroy(t, last)
		s.unwilling(t, s.holders()[len(keyholders)], "a sealed leaf has no opening, and counts as a hold on everything")
		if s.destroyed(t, last) {
			t.Error("the month's key is destroyed")
		}
		refused(t, want{code: request.CodeUnopened, reason: "1 sealed leaves lack their opening"})
	})
	t.Run("messages checkpoint", func(t *testing.T) {
		for name, lie := range map[string]func(c []byte) []byte{
			"unwitnessed":         func(c []byte) []byte { return unwitnessed(t, c, 1) },
			"one witness of two":  func(c []byte) []byte { return unwitnessed(t, c, 2) },
			"of the control log":  func([]byte) []byte { return s.controlCheckpoint(t) },
			"changed":             func(c []byte) []byte { return bytes.Replace(c, []byte("\n"), []byte("\n1"), 1) },
			"none":                func([]byte) []byte { return nil },
			"signed by nobody":    func(c []byte) []byte { return unwitnessed(t, c, 0) },
			"of another identity": func(c []byte) []byte { return bytes.Replace(c, []byte("/"), []byte("/0"), 1) },
		} {
			t.Run(name, func(t *testing.T) {
				i.t = t
				for _, x := range s.holders() {
					raw := i.query(x.guard, x.index, all, everything, func(q *request.Query) { q.Checkpoint = lie(q.Checkpoint) })
					i.refused(x, raw, want{code: request.CodeStale, reason: "messages checkpoint"})
				}
				s.untouched(t, h)
			})
		}
	})
	t.Run("stale", func(t *testing.T) { s.stale(t, i, everything) })
	t.Run("and all is answered once the lies are over", func(t *testing.T) {
		i.t = t
		for _, x := range asked {
			i.answered(x, i.query(x.guard, x.index, all, everything, nil))
		}
		if uses := s.uses(t, h); uses != len(asked) {
			t.Errorf("%d uses for %d answers", uses, len(asked))
		}
	})
}

// placeHold has the reviewer place a hold on everybody.
func (s *stage) placeHold(t *testing.T) codec.Hash {
	t.Helper()
	file, _, err := home.ReadRequest(s.requestFile())
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := s.custodians()
	if err != nil {
		t.Fatal(err)
	}
	today := envelope.DayOf(time.Now())
	h, err := s.desk(s.reviewer).PlaceHold(attackContext(t), file.Matter, ids, today, today, "")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// stale replaces a keyholder by one in this process, over the same folder and
// against the same server, whose clock is six minutes on: to it, the newest that
// the witnesses signed is too old. (TestWitnessesGone waits instead.)
func (s *stage) stale(t *testing.T, i *insider, everything *haul) {
	x := s.holders()[1]
	p := s.program(t, x.Name)
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	secret, err := custody.KeyFile(s.path("keys", x.Name))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := custody.OpenHolder(s.summary.KeyholderDirs[1], secret)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- keyholder.Run(ctx, keyholder.Config{
			Dir: s.summary.KeyholderDirs[1], Custody: keys, Organisation: s.home.Organisation,
			Server: remote.New(s.home.Server, nil, httpsig.Ed25519(keys)), Listener: l,
			Now: func() time.Time { return time.Now().Add(6 * time.Minute) }, Log: slog.New(slog.DiscardHandler),
		})
	}()
	i.t = t
	x.url = "http://" + l.Addr().String()
	i.refused(x, i.query(x.guard, x.index, everything.records, everything, nil), want{code: request.CodeStale, reason: ledger.ErrStale.Error()})
	s.untouched(t, i.request)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
	p.restart(t)
}

// TestWitnessesGone kills the witnesses. What was logged since is no use that
// anybody saw: there is no answer, and after five minutes no look at the log
// either.
func TestWitnessesGone(t *testing.T) {
	if !campaign() {
		t.Skip("waits out the five minutes that holders go on without witnesses: CHANCERY_CAMPAIGN=1 go test ./internal/demo -run TestWitnessesGone, or ./test campaign")
	}
	s := scene(t, "approve")
	h := s.ask(t, approvals, nil)
	i := s.insider(t, h)
	everything := i.download()
	asked := s.holders()
	var early, later [][]byte
	for _, x := range asked {
		early = append(early, i.query(x.guard, x.index, everything.records[:1], everything, nil))
		later = append(later, i.query(x.guard, x.index, everything.records, everything, nil))
	}
	for _, name := range []string{"witness-1", "witness-2"} {
		if err := s.program(t, name).kill(); err != nil {
			t.Fatal(err)
		}
	}
	i.refused(asked[0], early[0], want{code: request.CodeIncomplete, reason: "no witnessed checkpoint covers it"})
	time.Sleep(5*time.Minute + 10*time.Second)
	for n, x := range asked {
		i.refused(x, later[n], want{code: request.CodeStale, reason: ledger.ErrStale.Error()})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.tryOpen(ctx, nil); err == nil {
		t.Error("opened without a witness")
	}
	s.untouched(t, h)
}

// TestHidden: a server that takes statements and logs none of them. People hand
// what binds to the holders themselves, so that it binds.
func TestHidden(t *testing.T) {
	s := scene(t, "approve")
	everything := s.insider(t, s.summary.Request).download()
	all := everything.records
	m := newMaliciousServer(t, s)
	m.swallow()
	lied := func(d *matters.Desk) *matters.Desk {
		d.Server = remote.New(m.URL, nil, httpsig.SSH(d.Key))
		return d
	}
	t.Run("withdrawal", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := s.insider(t, h)
		_, err := lied(s.desk(s.reviewer)).Withdraw(attackContext(t), h, "a mistake")
		hidden(t, err)
		i.refusedByAll(want{code: request.CodeWithdrawn, reason: "as was handed over"}, all, everything, nil)
		s.replica.Read(func(st *control.State) {
			if r, _ := st.Request(h); r.Withdrawn != control.Never {
				t.Error("the server logged it: the test shows nothing")
			}
		})
		s.stopped(t, h, "too few keyholders answered", "keyholder-1: refused (withdrawn)", "as was handed over")
		s.untouched(t, h)
	})
	t.Run("veto", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := s.insider(t, h)
		_, err := lied(s.desk(s.approver[3])).Decide(attackContext(t), h, control.Refuse, "no")
		hidden(t, err)
		i.refusedByAll(want{code: request.CodeApprovals, reason: "as was handed over"}, all, everything, nil)
		s.stopped(t, h, "too few keyholders answered", "keyholder-2: refused (approvals)")
		s.untouched(t, h)
	})
	t.Run("withdrawal, after a restart of the holders", func(t *testing.T) {
		h := s.ask(t, approvals, nil)
		i := s.insider(t, h)
		_, err := lied(s.desk(s.officer[0])).Withdraw(attackContext(t), h, "")
		hidden(t, err)
		for _, x := range s.holders() {
			p := s.program(t, x.Name)
			if err := p.kill(); err != nil {
				t.Fatal(err)
			}
			p.restart(t)
		}
		i.refusedByAll(want{code: request.CodeWithdrawn, reason: "as was handed over"}, all, everything, nil)
	})
	t.Run("hold", func(t *testing.T) { s.hiddenHold(t, lied(s.desk(s.reviewer))) })
	t.Run("approval", func(t *testing.T) {
		h := s.ask(t, approvals-1, nil)
		_, err := lied(s.desk(s.approver[2])).Decide(attackContext(t), h, control.Approve, "")
		hidden(t, err)
		s.stopped(t, h, "2 of 3 approvals")
	})
	t.Run("answer about another statement", func(t *testing.T) {
		m.tamper(nil, func(r *http.Request, body []byte) []byte {
			var done wire.Submitted
			if r.URL.Path != wire.PathControl || codec.Decode(body, &done) != nil {
				return body
			}
			done.Hash = s.summary.Request
			return codec.Encode(&done)
		})
		defer m.swallow()
		err := lied(s.desk(s.reviewer)).OpenMatter(attackContext(t), codec.NewID(), &request.Details{Title: "a matter"})
		if err == nil || !strings.Contains(err.Error(), "the server answers about another statement") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("revocation", func(t *testing.T) { s.hiddenRevocation(t, lied(s.desk(s.officer[0]))) })
}

// hidden demands that a desk has noticed that the server logged nothing, and has
// handed its statement to every holder all the same.
func hidden(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, matters.ErrHidden) || errors.Is(err, matters.ErrNotHandedOver) {
		t.Fatalf("got %v, want %q", err, matters.ErrHidden)
	}
}

// hiddenHold: the guards were handed a hold that the log lacks, and sign no
// destruction of a month that it covers.
func (s *stage) hiddenHold(t *testing.T, desk *matters.Desk) {
	ctx := attackContext(t)
	file, _, err := home.ReadRequest(s.requestFile())
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := s.custodians()
	if err != nil {
		t.Fatal(err)
	}
	now := control.MonthOf(envelope.DayOf(time.Now()))
	held, free := s.month(t, now+2), s.month(t, now+3)
	day := envelope.DayOf(time.Date(1970, time.Month(now+2+1), 15, 0, 0, 0, 0, time.UTC))
	hold, err := desk.PlaceHold(ctx, file.Matter, ids, day, day, "keep it")
	hidden(t, err)
	s.replica.Read(func(st *control.State) {
		if _, ok := st.Hold(hold); ok {
			t.Error("the server logged it: the test shows nothing")
		}
	})
	s.destroy(t, held)
	for _, x := range s.holders()[len(keyholders):] {
		s.unwilling(t, x, "a hold that was handed over covers it")
	}
	// A month that the hold doesn't cover goes, by the same officers' word.
	s.destroy(t, free)
	for !s.destroyed(t, free) {
		select {
		case <-ctx.Done():
			t.Fatal("the guards sign nothing: the test shows nothing")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if s.destroyed(t, held) {
		t.Error("the key of a held month is destroyed")
	}
}

// month returns the escrow key of a month.
func (s *stage) month(t *testing.T, n uint32) (h codec.Hash) {
	t.Helper()
	s.replica.Read(func(st *control.State) {
		for _, m := range st.Months() {
			if m.Month.Month == n {
				h = m.Hash
			}
		}
	})
	if h.IsZero() {
		t.Fatalf("no key for month %d", n)
	}
	return h
}

// destroy has the officers ask the guards to destroy a month's key.
func (s *stage) destroy(t *testing.T, month codec.Hash) {
	t.Helper()
	_, err := s.submit(attackContext(t), &control.Destruction{Month: month, Reason: "over", Authority: "officers"}, bySSH(s.officer[0]), bySSH(s.officer[1]))
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stage) destroyed(t *testing.T, month codec.Hash) (out bool) {
	t.Helper()
	if err := s.replica.Sync(attackContext(t), s.server); err != nil {
		t.Fatal(err)
	}
	s.replica.Read(func(st *control.State) {
		m, _ := st.Month(month)
		out = m.Destroyed != control.Never
	})
	return out
}

// unwilling waits until a holder says what keeps it from its duty.
func (s *stage) unwilling(t *testing.T, x holder, words string) {
	t.Helper()
	ctx := attackContext(t)
	for {
		status, err := remote.NewHolder(x.url, nil, nil).Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(status.Problem, words) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s says %q, want %q", x.Name, status.Problem, words)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
