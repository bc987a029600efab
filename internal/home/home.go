// Package home is a person's or operator's folder for the command line: which
// organisation it is pinned to, where its server and holders are reached, and
// the keys that lie beside. In it are chancery.json and whatever the commands
// are told to keep there; secrets are files of mode 0600.
package home

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/internal/custody"
	"chancery/internal/wire"
)

const file = "chancery.json"

// ErrNone means that a folder is not the home of an organisation.
var ErrNone = errors.New("no chancery.json here")

// Home is what chancery.json holds. Only Organisation is trusted: everything
// else says where to look.
type Home struct {
	Organisation codec.Hash      `json:"organisation"`
	Server       string          `json:"server"`
	Keyholders   []wire.Endpoint `json:"keyholders,omitempty"`
	Guards       []wire.Endpoint `json:"guards,omitempty"`
}

// Load reads a folder's chancery.json. It returns ErrNone, wrapped, where there
// is none.
func Load(dir string) (*Home, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the home folder: %w", err)
	}
	var h Home
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("couldn't read %s: %w", filepath.Join(dir, file), err)
	}
	if h.Organisation.IsZero() || h.Server == "" {
		return nil, fmt.Errorf("%s names no organisation or no server", filepath.Join(dir, file))
	}
	return &h, nil
}

// Save writes a folder's chancery.json, whole or not at all.
func (h *Home) Save(dir string) error {
	data, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return fmt.Errorf("couldn't encode the home folder: %w", err)
	}
	return WriteFile(filepath.Join(dir, file), append(data, '\n'), 0o644)
}

// WriteFile writes a file durably, whole or not at all, and makes its folder.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("couldn't make the folder of %s: %w", path, err)
	}
	return custody.WriteFile(path, data, mode)
}

// NewKey makes a person's Ed25519 SSH key: path (mode 0600) and path.pub, as
// ssh-keygen does. It refuses to overwrite one. The comment, of one line, stands
// in both.
func NewKey(path, comment string) (ssh.Signer, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s exists already", path)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("couldn't make a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("couldn't encode the key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("couldn't use the key: %w", err)
	}
	if err := WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	public := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(signer.PublicKey()), []byte("\n"))
	if comment != "" {
		public = append(public, " "+comment...)
	}
	return signer, WriteFile(path+".pub", append(public, '\n'), 0o644)
}

// LoadKey reads an SSH private key. passphrase is asked only where the key has
// one, and may be nil.
func LoadKey(path string, passphrase func() ([]byte, error)) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the SSH key: %w", err)
	}
	defer clear(data)
	signer, err := ssh.ParsePrivateKey(data)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) && passphrase != nil {
		secret, err := passphrase()
		if err != nil {
			return nil, err
		}
		defer clear(secret)
		signer, err = ssh.ParsePrivateKeyWithPassphrase(data, secret)
		if err != nil {
			return nil, fmt.Errorf("couldn't read the SSH key %s: wrong passphrase?", path)
		}
		return signer, nil
	}
	if err != nil {
		return nil, fmt.Errorf("couldn't read the SSH key %s: %w", path, err)
	}
	return signer, nil
}
