package demo

import (
	"bytes"
	"context"
	"crypto/hpke"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/ceremony"
	"chancery/internal/home"
	"chancery/internal/httpsig"
	"chancery/internal/matters"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/request"
)

// attackTime bounds everything that an attack waits for.
const attackTime = time.Minute

func attackContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), attackTime)
	t.Cleanup(cancel)
	return ctx
}

// ask draws up a request of the reviewer's on the scene's matter and has it
// approved by so many. It starts as the scene's own: a search of everybody's
// messages of these days.
func (s *stage) ask(t *testing.T, approvals int, change func(*matters.Draft)) codec.Hash {
	t.Helper()
	ctx := attackContext(t)
	scene, details, err := home.ReadRequest(s.requestFile())
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := s.custodians()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	today := envelope.DayOf(time.Now())
	draft := &matters.Draft{
		Matter: scene.Matter, Custodians: ids, FromDay: today - 1, ToDay: today + 1, MaxCount: 20_000, Search: true,
		Recipient: recipient.PublicKey().Bytes(), Expiry: time.Now().Add(time.Hour), Details: details,
	}
	if change != nil {
		change(draft)
	}
	h, err := s.desk(s.reviewer).Request(ctx, draft)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range s.approver[:approvals] {
		if _, err := s.desk(key).Decide(ctx, h, control.Approve, ""); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// submit offers a statement to the server and returns what it said.
func (s *stage) submit(ctx context.Context, body control.Body, by ...func(*control.Statement) (control.Signature, error)) (*wire.Submitted, error) {
	statement, opening, err := control.NewStatement(rand.Reader, s.home.Organisation, body)
	if err != nil {
		return nil, err
	}
	in := &wire.Submit{Statement: codec.Encode(statement), Opening: opening}
	for _, sign := range by {
		signature, err := sign(statement)
		if err != nil {
			return nil, err
		}
		in.Signatures = append(in.Signatures, signature)
	}
	return s.server.Submit(ctx, in)
}

// logged is submit for what the server must take.
func (s *stage) logged(t *testing.T, body control.Body, by ...func(*control.Statement) (control.Signature, error)) codec.Hash {
	t.Helper()
	ctx := attackContext(t)
	done, err := s.submit(ctx, body, by...)
	if err != nil {
		t.Fatal(err)
	}
	if err := ceremony.Logged(done); err != nil {
		t.Fatal(err)
	}
	if err := matters.Await(ctx, s.replica, s.server, done.Index); err != nil {
		t.Fatal(err)
	}
	return done.Hash
}

func bySSH(key ssh.Signer) func(*control.Statement) (control.Signature, error) {
	return func(x *control.Statement) (control.Signature, error) { return control.SignSSH(key, x) }
}

func byKey(key *codec.PrivateKey) func(*control.Statement) (control.Signature, error) {
	return func(x *control.Statement) (control.Signature, error) { return control.Sign(key, x) }
}

// piece is an archived message as an insider has it.
type piece struct {
	*manifest.Manifest
	*envelope.Envelope
	index   int64
	opening manifest.Opening
}

// haul is what an insider downloaded.
type haul struct {
	records, indexes []piece
	rosters          map[codec.Hash]wire.ArchiveRoster // by statement
}

// insider is an opener of the test's own making, for which the requester
// signed. It asks holders what it likes.
type insider struct {
	s       *stage
	t       *testing.T
	request codec.Hash
	leaf    codec.Hash // of its opener statement
	key     *codec.PrivateKey
	decrypt hpke.PrivateKey
	log     *falseLog // the messages log that it speaks of, where not the server's
}

func (s *stage) insider(t *testing.T, h codec.Hash) *insider {
	t.Helper()
	decrypt, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	i := &insider{s: s, t: t, request: h, key: codec.NewPrivateKey(), decrypt: decrypt}
	i.leaf = s.logged(t, &control.Opener{
		Request: h, Sign: i.key.PublicKey(), Encrypt: decrypt.PublicKey().Bytes(), Evidence: control.EvidenceNone,
	}, byKey(i.key), bySSH(s.reviewer))
	return i
}

// download reads the scene's archive as the server gives it.
func (i *insider) download() *haul { i.t.Helper(); return i.downloadSome(18) }

// downloadSome reads the request's archive of at least so many records.
func (i *insider) downloadSome(least int) *haul {
	i.t.Helper()
	server := i.s.server.As(httpsig.Ed25519(i.key))
	out := &haul{rosters: map[codec.Hash]wire.ArchiveRoster{}}
	for after := uint64(0); ; {
		page, err := server.Archive(attackContext(i.t), i.request, after)
		if err != nil {
			i.t.Fatal(err)
		}
		for _, r := range page.Rosters {
			out.rosters[manifest.CommitHash(r.Commit)] = r
		}
		for _, x := range page.Items {
			m, err := manifest.Parse(x.Manifest)
			if err != nil {
				i.t.Fatal(err)
			}
			p := piece{Manifest: m}
			if p.Envelope, err = envelope.Parse(x.Envelope); err != nil {
				i.t.Fatal(err)
			}
			p.index, p.opening = i.receipt(x.Receipt)
			if m.Header.Kind == envelope.KindIndex {
				out.indexes = append(out.indexes, p)
			} else {
				out.records = append(out.records, p)
			}
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if len(out.records) < least || len(out.indexes) == 0 {
		i.t.Fatalf("%d records and %d index envelopes: the test would show nothing", len(out.records), len(out.indexes))
	}
	return out
}

func (i *insider) receipt(raw []byte) (int64, manifest.Opening) {
	i.t.Helper()
	r, err := manifest.OpenReceipt(i.s.genesis().ReceiptKey, raw)
	if err != nil {
		i.t.Fatal(err)
	}
	return r.Index, r.Opening
}

func (s *stage) genesis() (g *control.Genesis) {
	s.replica.Read(func(st *control.State) { g = st.Genesis() })
	return g
}

// messages returns a witnessed checkpoint of the messages log that has a leaf.
func (s *stage) messages(t *testing.T, leaf int64) *ledger.Cosigned {
	t.Helper()
	ctx := attackContext(t)
	for {
		raw, err := s.server.Checkpoint(ctx, ledger.MessagesLog)
		if err == nil {
			c, err := s.replica.Messages(raw)
			if err != nil {
				t.Fatal(err)
			}
			if c.Size > leaf {
				return c
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("leaf %d of the messages log was not witnessed in time: %v", leaf, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// prover makes an inclusion proof under one checkpoint.
type prover func(index int64, opening manifest.Opening) request.Proof

func (i *insider) proverOf(hashes tlog.HashReader, size int64) prover {
	return func(index int64, opening manifest.Opening) request.Proof {
		i.t.Helper()
		p, err := ledger.ProveInclusion(hashes, size, index)
		if err != nil {
			i.t.Fatal(err)
		}
		return request.Proof{Index: index, Opening: opening, Hashes: p.Hashes}
	}
}

// query asks a holder about some pieces, signed by the insider. change may
// alter it before that.
func (i *insider) query(guard bool, holder int, pieces []piece, from *haul, change func(*request.Query)) []byte {
	i.t.Helper()
	newest := int64(0)
	for _, p := range pieces {
		newest = max(newest, p.index)
	}
	q := &request.Query{Request: i.request, Phase: control.PhaseRecord, Opener: i.leaf, Guard: guard, Holder: uint8(holder)}
	var prove prover
	if i.log != nil {
		q.Checkpoint, prove = i.log.checkpoint, i.proverOf(i.log, i.log.size)
	} else {
		c := i.s.messages(i.t, newest)
		q.Checkpoint, prove = c.Note, i.proverOf(i.s.server.Hashes(attackContext(i.t), ledger.MessagesLog, c.Checkpoint), c.Size)
	}
	seen := map[codec.Hash]bool{}
	for _, p := range pieces {
		enc := p.E()
		if guard {
			enc = p.Enc
		}
		q.Items = append(q.Items, request.Item{Manifest: p.Bytes(), Encapsulation: enc, Proof: prove(p.index, p.opening)})
		h := p.Transport.Roster
		if r, ok := from.rosters[h]; ok && !seen[h] {
			seen[h] = true
			index, opening := i.receipt(r.Receipt)
			q.Rosters = append(q.Rosters, request.Roster{Commit: r.Commit, Proof: prove(index, opening), Devices: r.Devices})
		}
	}
	if change != nil {
		change(q)
	}
	raw, err := request.SignQuery(i.key, q)
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// holder is a keyholder or guard as an insider reaches it.
type holder struct {
	control.Holder
	index int
	guard bool
	url   string
}

func (s *stage) holders() []holder {
	var out []holder
	g := s.genesis()
	for n, h := range g.Keyholders {
		out = append(out, holder{h, n + 1, false, s.home.Keyholders[n].URL})
	}
	for n, h := range g.Guards {
		out = append(out, holder{h, n + 1, true, s.home.Guards[n].URL})
	}
	return out
}

// tell posts a query to a holder, which answers or refuses.
func (i *insider) tell(h holder, raw []byte) ([]byte, *request.Refusal) {
	i.t.Helper()
	answer, err := remote.NewHolder(h.url, nil, nil).Query(attackContext(i.t), raw)
	if err == nil {
		return answer, nil
	}
	var refused *remote.Refused
	if !errors.As(err, &refused) {
		i.t.Fatalf("%s: %v", h.Name, err)
	}
	r, err := request.OpenRefusal(h.Sign, refused.Refusal)
	if err != nil {
		i.t.Fatalf("%s: %v", h.Name, err)
	}
	return nil, r
}

// want is a refusal that must come.
type want struct {
	code   request.Code
	reason string     // what its words must hold
	core   codec.Hash // the envelope that it must name, where not zero
}

// refused asks a holder and demands a signed refusal, by name.
func (i *insider) refused(h holder, raw []byte, w want) {
	i.t.Helper()
	answer, r := i.tell(h, raw)
	switch {
	case answer != nil:
		i.t.Errorf("%s answered", h.Name)
	case r.Code != w.code || !strings.Contains(r.Reason, w.reason):
		i.t.Errorf("%s: %v, want %s: %s", h.Name, r, w.code, w.reason)
	case !w.core.IsZero() && r.Core != w.core:
		i.t.Errorf("%s refused envelope %s, want %s", h.Name, r.Core.Short(), w.core.Short())
	}
}

// refusedByAll asks every keyholder and guard of the scene about some pieces:
// each must refuse, and none may have logged a use.
func (i *insider) refusedByAll(w want, pieces []piece, from *haul, change func(*request.Query)) {
	i.t.Helper()
	for _, h := range i.s.holders() {
		i.refused(h, i.query(h.guard, h.index, pieces, from, change), w)
	}
	i.s.untouched(i.t, i.request)
}

// untouched makes sure that nothing of a request was opened: no use is on the
// log, and no opener's last word.
func (s *stage) untouched(t *testing.T, h codec.Hash) {
	t.Helper()
	if uses := s.uses(t, h); uses != 0 {
		t.Errorf("%d uses are on the log", uses)
	}
}

// uses counts a request's uses, and demands that nothing was opened.
func (s *stage) uses(t *testing.T, h codec.Hash) (n int) {
	t.Helper()
	if err := s.replica.Sync(attackContext(t), s.server); err != nil {
		t.Fatal(err)
	}
	s.replica.Read(func(st *control.State) {
		r, ok := st.Request(h)
		if !ok {
			t.Errorf("request %s is not on the log", h.Short())
			return
		}
		if r.Opening != nil {
			t.Error("an opening is on the log")
		}
		n = len(r.Uses)
	})
	return n
}

// answered makes sure that a holder answers a right query, so that a refusal
// before was the attack's doing.
func (i *insider) answered(h holder, raw []byte) []byte {
	i.t.Helper()
	answer, r := i.tell(h, raw)
	if r != nil {
		i.t.Fatalf("%s refuses a right query: %v", h.Name, r)
	}
	if _, _, err := request.OpenAnswer(h.Sign, i.decrypt, i.request, answer); err != nil {
		i.t.Fatalf("%s: %v", h.Name, err)
	}
	return answer
}

// maliciousServer stands between the real server and whoever is told that this
// is it: it passes on what it doesn't tamper with.
type maliciousServer struct {
	*httptest.Server
	target  string     // the real server's URL
	mu      sync.Mutex // guards what follows
	seize   func(w http.ResponseWriter, r *http.Request, body []byte) bool
	rewrite func(r *http.Request, body []byte) []byte
}

func newMaliciousServer(t *testing.T, s *stage) *maliciousServer {
	t.Helper()
	target, err := url.Parse(s.home.Server)
	if err != nil {
		t.Fatal(err)
	}
	m := &maliciousServer{target: s.home.Server}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(resp *http.Response) error {
		m.mu.Lock()
		rewrite := m.rewrite
		m.mu.Unlock()
		if rewrite == nil || resp.StatusCode != http.StatusOK {
			return nil
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		resp.Body.Close()
		body = rewrite(resp.Request, body)
		resp.Body = io.NopCloser(bytes.NewReader(body))
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		seize := m.seize
		m.mu.Unlock()
		if seize != nil {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if seize(w, r, body) {
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

// tamper says what the server does from now on; nil functions do nothing.
func (m *maliciousServer) tamper(seize func(http.ResponseWriter, *http.Request, []byte) bool, rewrite func(*http.Request, []byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seize, m.rewrite = seize, rewrite
}

// reply answers as the real server does.
func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", wire.MediaType)
	w.Write(codec.Encode(body)) // whoever doesn't get it asks again
}

// swallow makes the server say that it logged whatever is submitted, and log
// nothing.
func (m *maliciousServer) swallow() {
	m.tamper(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		var in wire.Submit
		if r.URL.Path != wire.PathControl || codec.Decode(body, &in) != nil {
			return false
		}
		statement, err := control.ParseStatement(in.Statement)
		if err != nil {
			return false
		}
		reply(w, &wire.Submitted{Hash: statement.Hash(), Index: 0})
		return true
	}, nil)
}

// behind restarts a program of the scene with the malicious server as its
// server, until the test ends.
func (s *stage) behind(t *testing.T, name string, m *maliciousServer) {
	t.Helper()
	p := s.program(t, name)
	honest := slices.Clone(p.args)
	move := func(args []string) {
		if err := p.kill(); err != nil {
			t.Fatal(err)
		}
		p.args = args
		p.restart(t)
	}
	args := slices.Clone(honest)
	args[slices.Index(args, "--server")+1] = m.URL
	move(args)
	t.Cleanup(func() { move(honest) })
}

// swapOpeners puts a key of the server's own in every opener statement on its
// way to the log, with the requester's signature left as it is. It returns how
// often it did.
func (m *maliciousServer) swapOpeners(t *testing.T) *int {
	t.Helper()
	own := codec.NewPrivateKey()
	decrypt, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	swapped := new(int)
	target := m.target
	m.tamper(func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		var in wire.Submit
		if r.URL.Path != wire.PathControl || codec.Decode(body, &in) != nil {
			return false
		}
		statement, err := control.ParseStatement(in.Statement)
		var opener control.Opener
		if err != nil || statement.Kind != control.KindOpener || codec.Decode(statement.Body, &opener) != nil {
			return false
		}
		opener.Sign, opener.Encrypt = own.PublicKey(), decrypt.PublicKey().Bytes()
		statement.Body = codec.Encode(&opener)
		signature, err := control.Sign(own, statement)
		if err != nil {
			return false
		}
		signatures := []control.Signature{signature}
		for _, g := range in.Signatures {
			if g.Algorithm == control.SSH {
				signatures = append(signatures, g)
			}
		}
		*swapped++
		done, err := remote.New(target, nil, httpsig.Ed25519(own)).Submit(r.Context(), &wire.Submit{Statement: codec.Encode(statement), Signatures: signatures})
		if err == nil {
			reply(w, done)
			return true
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(&wire.Problem{Type: "about:blank", Title: err.Error(), Status: http.StatusBadRequest})
		return true
	}, nil)
	return swapped
}
