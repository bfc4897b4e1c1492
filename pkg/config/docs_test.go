package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sallyport/pkg/policy/condition"
)

// TestDocumentedExamples: what docs/controls.md shows is a configuration, or a
// stage of a rule; docs/policy.md has configurations and conditions.
func TestDocumentedExamples(t *testing.T) {
	data, err := os.ReadFile("../../docs/controls.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(data, -1)
	if len(blocks) < 12 {
		t.Fatalf("only %d examples", len(blocks))
	}
	key := regexp.MustCompile(`(?m)^[a-z_]+:`)
	for _, b := range blocks {
		text := string(b[1])
		if !slices.Contains(stageKeys, strings.TrimSuffix(key.FindString(text), ":")) {
			if _, _, err := Check([]File{{"example", []byte(text)}}); err != nil {
				t.Errorf("%v\n%s", err, text)
			}
			continue
		}
		// Several stages, or forms of one, each on its own.
		starts := key.FindAllStringIndex(text, -1)
		for i, at := range starts {
			end := len(text)
			if i+1 < len(starts) {
				end = starts[i+1][0]
			}
			stage := "    " + strings.ReplaceAll(strings.TrimSpace(text[at[0]:end]), "\n", "\n    ")
			rule := "rules:\n  - name: a\n    match: { hosts: a.example }\n    action: allow\n" + stage + "\n"
			if _, err := Parse([]File{{"example", []byte(rule)}}); err != nil {
				t.Errorf("%v\n%s", err, rule)
			}
		}
	}
	policy, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(policy, -1) {
		if _, warnings, err := Check([]File{{"policy.md", b[1]}}); err != nil || len(warnings) != 0 {
			t.Errorf("%v, %v", err, warnings)
		}
	}
	conditions := regexp.MustCompile("(?s)```cel\n(.*?)\n```").FindSubmatch(policy)
	for line := range strings.Lines(string(conditions[1])) {
		var c condition.Compiler
		if _, err := c.Compile(line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, k := range matchKeys {
		if !strings.Contains(string(policy), "`"+k+"`") {
			t.Errorf("%s is not documented", k)
		}
	}
	for _, k := range stageKeys {
		if !strings.Contains(string(data), "`"+k+"`") {
			t.Errorf("%s is not documented", k)
		}
	}
}
