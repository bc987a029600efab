package api

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/directory"
	"chancery/internal/store/sqlite"
)

const keysFile = "server.key"

// Keys are the public halves of the server's keys, for the genesis leaf.
type Keys struct {
	ControlKey  codec.PublicKey `json:"control_key"`  // signs checkpoints of the control log
	MessagesKey codec.PublicKey `json:"messages_key"` // and of the messages log
	ReceiptKey  codec.PublicKey `json:"receipt_key"`  // signs receipts and refusals
}

// secrets are the server's keys. They lie in a file that only its user reads:
// the server has to start by itself, so that a passphrase would lie beside it.
type secrets struct {
	control, messages, receipt *codec.PrivateKey
}

type secretsFile struct {
	_                          struct{} `cbor:",toarray"`
	Control, Messages, Receipt []byte
}

// Init makes the server's directory and keys, durably, and returns the public
// halves. Where they are there already it returns those.
func Init(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("couldn't make the server's directory: %w", err)
	}
	s, err := loadSecrets(dir)
	if errors.Is(err, fs.ErrNotExist) {
		s = &secrets{codec.NewPrivateKey(), codec.NewPrivateKey(), codec.NewPrivateKey()}
		err = s.save(dir)
	}
	if err != nil {
		return nil, err
	}
	return s.public(), nil
}

// Made reports whether a directory is a server's, made by Init.
func Made(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, keysFile))
	return err == nil
}

// Found writes the organisation's genesis entry into the server's log. It
// returns directory.ErrFounded where there is one, control's errors where the
// entry is none, and an error where it names other keys than the server's.
func Found(dir string, genesisEntry []byte) error {
	s, err := loadSecrets(dir)
	if err != nil {
		return fmt.Errorf("couldn't read the server's keys: %w", err)
	}
	_, statement, err := control.Parse(genesisEntry)
	if err != nil {
		return err
	}
	state := control.NewState(statement.Hash())
	if err := state.Apply(genesisEntry, nil); err != nil {
		return err
	}
	if err := s.belong(state.Genesis()); err != nil {
		return err
	}
	st, err := sqlite.Open(dir, sqlite.Options{})
	if err != nil {
		return err
	}
	_, err = directory.Found(context.Background(), st, genesisEntry)
	return errors.Join(err, st.Close())
}

func (s *secrets) public() *Keys {
	return &Keys{s.control.PublicKey(), s.messages.PublicKey(), s.receipt.PublicKey()}
}

// belong checks that the genesis leaf names these keys: with others every
// checkpoint and receipt would be worthless.
func (s *secrets) belong(g *control.Genesis) error {
	if (Keys{g.ControlKey, g.MessagesKey, g.ReceiptKey}) != *s.public() {
		return errors.New("the genesis leaf names other keys than this server's")
	}
	return nil
}

func loadSecrets(dir string) (*secrets, error) {
	data, err := os.ReadFile(filepath.Join(dir, keysFile))
	if err != nil {
		return nil, err
	}
	defer clear(data)
	var f secretsFile
	if err := codec.Decode(data, &f); err != nil {
		return nil, fmt.Errorf("couldn't read the server's keys: %w", err)
	}
	var s secrets
	for _, k := range []struct {
		to   **codec.PrivateKey
		seed []byte
	}{{&s.control, f.Control}, {&s.messages, f.Messages}, {&s.receipt, f.Receipt}} {
		if *k.to, err = codec.PrivateKeyFromSeed(k.seed); err != nil {
			return nil, fmt.Errorf("couldn't read the server's keys: %w", err)
		}
		clear(k.seed)
	}
	return &s, nil
}

// save writes the keys so that they are there whole or not at all: a log that
// was signed with a key which is then lost can't go on.
func (s *secrets) save(dir string) error {
	f := secretsFile{Control: s.control.Seed(), Messages: s.messages.Seed(), Receipt: s.receipt.Seed()}
	data := codec.Encode(f)
	defer clear(data)
	temp, err := os.CreateTemp(dir, keysFile+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("couldn't write the server's keys: %w", err)
	}
	defer os.Remove(temp.Name()) // does nothing after the rename
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, keysFile))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("couldn't write the server's keys: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// standard returns a key as package crypto knows it, for checkpoints.
func standard(k *codec.PrivateKey) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.Seed()) }
