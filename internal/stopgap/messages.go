package stopgap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/thomas-vilte/mls-go/ciphersuite"
	"github.com/thomas-vilte/mls-go/framing"
	"github.com/thomas-vilte/mls-go/secrettree"

	"chancery/client"
	"chancery/codec"
	"chancery/manifest"
)

// maxSkip bounds how many generations of a sender a message may jump over, and
// so the work that one message can cause. Messages that were never sent, after a
// crash or a refusal, leave gaps.
const maxSkip = 1 << 12

// leaf is one member of an epoch.
type leaf struct {
	_      struct{} `cbor:",toarray"`
	Index  uint32
	Device codec.Hash
	Key    codec.PublicKey
}

// epochKeys is what the messages of one epoch need. It doesn't change.
type epochKeys struct {
	_          struct{} `cbor:",toarray"`
	Number     uint64
	Own        uint32
	Width      uint32 // leaves of the tree, blank ones included
	SenderData []byte
	Encryption []byte
	Context    []byte // encoded GroupContext
	Transcript []byte
	Leaves     []leaf // ascending by index

	roster manifest.Roster // made from the leaves when first asked for
}

func (k *epochKeys) leaf(index uint32) (leaf, bool) {
	i, ok := slices.BinarySearchFunc(k.Leaves, index, func(l leaf, x uint32) int { return int(l.Index) - int(x) })
	if !ok {
		return leaf{}, false
	}
	return k.Leaves[i], true
}

// devices returns the leaves' devices. The caller must not change it.
func (k *epochKeys) devices() manifest.Roster {
	if k.roster == nil {
		devices := make([]codec.Hash, len(k.Leaves))
		for i := range k.Leaves {
			devices[i] = k.Leaves[i].Device
		}
		k.roster = manifest.NewRoster(devices)
	}
	return k.roster
}

func (k *epochKeys) find(device codec.Hash) (leaf, bool) {
	for _, l := range k.Leaves {
		if l.Device == device {
			return l, true
		}
	}
	return leaf{}, false
}

// ratchet is where a sender's application ratchet stands: Secret makes the key
// of Generation, and earlier keys are gone.
type ratchet struct {
	_          struct{} `cbor:",toarray"`
	Leaf       uint32
	Generation uint32
	Secret     []byte
}

// ratchets is those of the leaves that have spoken, ascending.
type ratchets struct {
	list    []ratchet
	changed bool
}

func (r *ratchets) find(leaf uint32) (int, bool) {
	return slices.BinarySearchFunc(r.list, leaf, func(x ratchet, l uint32) int { return int(x.Leaf) - int(l) })
}

func (r *ratchets) at(leaf uint32) ratchet {
	if i, ok := r.find(leaf); ok {
		return r.list[i]
	}
	return ratchet{Leaf: leaf}
}

func (r *ratchets) set(x ratchet) {
	i, ok := r.find(x.Leaf)
	if ok {
		clear(r.list[i].Secret)
		r.list[i] = x
	} else {
		r.list = slices.Insert(r.list, i, x)
	}
	r.changed = true
}

// secretTree returns a secret tree in which one leaf's ratchet stands at r. It is
// thrown away after a message, so that one that fails leaves no trace.
func (k *epochKeys) secretTree(r ratchet) (*secrettree.Tree, error) {
	if r.Secret == nil {
		return secrettree.NewTree(ciphersuite.NewSecretForCS(suite, k.Encryption), k.Width, suite)
	}
	none := make([]byte, suite.HashLength()) // handshakes are PublicMessages: that ratchet is never used
	return secrettree.UnmarshalFull(&secrettree.TreeState{
		EncryptionSecret: k.Encryption,
		LeafCount:        k.Width,
		LeafStates: map[uint32]secrettree.LeafState{r.Leaf: {
			Generation: uint64(r.Generation), SequenceNumber: uint64(r.Generation),
			LeafSecret: none, HandshakeSecret: none, ApplicationSecret: r.Secret,
		}},
	}, suite)
}

// spent returns a leaf's ratchet one step after the key that was just used.
func spent(t *secrettree.Tree, index uint32) (ratchet, error) {
	l, err := t.LeafForIndex(index)
	if err != nil {
		return ratchet{}, err
	}
	if err := l.Advance(); err != nil {
		return ratchet{}, err
	}
	st := t.MarshalFull().LeafStates[index]
	return ratchet{Leaf: index, Generation: uint32(st.Generation), Secret: st.ApplicationSecret}, nil
}

// Encrypt implements client.Groups.
func (s *Groups) Encrypt(conversation codec.ID, plaintext, ad []byte) ([]byte, error) {
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	keys, rs, err := s.epoch(e, e.place.Current)
	if err != nil {
		return nil, err
	}
	tree, err := keys.secretTree(rs.at(keys.Own))
	if err != nil {
		return nil, fmt.Errorf("couldn't encrypt: %w", err)
	}
	pm, err := framing.Encrypt(framing.EncryptParams{
		Content: framing.FramedContent{
			GroupID: conversation[:], Epoch: keys.Number,
			Sender:            framing.Sender{Type: framing.SenderTypeMember, LeafIndex: keys.Own},
			AuthenticatedData: ad,
			Body:              framing.ApplicationData{Data: plaintext},
		},
		SenderLeafIndex: keys.Own, CipherSuite: suite,
		SenderDataSecret: ciphersuite.NewSecretForCS(suite, keys.SenderData),
		SecretTree:       tree, SigKey: s.signer(), GroupContext: keys.Context,
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't encrypt: %w", err)
	}
	next, err := spent(tree, keys.Own)
	if err != nil {
		return nil, fmt.Errorf("couldn't encrypt: %w", err)
	}
	rs.set(next)
	return framing.NewMLSMessagePrivate(pm).Marshal(), nil
}

// Decrypt implements client.Groups.
func (s *Groups) Decrypt(conversation codec.ID, ciphertext []byte) (p *client.Plaintext, err error) {
	defer guarded(&err)
	e, err := s.entry(conversation)
	if err != nil {
		return nil, err
	}
	pm, err := parsePrivate(ciphertext, conversation)
	if err != nil {
		return nil, err
	}
	keys, rs, err := s.epoch(e, pm.Epoch)
	if err != nil {
		return nil, err
	}
	sender, err := keys.senderData(pm)
	if err != nil {
		return nil, err
	}
	from, ok := keys.leaf(sender.LeafIndex)
	if !ok {
		return nil, fmt.Errorf("ciphertext of leaf %d, which is blank", sender.LeafIndex)
	}
	at := rs.at(from.Index)
	// A receiver gets each sender's messages in the order of their sending, so
	// that a generation behind the ratchet can only be one that came before.
	if sender.Generation < at.Generation || from.Index == keys.Own {
		return nil, client.ErrReplay
	}
	if sender.Generation-at.Generation > maxSkip {
		return nil, fmt.Errorf("ciphertext skips %d generations", sender.Generation-at.Generation)
	}
	tree, err := keys.secretTree(at)
	if err != nil {
		return nil, fmt.Errorf("couldn't decrypt: %w", err)
	}
	ac, err := framing.Decrypt(pm, framing.DecryptParams{
		CipherSuite:      suite,
		SenderDataSecret: ciphersuite.NewSecretForCS(suite, keys.SenderData),
		SecretTree:       tree,
		SigPubKey:        ciphersuite.NewMLSSignaturePublicKey(from.Key[:], suite.SignatureScheme()),
		GroupContext:     keys.Context,
	})
	if err != nil {
		return nil, fmt.Errorf("couldn't decrypt: %w", err)
	}
	data, ok := ac.Content.ApplicationData()
	if !ok {
		return nil, errors.New("ciphertext carries no application data")
	}
	next, err := spent(tree, from.Index)
	if err != nil {
		return nil, fmt.Errorf("couldn't decrypt: %w", err)
	}
	rs.set(next)
	return &client.Plaintext{Data: data, AD: pm.AuthenticatedData, Sender: from.Device, Epoch: keys.Number, Roster: keys.devices()}, nil
}

// parsePrivate reads an application message of the group, in its one form.
func parsePrivate(message []byte, conversation codec.ID) (*framing.PrivateMessage, error) {
	m, err := framing.UnmarshalMLSMessage(message)
	if err != nil {
		return nil, fmt.Errorf("couldn't read the ciphertext: %w", err)
	}
	pm, ok := m.AsPrivate()
	if !ok || pm.ContentType != framing.ContentTypeApplication || !bytes.Equal(pm.GroupID, conversation[:]) || !bytes.Equal(m.Marshal(), message) {
		return nil, errors.New("ciphertext is not an application message of this group")
	}
	return pm, nil
}

// senderData opens who sent a message, and in which generation (RFC 9420
// §6.3.2), before any ratchet moves.
func (k *epochKeys) senderData(pm *framing.PrivateMessage) (*framing.MLSSenderData, error) {
	sample := pm.Ciphertext[:min(len(pm.Ciphertext), suite.HashLength())]
	secret := ciphersuite.NewSecretForCS(suite, k.SenderData)
	key, err := secret.KdfExpandLabel("key", sample, suite.AEADKeyLength())
	if err != nil {
		return nil, fmt.Errorf("couldn't derive the sender data key: %w", err)
	}
	nonce, err := secret.KdfExpandLabel("nonce", sample, suite.AEADNonceLength())
	if err != nil {
		return nil, fmt.Errorf("couldn't derive the sender data nonce: %w", err)
	}
	aad := append([]byte{byte(len(pm.GroupID))}, pm.GroupID...) // 16 bytes: a one-byte length
	aad = binary.BigEndian.AppendUint64(aad, pm.Epoch)
	aad = append(aad, byte(pm.ContentType))
	plain, err := ciphersuite.DecryptWithCipherSuite(key.AsSlice(), nonce.AsSlice(), pm.EncryptedSenderData, aad, suite)
	if err != nil {
		return nil, errors.New("couldn't decrypt the sender data")
	}
	return framing.UnmarshalSenderData(plain)
}
