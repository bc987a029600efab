package sshsig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/internal/testenv"
)

func testKey(t testing.TB, seed byte) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, signer
}

func TestSignVerify(t *testing.T) {
	_, signer := testKey(t, 1)
	sig, err := Sign(signer, "ns", []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	credential, err := Verify(sig, "ns", []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(credential, signer.PublicKey().Marshal()) {
		t.Fatal("another credential came back")
	}
	if _, err := Verify(sig, "other", []byte("message")); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("namespace: %v", err)
	}
	if _, err := Verify(sig, "ns", []byte("massage")); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("message: %v", err)
	}
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 1
		if c, err := Verify(bad, "ns", []byte("message")); err == nil && bytes.Equal(c, credential) {
			t.Fatalf("byte %d flipped and accepted", i)
		}
	}
}

// TestOpenSSH holds both directions against ssh-keygen itself.
func TestOpenSSH(t *testing.T) {
	keygen := testenv.Program(t, "ssh-keygen", "Debian package openssh-client")
	dir := t.TempDir()
	key, signer := testKey(t, 2)
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "message")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(keygen, "-Y", "sign", "-n", "ns", "-f", keyFile, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	armored, err := os.ReadFile(file + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Unarmor(armored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(sig, "ns", []byte("hello")); err != nil {
		t.Fatalf("ssh-keygen's signature: %v", err)
	}

	ours, err := Sign(signer, "ns", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(dir, "allowed")
	line := append([]byte("me "), ssh.MarshalAuthorizedKey(signer.PublicKey())...)
	for name, data := range map[string][]byte{allowed: line, file + ".sig": Armor(ours)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(keygen, "-Y", "verify", "-f", allowed, "-I", "me", "-n", "ns", "-s", file+".sig")
	cmd.Stdin = bytes.NewReader([]byte("hello"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen refuses ours: %v: %s", err, out)
	}
}

func FuzzVerify(f *testing.F) {
	_, signer := testKey(f, 3)
	sig, err := Sign(signer, "ns", []byte("m"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sig)
	f.Add(sig[:40])
	f.Add(token(f, 0, same))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Verify(data, "ns", []byte("m")); err == nil && !bytes.Equal(data, sig) {
			// Another key may sign too, but not by chance.
			t.Fatal("accepted a signature that was never made")
		}
	})
}

// token signs as a FIDO token does (OpenSSH PROTOCOL.u2f): over the
// application's hash, flags, a counter and the message's hash.
func token(t testing.TB, flags byte, rest func([]byte) []byte) []byte {
	t.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, ed25519.SeedSize))
	public := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, key.Public().(ed25519.PublicKey), "ssh:"})
	application, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(signedBytes("ns", []byte("message")))
	extra := []byte{flags, 0, 0, 0, 9}
	inner := ssh.Signature{
		Format: ssh.KeyAlgoSKED25519,
		Blob:   ed25519.Sign(key, slices.Concat(application[:], extra, message[:])),
		Rest:   rest(extra),
	}
	return ssh.Marshal(blob{
		Magic: [6]byte([]byte(magic)), Version: version, PublicKey: string(public),
		Namespace: "ns", HashName: hashName, Signature: string(ssh.Marshal(inner)),
	})
}

func same(b []byte) []byte { return b }

// A program that only reached the token is not the person who holds it.
func TestToken(t *testing.T) {
	for _, flags := range []byte{0x01, 0x05} { // touched; touched and PIN entered
		if _, err := Verify(token(t, flags, same), "ns", []byte("message")); err != nil {
			t.Errorf("flags %#x: %v", flags, err)
		}
	}
	for _, flags := range []byte{0x00, 0x04, 0xfe} {
		if _, err := Verify(token(t, flags, same), "ns", []byte("message")); !errors.Is(err, codec.ErrSignature) {
			t.Errorf("flags %#x, not touched: %v", flags, err)
		}
	}
	claims := func(b []byte) []byte { return append([]byte{b[0] | 1}, b[1:]...) }
	if _, err := Verify(token(t, 0, claims), "ns", []byte("message")); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("the flag set afterwards: %v", err)
	}
	counted := func(b []byte) []byte { return append(bytes.Clone(b[:4]), b[4]+1) }
	if _, err := Verify(token(t, 1, counted), "ns", []byte("message")); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("another counter: %v", err)
	}
	for what, rest := range map[string]func([]byte) []byte{
		"no flags":    func([]byte) []byte { return nil },
		"no counter":  func(b []byte) []byte { return b[:1] },
		"a byte more": func(b []byte) []byte { return append(bytes.Clone(b), 0) },
	} {
		if _, err := Verify(token(t, 1, rest), "ns", []byte("message")); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What follows an ordinary signature nobody signed.
func TestTrailing(t *testing.T) {
	_, signer := testKey(t, 1)
	sig, err := Sign(signer, "ns", []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	var b blob
	if err := ssh.Unmarshal(sig, &b); err != nil {
		t.Fatal(err)
	}
	b.Signature += "x"
	if _, err := Verify(ssh.Marshal(b), "ns", []byte("message")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte after the signature: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	_, signer := testKey(t, 1)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaSigner, err := ssh.NewSignerFromKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(rsaSigner, "ns", nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("an RSA key signs: %v", err)
	}
	wire := signer.PublicKey().Marshal()
	for what, bad := range map[string][]byte{
		"nothing": nil, "RSA": rsaSigner.PublicKey().Marshal(), "a byte more": append(bytes.Clone(wire), 0),
		"a byte less": wire[:len(wire)-1], "too long": make([]byte, 1025),
	} {
		if _, err := ParseCredential(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecSigner, err := ssh.NewSignerFromKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Sign(ecSigner, "ns", []byte("m"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(sig, "ns", []byte("m")); err != nil {
		t.Errorf("ECDSA: %v", err)
	}
	if _, err := Verify(sig, "", []byte("m")); !errors.Is(err, codec.ErrSignature) {
		t.Errorf("no namespace: %v", err)
	}
	for _, text := range []string{"", "-----BEGIN SSH SIGNATURE-----", string(Armor(sig)) + "x", string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: sig}))} {
		if _, err := Unarmor([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("unarmored %.20q: %v", text, err)
		}
	}
	if got, err := Unarmor(Armor(sig)); err != nil || !bytes.Equal(got, sig) {
		t.Errorf("armor: %v", err)
	}
}

func FuzzParseCredential(f *testing.F) {
	_, signer := testKey(f, 3)
	f.Add(signer.PublicKey().Marshal())
	f.Add([]byte("sk-ssh-ed25519@openssh.com"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := ParseCredential(data); err == nil && !bytes.Equal(c, data) {
			t.Fatal("a second encoding was accepted")
		}
	})
}
