package pattern

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustGlob(t testing.TB, s string) Glob {
	t.Helper()
	g, err := ParseGlob(s)
	if err != nil {
		t.Fatalf("ParseGlob(%q): %v", s, err)
	}
	return g
}

func TestGlobMatch(t *testing.T) {
	tests := []struct {
		glob, s string
		want    bool
	}{
		{"abc", "abc", true},
		{"abc", "abcd", false},
		{"*", "", true},
		{"*", "a/b\nc", true},
		{"a*", "a", true},
		{"a*c", "abbbc", true},
		{"a*c", "abbb", false},
		{"*a*b*", "xxaxxbxx", true},
		{"*a*b*", "xxbxxaxx", false},
		{"a?c", "aéc", true},
		{"a?c", "ac", false},
		{"?", "", false},
		{"[a-c]x", "bx", true},
		{"[a-c]x", "dx", false},
		{"[!a-c]x", "dx", true},
		{"[^a-c]x", "ax", false},
		{"[]x]", "]", true},
		{"[a-]", "-", true},
		{`[\]]`, "]", true},
		{`a\*c`, "a*c", true},
		{`a\*c`, "abc", false},
		{`a\\`, `a\`, true},
		{"npx *server-github*", "npx -y @x/server-github --stdio", true},
		{"**", "x", true},
		{"*é", "éé", true},
	}
	for _, tt := range tests {
		g := mustGlob(t, tt.glob)
		if got := g.Match(tt.s); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.glob, tt.s, got, tt.want)
		}
	}
	var zero Glob
	if zero.Match("") || zero.Match("x") {
		t.Error("the zero Glob matches something")
	}
}

func TestParseGlobErrors(t *testing.T) {
	tests := []struct{ in, err string }{
		{"", "is empty"},
		{"[a", `"[" without`},
		{"[", `"[" without`},
		{"[]", `"[" without`},
		{"[a-", `"[" without`},
		{`[\`, `"[" without`},
		{"[z-a]", "backwards"},
		{`a\`, "must be followed"},
		{"\xff", "UTF-8"},
		{strings.Repeat("a", 1025), "1024"},
	}
	for _, tt := range tests {
		if g, err := ParseGlob(tt.in); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("ParseGlob(%q) = %v, %v; want an error with %q", tt.in, g, err, tt.err)
		}
	}
}

// globText draws globs over a tiny alphabet, where they meet each other often.
var globText = rapid.StringMatching(`(a|b|c|\*|\?|\[ab\]|\[!a\]|\\\*){1,7}`)

// TestGlobAgainstRegexp compares with an independent engine.
func TestGlobAgainstRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := globText.Draw(t, "glob")
		s := rapid.StringMatching(`[abc*]{0,9}`).Draw(t, "s")
		re := regexp.MustCompile(`(?s)^` + strings.NewReplacer(`\*`, `\*`, `*`, `.*`, `?`, `.`, `[!`, `[^`).Replace(text) + `$`)
		g, err := ParseGlob(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := g.Match(s), re.MatchString(s); got != want {
			t.Fatalf("%q matches %q: %v, want %v", text, s, got, want)
		}
	})
}

// TestOverlaps compares with trying all short strings.
func TestOverlaps(t *testing.T) {
	var all []string
	for frontier := []string{""}; len(frontier[0]) <= 6; {
		all = append(all, frontier...)
		var next []string
		for _, s := range frontier {
			next = append(next, s+"a", s+"b", s+"c")
		}
		frontier = next
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.StringMatching(`(a|b|c|\*|\?|\[ab\]){1,4}`)
		a, _ := ParseGlob(draw.Draw(t, "a"))
		b, _ := ParseGlob(draw.Draw(t, "b"))
		want := false
		for _, s := range all {
			if a.Match(s) && b.Match(s) {
				want = true
				break
			}
		}
		if got := a.Overlaps(&b); got != want {
			t.Fatalf("%q overlaps %q: %v, want %v", a, b, got, want)
		}
	})
}

func TestGlobMatchDoesNotAllocate(t *testing.T) {
	g := mustGlob(t, "npx *[a-z]server-?*")
	if n := testing.AllocsPerRun(100, func() { g.Match("npx -y @x/server-github --stdio") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func FuzzParseGlob(f *testing.F) {
	for _, s := range []string{"*", "[a-z]?*", `\*`, "[!]", "a[", "[z-a]", "[]-a]"} {
		f.Add(s, "abc")
	}
	f.Fuzz(func(t *testing.T, text, s string) {
		g, err := ParseGlob(text)
		if err == nil {
			g.Match(s)
			o, _ := ParseGlob("*a?")
			g.Overlaps(&o)
		}
	})
}
