package demo

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// peaks samples how much memory programs started from here have had at most, in
// bytes, by the role that their command line names.
type peaks struct {
	stop chan struct{}
	done chan map[string]int64
}

func watchMemory(t *testing.T) *peaks {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		testenv.Missing(t, "no procfs, which says how much memory a program has had")
	}
	p := &peaks{stop: make(chan struct{}), done: make(chan map[string]int64, 1)}
	go p.watch()
	return p
}

func (p *peaks) watch() {
	most := map[string]int64{}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		statuses, _ := filepath.Glob("/proc/[0-9]*/status")
		for _, path := range statuses {
			if role, bytes := memoryOf(path); role != "" {
				most[role] = max(most[role], bytes)
			}
		}
		select {
		case <-tick.C:
		case <-p.stop:
			p.done <- most
			return
		}
	}
}

// memoryOf returns the role and the peak of a child of this process, and no role
// for any other process, or one that has just ended.
func memoryOf(path string) (role string, bytes int64) {
	status, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
		return "", 0
	}
	_, rest, found := strings.Cut(string(status), "\nVmHWM:")
	fields := strings.Fields(rest)
	command, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
	args := strings.Split(string(command), "\x00")
	if !found || len(fields) == 0 || err != nil || len(args) < 2 {
		return "", 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return "", 0
	}
	return args[1], kib << 10
}

func (p *peaks) end() map[string]int64 {
	close(p.stop)
	return <-p.done
}

// TestLargeConversation has one conversation of everybody: all are welcomed in
// it, all read it, its messages are found. No program may need more memory than
// some copies of the group explain; the devices' host has one for each device
// that it holds open.
func TestLargeConversation(t *testing.T) {
	n, most := 60, int64(128<<20)
	switch {
	case campaign():
		n, most = 1000, 256<<20
	case testing.Short():
		n = 30
	}
	name := func(i int) string { return fmt.Sprintf("member %04d of the whole house", i) }
	corpus := filepath.Join(t.TempDir(), "large.jsonl")
	var data strings.Builder
	enc := json.NewEncoder(&data)
	start := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	for i := range 6 {
		sender := i * (n - 1) / 5
		var to []string
		for j := range n {
			if j != sender {
				to = append(to, name(j))
			}
		}
		text := "the minutes of the assembly"
		if i%2 == 1 {
			text = fmt.Sprintf("objection number %d to the minutes", i)
		}
		if err := enc.Encode(map[string]any{
			"id": fmt.Sprint("m", i), "sender": name(sender), "recipients": to,
			"ts": start.Add(time.Duration(i) * time.Minute).Format(time.RFC3339), "text": text,
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(corpus, []byte(data.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := readLines(t, corpus, 0)
	if got := len(members(lines)); got != n {
		t.Fatalf("%d members, want %d", got, n)
	}

	memory := watchMemory(t)
	s := runDemo(t, Options{Corpus: corpus, Term: "objection"})
	peak := memory.end()
	checkExport(t, s.ExportFile, oracle(lines, "objection"))
	checkSummary(t, s, lines, 3)
	if s.MessagesDelivered < len(lines)*(n-1) {
		t.Errorf("%d deliveries, want %d: each message to everybody else", s.MessagesDelivered, len(lines)*(n-1))
	}
	if peak["server"] == 0 {
		t.Error("the server's memory was never seen")
	}
	for _, role := range slices.Sorted(maps.Keys(peak)) {
		t.Logf("%d devices, %s: at most %d MiB", n, role, peak[role]>>20)
		bound := most
		if role == "demo-devices" {
			bound += int64(min(n, mostOpen)) * int64(n) * 5 << 10 // leaf, parent node, Go's overhead: under 5 KiB a member
		}
		if peak[role] > bound {
			t.Errorf("%s had %d MiB, more than %d", role, peak[role]>>20, bound>>20)
		}
	}
}
