package confine

import (
	"bufio"
	"fmt"
	"net"
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

func TestNoPrivilegesRemain(t *testing.T) {
	needRoot(t)
	for _, uid := range []int{0, nobody} {
		t.Run(strconv.Itoa(uid), func(t *testing.T) {
			s := Spec{Argv: []string{"cat", "/proc/self/status"}, UID: uid, GID: uid, Groups: []int{uid, 12345}}
			got := fields(succeed(t, wrapped(t, s)))
			zero := "0000000000000000"
			id := strings.Join([]string{strconv.Itoa(uid), strconv.Itoa(uid), strconv.Itoa(uid), strconv.Itoa(uid)}, "\t")
			want := map[string]string{
				"CapInh": zero, "CapPrm": zero, "CapEff": zero, "CapBnd": zero, "CapAmb": zero,
				"NoNewPrivs": "1", "Seccomp": "2", "Uid": id, "Gid": id,
				"Groups": fmt.Sprintf("%d %d", min(uid, 12345), max(uid, 12345)),
			}
			for k, v := range want {
				if got[k] != v {
					t.Errorf("%s is %q, want %q", k, got[k], v)
				}
			}
		})
	}
}

// TestInheritableCapabilities: uid 0 would have those of its caller at execve.
func TestInheritableCapabilities(t *testing.T) {
	needRoot(t)
	cmd := wrapped(t, Spec{Argv: []string{"grep", "^Cap", "/proc/self/status"}})
	inner := append([]string{"--inh-caps", "+net_raw,+sys_admin", "--ambient-caps", "+net_raw"}, cmd.Args...)
	for k, v := range fields(succeed(t, exec.Command("setpriv", inner...))) {
		if v != "0000000000000000" {
			t.Errorf("%s: %s", k, v)
		}
	}
}

func TestSetuidFileGainsNothing(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	file := filepath.Join(dir, "setuid")
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	// Without limits the bit means root: else this test could not fail.
	free := exec.Command(file, probeArg, "ids")
	free.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if got, want := succeed(t, free), "uid 65534 0 0\n"; got != want {
		t.Fatalf("setuid does not work here: %q", got)
	}
	if got, want := succeed(t, wrapped(t, asNobody(file, probeArg, "ids"))), "uid 65534 65534 65534\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if r := run1(t, wrapped(t, asNobody("sudo", "-n", "true"))); r.code == 0 {
		t.Error("sudo worked")
	}
	if got := succeed(t, wrapped(t, asNobody(probing("setuid")...))); got != "setuid: EPERM\n" {
		t.Errorf("setresuid(0): %s", got)
	}
}

func TestSocketFamilies(t *testing.T) {
	needRoot(t)
	type family struct {
		name       string
		number     int
		kind       int
		want, free string // free: "" is "not ok" where the kernel may lack it
	}
	families := []family{
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM, "ok", "ok"},
		{"inet", unix.AF_INET, unix.SOCK_STREAM, "ok", "ok"},
		{"inet6", unix.AF_INET6, unix.SOCK_DGRAM, "ok", "ok"},
		{"netlink", unix.AF_NETLINK, unix.SOCK_RAW, "ok", "ok"},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, "EAFNOSUPPORT", "ok"},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, "EAFNOSUPPORT", ""},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET, "EAFNOSUPPORT", ""},
		{"bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, "EAFNOSUPPORT", ""},
		{"smc", 43, unix.SOCK_STREAM, "EAFNOSUPPORT", ""},
		{"xdp", unix.AF_XDP, unix.SOCK_RAW, "EAFNOSUPPORT", ""},
		{"unspec", unix.AF_UNSPEC, unix.SOCK_STREAM, "EAFNOSUPPORT", "EAFNOSUPPORT"},
	}
	var args []string
	for _, f := range families {
		args = append(args, strconv.Itoa(f.number), strconv.Itoa(f.kind))
	}
	// uid 0: then no missing capability refuses for us.
	for _, uid := range []int{0, nobody} {
		got := fields(succeed(t, wrapped(t, Spec{Argv: probing("socket", args...), UID: uid, GID: uid})))
		for _, f := range families {
			if key := "socket " + strconv.Itoa(f.number); got[key] != f.want {
				t.Errorf("uid %d: %s: %q, want %q", uid, f.name, got[key], f.want)
			}
		}
		want := map[string]string{
			"socketpair unix": "ok", "socketpair tipc": "EAFNOSUPPORT",
			"socket high": "EAFNOSUPPORT", "socket x32": "EAFNOSUPPORT",
			"ioctl TIOCSTI": "EPERM", "ioctl TCGETS": "ENOTTY",
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("uid %d: %s: %q, want %q", uid, k, got[k], v)
			}
		}
	}
	free := fields(succeed(t, exec.Command(self, append([]string{probeArg, "socket"}, args...)...)))
	for _, f := range families {
		if got := free["socket "+strconv.Itoa(f.number)]; f.free != "" && got != f.free {
			t.Errorf("without limits: %s: %q, want %q", f.name, got, f.free)
		}
	}
	if got := free["ioctl TIOCSTI"]; got != "ENOTTY" {
		t.Errorf("without limits: TIOCSTI: %q", got)
	}
}

// TestNoKeyIsRequested: for a key that it does not have the kernel starts
// /sbin/request-key, as root and outside, with the name that was asked for.
func TestNoKeyIsRequested(t *testing.T) {
	needRoot(t)
	if got, want := succeed(t, wrapped(t, Spec{Argv: probing("key")})), "request_key: ENOSYS\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if free := succeed(t, exec.Command(self, probeArg, "key")); strings.Contains(free, "ENOSYS") {
		t.Errorf("without the filter: %q", free)
	}
}

func TestIOUringIsAbsent(t *testing.T) {
	needRoot(t)
	got := succeed(t, wrapped(t, Spec{Argv: probing("uring")}))
	if want := "setup: ENOSYS\nenter: ENOSYS\nregister: ENOSYS\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if free := succeed(t, exec.Command(self, probeArg, "uring")); !strings.Contains(free, "setup: EFAULT\n") && !strings.Contains(free, "setup: ok\n") && !strings.Contains(free, "setup: EINVAL\n") {
		t.Logf("this kernel refuses io_uring by itself: %q", free)
	}
}

// TestCompatEntry runs a program of a few instructions that enters the kernel
// by int 0x80.
func TestCompatEntry(t *testing.T) {
	needRoot(t)
	if entries("amd64")[0].arch != nativeArch() {
		t.Skip("int 0x80 exists on amd64 only")
	}
	dir := sharedDir(t)
	cases := []struct {
		name       string
		nr, a1, a2 uint32
		want       syscall.Errno
	}{
		{"getpid", 20, 0, 0, 255}, // a pid is not negative: sanity of the program
		{"socket packet", 359, unix.AF_PACKET, unix.SOCK_RAW, unix.EAFNOSUPPORT},
		{"socket vsock", 359, unix.AF_VSOCK, unix.SOCK_STREAM, unix.EAFNOSUPPORT},
		{"socket inet", 359, unix.AF_INET, unix.SOCK_STREAM, 255},
		{"socketpair tipc", 360, unix.AF_TIPC, unix.SOCK_STREAM, unix.EAFNOSUPPORT},
		{"socketcall socket", 102, 1, 0, unix.ENOSYS},
		{"socketcall socketpair", 102, 8, 0, unix.ENOSYS},
		{"socketcall bind", 102, 2, 0, unix.EFAULT},
		{"io_uring_setup", 425, 1, 0, unix.ENOSYS},
		{"ioctl TIOCSTI", 54, 0, unix.TIOCSTI, unix.EPERM},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "_"))
			if err := os.WriteFile(file, compatProgram(c.nr, c.a1, c.a2), 0o755); err != nil {
				t.Fatal(err)
			}
			r := run1(t, wrapped(t, Spec{Argv: []string{file}}))
			if r.code != int(c.want) {
				t.Errorf("exit %d (%s), want %d", r.code, r.err, c.want)
			}
		})
	}
}

// TestOutsideProcesses: with the same user, and nothing of Yama here, a process
// may trace another; a confined one may not.
func TestOutsideProcesses(t *testing.T) {
	needRoot(t)
	for _, uid := range []uint32{0, nobody} {
		t.Run(strconv.Itoa(int(uid)), func(t *testing.T) {
			outside := exec.Command("/bin/sleep", "600")
			outside.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			if err := outside.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { outside.Process.Kill(); outside.Wait() })
			address := mapped(t, outside.Process.Pid)
			args := probing("trace", strconv.Itoa(outside.Process.Pid), "0", address)

			free := exec.Command(args[0], args[1:]...)
			free.SysProcAttr = outside.SysProcAttr
			for k, v := range fields(succeed(t, free)) {
				if v != "ok" {
					t.Errorf("without limits %s gives %s: this test would not notice", k, v)
				}
			}
			got := fields(succeed(t, wrapped(t, Spec{Argv: args, UID: int(uid), GID: int(uid)})))
			want := map[string]string{
				"pidfd_getfd": "EPERM", "process_vm_readv": "EPERM", "process_vm_writev": "EPERM", "ptrace": "EPERM",
				"mem": "EACCES", "environ": "EACCES", "maps": "EACCES", "fd": "EACCES", "root": "EACCES", "cwd": "EACCES",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// mapped is the address of the stack of the process, once it runs its
// program.
func mapped(t *testing.T, pid int) string {
	t.Helper()
	for {
		f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
		if err != nil {
			t.Fatal(err)
		}
		s := bufio.NewScanner(f)
		stack, program := "", false
		for s.Scan() {
			if strings.HasSuffix(s.Text(), "[stack]") {
				stack, _, _ = strings.Cut(s.Text(), "-")
			}
			if strings.Contains(s.Text(), "/sleep") || strings.Contains(s.Text(), "coreutils") {
				program = true
			}
		}
		f.Close()
		if stack != "" && program {
			return "0x" + stack
		}
	}
}

func TestAbstractSockets(t *testing.T) {
	needRoot(t)
	if !ScopesAbstractSockets() {
		t.Skipf("Landlock ABI %d has no scopes", LandlockABI())
	}
	name := fmt.Sprintf("@sallyport-test-%d", os.Getpid())
	listen(t, name)
	dir := sharedDir(t)
	path := filepath.Join(dir, "s")
	listen(t, path)
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	s := asNobody(probing("dial", name, path)...)
	if got, want := succeed(t, wrapped(t, s)), "dial: EPERM\ndial: ok\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.KeepSockets = true
	if got, want := succeed(t, wrapped(t, s)), "dial: ok\ndial: ok\n"; got != want {
		t.Errorf("with KeepSockets: got %q, want %q", got, want)
	}
}

// listen accepts and closes until the test ends.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

// TestFilesAreAsBefore: the domain takes nothing from a command's files.
func TestFilesAreAsBefore(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(succeed(t, wrapped(t, asNobody(probing("files", dir)...)))) {
		if !strings.HasSuffix(line, ": ok\n") {
			t.Error(line)
		}
	}
}
