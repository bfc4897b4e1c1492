package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// The test binary is also the confined wrapper and the command that probes its
// limits from inside.
const (
	wrapArg  = "confine-wrap"
	probeArg = "confine-probe"
)

// self is a copy of the test binary that every user can execute.
var self, shared string

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == wrapArg {
		os.Exit(wrap(os.Args[2]))
	}
	if len(os.Args) > 2 && os.Args[1] == probeArg {
		os.Exit(probe(os.Args[2], os.Args[3:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	syscall.Umask(0o022) // what the tests make is for every user, whoever runs them
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared, self = dir, filepath.Join(dir, "probe")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(self, data, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func wrap(spec string) int {
	runtime.LockOSThread()
	var s Spec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	if s.Env == nil {
		s.Env = os.Environ()
	}
	err := Exec(&s)
	fmt.Fprintln(os.Stderr, err)
	return ExitCode(err)
}

// nobody is the user of most tests.
const nobody = 65534

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces and changing users")
	}
	if err := Supported(); err != nil {
		t.Fatalf("this kernel cannot confine: %v", err)
	}
}

// wrapped is the command that confines itself as spec says.
func wrapped(t testing.TB, s Spec) *exec.Cmd {
	t.Helper()
	data, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, wrapArg, string(data))
	cmd.Dir = "/"
	return cmd
}

// asNobody is a Spec for a probe.
func asNobody(argv ...string) Spec {
	return Spec{Argv: argv, UID: nobody, GID: nobody}
}

func probing(name string, args ...string) []string {
	return append([]string{self, probeArg, name}, args...)
}

type result struct {
	out, err string
	code     int
}

func run1(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// succeed runs it and gives its output.
func succeed(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	r := run1(t, cmd)
	if r.code != 0 {
		t.Fatalf("exit %d, stderr %q, stdout %q", r.code, r.err, r.out)
	}
	return r.out
}

// fields reads "NAME: VALUE" lines.
func fields(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

// sharedDir is a directory that every user can enter, removed at the end.
func sharedDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared, "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
