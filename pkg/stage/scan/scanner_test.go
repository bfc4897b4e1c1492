package scan

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// expressions cover what an automaton must get right: preference, look-around,
// anchors, classes, folding, counting.
var expressions = []string{
	`abc`, `a+b`, `a+?b`, `a*?ab`, `(a|ab)(c|bcd)`, `(?:ab|a)c?`, `a|ab|abc`, `abc|ab|a`,
	`\bab\b`, `\Bb`, `b\B`, `^ab`, `ab$`, `(?m)^ab`, `(?m)ab$`, `(?s)a.*b`, `a.*b`, `a.*?b`,
	`(?i)k`, `(?i)aB`, `[^a]b`, `[a-c]{2,4}`, `[a-c]{2,4}?`, `(?:a{2}){2}`, `é`, `[é-ü]+`, `\x{FFFD}`, `.`,
	`(?i:é)+`, `\pL+`, `\w+@\w+`, `\d{3}-\d{2}`, `a\nb`, `(?:^|,)a`, `a(?:$|,)`, `\Aab`, `ab\z`, `ſ|(?i)s`, `(aa|aaa)(b|$)`, `[ab]*c`,
}

// all gives what package regexp finds, without empty matches.
func all(re *regexp.Regexp, s []byte) [][2]int {
	var out [][2]int
	for _, m := range re.FindAllIndex(s, -1) {
		if m[0] < m[1] {
			out = append(out, [2]int{m[0], m[1]})
		}
	}
	return out
}

// scanned gives what a scanner finds in the pieces, and the text with each match
// replaced.
func scanned(t testing.TB, p *Pattern, hold bool, pieces ...[]byte) ([][2]int, string) {
	t.Helper()
	var spans [][2]int
	s := NewScanner([]Search{{Pattern: p, Hold: hold}}, nil, 1<<20, func(f Found) (Verdict, error) {
		spans = append(spans, [2]int{int(f.Pos), int(f.End)})
		return Verdict{Replace: []byte("#")}, nil
	})
	var out []byte
	for i, piece := range pieces {
		var err error
		if out, err = s.Feed(out, piece, i == len(pieces)-1); err != nil {
			t.Fatal(err)
		}
	}
	return spans, string(out)
}

func replaced(s []byte, spans [][2]int) string {
	var b strings.Builder
	at := 0
	for _, v := range spans {
		b.Write(s[at:v[0]])
		b.WriteByte('#')
		at = v[1]
	}
	b.Write(s[at:])
	return b.String()
}

// check compares one expression over one text with package regexp: whole, byte
// by byte, and cut in two at every place.
func check(t testing.TB, expr string, s []byte) {
	t.Helper()
	re := regexp.MustCompile(expr)
	if re.Match(nil) || strings.ContainsAny(expr, `\$^`) && emptyMatch(re, s) {
		return
	}
	p, err := Compile(expr)
	if err != nil {
		t.Fatal(err)
	}
	want := all(re, s)
	text := replaced(s, want)
	try := func(pieces ...[]byte) {
		t.Helper()
		got, out := scanned(t, p, true, pieces...)
		if !slices.Equal(got, want) || out != text {
			t.Fatalf("%q in %q by %q: %v %q, regexp finds %v %q", expr, s, pieces, got, out, want, text)
		}
	}
	try(s)
	single := make([][]byte, 0, len(s)+1)
	for i := range s {
		single = append(single, s[i:i+1])
		try(s[:i], s[i:])
	}
	try(append(single, nil)...)
}

// emptyMatch reports whether there are empty matches, of which only package
// regexp makes something.
func emptyMatch(re *regexp.Regexp, s []byte) bool {
	for _, m := range re.FindAllIndex(s, -1) {
		if m[0] == m[1] {
			return true
		}
	}
	return false
}

func TestLikeRegexp(t *testing.T) {
	alphabets := []string{"ab", "abc\n", "ab ,", "aé\xe2\x82x", "abS sſkK", "12-3@a"}
	r := rand.New(rand.NewPCG(1, 2))
	for _, expr := range expressions {
		for n := range 60 {
			letters := alphabets[n%len(alphabets)]
			s := make([]byte, r.IntN(14))
			for i := range s {
				s[i] = letters[r.IntN(len(letters))]
			}
			check(t, expr, s)
		}
	}
}

func FuzzLikeRegexp(f *testing.F) {
	for i, expr := range expressions {
		f.Add(expr, []byte("ab aab\nabc é a,b 123-45 x@y"[i%5:]))
	}
	f.Fuzz(func(t *testing.T, expr string, s []byte) {
		if len(expr) > 40 || len(s) > 60 {
			return
		}
		if _, err := regexp.Compile(expr); err != nil {
			return
		}
		check(t, expr, s)
	})
}

// escapes is a view for tests: %XX is the byte, as far as it is ASCII.
func escapes(units []Unit, p []byte, last bool) ([]Unit, int) {
	for i := 0; i < len(p); i++ {
		if p[i] != '%' {
			continue
		}
		if len(p)-i < 3 && !last {
			return units, i
		}
		var c byte
		if len(p)-i >= 3 {
			if n, err := fmt.Sscanf(string(p[i+1:i+3]), "%02x", &c); n == 1 && err == nil && c < 0x80 {
				units = append(units, Unit{Pos: int64(i), Len: 3, Rune: rune(c)})
				i += 2
			}
		}
	}
	return units, len(p)
}

func TestUnits(t *testing.T) {
	p, err := Compile(`secret\b`)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"a secret b":                 "a # b",
		"a s%65cret b":               "a # b",
		"a %73%65%63%72%65%74%20b":   "a #%20b",
		"a s%65crets%20b secret%":    "a s%65crets%20b #%",
		"se%63ret secret s%65cret":   "# # #",
		"%73ecretsecrets %2":         "%73ecretsecrets %2",
		"%73ecretsecret %2":          "%73ecret# %2",
		"100%25 se%63ret,secret%2c.": "100%25 #,#%2c.",
		"secre%74%73 secre%74":       "secre%74%73 #",
	} {
		for _, use := range []ViewUse{RawAndView, ViewOnly} {
			for cut := range len(in) + 1 {
				s := NewScanner([]Search{{Pattern: p, Hold: true, View: use}}, escapes, 1<<10, func(Found) (Verdict, error) {
					return Verdict{Replace: []byte("#")}, nil
				})
				out, err := s.Feed(nil, []byte(in[:cut]), false)
				if err != nil {
					t.Fatal(err)
				}
				if out, err = s.Feed(out, []byte(in[cut:]), true); err != nil || string(out) != want && use == ViewOnly {
					t.Errorf("%q cut at %d: %q %v, want %q", in, cut, out, err, want)
				}
				// As bytes, "secret%73" has a word that ends.
				if use == RawAndView && string(out) != strings.Replace(want, "secret%73", "#%73", 1) {
					t.Errorf("%q cut at %d: %q, want %q", in, cut, out, want)
				}
			}
		}
	}
}

// TestNothingHeldNeedlessly: text in which no match has begun is passed on at
// once.
func TestNothingHeldNeedlessly(t *testing.T) {
	p, err := Compile(`token=[a-z]+`)
	if err != nil {
		t.Fatal(err)
	}
	s := NewScanner([]Search{{Pattern: p, Hold: true}}, nil, 1<<10, func(Found) (Verdict, error) {
		return Verdict{Replace: []byte("#")}, nil
	})
	for _, step := range []struct{ in, out string }{
		{"hello\n", "hello\n"}, {"a to", "a "}, {"day\n", "today\n"}, {"token=ab", ""}, {"c", ""}, {".\n", "#.\n"},
	} {
		out, err := s.Feed(nil, []byte(step.in), false)
		if err != nil || string(out) != step.out {
			t.Errorf("%q: %q %v, want %q", step.in, out, err, step.out)
		}
	}
}

func TestBound(t *testing.T) {
	p, err := Compile(`a[^;]*;`)
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("b"), 5000)
	for _, hold := range []bool{true, false} {
		found := 0
		s := NewScanner([]Search{{Pattern: p, Hold: hold}}, nil, 1000, func(Found) (Verdict, error) {
			found++
			return Verdict{}, nil
		})
		out, err := s.Feed(nil, append([]byte("a"), long...), false)
		if hold {
			if !errors.Is(err, ErrBound) || len(out) != 0 {
				t.Errorf("held: %d bytes and %v", len(out), err)
			}
			continue
		}
		if err != nil || len(out) != 5001 {
			t.Errorf("reported: %d bytes and %v", len(out), err)
		}
		if _, err = s.Feed(nil, []byte("; abc;"), true); err != nil || found != 1 {
			t.Errorf("behind the bound: %d found, %v", found, err)
		}
	}
}

// TestWorkIsBounded: an expression that reads to the end of the text for each
// match that it then does not like better.
func TestWorkIsBounded(t *testing.T) {
	p, err := Compile(`a.*b|a`)
	if err != nil {
		t.Fatal(err)
	}
	s := NewScanner([]Search{{Pattern: p, Hold: true}}, nil, 1<<20, func(Found) (Verdict, error) {
		return Verdict{Replace: []byte("#")}, nil
	})
	if _, err := s.Feed(nil, bytes.Repeat([]byte("a"), 200<<10), true); !errors.Is(err, ErrBound) {
		t.Errorf("%v, want ErrBound", err)
	}
}

// TestManyStates: text that makes a new state with each byte is read all the
// same, in bounded memory.
func TestManyStates(t *testing.T) {
	p, err := Compile(`(?:a|b)*a(?:a|b){14}c`)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	s := make([]byte, 64<<10)
	for i := range s {
		s[i] = "ab"[r.IntN(2)]
	}
	s = append(s, "aaaaaaaaaaaaaaaac"...)
	spans, _ := scanned(t, p, true, s)
	if len(spans) != 1 {
		t.Errorf("%v, want one match", spans)
	}
	if p.forward.size > maxStates {
		t.Errorf("%d bytes of states", p.forward.size)
	}
}
