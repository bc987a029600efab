package ceremony

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"golang.org/x/crypto/ssh"

	"chancery/codec"
	"chancery/control"
	"chancery/internal/wire"
)

// invitationsPerLeaf keeps a leaf of invitations under the log's 64 KiB.
const invitationsPerLeaf = 500

// Directory is the one place that knows names.
type Directory interface {
	AddMember(ctx context.Context, m wire.Member) error
}

// Invite is what a new member gets outside the server, as a file: whoever has
// it can enrol one device in the member's name until it expires.
type Invite struct {
	Organisation codec.Hash `json:"organisation"`
	Server       string     `json:"server"`
	Member       codec.ID   `json:"member"`
	Name         string     `json:"name"`
	Secret       codec.Hash `json:"secret"` // seed of the invitation key
	Expiry       time.Time  `json:"expiry"`
}

// Key returns the invitation's signing key.
func (i *Invite) Key() (*codec.PrivateKey, error) { return codec.PrivateKeyFromSeed(i.Secret[:]) }

// ParseInvite reads an invitation file.
func ParseInvite(data []byte) (*Invite, error) {
	var i Invite
	if err := json.Unmarshal(data, &i); err != nil {
		return nil, fmt.Errorf("couldn't read the invitation: %w", err)
	}
	if i.Organisation.IsZero() || i.Server == "" || i.Member.IsZero() || i.Secret.IsZero() {
		return nil, fmt.Errorf("the invitation names no organisation, server, member or secret")
	}
	return &i, nil
}

// InviteMembers gives each name a member id in the directory and an invitation
// under the officers' signatures. progress may be nil.
func InviteMembers(ctx context.Context, server Server, directory Directory, rand io.Reader, organisation codec.Hash, address string, names []string, expiry time.Time, officers []ssh.Signer, progress func(done int)) ([]Invite, error) {
	var out []Invite
	for start := 0; start < len(names); start += invitationsPerLeaf {
		end := min(start+invitationsPerLeaf, len(names))
		var body control.Invitations
		for _, name := range names[start:end] {
			invite := Invite{Organisation: organisation, Server: address, Member: codec.NewID(), Name: name, Expiry: expiry}
			if _, err := io.ReadFull(rand, invite.Secret[:]); err != nil {
				return out, fmt.Errorf("couldn't draw an invitation key: %w", err)
			}
			key, err := invite.Key()
			if err != nil {
				return out, err
			}
			if err := directory.AddMember(ctx, wire.Member{ID: invite.Member, Name: name}); err != nil {
				return out, fmt.Errorf("couldn't add %q to the directory: %w", name, err)
			}
			body.Invitations = append(body.Invitations, control.Invitation{Member: invite.Member, Key: key.PublicKey(), Expiry: expiry.UnixMilli()})
			out = append(out, invite)
			if progress != nil {
				progress(len(out))
			}
		}
		done, _, err := Submit(ctx, server, rand, organisation, &body, officers...)
		if err != nil {
			return out, err
		}
		if err := Logged(done); err != nil {
			return out, err
		}
	}
	return out, nil
}
