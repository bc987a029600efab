// Command campaign is the long run of the tests: whole corpora, kill loops and
// fuzzing, hours of it. It writes what it found to docs/campaign.md, with the
// commit it ran on, as each part ends, so that a run cut short leaves what it
// had. `./test campaign` starts it.
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
	var done []result
	failed := 0
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
		done = append(done, r)
		if err := write(commit, done); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d parts failed", failed, len(done))
	}
	return ctx.Err()
}

// list names the parts: tests that grow under CHANCERY_CAMPAIGN, then every fuzz
// target of the tree.
func list(ctx context.Context, fuzz time.Duration) ([]part, error) {
	grown := []string{"CHANCERY_CAMPAIGN=1"}
	logged := regexp.MustCompile(`^\s+\S+_test\.go:\d+: (.*)$`)
	var parts []part
	for _, corpus := range []string{"ncar_zulip", "enron_mailbox", "irc_disentangled"} {
		parts = append(parts, part{
			"corpus " + corpus, []string{"go", "test", "./internal/demo", "-run", "^TestCorpora$/^" + corpus + "$", "-v", "-timeout", "24h"}, grown, logged,
		})
	}
	parts = append(parts, []part{
		{"kill loops", []string{"go", "test", "./internal/demo", "-run", "Kill", "-v", "-timeout", "24h"}, grown, logged},
		{"witnesses gone", []string{"go", "test", "./internal/demo", "-run", "^TestWitnessesGone$", "-v", "-timeout", "24h"}, grown, logged},
		{"tamper table", []string{"go", "test", "./internal/demo", "./verify", "-run", "Tamper", "-v", "-timeout", "24h"}, grown, logged},
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

func (p part) run(ctx context.Context) result {
	start := time.Now()
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	out, err := cmd.CombinedOutput()
	r := result{part: p, took: time.Since(start), err: err, output: out}
	scanner := bufio.NewScanner(bytes.NewReader(out))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if m := p.keep.FindStringSubmatch(scanner.Text()); m != nil {
			r.kept = append(r.kept, m[1])
		}
	}
	if strings.Contains(p.name, " Fuzz") && len(r.kept) > 0 {
		r.kept = []string{r.kept[len(r.kept)-1] + " executions"}
	}
	return r
}

func commit(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*").Output()
	if err != nil {
		return "", fmt.Errorf("couldn't tell the commit: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func write(commit string, results []result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Campaign\n\nGenerated by `./test campaign`, not typed. Commit %s, %s.\n\n| part | result | time | |\n|---|---|---:|---|\n",
		commit, time.Now().UTC().Format(time.DateOnly))
	for _, r := range results {
		outcome := "passed"
		if r.err != nil {
			outcome = "**failed**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.name, outcome, r.took.Round(time.Second), strings.Join(r.kept, "<br>"))
	}
	if err := os.WriteFile(report, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("couldn't write the report: %w", err)
	}
	return nil
}
