// Package httpsig signs and verifies HTTP requests: one narrow profile of HTTP
// Message Signatures (RFC 9421, spec/delivery.md#authentication), so that a
// device, a holder, an opener or a person with an SSH key shows who asks
// without a session, a password or a certificate.
//
// It says which key signed a request and when. Whether that key may ask for
// what it asks for is for the caller to decide. A request that is heard twice
// within the window verifies twice: what it asks for must bear repetition.
package httpsig

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/sshsig"
)

const (
	// Window is how far a request's time may be from the verifier's.
	Window = 5 * time.Minute
	// Namespace is the SSH signature namespace of requests.
	Namespace = "http@chancery"

	label      = "http"
	name       = "chancery" // of the signature within its headers
	components = `("@method" "@path" "@query" "content-digest")`
	maxHeader  = 6 << 10 // an SSH signature has at most 4,096 bytes
)

// Algorithms. They are names of this profile and not of RFC 9421's registry:
// both sign under a domain label, so that no request is ever something else.
const (
	AlgEd25519 Algorithm = "chancery-ed25519" // codec.Signer, label "http"
	AlgSSH     Algorithm = "chancery-ssh"     // sshsig, namespace "http@chancery"
)

// Algorithm says how a request was signed.
type Algorithm string

var (
	// ErrUnsigned means that a request carries no signature.
	ErrUnsigned = errors.New("request is not signed")
	// ErrMalformed means that a request's signature is not in the profile.
	ErrMalformed = errors.New("malformed request signature")
	// ErrTime means that a request was signed too long ago, or ahead of time.
	ErrTime = errors.New("request signed outside the window of five minutes")
)

// Auth signs requests. It is safe for concurrent use where its key is.
type Auth interface {
	// Identity returns who the requests are signed as.
	Identity() Identity
	sign(base []byte) ([]byte, error)
}

// Identity is who signed a request.
type Identity struct {
	Algorithm Algorithm
	// Key is the public key itself (Ed25519) or a credential's fingerprint
	// (SSH), 32 bytes.
	Key codec.Hash
}

type ed25519Auth struct{ key codec.Signer }

// Ed25519 signs with a key of a device, holder or opener.
func Ed25519(key codec.Signer) Auth { return ed25519Auth{key} }

func (a ed25519Auth) Identity() Identity {
	return Identity{AlgEd25519, codec.Hash(a.key.PublicKey())}
}

func (a ed25519Auth) sign(base []byte) ([]byte, error) { return a.key.Sign(label, base) }

type sshAuth struct{ key ssh.Signer }

// SSH signs with a person's SSH key, which may be in an agent or a token.
func SSH(key ssh.Signer) Auth { return sshAuth{key} }

func (a sshAuth) Identity() Identity {
	return Identity{AlgSSH, sshsig.Credential(a.key.PublicKey().Marshal()).ID()}
}

func (a sshAuth) sign(base []byte) ([]byte, error) { return sshsig.Sign(a.key, Namespace, base) }

// Sign adds Content-Digest, Signature-Input and Signature to a request whose
// body is body, which the caller has yet to attach.
func Sign(r *http.Request, body []byte, auth Auth, now time.Time) error {
	who := auth.Identity()
	params := params{Created: now.Unix(), Identity: who}
	digest := digest(body)
	sig, err := auth.sign(base(r, digest, params))
	if err != nil {
		return fmt.Errorf("couldn't sign the request: %w", err)
	}
	r.Header.Set("Content-Digest", digest)
	r.Header.Set("Signature-Input", name+"="+params.String())
	r.Header.Set("Signature", name+"=:"+base64.StdEncoding.EncodeToString(sig)+":")
	return nil
}

// Claimed returns who a request says that it is signed by, so that a stranger
// can be turned away before its body is read. Nothing may rest on it before
// Verify. It returns ErrUnsigned or ErrMalformed, wrapped.
func Claimed(r *http.Request) (Identity, error) {
	if len(r.Header.Values("Signature-Input")) == 0 && len(r.Header.Values("Signature")) == 0 {
		return Identity{}, ErrUnsigned
	}
	input, err := single(r, "Signature-Input")
	if err != nil {
		return Identity{}, err
	}
	p, err := parseInput(input)
	return p.Identity, err
}

// Verify checks that a request with this body was signed within Window of now,
// and returns by whom. It returns ErrUnsigned, ErrMalformed, ErrTime or
// codec.ErrSignature, wrapped.
func Verify(r *http.Request, body []byte, now time.Time) (Identity, error) {
	if len(r.Header.Values("Signature-Input")) == 0 && len(r.Header.Values("Signature")) == 0 {
		return Identity{}, ErrUnsigned
	}
	input, err := single(r, "Signature-Input")
	if err != nil {
		return Identity{}, err
	}
	params, err := parseInput(input)
	if err != nil {
		return Identity{}, err
	}
	header, err := single(r, "Signature")
	if err != nil {
		return Identity{}, err
	}
	sig, err := parseSignature(header)
	if err != nil {
		return Identity{}, err
	}
	got, err := single(r, "Content-Digest")
	if err != nil {
		return Identity{}, err
	}
	if want := digest(body); got != want {
		return Identity{}, fmt.Errorf("content digest is another body's: %w", codec.ErrSignature)
	}
	if age := now.Sub(time.Unix(params.Created, 0)); age > Window || age < -Window {
		return Identity{}, ErrTime
	}
	return params.Identity, params.verify(base(r, got, params), sig)
}

func (p params) verify(base, sig []byte) error {
	if p.Algorithm == AlgEd25519 {
		if len(sig) != ed25519.SignatureSize {
			return fmt.Errorf("signature of %d bytes: %w", len(sig), ErrMalformed)
		}
		return codec.Verify(codec.PublicKey(p.Key), label, base, sig)
	}
	credential, err := sshsig.Verify(sig, Namespace, base)
	if err != nil {
		return fmt.Errorf("%w: %w", codec.ErrSignature, err)
	}
	if credential.ID() != p.Key {
		return fmt.Errorf("signed by another credential than it names: %w", codec.ErrSignature)
	}
	return nil
}

// digest returns the Content-Digest field of a body (RFC 9530 §2). An empty
// body has one too, so that nobody can add one.
func digest(body []byte) string {
	h := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(h[:]) + ":"
}

// base returns the signature base (RFC 9421 §2.5).
func base(r *http.Request, digest string, p params) []byte {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "\"@method\": %s\n", r.Method)
	fmt.Fprintf(&b, "\"@path\": %s\n", path)
	fmt.Fprintf(&b, "\"@query\": ?%s\n", r.URL.RawQuery)
	fmt.Fprintf(&b, "\"content-digest\": %s\n", digest)
	fmt.Fprintf(&b, "\"@signature-params\": %s", p)
	return b.Bytes()
}

// params are the signature's parameters (RFC 9421 §2.3).
type params struct {
	Created int64
	Identity
}

func (p params) String() string {
	return fmt.Sprintf(`%s;created=%d;keyid="%s";alg="%s"`, components, p.Created, p.Key, p.Algorithm)
}

// parseInput reads the Signature-Input field in the one form that Sign writes.
func parseInput(field string) (params, error) {
	bad := fmt.Errorf("signature input: %w", ErrMalformed)
	rest, ok := strings.CutPrefix(field, name+"="+components+";created=")
	created, rest, found := strings.Cut(rest, `;keyid="`)
	key, rest, ok2 := strings.Cut(rest, `";alg="`)
	algorithm, end, ok3 := strings.Cut(rest, `"`)
	if !ok || !found || !ok2 || !ok3 || end != "" {
		return params{}, bad
	}
	var p params
	var err error
	if p.Created, err = strconv.ParseInt(created, 10, 64); err != nil || p.Created < 0 || p.Created > 1<<40 {
		return params{}, bad
	}
	if p.Key, err = codec.ParseHash(key); err != nil {
		return params{}, bad
	}
	p.Algorithm = Algorithm(algorithm)
	if p.Algorithm != AlgEd25519 && p.Algorithm != AlgSSH || name+"="+p.String() != field {
		return params{}, bad
	}
	return p, nil
}

// parseSignature reads the Signature field: one byte sequence (RFC 8941
// §3.3.5) in its one spelling.
func parseSignature(field string) ([]byte, error) {
	text, ok := strings.CutPrefix(field, name+"=:")
	text, ended := strings.CutSuffix(text, ":")
	if !ok || !ended || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("signature field: %w", ErrMalformed)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("signature field: %w", ErrMalformed)
	}
	return sig, nil
}

// single returns a field that occurs exactly once: two would leave it to each
// reader which one counts.
func single(r *http.Request, field string) (string, error) {
	values := r.Header.Values(field)
	if len(values) != 1 || len(values[0]) > maxHeader {
		return "", fmt.Errorf("want one %s field: %w", field, ErrMalformed)
	}
	return values[0], nil
}
