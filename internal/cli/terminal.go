package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal returns the terminal that questions are asked on, or nil.
func (a *app) terminal() *os.File {
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// ask waits for what a person types, and no longer than ctx: the terminal is
// then put back as it was.
func ask(ctx context.Context, f *os.File, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		text []byte
		err  error
	}
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("couldn't read from the terminal: %w", err)
	}
	done := make(chan answer, 1)
	go func() {
		text, err := read()
		done <- answer{text, err}
	}()
	select {
	case x := <-done:
		return x.text, x.err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(int(f.Fd()), before))
	}
}

// passphrase reads a secret from the environment or the terminal; one that is
// new is asked for twice.
func (a *app) passphrase(ctx context.Context, prompt string, create bool) ([]byte, error) {
	if p := os.Getenv("CHANCERY_PASSPHRASE"); p != "" {
		return []byte(p), nil
	}
	f := a.terminal()
	if f == nil {
		return nil, hint(errors.New("a passphrase is needed and there is no terminal to ask on"),
			"set CHANCERY_PASSPHRASE, or use a key file")
	}
	read := func(prompt string) ([]byte, error) {
		fmt.Fprint(a.err, prompt)
		defer fmt.Fprintln(a.err)
		p, err := ask(ctx, f, func() ([]byte, error) { return term.ReadPassword(int(f.Fd())) })
		if err != nil {
			return nil, fmt.Errorf("couldn't read the passphrase: %w", err)
		}
		return p, nil
	}
	p, err := read(prompt)
	if err != nil || !create {
		return p, err
	}
	again, err := read("once more: ")
	defer clear(again)
	switch {
	case err != nil:
	case len(p) == 0:
		err = errors.New("an empty passphrase protects nothing")
	case !bytes.Equal(p, again):
		err = errors.New("the two passphrases differ")
	default:
		return p, nil
	}
	clear(p)
	return nil, err
}

// confirm asks a yes-or-no question on the terminal.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	f := a.terminal()
	if f == nil {
		return false, hint(errors.New("this needs a yes and there is no terminal to ask on"), "add --yes once you have read it")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", plain(question))
	answer, err := ask(ctx, f, func() ([]byte, error) {
		var text string
		fmt.Fscanln(f, &text) // an empty line is an error, and a no
		return []byte(text), nil
	})
	return strings.EqualFold(string(answer), "y") || strings.EqualFold(string(answer), "yes"), err
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return bytes.TrimRight(data, "\n"), nil
}
