package mls

import (
	"errors"
	"fmt"

	"chancery/mls/cipher"
	"chancery/mls/syntax"
	"chancery/mls/tree"
)

// CommitOptions say what a commit of one's own does.
type CommitOptions struct {
	// Proposals are one's own, carried by the commit itself.
	Proposals []tree.Proposal
	// Alone leaves out the proposals that wait in the group. Otherwise the
	// commit covers those that can stand together.
	Alone bool
	// Path renews the member's own keys even where the proposals don't require
	// it.
	Path bool
	// Identity replaces what the member's leaf says, or nil. It implies Path.
	Identity *Identity
	// Encrypt sends the commit as a PrivateMessage, which no Delivery Service
	// can verify.
	Encrypt bool
	// OmitTree leaves the ratchet tree out of the Welcome: new members get it
	// by another way.
	OmitTree bool
	// AuthenticatedData goes with the commit in the clear.
	AuthenticatedData []byte
}

// Committed is a commit to send.
type Committed struct {
	Message []byte // MLSMessage for the group
	Welcome []byte // MLSMessage for those added; nil where there are none
}

// Commit makes a commit (RFC 9420 §12.4.1). The group stays in its epoch until
// the message comes back through Process, or Confirm is called: the Delivery
// Service may have taken another's commit first. It returns ErrPending,
// tree.ErrEnded, ErrRemoved, ErrNoPSK, or a *tree.Violation.
func (g *Group) Commit(o CommitOptions) (*Committed, error) { return g.commit(&o, nil) }

// commit is Commit with the PSKs of a group that this one continues, or nil.
func (g *Group) commit(o *CommitOptions, former *Group) (*Committed, error) {
	if err := g.live(); err != nil {
		return nil, err
	}
	if g.pending != nil {
		return nil, ErrPending
	}
	a, n, welcome, err := g.makeCommit(o, former)
	if err != nil {
		return nil, err
	}
	// Last, because this spends a key of an encrypted commit.
	message, err := g.now.protect(a, g.config.PadTo, g.config.Random)
	if err != nil {
		return nil, err
	}
	g.pending = &pending{
		digest: g.suite.Hash(message), proposals: a.Content.Commit.Proposals,
		authenticatedData: a.Content.AuthenticatedData, tag: a.Auth.ConfirmationTag, next: n,
	}
	g.note(recordKey{kind: recordCommit})
	return &Committed{Message: message, Welcome: welcome}, nil
}

// makeCommit returns a commit's content, the epoch that it leads to, and the
// Welcome for those it adds, nil where there are none.
func (g *Group) makeCommit(o *CommitOptions, former *Group) (*tree.AuthenticatedContent, *next, []byte, error) {
	id, err := g.identity()
	if err != nil {
		return nil, nil, nil, err
	}
	after := id // says what the new leaf does
	if o.Identity != nil {
		after = o.Identity
	}
	list := g.proposalsFor(o)
	plan, err := g.public.Plan(tree.Member(g.own), list)
	if err != nil {
		return nil, nil, nil, err
	}
	psks, err := g.psksFor(plan.PSKs, former)
	if err != nil {
		return nil, nil, nil, err
	}
	path := new(newPath)
	commit := &tree.Commit{Proposals: list}
	if o.Path || o.Identity != nil || plan.NeedsPath() {
		if path, err = makePath(g.suite, plan, g.ID(), after, g.config.Random); err != nil {
			return nil, nil, nil, err
		}
		commit.Path = &path.public
	}
	defer path.eraseSecrets()

	a, staged, err := g.signCommit(o, plan, commit, id.Signer)
	if err != nil {
		return nil, nil, nil, err
	}
	n, err := schedule(g.suite, staged, g.now.secrets.init, path.commit, psks)
	if err != nil {
		return nil, nil, nil, err
	}
	n.keys = path.keys
	a.Auth.ConfirmationTag = n.secrets.confirmationTag(g.suite, staged.Context.ConfirmedTranscriptHash)
	var forNew []byte
	if len(staged.Added) > 0 {
		if forNew, err = welcome(g.suite, n, a.Auth.ConfirmationTag, path, after.Signer, o.OmitTree); err != nil {
			return nil, nil, nil, err
		}
	}
	return a, n, forNew, nil
}

// proposalsFor returns what the commit covers.
func (g *Group) proposalsFor(o *CommitOptions) []tree.ProposalOrRef {
	own := make([]tree.ProposalOrRef, 0, len(o.Proposals))
	for _, p := range o.Proposals {
		own = append(own, tree.ProposalOrRef{Proposal: p})
	}
	if o.Alone {
		return own
	}
	return append(g.fitting(own, g.choose(o.Proposals)), own...)
}

// psksFor returns the PSKs of a commit of one's own.
func (g *Group) psksFor(ids []tree.PreSharedKeyID, former *Group) ([]psk, error) {
	if former != nil {
		return g.config.findPSKs(ids, former.ID(), former.psks)
	}
	return g.config.findPSKs(ids, g.ID(), g.psks)
}

// signCommit signs a commit with the key of the present epoch and has it
// judged.
func (g *Group) signCommit(o *CommitOptions, plan *tree.Plan, commit *tree.Commit, signer cipher.Signer) (*tree.AuthenticatedContent, *tree.Staged, error) {
	w := tree.WirePublicMessage
	if o.Encrypt {
		w = tree.WirePrivateMessage
	}
	a, err := sign(w, &tree.FramedContent{
		GroupID: g.ID(), Epoch: g.Epoch(), Sender: tree.Member(g.own),
		AuthenticatedData: o.AuthenticatedData, ContentType: tree.ContentCommit, Commit: commit,
	}, &g.now.context, signer)
	if err != nil {
		return nil, nil, err
	}
	staged, err := plan.Finish(w, &a.Content, a.Auth.Signature)
	if err != nil {
		return nil, nil, err
	}
	return a, staged, nil
}

// groupInfo signs what the epoch of a context tells to newcomers.
func groupInfo(context *tree.GroupContext, extensions tree.Extensions, tag []byte, at tree.LeafIndex, signer cipher.Signer) (*tree.GroupInfo, error) {
	info := &tree.GroupInfo{Context: *context, Extensions: extensions, ConfirmationTag: tag, Signer: at}
	signature, err := signer.Sign(tree.LabelGroupInfo, info.SignedContent())
	if err != nil {
		return nil, fmt.Errorf("couldn't sign a GroupInfo: %w", err)
	}
	info.Signature = signature
	return info, nil
}

// welcome returns the MLSMessage for all whom the commit adds (RFC 9420
// §12.4.3.1).
func welcome(s *cipher.Suite, n *next, tag []byte, path *newPath, signer cipher.Signer, omitTree bool) ([]byte, error) {
	var extensions tree.Extensions
	if !omitTree {
		extensions = append(extensions, tree.Extension{Type: tree.ExtensionRatchetTree, Data: n.staged.Tree.Marshal()})
	}
	info, err := groupInfo(&n.staged.Context, extensions, tag, n.staged.Committer, signer)
	if err != nil {
		return nil, err
	}
	secret := welcomeSecret(s, n.member)
	defer clear(secret)
	key, nonce := welcomeKeys(s, secret)
	defer clear(key)
	w := &tree.Welcome{CipherSuite: s.ID()}
	if w.EncryptedGroupInfo, err = s.Seal(key, nonce, nil, syntax.Marshal(info)); err != nil {
		return nil, err
	}
	sealer := s.Sealer(labelWelcome, w.EncryptedGroupInfo)
	w.Secrets = make([]tree.EncryptedGroupSecrets, len(n.staged.Added))
	err = cipher.AtOnce(len(w.Secrets), func(i int) (err error) {
		w.Secrets[i], err = secretsFor(s, sealer, n, path, &n.staged.Added[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	return tree.MarshalMessage(w), nil
}

// secretsFor returns the part of a Welcome that is for one new member.
func secretsFor(s *cipher.Suite, sealer *cipher.Sealer, n *next, path *newPath, added *tree.Added) (tree.EncryptedGroupSecrets, error) {
	secrets := groupSecrets{joiner: n.joiner, psks: n.staged.PSKs}
	if n.staged.HasPath {
		secrets.path = path.secretFor(n.staged.Committer, added.Leaf)
	}
	plain := syntax.Marshal(&secrets)
	defer clear(plain)
	kem, ct, err := sealer.Seal(added.KeyPackage.InitKey, plain)
	if err != nil {
		return tree.EncryptedGroupSecrets{}, fmt.Errorf("couldn't encrypt to leaf %d: %w", added.Leaf, err)
	}
	return tree.EncryptedGroupSecrets{
		NewMember: added.KeyPackage.Ref(s), Secrets: tree.HPKECiphertext{KEMOutput: kem, Ciphertext: ct},
	}, nil
}

// GroupInfo returns the MLSMessage with which others can join by an external
// commit (RFC 9420 §12.4.3.2); with the ratchet tree, unless they get it by
// another way.
func (g *Group) GroupInfo(omitTree bool) ([]byte, error) {
	if err := g.live(); err != nil {
		return nil, err
	}
	id, err := g.identity()
	if err != nil {
		return nil, err
	}
	return g.infoOf(&g.now.context, g.public.Tree(), &g.now.secrets, g.own, id.Signer, omitTree)
}

// PendingGroupInfo is GroupInfo of the epoch that the pending commit leads to:
// it goes with the commit to a Delivery Service that lets others join. It
// returns ErrNoPending.
func (g *Group) PendingGroupInfo(omitTree bool) ([]byte, error) {
	if g.pending == nil {
		return nil, ErrNoPending
	}
	n := g.pending.next
	signer, err := g.config.Signer(n.staged.Tree.Leaf(n.staged.Committer).SignatureKey)
	if err != nil {
		return nil, fmt.Errorf("couldn't find the signature key: %w", err)
	}
	return g.infoOf(&n.staged.Context, n.staged.Tree, n.secrets, n.staged.Committer, signer, omitTree)
}

// infoOf signs the GroupInfo of an epoch with those secrets.
func (g *Group) infoOf(context *tree.GroupContext, t *tree.Tree, x *secrets, at tree.LeafIndex, signer cipher.Signer, omitTree bool) ([]byte, error) {
	key, err := x.externalKey(g.suite)
	if err != nil {
		return nil, err
	}
	key.Erase()
	extensions := tree.Extensions{tree.ExternalPubExtension(key.Public())}
	if !omitTree {
		extensions = append(extensions, tree.Extension{Type: tree.ExtensionRatchetTree, Data: t.Marshal()})
	}
	tag := x.confirmationTag(g.suite, context.ConfirmedTranscriptHash)
	info, err := groupInfo(context, extensions, tag, at, signer)
	if err != nil {
		return nil, err
	}
	return tree.MarshalMessage(info), nil
}

// MaxMessage bounds an application message and its authenticated data, in bytes.
// Larger things belong in attachments.
const MaxMessage = 1 << 26

// Encrypt returns an application message (RFC 9420 §15). It spends a key of the
// member's: Changes must be stored before the message is sent. The
// authenticated data is sent in the clear. It returns ErrTooLong beyond
// MaxMessage, ErrRemoved or tree.ErrEnded.
func (g *Group) Encrypt(data, authenticatedData []byte) ([]byte, error) {
	if len(data) > MaxMessage || len(authenticatedData) > MaxMessage {
		return nil, ErrTooLong
	}
	return g.send(tree.WirePrivateMessage, &tree.FramedContent{
		AuthenticatedData: authenticatedData, ContentType: tree.ContentApplication, ApplicationData: data,
	}, nil)
}

// Propose sends a proposal (RFC 9420 §12.1), which waits for anybody's commit.
// An Update is made by ProposeUpdate.
func (g *Group) Propose(p tree.Proposal, encrypt bool, authenticatedData []byte) ([]byte, error) {
	if _, ok := p.(*tree.Update); ok {
		return nil, errUpdate
	}
	return g.propose(p, nil, encrypt, authenticatedData)
}

var errUpdate = errors.New("an Update needs its private key: see ProposeUpdate")

// ProposeUpdate proposes a new leaf for this member, with a new key; identity
// says what it says, or nil for the same as before. A commit of one's own can't
// cover it: use CommitOptions.Path.
func (g *Group) ProposeUpdate(identity *Identity, encrypt bool, authenticatedData []byte) ([]byte, error) {
	if err := g.live(); err != nil {
		return nil, err
	}
	if identity == nil {
		var err error
		if identity, err = g.identity(); err != nil {
			return nil, err
		}
	}
	key, err := g.suite.GenerateKeyPair(g.config.Random)
	if err != nil {
		return nil, err
	}
	leaf := identity.leaf(tree.SourceUpdate, key.Public())
	if err := signLeaf(leaf, identity.Signer, g.ID(), g.own); err != nil {
		return nil, err
	}
	return g.propose(&tree.Update{Leaf: *leaf}, key, encrypt, authenticatedData)
}

func (g *Group) propose(p tree.Proposal, key *cipher.PrivateKey, encrypt bool, authenticatedData []byte) ([]byte, error) {
	w := tree.WirePublicMessage
	if encrypt {
		w = tree.WirePrivateMessage
	}
	return g.send(w, &tree.FramedContent{
		AuthenticatedData: authenticatedData, ContentType: tree.ContentProposal, Proposal: p,
	}, key)
}

// send signs and protects content. A proposal is judged and kept; key is that
// of an Update.
func (g *Group) send(w tree.WireFormat, content *tree.FramedContent, key *cipher.PrivateKey) ([]byte, error) {
	if err := g.live(); err != nil {
		return nil, err
	}
	signer, err := g.config.Signer(g.public.Tree().Leaf(g.own).SignatureKey)
	if err != nil {
		return nil, fmt.Errorf("couldn't find the signature key: %w", err)
	}
	content.GroupID, content.Epoch, content.Sender = g.ID(), g.Epoch(), tree.Member(g.own)
	a, err := sign(w, content, &g.now.context, signer)
	if err != nil {
		return nil, err
	}
	if content.ContentType != tree.ContentProposal {
		return g.now.protect(a, g.config.PadTo, g.config.Random)
	}
	// Judged by the rules before a key is spent.
	before := len(g.proposals)
	if _, err := g.keepProposal(a, key); err != nil {
		return nil, err
	}
	message, err := g.now.protect(a, g.config.PadTo, g.config.Random)
	if err != nil {
		g.proposals = g.proposals[:before]
		return nil, err
	}
	return message, nil
}
