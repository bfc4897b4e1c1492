package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// pointer gives the address that a raw system call needs.
func pointer(list []uint32) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(list)) }

// curl asks the socket from another process, by choice in a cgroup.
func curl(t *testing.T, socket, cgroup string, arguments ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	cmd := exec.Command(path, append([]string{"-s", "--max-time", "60", "--unix-socket", socket}, arguments...)...)
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// cgroup2Mount finds the mount point.
func cgroup2Mount(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if before, after, found := strings.Cut(line, " - "); found && strings.HasPrefix(after, "cgroup2 ") {
			return strings.Fields(before)[4]
		}
	}
	t.Skip("no cgroup2 is mounted")
	return ""
}

// TestProcessInTaggedCgroup: a real process in a real cgroup, found by the
// kernel's word.
func TestProcessInTaggedCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a cgroup needs root")
	}
	name := fmt.Sprintf("sallyport-admin-test-%d", os.Getpid())
	cgroup := filepath.Join(cgroup2Mount(t), name)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		// A process that was waited for may leave its cgroup later than that.
		eventually(t, "nobody is left in the cgroup", func() bool {
			err := os.Remove(cgroup)
			if err != nil && !errors.Is(err, syscall.EBUSY) {
				t.Fatal(err)
			}
			return err == nil
		})
	})
	r := start(t, func(o *Options, _ *Server) {
		o.Access.Tagged = func(p *Peer) (bool, error) {
			path, err := p.Cgroup()
			return strings.HasSuffix(path, "/"+name), err
		}
	})
	out, err := curl(t, r.socket, "", "http://x/v1/status")
	if err != nil || !strings.Contains(out, `"ready":true`) {
		t.Errorf("outside: %s, %v", out, err)
	}
	out, err = curl(t, r.socket, cgroup, "http://x/v1/status")
	if err != nil || !strings.Contains(out, "tagged cgroup") {
		t.Errorf("inside: %s, %v", out, err)
	}
	out, err = curl(t, r.socket, cgroup, "-X", "POST", "http://x/v1/reload")
	if err != nil || !strings.Contains(out, "tagged cgroup") || r.backend.reloads != 0 {
		t.Errorf("inside: %s, %v, %d reloads", out, err, r.backend.reloads)
	}
	if e := r.recorded(); len(e) == 0 || e[0].Verdict != "deny" || e[0].Workload.PID == 0 {
		t.Errorf("recorded: %+v", e)
	}
}

func TestPeer(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	cmd := exec.Command(path, "-s", "--unix-socket", l.Addr().String(), "http://x/")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, err := peerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.PID != cmd.Process.Pid || int(p.UID) != os.Getuid() || int(p.GID) != os.Getgid() {
		t.Errorf("%+v", p)
	}
	groups, err := os.Getgroups()
	if err != nil || len(groups) != len(p.Groups) {
		t.Errorf("groups %v, want %v (%v)", p.Groups, groups, err)
	}
	if path, err := p.Cgroup(); err != nil || !strings.HasPrefix(path, "/") {
		t.Errorf("cgroup %q, %v", path, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if path, err := p.Cgroup(); err == nil {
		t.Errorf("the ended process is in %s", path)
	}
	if p.pidfd < 0 {
		t.Skip("no SO_PEERPIDFD (before Linux 6.5): the reuse of a pid cannot be told")
	}
	// Its pid now belongs to another process.
	p.PID = os.Getpid()
	if path, err := p.Cgroup(); err == nil {
		t.Errorf("the cgroup %s of another process was taken for the peer's", path)
	}
}
