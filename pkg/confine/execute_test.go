package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestSameProcess: the command is the process that called, with its exit
// status.
func TestSameProcess(t *testing.T) {
	needRoot(t)
	cmd := wrapped(t, asNobody("sh", "-c", "echo $$; exit 42"))
	r := run1(t, cmd)
	if got := strings.TrimSpace(r.out); got != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("pid %s, started %d", got, cmd.Process.Pid)
	}
	if r.code != 42 || r.err != "" {
		t.Errorf("exit %d, stderr %q", r.code, r.err)
	}
	cmd = wrapped(t, asNobody("sh", "-c", "kill -TERM $$"))
	run1(t, cmd)
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGTERM {
		t.Errorf("a command that SIGTERM ended: %v", cmd.ProcessState)
	}
}

// TestStateIsKept compares what a command sees of itself with and without.
func TestStateIsKept(t *testing.T) {
	needRoot(t)
	// Fields 5 to 8 of stat: process group, session, terminal, its group; 19:
	// nice. The limits with their soft values.
	const show = `cat /proc/$$/limits; umask; cut -d' ' -f5-8,19 /proc/$$/stat; cat /proc/$$/oom_score_adj; readlink /proc/$$/ns/net /proc/$$/ns/pid /proc/$$/ns/user; grep -E "Cpus_allowed:|Sig(Blk|Ign|Cgt)" /proc/self/status`
	outer := `ulimit -Sn 700; ulimit -Hn 5000; ulimit -Sc 0; umask 027; exec nice -n 3 "$@"`
	limits := exec.Command("sh", append([]string{"-c", outer, "sh"}, "sh", "-c", show)...)
	limits.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	want := succeed(t, limits)
	spec, err := json.Marshal(Spec{Argv: []string{"sh", "-c", show}})
	if err != nil {
		t.Fatal(err)
	}
	confined := exec.Command("sh", "-c", outer, "sh", self, wrapArg, string(spec))
	confined.SysProcAttr = limits.SysProcAttr
	got := succeed(t, confined)
	// Each run has a process group of its own.
	strip := func(out string, cmd *exec.Cmd) string {
		return strings.ReplaceAll(out, "\n"+strconv.Itoa(cmd.Process.Pid)+" ", "\nPGRP ")
	}
	if diff := cmp.Diff(strip(want, limits), strip(got, confined)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(got, "Max open files            700                  5000") || !strings.Contains(got, "\n0027\n") {
		t.Errorf("the test did not set what it compares:\n%s", got)
	}
}

func TestUmaskGiven(t *testing.T) {
	needRoot(t)
	mask := 0o51
	s := asNobody("sh", "-c", "umask")
	s.Umask = &mask
	if got := succeed(t, wrapped(t, s)); got != "0051\n" {
		t.Errorf("%q", got)
	}
}

func TestEnvironmentIsExactlyTheGivenOne(t *testing.T) {
	needRoot(t)
	s := asNobody("/usr/bin/env")
	s.Env = []string{"A=1", "B=", "PATH=/nowhere", "A=2"}
	if got := succeed(t, wrapped(t, s)); got != "A=1\nB=\nPATH=/nowhere\nA=2\n" {
		t.Errorf("%q", got)
	}
}

// wrapper is testdata/wrapper, linked with the package's entry.
func wrapper(t testing.TB) string {
	t.Helper()
	file := filepath.Join(sharedDir(t), "wrapper")
	cmd := exec.Command("go", "build", "-ldflags", "-E _rt0_sallyport", "-o", file, "./testdata/wrapper")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

func TestSignalStateIsKept(t *testing.T) {
	needRoot(t)
	file := wrapper(t)
	spec, err := json.Marshal(asNobody("grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ignored := range []string{"", "PIPE", "HUP INT QUIT TERM CHLD USR1 TSTP TTIN TTOU", "RTMIN+3"} {
		trap := "trap '' " + ignored + "; "
		if ignored == "" {
			trap = ""
		}
		want := succeed(t, exec.Command("bash", "-c", trap+`exec grep -E "Sig(Blk|Ign|Cgt)" /proc/self/status`))
		cmd := exec.Command("bash", "-c", trap+`exec "$0" "$1"`, file, string(spec))
		if got := succeed(t, cmd); got != want {
			t.Errorf("ignoring %q: got\n%swant\n%s", ignored, got, want)
		}
	}
	// Blocked signals, of which Go's runtime unblocks some. setpriv cannot
	// block any: env(1) can.
	if out, err := exec.Command("env", "--block-signal=TERM,CHLD,USR1", "true").CombinedOutput(); err != nil {
		t.Skipf("env(1) cannot block signals: %s", out)
	}
	want := succeed(t, exec.Command("env", "--block-signal=TERM,CHLD,USR1", "grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"))
	got := succeed(t, exec.Command("env", "--block-signal=TERM,CHLD,USR1", file, string(spec)))
	if got != want {
		t.Errorf("blocked: got\n%swant\n%s", got, want)
	}
}

func TestSignalsGiven(t *testing.T) {
	needRoot(t)
	s := asNobody("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
	s.Signals = &Signals{Ignored: 1 << (13 - 1), Blocked: 1 << (15 - 1)}
	got := fields(succeed(t, wrapped(t, s)))
	if got["SigIgn"] != "0000000000001000" || got["SigBlk"] != "0000000000004000" {
		t.Errorf("%v", got)
	}
}

func TestParentDeathSignalIsKept(t *testing.T) {
	needRoot(t)
	spec, err := json.Marshal(asNobody(probing("deathsig")...))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(wrapper(t), string(spec))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGUSR2}
	if got := succeed(t, cmd); got != fmt.Sprintf("deathsig %d: ok\n", syscall.SIGUSR2) {
		t.Error(got)
	}
}

func TestPathSearch(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("a/plain", "data", 0o644)
	file("b/plain", "#!/bin/sh\necho b\n", 0o755)
	file("b/rootonly", "#!/bin/sh\necho b\n", 0o700)
	file("b/bare", "echo bare $1\n", 0o755)
	file("b/badline", "#!/no/such/interpreter\n", 0o755)
	file("b/broken", "\x7fELFnonsense", 0o755)
	file("here", "#!/bin/sh\necho here\n", 0o755)
	path := "PATH=/nowhere:" + dir + "/a:" + dir + "/a/plain:" + dir + "/b"
	tests := []struct {
		name      string
		argv      []string
		path, env string
		out       string
		code      int
	}{
		{"later directory", []string{"plain"}, "", path, "b\n", 0},
		{"no interpreter line", []string{"bare", "x"}, "", path, "bare x\n", 0},
		{"with slash", []string{dir + "/b/plain"}, "", path, "b\n", 0},
		{"relative", []string{"b/plain"}, "", path, "b\n", 0},
		{"empty element is here", []string{"here"}, "", "PATH=:/nowhere", "here\n", 0},
		{"empty element", []string{"plain"}, "", "PATH=:/nowhere", "", ExitNotFound},
		{"path given", []string{"other name"}, dir + "/b/plain", path, "b\n", 0},
		{"absent", []string{"absent"}, "", path, "", ExitNotFound},
		{"absent with slash", []string{"/absent/x"}, "", path, "", ExitNotFound},
		{"below a file", []string{dir + "/a/plain/x"}, "", path, "", ExitNotFound},
		{"no name", []string{""}, "", path, "", ExitNotFound},
		{"not executable", []string{dir + "/a/plain"}, "", path, "", ExitNotExecutable},
		{"only for root", []string{"rootonly"}, "", path, "", ExitNotExecutable},
		{"a directory", []string{dir + "/a"}, "", path, "", ExitNotExecutable},
		{"no PATH", []string{"echo", "default"}, "", "X=1", "default\n", 0},
		{"interpreter absent", []string{dir + "/b/badline"}, "", path, "", ExitNotFound},
		{"no command", nil, "", path, "", ExitNotExecutable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := asNobody(tt.argv...)
			s.Path, s.Env, s.Dir = tt.path, []string{tt.env}, dir
			r := run1(t, wrapped(t, s))
			if r.out != tt.out || r.code != tt.code {
				t.Errorf("%+v, want %q and %d", r, tt.out, tt.code)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{failed(opExec, "x", fs.ErrNotExist), ExitNotFound},
		{failed(opExec, "x", unix.ENOENT), ExitNotFound},
		{failed(opExec, "x", unix.E2BIG), ExitNotExecutable},
		{failed("landlock", "", unix.ENOENT), ExitFailed},
		{errors.New("x"), ExitFailed},
	} {
		if got := ExitCode(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestBadCredentials(t *testing.T) {
	needRoot(t)
	for _, s := range []Spec{
		{Argv: []string{"true"}, UID: -1}, {Argv: []string{"true"}, GID: 1<<32 - 1}, {Argv: []string{"true"}, Groups: []int{-1}},
	} {
		if r := run1(t, wrapped(t, s)); r.code != ExitFailed || !strings.Contains(r.err, "set ") {
			t.Errorf("%+v: %+v", s, r)
		}
	}
}

// TestUnprivileged: a process that cannot make a mount namespace starts
// nothing.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	cmd := wrapped(t, asNobody("echo", "started"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if r := run1(t, cmd); r.code != ExitFailed || r.out != "" || !strings.Contains(r.err, opMounts) {
		t.Errorf("%+v", r)
	}
}

func BenchmarkExec(b *testing.B) {
	needRoot(b)
	file := wrapper(b)
	s := asNobody("true")
	s.Hide = HiddenSockets(nobody, "/nonexistent", nil)
	spec, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("confined", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command(file, string(spec)).Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
