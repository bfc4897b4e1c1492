package convert_test

import (
	"slices"
	"strings"
	"testing"
)

// TestHoles: a hole is written where it decides something, and only there.
func TestHoles(t *testing.T) {
	for _, tt := range []struct {
		name, source string
		// rules are the names of all, in order.
		rules []string
		// allowed and refused are paths of x.example.com.
		allowed, refused []string
	}{
		{
			name: "two locations together send what the third does not",
			source: `
				location ~ b$ { proxy_pass http://x.example.com; }
				location = /b/ { proxy_pass http://x.example.com; }
				location = / { proxy_pass http://x.example.com/b; }`,
			rules:   []string{"b", "regex-line-2-not", "regex-line-2"},
			allowed: []string{"/b", "/b/", "/a/b"},
			refused: []string{"/", "/a"},
		},
		{
			name: "of a path that can be read in two ways the smaller limit holds",
			source: `
				location = /b { client_max_body_size 1k; proxy_pass http://x.example.com; }
				location / { proxy_pass http://x.example.com; }`,
			rules:   []string{"b", "root-not", "root"},
			allowed: []string{"/b", "/a", "//a"},
			refused: []string{"//b", "/b;v=1"},
		},
		{
			name: "with one limit for both it does not matter how it is read",
			source: `
				location = /b { proxy_pass http://x.example.com; }
				location / { proxy_pass http://x.example.com; }`,
			rules:   []string{"b"},
			allowed: []string{"/b", "/b/", "/a", "//b", "/b;v=1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			yaml, notes, complete, err := converted(t, "model.conf", []byte("http { server {"+tt.source+"\n}}"))
			if err != nil || !complete {
				t.Fatalf("%v, complete %v\n%s", err, complete, notes)
			}
			var rules []string
			for line := range strings.Lines(yaml) {
				if name, ok := strings.CutPrefix(line, "  - name: "); ok {
					rules = append(rules, strings.TrimSpace(name))
				}
			}
			if !slices.Equal(rules, tt.rules) {
				t.Errorf("rules %q, want %q\n%s", rules, tt.rules, yaml)
			}
			p := load(t, yaml)
			for _, path := range tt.allowed {
				if !allowed(p, "x.example.com", path, "GET") {
					t.Errorf("%s is refused\n%s", path, yaml)
				}
			}
			for _, path := range tt.refused {
				if allowed(p, "x.example.com", path, "GET") {
					t.Errorf("%s is allowed\n%s", path, yaml)
				}
			}
		})
	}
}
