package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/delivery"
	"chancery/internal/directory"
	"chancery/internal/httpsig"
	"chancery/internal/store"
	"chancery/internal/tlogtiles"
	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	small      = 64 << 10 // greatest body of most requests, in bytes
	statement  = 1280 << 10
	keyStock   = 2 << 20
	submission = 10 << 20
	step       = 10 << 20
	production = 64 << 20
)

// caller is who asks, as far as the request's signature and the control log
// say. The zero value is anybody.
type caller struct {
	httpsig.Identity
	device codec.Hash // zero for others than devices that are valid now
	member codec.ID   // the device's
	holder bool       // keyholder or guard
	opener bool       // of some request
	roles  map[control.Role]bool
}

// access says who may call.
type access func(c *caller) bool

func anyone(*caller) bool        { return true }
func aDevice(c *caller) bool     { return !c.device.IsZero() }
func aPerson(c *caller) bool     { return len(c.roles) > 0 }
func anOfficer(c *caller) bool   { return c.roles[control.RoleOfficer] }
func anOpener(c *caller) bool    { return c.opener }
func signatory(c *caller) bool   { return c.holder || aPerson(c) }
func directoryOf(c *caller) bool { return aDevice(c) || aPerson(c) }
func headsOf(c *caller) bool     { return anOpener(c) || aPerson(c) }

// call is one request on its way through a handler.
type call struct {
	*http.Request
	w    http.ResponseWriter
	body []byte
	who  caller
}

// route is one method of one path.
type route struct {
	pattern string
	who     access
	wanted  string // in words
	limit   int64
	handle  func(c *call) (any, error) // an answer in CBOR, or nil for none
}

func (s *server) routes() []route {
	return []route{
		{"GET " + wire.PathOrganisation, anyone, "", 0, s.organisation},
		{"POST " + wire.PathControl, anyone, "", statement, s.submit},
		{"GET " + wire.PathPending, signatory, "a keyholder, a guard or a person with a role", 0, s.pending},
		{"GET " + wire.PathOpenings, anyone, "", 0, s.openings},
		{"GET " + wire.PathMembers, directoryOf, "a device or a person with a role", 0, s.members},
		{"POST " + wire.PathMembers, anOfficer, "an officer", small, s.addMember},
		{"GET " + wire.PathKeyPackages, aDevice, "an enrolled device", 0, s.stocked},
		{"POST " + wire.PathKeyPackages, aDevice, "an enrolled device", keyStock, s.stock},
		{"POST " + wire.PathClaim, aDevice, "an enrolled device", 256 << 10, s.claim},
		{"GET " + wire.PathPreKeys, aDevice, "an enrolled device", 0, s.preKeysLeft},
		{"POST " + wire.PathPreKeys, aDevice, "an enrolled device", keyStock, s.stockPreKeys},
		{"POST " + wire.PathBundles, aDevice, "an enrolled device", small, s.claimBundles},
		{"POST " + wire.PathCertificate, aDevice, "an enrolled device", 0, s.certificate},
		{"POST " + wire.PathMessages, aDevice, "an enrolled device", submission, s.message},
		{"POST " + wire.PathCommits, aDevice, "an enrolled device", step, s.commit},
		{"POST " + wire.PathVoids, aDevice, "an enrolled device", small, s.void},
		{"GET " + wire.PathQueue, aDevice, "an enrolled device", 0, s.queue},
		{"POST " + wire.PathAcks, aDevice, "an enrolled device", 128 << 10, s.acknowledge},
		{"GET " + wire.PathConversations, aDevice, "an enrolled device", 0, s.conversations},
		{"GET " + wire.PathGroups, aDevice, "an enrolled device", 0, s.elsewhere},
		{"GET " + wire.PathGroups + "/{conversation}", aDevice, "an enrolled device", 0, s.group},
		{"GET " + wire.PathHistory, aDevice, "an enrolled device", 0, s.letters},
		{"POST " + wire.PathHistory, aDevice, "an enrolled device", wire.MaxLetter + small, s.putLetter},
		{"GET " + wire.PathArchive, anOpener, "the opener that the request's log names", 0, s.archive},
		{"POST " + wire.PathHeads, headsOf, "an opener or a person with a role", 0, s.heads},
		{"PUT " + wire.PathProductions + "{request}", anOpener, "the opener that the request's log names", production, s.putProduction},
		{"GET " + wire.PathProductions + "{request}", aPerson, "a person with a role", 0, s.production},
	}
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { s.serve(r, w, req) })
	}
	mux.HandleFunc("GET "+wire.PathStatus, s.status)
	for _, log := range []ledger.Log{ledger.ControlLog, ledger.MessagesLog} {
		prefix := wire.PathLogs + string(log)
		mux.Handle(prefix+"/", http.StripPrefix(prefix, tlogtiles.Handler(logSource{s.store, log}, func(err error) {
			s.Log.Error("couldn't serve a log", "log", log, "error", err)
		})))
	}
	return s.wrap(mux)
}

// wrap answers what no route takes in the same form as everything else, and
// survives a handler's panic.
func (s *server) wrap(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.Log.Error("a handler panicked", "path", r.URL.Path, "panic", p)
				problem(w, http.StatusInternalServerError, "internal error", "", "try again; the server's log has the details")
			}
		}()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		handler, pattern := mux.Handler(r)
		if pattern == "" {
			// The mux's own answer is text; only its status and Allow are kept.
			probe := &probe{header: http.Header{}}
			handler.ServeHTTP(probe, r)
			if allow := probe.header.Get("Allow"); allow != "" {
				w.Header().Set("Allow", allow)
				problem(w, http.StatusMethodNotAllowed, "method not allowed", r.Method, "use "+allow)
				return
			}
			problem(w, http.StatusNotFound, "no such resource", "", "spec/delivery.md lists the paths")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

type probe struct{ header http.Header }

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(int)             {}

// serve authenticates, bounds and answers one request.
func (s *server) serve(r route, w http.ResponseWriter, req *http.Request) {
	// A stranger is turned away by what the signature claims before its body is
	// read, and by the signature itself after.
	if !r.who(&caller{}) {
		claimed, err := httpsig.Claimed(req)
		if err != nil {
			s.fail(w, req, err)
			return
		}
		if who := s.identify(claimed); !r.who(&who) {
			forbidden(w, r)
			return
		}
	}
	c := &call{Request: req, w: w}
	var err error
	if c.body, err = readBody(w, req, r.limit); err != nil {
		s.fail(w, req, err)
		return
	}
	identity, err := httpsig.Verify(req, c.body, s.Now())
	switch {
	case err == nil:
		c.who = s.identify(identity)
	case !r.who(&c.who):
		s.fail(w, req, err)
		return
	}
	if !r.who(&c.who) {
		forbidden(w, r)
		return
	}
	answer, err := r.handle(c)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	if raw, ok := answer.(rawBytes); ok {
		reply(w, http.StatusOK, raw)
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	reply(w, http.StatusOK, codec.Encode(answer))
}

// rawBytes is an answer that is not CBOR.
type rawBytes []byte

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", wire.MediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // an error here is the client's having gone
}

// identify finds whose key it is in the control log now.
func (s *server) identify(id httpsig.Identity) caller {
	c := caller{Identity: id}
	s.directory.Read(func(state *control.State, _ codec.Hash) {
		if id.Algorithm == httpsig.AlgSSH {
			if credential, ok := state.Credential(id.Key); ok {
				c.roles = map[control.Role]bool{}
				for role, has := range credential.Roles {
					if has {
						c.roles[role] = true
					}
				}
			}
			return
		}
		key := codec.PublicKey(id.Key)
		if d, ok := state.DeviceByKey(key); ok && d.ValidAt(state.Size()) {
			c.device, c.member = d.Hash, d.Member
		}
		c.holder = directory.Holder(state, key) != nil
		c.opener = directory.Opener(state, key)
	})
	return c
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != wire.MediaType {
			return nil, &wire.Problem{
				Title: "unexpected media type", Status: http.StatusUnsupportedMediaType, Detail: kind, Hint: "send " + wire.MediaType,
			}
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &wire.Problem{
			Title: "body too large", Status: http.StatusRequestEntityTooLarge,
			Detail: "at most " + strconv.FormatInt(limit, 10) + " bytes",
		}
	case err != nil:
		return nil, &wire.Problem{Title: "couldn't read the body", Status: http.StatusBadRequest}
	}
	return body, nil
}

func forbidden(w http.ResponseWriter, r route) {
	problem(w, http.StatusForbidden, "not allowed", "the request's key has no place in the organisation that may do this",
		"sign the request as "+r.wanted)
}

// fail answers with an error: a signed refusal, a problem by name, or an
// internal error, whose details are only logged.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var refused *delivery.Refused
	if errors.As(err, &refused) {
		reply(w, http.StatusConflict, codec.Encode(&wire.Refused{Refusal: refused.Refusal, Reason: refused.Error()}))
		return
	}
	var p *wire.Problem
	if errors.As(err, &p) {
		problem(w, p.Status, p.Title, p.Detail, p.Hint)
		return
	}
	var busy *directory.Busy
	if errors.As(err, &busy) {
		w.Header().Set("Retry-After", strconv.Itoa(busy.Seconds()))
		problem(w, http.StatusTooManyRequests, "too many claims", busy.Error(), "a device may claim as many KeyPackages at once as the largest conversation has devices, and one a second from then on")
		return
	}
	for _, known := range failures() {
		if errors.Is(err, known.err) {
			if known.status == http.StatusInternalServerError {
				s.Log.Error("couldn't answer", "method", r.Method, "path", r.URL.Path, "error", err)
			}
			problem(w, known.status, known.title, err.Error(), known.hint)
			return
		}
	}
	if r.Context().Err() == nil && !errors.Is(err, context.Canceled) {
		s.Log.Error("couldn't answer", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	problem(w, http.StatusInternalServerError, "internal error", "", "try again; the server's log has the details")
}

type failure struct {
	err         error
	status      int
	title, hint string
}

// failures are the errors whose text is for the caller, the narrower first.
func failures() []failure {
	return []failure{
		{httpsig.ErrUnsigned, http.StatusUnauthorized, "the request is not signed", "sign it with the key of a device, a holder, an opener or a person"},
		{httpsig.ErrTime, http.StatusUnauthorized, "the request's time is off", "set the clock: five minutes are allowed"},
		{httpsig.ErrMalformed, http.StatusUnauthorized, "malformed request signature", "spec/delivery.md#authentication has the one form"},
		{delivery.ErrDamaged, http.StatusInternalServerError, "the archive is damaged", "the server's operator restores what its log names"},
		{delivery.ErrForbidden, http.StatusForbidden, "not allowed", ""},
		{delivery.ErrFull, http.StatusTooManyRequests, "full", "try again when the other device has fetched what waits for it"},
		{delivery.ErrStopped, http.StatusServiceUnavailable, "the server is shutting down", "try again in a moment"},
		{directory.ErrFull, http.StatusTooManyRequests, "full", "try again when what waits has been dealt with"},
		{directory.ErrUnknownKey, http.StatusForbidden, "unknown signer", "sign with a key that the organisation's log names"},
		{directory.ErrKeyPackage, http.StatusUnprocessableEntity, "KeyPackage refused", "spec/delivery.md#keypackages says what a device may publish"},
		{directory.ErrOpening, http.StatusUnprocessableEntity, "opening missing or wrong", "submit the opening together with the sealed statement"},
		{directory.ErrSize, http.StatusRequestEntityTooLarge, "too large", ""},
		{codec.ErrSize, http.StatusRequestEntityTooLarge, "too large", ""},
		{control.ErrUnauthorised, http.StatusForbidden, "not signed by those who may", "`chancery people list` shows who has which role, spec/control.md#kinds which role signs what"},
		{control.ErrConflict, http.StatusUnprocessableEntity, "contradicts the log", "what it refers to has changed or isn't there: `chancery log` and `chancery matter list` show what is"},
		{codec.ErrSignature, http.StatusBadRequest, "a signature does not verify", ""},
		{control.ErrMalformed, http.StatusBadRequest, "malformed statement", ""},
		{delivery.ErrMalformed, http.StatusBadRequest, "malformed", ""},
		{codec.ErrEncoding, http.StatusBadRequest, "malformed body", "send the one canonical CBOR encoding of what the path takes"},
		{store.ErrNotFound, http.StatusNotFound, "not found", ""},
	}
}

func problem(w http.ResponseWriter, status int, title, detail, hint string) {
	body, err := json.Marshal(&wire.Problem{Type: "about:blank", Title: title, Status: status, Detail: clip(detail), Hint: hint})
	if err != nil {
		body = []byte(`{"type":"about:blank","title":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body)
}

// clip bounds a text that may repeat what a stranger sent.
func clip(s string) string { return s[:min(len(s), 1024)] }

// wait returns how long a queue may be waited for, and lets the connection live
// that long.
func (c *call) wait(seconds uint64) time.Duration {
	wait := time.Duration(min(seconds, 60)) * time.Second
	if wait > 0 {
		rc := http.NewResponseController(c.w)
		until := time.Now().Add(wait + time.Minute)
		_ = rc.SetReadDeadline(until) // not every connection has deadlines
		_ = rc.SetWriteDeadline(until)
	}
	return wait
}
