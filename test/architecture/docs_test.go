package architecture

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/pkg/datapath"
	"sallyport/pkg/policy"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestReasonsAreExplained: whoever is refused finds the reason in the
// documentation.
func TestReasonsAreExplained(t *testing.T) {
	text := read(t, "../../docs/troubleshooting.md")
	var names []string
	for _, r := range policy.Reasons() {
		names = append(names, r.String())
	}
	for _, r := range datapath.Reasons() {
		names = append(names, r.String())
	}
	if len(names) < 35 {
		t.Fatalf("only %d reasons", len(names))
	}
	for _, name := range names {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("docs/troubleshooting.md does not explain %s", name)
		}
	}
}

// TestNamedTestsExist: what the documentation promises is shown by tests that
// are there.
func TestNamedTestsExist(t *testing.T) {
	have := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		// What is git's, or was built, comes and goes while others build.
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		for _, m := range function.FindAllStringSubmatch(read(t, path), -1) {
			have[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range pages {
		for _, m := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(read(t, page), -1) {
			named++
			if !have[m] {
				t.Errorf("%s names %s, which does not exist", filepath.Base(page), m)
			}
		}
	}
	if named < 20 {
		t.Errorf("the documentation names %d tests only", named)
	}
}
