// Package sshsig makes and verifies the signatures of `ssh-keygen -Y sign`
// (OpenSSH PROTOCOL.sshsig), so that a person signs with the key they already
// hold, in a file, an agent or a FIDO token, and anybody checks the signature
// with the tool they already have.
//
// It says whether a key signed a message in a namespace. Whether that key may
// do so is for the caller to decide.
package sshsig

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
)

const (
	magic     = "SSHSIG"
	version   = 1
	pemType   = "SSH SIGNATURE"
	hashName  = "sha512"
	maxLength = 4096 // a signature by a 4096-bit RSA key takes about 1,600 bytes
)

// ErrMalformed means that bytes are not an SSH signature or key of a kind that
// is accepted here.
var ErrMalformed = errors.New("not an acceptable SSH signature")

// Credential is an SSH public key in wire form (RFC 4253 §6.6), at most 1,024
// bytes. Ed25519, ECDSA on P-256 and their FIDO forms are accepted.
type Credential []byte

// ID returns the SHA-256 fingerprint of the credential, the one that ssh-keygen
// prints in base64.
func (c Credential) ID() codec.Hash { return sha256.Sum256(c) }

// ParseCredential checks a public key in wire form.
func ParseCredential(wire []byte) (Credential, error) {
	if len(wire) > 1024 {
		return nil, fmt.Errorf("%w: key of %d bytes", ErrMalformed, len(wire))
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if !accepted(key.Type()) {
		return nil, fmt.Errorf("%w: key type %s", ErrMalformed, key.Type())
	}
	if !bytes.Equal(key.Marshal(), wire) {
		return nil, fmt.Errorf("%w: key not in its one encoding", ErrMalformed)
	}
	return Credential(bytes.Clone(wire)), nil
}

// ParseAuthorizedKey reads one line as in authorized_keys or id_*.pub.
func ParseAuthorizedKey(line []byte) (Credential, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return ParseCredential(key.Marshal())
}

func accepted(keyType string) bool {
	switch keyType {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return true
	}
	return false
}

// blob is the body of a signature (PROTOCOL.sshsig §3).
type blob struct {
	Magic     [len(magic)]byte
	Version   uint32
	PublicKey string
	Namespace string
	Reserved  string
	HashName  string
	Signature string
}

// signed is what the key signs (PROTOCOL.sshsig §2).
type signed struct {
	Magic     [len(magic)]byte
	Namespace string
	Reserved  string
	HashName  string
	Hash      string
}

func signedBytes(namespace string, message []byte) []byte {
	h := sha512.Sum512(message)
	return ssh.Marshal(signed{Magic: [6]byte([]byte(magic)), Namespace: namespace, HashName: hashName, Hash: string(h[:])})
}

// Sign signs message in namespace, which must not be empty, and returns the
// binary signature, at most 4,096 bytes.
func Sign(signer ssh.Signer, namespace string, message []byte) ([]byte, error) {
	if !accepted(signer.PublicKey().Type()) {
		return nil, fmt.Errorf("%w: key type %s", ErrMalformed, signer.PublicKey().Type())
	}
	sig, err := signer.Sign(rand.Reader, signedBytes(namespace, message))
	if err != nil {
		return nil, fmt.Errorf("couldn't sign with the SSH key: %w", err)
	}
	return ssh.Marshal(blob{
		Magic: [6]byte([]byte(magic)), Version: version, PublicKey: string(signer.PublicKey().Marshal()),
		Namespace: namespace, HashName: hashName, Signature: string(ssh.Marshal(sig)),
	}), nil
}

// Verify checks that sig is a signature over message in namespace and returns
// the credential that made it. A FIDO token must have been touched. It returns
// ErrMalformed or codec.ErrSignature.
func Verify(sig []byte, namespace string, message []byte) (Credential, error) {
	if len(sig) > maxLength {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(sig))
	}
	var b blob
	if err := ssh.Unmarshal(sig, &b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if string(b.Magic[:]) != magic || b.Version != version || b.Reserved != "" || b.HashName != hashName {
		return nil, fmt.Errorf("%w: want version %d with %s", ErrMalformed, version, hashName)
	}
	credential, err := ParseCredential([]byte(b.PublicKey))
	if err != nil {
		return nil, err
	}
	if namespace == "" || b.Namespace != namespace {
		return nil, fmt.Errorf("namespace %q, want %q: %w", b.Namespace, namespace, codec.ErrSignature)
	}
	var inner ssh.Signature
	if err := ssh.Unmarshal([]byte(b.Signature), &inner); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if !bytes.Equal(ssh.Marshal(b), sig) || !bytes.Equal(ssh.Marshal(inner), []byte(b.Signature)) {
		return nil, fmt.Errorf("%w: not in its one encoding", ErrMalformed)
	}
	key, err := ssh.ParsePublicKey(credential)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if err := checkRest(key.Type(), inner.Rest); err != nil {
		return nil, err
	}
	if err := key.Verify(signedBytes(namespace, message), &inner); err != nil {
		return nil, codec.ErrSignature
	}
	return credential, nil
}

// userPresent is the flag that a FIDO token sets when somebody touched it
// (OpenSSH PROTOCOL.u2f).
const userPresent = 0x01

// checkRest judges what follows the signature proper. A FIDO token adds flags
// and a counter, which it signs, and has to say that somebody touched it: a
// program that only reached the token must not be a person. Other keys add
// nothing, and what they did add nobody would have signed.
func checkRest(keyType string, rest []byte) error {
	switch keyType {
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		if len(rest) != 5 {
			return fmt.Errorf("%w: want flags and counter of the token", ErrMalformed)
		}
		if rest[0]&userPresent == 0 {
			return fmt.Errorf("nobody touched the token: %w", codec.ErrSignature)
		}
	default:
		if len(rest) != 0 {
			return fmt.Errorf("%w: %d bytes after the signature", ErrMalformed, len(rest))
		}
	}
	return nil
}

// Armor returns sig as `ssh-keygen -Y sign` writes it.
func Armor(sig []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: sig}) }

// Unarmor reads what Armor or `ssh-keygen -Y sign` wrote.
func Unarmor(text []byte) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: want one %s block", ErrMalformed, pemType)
	}
	return block.Bytes, nil
}
