// Package remote is how Chancery's programs reach the server, keyholders and
// guards over HTTP (spec/delivery.md). It believes nothing that it is told:
// what matters in an answer is signed, or checked by the caller against a
// witnessed log.
//
// Every call has a deadline, every answer a greatest length, and nothing is
// tried twice: whoever calls knows what bears repetition.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/httpsig"
	"chancery/internal/wire"
	"chancery/ledger"
)

const (
	deadline = 60 * time.Second // of a call, besides the time it asks to wait

	maxProblem = 64 << 10
	maxAnswer  = 64 << 20 // of the longest answers: pages of the archive, queues

	// maxRange is the greatest number of entries that one call returns, which
	// bounds its memory.
	maxRange = 1 << 20
)

var (
	// ErrUnavailable means that the other side couldn't be reached or didn't
	// give a whole answer: another try may succeed.
	ErrUnavailable = errors.New("couldn't reach the server")
	// ErrAnswer means that an answer isn't in the form that it should have.
	ErrAnswer = errors.New("unexpected answer")
)

// Refused is a signed refusal (status 409). Nothing in it is verified.
type Refused struct {
	Refusal []byte // manifest.OpenRefusal or, of a holder, request.OpenRefusal reads it
	Reason  string // a machine word, a colon, words for people; empty of a holder
}

// Error implements error.
func (e *Refused) Error() string {
	if e.Reason == "" {
		return "refused"
	}
	return "refused: " + e.Reason
}

// Auth signs requests: httpsig.Ed25519 or httpsig.SSH.
type Auth = httpsig.Auth

// Client reaches one server. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
	auth Auth
	now  func() time.Time
	logs map[ledger.Log]*tiles
}

// New returns a client of the server at base, such as "http://127.0.0.1:8080".
// hc may be nil. auth is nil for an anonymous client, which the logs, the
// organisation and the status are open to.
func New(base string, hc *http.Client, auth Auth) *Client {
	if hc == nil {
		hc = http.DefaultClient
	}
	c := &Client{base: strings.TrimSuffix(base, "/"), http: hc, auth: auth, now: time.Now}
	c.logs = map[ledger.Log]*tiles{
		ledger.ControlLog:  newTiles(ledger.ControlLog),
		ledger.MessagesLog: newTiles(ledger.MessagesLog),
	}
	return c
}

// As returns a client of the same server that signs with another key and shares
// connections and what was read of the logs.
func (c *Client) As(auth Auth) *Client {
	other := *c
	other.auth = auth
	return &other
}

// Organisation returns what the server calls the organisation. The caller
// compares the genesis entry with the identity it has pinned.
func (c *Client) Organisation(ctx context.Context) (*wire.Organisation, error) {
	body, err := c.open(ctx, wire.PathOrganisation, maxAnswer)
	if err != nil {
		return nil, err
	}
	return decode[wire.Organisation](body, wire.PathOrganisation)
}

// Status returns what the server says of itself.
func (c *Client) Status(ctx context.Context) (*wire.Status, error) {
	return status[wire.Status](ctx, c, wire.PathStatus)
}

// Submit offers a control statement with signatures. The same one may be
// offered again.
func (c *Client) Submit(ctx context.Context, s *wire.Submit) (*wire.Submitted, error) {
	return post[wire.Submitted](ctx, c, wire.PathControl, codec.Encode(s))
}

// Pending returns the statements that wait for signatures.
func (c *Client) Pending(ctx context.Context) ([]wire.Pending, error) {
	return list[wire.Pending](ctx, c, wire.PathPending, nil)
}

// Openings returns the openings of sealed control leaves from an index on that
// the caller is entitled to.
func (c *Client) Openings(ctx context.Context, from int64) ([]wire.Opening, error) {
	if c.auth == nil {
		return nil, nil // nobody in particular is entitled to none
	}
	return list[wire.Opening](ctx, c, wire.PathOpenings, url.Values{"from": {strconv.FormatInt(from, 10)}})
}

// Members returns the directory.
func (c *Client) Members(ctx context.Context) ([]wire.Member, error) {
	return list[wire.Member](ctx, c, wire.PathMembers, nil)
}

// AddMember names a member in the directory.
func (c *Client) AddMember(ctx context.Context, m wire.Member) error {
	return c.send(ctx, wire.PathMembers, codec.Encode(&m))
}

// KeyPackages returns what the server has of the device's KeyPackages.
func (c *Client) KeyPackages(ctx context.Context) (*wire.Stock, error) {
	return get[wire.Stock](ctx, c, wire.PathKeyPackages, nil)
}

// UploadKeyPackages stocks the device's KeyPackages, one of last resort in the
// place of the one before. The same ones may be uploaded again.
func (c *Client) UploadKeyPackages(ctx context.Context, packages [][]byte) error {
	return c.send(ctx, wire.PathKeyPackages, codec.Encode(&wire.KeyPackages{Packages: packages}))
}

// ClaimKeyPackages takes one KeyPackage of each device, in order: the one of last
// resort where its stock is used up, an empty one where it has none at all.
func (c *Client) ClaimKeyPackages(ctx context.Context, devices []codec.Hash) ([]wire.Claimed, error) {
	out, err := post[[]wire.Claimed](ctx, c, wire.PathClaim, codec.Encode(&wire.Claim{Devices: devices}))
	if err != nil {
		return nil, err
	}
	if len(*out) != len(devices) {
		return nil, fmt.Errorf("%d KeyPackages for %d devices: %w", len(*out), len(devices), ErrAnswer)
	}
	return *out, nil
}

// Certificate asks the organisation's own certificate authority for a
// certificate of the device's key, in DER. Where there is none the error is a
// *wire.Problem of status 404.
func (c *Client) Certificate(ctx context.Context) ([]byte, error) {
	return c.do(ctx, http.MethodPost, wire.PathCertificate, nil, nil, control.MaxCertificate)
}

// Send sends a message with all that belongs to it and returns the signed
// receipts, of its index envelope first where it brings one. The same
// submission may be sent again. The server's no is a *Refused.
func (c *Client) Send(ctx context.Context, s *wire.Submission) ([][]byte, error) {
	return c.receipts(ctx, wire.PathMessages, codec.Encode(s))
}

// Commit sends a step of a group and returns its receipt. The server's no is a
// *Refused.
func (c *Client) Commit(ctx context.Context, s *wire.CommitSubmission) ([][]byte, error) {
	return c.receipts(ctx, wire.PathCommits, codec.Encode(s))
}

// Void sends a signed void and returns its receipt. The server's no is a
// *Refused.
func (c *Client) Void(ctx context.Context, void []byte) ([][]byte, error) {
	return c.receipts(ctx, wire.PathVoids, void)
}

func (c *Client) receipts(ctx context.Context, path string, body []byte) ([][]byte, error) {
	out, err := post[wire.Receipted](ctx, c, path, body)
	if err != nil {
		return nil, err
	}
	return out.Receipts, nil
}

// Queue returns what comes after a cursor in the device's queue, and so
// acknowledges what comes up to it. It waits up to wait, at most a minute, for
// something to come.
func (c *Client) Queue(ctx context.Context, after uint64, wait time.Duration) ([]wire.Delivery, error) {
	seconds := int(min(max(wait, 0), time.Minute) / time.Second)
	ctx, cancel := context.WithTimeout(ctx, deadline+time.Duration(seconds)*time.Second)
	defer cancel()
	return list[wire.Delivery](ctx, c, wire.PathQueue, url.Values{
		"after": {strconv.FormatUint(after, 10)}, "wait": {strconv.Itoa(seconds)},
	})
}

// Acknowledge sends a signed acknowledgement.
func (c *Client) Acknowledge(ctx context.Context, ack []byte) error {
	return c.send(ctx, wire.PathAcks, ack)
}

// Conversations returns the device's conversations as the server has them.
func (c *Client) Conversations(ctx context.Context) ([]wire.Conversation, error) {
	return list[wire.Conversation](ctx, c, wire.PathConversations, nil)
}

// Elsewhere returns the conversations that other devices of the device's member
// are in and it isn't.
func (c *Client) Elsewhere(ctx context.Context) ([]codec.ID, error) {
	return list[codec.ID](ctx, c, wire.PathGroups, nil)
}

// Group returns where a conversation's group stands, for a device that may join
// it by itself.
func (c *Client) Group(ctx context.Context, conversation codec.ID) (*wire.Group, error) {
	return get[wire.Group](ctx, c, wire.PathGroups+"/"+conversation.String(), nil)
}

// Letters returns the device's letters after a cursor, and has the server forget
// those up to it.
func (c *Client) Letters(ctx context.Context, after uint64) ([]wire.Letter, error) {
	return list[wire.Letter](ctx, c, wire.PathHistory, url.Values{"after": {strconv.FormatUint(after, 10)}})
}

// PutLetter leaves a letter for another device of the same member.
func (c *Client) PutLetter(ctx context.Context, l *wire.Letter) error {
	return c.send(ctx, wire.PathHistory, codec.Encode(l))
}

// Archive returns a page of what a request's scope may touch, to its opener.
func (c *Client) Archive(ctx context.Context, request codec.Hash, after uint64) (*wire.ArchivePage, error) {
	return get[wire.ArchivePage](ctx, c, wire.PathArchive, url.Values{
		"request": {request.String()}, "after": {strconv.FormatUint(after, 10)},
	})
}

// Heads logs and returns the newest leaf of every conversation.
func (c *Client) Heads(ctx context.Context) (*wire.Heads, error) {
	return post[wire.Heads](ctx, c, wire.PathHeads, nil)
}

// PutProduction stores a request's sealed production, at most 64 MiB.
func (c *Client) PutProduction(ctx context.Context, request codec.Hash, sealed []byte) error {
	_, err := c.do(ctx, http.MethodPut, wire.PathProductions+request.String(), nil, sealed, maxProblem)
	return err
}

// Production returns a request's sealed production.
func (c *Client) Production(ctx context.Context, request codec.Hash) ([]byte, error) {
	return c.do(ctx, http.MethodGet, wire.PathProductions+request.String(), nil, nil, maxAnswer)
}

// Holder reaches one keyholder or guard. It is safe for concurrent use.
type Holder struct{ client *Client }

// NewHolder returns a client of the keyholder or guard at base.
func NewHolder(base string, hc *http.Client, auth Auth) *Holder { return &Holder{New(base, hc, auth)} }

// Query asks a signed query and returns the signed answer, or a *Refused.
// Holders wait for witnesses before they answer: ctx bounds the call, and five
// minutes where it doesn't.
func (h *Holder) Query(ctx context.Context, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return h.client.do(ctx, http.MethodPost, wire.PathQuery, nil, query, maxAnswer)
}

// Notice hands over a hold, veto, withdrawal or revocation.
func (h *Holder) Notice(ctx context.Context, s *wire.Submit) error {
	return h.client.send(ctx, wire.PathNotice, codec.Encode(s))
}

// Transfer asks a guard for a month's key and returns it, sealed.
func (h *Holder) Transfer(ctx context.Context, request []byte) ([]byte, error) {
	return h.client.do(ctx, http.MethodPost, wire.PathTransfer, nil, request, maxAnswer)
}

// Status returns what the holder says of itself.
func (h *Holder) Status(ctx context.Context) (*wire.HolderStatus, error) {
	return status[wire.HolderStatus](ctx, h.client, wire.PathHolder)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (*T, error) {
	body, err := c.do(ctx, http.MethodGet, path, query, nil, maxAnswer)
	if err != nil {
		return nil, err
	}
	return decode[T](body, path)
}

func list[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	out, err := get[[]T](ctx, c, path, query)
	if err != nil {
		return nil, err
	}
	return *out, nil
}

func post[T any](ctx context.Context, c *Client, path string, body []byte) (*T, error) {
	answer, err := c.do(ctx, http.MethodPost, path, nil, body, maxAnswer)
	if err != nil {
		return nil, err
	}
	return decode[T](answer, path)
}

func decode[T any](body []byte, path string) (*T, error) {
	out := new(T)
	if err := codec.Decode(body, out); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrAnswer, err)
	}
	return out, nil
}

func status[T any](ctx context.Context, c *Client, path string) (*T, error) {
	body, err := c.open(ctx, path, maxProblem)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrAnswer, err)
	}
	return out, nil
}

func (c *Client) send(ctx context.Context, path string, body []byte) error {
	_, err := c.do(ctx, http.MethodPost, path, nil, body, maxProblem)
	return err
}

// open reads what is open to all, unsigned: a person's key may be one that has
// to be touched for each signature.
func (c *Client) open(ctx context.Context, path string, limit int) ([]byte, error) {
	return c.As(nil).do(ctx, http.MethodGet, path, nil, nil, limit)
}

// do makes one request and returns the body of its answer, of at most limit
// bytes, where the status is 2xx. Other answers are a *Refused or a
// *wire.Problem.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte, limit int) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("couldn't ask %s: %w", path, err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", wire.MediaType)
	}
	if c.auth != nil {
		if err := httpsig.Sign(req, body, c.auth, c.now()); err != nil {
			return nil, err
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("couldn't read the answer to %s: %w: %w", path, ErrUnavailable, err)
	}
	if len(answer) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, ErrAnswer, limit)
	}
	if resp.StatusCode/100 == 2 {
		return answer, nil
	}
	return nil, failure(resp, answer)
}

// failure reads an answer that is no success.
func failure(resp *http.Response, body []byte) error {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusConflict && kind == wire.MediaType:
		var r wire.Refused
		if err := codec.Decode(body, &r); err == nil {
			return &Refused{Refusal: r.Refusal, Reason: r.Reason}
		}
		return &Refused{Refusal: body} // a holder's
	case kind == "application/problem+json":
		var p wire.Problem
		if err := json.Unmarshal(body, &p); err == nil && p.Title != "" {
			p.Status = resp.StatusCode
			return &p
		}
	case resp.StatusCode >= 500:
		return fmt.Errorf("%w: %s", ErrUnavailable, resp.Status)
	}
	return fmt.Errorf("%s: %w", resp.Status, ErrAnswer)
}
