package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chancery/internal/testenv"
	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// program is a driver in peers/: another implementation, in a process of its
// own, with as many clients as one asks for.
type program struct {
	name   string
	input  io.Writer
	output *bufio.Reader
}

// The peers, by the name of their driver.
const (
	tsMLS      = "tsmls"
	coreCrypto = "corecrypto"
)

// start runs a driver until the test ends. The scripts are copied beside the
// packages, where Node looks for those.
func start(t *testing.T, name string) *program {
	t.Helper()
	node, modules := testenv.NodeModules(t, "peers")
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("peers")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, filepath.Join(dir, name+".mjs"))
	cmd.Stderr = t.Output()
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		cmd.Wait()
	})
	return &program{name: name, input: input, output: bufio.NewReader(output)}
}

// request is what a driver reads; each operation has its own fields.
type request struct {
	Op     string `json:"op"`
	Client string `json:"client"`

	Suite    cipher.ID `json:"suite,omitempty"`
	Identity []byte    `json:"identity,omitempty"`
	// AsIs leaves ts-mls what it does against the RFC.
	AsIs bool `json:"asIs,omitempty"`

	Group    []byte         `json:"group,omitempty"`
	Message  []byte         `json:"message,omitempty"`
	Tree     []byte         `json:"tree,omitempty"`
	Data     []byte         `json:"data,omitempty"`
	Packages [][]byte       `json:"packages,omitempty"`
	Leaf     tree.LeafIndex `json:"leaf"`
	Encrypt  bool           `json:"encrypt,omitempty"`
	OmitTree bool           `json:"omitTree,omitempty"`
	Resync   bool           `json:"resync,omitempty"`
	ReInit   bool           `json:"reinit,omitempty"`
	Add      []byte         `json:"add,omitempty"`
	Remove   tree.LeafIndex `json:"remove"`
	ID       []byte         `json:"id,omitempty"`
	Secret   []byte         `json:"secret,omitempty"`
}

// answer is what a driver writes; each operation has its own fields.
type answer struct {
	Message []byte `json:"message"`
	Commit  []byte `json:"commit"`
	Welcome []byte `json:"welcome"`
	Tree    []byte `json:"tree"`
	Data    []byte `json:"data"`
	Removed bool   `json:"removed"`

	Epoch         uint64 `json:"epoch"`
	Exported      []byte `json:"exported"`
	Authenticator []byte `json:"authenticator"`
}

// errPeer wraps what a peer says when it refuses.
var errPeer = errors.New("the peer refused")

func (p *program) call(r request) (answer, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	if _, err := p.input.Write(append(line, '\n')); err != nil {
		return answer{}, fmt.Errorf("couldn't write to %s: %w", p.name, err)
	}
	line, err = p.output.ReadBytes('\n')
	if err != nil {
		return answer{}, fmt.Errorf("couldn't read from %s: %w", p.name, err)
	}
	var reply struct {
		OK    answer `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return answer{}, fmt.Errorf("answer of %s: %w", p.name, err)
	}
	if reply.Error != "" {
		return answer{}, fmt.Errorf("%w: %s of %s: %s", errPeer, r.Op, p.name, reply.Error)
	}
	return reply.OK, nil
}

// theirs is a client of another implementation.
type theirs struct {
	*program
	id string
}

func newTheirs(t *testing.T, p *program, s *cipher.Suite, id string) *theirs {
	t.Helper()
	m := &theirs{program: p, id: id}
	if _, err := m.do(request{Op: "new", Suite: s.ID(), Identity: []byte(id)}); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *theirs) do(r request) (answer, error) {
	r.Client = m.id
	return m.call(r)
}

func (m *theirs) identity() string { return m.id }

func (m *theirs) keyPackage() ([]byte, error) {
	a, err := m.do(request{Op: "keyPackage"})
	return a.Message, err
}

func (m *theirs) create(group string) error {
	_, err := m.do(request{Op: "create", Group: []byte(group)})
	return err
}

func (m *theirs) join(welcome, ratchetTree []byte) error {
	_, err := m.do(request{Op: "join", Message: welcome, Tree: ratchetTree})
	return err
}

func (m *theirs) joinExternally(j externalJoin) ([]byte, error) {
	a, err := m.do(request{Op: "joinExternally", Message: j.info, Tree: j.tree, Resync: j.former != nil})
	return a.Commit, err
}

func (m *theirs) commit(c change) (committed, error) {
	r := request{Op: "update", Encrypt: c.encrypt, OmitTree: c.omitTree}
	switch {
	case c.add != nil:
		r.Op, r.Packages = "add", c.add
	case c.remove != nil:
		r.Op, r.Leaf, r.Identity = "remove", c.remove.leaf, []byte(c.remove.identity)
	case c.psk != nil:
		r.Op, r.ID = "usePSK", c.psk
	case c.pending:
		r.Op = "commit"
	}
	a, err := m.do(r)
	return committed{message: a.Commit, welcome: a.Welcome, tree: a.Tree}, err
}

func (m *theirs) propose(c change) ([]byte, error) {
	r := request{Op: "propose", Encrypt: c.encrypt, ID: c.psk}
	if c.add != nil {
		r.Add = c.add[0]
	}
	if c.remove != nil {
		r.Remove = c.remove.leaf
	}
	a, err := m.do(r)
	return a.Message, err
}

func (m *theirs) process(message []byte) (received, error) {
	a, err := m.do(request{Op: "process", Message: message})
	return received{data: a.Data, removed: a.Removed}, err
}

func (m *theirs) encrypt(data []byte) ([]byte, error) {
	a, err := m.do(request{Op: "encrypt", Data: data})
	return a.Message, err
}

func (m *theirs) groupInfo(omitTree bool) (info, ratchetTree []byte, err error) {
	a, err := m.do(request{Op: "groupInfo", OmitTree: omitTree})
	return a.Message, a.Tree, err
}

func (m *theirs) epoch() (epoch, error) {
	a, err := m.do(request{Op: "epoch"})
	return epoch{number: a.Epoch, exported: a.Exported, authenticator: a.Authenticator}, err
}

func (m *theirs) learnPSK(id, secret []byte) error {
	_, err := m.do(request{Op: "learnPSK", ID: id, Secret: secret})
	return err
}
