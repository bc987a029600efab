package demo

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// maxLine is the longest corpus line in bytes.
const maxLine = 4 << 20

//go:embed conversation.jsonl
var shipped []byte

// line is one message of a corpus.
type line struct {
	ID         string   `json:"id"`
	Channel    string   `json:"channel"`
	Sender     string   `json:"sender"`
	Recipients []string `json:"recipients"`
	CC         []string `json:"cc"`
	BCC        []string `json:"bcc"`
	TS         string   `json:"ts"`
	Text       string   `json:"text"`

	addressed bool // it has recipients, so that it belongs to them and not to its channel
	time      time.Time
}

// party returns all that a line with recipients is between, sorted.
func (l *line) party() []string {
	all := slices.Concat([]string{l.Sender}, l.Recipients, l.CC, l.BCC)
	slices.Sort(all)
	return slices.Compact(all)
}

// conversation names the conversation that a line belongs to, in the corpus's
// own terms.
func (l *line) conversation() string {
	if l.addressed {
		return "party\x00" + strings.Join(l.party(), "\x00")
	}
	return "channel\x00" + l.Channel
}

// readCorpus reads at most limit lines, 0 for all.
func readCorpus(r io.Reader, limit int) ([]line, error) {
	var out []line
	seen := map[string]int{}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; scanner.Scan() && (limit == 0 || len(out) < limit); n++ {
		if len(strings.TrimSpace(scanner.Text())) == 0 {
			continue
		}
		l, err := parseLine(scanner.Bytes())
		if err != nil {
			return nil, fmt.Errorf("corpus line %d: %w", n, err)
		}
		if first, ok := seen[l.ID]; ok {
			return nil, fmt.Errorf("corpus line %d: id %q was used on line %d", n, l.ID, first)
		}
		seen[l.ID] = n
		out = append(out, *l)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("couldn't read the corpus: %w", err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the corpus has no messages")
	}
	return out, nil
}

func parseLine(data []byte) (*line, error) {
	var l line
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("not a JSON object with id, channel, sender, ts and text: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	_, l.addressed = fields["recipients"]
	if l.ID == "" || l.Sender == "" || (!l.addressed && l.Channel == "") {
		return nil, fmt.Errorf("want an id, a sender, and a channel or recipients")
	}
	at, err := time.Parse(time.RFC3339, l.TS)
	if err != nil {
		return nil, fmt.Errorf("time %q is not RFC 3339", l.TS)
	}
	l.time = at
	return &l, nil
}

// members returns everybody in the corpus, sorted.
func members(lines []line) []string {
	set := map[string]bool{}
	for i := range lines {
		for _, name := range lines[i].party() {
			set[name] = true
		}
	}
	out := make([]string, 0, len(set))
	for name := range set {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
