package cli

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"chancery": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs what a person could type, each script in a folder of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("CHANCERY_HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("NOBODY", strings.Repeat("0", 63)+"1") // an organisation that there is none of
			for _, name := range []string{"SERVER", "ONE", "TWO"} {
				address, err := freeAddress()
				if err != nil {
					return err
				}
				env.Setenv(name, address)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"until":     until,
			"listening": listening,
			"field":     field,
			"repeat":    repeat,
			"chmod":     chmod,
			"glob":      glob,
		},
	})
}

// freeAddress returns a loopback address that nothing listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// until runs a program until it succeeds: `until chancery status`.
func until(ts *testscript.TestScript, neg bool, args []string) {
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("%q in vain: %v", args, err)
}

// listening waits until something listens on an address.
func listening(ts *testscript.TestScript, _ bool, args []string) {
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", args[0]); err == nil {
			ts.Check(c.Close())
			return
		}
	}
	ts.Fatalf("nothing listens on %s: %v", args[0], err)
}

// field keeps a field of the JSON that the last command printed: `field NAME
// path.to.it`, where numbers name elements of arrays.
func field(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for _, step := range strings.Split(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			v = x[int(step[0]-'0')]
		}
	}
	text, ok := v.(string)
	if !ok {
		ts.Fatalf("no text at %q", args[1])
	}
	ts.Setenv(args[0], text)
}

// repeat writes a file of one byte many times: `repeat FILE X 100`.
func repeat(ts *testscript.TestScript, _ bool, args []string) {
	n := map[string]int{"31": 31, "32": 32, "5000000": 5_000_000}[args[2]]
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(args[1], n)), 0o600))
}

// glob checks that files match, or with ! that none does: `! glob keys/*`.
func glob(ts *testscript.TestScript, neg bool, patterns []string) {
	for _, p := range patterns {
		found, err := filepath.Glob(ts.MkAbs(p))
		ts.Check(err)
		if (len(found) > 0) == neg {
			ts.Fatalf("%s: %d files", p, len(found))
		}
	}
}

func chmod(ts *testscript.TestScript, _ bool, args []string) {
	mode := map[string]os.FileMode{"600": 0o600, "644": 0o644}[args[0]]
	ts.Check(os.Chmod(ts.MkAbs(args[1]), mode))
}

// TestEveryCommand checks what holds for all of them: help names the purpose, a
// flag that doesn't exist and arguments too many are errors of whoever types.
func TestEveryCommand(t *testing.T) {
	t.Setenv("CHANCERY_HOME", t.TempDir())
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
	seen := 0
	var each func(c *cobra.Command)
	each = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		if c.Name() != "verify" || c.Parent().Parent() != nil { // `chancery verify` is the auditor's program, and speaks for itself
			seen++
			checkCommand(t, c, path)
		}
		for _, sub := range c.Commands() {
			each(sub)
		}
	}
	each(a.root())
	if seen < 50 {
		t.Errorf("%d commands", seen)
	}
}

func checkCommand(t *testing.T, c *cobra.Command, path []string) {
	t.Helper()
	run := func(args ...string) (int, string, string) {
		var out, errOut strings.Builder
		code := Main(append(append([]string(nil), path...), args...), strings.NewReader(""), &out, &errOut)
		if strings.Contains(errOut.String(), "goroutine") {
			t.Errorf("%s %q: a stack trace\n%s", c.CommandPath(), args, errOut.String())
		}
		return code, out.String(), errOut.String()
	}
	purpose := c.Short
	if c.Long != "" {
		purpose = c.Long
	}
	if code, out, _ := run("--help"); code != 0 || !strings.Contains(out, strings.TrimSpace(purpose)) || len(c.Short) < 10 {
		t.Errorf("%s --help: exit %d, without its purpose\n%s", c.CommandPath(), code, out)
	}
	if code, _, msg := run("--no-such-flag"); code != 2 || !strings.Contains(msg, "unknown flag: --no-such-flag\nhint: ") {
		t.Errorf("%s --no-such-flag: exit %d, %q", c.CommandPath(), code, msg)
	}
	if strings.Contains(c.Use, "...") {
		return // takes any number
	}
	if code, _, msg := run("a", "b", "c", "d"); code != 2 || !strings.HasPrefix(msg, "chancery: ") || !strings.Contains(msg, "\nhint: ") {
		t.Errorf("%s a b c d: exit %d, %q", c.CommandPath(), code, msg)
	}
}

// TestInterrupted stops a command that waits for a server which never answers.
func TestInterrupted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Signal(os.Interrupt) // the command is under way, and listens for it
		}
		if err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, c)
	}()
	dir := t.TempDir()
	pin := `{"organisation": "` + strings.Repeat("0", 63) + `1", "server": "http://` + l.Addr().String() + `"}`
	if err := os.WriteFile(filepath.Join(dir, "chancery.json"), []byte(pin), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut strings.Builder
	if code := Main([]string{"status", "--home", dir}, strings.NewReader(""), &out, &errOut); code != 1 || errOut.String() != "chancery: interrupted\n" {
		t.Errorf("exit %d, %q", code, errOut.String())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}
