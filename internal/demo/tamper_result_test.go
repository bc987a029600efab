package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chancery/codec"
	"chancery/pack"
	"chancery/verify"
)

// verifier runs chancery verify.
func (a *attack) verifier(args ...string) string {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, append([]string{"verify", "--org", a.home.Organisation.String()}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) || exit.ExitCode() != 1 {
		a.Errorf("verify %v ended with %v, want exit code 1", args, err)
	}
	return failures(string(out))
}

// failures keeps the lines of a report about checks that failed.
func failures(report string) string {
	var out []string
	failed := false
	for l := range strings.Lines(report) {
		switch {
		case strings.HasPrefix(l, "FAIL"), strings.HasPrefix(l, "NOT VERIFIED"), strings.HasPrefix(l, "chancery-verify"):
			failed = true
		case !strings.HasPrefix(l, " "):
			failed = false
		}
		if failed {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return strings.Join(out, "; ")
}

func (a *attack) file(name string, data []byte) string {
	a.Helper()
	path := filepath.Join(a.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		a.Fatal(err)
	}
	return path
}

func (a *attack) read(path string) []byte {
	a.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		a.Fatal(err)
	}
	return data
}

// exported has an auditor compare a changed export with the pack.
func exported(change func(lines [][]byte) [][]byte) func(a *attack) string {
	return func(a *attack) string {
		lines := bytes.SplitAfter(a.read(a.summary.ExportFile), []byte("\n"))
		lines = lines[:len(lines)-1]
		if len(lines) < 3 {
			a.Fatalf("%d lines exported: the test would show nothing", len(lines))
		}
		path := a.file("export.jsonl", bytes.Join(change(lines), nil))
		return a.verifier("--export", path, a.summary.EvidencePack)
	}
}

// unsealed has the recipient open a production that the server changed.
func unsealed(change func(a *attack, sealed []byte) []byte) func(a *attack) string {
	return func(a *attack) string {
		where := fmt.Sprintf("request = x'%s'", a.summary.Request)
		return a.tampered("productions", where, func() string {
			said := a.said(a.export(a.ctx))
			return said
		}, sq(`UPDATE productions SET sealed = ? WHERE `+where, change(a, a.blob(`SELECT sealed FROM productions WHERE `+where))))
	}
}

// resultTamperings are changes to what an opening leaves behind, and liars
// among those who answered.
func resultTamperings() []tampering {
	const auditor = "the auditor"
	return []tampering{
		{"keyholder's share", "another in its place, its answers signed and logged by the keyholder", "the opener; the auditor by the proof in the pack", `"keyholder-2"`, (*attack).faults},
		{"guard's answer", "invented, signed and logged by the guard", "the opener, which asks the other guard; the auditor by the proof in the pack", `proven against ["guard-1"`, (*attack).faults},
		{"production", "byte flipped", "the recipient", "the production is another than the opener's last statement names", unsealed(func(_ *attack, b []byte) []byte { return flipped(b) })},
		{"production", "cut", "the recipient", "the production is another than the opener's last statement names", unsealed(func(_ *attack, b []byte) []byte { return b[:len(b)-1] })},
		{"production", "removed", "the recipient", "couldn't fetch the production", func(a *attack) string {
			where := fmt.Sprintf("request = x'%s'", a.summary.Request)
			return a.tampered("productions", where, func() string { return a.said(a.export(a.ctx)) }, sq(`DELETE FROM productions WHERE `+where))
		}},
		{"export", "byte flipped", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { l[1] = flipped(l[1]); return l })},
		{"export", "line removed", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) })},
		{"export", "lines swapped", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l })},
		{"export", "line twice", auditor, "it is another export, or was changed", exported(func(l [][]byte) [][]byte { return append(l, l[0]) })},
		{"evidence pack", "byte flipped, anywhere", auditor, "NOT VERIFIED", (*attack).flipPack},
		{"evidence pack", "record removed", auditor, "completeness", repacked(func(b *pack.Body) { b.Items = slices.Delete(b.Items, 3, 4) })},
		{"evidence pack", "records reordered", auditor, "format", repacked(func(b *pack.Body) { b.Items[2], b.Items[3] = b.Items[3], b.Items[2] })},
		{"evidence pack", "record twice", auditor, "format", repacked(func(b *pack.Body) { b.Items = slices.Insert(b.Items, 3, b.Items[3]) })},
		{"evidence pack", "records' contents swapped", auditor, "envelopes", repacked(func(b *pack.Body) {
			i := slices.IndexFunc(b.Items, func(i pack.Item) bool { return i.Opened != nil })
			j := i + 1 + slices.IndexFunc(b.Items[i+1:], func(i pack.Item) bool { return i.Opened != nil })
			b.Items[i].Opened, b.Items[j].Opened = b.Items[j].Opened, b.Items[i].Opened
		})},
		{"evidence pack", "cut", auditor, "NOT VERIFIED", func(a *attack) string {
			data := a.read(a.summary.EvidencePack)
			return a.verifier(a.file("cut.pack", data[:len(data)-100]))
		}},
		{"evidence pack", "another organisation's", auditor, "NOT VERIFIED", func(a *attack) string {
			report := verify.Pack(codec.Hash{1}, a.read(a.summary.EvidencePack))
			var out strings.Builder
			report.Write(&out)
			return failures(out.String())
		}},
	}
}

// repacked has the auditor read a pack with another body, whole by its checksum.
func repacked(change func(b *pack.Body)) func(a *attack) string {
	return func(a *attack) string {
		p, err := pack.Parse(a.read(a.summary.EvidencePack))
		if err != nil {
			a.Fatal(err)
		}
		change(p.Body)
		// Assemble would refuse what it knows to be wrong.
		data := append([]byte(pack.Magic), codec.Encode([]any{p.Body.Encode(), p.Tail})...)
		sum := sha256.Sum256(data)
		data = append(data, sum[:]...)
		return a.verifier(a.file("repacked.pack", data))
	}
}

func (a *attack) faults() string {
	report := verify.Pack(a.home.Organisation, a.read(a.summary.EvidencePack))
	if !report.OK {
		a.Error("a pack with liars named doesn't verify")
	}
	for _, c := range report.Checks {
		if c.Name == "faults" {
			return c.Detail
		}
	}
	return ""
}

// flipPack flips single bits all over the pack, and runs the program on one of
// them: package verify's own tests flip every byte.
func (a *attack) flipPack() string {
	data := a.read(a.summary.EvidencePack)
	flips := 40
	if campaign() {
		flips = 4000
	}
	at := []int{0, len(data) - 1}
	for range flips {
		at = append(at, rand.IntN(len(data)))
	}
	for _, i := range at {
		b := bytes.Clone(data)
		b[i] ^= 1 << rand.IntN(8)
		if verify.Pack(a.home.Organisation, b).OK {
			a.Errorf("the pack verifies with byte %d of %d flipped", i, len(b))
		}
	}
	return a.verifier(a.file("flipped.pack", flipped(data)))
}
