package httpsig

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
)

var testNow = time.Unix(1_800_000_000, 0)

func sshKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t testing.TB, auth Auth, method, target string, body []byte) *http.Request {
	t.Helper()
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	if err := Sign(r, body, auth, testNow); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSignAndVerify(t *testing.T) {
	for name, auth := range map[string]Auth{"ed25519": Ed25519(codec.NewPrivateKey()), "ssh": SSH(sshKey(t))} {
		for _, target := range []string{"/v1/queue?after=3&wait=10", "/v1/status", "/a%2Fb/c"} {
			for _, body := range [][]byte{nil, []byte("body")} {
				r := signed(t, auth, "POST", target, body)
				who, err := Verify(r, body, testNow.Add(Window))
				if err != nil || who != auth.Identity() {
					t.Errorf("%s %s: got %v, %v", name, target, who, err)
				}
			}
		}
	}
}

// Whatever of the request is changed on its way, nobody is taken to have asked
// for it.
func TestVerifyRefuses(t *testing.T) {
	key, other := codec.NewPrivateKey(), codec.NewPrivateKey()
	person := sshKey(t)
	body := []byte("body")
	set := func(field, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(field, value) }
	}
	tests := []struct {
		name   string
		change func(*http.Request)
		body   []byte
		now    time.Time
		want   error
	}{
		{"method", func(r *http.Request) { r.Method = "PUT" }, body, testNow, codec.ErrSignature},
		{"path", func(r *http.Request) { r.URL.Path = "/v1/other" }, body, testNow, codec.ErrSignature},
		{"query", func(r *http.Request) { r.URL.RawQuery = "a=2" }, body, testNow, codec.ErrSignature},
		{"query added", func(r *http.Request) { r.URL.RawQuery += "&b=1" }, body, testNow, codec.ErrSignature},
		{"body", func(*http.Request) {}, []byte("bodY"), testNow, codec.ErrSignature},
		{"body dropped", func(*http.Request) {}, nil, testNow, codec.ErrSignature},
		{"too old", func(*http.Request) {}, body, testNow.Add(Window + time.Second), ErrTime},
		{"from the future", func(*http.Request) {}, body, testNow.Add(-Window - time.Second), ErrTime},
		{"unsigned", func(r *http.Request) { r.Header.Del("Signature"); r.Header.Del("Signature-Input") }, body, testNow, ErrUnsigned},
		{"no signature", func(r *http.Request) { r.Header.Del("Signature") }, body, testNow, ErrMalformed},
		{"no input", func(r *http.Request) { r.Header.Del("Signature-Input") }, body, testNow, ErrMalformed},
		{"no digest", func(r *http.Request) { r.Header.Del("Content-Digest") }, body, testNow, ErrMalformed},
		{"two signatures", func(r *http.Request) { r.Header.Add("Signature", "chancery=:AA==:") }, body, testNow, ErrMalformed},
		{"another label", set("Signature", "sig1=:AA==:"), body, testNow, ErrMalformed},
		{"short signature", set("Signature", "chancery=:AA==:"), body, testNow, ErrMalformed},
		{"loose base64", set("Signature", "chancery=:AB==:"), body, testNow, ErrMalformed},
		{"fewer components", set("Signature-Input", `chancery=("@method");created=1800000000;keyid="`+codec.Hash(key.PublicKey()).String()+`";alg="chancery-ed25519"`), body, testNow, ErrMalformed},
		{"unknown algorithm", set("Signature-Input", `chancery=`+components+`;created=1800000000;keyid="`+codec.Hash(key.PublicKey()).String()+`";alg="none"`), body, testNow, ErrMalformed},
		{"another key", set("Signature-Input", `chancery=`+components+`;created=1800000000;keyid="`+codec.Hash(other.PublicKey()).String()+`";alg="chancery-ed25519"`), body, testNow, codec.ErrSignature},
		{"another algorithm", set("Signature-Input", `chancery=`+components+`;created=1800000000;keyid="`+codec.Hash(key.PublicKey()).String()+`";alg="chancery-ssh"`), body, testNow, codec.ErrSignature},
		{"trailing parameter", func(r *http.Request) { r.Header.Set("Signature-Input", r.Header.Get("Signature-Input")+";x") }, body, testNow, ErrMalformed},
		{"leading zero", set("Signature-Input", `chancery=`+components+`;created=01800000000;keyid="`+codec.Hash(key.PublicKey()).String()+`";alg="chancery-ed25519"`), body, testNow, ErrMalformed},
	}
	for _, test := range tests {
		r := signed(t, Ed25519(key), "POST", "/v1/x?a=1", body)
		test.change(r)
		if _, err := Verify(r, test.body, test.now); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	// A person's signature under another person's fingerprint.
	r := signed(t, SSH(person), "GET", "/", nil)
	r.Header.Set("Signature-Input", "chancery="+params{testNow.Unix(), SSH(sshKey(t)).Identity()}.String())
	if _, err := Verify(r, nil, testNow); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another fingerprint: got %v", err)
	}
}

func FuzzParseInput(f *testing.F) {
	f.Add(`chancery=` + params{testNow.Unix(), Ed25519(codec.NewPrivateKey()).Identity()}.String())
	f.Add(`chancery=` + params{0, SSH(sshKey(f)).Identity()}.String())
	f.Fuzz(func(t *testing.T, field string) {
		p, err := parseInput(field)
		if err == nil && "chancery="+p.String() != field {
			t.Fatalf("%q was accepted and is written %q", field, p)
		}
	})
}

func FuzzVerify(f *testing.F) {
	// The same key in every process: the fuzzer's workers make good anew.
	key, err := codec.PrivateKeyFromSeed(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	r := signed(f, Ed25519(key), "POST", "/x", nil)
	f.Add(r.Header.Get("Signature-Input"), r.Header.Get("Signature"), r.Header.Get("Content-Digest"))
	good := *r
	f.Fuzz(func(t *testing.T, input, signature, digest string) {
		r := httptest.NewRequest("POST", "/x", nil)
		r.Header = http.Header{"Signature-Input": {input}, "Signature": {signature}, "Content-Digest": {digest}}
		if _, err := Verify(r, nil, testNow); err == nil && signature != good.Header.Get("Signature") {
			t.Fatal("accepted a signature that was never made")
		}
	})
}
