package sshsig

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Verify(data, "ns", []byte("m")); err == nil && !bytes.Equal(data, sig) {
			// Another key may sign too, but not by chance.
			t.Fatal("accepted a signature that was never made")
		}
	})
}
