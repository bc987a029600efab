package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"chancery/internal/testenv"
	"chancery/pack"
)

// binary is the program under test, built once: these tests drive real
// processes.
var binary string

func TestMain(m *testing.M) {
	if orders := os.Getenv(hostEnv); orders != "" {
		if err := runHost(orders); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "chancery-demo-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "chancery")
		cmd := exec.Command("go", "build", "-o", binary, "chancery/cmd/chancery")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "couldn't build the program under test:", err)
			return 1
		}
		return m.Run()
	}())
}

// oracle says which lines of a corpus a plain search finds: the term as a whole
// word, in upper or lower case.
func oracle(lines []line, term string) map[string]*line {
	word := regexp.MustCompile(`(?i)(^|[^\p{L}\p{N}\p{M}])` + regexp.QuoteMeta(term) + `($|[^\p{L}\p{N}\p{M}])`)
	out := map[string]*line{}
	for i := range lines {
		if word.MatchString(lines[i].Text) {
			out[lines[i].ID] = &lines[i]
		}
	}
	return out
}

// custodianSees keeps the lines that a member could read: those of their
// parties, and of the channels that they have joined by then.
func custodianSees(lines []line, found map[string]*line, who string) map[string]*line {
	joined, out := map[string]bool{}, map[string]*line{}
	for i := range lines {
		l := &lines[i]
		if l.Sender == who {
			joined[l.conversation()] = true
		}
		sees := joined[l.conversation()] || l.addressed && slices.Contains(l.party(), who)
		if sees && found[l.ID] != nil {
			out[l.ID] = l
		}
	}
	return out
}

func readLines(t *testing.T, path string, limit int) []line {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := readCorpus(bytes.NewReader(data), limit)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// checkExport compares an export with what the oracle expects, byte for byte.
func checkExport(t *testing.T, path string, want map[string]*line) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]bool{}
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, maxLine)
	for scanner.Scan() {
		var l pack.Line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		source, ok := want[l.ID]
		switch {
		case !ok:
			t.Errorf("exported %q, which doesn't match", l.ID)
		case got[l.ID]:
			t.Errorf("exported %q twice", l.ID)
		case l.Text != source.Text:
			t.Errorf("%q: text differs from the source", l.ID)
		case l.Sender != source.Sender || l.TS != source.TS:
			t.Errorf("%q: sender %q at %s, want %q at %s", l.ID, l.Sender, l.TS, source.Sender, source.TS)
		case !source.addressed && l.Conversation != source.Channel:
			t.Errorf("%q: conversation %q, want %q", l.ID, l.Conversation, source.Channel)
		}
		got[l.ID] = true
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	for id := range want {
		if !got[id] {
			t.Errorf("%q matches and was not exported", id)
		}
	}
}

func runDemo(t *testing.T, o Options) *Summary {
	t.Helper()
	o.Dir, o.Binary = filepath.Join(t.TempDir(), "demo"), binary
	if o.Out == nil {
		o.Out = io.Discard
	}
	summary, err := Run(t.Context(), o)
	if err != nil {
		logs, _ := filepath.Glob(filepath.Join(o.Dir, "logs", "*.log"))
		for _, l := range logs {
			if data, err := os.ReadFile(l); err == nil && len(data) > 0 {
				t.Logf("%s: %s", filepath.Base(l), data[max(0, len(data)-2000):])
			}
		}
		t.Fatal(err)
	}
	return summary
}

// secretsOf returns what must be nowhere but in sealed form.
func secretsOf(lines []line) (texts, names []string) {
	for i := range lines {
		if len(lines[i].Text) >= 12 {
			texts = append(texts, lines[i].Text)
		}
		if c := lines[i].Channel; len(c) >= 8 && !slices.Contains(formatWords, c) {
			texts = append(texts, c)
		}
	}
	for _, n := range members(lines) {
		if len(n) >= 8 {
			names = append(names, n)
		}
	}
	return texts, names
}

// formatWords are channel names that our own formats use as words.
var formatWords = []string{"announce", "messages", "genesis", "general", "standard"}

func checkNoPlaintext(t *testing.T, lines []line, s *Summary) {
	t.Helper()
	texts, names := secretsOf(lines)
	daemons := slices.Concat(s.WitnessDirs, s.KeyholderDirs, s.GuardDirs)
	newNeedles(texts).grep(t, append(daemons, s.ServerDir)...)
	newNeedles(names).grep(t, daemons...)
	newNeedles(slices.Concat(texts, names)).grep(t, s.DeviceDir)
}

func checkSummary(t *testing.T, s *Summary, lines []line, hits int) {
	t.Helper()
	if s.MessagesSent != len(lines) || s.Mismatches != 0 || !s.Verified || s.Approvals != approvals {
		t.Errorf("summary %+v", s)
	}
	if s.Exported != hits || s.Opened < hits || s.SearchHits < hits {
		t.Errorf("%d hits, %d opened, %d exported, want %d", s.SearchHits, s.Opened, s.Exported, hits)
	}
}

func TestShippedConversation(t *testing.T) {
	lines, err := readCorpus(bytes.NewReader(shipped), 0)
	if err != nil {
		t.Fatal(err)
	}
	s := runDemo(t, Options{Term: "invoice"})
	want := oracle(lines, "invoice")
	if len(want) < 3 {
		t.Fatalf("the oracle finds %d lines: the test would show nothing", len(want))
	}
	checkExport(t, s.ExportFile, want)
	checkSummary(t, s, lines, len(want))
	checkNoPlaintext(t, lines, s)
}

func TestShippedConversationOneCustodian(t *testing.T) {
	lines, err := readCorpus(bytes.NewReader(shipped), 0)
	if err != nil {
		t.Fatal(err)
	}
	s := runDemo(t, Options{Term: "invoice", Custodians: []string{"Lena Sommer"}})
	want := custodianSees(lines, oracle(lines, "invoice"), "Lena Sommer")
	if len(want) == 0 || len(want) == len(oracle(lines, "invoice")) {
		t.Fatalf("%d lines: the test would show nothing", len(want))
	}
	checkExport(t, s.ExportFile, want)
	checkSummary(t, s, lines, len(want))
}

// TestCorpora plays a slice of each real corpus; the campaign plays them whole.
func TestCorpora(t *testing.T) {
	for _, c := range []struct {
		file, term  string
		slice, most int // lines in the tests, and in the campaign
	}{
		{"enron_mailbox.jsonl", "meeting", 300, 0},
		{"ncar_zulip.jsonl", "model", 1000, 0},
		{"irc_disentangled.jsonl", "install", 1000, 5000},
	} {
		t.Run(strings.TrimSuffix(c.file, ".jsonl"), func(t *testing.T) {
			path := testenv.Data(t, "corpus", c.file)
			limit := c.slice
			switch {
			case campaign():
				limit = c.most
			case testing.Short():
				limit = 100
			}
			lines := readLines(t, path, limit)
			s := runDemo(t, Options{Corpus: path, Limit: limit, Term: c.term})
			want := oracle(lines, c.term)
			checkExport(t, s.ExportFile, want)
			checkSummary(t, s, lines, len(want))
			checkNoPlaintext(t, lines, s)
			t.Logf("%d messages, %d delivered, %d exported; seconds: %.0f to talk, %.0f to hold, %.0f to open, %.0f to verify",
				s.MessagesSent, s.MessagesDelivered, s.Exported, s.Seconds["talk"], s.Seconds["hold"], s.Seconds["open"], s.Seconds["verify"])
		})
	}
}
