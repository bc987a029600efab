package delivery

import (
	"errors"
	"fmt"

	"chancery/blindindex"
	"chancery/codec"
	"chancery/control"
	"chancery/envelope"
	"chancery/internal/wire"
	"chancery/manifest"
)

// MaxCiphertext is the greatest length in bytes of an end-to-end ciphertext.
const MaxCiphertext = 3 << 20

// item is a manifest with its envelope and tags, checked as far as that needs
// no place in a conversation.
type item struct {
	*manifest.Manifest
	core     codec.Hash
	envelope []byte
	tags     []byte
	direct   bool  // its conversation is one
	size     int64 // control size at which the header was checked
}

// message is a submission, checked so far.
type message struct {
	index      *item // nil where the message brings none
	item       *item
	ciphertext []byte
	copies     [][]byte // of a direct conversation, in the place of one ciphertext
}

// checkMessage decides all that takes time and doesn't depend on what else is
// on its way: it runs in the callers' goroutines, many at once. What depends on
// place is decided again, in order, by the writer.
func (s *Server) checkMessage(device codec.Hash, in *wire.Submission) (*message, error) {
	m := &message{ciphertext: in.Ciphertext}
	var err error
	if in.Index != nil {
		if m.index, err = s.checkItem(device, in.Index); err != nil {
			return nil, err
		}
		if h := m.index.Header; h.Kind != envelope.KindIndex {
			return nil, refuse(m.index.core, ReasonKind, "an index envelope comes first, not one of kind %s", h.Kind)
		}
		if err := m.index.checkAlone(nil); err != nil {
			return nil, err
		}
	}
	if m.item, err = s.checkItem(device, &in.Message); err != nil {
		return nil, err
	}
	if m.item.direct {
		m.ciphertext = nil
		m.copies, err = m.item.checkCopies(in.Ciphertext)
	} else {
		err = m.item.checkAlone(in.Ciphertext)
	}
	if err != nil {
		return nil, err
	}
	if m.index != nil && m.item.Transport.Index != m.index.core {
		return nil, refuse(m.item.core, ReasonIndex, "the index envelope that comes with it is another than it names")
	}
	return m, nil
}

// checkItem checks, in the order of spec/delivery.md#checks, form, device,
// signature, header, kind, proof and envelope.
func (s *Server) checkItem(device codec.Hash, in *wire.Item) (*item, error) {
	m, err := manifest.Parse(in.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	it := &item{Manifest: m, core: m.CoreHash(), envelope: in.Envelope, tags: in.Tags, direct: s.direct(m.Header.Conversation)}
	if m.Header.Device != device {
		return nil, fmt.Errorf("%w: the message is another device's", ErrForbidden)
	}
	env, err := envelope.Parse(in.Envelope)
	if err != nil {
		return nil, refuse(it.core, ReasonSize, "the envelope is not in its one form: %v", err)
	}
	var key codec.PublicKey
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		it.size = state.Size()
		var d *control.DeviceState
		if d, err = it.checkHeader(state, it.size, s.Now().UnixMilli()); err == nil {
			key = d.Key
		}
	})
	if err != nil {
		return nil, err
	}
	if err := m.Verify(key); err != nil {
		return nil, refuse(it.core, ReasonSignature, "the device's signature does not verify")
	}
	if err := it.checkKind(); err != nil {
		return nil, err
	}
	if err := envelope.VerifyProof(env.E(), it.core, &m.Proof); err != nil {
		return nil, refuse(it.core, ReasonProof, "%v", err)
	}
	if env.Hash() != m.Core.Envelope {
		return nil, refuse(it.core, ReasonEnvelope, "the envelope is another than the core names")
	}
	if n := len(m.Core.Attachments); n > 0 {
		return nil, refuse(it.core, ReasonAttachment, "none of its %d attachments is stored", n)
	}
	return it, nil
}

// checkHeader is the part that the writer repeats where the control log has
// grown: a device that was revoked meanwhile sends nothing more.
func (it *item) checkHeader(state *control.State, size, now int64) (*control.DeviceState, error) {
	if _, err := state.CheckDevice(it.Header.Device, size, now); err != nil {
		return nil, refuse(it.core, ReasonDevice, "%v", err)
	}
	d, _, err := state.CheckHeader(it.Header, size, now)
	if err != nil {
		return nil, refuse(it.core, ReasonHeader, "%v", err)
	}
	return d, nil
}

// checkKind checks which parts a kind has (spec/delivery.md#kinds).
func (it *item) checkKind() error {
	t, kind := it.Transport, it.Header.Kind
	if it.Header.Conversation.IsZero() {
		return refuse(it.core, ReasonUnknown, "a conversation has an id")
	}
	if !t.Capsule.IsZero() {
		return refuse(it.core, ReasonTransport, "capsules are not taken")
	}
	if len(t.Ciphertexts) > 1 && !it.direct {
		return refuse(it.core, ReasonTransport, "%d ciphertexts, at most one for a group message", len(t.Ciphertexts))
	}
	indexed := !t.Index.IsZero() || !t.Tags.IsZero() || t.Tokenizer != 0 || len(it.tags) > 0
	switch kind {
	case envelope.KindRecord, envelope.KindCapture:
		if t.Index.IsZero() || t.Tags.IsZero() || t.Tokenizer == 0 {
			return refuse(it.core, ReasonKind, "kind %s needs an index, a tokenizer and tags", kind)
		}
		if kind == envelope.KindRecord && len(t.Ciphertexts) != 1 && !it.direct {
			return refuse(it.core, ReasonKind, "kind %s needs a ciphertext", kind)
		}
	case envelope.KindIndex, envelope.KindReport, envelope.KindDelegation:
		if indexed {
			return refuse(it.core, ReasonKind, "kind %s has no tags", kind)
		}
		if kind != envelope.KindReport && len(t.Ciphertexts) != 0 {
			return refuse(it.core, ReasonKind, "kind %s has no ciphertext", kind)
		}
	default:
		return refuse(it.core, ReasonKind, "kind %s is not sent as a message", kind)
	}
	return nil
}

// checkAlone checks ciphertext and tags against the transport.
func (it *item) checkAlone(ciphertext []byte) error {
	t := it.Transport
	if len(ciphertext) > MaxCiphertext {
		return refuse(it.core, ReasonSize, "ciphertext of %d bytes, at most %d", len(ciphertext), MaxCiphertext)
	}
	if (len(t.Ciphertexts) == 1) != (len(ciphertext) > 0) {
		return refuse(it.core, ReasonTransport, "%d ciphertexts stated and %d bytes sent", len(t.Ciphertexts), len(ciphertext))
	}
	if len(ciphertext) > 0 {
		if manifest.CiphertextHash(ciphertext) != t.Ciphertexts[0] {
			return refuse(it.core, ReasonTransport, "the ciphertext is another than stated")
		}
		if err := it.checkBinding(ciphertext); err != nil {
			return err
		}
	}
	return it.checkTags()
}

// checkTags checks the tags against the transport.
func (it *item) checkTags() error {
	t := it.Transport
	if t.Tags.IsZero() {
		return nil
	}
	tags, err := blindindex.Parse(it.tags)
	if err != nil {
		return refuse(it.core, ReasonTags, "%v", err)
	}
	if blindindex.Hash(tags) != t.Tags {
		return refuse(it.core, ReasonTags, "the tags are others than stated")
	}
	return nil
}

// checkBinding compares what an MLS message says in clear: without it a sender
// could archive one thing and say another to recipients that don't look.
func (it *item) checkBinding(ciphertext []byte) error {
	f, err := parseFraming(ciphertext)
	switch {
	case err != nil:
		return refuse(it.core, ReasonBinding, "%v", err)
	case string(f.Group) != string(it.Header.Conversation[:]):
		return refuse(it.core, ReasonBinding, "the ciphertext is of another group than the conversation")
	case f.Epoch != it.Transport.Epoch:
		return refuse(it.core, ReasonBinding, "the ciphertext is of epoch %d, stated %d", f.Epoch, it.Transport.Epoch)
	case string(f.AD) != string(manifest.AuthenticatedData(it.core)):
		return refuse(it.core, ReasonBinding, "the ciphertext doesn't authenticate the core")
	}
	return nil
}

// commit is a commit submission, checked so far.
type commit struct {
	*manifest.Commit
	hash    codec.Hash
	raw     []byte
	roster  manifest.Roster
	message []byte
	welcome []byte
	added   []codec.Hash
	info    []byte     // GroupInfo
	judged  *judged    // nil where the conversation wasn't where the commit says
	members []codec.ID // of a direct conversation
}

const (
	maxCommit  = 1 << 20
	maxWelcome = 4 << 20
	maxInfo    = 4 << 20
)

func (s *Server) checkCommit(device codec.Hash, in *wire.CommitSubmission) (*commit, error) {
	c, err := manifest.ParseCommit(in.Statement)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if c.Device != device {
		return nil, fmt.Errorf("%w: the commit is another device's", ErrForbidden)
	}
	hash := manifest.CommitHash(in.Statement)
	if len(in.Commit) > maxCommit || len(in.Welcome) > maxWelcome || len(in.GroupInfo) > maxInfo {
		return nil, refuse(hash, ReasonSize, "commit of %d bytes, Welcome of %d and GroupInfo of %d", len(in.Commit), len(in.Welcome), len(in.GroupInfo))
	}
	var key codec.PublicKey
	var organisation codec.Hash
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		organisation = state.Organisation()
		if d, ok := state.Device(device); ok && d.ValidAt(state.Size()) {
			key = d.Key
		}
	})
	switch {
	case key.IsZero():
		return nil, refuse(hash, ReasonDevice, "the device is not valid now")
	case manifest.VerifyCommit(key, in.Statement) != nil:
		return nil, refuse(hash, ReasonSignature, "the device's signature does not verify")
	case c.Organisation != organisation:
		return nil, refuse(hash, ReasonHeader, "another organisation's commit")
	case c.Conversation.IsZero():
		return nil, refuse(hash, ReasonUnknown, "a conversation has an id")
	}
	if err := in.Roster.Validate(); err != nil {
		return nil, refuse(hash, ReasonRoster, "%v", err)
	}
	if in.Roster.Root() != c.Roster {
		return nil, refuse(hash, ReasonRoster, "the roster is another than stated")
	}
	if c.Direct() {
		return checkDirect(&commit{Commit: c, hash: hash, raw: in.Statement, roster: in.Roster, message: in.Commit}, in)
	}
	first := c.Epoch == 0
	if first != (len(in.Commit) == 0) || first != (len(c.Transcript) == 0) || first != c.Message.IsZero() || first != c.Previous.IsZero() {
		return nil, refuse(hash, ReasonCommit, "epoch 0 alone has no commit, transcript and previous epoch")
	}
	if !first && manifest.CiphertextHash(in.Commit) != c.Message {
		return nil, refuse(hash, ReasonCommit, "the commit is another than stated")
	}
	if (len(in.Added) > 0) != (len(in.Welcome) > 0) || (first && len(in.Added) > 0) {
		return nil, refuse(hash, ReasonCommit, "a Welcome comes with the devices that it is for, after epoch 0")
	}
	if len(in.Added) > manifest.MaxRoster {
		return nil, refuse(hash, ReasonSize, "%d devices added", len(in.Added))
	}
	return &commit{
		Commit: c, hash: hash, raw: in.Statement, roster: in.Roster, message: in.Commit, welcome: in.Welcome, added: in.Added, info: in.GroupInfo,
	}, nil
}

// void is a void, checked so far.
type void struct {
	*manifest.Void
	hash codec.Hash
	raw  []byte
}

const maxVoid = 16 << 10

func (s *Server) checkVoid(device codec.Hash, raw []byte) (*void, error) {
	if len(raw) > maxVoid {
		return nil, fmt.Errorf("%w: void of %d bytes", ErrMalformed, len(raw))
	}
	v, err := manifest.ParseVoid(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if v.Device != device {
		return nil, fmt.Errorf("%w: the void is another device's", ErrForbidden)
	}
	var key codec.PublicKey
	var organisation codec.Hash
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		organisation = state.Organisation()
		if d, ok := state.Device(device); ok && d.ValidAt(state.Size()) {
			key = d.Key
		}
	})
	if key.IsZero() {
		return nil, refuse(v.Core, ReasonDevice, "the device is not valid now")
	}
	if _, err := manifest.OpenVoid(key, raw); err != nil {
		return nil, refuse(v.Core, ReasonSignature, "the device's signature does not verify")
	}
	if v.Organisation != organisation {
		return nil, refuse(v.Core, ReasonHeader, "another organisation's void")
	}
	refusal, err := manifest.OpenRefusal(s.Receipt.PublicKey(), v.Refusal)
	if err != nil || refusal.Core != v.Core {
		return nil, refuse(v.Core, ReasonProof, "a void carries the server's refusal of its core")
	}
	return &void{Void: v, hash: manifest.VoidHash(raw), raw: raw}, nil
}

const maxAck = 64 << 10

// checkAck checks an acknowledgement's form, device and signature.
func (s *Server) checkAck(device codec.Hash, raw []byte) (*manifest.Ack, error) {
	if len(raw) > maxAck {
		return nil, fmt.Errorf("%w: acknowledgement of %d bytes", ErrMalformed, len(raw))
	}
	a, err := manifest.ParseAck(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if a.Device != device {
		return nil, fmt.Errorf("%w: the acknowledgement is another device's", ErrForbidden)
	}
	err = codec.ErrSignature
	s.Directory.Read(func(state *control.State, _ codec.Hash) {
		d, ok := state.Device(device)
		if ok && d.ValidAt(state.Size()) && a.Organisation == state.Organisation() {
			err = manifest.VerifyAck(d.Key, raw)
		}
	})
	if errors.Is(err, codec.ErrSignature) {
		return nil, fmt.Errorf("%w: the acknowledgement's signature does not verify", ErrMalformed)
	}
	return a, err
}
