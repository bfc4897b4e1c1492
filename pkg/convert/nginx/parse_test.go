package nginx

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

var nothing = Files{
	Read: func(string) ([]byte, error) { return nil, errors.New("there is none") },
	Glob: func(string) ([]string, error) { return nil, nil },
}

// words writes directives in one line.
func words(all []*directive) string {
	var b strings.Builder
	for _, d := range all {
		b.WriteString("<" + strings.Join(append([]string{d.name}, d.args...), "|"))
		if d.hasBlock {
			b.WriteString("{" + words(d.block) + "}")
		}
		b.WriteString(">")
	}
	return b.String()
}

// TestGrammar: words are split and read as nginx does (ngx_conf_read_token).
func TestGrammar(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"a b c;", "<a|b|c>"},
		{"a{b c;}d;", "<a{<b|c>}><d>"},
		{"a 'b c' \"d;{}#\";", "<a|b c|d;{}#>"},
		{`a "b\"c" 'd\'e' f\;g;`, `<a|b"c|d'e|f\;g>`},
		{`a \\ \t\n "\x";`, "<a|\\|\t\n|\\x>"},
		{"a b#c; # d;\ne;", "<a|b#c><e>"},
		{"a ${b}c $d{e;}", "<a|${b}c|$d{<e>}>"},
		{"a b\"c;", "<a|b\"c>"},
		{"a \"x\ny\";", "<a|x\ny>"},
		{`if ($a = "b") { c; }`, "<if|($a|=|b|){<c>}>"},
		{"x_by_lua_block { a } b;", "<x_by_lua_block{}><b>"},
		{"x_by_lua_block { f('}') -- }\n--[[ } ]] s=[[}]] if {} } b;", "<x_by_lua_block{}><b>"},
		{"\ufeffa;", "<a>"},
		{"", ""},
	} {
		all, err := parse("test.conf", []byte(tt.in), nothing)
		if err != nil || words(all) != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.in, words(all), err, tt.want)
		}
	}
}

// TestLines: each directive knows its line, also behind quotes and Lua that span
// lines.
func TestLines(t *testing.T) {
	all, err := parse("test.conf", []byte("a;\nb 'x\ny';\n# c\nx_by_lua_block {\n\n}\nd;\n"), nothing)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, d := range all {
		lines = append(lines, d.Line)
	}
	if d := cmp.Diff([]int{1, 2, 5, 8}, lines); d != "" {
		t.Error(d)
	}
}

// TestIncludes: relative names are below the main file's directory, and what
// cannot be read stays.
func TestIncludes(t *testing.T) {
	files := map[string]string{"/etc/nginx/a.conf": "a;", "/etc/nginx/d/1.conf": "one;", "/etc/nginx/d/2.conf": "include a.conf;"}
	f := Files{
		Read: func(path string) ([]byte, error) {
			if s, ok := files[path]; ok {
				return []byte(s), nil
			}
			return nil, errors.New("there is none")
		},
		Glob: func(pattern string) ([]string, error) {
			return []string{"/etc/nginx/d/1.conf", "/etc/nginx/d/2.conf"}, nil
		},
	}
	all, err := parse("/etc/nginx/nginx.conf", []byte("include d/*.conf; include missing.conf; z;"), f)
	if want := "<one><a><include|/etc/nginx/missing.conf|there is none><z>"; err != nil || words(all) != want {
		t.Errorf("%q, %v; want %q", words(all), err, want)
	}
}

func FuzzConvert(f *testing.F) {
	sources, err := filepath.Glob("../testdata/*/*.conf")
	if err != nil || len(sources) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range sources {
		data, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, notes, err := Convert("fuzz.conf", []byte(text), nothing)
		if err != nil {
			var m *convert.Mistake
			if !errors.As(err, &m) || m.Line == 0 {
				t.Errorf("no mistake with a line: %v", err)
			}
			return
		}
		notes.List()
		var b strings.Builder
		if err := convert.WriteYAML(&b, d); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse([]config.File{{Name: "fuzz.yaml", Data: []byte(b.String())}}); err != nil {
			t.Errorf("%v\n%s", err, b.String())
		}
	})
}
