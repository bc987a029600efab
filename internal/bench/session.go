package bench

import (
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"time"

	"chancery/mls"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

const (
	sessionText  = 1000 // bytes of a message
	sessionsHeld = 3    // by which resident memory is told
)

// session measures package mls: a group's creator and one other member, of as
// many as setup says.
type session struct {
	suite    *cipher.Suite
	creator  mls.Config
	identity *mls.Identity
	other    mls.Config
	own      *mls.OwnKeyPackage // the other member's
	packages [][]byte           // of all but the creator
	a, b     *mls.Group
	welcome  []byte
	commit   []byte
	messages [][]byte
}

// permissive are rules that accept whatever RFC 9420 accepts.
type permissive struct{}

func (permissive) Leaf(tree.Event, *tree.LeafNode, *tree.LeafNode) error  { return nil }
func (permissive) Lifetime(tree.Event, tree.Lifetime) error               { return nil }
func (permissive) Client(l *tree.LeafNode) string                         { return string(l.Credential.Identity) }
func (permissive) ExternalSender(*tree.ExternalSender) error              { return nil }
func (permissive) Proposal(*tree.Group, tree.Sender, tree.Proposal) error { return nil }

func newIdentity(s *cipher.Suite, name string) (*mls.Identity, error) {
	seed, err := s.GenerateSignatureKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := s.NewSigner(seed)
	if err != nil {
		return nil, err
	}
	return &mls.Identity{Signer: signer, Credential: tree.BasicCredential([]byte(name)), Capabilities: tree.Capabilities{
		Versions: []tree.Version{tree.MLS10}, CipherSuites: []cipher.ID{s.ID()},
		Credentials: []tree.CredentialType{tree.CredentialBasic},
	}}, nil
}

func configOf(id *mls.Identity) mls.Config {
	return mls.Config{
		Rules: permissive{}, Random: rand.Reader,
		Signer: func([]byte) (cipher.Signer, error) { return id.Signer, nil },
	}
}

func (x *session) keyPackage(id *mls.Identity) (*mls.OwnKeyPackage, error) {
	now := uint64(time.Now().Unix())
	life := tree.Lifetime{NotBefore: now - 3600, NotAfter: now + 86400}
	// Of last resort, so that one can join with it again and again.
	return mls.NewKeyPackage(x.suite, id, life, tree.Extensions{{Type: mls.ExtensionLastResort}}, rand.Reader)
}

func (x *session) do(op string, n int) (sample, error) {
	switch op {
	case "setup":
		return sample{}, x.setup(n)
	case stepCreate:
		return x.create()
	case stepJoin:
		return x.join()
	case stepCommit:
		return x.commits()
	case stepProcess:
		return x.process()
	case stepEncrypt:
		return x.encrypt(n)
	case stepDecrypt:
		return x.decrypt()
	case "resident":
		return x.resident()
	}
	return sample{}, fmt.Errorf("no step is called %q", op)
}

func (x *session) setup(n int) (err error) {
	*x = session{}
	if x.suite, err = cipher.ByID(cipher.X25519AES128SHA256Ed25519); err != nil {
		return err
	}
	if x.identity, err = newIdentity(x.suite, "creator"); err != nil {
		return err
	}
	x.creator = configOf(x.identity)
	for i := 1; i < n; i++ {
		id, err := newIdentity(x.suite, fmt.Sprintf("member %d", i))
		if err != nil {
			return err
		}
		p, err := x.keyPackage(id)
		if err != nil {
			return err
		}
		if i == 1 {
			x.own, x.other = p, configOf(id)
		}
		x.packages = append(x.packages, p.Message())
	}
	return nil
}

// timed adds to s what f takes: the first time, with the garbage of what came
// before out of its way.
func (s *sample) timed(f func() error) error {
	var before, after runtime.MemStats
	if s.Seconds == 0 {
		runtime.GC()
	}
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := f()
	s.Seconds += time.Since(start).Seconds()
	runtime.ReadMemStats(&after)
	s.Allocated += after.TotalAlloc - before.TotalAlloc
	return err
}

// saves adds to s what a group's last step has to store.
func (s *sample) saves(g *mls.Group) {
	for _, r := range g.Changes() {
		s.written += len(r.Key) + len(r.Value)
	}
}

// each returns what one of n things took, that s is of.
func (s sample) each(n int) sample {
	s.Seconds /= float64(n)
	s.Allocated /= uint64(n)
	return s
}

func (x *session) create() (s sample, err error) {
	own, err := x.keyPackage(x.identity)
	if err != nil {
		return sample{}, err
	}
	err = s.timed(func() error {
		if x.a, err = mls.Create(x.creator, []byte("bench"), own, nil); err != nil {
			return err
		}
		var o mls.CommitOptions
		for _, raw := range x.packages {
			m, err := tree.ParseMessage(raw)
			if err != nil {
				return err
			}
			o.Proposals = append(o.Proposals, &tree.Add{KeyPackage: *m.(*tree.KeyPackage)})
		}
		c, err := x.a.Commit(o)
		if err != nil {
			return err
		}
		x.welcome = c.Welcome
		return nil
	})
	if err != nil {
		return sample{}, err
	}
	return x.confirm(s)
}

// confirm enters the epoch of a commit that s is of.
func (x *session) confirm(s sample) (sample, error) {
	s.saves(x.a)
	err := s.timed(func() error {
		_, err := x.a.Confirm()
		return err
	})
	s.saves(x.a)
	return s, err
}

func (x *session) join() (s sample, err error) {
	err = s.timed(func() error {
		x.b, err = mls.Join(x.other, x.own, x.welcome, nil, nil)
		return err
	})
	if err != nil {
		return sample{}, err
	}
	s.saves(x.b)
	return s, nil
}

func (x *session) commits() (s sample, err error) {
	err = s.timed(func() error {
		c, err := x.a.Commit(mls.CommitOptions{Path: true})
		if err != nil {
			return err
		}
		x.commit = c.Message
		return nil
	})
	if err != nil {
		return sample{}, err
	}
	return x.confirm(s)
}

func (x *session) process() (s sample, err error) {
	err = s.timed(func() error {
		_, err := x.b.Process(x.commit)
		return err
	})
	if err != nil {
		return sample{}, err
	}
	s.saves(x.b)
	return s, nil
}

// encrypt times n messages, and sees what one more writes.
func (x *session) encrypt(n int) (s sample, err error) {
	x.messages = x.messages[:0]
	err = s.timed(func() error {
		for range n {
			if err := x.encryptOne(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return sample{}, err
	}
	x.a.Changes()
	if err := x.encryptOne(); err != nil {
		return sample{}, err
	}
	s.saves(x.a)
	return s.each(n), nil
}

func (x *session) encryptOne() error {
	m, err := x.a.Encrypt(make([]byte, sessionText), nil)
	x.messages = append(x.messages, m)
	return err
}

// decrypt times all messages but the last, and sees what that one writes.
func (x *session) decrypt() (s sample, err error) {
	n := len(x.messages) - 1
	err = s.timed(func() error {
		for _, m := range x.messages[:n] {
			if err := x.decryptOne(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return sample{}, err
	}
	x.b.Changes()
	if err := x.decryptOne(x.messages[n]); err != nil {
		return sample{}, err
	}
	s.saves(x.b)
	return s.each(n), nil
}

func (x *session) decryptOne(m []byte) error {
	r, err := x.b.Process(m)
	if err != nil {
		return err
	}
	if len(r.Application) != sessionText {
		return errors.New("a message came out as another")
	}
	return nil
}

// resident tells what a group holds of the heap by joining a few times.
func (x *session) resident() (sample, error) {
	var held []*mls.Group
	before := heapInUse()
	for range sessionsHeld {
		g, err := mls.Join(x.other, x.own, x.welcome, nil, nil)
		if err != nil {
			return sample{}, err
		}
		g.Changes()
		held = append(held, g)
	}
	after := heapInUse()
	runtime.KeepAlive(held)
	return sample{Resident: max(after, before)/sessionsHeld - before/sessionsHeld}, nil
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // frees what finalizers held
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
