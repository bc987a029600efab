package mls

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"chancery/internal/testenv"
	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// hexBytes is binary data as the vectors write it.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// errNoSuite skips a case: X448 and Ed448 aren't built.
var errNoSuite = errors.New("suites 4 and 6 aren't built")

// suiteOf returns the suite of a case, and errNoSuite for 4 and 6 alone.
func suiteOf(id cipher.ID) (*cipher.Suite, error) {
	if id == 4 || id == 6 {
		return nil, errNoSuite
	}
	return cipher.ByID(id)
}

// officialVector says how a case of a file is run.
type officialVector struct {
	file string
	run  func(data json.RawMessage) error
}

// secretVectors are the files that need secrets; treeVectors the others.
var secretVectors = []officialVector{
	{"crypto-basics.json", vector(runCryptoBasics)},
	{"key-schedule.json", vector(runKeySchedule)},
	{"message-protection.json", vector(runMessageProtection)},
	{"passive-client-handling-commit.json", vector(runPassiveClient)},
	{"passive-client-random.json", vector(runPassiveClient)},
	{"passive-client-welcome.json", vector(runPassiveClient)},
	{"psk_secret.json", vector(runPSKSecret)},
	{"secret-tree.json", vector(runSecretTree)},
	{"treekem.json", vector(runTreeKEM)},
	{"welcome.json", vector(runWelcome)},
}

// vector reads a case before it is run.
func vector[T any](run func(c *T) error) func(json.RawMessage) error {
	return func(data json.RawMessage) error {
		var c T
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		return run(&c)
	}
}

// TestOfficialVectors runs those of github.com/mlswg/mls-implementations.
func TestOfficialVectors(t *testing.T) {
	for _, v := range append(secretVectors, treeVectors...) {
		t.Run(v.file, func(t *testing.T) {
			data, err := os.ReadFile(testenv.Data(t, "vectors", "mls", v.file))
			if err != nil {
				t.Fatal(err)
			}
			var cases []json.RawMessage
			if err := json.Unmarshal(data, &cases); err != nil || len(cases) == 0 {
				t.Fatalf("%d cases, %v", len(cases), err)
			}
			passed, skipped := 0, 0
			for i, c := range cases {
				switch err := v.run(c); {
				case errors.Is(err, errNoSuite):
					skipped++
				case err != nil:
					t.Errorf("case %d: %v", i, err)
				default:
					passed++
				}
			}
			reason := ""
			if skipped > 0 {
				reason = fmt.Sprintf(" (%d skipped: %v)", skipped, errNoSuite)
			}
			fmt.Printf("vectors %s %d/%d%s\n", v.file, passed, len(cases), reason)
		})
	}
}

// differences collects what differs from a vector.
type differences []error

func (d *differences) bytes(what string, got, want []byte) {
	if !bytes.Equal(got, want) {
		*d = append(*d, fmt.Errorf("%s: got %x, want %x", what, got, want))
	}
}

func (d *differences) err(what string, err error) {
	if err != nil {
		*d = append(*d, fmt.Errorf("%s: %w", what, err))
	}
}

type cryptoBasics struct {
	Suite   cipher.ID `json:"cipher_suite"`
	RefHash struct {
		Label      string
		Value, Out hexBytes
	} `json:"ref_hash"`
	Expand struct {
		Secret, Context, Out hexBytes
		Label                string
		Length               int
	} `json:"expand_with_label"`
	Derive struct {
		Secret, Out hexBytes
		Label       string
	} `json:"derive_secret"`
	DeriveTree struct {
		Secret, Out hexBytes
		Label       string
		Generation  uint32
		Length      int
	} `json:"derive_tree_secret"`
	Sign struct {
		Priv, Pub, Content, Signature hexBytes
		Label                         string
	} `json:"sign_with_label"`
	Encrypt struct {
		Priv, Pub, Context, Plaintext, Ciphertext hexBytes
		KEMOutput                                 hexBytes `json:"kem_output"`
		Label                                     string
	} `json:"encrypt_with_label"`
}

func runCryptoBasics(c *cryptoBasics) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
	var d differences
	d.bytes("RefHash", s.RefHash(c.RefHash.Label, c.RefHash.Value), c.RefHash.Out)
	d.bytes("ExpandWithLabel", s.ExpandWithLabel(c.Expand.Secret, c.Expand.Label, c.Expand.Context, c.Expand.Length), c.Expand.Out)
	d.bytes("DeriveSecret", s.DeriveSecret(c.Derive.Secret, c.Derive.Label), c.Derive.Out)
	t := &c.DeriveTree
	d.bytes("DeriveTreeSecret", s.DeriveTreeSecret(t.Secret, t.Label, t.Generation, t.Length), t.Out)

	signer, err := s.NewSigner(c.Sign.Priv)
	if err != nil {
		return err
	}
	d.bytes("signature key", signer.Public(), c.Sign.Pub)
	mine, err := signer.Sign(c.Sign.Label, c.Sign.Content)
	d.err("SignWithLabel", err)
	for _, sig := range [][]byte{c.Sign.Signature, mine} {
		d.err("VerifyWithLabel", s.VerifyWithLabel(c.Sign.Pub, c.Sign.Label, c.Sign.Content, sig))
	}

	e := &c.Encrypt
	key, err := s.NewPrivateKey(e.Priv)
	if err != nil {
		return err
	}
	d.bytes("HPKE key", key.Public(), e.Pub)
	kem, ct, err := s.EncryptWithLabel(e.Pub, e.Label, e.Context, e.Plaintext)
	d.err("EncryptWithLabel", err)
	for _, sealed := range [][2][]byte{{e.KEMOutput, e.Ciphertext}, {kem, ct}} {
		plain, err := key.DecryptWithLabel(e.Label, e.Context, sealed[0], sealed[1])
		d.err("DecryptWithLabel", err)
		d.bytes("plaintext", plain, e.Plaintext)
	}
	return errors.Join(d...)
}

type keySchedule struct {
	Suite   cipher.ID `json:"cipher_suite"`
	GroupID hexBytes  `json:"group_id"`
	Init    hexBytes  `json:"initial_init_secret"`
	Epochs  []struct {
		TreeHash      hexBytes `json:"tree_hash"`
		Commit        hexBytes `json:"commit_secret"`
		PSK           hexBytes `json:"psk_secret"`
		Transcript    hexBytes `json:"confirmed_transcript_hash"`
		Context       hexBytes `json:"group_context"`
		Joiner        hexBytes `json:"joiner_secret"`
		Welcome       hexBytes `json:"welcome_secret"`
		Init          hexBytes `json:"init_secret"`
		SenderData    hexBytes `json:"sender_data_secret"`
		Encryption    hexBytes `json:"encryption_secret"`
		Exporter      hexBytes `json:"exporter_secret"`
		Authenticator hexBytes `json:"epoch_authenticator"`
		External      hexBytes `json:"external_secret"`
		Confirmation  hexBytes `json:"confirmation_key"`
		Membership    hexBytes `json:"membership_key"`
		Resumption    hexBytes `json:"resumption_psk"`
		ExternalPub   hexBytes `json:"external_pub"`
		Export        struct {
			Label           string
			Context, Secret hexBytes
			Length          int
		} `json:"exporter"`
	}
}

func runKeySchedule(c *keySchedule) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
	var d differences
	initSecret := []byte(c.Init)
	for i, e := range c.Epochs {
		context := syntax.Marshal(&tree.GroupContext{
			CipherSuite: c.Suite, GroupID: c.GroupID, Epoch: uint64(i),
			TreeHash: e.TreeHash, ConfirmedTranscriptHash: e.Transcript,
		})
		d.bytes("group context", context, e.Context)
		joiner := joinerSecret(s, initSecret, e.Commit, context)
		d.bytes("joiner secret", joiner, e.Joiner)
		member := memberSecret(s, joiner, e.PSK)
		d.bytes("welcome secret", welcomeSecret(s, member), e.Welcome)
		x := newSecrets(s, epochSecret(s, member, context))
		for what, p := range map[string][2][]byte{
			"sender data":         {x.senderData, e.SenderData},
			"encryption":          {x.encryption, e.Encryption},
			"exporter":            {x.exporter, e.Exporter},
			"epoch authenticator": {x.authenticate, e.Authenticator},
			"external":            {x.external, e.External},
			"confirmation":        {x.confirmation, e.Confirmation},
			"membership":          {x.membership, e.Membership},
			"resumption":          {x.resumption, e.Resumption},
			"init":                {x.init, e.Init},
		} {
			d.bytes(what, p[0], p[1])
		}
		key, err := x.externalKey(s)
		if err != nil {
			return err
		}
		d.bytes("external key", key.Public(), e.ExternalPub)
		exported, err := x.export(s, e.Export.Label, e.Export.Context, e.Export.Length)
		d.err("exporter", err)
		d.bytes("exported", exported, e.Export.Secret)
		initSecret = x.init
	}
	return errors.Join(d...)
}

type pskVector struct {
	Suite cipher.ID `json:"cipher_suite"`
	PSKs  []struct {
		ID    hexBytes `json:"psk_id"`
		PSK   hexBytes `json:"psk"`
		Nonce hexBytes `json:"psk_nonce"`
	} `json:"psks"`
	Secret hexBytes `json:"psk_secret"`
}

func runPSKSecret(c *pskVector) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
	var psks []psk
	for _, p := range c.PSKs {
		psks = append(psks, psk{tree.PreSharedKeyID{Type: tree.PSKExternal, ID: p.ID, Nonce: p.Nonce}, p.PSK})
	}
	got, err := pskSecret(s, psks)
	var d differences
	d.err("PSK secret", err)
	d.bytes("PSK secret", got, c.Secret)
	return errors.Join(d...)
}

type secretTreeVector struct {
	Suite      cipher.ID `json:"cipher_suite"`
	Encryption hexBytes  `json:"encryption_secret"`
	SenderData struct {
		Secret     hexBytes `json:"sender_data_secret"`
		Ciphertext hexBytes
		Key, Nonce hexBytes
	} `json:"sender_data"`
	Leaves [][]struct {
		Generation       uint32
		ApplicationKey   hexBytes `json:"application_key"`
		ApplicationNonce hexBytes `json:"application_nonce"`
		HandshakeKey     hexBytes `json:"handshake_key"`
		HandshakeNonce   hexBytes `json:"handshake_nonce"`
	}
}

func runSecretTree(c *secretTreeVector) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
	e := newEpoch(s, &tree.GroupContext{}, tree.Size(len(c.Leaves)), &secrets{
		encryption: bytes.Clone(c.Encryption), senderData: c.SenderData.Secret,
	})
	var d differences
	key, nonce := e.senderDataKeys(c.SenderData.Ciphertext)
	d.bytes("sender data key", key, c.SenderData.Key)
	d.bytes("sender data nonce", nonce, c.SenderData.Nonce)
	for leaf, generations := range c.Leaves {
		for _, g := range generations {
			for _, want := range []struct {
				handshake  bool
				key, nonce []byte
			}{{true, g.HandshakeKey, g.HandshakeNonce}, {false, g.ApplicationKey, g.ApplicationNonce}} {
				k, err := e.keys.find(ratchetID{tree.LeafIndex(leaf), want.handshake}, g.Generation)
				if err != nil {
					return err
				}
				d.bytes("key", k.key, want.key)
				d.bytes("nonce", k.nonce, want.nonce)
				k.use()
			}
		}
	}
	return errors.Join(d...)
}

type messageProtection struct {
	Suite       cipher.ID `json:"cipher_suite"`
	GroupID     hexBytes  `json:"group_id"`
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
		CipherSuite: c.Suite, GroupID: c.GroupID, Epoch: c.Epoch, TreeHash: c.TreeHash, ConfirmedTranscriptHash: c.Transcript,
	}, 2, &secrets{
		encryption: bytes.Clone(c.Encryption), senderData: c.SenderData, membership: c.Membership,
	})
}

func runMessageProtection(c *messageProtection) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
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
	Suite cipher.ID `json:"cipher_suite"`
	PSKs  []struct {
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

func runPassiveClient(c *passiveClient) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
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

type treeKEM struct {
	Suite      cipher.ID `json:"cipher_suite"`
	GroupID    hexBytes  `json:"group_id"`
	Epoch      uint64
	Transcript hexBytes `json:"confirmed_transcript_hash"`
	Tree       hexBytes `json:"ratchet_tree"`
	Leaves     []struct {
		Index       tree.LeafIndex
		Encryption  hexBytes `json:"encryption_priv"`
		Signature   hexBytes `json:"signature_priv"`
		PathSecrets []struct {
			Node   tree.NodeIndex
			Secret hexBytes `json:"path_secret"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	Paths []struct {
		Sender      tree.LeafIndex
		Path        hexBytes    `json:"update_path"`
		PathSecrets []*hexBytes `json:"path_secrets"`
		Commit      hexBytes    `json:"commit_secret"`
		TreeHash    hexBytes    `json:"tree_hash_after"`
	} `json:"update_paths"`
}

// keys returns the private keys of each member whose secrets the vector has,
// held against the tree.
func (c *treeKEM) keys(s *cipher.Suite, t *tree.Tree) (map[tree.LeafIndex]keys, error) {
	out := make(map[tree.LeafIndex]keys)
	for _, l := range c.Leaves {
		key, err := s.NewPrivateKey(padded(s, l.Encryption))
		if err != nil {
			return nil, err
		}
		k := keys{l.Index.Node(): key}
		for _, p := range l.PathSecrets {
			up := ladder{s, p.Secret}
			if _, k[p.Node], err = up.next(); err != nil {
				return nil, err
			}
		}
		if len(k.matching(t)) != len(k) {
			return nil, fmt.Errorf("private keys of leaf %d don't match the tree", l.Index)
		}
		out[l.Index] = k
	}
	return out, nil
}

// plan returns an empty commit of the sender that leads to the vector's epoch.
// The trees of suite 7 don't name their suite among the capabilities, which
// only RestoreGroup overlooks.
func (c *treeKEM) plan(t *tree.Tree, sender tree.LeafIndex) (*tree.Plan, error) {
	context := tree.GroupContext{
		CipherSuite: c.Suite, GroupID: c.GroupID, Epoch: c.Epoch - 1, TreeHash: t.Hash(), ConfirmedTranscriptHash: c.Transcript,
	}
	g, err := tree.RestoreGroup(anything{}, t, context, nil, nil)
	if err != nil {
		return nil, err
	}
	return g.Plan(tree.Member(sender), nil)
}

func planPath(plan *tree.Plan, path *tree.UpdatePath) *receivedPath {
	context := plan.Context()
	return &receivedPath{plan.Committer, plan.Path(), plan.Recipients, plan.Tree(), &context, path}
}

func runTreeKEM(c *treeKEM) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
	t, err := tree.ParseTree(s, c.Tree)
	if err != nil {
		return err
	}
	private, err := c.keys(s, t)
	if err != nil {
		return err
	}
	var d differences
	for _, p := range c.Paths {
		plan, err := c.plan(t, p.Sender)
		if err != nil {
			return err
		}
		var path tree.UpdatePath
		if err := syntax.Unmarshal(p.Path, &path); err != nil {
			return err
		}
		d.err("merge", plan.Merge(&path))
		d.bytes("tree hash", plan.Tree().Hash(), p.TreeHash)
		r := planPath(plan, &path)
		for l, k := range private {
			if l == p.Sender {
				continue
			}
			fresh, commit, err := r.read(s, l, k)
			d.err("path", err)
			d.bytes("commit secret", commit, p.Commit)
			up := ladder{s, *p.PathSecrets[l]}
			_, want, err := up.next()
			d.err("path secret", err)
			if got := fresh[tree.CommonAncestor(l, p.Sender)]; got == nil || !bytes.Equal(got.Public(), want.Public()) {
				d.err("path secret", errors.New("another one"))
			}
		}
		d.err("own path", c.send(s, t, p.Sender, private))
	}
	return errors.Join(d...)
}

// send makes a path of our own, which the others must read.
func (c *treeKEM) send(s *cipher.Suite, t *tree.Tree, sender tree.LeafIndex, private map[tree.LeafIndex]keys) error {
	plan, err := c.plan(t, sender)
	if err != nil {
		return err
	}
	leaf := t.Leaf(sender)
	id := &Identity{Credential: leaf.Credential, Capabilities: leaf.Capabilities, Extensions: leaf.Extensions}
	id.Capabilities.CipherSuites = append(id.Capabilities.CipherSuites, c.Suite)
	for _, l := range c.Leaves {
		if l.Index == sender {
			if id.Signer, err = s.NewSigner(padded(s, l.Signature)); err != nil {
				return err
			}
		}
	}
	path, err := makePath(s, plan, c.GroupID, id, random("treekem"))
	if err != nil {
		return err
	}
	var d differences
	r := planPath(plan, &path.public)
	for l, k := range private {
		if l == sender {
			continue
		}
		_, commit, err := r.read(s, l, k)
		d.err("path", err)
		d.bytes("commit secret", commit, path.commit)
	}
	return errors.Join(d...)
}

type welcomeVector struct {
	Suite      cipher.ID `json:"cipher_suite"`
	Init       hexBytes  `json:"init_priv"`
	KeyPackage hexBytes  `json:"key_package"`
	Signer     hexBytes  `json:"signer_pub"`
	Welcome    hexBytes
}

// runWelcome stops short of the tree, which the vector doesn't have.
func runWelcome(c *welcomeVector) error {
	s, err := suiteOf(c.Suite)
	if err != nil {
		return err
	}
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
