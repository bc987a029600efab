package mls

import (
	"bytes"
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

type messageProtection struct {
	GroupID     hexBytes `json:"group_id"`
	Epoch       uint64
	TreeHash    hexBytes `json:"tree_hash"`
	Transcript  hexBytes `json:"confirmed_transcript_hash"`
	Private     hexBytes `json:"signature_priv"`
	Public      hexBytes `json:"signature_pub"`
	Encryption  hexBytes `json:"encryption_secret"`
	SenderData  hexBytes `json:"sender_data_secret"`
	Membership  hexBytes `json:"membership_key"`
	Proposal    hexBytes
	ProposalPub hexBytes `json:"proposal_pub"`
	ProposalPri hexBytes `json:"proposal_priv"`
	Commit      hexBytes
	CommitPub   hexBytes `json:"commit_pub"`
	CommitPriv  hexBytes `json:"commit_priv"`
	Application hexBytes
	AppPriv     hexBytes `json:"application_priv"`
}

// epoch returns a fresh epoch, in which no key is used. The sender is leaf 1 of
// 2, as the format says.
func (c *messageProtection) epoch(s *cipher.Suite) *epoch {
	return newEpoch(s, &tree.GroupContext{
		CipherSuite: s.ID(), GroupID: c.GroupID, Epoch: c.Epoch, TreeHash: c.TreeHash, ConfirmedTranscriptHash: c.Transcript,
	}, 2, &secrets{
		encryption: bytes.Clone(c.Encryption), senderData: c.SenderData, membership: c.Membership,
	})
}

func runMessageProtection(s *cipher.Suite, c *messageProtection) error {
	var d differences
	for what, m := range map[string]struct {
		kind    tree.ContentType
		raw     []byte
		public  []byte
		private []byte
	}{
		"proposal":    {tree.ContentProposal, c.Proposal, c.ProposalPub, c.ProposalPri},
		"commit":      {tree.ContentCommit, c.Commit, c.CommitPub, c.CommitPriv},
		"application": {tree.ContentApplication, c.Application, nil, c.AppPriv},
	} {
		content := tree.FramedContent{GroupID: c.GroupID, Epoch: c.Epoch, Sender: tree.Member(1), ContentType: m.kind}
		if m.kind == tree.ContentApplication {
			content.ApplicationData = m.raw
		} else {
			r := syntax.NewReader(m.raw)
			content.DecodeBody(r)
			d.err(what, r.Finish())
		}
		mine := make(map[tree.WireFormat][]byte)
		for _, w := range []tree.WireFormat{tree.WirePublicMessage, tree.WirePrivateMessage} {
			var err error
			mine[w], err = c.send(s, w, &content)
			d.err(what+", protect", err)
		}
		for _, message := range [][]byte{m.private, mine[tree.WirePrivateMessage], m.public, mine[tree.WirePublicMessage]} {
			if message != nil {
				d.err(what, c.receive(s, message, &content))
			}
		}
	}
	return errors.Join(d...)
}

func (c *messageProtection) send(s *cipher.Suite, w tree.WireFormat, content *tree.FramedContent) ([]byte, error) {
	signer, err := s.NewSigner(padded(s, c.Private))
	if err != nil {
		return nil, err
	}
	e := c.epoch(s)
	a, err := sign(w, content, &e.context, signer)
	if err != nil {
		return nil, err
	}
	a.Auth.ConfirmationTag = []byte("any: the vectors don't check it")
	return e.protect(a, 64, random("message protection"))
}

func (c *messageProtection) receive(s *cipher.Suite, message []byte, want *tree.FramedContent) error {
	e := c.epoch(s)
	parsed, err := tree.ParseMessage(message)
	if err != nil {
		return err
	}
	var a *tree.AuthenticatedContent
	switch m := parsed.(type) {
	case *tree.PublicMessage:
		a, err = e.unprotectPublic(m)
	case *tree.PrivateMessage:
		a, _, err = e.unprotectPrivate(m, func(tree.LeafIndex) error { return nil })
	default:
		return fmt.Errorf("a %T", parsed)
	}
	if err != nil {
		return err
	}
	var d differences
	d.bytes("content", syntax.Marshal(&a.Content), syntax.Marshal(want))
	d.err("signature", s.VerifyWithLabel(c.Public, tree.LabelFramedContent, a.Content.SignedContent(a.WireFormat, &e.context), a.Auth.Signature))
	return errors.Join(d...)
}

// padded gives a private key the zeros that the vectors leave out before ECDSA
// scalars.
func padded(s *cipher.Suite, private []byte) []byte {
	if s.ID() != cipher.P521AES256SHA512P521 {
		return private
	}
	return append(make([]byte, max(0, 66-len(private))), private...)
}

type passiveClient struct {
	PSKs []struct {
		ID  hexBytes `json:"psk_id"`
		PSK hexBytes `json:"psk"`
	} `json:"external_psks"`
	KeyPackage    hexBytes `json:"key_package"`
	Leaf          hexBytes `json:"encryption_priv"`
	Init          hexBytes `json:"init_priv"`
	Welcome       hexBytes
	Tree          hexBytes `json:"ratchet_tree"`
	Authenticator hexBytes `json:"initial_epoch_authenticator"`
	Epochs        []struct {
		Proposals     []hexBytes
		Commit        hexBytes
		Authenticator hexBytes `json:"epoch_authenticator"`
	}
}

func runPassiveClient(s *cipher.Suite, c *passiveClient) error {
	own, err := RestoreKeyPackage(c.KeyPackage, padded(s, c.Init), padded(s, c.Leaf))
	if err != nil {
		return err
	}
	config := Config{Rules: anything{}, PSK: func(id *tree.PreSharedKeyID) ([]byte, error) {
		for _, p := range c.PSKs {
			if id.Type == tree.PSKExternal && bytes.Equal(id.ID, p.ID) {
				return p.PSK, nil
			}
		}
		return nil, ErrNoPSK
	}}
	g, err := Join(config, own, c.Welcome, c.Tree, nil)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	var d differences
	d.bytes("epoch authenticator", g.EpochAuthenticator(), c.Authenticator)
	for i, e := range c.Epochs {
		for _, p := range e.Proposals {
			if _, err := g.Process(p); err != nil {
				return fmt.Errorf("epoch %d, proposal: %w", i, err)
			}
		}
		if _, err := g.Process(e.Commit); err != nil {
			return fmt.Errorf("epoch %d, commit: %w", i, err)
		}
		d.bytes("epoch authenticator", g.EpochAuthenticator(), e.Authenticator)
	}
	return errors.Join(d...)
}

// anything accepts whatever RFC 9420 allows.
type anything struct{}

func (anything) Leaf(tree.Event, *tree.LeafNode, *tree.LeafNode) error  { return nil }
func (anything) Lifetime(tree.Event, tree.Lifetime) error               { return nil }
func (anything) Client(leaf *tree.LeafNode) string                      { return string(leaf.SignatureKey) }
func (anything) ExternalSender(*tree.ExternalSender) error              { return nil }
func (anything) Proposal(*tree.Group, tree.Sender, tree.Proposal) error { return nil }

type welcomeVector struct {
	Init       hexBytes `json:"init_priv"`
	KeyPackage hexBytes `json:"key_package"`
	Signer     hexBytes `json:"signer_pub"`
	Welcome    hexBytes
}

// runWelcome stops short of the tree, which the vector doesn't have.
func runWelcome(s *cipher.Suite, c *welcomeVector) error {
	m, err := tree.ParseMessage(c.KeyPackage)
	if err != nil {
		return err
	}
	own := &OwnKeyPackage{Public: *m.(*tree.KeyPackage)}
	if own.init, err = s.NewPrivateKey(padded(s, c.Init)); err != nil {
		return err
	}
	if m, err = tree.ParseMessage(c.Welcome); err != nil {
		return err
	}
	j := &joining{suite: s, own: own}
	if err := j.openSecrets(m.(*tree.Welcome)); err != nil {
		return err
	}
	if err := j.openInfo(m.(*tree.Welcome), nil); err != nil {
		return err
	}
	var d differences
	d.err("signature", s.VerifyWithLabel(c.Signer, tree.LabelGroupInfo, j.info.SignedContent(), j.info.Signature))
	x := newSecrets(s, epochSecret(s, j.member, syntax.Marshal(&j.info.Context)))
	d.bytes("confirmation tag", x.confirmationTag(s, j.info.Context.ConfirmedTranscriptHash), j.info.ConfirmationTag)
	if _, err := treeOf(s, &j.info, nil); !errors.Is(err, ErrNoTree) {
		d.err("tree", fmt.Errorf("got %v, want ErrNoTree", err))
	}
	return errors.Join(d...)
}
