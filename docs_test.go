package chancery

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// files returns the text of every file of the tree whose name ends in one of the
// suffixes, by its path.
func files(t *testing.T, suffixes ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, s := range suffixes {
			if !strings.HasSuffix(path, s) {
				continue
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[path] = string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCitedSections follows every citation of a specification to its section.
func TestCitedSections(t *testing.T) {
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	named := regexp.MustCompile(`<a name="([a-z0-9-]+)">`)
	drop := regexp.MustCompile(`[^a-z0-9 -]`)
	anchors := map[string]bool{}
	for path, text := range files(t, ".md") {
		for _, h := range heading.FindAllStringSubmatch(text, -1) {
			anchor := strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")
			anchors[filepath.ToSlash(path)+"#"+anchor] = true
		}
		for _, a := range named.FindAllStringSubmatch(text, -1) {
			anchors[filepath.ToSlash(path)+"#"+a[1]] = true
		}
	}
	cited := 0
	for path, text := range files(t, ".go", ".md") {
		for _, c := range regexp.MustCompile(`spec/[a-z-]+\.md#[a-z0-9-]+`).FindAllString(text, -1) {
			if cited++; !anchors[c] {
				t.Errorf("%s cites %s: there is no such section", path, c)
			}
		}
	}
	if cited < 50 {
		t.Errorf("only %d citations found", cited)
	}
}

// TestCitedTests finds every test that the documents name as `folder.TestName`.
func TestCitedTests(t *testing.T) {
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	there := map[string]bool{}
	for path, text := range files(t, "_test.go") {
		folder := filepath.Base(filepath.Dir(path))
		if folder == "." {
			folder = "chancery"
		}
		for _, f := range function.FindAllStringSubmatch(text, -1) {
			there[folder+"."+f[1]] = true
		}
	}
	cited := 0
	for path, text := range files(t, ".md") {
		for _, c := range regexp.MustCompile("`(\\w+\\.(?:Test|Fuzz)\\w+)").FindAllStringSubmatch(text, -1) {
			if cited++; !there[c[1]] {
				t.Errorf("%s cites %s: there is no such test", path, c[1])
			}
		}
	}
	if cited < 100 {
		t.Errorf("only %d citations found", cited)
	}
}
