package verify_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chancery/evidence"
	"chancery/internal/published"
	"chancery/verify"
)

// TestEvidence puts the published files to the auditor's program.
func TestEvidence(t *testing.T) {
	var files []struct {
		Name         string        `json:"name"`
		Organisation string        `json:"organisation"`
		Evidence     published.Hex `json:"evidence"`
		Kind         evidence.Kind `json:"kind"`
		Error        string        `json:"error"`
	}
	if err := json.Unmarshal(published.Read(t, "evidence.json"), &files); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(t.TempDir(), "evidence")
		if err := os.WriteFile(path, f.Evidence, 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := verify.Main([]string{"evidence", path, "--organisation", f.Organisation}, &out, &errs)
		switch {
		case f.Error == "" && (code != 0 || !strings.HasPrefix(out.String(), string(f.Kind)+": ") || !strings.Contains(out.String(), "convicted")):
			t.Errorf("%s: code %d, %s%s", f.Name, code, &out, &errs)
		case f.Error != "" && (code != 1 || out.Len() > 0 || !strings.Contains(errs.String(), "nobody is convicted")):
			t.Errorf("%s: code %d, %s%s", f.Name, code, &out, &errs)
		}
		if f.Error != "" {
			continue
		}
		out.Reset()
		var v evidence.Verdict
		if code := verify.Main([]string{"evidence", "--json", "--org", f.Organisation, path}, &out, &errs); code != 0 || json.Unmarshal(out.Bytes(), &v) != nil || v.Kind != f.Kind || len(v.Convicted) == 0 {
			t.Errorf("%s in JSON: code %d, %s", f.Name, code, &out)
		}
	}
	for _, args := range [][]string{
		{"evidence"}, {"evidence", "x"}, {"evidence", "x", "y", "--organisation", files[0].Organisation}, {"evidence", "x", "--organisation", "no"}, {"evidence", "--what"},
	} {
		if code := verify.Main(args, &bytes.Buffer{}, &bytes.Buffer{}); code != 2 {
			t.Errorf("%q: code %d", args, code)
		}
	}
	if code := verify.Main([]string{"evidence", "there is no such file", "--organisation", files[0].Organisation}, &bytes.Buffer{}, &bytes.Buffer{}); code != 1 {
		t.Errorf("no file: code %d", code)
	}
}
