package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/thomas-vilte/mls-go/ciphersuite"
	"github.com/thomas-vilte/mls-go/credentials"
	"github.com/thomas-vilte/mls-go/framing"
	"github.com/thomas-vilte/mls-go/group"
	"github.com/thomas-vilte/mls-go/keypackages"
)

const (
	suite      = ciphersuite.MLS128DHKEMX25519
	module     = "github.com/thomas-vilte/mls-go"
	textSize   = 1000 // bytes of a message
	groupsHeld = 3    // by which resident memory is told
)

// mlsGo measures mls-go: a creator and one other member, of as many as setup
// says.
type mlsGo struct {
	creator, other client
	packages       [][]byte // of all but the creator
	a, b           *group.Group
	welcome        []byte
	commit         []byte
	messages       [][]byte
}

type client struct {
	key     *ciphersuite.SignaturePrivateKey
	public  *keypackages.KeyPackage
	private *keypackages.KeyPackagePrivateKeys
}

func newClient(name string) (client, error) {
	credential, key, err := credentials.GenerateCredentialWithKeyForCS([]byte(name), suite)
	if err != nil {
		return client{}, err
	}
	public, private, err := keypackages.Generate(credential, suite)
	return client{key, public, private}, err
}

func (g *mlsGo) do(r request) (answer, error) {
	switch r.Op {
	case "name":
		return answer{Name: name()}, nil
	case "setup":
		return answer{}, g.setup(r.N)
	case "create":
		return measured(1, g.create)
	case "join":
		return measured(1, func() (err error) {
			g.b, err = g.join()
			return err
		})
	case "commit":
		return measured(1, g.commits)
	case "process":
		return measured(1, g.process)
	case "encrypt":
		return measured(r.N, func() error { return g.encrypt(r.N) })
	case "decrypt":
		return measured(len(g.messages), g.decrypt)
	case "resident":
		return g.resident()
	}
	return answer{}, fmt.Errorf("no step is called %q", r.Op)
}

func name() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == module {
				return "mls-go " + m.Version
			}
		}
	}
	return "mls-go"
}

// measured runs f, which does n things, with the garbage of what came before out
// of its way.
func measured(n int, f func() error) (answer, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil {
		return answer{}, err
	}
	return answer{
		Seconds:   took.Seconds() / float64(n),
		Allocated: (after.TotalAlloc - before.TotalAlloc) / uint64(n),
	}, nil
}

func (g *mlsGo) setup(n int) error {
	*g = mlsGo{}
	var err error
	if g.creator, err = newClient("creator"); err != nil {
		return err
	}
	for i := 1; i < n; i++ {
		c, err := newClient(fmt.Sprintf("member %d", i))
		if err != nil {
			return err
		}
		if i == 1 {
			g.other = c
		}
		g.packages = append(g.packages, c.public.Marshal())
	}
	return nil
}

// create makes a group and adds all others in one commit. The library verifies a
// key package that others propose to add, and leaves those of one's own to the
// caller.
func (g *mlsGo) create() error {
	a, err := group.NewGroup(group.NewGroupID([]byte("bench")), suite, g.creator.public, g.creator.private)
	if err != nil {
		return err
	}
	added := make([]*keypackages.KeyPackage, len(g.packages))
	for i, raw := range g.packages {
		if added[i], err = keypackages.UnmarshalKeyPackage(raw); err != nil {
			return err
		}
		if err := added[i].Verify(suite); err != nil {
			return err
		}
		if _, err := a.AddMember(added[i]); err != nil {
			return err
		}
	}
	g.a = a
	staged, err := g.stage()
	if err != nil {
		return err
	}
	w, err := a.CreateWelcomeWithOpts(added, g.creator.key,
		group.WithJoinerSecret(staged.JoinerSecret()), group.WithPSKIDs(staged.PskIDs()),
		group.WithPSKSecret(staged.RawPskSecret()), group.WithStagedCommit(staged),
		group.WithGroupInfoOptions(group.WithExternalPub(false)))
	if err != nil {
		return err
	}
	g.welcome = (&framing.MLSMessage{Welcome: w.Marshal()}).Marshal()
	return nil
}

func (g *mlsGo) stage() (*group.StagedCommit, error) {
	staged, err := g.a.Commit(g.creator.key, g.creator.key.PublicKey(), nil)
	if err != nil {
		return nil, err
	}
	content := staged.AuthenticatedContent()
	g.commit = framing.NewMLSMessagePublic(&framing.PublicMessage{
		Content: content.Content, Auth: content.Auth, MembershipTag: staged.MembershipTag(),
	}).Marshal()
	return staged, g.a.MergeCommit(staged)
}

func (g *mlsGo) commits() error {
	_, err := g.stage()
	return err
}

func (g *mlsGo) join() (*group.Group, error) {
	m, err := framing.UnmarshalMLSMessage(g.welcome)
	if err != nil {
		return nil, err
	}
	w, err := group.UnmarshalWelcome(m.Welcome)
	if err != nil {
		return nil, err
	}
	return group.JoinFromWelcome(w, g.other.public, g.other.private, nil)
}

func (g *mlsGo) process() error {
	m, err := framing.UnmarshalMLSMessage(g.commit)
	if err != nil {
		return err
	}
	return g.b.ProcessPublicMessage(m.PublicMessage)
}

func (g *mlsGo) encrypt(n int) error {
	g.messages = g.messages[:0]
	for range n {
		m, err := g.a.SendMessage(make([]byte, textSize), g.creator.key)
		if err != nil {
			return err
		}
		g.messages = append(g.messages, framing.NewMLSMessagePrivate(m).Marshal())
	}
	return nil
}

func (g *mlsGo) decrypt() error {
	for _, raw := range g.messages {
		m, err := framing.UnmarshalMLSMessage(raw)
		if err != nil {
			return err
		}
		private, ok := m.AsPrivate()
		if !ok {
			return fmt.Errorf("a message that isn't encrypted")
		}
		text, _, _, err := g.b.ReceiveApplicationMessage(private)
		if err != nil {
			return err
		}
		if len(text) != textSize {
			return fmt.Errorf("a message of %d bytes", len(text))
		}
	}
	return nil
}

// resident tells what a group holds of the heap by joining a few times.
func (g *mlsGo) resident() (answer, error) {
	var held []*group.Group
	before := heap()
	for range groupsHeld {
		b, err := g.join()
		if err != nil {
			return answer{}, err
		}
		held = append(held, b)
	}
	after := heap()
	runtime.KeepAlive(held)
	return answer{Resident: max(after, before)/groupsHeld - before/groupsHeld}, nil
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // frees what finalizers held
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
