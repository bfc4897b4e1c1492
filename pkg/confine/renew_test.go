package confine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRenew: servers that come, or come back, after the command.
func TestRenew(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("/run", "sallyport-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve := func(path string) net.Listener {
		l := listen(t, path)
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		return l
	}
	mkdir := func(path string) {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	restarted := dir + "/restarted.sock"
	first := serve(restarted)
	mkdir(dir + "/kept")
	serve(dir + "/kept/s")

	probes := strings.Join([]string{restarted, dir + "/kept/s", dir + "/late.sock", dir + "/late/s"}, " ")
	s := asNobody("sh", "-c", fmt.Sprintf(`while read x; do %s %s dial %s | tr '\n' ' '; echo; done`, self, probeArg, probes))
	s.Hide = []Hidden{
		{Path: restarted}, {Path: dir + "/kept"}, {Path: dir + "/late.sock"}, {Path: dir + "/late"}, {Path: dir + "/never"},
		{Path: strings.Replace(dir, "/run/", "/var/run/", 1) + "/late"},
	}
	cmd := wrapped(t, s)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	ask := func() string {
		t.Helper()
		fmt.Fprintln(stdin)
		var answer strings.Builder
		for buf := make([]byte, 1); ; {
			if _, err := stdout.Read(buf); err != nil {
				t.Fatal(err)
			}
			if buf[0] == '\n' {
				return strings.ReplaceAll(strings.TrimSpace(answer.String()), "dial: ", "")
			}
			answer.Write(buf)
		}
	}
	if got := ask(); got != "ECONNREFUSED ENOENT ENOENT ENOENT" {
		t.Fatalf("at the start: %s", got)
	}
	first.Close() // removes the socket, and with it the mount over it
	serve(restarted)
	serve(dir + "/late.sock")
	mkdir(dir + "/late")
	serve(dir + "/late/s")
	if got := ask(); got != "ok ENOENT ok ok" {
		t.Fatalf("this test would not notice: %s", got)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	count := func() int {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			// Others' mounts on the host come and go here too.
			if strings.Contains(line, " "+dir+"/") {
				n++
			}
		}
		return n
	}
	before := count()
	for range 3 {
		if err := Renew(fd, &s); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(); got != "ECONNREFUSED ENOENT ECONNREFUSED ENOENT" {
		t.Errorf("renewed: %s", got)
	}
	if n := count() - before; n != 3 {
		t.Errorf("%d mounts were added for 3 paths", n)
	}
	// Nothing of it happened here.
	if c, err := net.Dial("unix", restarted); err != nil {
		t.Errorf("outside: %v", err)
	} else {
		c.Close()
	}
}

// TestRenewLeavesTheHostAlone: a process that has not come to Exec yet still
// has the host's mounts. A mount namespace of the test's own stands for the
// host's here.
func TestRenewLeavesTheHostAlone(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("/run", "sallyport-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	script := fmt.Sprintf(`cat /proc/self/mountinfo >&2; %s %s renew %s; cat /proc/self/mountinfo`, self, probeArg, dir)
	r := run1(t, exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script))
	answer, after, _ := strings.Cut(r.out, "\n")
	if r.code != 0 || !strings.HasPrefix(answer, "true ") {
		t.Errorf("%d, %s", r.code, answer)
	}
	was, is := mountPoints(r.err), mountPoints(after)
	for point, n := range is {
		if n > was[point] {
			t.Errorf("a mount was made at %s where there were\n%s", point, r.err)
		}
	}
	for point, n := range was {
		// Removing a directory on the host takes away what is mounted there, here too
		// (fs/namespace.c, __detach_mounts), and other tests remove theirs meanwhile.
		if n > is[point] && !strings.HasPrefix(point, os.TempDir()+"/") {
			t.Errorf("the mount at %s is gone, and there are\n%s", point, after)
		}
	}
	if r.err == "" || after == "" {
		t.Errorf("mounts were\n%sand are\n%s", r.err, after)
	}
}

// mountPoints counts the mounts of a mountinfo by where they are (proc(5)). The rest
// of a line may change by itself: a bind mount's root is marked where its file goes.
func mountPoints(mountinfo string) map[string]int {
	points := map[string]int{}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			points[f[4]]++
		}
	}
	return points
}

func BenchmarkRenew(b *testing.B) {
	needRoot(b)
	s := asNobody("cat")
	s.Hide = HiddenSockets(nobody, "/nonexistent", nil)
	cmd := wrapped(b, s)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	fmt.Fprintln(stdin)
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	b.ReportAllocs()
	for b.Loop() {
		if err := Renew(fd, &s); err != nil {
			b.Fatal(err)
		}
	}
}
