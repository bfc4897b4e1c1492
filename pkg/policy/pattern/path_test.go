package pattern

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustPath(t testing.TB, s string) Path {
	t.Helper()
	p, err := ParsePath(s)
	if err != nil {
		t.Fatalf("ParsePath(%q): %v", s, err)
	}
	return p
}

func TestPathMatch(t *testing.T) {
	tests := []struct {
		pattern, path string
		allow, deny   bool
	}{
		{"/repos/**", "/repos/a", true, true},
		{"/repos/**", "/repos/a/b/c", true, true},
		{"/repos/**", "/repos", true, true},
		{"/repos/**", "/repos/", true, true},
		{"/repos/**", "/reposx", false, false},
		{"/repos/**", "/", false, false},
		{"/repos**", "/reposx/y", true, true},
		{"/search/*", "/search/a", true, true},
		{"/search/*", "/search/a/b", false, false},
		{"/search/*", "/search", false, false},
		{"/a/*/c", "/a/b/c", true, true},
		{"/a/*/c", "/a/b/b/c", false, false},
		{"/a/**/c", "/a/c", true, true},
		{"/a/**/c", "/a/b/b/c", true, true},
		{"/a/**/c", "/abc", false, false},
		{"/a/**/c/*.json", "/a/c/c/x.json", true, true},
		{"/**", "/", true, true},
		{"/**", "/x/y", true, true},
		{"/**", "*", false, false},
		{"**", "*", true, true},
		{"**", "/x", true, true},
		{"/", "/", true, true},
		{"/", "", true, true},
		{"/", "/x", false, false},
		{"/v1/*-x*.json", "/v1/a-b-x1.json", true, true},
		// A final slash makes no difference to most servers.
		{"/admin", "/admin/", false, true},
		{"/admin/", "/admin", false, true},
		{"/admin/", "/admin/", true, true},
		{"/a/*/", "/a/b", false, true},
		// Encoded characters that need no encoding.
		{"/admin", "/%61dmin", true, true},
		{"/admin", "/%61d%6Din", true, true},
		{"/%61dmin", "/admin", true, true},
		{"/a:b", "/a%3Ab", true, true},
		{"/a%3ab", "/a:b", true, true},
		{"/~x", "/%7ex", true, true},
		{"/é", "/%c3%a9", true, true},
		{"/%C3%A9", "/é", true, true},
		{"/a b", "/a%20b", true, true},
		{"/a[1]", "/a%5b1]", true, true},
		{"/a%2Ab", "/a*b", true, true},
		{"/a%2Ab", "/axb", false, false},
		{"/100%25", "/100%25", true, true},
		{"/*.%61*/x", "/b.ac/x", true, true},
		{"/*./%7e*", "/a./~b", true, true},
		// %2F.
		{"/a/b", "/a%2Fb", false, true},
		{"/x", "/a%2fb", false, true},
		{"/**", "/a%2Fb", false, true},
		{"/a%2Fb", "/a%2fb", true, true},
		{"/a%2fb", "/a%2Fb", true, true},
		{"/a%2Fb", "/a/b", false, false},
		{"/@*%2F*", "/@scope%2Fpkg", true, true},
		{"/@*%2F*", "/%40scope%2fpkg", true, true},
		{"/@*%2F*", "/@scope%2Fpkg%2Fx", false, false},
		{"/@*%2F**", "/@scope%2Fpkg%2Fx", true, true},
		{"/@*%2F*", "/@scope/pkg", false, false},
		// Empty segments: some servers merge them.
		{"/admin/**", "//admin/x", false, true},
		{"/admin/**", "/admin//x", true, true},
		{"/a/*/c", "/a//c", false, true},
		{"/a/c", "/a//c", false, true},
		{"/a//c", "/a//c", true, true},
		{"/a//c", "/a/c", false, false},
		{"/**", "//x", true, true},
		// Parameters: some servers remove them.
		{"/admin", "/admin;x=1", false, true},
		{"/admin/x", "/admin;a/x;b", false, true},
		{"/admin", "/admin%3Bx", false, true},
		{"/public/*", "/public/a;b", true, true},
		{"/public/*;b", "/public/a;b", true, true},
		{"/admin/x", "/admin/;a/x", false, true},
		{"/**", "/;a/b", true, true},
		// Final dots and spaces: Windows removes them.
		{"/admin", "/admin.", false, true},
		{"/admin", "/admin%20", false, true},
		{"/admin/x", "/admin.%20./x", false, true},
		{"/admin", "/admin.;x", false, true},
		{"/files/*", "/files/a.", true, true},
		{"/files/a.", "/files/a.", true, true},
		{"/admin/x", "//admin.;y//x.", false, true},
		// These are no tricks.
		{"/.well-known/*", "/.well-known/x", true, true},
		{"/a..b", "/a..b", true, true},
		{"/..a", "/..a", true, true},
	}
	for _, tt := range tests {
		p := mustPath(t, tt.pattern)
		r := NormalisePath(tt.path)
		if r.Ambiguous() != "" {
			t.Errorf("%s: ambiguous: %s", tt.path, r.Ambiguous())
			continue
		}
		if got := p.MatchesAll(&r); got != tt.allow {
			t.Errorf("allow %s, path %s: %v, want %v", tt.pattern, tt.path, got, tt.allow)
		}
		if got := p.MatchesAny(&r); got != tt.deny {
			t.Errorf("deny %s, path %s: %v, want %v", tt.pattern, tt.path, got, tt.deny)
		}
	}
}

func TestNormalisePath(t *testing.T) {
	tests := []struct{ raw, forward, ambiguous string }{
		{raw: "/a/b", forward: "/a/b"},
		{raw: "", forward: "/"},
		{raw: "*", forward: "*"},
		{raw: "/%61%2d%7E", forward: "/a-~"},
		{raw: "/a%2fb", forward: "/a%2Fb"},
		{raw: "/a%3ab", forward: "/a%3Ab"},
		{raw: "/é", forward: "/%C3%A9"},
		{raw: "/%c3%a9", forward: "/%C3%A9"},
		{raw: "/a b|c", forward: "/a%20b%7Cc"},
		{raw: "//a;b./", forward: "//a;b./"},
		{raw: "/%25", forward: "/%25"},
		{raw: "/100%25x", forward: "/100%25x"},
		{raw: "/.well-known", forward: "/.well-known"},

		{raw: "/.", ambiguous: "dot segment"},
		{raw: "/..", ambiguous: "dot segment"},
		{raw: "/a/../b", ambiguous: "dot segment"},
		{raw: "/a/./b", ambiguous: "dot segment"},
		{raw: "/a/.../b", ambiguous: "dot segment"},
		{raw: "/a/%2e%2E/b", ambiguous: "dot segment"},
		{raw: "/a/.%2e/b", ambiguous: "dot segment"},
		{raw: "/a/..;x/b", ambiguous: "dot segment"},
		{raw: "/a/..%3Bx/b", ambiguous: "dot segment"},
		{raw: "/a/..%20/b", ambiguous: "dot segment"},
		{raw: "/a%2f..%2Fb", ambiguous: "dot segment"},
		{raw: "/a/..%2fb", ambiguous: "dot segment"},
		{raw: `/a\b`, ambiguous: "backslash"},
		{raw: "/a%5cb", ambiguous: "backslash"},
		{raw: "/a%00b", ambiguous: "control character"},
		{raw: "/a\x00b", ambiguous: "control character"},
		{raw: "/a%0d%0ab", ambiguous: "control character"},
		{raw: "/a%7f", ambiguous: "control character"},
		{raw: "/%252e", ambiguous: "double encoding"},
		{raw: "/%25%32%65", ambiguous: "double encoding"},
		{raw: "/%25u002e", ambiguous: "double encoding"},
		{raw: "/%2525", ambiguous: "double encoding"},
		{raw: "/%", ambiguous: "hexadecimal"},
		{raw: "/%2", ambiguous: "hexadecimal"},
		{raw: "/%zz", ambiguous: "hexadecimal"},
		{raw: "/%u002e", ambiguous: "hexadecimal"},
		{raw: "/%%32%65", ambiguous: "hexadecimal"},
		{raw: "/%c0%af", ambiguous: "not UTF-8"},
		{raw: "/%c0%ae%c0%ae/", ambiguous: "not UTF-8"},
		{raw: "/%e0%80%af", ambiguous: "not UTF-8"},
		{raw: "/%f0%80%80%af", ambiguous: "not UTF-8"},
		{raw: "/\xc0\xaf", ambiguous: "not UTF-8"},
		{raw: "/%ff", ambiguous: "not UTF-8"},
		{raw: "/%ed%a0%80", ambiguous: "not UTF-8"},
		{raw: "/a?b", ambiguous: "query"},
		{raw: "/a#b", ambiguous: "query"},
		{raw: "a", ambiguous: "no leading slash"},
		{raw: "%2Fa", ambiguous: "no leading slash"},
	}
	for _, tt := range tests {
		r := NormalisePath(tt.raw)
		if tt.ambiguous != "" {
			if !strings.Contains(r.Ambiguous(), tt.ambiguous) || r.Forward() != tt.raw {
				t.Errorf("%q: ambiguous %q, forward %q; want %q and the path as it was", tt.raw, r.Ambiguous(), r.Forward(), tt.ambiguous)
			}
			continue
		}
		if r.Ambiguous() != "" || r.Forward() != tt.forward {
			t.Errorf("%q: forward %q, ambiguous %q; want %q", tt.raw, r.Forward(), r.Ambiguous(), tt.forward)
		}
	}
}

func TestParsePathErrors(t *testing.T) {
	tests := []struct{ in, err string }{
		{"", "is empty"},
		{"repos", `must begin with "/"`},
		{"*", `must begin with "/"`},
		{"/a/***", `"***"`},
		{"/a?b=*", "query"},
		{"/a#b", "fragment"},
		{"/a/{id}", `written "*"`},
		{"/a/../b", "a dot segment"},
		{"/a/..", "a dot segment"},
		{`/a\b`, "a backslash"},
		{"/a%00", "a control character"},
		{"/%252e", "double encoding"},
		{"/%zz", "hexadecimal"},
		{"/%c0%af", "not UTF-8"},
		{"/%2*F", "hexadecimal"},
		{"/" + strings.Repeat("a", MaxPath), "longer"},
	}
	for _, tt := range tests {
		if p, err := ParsePath(tt.in); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("ParsePath(%q) = %v, %v; want an error with %q", tt.in, p, err, tt.err)
		}
	}
}

// reference writes a pattern as a regular expression.
func reference(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for rest := pattern; rest != ""; {
		switch {
		case rest == "/**":
			b.WriteString(`(?:/.*)?`)
			rest = ""
		case strings.HasPrefix(rest, "/**/"):
			b.WriteString(`/(?:.*/)?`)
			rest = rest[4:]
		case strings.HasPrefix(rest, "**"):
			b.WriteString(`.*`)
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString(`[^/]*`)
			rest = rest[1:]
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	return regexp.MustCompile(b.String() + `$`)
}

// TestPathAgainstRegexp compares with an independent engine.
func TestPathAgainstRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := "/" + rapid.StringMatching(`(a|b|/|\*|/\*\*|/\*\*/|\*\*){0,8}`).Draw(t, "pattern")
		if strings.Contains(text, "***") || strings.Contains(text, "//") {
			t.Skip("no pattern")
		}
		path := "/" + rapid.StringMatching(`([ab]{1,2}/){0,4}[ab]{0,3}`).Draw(t, "path")
		p, err := ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		r := NormalisePath(path)
		want := reference(text).MatchString(path)
		if got := p.MatchesAll(&r); got != want {
			t.Fatalf("%q matches %q: %v, want %v", text, path, got, want)
		}
		if want && !strings.HasPrefix(path, p.Prefix()) {
			t.Fatalf("%q matches %q, which does not begin with %q", text, path, p.Prefix())
		}
		if want && !p.MatchesAny(&r) {
			t.Fatalf("%q matches %q for allow, not for deny", text, path)
		}
	})
}

// TestHostilePathIsBounded: a path made for backtracking costs milliseconds for
// all rules together, and then an allow fails and a deny holds.
func TestHostilePathIsBounded(t *testing.T) {
	p := mustPath(t, "/**a*a*a*a*a*b/**/c")
	r := NormalisePath("/" + strings.Repeat("a", 60000))
	start := time.Now()
	for range 100 {
		if p.MatchesAll(&r) {
			t.Fatal("matched")
		}
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
	if !p.MatchesAny(&r) {
		t.Error("a deny rule let a path pass that it could not compare")
	}
}

func TestNormalPathDoesNotAllocate(t *testing.T) {
	p := mustPath(t, "/repos/*/issues/**")
	if n := testing.AllocsPerRun(100, func() {
		r := NormalisePath("/repos/sallyport/issues/42/comments")
		if !p.MatchesAll(&r) || !p.MatchesAny(&r) {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}

// FuzzNormalisePath: what is forwarded is a fixed point, holds nothing that a
// server could read as a climb, and means what was received.
func FuzzNormalisePath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e/", "/a%2f..%5c", "/%25%32%65", "//a;b/.", "/%c0%af", "/\xff", "*", "", "/é b"} {
		f.Add(s)
	}
	p, _ := ParsePath("/a/*/**/b*%2F")
	f.Fuzz(func(t *testing.T, raw string) {
		r := NormalisePath(raw)
		if p.MatchesAll(&r) && !p.MatchesAny(&r) {
			t.Fatalf("%q: allowed and not denied by the same pattern", raw)
		}
		if r.Ambiguous() != "" {
			return
		}
		again := NormalisePath(r.Forward())
		if again.Ambiguous() != "" || again.Forward() != r.Forward() || again.Key() != r.Key() {
			t.Fatalf("%q becomes %q, then %q (%s)", raw, r.Forward(), again.Forward(), again.Ambiguous())
		}
		for _, bad := range []string{"/../", "/./", "\\", "\x00", "%00", "%5C", "%252E"} {
			if strings.Contains(r.Forward()+"/", bad) {
				t.Fatalf("%q is forwarded as %q", raw, r.Forward())
			}
		}
	})
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"/a/**/b", "**", "/%2f*", "/*;x/", "/a**b*"} {
		f.Add(s, "/a/b")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		p, err := ParsePath(text)
		if err != nil {
			return
		}
		r := NormalisePath(path)
		if r.Ambiguous() == "" && p.MatchesAll(&r) && !p.MatchesAny(&r) {
			t.Fatalf("%q, %q: allowed and not denied by the same pattern", text, path)
		}
	})
}

func BenchmarkNormalisePath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NormalisePath("/repos/sallyport/issues/42/comments")
	}
}
