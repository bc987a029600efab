// Command campaign is the long run of the tests: whole corpora, kill loops and
// fuzzing, hours of it. It writes what it found to docs/campaign.md as each part
// ends, with the commit it ran on; what it doesn't run again stays as it was, so
// that a campaign can be run in pieces. `./test campaign` starts it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const report = "docs/campaign.md"

// part is one run of the campaign.
type part struct {
	name    string
	command []string
	env     []string
	keep    *regexp.Regexp // lines of its output that belong in the report
}

type result struct {
	part
	took   time.Duration
	err    error
	kept   []string
	output []byte
}

func main() {
	fuzz := flag.Duration("fuzz", 5*time.Minute, "time for each fuzz target")
	only := flag.String("only", "", "run the parts whose name matches this expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *fuzz, *only); err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, fuzz time.Duration, only string) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	parts, err := list(ctx, fuzz)
	if err != nil {
		return err
	}
	commit, err := commit(ctx)
	if err != nil {
		return err
	}
	rows, err := read()
	if err != nil {
		return err
	}
	done, failed := 0, 0
	for _, p := range parts {
		if !match.MatchString(p.name) || ctx.Err() != nil {
			continue
		}
		fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), p.name)
		r := p.run(ctx)
		if r.err != nil {
			failed++
			fmt.Printf("FAILED: %v\n%s\n", r.err, r.output[max(0, len(r.output)-4000):])
		}
		done++
		rows[r.name] = r.row(commit)
		if err := write(parts, rows); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d parts failed", failed, done)
	}
	return ctx.Err()
}

// list names the parts: tests that grow under CHANCERY_CAMPAIGN, then every fuzz
// target of the tree.
func list(ctx context.Context, fuzz time.Duration) ([]part, error) {
	grown := []string{"CHANCERY_CAMPAIGN=1"}
	logged := regexp.MustCompile(`^\s+\S+_test\.go:\d+: (.*)$`)
	passed := regexp.MustCompile(`^--- PASS: (\S+)`) // docs/tamper-table.md has the rest
	counted := regexp.MustCompile(`^((?:model|mutations) \d+.*)$`)
	var parts []part
	for _, corpus := range []string{"ncar_zulip", "enron_mailbox", "irc_disentangled"} {
		parts = append(parts, part{
			"corpus " + corpus, []string{"go", "test", "./internal/demo", "-run", "^TestCorpora$/^" + corpus + "$", "-v", "-timeout", "24h"}, grown, logged,
		})
	}
	parts = append(parts, []part{
		{"large conversation", []string{"go", "test", "./internal/demo", "-run", "^TestLargeConversation$", "-v", "-timeout", "24h"}, grown, logged},
		{"kill loops", []string{"go", "test", "./internal/demo", "-run", "Kill", "-v", "-timeout", "24h"}, grown, logged},
		{"witnesses gone", []string{"go", "test", "./internal/demo", "-run", "^TestWitnessesGone$", "-v", "-timeout", "24h"}, grown, logged},
		{"ratchet schedules", []string{"go", "test", "./ratchet", "-run", "^TestModel", "-v", "-timeout", "24h"}, grown, passed},
		{"model of MLS groups", []string{"go", "test", "-C", "mls", "-run", "^TestModel$", "-model-runs", "6000", "-model-seed", "10001", "-timeout", "24h"}, grown, counted},
		{"damaged MLS messages", []string{"go", "test", "-C", "mls", "-run", "^TestMutations$", "-mutations", "100000000", "-timeout", "24h"}, grown, counted},
		{"tamper table", []string{"go", "test", "./internal/demo", "./verify", "-run", "Tamper", "-v", "-timeout", "24h"}, grown, passed},
	}...)
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}} {{.Dir}}", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("couldn't list the packages: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		targets, err := fuzzTargets(dir)
		if err != nil {
			return nil, err
		}
		for _, target := range targets {
			parts = append(parts, part{
				name: strings.TrimPrefix(pkg, "chancery/") + " " + target,
				command: []string{
					"go", "test", pkg, "-run", "^$", "-fuzz", "^" + target + "$", "-fuzztime", fuzz.String(), "-fuzzminimizetime", "1x",
				},
				keep: regexp.MustCompile(`^fuzz: elapsed: .*execs: (\d+).*$`),
			})
		}
	}
	return parts, nil
}

func fuzzTargets(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("couldn't look for fuzz targets: %w", err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`).FindAllSubmatch(data, -1) {
			out = append(out, string(m[1]))
		}
	}
	return out, nil
}

func (p part) once(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	return cmd.CombinedOutput()
}

// late reports whether a fuzz run failed only because its last input was being
// tried when the time was over, which the tool calls a failure on a busy machine
// (golang.org/issue/75804). A real finding names a file with its input.
func late(output []byte) bool {
	return bytes.Contains(output, []byte("context deadline exceeded")) && !bytes.Contains(output, []byte("Failing input written to"))
}

func (p part) run(ctx context.Context) result {
	start := time.Now()
	out, err := p.once(ctx)
	if err != nil && late(out) {
		out, err = p.once(ctx)
	}
	r := result{part: p, took: time.Since(start), err: err, output: out}
	scanner := bufio.NewScanner(bytes.NewReader(out))
	scanner.Buffer(nil, 1<<20)
	times := map[string]int{}
	for scanner.Scan() {
		if m := p.keep.FindStringSubmatch(scanner.Text()); m != nil {
			if times[m[1]]++; times[m[1]] == 1 {
				r.kept = append(r.kept, m[1])
			}
		}
	}
	for i, line := range r.kept {
		if n := times[line]; n > 1 {
			r.kept[i] = fmt.Sprintf("%s (%d times)", line, n)
		}
	}
	if strings.Contains(p.name, " Fuzz") && len(r.kept) > 0 {
		r.kept = []string{r.kept[len(r.kept)-1] + " executions"}
	}
	return r
}

// commit names what is run: the checkout's commit, and whether anything but the
// report differs from it.
func commit(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("couldn't tell the commit: %w", err)
	}
	name := strings.TrimSpace(string(out))
	if exec.CommandContext(ctx, "git", "diff", "--quiet", "HEAD", "--", ".", ":(exclude)"+report).Run() != nil {
		name += ", changed"
	}
	return name, nil
}

func (r *result) row(commit string) string {
	outcome, kept := "passed", strings.Join(r.kept, "<br>")
	if r.err != nil {
		outcome, kept = "**failed**", "" // its output was shown
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", r.name, outcome, commit, time.Now().UTC().Format(time.DateOnly),
		r.took.Round(time.Second), kept)
}

// read returns the rows of the last report by part.
func read() (map[string]string, error) {
	data, err := os.ReadFile(report)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("couldn't read the last report: %w", err)
	}
	rows := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if cells := strings.Split(line, " | "); len(cells) >= 6 && strings.HasPrefix(line, "| ") {
			rows[strings.TrimPrefix(cells[0], "| ")] = line
		}
	}
	return rows, nil
}

// write writes the report: the rows of the parts there are, in their order.
func write(parts []part, rows map[string]string) error {
	var b strings.Builder
	b.WriteString("# Campaign\n\nGenerated by `./test campaign`, not typed: what each part found when it was last run, and on which commit.\n\n" +
		"| part | result | commit | date | time | |\n|---|---|---|---|---:|---|\n")
	for _, p := range parts {
		if row, ok := rows[p.name]; ok {
			b.WriteString(row + "\n")
		}
	}
	if err := os.WriteFile(report, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("couldn't write the report: %w", err)
	}
	return nil
}
