package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const convertExamples = "../../pkg/convert/testdata/"

// TestConvert: the YAML on stdout, notes with their line on stderr, and what the
// exit status says.
func TestConvert(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		note string
	}{
		{[]string{"kong", convertExamples + "kong/example.yml", "--strict"}, 0, "kong/example.yml:9: rate-limiting: limit_by"},
		{[]string{"kong", convertExamples + "kong/example-full.yml"}, 0, "example-full.yml:46: ip-restriction: not carried"},
		{[]string{"kong", convertExamples + "kong/example-full.yml", "--strict"}, exitFailed, "example-full.yml:54: file-log: custom_fields_by_lua"},
		{[]string{"nginx", "--strict", convertExamples + "nginx/example.conf"}, 0, "example.conf:13: access_log"},
		{[]string{"nginx", "--strict", convertExamples + "nginx/callers.conf"}, exitFailed, "callers.conf:3: allow and deny"},
	} {
		r := run(t, append([]string{"convert"}, tt.args...)...)
		if r.code != tt.code || !strings.HasPrefix(r.stdout, "version: 1\ndefault: deny\n") || !strings.Contains(r.stderr, tt.note) {
			t.Errorf("%v: exit status %d, want %d, and a note %q:\n%s\n%s", tt.args, r.code, tt.code, tt.note, r.stderr, r.stdout)
		}
		path := file(t, r.stdout)
		if r := run(t, "config", "check", "--strict", path); r.code != 0 {
			t.Errorf("%v: what was converted: %s%s", tt.args, r.stdout, r.stderr)
		}
	}
}

// TestConvertInput: "-" is standard input, and what cannot be read is told.
func TestConvertInput(t *testing.T) {
	source, err := os.ReadFile(convertExamples + "nginx/dump.conf")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	e := &env{stdin: bytes.NewReader(source), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	if code := e.run(t.Context(), []string{"convert", "nginx", "-"}); code != 0 || !strings.Contains(out.String(), "a.example.com") || !strings.Contains(errs.String(), "/etc/nginx/conf.d/a.conf:2: ") {
		t.Errorf("exit status %d: %s%s", code, errs.String(), out.String())
	}
	missing := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"kong", missing}, exitUsage, "sallyport: convert kong: open " + missing + ": no such file or directory; name another file"},
		{[]string{"nginx", convertExamples + "bad/nginx-brace.conf"}, exitUsage, convertExamples + `bad/nginx-brace.conf:2: server: its "}" is missing`},
		{[]string{"kong", convertExamples + "bad/kong-version.yml"}, exitUsage, `kong-version.yml:1: no "_format_version"`},
		{[]string{"kong"}, exitUsage, "accepts 1 arg"},
		{[]string{"squid", "x"}, exitUsage, "unknown command"},
	} {
		r := run(t, append([]string{"convert"}, tt.args...)...)
		if r.code != tt.code || r.stdout != "" || !strings.Contains(r.stderr, tt.want) {
			t.Errorf("%v: %+v, want status %d and %q", tt.args, r, tt.code, tt.want)
		}
	}
}
