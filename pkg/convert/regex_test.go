package convert

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

func matched(t *rapid.T, all []Pattern, path string, deny bool) bool {
	for _, p := range all {
		compiled, err := pattern.ParsePath(p.String())
		if err != nil {
			t.Fatalf("%q: %v", p, err)
		}
		r := pattern.NormalisePath(path)
		if !deny && compiled.MatchesAll(&r) || deny && compiled.MatchesAny(&r) {
			return true
		}
	}
	return false
}

// TestGlobs: what is exact matches what the expression does, and what is wider
// at least that.
func TestGlobs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{
			"/", "/", "a", "b", "[ab]", ".*", "[^/]*", "(a|b)", "a?", "a+", "[a-c]", `\.`, ".", "[^/]+", "(?:ab|/b)", "A",
		}), 1, 6).Draw(t, "parts")
		expression := rapid.SampledFrom([]string{"", "^", "^/"}).Draw(t, "begin") + strings.Join(parts, "") + rapid.SampledFrom([]string{"", "$"}).Draw(t, "end")
		path := rapid.StringMatching(`(/[abcA.]{1,3}){1,3}/?`).Draw(t, "path")
		fold := rapid.Bool().Draw(t, "fold")
		if r := pattern.NormalisePath(path); r.Ambiguous() != "" || !r.Plain() {
			return
		}
		text := expression
		if fold {
			text = "(?i)" + text
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return
		}
		want := re.MatchString(path)
		if globs, ok := ExactGlobs(expression, fold); ok {
			if got := matched(t, globs, path, false); got != want {
				t.Fatalf("%s (fold %v) matches %s: %v, but %v says %v", expression, fold, path, want, globs, got)
			}
		}
		if globs := WiderGlobs(expression, fold); want && !matched(t, globs, path, true) {
			t.Fatalf("%s (fold %v) matches %s, and %v do not", expression, fold, path, globs)
		}
	})
}

// TestConditions: what is allowed is what the expression matches, without what is
// encoded; what is refused is at least what it matches in the decoded path.
func TestConditions(t *testing.T) {
	var c condition.Compiler
	compile := func(text string) *condition.Condition {
		w, err := c.Compile(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return w
	}
	for _, expression := range []string{`^/a/\d+$`, `\.(png|jpg)$`, `^/[^/]+/b`, `/x.y/`, `^/(?:a|b)[a-z]*/.+$`, `^/a b`, `[^a]b$`, `é`, `"quoted"`} {
		re := regexp.MustCompile(expression)
		allow, allowed := AllowWhen(expression, false, Path("", ""))
		deny, denied := DenyWhen(expression, false, Path("", ""))
		for _, encoded := range []string{"/a/1", "/a/x", "/a.png", "/a%20b.png", "/x/b", "/%20/b", "/x%20y/", "/xay/", "/ab/%C3%A9", "/a%20b", "/a//1", "/%40b", "/cb", "/%22quoted%22"} {
			decoded := strings.NewReplacer("%20", " ", "%C3%A9", "é", "%40", "@", "%22", `"`).Replace(encoded)
			v := &condition.Variables{Path: encoded}
			if allowed {
				if held, err := compile(allow).Holds(v); err != nil || held && !re.MatchString(decoded) {
					t.Errorf("%s allows %s (%v): %s", expression, encoded, err, allow)
				}
			}
			if denied {
				if held, err := compile(deny).Holds(v); err == nil && !held && re.MatchString(decoded) {
					t.Errorf("%s does not refuse %s: %s", expression, encoded, deny)
				}
			}
		}
	}
	for _, uncertain := range []string{`/x.y/`, `^/a b`, `[^a]b$`, `é`, `"quoted"`, `(?=a)b`} {
		if text, ok := DenyWhen(uncertain, false, "request.path"); ok {
			t.Errorf("%s: %s", uncertain, text)
		}
	}
}
