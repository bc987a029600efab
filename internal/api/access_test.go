package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/httpsig"
	"chancery/internal/orgtest"
	"chancery/internal/wire"
	"chancery/manifest"
	"chancery/request"
)

// ask makes one raw request and returns status and body.
func (s *stage) ask(method, path string, body []byte, auth httpsig.Auth, change func(*http.Request)) (*http.Response, []byte) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if auth != nil {
		if err := httpsig.Sign(r, body, auth, time.Now()); err != nil {
			s.t.Fatal(err)
		}
	}
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, answer
}

// problemOf demands a problem in JSON and nothing of the program's insides.
func problemOf(t *testing.T, name string, resp *http.Response, body []byte) {
	t.Helper()
	var p wire.Problem
	if resp.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Title == "" || p.Status != resp.StatusCode {
		t.Errorf("%s: status %d with %q is no problem: %s", name, resp.StatusCode, resp.Header.Get("Content-Type"), body)
	}
	for _, inside := range []string{"goroutine", ".go:", "sqlite", "SQL"} {
		if strings.Contains(string(body), inside) {
			t.Errorf("%s: the answer shows the program's insides: %s", name, body)
		}
	}
}

type endpoint struct {
	method, path string
	who          string // who may, of: device, holder, officer, approver, reviewer, opener
}

func endpoints(request codec.Hash) []endpoint {
	people := "officer approver reviewer"
	return []endpoint{
		{"GET", wire.PathPending, "holder " + people},
		{"GET", wire.PathMembers, "device " + people},
		{"POST", wire.PathMembers, "officer"},
		{"GET", wire.PathKeyPackages, "device"},
		{"POST", wire.PathKeyPackages, "device"},
		{"POST", wire.PathClaim, "device"},
		{"GET", wire.PathPreKeys, "device"},
		{"POST", wire.PathPreKeys, "device"},
		{"POST", wire.PathBundles, "device"},
		{"POST", wire.PathCertificate, "device"},
		{"POST", wire.PathMessages, "device"},
		{"POST", wire.PathCommits, "device"},
		{"POST", wire.PathVoids, "device"},
		{"GET", wire.PathQueue, "device"},
		{"POST", wire.PathAcks, "device"},
		{"GET", wire.PathConversations, "device"},
		{"GET", wire.PathGroups, "device"},
		{"GET", wire.PathGroups + "/" + codec.NewID().String(), "device"},
		{"GET", wire.PathHistory, "device"},
		{"POST", wire.PathHistory, "device"},
		{"GET", wire.PathArchive + "?request=" + request.String(), "opener"},
		{"POST", wire.PathHeads, "opener " + people},
		{"PUT", wire.PathProductions + request.String(), "opener"},
		{"GET", wire.PathProductions + request.String(), people},
	}
}

// opening puts a matter with an approved request and its opener on the log.
func (s *stage) opening(custodian codec.ID) (request codec.Hash, opener *codec.PrivateKey) {
	s.t.Helper()
	reviewer, now := s.Reviewers[0], s.Now()
	matter := codec.NewID()
	s.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	day := uint32(now.Unix() / 86400)
	hash := s.Add(&control.Request{
		ID: codec.NewID(), Matter: matter, Requester: reviewer.Credential(), Policy: s.State.Policy().Hash,
		Custodians: []codec.ID{custodian}, FromDay: day - 1, ToDay: day + 1, MaxCount: 100, Search: true,
		Recipient: make([]byte, 1216), Evidence: control.EvidenceNone, Expiry: now.Add(time.Hour).UnixMilli(),
	}, reviewer)
	opener = codec.NewPrivateKey()
	s.Add(&control.Opener{Request: hash, Sign: opener.PublicKey(), Encrypt: make([]byte, 1216), Evidence: control.EvidenceNone},
		orgtest.Key{PrivateKey: opener}, reviewer)
	return hash, opener
}

func (s *stage) approve(request codec.Hash, n int) {
	s.t.Helper()
	for _, p := range s.Approvers[:n] {
		s.Add(&control.Approval{Nonce: codec.NewID(), Request: request, Decision: control.Approve, Role: control.RoleApprover, Policy: s.State.Policy().Hash}, p)
	}
}

// TestWhoMayCall asks every endpoint as everybody: those who may not are told
// so, and nobody else is.
func TestWhoMayCall(t *testing.T) {
	s := newStage(t)
	alice := s.NewMember()
	revoked := s.NewMember()
	s.Add(&control.Revocation{Device: revoked.Hash}, s.Officers[0])
	request, opener := s.opening(alice.Member)
	callers := map[string]httpsig.Auth{
		"device":   httpsig.Ed25519(alice.Key),
		"holder":   httpsig.Ed25519(s.Guards[0].Key),
		"opener":   httpsig.Ed25519(opener),
		"officer":  httpsig.SSH(s.Officers[0].Key),
		"approver": httpsig.SSH(s.Approvers[0].Key),
		"reviewer": httpsig.SSH(s.Reviewers[0].Key),
		"stranger": httpsig.Ed25519(codec.NewPrivateKey()),
		"nobody":   httpsig.SSH(orgtest.NewPerson(t).Key),
		"revoked":  httpsig.Ed25519(revoked.Key),
	}
	for _, e := range endpoints(request) {
		resp, body := s.ask(e.method, e.path, nil, nil, nil)
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s, unsigned: status %d", e.method, e.path, resp.StatusCode)
		}
		problemOf(t, e.path, resp, body)
		for _, name := range slices.Sorted(maps.Keys(callers)) {
			name, auth := name, callers[name]
			resp, body := s.ask(e.method, e.path, nil, auth, nil)
			may := slices.Contains(strings.Fields(e.who), name)
			// A good caller's empty body may be bad; that is another matter. The
			// archive refuses its opener too, as long as nobody has approved.
			if may == (resp.StatusCode == http.StatusForbidden) && !strings.HasPrefix(e.path, wire.PathArchive) {
				t.Errorf("%s %s as %s: status %d: %s", e.method, e.path, name, resp.StatusCode, body)
			}
			if resp.StatusCode >= 500 {
				t.Errorf("%s %s as %s: status %d: %s", e.method, e.path, name, resp.StatusCode, body)
			}
			if resp.StatusCode >= 300 {
				problemOf(t, e.path+" as "+name, resp, body)
			}
		}
	}
	// Open to all, and openings show a stranger nothing.
	for _, path := range []string{wire.PathOrganisation, wire.PathStatus} {
		if resp, body := s.ask("GET", path, nil, nil, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d: %s", path, resp.StatusCode, body)
		}
	}
	for name, want := range map[string]int{"stranger": 0, "device": 0, "opener": 0, "holder": 2, "approver": 2, "officer": 2, "reviewer": 2} {
		got, err := s.anyone.As(callers[name]).Openings(t.Context(), 0)
		if err != nil || len(got) != want {
			t.Errorf("openings as %s: %d, %v, want %d", name, len(got), err, want)
		}
	}
	// A signature that doesn't belong to the request is nobody's.
	for name, change := range map[string]func(*http.Request){
		"another path":   func(r *http.Request) { r.URL.Path = wire.PathConversations },
		"another query":  func(r *http.Request) { r.URL.RawQuery = "after=9" },
		"another method": func(r *http.Request) { r.Method = "HEAD" },
	} {
		resp, _ := s.ask("GET", wire.PathQueue, nil, callers["device"], change)
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("%s: status %d", name, resp.StatusCode)
		}
	}
}

// TestBadBodies sends every endpoint what it can't take: a problem in return,
// never an internal error, never a stack trace.
func TestBadBodies(t *testing.T) {
	s := newStage(t)
	alice := s.NewMember()
	request, opener := s.opening(alice.Member)
	auths := map[string]httpsig.Auth{
		"device": httpsig.Ed25519(alice.Key), "opener": httpsig.Ed25519(opener), "officer": httpsig.SSH(s.Officers[0].Key),
		"holder": httpsig.Ed25519(s.Guards[0].Key),
	}
	bodies := map[string][]byte{
		"empty": nil, "text": []byte("hello"), "array": {0x80}, "indefinite": {0x9f, 0xff}, "nested": bytes.Repeat([]byte{0x81}, 60<<10),
		"zeros": make([]byte, 1000), "long string claimed": {0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"other structure": codec.Encode(&wire.Member{}), "submission of nothing": codec.Encode(&wire.Submission{}),
		"commit of nothing": codec.Encode(&wire.CommitSubmission{}), "statement of nothing": codec.Encode(&wire.Submit{}),
		"claim of nothing": codec.Encode(&wire.Claim{}), "packages of nothing": codec.Encode(&wire.KeyPackages{}),
	}
	list := append(endpoints(request),
		endpoint{"POST", wire.PathControl, "device"}, endpoint{"GET", wire.PathOpenings, "device"}, endpoint{"GET", wire.PathOrganisation, "device"},
		endpoint{"GET", wire.PathOpenings + "?from=x", "device"}, endpoint{"GET", wire.PathQueue + "?after=-1", "device"},
		endpoint{"GET", wire.PathQueue + "?wait=99999999999999999999", "device"}, endpoint{"GET", wire.PathArchive + "?request=zz", "opener"},
		endpoint{"GET", wire.PathArchive, "opener"}, endpoint{"GET", wire.PathProductions + "xyz", "officer"}, endpoint{"PUT", wire.PathProductions + "xyz", "opener"},
		endpoint{"GET", "/v1/nothing", "device"}, endpoint{"DELETE", wire.PathMessages, "device"}, endpoint{"PATCH", wire.PathControl, "device"},
		endpoint{"POST", wire.PathStatus, "device"}, endpoint{"GET", "/", "device"}, endpoint{"GET", wire.PathLogs, "device"},
	)
	for _, e := range list {
		auth := auths["device"]
		for _, w := range strings.Fields(e.who) {
			if auths[w] != nil {
				auth = auths[w]
			}
		}
		for _, name := range slices.Sorted(maps.Keys(bodies)) {
			resp, body := s.ask(e.method, e.path, bodies[name], auth, nil)
			what := e.method + " " + e.path + " with " + name
			if resp.StatusCode >= 500 {
				t.Errorf("%s: status %d: %s", what, resp.StatusCode, body)
			}
			if resp.StatusCode >= 300 && resp.StatusCode != http.StatusConflict {
				problemOf(t, what, resp, body)
			}
		}
	}
	// Too long, and of another type.
	resp, body := s.ask("POST", wire.PathVoids, make([]byte, 1<<20), auths["device"], nil)
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body too long: status %d", resp.StatusCode)
	}
	problemOf(t, "too long", resp, body)
	resp, body = s.ask("POST", wire.PathVoids, []byte("{}"), auths["device"], func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	if resp.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("JSON: status %d", resp.StatusCode)
	}
	problemOf(t, "JSON", resp, body)
	var p *wire.Problem
	if _, err := s.anyone.Submit(t.Context(), &wire.Submit{Statement: []byte{1}}); !errors.As(err, &p) || p.Status != http.StatusBadRequest {
		t.Errorf("no statement: %v", err)
	}
}

// TestArchive: the opener that the log names gets what its request covers, once
// enough have approved, with rosters, neighbours and acknowledgements.
func TestArchive(t *testing.T) {
	s := newStage(t)
	alice, bob, carol := s.NewMember(), s.NewMember(), s.NewMember()
	side, away := s.found(alice, bob)[0], s.found(bob, carol)[0]
	_, _, index := side.send("one", nil)
	for range 3 {
		side.send("more", index)
	}
	away.send("nothing of Alice's", nil)
	hash, opener := s.opening(alice.Member)
	client := s.anyone.As(httpsig.Ed25519(opener))
	var p *wire.Problem
	if _, err := client.Archive(t.Context(), hash, 0); !errors.As(err, &p) || p.Status != http.StatusForbidden || !strings.Contains(p.Detail, request.ErrApprovals.Error()) {
		t.Fatalf("before approval: %v", err)
	}
	s.approve(hash, 3)
	page, err := client.Archive(t.Context(), hash, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Items) != 5 || len(page.Rosters) != 2 || page.Next != 0 {
		t.Fatalf("%d items, %d rosters, next %d", len(page.Items), len(page.Rosters), page.Next)
	}
	for _, it := range page.Items {
		if len(it.Envelope) == 0 {
			t.Fatal("an item without its envelope")
		}
	}
	// Another request's opener gets nothing of this one.
	_, stranger := s.opening(carol.Member)
	if _, err := s.anyone.As(httpsig.Ed25519(stranger)).Archive(t.Context(), hash, 0); !errors.As(err, &p) || p.Status != http.StatusForbidden {
		t.Fatalf("another's opener: %v", err)
	}
	heads, err := client.Heads(t.Context())
	if err != nil || len(heads.Heads) == 0 {
		t.Fatal(err)
	}
	if err := client.PutProduction(t.Context(), hash, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if err := s.anyone.As(httpsig.Ed25519(stranger)).PutProduction(t.Context(), hash, []byte("other")); err == nil {
		t.Fatal("another's opener replaced a production")
	}
	if got, err := s.person(s.Reviewers[1]).Production(t.Context(), hash); err != nil || string(got) != "sealed" {
		t.Fatalf("%q, %v", got, err)
	}
	s.Add(&control.Withdrawal{Request: hash}, s.Officers[0])
	if _, err := client.Archive(t.Context(), hash, 0); !errors.As(err, &p) || !strings.Contains(p.Detail, request.ErrWithdrawn.Error()) {
		t.Fatalf("after its withdrawal: %v", err)
	}
}

// A hold reaches the custodian's devices through their queues, and wakes them.
func TestHoldNotice(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	reviewer, matter := s.Reviewers[0], codec.NewID()
	s.Add(&control.Matter{ID: matter, Reviewer: reviewer.Credential()}, reviewer)
	got := make(chan []wire.Delivery, 1)
	go func() {
		items, err := s.as(alice).Queue(t.Context(), 0, 20*time.Second)
		if err != nil {
			t.Error(err)
		}
		got <- items
	}()
	time.Sleep(50 * time.Millisecond)
	s.Add(&control.Hold{ID: codec.NewID(), Matter: matter, Custodians: []codec.ID{alice.Member}, ToDay: 99999, Text: "keep it"}, reviewer)
	items := <-got
	if len(items) != 1 || items[0].Kind != wire.DeliveryNotice {
		t.Fatalf("got %+v", items)
	}
	var o wire.Opening
	if err := codec.Decode(items[0].Body, &o); err != nil || o.Index != int64(len(s.Leaves))-1 {
		t.Fatalf("opening of leaf %d, %v", o.Index, err)
	}
	if items, err := s.as(bob).Queue(t.Context(), 0, 0); err != nil || len(items) != 0 {
		t.Fatalf("bob got %d, %v", len(items), err)
	}
	if items, err := s.as(alice).Queue(t.Context(), items[0].Cursor, 0); err != nil || len(items) != 0 {
		t.Fatalf("alice got it %d times more, %v", len(items), err)
	}
}

// Names are the officers' to give and the members' to see; KeyPackages are used
// once.
func TestDirectory(t *testing.T) {
	s := newStage(t)
	alice, bob := s.NewMember(), s.NewMember()
	officer := s.person(s.Officers[0])
	if err := officer.AddMember(t.Context(), wire.Member{ID: alice.Member, Name: "Alice Example"}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.as(bob).Members(t.Context()); err != nil || len(got) != 1 || got[0].Name != "Alice Example" {
		t.Fatal(got, err)
	}
	if err := officer.AddMember(t.Context(), wire.Member{ID: alice.Member, Name: strings.Repeat("x", 257)}); err == nil {
		t.Fatal("a name of 257 bytes")
	}
	a, b := s.KeyPackage(alice).Publish(s.Org), s.KeyPackage(alice).Publish(s.Org)
	if err := s.as(alice).UploadKeyPackages(t.Context(), [][]byte{a, b}); err != nil {
		t.Fatal(err)
	}
	if stock, err := s.as(alice).KeyPackages(t.Context()); err != nil || stock.Left != 2 || stock.LastResort != wire.LastResortNone {
		t.Fatal(stock, err)
	}
	for i, want := range [][]byte{a, b, nil} {
		got, err := s.as(bob).ClaimKeyPackages(t.Context(), []codec.Hash{alice.Hash})
		if err != nil || !bytes.Equal(got[0].Package, want) {
			t.Fatalf("claim %d: %v", i, err)
		}
		if want == nil {
			if len(got[0].Claim) > 0 {
				t.Fatal("the server signed for nothing")
			}
			continue
		}
		// The server stands by what it hands out.
		claim, err := manifest.OpenClaim(s.Genesis.ReceiptKey, got[0].Claim)
		if err != nil || claim.Device != alice.Hash || claim.Package != manifest.PackageHash(want) || claim.ControlSize != s.State.Size() {
			t.Fatalf("claim %d: %+v, %v", i, claim, err)
		}
	}
	var p *wire.Problem
	if err := s.as(bob).UploadKeyPackages(t.Context(), [][]byte{s.KeyPackage(alice).Publish(s.Org)}); !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity {
		t.Fatalf("another device's KeyPackage: %v", err)
	}
	many := make([]codec.Hash, manifest.MaxRoster)
	if _, err := s.as(bob).ClaimKeyPackages(t.Context(), many); !errors.As(err, &p) || p.Status != http.StatusTooManyRequests || !strings.Contains(p.Detail, "try again in") {
		t.Fatalf("a claim too many: %v", err)
	}
}
