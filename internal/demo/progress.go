package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// narrator tells a person what happens: a line for each step, and a bar for
// what takes long, where there is a terminal to draw it on.
type narrator struct {
	out   io.Writer
	bar   bool
	drawn time.Time
	width int // characters of the bar on the current line
}

func newNarrator(out io.Writer) *narrator {
	f, ok := out.(*os.File)
	return &narrator{out: out, bar: ok && term.IsTerminal(int(f.Fd()))}
}

// step explains what comes next.
func (n *narrator) step(format string, args ...any) {
	n.wipe()
	fmt.Fprintf(n.out, "• "+format+"\n", args...)
}

// detail adds to the step above it.
func (n *narrator) detail(format string, args ...any) {
	n.wipe()
	fmt.Fprintf(n.out, "  "+format+"\n", args...)
}

// progress draws a bar, at most ten times a second.
func (n *narrator) progress(what string, done, total int) {
	if !n.bar || total <= 0 || (done < total && time.Since(n.drawn) < 100*time.Millisecond) {
		return
	}
	const size = 30
	filled := min(size, size*done/total)
	text := fmt.Sprintf("  [%s%s] %d of %d %s", strings.Repeat("#", filled), strings.Repeat(".", size-filled), done, total, what)
	n.wipe()
	fmt.Fprint(n.out, text)
	n.drawn, n.width = time.Now(), len(text)
}

func (n *narrator) wipe() {
	if n.width > 0 {
		fmt.Fprintf(n.out, "\r%s\r", strings.Repeat(" ", n.width))
		n.width = 0
	}
}
