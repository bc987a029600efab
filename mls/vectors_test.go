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
	{"crypto-basics.json", inSuite(runCryptoBasics)},
	{"key-schedule.json", inSuite(runKeySchedule)},
	{"message-protection.json", inSuite(runMessageProtection)},
	{"passive-client-handling-commit.json", inSuite(runPassiveClient)},
	{"passive-client-random.json", inSuite(runPassiveClient)},
	{"passive-client-welcome.json", inSuite(runPassiveClient)},
	{"psk_secret.json", inSuite(runPSKSecret)},
	{"secret-tree.json", inSuite(runSecretTree)},
	{"treekem.json", inSuite(runTreeKEM)},
	{"welcome.json", inSuite(runWelcome)},
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

// inSuite is vector for cases of a cipher suite.
func inSuite[T any](run func(s *cipher.Suite, c *T) error) func(json.RawMessage) error {
	return func(data json.RawMessage) error {
		var in struct {
			Suite cipher.ID `json:"cipher_suite"`
		}
		if err := json.Unmarshal(data, &in); err != nil {
			return err
		}
		s, err := suiteOf(in.Suite)
		if err != nil {
			return err
		}
		return vector(func(c *T) error { return run(s, c) })(data)
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

func runCryptoBasics(s *cipher.Suite, c *cryptoBasics) error {
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
	GroupID hexBytes `json:"group_id"`
	Init    hexBytes `json:"initial_init_secret"`
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

func runKeySchedule(s *cipher.Suite, c *keySchedule) error {
	var d differences
	initSecret := []byte(c.Init)
	for i, e := range c.Epochs {
		context := syntax.Marshal(&tree.GroupContext{
			CipherSuite: s.ID(), GroupID: c.GroupID, Epoch: uint64(i),
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
	PSKs []struct {
		ID    hexBytes `json:"psk_id"`
		PSK   hexBytes `json:"psk"`
		Nonce hexBytes `json:"psk_nonce"`
	} `json:"psks"`
	Secret hexBytes `json:"psk_secret"`
}

func runPSKSecret(s *cipher.Suite, c *pskVector) error {
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
	Encryption hexBytes `json:"encryption_secret"`
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

func runSecretTree(s *cipher.Suite, c *secretTreeVector) error {
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
