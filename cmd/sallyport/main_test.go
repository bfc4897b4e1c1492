package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// ran is how a command line ended.
type ran struct {
	code           int
	stdout, stderr string
}

// run executes a command line as a user would, without a process.
func run(t *testing.T, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	code := e.run(t.Context(), args)
	return ran{code, out.String(), errs.String()}
}

// file writes a configuration.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sallyport.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// each calls visit for every command of the tree.
func each(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		each(sub, visit)
	}
}

// TestEveryCommandIsExplained: help with an example, --config everywhere, and
// --json where a list or a state is printed.
func TestEveryCommandIsExplained(t *testing.T) {
	printing := map[string]bool{
		"status": true, "flows": true, "tail": true, "reload": true, "config check": true, "config show": true,
		"policy explain": true, "ca show": true, "cache purge": true, "doctor": true, "version": true,
	}
	root := (&env{}).root()
	each(root, func(c *cobra.Command) {
		name := commandName(c)
		if c.Hidden {
			return
		}
		if c.Short == "" || !strings.Contains(c.Example, "sallyport") {
			t.Errorf("%q has no description or no example", name)
		}
		if c.InheritedFlags().Lookup(configFlag) == nil && c.Flags().Lookup(configFlag) == nil && c != root {
			t.Errorf("%q has no --config", name)
		}
		if printing[name] && c.Flags().Lookup("json") == nil {
			t.Errorf("%q has no --json", name)
		}
		delete(printing, name)
	})
	for name := range printing {
		t.Errorf("there is no command %q", name)
	}
}

// TestUnbuiltCommands: a command that does not exist yet is an error that says
// so, whatever follows it.
func TestUnbuiltCommands(t *testing.T) {
	for _, line := range []string{
		"policy test dir", "policy learn a.jsonl", "audit verify f", "inject", "top", "web",
		"web --help --strict --config /none",
	} {
		got := run(t, strings.Fields(line)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, "not built yet") || !strings.HasPrefix(got.stderr, "sallyport: ") || got.stdout != "" {
			t.Errorf("%s: exit %d, %q, %q", line, got.code, got.stdout, got.stderr)
		}
	}
	if got := run(t, "policy", "explain", "--workload", "w", "--body", "f", "https://example.com"); got.code != exitUsage || !strings.Contains(got.stderr, "not built yet") {
		t.Errorf("--body: %+v", got)
	}
}

// TestExitCodes: 2 for a mistake in the command line or the configuration, and
// one line that says what failed, why, and what to do.
func TestExitCodes(t *testing.T) {
	bad := file(t, "version: 1\nrulez: []\n")
	good := file(t, "version: 1\nrules: [{ name: r, match: { hosts: [a.example] }, action: allow }]\n")
	nowhere := file(t, "version: 1\nadmin: { socket: "+filepath.Join(t.TempDir(), "none.sock")+" }\nstate_dir: "+t.TempDir()+"\n")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"bogus"}, exitUsage, `unknown command "bogus"`},
		{[]string{"status", "--bogus"}, exitUsage, "see sallyport status --help"},
		{[]string{"policy", "explain"}, exitUsage, "see sallyport policy explain --help"},
		{[]string{"policy", "explain", "https://example.com"}, exitUsage, "--workload is missing"},
		{[]string{"policy", "explain", "--config", good, "--workload", "w", "ftp://a"}, exitUsage, "want https, http, tls or tcp"},
		{[]string{"policy", "explain", "--config", good, "--workload", "w", "https://a.example/"}, 0, ""},
		{[]string{"tail", "--since", "soon"}, exitUsage, "neither a duration"},
		{[]string{"flows", "--verdict", "maybe"}, exitUsage, "unknown verdict"},
		{[]string{"exec"}, exitUsage, "no command"},
		{[]string{"config", "show", "--config", "/nonexistent.yaml"}, exitUsage, "/nonexistent.yaml: no such file or directory; name another"},
		{[]string{"config", "show", "--config", bad}, exitUsage, bad + `:2:1: unknown field "rulez" (did you mean "rules"?)`},
		{[]string{"config", "check", good}, 0, ""},
		{[]string{"status", "--config", nowhere}, exitFailed, "start it with: sudo sallyport run"},
		{[]string{"ca", "show", "--config", nowhere}, exitFailed, "no authority"},
		{[]string{"--version"}, 0, ""},
	} {
		got := run(t, c.args...)
		if got.code != c.code || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%v: exit %d, want %d saying %q: %s", c.args, got.code, c.code, c.says, got.stderr)
		}
		if got.code != 0 && (!strings.HasPrefix(got.stderr, "sallyport: ") || strings.Count(got.stderr, "\n") != 1) {
			t.Errorf("%v: not one line of the usual form: %q", c.args, got.stderr)
		}
	}
}

// TestConfigCheck: for people a line that editors understand, for scripts JSON
// with the same exit status.
func TestConfigCheck(t *testing.T) {
	bad := file(t, "mode: observed\nrulez: []\n")
	got := run(t, "config", "check", bad)
	if got.code != exitUsage || !strings.HasPrefix(got.stderr, bad+":1:7: ") || strings.Count(got.stderr, "\n") != 2 {
		t.Errorf("%+v", got)
	}
	got = run(t, "config", "check", "--json", bad)
	var c checked
	if err := json.Unmarshal([]byte(got.stdout), &c); err != nil || got.code != exitUsage || c.Valid || len(c.Errors) != 2 || c.File != bad || got.stderr != "" {
		t.Errorf("%+v, %v", got, err)
	}
	got = run(t, "config", "check", "--json", file(t, "version: 1\n"))
	if got.code != 0 || !strings.Contains(got.stdout, `"valid":true,"errors":[]`) {
		t.Errorf("%+v", got)
	}
	// Warnings fail only a strict check.
	odd := file(t, "rules:\n  - { name: a, action: deny }\n  - { name: b, action: allow }\n")
	for _, strict := range []bool{false, true} {
		args, code := []string{"config", "check", odd}, 0
		if strict {
			args, code = append(args, "--strict"), exitFailed
		}
		got = run(t, args...)
		if got.code != code || !strings.HasPrefix(got.stderr, odd+`:3:5: warning: rule "b" is never reached`) || !strings.Contains(got.stdout, ": valid: ") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	got = run(t, "config", "check", "--strict", "--json", odd)
	if err := json.Unmarshal([]byte(got.stdout), &c); err != nil || got.code != exitFailed || !c.Valid || len(c.Warnings) != 1 || got.stderr != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTailSince: all events since then are shown, not only the newest.
func TestTailSince(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.jsonl")
	var lines strings.Builder
	for i := range 300 {
		year := 2001
		if i >= 100 {
			year = 2011
		}
		fmt.Fprintf(&lines, `{"time":"%d-01-01T00:00:00.000000000Z","event":"e-%d","kind":"lifecycle"}`+"\n", year, i)
	}
	if err := os.WriteFile(log, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := file(t, "audit: { file: { path: "+log+" } }\nadmin: { socket: "+filepath.Join(dir, "none.sock")+" }\n")
	got := run(t, "tail", "--config", conf, "--json", "--since", "2010-01-01")
	if n := strings.Count(got.stdout, "\n"); got.code != 0 || n != 200 || !strings.HasPrefix(got.stdout, `{"time":"2011-01-01`) {
		t.Errorf("exit %d, %d lines: %s", got.code, n, got.stderr)
	}
	// Following is the daemon's.
	if got := run(t, "tail", "--config", conf, "--follow", "--since", "2010-01-01"); got.code != exitFailed || got.stdout != "" {
		t.Errorf("%+v", got)
	}
}
