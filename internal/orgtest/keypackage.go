package orgtest

import (
	"crypto/rand"
	"time"

	"chancery/codec"
	"chancery/internal/handshake"
	"chancery/internal/wire"
	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// KeyPackage is what a device's KeyPackage is made of, for tests that change one
// part.
type KeyPackage struct {
	Signer     *codec.PrivateKey
	Credential []byte
	NotBefore  time.Time
	NotAfter   time.Time
	LastResort bool
	Extensions []tree.ExtensionType // that its owner knows
}

// KeyPackage returns one of the device's as it should be, for MLS to make.
func (o *Org) KeyPackage(d *Device) *KeyPackage {
	now := o.Now().Truncate(time.Second)
	return &KeyPackage{
		Signer: d.Key, Credential: d.Hash[:], NotBefore: now.Add(-time.Hour), NotAfter: now.Add(wire.KeyPackageLifetime - time.Hour),
		Extensions: []tree.ExtensionType{handshake.ExtensionArchive},
	}
}

// Make returns the KeyPackage. Its private halves are lost.
func (k *KeyPackage) Make(o *Org) *tree.KeyPackage {
	o.T.Helper()
	suite, err := cipher.ByID(cipher.X25519AES128SHA256Ed25519)
	must(o.T, err)
	signer, err := suite.NewSigner(k.Signer.Seed())
	must(o.T, err)
	var extensions tree.Extensions
	if k.LastResort {
		extensions = tree.Extensions{{Type: tree.ExtensionLastResort}}
	}
	own, err := mls.NewKeyPackage(suite, &mls.Identity{
		Signer: signer, Credential: tree.BasicCredential(k.Credential),
		Capabilities: tree.Capabilities{
			Versions: []tree.Version{tree.MLS10}, CipherSuites: []cipher.ID{suite.ID()}, Credentials: []tree.CredentialType{tree.CredentialBasic},
			Extensions: k.Extensions,
		},
	}, tree.Lifetime{NotBefore: uint64(k.NotBefore.Unix()), NotAfter: uint64(k.NotAfter.Unix())}, extensions, rand.Reader)
	must(o.T, err)
	return &own.Public
}

// Publish returns the KeyPackage's MLSMessage.
func (k *KeyPackage) Publish(o *Org) []byte {
	o.T.Helper()
	return tree.MarshalMessage(k.Make(o))
}
