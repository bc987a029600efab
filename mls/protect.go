package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

var (
	// ErrNotAuthentic means that a message, or a part of it, wasn't made by the
	// member that it names, for this group and epoch.
	ErrNotAuthentic = errors.New("message isn't authentic")
	// ErrOwnMessage means that the message was sent by this very member, who
	// deleted its key on sending.
	ErrOwnMessage = errors.New("message is one's own")
)

// epoch is what protects the messages of one epoch. Of a past epoch only what
// reads late messages is left.
type epoch struct {
	suite   *cipher.Suite
	context tree.GroupContext
	secrets secrets
	keys    *secretTree
}

// newEpoch takes over x; its encryption secret moves into the secret tree.
func newEpoch(s *cipher.Suite, context *tree.GroupContext, size tree.Size, x *secrets) *epoch {
	e := &epoch{suite: s, context: *context, secrets: *x}
	e.keys = newSecretTree(s, context.Epoch, size, e.secrets.encryption)
	e.secrets.encryption = nil
	return e
}

func (e *epoch) erase() {
	e.secrets.erase()
	e.keys.erase()
}

// sign completes content up to a commit's confirmation tag (RFC 9420 §6.1).
func sign(w tree.WireFormat, content *tree.FramedContent, context *tree.GroupContext, signer cipher.Signer) (*tree.AuthenticatedContent, error) {
	signature, err := signer.Sign(tree.LabelFramedContent, content.SignedContent(w, context))
	if err != nil {
		return nil, fmt.Errorf("couldn't sign: %w", err)
	}
	return &tree.AuthenticatedContent{WireFormat: w, Content: *content, Auth: tree.AuthData{Signature: signature}}, nil
}

// protect returns the MLSMessage that carries a in the form a.WireFormat says.
func (e *epoch) protect(a *tree.AuthenticatedContent, padTo int, random io.Reader) ([]byte, error) {
	if a.WireFormat == tree.WirePublicMessage {
		return tree.MarshalMessage(e.protectPublic(a)), nil
	}
	m, err := e.protectPrivate(a, padTo, random)
	if err != nil {
		return nil, err
	}
	return tree.MarshalMessage(m), nil
}

// protectPublic is RFC 9420 §6.2.
func (e *epoch) protectPublic(a *tree.AuthenticatedContent) *tree.PublicMessage {
	m := &tree.PublicMessage{Content: a.Content, Auth: a.Auth}
	if a.Content.Sender.Type == tree.SenderMember {
		m.MembershipTag = e.suite.MAC(e.secrets.membership, a.MembershipContent(&e.context))
	}
	return m
}

// unprotectPublic checks a member's membership tag. Signatures are for
// tree.Group.
func (e *epoch) unprotectPublic(m *tree.PublicMessage) (*tree.AuthenticatedContent, error) {
	a := m.AuthenticatedContent()
	if m.Content.Sender.Type != tree.SenderMember {
		return a, nil
	}
	if !e.suite.VerifyMAC(e.secrets.membership, a.MembershipContent(&e.context), m.MembershipTag) {
		return nil, fmt.Errorf("membership tag: %w", ErrNotAuthentic)
	}
	return a, nil
}

// reuseGuardSize is the length of SenderData.reuse_guard in bytes.
const reuseGuardSize = 4

// senderData is RFC 9420 §6.3.2.
type senderData struct {
	leaf       tree.LeafIndex
	generation uint32
	reuseGuard [reuseGuardSize]byte
}

func (d *senderData) Encode(b *syntax.Builder) {
	b.Uint32(uint32(d.leaf))
	b.Uint32(d.generation)
	b.Fixed(d.reuseGuard[:])
}

func (d *senderData) Decode(r *syntax.Reader) {
	d.leaf = tree.LeafIndex(r.Uint32())
	d.generation = r.Uint32()
	copy(d.reuseGuard[:], r.Fixed(reuseGuardSize))
}

// keys returns key and nonce of the sender data, which depend on a sample of
// the ciphertext.
func (e *epoch) senderDataKeys(ciphertext []byte) (key, nonce []byte) {
	sample := ciphertext[:min(len(ciphertext), e.suite.HashSize())]
	key = e.suite.ExpandWithLabel(e.secrets.senderData, "key", sample, e.suite.KeySize())
	nonce = e.suite.ExpandWithLabel(e.secrets.senderData, "nonce", sample, e.suite.NonceSize())
	return key, nonce
}

// senderDataAAD and contentAAD are what the two ciphertexts of m are bound to.
func senderDataAAD(m *tree.PrivateMessage) []byte {
	b := syntax.NewBuilder(len(m.GroupID) + 16)
	b.Opaque(m.GroupID)
	b.Uint64(m.Epoch)
	b.Uint8(uint8(m.ContentType))
	return b.Bytes()
}

func contentAAD(m *tree.PrivateMessage) []byte {
	b := syntax.NewBuilder(len(m.GroupID) + len(m.AuthenticatedData) + 24)
	b.Fixed(senderDataAAD(m))
	b.Opaque(m.AuthenticatedData)
	return b.Bytes()
}

// guard mixes the reuse guard into a nonce (RFC 9420 §6.3.1).
func guard(nonce []byte, reuseGuard [reuseGuardSize]byte) []byte {
	out := bytes.Clone(nonce)
	for i, g := range reuseGuard {
		out[i] ^= g
	}
	return out
}

// maxAuthData bounds what stands beside an application message's text in the
// plaintext, in bytes: lengths, and a signature.
const maxAuthData = 256

// protectPrivate is RFC 9420 §6.3. It spends a key of the sender's.
func (e *epoch) protectPrivate(a *tree.AuthenticatedContent, padTo int, random io.Reader) (*tree.PrivateMessage, error) {
	c := &a.Content
	m := &tree.PrivateMessage{
		GroupID: c.GroupID, Epoch: c.Epoch, ContentType: c.ContentType, AuthenticatedData: c.AuthenticatedData,
	}
	leaf, ok := c.Sender.Leaf()
	if !ok {
		return nil, errors.New("only members send encrypted messages")
	}
	data := senderData{leaf: leaf}
	if _, err := io.ReadFull(random, data.reuseGuard[:]); err != nil {
		return nil, fmt.Errorf("couldn't draw a reuse guard: %w", err)
	}
	k, generation, err := e.keys.spend(ratchetID{leaf, c.ContentType != tree.ContentApplication})
	if err != nil {
		return nil, err
	}
	defer k.erase()
	data.generation = generation

	// With room for all of it: what a Builder leaves behind when it grows isn't
	// cleared.
	plain := syntax.NewBuilder(len(c.ApplicationData) + padTo + maxAuthData)
	c.EncodeBody(plain)
	a.Auth.Encode(plain, c.ContentType)
	if padTo > 0 {
		plain.Fixed(make([]byte, (padTo-plain.Len()%padTo)%padTo))
	}
	m.Ciphertext, err = e.suite.Seal(k.key, guard(k.nonce, data.reuseGuard), contentAAD(m), plain.Bytes())
	clear(plain.Bytes())
	if err != nil {
		return nil, err
	}
	key, nonce := e.senderDataKeys(m.Ciphertext)
	m.EncryptedSenderData, err = e.suite.Seal(key, nonce, senderDataAAD(m), syntax.Marshal(&data))
	if err != nil {
		return nil, err
	}
	return m, nil
}

// unprotectPrivate decrypts m. The caller verifies the signature (tree.Group)
// before it uses up the key, because each member can encrypt in another's name,
// and drops the key otherwise. allowed judges the sender before any key is
// derived for it.
func (e *epoch) unprotectPrivate(m *tree.PrivateMessage, allowed func(tree.LeafIndex) error) (*tree.AuthenticatedContent, *foundKey, error) {
	key, nonce := e.senderDataKeys(m.Ciphertext)
	plain, err := e.suite.Open(key, nonce, senderDataAAD(m), m.EncryptedSenderData)
	if err != nil {
		return nil, nil, fmt.Errorf("sender data: %w", ErrNotAuthentic)
	}
	var data senderData
	if err := syntax.Unmarshal(plain, &data); err != nil {
		return nil, nil, fmt.Errorf("sender data: %w", err)
	}
	if err := allowed(data.leaf); err != nil {
		return nil, nil, err
	}
	k, err := e.keys.find(ratchetID{data.leaf, m.ContentType != tree.ContentApplication}, data.generation)
	if err != nil {
		return nil, nil, fmt.Errorf("generation %d of leaf %d: %w", data.generation, data.leaf, err)
	}
	a, err := e.openContent(m, &data, &k.keyAndNonce)
	if err != nil {
		k.drop()
		return nil, nil, err
	}
	return a, k, nil
}

func (e *epoch) openContent(m *tree.PrivateMessage, data *senderData, k *keyAndNonce) (*tree.AuthenticatedContent, error) {
	plain, err := e.suite.Open(k.key, guard(k.nonce, data.reuseGuard), contentAAD(m), m.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("content: %w", ErrNotAuthentic)
	}
	a := &tree.AuthenticatedContent{WireFormat: tree.WirePrivateMessage, Content: tree.FramedContent{
		GroupID: m.GroupID, Epoch: m.Epoch, Sender: tree.Member(data.leaf),
		AuthenticatedData: m.AuthenticatedData, ContentType: m.ContentType,
	}}
	if err := decodePrivateContent(a, plain); err != nil {
		return nil, err
	}
	return a, nil
}

// decodePrivateContent reads PrivateMessageContent (RFC 9420 §6.3.1). Padding
// that isn't zero is refused, as it could hide something.
func decodePrivateContent(a *tree.AuthenticatedContent, plain []byte) error {
	r := syntax.NewReader(plain)
	a.Content.DecodeBody(r)
	a.Auth.Decode(r, a.Content.ContentType)
	for _, b := range r.Rest() {
		if b != 0 {
			r.Failf("padding that isn't zero")
			break
		}
	}
	return r.Err()
}
