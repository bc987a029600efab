package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"chancery/client"
	"chancery/client/remote"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/ceremony"
	"chancery/internal/custody"
	"chancery/internal/httpsig"
	"chancery/internal/keyholder"
	"chancery/internal/wire"
	"chancery/ledger"
	"chancery/manifest"
	"chancery/quorum"
	"chancery/report"
	"chancery/request"
)

// between stands between a program and whoever asks it, and changes the bodies
// of its good answers on their way. It returns the address to ask.
func between(t *testing.T, target string, change func(path string, body []byte) []byte) string {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			if r.StatusCode == http.StatusOK {
				body = change(r.Request.URL.Path, body)
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s.URL
}

// tamperingHolder stands between an opener and a holder and changes the answers
// on their way: signed by the holder, and sealed to the opener.
func tamperingHolder(t *testing.T, holder string, change func(answer []byte) []byte) string {
	return between(t, holder, func(path string, body []byte) []byte {
		if path != wire.PathQuery {
			return body
		}
		return change(body)
	})
}

// lyingCustody answers with other keys than it holds, for as long as it lies,
// and is a good holder otherwise: it signs its answers, and logs each use.
type lyingCustody struct {
	keyholder.Custody
	lies atomic.Bool
}

// Partial is what a holder of the share's square would answer: a good point, so
// that only the opened seed tells.
func (c *lyingCustody) Partial(ceremony codec.ID, E quorum.Point) (quorum.Point, error) {
	p, err := c.Custody.Partial(ceremony, E)
	if err != nil || !c.lies.Load() {
		return p, err
	}
	return c.Custody.Partial(ceremony, p)
}

// Decapsulate returns 32 bytes that are as good as random.
func (c *lyingCustody) Decapsulate(public, ciphertext []byte) ([]byte, error) {
	secret, err := c.Custody.Decapsulate(public, ciphertext)
	if err == nil && c.lies.Load() {
		secret[0] ^= 1
	}
	return secret, err
}

// turn kills a holder's process and puts one that can lie in its place, with
// the same folder, keys and address.
func (s *stage) turn(t *testing.T, name string) *lyingCustody {
	t.Helper()
	p := s.program(t, name)
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	secret, err := custody.KeyFile(s.path("keys", name))
	if err != nil {
		t.Fatal(err)
	}
	var keys *custody.File
	if keys, err = custody.OpenHolder(s.path(name), secret); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	c := &lyingCustody{Custody: keys}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- keyholder.Run(ctx, keyholder.Config{
			Dir: s.path(name), Custody: c, Organisation: s.home.Organisation,
			Server: remote.New(s.home.Server, nil, httpsig.Ed25519(keys)), Guards: map[string]keyholder.Peer{},
			Listener: l, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
	}))
	return c
}

// forge is what a guard says that looks for nothing: as many answers as it was
// asked for, of its own invention, sealed to the opener and signed with the
// guard's key, under the use that it logged.
func (s *stage) forge(ctx context.Context, keys codec.Signer, guard uint8) ([]byte, error) {
	if err := s.replica.Sync(ctx, s.server); err != nil {
		return nil, err
	}
	var use control.UseState
	var opener control.Opener
	s.replica.Read(func(st *control.State) {
		r, _ := st.Request(s.summary.Request)
		for _, u := range r.Uses {
			if u.Guard && u.Holder == guard {
				use, opener = u, r.Openers[u.Opener].Opener
			}
		}
	})
	parts := &request.Parts{}
	for range use.Count {
		parts.Parts = append(parts.Parts, make([]byte, 32))
	}
	return request.SealAnswer(keys, &opener, use.Hash, true, guard, parts)
}

// TestLiars plays the rows of the tamper table that are about senders, and about
// messages on their way to a device.
func TestLiars(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a := &attack{stage: scene(t, "talk"), T: t, outer: t, ctx: ctx}
	a.connect()
	a.hostDevices()
	a.playAll(senderTamperings())
	a.checkAcknowledged()
}

// checkAcknowledged makes sure that the recipient's acknowledgement says of
// nothing that was changed or lied about that it was right.
func (a *attack) checkAcknowledged() {
	a.Helper()
	var device codec.Hash
	a.device(a.party[1], func(d *client.Device) {
		device = d.Hash()
		if err := d.Acknowledge(a.ctx); err != nil {
			a.Error(err)
		}
	})
	ack, err := manifest.ParseAck(a.blob(`SELECT ack FROM acks WHERE conversation = ? AND device = ?`, a.talk[:], device[:]))
	if err != nil {
		a.Fatal(err)
	}
	for _, i := range a.changed {
		var position uint64
		a.one(&position, `SELECT position FROM leaves WHERE idx = ?`, i)
		if ack.Position >= position && !slices.Contains(ack.Exceptions, position) {
			a.Errorf("the acknowledgement up to %d, but for %v, covers position %d, which was changed", ack.Position, ack.Exceptions, position)
		}
	}
}

// hostDevices hosts the scene's devices in this process: the one that played
// the conversation has ended.
func (a *attack) hostDevices() {
	a.Helper()
	var invites []ceremony.Invite
	if err := json.Unmarshal(a.read(a.path("people", "invitations.json")), &invites); err != nil {
		a.Fatal(err)
	}
	o := DeviceOptions{Dir: a.summary.DeviceDir, Key: [custody.KeySize]byte(a.read(a.path("keys", "devices")))}
	var err error
	if a.host, err = newHost(a.ctx, o, invites); err != nil {
		a.Fatal(err)
	}
	a.outer.Cleanup(func() { a.host.Close() })
	var id []byte
	a.one(&id, `SELECT conversation FROM leaves WHERE idx = ?`, a.records[0])
	a.talk = codec.ID(id)
	for _, name := range a.host.names {
		a.device(name, func(d *client.Device) {
			if c, err := d.Conversation(a.talk); err == nil && !c.Left {
				a.party = append(a.party, name)
			}
		})
	}
	if len(a.party) < 3 {
		a.Fatalf("%v are in the conversation: want a sender and two recipients", a.party)
	}
}

func (a *attack) device(name string, f func(d *client.Device)) {
	a.Helper()
	if err := a.host.use(name, func(d *client.Device) error { f(d); return nil }); err != nil {
		a.Fatal(err)
	}
}

// say sends a message of the first of the party, and returns its leaf's index.
func (a *attack) say(text string) (index int64) {
	a.Helper()
	a.device(a.party[0], func(d *client.Device) {
		if sent, err := d.Send(a.ctx, a.talk, client.Draft{Text: text}); err != nil || sent.Queued {
			a.Fatalf("%+v, %v", sent, err)
		}
	})
	a.one(&index, `SELECT MAX(idx) FROM leaves WHERE envelope_kind = 1`)
	return index
}

// receive syncs the second of the party until something arrives, and returns
// what was wrong with it.
func (a *attack) receive() (sum *client.Summary) {
	a.Helper()
	a.device(a.party[1], func(d *client.Device) {
		for range 100 {
			var err error
			if sum, err = d.Sync(a.ctx); err != nil {
				a.Fatal(err)
			}
			if sum.Delivered+sum.Mismatches+sum.Undecryptable+sum.Faulty > 0 {
				return
			}
			time.Sleep(100 * time.Millisecond) // until the witnesses have seen what it needs
		}
		a.Error("nothing arrived")
	})
	return sum
}

// lie makes a device archive another record than it sends, as a changed program
// would. The hook is the client's own, for its tests, and unexported: no caller
// can have a device lie.
func lie(d *client.Device, archive func(record []byte) []byte) {
	f := reflect.ValueOf(d).Elem().FieldByName("testOnlyArchive")
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Set(reflect.ValueOf(archive))
}

// harmless is what the liar archives in a record's place.
func harmless(record []byte) []byte {
	r, err := envelope.ParseRecord(record)
	if err != nil {
		return nil
	}
	r.Text = "lunch at noon?"
	return r.Encode()
}

// deceive sends one message while another is archived, and returns the
// recipient's words about it and its report.
func (a *attack) deceive(archive func(record []byte) []byte) (said string, proof []byte) {
	a.Helper()
	a.device(a.party[0], func(d *client.Device) { lie(d, archive) })
	i := a.say("sell everything before noon")
	a.changed = append(a.changed, i)
	core := a.blob(`SELECT core FROM leaves WHERE idx = ?`, i)
	a.device(a.party[0], func(d *client.Device) { lie(d, nil) })
	sum := a.receive()
	if sum.Mismatches != 1 || sum.Delivered != 0 {
		a.Errorf("%+v: want the message quarantined", sum)
	}
	a.device(a.party[1], func(d *client.Device) {
		for m, err := range d.Messages(a.talk, 0) {
			if err != nil || m.Text == "sell everything before noon" {
				a.Errorf("%q is shown, %v", m.Text, err)
			}
		}
		for p, err := range d.Problems(a.talk) {
			if err != nil {
				a.Fatal(err)
			}
			if p.Mismatch && p.Core == codec.Hash(core) {
				said, proof = p.Reason, p.Report
			}
		}
	})
	return said, proof
}

// offline replays the control log from its bytes alone, as somebody would who
// was sent a report.
func (a *attack) offline() (*control.State, func(size int64) (codec.Hash, bool)) {
	a.Helper()
	if err := a.replica.Sync(a.ctx, a.server); err != nil {
		a.Fatal(err)
	}
	entries, _ := a.replica.Entries()
	state, edge := control.NewState(a.home.Organisation), &ledger.Edge{}
	var roots []codec.Hash
	for _, e := range entries {
		if err := state.Apply(e, nil); err != nil {
			a.Fatal(err)
		}
		if _, err := edge.Append(nil, e); err != nil {
			a.Fatal(err)
		}
		roots = append(roots, codec.Hash(edge.Root()))
	}
	return state, func(size int64) (codec.Hash, bool) {
		if size < 1 || size > int64(len(roots)) {
			return codec.Hash{}, false
		}
		return roots[size-1], true
	}
}

// judged is what somebody says who judges a report by the control log alone.
func (a *attack) judged(proof []byte) string {
	a.Helper()
	state, root := a.offline()
	v, err := report.Verify(state, root, proof)
	if err != nil {
		return err.Error()
	}
	if v.Member != a.members[a.party[0]] {
		a.Errorf("%s is convicted, want %s", v.Member, a.party[0])
	}
	return v.Fault.String()
}

// senderTamperings are changes to messages on their way to a recipient's device,
// and senders that lie.
func senderTamperings() []tampering {
	const who = "the recipient's device, which doesn't show it"
	delivered := func(table, column string, change func(a *attack, old []byte) []byte) func(*attack) string {
		return func(a *attack) string {
			i := a.say("a message that is changed on its way")
			where := fmt.Sprintf("idx = %d", i)
			if column != "receipt" { // without a receipt it has no place that could be excepted
				a.changed = append(a.changed, i)
			}
			changed := change(a, a.blob(`SELECT `+column+` FROM `+table+` WHERE `+where))
			said := a.tampered(table, where, func() string {
				sum := a.receive()
				if sum.Delivered != 0 {
					a.Errorf("%+v: want nothing delivered", sum)
				}
				return strings.Join(sum.Problems, "; ")
			}, sq(`UPDATE `+table+` SET `+column+` = ? WHERE `+where, changed))
			return said
		}
	}
	flip := func(_ *attack, b []byte) []byte { return flipped(b) }
	earlier := func(column string) func(a *attack, _ []byte) []byte {
		return func(a *attack, _ []byte) []byte {
			return a.blob(`SELECT `+column+` FROM leaves WHERE idx = ?`, a.records[0])
		}
	}
	return []tampering{
		{"message on its way", "ciphertext: byte flipped", who, "the ciphertext is another than the manifest names", delivered("bodies", "body", flip)},
		{"message on its way", "manifest: byte flipped", who, "the manifest is not the one receipted", delivered("leaves", "object", flip)},
		{"message on its way", "manifest: another message's in its place", who, "the manifest is not the one receipted", delivered("leaves", "object", earlier("object"))},
		{"message on its way", "receipt: byte flipped", who, "delivery without a receipt", delivered("leaves", "receipt", flip)},
		{"message on its way", "receipt: another message's in its place", who, "the manifest is not the one receipted", delivered("leaves", "receipt", earlier("receipt"))},
		{"sender", "archives another message than it sends", "the recipient's device, which quarantines it and reports", "envelope is not the one that seed, header and record make", func(a *attack) string {
			said, proof := a.deceive(harmless)
			a.reports = append(a.reports, proof)
			return said
		}},
		{"sender", "archives nothing that opens", "the recipient's device, which quarantines it and reports", "envelope is not the one that seed, header and record make", func(a *attack) string {
			said, proof := a.deceive(func([]byte) []byte { return nil })
			a.reports = append(a.reports, proof)
			return said
		}},
		{"sender", "the same, before somebody with the recipient's report and the control log", "whoever judges, offline: the sender is named", report.FaultEnvelope.String(), func(a *attack) string {
			for _, proof := range a.reports[1:] {
				if said := a.judged(proof); said != report.FaultEnvelope.String() {
					a.Errorf("got %q", said)
				}
			}
			return a.judged(a.reports[0])
		}},
		{"recipient's report", "byte flipped", "whoever judges: nobody is accused", report.ErrUnproven.Error(), func(a *attack) string {
			state, root := a.offline()
			proof := a.reports[0]
			for i := 0; i < len(proof); i += 7 {
				b := bytes.Clone(proof)
				b[i] ^= 1
				if v, err := report.Verify(state, root, b); err == nil {
					a.Errorf("%+v is convicted by a report with byte %d of %d flipped", v, i, len(b))
				}
			}
			return a.judged(flipped(proof))
		}},
	}
}
