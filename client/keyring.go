package client

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/manifest"
)

// Keyring is what the devices of one process share: escrow keys in the expanded
// form that sealing wants, and the outcome of checks whose inputs are the same
// bytes for every recipient, so that a process with many devices of one
// conversation checks a signature once. What a device decrypts and re-seals it
// checks itself. It is safe for concurrent use; the zero value is empty.
type Keyring struct {
	mu        sync.Mutex // guards keys
	keys      map[codec.Hash]*envelope.PublicKey
	receipts  memo[*manifest.Receipt]
	manifests memo[*manifest.Manifest] // parsed, their signatures not checked
	signed    memo[struct{}]           // manifests whose signature verifies
	tags      memo[codec.Hash]
}

func (k *Keyring) get(m *control.MonthState) (*envelope.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p, ok := k.keys[m.Hash]; ok {
		return p, nil
	}
	p, err := m.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("escrow key %s: %w", m.Hash.Short(), err)
	}
	if k.keys == nil {
		k.keys = map[codec.Hash]*envelope.PublicKey{}
	}
	k.keys[m.Hash] = p
	return p, nil
}

// receipt is manifest.OpenReceipt.
func (k *Keyring) receipt(key codec.PublicKey, raw []byte) (*manifest.Receipt, error) {
	return k.receipts.do(digest(key[:], raw), func() (*manifest.Receipt, error) { return manifest.OpenReceipt(key, raw) })
}

// manifest is manifest.Parse.
func (k *Keyring) manifest(raw []byte) (*manifest.Manifest, error) {
	return k.manifests.do(digest(raw), func() (*manifest.Manifest, error) { return manifest.Parse(raw) })
}

// verify is Manifest.Verify.
func (k *Keyring) verify(m *manifest.Manifest, key codec.PublicKey) error {
	_, err := k.signed.do(digest(key[:], m.Bytes()), func() (struct{}, error) { return struct{}{}, m.Verify(key) })
	return err
}

// digest hashes parts of which at most the last is of variable length.
func digest(parts ...[]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// memo remembers the results of a pure function that succeeded, by a hash of its
// input: the last memoSize at least, and at most twice as many.
type memo[V any] struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]V
}

const memoSize = 1024

func (m *memo[V]) do(key [sha256.Size]byte, f func() (V, error)) (V, error) {
	m.mu.Lock()
	v, ok := m.young[key]
	if !ok {
		if v, ok = m.old[key]; ok {
			m.put(key, v)
		}
	}
	m.mu.Unlock()
	if ok {
		return v, nil
	}
	v, err := f()
	if err != nil {
		return v, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.put(key, v)
	return v, nil
}

// put remembers; the caller holds the lock.
func (m *memo[V]) put(key [sha256.Size]byte, v V) {
	if m.young == nil || len(m.young) >= memoSize {
		m.young, m.old = make(map[[sha256.Size]byte]V), m.young
	}
	m.young[key] = v
}
