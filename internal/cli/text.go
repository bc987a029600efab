package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// count says how many there are of something whose plural is regular.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// milli shows milliseconds since 1970 as people read time.
func milli(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05") }

// dateOf shows a day since 1970.
func dateOf(day uint32) string { return time.Unix(int64(day)*86400, 0).UTC().Format(time.DateOnly) }

// plain shows on one line what somebody else wrote. Whatever isn't a visible
// character or a space stands as Go escapes it, so that no message, name or
// title can drive a terminal, turn the order of letters round, or pass for a
// line of ours: an approver signs what these lines say.
func plain(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case unicode.IsGraphic(r), r == '\u200c', r == '\u200d': // the joiners, which spelling and emoji need
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// lines shows what somebody else wrote on lines of its own, those after the
// first behind the indent.
func lines(text, indent string) string {
	var out []string
	for l := range strings.Lines(text) {
		out = append(out, plain(strings.TrimRight(l, "\r\n")))
	}
	return strings.Join(out, "\n"+indent)
}
